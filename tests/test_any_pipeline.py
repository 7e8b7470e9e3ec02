"""Every form in which pipelines of diffusers guide, against Algorithm 1 by hand; and one case for each class."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import any_cases
import any_cases_edit
import any_cases_image
import any_cases_unet
import any_cases_video
import pytest
import torch
from any_pipeline import CASES, STEPS, algorithm_1, draw, pipeline, sample
from diffusers import FluxPipeline, PixArtAlphaPipeline
from torch import Tensor, nn

from w2sd_video.hook import Conditioning, Form, Recorder, apply_reflection
from w2sd_video.hook.stepped import stepped_part
from w2sd_video.methods import W2SD, AutoGuidance, Optimistic, PredictAndPerturb, Weak

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def near(x: Tensor, y: Tensor) -> bool:
    return bool((x - y).abs().max() < 1e-5 * y.abs().max())


# One class of each form in which pipelines call their network, mix its branches and step.
FAST = {
    f"{name}Pipeline"
    for name in (
        "AuraFlow CogVideoX CogView4 Flux HunyuanVideo Kandinsky5T2V LTX Lumina2 Mochi PixArtSigma QwenImage Sana"
        " SkyReelsV2 StableDiffusion3 StableDiffusionXLImg2Img Wan"
    ).split()
}

# What makes one class of another without another form.
VARIANTS = ("Adapter", "Control", "Edit", "Img2Img", "Inpaint", "Layered", "PAG")

assert any_cases_edit and any_cases_image and any_cases_unet and any_cases_video  # they add their cases


@pytest.mark.slow_unless(case=lambda name: name in FAST)
@pytest.mark.exhaustive_unless(case=lambda name: name in FAST or not any(variant in name for variant in VARIANTS))
@pytest.mark.parametrize("name", CASES)
def test_a_pipeline_class_equals_algorithm_1_and_off_is_the_parent(name):
    case = CASES[name]
    pipe, weak = case.build(0), getattr(case.build(1), case.denoiser)
    plain, _ = sample(pipe, case)
    with apply_reflection(pipe, None) as group:
        off, _ = sample(pipe, case)
    branches, made = 1 if case.w is None else 2, case.made or case.steps
    assert group.evaluations.per_video() == {"strong": made * branches, "weak": 0, "total": made * branches}
    assert all(torch.equal(a, b) for a, b in zip(plain, off, strict=True))
    expected, _, _ = algorithm_1(case, pipe, weak)
    strong_rows: list[int] = []
    weak_rows: list[int] = []
    for each, rows in ((getattr(pipe, case.denoiser), strong_rows), (weak, weak_rows)):
        each.forward = _counting(each.forward, rows)
    with apply_reflection(pipe, W2SD(*case.reflection), weak=weak) as group:
        _, steps = sample(pipe, case)
    assert near(case.chosen(steps[-1]), case.chosen(expected))
    assert sum(strong_rows) == branches * (2 * (made - 1) + 1) and sum(weak_rows) == made - 1
    counts = {"strong": sum(strong_rows), "weak": sum(weak_rows)}
    counted = group.evaluations.per_video()
    assert (counted.pop("controlnet", None) is not None) == case.control
    assert counted == counts | {"total": sum(counts.values())}


def _counting(forward: Any, rows: list[int]) -> Any:
    """A network's forward that adds the rows of its every call to a list."""

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        x = args[0] if args else kwargs[next(name for name in ("hidden_states", "sample", "x") if name in kwargs)]
        rows.append(len(x))
        return forward(*args, **kwargs)

    return run


APART = CASES["WanPipeline"]


@pytest.mark.slow
@pytest.mark.parametrize("reflection", [(1.0, 1.0), (0.0, 1.0), (3.0, 0.0), (2.5, -0.5)])
def test_calls_apart_at_every_kind_of_guidance(reflection):
    case = replace(APART, reflection=reflection)
    pipe, weak = case.build(0), case.build(1).transformer
    expected, _, _ = algorithm_1(case, pipe, weak)
    with apply_reflection(pipe, W2SD(*reflection), weak=weak):
        assert near(sample(pipe, case)[1][-1], expected)


def test_calls_apart_by_other_methods():
    """Auto-guidance at matching guidance numbers is plain sampling with 2 p_s - p_w; the weak arm's own method is the
    weak pipeline; and a reflected optimistic step takes three evaluations."""
    case = APART
    pipe, weak = case.build(0), case.build(1)
    with apply_reflection(pipe, Weak(1.0, 3.0), weak=weak.transformer):
        ours = sample(pipe, case)[1]
    theirs = sample(weak, case)[1]
    with apply_reflection(pipe, W2SD(reflection_steps=0)):
        last = sample(pipe, case)[1]
    assert torch.equal(last[-1], sample(pipe, case)[1][-1])
    assert near(ours[-1], theirs[-1])
    with apply_reflection(pipe, Optimistic(3.0, 1.0), weak=weak.transformer) as group:
        sample(pipe, case)
    assert group.evaluations.per_video() == {"strong": 2 * STEPS, "weak": 3, "total": 2 * STEPS + 3}
    recorder = Recorder(latents=True)
    with apply_reflection(pipe, AutoGuidance(3.0, 1.0), weak=weak.transformer, recorder=recorder):
        steps = sample(pipe, case)[1]
    _, x, e = recorder.tensors[0]
    sigmas = pipe.scheduler.sigmas
    told = case.call(pipe)
    t = pipe.scheduler.timesteps[:1]

    def u(network: nn.Module, prompt: Tensor) -> Tensor:
        with torch.no_grad():
            return network(hidden_states=x, timestep=t, encoder_hidden_states=prompt).sample

    uncond, cond = (u(pipe.transformer, told[f"{sign}prompt_embeds"]) for sign in ("negative_", ""))
    good = uncond + 3.0 * (cond - uncond)
    bad = u(weak.transformer, told["prompt_embeds"])
    assert near(e, good - bad)
    assert near(steps[0], x + (sigmas[1] - sigmas[0]) * (2 * good - bad))


def test_calls_apart_of_several_videos_give_each_its_own():
    case = APART
    pipe, weak = case.build(0), case.build(1).transformer
    x = draw(2, 4, 2, 4, 4, seed=3)

    def run(rows: slice) -> Tensor:
        videos = len(x[rows])
        told = case.call(pipe)
        told |= {key: each.repeat(videos, 1, 1) for key, each in told.items() if torch.is_tensor(each)}
        with apply_reflection(pipe, W2SD(2.0, 1.0), weak=weak):
            return pipe(**told, num_inference_steps=4, latents=x[rows], output_type="latent").frames

    both = run(slice(None))
    assert near(both, torch.cat([run(slice(0, 1)), run(slice(1, 2))]))
    x = x[:1].repeat(2, 1, 1, 1, 1)  # equal latents are not taken for the halves of a guided batch
    both = run(slice(None))
    assert near(both[:1], both[1:]) and near(both[:1], run(slice(0, 1)))


def test_two_experts_each_have_a_weak_one():
    """Wan 2.2's experts take turns at a noise level; each is reflected by its own weak network."""
    parts = {"transformer_2": lambda: any_cases.wan(2), "boundary_ratio": 0.9}
    pipe = pipeline("WanPipeline", any_cases.wan, any_cases.shifted, **parts)(0)
    weak = {"transformer": any_cases.wan(5), "transformer_2": any_cases.wan(6)}
    case = replace(APART, call=lambda pipe: {**APART.call(pipe), "guidance_scale_2": 2.0})
    told, x = case.call(pipe), None
    with apply_reflection(pipe, W2SD(2.0, 1.0, reflection_steps=4), weak=weak) as group:
        steps = sample(pipe, case)[1]
    assert group.evaluations.per_video() == {"strong": 16, "weak": 4, "total": 20}
    x = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    sigmas, used = pipe.scheduler.sigmas, set()
    for i, t in enumerate(pipe.scheduler.timesteps):
        name = "transformer" if t >= 900 else "transformer_2"
        used.add(name)

        def u(network: nn.Module, x: Tensor, w: float, t: Tensor = t) -> Tensor:
            with torch.no_grad():
                prompts = (told[f"{sign}prompt_embeds"] for sign in ("negative_", ""))
                uncond, cond = (network(x, t.expand(1), prompt, return_dict=False)[0] for prompt in prompts)
            return uncond + w * (cond - uncond)

        h = sigmas[i + 1] - sigmas[i]
        x_s = x + h * u(getattr(pipe, name), x, 2.0)
        x = x_s - h * u(weak[name], x_s, 1.0)
        x = x + h * u(getattr(pipe, name), x, 3.0 if name == "transformer" else 2.0)
    assert len(used) == 2 and near(steps[-1], x)
    for wrong, says in (
        (weak["transformer"], r"`weak` is one network, and WanPipeline has 2 denoisers.*'transformer': …"),
        ({"unet": pipe.transformer}, "`weak` has a network for 'unet'; WanPipeline has 'transformer', 'transformer_2'"),
    ):
        with pytest.raises(ValueError, match=says), apply_reflection(pipe, W2SD(), weak=wrong):
            raise AssertionError


@pytest.mark.parametrize("normalised", [True, False])
def test_guidance_that_ends_during_the_call_is_decided_in_every_step(normalised):
    """Lumina2's `cfg_trunc_ratio`: half of the steps are unguided; the reflection's guidance stays the method's."""
    case = CASES["Lumina2Pipeline"]
    call = {"cfg_trunc_ratio": 0.5, "cfg_normalization": normalised}
    case = replace(case, call=lambda pipe: {**any_cases.of_lumina, **call})
    pipe, weak = case.build(0), case.build(1).transformer
    told = any_cases.of_lumina
    with apply_reflection(pipe, W2SD(2.0, 1.0), weak=weak) as group:
        steps = sample(pipe, case)[1]
    assert group.evaluations.per_video() == {"strong": 12, "weak": 3, "total": 15}
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    sigmas = pipe.scheduler.sigmas

    def branches(network: nn.Module, x: Tensor, t: Tensor) -> list[Tensor]:
        prompts = [(told[f"{sign}prompt_embeds"], told[f"{sign}prompt_attention_mask"]) for sign in ("negative_", "")]
        time = (1 - t / 1000).expand(1)
        with torch.no_grad():
            return [-network(x, time, prompt, mask, return_dict=False)[0] for prompt, mask in prompts]

    for i, t in enumerate(pipe.scheduler.timesteps):
        h = sigmas[i + 1] - sigmas[i]
        if i < 3:
            uncond, cond = branches(pipe.transformer, x, t)
            x_s = x + h * (uncond + 2.0 * (cond - uncond))
            x = x_s - h * branches(weak, x_s, t)[1]
        uncond, cond = branches(pipe.transformer, x, t)
        p = cond
        if i < 2:
            p = any_cases.normed(uncond, cond, 3.0) if normalised else uncond + 3.0 * (cond - uncond)
        x = x + h * p
    assert near(steps[-1], x)


@pytest.mark.parametrize("arm", ["strong", "weak"])
def test_an_arm_embeds_its_own_guidance(arm):
    """FLUX's and HunyuanVideo's networks are told the guidance; the final step is told the pipeline's."""
    for name, unit in (("FluxPipeline", 1.0), ("HunyuanVideoPipeline", 1000.0)):
        case = CASES[f"{name}, with embedded guidance alone"]
        pipe = case.build(0)
        seen: list[float] = []
        case = replace(case, call=lambda pipe, case=case: {**case.call(pipe), "guidance_scale": 6.0})
        forward = pipe.transformer.forward

        pipe.transformer.forward = _hearing(forward, seen, unit)
        with apply_reflection(pipe, W2SD(reflection_steps=1), **{f"{arm}_embedded_guidance": 1.5}):
            sample(pipe, replace(case, steps=2))
        first, second = (1.5, 6.0) if arm == "strong" else (6.0, 1.5)
        assert [round(each, 3) for each in seen] == [first, second, 6.0, 6.0]
    pipe = APART.build(0)
    with apply_reflection(pipe, W2SD(), weak_embedded_guidance=2.0):
        with pytest.raises(ValueError, match="WanPipeline gives its denoiser no `guidance` input to embed"):
            sample(pipe, APART)


def _hearing(forward: Any, seen: list[float], unit: float) -> Any:
    """A network's forward that adds the guidance that it is told to a list."""

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        seen.append(float(kwargs["guidance"]) / unit)
        return forward(*args, **kwargs)

    return run


def test_reference_tokens_in_the_sequence_are_refused_by_name_where_the_form_does_not_hold_them():
    case = CASES["FluxKontextPipeline"]
    pipe = case.build(0)
    with apply_reflection(pipe, W2SD(), form=Form("apart")):
        with pytest.raises(ValueError, match="FluxKontextPipeline.*steps fewer latents than its denoiser sees"):
            sample(pipe, case)


def test_the_arms_see_reference_tokens_as_the_pipeline_gives_them():
    """Every evaluation, at x_t, at x_s and at x~_t, has the pipeline's own reference tokens after the latents."""
    case = CASES["FluxKontextPipeline"]
    pipe, weak = case.build(0), case.build(1).transformer
    seen: list[Tensor] = []
    for network in (pipe.transformer, weak):
        network.forward = _showing(network.forward, seen)
    with apply_reflection(pipe, W2SD(2.0, 1.0), weak=weak):
        sample(pipe, case)
    assert len({tuple(x[:, 16:].flatten().tolist()) for x in seen}) == 1
    assert len({tuple(x[:, :16].flatten().tolist()) for x in seen}) == 3 * 3 + 1


def _showing(forward: Any, seen: list[Tensor]) -> Any:
    """A network's forward that adds the hidden states of its every call to a list."""

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["hidden_states"])
        return forward(*args, **kwargs)

    return run


def test_a_pipeline_that_is_not_in_the_table_is_refused_unless_its_form_is_stated():
    class Mine(FluxPipeline):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return FluxPipeline.__call__(self, *args, **kwargs)

    case = CASES["FluxPipeline"]
    pipe = Mine(**case.build(0).components)
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(ValueError, match="Mine is not among the pipelines that were tested.*Accepted: .*`form`"):
        with apply_reflection(pipe, W2SD()):
            raise AssertionError
    stock = case.build(0)
    with apply_reflection(stock, W2SD(2.0, 1.0)):
        expected = sample(stock, case)[0]
    with apply_reflection(pipe, W2SD(2.0, 1.0), form=Form("apart")):
        assert torch.equal(sample(pipe, case)[0], expected)
    with apply_reflection(pipe, W2SD(2.0, 1.0), form=Form("apart", sign=-1)):
        with pytest.raises(ValueError, match="Mine .*does not negate what its denoiser predicts"):
            sample(pipe, case)
    with apply_reflection(pipe, W2SD(2.0, 1.0), form=Form(flag=None)):
        with pytest.raises(ValueError, match="Mine .*calls its denoiser more than once a step"):
            sample(pipe, case)
    Mine.do_classifier_free_guidance = property(lambda self: self.never_set)
    with apply_reflection(pipe, W2SD(2.0, 1.0), form=Form()):
        with pytest.raises(ValueError, match="does not say its `do_classifier_free_guidance` during.*`flag=None`"):
            sample(pipe, case)


@functools.cache
def wan() -> Any:
    return CASES["WanPipeline"].build(0)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"method": "w2sd"}, r"`method` has to be an object.*is 'w2sd': write W2SD\(strong_guidance=…, weak_"),
    "class": (
        {"method": W2SD},
        r"`method` has to be an object of a method, or None, .*is the class W2SD: write W2SD\(\)",
    ),
    "number": ({"method": 3}, "`method` has to be an object of a method, or None, .* is 3"),
    "path": ({"weak": Path("unet")}, r"`weak` is .*Path\('unet'\): give the weak arm's network, loaded"),
    "path of one": ({"weak": {"transformer": "unet"}}, "`weak` is 'unet': give the weak arm's network, loaded"),
    "network": (
        {"weak": nn.Linear(2, 2)},
        "`weak` is a Linear, which takes 'input', and .*a WanTransformer3DModel, which",
    ),
    "text": ({"weak_conditioning": {"prompt": "a dog"}}, r"`weak_conditioning` is {'prompt': 'a dog'}: give a `Condit"),
    "input": (
        {"weak_conditioning": Conditioning(cond={"encoder_hidden_state": torch.zeros(1, 2, 2)})},
        "`weak_conditioning.cond` names 'encoder_hidden_state', which .* did you mean 'encoder_hidden_states'",
    ),
    "strong's": ({"strong_conditioning": {"prompt": "a dog"}}, "`strong_conditioning` is {'prompt': 'a dog'}: give a"),
    "no settings": ({"weak_settings": []}, "`weak_settings` is empty: a function of `arms` found nothing to set"),
    "settings": (
        {"weak_settings": {"style": -1.5}},
        "`weak_settings` is {'style': -1.5}: give what a function of `arms`",
    ),
    "embedded": ({"weak_embedded_guidance": "3"}, "`weak_embedded_guidance` is '3': give a finite number, or None"),
    "control": (
        {"weak_controlnet_conditioning_scale": ["1"]},
        "`weak_controlnet_conditioning_scale` is '1': give a fi",
    ),
    "form": ({"form": "apart"}, "`form` is 'apart': give a `Form`"),
    "generator": ({"generator": 3}, "`generator` is 3: give a `torch.Generator`"),
    "recorder": ({"recorder": True}, r"`recorder` is True: give a `Recorder\(\)`"),
    "pipeline": ({"pipeline": "a/wan"}, "`pipeline` is 'a/wan': give the pipeline itself"),
}


@pytest.mark.parametrize(("arguments", "says"), REFUSED.values(), ids=REFUSED)
def test_what_apply_reflection_does_not_accept_is_refused_by_name_before_the_pipeline_is_touched(arguments, says):
    pipe = wan()
    arguments = {"pipeline": pipe, "method": W2SD(), **arguments}
    before = set(vars(pipe.transformer))
    with pytest.raises(ValueError, match=says), apply_reflection(**arguments):
        pass
    assert set(vars(pipe.transformer)) == before


def test_a_pipeline_as_the_weak_arm_is_answered_with_its_network():
    says = r"^`weak` is a WanPipeline: give its network, such as `pipe\.transformer`\.$"
    with pytest.raises(ValueError, match=says), apply_reflection(wan(), W2SD(), weak=wan()):
        pass


def test_a_subclass_that_inherits_its_call_is_served():
    class Mine(FluxPipeline):
        pass

    case = CASES["FluxPipeline"]
    pipe = Mine(**case.build(0).components)
    with apply_reflection(pipe, W2SD(2.0, 1.0)):
        pass


@pytest.mark.parametrize("weak_arm", ["another scale of its LoRA", "another network"])
def test_a_few_step_schedule_without_guidance_takes_three_evaluations_a_reflected_step(weak_arm):
    """Wan with a LoRA distilled to 4 steps, at guidance 1; the literal loop has the LoRA's product in its weights."""
    from peft import LoraConfig

    from w2sd_video.arms import adapter_scales

    case = replace(APART, call=lambda pipe: {**APART.call(pipe), "guidance_scale": 1.0})
    pipe, weak = case.build(0), case.build(1).transformer
    told = case.call(pipe)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    plain = case.build(0).transformer
    any_cases.tiny.seeded(40, lambda: pipe.transformer.add_adapter(config, adapter_name="lightning"))

    def with_lora(scale: float) -> nn.Module:
        """The network without a LoRA, whose weights are W + scale B A."""
        merged = case.build(0).transformer
        for name, module in pipe.transformer.named_modules():
            if name.endswith(("to_q", "to_v")):
                change = module.lora_B["lightning"].weight @ module.lora_A["lightning"].weight
                merged.get_submodule(name).weight.data += scale * change
        return merged

    if weak_arm == "another network":
        arms = {"weak": weak}
    else:
        weak, arms = with_lora(0.25), {"weak_settings": adapter_scales(pipe.transformer, {"lightning": 0.25})}
    strong = with_lora(1.0)
    assert not torch.equal(strong.blocks[0].attn1.to_q.weight, plain.blocks[0].attn1.to_q.weight)
    with apply_reflection(pipe, W2SD(1.0, 1.0), **arms) as group:
        steps = sample(pipe, case)[1]
    assert group.evaluations.per_video() == {"strong": 3 * 2 + 1, "weak": 3, "total": 3 * 3 + 1}
    x = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    sigmas = pipe.scheduler.sigmas

    def u(network: nn.Module, x: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            return network(x, t.expand(1), told["prompt_embeds"], return_dict=False)[0]

    for i, t in enumerate(pipe.scheduler.timesteps):
        h = sigmas[i + 1] - sigmas[i]
        if i < 3:
            x_s = x + h * u(strong, x, t)
            x = x_s - h * u(weak, x_s, t)
        x = x + h * u(strong, x, t)
    assert near(steps[-1], x)


def test_three_branches_in_one_batch_are_refused_where_nothing_says_whether_a_pipeline_guides():
    case = CASES["PixArtAlphaPipeline"]

    class Three(PixArtAlphaPipeline):
        @torch.no_grad()
        def __call__(self) -> Any:
            self.scheduler.set_timesteps(2)
            x = draw(1, 4, 4, 4, seed=3)
            for t in self.scheduler.timesteps:
                told = {"timestep": t.expand(3), "encoder_hidden_states": draw(3, 5, 8, seed=4), "return_dict": False}
                none, picture, both = self.transformer(torch.cat([x] * 3), **told)[0].chunk(2, 1)[0].chunk(3)
                x = self.scheduler.step(none + 2 * (picture - none) + 3 * (both - picture), t, x)[0]
            return x

    pipe = Three(**case.build(0).components)
    pipe()
    with apply_reflection(pipe, W2SD(), form=Form(flag=None)):
        with pytest.raises(
            ValueError, match=r"Three .*sends its denoiser latents \(3, 4, 4, 4\), and steps \(1, 4, 4, 4\)"
        ):
            pipe()


@pytest.mark.parametrize("name", ["HunyuanVideoImageToVideoPipeline", "FluxKontextPipeline"])
def test_what_is_held_still_is_told_apart_in_half_precision_too(name):
    """HunyuanVideo's latents are float32, and its network's bfloat16."""
    case = CASES[name]
    pipe, weak = case.build(0), case.build(1).transformer.to(torch.bfloat16)
    pipe.transformer.to(torch.bfloat16)
    told = case.call(pipe)
    if name == "FluxKontextPipeline":
        pipe.vae.to(torch.bfloat16)
        told = {key: each.bfloat16() if isinstance(each, Tensor) else each for key, each in told.items()}
    with apply_reflection(pipe, W2SD(2.0, 1.0), weak=weak) as group:
        steps = sample(pipe, replace(case, call=lambda pipe: told))[1]
    assert group.evaluations.weak == 3 and torch.isfinite(steps[-1]).all()


def test_the_frames_that_are_stepped_are_told_apart_in_a_video_that_hardly_moves():
    x = draw(1, 4, 1, 4, 4, seed=1) + 0.01 * draw(1, 4, 3, 4, 4, seed=2)
    seen = x.to(torch.bfloat16).float()
    assert stepped_part(seen, x[:, :, 1:], 0.125).flatten().tolist() == [0, 1, 1]
    assert stepped_part(seen, x[:, :, :2], 0.125).flatten().tolist() == [1, 1, 0]
    assert stepped_part(seen, draw(1, 4, 2, 4, 4, seed=3), 0.125) is None


@pytest.mark.parametrize(
    "name, form, frames",
    [
        ("CogVideoXPipeline", None, 1),
        ("CogVideoXPipeline", Form(flag=None), 1),
        ("Kandinsky5T2VPipeline", None, 1),
        ("WanPipeline", None, 2),
    ],
    ids=[
        "(B, F, C, H, W)",
        "(B, F, C, H, W) by a form that says (B, C, F, H, W)",
        "(B, F, H, W, C)",
        "(B, C, F, H, W)",
    ],
)
def test_gains_in_time_act_along_the_axis_of_the_frames(name, form, frames):
    case = CASES[name]
    pipe = case.build(0)

    def first(**gains: float) -> Tensor:
        """The displacement of the first step."""
        recorder = Recorder(latents=True)
        with apply_reflection(pipe, W2SD(2.0, 1.0, reflection_steps=1, **gains), form=form, recorder=recorder):
            sample(pipe, case)
        return recorder.tensors[0][2]

    d = first()
    still = d.mean(frames, keepdim=True)
    assert torch.allclose(first(still_gain=2.0), 2 * still + (d - still), atol=1e-6)
    assert torch.allclose(first(still_gain=0.5, motion_gain=2.0), 0.5 * still + 2 * (d - still), atol=1e-6)


@pytest.mark.parametrize(
    "name, channels",
    [
        ("WanPipeline", 1),
        ("CogVideoXPipeline", 2),
        ("LTXPipeline", 2),
        ("FluxPipeline", 2),
        ("StableDiffusionXLInpaintPipeline, with a mask and a picture in channels", 1),
    ],
    ids=["(B, C, F, H, W)", "(B, F, C, H, W)", "a video's tokens", "a picture's tokens", "(B, C, H, W)"],
)
def test_the_mask_of_p_and_p_is_of_the_mean_over_channels_in_every_layout(name, channels):
    """The median of these means is the threshold, so the positions under it keep x_t, with all of their channels."""
    case = CASES[name]
    pipe, x, cleans = case.build(0), [], []

    class Seen(PredictAndPerturb):
        def _clean(self, *args: Any) -> Tensor:
            x.append(args[0])
            cleans.append(super()._clean(*args))
            return cleans[-1]

    def displacement(threshold: float) -> Tensor:
        recorder, method = Recorder(latents=True), Seen(iterations=1, threshold=threshold, reflection_steps=1)
        with apply_reflection(pipe, method, generator=torch.Generator().manual_seed(1), recorder=recorder):
            sample(pipe, case)
        return recorder.tensors[0][2]

    displacement(0.0)
    change = (cleans[1] - cleans[0]).abs().mean(channels, keepdim=True)
    assert change.numel() == x[0].numel() // x[0].shape[channels]
    moved = displacement(float(change.median()) + 1e-6)
    certain = change < float(change.median()) + 1e-6
    assert certain.any() and not certain.all()
    assert torch.equal(moved, (x[1] - x[0]).masked_fill(certain, 0.0))


@pytest.mark.parametrize("gains", [{"still_gain": 2.0}, {"motion_gain": 2.0}, {"still_gain": 2.0, "motion_gain": 0.5}])
@pytest.mark.parametrize("name", ["LTXPipeline", "LTXConditionPipeline, its first frame held still"])
def test_gains_in_time_are_refused_where_frames_have_no_axis_of_their_own(name, gains):
    case = CASES[name]
    pipe = case.build(0)
    with apply_reflection(pipe, W2SD(2.0, 1.0, **gains)) as group:
        with pytest.raises(
            ValueError, match=r"frames have no axis of their own in latents \(1, 4, 12\): give the same"
        ):
            sample(pipe, case)
    assert not group.evaluations.strong


def test_the_gain_of_what_stands_still_is_that_of_a_picture_s_tokens_too():
    case = CASES["FluxPipeline"]
    pipe, recorders = case.build(0), [Recorder(latents=True), Recorder(latents=True)]
    for recorder, gain in zip(recorders, (1.0, 2.0), strict=True):
        with apply_reflection(pipe, W2SD(2.0, 1.0, reflection_steps=1, still_gain=gain), recorder=recorder):
            sample(pipe, case)
    assert torch.equal(recorders[1].tensors[0][2], 2 * recorders[0].tensors[0][2])


@torch.no_grad()
def test_arms_that_are_told_texts_of_two_strengths_are_rf_sampling_on_flux():
    """arXiv:2603.06165, as docs/methods.md puts it together: a step with a stronger text, back with a weaker one."""
    case = CASES["FluxPipeline, with embedded guidance alone"]
    pipe = case.build(0)
    call = case.call(pipe)
    own = {"encoder_hidden_states": call["prompt_embeds"], "pooled_projections": call["pooled_prompt_embeds"]}
    empty = {name: draw(*each.shape, seed=9) for name, each in own.items()}

    def told(s: float, beta: float) -> dict[str, Tensor]:
        return {name: c + s * (beta * c + (1 - beta) * empty[name]) for name, c in own.items()}

    high, low, gamma = told(3.5, 0.7), told(-1.0, 0.3), 0.5
    sent: list[dict[str, Any]] = []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: sent.append(kwargs), with_kwargs=True
    )
    sample(pipe, case)
    hook.remove()

    x, sigmas = sent[0]["hidden_states"], pipe.scheduler.sigmas
    for i, inputs in enumerate(sent):

        def v(x: Tensor, told: dict[str, Tensor], inputs: dict[str, Any] = inputs) -> Tensor:
            return pipe.transformer(**{**inputs, **told, "hidden_states": x, "return_dict": False})[0]

        step = sigmas[i + 1] - sigmas[i]
        if i < len(sent) - 1:
            ahead = x + step * v(x, high)
            back = ahead - step * v(ahead, low)
            x = x + gamma * (back - x)
        x = x + step * v(x, own)

    arms = {"strong_conditioning": Conditioning(cond=high), "weak_conditioning": Conditioning(cond=low)}
    with apply_reflection(pipe, W2SD(still_gain=gamma), **arms):
        _, steps = sample(pipe, case)
    assert near(steps[-1], x)
