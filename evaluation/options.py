"""How to evaluate: what the command line of evaluate_all.py can say, the same for every family."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass, fields
from pathlib import Path

from training.errors import RunError

SPLITS = ("train", "val", "dev", "test")


@dataclass
class Options:
    """`device` "auto" takes a GPU where there is one; `batch_size` None is the family's own; `splits` None takes all
    that the data have; `force` computes again what is stored.

    What only some families use, and others leave alone (`data`: refuse): `beams`, the widths of beam search; `data`,
    other data than the run's, to be measured beside them; `library_images`, how many training pictures a slot library
    is made of, 0 for all; `sampled_images`, how many scenes of a split are reconstructed, and how many pictures
    composed, where that takes sampling, 0 for as many as there are; `sampler_images`, on how many scenes samplers are
    compared, 0 for none.
    """

    device: str = "auto"
    batch_size: int | None = None
    splits: tuple[str, ...] | None = None
    force: bool = False
    beams: tuple[int, ...] = (10,)
    data: Path | None = None
    library_images: int = 2000
    sampled_images: int = 500
    sampler_images: int = 8

    def refuse_data(self, family: str) -> None:
        """RunError where `data` was given to a family that is measured on its own data only."""
        if self.data is not None:
            raise RunError(
                f"--data {self.data}: a run of the family {family} is measured on the data of its recipe, and on no "
                "other. Evaluate it without --data."
            )

    def present(self, data: Mapping[str, Sized], folder: Path) -> list[str]:
        """Those of `splits` that the data of the run in `folder` have. RunError, with those there are, for none."""
        found = [split for split in self.splits or SPLITS if split in data and len(data[split])]
        if not found:
            raise self.no_split(data, folder)
        return found

    def no_split(self, there: Iterable[str], folder: Path) -> RunError:
        """The error that none of `splits` is among those `there`."""
        names = ", ".join(self.splits or SPLITS)
        return RunError(f"{folder}: the data have none of the splits {names}; they have {', '.join(there)}.")

    @classmethod
    def of(cls, given: argparse.Namespace) -> Options:
        """From the command line, whose arguments have the names of the fields; lists become tuples."""
        values = {field.name: getattr(given, field.name) for field in fields(cls)}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


COUNTS = (  # whole numbers of at least 0 on the command line, and what they are
    ("library-images", Options.library_images, "slotattn, slotdiff: training pictures in the slot library, 0 for all"),
    ("sampled-images", Options.sampled_images, "slotdiff: scenes reconstructed, and pictures composed, 0 for all"),
    ("sampler-images", Options.sampler_images, "slotdiff: scenes that samplers are compared on, 0 for no comparison"),
)


def parse_arguments(arguments: list[str] | None, description: str) -> argparse.Namespace:
    """The command line of evaluate_all.py; `paths` is empty where none was named."""
    parser = argparse.ArgumentParser(
        prog="evaluate_all.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="*", type=Path, help="runs or folders of runs (default: all, with a front page)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where all runs are (default: runs)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--batch-size", type=int, help="samples at a time (default: the family's)")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, help="default: all; what was evaluated before stays")
    parser.add_argument(
        "--beams", nargs="+", type=int, default=[10], metavar="K", help="text2math: widths of beam search (default: 10)"
    )
    parser.add_argument(
        "--checker", type=Path, metavar="FILE", help="text2math: run this checker on a copy of every predictions file"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="slotattn, slotdiff: also measure a folder of pictures and masks, or an .npz file",
    )
    for name, default, text in COUNTS:
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: {default})")
    parser.add_argument("--force", action="store_true", help="evaluate again what is up to date")
    parser.add_argument("--out", type=Path, help="folder of the comparison (default: beside the runs compared)")
    parser.add_argument(
        "--publish", type=Path, metavar="FOLDER", help="copy cards, numbers and curves to FOLDER/<name>"
    )
    parser.add_argument(
        "--with-weights", choices=("full", "half"), help="with --publish: code and weights too, half in float16"
    )
    options = parser.parse_args(arguments)
    if options.batch_size is not None and options.batch_size < 1:
        parser.error(f"--batch-size must be at least 1, not {options.batch_size}")
    if min(options.beams) < 1:
        parser.error(f"--beams must be at least 1, not {min(options.beams)}")
    for name, _, _ in COUNTS:
        if (count := getattr(options, name.replace("-", "_"))) < 0:
            parser.error(f"--{name} must be 0 or more, not {count}")
    if options.data and not options.data.exists():
        parser.error(f"--data: there is no file or folder {options.data}")
    if options.checker and not options.checker.is_file():
        parser.error(f"--checker: there is no file {options.checker}")
    if options.with_weights and not options.publish:
        parser.error("--with-weights goes with --publish FOLDER")
    return options
