"""Encoder and decoder of the VQ-VAE: residual convolutions, one attention in the middle of each.

The layout is that of the autoencoders of latent diffusion (Rombach et al. 2022, arXiv:2112.10752, appendix E), and the
modules carry the names of its published checkpoints.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .group_norm import FastGroupNorm

NORM_EPS = 1e-6


class VQVAEResidualBlock(GradientCheckpointingLayer):
    """x + conv(swish(norm(conv(swish(norm(x)))))), with a 1x1 convolution on x where the channels change."""

    def __init__(self, in_channels: int, out_channels: int, num_groups: int):
        super().__init__()
        self.norm1 = FastGroupNorm(num_groups, in_channels, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = FastGroupNorm(num_groups, out_channels, eps=NORM_EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, hidden: Tensor) -> Tensor:
        update = self.conv1(F.silu(self.norm1(hidden)))
        update = self.conv2(F.silu(self.norm2(update)))
        return self.nin_shortcut(hidden) + update


class VQVAEAttentionBlock(nn.Module):
    """x + self-attention(norm(x)) over all positions, with one head as wide as the map."""

    def __init__(self, channels: int, num_groups: int):
        super().__init__()
        self.norm = FastGroupNorm(num_groups, channels, eps=NORM_EPS)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        normed = self.norm(hidden)
        # [B, C, H, W] -> [B, 1, HW, C]
        query, key, value = (layer(normed).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        update = F.scaled_dot_product_attention(query, key, value)[:, 0]  # [B, HW, C]
        return hidden + self.proj_out(update.transpose(1, 2).unflatten(2, hidden.shape[2:]))


class VQVAEDownsample(nn.Module):
    """3x3 convolution of stride 2 after a zero row below and a zero column on the right."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.conv(F.pad(hidden, (0, 1, 0, 1)))


class VQVAEUpsample(nn.Module):
    """Nearest neighbour x2, then a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.conv(F.interpolate(hidden, scale_factor=2.0, mode="nearest"))


class VQVAELevel(nn.Module):
    """The residual blocks of one resolution, and the layer that leaves it (none at the last)."""

    def __init__(self, in_channels: int, out_channels: int, num_blocks: int, num_groups: int):
        super().__init__()
        self.block = nn.ModuleList(
            VQVAEResidualBlock(out_channels if i else in_channels, out_channels, num_groups) for i in range(num_blocks)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        for block in self.block:
            hidden = block(hidden)
        return hidden


class VQVAEMiddle(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, channels: int, num_groups: int):
        super().__init__()
        self.block_1 = VQVAEResidualBlock(channels, channels, num_groups)
        self.attn_1 = VQVAEAttentionBlock(channels, num_groups)
        self.block_2 = VQVAEResidualBlock(channels, channels, num_groups)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(hidden)))


class VQVAEEncoder(nn.Module):
    """Image [B, in_channels, H, W] -> features [B, out_channels, H/f, W/f] with f = 2^(levels - 1)."""

    def __init__(self, in_channels: int, out_channels: int, widths: list[int], num_blocks: int, num_groups: int):
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            level = VQVAELevel(widths[max(i - 1, 0)], width, num_blocks, num_groups)
            if i < len(widths) - 1:
                level.downsample = VQVAEDownsample(width)
            self.down.append(level)
        self.mid = VQVAEMiddle(widths[-1], num_groups)
        self.norm_out = FastGroupNorm(num_groups, widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.conv_in(hidden)
        for i, level in enumerate(self.down):
            hidden = level(hidden)
            if i < len(self.down) - 1:
                hidden = level.downsample(hidden)
        return self.conv_out(F.silu(self.norm_out(self.mid(hidden))))


class VQVAEDecoder(nn.Module):
    """Features [B, in_channels, h, w] -> image [B, out_channels, h*f, w*f]; level 0 is the last one run."""

    def __init__(self, in_channels: int, out_channels: int, widths: list[int], num_blocks: int, num_groups: int):
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, widths[-1], 3, padding=1)
        self.mid = VQVAEMiddle(widths[-1], num_groups)
        self.up = nn.ModuleList()
        for i, width in enumerate(widths):
            level = VQVAELevel(widths[min(i + 1, len(widths) - 1)], width, num_blocks, num_groups)
            if i > 0:
                level.upsample = VQVAEUpsample(width)
            self.up.append(level)
        self.norm_out = FastGroupNorm(num_groups, widths[0], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.mid(self.conv_in(hidden))
        for i in reversed(range(len(self.up))):
            hidden = self.up[i](hidden)
            if i > 0:
                hidden = self.up[i].upsample(hidden)
        return self.conv_out(F.silu(self.norm_out(hidden)))
