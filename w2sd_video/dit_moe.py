"""DiT-MoE under the name that saved pipelines give for it; it lies in `models.dit_moe`."""

from .models.dit_moe import PUBLISHED, DiTMoETransformer2DModel, SparseMoE, load_published

__all__ = ["PUBLISHED", "DiTMoETransformer2DModel", "SparseMoE", "load_published"]
