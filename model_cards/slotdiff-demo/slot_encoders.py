"""From images to the vectors that Slot Attention reads: a backbone, a position embedding, and an MLP per position.

Two backbones: the convolutions that Locatello et al. 2020 (arXiv:2006.15055, appendix E.3) use for CLEVR, and the
ResNet-18 with group norm of SlotDiffusion (Wu et al. 2023, arXiv:2305.11281) and SAVi.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_resnet import ResNet6n2Config
from .configuration_slot_attention import SlotAttentionConfig
from .modeling_resnet import ResNet6n2Block, ResNet6n2ConvLayer
from .slot_attention import SoftPositionEmbedding


class ConvEncoder(nn.Module):
    """Convolutions of one odd kernel size with ReLU after each; a stride s takes every s-th position."""

    def __init__(self, num_channels: int, channels: Sequence[int], strides: Sequence[int], kernel_size: int = 5):
        super().__init__()
        inputs = (num_channels, *channels[:-1])
        self.layers = nn.ModuleList(
            nn.Conv2d(c_in, c_out, kernel_size, stride, padding=kernel_size // 2)
            for c_in, c_out, stride in zip(inputs, channels, strides, strict=True)
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, num_channels, H, W] -> [B, channels[-1], H / s, W / s] with s the product of the strides."""
        hidden = pixel_values
        for layer in self.layers:
            hidden = F.relu(layer(hidden))
        return hidden


class ResNet18Encoder(nn.Module):
    """ResNet-18 (He et al. 2016) up to its third stage, with group norm, a 3x3 stem of stride 1 and no max pooling.

    Three stages of two residual blocks; the shortcut is a 1x1 convolution with norm where the shape changes.
    """

    def __init__(self, num_channels: int, channels: Sequence[int], strides: Sequence[int], num_groups: int = 32):
        super().__init__()
        config = ResNet6n2Config(
            n=2, norm="gn", num_groups=num_groups, shortcut="B", widths=list(channels), num_channels=num_channels
        )
        self.stem = ResNet6n2ConvLayer(config, num_channels, channels[0], kernel_size=3, stride=1)
        self.blocks = nn.ModuleList()
        width = channels[0]
        for stage_width, stage_stride in zip(channels, strides, strict=True):
            for stride in (stage_stride, 1):
                self.blocks.append(ResNet6n2Block(config, width, stage_width, stride))
                width = stage_width

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, num_channels, H, W] -> [B, channels[-1], H / s, W / s] with s the product of the strides."""
        hidden = F.relu(self.stem(pixel_values))
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


class SlotImageEncoder(nn.Module):
    """Backbone, then for every position: plus its embedding, LayerNorm, Linear, ReLU, Linear."""

    def __init__(self, config: SlotAttentionConfig):
        super().__init__()
        layout = (config.num_channels, config.encoder_channels, config.encoder_strides)
        if config.encoder == "cnn":
            self.backbone = ConvEncoder(*layout, kernel_size=config.encoder_kernel_size)
        else:
            self.backbone = ResNet18Encoder(*layout, num_groups=config.encoder_num_groups)
        channels = config.encoder_channels[-1]
        size = config.input_size
        self.position_embedding = SoftPositionEmbedding(channels)
        self.norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, size), nn.ReLU(), nn.Linear(size, size))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, num_channels, H, W] -> [B, N, input_size], the N positions row by row."""
        features = self.backbone(pixel_values).permute(0, 2, 3, 1)  # [B, H', W', C], in memory too if channels_last
        features = features + self.position_embedding(*features.shape[1:3])
        return self.mlp(self.norm(features.flatten(1, 2)))


__all__ = ["ConvEncoder", "ResNet18Encoder", "SlotImageEncoder"]
