"""The Slot Attention autoencoder (Locatello et al. 2020, "Object-Centric Learning with Slot Attention", figure 2).

An image is encoded to a set of vectors, Slot Attention groups them into K slots, and a spatial broadcast decoder turns
each slot into an image and a mask. Trained on nothing but the reconstruction error, slots come to bind to objects.
"""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from .configuration_slot_attention import SlotAttentionConfig
from .slot_attention import SlotAttention, initialize_weights
from .slot_decoders import DecodedSlots, SpatialBroadcastDecoder
from .slot_encoders import SlotImageEncoder
from .stored_weights import CheckedPreTrainedModel


@dataclass
class SlotAttentionModelOutput(ModelOutput):
    """What [`SlotAttentionModel`] gives for images.

    Args:
        slots: [B, K, slot_size].
        attention: [B, K, N] of the last iteration, summing to 1 over the slots; N are the positions of the encoder's
            feature map, row by row.
    """

    slots: Tensor | None = None
    attention: Tensor | None = None


@dataclass
class SlotAttentionAutoencoderOutput(ModelOutput):
    """What [`SlotAttentionAutoencoder`] gives for images.

    Args:
        loss: squared error summed over the channels, mean over batch and pixels, fp32; None with `return_loss=False`.
        reconstruction: [B, num_channels, H, W], in the range of the images.
        masks: [B, K, H, W], summing to 1 over the slots.
        slots: [B, K, slot_size].
        attention: [B, K, N], see [`SlotAttentionModelOutput`].
        contents: [B, K, num_channels, H, W], each slot's own image; only if asked for.
    """

    loss: Tensor | None = None
    reconstruction: Tensor | None = None
    masks: Tensor | None = None
    slots: Tensor | None = None
    attention: Tensor | None = None
    contents: Tensor | None = None


class SlotAttentionPreTrainedModel(CheckedPreTrainedModel):
    """Initialisation, loading and saving, and what a trainer asks of every member of the family."""

    config: SlotAttentionConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a mean over the batch: the trainer divides by the accumulation steps
    _no_split_modules = ["ResNet6n2Block", "SlotDecoderNetwork"]

    def __init__(self, config: SlotAttentionConfig):
        config.validate_fields()  # fields may have been set since the config was made, `from_pretrained` does so
        super().__init__(config)

    def _init_weights(self, module: nn.Module) -> None:
        initialize_weights(module)

    def parameter_groups(self) -> dict[str, list[str]]:
        """Every parameter's name in `decay` (weights of convolutions, linear layers and the GRU) or `no_decay` (biases,
        norms and the slots' initial distribution or vectors)."""
        groups: dict[str, list[str]] = {"decay": [], "no_decay": []}
        weighted = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.GRUCell)
        for prefix, module in self.named_modules():
            for name, _ in module.named_parameters(recurse=False):
                group = "decay" if isinstance(module, weighted) and name.startswith("weight") else "no_decay"
                groups[group].append(f"{prefix}.{name}" if prefix else name)
        return groups


class SlotAttentionModel(SlotAttentionPreTrainedModel):
    """From images to slots: encoder and Slot Attention, without a decoder."""

    def __init__(self, config: SlotAttentionConfig):
        super().__init__(config)
        self.encoder = SlotImageEncoder(config)
        self.slot_attention = SlotAttention(
            config.input_size,
            config.slot_size,
            config.num_slots,
            num_iterations=config.num_iterations,
            mlp_hidden_size=config.mlp_hidden_size,
            epsilon=config.epsilon,
            slot_init=config.slot_init,
            qkv_bias=config.qkv_bias,
            fold_projections=config.fold_projections,
            implicit_gradient=config.implicit_gradient,
        )
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        slot_noise: Tensor | None = None,
        num_slots: int | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool | None = None,
    ) -> SlotAttentionModelOutput | tuple:
        """Slots and attention of images [B, num_channels, image_size, image_size] in [-1, 1].

        Args:
            slot_noise: standard normal [B, K, slot_size], for `slot_init="sampled"`. Default: drawn from `generator`,
                or from torch's global one, in evaluation mode too.
            num_slots: K, default that of the config; another only with `slot_init="sampled"`.
            return_dict: `False` gives a plain tuple.
        """
        size = self.config.image_size
        expected = [self.config.num_channels, size, size]
        if pixel_values.ndim != 4 or list(pixel_values.shape[1:]) != expected:
            shape = list(pixel_values.shape)
            raise ValueError(f"pixel_values have shape {shape}: this model takes [B, {', '.join(map(str, expected))}]")
        inputs = self.encoder(pixel_values.to(self.dtype))  # [B, N, input_size]
        slots, attention = self.slot_attention(inputs, num_slots=num_slots, noise=slot_noise, generator=generator)
        if not (self.config.return_dict if return_dict is None else return_dict):
            return slots, attention
        return SlotAttentionModelOutput(slots=slots, attention=attention)


class SlotAttentionAutoencoder(SlotAttentionPreTrainedModel):
    """Encoder, Slot Attention and spatial broadcast decoder.

    Example:
    ```python
    >>> model = SlotAttentionAutoencoder(SlotAttentionConfig(preset="clevrtex"))
    >>> masks = model(images).masks.argmax(dim=1)  # images [B, 3, 128, 128] in [-1, 1] -> slot of each pixel [B, H, W]
    ```
    """

    def __init__(self, config: SlotAttentionConfig):
        super().__init__(config)
        self.model = SlotAttentionModel(config)
        self.decoder = SpatialBroadcastDecoder(
            config.slot_size,
            config.decoder_channels,
            config.decoder_strides,
            resolution=config.decoder_resolution,
            kernel_size=config.decoder_kernel_size,
            output_kernel_size=config.decoder_output_kernel_size,
            num_channels=config.num_channels,
        )
        self.post_init()
        if config.decoder_checkpointing:
            self.decoder.network.gradient_checkpointing = True
            self.decoder.network._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

    def encode(
        self,
        pixel_values: Tensor,
        slot_noise: Tensor | None = None,
        num_slots: int | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Slots [B, K, slot_size] and attention [B, K, N] of images; arguments as [`SlotAttentionModel`]'s."""
        return self.model(pixel_values, slot_noise, num_slots, generator, return_dict=False)

    def decode(self, slots: Tensor) -> DecodedSlots:
        """Reconstruction, masks and contents of slots [B, K, slot_size], from anywhere: any K, any mixture. ValueError
        for another shape."""
        if slots.dim() != 3 or slots.shape[2] != self.config.slot_size:
            raise ValueError(f"slots have shape {list(slots.shape)}: they must be [B, K, {self.config.slot_size}]")
        return self.decoder(slots.to(self.dtype))

    def forward(
        self,
        pixel_values: Tensor,
        slot_noise: Tensor | None = None,
        num_slots: int | None = None,
        generator: torch.Generator | None = None,
        return_loss: bool = True,
        output_contents: bool = False,
        return_dict: bool | None = None,
    ) -> SlotAttentionAutoencoderOutput | tuple:
        """Reconstruct images [B, num_channels, image_size, image_size] in [-1, 1].

        Args:
            slot_noise, num_slots, generator: as [`SlotAttentionModel`]'s.
            return_loss: compute (1 / BHW) times the sum of squared errors.
            output_contents: also return each slot's own image.
            return_dict: `False` gives a plain tuple without the values that are None.
        """
        slots, attention = self.encode(pixel_values, slot_noise, num_slots, generator)
        reconstruction, masks, contents = self.decode(slots)
        loss = None
        if return_loss:
            squared = F.mse_loss(reconstruction, pixel_values.to(reconstruction.dtype), reduction="sum")
            loss = squared / (pixel_values.shape[0] * pixel_values.shape[2] * pixel_values.shape[3])
        output = SlotAttentionAutoencoderOutput(
            loss=loss,
            reconstruction=reconstruction,
            masks=masks,
            slots=slots,
            attention=attention,
            contents=contents if output_contents else None,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()


SlotAttentionConfig.register_for_auto_class()
SlotAttentionModel.register_for_auto_class("AutoModel")
SlotAttentionAutoencoder.register_for_auto_class("AutoModel")

__all__ = [
    "SlotAttentionAutoencoder",
    "SlotAttentionAutoencoderOutput",
    "SlotAttentionModel",
    "SlotAttentionModelOutput",
    "SlotAttentionPreTrainedModel",
]
