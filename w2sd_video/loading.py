"""What scripts import of the loading of weights; it lies in `models`."""

from .errors import WeightsError, WeightsNotFound
from .models.bases import SD15, SDXL, clip_tokenizer
from .models.loading import autoencoder, plan
from .models.sources import download_command
from .provenance import weight_hashes

__all__ = [
    "SD15",
    "SDXL",
    "WeightsError",
    "WeightsNotFound",
    "autoencoder",
    "clip_tokenizer",
    "download_command",
    "plan",
    "weight_hashes",
]
