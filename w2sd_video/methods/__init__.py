"""The methods: each a denoiser made out of denoisers, one file each."""

from .w2sd import W2SD, w2sd

__all__ = ["W2SD", "w2sd"]
