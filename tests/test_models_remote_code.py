"""A saved checkpoint carries its own code: it loads, bit for bit, where this project cannot be imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_resnet import build, images, with_odd_values
from transformers import ViTImageProcessor

ROOT = Path(__file__).resolve().parents[1]

# What the other process does: makes the project unimportable, loads a folder without trust, which fails, then each
# folder; answers, and saves it once more.
ELSEWHERE = """
import importlib.abc, json, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"models", "data", "metrics", "training", "evaluation"}:
            raise ModuleNotFoundError(f"{name} is blocked in this process", name=name)

sys.meta_path.insert(0, Blocked())
folders = sys.argv[1:]
try:
    import models
except ModuleNotFoundError:
    print("not importable")

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, pipeline

try:
    AutoModelForImageClassification.from_pretrained(folders[0], trust_remote_code=False)
except ValueError as error:
    print(" ".join(str(error).split()))
for folder in folders:
    inputs = torch.load(f"{folder}/inputs.pt", weights_only=True)
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert config.to_dict()["id2label"] == model.config.to_dict()["id2label"]
    with torch.no_grad():
        logits = model(inputs).logits
    groups = {name: len(names) for name, names in model.parameter_groups().items()}
    model.save_pretrained(f"{folder}/again")
    again = AutoModelForImageClassification.from_pretrained(f"{folder}/again", trust_remote_code=True)
    assert torch.equal(again(inputs).logits, logits)
    torch.save(logits, f"{folder}/logits.pt")
    json.dump(groups, open(f"{folder}/groups.json", "w"))

classifier = pipeline("image-classification", model=folders[0], trust_remote_code=True, device="cpu")
assert AutoImageProcessor.from_pretrained(folders[0]).size["height"] == 16
from PIL import Image
answers = classifier(Image.new("RGB", (20, 30), (200, 30, 40)), top_k=3)
print(json.dumps([answer["label"] for answer in answers]))
"""


def run_elsewhere(tmp_path: Path, program: str, *arguments: Path | str) -> subprocess.CompletedProcess:
    """Another directory, isolated mode (no PYTHONPATH, no user site, no current directory), a fresh modules cache."""
    cwd = tmp_path / "elsewhere"
    cwd.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def one_thread():
    """Bit-for-bit equality is asked across processes: the same number of threads in both."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_loads_where_the_project_is_not_importable_and_its_code_is_trusted(tmp_path, one_thread):
    folders, expected = [], []
    for norm, shortcut in (("bn", "A"), ("bin", "B"), ("gn", "A")):
        model = with_odd_values(build(norm=norm, shortcut=shortcut, id2label={i: f"bird {i}" for i in range(5)})).eval()
        folder = tmp_path / f"{norm}-{shortcut}"
        model.save_pretrained(folder)
        torch.save(images(), folder / "inputs.pt")
        with torch.no_grad():
            expected.append(model(images()).logits)
        folders.append(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folders[0])

    result = run_elsewhere(tmp_path, ELSEWHERE, *folders)

    assert result.returncode == 0, result.stderr
    blocked, refusal, labels = result.stdout.splitlines()
    assert blocked == "not importable" and "trust_remote_code=True" in refusal
    assert len(json.loads(labels)) == 3 and set(json.loads(labels)) <= {f"bird {i}" for i in range(5)}
    for folder, logits in zip(folders, expected, strict=True):
        assert torch.equal(torch.load(folder / "logits.pt", weights_only=True), logits), folder.name
    assert json.loads((folders[1] / "groups.json").read_text())["gate"] == 9


def test_the_saved_folder_holds_the_code_and_nothing_of_this_machine(tmp_path):
    build().save_pretrained(tmp_path)
    code = {f"{name}.py" for name in ("configuration_resnet", "field_checks", "modeling_resnet", "normalization")}
    code |= {"normalization_passes.py", "stored_weights.py"}
    assert {path.name for path in tmp_path.glob("*.py")} == code
    for name in code:
        assert (tmp_path / name).read_text() == (ROOT / "models" / name).read_text()
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_resnet.ResNet6n2Config",
        "AutoModel": "modeling_resnet.ResNet6n2Model",
        "AutoModelForImageClassification": "modeling_resnet.ResNet6n2ForImageClassification",
    }
    assert str(ROOT) not in (tmp_path / "config.json").read_text()
