"""What every test shares: no network, few threads, and the folder of real data where it is at hand."""

import gc
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["OMP_NUM_THREADS"] = "1"  # sums are split by threads: equal bits need an equal number of them everywhere

import pytest
import torch
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_finish():
    """Every training collects garbage: let it look through what tests make, not through all that was imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def no_drawing(monkeypatch):
    """Figures are made but not drawn, which is most of an evaluation's time: for tests that evaluate again what a
    fixture of their module has evaluated, figures and all."""
    contents = {"png": b"no drawing", "svg": "<svg></svg>"}
    monkeypatch.setattr(Figure, "savefig", lambda figure, target, format, **_: target.write(contents[format]))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared/` beside the checkout: real data and golden values, never committed."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no folder of real data and golden values at {folder}")
    return folder
