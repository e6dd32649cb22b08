"""What the coursework's slot diffusion costs at full size, on paper: operations counted, seconds assumed.

    python benchmarks/full_run_cost.py [--preset coursework] [--pictures 40000] [--epochs 100] [--utilisation 0.1]

The floating-point operations (two for each multiplication with its addition) of slot encoder, UNet and VAE are counted
on one picture. Hours follow from a GPU's peak and an assumed share of it: nothing is run there. The share
is low because convolutions of 64 to 256 channels at 32x32 and attention over 11 slots are far from large matrix
products; divide by what you measure.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models import SlotDiffusionConfig, SlotDiffusionModel

H100_BF16 = 989e12  # FLOP/s of dense bf16 products, NVIDIA's data sheet (SXM)


@dataclass
class Operations:
    """Floating-point operations for one picture: forward passes, and `slots_training`, `unet_training` with
    backward."""

    slots: int
    unet: int
    encode: int
    decode: int
    slots_training: int
    unet_training: int


def count(function: Callable[[], torch.Tensor], backward: bool = False) -> int:
    """Operations of a call, with those of its backward pass where asked for."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # the counter knows no other on a CPU
        result = function()
        if backward:
            result.sum().backward()
    return counter.get_total_flops()


def operations(config: SlotDiffusionConfig) -> Operations:
    """Those of one picture by the model of this config."""
    model = SlotDiffusionModel(config)
    pictures = torch.zeros(1, 3, config.image_size, config.image_size)
    latents = torch.zeros(1, *config.latent_shape)
    slots = torch.zeros(1, config.num_slots, config.slot_config.slot_size)
    timesteps = torch.zeros(1, dtype=torch.int64)

    def encode_slots() -> torch.Tensor:
        return model.encode_slots(pictures)[0]

    def denoise() -> torch.Tensor:
        return model.denoise(latents, timesteps, slots)

    model.requires_grad_(False)
    forward = [count(encode_slots), count(denoise)]
    frozen = [count(lambda: model.latent_space.encode(pictures)), count(lambda: model.latent_space.decode(latents))]
    model.requires_grad_(True)
    slots.requires_grad_(True)  # their gradient goes on to the encoder
    return Operations(*forward, *frozen, count(encode_slots, True), count(denoise, True))


def stages(each: Operations, arguments: argparse.Namespace) -> dict[str, float]:
    """Operations of every stage of the experiment."""
    training, validation, epochs = arguments.pictures, arguments.validation, arguments.epochs
    sampled = each.slots + each.decode
    return {
        "latents of all pictures, once": (training + validation) * each.encode,
        "training, slot encoder": epochs * training * each.slots_training,
        "training, UNet": epochs * training * each.unet_training,
        "validation after each epoch": epochs * validation * (each.slots + each.unet),
        "pictures from slots, ancestral 1000": validation * (sampled + 1000 * each.unet),
        "the same, DPM-Solver++ 20": validation * (sampled + 20 * each.unet),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="coursework")
    parser.add_argument("--pictures", type=int, default=40_000, help="to train on")
    parser.add_argument("--validation", type=int, default=10_000, help="to validate on and to draw")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--utilisation", type=float, default=0.1, help="share of the peak that is reached, in (0, 1]")
    parser.add_argument("--peak", type=float, default=H100_BF16, help="FLOP/s of one GPU")
    arguments = parser.parse_args()
    if not 0 < arguments.utilisation <= 1:
        parser.error(f"--utilisation must be in (0, 1], not {arguments.utilisation}")
    each = operations(SlotDiffusionConfig(preset=arguments.preset))
    print("GFLOP a picture: " + ", ".join(f"{name} {value / 1e9:.2f}" for name, value in vars(each).items()))
    print(f"\n{arguments.utilisation:.0%} of {arguments.peak / 1e12:.0f} TFLOP/s assumed; communication not counted")
    print("| stage | PFLOP | hours, one GPU | hours, eight |\n|---|---|---|---|")
    for name, total in stages(each, arguments).items():
        hours = total / (arguments.peak * arguments.utilisation) / 3600
        print(f"| {name} | {total / 1e15:,.1f} | {hours:.3f} | {hours / 8:.3f} |")


if __name__ == "__main__":
    main()
