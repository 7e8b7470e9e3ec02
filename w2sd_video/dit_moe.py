"""DiT-MoE under the name that saved pipelines give for it; it lies in `models.dit_moe`.

`ModelMixin` is here because diffusers looks in the module that a component is of for the class whose methods load it.
"""

from diffusers import ModelMixin

from .models.dit_moe import PUBLISHED, DiTMoETransformer2DModel, SparseMoE, load, load_published

__all__ = ["PUBLISHED", "DiTMoETransformer2DModel", "ModelMixin", "SparseMoE", "load", "load_published"]
