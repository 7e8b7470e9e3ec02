"""What a dimension is, and which there are: one file each, found by name, imported when it is used."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from w2sd_video import plugins
from w2sd_video.columns import Column
from w2sd_video.errors import Refused, did_you_mean

from .columns import COLUMNS

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from .videos import Batch, Reader, Video
    from .weights import Weights

    # Is sent the batches of a video in order, then None when there are no more; returns the score as soon as it is
    # certain, or scores by column, or features.
    Scoring = Generator[None, Batch | None, float | dict[str, float] | NDArray[np.float32]]

# The six that VBench documents for any videos, and that the paper's Table 12 reports; then two more of its sixteen.
SIX = (
    "subject_consistency",
    "background_consistency",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
)
VBENCH = (*SIX, "temporal_flickering", "overall_consistency")
# The rest of VBench's sixteen; they need object detectors and captioners, and are left to its own package.
OFFICIAL = (
    "object_class",
    "multiple_objects",
    "human_action",
    "color",
    "spatial_relationship",
    "scene",
    "appearance_style",
    "temporal_style",
)
# Of images, or of each frame of a video: those that need no other images, and those that compare.
IMAGES = ("clip_t", "laion_aesthetic", "pick_score", "hps_v2", "hps_v2_1", "image_reward", "mps")
COMPARED = ("clip_i", "dino", "fid", "inception_score")
GROUPS = {"six": SIX, "vbench": VBENCH, "images": IMAGES}
NAMES = (*VBENCH, *IMAGES, *COMPARED, "clipped", "shapes", "digits")
BUILT_IN = (*GROUPS, *NAMES, *OFFICIAL)  # the names that a plug-in cannot have


class Dimension:
    """A measure of a video. One is made for a run, with its networks, and scores many videos.

    A subclass says what it is by class attributes, loads its networks in `load`, and scores in `score`. All that an
    object has of its own is what `load` gave it.
    """

    name: str
    version: int | str = 1  # raised when scores change; those of other versions are not reused
    weights: tuple[Weights, ...] = ()
    least_frames: int = 1
    prompted: bool = False  # whether the score depends on the prompt
    of_motion: bool = False  # whether frames are matched with one another, in memory by their size
    # VBench's means over videos, on one process and on several, weight each by its frames less this; None: all alike.
    weighted: tuple[int | None, int | None] = (None, None)
    # Of a dimension that is not of this package: the records of its columns, and what its code is from.
    records: tuple[Column, ...] = ()
    source: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the scores that it gives a video; `record` has more of each."""
        return tuple(record.name for record in self.records) or (self.name,)

    def record(self, column: str) -> Column:
        """What is known of one of its columns; where nothing is said, a higher number is better."""
        own = {record.name: record for record in self.records}
        return own.get(column) or COLUMNS.get(column) or Column(column)

    @property
    def stored(self) -> bool:
        """Whether its scores can be known again: its code is this package's, a plug-in's, or says its `version`."""
        if self.source or "version" in vars(self):
            return True
        own = [cls for cls in type(self).__mro__ if not _is_ours(cls) and cls is not object]
        return any("version" in vars(cls) for cls in own) if own else not isinstance(self, ByFunction)

    def load(self, paths: dict[str, Path], device: torch.device) -> None:
        """Loads the networks from where `weights` were found, by `Weights.name`, in float32."""

    def score(self, video: Video, reader: Reader) -> Scoring:
        """Scores a video while its frames pass by.

        Raises:
            ValueError: it cannot be scored; says why.
        """
        raise NotImplementedError


class ByFrame(Dimension):
    """A dimension that is a mean over frames."""

    def of_frames(self, batch: Batch, video: Video) -> torch.Tensor:
        """The score of each frame of a batch, (n,)."""
        raise NotImplementedError

    def score(self, video: Video, reader: Reader) -> Scoring:
        total = 0.0
        while (batch := (yield)) is not None:
            total += self.of_frames(batch, video).double().sum().item()
        return total / reader.frames


class ByFunction(Dimension):
    """A dimension that is a function of a video's frames.

    Args:
        function: of the frames, (F, H, W, 3), RGB, uint8, and, where it has a parameter of that name, of the `prompt`.
            It returns a number, or numbers by column; NaN where it says nothing of the video.
        columns: what the scores are called and which way is better; default: the function's name, higher is better.
        version: by which stored scores are known; to be raised when scores change. None: scores are not stored.
        least_frames: how many a video must have.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *columns: Column,
        version: int | str | None = None,
        least_frames: int = 1,
    ):
        name = str(getattr(function, "__name__", type(function).__name__))
        self.name = columns[0].name if len(columns) == 1 else name
        self.records = columns or (Column(name),)
        self.least_frames = least_frames
        self.function = function
        if version is not None:
            self.version = version
        try:
            self.prompted = "prompt" in inspect.signature(function).parameters
        except (TypeError, ValueError):  # of some functions that are not Python's
            self.prompted = False

    def score(self, video: Video, reader: Reader) -> Scoring:
        import numpy as np

        seen = []
        while (batch := (yield)) is not None:
            seen.append(batch.pixels)
        told = {"prompt": video.prompt} if self.prompted else {}
        scores: float | dict[str, float] = self.function(np.concatenate(seen), **told)
        return scores


class Compared(Dimension):
    """A dimension that is a function of frames' features: of a video's and the references', or of a whole group's.

    The features are what is kept of a video, so that another comparison takes no network.
    """

    referenced = True  # whether it needs reference images
    of_groups = False  # whether a group has one score, and its videos none
    enough = 1  # pictures of a group, with fewer of which its score misleads

    def features(self, batch: Batch) -> torch.Tensor:
        """(n, channels) of a batch's frames."""
        raise NotImplementedError

    def score(self, video: Video, reader: Reader) -> Scoring:
        import torch

        seen = []
        while (batch := (yield)) is not None:
            seen.append(self.features(batch).float().cpu())
        return torch.cat(seen).numpy()

    def compare(self, features: NDArray[np.float32], references: Any) -> float:
        """The score of a video or group with these features, against those of the references, or `statistics`.

        Raises:
            ValueError: they are too few; says how many it takes.
        """
        raise NotImplementedError

    def gathered(self, references: NDArray[np.float32]) -> Any:
        """What `compare` takes of all references' features: those, unless something smaller says as much.

        Raises:
            ValueError: they are too few; says how many it takes.
        """
        return references

    def statistics(self, path: Path) -> Any:
        """What an .npz file that is given as references says of them.

        Raises:
            ValueError: it says nothing that the dimension compares with.
        """
        raise ValueError(f"it compares with pictures, and {path} holds statistics")


class Similarity(Compared):
    """The mean cosine of each frame with each reference."""

    def compare(self, features: NDArray[np.float32], references: NDArray[np.float32]) -> float:
        import torch
        import torch.nn.functional as F

        ours, theirs = (F.normalize(torch.from_numpy(each), dim=-1).double() for each in (features, references))
        return (ours @ theirs.mT).mean().item()


@dataclass(frozen=True)
class Skipped:
    """A dimension that was asked for and cannot be computed here, and why."""

    name: str
    reason: str


Chosen: TypeAlias = Union[str, Dimension, "type[Dimension]", Callable[..., Any]]  # noqa: UP007 - at run time


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def chosen(dimensions: Chosen | Iterable[Chosen], official: bool = False) -> list[Dimension]:
    """Dimensions by name, as of `expand`, and those of one's own, each an instance, a class or a function.

    Args:
        official: whether VBench's package computes them, all by name.

    Raises:
        Refused: there is none of a name; one's own cannot be made, or has a name or a column of another one's.
    """
    if isinstance(dimensions, (str, Dimension)) or callable(dimensions):
        dimensions = [dimensions]
    try:
        listed = list(dimensions)
    except TypeError:
        raise Refused("dimensions", dimensions, NEEDED) from None
    found: list[Dimension] = []
    for each in listed:
        if isinstance(each, str):
            names = [name for name in expand(each) if name not in [d.name for d in found]]
            found += [_named(name) if official else get(name) for name in names]
        elif official:
            raise Refused("dimensions", each, "VBench's package computes its own alone: give names")
        else:
            found.append(own(each))
    if not found:
        expand("")
    columns: dict[str, Dimension] = {}
    for dimension in found:
        for column in dimension.columns:
            if column in columns:
                raise Refused("dimensions", dimension.name, f"{columns[column].name} has a column {column!r} too")
            columns[column] = dimension
    return found


def _named(name: str) -> Dimension:
    """A dimension without its code, which only has a name."""
    dimension = Dimension()
    dimension.name = name
    return dimension


NEEDED = "give names, or a Dimension, its class or a function of the frames"


def own(given: object) -> Dimension:
    """A dimension of one's own: an instance, or one made of a class or a function.

    Raises:
        Refused: it is something else, it cannot be made without arguments, or its name or a column is a built-in one's.
    """
    if isinstance(given, type) and issubclass(given, Dimension):
        try:
            given = given()
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            raise Refused(
                "dimensions", given, f"give an instance: none can be made without arguments ({why})"
            ) from None
    elif callable(given) and not isinstance(given, (type, Dimension)):
        given = ByFunction(given)
    if not isinstance(given, Dimension):
        raise Refused("dimensions", given, NEEDED)
    if _is_ours(type(given)) and not isinstance(given, ByFunction):
        return given
    name = getattr(given, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
        raise Refused("dimensions", name or given, "give it a name of letters, digits, _, . and -")
    if name in BUILT_IN:
        raise Refused("dimensions", name, "this is the name of one that is built in: give yours another")
    if not all(isinstance(record, Column) for record in given.records):
        raise Refused("dimensions", name, "its records have to be of the class Column")
    if taken := sorted(set(given.columns) & set(COLUMNS)):
        raise Refused("dimensions", name, f"column {taken[0]!r} is that of one that is built in: give yours another")
    return given


def get(name: str) -> Dimension:
    """A dimension by its name, built in or a plug-in's, without its networks.

    Raises:
        Refused: there is none of that name, or a plug-in's cannot be used; see `plugins.find`.
    """
    plugin = plugins.find("dimension", name, BUILT_IN)
    if name in GROUPS:
        raise Refused("dimensions", name, f"this is the group of {', '.join(GROUPS[name])}")
    if name in OFFICIAL:
        raise Refused("dimensions", name, "VBench's own package computes it: give --backend official")
    if plugin is None:
        return import_module(f".{name}", __package__).DIMENSION()
    dimension = own(plugin.value)
    dimension.source = plugin.source
    return dimension


def known() -> tuple[str, ...]:
    """The names of dimensions and of groups of them, for messages."""
    return (*GROUPS, *NAMES, *OFFICIAL, *plugins.names("dimension", BUILT_IN))


def named_by_user(text: str) -> str:
    """Names with commas between, from the command line; files that are among them, `FILE.py:NAME`, run.

    Raises:
        Refused: a file cannot be used; see `plugins.from_file`.
    """
    names = [name.strip() for name in text.split(",")]
    return ",".join(plugins.from_file("dimension", n).name if plugins.is_file(n) else n for n in names)


def expand(names: str | Iterable[str]) -> list[str]:
    """Names, or one text with commas between, and the groups `six`, `vbench` and `images`, as names of dimensions.

    Each is there once.

    Raises:
        Refused: there is none of that name.
    """
    try:
        names = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    except (TypeError, AttributeError):
        raise Refused("dimensions", names, "give names") from None
    found = [each for name in names for each in GROUPS.get(name, (name,))]
    for name in found:
        if (
            name not in (*NAMES, *OFFICIAL)
            and not plugins.is_file(name)
            and not plugins.installed("dimension").get(name)
        ):
            raise Refused("dimensions", name, did_you_mean(name, known()))
    if not found:
        raise Refused("dimensions", "", f"give some of {', '.join((*GROUPS, *NAMES))}")
    return list(dict.fromkeys(found))


def described(name: str) -> dict[str, Any]:
    """The first line of a dimension's docstring, or its module's, as its `summary`; its `columns` and `weights`."""
    dimension = get(name)
    text = type(dimension).__dict__.get("__doc__") or getattr(import_module(type(dimension).__module__), "__doc__", "")
    if isinstance(dimension, ByFunction):
        text = dimension.function.__doc__
    columns, weights = list(dimension.columns), [each.name for each in dimension.weights]
    return {"summary": (text or name).strip().splitlines()[0], "columns": columns, "weights": weights}
