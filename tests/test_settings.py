"""The one model of a run's settings: presets and requests as they were, and values that it does not take."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from w2sd_video import documents, presets, settings
from w2sd_video.errors import Refused
from w2sd_video.methods import AutoGuidance
from w2sd_video.runs import Request
from w2sd_video.terminal import read_setting

GOLDEN = json.loads((Path(__file__).parent / "golden" / "presets.json").read_text(encoding="utf-8"))


def as_json(value: object, folder: Path) -> object:
    return json.loads(json.dumps(value).replace(f"{folder.resolve()}/", "{folder}/"))


def as_of_now(name: str, recorded: dict) -> dict:
    """What was recorded; of the shipped models of shapes, with the settings that suit their second edition."""
    if not name.startswith("shapes") or name == "shapes-digits":
        return recorded
    now = {"num_inference_steps": (15, 25), "reflection_steps": (14, 24)}
    now |= {"guidance_scale": (3.0, 1.5), "strong_guidance_scale": (3.0, 1.5)}
    return recorded | {key: new for key, (old, new) in now.items() if recorded[key] == old}


def test_every_shipped_preset_is_among_the_recorded_ones():
    """Those of transformers came later, and `test_transformer_presets` has them."""
    names = {name for name in presets.names() if not presets.FAMILIES[presets.load(name).family].transformer}
    assert set(GOLDEN) == names


@pytest.mark.parametrize("name", GOLDEN)
def test_a_shipped_preset_gives_the_request_that_it_gave_before_settings_were_one_model(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preset = presets.load(name)
    since = {
        "method": "w2sd",
        "options": {},
        "weak_skip_layers": None,
        "embedded_guidance": None,
        "weak_embedded_guidance": None,
        "strong_embedded_guidance": None,
        "guidance_scale_2": None,
        "guidance_rescale": None,
        "eta": None,
        "weak_config": None,
        "strong_guidance_scale_2": None,
        "weak_guidance_scale_2": None,
    }  # which presets had not, when these were recorded
    assert as_json(asdict(preset), tmp_path) == {**as_of_now(name, GOLDEN[name]["preset"]), **since}
    for model in preset.models.values():
        if model.endswith(".safetensors") and "/" not in model:
            Path(model).touch()
    Path("dit-moe-s").mkdir()
    Path("picture.png").touch()
    shown = {"control": preset.controlnet, "ip_image": preset.ip_adapter}
    shown = {what: "picture.png" for what, needed in shown.items() if needed}
    for schedule, expected in GOLDEN[name]["requests"].items():
        request = Request.of("a red circle", preset=name, schedule=schedule, **shown)
        since = {"method_sha256": None, "offload": "none", "compile": False}
        since |= {"weak_skip_layers": None, "free_init": None, "image": None}
        since |= {"embedded_guidance": None, "weak_embedded_guidance": None, "strong_embedded_guidance": None}
        since |= {"guidance_scale_2": None, "guidance_rescale": None, "weak_config": None, "eta": None}
        since |= {"strong_guidance_scale_2": None, "weak_guidance_scale_2": None}
        assert as_json(asdict(request), tmp_path) == {**as_of_now(name, expected), **since}
        assert Request(**json.loads(json.dumps(asdict(request)))) == request  # as a sidecar has it


def request(**values) -> Request:
    models = {"strong": "a/strong", "weak": "a/weak", "motion_adapter": "a/motion"}
    return Request.of("a red circle", **{**models, **values})


def test_a_request_is_a_frozen_value_that_dataclasses_copy():
    first = request(options={"interval": (0.1, 1)})
    assert replace(first, seed=0) == first and replace(first, seed=1) != first
    assert type(first.adapters) is type(first.options) is type(first.scheduler) is dict
    assert first.options == {"interval": [0.1, 1]}  # as the sidecar gives it back
    with pytest.raises(AttributeError):
        first.seed = 1
    with pytest.raises(TypeError):
        hash(first)
    with pytest.raises(Refused, match="sed: 1 is not accepted; no setting has this name; did you mean 'seed'"):
        request(sed=1)


@pytest.mark.parametrize(
    "word, setting",
    [
        ("steps", "num_inference_steps"),
        ("T", "num_inference_steps"),
        ("guidance", "guidance_scale"),
        ("weak_guidence", "weak_guidance_scale"),
        ("frames", "num_frames"),
        ("lora", "adapters"),
    ],
)
def test_a_setting_that_is_called_as_its_option_is_answered_with_its_name(word, setting):
    with pytest.raises(Refused, match=f"^{word}: 4 is not accepted; .*did you mean '{setting}'"):
        Request.of("a cat", **{word: 4})


LORA = {"model": "a/lora", "strong": 0.8, "weak": 0.0}
BAD = [
    ("guidance_scale", "3", "guidance_scale", "a finite number from"),
    ("guidance_scale", True, "guidance_scale", "a finite number"),
    ("guidance_scale", float("inf"), "guidance_scale", "give a finite number"),
    ("guidance_scale", 1e300, "guidance_scale", "from -1000000 to 1000000"),
    ("height", 8 * 10**9, "height", "a multiple of 8, from 8 to 65536"),
    ("num_frames", 10**9, "num_frames", "from 1 to 65536"),
    ("num_inference_steps", 10**9, "num_inference_steps", "from 1 to 1000000"),
    ("seed", 1.0, "seed", "a whole number from 0"),
    ("prompt", "\udcff", "prompt", "Unicode"),
    ("prompt", "a" * 100_001, "prompt", "at most 100000 characters"),
    ("strong", 3, "strong", "give a text"),
    ("strong", "package:../../etc", "strong", "a path inside the package"),
    ("dtype", "float", "dtype", "did you mean 'float"),
    ("adapters", {"a b": LORA}, "adapters", "letters, digits and _"),
    ("adapters", {"a": LORA | {"weak": "0"}}, "adapters.a.weak", "a finite number"),
    ("adapters", {"a": LORA | {"weight": 1.0}}, "adapters.a.weight", "model, strong and weak"),
    ("ip_adapter", {"model": "a/b", "strong": 1.0}, "ip_adapter", "it lacks weak"),
    ("scheduler", {"class": {1, 2}}, "scheduler", "numbers, texts, true, false"),
    (
        "scheduler",
        {"class": "DDIMScheduler", "num_train_timesteps": 10**12},
        "scheduler.num_train_timesteps",
        "to 1000000",
    ),
    ("scheduler", {"class": "DDIMScheduler", "beta_start": float("nan")}, "scheduler", "finite numbers"),
    ("options", {"cap": 10**30}, "options", "smaller whole numbers"),
    ("weak_routing", [True, 2], "weak_routing", "two ranks"),
    ("weak_text_encoders", 1, "weak_text_encoders", "true or false"),
    ("device", "cuda:99999", "device", "cuda:N"),
]


@pytest.mark.parametrize("name, value, argument, accepted", BAD)
def test_a_setting_of_the_wrong_type_or_size_is_refused_with_what_is_accepted(name, value, argument, accepted):
    with pytest.raises(Refused) as caught:
        replace(request(), **{name: value}).check()
    assert caught.value.argument == argument and accepted in caught.value.accepted
    assert len(str(caught.value)) < 1000


def test_an_object_of_a_method_in_a_request_is_refused_and_a_class_in_a_file_is_how():
    says = (
        r"method: AutoGuidance\(.*a request is written to files, and holds no object.*from_file\('method', 'mine.py:M"
    )
    with pytest.raises(Refused, match=says):
        request(method=AutoGuidance())


def test_a_list_that_holds_itself_is_refused():
    endless: list = []
    endless.append(endless)
    with pytest.raises(Refused, match="options: .* deep"):
        request(options={"interval": endless})


def test_every_setting_has_a_help_and_every_option_is_one_setting_only():
    options = [option for name in settings.names() for option in settings.of(name).options]
    assert len(options) == len(set(options)) and all(settings.of(name).help for name in settings.names())
    assert all(set(settings.of(name).families or ()) <= set(presets.FAMILIES) for name in settings.names())


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 0.001),
        ("no", "no"),
        ("2024-05-01", "2024-05-01"),
        ("12:30", "12:30"),
        ("1_000", 1000),
        ("true", True),
        ("~", None),
        ("[1, a, .5]", [1, "a", 0.5]),
        ("a: &x {b: 1}\nc: {<<: *x, d: *x}", {"a": {"b": 1}, "c": {"b": 1, "d": {"b": 1}}}),
    ],
)
def test_yaml_is_read_as_1_2_says(text, value):
    assert documents.parse_yaml(text) == value and type(documents.parse_yaml(text)) is type(value)


def test_what_is_read_of_a_yaml_text_can_be_changed_and_is_read_anew():
    documents.parse_yaml("a: [1]")["a"].append(2)
    assert documents.parse_yaml("a: [1]") == {"a": [1]}


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n"
BOMB += "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    "text, says",
    [
        (BOMB, "more than 10000 values"),
        ("[" * 10_000, "nests deeper than 32"),
        ("- " * 10_000, "nests deeper than 32"),
        ("a: &a [*a]", r"\*a is within its own anchor"),
        ("a: 1\nb: 2\na: 3", "'a' stands twice"),
        ("!!python/object/apply:os.system [true]", "tag .* is not accepted"),
        ("a: !!binary AAAA", "tag .* is not accepted"),
        ("!!bool x", "cannot be read"),
        ("a: " + "1" * 5000, "no whole number to be read"),
        ("? [1]\n: 2", "a key is a list"),
        ("\0", "special characters"),
        ("a: *b", "undefined alias"),
    ],
)
def test_yaml_that_is_large_deep_or_not_plain_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        documents.parse_yaml(text)


def preset(folder: Path, **values) -> str:
    lines = ["extends: shapes", "description: mine", "source: me", *(f"{key}: {text}" for key, text in values.items())]
    path = folder / "mine.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_a_preset_file_says_numbers_and_booleans_as_before_and_as_people_write_them(tmp_path):
    read = presets.load(preset(tmp_path, weak_text_encoders="yes", guidance_scale="25e-1", weak_guidance_scale="1"))
    assert (read.weak_text_encoders, read.guidance_scale, read.weak_guidance_scale) == (True, 2.5, 1.0)
    read = presets.load(preset(tmp_path, schedule="a", schedules="{a: {class: DDIMScheduler, clip_sample: no}}"))
    assert read.schedules == {"a": {"class": "DDIMScheduler", "clip_sample": False}}


@pytest.mark.parametrize(
    "key, text, says",
    [
        ("num_inference_steps", '"15"', "num_inference_steps: '15' is not accepted; give a whole number"),
        ("height", "63", "height: 63 is not accepted; give a multiple of 8"),
        ("guidance_scale", ".nan", "guidance_scale: nan is not accepted; give a finite number"),
        ("adapters", "[a]", r"adapters: \['a'\] is not accepted"),
        ("schedules", "{default: [1]}", "schedules.default: .* is not accepted"),
        ("schedules", "{default: {class: 3}}", "schedules.default needs a class"),
        ("refine", "[a]", r"refine: \['a'\] is not accepted; give a text"),
        ("expected", "3", "expected: 3 is not accepted; give a list of tables"),
    ],
)
def test_a_key_of_a_preset_with_a_wrong_value_is_named_with_its_file(tmp_path, key, text, says):
    with pytest.raises(ValueError, match=f"mine.yaml: {says}"):
        presets.load(preset(tmp_path, **{key: text}))


def test_none_clears_a_setting_of_the_preset_where_a_request_may_have_none():
    request = Request.of("a red circle", preset="shapes-motion", weak_motion_adapter=None, weak_motion_scale=0.5)
    assert (request.weak_motion_adapter, request.weak_motion_scale) == (None, 0.5)
    assert Request.of("a red circle", guidance_scale=None).guidance_scale == presets.load("shapes").guidance_scale
    with pytest.raises(Refused, match="nonsense: None is not accepted; no setting has this name"):
        Request.of("a red circle", nonsense=None)


def test_set_takes_null_and_no_empty_value():
    assert read_setting("threshold=null") == ("threshold", None)
    with pytest.raises(Refused, match="give NAME=VALUE"):
        read_setting("threshold=")
