"""Slot Attention: algorithm 1 of Locatello et al. 2020, "Object-Centric Learning with Slot Attention".

Slots compete for the inputs: the attention of an input is normalised over the slots, and each slot is updated by the
weighted mean of what it has won, through a GRU and a residual MLP (arXiv:2006.15055).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .field_checks import is_integer, require
from .normalization import GroupNorm
from .normalization_passes import compute_dtype


class SoftPositionEmbedding(nn.Module):
    """A linear map of the grid (y, x, 1 - y, 1 - x), each in [0, 1], to `num_channels` (the paper's appendix E.2)."""

    def __init__(self, num_channels: int):
        super().__init__()
        self.dense = nn.Linear(4, num_channels)

    def forward(self, height: int, width: int) -> Tensor:
        """The embedding of every position, [height, width, num_channels], to be added to channels-last features."""
        weight = self.dense.weight
        y = torch.linspace(0, 1, height, dtype=weight.dtype, device=weight.device)[:, None].expand(height, width)
        x = torch.linspace(0, 1, width, dtype=weight.dtype, device=weight.device).expand(height, width)
        return self.dense(torch.stack((y, x, 1 - y, 1 - x), dim=-1))


class _InputGradient(torch.autograd.Function):
    """Collects what the iterations contribute to the gradient of the inputs x, and computes it in one product.

    Each iteration's contribution is left^T right with left [B, 2K, N] and right [B, 2K, D]: far smaller than x, while
    summing them one by one would write a tensor of x's size per product. So every iteration gets a placeholder for
    either factor, reads no value from it, and returns the factors as the placeholders' gradients.
    """

    @staticmethod
    def forward(ctx, x: Tensor, num_slots: int, num_iterations: int) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        batch, length, size = x.shape
        zero = x.new_zeros(())
        return tuple(zero.expand(batch, 2 * num_slots, n) for _ in range(num_iterations) for n in (length, size))

    @staticmethod
    def backward(ctx, *factors: Tensor | None) -> tuple[Tensor | None, None, None]:
        """x's gradient [B, N, D], the product of all factors that the iterations handed back."""
        left = [factor for factor in factors[0::2] if factor is not None]
        right = [factor for factor in factors[1::2] if factor is not None]
        return (torch.cat(left, dim=1).mT @ torch.cat(right, dim=1) if left else None), None, None


class _Attend(torch.autograd.Function):
    """A = softmax over the slots of keys x^T + offset, its sums W x and W 1 over the inputs with W = A + epsilon.

    x [B, N, D], keys [B, K, D], offset [B, K, 1] -> A [B, K, N], [B, K, D], [B, K, 1]. The products run in the dtype of
    x, all else in fp32 at least. x's gradient goes through the placeholders of [`_InputGradient`].
    """

    @staticmethod
    def forward(ctx, x: Tensor, keys: Tensor, offset: Tensor | None, left: Tensor, right: Tensor, epsilon: float):
        logits = (keys @ x.mT).to(compute_dtype(x))
        attention = torch.softmax(logits if offset is None else logits + offset, dim=1)
        weights = attention + epsilon
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, keys, attention)
        ctx.epsilon = epsilon
        return attention, weights.to(x.dtype) @ x, weights.sum(dim=-1, keepdim=True)

    @staticmethod
    def backward(ctx, grad_attention: Tensor | None, grad_total: Tensor | None, grad_mass: Tensor | None):
        """Gradients of keys [B, K, D] and offset [B, K, 1], and the factors of x's, from those of the three results."""
        x, keys, attention = ctx.saved_tensors
        if grad_total is None:
            grad_total = torch.zeros_like(keys)
        grad = (grad_total @ x.mT).to(attention.dtype)
        for more in (grad_mass, grad_attention):
            grad = grad if more is None else grad + more
        grad = grad * attention
        grad = grad - attention * grad.sum(dim=1, keepdim=True)  # of the logits
        grad_keys = grad.to(x.dtype) @ x
        grad_offset = grad.sum(dim=-1, keepdim=True) if ctx.needs_input_grad[2] else None
        left = right = None
        if ctx.needs_input_grad[3]:
            left = torch.cat((grad, attention + ctx.epsilon), dim=1).to(x.dtype)
            right = torch.cat((keys, grad_total), dim=1)
        return None, grad_keys, grad_offset, left, right, None


class SlotAttention(nn.Module):
    """Algorithm 1: T rounds of attention from K slots of dimension D to N inputs, with x = LayerNorm(inputs):

    ``A = softmax over slots of k(x) q(LayerNorm(slots))^T / sqrt(D)``, ``W = (A + epsilon) / its sum over inputs``,
    ``slots = GRU(W^T v(x), slots)``, ``slots = slots + MLP(LayerNorm(slots))``.

    With `fold_projections` the k and v projections are applied to the slots instead of to the N inputs, which is the
    same function: ``k(x) q^T = x (q W_k)^T + q b_k`` and ``W^T v(x) = v(W^T x)``, since the weights W sum to 1.
    `False` computes the formulas as they stand above.

    Slots, normalisers and the state are kept in fp32 (or the parameters' dtype); under autocast the products with the
    inputs run in half precision.

    Args:
        input_size: dimension of the inputs.
        slot_size: D.
        num_slots: K; with `slot_init="sampled"` the call may take another.
        num_iterations: T; may be set at any time.
        mlp_hidden_size: hidden width of the MLP. Default: 2 D.
        epsilon: see above; 1e-8 in the paper, 1e-6 in SlotDiffusion.
        slot_init: `"sampled"`, slots are mu + exp(log_sigma) * noise with mu and log_sigma [D] learned, or
            `"learned"`, K learned vectors.
        qkv_bias: biases of the three projections.
        fold_projections: see above.
        implicit_gradient: differentiate the last round alone, as at a fixed point (Chang et al. 2022,
            arXiv:2207.00787), with the slots before it standing for the initial ones, which get their gradient
            (Jia et al. 2023, arXiv:2210.08990, equation 6). The values are the same.
    """

    def __init__(
        self,
        input_size: int,
        slot_size: int,
        num_slots: int,
        num_iterations: int = 3,
        mlp_hidden_size: int | None = None,
        epsilon: float = 1e-8,
        slot_init: str = "sampled",
        qkv_bias: bool = False,
        fold_projections: bool = True,
        implicit_gradient: bool = False,
    ):
        super().__init__()
        if slot_init not in ("sampled", "learned"):
            raise ValueError(f"slot_init={slot_init!r} is not possible: it must be 'sampled' or 'learned'")
        _require_positive("num_slots", num_slots)
        _require_positive("num_iterations", num_iterations)
        self.input_size, self.slot_size, self.num_slots = input_size, slot_size, num_slots
        self.num_iterations, self.epsilon = num_iterations, epsilon
        self.slot_init, self.fold_projections, self.implicit_gradient = slot_init, fold_projections, implicit_gradient
        if slot_init == "sampled":
            self.slots_mu = nn.Parameter(torch.empty(1, 1, slot_size))
            self.slots_log_sigma = nn.Parameter(torch.empty(1, 1, slot_size))
        else:
            self.slots_init = nn.Parameter(torch.empty(1, num_slots, slot_size))
        self.norm_inputs = nn.LayerNorm(input_size)
        self.norm_slots = nn.LayerNorm(slot_size)
        self.norm_mlp = nn.LayerNorm(slot_size)
        self.project_q = nn.Linear(slot_size, slot_size, bias=qkv_bias)
        self.project_k = nn.Linear(input_size, slot_size, bias=qkv_bias)
        self.project_v = nn.Linear(input_size, slot_size, bias=qkv_bias)
        self.gru = nn.GRUCell(slot_size, slot_size)
        hidden = 2 * slot_size if mlp_hidden_size is None else mlp_hidden_size
        self.mlp = nn.Sequential(nn.Linear(slot_size, hidden), nn.ReLU(), nn.Linear(hidden, slot_size))
        self.apply(initialize_weights)

    def initial_slots(
        self,
        batch_size: int,
        num_slots: int | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Slots [B, K, D] before the first iteration.

        Args:
            num_slots: K, default that of the module. Another is a ValueError with learned slots.
            noise: standard normal [B, K, D], for sampled slots only. Default: drawn from `generator`, or from torch's
                global one; give it where results must not depend on the order of calls.
        """
        if num_slots is not None:
            _require_positive("num_slots", num_slots)
        if self.slot_init == "learned":
            if num_slots not in (None, self.num_slots):
                raise ValueError(f"num_slots={num_slots}: slot_init='learned' has {self.num_slots}; use 'sampled'")
            if noise is not None:
                raise ValueError("noise was given, but slot_init='learned' draws none; leave it out or use 'sampled'")
            return self.slots_init.expand(batch_size, -1, -1)
        mu = self.slots_mu
        if noise is None:
            shape = (batch_size, num_slots or self.num_slots, self.slot_size)
            noise = torch.randn(shape, generator=generator, dtype=mu.dtype, device=mu.device)
        wrong_number = num_slots is not None and noise.ndim == 3 and noise.shape[1] != num_slots
        if noise.ndim != 3 or noise.shape[::2] != (batch_size, self.slot_size) or wrong_number:
            expected = f"[{batch_size}, {num_slots or 'K'}, {self.slot_size}]"
            raise ValueError(f"noise has shape {list(noise.shape)}: it must be {expected}, one vector per slot")
        return mu + self.slots_log_sigma.exp() * noise.to(mu.dtype)

    def forward(
        self,
        inputs: Tensor,
        slots: Tensor | None = None,
        num_slots: int | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Slots [B, K, D] and the attention [B, K, N] of the last iteration, which sums to 1 over the slots.

        Args:
            inputs: [B, N, input_size].
            slots: where to start, [B, K, D]. Default: `initial_slots` with the other three arguments.
        """
        _require_positive("num_iterations", self.num_iterations)
        if inputs.ndim != 3 or inputs.shape[2] != self.input_size:
            raise ValueError(f"inputs have shape {list(inputs.shape)}: they must be [B, N, {self.input_size}]")
        if slots is None:
            slots = self.initial_slots(inputs.shape[0], num_slots, noise, generator)
        elif slots.ndim != 3 or slots.shape[::2] != (inputs.shape[0], self.slot_size):
            raise ValueError(f"slots have shape {list(slots.shape)}: must be [{len(inputs)}, K, {self.slot_size}]")
        device = inputs.device.type
        x = self.norm_inputs(inputs)
        if torch.is_autocast_enabled(device):
            x = x.to(torch.get_autocast_dtype(device))
        iterate = self._iterate_folded if self.fold_projections else self._iterate
        with torch.autocast(device, enabled=False):
            return iterate(x, slots.to(self.project_q.weight.dtype))

    def _queries(self, slots: Tensor) -> Tensor:
        return self.project_q(self.norm_slots(slots)) / math.sqrt(self.slot_size)

    def _update(self, slots: Tensor, updates: Tensor) -> Tensor:
        """GRU and residual MLP, [B, K, D] -> [B, K, D]."""
        slots = self.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
        return slots + self.mlp(self.norm_mlp(slots))

    def _rounds(self, iterate: Callable[[Tensor, int], tuple[Tensor, Tensor]], start: Tensor) -> tuple[Tensor, Tensor]:
        """All rounds of `iterate`, (slots, number of the round) -> (slots, attention), from the slots `start`."""
        slots, last = start, self.num_iterations - 1
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.implicit_gradient):
            for number in range(last):
                slots, _ = iterate(slots, number)
        if self.implicit_gradient:
            slots = slots.detach() + (start - start.detach())
        return iterate(slots, last)

    def _iterate(self, x: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """The formulas as they stand."""
        k, v = _linear(self.project_k, x), _linear(self.project_v, x)  # [B, N, D]

        def iterate(slots: Tensor, iteration: int) -> tuple[Tensor, Tensor]:
            """One round: slots [B, K, D] -> slots [B, K, D] and attention [B, K, N]."""
            logits = (self._queries(slots).to(k.dtype) @ k.mT).to(compute_dtype(k))
            attention = torch.softmax(logits, dim=1)  # [B, K, N]
            weights = attention + self.epsilon
            weights = weights / weights.sum(dim=-1, keepdim=True)
            return self._update(slots, (weights.to(v.dtype) @ v).to(slots.dtype)), attention

        return self._rounds(iterate, slots)

    def _iterate_folded(self, x: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """The same with the projections on the slots' side."""
        weight, bias = self.project_k.weight, self.project_k.bias
        placeholders = _InputGradient.apply(x, slots.shape[1], self.num_iterations)

        def iterate(slots: Tensor, iteration: int) -> tuple[Tensor, Tensor]:
            """One round: slots [B, K, D] -> slots [B, K, D] and attention [B, K, N]."""
            q = self._queries(slots)
            keys = (q @ weight).to(x.dtype)  # [B, K, D_inputs]
            offset = None if bias is None else (q @ bias)[..., None].to(compute_dtype(x))
            left, right = placeholders[2 * iteration : 2 * iteration + 2]
            attention, total, mass = _Attend.apply(x, keys, offset, left, right, self.epsilon)
            return self._update(slots, self.project_v((total / mass).to(slots.dtype))), attention

        return self._rounds(iterate, slots)

    def extra_repr(self) -> str:
        """The settings, as they stand in the model's printed form."""
        return (
            f"num_slots={self.num_slots}, num_iterations={self.num_iterations}, slot_init={self.slot_init}, "
            f"epsilon={self.epsilon}, fold_projections={self.fold_projections}, "
            f"implicit_gradient={self.implicit_gradient}"
        )


def _require_positive(field: str, value: int) -> None:
    require(is_integer(value, 1), field, value, "an integer of at least 1")


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer in the dtype of x."""
    return F.linear(x, layer.weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype))


@torch.no_grad()
def initialize_weights(module: nn.Module) -> None:
    """Initialise the module's own parameters as the paper's implementation does, in the defaults of Keras.

    Xavier uniform weights, zero biases, orthogonal recurrent weights of the GRU; mu and log_sigma are Xavier uniform
    for a kernel from 1 to D. As in SlotDiffusion learned slots are standard normal, and the convolutions of the ResNet
    (without bias, since a norm follows) are those of He et al. 2015, fan out. Norms start as the identity.
    """
    if isinstance(module, SlotAttention):
        if module.slot_init == "sampled":
            bound = math.sqrt(6 / (1 + module.slot_size))
            init.uniform_(module.slots_mu, -bound, bound)
            init.uniform_(module.slots_log_sigma, -bound, bound)
        else:
            init.normal_(module.slots_init)
    elif isinstance(module, nn.GRUCell):
        init.xavier_uniform_(module.weight_ih)
        init.orthogonal_(module.weight_hh)
        init.zeros_(module.bias_ih)
        init.zeros_(module.bias_hh)
    elif isinstance(module, nn.Conv2d) and module.bias is None:
        init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        init.xavier_uniform_(module.weight)
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, (nn.LayerNorm, GroupNorm)):
        init.ones_(module.weight)
        init.zeros_(module.bias)


__all__ = ["SlotAttention", "SoftPositionEmbedding", "initialize_weights"]
