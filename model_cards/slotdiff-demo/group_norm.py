"""Group normalisation (Wu & He 2018) by whichever implementation is fastest, and exact, for the input at hand."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .normalization import GroupNorm

LARGE = 1 << 20  # values from which on the hand-written layer is the fastest


class FastGroupNorm(GroupNorm):
    """[`GroupNorm`] that is torch's kernel where that is good.

    For channels-last maps in bf16 torch's CPU kernels are slow, above all in the backward pass, and the forward one
    rounds the shift of large maps to bf16, which shows where a mean is many deviations from zero. There the fp32
    kernels are taken, or for large maps the hand-written layer. Everywhere the statistics of bf16 are taken in fp32.
    """

    def forward(self, x: Tensor) -> Tensor:
        poor = x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.stride(1) == 1 and not x.is_contiguous()
        if not poor or torch.compiler.is_compiling():
            return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        if x.numel() >= LARGE:
            return super().forward(x)
        return _InFloat.apply(x, self.weight, self.bias, self.num_groups, self.eps)


class _InFloat(torch.autograd.Function):
    """torch's fp32 kernels on a half-precision map, of which only the half-precision input is kept."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        ctx.sizes = (*x.shape[:2], x.shape[2] * x.shape[3], groups)
        y, mean, rstd = torch.native_group_norm(x.float(), weight.float(), bias.float(), *ctx.sizes, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return y.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight, bias, mean, rstd = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last).float()
        grads = torch.ops.aten.native_group_norm_backward(
            grad, x.float(), mean, rstd, weight.float(), *ctx.sizes, list(ctx.needs_input_grad[:3])
        )
        inputs = (x, weight, bias)
        typed = [None if g is None else g.to(t.dtype) for g, t in zip(grads, inputs, strict=True)]
        return *typed, None, None
