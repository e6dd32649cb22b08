"""Sampling of slot diffusion: against the papers' equations written out, other schedulers driven by hand, bad input."""

import re
import warnings

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from small_slot_diffusion import build, images, slots_for
from transformers import BitImageProcessor

from models import SlotDiffusionPipeline, SlotUNetModel

QUIET = {"progress_bar": False}


def noise_of(seed: int, stream: int, sample_id: int) -> torch.Generator:
    """The contract of a sample's noise: 1 is the stream of latents, 2 that of slots."""
    state = np.random.SeedSequence([seed, stream, sample_id]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


@pytest.fixture(scope="module")
def short():
    """A chain of 30 steps."""
    return SlotDiffusionPipeline(build(num_train_timesteps=30, beta_end=0.2, latent_scale=0.7))


# --- Against the equations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [30, 10])
def test_ancestral_sampling_is_algorithm_2(short, steps):
    model, slots = short.model, slots_for(2)
    made = short(slots, seed=11, sample_ids=[5, 2], num_inference_steps=steps, **QUIET)

    betas = np.linspace(0.0015, 0.2, 30)
    abar = np.cumprod(1 - betas)
    times = [i * (30 // steps) for i in range(steps)][::-1]
    expected = []
    for row, sample_id in enumerate([5, 2]):
        generator = noise_of(11, 1, sample_id)
        x = torch.randn(3, 4, 4, generator=generator)[None]
        for t, before in zip(times, [*times[1:], None], strict=True):
            with torch.no_grad():
                epsilon = model.unet(x, t, slots[row : row + 1]).sample
            a_t, a_before = abar[t], 1.0 if before is None else abar[before]
            alpha = a_t / a_before
            mean = (x - (1 - alpha) / (1 - a_t) ** 0.5 * epsilon) / alpha**0.5  # equation 11
            deviation = ((1 - a_before) / (1 - a_t) * (1 - alpha)) ** 0.5  # section 3.2
            x = mean if before is None else mean + deviation * torch.randn(1, 3, 4, 4, generator=generator)
        expected.append(x)
    latents = torch.cat(expected)
    torch.testing.assert_close(made.latents, latents, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        pictures = model.vae.decode(latents / 0.7).clamp(-1, 1)
    torch.testing.assert_close(made.images, pictures, rtol=1e-3, atol=1e-3)
    assert torch.equal(made.slots, slots) and made.masks is None


@pytest.mark.parametrize("name", ["ddim", "dpmsolver++"])
def test_other_samplers_are_the_librarys_driven_by_hand(name):
    pipeline, slots = SlotDiffusionPipeline(build()), slots_for(3)
    made = pipeline(slots, seed=4, scheduler=name, num_inference_steps=7, batch_size=2, **QUIET)
    fields = {
        "num_train_timesteps": 1000,
        "beta_start": 0.0015,
        "beta_end": 0.0195,
        "beta_schedule": "linear",
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
    }
    if name == "ddim":
        scheduler = DDIMScheduler(**fields, clip_sample=False, steps_offset=0)
    else:
        scheduler = DPMSolverMultistepScheduler(**fields, algorithm_type="dpmsolver++", steps_offset=0)
    scheduler.set_timesteps(7)
    x = torch.stack([torch.randn(3, 4, 4, generator=noise_of(4, 1, i)) for i in range(3)])
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(pipeline.model.unet(x, t, slots).sample, t, x).prev_sample
    torch.testing.assert_close(made.latents, x, rtol=1e-3, atol=1e-4)


def test_an_instance_of_another_scheduler_with_noise_of_its_own(short):
    slots = slots_for(3)
    ours = short(slots, seed=2, **QUIET)
    library = DDPMScheduler(30, beta_start=0.0015, beta_end=0.2, clip_sample=False, timestep_spacing="leading")
    theirs = short(slots, seed=2, scheduler=library, num_inference_steps=30, **QUIET)
    torch.testing.assert_close(ours.latents, theirs.latents, rtol=1e-3, atol=1e-4)
    assert library.num_inference_steps is None  # as it was
    with pytest.raises(ValueError, match="give num_inference_steps, or a DDPMScheduler on which set_timesteps"):
        short(slots, scheduler=library, **QUIET)
    library.set_timesteps(30)
    assert torch.equal(theirs.latents, short(slots, seed=2, scheduler=library, **QUIET).latents)
    heun = HeunDiscreteScheduler(30, beta_start=0.0015, beta_end=0.2, beta_schedule="linear")
    assert short(slots, scheduler=heun, num_inference_steps=3, **QUIET).latents.isfinite().all()


LIBRARYS = [DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler]
LIBRARYS += [LMSDiscreteScheduler, PNDMScheduler, UniPCMultistepScheduler]


@pytest.mark.parametrize("library", LIBRARYS)
def test_schedulers_of_the_models_chain_sample_and_those_of_another_are_told(short, library):
    slots, own = slots_for(1), short.model.scheduler().config
    options = {"slots": slots, "num_inference_steps": 5, **QUIET}
    made = short(**options, scheduler=library.from_config(own)).latents
    assert made.isfinite().all()
    cases = {
        "prediction_type 'sample' instead of 'epsilon'": {"prediction_type": "sample"},
        "num_train_timesteps 50 instead of 30": {"num_train_timesteps": 50},
        r"other betas \(alphas_cumprod\[\d+\] is": {"beta_schedule": "scaled_linear"},
        r"other betas .*alphas_cumprod\[29\]": {"beta_end": 0.19},
    }
    for message, fields in cases.items():
        message = f"this {library.__name__} does not fit the model's chain: it has {message}"
        with pytest.raises(ValueError, match=message) as caught:
            short(**options, scheduler=library.from_config(own, **fields))
        assert len(str(caught.value).splitlines()) == 1


def test_a_long_chain_of_the_librarys_is_the_models_and_what_has_none_is_told():
    for schedule in ("linear", "scaled_linear"):  # diffusers multiplies in single precision
        pipeline = SlotDiffusionPipeline(build(beta_schedule=schedule))
        scheduler = DDIMScheduler(1000, 0.0015, 0.0195, beta_schedule=schedule, clip_sample=False)
        assert pipeline(slots_for(1), scheduler=scheduler, num_inference_steps=2, **QUIET).latents.isfinite().all()
    with pytest.raises(ValueError, match=r"prediction_type None instead of 'epsilon', no alphas_cumprod"):
        pipeline(slots_for(1), scheduler=FlowMatchEulerDiscreteScheduler(), num_inference_steps=2, **QUIET)


@pytest.mark.parametrize("library", [DPMSolverMultistepScheduler, UniPCMultistepScheduler, PNDMScheduler])
def test_a_scheduler_that_has_been_used_begins_anew(short, library):
    slots, scheduler = slots_for(2), library.from_config(short.model.scheduler().config)
    expected = short(slots, scheduler=scheduler, num_inference_steps=4, **QUIET).latents
    scheduler.set_timesteps(4)
    sample = torch.randn(2, 3, 4, 4)
    for t in scheduler.timesteps:
        sample = scheduler.step(sample, t, sample).prev_sample
    assert torch.equal(short(slots, scheduler=scheduler, **QUIET).latents, expected)


def test_a_scheduler_that_clips_by_default_does_not_clip_latents():
    pipeline = SlotDiffusionPipeline(build(num_train_timesteps=30, beta_end=0.2, latent_scale=0.2))
    own = pipeline.model.scheduler()
    chain = {name: own.config[name] for name in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")}
    clipping = DDIMScheduler(**chain)
    assert clipping.config.clip_sample
    options = {"slots": slots_for(2), "seed": 3, "num_inference_steps": 10, **QUIET}
    latents = pipeline(scheduler=clipping, **options).latents
    assert latents.abs().max() > 1.0 and clipping.config.clip_sample  # the caller's is left as it is
    plain = DDIMScheduler(**chain, clip_sample=False)
    torch.testing.assert_close(latents, pipeline(scheduler=plain, **options).latents)


def test_pictures_are_seen_as_in_training(short):
    turned = Image.new("RGBA", (8, 4), (255, 0, 0, 0))  # transparent: white
    seen = short._pixel_values(turned)
    torch.testing.assert_close(seen, torch.ones_like(seen))
    with pytest.raises(ValueError, match="mode 'I;16' has more than 8 bits"):
        short._pixel_values(Image.new("I;16", (8, 8)))


def test_timesteps_given_one_by_one(short):
    slots, own = slots_for(1), short.model.scheduler()
    own.set_timesteps(timesteps=[28, 11, 3])
    ours = short(slots, scheduler=own, **QUIET).latents
    own.set_timesteps(3)
    assert not torch.allclose(ours, short(slots, scheduler=own, **QUIET).latents)
    library = DPMSolverMultistepScheduler.from_config(own.config)
    library.set_timesteps(timesteps=[28, 11, 3])
    assert short(slots, scheduler=library, **QUIET).latents.isfinite().all()
    library.step(torch.zeros(1, 3, 4, 4), library.timesteps[0], torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="this DPMSolverMultistepScheduler has been used; call its set_timesteps"):
        short(slots, scheduler=library, **QUIET)


def test_dpm_solver_takes_one_step_less_than_the_chain_has(short):
    slots = torch.randn(1, 3, short.model.config.slot_size)
    assert short(slots, scheduler="dpmsolver++", num_inference_steps=29, **QUIET).latents.isfinite().all()
    with pytest.raises(ValueError, match="num_inference_steps=30 is not possible: it must be from 1 to 29"):
        short(slots, scheduler="dpmsolver++", num_inference_steps=30, **QUIET)


def test_numbers_of_steps(short, monkeypatch):
    times, own = [], SlotUNetModel.forward

    def counted(self, sample, timestep, *args, **kwargs):
        times.append(int(timestep))
        return own(self, sample, timestep, *args, **kwargs)

    monkeypatch.setattr(SlotUNetModel, "forward", counted)
    for name, steps in (("ddpm", 30), ("ddim", 30), ("dpmsolver++", 20)):  # at most the length of the chain
        times.clear()
        short(slots_for(1), scheduler=name, **QUIET)
        assert len(times) == steps and times == sorted(times, reverse=True), name
    times.clear()
    short(slots_for(1), num_inference_steps=1, **QUIET)
    assert times == [0]


# --- What a picture depends on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["ddpm", "dpmsolver++"])
def test_neither_batch_size_nor_company_change_a_picture(short, scheduler):
    options = {"seed": 3, "scheduler": scheduler, **QUIET}
    slots = slots_for(5)
    whole = short(slots, **options)
    for batch_size in (1, 2):
        parts = short(slots, batch_size=batch_size, **options)
        torch.testing.assert_close(parts.latents, whole.latents, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(parts.images, whole.images, rtol=1e-4, atol=1e-4)
    alone = short(slots[[4, 1]], sample_ids=[4, 1], **options)
    torch.testing.assert_close(alone.latents, whole.latents[[4, 1]], rtol=1e-4, atol=1e-5)


def test_seed_and_sample_id_choose_the_noise(short):
    slots = slots_for(1).expand(3, -1, -1)
    options = {"num_inference_steps": 3, **QUIET}
    made = short(slots, sample_ids=[0, 1, 0], **options).latents
    assert torch.equal(made[0], made[2]) and not torch.equal(made[0], made[1])
    assert not torch.equal(short(slots, seed=1, **options).latents[0], made[0])
    drawn = [short(slots, seed=torch.Generator().manual_seed(9), **options).latents for _ in range(2)]
    assert torch.equal(*drawn)
    generator = torch.Generator().manual_seed(9)
    first, second = (short(slots, seed=generator, **options).latents for _ in range(2))
    assert torch.equal(first, drawn[0]) and not torch.equal(first, second)
    named = short(slots, generator=torch.Generator().manual_seed(9), scheduler=None, **options).latents
    assert torch.equal(named, first)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    short(slots, **options)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_nothing_is_dropped_out_after_training():
    pipeline = SlotDiffusionPipeline(build(unet_config={"dropout": 0.5}))
    options = {"num_inference_steps": 2, **QUIET}
    expected = pipeline(slots_for(2), **options).latents
    pipeline.model.train()
    assert torch.equal(pipeline(slots_for(2), **options).latents, expected)


def test_latents_to_begin_with(short):
    slots = slots_for(2)
    first = torch.stack([torch.randn(3, 4, 4, generator=noise_of(0, 1, i)) for i in range(2)])
    assert torch.equal(short(slots, latents=first, **QUIET).latents, short(slots, **QUIET).latents)
    other = short(slots, latents=torch.zeros(2, 3, 4, 4), **QUIET).latents
    assert not torch.allclose(other, short(slots, **QUIET).latents)


def test_what_slots_give_is_computed_once_per_batch(short, monkeypatch):
    calls, own = [], SlotUNetModel.precompute

    def counted(self, slots, timesteps):
        calls.append((len(slots), len(timesteps)))
        return own(self, slots, timesteps)

    monkeypatch.setattr(SlotUNetModel, "precompute", counted)
    short(slots_for(5), batch_size=2, num_inference_steps=4, **QUIET)
    assert calls == [(2, 4), (2, 4), (1, 4)]


# --- Images in, images out --------------------------------------------------------------------------------------------


def test_from_an_image_by_way_of_its_slots(short):
    given = images(3)
    made = short(image=given, seed=6, batch_size=2, **QUIET)
    noise = torch.stack([torch.randn(3, 8, generator=noise_of(6, 2, i)) for i in range(3)])
    with torch.no_grad():
        slots, attention = short.model.encode_slots(given, noise)
    torch.testing.assert_close(made.slots, slots, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.masks, short.model.masks(attention), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.latents, short(slots=slots, seed=6, **QUIET).latents, rtol=1e-3, atol=1e-4)
    assert short(image=given, num_slots=5, num_inference_steps=1, **QUIET).masks.shape == (3, 5, 16, 16)
    fewer = short(slots=made.slots[:, :2], num_inference_steps=1, **QUIET)  # an object removed
    assert fewer.slots.shape == (3, 2, 8)


def test_learned_slots_have_their_number():
    pipeline = SlotDiffusionPipeline(build(slot_config={"slot_init": "learned"}))
    assert pipeline(image=images(), num_inference_steps=1, **QUIET).slots.shape == (2, 3, 8)
    with pytest.raises(ValueError, match="num_slots=5: slot_init='learned' has 3"):
        pipeline(image=images(), num_slots=5, num_inference_steps=1, **QUIET)


def test_pictures_in_and_out(short):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    options = {"num_inference_steps": 2, **QUIET}
    by_tensor = short(image=tensor, **options)
    by_picture = short(image=Image.fromarray(pixels), **options)
    torch.testing.assert_close(by_picture.slots, by_tensor.slots, rtol=1e-4, atol=1e-5)
    wide = [Image.fromarray(pixels).resize((64, 32)), Image.fromarray(pixels).convert("L")]
    drawn = short(image=wide, output_type="pil", **options)
    assert [picture.size for picture in drawn.images] == [(16, 16)] * 2
    as_tensor = short(image=wide, **options).images
    assert as_tensor.shape == (2, 3, 16, 16) and as_tensor.abs().max() <= 1
    expected = ((as_tensor[1] + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(drawn.images[1]), expected.astype(np.uint8))


def test_progress(short, capsys):
    short(slots_for(3), num_inference_steps=4, batch_size=2)
    assert "8/8" in capsys.readouterr().err
    short(slots_for(3), num_inference_steps=4, **QUIET)
    assert capsys.readouterr().err == ""


def test_from_a_run_folder(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    options = {"slots": slots_for(2), "num_inference_steps": 2, **QUIET}
    expected = model.pipeline()(**options).latents
    pipeline = SlotDiffusionPipeline.from_pretrained(tmp_path)
    torch.testing.assert_close(pipeline(**options).latents, expected, rtol=1e-4, atol=1e-5)
    assert pipeline.processor.size["shortest_edge"] == 16
    BitImageProcessor(image_mean=[0.25] * 3).save_pretrained(tmp_path)
    half = SlotDiffusionPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16).to("cpu")
    assert list(half.processor.image_mean) == [0.25] * 3 and half.device.type == "cpu"
    made = half(**options)
    assert made.latents.dtype == made.images.dtype == torch.float32
    torch.testing.assert_close(made.latents, expected, rtol=0.1, atol=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(pipeline(**options).latents, expected, rtol=0.1, atol=0.3)


def test_from_a_subfolder_comes_its_own_processor(tmp_path):
    build().save_pretrained(tmp_path / "sub")
    BitImageProcessor(size={"shortest_edge": 20}).save_pretrained(tmp_path / "sub")
    pipeline = SlotDiffusionPipeline.from_pretrained(tmp_path, subfolder="sub")
    assert pipeline.processor.size["shortest_edge"] == 20
    pipeline = SlotDiffusionPipeline.from_pretrained(str(tmp_path / "sub"), local_files_only=True)
    assert pipeline.processor.size["shortest_edge"] == 20


@pytest.mark.parametrize(
    ("scheduler", "steps", "warned"), [("ddim", 50, False), ("ddim", 501, True), ("dpmsolver++", 20, False)]
)
def test_a_start_far_from_the_chains_end_is_warned_of(scheduler, steps, warned):
    """`ddim` in 501 steps begins at t = 500, where abar still is 0.22 squared."""
    pipeline = SlotDiffusionPipeline(build(num_train_timesteps=1000))
    pipeline.model.unet.forward = lambda latents, *_, **__: (torch.zeros_like(latents),)
    options = {"scheduler": scheduler, "num_inference_steps": steps, **QUIET}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        pipeline(slots_for(1), **options)
        pipeline(slots_for(1), latents=torch.zeros(1, 3, 4, 4), **options)  # as somebody wants it
    told = [str(entry.message) for entry in told if "sampling begins" in str(entry.message)]
    assert len(told) == int(warned)
    if warned:
        assert "timestep 500 of 1000, at which training saw 22% of the picture" in told[0]


def test_slots_of_any_kind_of_numbers(short):
    slots, options = slots_for(2), {"num_inference_steps": 2, **QUIET}
    expected = short(slots, **options).latents
    read_only = slots.double().numpy()
    read_only.flags.writeable = False
    for given in (slots.numpy(), read_only, slots.tolist()):
        assert torch.equal(short(given, **options).latents, expected)
    nearly = images(1).clamp(-1, 1)
    nearly[0, 0, 0, 0] = 1.004  # as resizing overshoots
    assert short(image=nearly, **options).latents.isfinite().all()


@pytest.mark.parametrize("part", ["unet.", "slot_encoder.", "vae."])
@pytest.mark.parametrize("how", ["missing", "another shape"])
def test_a_folder_that_lacks_weights_does_not_load(part, how, tmp_path, caplog):
    build().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    names = sorted(name for name in state if name.startswith(part))
    for name in names:
        if how == "missing":
            del state[name]
        else:
            state[name] = torch.zeros(*state[name].shape, 2)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"{tmp_path}: .*{re.escape(names[0])}.*take another copy") as caught:
        SlotDiffusionPipeline.from_pretrained(tmp_path)
    assert len(str(caught.value).splitlines()) == 1 and "LOAD REPORT" not in caplog.text
