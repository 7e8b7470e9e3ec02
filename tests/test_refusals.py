"""What a command refuses before it writes anything, with what it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_lines import command_lines
from commands import PROMPT, generate, listing, run

from w2sd_video import check_pair, presets, runs
from w2sd_video.doctor import missing
from w2sd_video.models.sources import download_command
from w2sd_video.runs import Request
from w2sd_video.settings import VARIANTS
from w2sd_video.shapes import WEIGHTS

pytestmark = pytest.mark.usefixtures("elsewhere")


@command_lines("""
    '' => PROMPT: '' is not accepted
    'a cat' --height 63 => --height: 63 is not accepted; give a multiple of 8
    'a cat' --steps -3 => --steps: -3 is not accepted; give a whole number from 1 to 1000
    'a cat' --steps many => '--steps' / '--T' / '--num_inference_steps': 'many' is not accepted; give a whole number
    'a cat' --preset shape => --preset: 'shape' is not accepted; did you mean 'shapes'?
    'a cat' --schedule cosine => --schedule: 'cosine' is not accepted
    'a cat' --frames 9 => --frames: 9 is not accepted; give a whole number from 1 to 8
    'a cat' --guidance nan => --guidance: nan is not accepted; give a finite number
    'a cat' --weak-guidance inf => --weak-guidance: inf is not accepted
    'a cat' --strong-guidance x => '--strong-guidance' / '--strong_guidance_scale': 'x' is not accepted; give a number
    'a cat' --reflection-steps 4 => --reflection-steps: 4 is not accepted; give a whole number from 0 to 3
    'a cat' --seed -1 => --seed: '-1' is not accepted; give whole numbers from 0 to 9223372036854775807
    'a cat' --seed 18446744073709551616 => is not accepted; give whole numbers from 0 to 9223372036854775807
    'a cat' --seed 9223372036854775808 => is not accepted; give whole numbers from 0 to 9223372036854775807
    'a cat' --seed 3-1 => --seed: '3-1' is not accepted
    'a cat' --inversion x_0 => --inversion: 'x_0' is not accepted
    'a red cat' --method s2w => --method: 's2w' is not accepted; did you mean 's2wd'?
    'a red cat' --set motion_gian=2 => --set: 'motion_gian' is no option of w2sd; did you mean 'motion_gai
    'a red cat' --set steps=3 => --set: 'steps' is no option of w2sd; give --steps
    'a red cat' --set inversion=x_t => --set: 'inversion' is no option of w2sd; give --inversion
    'a red cat' --set cap=-1 => `cap` has to be a finite number from 0, but is -1
    'a red cat' --set cap => --set: 'cap' is not accepted; give NAME=VALUE
    'a cat' --dtype float8 => --dtype: 'float8' is not accepted; did you mean
    'a cat' --device tpu => --device: 'tpu' is not accepted
    'a cat' --strong /no/model => strong: '/no/model' is not there
    'a cat' --out /dev/null/x => --out: '/dev/null/x' is not accepted; give a folder that can be written to
    'a cat' --plain --compare => exclude one another
    'a cat' --plain --set motion_gain=2 => --plain and --weak-only sample without a method
    'a cat' --method weak => --method: 'weak' is not accepted; Available: w2sd
    'a cat' --set cap=-1 => --set: cap=-1 is not accepted
    'a cat' --prompts none.txt => --prompts: 'none.txt' is not accepted
    'a cat' --from x.json => PROMPT: --from takes everything from the sidecar
    --size 64 --from x.json => --size: --from takes everything from the sidecar
    --lora a/b --compare --from x.json => --lora: --from takes everything from the sidecar
    --weak-only --from x.json => --weak-only: --from takes everything from the sidecar
    --from none.json => --from: 'none.json' is not accepted
    => PROMPT is missing
""")
def test_bad_input_is_refused_in_words_before_anything_is_written(small, options, says):
    if "--from" in options:
        small = []
    assert says in generate(*small, *options, code=2)
    assert listing(".") == []


def test_a_prompt_of_a_suite_that_the_model_does_not_know_is_called_a_prompt_of_the_suite():
    assert "Error: --prompts: 'A red ball rolls across" in run("generate", "--prompts", "smoke", code=2)


@command_lines("""
    a fox => note: several prompts of one word each: quote a prompt of several words
    'a fox' cat => 2 videos
    fox => 1 video
    --prompt fox --prompt cat => 2 videos
""")
def test_several_prompts_of_one_word_each_are_remarked_on_as_one_without_quotes(small, options, says):
    said = generate(*options, *small, "--dry-run")
    assert says in said and ("note: several" in said) == says.startswith("note")


@command_lines("""
    presets shape => NAME: 'shape' is not accepted; did you mean 'shapes'?
    doctor shape => PRESET: 'shape' is not accepted; did you mean 'shapes'?
    doctor --try none.yaml => --try: 'none.yaml' is not accepted; there is no such file
    check-pair --preset shape => --preset: 'shape' is not accepted; did you mean 'shapes'?
""")
def test_an_unknown_preset_is_called_what_the_command_calls_it(options, says):
    assert says in run(*options, code=2)


@command_lines("""
    check-pair nofolder => VIDEO: 'nofolder' is not accepted; there is no such file or folder
    check-pair --frames 99 => --frames: 99 is not accepted
    best none.mp4 --by clipped --out best => there is no such file or folder
    generate x --preset sdxl-juggernaut => w2sd-video image
    generate x --preset animatediff-sdxl-juggernaut --out a/b => is missing
    generate 'a red circle' --method s2_guidance --set drop=null => --set: drop=null is not accepted
    generate 'a red circle' --device cuda:99 --out a/b => --device: 'cuda:99' is not accepted
    study alignment --rows none.jsonl => --rows: 'none.jsonl' is not accepted
    study gauss1d --page /dev/null/x => --page: '/dev/null/x' is not accepted; give a folder that can be written to
""")
def test_what_is_refused_leaves_no_folder(elsewhere, options, says):
    assert says in run(*options, code=2) and listing(".") == []


LATE = """
prompts: shapes
n: 2
settings: {num_inference_steps: 2, num_frames: 2}
axes: {arm: {w2sd: {}, tuned: {variant: plain, tune: {guidance_scale: [2, 3]}}}}
dimensions: [shapes]
tuning: {n: 2, by: [shapes_right]}
"""


@pytest.mark.slow
@command_lines("""
    study reuse --workers 0 --out new/out --page new/page => 12 of 12 prompts are not sampled yet
    study reuse --rows rows.jsonl --out new/out => --rows: rows.jsonl is no file of rows of JSON
    study resampling --workers 0 --quick --out new/out => prompts yet: give 1 or more, which samples them
    study resampling --rows rows.jsonl.xz --out new/out => --rows: rows.jsonl.xz is no packed file of rows of JSON
    shapes bench --set num_inference_steps=1001 --method strong --out new/out/rows.jsonl => give a whole number from 1
    shapes bench --pair shapes-control --set num_inference_steps=1001 --method strong --out new/out/rows.jsonl => 1001
    shapes bench --method rendered --figure figure.png --out new/out/rows.jsonl => no row would be there to compare
    shapes train new/out --stage tuned => it continues from video
    check-pair --preset shapes-control --samples 2 --steps 2000 --out new/out => --steps: 2000 is not accepted
    check-pair --preset shapes-control --samples 2 --device cuda:99 --out new/out => --device: 'cuda:99'
    doctor --try shapes --device cuda:99 --out new/out/report.md => --device: 'cuda:99'
    reproduce table12 --shapes --device cuda:99 --out new/out => --device: 'cuda:99'
    run late.yaml --shard 1/2 --out new/out => first start the run without a shard
""")
def test_what_is_refused_once_work_has_begun_leaves_no_folder(elsewhere, options, says):
    Path("late.yaml").write_text(LATE)
    for name in ("rows.jsonl", "rows.jsonl.xz"):
        Path(name).write_text("no rows\n")
    before = set(Path().rglob("*"))
    assert says in " ".join(run(*options, code=2).split())
    assert set(Path().rglob("*")) == before


@pytest.mark.slow
def test_scores_of_nothing_that_can_be_scored_leave_no_folder(elsewhere):
    Path("broken.mp4").write_text("no video")
    run("best", "broken.mp4", "--by", "shapes_right", "--out", "new/best", "--scores", "new/rows.jsonl", code=1)
    assert listing(".") == ["broken.mp4"]


@pytest.mark.parametrize("role", ["strong", "weak"])
def test_a_folder_that_is_no_model_is_refused_in_a_dry_run_too(elsewhere, role):
    Path("none").mkdir()
    Path("plan.yaml").write_text(f"prompts: [a red circle]\nsettings: {{{role}: none}}\n")
    for command in (["generate", "a red circle", f"--{role}", "none"], ["run", "plan.yaml"]):
        said = run(*command, "--dry-run", code=2)
        assert f"{role}: '{Path('none').resolve()}' has no model_index.json. Accepted: a folder" in said


@pytest.mark.parametrize("role", ["strong", "weak", "vae", "motion_adapter", "weak_motion_adapter"])
def test_a_folder_with_a_configuration_and_no_weights_is_refused_in_a_dry_run_too(elsewhere, role):
    Path("none/unet").mkdir(parents=True)
    Path("plan.yaml").write_text(f"prompts: [a red circle]\nsettings: {{{role}: none}}\n")
    named = f"{role}: '{Path('none').resolve()}'"
    Path("none/config.json").write_text("{}")
    lacks = "has no model_index.json" if role in ("strong", "weak") else "holds no weights"
    assert f"{named} {lacks}" in run("run", "plan.yaml", "--dry-run", code=2)
    if role in ("strong", "weak"):
        Path("none/model_index.json").write_text('{"_class_name": "AnimateDiffSDXLPipeline"}')
        assert f"{named} has no unet/config.json" in run("run", "plan.yaml", "--dry-run", code=2)
        Path("none/unet/config.json").write_text("{}")
        assert f"{named} holds no weights in unet/" in run("run", "plan.yaml", "--dry-run", code=2)
    else:
        Path("none/config.json").unlink()
        assert f"{named} has no config.json" in run("run", "plan.yaml", "--dry-run", code=2)


def test_a_weak_folder_that_plain_sampling_does_not_need_is_not_looked_at(small):
    Path("none").mkdir()
    said = generate(PROMPT, *small, "--plain", "--weak", "none", "--dry-run")
    assert "1 video" in said


def test_a_folder_of_too_long_a_name_is_refused_by_option(small):
    assert "--out: 'xxx" in generate(PROMPT, *small, "--out", "x" * 300, code=2)


def test_damaged_weights_are_refused_by_name(small, models):
    shutil.copytree(models[1], "damaged")
    (unet,) = Path("damaged/unet").glob("*.safetensors")
    unet.write_bytes(unet.read_bytes()[: unet.stat().st_size // 2])
    said = generate(PROMPT, *small, "--strong", "damaged", code=2)
    assert "/damaged' is damaged or not complete" in said and listing() == []


def test_a_device_that_is_not_there_is_refused(small):
    said = generate(PROMPT, *small, "--device", "cuda:99", code=2)
    assert "--device: 'cuda:99' is not accepted" in said and listing() == []


def test_without_weights_a_real_preset_says_how_to_get_them(offline):
    said = generate("a cat", "--preset", "animatediff-sdxl-juggernaut", code=2)
    assert "hf download RunDiffusion/Juggernaut-XL-v9" in said and listing() == []


def test_a_weak_model_that_is_to_be_sampled_alone_needs_its_text_encoders_too(monkeypatch, tmp_path):
    """What its download as a weak arm leaves out is named before anything is loaded."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    index = {"_class_name": "StableDiffusionXLPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    index |= {name: ["transformers", "CLIPTextModel"] for name in ("text_encoder", "text_encoder_2")}
    folder = tmp_path / "hub" / "models--me--weak" / "snapshots" / ("0" * 40)
    for name, text in (("model_index.json", json.dumps(index)), ("unet/weights.safetensors", "")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text(folder.name)
    requests = {v: Request.of("a cat", preset="sdxl-juggernaut", weak="me/weak", variant=v) for v in VARIANTS}
    lacking = {v: [line for line in missing([each]) if line.startswith("weak")] for v, each in requests.items()}
    assert lacking["w2sd"] == [] == lacking["plain"]
    says = "weak: me/weak is missing in part, without text_encoder and text_encoder_2; get it with: "
    assert lacking["compare"] == lacking["weak"] == [says + download_command("strong", "me/weak")]
    for name in ("text_encoder", "text_encoder_2"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").touch()
    assert not any(line.startswith("weak") for line in missing([requests["compare"]]))


@pytest.mark.slow
def test_all_missing_weights_are_named_at_once_and_before_torch_is_needed(offline, tmp_path):
    both = ("hf download Wan-AI/Wan2.1-T2V-14B-Diffusers", "hf download Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    said = generate("a cat", "--preset", "wan21-14b-1.3b", code=2)
    assert all(each in said for each in both)
    assert both[1] not in generate("a cat", "--preset", "wan21-14b-1.3b", "--plain", code=2)
    (tmp_path / "wan.yaml").write_text("prompts: [a cat]\npreset: wan21-14b-1.3b\n")
    said = run("run", tmp_path / "wan.yaml", "--dry-run")
    assert "left: 1 cell," in said and all(each in said for each in both)
    assert all(each in run("run", tmp_path / "wan.yaml", code=2) for each in both)
    assert not (tmp_path / "wan").exists()


@pytest.mark.parametrize(
    "option, model, says",
    [
        ("--weak", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "is of the family wan, and this pair is of animatediff-sdxl"),
        ("--strong", WEIGHTS / "digits", "is a DiTMoEPipeline, of the family dit-moe, and this pair is"),
    ],
)
def test_a_model_of_another_family_is_refused_with_presets_of_its_own(offline, option, model, says):
    said = generate("a red circle", option, model, code=2)
    assert says in said and "Choose a preset of its family: --preset " in said and "hf download" not in said


def test_a_dry_run_refuses_the_folder_that_the_run_would(tmp_path):
    (tmp_path / "plan.yaml").write_text("prompts: [a red circle]\n")
    (tmp_path / "file").write_text("")
    for place in ("file", "file/folder"):
        said = run("run", tmp_path / "plan.yaml", "--out", tmp_path / place, "--dry-run", code=2)
        assert "give a folder that can be written to (Not a directory)" in said


def test_a_prompt_outside_the_shapes_grammar_is_refused_with_the_words_and_the_way_out():
    said = generate("a photo of a cat", code=2)
    assert "circle" in said and "w2sd-video presets" in said and listing() == []


def test_more_seeds_than_anyone_means_are_refused_at_once():
    assert "at most 10000 seeds" in generate(PROMPT, "--seed", "0-99999999999", code=2)


def test_check_pair_refuses_a_name_before_it_asks_the_models_and_names_only_options_that_it_has():
    Path("pair/plain").mkdir(parents=True)
    first = check_pair.samples(presets.load("shapes"), 2, [], None, Path("pair/shown"))[0]
    (output,) = runs.place([runs.Request.of(first.prompt, 0, variant="plain")], Path("pair/plain"), ["mp4"])
    output.paths["mp4"].write_text("of the user")
    said = run("check-pair", "--samples", 2, code=2)
    assert f"{output.paths['mp4']} already exists" in said and "Give another --out" in said
    assert "--overwrite" not in said and not Path("pair/alignment.csv").exists()
