"""Sampling of slot diffusion: bad input is one clear error."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from small_slot_diffusion import build, images, slots_for

from models import SlotDiffusionPipeline

QUIET = {"progress_bar": False}


@pytest.fixture(scope="module")
def short():
    """A chain of 30 steps."""
    return SlotDiffusionPipeline(build(num_train_timesteps=30, beta_end=0.2))


def spoiled(count: int) -> torch.Tensor:
    slots = slots_for(count)
    slots[1, 0, 0] = float("nan")
    return slots


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either slots or image"),
        ({"slots": slots_for(2), "image": images()}, "give either slots or image"),
        ({"slots": spoiled(3)}, r"slots hold values that are not finite .* first in sample 1"),
        ({"slots": torch.zeros(2, 3, 9)}, r"slots have shape \[2, 3, 9\]: they must be \[N, K, 8\]"),
        ({"slots": torch.zeros(2, 8)}, r"slots have shape \[2, 8\]"),
        ({"slots": torch.zeros(0, 3, 8)}, r"slots have shape \[0, 3, 8\]"),
        ({"slots": slots_for(2), "num_slots": 4}, r"num_slots=4, but the slots given are 3"),
        ({"image": images(2, 32)}, r"image has shape \[2, 3, 32, 32\]: it must be \[N, 3, 16, 16\]"),
        ({"image": images() * float("inf")}, "image hold values that are not finite"),
        ({"image": images() * float("nan")}, "image hold values that are not finite"),
        ({"image": images() * 127.5 + 127.5}, r"image holds .* to 25\d.*: it must be .*\[-1, 1\]; divide .* by 127.5"),
        ({"image": images().abs() - 1.1}, r"image holds .*from -1.0.*\[-1, 1\]"),
        ({"image": (images() * 127 + 127).byte()}, r"image holds torch.uint8 from 0 to 25\d.*must be floating point"),
        ({"image": torch.ones(1, 3, 16, 16, dtype=torch.uint8)}, "image holds torch.uint8 from 1 to 1: "),
        ({"image": images(), "num_slots": -1}, "num_slots=-1 is not possible: it must be an integer of at least 1"),
        ({"image": images(), "num_slots": 0}, "num_slots=0 is not possible"),
        ({"slots": [[[1.0], [2.0, 3.0]]]}, "slots must be numbers of one shape"),
        ({"slots": "slots"}, "slots must be numbers"),
        ({"slots": np.zeros((2, 3, 9))}, r"slots have shape \[2, 3, 9\]"),
        ({"image": []}, "image must be a tensor"),
        ({"image": "picture.png"}, "image must be a tensor"),
        ({"slots": slots_for(2), "num_inference_steps": 0}, r"num_inference_steps=0 .* from 1 to 30"),
        ({"slots": slots_for(2), "num_inference_steps": 31}, r"num_inference_steps=31 .* from 1 to 30"),
        ({"slots": slots_for(2), "num_inference_steps": 2.5}, r"num_inference_steps=2.5 "),
        ({"slots": slots_for(2), "num_inference_steps": 0, "scheduler": "ddim"}, "num_inference_steps=0"),
        ({"slots": slots_for(2), "scheduler": "euler"}, r"scheduler='euler' .* ddpm, ddim, dpmsolver\+\+"),
        (
            {"slots": slots_for(2), "scheduler": DDIMScheduler},
            r"scheduler is the class DDIMScheduler; give an instance",
        ),
        ({"slots": slots_for(2), "scheduler": 3}, r"scheduler is of type int; give one of ddpm"),
        ({"slots": slots_for(2), "batch_size": 0}, "batch_size=0"),
        ({"slots": slots_for(2), "output_type": "np"}, "output_type='np'"),
        ({"slots": slots_for(2), "seed": -1}, r"seed=-1 .* \[0, 2\^63\)"),
        ({"slots": slots_for(2), "seed": 1.5}, r"seed=1.5"),
        ({"slots": slots_for(2), "seed": 0, "generator": torch.Generator()}, "give either seed or generator"),
        (
            {"slots": slots_for(2), "generator": [torch.Generator()]},
            "generator is of type list: it must be one torch.Generator",
        ),
        ({"slots": slots_for(2), "sample_ids": [1]}, "1 sample_ids for 2 samples"),
        ({"slots": slots_for(2), "sample_ids": [1, -1]}, r"sample_ids has -1"),
        ({"slots": slots_for(2), "latents": np.zeros((2, 3, 8, 8))}, r"latents have shape .* \[2, 3, 4, 4\]"),
        ({"slots": slots_for(2), "num_inference_steps": np.int64(31)}, r"num_inference_steps=31 .* from 1 to 30"),
        ({"slots": slots_for(2), "latents": torch.zeros(2, 3, 8, 8)}, r"latents have shape .* \[2, 3, 4, 4\]"),
        (
            {"slots": slots_for(2), "latents": torch.full((2, 3, 4, 4), torch.nan)},
            "latents hold values that are not fin",
        ),
    ],
)
def test_bad_input_is_one_clear_error(short, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        short(**arguments, **QUIET)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", [DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_an_instance_that_has_no_timesteps_for_so_many_steps_is_told_before_it_samples(short, kind):
    scheduler = kind.from_config(short.model.scheduler().config)
    with pytest.raises(ValueError, match=rf"num_inference_steps=30 .* {kind.__name__} .* from 1 to 29"):
        short(slots_for(1), scheduler=scheduler, num_inference_steps=30, **QUIET)
    short(slots_for(1), scheduler=scheduler, num_inference_steps=29, **QUIET)


def test_damaged_weights_are_named():
    model = build()
    with torch.no_grad():
        model.unet.conv_out.bias[0] = float("nan")
    with pytest.raises(ValueError, match="the latent of sample id 7 is not finite: the UNet's weights are damaged"):
        SlotDiffusionPipeline(model)(slots_for(1), sample_ids=[7], num_inference_steps=2, **QUIET)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (None, FileNotFoundError, "is not a folder that exists; give a run"),
        ("", FileNotFoundError, "has no config.json; give a run folder"),
        ('{"model_type": "slot_vqvae"}', ValueError, "holds a model of type 'slot_vqvae', not 'slot_diffusion'"),
    ],
)
def test_a_folder_without_such_a_model_is_told_as_such(tmp_path, config, error, message):
    folder = tmp_path / "run"
    if config is not None:
        folder.mkdir()
    if config:
        (folder / "config.json").write_text(config)
    with pytest.raises(error, match=f"{folder} {message}") as caught:
        SlotDiffusionPipeline.from_pretrained(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_a_name_that_is_neither_here_nor_on_the_hub_is_told_in_one_line(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^out/plain64 is not a folder that exists, nor .* the Hub") as caught:
        SlotDiffusionPipeline.from_pretrained("out/plain64", local_files_only=True)
    assert len(str(caught.value).splitlines()) == 1
