"""The studies of the paper: their closed forms, their networks, what they write, and what is claimed of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import integrate, stats
from typer.testing import CliRunner

from w2sd_video.cli import app
from w2sd_video.levels import Level
from w2sd_video.methods import W2SD, Weak
from w2sd_video.studies import STUDIES, points, study, theory
from w2sd_video.studies.networks import Ensemble, members, train

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "studies"
MIXTURE = points.Mixture([1.0, 3.0], [[-2.0], [1.5]], [0.7, 1.2])
FAST = ("theory", "gauss1d", "imbalance")


def test_exact_noise_predictions_are_the_mean_of_the_noise_given_x():
    """E[eps | x], integrated over z."""
    level, at, z = Level(0.8, 0.6), np.array([-2.5, -0.4, 0.3, 2.0]), np.linspace(-9, 9, 8001)
    eps = (at[:, None] - level.alpha * z) / level.sigma
    weight = stats.norm.pdf(eps) * MIXTURE.density(z[:, None])
    expected = integrate.simpson(eps * weight, x=z) / integrate.simpson(weight, x=z)
    predicted = MIXTURE.eps(torch.from_numpy(at)[:, None], level)[:, 0]
    assert predicted.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_a_density_integrates_to_one_and_quantiles_are_those_of_it():
    grid = np.linspace(-9, 9, 20001)
    density = MIXTURE.density(grid[:, None])
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-8)
    quantiles = MIXTURE.quantiles(4, np.ones(1))
    below = [np.trapezoid(np.where(grid <= q, density, 0), grid) for q in quantiles]
    assert below == pytest.approx([0.125, 0.375, 0.625, 0.875], abs=1e-3)


def test_the_distance_to_a_mixture_is_scipys_to_many_of_its_points():
    rng = np.random.default_rng(0)
    x = rng.normal(0.5, 2, (400, 1))
    many = MIXTURE.draw(400_000, torch.Generator().manual_seed(1)).double().numpy()
    expected = stats.wasserstein_distance(x[:, 0], many[:, 0])
    assert points.wasserstein(x, MIXTURE) == pytest.approx(expected, abs=0.02)


def test_the_sliced_distance_of_a_shift_is_its_mean_projection():
    plane = points.Mixture([1.0], [[0.0, 0.0]], [1.0])
    x = points.normal_points(1024, 2).numpy()
    shifted = points.wasserstein(x + [3.0, 0.0], plane)
    assert shifted == pytest.approx(3 * 2 / np.pi, abs=0.02)  # the mean of |cos|


def test_a_strong_exact_network_samples_its_mixture_and_a_weak_one_its_own():
    networks = [
        points.Exact(points.Mixture([share, 1 - share], [[-4.0], [4.0]], [1.0, 1.0]), points.scheduler())
        for share in (0.3, 0.1)
    ]
    noise = points.normal_points(400, 1)
    shares = [float((points.sample(*networks, method, noise) < 0).double().mean()) for method in (None, Weak())]
    assert shares == pytest.approx([0.3, 0.1], abs=0.01)


def test_several_points_in_a_row_are_sampled_as_each_by_itself():
    exact = [points.Exact(points.Mixture(w, [[-4.0], [4.0]], [1.0, 1.0]), points.scheduler()) for w in ([1, 2], [1, 4])]
    noise = points.normal_points(12, 1)
    together = points.sample(*exact, W2SD(), noise.reshape(3, 4, 1), num_inference_steps=8)
    assert torch.equal(together.flatten(0, 1), points.sample(*exact, W2SD(), noise, num_inference_steps=8))


def test_alignment_is_that_of_two_gaussians_by_hand():
    """Scores of N(m, 1) at x = alpha z + sigma eps differ by alpha (m' - m): here by 2 and by -1 times alpha."""
    shifted = [points.Exact(points.Mixture([1.0], [[m]], [1.0]), points.scheduler()) for m in (1.0, -1.0, 0.0)]
    strong, weak, ideal = shifted
    row = points.alignment(strong, weak, ideal, torch.zeros((1, 8, 1), dtype=torch.float64), [500])[0]
    assert row["cosine"].item() == pytest.approx(-1) and row["g"].item() == pytest.approx(-0.5)


def test_an_ensembles_members_share_nothing():
    """Trained with another one, a network's outputs are what they are beside any other."""
    rng = torch.Generator().manual_seed(0)
    mine, other, another = (torch.randn((50, 2), generator=rng) for _ in range(3))
    trained = []
    for beside in (other, 5 + another):
        network = Ensemble(2, 2, width=8)
        train(network, [mine, beside], steps=30, seed=3)
        trained.append(network)
    x = torch.randn((2, 7, 2), generator=rng)
    first, second = (network(x, 300)[0] for network in trained)
    assert torch.allclose(first[0], second[0], atol=1e-6) and not torch.allclose(first[1], second[1], atol=1e-2)
    alone = members(trained[0], [1])
    assert torch.allclose(alone(x[1:], 300)[0], first[1:], atol=1e-6)
    branches = trained[0](torch.cat([x, 2 * x]), 300)[0]
    assert torch.allclose(branches, torch.cat([first, trained[0](2 * x, 300)[0]]), atol=1e-6)


def test_kept_networks_are_read_again_and_others_are_made_anew(tmp_path):
    made = []

    def make() -> study.Tensors:
        made.append(1)
        return {"weight": torch.full((2,), float(len(made)))}

    run = study.Run(cache=tmp_path)
    first = run.kept("net", {"steps": 3}, make)
    assert torch.equal(run.kept("net", {"steps": 3}, make)["weight"], first["weight"]) and len(made) == 1
    run.kept("net", {"steps": 4}, make)
    study.Run(seed=1, cache=tmp_path).kept("net", {"steps": 3}, make)
    assert len(made) == 3 and len(list(tmp_path.glob("*.safetensors"))) == 3


def test_a_mean_has_scipys_interval_of_students_t():
    values = [0.3, -0.1, 0.4, 0.25, 0.2]
    mean = study.Mean.of(values)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (mean.mean - mean.half, mean.mean + mean.half) == pytest.approx((low, high))
    assert mean.sign == (1 if low > 0 else 0)


def test_the_field_of_the_theory_is_the_noise_prediction_of_the_closed_form():
    y = torch.randn((5, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alpha = 0.6
    level = Level(alpha, 0.8)
    assert torch.allclose(theory.eps(theory.STRONG, y, 0.8 / alpha), theory.STRONG.eps(alpha * y, level), atol=1e-12)


def test_the_jacobian_term_is_that_of_finite_differences():
    y, v = (torch.randn((4, 2), generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (0, 1))

    def field(y: torch.Tensor) -> torch.Tensor:
        return theory.eps(theory.WEAK, y, 0.9)

    expected = (field(y + 1e-5 * v) - field(y - 1e-5 * v)) / 2e-5
    assert torch.allclose(theory.directional(field, y, v), expected, atol=1e-8)


def test_of_a_linear_field_the_flow_is_the_exponential():
    y = torch.ones((2, 2), dtype=torch.float64)
    assert torch.allclose(theory.flow(lambda y, tau: -y, y, 0.0, 1.5), np.exp(-1.5) * y, atol=1e-10)


@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda name: name in FAST)
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_writes_the_same_table_twice_with_figure_sentence_and_page(name, tmp_path):
    tables = []
    for attempt in ("first", "second")[: 2 if name in FAST else 1]:
        run = study.Run(quick=True, cache=tmp_path / attempt)
        result = study.perform(name, run)
        study.write(name, result, tmp_path / attempt)
        tables.append((tmp_path / attempt / f"{name}.csv").read_text())
    assert len(set(tables)) == 1 and len(tables[0].splitlines()) > 3
    assert (tmp_path / "first" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    svg = (tmp_path / "first" / f"{name}.svg").read_text()
    assert "</svg>" in svg and "<text" in svg
    for axes in result.figure.axes:
        assert axes.get_ylabel() or axes.get_xlabel() or axes.get_title()
    assert "n = " in result.caption and result.outcome.endswith(".")
    text = study.page(name, result, run)
    assert result.outcome in text and f"{name}.png" in text and text.startswith("# ")


def test_every_study_has_its_page_its_picture_and_its_place_on_the_site():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text().partition("nav:")[2])
    listed = json.dumps(nav)
    for name in STUDIES:
        assert f"studies/{name}.md" in listed
        text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
        assert f"w2sd-video study {name}" in text
        assert (PAGES / f"{name}.png").stat().st_size < 150_000
        with (PAGES / f"{name}.csv").open(encoding="utf-8") as file:
            assert len(list(csv.reader(file))) > 3


def test_the_command_lists_studies_and_refuses_what_is_none():
    runner = CliRunner()
    listed = runner.invoke(app, ["study", "ls", "--format", "json"])
    assert listed.exit_code == 0 and json.loads(listed.stdout) == STUDIES
    wrong = runner.invoke(app, ["study", "gaus1d"])
    assert wrong.exit_code == 2 and "did you mean 'gauss1d'?" in wrong.output
    seed = runner.invoke(app, ["study", "theory", "--seed", "-1"])
    assert seed.exit_code == 2 and "whole number from 0" in " ".join(seed.output.split())


@pytest.mark.slow
def test_the_command_writes_files_and_a_page(tmp_path):
    command = ["study", "theory", "--quick", "--out", str(tmp_path / "out"), "--page", str(tmp_path / "pages")]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0, ran.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"theory.{kind}" for kind in ("csv", "png", "svg", "txt")
    }
    assert ran.stdout.startswith(study.QUICK) and (tmp_path / "out" / "theory.txt").read_text().startswith(study.QUICK)
    assert {path.name for path in (tmp_path / "pages").iterdir()} == {"theory.csv", "theory.md", "theory.png"}


@pytest.mark.slow
def test_the_orders_of_the_theory_are_those_derived(tmp_path):
    result = study.perform("theory", study.Run())
    measured = {row["error"]: row["slope"] for row in result.rows}
    assert measured == pytest.approx(theory.EXPECTED, abs=0.05)
    with (PAGES / "theory.csv").open(encoding="utf-8") as file:
        shipped = [float(row["median"]) for row in csv.DictReader(file)]
    assert [row["median"] for row in result.rows] == pytest.approx(shipped, rel=1e-2)


def test_the_methods_that_matched_calls_better_are_those_that_the_pages_rows_decide():
    with (PAGES / "matched.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    differences: dict[str, list[np.ndarray]] = {}
    for name in dict.fromkeys(row["method"] for row in rows):
        w1, *others = (
            np.array([float(row[key]) for row in rows if row["method"] == name])
            for key in ("w1", "w1_plain", "w1_control")
        )
        differences[name] = [w1 - other for other in others]
    flat = [each for both in differences.values() for each in both]
    p = np.array([stats.ttest_1samp(each, 0).pvalue if each.any() else 1.0 for each in flat])
    order = p.argsort()
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))  # Holm 1979
    less = (adjusted <= 0.05) & ([each.mean() < 0 for each in flat])
    better = [name for name, both in zip(differences, less.reshape(-1, 2), strict=True) if both.all()]
    assert 0.05 < adjusted[2 * list(differences).index("APG") + 1] < 0.06  # which its interval alone would decide
    page = (PAGES / "matched.md").read_text(encoding="utf-8")
    assert f"than their own schedule of it are: {'; '.join(better)} (p adjusted" in page
