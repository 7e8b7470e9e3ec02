"""DiT-MoE against the published forward pass, written out below token by token from the layout of its checkpoints."""

import math
from argparse import Namespace

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from commands import run
from diffusers import DDIMScheduler, DiTPipeline
from families import FAMILIES, Literal, algorithm_1
from PIL import Image
from safetensors.torch import save_file
from tiny import SIZE, vae

from w2sd_video import arms
from w2sd_video.errors import WeightsError, WeightsNotFound
from w2sd_video.models.dit_moe import PUBLISHED, DiTMoETransformer2DModel, SparseMoE, load_published
from w2sd_video.pipelines import W2SDDiTMoEPipeline

CLASSES = FAMILIES[-1]
HEADS, HEAD_DIM, LAYERS, EXPERTS, ACTIVE = 2, 8, 2, 5, 2
WIDTH = HEADS * HEAD_DIM
CHANNELS, PATCH, LABELS = 4, 2, 1000
CONFIG = dict(
    sample_size=SIZE,
    num_layers=LAYERS,
    num_attention_heads=HEADS,
    attention_head_dim=HEAD_DIM,
    num_experts=EXPERTS,
    num_experts_per_tok=ACTIVE,
)
# Ranks that run, by hand: the best two of five, the worst two, two in between, one, all.
RANKS = {"best": [0, 1], "worst": [3, 4], (1, 3): [1, 2], (4, 5): [4], (0, 5): [0, 1, 2, 3, 4]}


def routed(model, routing):
    return arms.switched(arms.routing(model, routing))


def layout(qk_norm=False):
    """Names and shapes in the published code, of a model as CONFIG says."""
    tokens, out = (SIZE // PATCH) ** 2, PATCH * PATCH * 2 * CHANNELS
    shapes = {
        "pos_embed": (1, tokens, WIDTH),
        "x_embedder.proj.weight": (WIDTH, CHANNELS, PATCH, PATCH),
        "x_embedder.proj.bias": (WIDTH,),
        "t_embedder.mlp.0.weight": (WIDTH, 256),
        "t_embedder.mlp.0.bias": (WIDTH,),
        "t_embedder.mlp.2.weight": (WIDTH, WIDTH),
        "t_embedder.mlp.2.bias": (WIDTH,),
        "y_embedder.embedding_table.weight": (LABELS + 1, WIDTH),
        "final_layer.linear.weight": (out, WIDTH),
        "final_layer.linear.bias": (out,),
        "final_layer.adaLN_modulation.1.weight": (2 * WIDTH, WIDTH),
        "final_layer.adaLN_modulation.1.bias": (2 * WIDTH,),
    }
    for n in range(LAYERS):
        qkv, proj = ("Wqkv", "out_proj") if qk_norm else ("qkv", "proj")
        block = {
            f"attn.{qkv}.weight": (3 * WIDTH, WIDTH),
            f"attn.{qkv}.bias": (3 * WIDTH,),
            f"attn.{proj}.weight": (WIDTH, WIDTH),
            f"attn.{proj}.bias": (WIDTH,),
            "adaLN_modulation.1.weight": (6 * WIDTH, WIDTH),
            "adaLN_modulation.1.bias": (6 * WIDTH,),
            "moe.gate.weight": (EXPERTS, WIDTH),
        }
        for norm in ("q_norm", "k_norm") if qk_norm else ():
            block |= {f"attn.{norm}.weight": (HEAD_DIM,), f"attn.{norm}.bias": (HEAD_DIM,)}
        inner = {f"experts.{e}": 4 * WIDTH for e in range(EXPERTS)} | {"shared_experts": 2 * WIDTH}
        for expert, width in inner.items():
            block[f"moe.{expert}.gate_proj.weight"] = block[f"moe.{expert}.up_proj.weight"] = (width, WIDTH)
            block[f"moe.{expert}.down_proj.weight"] = (WIDTH, width)
        shapes |= {f"blocks.{n}.{name}": shape for name, shape in block.items()}
    return shapes


def positions():
    """The column in the first half of the width, the row in the second; in each, sines and then cosines."""
    side, quarter = SIZE // PATCH, WIDTH // 4
    rows = []
    for row in range(side):
        for column in range(side):
            angles = [[place / 10000 ** (i / quarter) for i in range(quarter)] for place in (column, row)]
            rows.append([f(angle) for part in angles for f in (math.sin, math.cos) for angle in part])
    return torch.tensor(rows)[None]


def checkpoint(qk_norm=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in layout(qk_norm).items():
        fan_in = math.prod(shape[1:]) if len(shape) > 1 and "embedding_table" not in name else 1
        state[name] = torch.randn(shape, generator=generator) / fan_in**0.5
    return state | {"pos_embed": positions()}


def linear(x, state, name):
    y = x @ state[f"{name}.weight"].T
    return y + state[f"{name}.bias"] if f"{name}.bias" in state else y


def silu(x):
    return x / (1 + torch.exp(-x))


def normed(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-6) ** 0.5


def mlp(x, state, name):
    gated = silu(linear(x, state, f"{name}.gate_proj")) * linear(x, state, f"{name}.up_proj")
    return linear(gated, state, f"{name}.down_proj")


def attention(x, state, name):
    normalised = f"{name}.Wqkv.weight" in state
    qkv = linear(x, state, f"{name}.{'Wqkv' if normalised else 'qkv'}").view(-1, 3, HEADS, HEAD_DIM)
    heads = []
    for head in range(HEADS):
        q, k, v = qkv[:, 0, head], qkv[:, 1, head], qkv[:, 2, head]
        if normalised:
            q = normed(q) * state[f"{name}.q_norm.weight"] + state[f"{name}.q_norm.bias"]
            k = normed(k) * state[f"{name}.k_norm.weight"] + state[f"{name}.k_norm.bias"]
        heads.append(torch.softmax(q @ k.T / HEAD_DIM**0.5, -1) @ v)
    return linear(torch.cat(heads, -1), state, f"{name}.{'out_proj' if normalised else 'proj'}")


def experts(x, state, name, ranks):
    rows = []
    for token in x:
        scores = torch.softmax(linear(token, state, f"{name}.gate"), -1).tolist()
        ranking = sorted(range(EXPERTS), key=lambda e: -scores[e])
        y = mlp(token, state, f"{name}.shared_experts")
        for rank in ranks:
            y = y + scores[ranking[rank]] * mlp(token, state, f"{name}.experts.{ranking[rank]}")
        rows.append(y)
    return torch.stack(rows)


def published(state, latents, timesteps, labels, ranks):
    """The published forward pass, one sample and one token at a time."""
    samples = []
    side = SIZE // PATCH
    for latent, t, label in zip(latents, timesteps, labels, strict=True):
        kernel = state["x_embedder.proj.weight"].flatten(1)
        patches = [
            latent[:, r * PATCH : (r + 1) * PATCH, c * PATCH : (c + 1) * PATCH].flatten()
            for r in range(side)
            for c in range(side)
        ]
        x = torch.stack(patches) @ kernel.T + state["x_embedder.proj.bias"] + state["pos_embed"][0]
        angles = float(t) * torch.exp(-math.log(10000) * torch.arange(128) / 128)
        t = linear(torch.cat([angles.cos(), angles.sin()]), state, "t_embedder.mlp.0")
        c = linear(silu(t), state, "t_embedder.mlp.2") + state["y_embedder.embedding_table.weight"][label]
        for n in range(LAYERS):
            modulation = linear(silu(c), state, f"blocks.{n}.adaLN_modulation.1").chunk(6)
            shift, scale, gate = modulation[:3]
            x = x + gate * attention(normed(x) * (1 + scale) + shift, state, f"blocks.{n}.attn")
            shift, scale, gate = modulation[3:]
            x = x + gate * experts(normed(x) * (1 + scale) + shift, state, f"blocks.{n}.moe", ranks)
        shift, scale = linear(silu(c), state, "final_layer.adaLN_modulation.1").chunk(2)
        x = linear(normed(x) * (1 + scale) + shift, state, "final_layer.linear")
        sample = torch.zeros(2 * CHANNELS, SIZE, SIZE)
        for token, values in enumerate(x):
            row, column = divmod(token, side)
            values = values.view(PATCH, PATCH, 2 * CHANNELS)  # channels change the fastest
            for i in range(PATCH):
                for j in range(PATCH):
                    sample[:, row * PATCH + i, column * PATCH + j] = values[i, j]
        samples.append(sample)
    return torch.stack(samples)


def inputs(batch=3, seed=1):
    latents = torch.randn(batch, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    return latents, torch.tensor([981, 1, 400])[:batch], torch.tensor([207, 1000, 0])[:batch]


def largest(a, b):
    return float((a - b).abs().max() / b.abs().max())


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """The state and the model, by whether queries and keys are normalised."""
    found = {}
    for qk_norm in (False, True):
        path = tmp_path_factory.mktemp("published") / "dit_moe.pt"
        state = checkpoint(qk_norm)
        torch.save(state, path)
        found[qk_norm] = state, load_published(path, **CONFIG, qk_norm=qk_norm)
    return found


@pytest.fixture
def model(loaded):
    return loaded[False][1]


@pytest.fixture
def save(tmp_path):
    def write(state, name="weights.pt"):
        path = tmp_path / name
        save_file(state, path) if name.endswith(".safetensors") else torch.save(state, path)
        return path

    return write


@torch.no_grad()
@pytest.mark.parametrize("qk_norm", [False, True], ids=["plain", "qk_norm"])
@pytest.mark.parametrize("routing", RANKS, ids=str)
def test_output_is_the_published_forward_pass(loaded, routing, qk_norm):
    state, model = loaded[qk_norm]
    expected = published(state, *inputs(), RANKS[routing])
    assert largest(model(*inputs(), routing=routing).sample, expected) < 1e-5


@torch.no_grad()
def test_every_routing_gives_something_else(model):
    outputs = [model(*inputs(), routing=routing).sample for routing in RANKS]
    for n, output in enumerate(outputs):
        assert all(largest(output, other) > 1e-3 for other in outputs[:n])


def test_weights_are_softmax_scores_that_do_not_sum_up_to_one():
    moe = SparseMoE(2, 1, 3, 1)
    with torch.no_grad():
        for parameter in moe.parameters():
            parameter.zero_()
        # Scores are 1/7, 4/7 and 2/7; expert n gives (silu(1) * 10**n, 0) for the token (1, 0).
        moe.gate.weight[:, 0] = torch.tensor([1.0, 4.0, 2.0]).log()
        for n, expert in enumerate(moe.experts):
            expert.net[0].proj.weight[:, 0] = 1
            expert.net[2].weight[0, 0] = 10.0**n
        token, silu_1 = torch.tensor([[[1.0, 0.0]]]), 1 / (1 + math.exp(-1))
        for ranks, expected in [((0, 1), 40 / 7), ((0, 2), 240 / 7), ((1, 3), 201 / 7), ((0, 3), 241 / 7)]:
            assert moe(token, ranks)[0, 0].tolist() == pytest.approx([silu_1 * expected, 0])


@torch.no_grad()
def test_experts_run_on_their_tokens_only(model):
    runs = []
    block = model.blocks[0].moe
    hooks = [e.register_forward_hook(lambda module, args, out: runs.append(len(args[0]))) for e in block.experts]
    try:
        model(*inputs())
    finally:
        for hook in hooks:
            hook.remove()
    latents = inputs()[0]
    assert sum(runs) == ACTIVE * len(latents) * (SIZE // PATCH) ** 2
    assert 0 not in runs


@torch.no_grad()
def test_a_batch_gives_what_its_members_give_in_any_order(model):
    together = model(*inputs()).sample
    one_by_one = torch.cat([model(*(part[n : n + 1] for part in inputs())).sample for n in range(3)])
    assert largest(one_by_one, together) < 1e-5
    order = torch.tensor([2, 0, 1])
    assert largest(model(*(part[order] for part in inputs())).sample, together[order]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("timestep", [981, 981.0, torch.tensor(981), torch.tensor([981])], ids=repr)
def test_one_timestep_serves_the_batch(model, timestep):
    latents, _, labels = inputs()
    expected = model(latents, torch.tensor([981] * 3), labels).sample
    assert torch.equal(model(latents, timestep, labels).sample, expected)
    assert torch.equal(model(latents, timestep, labels, return_dict=False)[0], expected)


@torch.no_grad()
@pytest.mark.parametrize("routing", ["best", "worst", (1, 4)], ids=str)
def test_saved_and_loaded_it_gives_the_same(loaded, routing, tmp_path):
    model = DiTMoETransformer2DModel(**CONFIG, routing=routing).eval()
    model.load_state_dict(loaded[False][1].state_dict())
    model.save_pretrained(tmp_path)
    again = DiTMoETransformer2DModel.from_pretrained(tmp_path)
    assert torch.equal(again(*inputs()).sample, model(*inputs()).sample)
    assert torch.equal(again(*inputs()).sample, model(*inputs(), routing=routing).sample)
    assert again.routing == routing


@torch.no_grad()
def test_routed_is_the_argument_and_is_undone(model):
    plain, worst = model(*inputs()).sample, model(*inputs(), routing="worst").sample
    with routed(model, "worst"):
        assert torch.equal(model(*inputs()).sample, worst)
        with routed(model, (1, 3)):
            assert model.routing == (1, 3)
            assert torch.equal(model(*inputs(), routing="best").sample, plain)
        assert model.routing == "worst"
    assert model.routing == "best"
    assert torch.equal(model(*inputs()).sample, plain)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_routed_is_undone_after_an_error(model, error):
    with pytest.raises(error), routed(model, "worst"):
        raise error
    assert model.routing == "best"


@pytest.mark.parametrize(
    "routing",
    ["Best", "median", (3, 3), (2, 1), (-1, 2), (3, 6), (0.0, 2), (True, 2), (1,), (0, 1, 2), slice(0, 2), 2],
    ids=repr,
)
def test_other_routings_are_refused(model, routing):
    says = r'`routing` has to be "best", "worst" or a slice .* 0 <= start < stop <= 5, but is '
    with pytest.raises(ValueError, match=says) as error:
        model(*inputs(), routing=routing)
    assert repr(routing) in str(error.value)
    with pytest.raises(ValueError, match=says), routed(model, routing):
        raise AssertionError
    with pytest.raises(ValueError, match=says):
        model.routing = routing
    with pytest.raises(ValueError, match=says):
        DiTMoETransformer2DModel(**CONFIG, routing=routing)
    assert model.routing == "best"


def test_other_inputs_and_configurations_are_refused(model):
    latents, timesteps, labels = inputs()
    with pytest.raises(ValueError, match=r"`hidden_states` has to be \(batch, 4, 8, 8\), but is \(3, 4, 8, 6\)"):
        model(latents[..., :6], timesteps, labels)
    with pytest.raises(ValueError, match=r"`class_labels` has to be \(3,\).* but is \(2,\)"):
        model(latents, timesteps, labels[:2])
    with pytest.raises(ValueError, match=r"`class_labels` have to be from 0 to 1000.*but are \[207, 1001, 0\]"):
        model(latents, timesteps, torch.tensor([207, 1001, 0]))
    with pytest.raises(ValueError, match="`patch_size` has to divide `sample_size`, which is 8, but is 3"):
        DiTMoETransformer2DModel(**CONFIG, patch_size=3)
    with pytest.raises(ValueError, match="`num_experts_per_tok` has to be from 1 to 5, .*but is 6"):
        DiTMoETransformer2DModel(**{**CONFIG, "num_experts_per_tok": 6})


@torch.no_grad()
def test_untrained_blocks_are_the_identity():
    model = DiTMoETransformer2DModel(**CONFIG)
    x, c = torch.randn(2, 3, WIDTH), torch.randn(2, WIDTH)
    assert torch.equal(model.blocks[0](x, c, (0, 2)), x)
    assert not model(*inputs()).sample.any()


def test_gradients_reach_the_router_and_the_experts_that_run():
    moe = SparseMoE(WIDTH, WIDTH, EXPERTS, WIDTH)
    moe(torch.randn(1, 1, WIDTH), (0, 2)).sum().backward()
    assert moe.gate.weight.grad.any()
    assert sum(expert.net[2].weight.grad is not None for expert in moe.experts) == 2


@pytest.mark.parametrize(
    "name, billions", [("S/2-8E2A", 0.199), ("B/2-8E2A", 0.795), ("XL/2-8E2A", 4.1), ("G/2-16E2A", 16.5)]
)
def test_published_models_have_as_many_parameters_as_in_table_1(name, billions):
    def count(layers):
        with init_empty_weights():
            model = DiTMoETransformer2DModel(**{**PUBLISHED[name], "num_layers": layers})
        return sum(parameter.numel() for parameter in model.parameters())

    layers = PUBLISHED[name].get("num_layers", 12)
    parameters = count(1) + (layers - 1) * (count(2) - count(1))  # all blocks of the largest take long to set up
    assert parameters / 1e9 == pytest.approx(billions, rel=0.02)


def test_half_precision_stays_so(save):
    model = load_published(save({name: tensor.half() for name, tensor in checkpoint().items()}), **CONFIG)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    latents, timesteps, labels = inputs()
    with torch.no_grad():
        sample = model.to(torch.bfloat16)(latents.bfloat16(), timesteps, labels).sample
    assert sample.dtype == torch.bfloat16 and sample.isfinite().all()


def pipeline(model):
    scheduler = DDIMScheduler(beta_schedule="linear", clip_sample=False)
    pipe = DiTPipeline(model, vae(), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_in_dit_pipeline_it_is_ddim_written_out(model, guidance):
    pipe = pipeline(model)

    def call():
        generator = torch.Generator().manual_seed(0)
        images = pipe([207, 5], guidance, generator, num_inference_steps=3, output_type="np").images
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    x = torch.randn(2, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    alphas = (1 - torch.linspace(1e-4, 2e-2, 1000)).cumprod(0)
    for t, alpha_s in ((666, alphas[333]), (333, alphas[0]), (0, torch.tensor(1.0))):
        cond, uncond = (model(x, t, torch.tensor(labels)).sample[:, :CHANNELS] for labels in ([207, 5], [1000, 1000]))
        eps = uncond + guidance * (cond - uncond)
        z = (x - (1 - alphas[t]) ** 0.5 * eps) / alphas[t] ** 0.5
        x = alpha_s**0.5 * z + (1 - alpha_s) ** 0.5 * eps
    expected = (pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    best = call()
    assert best.shape == (2, 3, 2 * SIZE, 2 * SIZE)
    assert largest(best, expected) < 1e-3
    with routed(model, "worst"):
        assert largest(call(), best) > 1e-3
    assert torch.equal(call(), best)


@torch.no_grad()
def test_a_saved_pipeline_brings_it_back(model, tmp_path):
    pipeline(model).save_pretrained(tmp_path)
    again = DiTPipeline.from_pretrained(tmp_path).transformer
    assert type(again) is DiTMoETransformer2DModel
    assert torch.equal(again(*inputs()).sample, model(*inputs()).sample)


@torch.no_grad()
@pytest.mark.parametrize("wrap", ["safetensors", "plain", "model", "ema"])
def test_checkpoints_load_however_they_are_wrapped(loaded, save, wrap):
    state, model = loaded[False]
    if wrap == "safetensors":
        path = save(state, "dit_moe.safetensors")
    else:
        other = {"model": checkpoint(seed=7), "opt": {"lr": 1e-4}} if wrap == "ema" else {}
        path = save(state if wrap == "plain" else {**other, wrap: state})
    again = load_published(path, **CONFIG)
    assert not again.training
    assert torch.equal(again(*inputs()).sample, model(*inputs()).sample)


WRONG = {
    "missing": (
        lambda s: s.pop("blocks.1.moe.gate.weight"),
        r"1 weights .*blocks.1.moe.gate.weight first: it is missing",
    ),
    "extra": (
        lambda s: s.update(head=torch.ones(2)),
        r"1 weights .*head first: it is \(2,\), where the model has none",
    ),
    "shape": (
        lambda s: s.update({"blocks.0.attn.qkv.bias": torch.ones(47)}),
        r"blocks.0.attn.qkv.bias first: it is \(47,\), where the model has \(48,\)",
    ),
    "expert": (
        lambda s: s.update({"blocks.0.moe.experts.3.up_proj.weight": torch.ones(63, 16)}),
        r"blocks.0.moe.experts.3.up_proj.weight first: it is \(63, 16\), where the model has \(64, 16\)",
    ),
    "positions": (lambda s: s.update(pos_embed=torch.ones(1, 16, WIDTH)), r"has a pos_embed that is not the fixed"),
}


@pytest.mark.parametrize("change, says", WRONG.values(), ids=WRONG)
def test_the_first_weight_that_does_not_fit_is_named(save, change, says):
    state = checkpoint()
    change(state)
    with pytest.raises(WeightsError, match=says) as error:
        load_published(save(state), **CONFIG)
    assert "weights.pt" in str(error.value)


def test_another_architecture_is_refused(save):
    with pytest.raises(WeightsError, match=r"24 weights .*blocks.0.attn.q_norm.weight first: it is missing"):
        load_published(save(checkpoint()), **CONFIG, qk_norm=True)


def test_files_that_are_not_tensors_are_refused(save, tmp_path):
    with pytest.raises(WeightsNotFound, match=r"path: .*none.pt' is not a file. Accepted: .*safetensors"):
        load_published(tmp_path / "none.pt")
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"path: .*weights.bin' is damaged: the file is empty"):
        load_published(tmp_path / "weights.bin")
    for name in ("cut.pt", "cut.safetensors"):
        whole = save(checkpoint(), name)
        whole.write_bytes(whole.read_bytes()[:1000])
        with pytest.raises(WeightsError, match=rf"path: .*{name}' is damaged"):
            load_published(whole, **CONFIG)
    with pytest.raises(WeightsError, match="is damaged, or holds Python objects beside tensors"):
        load_published(save({"ema": checkpoint(), "args": Namespace(model="DiT-S/2")}), **CONFIG)
    with pytest.raises(WeightsError, match="holds no tensors by name"):
        load_published(save({"steps": 5}), **CONFIG)


# The pipeline: see test_families.py for what every family has to hold


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    ("main", "strong", "weak"), [(1.5, 1.0, 1.0), (1.5, 1.5, 0.0), (4.0, -1.0, 2.0), (1.0, 1.0, 1.0)]
)
def test_w2sd_with_the_worst_experts_is_algorithm_1(main, strong, weak):
    pipe = CLASSES.pipeline(weak=False)
    numbers = {"guidance_scale": main, "strong_guidance_scale": strong, "weak_guidance_scale": weak}
    ours = CLASSES(pipe, **numbers, weak_routing="worst")
    literal = Literal(
        CLASSES, pipe, main=main, strong=strong, weak=weak, weak_on=lambda: routed(pipe.transformer, "worst")
    )
    assert largest(ours, literal.run(CLASSES.latents(), algorithm_1)) < 1e-9
    assert pipe.transformer.routing == "best"
    branches = {1: 1, 0: 1}
    expected = {"strong": 3 * branches.get(strong, 2) + 4 * branches.get(main, 2), "weak": 3 * branches.get(weak, 2)}
    assert pipe.evaluations == {**expected, "total": sum(expected.values())}


def test_the_pipeline_refuses_what_it_cannot_do():
    pipe = CLASSES.pipeline()
    with pytest.raises(ValueError, match="a guidance of 0 needs the unconditional branch, which DiTPipeline evaluates"):
        CLASSES(pipe, guidance_scale=1.0, weak_guidance_scale=0.0)
    with pytest.raises(ValueError, match=r'`routing` has to be "best", "worst" or a slice'):
        CLASSES(pipe, weak_routing="bad")
    with pytest.raises(ValueError, match="`weak_prompt` is no argument of W2SDDiTMoEPipeline"):
        CLASSES(pipe, weak_prompt="a cat")


@pytest.mark.slow
def test_a_published_checkpoint_is_run_from_where_the_hub_keeps_it(tmp_path, monkeypatch):
    """The preset as it is, but for the size of the networks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = ["image", "207", "--preset", "dit-moe-s", "--steps", 3, "--dtype", "float32", "--device", "cpu"]

    def cached(repository):
        folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("1" * 40)
        (folder / "snapshots" / ("1" * 40)).mkdir(parents=True)
        return folder / "snapshots" / ("1" * 40)

    assert "hf download stabilityai/sd-vae-ft-mse --include" in run(*asked, code=2)
    vae().save_pretrained(cached("stabilityai/sd-vae-ft-mse"))
    assert 'hf download feizhengcong/DiT-MoE --include "dit_moe_s_8E2A.pt"' in run(*asked, code=2)
    published = cached("feizhengcong/DiT-MoE") / "dit_moe_s_8E2A.pt"
    torch.save(checkpoint(), published)
    assert "weights that do not fit" in run(*asked, code=2)  # S/2 is larger
    monkeypatch.setitem(PUBLISHED, "S/2-8E2A", CONFIG)
    refused = (
        "preset dit-moe-s: its height (--height replaces it): 256 is not accepted; the model makes pictures of 16x16"
    )
    assert refused in run(*asked, code=2)
    run(*asked, "--size", 16)
    pipe = W2SDDiTMoEPipeline.from_pretrained("feizhengcong/DiT-MoE/dit_moe_s_8E2A.pt", vae=vae())
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler(clip_sample=False)
    numbers = {"guidance_scale": 1.5, "strong_guidance_scale": 1.0, "num_inference_steps": 3}
    generator = torch.Generator().manual_seed(0)
    made = pipe([207], **numbers, weak_routing="worst", generator=generator, output_type="np").images[0]
    written = np.asarray(Image.open("outputs/207-seed0.png"))
    assert np.array_equal(written, (made * 255).round().astype("uint8"))
    with pytest.raises(ValueError, match=f"`vae` is None, and {str(published)!r} has none"):
        W2SDDiTMoEPipeline.from_pretrained(published)
    pipeline(load_published(published)).save_pretrained(tmp_path / "folder")
    for strong, weak, name in (
        (published, tmp_path / "folder", "dtype"),
        (tmp_path / "folder", published, "torch_dtype"),
    ):
        half = W2SDDiTMoEPipeline.from_pretrained(strong, weak=weak, vae=vae(), **{name: torch.float16})
        assert half.transformer.dtype == half.weak_transformer.dtype == torch.float16
        pair = W2SDDiTMoEPipeline.from_pretrained(strong, weak=weak, vae=vae())
        theirs, ours = (net.state_dict() for net in (pair.weak_transformer, pair.transformer))
        assert pair.weak_transformer is not pair.transformer
        assert all(torch.equal(theirs[name], ours[name]) for name in ours)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_checkpoint_says_by_its_width_which_model_it_is(name, save, monkeypatch):
    """That of the model's own blocks is asked for, where there are none."""
    width = PUBLISHED[name].get("num_attention_heads", 6) * PUBLISHED[name].get("attention_head_dim", 64)
    monkeypatch.setitem(PUBLISHED, name, {**PUBLISHED[name], "num_layers": 1})  # all blocks take long to set up
    state = {"x_embedder.proj.weight": torch.ones(width, CHANNELS, PATCH, PATCH)}
    with pytest.raises(
        WeightsError, match=r"weights that do not fit, pos_embed first: .* has \(1, \d+, (\d+)\)"
    ) as error:
        load_published(save(state))
    assert f", {width})" in str(error.value)
