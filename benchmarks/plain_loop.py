"""Does another training loop reach another accuracy? CIFAR-10 by a plain loop of torch alone, with either net.

    python benchmarks/plain_loop.py cifar10_train.tar --net torchvision --precision fp32 --epochs 8
    python benchmarks/plain_loop.py cifar10_train.tar --net ours --precision bf16 --epochs 8

Nothing of this project's data pipeline, augmentation, optimiser groups or Trainer is used; with `--net torchvision`
none of its layers either. A random tenth of the pictures validates. Printed per epoch: loss and accuracy on the
augmented training pictures as they were seen, accuracy on validation, seconds. Compare with
`train.py --recipe recipes/resnet/cifar10.yaml --num_train_epochs 8`.
"""

import argparse
import io
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from resnet_step import TorchvisionResNet
from torch import Tensor, nn

from models import ResNet6n2Config, ResNet6n2ForImageClassification

BATCH, PADDING = 128, 4


class Ours(nn.Module):
    """The project's net behind the interface of `TorchvisionResNet`."""

    def __init__(self, n: int, num_labels: int):
        super().__init__()
        self.net = ResNet6n2ForImageClassification(ResNet6n2Config(n=n, num_labels=num_labels, norm="bn"))

    def logits(self, pixel_values: Tensor) -> Tensor:
        return self.net(pixel_values=pixel_values).logits


class Torchvision(TorchvisionResNet):
    """With logits."""

    def logits(self, pixel_values: Tensor) -> Tensor:
        hidden = self.blocks(F.relu(self.stem(pixel_values)))
        return self.classifier(F.adaptive_avg_pool2d(hidden, 1).flatten(1))


NETS = {"torchvision": Torchvision, "ours": Ours}


def read(path: Path) -> tuple[Tensor, Tensor]:
    """All pictures of a .tar of class folders: float32 [N, 3, H, W], standardised per channel, and labels [N]."""
    pictures, names = [], []
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile():
                picture = Image.open(io.BytesIO(archive.extractfile(member).read()))
                pictures.append(np.asarray(picture.convert("RGB")))
                names.append(Path(member.name).parent.name)
    pixels = torch.from_numpy(np.stack(pictures)).float()
    pixels = (pixels - pixels.mean(dim=(0, 1, 2))) / pixels.std(dim=(0, 1, 2))
    return pixels.permute(0, 3, 1, 2).contiguous(), torch.from_numpy(np.unique(names, return_inverse=True)[1])


def augmented(pictures: Tensor) -> Tensor:
    """Four pixels of padding, a random crop, mirroring, each picture for itself."""
    count, size = len(pictures), pictures.shape[-1]
    padded = F.pad(pictures, [PADDING] * 4)
    corners = torch.randint(0, 2 * PADDING + 1, (count, 2)).tolist()
    crops = [p[:, y : y + size, x : x + size] for p, (y, x) in zip(padded, corners, strict=True)]
    mirrored = torch.rand(count) < 0.5
    stacked = torch.stack(crops)
    stacked[mirrored] = stacked[mirrored].flip(-1)
    return stacked.contiguous(memory_format=torch.channels_last)


def train_epoch(net: nn.Module, pictures: Tensor, labels: Tensor, optimizer, schedule, bf16: bool) -> tuple:
    """(mean loss, accuracy) over one pass in random order."""
    net.train()
    losses, right = [], 0
    batches = torch.randperm(len(pictures)).split(BATCH)[: len(pictures) // BATCH]
    for rows in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = net.logits(augmented(pictures[rows])).float()
        loss = F.cross_entropy(logits, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        right += int((logits.argmax(1) == labels[rows]).sum())
    return float(np.mean(losses)), right / (BATCH * len(batches))


@torch.no_grad()
def accuracy(net: nn.Module, pictures: Tensor, labels: Tensor) -> float:
    net.eval()
    return float(torch.cat([net.logits(part).argmax(1) for part in pictures.split(500)]).eq(labels).float().mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a .tar of class folders of pictures of one size")
    parser.add_argument("--net", choices=NETS, default="torchvision")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--n", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(0)
    pictures, labels = read(options.path)
    order, held = torch.randperm(len(pictures)), len(pictures) // 10
    pictures, labels = pictures[order], labels[order]
    net = NETS[options.net](options.n, int(labels.max()) + 1).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = options.epochs * ((len(pictures) - held) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps + 1, pct_start=0.25)
    for epoch in range(1, options.epochs + 1):
        begun = time.perf_counter()
        loss, right = train_epoch(net, pictures[held:], labels[held:], optimizer, schedule, options.precision == "bf16")
        unseen, seconds = accuracy(net, pictures[:held], labels[:held]), time.perf_counter() - begun
        print(
            f"epoch {epoch}: loss {loss:.4f}, train {right:.4f}, validation {unseen:.4f}, {seconds:.0f} s", flush=True
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
