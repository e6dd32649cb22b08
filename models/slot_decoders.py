"""The spatial broadcast decoder (Watters et al. 2019, arXiv:1901.07017) as Slot Attention uses it.

Each slot is decoded alone, to an image and an unnormalised mask; the softmax of the masks over the slots weighs the
images into the reconstruction (Locatello et al. 2020, arXiv:2006.15055, section 3.1 and appendix E.3).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .slot_attention import SoftPositionEmbedding


class DecodedSlots(NamedTuple):
    """What slots look like.

    Args:
        reconstruction: [B, num_channels, H, W], the sum over slots of mask times content, in fp32 at least.
        masks: [B, K, H, W], summing to 1 over the slots, in fp32 at least.
        contents: [B, K, num_channels, H, W], each slot's image where nothing hides it.
    """

    reconstruction: Tensor
    masks: Tensor
    contents: Tensor


class SlotDecoderNetwork(GradientCheckpointingLayer):
    """One slot -> its mask's logits and its image.

    The slot is copied to every position of a `resolution` x `resolution` grid, a position embedding is added, and
    layers with ReLU follow: transposed convolutions that double the size (stride 2), or convolutions (stride 1). A
    last convolution gives the mask (channel 0) and the image.
    """

    def __init__(
        self,
        slot_size: int,
        channels: Sequence[int],
        strides: Sequence[int],
        resolution: int = 8,
        kernel_size: int = 5,
        output_kernel_size: int = 1,
        num_channels: int = 3,
    ):
        super().__init__()
        self.resolution = resolution
        self.position_embedding = SoftPositionEmbedding(slot_size)
        self.layers = nn.ModuleList()
        for c_in, c_out, stride in zip((slot_size, *channels[:-1]), channels, strides, strict=True):
            padding = kernel_size // 2
            if stride == 1:
                layer = nn.Conv2d(c_in, c_out, kernel_size, padding=padding)
            else:
                layer = nn.ConvTranspose2d(c_in, c_out, kernel_size, stride, padding, output_padding=stride - 1)
            self.layers.append(layer)
        self.output = nn.Conv2d(channels[-1], 1 + num_channels, output_kernel_size, padding=output_kernel_size // 2)

    def forward(self, slots: Tensor) -> Tensor:
        """[M, slot_size] -> [M, 1 + num_channels, H, W]."""
        grid = slots[:, None, None] + self.position_embedding(self.resolution, self.resolution)
        hidden = grid.permute(0, 3, 1, 2)  # [M, slot_size, h, w], channels_last in memory
        for layer in self.layers:
            hidden = F.relu(layer(hidden))
        return self.output(hidden)


class SpatialBroadcastDecoder(nn.Module):
    """Decodes slots one by one and puts them together; arguments as [`SlotDecoderNetwork`].

    With checkpointed activations (`activation_checkpointing_enable` of the model) slot after slot is decoded and
    nothing of it kept: evaluation and the backward pass hold the activations of one slot per sample at a time.
    """

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.network = SlotDecoderNetwork(*args, **kwargs)

    def forward(self, slots: Tensor) -> DecodedSlots:
        """Slots [B, K, D] -> reconstruction, masks and contents."""
        if self.network.gradient_checkpointing:
            decoded = torch.stack([self.network(slot) for slot in slots.unbind(dim=1)], dim=1)
        else:
            decoded = self.network(slots.flatten(0, 1)).unflatten(0, slots.shape[:2])  # [B, K, 1 + C, H, W]
        logits, contents = decoded[:, :, 0], decoded[:, :, 1:]
        dtype = torch.promote_types(decoded.dtype, torch.float32)
        masks = torch.softmax(logits, dim=1, dtype=dtype)
        return DecodedSlots((masks[:, :, None] * contents).sum(dim=1), masks, contents)


__all__ = ["DecodedSlots", "SlotDecoderNetwork", "SpatialBroadcastDecoder"]
