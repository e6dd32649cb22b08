"""What is published in model_cards/: checkpoints that load right after the clone, and cards without leftovers."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import PreTrainedModel

import models
from evaluation.card import COUNTS

CARDS = Path(__file__).resolve().parent.parent / "model_cards"
CHECKPOINTS = sorted(path.parent for path in CARDS.glob("*/model.safetensors"))
PUBLISHED = sorted(path.parent for path in CARDS.glob("*/README.md"))


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_a_checkpoint_is_small_and_loads(folder):
    assert (folder / "model.safetensors").stat().st_size <= 10_000_000
    with safe_open(folder / "model.safetensors", framework="pt") as stored:
        floating = {stored.get_tensor(name).dtype for name in stored.keys()} - {torch.int64}  # noqa: SIM118
    assert floating == {torch.float16}
    architecture = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    model, report = getattr(models, architecture).from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_the_card_of_a_checkpoint_loads_it_in_the_way_it_says(folder, monkeypatch):
    monkeypatch.chdir(CARDS.parent)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), flags=re.S)
    loading = [line for line in code.splitlines() if "import " in line or "from_pretrained" in line]
    names: dict = {}
    exec("\n".join(loading), names)  # a snippet of this repository; the rest of it wants the user's picture
    (model,) = (value for value in names.values() if isinstance(value, PreTrainedModel))
    assert type(model).__name__ in json.loads((folder / "config.json").read_text())["architectures"]


@pytest.mark.parametrize("folder", [f for f in PUBLISHED if (f / "metrics.json").is_file()], ids=lambda f: f.name)
def test_a_card_says_of_how_many_samples_its_numbers_are(folder):
    lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("|")}
    for split, numbers in json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["metrics"].items():
        for key, title in COUNTS.items():
            assert key not in numbers or f" {numbers[key]:,} " in rows[title], (split, title)


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_a_card_names_only_files_that_are_there(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    local = [link for link in links if "://" not in link and not link.startswith("#")]
    assert local and all((folder / link).exists() for link in local), folder
