"""What keeping latents on disk saves: an epoch of slot diffusion with cached latents against encoding in each step.

    python benchmarks/latent_cache.py [--preset small] [--pictures 256] [--batch 32] [--rounds 3]
    OMP_NUM_THREADS=1 python benchmarks/latent_cache.py --clock cpu    # on a machine that others are using

Both sides train the same model on the same pictures with the same draws (batches made, forward, backward, AdamW;
channels_last, bf16 autocast by default, the encoder in fp32 as in training), and take turns in one process. First it is
checked that they have the same losses. Weights are random and pictures are noise: neither changes the time. Given are
the seconds of an epoch (median, fastest and slowest), what the cache costs once, its size, and after how many epochs it
has paid for itself.
"""

import argparse
import copy
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from resnet_step import seconds

from data.clevrtex import image_processor
from models import SlotDiffusionConfig, SlotDiffusionModel
from training.latent_cache import LatentCache
from training.slotdiff import SlotDiffusionCollator
from training.trainer import SAMPLE_IDS


def noise_pictures(count: int, size: int) -> DatasetDict:
    """One split of random pictures."""
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (size, size, 3), dtype=np.uint8).tobytes() for _ in range(count)]
    return DatasetDict(train=Dataset.from_dict({"pixels": pixels, "id": list(range(count))}))


class Side:
    """A model of its own, trained on batches of one collator."""

    def __init__(self, model: SlotDiffusionModel, collate: SlotDiffusionCollator, arguments: argparse.Namespace):
        self.model = copy.deepcopy(model).to(arguments.device, memory_format=torch.channels_last).train()
        self.collate, self.arguments = collate, arguments
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def loss(self, rows: list[dict]) -> torch.Tensor:
        batch = self.collate(rows)
        batch.pop(SAMPLE_IDS)
        inputs = {name: value.to(self.arguments.device) for name, value in batch.items()}
        half = self.arguments.precision == "bf16"
        with torch.autocast(self.arguments.device, torch.bfloat16) if half else nullcontext():
            return self.model(**inputs).loss

    def epoch(self, rows: list[dict]) -> None:
        size = self.arguments.batch
        for start in range(0, len(rows), size):
            self.loss(rows[start : start + size]).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small", help="of SlotDiffusionConfig")
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"), help="cpu: time of this process alone")
    arguments = parser.parse_args()
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time

    torch.manual_seed(0)
    config = SlotDiffusionConfig(preset=arguments.preset)
    model, dataset = SlotDiffusionModel(config), noise_pictures(arguments.pictures, config.image_size)
    processor, slots = image_processor(config.image_size), config.slot_config
    rows = list(dataset["train"])
    with tempfile.TemporaryDirectory() as folder:
        begun = clock()
        latents = LatentCache.compute(copy.deepcopy(model.vae), processor, dataset, folder)
        once = clock() - begun
        size = sum(path.stat().st_size for path in Path(latents.folder).iterdir())
        shape = (slots.num_slots, slots.slot_size) if slots.slot_init == "sampled" else None
        epoch = torch.zeros((), dtype=torch.int64)
        sides = {
            name: Side(model, SlotDiffusionCollator(processor, shape, 0, epoch, config, kept), arguments)
            for name, kept in (("cached", latents), ("encoding", None))
        }
        losses = []
        for side in sides.values():
            torch.manual_seed(1)  # of dropout
            losses.append(side.loss(rows[: arguments.batch]).item())
        if abs(losses[0] - losses[1]) > 1e-3 * losses[1]:
            raise AssertionError(f"the two sides have different losses: {losses}")
        times: dict[str, list[float]] = {name: [] for name in sides}
        for side in sides.values():
            side.epoch(rows[: arguments.batch])  # warms up
        for _ in range(arguments.rounds):
            for name, side in sides.items():
                times[name].append(seconds(lambda side=side: side.epoch(rows), arguments.device, clock))
    print(
        f"torch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} threads, {arguments.clock} clock; "
        f"preset {arguments.preset}, {arguments.pictures} pictures of {config.image_size}x{config.image_size}, batch "
        f"{arguments.batch}, {arguments.precision}"
    )
    print("| side | s per epoch | fastest..slowest |\n|---|---|---|")
    for name, found in times.items():
        print(f"| {name} | {statistics.median(found):.2f} | {min(found):.2f}..{max(found):.2f} |")
    ratios = [slow / fast for fast, slow in zip(times["cached"], times["encoding"], strict=True)]
    saved = statistics.median(slow - fast for fast, slow in zip(times["cached"], times["encoding"], strict=True))
    print(f"encoding / cached: {statistics.median(ratios):.2f}x ({min(ratios):.2f}..{max(ratios):.2f})")
    per_picture = f"{size / arguments.pictures / 1024:.1f} KiB a picture"
    pays = f"pays after {once / saved:.1f} epochs" if saved > 0 else "does not pay"
    print(f"making the cache: {once:.2f} s once, {per_picture}; {pays}")


if __name__ == "__main__":
    main()
