"""Names, states and files of outputs: nothing is lost, nothing is replaced without being told to."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import typer

from w2sd_video import runs, terminal, video
from w2sd_video.generation import conflicts
from w2sd_video.runs import Refused, Request, files

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


def request(prompt: str = "a red circle moving right", **values) -> Request:
    """A request without weights of its own."""
    return Request.of(prompt, **{"strong": "a/strong", "weak": "a/weak", "motion_adapter": "a/motion", **values})


def make(output: runs.Output, text: str = "a video") -> None:
    """Puts an output's files where they belong, with the sidecar that `generate` would write."""
    for each in (*output.singles.values(), output):
        each.folder.mkdir(exist_ok=True)
        files = [path for kind, path in each.paths.items() if kind != "json"]
        for path in files:
            path.write_text(text)
        record = {"files": [path.name for path in files], "formats": list(each.formats), "hashes": runs.hashes(files)}
        each.paths["json"].write_text(runs.sidecar(each.request, record))


def one(of: Request, folder: Path, *formats: str) -> runs.Output:
    (output,) = runs.place([of], folder, formats or ["mp4"])
    return output


def forked(run: Callable[[], object]) -> int:
    """How a forked process ended that ran something."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 99
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        run()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:
        code = end.code
    finally:
        os._exit(code)


def interrupted_write(folder: Path, at: int, by: int) -> int:
    """How `write_set` ended that got a signal right before its rename number `at`."""
    renames = count(1)

    def run() -> None:
        sys.addaudithook(lambda e, _: os.kill(os.getpid(), by) if e == "os.rename" and next(renames) == at else None)
        write_set(folder)

    return forked(run)


def tree(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def write_set(folder: Path) -> None:
    """A set as a comparison's: files, a folder, a file below another folder, a sidecar; and a stale file."""
    names = {"mp4": "v.mp4", "png": "v-frames", "single": "plain/v.mp4", "json": "v.json"}
    finals = {kind: folder / name for kind, name in names.items()}
    with runs.whole(finals, stale=[folder / "v.gif"]) as staged:
        for kind, path in staged.items():
            if kind == "png":
                path.mkdir()
                path = path / "0000.png"
            path.write_text(f"new {kind}")


NEW = {"v.mp4": "new mp4", "v-frames/0000.png": "new png", "plain/v.mp4": "new single", "v.json": "new json"}


@pytest.mark.parametrize("former", [False, True], ids=["nothing there", "a former set there"])
@pytest.mark.parametrize("by", SIGNALS, ids=lambda by: by.name)
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda by: by.name == "SIGKILL")
def test_a_set_of_files_interrupted_at_any_rename_is_nothing_or_all_of_it(tmp_path, by, former):
    old = {"v.mp4": "old", "v-frames/0001.png": "old", "v.gif": "old", "v.json": "old"} if former else {}
    for at in count(1):
        folder = tmp_path / str(at)
        for name, text in old.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        folder.mkdir(exist_ok=True)
        code = interrupted_write(folder, at, by)
        runs.writable(folder)  # as every command begins
        assert tree(folder) == (old if by == signal.SIGKILL and at == 1 else NEW)
        assert not list(folder.glob(".*"))
        if code == 0:
            break
        assert code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[by]
    assert at == (5 if not former else 8) + 1  # the plan, 4 moves; 3 that are set aside before


def test_half_made_folders_of_dead_processes_are_cleared_and_those_of_living_ones_stay(tmp_path):
    def killed() -> None:
        with runs.whole({"mp4": tmp_path / "v.mp4"}):
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(killed) == -signal.SIGKILL
    (tmp_path / ".partial-abcd1234").mkdir()  # of the former version, which had no locks
    (tmp_path / ".partial-abcd1234" / "v.mp4").touch()
    assert len(list(tmp_path.glob(".partial-*"))) == 2
    with runs.whole({"mp4": tmp_path / "v.mp4"}) as staged:
        staged["mp4"].write_text("mine")
        assert len(list(tmp_path.glob(".partial-*"))) == 1
        assert forked(lambda: runs.writable(tmp_path)) == 0
    assert tree(tmp_path) == {"v.mp4": "mine"}


def test_processes_that_come_and_go_side_by_side_do_not_disturb_each_other(tmp_path):
    """One looks at another's hidden folder in the moment in which that one removes it."""

    def come_and_go(_):
        for _ in range(100):
            with files.hidden(tmp_path):
                pass

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(come_and_go, range(4))) == [None] * 4
    assert not list(tmp_path.iterdir())


def test_what_came_to_a_place_since_an_interruption_is_not_replaced(tmp_path):
    assert interrupted_write(tmp_path, 2, signal.SIGKILL) == -signal.SIGKILL
    (tmp_path / "v.mp4").write_text("of the user")
    with pytest.raises(Refused, match="v.mp4.* move one of the two away"):
        runs.writable(tmp_path)
    (tmp_path / "v.mp4").rename(tmp_path / "mine.mp4")
    runs.writable(tmp_path)
    assert tree(tmp_path) == {**NEW, "mine.mp4": "of the user"}


def test_two_requests_of_one_name_get_two_names_and_get_them_again(tmp_path):
    # "A cat" is told from "a cat" by 6 digits of its hash, which another prompt can spell out
    pair = [request("A cat", grammar=None), request("a cat", grammar=None)]
    spelt = request(pair[0].stem.removesuffix("-seed0").replace("-", " "), grammar=None)
    assert spelt.stem == pair[0].stem and spelt.prompt != pair[0].prompt
    batch = [*pair, spelt, request(guidance_scale=2.0), request(guidance_scale=4.0)]
    outputs = runs.place(batch, tmp_path, ["mp4"])
    assert len({output.stem for output in outputs}) == len(batch)
    assert [output.stem for output in outputs[:2]] == [each.stem for each in pair]
    for output in outputs:
        make(output)
    for again in (batch, batch[::-1]):
        assert {output.state()[0] for output in runs.place(again, tmp_path, ["mp4"])} == {"made"}
    assert one(spelt, tmp_path).state()[0] == "made"  # alone, too
    assert one(request(guidance_scale=3.0), tmp_path).state()[0] == "taken"  # the same prompt, differently set


def test_names_differ_in_more_than_case(tmp_path):
    batch = [
        request(prompt, grammar=None) for prompt in ("a CAT", "A cat", "a cat", "猫", "犬", "x" * 5000, "X" * 5000)
    ]
    names = [output.paths["mp4"].name for output in runs.place(batch, tmp_path, ["mp4"])]
    assert len({name.lower() for name in names}) == len(batch) and max(map(len, names)) < 120


@pytest.mark.parametrize("change", ["cut", "edited in place", "replaced"])
def test_a_damaged_file_is_not_taken_for_made(tmp_path, change):
    output = one(request(), tmp_path)
    make(output, "0123456789")
    path = output.paths["mp4"]
    stat = path.stat()
    assert output.state() == ("made", "")
    path.write_text({"cut": "01234"}.get(change, "012345678X"))
    if change == "edited in place":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert output.state() == ("made", "")  # which only the hash tells
    state, reason = output.state(hashed=change == "edited in place")
    assert state == "taken" and str(path) in reason
    assert ("has 5 bytes, and its sidecar says 10" if change == "cut" else "hash") in reason
    path.unlink()
    assert output.state() == ("new", "")


def test_an_empty_file_as_a_power_cut_leaves_it_is_made_again(tmp_path):
    output = one(request(), tmp_path)
    make(output)
    output.paths["mp4"].write_text("")
    assert output.state() == ("new", "")


def test_a_copy_with_other_times_is_known_by_its_hash(tmp_path):
    output = one(request(), tmp_path)
    make(output)
    os.utime(output.paths["mp4"], ns=(1, 1))
    assert output.state() == ("made", "")


def test_outputs_of_the_former_version_count_as_made(tmp_path):
    for variant in ("w2sd", "compare"):
        output = one(request(variant=variant), tmp_path)
        for path in output.paths.values():
            path.write_text("a video")
        data = json.loads(runs.sidecar(output.request, {"files": [output.paths["mp4"].name], "formats": ["mp4"]}))
        del data["format"]
        output.paths["json"].write_text(json.dumps(data))
        assert output.state() == ("made", "")
    assert not (tmp_path / "plain").exists()


def test_a_sidecar_of_a_newer_format_is_refused_by_its_number(tmp_path):
    path = tmp_path / "v.json"
    path.write_text(json.dumps({**json.loads(runs.sidecar(request(), {})), "format": 3}))
    with pytest.raises(ValueError, match="format 3; this version reads 1 to 2"):
        runs.read_sidecar(path)


def test_a_sidecars_files_are_checked_by_name_and_by_hash(tmp_path):
    output = one(request(), tmp_path, "mp4", "gif")
    make(output)
    record = runs.read_sidecar(output.paths["json"])[1]
    assert runs.check_files(tmp_path, record, hashed=True) == {}
    output.paths["gif"].write_text("something else")
    assert list(runs.check_files(tmp_path, record)) == [output.paths["gif"]]
    assert runs.check_files(tmp_path, record, only=[output.paths["mp4"].name]) == {}
    output.paths["gif"].unlink()
    assert runs.check_files(tmp_path, record) == {output.paths["gif"]: "is missing"}
    evil = {"hashes": {"../x.mp4": {"size": 1, "modified_ns": 1, "sha256": ""}, "y.mp4": 3}}
    assert "elsewhere" in runs.check_files(tmp_path, evil)[tmp_path / "../x.mp4"]


def test_what_is_in_the_way_is_said_as_it_is(tmp_path):
    output = one(request(), tmp_path)
    output.paths["mp4"].write_text("of the user")
    assert "without a sidecar" in output.state()[1]
    make(output)
    ((_, said),) = conflicts([request(guidance_scale=2.0, weak_guidance_scale=0.5)], tmp_path, ["mp4"])
    assert "made with other settings: guidance_scale, weak_guidance_scale" in said


@pytest.mark.parametrize("name", ["json", "mp4"])
@pytest.mark.parametrize("kind", ["fifo", "folder", "dangling link"])
def test_odd_files_in_the_place_of_an_output_are_refused_and_never_read(tmp_path, name, kind):
    path = one(request(), tmp_path).paths[name]
    {"fifo": os.mkfifo, "folder": os.mkdir, "dangling link": lambda p: os.symlink("nowhere", p)}[kind](path)
    ((state, reason),) = conflicts([request()], tmp_path, ["mp4"])
    assert state == ("blocked" if kind == "folder" else "taken") and str(path) in reason


def test_a_tuple_from_python_is_the_list_of_its_sidecar(tmp_path):
    asked = request(scheduler={"class": "DDIMScheduler", "trained_betas": (0.1, 0.2)})
    make(one(asked, tmp_path))
    assert one(asked, tmp_path).state() == ("made", "")


def test_files_of_the_former_sidecar_that_are_not_made_again_are_stale(tmp_path):
    make(one(request(), tmp_path, "mp4", "gif"))
    output = one(request(guidance_scale=2.0), tmp_path, "mp4")
    assert [path.suffix for path in output.stale()] == [".gif"]
    assert set(one(request(), tmp_path, "mp4", "png").widened().paths) == {"mp4", "gif", "png", "json"}


def test_a_comparison_has_each_video_alone_as_if_it_had_been_made_alone(tmp_path):
    output = one(request(variant="compare"), tmp_path)
    assert {variant: str(each.paths["mp4"].relative_to(tmp_path)) for variant, each in output.singles.items()} == {
        "weak": "weak/a-red-circle-moving-right-seed0-weak.mp4",
        "strong": "plain/a-red-circle-moving-right-seed0-plain.mp4",
        "w2sd": "w2sd/a-red-circle-moving-right-seed0.mp4",
    }
    make(output)
    assert output.state() == ("made", "")
    for variant in ("weak", "plain", "w2sd"):
        assert one(request(variant=variant), tmp_path / variant).state() == ("made", "")
    # Another method's comparison has names of its own in the folders that both have.
    other = one(request(variant="compare", method="s2wd"), tmp_path)
    assert other.state() == ("new", "")
    make(other)
    assert output.state() == other.state() == ("made", "")
    (tmp_path / "weak" / "a-red-circle-moving-right-seed0-weak.mp4").unlink()
    assert output.state() == ("new", "")


def test_a_second_process_with_other_settings_is_refused_before_it_samples(tmp_path):
    def outcome(of: Request) -> str:
        """What another process says that wants to make `of` meanwhile."""
        read, write = os.pipe()

        def run() -> None:
            try:
                with runs.claimed(tmp_path, [one(of, tmp_path)]):
                    os.write(write, b"goes on")
            except FileExistsError as error:
                os.write(write, str(error).encode())

        assert forked(run) == 0
        os.close(write)
        with os.fdopen(read) as said:
            return said.read()

    with runs.claimed(tmp_path, [one(request(), tmp_path)]):
        said = outcome(request(guidance_scale=2.0))
        assert (
            f"is being made by process {os.getpid()} with other settings" in said
            and one(request(), tmp_path).stem in said
        )
        assert outcome(request()) == outcome(request(seed=1)) == "goes on"
    assert outcome(request(guidance_scale=2.0)) == "goes on"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "field, value, says",
    [
        ("prompt", "a caf\udce9", "Unicode"),
        ("negative_prompt", "\ud800", "Unicode"),
        ("controlnet", {"model": "\ud800", "strong": 1.0, "weak": 0.0}, "Unicode"),
        ("options", {"cap": float("inf")}, "finite numbers"),
        ("scheduler", {"class": "DDIMScheduler", "trained_betas": np.ones(3)}, "numbers, texts, true"),
    ],
)
def test_what_a_sidecar_cannot_hold_is_refused_before_sampling(field, value, says):
    with pytest.raises(Refused, match=f"^{field}.*{says}"):
        replace(request(), **{field: value})


FRAMES = np.zeros((2, 16, 16, 3), np.uint8)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("write", [video.write_mp4, video.write_gif], ids=["mp4", "gif"])
def test_writing_to_a_full_disk_says_so_and_names_the_file(write):
    with pytest.raises(OSError) as caught:
        write(FRAMES, Path("/dev/full"), 8)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")


def test_an_error_names_the_place_of_a_file_and_not_the_hidden_one(tmp_path):
    finals = {"png": tmp_path / "v-frames", "json": tmp_path / "v.json"}
    with pytest.raises(OSError) as caught, runs.whole(finals) as staged:
        staged["png"].mkdir()
        raise OSError(errno.ENOSPC, "No space left on device", str(staged["png"] / "0000.png"))
    assert caught.value.filename == str(tmp_path / "v-frames" / "0000.png") and list(tmp_path.iterdir()) == []


def test_a_write_to_an_open_file_on_a_full_disk_names_the_folder(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, runs.whole({"page": tmp_path / "index.html"}):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path)


def test_a_full_disk_ends_a_command_with_1_and_bad_input_with_2(capsys):
    for number, code in ((errno.ENOSPC, 1), (errno.EIO, 1), (errno.ENOENT, 2)):
        with pytest.raises(typer.Exit) as caught, terminal.messages():
            raise OSError(number, os.strerror(number), "outputs/v.mp4")
        assert caught.value.exit_code == code and "outputs/v.mp4" in capsys.readouterr().err


def test_an_mp4_goes_to_and_comes_from_a_folder_with_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("20:30").mkdir()
    video.write_mp4(FRAMES, Path("20:30/v.mp4"), 8)
    assert video.read(Path("20:30/v.mp4")).shape == FRAMES.shape


def test_captions_take_prompts_of_many_lines_and_of_any_length():
    made = [video.side_by_side({"a": FRAMES}, text) for text in ("one\ntwo", "one two", "one " * 20_000)]
    assert np.array_equal(made[0], made[1]) and made[0].shape == made[2].shape


PRESETS = [sys.executable, "-m", "w2sd_video", "presets"]


@pytest.mark.slow
def test_a_closed_standard_output_is_no_error():
    ran = subprocess.run(["sh", "-c", '"$0" "$@" >&-', *PRESETS], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_broken_pipe_ends_quietly_as_sigpipe_does_and_a_full_one_is_named(monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(SystemExit) as caught:
            terminal.say("a line")
        assert caught.value.code == 1
        terminal.say("what is said from now on goes nowhere")
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            monkeypatch.setattr(sys, "stdout", full)
            with pytest.raises(OSError) as failed:
                terminal.say("a line")
            assert (failed.value.errno, failed.value.filename) == (errno.ENOSPC, "standard output")


def generate(*arguments: str) -> list[str]:
    """The command line with the shipped model at its smallest, for more videos than are waited for."""
    small = "--steps 1 --frames 2 --size 16 --device cpu --plain --seed 0-99 --out outputs".split()
    return [sys.executable, "-m", "w2sd_video", "generate", "a red circle moving right", *small, *arguments]


def whole_videos(folder: Path) -> int:
    """How many videos there are, all of them with what their sidecars record; and nothing else."""
    names = {path.name for path in folder.iterdir()}
    for path in folder.glob("*.json"):
        record = runs.read_sidecar(path)[1]
        assert runs.check_files(folder, record, hashed=True) == {}
        names -= {path.name, *record["files"]}
    assert not names
    return len(list(folder.glob("*.json")))


@pytest.mark.slow
def test_who_reads_no_further_gets_whole_videos_and_the_code_of_sigpipe(tmp_path):
    process = subprocess.Popen(generate(), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait() == 1
    how_far = re.compile(r".* left|.*: step \d+ of \d+")
    assert all(map(how_far.fullmatch, process.stderr.read().splitlines()))
    assert 1 <= whole_videos(tmp_path / "outputs") < 100


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_report_that_cannot_be_written_is_an_error_and_the_video_is_kept(tmp_path):
    with open("/dev/full", "w") as full:
        ran = subprocess.run(generate(), cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 1 and "standard output: No space left on device" in ran.stderr
    assert "Traceback" not in ran.stderr and whole_videos(tmp_path / "outputs") == 1


@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda size: size == "60k")
@pytest.mark.parametrize("size, options", [("48k", ["--fps=8"]), ("60k", ["--gif"]), ("100k", ["--png"])])
def test_a_full_disk_is_named_ends_with_1_and_leaves_what_was_finished(tmp_path, size, options):
    out = tmp_path / "outputs"
    out.mkdir()
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", out], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    script = f'mount -t tmpfs -o size={size} tmpfs outputs && "$@"; code=$?; cp -a outputs kept; exit $code'
    command = ["unshare", "-m", "sh", "-c", script, "sh", *generate(*options)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 1 and "No space left on device" in ran.stderr and "Traceback" not in ran.stderr
    # The folder is named where the disk is too full for the first, hidden file.
    assert re.search(r"Error: outputs(/a-red-circle-moving-right-seed\d-plain\S+)?: No space", ran.stderr)
    assert 1 <= whole_videos(tmp_path / "kept") < 10


def test_a_process_that_is_interrupted_before_it_has_a_lock_leaves_anothers(tmp_path, monkeypatch):
    def interrupted(descriptor, wait):
        raise KeyboardInterrupt

    with runs.alone(tmp_path / "rows.jsonl"):
        (lock,) = tmp_path.iterdir()
        monkeypatch.setattr("w2sd_video.runs.files._hold", interrupted)
        with pytest.raises(KeyboardInterrupt), runs.alone(tmp_path / "rows.jsonl"):
            pass
        assert lock.exists()
