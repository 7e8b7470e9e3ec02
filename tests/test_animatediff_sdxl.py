"""The pipeline: off, it is the parent; on, it is Algorithm 1 in an explicit loop over the same networks."""

from __future__ import annotations

import inspect

import pytest
import tiny
import torch
from diffusers import (
    AnimateDiffSDXLPipeline,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNetMotionModel,
)
from families import close, generator, ip_adapter
from peft import LoraConfig
from torch import Tensor

from w2sd_video.pipelines import W2SDAnimateDiffSDXLPipeline


@pytest.fixture
def pipe() -> W2SDAnimateDiffSDXLPipeline:
    return tiny.pipeline()


def parent_of(pipe: W2SDAnimateDiffSDXLPipeline) -> AnimateDiffSDXLPipeline:
    """The stock pipeline over the same components."""
    kept = {name: part for name, part in pipe.components.items() if not name.startswith("weak_")}
    parent = AnimateDiffSDXLPipeline(**kept)
    parent.set_progress_bar_config(disable=True)
    return parent


def frames(pipe, **overrides) -> Tensor:
    return pipe(**tiny.call(**overrides)).frames


# Method off -------------------------------------------------------------------------------------------------

SCHEDULERS = {
    "ddim": tiny.scheduler,
    "ancestral": EulerAncestralDiscreteScheduler,
    "euler": EulerDiscreteScheduler,
    "dpm": DPMSolverMultistepScheduler,
}

OFF = {
    "guidance": {},
    "no guidance": {"guidance_scale": 1.0},
    "guidance below 1": {"guidance_scale": 0.5},
    "eta": {"eta": 0.7},
    "latents": {"latents": torch.randn(1, 4, tiny.FRAMES, tiny.SIZE, tiny.SIZE, generator=generator(5))},
    "negative prompt": {"negative_prompt": "a dog"},
    "batch": {"prompt": ["a cat", "a dog"], "generator": lambda: [generator(1), generator(2)]},
    "rescale": {"guidance_rescale": 0.7},
    "clip skip": {"clip_skip": 1},
    "denoising end": {"denoising_end": 0.5},
    "sizes": {"negative_original_size": (8, 8), "negative_target_size": (16, 8)},
    "decoded": {"output_type": "pt"},
}


def resolved(arguments: dict) -> dict:
    return {name: value() if callable(value) else value for name, value in arguments.items()}


@pytest.mark.parametrize("arguments", OFF.values(), ids=OFF)
@pytest.mark.slow_unless(
    case=lambda arguments: {"guidance_scale", "prompt", "output_type"} & {*arguments} or not arguments
)
def test_with_the_method_off_the_output_is_the_parents_bit_for_bit(pipe, arguments):
    ours = frames(pipe, method=None, **resolved(arguments))
    assert torch.equal(ours, frames(parent_of(pipe), **resolved(arguments)))


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.slow_unless(case=lambda scheduler: scheduler is EulerAncestralDiscreteScheduler)
def test_with_the_method_off_every_scheduler_is_the_parents(scheduler):
    pipe = tiny.pipeline(scheduler=scheduler())
    assert torch.equal(frames(pipe, method=None), frames(parent_of(pipe)))


@pytest.mark.slow
def test_with_the_method_off_free_init_callbacks_and_ip_adapter_are_the_parents(pipe):
    pipe.unet._load_ip_adapter_weights([ip_adapter(pipe.unet)])
    parent = parent_of(pipe)

    def louder(pipe, step, timestep, tensors):
        return {"latents": tensors["latents"] * 1.01}

    for each in (pipe, parent):
        each.enable_free_init(num_iters=2)
    arguments = {
        "callback_on_step_end": louder,
        "ip_adapter_image_embeds": [torch.randn(2, 1, tiny.TEXT_WIDTH, generator=generator(7))],
    }
    assert torch.equal(frames(pipe, method=None, **arguments), frames(parent, **arguments))


def test_no_reflected_step_is_the_parent_bit_for_bit(pipe):
    assert torch.equal(frames(pipe, reflection_steps=0), frames(parent_of(pipe)))


def test_the_call_documents_the_parents_arguments_and_its_own():
    names = list(inspect.signature(W2SDAnimateDiffSDXLPipeline.__call__).parameters)
    assert names[: len(PARENT_NAMES)] == PARENT_NAMES
    assert {"method", "strong_guidance_scale", "weak_prompt", "inversion"} <= set(names)


PARENT_NAMES = list(inspect.signature(AnimateDiffSDXLPipeline.__call__).parameters)


@pytest.mark.slow
def test_arguments_can_be_positional_as_the_parents(pipe):
    by_name = frames(pipe)
    arguments = tiny.call()
    prompt, num_frames = arguments.pop("prompt"), arguments.pop("num_frames")
    assert torch.equal(pipe(prompt, None, num_frames, **arguments).frames, by_name)


# Method on --------------------------------------------------------------------------------------------------


def algorithm_1(
    pipe,
    *,
    prompt="a cat",
    weak_prompt=None,
    steps=4,
    main=3.0,
    strong=3.0,
    weak=1.0,
    lam=None,
    latents,
    rescale_input=lambda scheduler, x, t: x,
) -> Tensor:
    """Algorithm 1 with the pipeline's networks: single branches, no hook, diffusers' step and its inverse."""
    scheduler, n = pipe.scheduler, latents.shape[2]
    networks = {"strong": pipe.unet, "weak": pipe.weak_unet or pipe.unet}
    told = {"strong": pipe.encode_prompt(prompt), "weak": pipe.encode_prompt(weak_prompt or prompt)}
    size = (pipe.default_sample_size * pipe.vae_scale_factor,) * 2
    ids = torch.tensor([[*size, 0, 0, *size]], dtype=latents.dtype)

    def network(arm: str, x: Tensor, t: Tensor, branch: str) -> Tensor:
        cond, uncond, pooled, uncond_pooled = told[arm]
        embeds, pooled = (cond, pooled) if branch == "cond" else (uncond, uncond_pooled)
        extra = {"text_embeds": pooled, "time_ids": ids}
        embeds = embeds.repeat_interleave(n, dim=0)
        return networks[arm](x, t, encoder_hidden_states=embeds, added_cond_kwargs=extra).sample

    def guided(arm: str, x: Tensor, t: Tensor, w: float) -> Tensor:
        x = rescale_input(scheduler, x, t)
        uncond, cond = network(arm, x, t, "uncond"), network(arm, x, t, "cond")
        return uncond + w * (cond - uncond)

    def move(p: Tensor, t: Tensor, x: Tensor) -> Tensor:
        index = getattr(scheduler, "_step_index", None)
        moved = scheduler.step(p, t, x).prev_sample
        if hasattr(scheduler, "_step_index"):
            scheduler._step_index = index  # only the last move of a step counts
        return moved

    def inverse(p: Tensor, t: Tensor, x_s: Tensor) -> Tensor:
        zero, one = torch.zeros_like(x_s), torch.ones_like(x_s)
        c = move(p, t, zero)
        return (x_s - c) / (move(p, t, one) - c)

    scheduler.set_timesteps(steps)
    x = latents * scheduler.init_noise_sigma
    lam = steps - 1 if lam is None else lam
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            if hasattr(scheduler, "_step_index"):
                scheduler._step_index = i
            if i < lam:
                x_s = move(guided("strong", x, t, strong), t, x)
                x = inverse(guided_at(guided, scheduler, x_s, t, weak, i), t, x_s)
            x = scheduler.step(guided("strong", x, t, main), t, x).prev_sample
    return x


def guided_at(guided, scheduler, x_s: Tensor, t: Tensor, weak: float, i: int) -> Tensor:
    """The weak arm at x_s with time t. Euler's network sees x_s scaled to its own level, s."""
    if not hasattr(scheduler, "_step_index"):
        return guided("weak", x_s, t, weak)
    scheduler._step_index = i + 1
    try:
        return guided("weak", x_s, t, weak)
    finally:
        scheduler._step_index = i


def in_float64(**overrides) -> W2SDAnimateDiffSDXLPipeline:
    pipe = tiny.pipeline(**overrides).to(torch.float64)
    if isinstance(pipe.scheduler, DDIMScheduler):
        pipe.scheduler.alphas_cumprod = pipe.scheduler.alphas_cumprod.double()
        pipe.scheduler.final_alpha_cumprod = pipe.scheduler.final_alpha_cumprod.double()
    return pipe


def noise(batch: int = 1, dtype=torch.float64) -> Tensor:
    return torch.randn(batch, 4, tiny.FRAMES, tiny.SIZE, tiny.SIZE, generator=generator(3), dtype=dtype)


def assert_literal(pipe, *, rtol, steps=4, main=3.0, strong=3.0, weak=1.0, lam=None, **more) -> None:
    latents = noise(dtype=pipe.unet.dtype)
    ours = frames(
        pipe,
        latents=latents,
        num_inference_steps=steps,
        guidance_scale=main,
        strong_guidance_scale=strong,
        weak_guidance_scale=weak,
        reflection_steps=lam,
        weak_prompt=more.get("weak_prompt"),
    )
    assert close(
        ours,
        algorithm_1(pipe, latents=latents, steps=steps, main=main, strong=strong, weak=weak, lam=lam, **more),
        rtol,
    )


# Whole matrices of schedules, predictions, lambda and guidance are in test_families.py, on the cheapest family.


def test_with_the_method_on_the_output_is_algorithm_1():
    pipe = in_float64(scheduler=tiny.scheduler(timestep_spacing="linspace", prediction_type="v_prediction"))
    assert_literal(pipe, rtol=1e-9)


@pytest.mark.slow
def test_at_lambda_t_it_is_algorithm_1():
    assert_literal(in_float64(scheduler=tiny.scheduler(timestep_spacing="leading")), rtol=1e-9, lam=4)


@pytest.mark.parametrize(
    ("main", "strong", "weak"), [(0.0, 5.5, 0.0), (1.0, 1.0, 1.0), (-1.0, 1.0, -10.0), (1.0, 0.0, 3.0)]
)
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda strong: strong == 5.5)
def test_with_other_guidance_it_is_algorithm_1(main, strong, weak):
    assert_literal(in_float64(), rtol=1e-9, steps=3, main=main, strong=strong, weak=weak)


@pytest.mark.slow
def test_in_float32_it_is_algorithm_1_to_rounding():
    assert_literal(tiny.pipeline(scheduler=tiny.scheduler(timestep_spacing="leading")), rtol=1e-5)


@pytest.mark.slow
def test_one_model_and_two_guidance_numbers_is_algorithm_1():
    assert_literal(in_float64(weak=False), rtol=1e-9, strong=5.5, weak=0.0)


@pytest.mark.slow
def test_the_weak_arm_can_have_its_own_prompt():
    assert_literal(in_float64(), rtol=1e-9, weak_prompt="a dog", weak=2.0)


@pytest.mark.parametrize(
    "scheduler",
    [
        EulerDiscreteScheduler(timestep_spacing="leading"),
        EulerDiscreteScheduler(use_karras_sigmas=True),
        DPMSolverMultistepScheduler(solver_order=1, timestep_spacing="leading"),
    ],
    ids=["euler", "euler karras", "dpm++"],
)
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda scheduler: scheduler.config.get("use_karras_sigmas"))
def test_other_schedulers_are_algorithm_1_too(scheduler):
    """In the scheduler's space; Euler's networks see x scaled by its own level, x_s by that of s."""

    def scaled(scheduler, x: Tensor, t: Tensor) -> Tensor:
        return scheduler.scale_model_input(x, t)

    assert_literal(in_float64(scheduler=scheduler), rtol=2e-5, rescale_input=scaled)


@pytest.mark.slow
def test_a_second_order_dpm_solver_runs_and_differs_from_the_parent():
    pipe = tiny.pipeline(scheduler=DPMSolverMultistepScheduler())
    assert frames(pipe).isfinite().all()
    assert not torch.equal(frames(pipe), frames(pipe, method=None))


def test_equal_arms_with_the_exact_inversion_change_nothing():
    pipe = tiny.pipeline(weak=False)
    ours = frames(pipe, weak_guidance_scale=3.0, inversion="x_t")
    assert torch.equal(ours, frames(pipe, method=None))


@pytest.mark.slow
def test_the_published_convention_differs_and_needs_its_schedulers(pipe):
    with pytest.raises(ValueError, match="linspace"):
        frames(pipe, convention="published")
    pipe = tiny.pipeline(scheduler=tiny.scheduler(timestep_spacing="leading"))
    assert not torch.equal(frames(pipe, convention="published"), frames(pipe))
    with pytest.raises(ValueError, match="`reflection_steps` has to be from 0 to 3.*but is 4"):
        frames(pipe, convention="published", reflection_steps=4)


@pytest.mark.slow
def test_a_batch_gives_the_videos_of_its_members(pipe):
    prompts, negatives, weak = ["a cat", "a dog"], ["b", "c"], ["d", "e f"]

    def run(which: slice) -> Tensor:
        return frames(
            pipe,
            prompt=prompts[which],
            negative_prompt=negatives[which],
            weak_prompt=weak[which],
            weak_guidance_scale=2.0,
            generator=[generator(10), generator(11)][which],
        )

    both = run(slice(None))
    assert close(both[:1], run(slice(0, 1)), 2e-5)
    assert close(both[1:], run(slice(1, 2)), 2e-5)
    assert pipe.evaluations == {"strong": 14, "weak": 6, "total": 20}


# What an arm is told ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_weak_text_encoders_speak_for_the_weak_arm_alone(pipe):
    plain = frames(pipe, method=None)
    same = frames(pipe)
    other = tiny.text_encoders(seed=30)
    pipe = tiny.pipeline(weak_text_encoder=other[0], weak_text_encoder_2=other[1])
    assert torch.equal(frames(pipe, method=None), plain)
    theirs = frames(pipe)
    assert not torch.equal(theirs, same)
    # The embeddings handed over say the same, and the strong arm's own embeddings undo it.
    pipe.text_encoder, pipe.weak_text_encoder = pipe.weak_text_encoder, pipe.text_encoder
    pipe.text_encoder_2, pipe.weak_text_encoder_2 = pipe.weak_text_encoder_2, pipe.text_encoder_2
    weak = pipe.encode_prompt("a cat", do_classifier_free_guidance=False)
    pipe.text_encoder, pipe.weak_text_encoder = pipe.weak_text_encoder, pipe.text_encoder
    pipe.text_encoder_2, pipe.weak_text_encoder_2 = pipe.weak_text_encoder_2, pipe.text_encoder_2
    assert torch.equal(frames(pipe, weak_prompt_embeds=weak[0], weak_pooled_prompt_embeds=weak[2]), theirs)
    strong = pipe.encode_prompt("a cat", do_classifier_free_guidance=False)
    assert torch.equal(frames(pipe, weak_prompt_embeds=strong[0], weak_pooled_prompt_embeds=strong[2]), same)


@pytest.mark.slow
def test_prompt_embeds_give_what_the_prompt_gives(pipe):
    cond, uncond, pooled, uncond_pooled = pipe.encode_prompt("a cat", negative_prompt="a dog")
    by_prompt = frames(pipe, negative_prompt="a dog", weak_guidance_scale=2.0)
    by_embeds = frames(
        pipe,
        prompt=None,
        prompt_embeds=cond,
        negative_prompt_embeds=uncond,
        pooled_prompt_embeds=pooled,
        negative_pooled_prompt_embeds=uncond_pooled,
        weak_guidance_scale=2.0,
    )
    assert torch.equal(by_prompt, by_embeds)


@pytest.mark.slow
def test_a_weak_negative_prompt_counts_where_the_unconditional_branch_does(pipe):
    assert torch.equal(frames(pipe, weak_negative_prompt="a dog"), frames(pipe))
    told = frames(pipe, weak_negative_prompt="a dog", weak_guidance_scale=2.0)
    assert not torch.equal(told, frames(pipe, weak_guidance_scale=2.0))
    same = frames(pipe, negative_prompt="a dog", weak_negative_prompt="a dog", weak_guidance_scale=2.0)
    assert torch.equal(same, frames(pipe, negative_prompt="a dog", weak_guidance_scale=2.0))


@pytest.mark.slow
def test_a_lora_acts_on_the_strong_arm_alone(pipe):
    before = frames(pipe)
    config = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    tiny.seeded(40, lambda: pipe.unet.add_adapter(config))
    after = frames(pipe)
    assert not torch.equal(after, before)
    assert not any("lora" in name for name, _ in pipe.weak_unet.named_parameters())
    half = frames(pipe, cross_attention_kwargs={"scale": 0.5})
    assert not torch.equal(half, after)
    assert close(frames(pipe, cross_attention_kwargs={"scale": 0.0}), before, 1e-5)
    weights = {name: p.clone() for name, p in pipe.weak_unet.named_parameters()}
    pipe.fuse_lora(components=["unet"])
    assert all(torch.equal(p, weights[name]) for name, p in pipe.weak_unet.named_parameters())
    assert close(frames(pipe), after, 1e-4)


@pytest.mark.slow
def test_an_ip_adapter_acts_on_the_strong_arm_alone(pipe):
    before = frames(pipe)
    pipe.unet._load_ip_adapter_weights([ip_adapter(pipe.unet)])
    embeds = [torch.randn(2, 1, tiny.TEXT_WIDTH, generator=generator(7))]
    assert not torch.equal(frames(pipe, ip_adapter_image_embeds=embeds), before)
    pipe.set_ip_adapter_scale(0.0)
    assert torch.equal(frames(pipe, ip_adapter_image_embeds=embeds), before)
    # A main guidance of 1 under a reflection that needs the unconditional branch.
    ours = frames(pipe, ip_adapter_image_embeds=embeds, guidance_scale=1.0, strong_guidance_scale=3.0)
    pipe.unload_ip_adapter()
    assert torch.equal(ours, frames(pipe, guidance_scale=1.0, strong_guidance_scale=3.0))


# The rest of the parent's call ------------------------------------------------------------------------------


@pytest.mark.slow
def test_free_init_callbacks_and_the_other_arguments_work_under_the_method(pipe):
    seen: list[int] = []

    def count(pipe, step, timestep, tensors):
        seen.append(step)
        return {}

    for fast in (False, True):
        seen.clear()
        pipe.enable_free_init(num_iters=2, use_fast_sampling=fast)
        assert frames(pipe, callback_on_step_end=count).isfinite().all()
        steps = [2, 4] if fast else [4, 4]
        assert seen == [i for n in steps for i in range(n)]
        assert pipe.evaluations["weak"] == sum(n - 1 for n in steps)
        assert pipe.evaluations["strong"] == sum(4 * (n - 1) + 2 for n in steps)
    pipe.disable_free_init()
    for arguments in (
        {"eta": 0.7},
        {"guidance_rescale": 0.7},
        {"clip_skip": 1},
        {"negative_original_size": (8, 8), "negative_target_size": (16, 8)},
        {"output_type": "np"},
    ):
        assert len(frames(pipe, **arguments)) == 1


def test_denoising_end_leaves_out_the_last_step_that_is_made(pipe):
    frames(pipe, num_inference_steps=10, denoising_end=0.5)
    assert pipe.evaluations == {"strong": 4 * 4 + 2, "weak": 4, "total": 22}


def test_a_callback_can_end_guidance_where_the_reflection_needs_none(pipe):
    def cut(pipe, step, timestep, tensors):
        if step != 0:
            return {}
        pipe._guidance_scale = 0.0
        return {name: value[len(value) // 2 :] for name, value in tensors.items() if name != "latents"}

    arguments = {
        "callback_on_step_end": cut,
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds", "add_text_embeds", "add_time_ids"],
    }
    assert frames(pipe, strong_guidance_scale=1.0, **arguments).isfinite().all()
    with pytest.raises(ValueError, match="the strong arm at guidance 3 needs the unconditional branch"):
        frames(pipe, **arguments)


def test_evaluations_before_a_call_say_that_there_was_none(pipe):
    with pytest.raises(RuntimeError, match="after a call"):
        _ = pipe.evaluations


# After a call -----------------------------------------------------------------------------------------------


def state(pipe) -> list:
    networks = [pipe.unet, pipe.weak_unet]
    attributes = [sorted(vars(network)) for network in networks]
    return [
        attributes,
        pipe.do_classifier_free_guidance,
        {name: id(part) for name, part in pipe.components.items()},
    ]


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda error: error is RuntimeError)
def test_after_a_call_and_after_one_that_raised_the_pipeline_is_as_it_was(pipe, error):
    def stop(pipe, step, timestep, tensors):
        if error is not None and step == 1:
            raise error("stop")
        return {}

    first = frames(pipe, guidance_scale=1.0, strong_guidance_scale=3.0)
    before = state(pipe)
    arguments = {"guidance_scale": 1.0, "strong_guidance_scale": 3.0, "callback_on_step_end": stop}
    if error is None:
        frames(pipe, **arguments)
    else:
        with pytest.raises(error):
            frames(pipe, **arguments)
        assert pipe.evaluations == {"strong": 6, "weak": 2, "total": 8}
    assert state(pipe) == before
    assert torch.equal(frames(pipe, guidance_scale=1.0, strong_guidance_scale=3.0), first)


def test_latents_that_stop_being_finite_stop_the_run_and_say_where(pipe):
    with torch.no_grad():
        pipe.weak_unet.conv_out.bias.fill_(float("nan"))
    message = r"weak arm at guidance 1, step 1 of 4 \(timestep 999\)"
    with pytest.raises(FloatingPointError, match=message):
        frames(pipe)

    def break_latents(pipe, step, timestep, tensors):
        return {"latents": tensors["latents"] * float("inf")}

    with pytest.raises(FloatingPointError, match=r"latents before step 2 of 4 \(timestep 666\)"):
        frames(pipe, reflection_steps=0, callback_on_step_end=break_latents)


# Components -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_save_and_a_load_give_the_same_output_and_share_again(pipe, tmp_path):
    other = tiny.text_encoders(seed=30)
    pipe = tiny.pipeline(weak_text_encoder=other[0], weak_text_encoder_2=other[1])
    expected = frames(pipe)
    pipe.save_pretrained(tmp_path)
    loaded = W2SDAnimateDiffSDXLPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert close(frames(loaded), expected, 1e-5)  # the order of sums depends on where in memory weights lie
    shared = {id(p) for p in loaded.unet.parameters()} & {id(p) for p in loaded.weak_unet.parameters()}
    assert len(shared) >= sum("motion_modules" in name for name, _ in loaded.unet.named_parameters())
    stock = AnimateDiffSDXLPipeline.from_pretrained(tmp_path)
    stock.set_progress_bar_config(disable=True)
    assert close(frames(stock), frames(pipe, method=None), 1e-5)


def test_the_motion_modules_are_stored_once_and_stay_so_under_to(pipe):
    def shared() -> int:
        ours = {id(p) for p in pipe.unet.parameters()}
        return sum(id(p) in ours for name, p in pipe.weak_unet.named_parameters() if "motion_modules" in name)

    count = sum("motion_modules" in name for name, _ in pipe.unet.named_parameters())
    assert shared() == count > 0
    pipe.to(torch.float64)
    assert shared() == count
    assert pipe.weak_unet.dtype == torch.float64
    assert {p.dtype for p in pipe.weak_unet.parameters()} == {torch.float64}


@pytest.mark.slow
def test_an_image_unet_as_weak_unet_becomes_a_video_unet_with_the_strong_ones_motion(pipe):
    expected = frames(pipe)
    pipe = tiny.pipeline(weak_unet=tiny.unet2d(10))
    assert isinstance(pipe.weak_unet, UNetMotionModel)
    assert torch.equal(frames(pipe), expected)
    with pytest.raises(ValueError, match="`motion_adapter` is None"):
        tiny.pipeline(weak_unet=tiny.unet2d(10), motion_adapter=None)


@pytest.mark.slow
def test_from_pipe_takes_the_parents_components_and_a_weak_unet(pipe):
    expected = frames(pipe)
    new = W2SDAnimateDiffSDXLPipeline.from_pipe(parent_of(pipe), weak_unet=pipe.weak_unet)
    new.set_progress_bar_config(disable=True)
    assert new.unet is pipe.unet and new.weak_unet is pipe.weak_unet
    assert torch.equal(frames(new), expected)
    again = W2SDAnimateDiffSDXLPipeline.from_pipe(new)
    assert again.weak_unet is pipe.weak_unet
    back = AnimateDiffSDXLPipeline.from_pipe(new)
    back.set_progress_bar_config(disable=True)
    assert torch.equal(frames(back), frames(pipe, method=None))


@pytest.mark.slow
def test_from_pipe_takes_an_image_pipeline():
    parts = tiny.components()
    names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    image = StableDiffusionXLPipeline(**{name: parts[name] for name in names}, unet=tiny.unet2d(0))
    pipe = W2SDAnimateDiffSDXLPipeline.from_pipe(image, motion_adapter=tiny.motion_adapter())
    pipe.set_progress_bar_config(disable=True)
    assert torch.equal(frames(pipe, method=None), frames(tiny.pipeline(), method=None))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda dtype: dtype == torch.float16)
def test_half_precision_stays_near_float32(dtype):
    scheduler = tiny.scheduler(timestep_spacing="leading")
    expected = frames(tiny.pipeline(scheduler=scheduler), latents=noise(dtype=torch.float32))
    pipe = tiny.pipeline(scheduler=scheduler).to(dtype)
    ours = frames(pipe, latents=noise(dtype=torch.float32).to(dtype))
    assert ours.dtype == dtype
    assert close(ours.float(), expected, 0.1)


# CPU stands in for the accelerator: the hooks of every policy run, the transfers move nothing.
@pytest.mark.slow
def test_model_offload_gives_the_same_and_leaves_the_hooks_in_order(pipe):
    expected = frames(pipe, output_type="pt")
    pipe.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        assert torch.equal(frames(pipe, output_type="pt"), expected)
    assert torch.equal(frames(pipe, output_type="pt", method=None), frames(parent_of(pipe), output_type="pt"))
    shared = {id(p) for p in pipe.unet.parameters()} & {id(p) for p in pipe.weak_unet.parameters()}
    assert not shared


@pytest.mark.parametrize("kind", [{"offload_type": "leaf_level"}, {"num_blocks_per_group": 1}], ids=["leaf", "block"])
@pytest.mark.slow
@pytest.mark.exhaustive_unless(case=lambda kind: "offload_type" in kind)
def test_group_offload_gives_the_same(pipe, kind):
    expected = frames(pipe, output_type="pt")
    pipe.enable_group_offload(onload_device=torch.device("cpu"), **kind)
    for _ in range(2):
        assert torch.equal(frames(pipe, output_type="pt"), expected)


# Refused ----------------------------------------------------------------------------------------------------

REFUSED = {
    "unknown method": (
        {"method": "sw2d"},
        "`method` has to be one of 'w2sd', .*, None, or an object .*, but is 'sw2d'",
    ),
    "lambda above T": (
        {"reflection_steps": 5},
        "`reflection_steps` has to be from 0 to the number of steps, 4.*5",
    ),
    "lambda below 0": ({"reflection_steps": -1}, "`reflection_steps`.*-1"),
    "guidance nan": ({"guidance_scale": float("nan")}, "`guidance_scale`.*nan"),
    "guidance text": ({"guidance_scale": "3"}, "`guidance_scale`.*'3'"),
    "guidance nan, plain": ({"guidance_scale": float("nan"), "method": None}, "`guidance_scale`.*nan"),
    "too many frames, plain": ({"num_frames": 9, "method": None}, "`num_frames`.*1 to 8.*9"),
    "no steps, plain": ({"num_inference_steps": 0, "method": None}, "`num_inference_steps`.*0"),
    "strong guidance": ({"strong_guidance_scale": float("inf")}, "`strong_guidance_scale`.*inf"),
    "weak guidance": ({"weak_guidance_scale": None}, "`weak_guidance_scale`.*None"),
    "inversion": ({"inversion": "x"}, "`inversion`.*'x'"),
    "convention": ({"convention": "x"}, "`convention`.*'x'"),
    "no steps": (
        {"num_inference_steps": 0},
        "`num_inference_steps` has to be a whole number from 1, but is 0",
    ),
    "negative steps": ({"num_inference_steps": -3}, "`num_inference_steps`.*-3"),
    "too many frames": ({"num_frames": 9}, "`num_frames` has to be a whole number from 1 to 8.*9"),
    "no frames": ({"num_frames": 0}, "`num_frames`.*0"),
    "odd height": ({"height": 9}, "`height` and `width` have to be divisible by 8 but are 9"),
    "no prompt": ({"prompt": None}, "Provide either `prompt`"),
    "batch with sizes": (
        {"prompt": ["a", "b"], "negative_original_size": (8, 8), "negative_target_size": (8, 8)},
        "`negative_original_size` is accepted for one video at a time.*2 prompts",
    ),
    "weak prompts": ({"weak_prompt": ["a", "b"]}, "`weak_prompt` has to be a string or a list of 1 strings"),
    "weak prompt twice": (
        {
            "weak_prompt": "a",
            "weak_prompt_embeds": torch.zeros(1, 7, 16),
            "weak_pooled_prompt_embeds": torch.zeros(1, 8),
        },
        "`weak_prompt` and `weak_prompt_embeds` are both given",
    ),
    "weak embeds of another width": (
        {"weak_prompt_embeds": torch.zeros(1, 7, 17), "weak_pooled_prompt_embeds": torch.zeros(1, 8)},
        "`weak_prompt_embeds` has width 17; accepted: 16",
    ),
    "weak pooled embeds of another width": (
        {"weak_prompt_embeds": torch.zeros(1, 7, 16), "weak_pooled_prompt_embeds": torch.zeros(1, 9)},
        "`weak_pooled_prompt_embeds` has width 9; accepted: 8",
    ),
    "weak embeds unpooled": ({"weak_prompt_embeds": torch.zeros(1, 7, 16)}, "`weak_pooled_prompt_embeds`"),
}


@pytest.fixture(scope="module")
def never_run() -> W2SDAnimateDiffSDXLPipeline:
    """A pipeline whose networks must not run."""
    pipe = tiny.pipeline()

    def never(module, args):
        raise AssertionError("a network ran")

    for network in (pipe.unet, pipe.weak_unet, pipe.text_encoder, pipe.text_encoder_2):
        network.register_forward_pre_hook(never)
    return pipe


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_a_bad_argument_is_refused_before_any_network_runs(never_run, arguments, message):
    with pytest.raises(ValueError, match=message):
        frames(never_run, **arguments)
    assert "forward" not in vars(never_run.unet)


@pytest.mark.slow
def test_a_weak_unet_that_cannot_stand_beside_the_strong_one_is_refused():
    with pytest.raises(ValueError, match="`weak_unet` is in torch.float64 and `unet` in torch.float32"):
        frames(tiny.pipeline(weak_unet=tiny.motion_unet(10).to(torch.float64)))
    with pytest.raises(ValueError, match="`weak_unet` has in_channels 9, and `unet` 4"):
        frames(tiny.pipeline(weak_unet=tiny.unet2d(10, in_channels=9)))
    adapter = tiny.motion_adapter(motion_max_seq_length=2)
    with pytest.raises(ValueError, match="`num_frames` is 3, and `weak_unet` takes at most 2"):
        frames(tiny.pipeline(weak_unet=tiny.motion_unet(10, adapter)))
    assert tiny.pipeline(weak_unet=tiny.motion_unet(10, adapter)).most_frames == 2 < tiny.pipeline().most_frames


def test_an_unknown_argument_is_refused_by_name(pipe):
    with pytest.raises(TypeError, match="weak_guidance"):
        frames(pipe, weak_guidance=1.0)


def test_a_scheduler_without_an_inverse_is_refused_under_the_method_alone():
    pipe = tiny.pipeline(scheduler=EulerAncestralDiscreteScheduler())
    with pytest.raises(ValueError, match="`scheduler` has the class EulerAncestralDiscreteScheduler, which is not "):
        frames(pipe)
    pipe = tiny.pipeline(scheduler=DDIMScheduler())
    with pytest.raises(ValueError, match="clip_sample"):
        frames(pipe)


def test_prompt_embeds_with_weak_text_encoders_ask_for_the_weak_arms_own():
    pipe = tiny.pipeline(weak_text_encoder=tiny.text_encoders(30)[0])
    cond, uncond, pooled, uncond_pooled = pipe.encode_prompt("a cat")
    embeds = {
        "prompt": None,
        "prompt_embeds": cond,
        "negative_prompt_embeds": uncond,
        "pooled_prompt_embeds": pooled,
        "negative_pooled_prompt_embeds": uncond_pooled,
    }
    with pytest.raises(ValueError, match="pass `weak_prompt`, or `weak_prompt_embeds`"):
        frames(pipe, **embeds)
    assert frames(pipe, **embeds, weak_prompt="a cat").isfinite().all()
