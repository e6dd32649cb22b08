"""The scheduler against diffusers' own, and each side's schedulers with the other's models."""

import json
import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from small_slot_unet import build, slots_for

from models import LatentDDPMScheduler

OURS = {"beta_start": 0.0015, "beta_end": 0.0195, "clip_sample": False}  # our defaults, told to diffusers
SHAPE = (2, 3, 4, 4)


def pair(**fields) -> tuple[LatentDDPMScheduler, DDPMScheduler]:
    return LatentDDPMScheduler(**fields), DDPMScheduler(**{**OURS, **fields})


def noise(seed: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- The schedule and the forward process -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"beta_schedule": "scaled_linear"},
        {"num_train_timesteps": 7, "beta_start": 0.1, "beta_end": 0.5},
        {"num_train_timesteps": 3, "trained_betas": [0.1, 0.3, 0.2]},
    ],
)
def test_schedule_equals_diffusers(fields):
    ours, theirs = pair(**fields)
    for name in ("betas", "alphas", "alphas_cumprod"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=1e-6, rtol=1e-5)
    assert torch.equal(ours.timesteps, theirs.timesteps) and len(ours) == len(theirs)
    assert ours.init_noise_sigma == theirs.init_noise_sigma == 1.0 and ours.order == theirs.order


def test_the_default_schedule_by_hand():
    scheduler = LatentDDPMScheduler()
    assert scheduler.betas[0].item() == pytest.approx(0.0015) and scheduler.betas[-1].item() == pytest.approx(0.0195)
    assert scheduler.betas[499].item() == pytest.approx(0.0015 + 0.018 * 499 / 999)
    product = math.prod(1 - (0.0015 + 0.018 * t / 999) for t in range(600))
    assert scheduler.alphas_cumprod[599].item() == pytest.approx(product, rel=1e-6)
    scaled = LatentDDPMScheduler(beta_schedule="scaled_linear")
    root = math.sqrt(0.0015) + (math.sqrt(0.0195) - math.sqrt(0.0015)) * 499 / 999
    assert scaled.betas[499].item() == pytest.approx(root**2)
    assert len(scheduler) == 1000 and not scheduler.config.clip_sample


def test_forward_process_and_velocity_equal_diffusers():
    ours, theirs = pair()
    x_0, eps, t = noise(0, (5, 3, 4, 4)), noise(1, (5, 3, 4, 4)), torch.tensor([0, 1, 500, 998, 999])
    torch.testing.assert_close(ours.add_noise(x_0, eps, t), theirs.add_noise(x_0, eps, t), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.get_velocity(x_0, eps, t), theirs.get_velocity(x_0, eps, t), atol=1e-5, rtol=1e-5)
    a = ours.alphas_cumprod[500]
    torch.testing.assert_close(ours.add_noise(x_0, eps, t)[2], a.sqrt() * x_0[2] + (1 - a).sqrt() * eps[2])
    half = ours.add_noise(x_0.bfloat16(), eps.bfloat16(), t)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), ours.add_noise(x_0, eps, t), atol=0.03, rtol=0.02)
    for kind, target in (("epsilon", eps), ("sample", x_0), ("v_prediction", ours.get_velocity(x_0, eps, t))):
        assert torch.equal(LatentDDPMScheduler(prediction_type=kind).training_target(x_0, eps, t), target)


# --- The ancestral step -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timesteps", [[0, -1], [1000, 0], -1])
def test_noise_is_added_at_timesteps_of_the_chain_only(timesteps):
    scheduler = LatentDDPMScheduler()
    for method in (scheduler.add_noise, scheduler.get_velocity):
        with pytest.raises(ValueError, match=r"timesteps run from .*: the chain has 0 to 999"):
            method(noise(1)[:2], noise(2)[:2], torch.tensor(timesteps))


@pytest.mark.parametrize("steps", [1000, 50])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_a_run_equals_diffusers_step_by_step(steps, prediction_type):
    ours, theirs = pair(prediction_type=prediction_type)
    ours.set_timesteps(steps)
    theirs.set_timesteps(steps)
    assert torch.equal(ours.timesteps, theirs.timesteps) and ours.timesteps.dtype == theirs.timesteps.dtype
    x = y = noise(0)
    first, second = generator(1), generator(1)
    for i, t in enumerate(ours.timesteps):
        output = torch.tanh(x + math.sin(i))  # any function of the sample does for a model
        own = ours.step(output, t, x, generator=first)
        theirs_here = theirs.step(output, t, x, generator=generator(i)).prev_sample
        own_here = ours.step(output, t, x, generator=generator(i)).prev_sample
        torch.testing.assert_close(own_here, theirs_here, atol=2e-5, rtol=2e-5)
        other = theirs.step(torch.tanh(y + math.sin(i)), t, y, generator=second)
        x, y = own.prev_sample, other.prev_sample
    torch.testing.assert_close(x, y, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(own.pred_original_sample, other.pred_original_sample, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("steps", [1, 7, 30])
def test_spacings_and_variances_equal_diffusers(spacing, variance_type, steps):
    ours, theirs = pair(timestep_spacing=spacing, variance_type=variance_type, num_train_timesteps=100)
    ours.set_timesteps(steps)
    theirs.set_timesteps(steps)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    for t in ours.timesteps:
        values = [s.step(noise(1), t, noise(2), generator=generator()).prev_sample for s in (ours, theirs)]
        torch.testing.assert_close(*values, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("steps", range(1, 101))
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_every_number_of_steps_has_diffusers_timesteps(spacing, steps):
    ours, theirs = pair(timestep_spacing=spacing, num_train_timesteps=100)
    ours.set_timesteps(steps)
    theirs.set_timesteps(steps)
    # for some numbers theirs ends with one step too many, at timestep -1
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()[:steps] and ours.num_inference_steps == steps
    assert min(theirs.timesteps.tolist()[steps:], default=-1) == -1 and ours.timesteps.min() >= 0


def test_own_timesteps_offset_and_clipping_equal_diffusers():
    ours, theirs = pair(clip_sample=True, clip_sample_range=0.7, steps_offset=1)
    for arguments in ({"timesteps": [900, 300, 299, 5]}, {"num_inference_steps": 10}):
        ours.set_timesteps(**arguments)
        theirs.set_timesteps(**arguments)
        assert ours.timesteps.tolist() == theirs.timesteps.tolist()
        for t in ours.timesteps:
            own, other = (s.step(noise(1), t, noise(2), generator=generator()) for s in (ours, theirs))
            torch.testing.assert_close(own.prev_sample, other.prev_sample, atol=2e-5, rtol=2e-5)
            assert own.pred_original_sample.abs().max() <= 0.7


def test_before_set_timesteps_the_whole_chain_is_walked():
    ours, theirs = pair()
    for t in (999, 400, 1, 0):
        values = [s.step(noise(1), t, noise(2), generator=generator()).prev_sample for s in (ours, theirs)]
        torch.testing.assert_close(*values, atol=2e-5, rtol=2e-5)


def test_the_step_recovers_x_0_and_has_the_posteriors_moments():
    scheduler = LatentDDPMScheduler()
    x_0, eps = noise(0, (20_000, 1)), noise(1, (20_000, 1))
    x_t = scheduler.add_noise(x_0, eps, torch.full((20_000,), 300))
    result = scheduler.step(eps, 300, x_t, generator=generator(2))
    torch.testing.assert_close(result.pred_original_sample, x_0, atol=1e-4, rtol=1e-4)
    # x_0 and eps are unit normals, so every x_t is one: the step must keep that
    assert result.prev_sample.mean().item() == pytest.approx(0, abs=0.02)
    assert result.prev_sample.std().item() == pytest.approx(1, abs=0.02)
    expected = scheduler.add_noise(x_0, eps, torch.full((20_000,), 299))
    assert (result.prev_sample - expected).std() < 0.2  # the same sample, one step earlier


def test_given_noise_generators_and_dtypes():
    scheduler = LatentDDPMScheduler()
    drawn = scheduler.step(noise(1), 500, noise(2), generator=generator(3)).prev_sample
    given = scheduler.step(noise(1), 500, noise(2), variance_noise=noise(3)).prev_sample
    assert torch.equal(drawn, given)
    each = scheduler.step(noise(1), 500, noise(2), generator=[generator(3), generator(4)]).prev_sample
    alone = scheduler.step(noise(1)[1:], 500, noise(2)[1:], generator=generator(4)).prev_sample
    assert torch.equal(each[1:], alone)  # a sample's picture does not depend on its batch
    with pytest.raises(ValueError, match="1 generators for a batch of 2"):
        scheduler.step(noise(1), 500, noise(2), generator=[generator()])
    before, x_0 = scheduler.step(noise(1), 500, noise(2), generator=generator(3), return_dict=False)
    assert torch.equal(before, drawn) and x_0.shape == SHAPE
    half = scheduler.step(noise(1).bfloat16(), 500, noise(2).bfloat16(), variance_noise=noise(3)).prev_sample
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), drawn, atol=0.03, rtol=0.02)
    sample = noise(2)
    assert scheduler.scale_model_input(sample, 3) is sample


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beta_start": 0.0}, r"beta_start=0.0 .*\(0, 1\)"),
        ({"beta_start": 0.2, "beta_end": 0.1}, "not falling"),
        ({"beta_end": math.nan}, "beta_end=nan"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule='sigmoid'.*linear, scaled_linear"),
        ({"variance_type": "learned"}, "variance_type='learned'"),
        ({"prediction_type": "noise"}, "prediction_type='noise'.*epsilon, sample, v_prediction"),
        ({"timestep_spacing": "log"}, "timestep_spacing='log'"),
        ({"num_train_timesteps": 0}, "num_train_timesteps=0"),
        ({"trained_betas": [0.1, 0.2]}, r"trained_betas has shape \[2\] instead of .*1000"),
        ({"trained_betas": [0.1, 1.2], "num_train_timesteps": 2}, r"trained_betas must all be in \(0, 1\)"),
    ],
)
def test_config_refuses_a_value_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        LatentDDPMScheduler(**fields)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps=0 must be from 1 to 1000"),
        ({"num_inference_steps": 1001}, "num_inference_steps=1001"),
        ({}, "either num_inference_steps or timesteps"),
        ({"num_inference_steps": 5, "timesteps": [3]}, "either num_inference_steps or timesteps"),
        ({"timesteps": []}, "falling"),
        ({"timesteps": [3, 3]}, "falling"),
        ({"timesteps": [1000, 3]}, r"\[0, 1000\)"),
        ({"timesteps": [3, -1]}, r"\[0, 1000\)"),
    ],
)
def test_bad_steps_give_one_clear_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        LatentDDPMScheduler().set_timesteps(**arguments)


def test_a_timestep_that_is_not_of_this_run():
    scheduler = LatentDDPMScheduler()
    scheduler.set_timesteps(10)
    with pytest.raises(ValueError, match="timestep 17 is none of the 10 of this run"):
        scheduler.step(noise(1), 17, noise(2))
    with pytest.raises(ValueError, match="steps_offset=200 leads beyond"):
        LatentDDPMScheduler(steps_offset=200).set_timesteps(10)


# --- Exchange with diffusers ------------------------------------------------------------------------------------------


def test_save_and_load(tmp_path):
    scheduler = LatentDDPMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction")
    scheduler.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert saved["_class_name"] == "LatentDDPMScheduler" and saved["beta_start"] == 0.0015
    loaded = LatentDDPMScheduler.from_pretrained(tmp_path)
    assert type(loaded) is LatentDDPMScheduler and dict(loaded.config) == dict(scheduler.config)
    assert torch.equal(loaded.betas, scheduler.betas)
    for library in (DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler):
        torch.testing.assert_close(library.from_pretrained(tmp_path).betas, scheduler.betas, atol=1e-7, rtol=1e-5)
    own = LatentDDPMScheduler(num_train_timesteps=3, trained_betas=np.array([0.1, 0.2, 0.4]))
    own.save_pretrained(tmp_path / "own")
    assert torch.equal(LatentDDPMScheduler.from_pretrained(tmp_path / "own").betas, own.betas)


@pytest.mark.parametrize("library", [DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("fields", [{}, {"beta_start": 0.0001, "beta_end": 0.02, "prediction_type": "v_prediction"}])
def test_from_config_both_ways_keeps_every_value(library, fields):
    """Also those equal to one class's defaults, which the library itself drops."""
    ours = LatentDDPMScheduler(**fields)
    theirs = library.from_config(ours.config)
    torch.testing.assert_close(theirs.betas, ours.betas, atol=1e-7, rtol=1e-5)
    shared = set(ours.config) & set(library().config) - {"_class_name", "_diffusers_version"}
    assert {"beta_start", "prediction_type", "timestep_spacing"} <= shared
    assert {name: theirs.config[name] for name in shared} == {name: ours.config[name] for name in shared}
    back = LatentDDPMScheduler.from_config(theirs.config)
    names = [name for name in ours.config if not name.startswith("_")]
    assert {name: back.config[name] for name in names} == {name: ours.config[name] for name in names}

    fresh = library()  # whose defaults are not ours
    own = LatentDDPMScheduler.from_config(fresh.config)
    torch.testing.assert_close(own.betas, fresh.betas, atol=1e-7, rtol=1e-5)
    assert own.config.variance_type == "fixed_small"
    assert own.config.clip_sample == fresh.config.get("clip_sample", False)
    assert LatentDDPMScheduler.from_config(ours.config, beta_end=0.3).config.beta_end == 0.3


def test_from_config_refuses_what_is_not_done_here():
    with pytest.raises(ValueError, match="thresholding=True is not known here"):
        LatentDDPMScheduler.from_config(DDPMScheduler(thresholding=True).config)
    with pytest.raises(ValueError, match="beta_schedule='squaredcos_cap_v2'"):
        LatentDDPMScheduler.from_config(DDPMScheduler(beta_schedule="squaredcos_cap_v2").config)


@torch.no_grad()
def sample(scheduler, predict, steps: int, start: torch.Tensor) -> torch.Tensor:
    """The loop of diffusers' pipelines."""
    scheduler.set_timesteps(steps)
    latents = start * scheduler.init_noise_sigma
    first = generator(9)
    for t in scheduler.timesteps:
        output = predict(scheduler.scale_model_input(latents, t), t)
        arguments = {} if isinstance(scheduler, DPMSolverMultistepScheduler) else {"generator": first}
        latents = scheduler.step(output, t, latents, **arguments).prev_sample
    return latents


def test_our_unet_samples_with_diffusers_ddim_and_dpm_solver():
    unet, slots, ours = build().eval(), slots_for(2), LatentDDPMScheduler()
    start = noise(0, (2, 3, 8, 8))

    def predict(x, t):
        return unet(x, t, encoder_hidden_states=slots).sample

    reference = sample(DDPMScheduler(**OURS), predict, 5, start)
    torch.testing.assert_close(sample(ours, predict, 5, start), reference, atol=1e-4, rtol=1e-4)
    ddim = sample(DDIMScheduler.from_config(ours.config), predict, 5, start)
    told = DDIMScheduler(**OURS, timestep_spacing="leading")
    torch.testing.assert_close(ddim, sample(told, predict, 5, start), atol=1e-5, rtol=1e-5)
    solver = sample(DPMSolverMultistepScheduler.from_config(ours.config), predict, 5, start)
    told = DPMSolverMultistepScheduler(beta_start=0.0015, beta_end=0.0195, timestep_spacing="leading")
    torch.testing.assert_close(solver, sample(told, predict, 5, start), atol=1e-4, rtol=1e-4)
    assert all(result.isfinite().all() for result in (ddim, solver)) and not torch.equal(ddim, solver)


def test_the_three_samplers_find_the_same_data():
    """With the exact noise prediction of data that is one point, every sampler must arrive there."""
    ours = LatentDDPMScheduler()
    point = noise(3)

    def predict(x, t):
        a = ours.alphas_cumprod[int(t)]
        return (x - a.sqrt() * point) / (1 - a).sqrt()

    for scheduler in (ours, *(c.from_config(ours.config) for c in (DDIMScheduler, DPMSolverMultistepScheduler))):
        torch.testing.assert_close(sample(scheduler, predict, 20, noise(4)), point, atol=0.05, rtol=0.05)


def test_diffusers_unet_samples_with_our_scheduler():
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()
    start = noise(0, (2, 3, 8, 8))
    ours, theirs = (sample(s, lambda x, t: unet(x, t).sample, 8, start) for s in pair())
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
