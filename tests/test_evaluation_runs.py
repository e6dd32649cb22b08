import json
import os

import pytest

from evaluation import runs
from training import errors


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


def a_run(folder, **files):
    return write(folder, **{"recipe__yaml": "model_family: resnet\nname: x\n", "config__json": "{}", **files})


def test_runs_are_found_at_any_depth_and_not_inside_one_another(tmp_path):
    first, second = a_run(tmp_path / "resnet" / "a"), a_run(tmp_path / "resnet" / "study" / "b")
    write(first / "checkpoints" / "checkpoint-5", config__json="{}")
    a_run(first / "old")
    a_run(tmp_path / ".hidden" / "c")
    assert runs.find_runs(tmp_path) == [first, second]
    assert runs.find_runs(first) == [first]


@pytest.mark.parametrize("name", ["absent", "."])
def test_no_run_is_an_error_that_names_the_folder(tmp_path, name):
    with pytest.raises(errors.RunError, match=str(tmp_path)):  # the error of training, which train.py catches
        runs.find_runs(tmp_path / name)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("recipe.yaml", "a: [1"),
        ("recipe.yaml", "- 1"),
        ("config.json", "{"),
        ("config.json", "[]"),
        ("metrics.json", "{,}"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, file, content):
    folder = a_run(tmp_path / "a")
    (folder / file).write_text(content)
    with pytest.raises(runs.RunError, match=file.replace(".", r"\.")):
        runs.load_run(folder)


def test_a_run_given_as_the_folder_one_is_in_has_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(a_run(tmp_path / "mine"))
    assert runs.load_run(".").folder == tmp_path / "mine"


def test_a_missing_file_is_named(tmp_path):
    folder = a_run(tmp_path / "a")
    (folder / "config.json").unlink()
    with pytest.raises(runs.RunError, match=r"config\.json: missing"):
        runs.load_run(folder)


def test_labels_are_in_index_order(tmp_path):
    config = {"id2label": {str(i): f"class {i}" for i in (10, 2, 0, 1)}}
    folder = a_run(tmp_path / "a", config__json=json.dumps(config))
    assert runs.load_run(folder).labels == ["class 0", "class 1", "class 2", "class 10"]


def test_weights_are_named_when_missing_shards_included(tmp_path):
    folder = a_run(tmp_path / "a")
    with pytest.raises(runs.RunError, match="no weights"):
        runs.weights_of(folder)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    write(folder, **{"model-1__safetensors": "x", "model__safetensors__index__json": json.dumps(index)})
    with pytest.raises(runs.RunError, match=r"model-2\.safetensors"):
        runs.weights_of(folder)


def test_the_digest_changes_with_content_and_values(tmp_path):
    file = tmp_path / "a"
    file.write_text("1")
    before = runs.digest([file], {"k": 1})
    assert before == runs.digest([file], {"k": 1}) != runs.digest([file], {"k": 2})
    file.write_text("2")
    assert before != runs.digest([file], {"k": 1})


def test_a_write_that_fails_leaves_the_old_content_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    runs.write_json(path, {"a": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        runs.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1} and list(tmp_path.iterdir()) == [path]


def test_json_holds_no_nan_and_rows_of_numbers_stay_on_a_line(tmp_path):
    runs.write_json(tmp_path / "a.json", {"x": float("nan"), "m": [[1, 2], [3, 4.5]], "s": "[1,\n 2]"})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"x": None, "m": [[1, 2], [3, 4.5]], "s": "[1,\n 2]"}
    assert "[1, 2]" in text


def test_a_history_without_every_column_still_reads(tmp_path):
    (tmp_path / "history.csv").write_text("step,epoch,split,loss\n1,1,val,0.5\n")
    table = runs.read_history(tmp_path / "history.csv")
    assert table["accuracy"].isna().all() and table["loss"].tolist() == [0.5]
    assert runs.read_history(tmp_path / "absent.csv").empty
