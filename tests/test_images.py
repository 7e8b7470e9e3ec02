"""Image metrics: recorded scores of the packages that published them, and what they do with bad input."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import image_parity
import numpy as np
import pytest
import torch
import vbench_parity
from shared import shared

from w2sd_video.eval import weights
from w2sd_video.eval.columns import COLUMNS
from w2sd_video.eval.dimensions import IMAGES
from w2sd_video.eval.dimensions.fid import Moments, distance, moments
from w2sd_video.eval.evaluate import Scores, evaluate, unpacked
from w2sd_video.eval.networks import clip
from w2sd_video.eval.results import Summary
from w2sd_video.runs import Refused

GOLD = json.loads(image_parity.GOLDEN.read_text())
TOLERANCES = {"laion_aesthetic": 1e-5, "pick_score": 1e-3, "hps_v2": 1e-3}  # of 1, 100 and 100; else 1e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, `pictures`, and `references`, the first two of them."""
    folder = tmp_path_factory.mktemp("images")
    recipe = [Path(module.__file__) for module in (image_parity, vbench_parity, clip)]
    for path in shared("images", image_parity.write_weights, *recipe).iterdir():
        (folder / path.name).symlink_to(path)
    image_parity.write_pictures(folder / "pictures")
    image_parity.write_pictures(folder / "references", dict(list(image_parity.SIZES.items())[:2]))
    return folder


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip, "LAYOUTS", image_parity.TINY)
    monkeypatch.setattr(weights, "check_digest", lambda path: None)  # random weights under published names


def scored(folder: Path, dimensions: list[str], **options) -> Scores:
    prompts = {f"{name}.png": image_parity.PROMPT for name in image_parity.SIZES}
    options = {"references": [folder / "references"], "prompts": prompts} | options
    return evaluate([folder / "pictures"], dimensions, weights=folder, images=True, **options)


@pytest.mark.slow
def test_scores_are_those_of_the_official_packages(folder: Path):
    scores = scored(folder, list(image_parity.OFFICIAL))
    assert not scores.problems and not scores.skipped
    for name in image_parity.OFFICIAL:
        ours = {video.path.stem: scores.of[video][name] for video in scores.videos}
        assert ours == pytest.approx(GOLD[name], abs=TOLERANCES.get(name, 1e-6)), name
        assert np.ptp(list(GOLD[name].values())) > 0.1  # they tell the pictures apart


@pytest.mark.parametrize("name", ["clip_t", "clip_i", "dino", "laion_aesthetic", "pick_score"])
@pytest.mark.slow
def test_the_recorded_scores_are_what_the_packages_give_today(folder: Path, name: str):
    pytest.importorskip("clip")
    pytest.importorskip("timm")
    pictures = sorted((folder / "pictures").iterdir())
    with torch.no_grad():
        today = image_parity.OFFICIAL[name](folder, pictures, pictures[:2])
    assert today == pytest.approx(list(GOLD[name].values()), abs=TOLERANCES.get(name, 1e-6))


@pytest.mark.slow
def test_fid_and_inception_score_are_those_of_torch_fidelity(folder: Path, tmp_path: Path):
    pytest.importorskip("torch_fidelity")
    ours, theirs = image_parity.write_sets(folder / "sets")
    rows = tmp_path / "rows.jsonl"
    options = {"weights": folder, "images": True, "rows_file": rows, "references": [theirs]}
    scores = evaluate([ours], ["fid", "inception_score"], **options)
    assert not scores.problems
    found = {name: score for name, (score, _) in scores.of_groups[str(ours)].items()}
    assert found == pytest.approx(GOLD["sets"], rel=1e-5)
    assert len(rows.read_text().splitlines()) == 12 + 14 + 12
    summary = Summary(scores)
    assert summary.means[str(ours)]["fid"].n == 12
    assert "fid of 12 pictures is biased" in summary.notes[0]

    # The same features, from the file, against statistics.
    features = [json.loads(line) for line in rows.read_text().splitlines()]
    kept = [unpacked(row["features"])[0] for row in features[:14]]
    np.savez(tmp_path / "stats.npz", mu=np.mean(kept, 0), sigma=np.cov(np.array(kept), rowvar=False))
    again = evaluate([ours], ["fid"], **options | {"references": [tmp_path / "stats.npz"]})
    assert again.of_groups[str(ours)]["fid"][0] == pytest.approx(GOLD["sets"]["fid"], rel=1e-4)
    assert len(rows.read_text().splitlines()) == 12 + 14 + 12


def test_frechet_distance():
    """Of normal distributions with commuting covariances: |mu|^2 + the squared differences of the deviations."""
    a = Moments(np.zeros(3), np.diag([1.0, 4.0, 0.0]))
    b = Moments(np.array([3.0, 0.0, 4.0]), np.diag([9.0, 4.0, 1.0]))
    assert distance(a, b) == pytest.approx(25 + (1 - 3) ** 2 + 0 + 1)
    random = np.random.RandomState(0).randn(5000, 4).astype(np.float32)
    assert moments(random).covariance == pytest.approx(np.cov(random.astype(np.float64), rowvar=False), abs=1e-9)
    with pytest.raises(ValueError, match="2 pictures or more, and one has 1"):
        moments(random[:1])


def test_torchscript_and_transformers_layouts_load_alike(folder: Path, tmp_path: Path):
    """OpenAI publishes CLIP as TorchScript; the hub has it as transformers' folder of the whole model."""
    state = torch.load(folder / image_parity.PLACES["clip"], weights_only=True)

    class Archive(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, tensor in state.items():
                module = self
                for part in name.split(".")[:-1]:
                    if not hasattr(module, part):
                        setattr(module, part, torch.nn.Module())
                    module = getattr(module, part)
                module.register_parameter(name.split(".")[-1], torch.nn.Parameter(tensor.half()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    torch.jit.save(torch.jit.trace(Archive(), torch.zeros(1)), tmp_path / "ViT-B-32.pt")
    half = clip.image_encoder(tmp_path / "ViT-B-32.pt", "B/32")
    full = clip.image_encoder(folder / image_parity.PLACES["clip"], "B/32")
    for name, tensor in half.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, full.state_dict()[name].half().float())

    from transformers import CLIPConfig, CLIPModel

    layout = image_parity.TINY["B/32"]
    whole = CLIPModel(CLIPConfig(vision_config=layout["vision"], text_config=layout["text"], projection_dim=32))
    whole.load_state_dict(clip.renamed(state) | {"logit_scale": torch.tensor(1.0)})
    whole.config.vision_config.projection_dim = 512  # as some published configurations say
    whole.save_pretrained(tmp_path / "folder")
    frames = torch.rand(2, 3, 224, 224)
    images = clip.image_encoder(tmp_path / "folder", "")(frames).image_embeds
    torch.testing.assert_close(images, full(frames).image_embeds)
    ids = torch.tensor([[49406, 320, 1125, 49407]])
    of_file = clip.text_encoder(folder / image_parity.PLACES["clip"], "B/32")(ids).text_embeds
    torch.testing.assert_close(clip.text_encoder(tmp_path / "folder", "")(ids).text_embeds, of_file)


@pytest.mark.slow
def test_networks_that_dimensions_have_in_common_are_loaded_and_run_once(folder: Path, monkeypatch):
    from transformers import CLIPVisionModelWithProjection

    runs = []
    forward = CLIPVisionModelWithProjection.forward
    monkeypatch.setattr(
        CLIPVisionModelWithProjection, "forward", lambda self, x, **k: runs.append(id(self)) or forward(self, x, **k)
    )
    scores = scored(folder, ["clip_t", "clip_i"])
    # Seven pictures, of which two are references, that CLIP-I alone reads.
    assert len(runs) == len(scores.videos) + 2 and len(set(runs)) == 1


def test_a_prompt_is_needed_and_counts(folder: Path, tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    one = scored(folder, ["clip_t"], rows_file=rows, references=[])
    two = scored(folder, ["clip_t"], rows_file=rows, prompts=None, references=[])  # by file names
    video = one.videos[0]
    assert two.videos[0].prompt == "a" and one.of[video] != two.of[two.videos[0]]
    assert len(rows.read_text().splitlines()) == 2 * len(one.videos)


@pytest.mark.slow
def test_a_prompt_that_needs_a_missing_package_is_a_problem_of_that_dimension(folder: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    scores = scored(folder, ["clip_t", "clip_i"])
    assert all("clip_i" in scores.of[video] for video in scores.videos)
    assert {(name, "pip install ftfy" in problem) for _, name, problem in scores.problems} == {("clip_t", True)}


@pytest.mark.slow
def test_a_video_is_scored_by_its_frames(folder: Path, tmp_path: Path):
    """The folder of pictures of one size, as a video, has the mean of their scores."""
    image_parity.write_pictures(tmp_path / "video", {name: (96, 64) for name in "abc"})
    prompts = {name: "a fox" for name in ("a.png", "b.png", "c.png")}
    options = {"weights": folder, "references": [folder / "references"]}
    names = ["clip_t", "clip_i", "hps_v2", "dino"]
    single = evaluate([tmp_path / "video"], names, prompts=prompts, images=True, **options)
    whole = evaluate([tmp_path / "video"], names, prompts={"video": "a fox"}, **options)
    for name in names:
        mean = np.mean([single.of[video][name] for video in single.videos])
        assert whole.of[whole.videos[0]][name] == pytest.approx(mean, abs=2e-5)


def test_preferences_are_said_of_networks_that_were_trained_to_give_their_odds():
    assert {name for name in COLUMNS if COLUMNS[name].odds} == set(IMAGES) - {"clip_t", "laion_aesthetic"}


@pytest.mark.slow
def test_groups_are_compared_by_preference(folder: Path, tmp_path: Path):
    """As the packages turn two scores into a share: their softmax."""
    groups = [tmp_path / "plain", tmp_path / "tuned"]
    image_parity.write_pictures(groups[0], {"a": (64, 64), "b": (64, 64)})
    image_parity.write_pictures(groups[1], {"b": (96, 64), "a": (64, 96)})
    prompts = {"a.png": "a fox", "b.png": "a dog"}
    scores = evaluate(groups, ["pick_score", "clip_t"], weights=folder, images=True, prompts=prompts)
    summary = Summary(scores)
    picked, plain = {c.column: c for c in summary.comparisons}["pick_score"], summary.comparisons[1]
    found = {(v.group, v.path.stem): scores.of[v]["pick_score"] for v in scores.videos}
    pairs = torch.tensor([[found[str(group), name] for group in groups] for name in "ab"])
    assert picked.preference == pytest.approx(pairs.softmax(1)[:, 1].mean().item(), abs=1e-6)
    assert "preferred" in picked.said and plain.preference is None and "preferred" not in plain.said
    files = summary.write(tmp_path / "r.json", [])
    first, second, *_ = csv.DictReader(files[1].read_text().splitlines())
    assert (first["column"], first["group"]) == ("pick_score", str(groups[0]))
    assert (first["n"], first["of"], first["units"], first["unit"]) == ("2", "2", "2", "prompt")
    assert not first["preference"] and float(second["preference"]) == pytest.approx(picked.preference)
    assert second["reason"] == "no verdict: under 10 prompts"


@pytest.mark.slow
def test_references_are_asked_for_by_name(folder: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="clip_i: it compares with pictures: give references"):
        scored(folder, ["clip_i"], references=[])
    assert [s.name for s in scored(folder, ["clip_i", "clip_t"], references=[]).skipped] == ["clip_i"]
    with pytest.raises(Refused, match="it takes clip_i, dino, fid among the dimensions"):
        scored(folder, ["clip_t"])
    with pytest.raises(Refused, match="give files, folders or globs of pictures"):
        scored(folder, ["dino"], references=[tmp_path])
    np.savez(tmp_path / "odd.npz", mu=np.zeros(3), sigma=np.zeros((3, 3)))
    (tmp_path / "text.npz").write_text("no")
    np.savez(tmp_path / "code.npz", mu=np.array([print], dtype=object), sigma=0)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "odd.npz").read_bytes()[:-100])
    one = np.eye(2048, dtype=np.float32)
    np.savez(tmp_path / "nan.npz", mu=np.full(2048, np.nan), sigma=one)
    np.savez(tmp_path / "negative.npz", mu=np.zeros(2048), sigma=-one)
    np.savez(tmp_path / "lopsided.npz", mu=np.zeros(2048), sigma=np.triu(np.ones_like(one)))
    np.savez(tmp_path / "complex.npz", mu=np.zeros(2048), sigma=1j * one)
    says = dict.fromkeys(("text.npz", "code.npz", "cut.npz", "complex.npz"), "does not hold")
    says |= dict.fromkeys(("nan.npz", "negative.npz", "lopsided.npz"), "holds no mean and covariance")
    says |= {"odd.npz": r"mu \(3,\) and sigma \(3, 3\), not 2048"}
    for file, said in says.items():
        with pytest.raises(FileNotFoundError, match=said):
            scored(folder, ["fid"], references=[tmp_path / file])
    with pytest.raises(FileNotFoundError, match="compares with pictures, and .*odd.npz holds statistics"):
        scored(folder, ["dino"], references=[tmp_path / "odd.npz"])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "0.png").write_text("no picture")
    said = [problem for _, _, problem in scored(folder, ["dino"], references=[tmp_path / "broken"]).problems]
    assert "none of the references can be read" in said


def test_other_weights_are_refused_by_name(folder: Path, tmp_path: Path):
    place = tmp_path / image_parity.PLACES["hps"]
    place.parent.mkdir(parents=True)
    torch.save({"visual.proj": torch.zeros(3)}, place)
    with pytest.raises(FileNotFoundError, match=r"HPS_v2_compressed.pt: \d+ weights do not fit"):
        evaluate([folder / "pictures"], ["hps_v2"], weights=tmp_path, images=True)
    with pytest.raises(FileNotFoundError, match="curl -L .*HPS_v2.1_compressed.pt"):
        evaluate([folder / "pictures"], ["hps_v2_1"], weights=tmp_path, images=True)


@pytest.mark.slow
def test_broken_and_unusual_pictures(folder: Path, tmp_path: Path):
    from PIL import Image

    pixels = np.random.RandomState(0).randint(0, 256, (40, 50, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "good.png")
    Image.fromarray(pixels).convert("L").save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([pixels, pixels[..., 0]]), "RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 256).save(tmp_path / "sixteen.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    scores = evaluate([tmp_path], ["clip_t"], weights=folder, images=True)
    assert {video.path.stem for video in scores.of} == {"good", "grey", "alpha"}
    problems = {video.path.stem: problem for video, _, problem in scores.problems}
    assert set(problems) == {"sixteen", "empty", "text"}
    assert "more than 8 bits" in problems["sixteen"] and "empty" in problems["empty"]
