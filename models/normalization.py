"""Five normalisation layers for [N, C, H, W] feature maps, written from their papers.

All five normalise with a mean and a variance and differ only in the set of values these are taken over:

========================  ===============================  ==========================================
layer                     statistics over                  paper
========================  ===============================  ==========================================
``BatchNorm2d``           N, H, W of each channel          Ioffe & Szegedy 2015
``InstanceNorm2d``        H, W of each sample and channel  Ulyanov, Vedaldi & Lempitsky 2016
``LayerNorm2d``           C, H, W of each sample           Ba, Kiros & Hinton 2016
``GroupNorm``             C/G, H, W of each sample, group  Wu & He 2018
``BatchInstanceNorm2d``   both of the first two, gated     Nam & Kim 2018
========================  ===============================  ==========================================

So each is computed from the same moments, the mean and the biased variance of every (sample, channel): averaging
them over samples or channels is algebra on [N, C] numbers, after which the layer is one scale and one shift per
(sample, channel). The backward pass has the same form: two sums per (sample, channel), algebra, and
``grad_x = a * grad_y + b * x + c``. Statistics of half-precision inputs are float32; the output has the dtype and the
memory format of the input; one input-sized tensor, the input itself, is kept for the backward pass.
"""

import difflib
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_functional
from torch import Tensor, nn

from .normalization_passes import Pieces, Whole, compute_dtype

NORM_NAMES = ("torch_bn", "bn", "in", "bin", "ln", "gn", "none")


# --- The set of values that share a mean and a variance ---------------------------------------------------------------


@dataclass(frozen=True)
class Pool:
    """Which moments are averaged: `axis` 0, over samples; 2, over the channels of a group (instance norm: of one).

    `sync` averages over the processes of the default group too, each weighted with its number of values.
    """

    axis: int
    channels: int
    groups: int
    sync: bool = False

    def split(self, values: Tensor) -> Tensor:
        """[..., C] -> [..., G, C/G]."""
        return values.unflatten(-1, (self.groups, -1))

    def per_channel(self, values: Tensor) -> Tensor:
        """[N or 1, G, 1 or C/G] -> [N or 1, C]."""
        return values.expand(-1, -1, self.channels // self.groups).flatten(1)

    def average(self, values: Tensor, weight: int) -> Tensor:
        """Mean of [..., K, N, G, C/G] over K and the pool, kept as size 1; `weight` = values of x behind each."""
        axes = (-4, self.axis - 3)
        if not (self.sync and _distributed()):
            return values if values.shape[-4] * values.shape[axes[1]] == 1 else values.mean(axes, keepdim=True)
        total = values.sum(axes, keepdim=True) * weight
        count = total.new_full((1,), values.shape[-4] * values.shape[axes[1]] * weight)
        return _sum_over_processes(total) / _sum_over_processes(count)

    def statistics(self, mean: Tensor, var: Tensor, weight: int) -> tuple[Tensor, Tensor]:
        """Mean and biased variance [N or 1, G, C/G or 1] from moments [K, N, C] (Chan, Golub & LeVeque 1983)."""
        mean, var = self.split(mean), self.split(var)
        center = self.average(mean, weight)
        if center is not mean:
            var = self.average(var + (mean - center).square(), weight)
        return center[0], var[0]


def _distributed() -> bool:
    """Whether torch.distributed's default group has more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _sum_over_processes(values: Tensor) -> Tensor:
    """Sum over all processes, itself differentiable."""
    return dist_functional.all_reduce(values)


# --- Forward and backward ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """What a layer computes: the sum over its pools of weight * x_hat, plus bias.

    The first pool's statistics are `fixed` where given: mean and variance [1, C, 1].
    """

    pools: tuple[Pool, ...]
    eps: float
    fixed: tuple[Tensor, Tensor] | None = None

    def forward(self, passes, x: Tensor, bias: Tensor, weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Output y, scale [N or 1, C], mean and variance of the first pool; then mean and 1/std of every pool."""
        dtype, statistics, found = compute_dtype(x), [], []
        if self.fixed:
            statistics.append(self.fixed)
        if len(statistics) < len(self.pools):
            mean, var = passes.moments(x)
            part = x.shape[2] * x.shape[3] // mean.shape[0]
            statistics += [pool.statistics(mean, var, part) for pool in self.pools[len(statistics) :]]
        scale, shift = None, bias.to(dtype)
        for pool, weight, (center, var) in zip(self.pools, weights, statistics, strict=True):
            rstd = torch.rsqrt(var + self.eps)
            gain = pool.split(weight.to(dtype)) * rstd
            found += [center, rstd]
            scale = gain.flatten(1) if scale is None else scale + gain.flatten(1)
            shift = shift - (center * gain).flatten(1)
        return passes.affine(x, scale, shift), scale, *statistics[0], *found


class _Normalize(torch.autograd.Function):
    """`_Plan.forward` with a backward pass of two sweeps that keeps nothing input-sized but the input.

    With d = grad_y * weight and <.> the mean over the pool, ``grad_x = (d - <d> - x_hat <d x_hat>) / std`` (Ioffe &
    Szegedy 2015, section 3, with the terms collected); the sums that it needs are taken per (sample, channel).
    """

    @staticmethod
    def forward(ctx, plan, x, bias, *weights):
        """x [N, C, H, W], bias [C], a weight [C] per pool -> y and the first pool's statistics, not differentiable."""
        ctx.plan = plan
        ctx.passes = Pieces if x.device.type == "cpu" and x.numel() and not torch.compiler.is_compiling() else Whole
        y, scale, mean, var, *found = plan.forward(ctx.passes, x, bias, weights)
        ctx.save_for_backward(x, bias, scale, *weights, *found)
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx, grad, *_):
        """The gradients of x, bias and weights from that of y; differentiable themselves where that is asked for."""
        x, bias, scale, *rest = ctx.saved_tensors
        plan, passes = ctx.plan, ctx.passes
        weights, found = rest[: len(plan.pools)], rest[len(plan.pools) :]
        if torch.is_grad_enabled():  # a second derivative may be asked for
            return None, *_differentiable_backward(plan, grad, (x, bias, *weights))
        grad = grad.contiguous(memory_format=_memory_format(x))
        size = x.shape[2] * x.shape[3]
        origin = found[0]  # first pool's mean: [N or 1, G, 1 or C/G]
        total, dot = passes.gradient_sums(grad, x, plan.pools[0].per_channel(origin))  # [N, C], [N, C]
        slope, offset, grad_weights = None, None, []
        for i, (pool, weight) in enumerate(zip(plan.pools, weights, strict=True)):
            center, rstd = found[2 * i : 2 * i + 2]
            if i:
                dot = dot + total * (plan.pools[i - 1].per_channel(origin) - pool.per_channel(center))
                origin = center
            dots = pool.split(dot)
            grad_weights.append((dots * rstd).flatten(1).sum(0).to(weight.dtype))
            if plan.fixed and i == 0:
                continue
            sums = torch.stack((pool.split(total), dots))[:, None] * pool.split(weight.to(scale.dtype))
            first, second = pool.average(sums, size).flatten(0, 1)  # the means of [2, 1, N, G, C/G]
            rate = rstd / size
            b = second * (rstd * rstd) * -rate
            c = b * -center - first * rate
            b, c = pool.per_channel(b), pool.per_channel(c)
            slope, offset = (b, c) if slope is None else (slope + b, offset + c)
        grad_bias = total.sum(0).to(bias.dtype)
        if not ctx.needs_input_grad[1]:
            return None, None, grad_bias, *grad_weights
        if slope is None:
            grad_x = passes.affine(grad, scale, torch.zeros_like(scale))
        else:
            grad_x = passes.affine(x, slope, offset, grad, scale)
        return None, grad_x, grad_bias, *grad_weights


def _differentiable_backward(plan: _Plan, grad: Tensor, inputs: tuple[Tensor, ...]) -> list[Tensor | None]:
    """The gradients from plain differentiable formulas, for second derivatives."""
    y = plan.forward(Whole, inputs[0], inputs[1], inputs[2:])[0]
    wanted = [t for t in inputs if t.requires_grad]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    return [next(found) if t.requires_grad else None for t in inputs]


def _memory_format(x: Tensor) -> torch.memory_format:
    """Channels-last where the channels are innermost, else contiguous."""
    return torch.channels_last if x.stride(1) == 1 and not x.is_contiguous() else torch.contiguous_format


def _normalize(plan: _Plan, x: Tensor, bias: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y and the first pool's mean and variance."""
    return _Normalize.apply(plan, x.contiguous(memory_format=_memory_format(x)), bias, *weights)


# --- The layers -------------------------------------------------------------------------------------------------------


class _Norm(nn.Module):
    """Weight, bias and the checks that all layers share."""

    def __init__(self, num_channels: int, eps: float = 1e-5, affine: bool = True):
        super().__init__()
        if num_channels < 1:
            raise ValueError(f"{type(self).__name__}: num_channels={num_channels} must be at least 1")
        self.num_channels, self.eps, self.affine = num_channels, eps, affine
        self.weight = nn.Parameter(torch.ones(num_channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_channels)) if affine else None

    def _affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.affine:
            return self.weight, self.bias
        ones = torch.ones(self.num_channels, dtype=compute_dtype(x), device=x.device)
        return ones, torch.zeros_like(ones)

    def _check_shape(self, x: Tensor) -> None:
        expected = (
            f"{type(self).__name__}: expected an input [N, {self.num_channels}, H, W], got shape {tuple(x.shape)}"
        )
        if x.dim() != 4:
            raise ValueError(f"{expected}; reshape it to four dimensions")
        if x.shape[1] != self.num_channels:
            raise ValueError(f"{expected}; build the layer with num_channels={x.shape[1]} or mend the one before it")

    def _check_count(self, x: Tensor, count: int) -> None:
        """Refuse to train on statistics of fewer than two values."""
        if self.training and count < 2:
            raise ValueError(
                f"{type(self).__name__}: shape {tuple(x.shape)} has at most one value per channel in training, so no "
                "variance; use a larger batch or larger maps, drop the last incomplete batch, or call eval()"
            )

    def extra_repr(self) -> str:
        """The layer's settings, as they stand in the model's printed form; so in all layers here."""
        return f"{self.num_channels}, eps={self.eps}, affine={self.affine}"


class BatchNorm2d(_Norm):
    """Batch normalisation (Ioffe & Szegedy 2015, algorithm 1): statistics of each channel over N, H, W.

    In training the biased variance of the batch normalises and the unbiased one enters `running_var`, with weight
    `momentum`, or as the cumulative average where that is None; in eval mode the running statistics normalise, or the
    batch's where there are none. Arguments, state dict and results as `torch.nn.BatchNorm2d`. `sync=True` takes the
    statistics over all processes of torch.distributed's default group, which may hold batches of unequal sizes.
    """

    def __init__(
        self,
        num_channels: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        sync: bool = False,
    ):
        super().__init__(num_channels, eps, affine)
        self.momentum, self.track_running_stats, self.sync = momentum, track_running_stats, sync
        self.register_buffer("running_mean", torch.zeros(num_channels) if track_running_stats else None)
        self.register_buffer("running_var", torch.ones(num_channels) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track_running_stats else None)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same. In training it updates the running statistics; ValueError for another shape, or one
        value per channel there."""
        self._check_shape(x)
        weight, bias = self._affine(x)
        return self._batch_normalize(x, bias, weight)

    def _batch_normalize(self, x: Tensor, bias: Tensor, weight: Tensor, *others: tuple[Pool, Tensor]) -> Tensor:
        """Normalise with batch (or running) statistics and with those of `others`; update the running ones."""
        synced = self.sync and self.training and _distributed()
        if not synced:
            self._check_count(x, x.numel() // x.shape[1])
        fixed, dtype = None, compute_dtype(x)
        if not self.training and self.running_mean is not None:
            fixed = (self.running_mean.to(dtype)[None, :, None], self.running_var.to(dtype)[None, :, None])
        pools = (Pool(0, self.num_channels, self.num_channels, synced), *(pool for pool, _ in others))
        y, mean, var = _normalize(_Plan(pools, self.eps, fixed), x, bias, weight, *(other for _, other in others))
        if self.training and self.running_mean is not None:
            self._update_running_statistics(mean.flatten(), var.flatten(), x.numel() // x.shape[1], synced)
        return y

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, var: Tensor, count: int | Tensor, synced: bool) -> None:
        if synced:
            count = _sum_over_processes(mean.new_tensor(float(count)))
        self.num_batches_tracked.add_(1)
        rate = self.momentum if self.momentum is not None else 1.0 / self.num_batches_tracked.to(mean.dtype)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_((var * (count / (count - 1))).to(self.running_var.dtype), rate)

    def extra_repr(self) -> str:
        """The base's, and what is kept while training."""
        sync = ", sync=True" if self.sync else ""
        return f"{super().extra_repr()}, momentum={self.momentum}, track_running_stats={self.track_running_stats}{sync}"


class BatchInstanceNorm2d(BatchNorm2d):
    """Batch-instance normalisation (Nam & Kim 2018, equation 4).

    ``y = (gate * batch_norm(x) + (1 - gate) * instance_norm(x)) * weight + bias`` with a gate per channel in [0, 1],
    1 at the start: call `clamp_gate_` after each optimiser step. In eval mode the batch half takes the running
    statistics, the instance half still each sample's own. Arguments as `BatchNorm2d`.
    """

    def __init__(self, num_channels: int, *args, **kwargs):
        super().__init__(num_channels, *args, **kwargs)
        self.gate = nn.Parameter(torch.ones(num_channels))

    @torch.no_grad()
    def clamp_gate_(self) -> None:
        """Bring the gate back into [0, 1]."""
        self.gate.clamp_(0.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """As [`BatchNorm2d.forward`]; here each sample alone needs two values per channel in training."""
        self._check_shape(x)
        self._check_count(x, x.shape[2] * x.shape[3])
        weight, bias = self._affine(x)
        instance = (Pool(2, self.num_channels, self.num_channels), weight * (1 - self.gate))
        return self._batch_normalize(x, bias, weight * self.gate, instance)


class GroupNorm(_Norm):
    """Group normalisation (Wu & He 2018, equation 7): statistics of each sample's each group of channels over H, W.

    Equals `torch.nn.GroupNorm(num_groups, num_channels)`. ValueError where the groups do not divide the channels.
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True):
        super().__init__(num_channels, eps, affine)
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError(
                f"{type(self).__name__}: num_groups={num_groups} does not divide num_channels={num_channels}; "
                f"choose one of {[g for g in range(1, num_channels + 1) if num_channels % g == 0]}"
            )
        self.num_groups = num_groups

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same; ValueError for another shape, or in training where a group has one value."""
        self._check_shape(x)
        self._check_count(x, x.shape[2] * x.shape[3] * self.num_channels // self.num_groups)
        weight, bias = self._affine(x)
        return _normalize(_Plan((Pool(2, self.num_channels, self.num_groups),), self.eps), x, bias, weight)[0]

    def extra_repr(self) -> str:
        """The number of groups, then the base's."""
        return f"num_groups={self.num_groups}, {super().extra_repr()}"


class LayerNorm2d(GroupNorm):
    """Layer normalisation (Ba et al. 2016) of feature maps: statistics of each sample over C, H, W, affine per channel.

    Equals `torch.nn.GroupNorm(1, num_channels)`.
    """

    def __init__(self, num_channels: int, eps: float = 1e-5, affine: bool = True):
        super().__init__(1, num_channels, eps, affine)


class InstanceNorm2d(GroupNorm):
    """Instance normalisation (Ulyanov et al. 2016): statistics of each sample's each channel over H, W.

    Equals `torch.nn.InstanceNorm2d(num_channels, affine=True)`; no running statistics.
    """

    def __init__(self, num_channels: int, eps: float = 1e-5, affine: bool = True):
        super().__init__(num_channels, num_channels, eps, affine)


def build_norm(name: str, num_channels: int, num_groups: int = 8, sync: bool = False) -> nn.Module:
    """A normalisation layer by its short name, one of `NORM_NAMES`.

    `num_groups` is for ``gn`` alone; `sync` for ``bn`` and ``bin``. ``torch_bn`` is `torch.nn.BatchNorm2d`, for
    comparison, and ``none`` is the identity. Raises ValueError for an unknown name or groups that do not divide.
    """
    makers = {
        "torch_bn": lambda: nn.BatchNorm2d(num_channels),
        "bn": lambda: BatchNorm2d(num_channels, sync=sync),
        "in": lambda: InstanceNorm2d(num_channels),
        "bin": lambda: BatchInstanceNorm2d(num_channels, sync=sync),
        "ln": lambda: LayerNorm2d(num_channels),
        "gn": lambda: GroupNorm(num_groups, num_channels),
        "none": nn.Identity,
    }
    if name not in makers:
        nearest = difflib.get_close_matches(str(name).lower(), NORM_NAMES, n=1, cutoff=0.0)[0]
        raise ValueError(f"norm {name!r} is not known; did you mean {nearest!r}? Known: {', '.join(NORM_NAMES)}")
    return makers[name]()
