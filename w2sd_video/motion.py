"""Video UNets and shared tensors for scripts; they lie in `models.motion`."""

from .models.motion import motion_unet, share_parameters, unshare_parameters

__all__ = ["motion_unet", "share_parameters", "unshare_parameters"]
