"""The UNet that denoises latents given slots: figures 3 to 5 of the coursework; after SlotDiffusion (Wu et al. 2023,
arXiv:2305.11281) and latent diffusion (Rombach et al. 2022, arXiv:2112.10752). 33 million parameters by default."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_slot_unet import SlotUNetConfig
from .group_norm import FastGroupNorm
from .slot_unet_blocks import (
    BlockSpec,
    SlotUNetResidualBlock,
    SlotUNetTimeEmbedding,
    SlotUNetTransformer,
    block_table,
    starting_at_zero,
)
from .stored_weights import CheckedPreTrainedModel


@dataclass
class SlotUNetOutput(ModelOutput):
    """`sample` [B, out_channels, h, w]: what the scheduler's `prediction_type` says, by default the noise."""

    sample: Tensor | None = None


@dataclass(frozen=True)
class SlotUNetCache:
    """What of a sampling run does not depend on the latents; made by [`SlotUNetModel.precompute`]."""

    slots: list[list[Tensor]]  # for each transformer: two tensors for each of its layers
    timesteps: Tensor  # [S]
    time: list[Tensor]  # for each block that takes the time: its projection [S, out_channels]


class SlotUNetModel(CheckedPreTrainedModel):
    """Denoises latents [B, 3, h, w] at timestep t given slots [B, K, 192]; h and w divisible by 8.

    The blocks are in `blocks`, by their names in figure 5 (R1, T1, D1, …); `block_table()` lists them.

    Example:
    ```python
    >>> unet = SlotUNetModel(SlotUNetConfig())
    >>> noise = unet(latents, timesteps, encoder_hidden_states=slots).sample
    ```
    """

    config: SlotUNetConfig
    base_model_prefix = "unet"
    main_input_name = "sample"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _no_split_modules = ["SlotUNetResidualBlock", "SlotUNetTransformer"]
    _can_compile_fullgraph = True

    def __init__(self, config: SlotUNetConfig):
        config.validate_fields()  # fields may have been set since the config was made, `from_pretrained` does so
        super().__init__(config)
        self.table = block_table(config)
        self.time_embedding = SlotUNetTimeEmbedding(config.base_channels)
        self.conv_in = nn.Conv2d(config.in_channels, config.base_channels, 3, padding=1)
        self.blocks = nn.ModuleDict()
        for spec in self.table[1:]:
            maker = SlotUNetTransformer if spec.kind == "transformer" else SlotUNetResidualBlock
            self.blocks[spec.name] = maker(config, spec)
        self.norm_out = FastGroupNorm(config.num_groups, self.table[-1].out_channels)
        self.conv_out = starting_at_zero(nn.Conv2d(self.table[-1].out_channels, config.out_channels, 3, padding=1))
        self._skips = {spec.skip for spec in self.table}
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """torch's default; zero for the last layer of each residual branch and of the whole (Ho et al. 2020)."""
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            zero = getattr(module, "starts_at_zero", False)
            bound = 0.0 if zero else 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.weight, -bound, bound)  # which is He's uniform rule with a = sqrt(5)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, (FastGroupNorm, nn.LayerNorm)):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    def block_table(self) -> list[BlockSpec]:
        """Every block in the order in which it runs, with channels, level and skip."""
        return list(self.table)

    def parameter_groups(self) -> dict[str, list[str]]:
        """Every parameter's name, in `decay` (weights of convolutions and linear layers) or `no_decay`."""
        groups: dict[str, list[str]] = {"decay": [], "no_decay": []}
        for prefix, module in self.named_modules():
            for name, _ in module.named_parameters(recurse=False):
                decays = isinstance(module, (nn.Conv2d, nn.Linear)) and name == "weight"
                groups["decay" if decays else "no_decay"].append(f"{prefix}.{name}")
        return groups

    # ---- What depends on slots and time alone ----

    def _of_slots(self, slots: Tensor, fold: bool = False) -> list[list[Tensor]]:
        if slots.dim() != 3 or slots.shape[2] != self.config.cross_attention_dim:
            width, shape = self.config.cross_attention_dim, tuple(slots.shape)
            raise ValueError(f"encoder_hidden_states (the slots) has shape {shape}: it must be [B, K, {width}]")
        slots = slots.to(self.dtype)
        return [b.of_slots(slots, fold) for b in self.blocks.values() if isinstance(b, SlotUNetTransformer)]

    def _time(self, timesteps: Tensor) -> list[Tensor]:
        embedding = nn.functional.silu(self.time_embedding(timesteps, self.dtype))
        return [b.time(embedding) for b in self.blocks.values() if isinstance(b, SlotUNetResidualBlock)]

    @torch.no_grad()
    def precompute(self, encoder_hidden_states: Tensor, timesteps: Tensor) -> SlotUNetCache:
        """Keys and values of slots [B, K, D] and projections of all timesteps [S], for the `cache` of :meth:`forward`.

        Once per sampling run, with the weights, dtype and autocast that the run has; no gradient passes. Where there
        are fewer slots than a head has channels, the query and output layers are multiplied into keys and values.
        """
        timesteps = torch.as_tensor(timesteps, device=self.device).flatten()
        fold = encoder_hidden_states.dim() == 3 and encoder_hidden_states.shape[1] < self.config.head_channels
        return SlotUNetCache(self._of_slots(encoder_hidden_states, fold), timesteps, self._time(timesteps))

    def _cached_time(self, cache: SlotUNetCache, timesteps: Tensor) -> list[Tensor]:
        """The rows of the cache for timesteps [B or 1]."""
        found = cache.timesteps[:, None] == timesteps  # [S, B or 1]
        known = found.any(0)
        if torch.compiler.is_compiling():  # no error can be raised there: NaN in every output shows it
            gain = torch.where(known, 1.0, math.nan)[:, None]
            return [rows[found.int().argmax(0)] * gain.to(rows.dtype) for rows in cache.time]
        if not bool(known.all()):
            raise ValueError(f"timestep {timesteps[~known][0].item()} is not in the cache; precompute() with it")
        return [rows[found.int().argmax(0)] for rows in cache.time]

    # ---- One evaluation ----

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor | None = None,
        return_dict: bool = True,
        cache: SlotUNetCache | None = None,
    ) -> SlotUNetOutput | tuple[Tensor]:
        """Predict from noisy latents, time and slots.

        Args:
            sample: latents [B, in_channels, h, w].
            timestep: one for all, or [B].
            encoder_hidden_states: slots [B, K, cross_attention_dim]; K is free.
            return_dict: `False` gives a tuple.
            cache: in place of the slots, what `precompute` made of them.

        Raises:
            ValueError: a shape that does not fit, saying which; a timestep that the cache lacks.
        """
        timesteps = torch.as_tensor(timestep, device=sample.device).flatten()
        self._check(sample, timesteps, encoder_hidden_states, cache)
        if cache is None:
            of_slots, time = self._of_slots(encoder_hidden_states), self._time(timesteps)
        else:
            of_slots, time = cache.slots, self._cached_time(cache, timesteps)
        if of_slots[0][0].shape[0] != sample.shape[0]:
            raise ValueError(f"slots of {of_slots[0][0].shape[0]} samples for a batch of {sample.shape[0]}")
        prediction = self._denoise(sample.to(self.dtype), time, of_slots)
        return SlotUNetOutput(sample=prediction) if return_dict else (prediction,)

    def _check(self, sample: Tensor, timesteps: Tensor, slots: Tensor | None, cache: SlotUNetCache | None) -> None:
        divisor, channels, shape = self.config.size_divisor, self.config.in_channels, tuple(sample.shape)
        if len(shape) != 4 or shape[1] != channels or shape[2] % divisor or shape[3] % divisor:
            raise ValueError(
                f"sample has shape {shape}: it must be [B, {channels}, h, w] with h and w divisible by {divisor}"
            )
        if timesteps.shape[0] not in (1, shape[0]):
            raise ValueError(
                f"timestep has {timesteps.shape[0]} values for a batch of {shape[0]}: give 1 or {shape[0]}"
            )
        if (slots is None) == (cache is None):
            raise ValueError("give either encoder_hidden_states (the slots) or a cache made of them")

    def _denoise(self, sample: Tensor, time: list[Tensor], of_slots: list[list[Tensor]]) -> Tensor:
        times, contexts = iter(time), iter(of_slots)
        hidden = self.conv_in(sample)
        waiting = {"conv_in": hidden}
        for spec in self.table[1:]:
            block = self.blocks[spec.name]
            if spec.skip is not None:
                hidden = torch.cat([hidden, waiting.pop(spec.skip)], dim=1)
            hidden = block(hidden, *next(contexts)) if spec.kind == "transformer" else block(hidden, next(times))
            if spec.name in self._skips:
                waiting[spec.name] = hidden
        hidden = self.norm_out(hidden)
        return self.conv_out(nn.functional.silu(hidden) if self.config.residual_form else hidden)


SlotUNetConfig.register_for_auto_class()
SlotUNetModel.register_for_auto_class("AutoModel")

__all__ = ["SlotUNetCache", "SlotUNetConfig", "SlotUNetModel", "SlotUNetOutput"]
