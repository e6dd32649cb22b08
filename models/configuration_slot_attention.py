"""Configuration of the Slot Attention autoencoder of Locatello et al. 2020 (arXiv:2006.15055), with named sizes."""

import difflib
import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .field_checks import is_integer, require

ENCODERS = ("cnn", "resnet18")
SLOT_INITS = ("sampled", "learned")

_CLEVR = {
    "image_size": 128,
    "num_slots": 7,
    "slot_size": 64,
    "mlp_hidden_size": 128,
    "slot_init": "sampled",
    "epsilon": 1e-8,
    "encoder": "cnn",
    "encoder_channels": (64, 64, 64, 64),
    "encoder_strides": (1, 1, 1, 1),
    "input_size": 64,
    "decoder_channels": (64, 64, 64, 64, 64),
    "decoder_output_kernel_size": 3,
}
_CLEVRTEX = {
    "image_size": 128,
    "num_slots": 11,
    "slot_size": 192,
    "mlp_hidden_size": 384,
    "slot_init": "learned",
    "epsilon": 1e-6,
    "encoder": "resnet18",
    "encoder_channels": (64, 128, 256),
    "encoder_strides": (1, 2, 2),
    "input_size": 192,
    "decoder_channels": (128, 128, 128, 128),
    "decoder_output_kernel_size": 1,
}
_SMALL = {
    **_CLEVR,
    "image_size": 64,
    "num_slots": 11,
    "encoder_channels": (32, 32, 32, 32),
    "encoder_strides": (2, 1, 1, 1),
    "decoder_channels": (32, 32, 32),
}
PRESETS: dict[str, dict[str, Any]] = {
    "clevr": _CLEVR,
    "clevrtex": _CLEVRTEX,
    "small": _SMALL,
    "small_resnet": {
        **_CLEVRTEX,
        "image_size": 64,
        "slot_size": 64,
        "mlp_hidden_size": 128,
        "slot_init": "sampled",
        "encoder_channels": (32, 64, 128),
        "encoder_strides": (1, 1, 2),
        "input_size": 64,
        "decoder_channels": (64, 64, 64),
    },
    "tiny": {
        **_SMALL,
        "slot_size": 32,
        "mlp_hidden_size": 64,
        "encoder_channels": (16, 16, 16),
        "encoder_strides": (2, 2, 1),
        "input_size": 32,
        "decoder_channels": (16, 16, 16),
    },
}


@strict
class SlotAttentionConfig(PreTrainedConfig):
    r"""What a Slot Attention autoencoder is made of: a named size, `preset`, and fields that override it.

    | preset | image | slots | slot size | init | encoder | features | decoder | source |
    |---|---|---|---|---|---|---|---|---|
    | `clevrtex` | 128 | 11 | 192 | learned | ResNet-18, group norm | 32x32 | 128 x 4 | SlotDiffusion |
    | `clevr` | 128 | 7 | 64 | sampled | 4 conv 5x5, 64 | 128x128 | 64 x 5, 3x3 out | Locatello et al. 2020 |
    | `small_resnet` | 64 | 11 | 64 | sampled | ResNet-18 of half the width | 32x32 | 64 x 3 | ours |
    | `small` | 64 | 11 | 64 | sampled | 4 conv 5x5, 32 | 32x32 | 32 x 3, 3x3 out | ours |
    | `tiny` | 64 | 11 | 32 | sampled | 3 conv 5x5, 16 | 16x16 | 16 x 3, 3x3 out | ours |

    All arguments are keyword arguments. A wrong value raises at construction, naming the field and its range.

    Args:
        preset (`str`, defaults to `"clevrtex"`): gives every field below that is not given itself.
        image_size (`int`): side of the square image in pixels: `decoder_resolution` times the decoder's strides, and
            a multiple of the encoder's.
        num_channels (`int`, defaults to 3): channels of the image.
        num_slots (`int`): slots K in training; with `slot_init="sampled"` inference may take another number.
        slot_size (`int`): dimension D of a slot.
        num_iterations (`int`, defaults to 3): rounds of attention, at least 1.
        mlp_hidden_size (`int`): hidden width of the residual MLP after the GRU.
        slot_init (`str`): `"sampled"` draws slots from one learned Gaussian; `"learned"` has K learned vectors.
        epsilon (`float`): added to the attention before it is normalised over the inputs, in (0, 1).
        qkv_bias (`bool`, defaults to `False`): whether the q, k, v projections have biases; in the papers they do not.
        fold_projections (`bool`, defaults to `True`): apply the k and v projections to the slots instead of the
            inputs. The same function of the same parameters, faster; see [`SlotAttention`].
        implicit_gradient (`bool`, defaults to `False`): differentiate the last round of attention alone; see
            [`SlotAttention`].
        encoder (`str`): `"cnn"`, convolutions with ReLU, or `"resnet18"`, ResNet-18 without its last stage, with group
            norm, a 3x3 stem of stride 1 and no max pooling.
        encoder_channels (`list[int]`): per convolution (`"cnn"`) or per stage, three of them (`"resnet18"`).
        encoder_strides (`list[int]`): as many; for `"resnet18"` each 1 or 2, the first 1.
        encoder_kernel_size (`int`, defaults to 5): of the `"cnn"`, odd.
        encoder_num_groups (`int`, defaults to 32): groups of the `"resnet18"`'s norms; must divide its channels.
        input_size (`int`): dimension of the vectors that Slot Attention reads.
        decoder_resolution (`int`, defaults to 8): side of the grid that a slot is broadcast to.
        decoder_channels (`list[int]`): of the decoder's layers.
        decoder_strides (`list[int]`): as many, each 1 or 2. Default: 2 until `image_size` is reached, then 1.
        decoder_kernel_size (`int`, defaults to 5): odd.
        decoder_output_kernel_size (`int`): of the last convolution, to mask and image; odd.
        decoder_checkpointing (`bool`, defaults to `False`): in training decode one slot after the other and keep none
            of its activations: the decoder needs memory for one image per sample instead of K, and runs twice.

    Example:
    ```python
    >>> config = SlotAttentionConfig(preset="small", num_slots=7)
    >>> model = SlotAttentionAutoencoder(config)
    ```
    """

    model_type = "slot_attention"

    preset: str = "clevrtex"
    image_size: int | None = None
    num_channels: int = 3
    num_slots: int | None = None
    slot_size: int | None = None
    num_iterations: int = 3
    mlp_hidden_size: int | None = None
    slot_init: str | None = None
    epsilon: float | None = None
    qkv_bias: bool = False
    fold_projections: bool = True
    implicit_gradient: bool = False
    encoder: str | None = None
    encoder_channels: list[int] | tuple[int, ...] | None = None
    encoder_strides: list[int] | tuple[int, ...] | None = None
    encoder_kernel_size: int = 5
    encoder_num_groups: int = 32
    input_size: int | None = None
    decoder_resolution: int = 8
    decoder_channels: list[int] | tuple[int, ...] | None = None
    decoder_strides: list[int] | tuple[int, ...] | None = None
    decoder_kernel_size: int = 5
    decoder_output_kernel_size: int | None = None
    decoder_checkpointing: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if self.preset not in PRESETS:
            nearest = difflib.get_close_matches(self.preset, PRESETS, n=1, cutoff=0.0)[0]
            allowed = f"one of {', '.join(PRESETS)} (did you mean {nearest!r}?)"
            require(False, "preset", self.preset, allowed)
        for field, value in PRESETS[self.preset].items():
            if getattr(self, field) is None:
                setattr(self, field, value)
        if self.decoder_strides is None:
            self.decoder_strides = self._strides_to_image_size()
        for field in ("encoder_channels", "encoder_strides", "decoder_channels", "decoder_strides"):
            setattr(self, field, list(getattr(self, field)))
        super().__post_init__(**kwargs)
        self.validate_fields()

    def _strides_to_image_size(self) -> list[int]:
        """Stride 2 until the image's size is reached, then stride 1."""
        layers, grid = len(self.decoder_channels), self.decoder_resolution
        doublings = next((n for n in range(layers + 1) if grid * 2**n == self.image_size), None)
        sizes = ", ".join(str(grid * 2**n) for n in range(layers + 1))
        allowed = f"one of {sizes} with decoder_resolution={grid} and {layers} decoder layers (see decoder_channels)"
        require(doublings is not None, "image_size", self.image_size, allowed)
        return [2] * doublings + [1] * (layers - doublings)

    @property
    def feature_size(self) -> int:
        """Side of the encoder's feature map: Slot Attention reads `feature_size ** 2` vectors."""
        return self.image_size // math.prod(self.encoder_strides)

    def validate_fields(self) -> None:
        """Raise `ValueError` where a field is out of its range; also run by the model before it is built."""
        positive = ("image_size", "num_channels", "num_slots", "slot_size", "num_iterations", "mlp_hidden_size")
        for field in (*positive, "encoder_num_groups", "input_size", "decoder_resolution"):
            require(is_integer(getattr(self, field), 1), field, getattr(self, field), "an integer of at least 1")
        require(0 < self.epsilon < 1, "epsilon", self.epsilon, "in (0, 1)")
        require(self.slot_init in SLOT_INITS, "slot_init", self.slot_init, "'sampled' or 'learned'")
        require(self.encoder in ENCODERS, "encoder", self.encoder, "'cnn' or 'resnet18'")
        for field in ("encoder_kernel_size", "decoder_kernel_size", "decoder_output_kernel_size"):
            value = getattr(self, field)
            require(is_integer(value, 1) and value % 2 == 1, field, value, "an odd integer")
        self._validate_encoder()
        self._validate_decoder()

    def _validate_encoder(self) -> None:
        channels, strides, size = self.encoder_channels, self.encoder_strides, self.image_size
        filled = len(channels) > 0 and all(is_integer(c, 1) for c in channels)
        require(filled, "encoder_channels", channels, "a list of integers of at least 1")
        same = len(strides) == len(channels) and all(is_integer(s, 1) for s in strides)
        require(same, "encoder_strides", strides, f"{len(channels)} integers of at least 1, as encoder_channels")
        if self.encoder == "resnet18":
            require(len(channels) == 3, "encoder_channels", channels, "three integers, one per stage of the resnet18")
            groups = self.encoder_num_groups
            divides = all(c % groups == 0 for c in channels)
            require(divides, "encoder_channels", channels, f"multiples of encoder_num_groups={groups}")
            known = strides[0] == 1 and set(strides) <= {1, 2}
            require(known, "encoder_strides", strides, "1 and then twice 1 or 2 for the resnet18")
        divides = size % math.prod(strides) == 0
        require(divides, "image_size", size, f"a multiple of {math.prod(strides)}, the product of encoder_strides")

    def _validate_decoder(self) -> None:
        channels, strides = self.decoder_channels, self.decoder_strides
        filled = len(channels) > 0 and all(is_integer(c, 1) for c in channels)
        require(filled, "decoder_channels", channels, "a list of integers of at least 1")
        known = len(strides) == len(channels) and set(strides) <= {1, 2}
        require(known, "decoder_strides", strides, f"{len(channels)} of 1 and 2, as many as decoder_channels")
        reached = self.decoder_resolution * math.prod(strides)
        allowed = f"{reached}, which decoder_resolution={self.decoder_resolution} and decoder_strides={strides} give"
        require(self.image_size == reached, "image_size", self.image_size, allowed)


__all__ = ["PRESETS", "SlotAttentionConfig"]
