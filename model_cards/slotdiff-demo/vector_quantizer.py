"""Vector quantisation: each latent vector becomes the nearest entry of a codebook.

van den Oord, Vinyals & Kavukcuoglu 2017, "Neural Discrete Representation Learning" (arXiv:1711.00937): equation 2
(nearest code), equation 3 (losses and straight-through gradient), appendix A.1 (moving averages).
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK_VALUES = {"cpu": 1 << 20}  # distances held at a time; on a CPU a chunk stays in the cache
CHUNK_VALUES_ACCELERATOR = 1 << 26
MAX_PENDING = 4096  # forward passes between two updates, far beyond any gradient accumulation
MIN_CLUSTER = 1e-5  # below this moving count a code keeps its place: sum / count would be rounding noise


@dataclass
class Quantized:
    """What quantising latents [B, D, h, w] gives; the losses and counts are in fp32."""

    values: Tensor  # [B, D, h, w], the codes, with the gradient of the latents
    codes: Tensor  # [B, h, w], indices into the codebook
    commitment_loss: Tensor
    codebook_loss: Tensor
    counts: Tensor  # [num_codes], how many latents of this batch chose each code

    @property
    def perplexity(self) -> Tensor:
        """exp of the entropy of the codes in this batch: 1 (one code) to num_codes (all alike)."""
        share = self.counts / self.counts.sum()
        return torch.exp(-torch.xlogy(share, share).sum())

    @property
    def codebook_use(self) -> Tensor:
        """Share of the codebook that this batch chose, in (0, 1]."""
        return (self.counts > 0).float().mean()


class Codebook(nn.Module):
    """The codes [num_codes, dim]: a parameter, or a buffer where they are not trained by gradients."""

    def __init__(self, num_codes: int, dim: int, trained: bool):
        super().__init__()
        if trained:
            self.weight = nn.Parameter(torch.randn(num_codes, dim))
        else:
            self.register_buffer("weight", torch.randn(num_codes, dim))


class VectorQuantizer(nn.Module):
    """A codebook of `num_codes` vectors of `dim` values.

    With `ema_decay` the codes are moving averages of the latents that chose them and get no gradient. With
    `revive_after` a code that nothing chose in so many updates is overwritten by a latent of the current batch, drawn
    without replacement (as far as they go) by a generator seeded with (`seed`, number of updates): a function of seed,
    step and batch, however many processes share the batch. All codes count as unused before the first update, so those
    that the first batch leaves out start as latents of it. An optimiser's moments of a revived code are left alone.

    Both need :meth:`update` after each optimiser step; what they remember is in persistent buffers, which exist only
    where they are used.
    """

    def __init__(self, num_codes: int, dim: int, ema_decay: float | None = None, revive_after: int = 0, seed: int = 0):
        super().__init__()
        self.num_codes, self.ema_decay, self.revive_after, self.seed = num_codes, ema_decay, revive_after, seed
        self.embedding = Codebook(num_codes, dim, trained=ema_decay is None)
        if ema_decay is not None:
            self.register_buffer("cluster_size", torch.ones(num_codes))
            self.register_buffer("cluster_sum", self.embedding.weight.clone())
        if revive_after:
            self.register_buffer("idle_updates", torch.full((num_codes,), revive_after - 1))
        if self.needs_update:
            self.register_buffer("num_updates", torch.tensor(0))
        self._pending: list[tuple[Tensor, Tensor]] = []

    @property
    def needs_update(self) -> bool:
        """Whether :meth:`update` has anything to do."""
        return self.ema_decay is not None or self.revive_after > 0

    def forward(self, latents: Tensor, observe: bool = True) -> Quantized:
        """Quantise latents [B, D, h, w]; in training, and unless told not to, remember them for :meth:`update`."""
        flat = latents.permute(0, 2, 3, 1).flatten(0, 2).float()  # [N, D]
        codes = self.nearest(flat)
        chosen = F.embedding(codes, self.embedding.weight).float()
        counts = torch.bincount(codes, minlength=self.num_codes).float()
        if observe and self.training and self.needs_update:
            self._remember(codes, flat.detach())
        straight = flat + (chosen - flat).detach() if latents.requires_grad else chosen.detach()
        shape = (latents.shape[0], *latents.shape[2:])
        return Quantized(
            values=straight.unflatten(0, shape).permute(0, 3, 1, 2).to(latents.dtype),
            codes=codes.unflatten(0, shape),
            commitment_loss=F.mse_loss(flat, chosen.detach()),
            codebook_loss=F.mse_loss(chosen, flat.detach()),
            counts=counts,
        )

    @torch.no_grad()
    def nearest(self, flat: Tensor) -> Tensor:
        """Index [N] of the code nearest to each of [N, D] (of equally near ones, the first).

        The squared distance less the term of the latent alone, |e|^2 - 2 z.e, is a matrix product; it is taken in
        fp32 and over a few rows at a time, so that [N, num_codes] never exists whole.
        """
        codebook = self.embedding.weight.float()
        with torch.autocast(flat.device.type, enabled=False):
            norms = codebook.square().sum(1)  # [K]
            step = max(1, CHUNK_VALUES.get(flat.device.type, CHUNK_VALUES_ACCELERATOR) // self.num_codes)
            parts = [torch.addmm(norms, part, codebook.T, alpha=-2).argmin(1) for part in flat.detach().split(step)]
        return torch.cat(parts)

    def _remember(self, codes: Tensor, flat: Tensor) -> None:
        if len(self._pending) >= MAX_PENDING:
            raise RuntimeError(
                f"{MAX_PENDING} training batches without an update of the codebook: call the model's "
                "after_optimizer_step() after each optimiser step"
            )
        self._pending.append((codes, flat))

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages and revive dead codes, with all training batches since the last call."""
        if not self._pending:
            return
        codes, latents = (torch.cat(parts) for parts in zip(*self._pending, strict=True))
        self._pending.clear()
        counts = _summed(torch.bincount(codes, minlength=self.num_codes))
        weight = self.embedding.weight
        if self.ema_decay is not None:
            # in fp64, so that the order in which a device adds does not show in the fp32 result
            sums = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
            sums = _summed(sums.index_add_(0, codes, latents.double()))
            self.cluster_size.lerp_(counts.to(self.cluster_size.dtype), 1 - self.ema_decay)
            self.cluster_sum.lerp_(sums.to(self.cluster_sum.dtype), 1 - self.ema_decay)
            alive = (self.cluster_size > MIN_CLUSTER)[:, None]
            means = self.cluster_sum / self.cluster_size.clamp_min(MIN_CLUSTER)[:, None]
            weight.copy_(torch.where(alive, means.to(weight.dtype), weight))
        if self.revive_after:
            self._revive(counts, latents)
        self.num_updates.add_(1)

    def _revive(self, counts: Tensor, latents: Tensor) -> None:
        """Overwrite the codes that were idle too long with latents, picked over all processes in their order."""
        self.idle_updates.add_(1).masked_fill_(counts > 0, 0)
        dead = (self.idle_updates >= self.revive_after).nonzero()[:, 0]
        if len(dead) == 0:
            return
        rank, sizes = 0, [len(latents)]
        if _distributed():
            rank = dist.get_rank()
            mine = torch.zeros(dist.get_world_size(), dtype=torch.long, device=latents.device)
            mine[rank] = len(latents)
            sizes = _summed(mine).tolist()
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + int(self.num_updates)) % 2**63)
        picks = torch.randperm(sum(sizes), generator=generator)[torch.arange(len(dead)) % sum(sizes)]
        picks = picks.to(latents.device) - sum(sizes[:rank])
        own = (picks >= 0) & (picks < len(latents))
        revived = latents.new_zeros(len(dead), latents.shape[1])
        revived[own] = latents[picks[own]]
        revived = _summed(revived)
        self.embedding.weight[dead] = revived.to(self.embedding.weight.dtype)
        self.idle_updates[dead] = 0
        if self.ema_decay is not None:
            self.cluster_size[dead] = 1.0
            self.cluster_sum[dead] = revived.to(self.cluster_sum.dtype)

    @torch.no_grad()
    def reset_statistics(self) -> None:
        """Start the averages from the codebook as it stands, and count every code as unused."""
        self._pending.clear()
        if self.ema_decay is not None:
            self.cluster_size.fill_(1.0)
            self.cluster_sum.copy_(self.embedding.weight)
        if self.revive_after:
            self.idle_updates.fill_(self.revive_after - 1)
        if self.needs_update:
            self.num_updates.zero_()


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _summed(values: Tensor) -> Tensor:
    """Sum over all processes."""
    if _distributed():
        dist.all_reduce(values)
    return values
