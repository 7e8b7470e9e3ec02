"""Dimensions of one's own that fail, which is said, and the rest is scored; or that have one name, which is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from w2sd_video.columns import Column
from w2sd_video.errors import Refused, out_of_memory
from w2sd_video.eval.dimensions import ByFunction, Compared, Dimension, chosen
from w2sd_video.eval.evaluate import Scores, evaluate
from w2sd_video.video import write_picture

FRAMES = np.zeros((1, 3, 8, 8, 3), np.uint8)


class Own(Dimension):
    name = "own"

    def score(self, video, reader):
        while (yield) is not None:
            pass
        return 1.0


def scored(own: Dimension) -> Scores:
    return evaluate(FRAMES, [own, "clipped"])


@pytest.mark.parametrize("error", [RuntimeError("no such layer\nand more"), KeyError("layer"), ZeroDivisionError()])
def test_one_that_cannot_be_loaded_is_skipped_with_the_reason(error):
    class Unloadable(Own):
        def load(self, paths, device):
            raise error

    line = Unloadable.load.__code__.co_firstlineno + 1
    scores = scored(Unloadable())
    (skipped,) = scores.skipped
    assert skipped.name == "own" and skipped.reason.startswith(f"it cannot be loaded: {type(error).__name__}: ")
    assert skipped.reason.endswith(f"({__file__}, line {line})")
    assert "and more" not in skipped.reason and [list(of) for of in scores.of.values()] == [["clipped"]]


def test_an_error_in_ones_own_code_is_named_with_its_file_and_line():
    def bad(frames):
        return {}["oops"]

    ((_, name, said),) = evaluate(FRAMES, [bad]).problems
    assert (name, said) == ("bad", f"KeyError: 'oops' ({__file__}, line {bad.__code__.co_firstlineno + 1})")


def test_one_for_which_there_is_no_memory_ends_the_run_as_any_other():
    class Large(Own):
        def load(self, paths, device):
            raise MemoryError

    with pytest.raises(MemoryError):
        scored(Large())


def test_one_without_a_yield_has_no_score_and_the_rest_is_scored():
    class AtOnce(Own):
        def score(self, video, reader):
            return 1.0

    class Raises(Own):
        def score(self, video, reader):
            raise RuntimeError("at once")

    for own, says in (
        (AtOnce(), "its `score` returned 1.0 at once: each batch is"),
        (Raises(), "RuntimeError: at once"),
    ):
        scores = scored(own)
        ((_, name, said),) = scores.problems
        assert name == "own" and said.startswith(says) and [list(of) for of in scores.of.values()] == [["clipped"]]


def test_one_that_goes_on_after_the_last_frame_has_no_score_and_that_is_said():
    class Endless(Own):
        def score(self, video, reader):
            while True:
                yield

    scores = scored(Endless())
    assert [(name, said) for _, name, said in scores.problems] == [("own", "it gave no score after the last frame")]


@pytest.mark.parametrize(
    "error, is_one",
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error, is_one):
    assert out_of_memory(error) == is_one


def test_two_dimensions_of_one_name_are_refused():
    def inner(frames):
        return {"a": 1.0, "b": 2.0}

    both = [ByFunction(inner, Column(f"a{n}"), Column(f"b{n}")) for n in range(2)]
    with pytest.raises(Refused, match="dimensions: 'inner' is not accepted; two of them have this name"):
        chosen(both)


class Near(Compared):
    """How near a picture's mean is to the references'."""

    name, version = "near", 1

    def features(self, batch):
        return batch.frames.mean((1, 2, 3))[:, None]

    def compare(self, features, references):
        return float(abs(features.mean() - references.mean()))


class NearTogether(Near):
    name, of_groups = "near_together", True
    records = (Column("near_together", kind="group"),)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [False, True])
def test_pictures_that_a_comparison_is_not_asked_of_are_left_out_of_it(tmp_path, kept):
    for n, name in enumerate(["references/0", "pictures/a-0", "pictures/b-0", "pictures/c-0"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_picture(Image.fromarray(np.full((8, 8, 3), 10 * n * n, np.uint8)), tmp_path / f"{name}.png")
    options = {"references": tmp_path / "references", "images": True, "rows_file": tmp_path / "rows.jsonl"}
    dimensions = [Near(), NearTogether()]
    if kept:
        evaluate(tmp_path / "pictures", dimensions, **options)
    asked = {"near": ["a"], "near_together": ["a", "b"]}
    scores = evaluate(tmp_path / "pictures", dimensions, asked=asked, **options)
    assert {video.prompt: row for video, row in scores.of.items() if row} == {"a": {"near": 10.0}}
    assert [*scores.of_groups.values()] == [{"near_together": (25.0, 2)}]
