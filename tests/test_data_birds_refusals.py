"""What class folders are not taken as they are: files that are no pictures, and pictures that two splits share."""

from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from scene_files import caches

from data.birds import audit, load_birds
from data.image_folder import DataError
from tests.small_birds import class_folders, scene, small_fields
from training.digests import data_digests

BAD = {"train/c2/empty.jpg": b"", "train/c1/notes.txt": b"see below", "train/c10/cut.png": None}


@pytest.fixture
def folder(tmp_path):
    return class_folders(tmp_path / "photos")


@pytest.fixture
def fields(folder, tmp_path):
    return partial(small_fields, folder, tmp_path)


@pytest.fixture
def with_bad_files(folder):
    for path, content in BAD.items():
        (folder / path).write_bytes((folder / "train/c1/0.png").read_bytes()[:200] if content is None else content)
    return folder


def test_bad_files_are_refused_by_path(fields, with_bad_files, tmp_path):
    with pytest.raises(DataError, match="3 of 33 files are no usable images") as caught:
        load_birds(fields())
    assert all(path in str(caught.value) for path in BAD)
    assert '"skip"' in str(caught.value)
    assert str(caught.value).count("\n") <= 1
    assert caches(tmp_path) == []


def test_bad_files_are_skipped_and_reported(fields, with_bad_files):
    skip = fields(bad_files="skip")
    dataset = load_birds(skip)
    assert sum(map(len, dataset.values())) == 30
    assert not set(BAD) & {path for rows in dataset.values() for path in rows["path"]}
    report = audit(skip)
    assert {bad["path"] for bad in report.bad_files} == set(BAD)
    assert audit(fields()) == report  # found by decoding, without a cache


def test_a_class_without_a_usable_image(fields, folder):
    (folder / "train/c3").mkdir()
    (folder / "train/c3/1.png").write_bytes(b"junk")
    (folder / "train/c3/2.png").write_bytes(b"junk")
    with pytest.raises(DataError, match="no usable training image of class 'c3'"):
        load_birds(fields(bad_files="skip"))


def test_nothing_but_bad_files(fields, folder):
    for path in folder.rglob("*.*"):
        path.write_bytes(b"junk")
    with pytest.raises(DataError, match="30 of 30 files are no usable images"):
        load_birds(fields(bad_files="skip"))


@pytest.fixture
def leaky(folder):
    """val holds a copy of one training picture, another one recoded, and two of its own."""
    for name in ("c1", "c2", "c10"):
        (folder / "val" / name).mkdir(parents=True)
        scene(5000 + len(name) + ord(name[1])).save(folder / "val" / name / "own.png")
    (folder / "val/c1/copy.png").write_bytes((folder / "train/c1/0.png").read_bytes())
    with Image.open(folder / "train/c2/3.png") as image:
        image.save(folder / "val/c2/recoded.jpg", quality=80)
    return folder


def test_leakage_is_reported(fields, leaky):
    assert len(load_birds(fields())["train"]) == 30
    report = audit(fields())
    assert report.exact_across == [["train/c1/0.png", "val/c1/copy.png"]]
    assert report.near_across == [["val/c2/recoded.jpg", "train/c2/3.png"]]
    assert "1 exact, 1 near" in str(report)


def test_leakage_is_refused(fields, leaky, tmp_path):
    with pytest.raises(DataError, match=r"2 images are in two splits, such as train/c1/0.png = val/c1/copy.png"):
        load_birds(fields(leakage="refuse"))
    assert caches(tmp_path) == []


def test_leakage_is_dropped_from_train(fields, leaky):
    drop = fields(leakage="drop")
    dataset = load_birds(drop)
    assert len(dataset["val"]) == 5
    assert len(dataset["train"]) == 28
    assert not {"train/c1/0.png", "train/c2/3.png"} & set(dataset["train"]["path"])
    report = audit(drop)
    assert report.dropped == ["train/c1/0.png", "train/c2/3.png"]
    assert report.class_counts["train"] == {"c1": 9, "c2": 9, "c10": 10}


def test_a_test_split_that_comes_later_changes_neither_train_nor_val(fields, leaky):
    drop = fields(leakage="drop")
    before = data_digests(load_birds(drop))
    for name in ("c1", "c2", "c10"):
        (leaky / "test" / name).mkdir(parents=True)
        scene(6000 + len(name) + ord(name[1])).save(leaky / "test" / name / "new.png")
    (leaky / "test/c1/as_train.png").write_bytes((leaky / "train/c1/3.png").read_bytes())
    (leaky / "test/c2/as_val.png").write_bytes((leaky / "val/c2/own.png").read_bytes())
    later = load_birds(drop)
    assert {name: digest for name, digest in data_digests(later).items() if name != "test"} == before
    assert [Path(path).name for path in later["test"]["path"]] == ["new.png"] * 3
    assert audit(drop).class_counts["test"] == {"c1": 1, "c2": 1, "c10": 1}
