"""Each hand-written norm against torch's own layer: time of forward plus backward, and memory kept for backward.

    python benchmarks/normalization.py --shape 32 16 256 256 --shape 128 64 8 8 --mode eager --repeats 11

Both sides run alternately in one process on the same input, after their outputs and gradients were compared. Printed
per case: the median milliseconds of both; the median over repeats of ours/torch's with its quartiles; the ratio of the
bytes kept for backward; and what part of the measured copy bandwidth ours reaches, counting the eight input-sized
streams that a batch norm cannot avoid beyond the caches (forward reads x twice and writes y; backward reads x and the
gradient twice and writes the gradient of x).
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from models.normalization import build_norm

SHAPES = ((32, 16, 256, 256), (128, 16, 32, 32), (128, 64, 8, 8))
STREAMS = 8
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchBatchInstanceNorm2d(nn.Module):
    """Batch-instance norm put together from torch's layers: the nearest thing that torch offers."""

    def __init__(self, num_channels: int):
        super().__init__()
        self.batch = nn.BatchNorm2d(num_channels, affine=False)
        self.instance = nn.InstanceNorm2d(num_channels)
        self.weight, self.bias = nn.Parameter(torch.ones(num_channels)), nn.Parameter(torch.zeros(num_channels))
        self.gate = nn.Parameter(torch.ones(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        gate, weight, bias = (p.to(x.dtype)[:, None, None] for p in (self.gate, self.weight, self.bias))
        return (gate * self.batch(x) + (1 - gate) * self.instance(x)) * weight + bias


TORCH_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "bn": nn.BatchNorm2d,
    "in": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "ln": lambda channels: nn.GroupNorm(1, channels),
    "gn": lambda channels: nn.GroupNorm(8, channels),
    "bin": TorchBatchInstanceNorm2d,
}


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    norm: str
    shape: tuple[int, int, int, int]
    memory_format: str
    dtype: str
    mode: str


def step(layer: nn.Module, x: Tensor, grad: Tensor) -> Tensor:
    """Forward and backward; returns the output, leaves the gradients."""
    x.grad = None
    y = layer(x)
    y.backward(grad)
    return y


def saved_bytes(layer: nn.Module, x: Tensor) -> int:
    """Bytes that the forward pass keeps for the backward pass, each storage once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = layer(x)
    kept = sum(storages.values())
    del output
    return kept


def check(ours: nn.Module, theirs: nn.Module, x: Tensor, grad: Tensor) -> None:
    """Raise AssertionError where output or input gradient differ from torch's layer by more than the dtype's rounding.

    torch's layer runs here in float64 and contiguous: its own float32 sums over channels-last maps of millions of
    values are off by up to 4e-3 (BatchNorm2d of 32x16x256x256).
    """
    y = step(ours, x, grad)
    exact = x.detach().double().contiguous().requires_grad_()
    expected = step(theirs.double(), exact, grad.double().contiguous())
    tolerance = 1e-4 if x.dtype == torch.float32 else 3e-2
    for mine, other in ((y, expected), (x.grad, exact.grad)):
        torch.testing.assert_close(mine.double(), other, rtol=tolerance, atol=tolerance)


def milliseconds(layer: nn.Module, x: Tensor, grad: Tensor, number: int, clock: str) -> float:
    """Mean time of one step over `number` of them."""
    names = {"step": step, "layer": layer, "x": x, "grad": grad}
    timer = Timer("step(layer, x, grad)", globals=names, timer=CLOCKS[clock], num_threads=torch.get_num_threads())
    return timer.timeit(number).mean * 1e3


def copy_bandwidth(x: Tensor, clock: str) -> float:
    """Bytes a second, read plus written, of copying a tensor of this size into one that exists."""
    source, target = x.detach(), torch.empty_like(x)
    names = {"source": source, "target": target}
    timer = Timer("target.copy_(source)", globals=names, timer=CLOCKS[clock], num_threads=torch.get_num_threads())
    return 2 * x.numel() * x.element_size() / timer.blocked_autorange(min_run_time=0.3).median


def run(case: Case, repeats: int, clock: str) -> str:
    """Check one case, time it, and return its line of the table."""
    torch.manual_seed(0)
    dtype = DTYPES[case.dtype]
    x = torch.randn(case.shape).to(dtype).contiguous(memory_format=MEMORY_FORMATS[case.memory_format])
    x.requires_grad_()
    grad = torch.randn_like(x)
    ours, theirs = build_norm(case.norm, case.shape[1]), TORCH_NORMS[case.norm](case.shape[1])
    truth = copy.deepcopy(theirs)
    if case.mode == "compiled":
        torch._dynamo.reset()
        ours.compile(fullgraph=True)
        theirs.compile(fullgraph=True)
    check(ours, truth, x, grad)
    memory = saved_bytes(ours, x) / saved_bytes(theirs, x)
    number = max(1, int(30 / milliseconds(theirs, x, grad, 3, clock)))
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats):
        for side in (0, 1) if repeat % 2 else (1, 0):
            times[side].append(milliseconds((ours, theirs)[side], x, grad, number, clock))
    ratios = [mine / other for mine, other in zip(*times, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    mine, other = (statistics.median(t) for t in times)
    share = STREAMS * x.numel() * x.element_size() / (mine * 1e-3) / copy_bandwidth(x, clock)
    shape = "x".join(map(str, case.shape))
    return (
        f"{case.norm:4} {shape:14} {case.memory_format:13} {case.dtype:4} {case.mode:8} {mine:9.3f} {other:9.3f} "
        f"{statistics.median(ratios):6.2f} [{low:.2f}, {high:.2f}] {memory:7.2f} {share:7.0%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs=4, type=int, action="append", metavar=("N", "C", "H", "W"))
    parser.add_argument("--norm", nargs="+", choices=TORCH_NORMS, default=list(TORCH_NORMS))
    parser.add_argument("--memory-format", nargs="+", choices=MEMORY_FORMATS, default=list(MEMORY_FORMATS))
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--mode", nargs="+", choices=("eager", "compiled"), default=["eager", "compiled"])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: for a busy machine, best with --threads 1"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, {options.threads} threads, {options.clock} clock, {options.repeats} repeats; "
        "ratio: ours / torch's"
    )
    print(
        f"{'norm':4} {'shape':14} {'memory format':13} {'':4} {'mode':8} {'ours ms':>9} {'torch ms':>9} "
        f"{'ratio':>6} [quartiles]  memory  of copy"
    )
    for shape in options.shape or SHAPES:
        for mode in options.mode:
            for dtype in options.dtype:
                for memory_format in options.memory_format:
                    for norm in options.norm:
                        case = Case(norm, tuple(shape), memory_format, dtype, mode)
                        print(run(case, options.repeats, options.clock), flush=True)


if __name__ == "__main__":
    main()
