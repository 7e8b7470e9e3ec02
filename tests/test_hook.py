"""The hook on denoisers by themselves: attached and taken off, what it evaluates and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import tiny
import torch
from clock import fastest
from diffusers import (
    DDIMScheduler,
    DiTPipeline,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn

from w2sd_video.hook import (
    HOOK_NAME,
    Arms,
    Conditioning,
    Counter,
    DenoiserHook,
    Group,
    Host,
    apply_reflection,
    attached,
    branches,
    stepping,
)
from w2sd_video.methods import METHODS, W2SD, Answer, Method
from w2sd_video.schedulers import read_step

DDIM = {
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


class Doubled(Host):
    """A loop that sends rows of both branches in one call."""

    def doubled(self) -> bool:
        return True


class Guiding(Doubled):
    def guidance(self) -> float:
        return 3.0


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ddim(n: int = 5, **config) -> DDIMScheduler:
    scheduler = DDIMScheduler(**{**DDIM, **config})
    scheduler.set_timesteps(n)
    return scheduler


def inputs(batch: int, dtype: torch.dtype = torch.float32) -> dict:
    """What a pipeline tells an SDXL UNet, for a doubled batch."""
    return {
        "encoder_hidden_states": draw(batch, tiny.TOKENS, 2 * tiny.TEXT_WIDTH, seed=1, dtype=dtype),
        "added_cond_kwargs": {
            "text_embeds": draw(batch, tiny.TEXT_WIDTH, seed=2, dtype=dtype),
            "time_ids": torch.ones(batch, 6),
        },
    }


def half(told: dict, branch: str) -> dict:
    which = branch == "cond"
    return {
        "encoder_hidden_states": told["encoder_hidden_states"].chunk(2)[which],
        "added_cond_kwargs": {k: v.chunk(2)[which] for k, v in told["added_cond_kwargs"].items()},
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@torch.no_grad()
def test_an_image_unet_answers_with_its_halves_at_the_displaced_latents(kind):
    """A plain UNet2DConditionModel, in the halves of its pipeline, and the scheduler's step from x~_t, by hand."""
    strong, weak = tiny.unet2d(0).double(), tiny.unet2d(1).double()
    scheduler = ddim(prediction_type=kind)
    t = scheduler.timesteps[1]
    step = read_step(scheduler, t)
    x, told = draw(2, 4, 8, 8, dtype=torch.float64), inputs(4, torch.float64)

    def guided(network: nn.Module, at: Tensor, w: float) -> Tensor:
        uncond, cond = (network(at, t, **half(told, branch)).sample for branch in ("uncond", "cond"))
        return uncond + w * (cond - uncond)

    x_s = step.forward.forward(x, guided(strong, x, 2.0))
    x_ref = step.inverse.inverse(x_s, guided(weak, x_s, -1.0))
    expected = torch.cat([strong(x_ref, t, **half(told, branch)).sample for branch in ("uncond", "cond")])
    stepped = scheduler.step(guided(strong, x_ref, 3.0), t, x_ref).prev_sample

    group = Group(W2SD(2.0, -1.0), Guiding(scheduler))
    with attached(strong, DenoiserHook(group, weak)), stepping(group):
        as_object = strong(torch.cat([x, x]), t, **told)
        uncond, cond = as_object.sample.chunk(2)
        ours = scheduler.step(uncond + 3.0 * (cond - uncond), t, x).prev_sample
        as_tuple = strong(torch.cat([x, x]), t, return_dict=False, **told)
    assert type(as_tuple) is tuple
    assert torch.allclose(as_object.sample, expected, atol=1e-10)
    assert torch.allclose(ours, stepped, atol=1e-10)
    assert torch.equal(as_tuple[0], as_object.sample)
    assert group.evaluations.per_video() == {"strong": 8, "weak": 4, "total": 12}


class Flow(nn.Module):
    """A stand-in for a transformer: another first argument, a flow prediction, tables that are no batch."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def forward(self, hidden_states, encoder_hidden_states, timestep, rotary=None, return_dict=True):
        self.seen.append((len(hidden_states), len(encoder_hidden_states)))
        assert rotary[0].shape == (6, 2)
        return (torch.tanh(hidden_states) * encoder_hidden_states.mean((1, 2))[:, None] + timestep[0] / 1000,)


def test_a_flow_transformer_reflects_from_pure_noise():
    network, scheduler = Flow(), FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    t = scheduler.timesteps[0]
    assert float(scheduler.sigmas[0]) == 1.0
    x, text = draw(1, 5, dtype=torch.float64), draw(2, 3, 4, seed=1, dtype=torch.float64)
    told = {"encoder_hidden_states": text, "timestep": t.expand(2), "rotary": (torch.ones(6, 2),) * 2}

    def u(at: Tensor, branch: int) -> Tensor:
        return torch.tanh(at) * text[branch].mean() + float(t) / 1000

    dt = float(scheduler.sigmas[1]) - 1.0
    x_s = x + dt * u(x, 1)
    x_ref = x_s - dt * u(x_s, 0)
    expected = x_ref + dt * u(x_ref, 1)
    group = Group(W2SD(1.0, 0.0), Doubled(scheduler))
    with attached(network, DenoiserHook(group)), stepping(group):
        p = network(hidden_states=torch.cat([x, x]), return_dict=False, **told)[0]
        ours = scheduler.step(p[1:], t, x, return_dict=False)[0]
    assert torch.allclose(ours, expected, atol=1e-7)
    assert network.seen == [(1, 1)] * 3


def stable_diffusion_3(seed: int = 0, layers: int = 1) -> StableDiffusion3Pipeline:
    """A pipeline of a transformer and a flow schedule, which this package does not subclass."""
    _, first = tiny.text_encoders()
    _, second = tiny.text_encoders(50)

    def build() -> SD3Transformer2DModel:
        return SD3Transformer2DModel(
            sample_size=tiny.SIZE,
            patch_size=2,
            in_channels=4,
            num_layers=layers,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=2 * tiny.TEXT_WIDTH,
            out_channels=4,
        ).eval()

    pipe = StableDiffusion3Pipeline(
        transformer=tiny.seeded(seed, build),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny.vae(),
        text_encoder=first,
        tokenizer=tiny.tokenizer(),
        text_encoder_2=second,
        tokenizer_2=tiny.tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
@pytest.mark.parametrize("method", [None, *METHODS.values()], ids=lambda m: m.__name__ if m else "off")
def test_a_pipeline_that_is_not_subclassed_takes_a_method_by_one_function(method):
    pipe, weak = stable_diffusion_3(layers=2), stable_diffusion_3(1, layers=2).transformer

    def image() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        arguments = {"num_inference_steps": 4, "guidance_scale": 5.0, "max_sequence_length": 7}
        return pipe("a cat", generator=generator, output_type="latent", **arguments).images

    plain = image()
    own = {METHODS["slg"]: {"layers": 1}, METHODS["predict_and_perturb"]: {"reflection_steps": 3}}
    own[METHODS["guidance_schedule"]] = {"guidance": [3.0, 1.0]}
    chosen = method and method(5.0, 1.0, **own.get(method, {}))
    if method is METHODS["pag"]:  # of text and latents together, where the identity is not known
        with pytest.raises(ValueError, match="has to be given: this network has no middle block"):
            with apply_reflection(pipe, chosen):
                image()
        with pytest.raises(ValueError, match="'transformer_blocks.0' is a Attention that takes more than the lat"):
            with apply_reflection(pipe, method(layers=0)):
                image()
        return
    with apply_reflection(pipe, chosen, weak=weak, generator=torch.Generator().manual_seed(0)) as hook:
        reflected = image()
    assert reflected.isfinite().all() and torch.equal(reflected, plain) == (method is None)
    once = (METHODS["auto_guidance"], METHODS["optimistic"])  # the strong arm at one place a step
    strong = 8 if method is None else 3 * 2 + 2 if method in once else 3 * 4 + 2
    weak_arm = 3 if method and method.uses_weak else 0
    if method is METHODS["s2wd"]:
        strong, weak_arm = 3 * 4 + 2, 3
    if method is METHODS["weak"]:
        strong, weak_arm = 0, 4
    others = {"apg": (8, 0), "cfg_zero_star": (8, 0), "slg": (8, 4), "s2_guidance": (8, 4)}
    others |= {"predict_and_perturb": (3 * 6 + 2, 0), "foresight": (8 + 4 * 2, 4), "guidance_schedule": (7, 0)}
    strong, weak_arm = next((n for name, n in others.items() if METHODS[name] is method), (strong, weak_arm))
    assert hook.evaluations.per_video() == {"strong": strong, "weak": weak_arm, "total": strong + weak_arm}
    assert torch.equal(image(), plain) and "maybe_free_model_hooks" not in vars(pipe)


@pytest.mark.slow
@torch.no_grad()
def test_a_loop_that_starts_late_in_the_schedule_counts_its_own_steps():
    pipe = tiny.image_to_image()
    for _ in range(2):
        with apply_reflection(pipe, W2SD(5.0, 1.0), weak=tiny.unet2d(1)) as hook:
            pipe("a cat", image=torch.rand(1, 3, 16, 16), strength=0.5, num_inference_steps=8, output_type="latent")
        assert hook.evaluations.per_video() == {"strong": 3 * 4 + 2, "weak": 3, "total": 17}


def test_a_pipeline_without_a_known_denoiser_or_scheduler_is_refused():
    pipe = stable_diffusion_3()
    pipe.scheduler = EulerAncestralDiscreteScheduler()
    with pytest.raises(ValueError, match="`scheduler` has the class EulerAncestralDiscreteScheduler, which is not "):
        with apply_reflection(pipe, W2SD()):
            raise AssertionError
    dit = object.__new__(DiTPipeline)
    dit.transformer = pipe.transformer
    with pytest.raises(ValueError, match="DiTPipeline has no `do_classifier_free_guidance`"):
        with apply_reflection(dit, W2SD()):
            raise AssertionError
    pipe.transformer = None
    with pytest.raises(ValueError, match="StableDiffusion3Pipeline has neither `unet` nor `transformer`"):
        with apply_reflection(pipe, W2SD()):
            raise AssertionError


def test_only_the_branches_that_count_are_named():
    assert branches(1.0) == ("cond",) and branches(0) == ("uncond",)
    assert branches(3.0) == branches(-1.0) == ("uncond", "cond")


@torch.no_grad()
def test_without_a_method_the_call_goes_through_untouched_and_is_counted():
    unet, told, x = tiny.unet2d(), inputs(4), draw(4, 4, 8, 8)
    counter = Counter(Doubled(None))
    with attached(unet, DenoiserHook(counter)):
        ours = unet(x, torch.tensor(7), **told).sample
    assert torch.equal(ours, unet(x, torch.tensor(7), **told).sample)
    assert counter.evaluations.per_video() == {"strong": 2, "weak": 0, "total": 2}


@torch.no_grad()
def test_the_weak_arm_is_told_its_own_conditioning():
    unet, scheduler = tiny.unet2d().double(), ddim()
    x, told = draw(1, 4, 8, 8, dtype=torch.float64), inputs(2, torch.float64)
    own = draw(1, tiny.TOKENS, 2 * tiny.TEXT_WIDTH, seed=9, dtype=torch.float64)
    seen: list[Tensor] = []
    unet.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    other = tiny.unet2d(1).double()
    weak_seen: list[dict] = []
    other.register_forward_pre_hook(lambda module, args, kwargs: weak_seen.append(kwargs), with_kwargs=True)
    arms = Arms(weak_conditioning=Conditioning(cond={"encoder_hidden_states": own}))
    group = Group(W2SD(1.0, 2.0), Guiding(scheduler), arms)
    with attached(unet, DenoiserHook(group, other)):
        unet(torch.cat([x, x]), scheduler.timesteps[0], **told)
    heard = weak_seen[0]["encoder_hidden_states"]
    assert torch.equal(heard[1:], own)
    assert torch.equal(heard[:1], told["encoder_hidden_states"][:1])
    assert torch.equal(weak_seen[0]["added_cond_kwargs"]["text_embeds"], told["added_cond_kwargs"]["text_embeds"])


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_network_is_as_it_was_however_the_context_is_left(error):
    unet = tiny.unet2d()
    before = dict(vars(unet))
    try:
        with attached(unet, DenoiserHook(Counter(Host(None)))):
            assert HOOK_NAME in unet._diffusers_hook.hooks
            if error is not None:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        pass
    assert vars(unet) == before


@torch.no_grad()
def test_other_hooks_on_the_network_stay():
    unet = tiny.unet2d()
    unet.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    others = dict(unet._diffusers_hook.hooks) if hasattr(unet, "_diffusers_hook") else None
    expected = unet(draw(2, 4, 8, 8), torch.tensor(7), **inputs(2)).sample
    with attached(unet, DenoiserHook(Counter(Host(None)))):
        assert torch.equal(unet(draw(2, 4, 8, 8), torch.tensor(7), **inputs(2)).sample, expected)
    assert others is None or unet._diffusers_hook.hooks == others
    assert torch.equal(unet(draw(2, 4, 8, 8), torch.tensor(7), **inputs(2)).sample, expected)


@pytest.mark.parametrize("name", ["down_block_additional_residuals", "mid_block_additional_residual"])
@torch.no_grad()
def test_controlnet_residuals_are_refused_under_a_reflection_alone(name):
    unet, scheduler = tiny.unet2d(), ddim()
    residual = torch.zeros(2, tiny.WIDTHS[1], 4, 4)
    told = {**inputs(2), name: (torch.zeros(2, 8, 8, 8),) * 3 if name.startswith("down") else residual}
    for lam, refused in ((1, True), (0, False)):
        group = Group(W2SD(reflection_steps=lam), Guiding(scheduler))
        latents = torch.cat([draw(1, 4, 8, 8)] * 2)
        with attached(unet, DenoiserHook(group)):
            if refused:
                with pytest.raises(ValueError, match=f"`{name}`.*ControlNet"):
                    unet(latents, scheduler.timesteps[0], **told)
            elif name.startswith("mid"):
                unet(latents, scheduler.timesteps[0], **told)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("x", r"\(3 of 256\) in the latents before step 2 of 5 \(timestep 601\)"),
        ("strong", r"the strong arm at guidance 2, step 2 of 5 \(timestep 601\)"),
        ("weak", r"the weak arm at guidance -1, step 2 of 5 \(timestep 601\)"),
    ],
)
@torch.no_grad()
def test_non_finite_values_stop_the_run_and_say_where(broken, message):
    unet, weak, scheduler = tiny.unet2d(), tiny.unet2d(1), ddim()
    x = draw(1, 4, 8, 8)
    if broken == "x":
        x[0, 0, 0, :3] = float("nan")
    else:
        (unet if broken == "strong" else weak).conv_out.bias.fill_(float("inf"))
    group = Group(W2SD(2.0, -1.0), Guiding(scheduler))
    with attached(unet, DenoiserHook(group, weak)), pytest.raises(FloatingPointError, match=message):
        unet(torch.cat([x, x]), scheduler.timesteps[1], **inputs(2))


@torch.no_grad()
def test_guidance_without_the_unconditional_half_is_refused():
    unet, scheduler = tiny.unet2d(), ddim()
    with attached(unet, DenoiserHook(Group(W2SD(1.0, 0.0), Host(scheduler)))):
        with pytest.raises(ValueError, match="the weak arm at guidance 0 needs the unconditional branch"):
            unet(draw(1, 4, 8, 8), scheduler.timesteps[0], **inputs(1))


class Linear(nn.Module):
    """A denoiser whose prediction is nearly x: the arms differ by little."""

    def __init__(self, slope: float):
        super().__init__()
        self.slope = slope

    def forward(self, sample, timestep, return_dict=True):
        return (sample * self.slope,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_forms_the_difference_in_float32(dtype):
    """Late in the run b/a is near 0 (here -0.02), and x~_t in half precision would be all rounding; the step stays
    within a rounding or two of the float64 result."""
    scheduler = ddim(200)
    t = scheduler.timesteps[-20]
    strong, weak = Linear(0.75), Linear(0.5)
    x = draw(1, 4000, dtype=dtype)
    moved = {}
    for each in (dtype, torch.float64):
        group = Group(W2SD(), Host(scheduler))
        with attached(strong, DenoiserHook(group, weak)), stepping(group):
            p = strong(x.to(each), t, return_dict=False)[0]
            stepped = scheduler.step(p, t, x.to(each)).prev_sample
        assert stepped.dtype == each
        moved[each] = stepped.double() - x.double()
    error = (moved[dtype] - moved[torch.float64]).abs().max() / x.double().abs().max()
    assert error < 1.5 * torch.finfo(dtype).eps


class Stub(nn.Module):
    """A network that takes no time: it returns what was computed before."""

    def __init__(self, answer: Tensor):
        super().__init__()
        self.answer = answer

    def forward(self, sample, timestep, encoder_hidden_states, added_cond_kwargs, return_dict=True):
        return (self.answer[: len(sample)],)


@pytest.mark.slow  # on the clock
@torch.no_grad()
def test_the_hook_costs_less_than_two_percent_of_a_step():
    """The networks stubbed out of the timing, at the size of a small video model on a CPU (16 frames of 8x8
    latents, some 1 M parameters). Best of several, in this thread's own time, for busy machines."""
    frames, scheduler = 16, ddim()
    told = inputs(2)
    told["encoder_hidden_states"] = told["encoder_hidden_states"].repeat_interleave(frames, dim=0)
    x, t = draw(2, 4, frames, 8, 8), scheduler.timesteps[0]

    stub = Stub(draw(2, 4, frames, 8, 8, seed=5))
    method = W2SD(3.0, 1.0)
    x = torch.cat([x[:1]] * 2)
    group = Group(method, Guiding(scheduler))

    def a_step() -> None:
        uncond, cond = stub(x, t, return_dict=False, **told)[0].chunk(2)
        scheduler.step(uncond + 3.0 * (cond - uncond), t, x[:1])

    with attached(stub, DenoiserHook(group)), stepping(group):
        overhead = fastest(a_step, 50)

    settings = {"block_out_channels": (48, 96), "norm_num_groups": 8}
    adapter = tiny.motion_adapter(block_out_channels=(48, 96), motion_norm_num_groups=8, motion_max_seq_length=frames)
    unet = tiny.inflate(tiny.unet2d(**settings), adapter)
    evaluation = fastest(lambda: unet(x, t, **told), 3) / 2  # two samples
    assert overhead < 0.02 * 5 * evaluation, (overhead, evaluation)


class Nothing(nn.Module):
    """A denoiser that predicts zeros."""

    def forward(self, sample: Tensor, timestep: Tensor) -> tuple[Tensor]:
        return (torch.zeros_like(sample),)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda x, strong: strong.denoise(x), "returns a Tensor: a method returns an `Answer`"),
        (lambda x, strong: Answer(strong.reflect(x)), r"a prediction of shape \(2, 4, 3\): give one of \(1, 2, 4, 3\)"),
        (lambda x, strong: Answer(strong.denoise(x), strong.denoise(x)), r"a displacement of shape \(1, 2, 4, 3\)"),
        (lambda x, strong: Answer(strong.denoise(x), e=0.5), "a correction that is a float: give a tensor"),
        (lambda x, strong: Answer(strong.denoise(x.mul_(0.5))), "changes x_t in place: a method makes new tensors"),
    ],
)
def test_an_answer_that_the_scheduler_cannot_step_with_is_refused_by_the_methods_name(answer, says):
    @dataclass(frozen=True)
    class Mine(Method):
        def __call__(self, x_t, step, strong, weak, noise):
            return answer(x_t, strong)

    scheduler, network = ddim(4), Nothing()
    group = Group(Mine(), Host(scheduler))
    x = torch.zeros(2, 4, 3)
    with attached(network, DenoiserHook(group)), stepping(group), pytest.raises(ValueError, match=f"Mine .*{says}"):
        network(x, scheduler.timesteps[0])


def test_a_displacement_that_all_frames_share_is_added_to_each():
    @dataclass(frozen=True)
    class Mine(Method):
        def __call__(self, x_t, step, strong, weak, noise):
            return Answer(strong.denoise(x_t), torch.ones_like(x_t[:, :, :1]))

    scheduler, network = ddim(4), Nothing()
    t, x = scheduler.timesteps[0], torch.zeros(2, 4, 3)
    expected = scheduler.step(torch.zeros_like(x), t, x + 1).prev_sample
    group = Group(Mine(), Host(scheduler))
    with attached(network, DenoiserHook(group)), stepping(group):
        assert torch.equal(scheduler.step(network(x, t)[0], t, x).prev_sample, expected)


class Recorded(nn.Module):
    """A network whose prediction depends on x, and that counts its evaluations."""

    def __init__(self):
        super().__init__()
        self.evaluations = 0

    def forward(self, sample, timestep, return_dict=True):
        self.evaluations += 1
        return (torch.tanh(sample),)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_arm_predicts_anew_where_its_argument_or_its_answer_was_changed_in_place(mode):
    @dataclass(frozen=True)
    class Mine(Method):
        def __call__(self, x_t, step, strong, weak, noise):
            x = x_t.clone()
            first = strong.reflect(x)
            first *= 2
            assert torch.equal(strong.reflect(x), torch.tanh(x_t)) and network.evaluations == 1
            x += 1
            assert torch.equal(strong.reflect(x), torch.tanh(x_t + 1)) and network.evaluations == 2
            return Answer(strong.denoise(x_t))

    @dataclass(frozen=True)
    class Changes(Method):
        def __call__(self, x_t, step, strong, weak, noise):
            x_t += 1
            return Answer(strong.denoise(x_t))

    with mode():
        scheduler, network = ddim(4), Recorded()
        t, x = scheduler.timesteps[0], draw(2, 4, 3)
        group = Group(Mine(), Host(scheduler))
        with attached(network, DenoiserHook(group)), stepping(group):
            assert torch.equal(network(x, t)[0], torch.tanh(x)) and network.evaluations == 3
        group = Group(Changes(), Host(scheduler))
        with attached(network, DenoiserHook(group)), stepping(group):
            with pytest.raises(ValueError, match="^Changes changes x_t in place"):
                network(x, t)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_pipeline_that_scales_its_latents_a_little_is_refused_in_half_precision_too(dtype):
    """By 2 %; rounding to the network's dtype is accepted."""
    scheduler, network = ddim(4), Recorded()
    t, x = scheduler.timesteps[0], draw(2, 4, 8, 8)
    group = Group(W2SD(), Host(scheduler))
    with torch.no_grad(), attached(network, DenoiserHook(group)), stepping(group):
        scheduler.step(network(x.to(dtype), t)[0], t, x)
        for scale in (1.02, 0.98):
            with pytest.raises(ValueError, match="hands its scheduler other latents than its denoiser"):
                scheduler.step(network(x.to(dtype), t)[0], t, scale * x)
