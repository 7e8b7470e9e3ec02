"""Input that is damaged or made to do harm: one message that names the argument, the right exit code, no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import typer
from command_lines import command_lines
from PIL import Image
from typer.testing import CliRunner

from w2sd_video import cli, documents, terminal, video
from w2sd_video.errors import Refused
from w2sd_video.runs import Request, read_sidecar, sidecar
from w2sd_video.sampling import evaluations, idle, load

PROMPT = "a red circle moving right"
NOWHERE = "/dev/null/out"  # a folder that cannot be made: what is accepted ends here, before models are loaded
pytestmark = pytest.mark.usefixtures("elsewhere")


def run(*arguments: object, code: int, typed: str | None = None) -> str:
    """What a command says, which ends with that exit code and without a traceback."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments], input=typed)
    assert isinstance(result.exception, (SystemExit, type(None))), repr(result.exception)
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    return result.output


def generate(*arguments: object, code: int = 2) -> str:
    return run("generate", *arguments, "--out", NOWHERE, code=code)


# Code of a model's folder

CODE = "from pathlib import Path\nPath({mark!r}).touch()\n"


def language_model_with_code(folder: Path, mark: Path) -> Path:
    """A folder whose configuration and tokenizer are classes of its own files."""
    folder.mkdir()
    names = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": names}))
    tokenizer = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "evil.py").write_text(CODE.format(mark=str(mark)))
    return folder


@pytest.mark.parametrize("way", ["option", "preset"])
def test_no_code_of_a_refiners_folder_runs_whatever_is_typed(tmp_path, way):
    transformers.logging.set_verbosity_error()  # as the program has it
    mark = tmp_path / "ran"
    folder = language_model_with_code(tmp_path / "llm", mark)
    options: list[object] = ["--refine", folder]
    if way == "preset":
        text = f"extends: shapes-image\ndescription: mine\nsource: me\nrefine: {folder}\n"
        Path("mine.yaml").write_text(text)
        options = ["--preset", "mine.yaml"]
    said = run("image", "a red circle", *options, "--out", NOWHERE, code=2, typed="y\ny\ny\n")
    assert not mark.exists() and "--refine" in said and "Do you wish to run" not in said


def test_no_code_of_a_pipelines_folder_runs(tmp_path):
    mark = tmp_path / "ran"
    folder = tmp_path / "strong"
    for part in ("unet", "scheduler", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        (folder / part).mkdir(parents=True)
        (folder / part / "evil.py").write_text(CODE.format(mark=str(mark)))
        (folder / part / "config.json").write_text("{}")
        (folder / part / "model.safetensors").write_bytes(b"")
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    parts = {part.name: ["evil", "Evil"] for part in folder.iterdir() if part.is_dir()}
    index = {"_class_name": "StableDiffusionXLPipeline", **parts}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "pipeline.py").write_text(CODE.format(mark=str(mark)))
    CliRunner().invoke(cli.app, ["image", "a red circle", "--strong", str(folder), "--weak", str(folder)], input="y\n")
    assert not mark.exists()


# Files that are no files, are too large, or are not text


@command_lines(f"""
    --preset pipe.yaml => --preset: 'pipe.yaml' is not accepted; there is no such file
    --from pipe => --from: pipe is not a sidecar
    --prompts pipe => --prompts: 'pipe' is not accepted; it holds no prompt
    --prompts /dev/zero => --prompts: '/dev/zero' is not accepted; give a text file in UTF-8
    --prompts huge => --prompts: 'huge' is not accepted
    --prompts latin => --prompts: 'latin' is not accepted; give a text file in UTF-8
    --preset latin.yaml => latin.yaml: not a text in UTF-8, at byte 13
    --preset huge.yaml => huge.yaml: it is larger than 256 KiB
    --from latin => --from: latin is not a sidecar
    --from . => --from: '.' is not accepted
    --preset shapes-control --control pipe => --control: '/
    --preset ~nosuchuser/a.yaml => --preset: '~nosuchuser/a.yaml' is not accepted; there is no such file
    --strong ~nosuchuser/a => --strong: '~nosuchuser/a' is not accepted; it is no path
    --from ~nosuchuser/a => --from: '~nosuchuser/a' is not accepted
    --prompts ~nosuchuser/a => --prompts: '~nosuchuser/a' is not accepted
    --strong package:../.. => --strong: 'package:../..' is not accepted
    --weak package:/etc => --weak: 'package:/etc' is not accepted
    --strong {"a" * 300} => --strong: 'aaa
    --strong {"a" * 5000} => --strong: 'aaa
""")
def test_a_file_that_cannot_be_read_is_named_at_once(options, says):
    os.mkfifo("pipe")
    os.mkfifo("pipe.yaml")
    for name in ("huge", "huge.yaml"):
        with open(name, "wb") as file:
            file.truncate(8 * 2**30)  # takes no room on the disk
    for name in ("latin", "latin.yaml"):
        Path(name).write_bytes("description: café".encode("latin-1").replace(b"caf", b""))
    kind = "image" if "shapes-control" in options else "generate"
    prompt = [] if {"--from", "--prompts"} & set(options) else ["a red circle"]
    assert says in run(kind, *prompt, *options, "--out", NOWHERE, code=2)


def test_prompts_are_read_from_a_pipe_that_a_process_writes_to():
    os.mkfifo("pipe")
    keep = os.open("pipe", os.O_RDWR)  # as a shell's <(command) has it open before the program starts
    os.write(keep, b"a red circle\n")
    writer = threading.Thread(target=lambda: (time.sleep(0.3), os.write(keep, b"a blue square\n"), os.close(keep)))
    writer.start()
    assert documents.read_text("pipe") == "a red circle\na blue square\n"
    writer.join()


@pytest.mark.slow
def test_more_requests_than_anyone_means_are_refused_before_they_are_made():
    Path("prompts.txt").write_text("".join(f"a red circle {n}\n" for n in range(100_000)))
    said = generate("--prompts", "prompts.txt", "--seed", "0-9999")
    assert "--seed: '0-9999' is not accepted; 100000 prompts with each are more than 1000000 videos" in said


def test_a_control_picture_that_is_a_pipe_is_refused_also_within_a_folder():
    Path("frames").mkdir()
    Image.new("RGB", (8, 8)).save("frames/0.png")
    os.mkfifo("frames/1.png")
    os.mkfifo("one.png")
    with pytest.raises(ValueError, match="1.png cannot be read: it is not a file"):
        video.read(Path("frames"))
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        video.read(Path("one.png"))


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile real.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nreal.mp4\n#EXT-X-ENDLIST\n",
    ],
    ids=["ffconcat", "hls"],
)
def test_a_list_of_other_files_is_no_video_whatever_its_name(text):
    video.write_mp4(np.zeros((3, 16, 16, 3), np.uint8), Path("real.mp4"), 8)
    Path("v.mp4").write_text(text)
    with pytest.raises(ValueError, match="v.mp4 is not a video"):
        video.read(Path("v.mp4"))
    Path("a:b.mp4").write_bytes(Path("real.mp4").read_bytes())
    assert video.read(Path("a:b.mp4")).shape == (3, 16, 16, 3)
    assert len(video.read(Path("real.mp4"), most=2)) == 2


# Sidecars


def record(**values: object) -> dict:
    request = Request.of(PROMPT, options={"motion_gain": 2})
    made = {"w2sd": {"method": "w2sd", "evaluations": {"total": 1}, "seconds": 1.0, "frames_sha256": "0"}}
    return {"request": asdict(request) | values, "videos": made, "formats": ["mp4"]}


@pytest.mark.parametrize(
    "data, says",
    [
        (record(seed="0"), "--from: v.json: its request's seed: '0' is not accepted; give a whole number"),
        (record(num_frames=1e3), "its request's num_frames: 1000.0 is not accepted"),
        (record(adapters=[1]), "its request's adapters: [1] is not accepted"),
        (record(scheduler="DDIM"), "its request's scheduler: 'DDIM' is not accepted"),
        (record(scheduler={"num_train_timesteps": "x"}), "its request's scheduler.num_train_timesteps: 'x'"),
        (record(options={"motion_gain": "x"}), 'its request\'s options: motion_gain="x" is not accepted'),
        (record(options={"interval": 3}), "its request's options"),
        (record(pictures={"control": 3}), "its request's pictures.control: 3 is not accepted"),
        (record(reflection_steps=99), "its request's reflection_steps: 99 is not accepted"),
        (record(strong="package:../.."), "its request's strong: 'package:../..' is not accepted"),
        (record(method=["w2sd"]), "its request's method: ['w2sd'] is not accepted; give its name, a text"),
        (record() | {"videos": []}, "v.json: videos is not what w2sd-video writes there"),
        (record() | {"videos": {"w2sd": {}}}, "v.json: videos.w2sd.frames_sha256 is not what"),
        (record() | {"formats": "mp4"}, "v.json: formats is not what"),
        (record() | {"formats": ["exe"]}, "v.json: formats.0 is not what"),
        ({"request": "x"}, "v.json is not a sidecar"),
        ({}, "v.json is not a sidecar"),
    ],
)
def test_an_edited_sidecar_is_refused_by_file_and_field_before_anything_is_made(data, says):
    Path("v.json").write_text(json.dumps(data))
    assert says in generate("--from", "v.json")


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"request": {"seed": ' + "9" * 5000 + "}}", '{"request": NaN}', '{"request": 1, "request": 2}'],
)
def test_json_that_is_deep_huge_or_not_json_is_no_sidecar(text):
    Path("v.json").write_text(text)
    assert "v.json is not a sidecar" in generate("--from", "v.json")


def test_a_sidecar_of_whole_numbers_and_without_a_record_still_loads():
    request = Request.of(PROMPT, guidance_scale=3.0)
    text = json.loads(sidecar(request, {}))
    text["request"]["guidance_scale"] = 3  # as a person writes 3.0
    Path("v.json").write_text(json.dumps(text))
    assert read_sidecar(Path("v.json"))[0] == request


@pytest.mark.parametrize(
    "schedule, says",
    [
        ({"class": "DDIMScheduler", "beta_start": "x"}, "scheduler.beta_start: 'x' is not accepted"),
        ({"class": "DDIMScheduler", "clip_sample": 1}, "scheduler.clip_sample: 1 is not accepted"),
        ({"class": "DDIMScheduler", "trained_betas": [["x"]]}, "scheduler: .* takes no such value"),
        ({"class": "DDIMScheduler", "timestep_spacing": "x"}, "scheduler: .* diffusers refuses it"),
        (
            {"class": "DDIMScheduler", "steps_offset": -500},
            "timesteps go from -500 to 460, and its levels from 0 to 999",
        ),
        ({"class": ["DDIMScheduler"]}, "scheduler: .* give a scheduler of diffusers"),
    ],
)
def test_a_noise_schedule_that_cannot_be_sampled_is_refused_before_weights_are_read(schedule, says):
    for start in (load, evaluations):  # which is a dry run's
        with pytest.raises(Refused, match=says):
            start(Request.of(PROMPT, scheduler=schedule))


def test_steps_that_a_table_of_levels_does_not_have_are_refused_by_every_way_to_a_video():
    """Where an interval is given, what is idle is asked of the levels first."""
    table = {"class": "DDIMScheduler", "timestep_spacing": "leading", "steps_offset": 1}
    request = Request.of(PROMPT, scheduler=table, num_inference_steps=1000, options={"interval": [0.2, 0.9]})
    for each in (request, replace(request, variant="plain")):
        with pytest.raises(Refused, match="num_inference_steps: 1000 is not accepted; its timesteps go from 1 to 1000"):
            evaluations(each)
    idle(request)


# Options that are empty, given twice, or without effect


@pytest.mark.parametrize(
    "option", "--preset --schedule --strong --weak --vae --motion --refine --lora --lora_path --device --dtype --method"
    " --set --inversion --convention --controlnet --control --ip-adapter --ip-image --weak-routing --seed".split()
)  # fmt: skip
def test_an_empty_option_is_refused_by_name(option):
    said = generate(PROMPT, option, "")
    assert f"{option}: '' is not accepted; give" in said and "or leave the option out" in said


def test_an_empty_negative_prompt_is_one():
    assert "--out" in generate(PROMPT, "--negative-prompt", "", "--weak-prompt", PROMPT, "--weak-negative-prompt", "")


def test_a_method_option_that_is_set_twice_is_refused():
    said = generate(PROMPT, "--set", "motion_gain=1", "--set", "motion_gain=2")
    assert "--set: 'motion_gain=2' is not accepted; motion_gain is set twice" in said


@command_lines("""
    --plain --weak-guidance 2 --inversion x_t --guidance 4 => --weak-guidance, --inversion have no effect
    --plain --reflection-steps 3 => --reflection-steps has no effect
    --weak-only --strong-guidance 3 => --strong-guidance has no effect
    --weak-only --weak-guidance 3 => --weak-guidance has no effect
    --method z_sampling --weak-motion-scale 0.5 --weak-guidance 0 => --weak-motion-scale has no effect
    --method re_sampling --weak-guidance 0 => --weak-guidance has no effect
""")
def test_options_that_change_nothing_are_said(options, says):
    said = generate(PROMPT, *options)
    assert says in said and said.count("Note:") == 1


def test_options_that_count_are_not_remarked_on():
    assert "Note" not in generate(PROMPT, "--weak-guidance", 0, "--inversion", "x_t", "--weak-motion-scale", 0.5)
    assert "Note" not in generate(PROMPT, "--compare", "--method", "z_sampling", "--weak-motion-scale", 0.5)


@command_lines(f"""
    --steps 1000000000 => --steps: 1000000000 is not accepted
    --frames 1000000000 => --frames: 1000000000 is not accepted
    --height 8000000000 => --height: 8000000000 is not accepted
    --fps 99999999999999999999 => --fps: 99999999999999999999 is not accepted
    --fps {"9" * 5000} => is not accepted; give a whole number
    --guidance 1e300 => --guidance: 1e+300 is not accepted
    --seed {"9" * 5000} => --seed: '999
    --inversion {"9" * 5000} => --inversion: '999
    --weak-routing 1,{"9" * 5000} => --weak-routing: '1,999
    --set cap={"9" * 5000} => --set: 'cap=999
    --set cap=[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[ => --set: 'cap=[[[
    --lora a/b:1e999 => --lora: inf is not accepted
    --device cuda:99999 => --device: 'cuda:99999' is not accepted
""")
def test_huge_numbers_are_refused_by_option(options, says):
    assert says in generate(PROMPT, *options).replace("\n", "")


@command_lines("""
    eval v.mp4 --worst -2 => -2 is not accepted; give a whole number from 0
    check-pair --samples 0 => 0 is not accepted; give a whole number from 2 to 1000
    check-pair --samples x => 'x' is not accepted; give a whole number from 2 to 1000
    run p.yaml --workers 0 => 0 is not accepted; give a whole number from 1 to 1024
    run p.yaml --workers many => 'many' is not accepted; give a whole number from 1 to 1024
    run p.yaml --gpus-per-worker nan => nan is not accepted; give a number from 0
    score r --power much => 'much' is not accepted; give a number
    reproduce ls --n 1.5 => '1.5' is not accepted; give a whole number from 1
    prompts sample smoke --n 0 => 0 is not accepted; give a whole number from 1
    prompts sample smoke --n -{"9" * 3000} => is not accepted; give a whole number from 1
    score p --gpus-per-worker inf => inf is not accepted; give a number from 0
    study ls --workers 257 => 257 is not accepted; give a whole number from 0 to 256
    shapes render x --fps inf => 'inf' is not accepted; give a whole number from 1 to 1000
    bench true-size --minutes x => 'x' is not accepted; give a number
""")
def test_an_option_that_is_a_number_names_the_value_and_what_is_accepted(options, says):
    said = " ".join(run(*options, code=2).replace("│", " ").split())
    assert says in said and f"'{next(o for o in options if o.startswith('--'))}'" in said


# Training and rendering


@command_lines("""
    train run --stage video --device cpu => --stage: 'video' is not accepted; it continues from image
    train run --stage nothing => --stage: 'nothing' is not accepted; Available: vae, decoder, text, image, video, tuned
    train run --device cuda:99 => --device: 'cuda:99' is not accepted
    train run --device tpu => --device: 'tpu' is not accepted
    train run --set videos=0 => --set: 'videos=0' is not accepted; give a whole number from 1
    train run --set videos=9 --set videos=8 => --set: 'videos=8' is not accepted; videos is set twice
    train run --set learning_rate=nan => --set: 'learning_rate=nan' is not accepted; give a finite number
    train run --set ema_decay=2 => --set: 'ema_decay=2.0' is not accepted
    train /dev/null/run --device cpu => FOLDER: '/dev/null/run' is not accepted
    bench --set height=-8 => --set: 'height=-8' is not accepted; give a multiple of 8
    bench --set fps=1 --set fps=2 => --set: 'fps=2' is not accepted; fps is set twice
    bench --set fsp=1 => --set: 'fsp' is not accepted; it is no number of a preset; did you mean 'fps'
    bench --table --out rows.jsonl => rows.jsonl holds rows that this command did not write
""")
def test_bad_arguments_of_shapes_are_refused_by_name(options, says):
    Path("rows.jsonl").write_text('{"pair": "shapes"}\n')
    assert says in run("shapes", *options, code=2)
    assert not Path("run/vae.done").exists()


@pytest.mark.parametrize("options", ["--frames 1000000000", "--size 1000000000", "--frames 100000 --size 8192"])
def test_a_rendering_of_more_pixels_than_memory_holds_is_refused(options):
    said = run("shapes", "render", "a red circle", *options.split(), code=2)
    assert options.split()[0] in said


# Scoring


@command_lines("""
    v.mp4 --prompts pipe => --prompts: 'pipe' is not accepted; give a JSON file
    v.mp4 --prompts /dev/zero => --prompts: '/dev/zero' is not accepted; give a JSON file
    v.mp4 --prompts deep => --prompts: 'deep' is not accepted; give a JSON file
    v.mp4 --out pipe.json => --out: 'pipe.json' is not accepted
    v.mp4 --dimensions= => --dimensions: '' is not accepted
""")
def test_scoring_waits_for_no_pipe_and_reads_no_endless_file(options, says):
    for name in ("pipe", "pipe.mp4", "pipe.json"):
        os.mkfifo(name)
    Path("deep").write_text("[" * 100_000)
    Path("v.mp4").touch()
    dimensions = [] if "--dimensions=" in options else ["--dimensions", "clipped"]
    assert says in run("eval", *options, *dimensions, code=2)


def test_scoring_names_a_pipe_among_the_videos():
    os.mkfifo("pipe.mp4")
    assert "pipe.mp4 is not a file" in run("eval", "pipe.mp4", "--dimensions", "clipped", code=1)


# Exit codes


def exit_code(error: Callable[[], None]) -> int:
    with pytest.raises(typer.Exit) as caught, terminal.messages():
        error()
    return caught.value.exit_code


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def fill_the_disk() -> None:
    with open("/dev/full", "w") as file:
        file.write("x")


def fill_the_memory() -> None:
    np.empty((2**24, 2**24))


def fill_torchs_memory() -> None:
    torch.empty(2**55)


@pytest.mark.parametrize(
    "error, code",
    [
        (fill_the_disk, 1),
        (fill_the_memory, 1),
        (fill_torchs_memory, 1),
        (raising(FloatingPointError("latents are NaN")), 1),
        (raising(FileNotFoundError("no such weights")), 2),
        (raising(Refused("seed", -1, "give more")), 2),
        (raising(KeyboardInterrupt()), 130),
    ],
)
def test_the_exit_code_says_whether_the_input_or_the_machine_failed(error, code):
    assert exit_code(error) == code


def test_help_says_the_exit_codes():
    said = " ".join(run("--help", code=0).split())
    assert "0 done; 1 something failed" in said and "130 and 143 interrupted" in said


def test_an_interrupt_while_modules_are_imported_ends_without_a_traceback():
    interrupted = """
import sys

class Interrupted:
    def find_spec(self, name, *_):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
from w2sd_video.__main__ import main
main()
"""
    ran = subprocess.run([sys.executable, "-c", interrupted], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("ending, code", [(">&-", 0), ("> /dev/full", 1), ("| true; exit ${PIPESTATUS[0]}", 1)])
def test_output_that_is_closed_full_or_not_read_ends_without_a_traceback(ending, code):
    command = f"{sys.executable} -m w2sd_video presets {ending}"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert ran.returncode == code and "Traceback" not in ran.stderr


@pytest.mark.slow
def test_bytes_of_the_command_line_that_are_not_utf8_are_refused_or_kept():
    command = [sys.executable, "-m", "w2sd_video", "generate"]
    ran = subprocess.run([*command, b"a \xff cat"], capture_output=True)
    assert ran.returncode == 2 and b"PROMPT: 'a \\udcff cat' is not accepted; give text that is Unicode" in ran.stderr
    small = ["--steps", "1", "--frames", "1", "--out", b"out\xff"]
    ran = subprocess.run([*command, "a red circle", *small], capture_output=True)
    assert ran.returncode == 0, ran.stderr
    assert b"out\xff/a-red-circle-seed0.mp4" in ran.stdout
    record = json.loads(Path(os.fsdecode(b"out\xff"), "a-red-circle-seed0.json").read_text())
    assert record["command"][-1] == "out\\xff"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads what Linux says of a process")
@pytest.mark.parametrize("ending, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_program_with_its_code(ending, code):
    os.mkfifo("pipe")
    keep = os.open("pipe", os.O_RDWR)
    pipe = os.fstat(keep)
    command = [sys.executable, "-m", "w2sd_video", "generate", "--prompts", "pipe"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(ending, signal.SIG_DFL)
    )
    opened = Path(f"/proc/{process.pid}/fd")

    def waits() -> bool:
        for file in opened.iterdir():
            with suppress(FileNotFoundError):  # it was closed in between
                if os.path.samestat(pipe, os.stat(file)):
                    return True
        return False

    while not waits():  # for prompts
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(ending)
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.wait(timeout=600) == code and b"Traceback" not in said
    os.close(keep)


@pytest.mark.parametrize("size", ["0", "12", "1000000"])
def test_a_size_is_refused_by_the_option_that_was_given(size):
    assert f"--size: {size} is not accepted; give a multiple of 8" in run(
        "generate", "a red circle", "--size", size, code=2
    )


def test_a_long_prompt_is_not_repeated_whole():
    said = run("generate", "a " + "wug " * 5000, code=2)
    assert "PROMPT: " in said and len(said) < 3000
