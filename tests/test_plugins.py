"""Methods, dimensions and presets from outside of the package: by entry points, and from files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from videofiles import encode

from w2sd_video import doctor, errors, methods, plans, plugins, presets, prompts, video
from w2sd_video.cli import app
from w2sd_video.errors import Refused
from w2sd_video.eval import dimensions
from w2sd_video.eval.evaluate import evaluate
from w2sd_video.plans import Plan
from w2sd_video.runs import Request, read_sidecar

METHOD = '''
from dataclasses import dataclass, field

from w2sd_video.methods import Answer, Method


@dataclass(frozen=True)
class Push(Method):
    """A step from x_t moved along the arms' difference."""

    push: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.push <= 1:
            raise ValueError(f"`push` has to be from 0 to 1, but is {self.push!r}.")

    def __call__(self, x_t, step, strong, weak, noise):
        return Answer(strong.denoise(x_t), e=self.push * (strong.reflect(x_t) - weak.reflect(x_t)))


class NoMethod:
    pass


class NoCall(Method):
    pass


class Short(Method):
    def __call__(self, x_t, step, strong, weak):
        return Answer(strong.denoise(x_t))


@dataclass(frozen=True, kw_only=True)
class Listed(Push):
    """Whose options have
    no plain default."""

    must: float
    several: list = field(default_factory=list)
'''
DIMENSION = '''
from w2sd_video.columns import Column
from w2sd_video.eval.dimensions import ByFunction, Dimension


def bright(frames):
    """The mean of all pixels, of 255."""
    return frames.mean() / 255


dark = ByFunction(lambda frames: 1 - frames.mean() / 255, Column("dark", sign=-1))


class Frames(Dimension):
    """How many frames a video has."""

    name = "frames"

    def score(self, video, reader):
        yield
        return reader.frames
'''
PROMPT = "a large red circle moving right"
GREY = np.full((2, 16, 16, 3), 51, np.uint8)


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installs a distribution: modules by name, and entry points by group."""

    def put(name: str, files: dict[str, str], points: dict[str, dict[str, str]]) -> None:
        site = tmp_path / f"site-{name}"
        for file, text in files.items():
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            (site / file).write_text(text)
        info = site / f"{name.replace('-', '_')}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        lines = [f"[w2sd_video.{g}]\n" + "".join(f"{k} = {v}\n" for k, v in p.items()) for g, p in points.items()]
        (info / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(site)

    before = set(sys.modules)
    yield put
    for module in set(sys.modules) - before:
        if module.startswith("from_outside"):
            del sys.modules[module]


@pytest.fixture(autouse=True)
def no_file_has_been_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plugins, "_RUN", {})


@pytest.fixture
def installed(install) -> None:
    text = presets.text(presets.load("shapes")).replace("num_inference_steps: 30", "num_inference_steps: 3")
    install(
        "my-pair",
        {
            "from_outside.py": METHOD + DIMENSION,
            "from_outside_presets/__init__.py": "",
            "from_outside_presets/mine.yaml": text,
        },
        {
            "methods": {"push": "from_outside:Push"},
            "dimensions": {"bright": "from_outside:bright", "dark": "from_outside:dark"},
            "presets": {"mine": "from_outside_presets"},
        },
    )


# Entry points


def test_installed_plug_ins_are_listed_with_where_they_are_from(installed):
    code, said, _ = run("methods")
    assert code == 0 and "push: A step from x_t moved along the arms' difference.\n" in said
    assert "push=0.5" in said and "plug-in of my-pair 1.5" in said and "w2sd: " in said and "weak: " not in said
    code, said, _ = run("presets")
    assert code == 0 and "\nmine: " in said and said.count("plug-in of my-pair 1.5") == 1


@pytest.mark.slow  # imports every dimension
def test_installed_dimensions_are_listed_with_where_they_are_from(installed):
    code, said, _ = run("dimensions")
    assert code == 0 and "bright: The mean of all pixels, of 255.\n" in said and said.count("my-pair 1.5") == 2
    assert "aesthetic_quality: " in said and "object_class" in said


def test_options_without_a_plain_default_are_listed_as_what_they_are(install):
    install("listed", {"from_outside_l.py": METHOD}, {"methods": {"listed": "from_outside_l:Listed"}})
    code, said, _ = run("methods")
    assert (
        code == 0 and "must='(needed)', several=[]" in said and "listed: Whose options have no plain default." in said
    )


def test_a_preset_whose_package_lacks_its_file_is_refused_by_its_name(install):
    install("empty", {"from_outside_e/__init__.py": ""}, {"presets": {"absent": "from_outside_e"}})
    with pytest.raises(ValueError, match="preset 'absent', of empty 1.5: .*absent.yaml"):
        presets.load("absent")
    code, said, error = run("presets")
    assert code == 2 and "shapes: " in said and "sdxl-juggernaut: " in said and "preset 'absent', of empty 1.5" in error
    assert any("preset 'absent'" in text for _, text in doctor.weights())


def test_an_installed_preset_is_loaded_by_its_name(installed):
    ours, theirs = presets.load("shapes"), presets.load("mine")
    assert theirs.name == "mine" and theirs.models == ours.models
    assert "mine" in presets.names() and presets.names()[0] == presets.DEFAULT


def test_an_installed_method_has_its_options_and_its_checks(installed):
    request = Request.of(PROMPT, method="push", options={"push": 0.25})
    assert methods.find("push")(**request.options).push == 0.25
    with pytest.raises(Refused, match=r"option of push: 'pus' .* did you mean 'push'\?"):
        Request.of(PROMPT, method="push", options={"pus": 0.25})
    with pytest.raises(Refused, match="has to be from 0 to 1"):
        Request.of(PROMPT, method="push", options={"push": 2})
    with pytest.raises(Refused, match=r"did you mean 'push'\?"):
        Request.of(PROMPT, method="pusk")


def test_installed_dimensions_score_and_say_where_they_are_from(installed):
    scores = evaluate(GREY, "clipped,bright,dark")
    (said,) = scores.of.values()
    assert said["bright"] == pytest.approx(0.2) and said["dark"] == pytest.approx(0.8)
    assert [each.source for each in scores.dimensions] == ["", "my-pair 1.5", "my-pair 1.5"]
    with pytest.raises(Refused, match=r"did you mean 'bright'\?"):
        evaluate(GREY, "brigth")


@pytest.mark.parametrize(
    ("group", "name", "use"),
    [
        ("methods", "w2sd", lambda: Request.of(PROMPT)),
        ("methods", "optimistic", lambda: Request.of(PROMPT, method="optimistic")),
        ("dimensions", "clipped", lambda: dimensions.get("clipped")),
        ("dimensions", "six", lambda: dimensions.expand("six")),
        ("presets", "shapes", lambda: presets.load("shapes")),
        ("prompts", "smoke", lambda: prompts.load("smoke")),
    ],
)
def test_a_plug_in_with_a_built_in_name_is_refused_and_the_built_in_one_is_used(install, group, name, use):
    before = use()
    install("thief", {"from_outside_thief.py": "raise SystemExit"}, {group: {name: "from_outside_thief:X"}})
    after = use()
    assert type(after) is type(before) and (group == "dimensions" or after == before)
    code, said, error = run(*(("prompts", "ls") if group == "prompts" else (group,)))
    assert code == 2 and f"thief 1.5 has a plug-in of the name {name}, which is built in and stays so" in error
    assert name == "six" or f"\n{name}: " in f"\n{said}"


def test_use_of_a_built_in_one_says_once_that_a_plug_in_has_its_name(install, caplog):
    install("thief", {"from_outside_thief.py": "raise SystemExit"}, {"presets": {"shapes": "from_outside_thief"}})
    errors.note_once.cache_clear()
    for _ in range(2):
        presets.load("shapes")
    assert [record.message for record in caplog.records] == [
        "note: thief 1.5 has a plug-in of the name shapes, which is built in and stays so: rename the plug-in"
    ]


def test_a_name_of_two_plug_ins_is_refused_and_others_go_on(install):
    for name in ("one", "two"):
        install(name, {f"from_outside_{name}.py": METHOD}, {"methods": {"push": f"from_outside_{name}:Push"}})
    with pytest.raises(Refused, match="(one 1.5 and two|two 1.5 and one) 1.5 have plug-ins of this name"):
        methods.find("push")
    assert methods.find("w2sd") is methods.W2SD
    code, said, error = run("methods")
    assert code == 2 and "auto_guidance" in said and "have plug-ins of this name" in error


@pytest.mark.parametrize("kind", ["methods", "dimensions", "presets"])
def test_an_error_while_a_plug_in_is_imported_names_it_its_file_and_the_line(install, kind, tmp_path):
    install("broken", {"from_outside_broken/__init__.py": "\n1 / 0\n"}, {kind: {"mine": "from_outside_broken"}})
    option = {"methods": "--method", "dimensions": "--dimensions", "presets": "--preset"}[kind]
    video.write_pngs(GREY, tmp_path / "grey")
    out = "--out", tmp_path / "results.json"
    command = ("eval", tmp_path / "grey", *out) if kind == "dimensions" else ("generate", PROMPT)
    code, _, error = run(*command, option, "mine")
    assert code == 2 and error.startswith(f"Error: {option}: 'mine' is not accepted; broken 1.5: ")
    file = tmp_path / "site-broken/from_outside_broken/__init__.py"
    assert error.replace(" ", "").endswith(f"{file},line2,cannotbeimported:ZeroDivisionError:divisionbyzero")


# Files


def test_a_file_is_known_by_its_name_and_its_bytes_wherever_it_lies(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(METHOD)
    one, two = (plugins.from_file("method", f"{tmp_path / folder}/mine.py:Push") for folder in "ab")
    assert one is two and one.name == "mine.py:Push"
    assert methods.find("mine.py:Push", one.sha256) is one.value
    (tmp_path / "a" / "mine.py").write_text(METHOD + "\n")
    other = plugins.from_file("method", f"{tmp_path}/a/mine.py:Push")
    assert other.sha256 != one.sha256 and methods.find("mine.py:Push", one.sha256) is one.value
    with pytest.raises(Refused, match="2 different files of the name mine.py were named: rename one"):
        methods.find("mine.py:Push")


def test_code_runs_only_where_the_command_line_or_python_names_the_file(tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    (tmp_path / "mine.py").write_text(f"open({str(ran)!r}, 'w')\n{METHOD}{DIMENSION}")
    monkeypatch.chdir(tmp_path)
    for name in ("mine.py:Push", f"{tmp_path}/mine.py:Push", "./mine.py:Push"):
        with pytest.raises(
            Refused, match=r"give --method .*; in Python, call .*from_file\(\"method\", \".*Push\"\) first"
        ):
            Request.of(PROMPT, method=name)
    with pytest.raises(Refused, match="give --dimensions"):
        evaluate(GREY, "mine.py:bright")
    (tmp_path / "mine.yaml").write_text("extends: shapes\nmethod: mine.py:Push\n")
    assert run("generate", PROMPT, "--preset", "mine.yaml")[0] == 2
    assert not ran.exists()
    plugins.from_file("method", "mine.py:Push")
    with pytest.raises(Refused, match="a file that has run is known without its folder: give mine.py:Push"):
        Request.of(PROMPT, method=f"{tmp_path}/mine.py:Push")
    request = Request.of(PROMPT, method="mine.py:Push")
    assert ran.exists() and request.method_sha256 and request.stem.endswith("-Push")


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("absent.py:Push", "the file cannot be read: No such file"),
        ("mine.py:Pusch", "did you mean 'Push'?"),
        ("mine.py:NoMethod", "has to be a subclass of w2sd_video.methods.Method"),
        ("mine.py:Method", "has no `__call__` of its own; a method is called with x_t, step, strong, weak and noise"),
        ("mine.py:NoCall", "has no `__call__` of its own"),
        ("mine.py:Short", "its `__call__` takes x_t, step, strong, weak; a method is called with x_t, step"),
        ("mine.py:Listed", "missing 1 required keyword-only argument: 'must'"),
        ("broken.py:Push", "broken.py, line 2, cannot be imported: NameError: name 'oops' is not defined"),
        ("quits.py:Push", "cannot be imported: SystemExit"),
        ("syntax.py:Push", "line 1, cannot be imported: SyntaxError"),
        ("mine.py", "give FILE.py:CLASS; this file has"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(tmp_path, named, says, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = {"mine": METHOD, "broken": "\noops\n", "quits": "raise SystemExit", "syntax": "class"}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    code, _, error = run("generate", PROMPT, "--method", named)
    assert code == 2 and error.startswith(("Error: --method: ", "Error: --set: ")) and says in error


def test_a_kind_that_there_is_not_is_refused():
    with pytest.raises(Refused, match="kind: 'methods' is not accepted; give method, dimension, preset, prompts"):
        plugins.from_file("methods", "mine.py:Push")


QUITS = """
from w2sd_video.methods import Answer, Method


class Push(Method):
    def __call__(self, x_t, step, strong, weak, noise):
        if x_t.numel() > 4:  # not where its evaluations are counted
            raise SystemExit(3)
        return Answer(strong.denoise(x_t))


def dark(frames):
    raise SystemExit
"""


@pytest.mark.slow
def test_a_plug_in_that_ends_the_program_while_it_runs_is_an_error_of_its_file_and_line(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(QUITS)
    small = "--steps", 2, "--frames", 2, "--png", "--out", tmp_path / "out"
    code, _, error = run("generate", PROMPT, "--method", f"{file}:Push", *small)
    assert code == 1 and error.endswith(f"Error: a plug-in ended the program: SystemExit: 3 ({file}, line 8)")
    plan = Plan(prompts=[PROMPT], settings={"method": "mine.py:Push", "num_inference_steps": 2, "num_frames": 2})
    (line,) = plans.run(plan, tmp_path / "run").failed
    assert line["error"] == f"SystemExit: 3 ({file}, line 8)"
    other = tmp_path / "other.py"
    other.write_text(QUITS.replace("SystemExit(3)", "KeyError('three')"))
    plugins.from_file("method", f"{other}:Push")
    raises = Plan(prompts=[PROMPT], settings={**plan.settings, "method": "other.py:Push"})
    (line,) = plans.run(raises, tmp_path / "another").failed
    assert line["error"] == f"KeyError: 'three' ({other}, line 8)"
    (problem,) = evaluate(GREY, dimensions.named_by_user(f"{file}:dark")).problems
    assert problem[1:] == ("dark", f"SystemExit ({file}, line 13)")


def test_an_error_in_a_methods_code_is_said_in_one_line_with_its_file_and_line(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(METHOD.replace("weak.reflect(x_t)", "weak.nothing(x_t)"))
    code, _, error = run("generate", PROMPT, "--method", f"{file}:Push", "--dry-run")
    (line,) = [n for n, text in enumerate(file.read_text().splitlines(), 1) if "weak.nothing" in text]
    assert code == 1 and error.endswith(
        f"AttributeError: 'BoundArm' object has no attribute 'nothing' ({file}, line {line})"
    )
    assert "Traceback" not in error


def test_a_files_dimension_scores_and_its_scores_are_stored_by_the_files_hash(tmp_path):
    file, rows = tmp_path / "mine.py", tmp_path / "rows.jsonl"
    file.write_text(DIMENSION)
    names = dimensions.named_by_user(f"clipped,{file}:Frames,{file}:dark")
    assert names == "clipped,mine.py:Frames,mine.py:dark"
    (said,) = evaluate(GREY, names, rows).of.values()
    assert said["frames"] == 2 and said["dark"] == pytest.approx(0.8)
    evaluate(GREY, names, rows)
    assert len(rows.read_text().splitlines()) == 3
    plugins._RUN.clear()
    file.write_text(DIMENSION.replace("return reader.frames", "return -reader.frames"))
    (said,) = evaluate(GREY, dimensions.named_by_user(f"{file}:Frames"), rows).of.values()
    assert said["frames"] == -2


def test_two_dimensions_of_one_file_have_scores_of_their_own(tmp_path):
    text = """
from w2sd_video.columns import Column
from w2sd_video.eval.dimensions import ByFunction

def above(level):
    return lambda frames: float((frames > level).mean())

low = ByFunction(above(10), Column("share"), version=1)
high = ByFunction(above(200), Column("share"), version=1)
"""
    (tmp_path / "thresholds.py").write_text(text)
    encode(np.full((4, 32, 32, 3), 100, np.uint8), tmp_path / "a.mp4")
    found = []
    for name in ("low", "high"):
        reference = dimensions.named_by_user(f"{tmp_path / 'thresholds.py'}:{name}")
        scores = evaluate([tmp_path / "a.mp4"], reference, tmp_path / "scores.jsonl")
        found += [each["share"] for each in scores.of.values()]
    assert found == [1.0, 0.0]


def test_an_option_that_a_files_method_lacks_is_of_the_command_line_and_not_of_the_preset(tmp_path):
    (tmp_path / "mine.py").write_text(METHOD)
    code, _, error = run("generate", PROMPT, "--method", f"{tmp_path / 'mine.py'}:Push", "--set", "pus=2")
    assert code == 2 and error.startswith("Error: --set: 'pus' is no option of mine.py:Push; did you mean 'push'?")
    code, _, error = run("generate", PROMPT, "--set", "push=2")
    assert code == 2 and error.rstrip().endswith("; --method names another method")


NAMELESS = """
from w2sd_video.columns import Column
from w2sd_video.eval.dimensions import ByFunction, Dimension

both = ByFunction(lambda frames: {"a": 1.0, "b": 2.0}, Column("a"), Column("b"))
bare = lambda frames: 1.0
one = ByFunction(lambda frames: 1.0, Column("one"))
def bright(frames): return 1.0
class Unnamed(Dimension): pass
"""


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("both", "'mine.py:both' is not accepted; it is a lambda; with several columns the function needs a name: use"),
        ("bare", "'mine.py:bare' is not accepted; it is a lambda, which has no name: use def, or ByFunction with"),
        ("brigth", "did you mean 'bright'? Available: both, bare, one, bright"),
        ("", "give FILE.py:NAME; this file has bright, Unnamed, both, bare, one"),
        ("Unnamed", "'mine.py:Unnamed' is not accepted; it has no `name`: give it one of letters, digits"),
    ],
)
def test_a_files_dimension_that_cannot_be_used_is_named_with_what_its_file_has(tmp_path, named, says):
    (tmp_path / "mine.py").write_text(NAMELESS)
    with pytest.raises(Refused) as refused:
        dimensions.chosen(dimensions.named_by_user(f"clipped,{tmp_path}/mine.py{f':{named}' * bool(named)}"))
    assert says in str(refused.value)


# From outside, to the end


@pytest.mark.slow  # samples four times
def test_a_method_and_a_dimension_from_outside_make_videos_and_score_them(installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(METHOD + DIMENSION)
    tiny = ["--preset", "shapes", "--steps", 2, "--frames", 2, "--png", "--set", "push=0.5"]

    code, said, error = run("generate", PROMPT, *tiny, "--method", "push", "--out", "installed")
    assert code == 0, error
    (sidecar,) = Path("installed").glob("*.json")
    request, record = read_sidecar(sidecar)
    assert (request.method, request.method_sha256) == ("push", None) and record["versions"]["my-pair"] == "1.5"
    # At a guidance of the arms' own, auto-guidance is the same formula.
    code, said, error = run("generate", PROMPT, *tiny[:-1], "weight=0.5", "--method", "auto_guidance", "--out", "rival")
    assert code == 0, error
    _, rival = read_sidecar(next(Path("rival").glob("*.json")))
    assert rival["videos"]["w2sd"]["frames_sha256"] == record["videos"]["w2sd"]["frames_sha256"]

    code, said, error = run("generate", PROMPT, *tiny, "--method", "mine.py:Push", "--out", "file")
    assert code == 0 and "-Push.mp4" in said, error
    (sidecar,) = Path("file").glob("*.json")
    request, of_file = read_sidecar(sidecar)
    assert request.method == "mine.py:Push" and request.method_sha256
    assert of_file["videos"] == {"w2sd": {**of_file["videos"]["w2sd"]}}
    assert of_file["videos"]["w2sd"]["frames_sha256"] == record["videos"]["w2sd"]["frames_sha256"]

    monkeypatch.setattr(plugins, "_RUN", {})  # as in another process
    code, _, error = run("generate", "--from", sidecar, "--out", "again")
    assert code == 2 and "code runs only from a file that is named" in error
    code, _, error = run("generate", "--from", sidecar, "--out", "again", "--method", "w2sd")
    assert code == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.py").write_text(METHOD + "# changed")
    code, _, error = run("generate", "--from", sidecar, "--out", "again", "--method", "other/mine.py:Push")
    assert code == 2 and "it is not the method of the sidecar" in error
    code, said, error = run("generate", "--from", sidecar, "--out", "again", "--method", "mine.py:Push")
    assert code == 0 and "every frame is the same" in said, error

    command = ["eval", "installed", "file", "--out", "results.json", "--dimensions", "clipped,bright,mine.py:Frames"]
    code, _, error = run(*command)
    assert code == 0, error
    results = json.loads(Path("results.json").read_text())
    assert results["dimensions"]["bright"]["source"] == "my-pair 1.5"
    assert results["dimensions"]["frames"]["source"] == f"mine.py sha256:{request.method_sha256}"
    assert results["groups"]["file"]["columns"]["frames"]["mean"] == 2


# Prompt suites


def test_a_prompt_suite_from_outside_is_listed_and_read(install):
    files = {"from_outside_suites/__init__.py": "", "from_outside_suites/mine.csv": "id,prompt\n1,A cat\n"}
    install("my-suite", files, {"prompts": {"mine": "from_outside_suites"}})
    code, said, _ = run("prompts", "ls")
    assert code == 0 and "mine: 1 prompts; my-suite 1.5" in said
    assert run("prompts", "show", "mine")[1].endswith("\nA cat\n")


def test_a_prompt_suite_that_cannot_be_read_is_named_after_the_others(install):
    install("my-suite", {"from_outside_suites/__init__.py": ""}, {"prompts": {"lost": "from_outside_suites"}})
    code, said, error = run("prompts", "ls")
    assert code == 2 and "motion: 150 prompts" in said and "lost.yaml' is not accepted" in error
