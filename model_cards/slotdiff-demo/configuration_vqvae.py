"""Configuration of the VQ-VAE (van den Oord et al. 2017) whose latent space the slot diffusion model works in."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .field_checks import is_integer, require

RECONSTRUCTION_LOSSES = ("mse", "l1")


@strict
class VQVAEConfig(PreTrainedConfig):
    r"""What a VQ-VAE is made of; the defaults are the coursework's (f=4, 3 latent channels, 4096 codes, 205 tensors).

    All arguments are keyword arguments. A wrong value raises at construction, naming the field and its range.

    Args:
        widths (`list[int]`, defaults to `(64, 128, 256)`): channels per level; each level after the first halves the
            resolution, so the latent is smaller by 2^(levels - 1).
        blocks_per_level (`int`, defaults to 2): residual blocks per level of the encoder; the decoder has one more.
        num_channels (`int`, defaults to 3): channels of the image.
        latent_channels (`int`, defaults to 3): channels of the latent, the dimension of a code.
        num_codes (`int`, defaults to 4096): entries of the codebook, at least 2.
        num_groups (`int`, defaults to 32): groups of the group norms; must divide each of `widths`.
        reconstruction_loss (`str`, defaults to `"mse"`): `"mse"` or `"l1"`, a mean over all values.
        commitment_weight (`float`, defaults to 0.25): beta of the paper's equation 3.
        codebook_weight (`float`, defaults to 1.0): weight of the codebook loss; without meaning with `ema_decay`.
        ema_decay (`float`, *optional*): in (0, 1); codes are then moving averages of the latents assigned to them
            (the paper's appendix A.1) instead of parameters with a loss. Adds buffers.
        revive_after (`int`, defaults to 0): a code that no latent chose in this many updates is replaced by a latent
            of the batch; 0: never. Adds buffers.
        seed (`int`, defaults to 0): which latents revive codes is a function of it and the number of updates.
    """

    model_type = "slot_vqvae"

    widths: list[int] | tuple[int, ...] = (64, 128, 256)
    blocks_per_level: int = 2
    num_channels: int = 3
    latent_channels: int = 3
    num_codes: int = 4096
    num_groups: int = 32
    reconstruction_loss: str = "mse"
    commitment_weight: float | int = 0.25
    codebook_weight: float | int = 1.0
    ema_decay: float | None = None
    revive_after: int = 0
    seed: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        self.widths = list(self.widths)
        super().__post_init__(**kwargs)
        self.validate_fields()

    @property
    def downsampling_factor(self) -> int:
        """Image size over latent size."""
        return 2 ** (len(self.widths) - 1)

    def validate_fields(self) -> None:
        """Raise `ValueError` where a field is out of its range; also run by the model before it is built."""
        for field in ("blocks_per_level", "num_channels", "latent_channels", "num_groups"):
            require(is_integer(getattr(self, field), 1), field, getattr(self, field), "an integer of at least 1")
        for field, minimum in (("num_codes", 2), ("revive_after", 0), ("seed", 0)):
            value = getattr(self, field)
            require(is_integer(value, minimum), field, value, f"an integer of at least {minimum}")
        fits = len(self.widths) > 0 and all(is_integer(w, 1) and w % self.num_groups == 0 for w in self.widths)
        require(fits, "widths", self.widths, f"a list of positive multiples of num_groups={self.num_groups}")
        known = self.reconstruction_loss in RECONSTRUCTION_LOSSES
        require(known, "reconstruction_loss", self.reconstruction_loss, "'mse' or 'l1'")
        for field in ("commitment_weight", "codebook_weight"):
            value = getattr(self, field)
            require(0 <= value < float("inf"), field, value, "a finite number of at least 0")
        require(self.ema_decay is None or 0 < self.ema_decay < 1, "ema_decay", self.ema_decay, "None or in (0, 1)")


__all__ = ["VQVAEConfig"]
