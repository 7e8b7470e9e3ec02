"""Prompt suites: what ships, files in the forms that others publish theirs in, and draws."""

import hashlib
import json
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from w2sd_video import cli, prompts
from w2sd_video.documents import read_yaml
from w2sd_video.errors import Refused
from w2sd_video.prompts import FOLDER, Prompt, Suite, files
from w2sd_video.shapes.grammar import prompts as of_grammar

MANIFEST = read_yaml(FOLDER / "manifest.yaml")


def run(*arguments, code=0):
    result = CliRunner().invoke(cli.app, ["prompts", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("name", MANIFEST)
def test_what_ships_is_what_the_manifest_says(name):
    about, suite = MANIFEST[name], prompts.load(name)
    assert len(suite.prompts) == about["count"] and suite.source and suite.licence and suite.purpose
    assert hashlib.sha256((FOLDER / about["file"]).read_bytes()).hexdigest() == about["sha256"]
    assert {path.name for path in FOLDER.glob("*.*") if path.suffix in (".txt", ".csv")} == {
        each["file"] for each in MANIFEST.values()
    }


@pytest.mark.slow
def test_the_suite_of_shapes_is_what_the_bench_measures_on():
    assert [prompt.text for prompt in prompts.load("shapes").prompts] == of_grammar(200)


def test_prompts_of_motion_follow_no_template_and_say_what_they_expect():
    suite = prompts.load("motion")
    tags = suite.tags()
    assert all(len(prompt.tags) == 6 for prompt in suite.prompts)
    verbs = Counter(prompt.tags["verb"] for prompt in suite.prompts)
    assert max(verbs.values()) <= 3
    starts = Counter(" ".join(prompt.text.split()[:3]) for prompt in suite.prompts)
    assert max(starts.values()) <= 4
    assert len({prompt.text.lower() for prompt in suite.prompts}) == 150
    assert set(tags["amount"]) == {"none", "little", "moderate", "much"} and len(tags["camera"]) > 8
    controls = prompts.select(suite, ["subject=control"]).prompts
    assert len(controls) >= 10 and all(prompt.tags["amount"] == ("none",) for prompt in controls)
    assert all(prompt.tags["expects"][0].startswith("nothing moves") for prompt in controls)


# Files, as their owners publish them.

ROWS = {
    "mine.txt": "# a comment\nA cat\n\n  A dog  \n",
    "mine.csv": 'id,prompt,tags\n1,"A cat, asleep",still\n2,A dog,\n',
    "mine.tsv": "prompt\tsubject\nA cat\tanimal\n",
    "drawbench.csv": "Prompts,Category\nA red car.,Colors\nA green apple.,Colors\n",
    "evaluation_metadata.jsonl": '{"tag": "single_object", "include": [{"class": "bench", "count": 1}],'
    ' "prompt": "a photo of a bench"}\n',
    "VBench_full_info.json": json.dumps(
        [
            {"prompt_en": "a fantasy landscape", "dimension": ["scene"]},
            {"prompt_en": "A fantasy landscape", "dimension": ["aesthetic_quality", "imaging_quality"]},
            {"prompt_en": "a bund", "dimension": ["appearance_style"], "auxiliary_info": {"style": {"a": 1}}},
            {"prompt_en": "a bund", "dimension": ["imaging_quality"]},
        ]
    ),
    "ids.json": '{"first": "A cat", "second": "A dog"}',
    "list.json": '["A cat", "A dog"]',
    "mine.yaml": "prompts:\n- A cat\n- {id: d, prompt: A dog, camera: [static, close-up]}\n",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in ROWS.items():
        Path(name).write_text(text, encoding="utf-8")
    return tmp_path


def texts(suite: Suite) -> list[str]:
    return [prompt.text for prompt in suite.prompts]


def test_files_are_read_as_what_they_are(here):
    assert texts(prompts.load("mine.txt")) == ["A cat", "A dog"]
    assert prompts.load("mine.csv").prompts == (
        Prompt("1", "A cat, asleep", {"tags": ("still",)}),
        Prompt("2", "A dog"),
    )
    assert prompts.load("mine.tsv").tags() == {"subject": ["animal"]}
    assert prompts.load("drawbench.csv").tags() == {"Category": ["Colors"]}
    geneval = prompts.load("evaluation_metadata.jsonl")
    assert texts(geneval) == ["a photo of a bench"] and geneval.tags() == {"tag": ["single_object"]}
    assert [prompt.id for prompt in prompts.load("ids.json").prompts] == ["first", "second"]
    assert texts(prompts.load("list.json")) == ["A cat", "A dog"]
    assert prompts.load("mine.yaml").prompts[1] == Prompt("d", "A dog", {"camera": ("static", "close-up")})


def test_prompts_that_differ_in_case_are_two_and_entries_of_one_text_are_one(here):
    suite = prompts.load("VBench_full_info.json")
    assert (suite.rows, texts(suite)) == (4, ["a fantasy landscape", "A fantasy landscape", "a bund"])
    assert suite.prompts[2].tags == {"dimension": ("appearance_style", "imaging_quality")}
    assert len({prompt.id for prompt in suite.prompts}) == 3
    assert texts(prompts.select(suite, ["imaging_quality"])) == ["A fantasy landscape", "a bund"]


def test_a_folder_of_text_files_has_their_names_as_tags(here):
    os.mkdir("suite")
    Path("suite/motion_binding.txt").write_text("A cat runs\n")
    Path("suite/object_interactions.txt").write_text("A dog digs\n")
    suite = prompts.load("suite")
    assert suite.tags() == {"file": ["motion_binding", "object_interactions"]}


@pytest.mark.parametrize("name", ["pick.parquet", "pick.arrow"])
def test_tables_with_pictures_give_their_captions_alone(here, name):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import ipc, parquet

    table = pyarrow.table({"caption": ["a cat", "a dog", "a cat"], "jpg_0": [b"\xff\xd8", b"\xff", b"\xff"]})
    if name.endswith("parquet"):
        parquet.write_table(table, name)
    else:
        with ipc.new_stream(name, table.schema) as stream:
            stream.write_table(table)
    suite = prompts.load(name)
    assert (texts(suite), suite.rows, suite.tags()) == (["a cat", "a dog"], 3, {})


def test_vbenchs_own_prompts_are_read_from_its_package():
    pytest.importorskip("vbench")
    suite = prompts.load("vbench")
    assert (suite.rows, len(suite.prompts)) == (946, 944)  # two stand in two rows
    counts = {name: len(prompts.select(suite, [name]).prompts) for name in suite.tags()["dimension"]}
    assert counts["subject_consistency"] == 72 and counts["overall_consistency"] == 93 and counts["scene"] == 86
    assert len(counts) == 16 and len({prompt.text.lower() for prompt in suite.prompts}) == 943


# Bad input


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.txt", None, "there is no such file"),
        ("../none", None, "there is no such file"),
        ("moton", None, "did you mean 'motion'?"),
        ("a" * 5000, None, "is not accepted; "),
        ("empty.txt", "# nothing\n", "it holds no prompt"),
        ("blank.json", '["A cat", " "]', "entry 2 has no text under 'prompt'"),
        ("two.csv", "prompt,caption\na,b\n", "entry 1 has the columns prompt, caption: give exactly one of"),
        ("none.csv", "title\na\n", "entry 1 has the columns title: give exactly one of prompt,"),
        ("ragged.csv", "prompt,tag\na\n", "line 2 has another number of fields than the first"),
        ("number.json", "3", "give a list of prompts, or an object of ids and prompts"),
        ("numbers.json", "[3]", "entry 1 is neither a text nor an object"),
        ("broken.json", "[", "give a JSON file of prompts ("),
        ("broken.yaml", "a: [", "give a YAML file of prompts ("),
        ("ids.csv", "id,prompt\n1,a\n1,b\n", "two prompts have the id '1'"),
        ("same.csv", "id,prompt\n1,a\n2,a\n", "entries '1' and '2' have the same prompt"),
        ("id.json", '[{"id": [1], "prompt": "a"}]', "entry 1 has the id [1]"),
        ("half.json", '["\\ud800"]', "entry 1 is not Unicode"),
        ("bytes.parquet", "no table", "give a Parquet file ("),
        ("latin.txt", b"caf\xe9", "give a text file in UTF-8"),
    ],
)
def test_what_is_no_suite_is_refused_by_name(name, content, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(Refused, match="^prompts: ") as refused:
        prompts.load(name)
    assert says in str(refused.value) and len(str(refused.value)) < 1000


HOSTILE = [
    "x" * 10_000,
    "🐈 on a 🛹",
    "a/b\\c",
    "..",
    "tab\tand\nline",
    "quote \" ' <script>",
    "=1+1",
    "-v",
    "A cat",
    "a cat",
]


def test_hostile_prompts_keep_their_text_and_are_apart(here):
    Path("hostile.json").write_text(json.dumps(HOSTILE))
    suite = prompts.load("hostile.json")
    assert texts(suite) == HOSTILE and len({prompt.id for prompt in suite.prompts}) == len(HOSTILE)
    for form in ("json", "csv"):
        run("show", "hostile.json", "--out", f"again.{form}")
        assert texts(prompts.load(f"again.{form}")) == HOSTILE
    assert "a line cannot hold the prompt" in run("show", "hostile.json", code=2)


# Draws


def test_a_draw_depends_on_the_seed_and_the_texts_alone():
    suite = prompts.load("motion")
    few, more = prompts.sample(suite, 10, 3), prompts.sample(suite, 40, 3)
    assert {p.id for p in few.prompts} < {p.id for p in more.prompts}
    assert {p.id for p in prompts.sample(suite, 10, 4).prompts} != {p.id for p in few.prompts}
    turned = Suite("turned", suite.prompts[::-1], "", 150)
    assert {p.id for p in prompts.sample(turned, 10, 3).prompts} == {p.id for p in few.prompts}
    assert [p.id for p in few.prompts] == [p.id for p in suite.prompts if p in few.prompts]
    # By hand: the text whose SHA-256 with the seed before it is the least.
    first = min(texts(suite), key=lambda text: hashlib.sha256(f"3 {text}".encode()).hexdigest())
    assert texts(prompts.sample(suite, 1, 3)) == [first]


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])  # on a machine that has much else to do
@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=20, unique_by=str.strip), st.integers(0, 9))
def test_each_prompt_is_drawn_as_often_as_any_other(some, seed):
    suite = Suite("some", tuple(Prompt(str(n), text) for n, text in enumerate(some)), "", len(some))
    assert prompts.sample(suite, len(some), seed) == suite
    with pytest.raises(Refused, match=rf"^n: {len(some) + 1} is not accepted; some has {len(some)}"):
        prompts.sample(suite, len(some) + 1, seed)


# The command line


def test_a_draw_that_is_written_says_where_it_is_from_and_is_read_again(tmp_path):
    path = tmp_path / "draw.json"
    run("sample", "motion", "--n", 5, "--seed", 2, "--tag", "camera=static", "--out", path)
    about = json.loads(path.read_text())["suite"]
    assert (about["name"], about["n"], about["seed"], about["tag"]) == ("motion", 5, 2, ["camera=static"])
    again = prompts.load(path)
    assert about["sha256"] == again.sha256 and all(p.tags["camera"] == ("static",) for p in again.prompts)
    assert "it already exists" in run("sample", "motion", "--n", 1, "--out", path, code=2)
    printed = run("sample", "motion", "--n", 5, "--seed", 2, "--tag", "camera=static").splitlines()
    assert printed[0].startswith("# 5 prompts of motion (tag camera=static, n 5, seed 2)")
    assert printed[1:] == texts(again)


def test_a_csv_has_a_row_for_each_of_several_values_of_a_tag_and_is_read_as_the_same_suite(here):
    rows = [{"prompt": "A cat, asleep", "dimension": ["scene", "color"], "kind": "animal"}, {"prompt": "A dog"}]
    Path("several.json").write_text(json.dumps(rows))
    lines = run("show", "several.json", "--format", "csv").splitlines()
    assert [line.split(",", 1)[1] for line in lines] == [
        "prompt,dimension,kind",
        '"A cat, asleep",scene,animal',
        '"A cat, asleep",color,animal',
        "A dog,,",
    ]
    run("show", "several.json", "--out", "several.csv")
    assert prompts.load("several.csv").prompts == prompts.load("several.json").prompts


def test_the_list_says_what_each_suite_is_and_how_others_are_read():
    said = " ".join(run("ls").split())
    assert "motion: 150 prompts; research on motion modules" in said and "GenEval: prompts/evaluation_metadata" in said
    assert {each["name"] for each in json.loads(run("ls", "--format", "json"))} >= {"smoke", "motion", "shapes"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "moton"], "did you mean 'motion'?"),
        (["show", "smoke", "--tag", "static"], "smoke has no tags"),
        (["show", "motion", "--tag", "camera=statik"], "did you mean 'camera=static'?"),
        (["show", "motion", "--format", "xml"], "--format: 'xml' is not accepted; give text, csv, json"),
        (["show", "motion", "--out", "a.xml"], "--out: 'a.xml' is not accepted; give a file of the format"),
        (["sample", "smoke", "--n", "9"], "n: 9 is not accepted; smoke has 8"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in " ".join(run(*arguments, code=2).split())
    assert not list(tmp_path.iterdir())


def test_every_kind_of_file_has_a_word_for_messages():
    assert all(kind.startswith("a ") for _, kind in files.KINDS.values())


def test_what_is_wrong_is_called_as_the_command_calls_it(tmp_path):
    for command, said in {
        "show nosuch": "SUITE: 'nosuch' is not accepted; Available: smoke, motion, shapes,",
        "sample motion --n 1000": "--n: 1000 is not accepted; motion has 150",
        "show motion --tag zzz": "--tag: 'zzz' is not accepted; no prompt of motion has it",
    }.items():
        ran = CliRunner().invoke(cli.app, ["prompts", *command.split()])
        assert ran.exit_code == 2 and said in " ".join(ran.output.split()) and len(ran.output) < 3000


def test_lines_end_only_where_a_file_has_ends_of_lines(tmp_path):
    texts = ["a cat\u2028that sits", "a dog\x0cthat runs", "a bird\x85that sings"]
    (tmp_path / "mine.txt").write_bytes("\r\n".join([texts[0], texts[1] + "\n" + texts[2]]).encode())
    assert [each.text for each in prompts.load(tmp_path / "mine.txt").prompts] == texts
    rows = [json.dumps({"prompt": text}, ensure_ascii=False) for text in texts]
    (tmp_path / "mine.jsonl").write_text("\n".join(rows), encoding="utf-8")
    assert [each.text for each in prompts.load(tmp_path / "mine.jsonl").prompts] == texts
