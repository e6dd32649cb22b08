"""Time of one training step of the 6n+2 ResNet: forward, loss, backward, SGD with momentum.

    python benchmarks/resnet_step.py [--compile] [--shape 32x256 --shape 128x32] [--rounds 7]
    OMP_NUM_THREADS=1 python benchmarks/resnet_step.py --clock cpu    # on a machine that others are using

The net with the hand-written `bn`, in channels_last with bf16 autocast, against

* the same net with torch's batch norm,
* the same net assembled from torchvision's BasicBlock (shortcut B, so compared with ours with shortcut B),
* the plain setting: fp32, contiguous, of the hand-written norm and of torch's.

First it is checked that all sides compute the same loss and gradients. Then the sides take turns in one process; given
are the median, the spread (fastest and slowest round), how often ours goes into it, and the achieved share of what a
large matrix product reaches in the same precision on the same machine.

Large batches on Linux also measure the allocator: glibc hands every tensor above 32 MiB back to the system and faults
its pages in again at the next step. MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 keeps them.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import BasicBlock

from models import ResNet6n2Config, ResNet6n2ForImageClassification


class TorchvisionResNet(nn.Module):
    """The 6n+2 net of torchvision's own parts, which is its shortcut B."""

    def __init__(self, n: int, num_labels: int):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        blocks, channels = [], 16
        for width in (16, 32, 64):
            for _ in range(n):
                stride, downsample = 1, None
                if width != channels:
                    projection = nn.Conv2d(channels, width, 1, stride=2, bias=False)
                    stride, downsample = 2, nn.Sequential(projection, nn.BatchNorm2d(width))
                blocks.append(BasicBlock(channels, width, stride, downsample))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(64, num_labels)

    def forward(self, pixel_values: Tensor, labels: Tensor) -> Tensor:
        hidden = self.blocks(F.relu(self.stem(pixel_values)))
        return F.cross_entropy(self.classifier(F.adaptive_avg_pool2d(hidden, 1).flatten(1)).float(), labels)


class Loss(nn.Module):
    """Our model, seen as its loss."""

    def __init__(self, model: ResNet6n2ForImageClassification):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, labels: Tensor) -> Tensor:
        return self.model(pixel_values, labels=labels).loss


@dataclass
class Side:
    """One way to take the step."""

    net: nn.Module
    fast: bool  # channels_last and bf16 autocast; else contiguous fp32

    def loss(self, pixel_values: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(pixel_values.device.type, torch.bfloat16) if self.fast else nullcontext():
            return self.net(pixel_values, labels)

    def laid_out(self, pixel_values: Tensor) -> Tensor:
        return pixel_values.contiguous(memory_format=torch.channels_last if self.fast else torch.contiguous_format)


def make_sides(n: int, num_labels: int, device: str) -> dict[str, Side]:
    """All sides with equal weights, as far as they have the same parameters."""

    def ours(norm: str, shortcut: str) -> nn.Module:
        torch.manual_seed(0)
        config = ResNet6n2Config(n=n, num_labels=num_labels, norm=norm, shortcut=shortcut)
        return Loss(ResNet6n2ForImageClassification(config))

    torchvision = TorchvisionResNet(n, num_labels)
    with torch.no_grad():
        tensors = zip(torchvision.state_dict().values(), ours("bn", "B").state_dict().values(), strict=True)
        for theirs, mine in tensors:  # both list stem, blocks (projection last), classifier in this order
            theirs.copy_(mine)
    sides = {
        "ours A": Side(ours("bn", "A"), True),
        "torch_bn A": Side(ours("torch_bn", "A"), True),
        "ours B": Side(ours("bn", "B"), True),
        "torchvision B": Side(torchvision, True),
        "plain ours A": Side(ours("bn", "A"), False),
        "plain torch_bn A": Side(ours("torch_bn", "A"), False),
    }
    for side in sides.values():
        side.net.to(device=device, memory_format=torch.channels_last if side.fast else torch.contiguous_format).train()
    return sides


def check(sides: dict[str, Side], timed: dict[str, Side], num_labels: int, device: str) -> None:
    """Equal losses and gradients in fp64, and those of the timed sides close to the former. Raises otherwise."""
    torch.manual_seed(1)
    pixel_values, labels = torch.randn(8, 3, 32, 32, device=device), torch.randint(num_labels, (8,), device=device)

    def answer(side: Side, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        loss = side.loss(side.laid_out(pixel_values), labels)
        gradients = torch.autograd.grad(loss, list(side.net.parameters()))
        return loss.detach().double(), torch.cat([gradient.flatten().double() for gradient in gradients])

    exact = {}
    for key, side in sides.items():
        exact[key] = answer(Side(copy.deepcopy(side.net).double(), False), pixel_values.double())
    for first, second in (("ours A", "torch_bn A"), ("ours B", "torchvision B"), ("ours A", "plain torch_bn A")):
        torch.testing.assert_close(exact[first], exact[second], atol=1e-5, rtol=1e-5)  # the loss itself is fp32
    for key, side in timed.items():
        loss, gradient = answer(side, pixel_values)
        torch.testing.assert_close(loss, exact[key][0], atol=0.02, rtol=0)
        similarity = F.cosine_similarity(gradient, exact[key][1], dim=0).item()
        if similarity < 0.98:
            raise AssertionError(f"{key}: the timed step's gradient points elsewhere (cosine {similarity:.3f})")
    print("checked: equal losses and gradients in fp64, and those of each timed setting agree with them")


def seconds(call: Callable[[], object], device: str, clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of one call by the given clock, with the device's queue empty before and after."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def peak(dtype: torch.dtype, device: str, clock: Callable[[], float], size: int = 2048) -> float:
    """GFLOP/s of a large matrix product, the best of eight."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / min(seconds(lambda: a @ b, device, clock) for _ in range(8)) / 1e9


def flops_of_step(side: Side, size: int, num_labels: int, device: str) -> float:
    """Floating-point operations per image of convolutions and the linear layer, forward and backward."""
    pixel_values, labels = torch.randn(2, 3, size, size, device=device), torch.zeros(2, dtype=torch.long, device=device)
    with FlopCounterMode(display=False) as counter:
        side.loss(side.laid_out(pixel_values), labels).backward()
    side.net.zero_grad()
    return counter.get_total_flops() / 2


def measure(
    sides: dict[str, Side],
    flops: dict[str, float],
    shape: tuple[int, int],
    num_labels: int,
    rounds: int,
    device: str,
    clock: Callable[[], float],
) -> None:
    """Let the sides take turns and print the table of one shape."""
    batch, size = shape
    torch.manual_seed(2)
    pixel_values = torch.randn(batch, 3, size, size, device=device)
    labels = torch.randint(num_labels, (batch,), device=device)
    inputs = {fast: Side(nn.Identity(), fast).laid_out(pixel_values) for fast in (True, False)}
    optimizers = {
        key: torch.optim.SGD(side.net.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
        for key, side in sides.items()
    }

    def step(key: str) -> None:
        side = sides[key]
        side.loss(inputs[side.fast], labels).backward()
        optimizers[key].step()
        optimizers[key].zero_grad()

    for key in sides:  # compiles and warms up
        step(key)
        step(key)
    times: dict[str, list[float]] = {key: [] for key in sides}
    peaks = {True: peak(torch.bfloat16, device, clock), False: peak(torch.float32, device, clock)}
    for _ in range(rounds):
        for key in sides:
            times[key].append(seconds(lambda key=key: step(key), device, clock))
    print(f"\n{batch} x {size} x {size}; matrix product: bf16 {peaks[True]:.0f}, fp32 {peaks[False]:.0f} GFLOP/s")
    print("| side | setting | ms per step | fastest..slowest | to ours (median of rounds) | GFLOP/s | of the product |")
    print("|---|---|---|---|---|---|---|")
    for key, side in sides.items():
        base = times["ours B" if key.endswith("B") else "ours A"]
        ratio = statistics.median(t / b for t, b in zip(times[key], base, strict=True))
        median, rate = statistics.median(times[key]), batch * flops[key] / statistics.median(times[key]) / 1e9
        print(
            f"| {key} | {'channels_last, bf16' if side.fast else 'contiguous, fp32'} | {median * 1e3:.0f} "
            f"| {min(times[key]) * 1e3:.0f}..{max(times[key]) * 1e3:.0f} | {ratio:.2f}x | {rate:.0f} "
            f"| {100 * rate / peaks[side.fast]:.0f} % |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", help="batch x size, repeatable; default 32x256 and 128x32")
    parser.add_argument("--n", type=int, default=2)
    parser.add_argument("--labels", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="compile the fast sides (the plain ones stay eager)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"), help="cpu: time of this process alone")
    arguments = parser.parse_args()
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time

    threads = f"{torch.get_num_threads()} threads, {arguments.clock} clock"
    print(f"torch {torch.__version__}, {arguments.device}, {threads}, n={arguments.n}")
    for shape in arguments.shape or ["32x256", "128x32"]:
        batch, size = (int(part) for part in shape.split("x"))
        sides = make_sides(arguments.n, arguments.labels, arguments.device)
        flops = {k: flops_of_step(side, size, arguments.labels, arguments.device) for k, side in sides.items()}
        timed = sides
        if arguments.compile:
            torch.compiler.reset()
            timed = {
                key: Side(torch.compile(copy.deepcopy(side.net), dynamic=False), True) if side.fast else side
                for key, side in sides.items()
            }
        check(sides, timed, arguments.labels, arguments.device)
        measure(timed, flops, (batch, size), arguments.labels, arguments.rounds, arguments.device, clock)


if __name__ == "__main__":
    main()
