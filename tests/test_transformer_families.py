"""The families of transformers: off, the stock pipeline; on, Algorithm 1 by hand; weak arms of another size."""

from __future__ import annotations

import functools
import inspect
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import any_cases
import diffusers
import pytest
import tiny
import torch
import transformers
from any_pipeline import CASES, Case, algorithm_1, draw, network, sample, seeded
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from families import add_lora
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from w2sd_video import arms, pipelines
from w2sd_video.errors import WeightsError, WeightsNotFound
from w2sd_video.methods import METHODS

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@dataclass(frozen=True)
class Family:
    """A family at a tiny size.

    Args:
        case: its case in `CASES`.
        kind, config: of its transformer.
        larger: what is another in the weak arm's transformer, which is larger.
    """

    case: str
    kind: str
    config: dict[str, Any]
    larger: dict[str, Any]

    @property
    def name(self) -> str:
        return "W2SD" + self.case.partition(",")[0]

    def __str__(self) -> str:
        return self.name.removeprefix("W2SD").removesuffix("Pipeline")

    @property
    def cls(self) -> Any:
        return getattr(pipelines, self.name)

    def weak(self, seed: int = 1, **config: Any) -> Any:
        return network(self.kind, **{**self.config, **self.larger, **config})(seed)

    def pipeline(self, weak: Any = None, **parts: Any) -> Any:
        stock = CASES[self.case].build(0)
        return quiet(self.cls(**{**stock.components, **_config(stock), "weak_transformer": weak, **parts}))

    def of(self, pipe: Any, **call: Any) -> Case:
        """Its case, called with more arguments."""
        case = CASES[self.case]
        return replace(case, build=lambda seed: pipe, call=lambda pipe: {**case.call(pipe), **call})


def _config(stock: Any) -> dict[str, Any]:
    """What a stock pipeline is built with that is no component."""
    names = inspect.signature(type(stock).__init__).parameters.keys() & stock.config.keys()
    return {name: stock.config[name] for name in names - stock.components.keys()}


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _config_of(case: str) -> dict[str, Any]:
    """The configuration of a case's transformer."""
    config = dict(CASES[case].build(0).transformer.config)
    return {key: value for key, value in config.items() if not key.startswith("_")}


HEADS = {"num_attention_heads": 4}
TWO = {"num_layers": 2}


def family(case: str, larger: dict[str, Any]) -> Family:
    built = CASES[case].build(0).transformer
    return Family(case, type(built).__name__, _config_of(case), larger)


LARGER: dict[str, dict[str, Any]] = {
    "WanPipeline": {"num_attention_heads": 3, "ffn_dim": 24, **TWO},
    "StableDiffusion3Pipeline": {"num_attention_heads": 4, "caption_projection_dim": 32, **TWO},
    "FluxPipeline": HEADS | TWO,
    "LTXPipeline": {"num_attention_heads": 4, "cross_attention_dim": 32, **TWO},
    "CogVideoXPipeline": HEADS | TWO,
    "WanImageToVideoPipeline": {"num_attention_heads": 3, **TWO},
    "LTXImageToVideoPipeline": {"num_attention_heads": 4, "cross_attention_dim": 32, **TWO},
    "CogVideoXImageToVideoPipeline": HEADS | TWO,
    "HunyuanVideoPipeline": HEADS | TWO,
    "HunyuanVideo15Pipeline": HEADS | TWO,
    "MochiPipeline": HEADS | TWO,
    "QwenImagePipeline": HEADS | TWO,
    "SanaPipeline": {"num_attention_heads": 4, "num_cross_attention_heads": 4, "cross_attention_dim": 32, **TWO},
}
FAST = ("WanPipeline", "StableDiffusion3Pipeline", "FluxPipeline")
each_family = pytest.mark.parametrize("case", LARGER)
fast_are = pytest.mark.slow_unless(case=lambda case: case in FAST)


def near(x: Tensor, y: Tensor) -> bool:
    return bool((x - y).abs().max() < 1e-5 * y.abs().max())


def arms_of(reflection: tuple[float, float]) -> dict[str, float]:
    return dict(zip(("strong_guidance_scale", "weak_guidance_scale"), reflection, strict=True))


def counted(module: nn.Module, rows: list[int]) -> None:
    """Adds the rows of a network's every call to a list."""

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        rows.append(len(x))

    module.register_forward_pre_hook(hook, with_kwargs=True)


@each_family
@fast_are
def test_off_is_the_parent_and_on_is_algorithm_1_with_a_weak_arm_of_another_size(case):
    """The weak transformer has more layers and heads; evaluations are counted at the networks."""
    of = family(case, LARGER[case])
    weak = of.weak()
    assert sum(p.numel() for p in weak.parameters()) > sum(p.numel() for p in of.weak(**of.config).parameters())
    pipe, stock, plain = of.pipeline(weak), CASES[case].build(0), CASES[case]
    expected = sample(stock, plain)[1]
    off = sample(pipe, of.of(pipe, method=None))[1]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(off, expected, strict=True))
    expected, _, _ = algorithm_1(plain, stock, weak)
    strong_rows: list[int] = []
    weak_rows: list[int] = []
    counted(_inner(pipe.transformer), strong_rows)
    counted(_inner(weak), weak_rows)
    ours = sample(pipe, of.of(pipe, **arms_of(plain.reflection)))[1][-1]
    assert near(plain.chosen(ours), plain.chosen(expected))
    branches = 1 if plain.w is None else 2
    counts = {"strong": branches * (2 * (plain.steps - 1) + 1), "weak": plain.steps - 1}
    assert pipe.evaluations == counts | {"total": sum(counts.values())}
    assert (sum(strong_rows), sum(weak_rows)) == (counts["strong"], counts["weak"])


def _inner(transformer: nn.Module) -> nn.Module:
    """A part of a transformer that every evaluation goes through once, whatever wraps the whole."""
    return next(module for name, module in transformer.named_modules() if name in ("proj_out", "proj_out.linear"))


WAN, SD3, FLUX = (family(case, LARGER[case]) for case in FAST)


def texts_of(case: str, pipe: Any, seed: int = 50) -> dict[str, Tensor]:
    """Other embeddings than a case's own, as the weak arm's, by the call's names."""
    told = {name: each for name, each in CASES[case].call(pipe).items() if torch.is_tensor(each) and "prompt" in name}
    kept = [name for name in told if not name.endswith("mask") and "mask_" not in name]
    return {name: draw(*told[name].shape, seed=seed + i) if name in kept else told[name] for i, name in enumerate(told)}


@pytest.mark.slow
@each_family
@fast_are
def test_the_weak_arm_is_told_its_own_prompt_and_guidance(case):
    """Equal to a run by hand in which the weak network is the strong one told these embeddings in the place of its."""
    of, plain = family(case, LARGER[case]), CASES[case]
    pipe, stock = of.pipeline(), plain.build(0)
    texts = texts_of(case, pipe)
    ours = sample(pipe, of.of(pipe, **arms_of(plain.reflection), **{f"weak_{name}": t for name, t in texts.items()}))
    replaced = replace(plain, call=lambda pipe: {**plain.call(pipe), **texts})
    inputs = calls(plain, stock), calls(replaced, plain.build(0))
    expected, _, _ = algorithm_1(plain, stock, Told(stock.transformer, *inputs))
    assert near(plain.chosen(ours[1][-1]), plain.chosen(expected))
    assert not near(plain.chosen(ours[1][-1]), plain.chosen(sample(of.pipeline(), of.of(pipe))[1][-1]))


def calls(case: Case, pipe: Any) -> list[dict[str, Any]]:
    """What a pipeline tells its network in the calls of its first step."""
    told: list[dict[str, Any]] = []
    first: list[int] = []

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        if not first:
            told.append(kwargs)

    handle = pipe.transformer.register_forward_pre_hook(keep, with_kwargs=True)
    sample(pipe, case, lambda: first.append(1))
    handle.remove()
    return told


class Told:
    """A network that is told other texts: those of `others`, where it is told the texts of `own`."""

    def __init__(self, network: nn.Module, own: list[dict[str, Any]], others: list[dict[str, Any]]):
        self.network, self.pairs = network, list(zip(own, others, strict=True))

    def __call__(self, **inputs: Any) -> Any:
        names = [name for name in inputs if name.startswith(("encoder_", "pooled_"))]
        for own, other in self.pairs:
            if all(_same(own[name], inputs[name]) for name in names):
                return self.network(**{**inputs, **{name: other[name] for name in names}})
        raise AssertionError("the texts of the plain call are not among the inputs")


def _same(x: Any, y: Any) -> bool:
    return x is y if not torch.is_tensor(x) or not torch.is_tensor(y) else x.shape == y.shape and torch.equal(x, y)


def two_experts(pipe: Any, weaks: tuple[Any, Any], *guidances: tuple[float, float]) -> Tensor:
    """Algorithm 1 by hand over both experts of Wan, whose final steps have guidance 3 and 2.

    Args:
        weaks: each expert's weak network.
        guidances: of each expert, the strong and the weak arm's in the reflection; one pair is of both.
    """
    case, x = CASES["WanPipeline"], torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    told = case.call(pipe)
    for i, t in enumerate(pipe.scheduler.timesteps):
        at = int(t < 900)
        strong, (strong_w, weak_w) = (pipe.transformer, pipe.transformer_2)[at], guidances[at % len(guidances)]

        def u(network: Any, x: Tensor, w: float, t: Tensor = t) -> Tensor:
            prompts = (told[f"{sign}prompt_embeds"] for sign in ("negative_", ""))
            with torch.no_grad():
                uncond, cond = (network(x, t.expand(1), prompt, return_dict=False)[0] for prompt in prompts)
            return uncond + w * (cond - uncond)

        h = pipe.scheduler.sigmas[i + 1] - pipe.scheduler.sigmas[i]
        x_s = x + h * u(strong, x, strong_w)
        x = x_s - h * u(weaks[at], x_s, weak_w)
        x = x + h * u(strong, x, (3.0, 2.0)[at])
    return x


def test_two_experts_are_each_reflected_by_their_own_weak_one_or_by_themselves():
    parts = {"transformer_2": any_cases.wan(2), "boundary_ratio": 0.9}
    weak, second = WAN.weak(5), WAN.weak(6)
    pipe = WAN.pipeline(weak, weak_transformer_2=second, **parts)
    both = sample(pipe, WAN.of(pipe, guidance_scale_2=2.0, strong_guidance_scale=2.0, reflection_steps=4))[1][-1]
    assert pipe.evaluations == {"strong": 16, "weak": 4, "total": 20}
    assert near(both, two_experts(pipe, (weak, second), (2.0, 1.0)))
    pipe = WAN.pipeline(weak, **parts)  # the second expert is its own weak arm
    one = sample(pipe, WAN.of(pipe, guidance_scale_2=2.0, strong_guidance_scale=2.0, reflection_steps=4))[1][-1]
    assert near(one, two_experts(pipe, (weak, pipe.transformer_2), (2.0, 1.0))) and not near(one, both)


def test_a_lora_of_the_strong_arm_has_another_scale_in_the_weak_arm():
    """As a weak network with that LoRA at that scale; of two experts, in both."""
    pipe = WAN.pipeline()
    add_lora(pipe.transformer)
    stock, plain = CASES["WanPipeline"].build(0), CASES["WanPipeline"]
    weak = CASES["WanPipeline"].build(0).transformer
    for network_ in (stock.transformer, weak):
        add_lora(network_)
    for _, _, value in (settings := arms.adapter_scales(weak, {"style": -1.5})):
        assert value == -1.5
    with arms.switched(settings):
        expected, _, _ = algorithm_1(plain, stock, weak)
    ours = sample(pipe, WAN.of(pipe, strong_guidance_scale=2.0, weak_adapter_scales={"style": -1.5}))[1][-1]
    assert near(ours, expected)
    with pytest.raises(ValueError, match="`weak_adapter_scales` names 'other', which is no active LoRA of `transf"):
        sample(pipe, WAN.of(pipe, weak_adapter_scales={"other": 1.0}))


@pytest.mark.parametrize("case", ["FluxPipeline", "HunyuanVideoPipeline"])
def test_an_arm_embeds_its_own_guidance(case):
    """Without a negative prompt nothing but the embedded number tells the arms apart: three evaluations a step."""
    of = family(f"{case}, with embedded guidance alone", {})
    pipe = of.pipeline()
    heard: list[float] = []
    unit = {"FluxPipeline": 1.0, "HunyuanVideoPipeline": 1000.0}[case]
    forward = pipe.transformer.time_text_embed.forward

    def hearing(*args: Any, **kwargs: Any) -> Any:
        heard.append(float(next(each for each in args[1:] if each.ndim == 1)) / unit)
        return forward(*args, **kwargs)

    pipe.transformer.time_text_embed.forward = hearing
    told = {"guidance_scale": 6.0, "strong_embedded_guidance": 9.0, "weak_embedded_guidance": 1.5}
    for method in ("w2sd", "z_sampling"):
        heard.clear()
        sample(pipe, replace(of.of(pipe, method=method, reflection_steps=1, **told), steps=2))
        assert [round(each, 3) for each in heard] in ([9.0, 1.5, 6.0, 6.0], [9000.0, 1500.0, 6000.0, 6000.0])
        assert pipe.evaluations == {"strong": 3, "weak": 1, "total": 4}
    with pytest.raises(ValueError, match="`strong_embedded_guidance` is given, but APG has no guidance of the"):
        sample(pipe, of.of(pipe, method="apg", strong_embedded_guidance=9.0))
    with pytest.raises(ValueError, match="`weak_embedded_guidance` is no argument of W2SDWanPipeline"):
        sample(WAN.pipeline(), WAN.of(None, weak_embedded_guidance=1.0))
    with pytest.raises(ValueError, match="a guidance of 0 needs the unconditional branch.*a `true_cfg_scale` over 1"):
        sample(pipe, of.of(pipe, weak_guidance_scale=0.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", ["FluxPipeline", "HunyuanVideoPipeline"])
def test_an_arm_is_told_its_embedded_guidance_as_the_pipeline_would_tell_it(case, dtype):
    """HunyuanVideo computes 1000 times the number in bfloat16, which has 6016 for 6000, and 1000 itself."""
    of = family(f"{case}, with embedded guidance alone", {})
    pipe = of.pipeline().to(dtype)
    told: list[float] = []

    inside = pipe.transformer.forward

    def forward(*args: Any, **inputs: Any) -> Any:
        told.append(float(inputs["guidance"]))
        return inside(*args, **inputs)

    pipe.transformer.forward = functools.wraps(inside)(forward)

    def numbers(**call: Any) -> list[float]:
        told.clear()
        prompts = {
            n: t.to(dtype) for n, t in CASES[of.case].call(pipe).items() if torch.is_tensor(t) and t.is_floating_point()
        }
        sample(pipe, replace(of.of(pipe, **prompts, **call), steps=2))
        return list(told)

    apart = numbers(guidance_scale=6.0, strong_embedded_guidance=9.3, weak_embedded_guidance=1.0, reflection_steps=1)
    alone = [numbers(guidance_scale=number, method=None)[0] for number in (9.3, 1.0, 6.0)]
    assert apart == [*alone, alone[2]]


@pytest.mark.parametrize("method", ["w2sd", None])
def test_a_misspelled_argument_is_refused_where_the_stock_call_refuses_it_without_a_hint(method):
    says = "`weak_guidance` is no argument of W2SDWanPipeline; did you mean 'weak_guidance_scale'"
    with pytest.raises(TypeError, match=says):
        sample(WAN.pipeline(), WAN.of(None, method=method, weak_guidance=1.0))


def test_a_weak_network_that_embeds_no_guidance_is_told_none():
    """As FLUX schnell beside FLUX dev; the other way round the pipeline has no number to tell it."""
    plain = FLUX.weak(guidance_embeds=False)
    of = family("FluxPipeline, with embedded guidance alone", {})
    pipe = of.pipeline(plain)
    sample(pipe, of.of(pipe))
    assert pipe.evaluations["weak"] == 3
    with pytest.raises(ValueError, match="`weak_transformer` embeds its guidance.*Accepted: a `weak` network that"):
        pipe = of.pipeline(FLUX.weak(), transformer=network(of.kind, **{**of.config, "guidance_embeds": False})(0))
        sample(pipe, of.of(pipe))


@pytest.mark.parametrize(("main", "strong", "weak"), [(1.0, 2.0, 0.0), (0.5, 1.0, 1.0), (0.0, 1.0, -1.0)])
def test_guidance_up_to_1_runs_the_unconditional_branch_where_the_pipeline_can(main, strong, weak):
    plain = replace(CASES["WanPipeline"], w=main, reflection=(strong, weak))
    pipe, stock, other = WAN.pipeline(w := WAN.weak()), CASES["WanPipeline"].build(0), w
    ours = sample(pipe, WAN.of(pipe, guidance_scale=main, **arms_of((strong, weak))))[1][-1]
    expected, _, _ = algorithm_1(plain, stock, other)
    assert near(ours, expected)


@pytest.mark.parametrize("case, terminal", [("MochiPipeline", None), ("LTXPipeline", 0.1)])
@pytest.mark.parametrize("method", [None, "w2sd"])
def test_one_step_is_refused_where_diffusers_has_no_schedule_of_one(case, terminal, method):
    of = family(case, LARGER[case])
    config = {} if terminal is None else {"shift_terminal": terminal}
    pipe = of.pipeline(scheduler=FlowMatchEulerDiscreteScheduler(**config, invert_sigmas=case == "MochiPipeline"))
    call = of.of(pipe, output_type="latent").call(pipe)
    with pytest.raises(ValueError, match="`num_inference_steps` has to be a whole number from 2, but is 1"):
        pipe(**{**call, "num_inference_steps": 1}, method=method)
    pipe(**{**call, "num_inference_steps": 2}, method=method)


def test_guidance_that_a_pipeline_has_no_branch_for_is_refused_by_name():
    cog = family("CogVideoXPipeline", {})
    pipe = cog.pipeline()
    with pytest.raises(ValueError, match="a guidance of 2 needs the unconditional branch, which CogVideoXPipeline"):
        sample(pipe, cog.of(pipe, guidance_scale=1.0, strong_guidance_scale=2.0))
    sample(pipe, cog.of(pipe, guidance_scale=1.0, strong_guidance_scale=1.0))
    assert pipe.evaluations == {"strong": 7, "weak": 3, "total": 10}


def test_arms_that_do_not_see_the_same_are_refused():
    for config, says in (
        ({"in_channels": 5}, "`weak_transformer` has in_channels 5, and `transformer` 4"),
        ({"text_dim": 9}, "`weak_transformer` has text_dim 9, and `transformer` 8"),
        ({"patch_size": (1, 1, 1)}, r"`weak_transformer` has patch_size \[1, 1, 1\], and `transformer` \[1, 2, 2\]"),
    ):
        pipe = WAN.pipeline(WAN.weak(**config))
        with pytest.raises(ValueError, match=says.replace(r"\[", r"[\[(]").replace(r"\]", r"[\])]")):
            sample(pipe, WAN.of(pipe))
    with pytest.raises(ValueError, match="W2SDFluxPipeline takes no IP-Adapter"):
        FLUX.pipeline().load_ip_adapter("x")


def words(vocabulary: str = "a cat dog") -> PreTrainedTokenizerFast:
    """A tokenizer of whole words."""
    tokens = ["<pad>", "</s>", "<unk>", *vocabulary.split()]
    model = WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>")
    fast = Tokenizer(model)
    fast.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=fast, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def t5(kind: str = "T5", seed: int = 3) -> Any:
    settings = dict(vocab_size=8, d_model=any_cases.TEXT, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    config = getattr(transformers, f"{kind}Config")(**settings)
    return tiny.seeded(seed, lambda: getattr(transformers, f"{kind}EncoderModel")(config)).eval()


def textual(case: str) -> dict[str, Any]:
    """Components of a family that encode texts, and decode."""
    if case == "WanPipeline":
        return {"text_encoder": t5("UMT5"), "tokenizer": words(), "vae": any_cases.wan_vae()}
    first, second = tiny.text_encoders()
    if case == "FluxPipeline":
        vae = tiny.vae().config
        vae = seeded(2, lambda: AutoencoderKL(**{**vae, "shift_factor": 0.1, "scaling_factor": 0.5}))
        clip = {"text_encoder": first, "tokenizer": tiny.tokenizer()}
        return {**clip, "text_encoder_2": t5(), "tokenizer_2": words(), "vae": vae}
    return {"text_encoder": t5(), "tokenizer": words(), "vae": any_cases.ltx_vae()}


CALLS: dict[str, dict[str, Any]] = {
    "WanPipeline": {**any_cases.VIDEO, "guidance_scale": 3.0},
    "FluxPipeline": {**any_cases.IMAGE, "true_cfg_scale": 3.0},
    "LTXPipeline": {"height": 64, "width": 64, "num_frames": 17, "guidance_scale": 3.0},
}


def made(pipe: Any, case: str, **more: Any) -> Tensor:
    told = {"prompt": "a cat", "negative_prompt": "dog", "num_inference_steps": 3, "output_type": "latent"}
    told |= {"generator": torch.Generator().manual_seed(0), "max_sequence_length": 8}
    return pipe(**told, **CALLS[case], **more)[0]


@pytest.mark.slow
@pytest.mark.parametrize("case", CALLS)
@fast_are
def test_a_weak_prompt_is_encoded_as_the_stock_pipeline_encodes_it_and_a_saved_pair_makes_the_same(case, tmp_path):
    of = family(case, LARGER[case])
    pipe = of.pipeline(of.weak(), **textual(case))
    ours = made(pipe, case, weak_prompt="a dog", weak_negative_prompt="cat", weak_guidance_scale=2.0)
    stock = CASES[case].build(0)
    stock = quiet(type(stock)(**{**stock.components, **textual(case), **_config(stock)}))
    with torch.no_grad():
        if "negative_prompt" in inspect.signature(stock.encode_prompt).parameters:
            out = stock.encode_prompt("a dog", negative_prompt="cat", max_sequence_length=8)
            names = of.cls.encoded
        else:
            out = [each for text in ("a dog", "cat") for each in stock.encode_prompt(text, max_sequence_length=8)]
            names = [f"{sign}{name}" for sign in ("", "negative_") for name in of.cls.encoded]
    embeds = {f"weak_{name}": each for name, each in zip(names, out, strict=True) if "text_ids" not in name}
    theirs = made(pipe, case, **embeds, weak_guidance_scale=2.0)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, made(pipe, case, weak_guidance_scale=2.0))

    pipe.save_pretrained(tmp_path / "pair")
    loaded = quiet(of.cls.from_pretrained(tmp_path / "pair"))
    told = {"weak_prompt": "a dog", "weak_negative_prompt": "cat", "weak_guidance_scale": 2.0}
    assert near(made(loaded, case, **told), ours)  # equal, but for where the tensors lie in memory
    again = quiet(of.cls.from_pretrained(tmp_path / "pair", weak=tmp_path / "pair"))  # the strong one is its weak one
    assert again.weak_transformer.config.num_layers == 1
    assert all(p is q for p, q in zip(again.transformer.parameters(), again.weak_transformer.parameters(), strict=True))


def saved(of: Family, folder: Path, transformer: Any = None, **parts: Any) -> Path:
    """A stock pipeline's folder, with a transformer of its own."""
    stock = CASES[of.case].build(0)
    given = {**stock.components, **_config(stock), "vae": any_cases.wan_vae(), **parts}
    given |= {} if transformer is None else {"transformer": transformer}
    type(stock)(**given).save_pretrained(folder)
    return folder


def with_config(module: Any, **config: Any) -> Any:
    module.register_to_config(**config)
    return module


NO_TEXT = {"text_encoder": None, "tokenizer": None}


@pytest.mark.slow
def test_of_the_weak_model_only_the_transformer_is_loaded_which_may_be_of_another_size(tmp_path):
    strong = saved(WAN, tmp_path / "strong", transformer_2=None)
    weak = saved(WAN, tmp_path / "weak", WAN.weak())
    shutil.rmtree(weak / "vae")
    pipe = quiet(WAN.cls.from_pretrained(strong, weak=weak, **NO_TEXT, torch_dtype=torch.float64))
    assert {each.dtype for each in pipe.denoisers()} == {torch.float64} and pipe.weak_transformer.config.num_layers == 2
    assert pipe.weak_text_encoder is None
    plain = quiet(WAN.cls.from_pretrained(strong, weak=WAN.weak(), **NO_TEXT))
    of_folder = quiet(WAN.cls.from_pretrained(strong, weak=weak, **NO_TEXT))
    assert near(*(sample(each, WAN.of(each))[0] for each in (plain, of_folder)))
    file = tmp_path / "one.safetensors"
    save_file({name: each.contiguous() for name, each in WAN.weak().state_dict().items()}, file)
    of_file = quiet(WAN.cls.from_pretrained(strong, weak=file, weak_config=weak, **NO_TEXT))
    assert near(*(sample(each, WAN.of(each))[0] for each in (plain, of_file)))


def test_what_two_models_disagree_in_is_named_before_any_weight_is_read(tmp_path):
    strong = saved(WAN, tmp_path / "strong")
    for name, parts, says in (
        ("text", {"transformer": WAN.weak(text_dim=9)}, "the transformer's text_dim is 8 against 9"),
        ("patch", {"transformer": WAN.weak(patch_size=(1, 1, 1))}, r"patch_size is \(1, 2, 2\) against \(1, 1, 1\)"),
        ("shift", {"scheduler": any_cases.euler(shift=5.0)}, "the flow shift is 3 against 5.*or `same_shift=False`"),
        ("noise", {"scheduler": UniPCMultistepScheduler()}, "the prediction type is flow against epsilon"),
        (
            "vae",
            {"vae": with_config(any_cases.wan_vae(), latents_mean=[1.0] * 4)},
            r"the autoencoder's latents_mean is \(0.0, .*\) against \(1.0, ",
        ),
        ("two", {"transformer_2": WAN.weak(), "boundary_ratio": 0.9}, "the second has a transformer_2, and the first"),
    ):
        weak = saved(WAN, tmp_path / name, **parts)
        for file in weak.rglob("*.safetensors"):
            file.write_bytes(b"")
        with pytest.raises(WeightsError, match=rf"strong: .*and weak: .*do not go together: .*{says}"):
            WAN.cls.from_pretrained(strong, weak=weak, **NO_TEXT)
    assert (
        WAN.cls.from_pretrained(  # the caller says what both are sampled by
            strong,
            weak=saved(WAN, tmp_path / "5", scheduler=any_cases.euler(shift=5.0)),
            scheduler=any_cases.euler(),
            **NO_TEXT,
        ).weak_transformer
        is not None
    )
    sd3 = saved(SD3, tmp_path / "sd3", vae=tiny.vae())
    for arguments, says in (
        ((sd3,), "has a SD3Transformer2DModel as its transformer. Accepted: WanTransformer3DModel"),
        ((strong, sd3), "weak: .*has a SD3Transformer2DModel as its transformer"),
        ((strong / "transformer",), "has no model_index.json"),
    ):
        with pytest.raises((WeightsError, WeightsNotFound), match=says):
            WAN.cls.from_pretrained(*arguments, **NO_TEXT)
    with pytest.raises(WeightsError, match="it has no text_encoder, tokenizer, transformer_2; give None for each"):
        WAN.cls.from_pretrained(strong)
    with pytest.raises(TypeError, match="unexpected argument 'motion_adapter'. Accepted, beside `strong` and `weak`"):
        WAN.cls.from_pretrained(strong, motion_adapter="x")


def test_cogvideox_2b_and_5b_do_not_go_together(tmp_path):
    """Their autoencoders scale by 1.15258426 and 0.7, and their noise schedules shift by 3 and 1 (published files)."""
    cog = family("CogVideoXPipeline", LARGER["CogVideoXPipeline"])

    def scheduler(shift: float) -> Any:
        return diffusers.CogVideoXDDIMScheduler(**{**any_cases.zero, "snr_shift_scale": shift})

    strong = saved(
        cog, tmp_path / "5b", vae=with_config(any_cases.cog_vae(), scaling_factor=0.7), scheduler=scheduler(1.0)
    )
    for name, of, shift, says in (
        ("2b", 1.15258426, 3.0, "the autoencoder's scaling_factor is 0.7 against 1.15258426"),
        ("shift", 0.7, 3.0, "the scheduler's snr_shift_scale is 1.0 against 3.0"),
    ):
        weak = saved(
            cog,
            tmp_path / name,
            cog.weak(),
            vae=with_config(any_cases.cog_vae(), scaling_factor=of),
            scheduler=scheduler(shift),
        )
        with pytest.raises(WeightsError, match=says):
            cog.cls.from_pretrained(strong, weak=weak, **NO_TEXT)


def test_loras_load_in_the_layouts_of_diffusers_and_of_the_makers_and_into_both_experts(tmp_path):
    """Names as Wan's own code has them, by which most of its LoRAs are shared: `self_attn.q` is `attn1.to_q`."""
    shape = WAN.pipeline().transformer.blocks[0].attn1.to_q.weight.shape
    down, up = draw(2, shape[1], seed=1), draw(shape[0], 2, seed=2)
    layouts = {
        "diffusers": "transformer.blocks.0.attn1.to_q.lora_{}.weight",
        "makers": "diffusion_model.blocks.0.self_attn.q.lora_{}.weight",
    }
    scaled = {}
    for layout, name in layouts.items():
        file = tmp_path / f"{layout}.safetensors"
        save_file({name.format("A"): down, name.format("B"): up}, file)
        pipe = WAN.pipeline(WAN.weak(), transformer_2=any_cases.wan(2), boundary_ratio=0.9)
        pipe.load_lora_weights(file, adapter_name="style")
        pipe.load_lora_weights(file, adapter_name="style", load_into_transformer_2=True)
        for network_ in (pipe.transformer, pipe.transformer_2):
            assert list(arms.adapters(network_)) == ["style"]
        assert not arms.adapters(pipe.weak_transformer)
        pipe.set_adapters("style", 0.5)
        scaled[layout] = sample(pipe, WAN.of(pipe))[0]
    assert torch.equal(*scaled.values())
    assert not near(scaled["makers"], sample(pipe, WAN.of(pipe, weak_adapter_scales=None, method=None))[0])
    save_file({"transformer.blocks.0.attn1.to_q.lora_A.weight": draw(2, 7, seed=1)}, tmp_path / "wide.safetensors")
    with pytest.raises(WeightsError, match="is made for another model: 1 of its weights have another width"):
        WAN.pipeline().load_lora_weights(tmp_path / "wide.safetensors")


def test_a_pair_follows_dtype_and_offload_and_is_afterwards_as_it_was():
    pipe = WAN.pipeline(WAN.weak())
    first = sample(pipe, WAN.of(pipe))[0]
    assert "forward" not in vars(pipe.transformer) and "step" not in vars(pipe.scheduler)
    assert torch.equal(sample(pipe, WAN.of(pipe))[0], first)
    pipe.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    assert near(sample(pipe, WAN.of(pipe))[0], first)
    with pytest.raises(ValueError, match="reads? each other's|read each other"):
        WAN.pipeline(WAN.weak()).enable_group_offload(torch.device("cpu"), offload_to_disk_path="x")
    pipe = WAN.pipeline(WAN.weak()).to(torch.float64)
    assert {each.dtype for each in pipe.denoisers()} == {torch.float64}
    again = WAN.cls.from_pipe(pipe)
    assert again.weak_transformer is pipe.weak_transformer


@pytest.mark.slow
def test_hub_repositories_are_read_from_their_cache_and_what_is_missing_is_said(tmp_path):
    strong = saved(WAN, tmp_path / "strong", **textual("WanPipeline"))
    weak = saved(WAN, tmp_path / "weak", WAN.weak(), **textual("WanPipeline"))
    for part in ("vae", "text_encoder"):
        shutil.rmtree(weak / part)
    for name in ("strong", "weak"):
        cached = tmp_path / "hub" / f"models--me--{name}"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text("0" * 40)
        shutil.copytree(tmp_path / name, cached / "snapshots" / ("0" * 40))
    options = {"cache_dir": tmp_path / "hub", "local_files_only": True}
    pipe = quiet(WAN.cls.from_pretrained("me/strong", weak="me/weak", **options))
    of_folders = quiet(WAN.cls.from_pretrained(strong, weak=weak))
    assert near(made(pipe, "WanPipeline"), made(of_folders, "WanPipeline"))
    with pytest.raises(WeightsNotFound, match=r'(?s)weak: .me/other.*--include "transformer\*/\*.json"'):
        WAN.cls.from_pretrained("me/strong", weak="me/other", **options)


def test_a_weak_model_of_one_transformer_is_the_weak_arm_of_both_experts(tmp_path):
    two = saved(WAN, tmp_path / "two", transformer_2=any_cases.wan(2), boundary_ratio=0.9)
    one = saved(WAN, tmp_path / "one", WAN.weak())
    pipe = quiet(WAN.cls.from_pretrained(two, weak=one, **NO_TEXT))
    assert pipe.weak_transformer is pipe.weak_transformer_2 and pipe.config.boundary_ratio == 0.9
    sample(pipe, WAN.of(pipe, reflection_steps=4))
    assert pipe.evaluations == {"strong": 16, "weak": 4, "total": 20}
    own = quiet(WAN.cls.from_pretrained(two, weak={"transformer_2": WAN.weak()}, **NO_TEXT))
    assert own.weak_transformer is None and own.weak_transformer_2 is not None


def test_blocks_that_the_weak_arm_leaves_out():
    """As a weak network without that block; the strong arm has it."""
    deep = family("WanPipeline", {"num_layers": 2})
    pipe = deep.pipeline(transformer=deep.weak(0))
    weak = deep.weak(0)
    del weak.blocks[1]
    plain = replace(CASES["WanPipeline"], reflection=(3.0, 1.0))
    stock = CASES["WanPipeline"].build(0)
    stock.transformer = deep.weak(0)
    expected, _, _ = algorithm_1(plain, stock, weak)
    assert near(sample(pipe, deep.of(pipe, weak_skip_layers=1))[1][-1], expected)
    with pytest.raises(ValueError, match="weak_skip_layers"):
        sample(pipe, deep.of(pipe, weak_skip_layers=2))


def test_a_batch_of_videos_gives_each_as_it_is_alone():
    pipe, x = WAN.pipeline(WAN.weak()), draw(2, 4, 2, 4, 4, seed=3)

    def run(rows: slice) -> Tensor:
        told = {
            n: t.repeat(len(x[rows]), 1, 1) if torch.is_tensor(t) else t
            for n, t in CASES["WanPipeline"].call(pipe).items()
        }
        weak = {"weak_prompt_embeds": draw(2, 7, any_cases.TEXT, seed=9)[rows]}
        return pipe(**told, **weak, latents=x[rows], num_inference_steps=3, output_type="latent").frames

    assert near(run(slice(None)), torch.cat([run(slice(0, 1)), run(slice(1, 2))]))
    with pytest.raises(ValueError, match="`weak_prompt_embeds` has to hold 1 embeddings, one for a video, but holds 2"):
        sample(pipe, WAN.of(pipe, weak_prompt_embeds=draw(2, 5, any_cases.TEXT, seed=9)))


def test_what_is_not_finite_is_said_and_the_pipeline_is_as_it_was():
    pipe = WAN.pipeline(WAN.weak())
    expected = sample(pipe, WAN.of(pipe))[0]
    bias = pipe.weak_transformer.proj_out.bias
    kept = bias.detach().clone()
    with torch.no_grad():
        bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the weak arm at guidance 1, step 1 of 4"):
        sample(pipe, WAN.of(pipe))
    with torch.no_grad():
        bias.copy_(kept)
    assert torch.equal(sample(pipe, WAN.of(pipe))[0], expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("advanced_re_sampling", "weak")])
@pytest.mark.parametrize("case", FAST)
def test_every_method_runs_with_a_family_of_transformers_and_counts_what_it_evaluates(case, method):
    of = family(case, LARGER[case])
    rows: list[int] = []
    weak = None if METHODS[method].one_model else of.weak(num_layers=2)
    deep = network(of.kind, **{**of.config, "num_layers": 2})(0)
    pipe = of.pipeline(weak, transformer=deep)
    for each in pipe.denoisers():
        counted(_inner(each), rows)
    try:
        sample(pipe, of.of(pipe, method=method, **({"layers": 0} if method in ("slg", "pag") else {})))
    except ValueError as error:  # attention of two streams has no identity map of its own
        assert method == "pag" and "self-attention" in str(error)
        return
    assert pipe.evaluations["total"] == sum(rows) > 0
