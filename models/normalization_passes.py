"""The passes over a feature map that `normalization.py` is made of.

Two forms that agree: whole-tensor formulas, which compilers fuse and GPUs run as they are, and for eager CPUs the same
in pieces that stay in the cache, so that neither an input-sized temporary nor a float32 copy of a half-precision input
is ever made. Both work per (sample, channel) and in float32 for half-precision inputs.
"""

from functools import cache
from itertools import repeat

import torch
from torch import Tensor


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that statistics of x are computed in: float32 for half precision, else that of x."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


class Whole:
    """Passes as one formula each."""

    @staticmethod
    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of each of K equal parts of H, W: x [N, C, H, W] -> [K, N, C], [K, N, C]."""
        x = x.to(compute_dtype(x))
        if not torch.compiler.is_compiling():
            var, mean = torch.var_mean(x, dim=(2, 3), correction=0)
            return mean[None], var[None]
        # One sweep, faster than the compiler's Welford. The first row's mean is near enough to the whole mean: it is
        # 1/H of the data, so its distance squared is at most H variances, and the rounding grows by 1 + H at most.
        shift = x[:, :, 0].mean(-1).detach()
        shifted = x - shift[:, :, None, None]
        mean = shifted.mean((2, 3))
        return (mean + shift)[None], (shifted.square().mean((2, 3)) - mean.square()).clamp_min(0)[None]

    @staticmethod
    def gradient_sums(grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over H, W of grad and of grad * (x - mean), mean [N or 1, C]: [N, C], [N, C]."""
        grad = grad.to(mean.dtype)
        return grad.sum((2, 3)), (grad * (x - mean[:, :, None, None])).sum((2, 3))

    @staticmethod
    def affine(x: Tensor, scale: Tensor, shift: Tensor, grad: Tensor | None = None, gain: Tensor | None = None):
        """x * scale + shift [+ grad * gain] with scale, shift, gain [N or 1, C]."""
        y = x * scale[:, :, None, None] + shift[:, :, None, None]
        return (y if grad is None else y + grad * gain[:, :, None, None]).to(x.dtype)


@cache
def _divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` up to `limit`, at least 1."""
    return next(d for d in range(max(1, min(number, limit)), 0, -1) if number % d == 0)


class Pieces:
    """The same passes, each over pieces of about `SIZE` values.

    x is seen as equal blocks in memory order: contiguous as [N*C*P, T], a row being T pixels of one channel;
    channels-last as [N*P, T/k, k*C], where k neighbouring pixels make a row long enough for vector units. Sums over
    axis 1 then give K = P or P*k values per (sample, channel).
    """

    SIZE = 1 << 18  # 1 MiB of float32
    ROW = 128

    def __init__(self, x: Tensor):
        self.shape, self.last, self.dtype = x.shape, not x.is_contiguous(), compute_dtype(x)
        pixels, width = x.shape[2] * x.shape[3], x.shape[1] if self.last else 1
        tile = _divisor(pixels, self.SIZE // width)
        if tile * width * 16 < min(self.SIZE, pixels * width):  # hardly a divisor: rather too large a block
            tile = pixels
        self.parts = pixels // tile
        self.fold = _divisor(tile, self.ROW // width) if self.last else 1
        self.block = (tile // self.fold, self.fold * width) if self.last else (tile,)
        self.step = max(1, self.SIZE // (tile * width))  # blocks in a piece

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Pieces of an input-sized tensor, as views."""
        return (x.permute(0, 2, 3, 1) if self.last else x).view(-1, *self.block).split(self.step)

    def spread(self, values: Tensor):
        """Values [N or 1, C], shaped to broadcast, for each piece."""
        if not self.last:
            return values[:, :, None].expand(self.shape[0], -1, self.parts).reshape(-1, 1).split(self.step)
        values = values.repeat(1, self.fold)[:, None]
        if len(values) == 1:
            return repeat(values, -(-self.shape[0] * self.parts // self.step))
        return (values if self.parts == 1 else values.repeat_interleave(self.parts, 0)).split(self.step)

    def gather(self, values: list[Tensor]) -> Tensor:
        """Results of all pieces -> [K, N, C]."""
        values, (n, channels) = torch.cat(values) if len(values) > 1 else values[0], self.shape[:2]
        return (
            values.view(n, -1, channels).transpose(0, 1) if self.last else values.view(n, channels, -1).permute(2, 0, 1)
        )

    @classmethod
    def moments(cls, x: Tensor) -> tuple[Tensor, Tensor]:
        """As [`Whole.moments`]: x [N, C, H, W] -> mean and biased variance [K, N, C] of K equal parts."""
        self, means, variances, scratch = cls(x), [], [], None
        for piece in self.split(x):
            piece = piece.to(self.dtype)
            scratch = torch.empty_like(piece) if scratch is None else scratch
            means.append(piece.mean(1, keepdim=True))
            centered = torch.sub(piece, means[-1], out=scratch[: len(piece)])
            variances.append(centered.mul_(centered).mean(1, keepdim=True))
        return self.gather(means), self.gather(variances)

    @classmethod
    def gradient_sums(cls, grad: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """As [`Whole.gradient_sums`]: [N, C, H, W] twice and mean [N or 1, C] -> sums [N, C], [N, C]."""
        self, sums, dots, scratch = cls(x), [], [], None
        for g, piece, m in zip(self.split(grad), self.split(x), self.spread(mean), strict=True):
            g, piece = g.to(self.dtype), piece.to(self.dtype)
            scratch = torch.empty_like(piece) if scratch is None else scratch
            sums.append(g.sum(1, keepdim=True))
            dots.append(torch.sub(piece, m, out=scratch[: len(piece)]).mul_(g).sum(1, keepdim=True))
        return self.gather(sums).sum(0), self.gather(dots).sum(0)

    @classmethod
    def affine(cls, x: Tensor, scale: Tensor, shift: Tensor, grad: Tensor | None = None, gain: Tensor | None = None):
        """As [`Whole.affine`]: x * scale + shift [+ grad * gain], [N, C, H, W] in the dtype and format of x."""
        self, y = cls(x), torch.empty_like(x)
        pieces = zip(self.split(y), self.split(x), self.spread(scale), self.spread(shift), strict=True)
        extra = repeat((None, None)) if grad is None else zip(self.split(grad), self.spread(gain), strict=True)
        for (out, piece, m, s), (g, a) in zip(pieces, extra, strict=False):
            half = x.dtype != self.dtype
            piece = piece.to(self.dtype)
            target = piece if half else out
            if self.last:
                torch.addcmul(s, piece, m, out=target)
            else:  # addcmul is not vectorised with two operands of one value per row
                torch.mul(piece, m, out=target).add_(s)
            if g is not None:
                target.addcmul_(g.to(self.dtype), a)
            if half:
                out.copy_(target)
        return y
