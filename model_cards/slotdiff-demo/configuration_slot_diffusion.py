"""Configuration of slot diffusion: slot encoder, UNet, frozen autoencoder and noise schedule, with named sizes."""

import difflib
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_slot_attention import SlotAttentionConfig
from .configuration_slot_unet import SlotUNetConfig
from .configuration_vqvae import VQVAEConfig
from .field_checks import is_integer, require

BETA_SCHEDULES = ("linear", "scaled_linear")
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
LIBRARY_VAES = ("VQModel", "AutoencoderKL")  # of diffusers, named by `_class_name`
FLAT_FIELDS = ("image_size", "num_slots", "slot_size")  # they stand for those of `slot_config`

PRESETS: dict[str, dict[str, Any]] = {
    "coursework": {
        "slot_config": {"preset": "clevrtex"},
        "unet_config": {"preset": "coursework"},
        "vae_config": {},
        "beta_schedule": "linear",
    },
    "slotdiffusion": {
        "slot_config": {"preset": "clevrtex"},
        "unet_config": {"preset": "slotdiffusion"},
        "vae_config": {},
        "beta_schedule": "scaled_linear",
    },
    "small": {
        "slot_config": {"preset": "small"},
        "unet_config": {"base_channels": 32, "dropout": 0.0},
        "vae_config": {"widths": (32, 64, 128), "blocks_per_level": 1, "num_codes": 512},
        "beta_schedule": "linear",
    },
    "tiny": {
        "slot_config": {"preset": "tiny"},
        "unet_config": {
            "base_channels": 32,
            "channel_multipliers": (1, 2),
            "attention_levels": (False, True),
            "blocks_per_level": 1,
            "dropout": 0.0,
        },
        "vae_config": {"widths": (16, 32, 64), "blocks_per_level": 1, "num_codes": 256, "num_groups": 16},
        "beta_schedule": "linear",
    },
}


@strict
class SlotDiffusionConfig(PreTrainedConfig):
    r"""What a slot diffusion model is made of: a named size, `preset`, and fields that override it.

    | preset | image | latent | slots | slot encoder | UNet | betas | source |
    |---|---|---|---|---|---|---|---|
    | `coursework` | 128 | 32x32 | 11 x 192, learned | ResNet-18 | C=64, figures 3 to 5 | linear | coursework |
    | `slotdiffusion` | 128 | 32x32 | 11 x 192, learned | ResNet-18 | C=128, SlotDiffusion's | scaled | Wu et al. |
    | `small` | 64 | 16x16 | 11 x 64, sampled | 4 conv 5x5, 32 | C=32, figures 3 to 5 | linear | ours |
    | `tiny` | 64 | 16x16 | 11 x 32, sampled | 3 conv 5x5, 16 | C=32, 2 levels of 1 block | linear | ours |

    All arguments are keyword arguments. A wrong value raises at construction, naming the field and its range.

    Args:
        preset (`str`, defaults to `"coursework"`): gives what is not given itself.
        slot_config (`SlotAttentionConfig` or `dict`, *optional*): the encoder from images to slots. A dict overrides
            single fields of the preset's, unless it names a `preset` of its own. Its decoder fields have no meaning
            here and are set so that any image size is possible.
        unet_config (`SlotUNetConfig` or `dict`, *optional*): the denoiser, a dict likewise. `cross_attention_dim`,
            `in_channels` and `out_channels` default to what slots and autoencoder ask for.
        vae_config (`VQVAEConfig` or `dict`, *optional*): the frozen autoencoder, a dict likewise; or the config of a
            `VQModel` or `AutoencoderKL` of diffusers, a dict with `_class_name`.
        image_size (`int`, *optional*): side of the square image. This and the next two overwrite `slot_config`'s.
        num_slots (`int`, *optional*): slots K.
        slot_size (`int`, *optional*): dimension D of a slot.
        num_train_timesteps (`int`, defaults to 1000): T, the length of the chain.
        beta_start (`float`, defaults to 0.0015): variance added at the chain's first step, in (0, 1).
        beta_end (`float`, defaults to 0.0195): at its last, not below `beta_start`.
        beta_schedule (`str`, *optional*): `"linear"`, or `"scaled_linear"` (linear in the root of beta, which
            SlotDiffusion calls linear); default the preset's.
        prediction_type (`str`, defaults to `"epsilon"`): what the UNet predicts: `"epsilon"`, `"sample"`,
            `"v_prediction"`.
        latent_scale (`float`, defaults to 1.0): the autoencoder's latents are multiplied by it; positive. One over
            their standard deviation makes their variance that of the noise.

    Example:
    ```python
    >>> config = SlotDiffusionConfig(preset="small", num_slots=7, unet_config={"base_channels": 64})
    ```
    """

    model_type = "slot_diffusion"

    preset: str = "coursework"
    slot_config: PreTrainedConfig | dict[str, Any] | None = None
    unet_config: PreTrainedConfig | dict[str, Any] | None = None
    vae_config: PreTrainedConfig | dict[str, Any] | None = None
    image_size: int | None = None
    num_slots: int | None = None
    slot_size: int | None = None
    num_train_timesteps: int = 1000
    beta_start: float = 0.0015
    beta_end: float = 0.0195
    beta_schedule: str | None = None
    prediction_type: str = "epsilon"
    latent_scale: float | int = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        if self.preset not in PRESETS:
            nearest = difflib.get_close_matches(self.preset, PRESETS, n=1, cutoff=0.0)[0]
            allowed = f"one of {', '.join(PRESETS)} (did you mean {nearest!r}?)"
            require(False, "preset", self.preset, allowed)
        preset = PRESETS[self.preset]
        if self.beta_schedule is None:
            self.beta_schedule = preset["beta_schedule"]
        self.vae_config = self._vae(_over(preset["vae_config"], self.vae_config))
        self.slot_config = self._slots(_over(preset["slot_config"], self.slot_config))
        unet = {"in_channels": self.latent_channels, "out_channels": self.latent_channels}
        unet["cross_attention_dim"] = self.slot_config.slot_size
        self.unet_config = _rebuilt(
            SlotUNetConfig, "unet_config", unet | _over(preset["unet_config"], self.unet_config)
        )
        super().__post_init__(**kwargs)
        self.validate_fields()

    def _vae(self, fields: dict[str, Any]) -> PreTrainedConfig | dict[str, Any]:
        if "_class_name" not in fields:
            return _rebuilt(VQVAEConfig, "vae_config", fields)
        name = fields["_class_name"]
        require(name in LIBRARY_VAES, "vae_config._class_name", name, f"one of {', '.join(LIBRARY_VAES)}")
        return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}

    def _slots(self, fields: dict[str, Any]) -> SlotAttentionConfig:
        """The encoder's config, agreeing with the flat fields."""
        fields = fields | {name: getattr(self, name) for name in FLAT_FIELDS if getattr(self, name) is not None}
        if fields.get("image_size") is None:  # then the preset's, which the decoder has to be told
            fields["image_size"] = SlotAttentionConfig(preset=fields.get("preset", "clevrtex")).image_size
        decoder = {"decoder_resolution": fields["image_size"], "decoder_channels": [1], "decoder_strides": [1]}
        config = _rebuilt(SlotAttentionConfig, "slot_config", fields | decoder | {"decoder_output_kernel_size": 1})
        for name in FLAT_FIELDS:
            setattr(self, name, getattr(config, name))
        return config

    @property
    def downsampling_factor(self) -> int:
        """Image size over latent size."""
        if isinstance(self.vae_config, dict):
            return 2 ** (len(self.vae_config.get("block_out_channels", (64,))) - 1)
        return self.vae_config.downsampling_factor

    @property
    def latent_channels(self) -> int:
        """Channels of the latent."""
        if isinstance(self.vae_config, dict):
            return self.vae_config.get("latent_channels", 3 if self.vae_config["_class_name"] == "VQModel" else 4)
        return self.vae_config.latent_channels

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image's latent."""
        side = self.image_size // self.downsampling_factor
        return self.latent_channels, side, side

    def validate_fields(self) -> None:
        """Raise `ValueError` where a field is out of its range; also run by the model before it is built."""
        slots = self.slot_config
        if any(getattr(self, name) != getattr(slots, name) for name in FLAT_FIELDS):
            self.slot_config = slots = self._slots(slots.to_dict())
        self.unet_config.validate_fields()
        slots.validate_fields()
        if not isinstance(self.vae_config, dict):
            self.vae_config.validate_fields()
        self._validate_fit()
        self._validate_schedule()

    def _validate_fit(self) -> None:
        """That the three parts fit one another."""
        slots, unet = self.slot_config, self.unet_config
        for field in ("in_channels", "out_channels"):
            value, channels = getattr(unet, field), self.latent_channels
            require(value == channels, f"unet_config.{field}", value, f"{channels}, the channels of the latent")
        width = unet.cross_attention_dim
        require(width == self.slot_size, "unet_config.cross_attention_dim", width, f"slot_size={self.slot_size}")
        images = self.vae_config
        channels = images.get("in_channels", 3) if isinstance(images, dict) else images.num_channels
        allowed = f"{channels}, the channels of vae_config's images"
        require(slots.num_channels == channels, "slot_config.num_channels", slots.num_channels, allowed)
        factor, divisor = self.downsampling_factor, unet.size_divisor
        allowed = (
            f"a multiple of {factor * divisor}: the VAE divides it by {factor}, and the UNet needs a latent divisible "
            f"by {divisor}"
        )
        require(self.image_size % (factor * divisor) == 0, "image_size", self.image_size, allowed)

    def _validate_schedule(self) -> None:
        steps = self.num_train_timesteps
        require(is_integer(steps, 1), "num_train_timesteps", steps, "an integer of at least 1")
        require(0 < self.beta_start < 1, "beta_start", self.beta_start, "in (0, 1)")
        allowed = f"from beta_start={self.beta_start} to below 1"
        require(self.beta_start <= self.beta_end < 1, "beta_end", self.beta_end, allowed)
        known = ", ".join(BETA_SCHEDULES)
        require(self.beta_schedule in BETA_SCHEDULES, "beta_schedule", self.beta_schedule, f"one of {known}")
        known = ", ".join(PREDICTION_TYPES)
        require(self.prediction_type in PREDICTION_TYPES, "prediction_type", self.prediction_type, f"one of {known}")
        scale = self.latent_scale
        require(0 < scale < float("inf"), "latent_scale", scale, "positive and finite")


def _over(preset: dict[str, Any], given: PreTrainedConfig | dict[str, Any] | None) -> dict[str, Any]:
    """`given` over the preset's fields; alone where it is whole, or names a preset or a library's class."""
    if given is None:
        return dict(preset)
    if isinstance(given, PreTrainedConfig):
        return given.to_dict()
    return dict(given) if "preset" in given or "_class_name" in given else {**preset, **given}


def _rebuilt(config_class: type[PreTrainedConfig], field: str, fields: dict[str, Any]) -> PreTrainedConfig:
    """A config of the class from its fields; an error names the field of the whole that holds it."""
    saved = "model_type" in fields  # by some version of the library, with what that version adds
    kind = fields.get("model_type", config_class.model_type)
    require(kind == config_class.model_type, f"{field}.model_type", kind, repr(config_class.model_type))
    dropped = ("model_type", "auto_map", "transformers_version")
    fields = {name: value for name, value in fields.items() if name not in dropped}
    unknown = [] if saved else [name for name in fields if name not in config_class.__dataclass_fields__]
    if unknown:
        nearest = difflib.get_close_matches(unknown[0], config_class.__dataclass_fields__, n=1, cutoff=0.0)[0]
        raise ValueError(f"{field} has no field {unknown[0]!r} (did you mean {nearest!r}?)")
    try:
        return config_class(**fields)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error


__all__ = ["PRESETS", "SlotDiffusionConfig"]
