"""Checkpoints: what was not written whole is never taken for one that was."""

import json
import os

import pytest

from training import checkpoints
from training.errors import CheckpointError


def make(root, step, content=b"weights" * 100):
    staging = checkpoints.staging_folder(root, f"checkpoint-{step}")
    (staging / "inner").mkdir(parents=True)
    (staging / "model.safetensors").write_bytes(content)
    (staging / "inner" / "state.json").write_text("{}")
    checkpoints.commit(staging, root / f"checkpoint-{step}")
    return root / f"checkpoint-{step}"


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replace(path, old, new):
    path.write_text(path.read_text().replace(old, new, 1))


DAMAGE = {
    "a flipped bit": (lambda f: flip_a_bit(f / "model.safetensors"), "model.safetensors is damaged"),
    "a truncated file": (lambda f: os.truncate(f / "model.safetensors", 10), "has 10 bytes instead of 700"),
    "a lost file": (lambda f: (f / "inner" / "state.json").unlink(), "state.json is missing"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "it has no manifest.json"),
    "half a manifest": (lambda f: os.truncate(f / "manifest.json", 20), "manifest.json is damaged"),
    "a flipped bit of a key": (lambda f: replace(f / "manifest.json", "sha256", "rha256"), "manifest.json is damaged"),
    "a list for the files": (lambda f: (f / "manifest.json").write_text('{"files": []}'), "manifest.json is damaged"),
    "no file in the manifest": (lambda f: (f / "manifest.json").write_text('{"files": {}}'), "names no file"),
    "another config": (lambda f: (f / "inner" / "state.json").write_text("[]"), "state.json is damaged"),
}


def test_a_committed_checkpoint_is_valid_and_leaves_no_staging(tmp_path):
    folder = make(tmp_path, 5)
    assert checkpoints.problem_of(folder) is None
    checkpoints.verify(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-5"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_damage_is_found_and_an_earlier_checkpoint_taken(tmp_path, damage):
    make(tmp_path, 5)
    newest = make(tmp_path, 10)
    hurt, why = DAMAGE[damage]
    hurt(newest)
    with pytest.raises(CheckpointError, match=why):
        checkpoints.verify(newest)
    taken, passed_over = checkpoints.newest_valid(tmp_path)
    assert taken == tmp_path / "checkpoint-5"
    assert len(passed_over) == 1 and "checkpoint-10" in passed_over[0] and why in passed_over[0]


def test_steps_are_ordered_as_numbers(tmp_path):
    for step in (9, 100, 20):
        make(tmp_path, step)
    assert [checkpoints.step_of(f) for f in checkpoints.checkpoints_in(tmp_path)] == [100, 20, 9]


def test_what_was_only_staged_is_not_a_checkpoint(tmp_path):
    staging = checkpoints.staging_folder(tmp_path, "checkpoint-7")
    staging.mkdir()
    (staging / "model.safetensors").write_bytes(b"half")
    assert checkpoints.newest_valid(tmp_path) == (None, [])
    checkpoints.remove_stale_staging(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_may_not_name_files_outside_its_folder(tmp_path):
    folder = make(tmp_path, 1)
    (tmp_path / "secret").write_bytes(b"x")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../secret"] = {"sha256": "0", "bytes": 1}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "outside the folder" in checkpoints.problem_of(folder)


def test_rotation_keeps_the_newest_and_the_protected(tmp_path):
    for step in (1, 2, 3, 4):
        make(tmp_path, step)
    checkpoints.rotate(tmp_path, keep=2, protected={tmp_path / "checkpoint-1"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-3", "checkpoint-4"]


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 64")],
)
def test_a_failed_write_is_named(error):
    with (
        pytest.raises(CheckpointError, match="checkpoint 7 was not written"),
        checkpoints.naming_write_errors("checkpoint 7"),
    ):
        raise error


def test_other_errors_are_not_taken_for_failed_writes():
    with pytest.raises(RuntimeError, match="shape"), checkpoints.naming_write_errors("checkpoint 7"):
        raise RuntimeError("shape mismatch")
