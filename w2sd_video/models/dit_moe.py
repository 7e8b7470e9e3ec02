"""DiT-MoE: a class-conditional diffusion transformer of sparse experts (Fei et al. 2024, arXiv:2407.11633).

A DiT (Peebles & Xie 2023, arXiv:2212.09748) whose blocks have a mixture of experts in place of the MLP. A router ranks
the experts for every token. The best few run, and beside them a shared expert that always does. `routing` makes
others of the ranking run instead: with the worst, the same network is its own weak model (Table 3 of arXiv:2502.00473).
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import init_empty_weights
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import PatchEmbed, TimestepEmbedding, Timesteps
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.normalization import AdaLayerNormContinuous, AdaLayerNormZero
from torch import Tensor, nn

from ..errors import WeightsError, WeightsNotFound
from ..levels import full_precision
from . import checkpoints
from .checkpoints import explained
from .sources import SUFFIXES, Source, find

Routing = Literal["best", "worst"] | tuple[int, int]

FREQUENCIES = 256  # of the timestep's embedding

PUBLISHED: dict[str, dict[str, Any]] = {
    "S/2-8E2A": {},
    "B/2-8E2A": {"num_attention_heads": 12},
    "XL/2-8E2A": {"num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72, "qk_norm": True},
    "G/2-16E2A": {
        "sample_size": 64,
        "num_layers": 40,
        "num_attention_heads": 16,
        "attention_head_dim": 88,
        "num_experts": 16,
        "qk_norm": True,
    },
}
"""What the published models' configurations have other than the defaults, which are DiT-MoE-S/2-8E2A's.

S and B predict noise. XL and G are rectified flows: they predict noise minus data and take timesteps in 0-1.
"""


class SparseMoE(nn.Module):
    """Experts of which each token runs through a few, and a shared one for all: y = sum_i s_i e_i(x) + e_shared(x).

    s is the softmax of the router's logits over all experts, as in the published code (`norm_topk_prob` is False
    there): the weights of the experts that run are not normalised to sum up to 1, whichever run. So the worst run
    with the small weights that the router gives them.
    """

    def __init__(self, width: int, expert_width: int, num_experts: int, shared_width: int):
        super().__init__()
        self.gate = nn.Linear(width, num_experts, bias=False)
        self.experts = nn.ModuleList(_expert(width, expert_width) for _ in range(num_experts))
        self.shared_expert = _expert(width, shared_width)

    def forward(self, x: Tensor, ranks: tuple[int, int]) -> Tensor:
        """Tokens (batch, tokens, width) through the experts at the ranks start to stop - 1; rank 0 is the best."""
        start, stop = ranks
        tokens = x.flatten(0, 1)
        scores = full_precision(self.gate(tokens)).softmax(-1)
        scores, ranking = scores.sort(dim=-1, descending=True, stable=True)
        s = scores[:, start:stop].to(x.dtype)
        chosen = ranking[:, start:stop].flatten()

        by_expert = chosen.argsort()
        counts = chosen.bincount(minlength=len(self.experts)).tolist()
        batches = tokens[by_expert // (stop - start)].split(counts)
        e = torch.cat([expert(batch) for expert, batch in zip(self.experts, batches, strict=True) if len(batch)])
        e = e[by_expert.argsort()].unflatten(0, s.shape)
        return torch.einsum("nk,nkd->nd", s, e).view_as(x) + self.shared_expert(x)


def _expert(width: int, inner_width: int) -> FeedForward:
    return FeedForward(width, inner_dim=inner_width, activation_fn="swiglu", bias=False)


class DiTMoEBlock(nn.Module):
    """Attention and experts, each after a norm whose shift, scale and gate come from the conditioning (adaLN-Zero)."""

    def __init__(self, heads: int, head_dim: int, expert_ratio: int, num_experts: int, shared: int, qk_norm: bool):
        super().__init__()
        width = heads * head_dim
        norm = "layer_norm" if qk_norm else None
        self.norm1 = AdaLayerNormZero(width)
        self.attn = Attention(width, heads=heads, dim_head=head_dim, bias=True, qk_norm=norm, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.moe = SparseMoE(width, expert_ratio * width, num_experts, shared * width)

    def forward(self, x: Tensor, c: Tensor, ranks: tuple[int, int]) -> Tensor:
        """Tokens (batch, tokens, width) under a conditioning (batch, width)."""
        y, gate_attn, shift, scale, gate_moe = self.norm1(x, emb=c)
        x = x + gate_attn[:, None] * self.attn(y)
        y = self.norm2(x) * (1 + scale[:, None]) + shift[:, None]
        return x + gate_moe[:, None] * self.moe(y, ranks)


class DiTMoETransformer2DModel(ModelMixin, ConfigMixin):
    """DiT-MoE, in the place of the transformer of diffusers' `DiTPipeline`. The defaults are DiT-MoE-S/2-8E2A.

    It is for sampling. Two things that only training has are left to the trainer: labels are not dropped at random (the
    null class is the last one, `num_embeds_ada_norm`), and there is no loss that balances the experts.

    Args:
        sample_size: height and width of the latents.
        patch_size: side of the patch that makes a token; divides `sample_size`.
        in_channels, out_channels: of the latents and of the prediction. Twice as many: half of it is the prediction,
            and half the variance (Nichol & Dhariwal 2021, arXiv:2102.09672).
        num_layers, num_attention_heads, attention_head_dim: of the transformer, whose width is heads times head_dim.
        num_embeds_ada_norm: classes, without the null class.
        num_experts: routed experts of every block, each `expert_ratio` times as wide inside as the transformer.
        num_experts_per_tok: how many of them are the best, and the worst.
        num_shared_experts: width of the shared expert inside, in widths of the transformer. As in the published code
            it is one MLP, which is the sum of so many of that width.
        expert_ratio: see `num_experts`.
        qk_norm: whether attention normalises queries and keys, as the published XL and G do.
        routing: which of each token's ranking of experts run: "best", "worst", or (start, stop) for the ranks start to
            stop - 1, of which 0 is the best. It is the default of calls; `routing`, the attribute, changes it, and
            `arms.routing` does so for a while. What is saved is what was given here.

    Raises:
        ValueError: for `patch_size`, `num_experts_per_tok` or `routing` that are not accepted.
    """

    _no_split_modules = ["DiTMoEBlock"]
    _repeated_blocks = ["DiTMoEBlock"]
    _skip_layerwise_casting_patterns = ["patch_embed", "norm"]

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        out_channels: int = 8,
        num_layers: int = 12,
        num_attention_heads: int = 6,
        attention_head_dim: int = 64,
        num_embeds_ada_norm: int = 1000,
        num_experts: int = 8,
        num_experts_per_tok: int = 2,
        num_shared_experts: int = 2,
        expert_ratio: int = 4,
        qk_norm: bool = False,
        routing: Routing = "best",
    ):
        super().__init__()
        if sample_size % patch_size:
            raise ValueError(f"`patch_size` has to divide `sample_size`, which is {sample_size}, but is {patch_size}.")
        if not 1 <= num_experts_per_tok <= num_experts:
            raise ValueError(
                f"`num_experts_per_tok` has to be from 1 to {num_experts}, which is `num_experts`, but is"
                f" {num_experts_per_tok}."
            )
        self.routing = routing
        width = num_attention_heads * attention_head_dim
        self.patch_embed = PatchEmbed(sample_size, sample_size, patch_size, in_channels, width)
        # Not diffusers' `CombinedTimestepLabelEmbeddings`, whose frequencies are others: they are spaced by 1 / 127.
        self.time_proj = Timesteps(FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embed = TimestepEmbedding(FREQUENCIES, width)
        self.class_embed = nn.Embedding(num_embeds_ada_norm + 1, width)
        block = (num_attention_heads, attention_head_dim, expert_ratio, num_experts, num_shared_experts, qk_norm)
        blocks = [DiTMoEBlock(*block) for _ in range(num_layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm_out = AdaLayerNormContinuous(width, width, elementwise_affine=False, eps=1e-6)
        self.proj_out = nn.Linear(width, patch_size**2 * out_channels)
        # The zero of adaLN-Zero: untrained blocks are the identity.
        for linear in (*(block.norm1.linear for block in blocks), self.norm_out.linear, self.proj_out):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    @property
    def routing(self) -> Routing:
        """Which experts run where a call does not say so: "best", "worst" or (start, stop)."""
        return self.active_routing

    @routing.setter
    def routing(self, routing: Routing) -> None:
        self.ranks(routing)
        self.active_routing: Routing = routing if isinstance(routing, str) else (routing[0], routing[1])

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor,
        return_dict: bool = True,
        routing: Routing | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict, for latents, what the model was trained to.

        Args:
            hidden_states: (batch, in_channels, sample_size, sample_size).
            timestep: (batch,), or one for all.
            class_labels: (batch,), integers from 0 to `num_embeds_ada_norm`, which is the null class.
            return_dict: whether to return a `Transformer2DModelOutput`, or a tuple.
            routing: which experts run; None: those of the attribute `routing`.

        Returns:
            `sample`, (batch, out_channels, sample_size, sample_size).

        Raises:
            ValueError: for latents or labels of another shape, labels that are no classes, and an unknown routing.
        """
        ranks = self.ranks(self.routing if routing is None else routing)
        self._check(hidden_states, class_labels)
        x = self.patch_embed(hidden_states)
        timestep = torch.as_tensor(timestep, device=x.device).expand(len(x))
        c = self.time_embed(self.time_proj(timestep).to(x.dtype)) + self.class_embed(class_labels)
        for block in self.blocks:
            x = block(x, c, ranks)
        x = self.proj_out(self.norm_out(x, c))

        p, side = self.config.patch_size, self.config.sample_size // self.config.patch_size
        x = x.view(-1, side, side, p, p, self.config.out_channels)
        sample = x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def ranks(self, routing: Any) -> tuple[int, int]:
        """The ranks that run under a routing, from the first to the one after the last.

        Raises:
            ValueError: there is no such routing.
        """
        experts, active = self.config.num_experts, self.config.num_experts_per_tok
        if isinstance(routing, str) and routing in ("best", "worst"):
            return (0, active) if routing == "best" else (experts - active, experts)
        # A configuration that was saved has a list.
        if isinstance(routing, (tuple, list)) and len(routing) == 2 and all(type(rank) is int for rank in routing):
            start, stop = routing
            if 0 <= start < stop <= experts:
                return start, stop
        raise ValueError(
            '`routing` has to be "best", "worst" or a slice (start, stop) of the ranking with'
            f" 0 <= start < stop <= {experts}, but is {routing!r}."
        )

    def _check(self, hidden_states: Tensor, class_labels: Tensor) -> None:
        channels, side, classes = self.config.in_channels, self.config.sample_size, self.config.num_embeds_ada_norm
        if hidden_states.shape[1:] != (channels, side, side):
            raise ValueError(
                f"`hidden_states` has to be (batch, {channels}, {side}, {side}), but is {tuple(hidden_states.shape)}."
            )
        if class_labels.shape != hidden_states.shape[:1]:
            raise ValueError(
                f"`class_labels` has to be ({len(hidden_states)},), one for each of `hidden_states`, but is"
                f" {tuple(class_labels.shape)}."
            )
        # On a GPU such a label would end the process's use of the device.
        if bool(((class_labels < 0) | (class_labels > classes)).any()):
            raise ValueError(
                f"`class_labels` have to be from 0 to {classes}, the null class, but are {class_labels.tolist()}."
            )


def load(argument: str, value: str | PathLike[str], torch_dtype: torch.dtype | None = None) -> DiTMoETransformer2DModel:
    """The model of a published checkpoint, a file here or on the hub (`OWNER/NAME/FILE`), or of a pipeline's folder.

    Args:
        argument: what `value` is called in messages.

    Raises:
        WeightsNotFound, WeightsError: see [`load_published`].
    """
    source = find(argument, value)
    if source.is_file:
        assert source.path is not None
        return load_published(source.path, argument).to(torch_dtype or torch.float32)
    with explained(source):
        return DiTMoETransformer2DModel.from_pretrained(
            source.path or source.value, subfolder="transformer", torch_dtype=torch_dtype
        )


def load_published(path: str | PathLike[str], argument: str = "path", **config: Any) -> DiTMoETransformer2DModel:
    """The model in a checkpoint of the published code (github.com/feizc/DiT-MoE), in eval mode.

    It has the precision of the file. Nothing but tensors is read of a pickle.

    Args:
        path: a `.safetensors`, or a `.pt` such as `dit_moe_s_8E2A.pt`; one with tensors under "ema" or "model", as
            training leaves it, gives the first of these.
        argument: what `path` is called in messages.
        config: arguments of [`DiTMoETransformer2DModel`]. Without any, those of the model in `PUBLISHED` that has the
            file's width.

    Raises:
        WeightsNotFound (`FileNotFoundError`): there is no such file.
        WeightsError (`ValueError`): the file is damaged, holds more than tensors, or names and shapes are not those of
            the model; the message has the first one.
    """
    source = Source(argument, str(path), Path(path))
    if not Path(path).is_file():
        raise WeightsNotFound(source, f"is not a file. Accepted: a file of tensors ({', '.join(SUFFIXES)}).")
    state = checkpoints.read(source, wrappers=("ema", "model"))
    embedding = state.get("x_embedder.proj.weight")
    width = len(embedding) if embedding is not None and embedding.ndim else 0
    for each in PUBLISHED.values() if not config else ():
        if width == each.get("num_attention_heads", 6) * each.get("attention_head_dim", 64):
            config = each
    with init_empty_weights():
        model = DiTMoETransformer2DModel(**config)
    parts_of = {name: _published(name, model.config.qk_norm) for name in model.state_dict()}
    positions = model.patch_embed.pos_embed

    want: dict[str, tuple[int, ...]] = {"pos_embed": tuple(positions.shape)}
    for name, tensor in model.state_dict().items():
        for theirs, _, parts in parts_of[name]:
            want[theirs] = (parts * (len(tensor) // len(parts_of[name])), *tensor.shape[1:])
    have = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if wrong := [name for name in want | have if want.get(name) != have.get(name)]:
        raise WeightsError(
            source,
            f"has {len(wrong)} weights that do not fit, {wrong[0]} first: it is"
            f" {have.get(wrong[0], 'missing')}, where the model has {want.get(wrong[0], 'none')}.",
        )
    # They are computed, not trained; half precision is some 0.004 off.
    if not torch.allclose(state["pos_embed"].float(), positions, atol=1e-2):
        raise WeightsError(source, "has a pos_embed that is not the fixed sine-cosine of the positions.")

    model.load_state_dict(
        {
            name: torch.cat([state[theirs].chunk(parts)[part] for theirs, part, parts in parts_of[name]])
            for name in parts_of
        },
        assign=True,
    )
    return model.eval()


# Parts of names, ours and in the published checkpoints.
_NAMES = (
    ("patch_embed", "x_embedder"),
    ("time_embed.linear_1", "t_embedder.mlp.0"),
    ("time_embed.linear_2", "t_embedder.mlp.2"),
    ("class_embed", "y_embedder.embedding_table"),
    ("norm1.linear", "adaLN_modulation.1"),
    ("norm_out.linear", "final_layer.adaLN_modulation.1"),
    ("proj_out", "final_layer.linear"),
    ("shared_expert.", "shared_experts."),
    ("net.2", "down_proj"),
)
# The attention that normalises queries and keys is another class there, with other names.
_ATTENTION = {
    False: (("attn.to_out.0", "attn.proj"),),
    True: (
        ("attn.qkv", "attn.Wqkv"),
        ("attn.to_out.0", "attn.out_proj"),
        ("attn.norm_q", "attn.q_norm"),
        ("attn.norm_k", "attn.k_norm"),
    ),
}
# What is cut otherwise: a part of how many of a published tensor, along its first axis.
_SPLIT = {
    "attn.to_q": [("attn.qkv", 0, 3)],
    "attn.to_k": [("attn.qkv", 1, 3)],
    "attn.to_v": [("attn.qkv", 2, 3)],
    "net.0.proj": [("up_proj", 0, 1), ("gate_proj", 0, 1)],
    "norm_out.linear": [("norm_out.linear", 1, 2), ("norm_out.linear", 0, 2)],  # shift comes first there
}


def _published(name: str, qk_norm: bool) -> list[tuple[str, int, int]]:
    """What a parameter is concatenated from: published tensors, each with a part and the number of its parts."""
    names = _NAMES + _ATTENTION[qk_norm]
    for ours, sources in _SPLIT.items():
        if ours in name:
            return [(_renamed(name.replace(ours, theirs), names), part, parts) for theirs, part, parts in sources]
    return [(_renamed(name, names), 0, 1)]


def _renamed(name: str, names: tuple[tuple[str, str], ...]) -> str:
    for ours, theirs in names:
        name = name.replace(ours, theirs)
    return name
