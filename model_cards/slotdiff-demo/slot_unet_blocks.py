"""The blocks of the slot-conditioned UNet, and the order in which they stand.

Two forms of each: that of the coursework's figures 3 and 4, and (`residual_form`) that of SlotDiffusion (Wu et al.
2023, arXiv:2305.11281), whose blocks are those of latent diffusion (Rombach et al. 2022, arXiv:2112.10752).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_slot_unet import SlotUNetConfig
from .group_norm import FastGroupNorm

FEED_FORWARD_FACTOR = 4


@dataclass(frozen=True)
class BlockSpec:
    """One row of the block table (the coursework's figure 5)."""

    name: str  # R1, T1, D1, U1, ... counted in the order of the table; conv_in at its head
    kind: str  # conv_in, residual, transformer, down or up
    in_channels: int  # those of the skip included
    out_channels: int
    level: int  # of its output: the resolution is that of the latent / 2^level
    skip: str | None = None  # the block whose output is concatenated to the input


def block_table(config: SlotUNetConfig) -> list[BlockSpec]:
    """All blocks in the order in which they run."""
    table = [BlockSpec("conv_in", "conv_in", config.in_channels, config.base_channels, 0)]
    skips = [table[0]]  # outputs that wait for the way up
    counts: dict[str, int] = {}

    def add(kind: str, out_channels: int, level: int, skip: BlockSpec | None = None) -> None:
        letter = {"residual": "R", "transformer": "T", "down": "D", "up": "U"}[kind]
        counts[letter] = counts.get(letter, 0) + 1
        in_channels = table[-1].out_channels + (skip.out_channels if skip else 0)
        name = f"{letter}{counts[letter]}"
        table.append(BlockSpec(name, kind, in_channels, out_channels, level, skip.name if skip else None))

    levels = list(enumerate(zip(config.widths, config.attention_levels, strict=True)))
    for level, (width, attends) in levels:
        for _ in range(config.blocks_per_level):
            add("residual", width, level)
            if attends:
                add("transformer", width, level)
            skips.append(table[-1])
        if level < len(levels) - 1:
            add("down", width, level + 1)
            skips.append(table[-1])
    level, (width, _) = levels[-1]
    for kind in ("residual", "transformer", "residual"):
        add(kind, width, level)
    for level, (width, attends) in reversed(levels):
        for _ in range(config.blocks_per_level + 1):
            add("residual", width, level, skips.pop())
            if attends:
                add("transformer", width, level)
        if level > 0:
            add("up", width, level - 1)
    return table


def starting_at_zero(layer: nn.Module) -> nn.Module:
    """Mark a layer for the model's initialisation: its output is zero before training."""
    layer.starts_at_zero = True
    return layer


def _swish(normed: Tensor) -> Tensor:
    """SiLU of a norm's output, which no one else holds: in place where no gradient needs it."""
    return F.silu(normed, inplace=not torch.is_grad_enabled())


class SlotUNetTimeEmbedding(nn.Module):
    """[cos, sin] of the timestep at `channels`/2 frequencies from 1 to 1/10000, then Linear, SiLU, Linear to 4x."""

    def __init__(self, channels: int):
        super().__init__()
        self.half = channels // 2
        self.linear_1 = nn.Linear(channels, 4 * channels)
        self.linear_2 = nn.Linear(4 * channels, 4 * channels)

    def forward(self, timesteps: Tensor, dtype: torch.dtype) -> Tensor:
        """Timesteps [B] -> [B, 4 channels]; the angles are fp32."""
        exponents = torch.arange(self.half, dtype=torch.float32, device=timesteps.device) / self.half
        angles = timesteps.float()[:, None] * torch.exp(-math.log(10_000) * exponents)
        waves = torch.cat([angles.cos(), angles.sin()], dim=1).to(dtype)
        return self.linear_2(F.silu(self.linear_1(waves)))


class SlotUNetResidualBlock(GradientCheckpointingLayer):
    """u = first(SiLU(norm x)) + linear(SiLU(t)); y = u + conv(dropout(SiLU(norm u))).

    `first` is a 3x3 convolution, in a `down` block 2x2 average pooling, in an `up` block nearest interpolation x2. In
    the residual form y = shortcut(x) + conv(dropout(SiLU(norm u))), where the shortcut is x, resampled or through a
    1x1 convolution as `first` demands.
    """

    def __init__(self, config: SlotUNetConfig, spec: BlockSpec):
        super().__init__()
        self.kind, self.residual_form, self.dropout = spec.kind, config.residual_form, config.dropout
        self.norm_1 = FastGroupNorm(config.num_groups, spec.in_channels)
        if spec.kind == "residual":
            self.conv_1 = nn.Conv2d(spec.in_channels, spec.out_channels, 3, padding=1)
            if config.residual_form and spec.in_channels != spec.out_channels:
                self.shortcut = nn.Conv2d(spec.in_channels, spec.out_channels, 1)
        self.time = nn.Linear(4 * config.base_channels, spec.out_channels)
        self.norm_2 = FastGroupNorm(config.num_groups, spec.out_channels)
        self.conv_2 = starting_at_zero(nn.Conv2d(spec.out_channels, spec.out_channels, 3, padding=1))

    def forward(self, hidden: Tensor, time: Tensor) -> Tensor:
        """Feature map [B, C_in, H, W] and projected time [B or 1, C_out] -> [B, C_out, H', W']."""
        inner = self._first(_swish(self.norm_1(hidden)), time)
        update = F.dropout(_swish(self.norm_2(inner)), self.dropout, self.training)
        return (self._shortcut(hidden) if self.residual_form else inner) + self.conv_2(update)

    def _first(self, hidden: Tensor, time: Tensor) -> Tensor:
        if self.kind != "residual":
            return self._resample(hidden) + time[:, :, None, None]
        if len(time) == 1:  # a bias like any other, which saves a pass over the map
            return F.conv2d(hidden, self.conv_1.weight, self.conv_1.bias + time[0], padding=1)
        return self.conv_1(hidden) + time[:, :, None, None]

    def _shortcut(self, hidden: Tensor) -> Tensor:
        if self.kind == "residual":
            return self.shortcut(hidden) if hasattr(self, "shortcut") else hidden
        return self._resample(hidden)

    def _resample(self, hidden: Tensor) -> Tensor:
        if self.kind == "down":
            return F.avg_pool2d(hidden, 2)
        return F.interpolate(hidden, scale_factor=2.0, mode="nearest")


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Scaled dot-product attention; with a gradient on a CPU in fp32, whose backward kernel is several times faster."""
    if queries.dtype != torch.bfloat16 or queries.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(queries, keys, values)
    with torch.autocast("cpu", enabled=False):
        attended = F.scaled_dot_product_attention(queries.float(), keys.float(), values.float())
    return attended.to(queries.dtype)


class SlotUNetSelfAttention(nn.Module):
    """Multi-head attention of tokens to one another."""

    def __init__(self, channels: int, head_channels: int):
        super().__init__()
        self.head_channels = head_channels
        self.query_key_value = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, channels] -> [B, N, channels]."""
        projected = self.query_key_value(tokens).unflatten(2, (3, -1, self.head_channels))
        attended = _attend(*projected.permute(2, 0, 3, 1, 4).unbind(0))  # three of [B, heads, N, width]
        return self.out(attended.transpose(1, 2).flatten(2))


class SlotUNetCrossAttention(nn.Module):
    """Multi-head attention of tokens to slots, whose keys and values are made apart (once per sampling run)."""

    def __init__(self, channels: int, slot_channels: int, head_channels: int):
        super().__init__()
        self.head_channels = head_channels
        self.query = nn.Linear(channels, channels, bias=False)
        self.key_value = nn.Linear(slot_channels, 2 * channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def keys_values(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """[B, K, slot_channels] -> keys and values [B, heads, K, width]."""
        projected = self.key_value(slots).unflatten(2, (2, -1, self.head_channels))
        keys, values = projected.permute(2, 0, 3, 1, 4).unbind(0)
        return keys, values

    def folded(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys times the query layer [B, channels, heads K], values times the output layer [B, heads K, channels].

        q.k = (Wq x).k = x.(Wq^T k), and likewise for the output: exact, and fewer operations where K is small.
        """
        keys, values = self.keys_values(slots)
        query = self.query.weight.unflatten(0, (-1, self.head_channels))  # [heads, width, channels]
        out = self.out.weight.unflatten(1, (-1, self.head_channels)).permute(1, 2, 0)  # [heads, width, channels]
        keys = keys @ (query / math.sqrt(self.head_channels))  # [B, heads, K, channels]
        return keys.flatten(1, 2).transpose(1, 2).contiguous(), (values @ out).flatten(1, 2)

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Tokens [B, N, channels], and what :meth:`keys_values` or :meth:`folded` gave -> [B, N, channels]."""
        if keys.dim() == 3:
            heads = tokens.shape[2] // self.head_channels
            logits = torch.bmm(tokens, keys).unflatten(2, (heads, -1))  # [B, N, heads, K]
            shares = logits.softmax(3, dtype=torch.float32).flatten(2).to(values.dtype)
            return torch.baddbmm(self.out.bias, shares, values)
        queries = self.query(tokens).unflatten(2, (-1, self.head_channels)).transpose(1, 2)  # [B, heads, N, width]
        return self.out(_attend(queries, keys, values).transpose(1, 2).flatten(2))


class SlotUNetFeedForward(nn.Module):
    """GEGLU (Shazeer 2020, arXiv:2002.05202): out(a * GELU(b)) with a, b of 4 times the width."""

    def __init__(self, channels: int):
        super().__init__()
        self.gated = nn.Linear(channels, 2 * FEED_FORWARD_FACTOR * channels)
        self.out = nn.Linear(FEED_FORWARD_FACTOR * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        values, gates = self.gated(tokens).chunk(2, dim=-1)
        return self.out(values * F.gelu(gates))


class SlotUNetTransformerLayer(nn.Module):
    """x + LN(self-attention x); x + LN(cross-attention(x, slots)); x + LN(FFN x); in the residual form x + f(LN x)."""

    def __init__(self, config: SlotUNetConfig, channels: int):
        super().__init__()
        self.residual_form = config.residual_form
        self.self_attention = SlotUNetSelfAttention(channels, config.head_channels)
        self.self_norm = nn.LayerNorm(channels)
        self.cross_attention = SlotUNetCrossAttention(channels, config.cross_attention_dim, config.head_channels)
        self.cross_norm = nn.LayerNorm(channels)
        self.feed_forward = SlotUNetFeedForward(channels)
        self.feed_forward_norm = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Tokens [B, N, C]; keys and values of the slots, as the cross-attention made them."""
        if self.residual_form:
            tokens = tokens + self.self_attention(self.self_norm(tokens))
            tokens = tokens + self.cross_attention(self.cross_norm(tokens), keys, values)
            return tokens + self.feed_forward(self.feed_forward_norm(tokens))
        tokens = tokens + self.self_norm(self.self_attention(tokens))
        tokens = tokens + self.cross_norm(self.cross_attention(tokens, keys, values))
        return tokens + self.feed_forward_norm(self.feed_forward(tokens))


class SlotUNetTransformer(GradientCheckpointingLayer):
    """norm, 1x1, the layers, 1x1; in the residual form with a residual round it all.

    The 1x1 convolutions are linear layers on tokens, which a channels-last map is without being copied.
    """

    def __init__(self, config: SlotUNetConfig, spec: BlockSpec):
        super().__init__()
        channels = spec.out_channels
        self.residual_form = config.residual_form
        self.norm = FastGroupNorm(config.num_groups, channels)
        self.proj_in = nn.Linear(channels, channels)
        self.layers = nn.ModuleList(
            SlotUNetTransformerLayer(config, channels) for _ in range(config.transformer_layers)
        )
        self.proj_out = nn.Linear(channels, channels)
        if config.residual_form:
            starting_at_zero(self.proj_out)

    def of_slots(self, slots: Tensor, fold: bool) -> list[Tensor]:
        """Slots [B, K, D] -> keys and values of the first layer's cross-attention, then of the next's."""
        attentions = [layer.cross_attention for layer in self.layers]
        pairs = [attention.folded(slots) if fold else attention.keys_values(slots) for attention in attentions]
        return [tensor for pair in pairs for tensor in pair]

    def forward(self, hidden: Tensor, *of_slots: Tensor) -> Tensor:
        """Feature map [B, C, H, W], and what :meth:`of_slots` gave -> [B, C, H, W]."""
        tokens = self.proj_in(self.norm(hidden).permute(0, 2, 3, 1).flatten(1, 2))  # [B, HW, C]
        for i, layer in enumerate(self.layers):
            tokens = layer(tokens, *of_slots[2 * i : 2 * i + 2])
        update = self.proj_out(tokens).unflatten(1, hidden.shape[2:]).permute(0, 3, 1, 2)
        return hidden + update if self.residual_form else update
