"""How to evaluate: what the command line of evaluate_all.py can say, the same for every family."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

SPLITS = ("train", "val", "dev", "test")


@dataclass
class Options:
    """`device` "auto" takes a GPU where there is one; `batch_size` None is the family's own; `splits` None takes all
    that the data have; `force` computes again what is stored.

    What only some families use, and others leave alone: `beams`, the widths of beam search; `data`, other data than
    the run's, to be measured beside them; `library_images`, how many training pictures a slot library is made of, 0 for
    all; `sampled_images`, how many scenes of a split are reconstructed, and how many pictures composed, where that
    takes sampling, 0 for as many as there are; `sampler_images`, on how many scenes samplers are compared, 0 for none.
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
