"""Configuration of the slot-conditioned denoising UNet, with named forms of its blocks."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .field_checks import is_integer, require

PRESETS: dict[str, dict[str, Any]] = {
    "coursework": {"base_channels": 64, "residual_form": False},
    "slotdiffusion": {"base_channels": 128, "residual_form": True},
}


@strict
class SlotUNetConfig(PreTrainedConfig):
    r"""What the UNet is made of; the defaults are the coursework's figures 3 to 5.

    All arguments are keyword arguments. A wrong value raises at construction, naming the field and its range.

    Args:
        preset (`str`, defaults to `"coursework"`): the form of the blocks and their width: `"coursework"` (64 channels,
            the blocks of the coursework's figures 3 and 4) or `"slotdiffusion"` (128 channels, the blocks of Wu et al.
            2023: a residual round both convolutions and round each transformer, norms before the attentions).
        base_channels (`int`, *optional*): C, where it is not the preset's; even.
        channel_multipliers (`list[int]`, defaults to `(1, 2, 3, 4)`): channels per level in C; each level after the
            first halves the resolution.
        attention_levels (`list[bool]`, defaults to `(False, True, True, True)`): where transformers follow the
            residual blocks.
        blocks_per_level (`int`, defaults to 2): residual blocks per level on the way down; one more on the way up.
        transformer_layers (`int`, defaults to 1): repetitions in a transformer.
        in_channels (`int`, defaults to 3): channels of the latent.
        out_channels (`int`, defaults to 3): channels of the prediction.
        cross_attention_dim (`int`, defaults to 192): width of a slot.
        head_channels (`int`, defaults to 32): width of an attention head; must divide the channels of every level
            with transformers.
        num_groups (`int`, defaults to 32): groups of the group norms; must divide the channels of every level.
        dropout (`float`, defaults to 0.1): in [0, 1), before the second convolution of a residual block.
    """

    model_type = "slot_unet"

    preset: str = "coursework"
    base_channels: int | None = None
    channel_multipliers: list[int] | tuple[int, ...] = (1, 2, 3, 4)
    attention_levels: list[bool] | tuple[bool, ...] = (False, True, True, True)
    blocks_per_level: int = 2
    transformer_layers: int = 1
    in_channels: int = 3
    out_channels: int = 3
    cross_attention_dim: int = 192
    head_channels: int = 32
    num_groups: int = 32
    dropout: float | int = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        self.channel_multipliers, self.attention_levels = list(self.channel_multipliers), list(self.attention_levels)
        require(self.preset in PRESETS, "preset", self.preset, f"one of {', '.join(PRESETS)}")
        if self.base_channels is None:
            self.base_channels = PRESETS[self.preset]["base_channels"]
        super().__post_init__(**kwargs)
        self.validate_fields()

    @property
    def widths(self) -> list[int]:
        """Channels per level."""
        return [self.base_channels * multiplier for multiplier in self.channel_multipliers]

    @property
    def residual_form(self) -> bool:
        """Whether the blocks are those of SlotDiffusion."""
        return PRESETS[self.preset]["residual_form"]

    @property
    def size_divisor(self) -> int:
        """What height and width of a latent must be divisible by."""
        return 2 ** (len(self.channel_multipliers) - 1)

    def validate_fields(self) -> None:
        """Raise `ValueError` where a field is out of its range; also run by the model before it is built."""
        require(self.preset in PRESETS, "preset", self.preset, f"one of {', '.join(PRESETS)}")
        counts = ("blocks_per_level", "transformer_layers", "in_channels", "out_channels", "cross_attention_dim")
        for field in (*counts, "head_channels", "num_groups"):
            require(is_integer(getattr(self, field), 1), field, getattr(self, field), "an integer of at least 1")
        even = is_integer(self.base_channels, 2) and self.base_channels % 2 == 0
        require(even, "base_channels", self.base_channels, "an even integer of at least 2")
        filled = len(self.channel_multipliers) > 0 and all(is_integer(m, 1) for m in self.channel_multipliers)
        require(filled, "channel_multipliers", self.channel_multipliers, "a list of integers of at least 1")
        same = len(self.attention_levels) == len(self.channel_multipliers)
        require(same, "attention_levels", self.attention_levels, "as long as channel_multipliers")
        divides = all(width % self.num_groups == 0 for width in self.widths)
        require(divides, "num_groups", self.num_groups, f"a divisor of the widths {self.widths}")
        attending = [w for w, used in zip(self.widths, self.attention_levels, strict=True) if used] + self.widths[-1:]
        divides = all(width % self.head_channels == 0 for width in attending)
        require(divides, "head_channels", self.head_channels, f"a divisor of the attending widths {attending}")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "in [0, 1)")


__all__ = ["SlotUNetConfig"]
