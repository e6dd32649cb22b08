import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from trained_run import make_run

from evaluation import push
from evaluation.card import write_card
from evaluation.publishing import publish
from evaluation.runs import RunError
from models import ResNet6n2ForImageClassification
from training.checkpoints import write_manifest


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("runs") / "bn", tmp_path_factory.mktemp("cache"), steps=1)
    write_card(folder)
    write_manifest(folder, [folder / "model.safetensors", folder / "config.json"])
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_half_the_bytes_load_as_float32_and_predict_the_same_to_float16(trained, tmp_path):
    target = publish(trained, tmp_path, weights="half")
    whole = ResNet6n2ForImageClassification.from_pretrained(trained).eval()
    again = ResNet6n2ForImageClassification.from_pretrained(target).eval()
    assert next(again.parameters()).dtype == torch.float32
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (target, trained)]
    assert sizes[0] < 0.6 * sizes[1]
    pictures = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = whole(pictures).logits, again(pictures).logits
    assert not torch.equal(expected, found)
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)


def test_an_analysis_beside_the_published_card_becomes_a_section_of_it_each_time(trained, tmp_path):
    target = publish(trained, tmp_path)
    plain = (target / "README.md").read_text()
    own = (trained / "README.md").read_text()
    sections = [re.sub(r"## How to load it\n.*?\n## ", "## ", text, flags=re.S) for text in (plain, own)]
    assert sections[0] == sections[1] and "The weights are not published here" in plain and plain != own
    (target / "analysis.md").write_text("Batch norm wins by 3 points.\n")
    for _ in range(2):
        publish(trained, tmp_path)
        text = (target / "README.md").read_text()
        assert text.replace("## Analysis\n\nBatch norm wins by 3 points.\n\n", "") == plain != text


def test_weights_published_earlier_stay_while_they_are_the_runs_own(copy, tmp_path):
    target = publish(copy, tmp_path / "cards", weights="half")
    kept = (target / "model.safetensors").read_bytes()
    publish(copy, tmp_path / "cards")
    assert (target / "model.safetensors").read_bytes() == kept
    text = (target / "README.md").read_text()
    assert f'from_pretrained("{target.name}", trust_remote_code=True)' in text
    tensors = load_file(copy / "model.safetensors")
    save_file({k: v + 1 if v.dim() == 4 else v for k, v in tensors.items()}, copy / "model.safetensors")
    with pytest.raises(RunError, match=r"is not what .*run holds"):
        publish(copy, tmp_path / "cards")
    assert (target / "README.md").read_text() == text
    publish(copy, tmp_path / "cards", weights="full")
    assert (target / "model.safetensors").read_bytes() == (copy / "model.safetensors").read_bytes()


def test_into_this_project_weights_come_without_a_second_copy_of_the_code(copy, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluation.publishing.ROOT", tmp_path.resolve())
    target = publish(copy, tmp_path / "cards", weights="half")
    assert not list(target.glob("*.py")) and (target / "config.json").is_file()
    text = (target / "README.md").read_text()
    assert f'from_pretrained("cards/{target.name}")' in text and "import models" in text
    assert "trust_remote_code" not in text and "float16" in text
    publish(copy, tmp_path / "cards", weights="full")
    assert "float16" not in (target / "README.md").read_text()


def test_weights_that_float16_cannot_hold_are_an_error(copy, tmp_path):
    tensors = load_file(copy / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.dim() == 4)
    tensors[name][0, 0, 0, 0] = 1e6
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=f"{name} goes beyond float16"):
        publish(copy, tmp_path / "cards", weights="half")


def test_a_dry_run_lists_what_would_be_uploaded_and_uploads_nothing(copy, monkeypatch, capsys):
    (copy / "galleries").mkdir()
    (copy / "galleries" / "grad_cam.png").write_bytes(b"a photograph")
    monkeypatch.setattr(push, "HfApi", lambda: pytest.fail("a dry run must not talk to the Hub"))
    assert push.main([str(copy), "--repo", "you/birds", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "model.safetensors" in said and "modeling_resnet.py" in said and "nothing was uploaded" in said
    assert "galleries" not in said and "predictions" not in said


def test_an_upload_makes_the_repository_and_sends_the_staged_folder(copy, monkeypatch):
    calls = []

    class Hub:
        def create_repo(self, repo, **options):
            calls.append((repo, options))

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            calls.append((repo_id, sorted(path.name for path in folder_path.iterdir())))
            calls.append((folder_path / "README.md").read_text())

    monkeypatch.setattr(push, "HfApi", Hub)
    assert push.main([str(copy), "--repo", "you/birds", "--private"]) == 0
    assert calls[0] == ("you/birds", {"private": True, "exist_ok": True})
    assert calls[1][0] == "you/birds" and {"README.md", "config.json", "model.safetensors"} <= set(calls[1][1])
    assert 'from_pretrained("you/birds", trust_remote_code=True)' in calls[2]


def test_a_hub_that_cannot_be_reached_is_one_line(copy, monkeypatch, capsys):
    class Hub:
        def create_repo(self, repo, **options):
            raise RuntimeError("Name or service not known")  # as httpx's ConnectError, no OSError

    monkeypatch.setattr(push, "HfApi", Hub)
    assert push.main([str(copy), "--repo", "you/birds"]) == 1
    assert "error: you/birds: not uploaded (RuntimeError: Name or service" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["weights", "card", "name"])
def test_what_cannot_be_shared_is_one_line(copy, damage, capsys):
    if damage == "weights":
        (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-1])
    if damage == "card":
        (copy / "README.md").unlink()
    repo = "a b/c" if damage == "name" else "you/birds"
    assert push.main([str(copy), "--repo", repo, "--dry-run"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
