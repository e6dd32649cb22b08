"""What is given to the sampling of slot diffusion, checked and made tensors; and each sample's own random numbers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from PIL import Image, ImageOps
from torch import Tensor
from transformers import BitImageProcessor

from .configuration_slot_diffusion import SlotDiffusionConfig
from .field_checks import is_integer

OUTPUT_TYPES = ("pt", "pil")
MAX_SEED, MAX_SAMPLE_ID = 2**63, 2**40
LARGEST_PIXEL = 1.01  # of an image in [-1, 1]: resizing and half precision may overshoot a little


def check_folder(name: str | Path, subfolder: str) -> None:
    """FileNotFoundError or ValueError where `name` is a folder without a slot diffusion model, or neither a folder nor
    the name of a repository of the Hub."""
    folder = Path(name, subfolder)
    if not Path(name).is_dir():
        try:
            validate_repo_id(str(name))
        except HFValidationError:
            raise FileNotFoundError(f"{name} is not a folder that exists; give a run of the family slotdiff") from None
        return
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json; give a run folder of the family slotdiff")
    kind = SlotDiffusionConfig.get_config_dict(folder)[0].get("model_type")
    if kind != SlotDiffusionConfig.model_type:
        raise ValueError(f"{folder} holds a model of type {kind!r}, not {SlotDiffusionConfig.model_type!r}")


@contextmanager
def naming_what_is_nowhere(name: str | Path) -> Iterator[None]:
    """FileNotFoundError in one line where `name` is no folder here and the Hub does not give it either."""
    try:
        yield
    except OSError as error:
        if Path(name).is_dir():
            raise
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{name} is not a folder that exists, nor is it to be had from the Hub ({reason[:200]}); give a run of the "
            "family slotdiff"
        ) from error


def upright_rgb(picture: Image.Image) -> Image.Image:
    """RGB as in training: turned by its EXIF orientation, transparency on white. ValueError for greys beyond 8 bits,
    which Pillow would clip."""
    if picture.mode.startswith("I") or picture.mode == "F":
        raise ValueError(f"a picture of mode {picture.mode!r} has more than 8 bits: scale it to 8 first")
    picture = ImageOps.exif_transpose(picture)
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def default_processor(image_size: int) -> BitImageProcessor:
    """Short side to `image_size` (bilinear), centre crop, [0, 255] -> [-1, 1]."""
    return BitImageProcessor(
        size={"shortest_edge": image_size},
        crop_size={"height": image_size, "width": image_size},
        resample=Image.Resampling.BILINEAR,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def seed_of(seed: int | torch.Generator | None, generator: torch.Generator | None) -> int:
    """The seed in [0, 2^63) that `seed` or `generator` stands for; a generator gives one by one draw."""
    if generator is not None:
        if seed is not None:
            raise ValueError("give either seed or generator")
        if not isinstance(generator, torch.Generator):
            raise ValueError(
                f"generator is of type {type(generator).__name__}: it must be one torch.Generator for all samples"
            )
        seed = generator
    if seed is None:
        return 0
    if isinstance(seed, torch.Generator):
        return int(torch.randint(MAX_SEED - 1, (1,), generator=seed, device=seed.device))
    if not is_integer(seed, 0) or seed >= MAX_SEED:
        raise ValueError(f"seed={seed!r} is not possible: it must be an integer in [0, 2^63) or a torch.Generator")
    return seed


def checked_ids(sample_ids: Sequence[int] | None, count: int) -> list[int]:
    """N sample ids, by default 0, 1, …; ValueError where they are not `count` integers in [0, 2^40)."""
    ids = list(range(count)) if sample_ids is None else [int(i) for i in sample_ids]
    if len(ids) != count:
        raise ValueError(f"{len(ids)} sample_ids for {count} samples; give one for each")
    wrong = [i for i in ids if not 0 <= i < MAX_SAMPLE_ID]
    if wrong:
        raise ValueError(f"sample_ids has {wrong[0]}: each must be in [0, 2^40)")
    return ids


def sample_generators(seed: int, stream: int, ids: list[int]) -> list[torch.Generator]:
    """A generator on the CPU for each sample, so that its noise is the same on every device."""
    states = [np.random.SeedSequence([seed, stream, i]).generate_state(1, np.uint64)[0] for i in ids]
    return [torch.Generator().manual_seed(int(state)) for state in states]


def normal(generators: list[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Standard normal [B, *shape], the next draw of each sample's generator."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def check_options(output_type: str, batch_size: int) -> None:
    """ValueError for an output type or batch size that is not possible."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type={output_type!r} is not possible: it must be 'pt' or 'pil'")
    if not is_integer(batch_size, 1):
        raise ValueError(f"batch_size={batch_size!r} is not possible: it must be an integer of at least 1")


def as_tensor(values: Any, name: str) -> Tensor | None:
    """A tensor as it is, arrays and nested lists as fp32 tensors; ValueError where they are no numbers of one shape."""
    if values is None or isinstance(values, Tensor):
        return values
    try:
        return torch.tensor(np.asarray(values, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers of one shape, a tensor or an array ({error})") from error


def check_range(image: Tensor) -> None:
    """ValueError where an image [N, 3, H, W] is not floating point in about [-1, 1]."""
    low, high = (float(value) for value in image.aminmax())
    if not image.is_floating_point() or low < -LARGEST_PIXEL or high > LARGEST_PIXEL:
        raise ValueError(
            f"image holds {image.dtype} from {low:g} to {high:g}: it must be floating point in [-1, 1]; divide what "
            "is in 0..255 by 127.5 and take off 1, or give PIL pictures"
        )


def check_finite(values: Tensor, name: str, start: int) -> None:
    """ValueError naming the first sample of `values` [N, ...] that is not finite, counted from `start`."""
    finite = values.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        first = start + int((~finite).nonzero()[0, 0])
        raise ValueError(f"{name} hold values that are not finite (NaN or infinite), first in sample {first}")


def to_pil(images: Tensor) -> list[Image.Image]:
    """Images [N, 3, H, W] in [-1, 1] -> N pictures."""
    pixels = ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


__all__ = [
    "as_tensor",
    "check_finite",
    "check_folder",
    "check_options",
    "check_range",
    "checked_ids",
    "default_processor",
    "naming_what_is_nowhere",
    "normal",
    "sample_generators",
    "seed_of",
    "to_pil",
    "upright_rgb",
]
