"""A check of decoded frames, before they become pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from w2sd_video.errors import NotFinite
from w2sd_video.levels import all_finite


@contextmanager
def finite_frames(pipeline: Any) -> Iterator[None]:
    """Refuses frames with values that are not finite while the context lasts: as pictures they would be black.

    Raises:
        NotFinite: the autoencoder decodes such frames inside the context.
    """
    name = "video_processor" if hasattr(pipeline, "video_processor") else "image_processor"
    processor = getattr(pipeline, name, None)
    attribute = "postprocess_video" if name == "video_processor" else "postprocess"
    postprocess = getattr(processor, attribute, None)
    if postprocess is None:
        yield
        return

    def checked(*args: Any, **kwargs: Any) -> Any:
        tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        if not all(map(all_finite, tensors)):
            raise NotFinite("frames of the autoencoder")
        return postprocess(*args, **kwargs)

    setattr(processor, attribute, checked)
    try:
        yield
    finally:
        delattr(processor, attribute)
