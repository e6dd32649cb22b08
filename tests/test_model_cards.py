"""What is published in model_cards/: checkpoints that load right after the clone, and cards without leftovers."""

import importlib
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open

CARDS = Path(__file__).resolve().parent.parent / "model_cards"
CHECKPOINTS = sorted(path.parent for path in CARDS.glob("*/model.safetensors"))
PUBLISHED = sorted(path.parent for path in CARDS.glob("*/README.md"))


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_a_checkpoint_is_small_and_loads(folder):
    assert (folder / "model.safetensors").stat().st_size <= 10_000_000
    with safe_open(folder / "model.safetensors", framework="pt") as stored:
        floating = {stored.get_tensor(name).dtype for name in stored.keys()} - {torch.int64}  # noqa: SIM118
    assert floating == {torch.float16}
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    (auto_class,) = (name for name in config.auto_map if name.startswith("AutoModel"))
    model, report = getattr(transformers, auto_class).from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True, dtype=torch.float32
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in model.parameters())
    own = getattr(importlib.import_module("models"), type(model).__name__)
    assert own.from_pretrained(folder).num_parameters() == model.num_parameters()


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_a_card_names_only_files_that_are_there(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    local = [link for link in links if "://" not in link and not link.startswith("#")]
    assert local and all((folder / link).exists() for link in local), folder
