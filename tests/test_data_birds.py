"""From class folders, archives and drawings to pixels, labels and ids."""

import json
import os
import tarfile
from functools import partial

import numpy as np
import pytest
import torch
from datasets import ClassLabel
from PIL import Image
from scene_files import caches
from transformers import AutoImageProcessor, BitImageProcessor, ResNetConfig, ResNetForImageClassification, pipeline

from data import birds, image_rows
from data.birds import BirdsData, audit, image_processor, load_birds, pixels_of
from data.image_decoding import open_rgb
from data.image_folder import DataError
from tests.small_birds import class_folders, scene, small_fields


@pytest.fixture
def folder(tmp_path):
    return class_folders(tmp_path / "photos")


@pytest.fixture
def fields(folder, tmp_path):
    return partial(small_fields, folder, tmp_path)


def forbid_decoding(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("decoded again")

    for name in ("inspect", "bird_picture", "prepared"):
        monkeypatch.setattr(birds, name, fail)


def test_columns_splits_and_labels(fields):
    dataset = load_birds(fields())
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 24, "val": 6}
    assert dataset["train"].column_names == ["pixels", "label", "id", "path"]
    assert isinstance(dataset["train"].features["label"], ClassLabel)
    assert dataset["train"].features["label"].names == ["c1", "c2", "c10"]
    for rows in dataset.values():
        for row in rows:
            assert rows.features["label"].int2str(row["label"]) == row["path"].split("/")[1]
    ids = [i for rows in dataset.values() for i in rows["id"]]
    assert sorted(ids) == list(range(30))
    assert sorted(dataset["val"]["label"]) == [0, 0, 1, 1, 2, 2]


def test_pixels_are_the_processors(fields, folder):
    """Cache = the image processor at inference, exactly, before rescaling and normalisation."""
    processor = image_processor(16)
    for rows in load_birds(fields()).values():
        for row in rows:
            with Image.open(folder / row["path"]) as image:
                want = processor(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
            np.testing.assert_array_equal(pixels_of(row)[0], want.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("size", "resize", "shape"), [(16, 24, (50, 40)), (32, 32, (32, 32)), (24, 24, (9, 70)), (8, 16, (500, 300))]
)
def test_prepared_equals_the_processor_at_any_size(size, resize, shape):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    processor = image_processor(size, resize)
    want = processor(image, do_rescale=False, do_normalize=False)["pixel_values"][0].permute(1, 2, 0).numpy()
    assert want.shape == (size, size, 3)
    got = np.frombuffer(image_rows.prepared(image, processor), dtype=np.uint8).reshape(size, size, 3)
    np.testing.assert_array_equal(got, want)


def test_pixels_of_takes_a_batch_a_row_and_rows(fields):
    rows = load_birds(fields())["train"]
    batch = pixels_of(rows[:4])
    assert batch.dtype == np.uint8
    assert batch.shape == (4, 16, 16, 3)
    np.testing.assert_array_equal(pixels_of([rows[i] for i in range(4)]), batch)
    np.testing.assert_array_equal(pixels_of(rows[2]), batch[2:3])
    np.testing.assert_array_equal(pixels_of(rows[[2, 0]]), batch[[2, 0]])
    with pytest.raises(ValueError, match="no rows"):
        pixels_of([])


def test_pipeline_preprocessing_equals_the_cache(fields, folder, tmp_path):
    image_processor(16).save_pretrained(tmp_path / "run")
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=3)
    ResNetForImageClassification(config).save_pretrained(tmp_path / "run")
    classify = pipeline("image-classification", model=str(tmp_path / "run"), device="cpu")
    for row in load_birds(fields())["val"]:
        fed = classify.preprocess(str(folder / row["path"]))["pixel_values"][0].permute(1, 2, 0).numpy()
        cached = pixels_of(row)[0].astype(np.float32) / 127.5 - 1
        np.testing.assert_allclose(fed, cached, atol=1e-5)


def test_processor_loads_back_and_the_pillow_backend_agrees_to_rounding(tmp_path):
    image_processor(16, 20).save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, BitImageProcessor)
    want = image_processor(16, 20)(scene(1), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(loaded(scene(1), return_tensors="pt")["pixel_values"], want)
    pillow = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    got = pillow(scene(1), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(got, want, atol=2.01 / 127.5, rtol=0)


def test_second_load_decodes_nothing(fields, tmp_path, monkeypatch):
    first = load_birds(fields())
    forbid_decoding(monkeypatch)
    second = load_birds(fields())
    for split, rows in first.items():
        assert rows[:] == second[split][:]
    assert len(caches(tmp_path)) == 1


@pytest.mark.parametrize("change", ["added", "removed", "content", "touched"])
def test_a_stale_cache_is_noticed(fields, folder, tmp_path, change):
    load_birds(fields())
    target = folder / "train/c2/0.png"
    if change == "added":
        scene(999).save(folder / "train/c2/new.png")
    elif change == "removed":
        target.unlink()
    elif change == "content":
        scene(999, 90, 80).save(target)
    else:
        os.utime(target, ns=(1, 1))
    dataset = load_birds(fields())
    rows = [row for rows in dataset.values() for row in rows]
    assert len(rows) == {"added": 31, "removed": 29}.get(change, 30)
    if change == "content":
        row = next(row for row in rows if row["path"] == "train/c2/0.png")
        want = image_processor(16)(scene(999, 90, 80), do_rescale=False, do_normalize=False)["pixel_values"][0]
        np.testing.assert_array_equal(pixels_of(row)[0], want.permute(1, 2, 0).numpy())
    assert len(caches(tmp_path)) == 1


def test_another_preprocessing_version_is_built_again(fields, monkeypatch):
    load_birds(fields())
    monkeypatch.setattr(birds, "PREPROCESSING_VERSION", -1)
    forbid_decoding(monkeypatch)
    with pytest.raises(AssertionError, match="decoded again"):
        load_birds(fields())


def test_fields_have_caches_of_their_own(fields, tmp_path):
    assert pixels_of(load_birds(fields(image_size=24))["val"][:]).shape == (6, 24, 24, 3)
    assert pixels_of(load_birds(fields())["val"][:]).shape == (6, 16, 16, 3)
    assert len(caches(tmp_path)) == 2


def test_split_is_recorded_and_seeded(fields, tmp_path):
    dataset = load_birds(fields(test_fraction=0.1))
    recorded = json.loads(next((tmp_path / "cache").glob("*/split.json")).read_text())
    assert recorded["seed"] == 0
    assert {path: split for split, rows in dataset.items() for path in rows["path"]} == recorded["splits"]
    assert [len(rows) for rows in dataset.values()] == [21, 6, 3]
    assert load_birds(fields(split_seed=1))["val"]["path"] != load_birds(fields())["val"]["path"]


def test_an_interrupted_build_leaves_nothing(fields, tmp_path, monkeypatch):
    real, calls = image_rows.prepared, []

    def interrupted(image, processor):
        calls.append(1)
        if len(calls) > 12:
            raise KeyboardInterrupt
        return real(image, processor)

    monkeypatch.setattr(birds, "prepared", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_birds(fields())
    assert caches(tmp_path) == []


def test_a_full_disk_is_named_and_leaves_nothing(fields, tmp_path, monkeypatch):
    def full(image, processor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(birds, "prepared", full)
    with pytest.raises(OSError, match="No space left"):
        load_birds(fields())
    assert caches(tmp_path) == []


def test_archive_equals_folder_and_is_unpacked_once(fields, folder, tmp_path, monkeypatch):
    archive = tmp_path / "photos.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, "wrap")
    from_tar, from_folder = load_birds(fields(path=str(archive))), load_birds(fields())
    for split in ("train", "val"):
        assert from_tar[split][:] == from_folder[split][:]
    monkeypatch.setattr(birds, "extract_tar", lambda *_: pytest.fail("unpacked again"))
    load_birds(fields(path=str(archive), image_size=8))
    forbid_decoding(monkeypatch)
    load_birds(fields(path=str(archive)))


def test_a_changed_archive_is_unpacked_again(fields, folder, tmp_path):
    archive = tmp_path / "photos.tar"
    for count in (30, 29):
        with tarfile.open(archive, "w") as tar:
            tar.add(folder, "wrap")
        assert sum(map(len, load_birds(fields(path=str(archive))).values())) == count
        (folder / "train/c1/0.png").unlink(missing_ok=True)


def test_an_evaluation_only_folder(fields, folder):
    (folder / "train").rename(folder / "test")
    with pytest.raises(DataError, match="has no train split, only test"):
        load_birds(fields())
    assert len(load_birds(fields(), need=("test",))["test"]) == 30


@pytest.mark.parametrize("path", ["nowhere", "empty", "photos.zip"])
def test_unusable_paths(fields, tmp_path, path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=path) as caught:
        load_birds(fields(path=str(tmp_path / path)))
    assert str(caught.value).count("\n") <= 1
    assert not (tmp_path / "cache").exists() or caches(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 4}, r"image_size must be an integer in \[8, 1024\], not 4"),
        ({"image_size": "64"}, "image_size must be an integer"),
        ({"image_size": True}, "image_size must be an integer"),
        ({"image_size": 64, "resize_size": 32}, r"resize_size must be an integer in \[64, 2048\]"),
        ({"num_classes": 26}, r"num_classes must be an integer in \[2, 25\]"),
        ({"num_train": 0}, "num_train must be"),
        ({"val_fraction": 1.0}, r"val_fraction must be a number in \[0, 1\)"),
        ({"val_fraction": 0.6, "test_fraction": 0.5}, "leave no train"),
        ({"test_fraction": float("nan")}, "test_fraction must be"),
        ({"bad_files": "ignore"}, "bad_files must be one of refuse, skip"),
        ({"leakage": "hide"}, "leakage must be one of report, refuse, drop"),
        ({"path": 3}, "path must be a path or null"),
    ],
)
def test_wrong_fields_name_field_and_range(changes, message):
    with pytest.raises(ValueError, match=message):
        BirdsData(**changes)


def test_drawn_birds(tmp_path, monkeypatch):
    fields = BirdsData(
        num_classes=5, num_train=12, num_val=5, num_test=0, image_size=32, cache_dir=str(tmp_path / "cache")
    )
    dataset = load_birds(fields)
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 12, "val": 5}
    assert dataset["train"].features["label"].names == birds.SPECIES[:5]
    assert dataset["train"]["label"][:] == [i % 5 for i in range(12)]
    assert dataset["val"]["path"][1] == "val/Brown-Headed-Barbet/00001"
    ids = [i for rows in dataset.values() for i in rows["id"]]
    assert len(set(ids)) == 17
    image = birds.bird_picture(3, "train", 8, 0, 32)
    want = image_processor(32)(image, do_rescale=False, do_normalize=False)["pixel_values"][0].permute(1, 2, 0)
    np.testing.assert_array_equal(pixels_of(dataset["train"][8])[0], want.numpy())
    assert audit(fields).class_counts == {
        "train": dict(zip(birds.SPECIES[:5], (3, 3, 2, 2, 2), strict=True)),
        "val": dict.fromkeys(birds.SPECIES[:5], 1),
    }
    more = load_birds(BirdsData(**{**vars(fields), "num_train": 20}))
    assert more["train"][:12] == dataset["train"][:]  # ids included
    forbid_decoding(monkeypatch)
    assert load_birds(fields)["val"][:] == dataset["val"][:]


def test_default_cache_lies_beside_the_datasets_library(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    load_birds(BirdsData(num_classes=2, num_train=2, num_val=2, num_test=2, image_size=8))
    assert list((tmp_path / "hf/course_models").glob("drawn-8-*/splits"))


def test_modes_on_disk_reach_the_cache(tmp_path):
    """Transparency and 16 bits, end to end; `open_rgb` shows the picture that the cache holds."""
    root = tmp_path / "modes"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
    rgba = np.zeros((16, 16, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(root / "a/clear.png")
    Image.fromarray(np.full((16, 16), 32768, dtype=np.uint16)).save(root / "b/grey16.png")
    fields = BirdsData(path=str(root), image_size=8, val_fraction=0.0, cache_dir=str(tmp_path / "cache"))
    rows = load_birds(fields)["train"]
    assert [pixels_of(row)[0, 0, 0].tolist() for row in rows] == [[255] * 3, [128] * 3]
    assert np.asarray(open_rgb(root / "b/grey16.png"))[0, 0].tolist() == [128] * 3
    assert audit(fields).modes == {"RGBA": 1, "I;16": 1}


def test_real_photographs(shared, tmp_path):
    fields = BirdsData(path=str(shared / "data/birds6.tar"), image_size=32, cache_dir=str(tmp_path))
    dataset = load_birds(fields)
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 565, "val": 122}
    assert dataset["val"].features["label"].names[0] == "American-Goldfinch"
    report = audit(fields)
    assert report.bad_files == report.exact_across == []
    # Looked at: each pair is one scene, cropped or scaled otherwise.
    assert [pair[0].removeprefix("val/") for pair in report.near_across] == [
        "Carmine-Bee-Eater/013.jpg",
        "Downy-Woodpecker/056.jpg",
        *["Emperor-Penguin/069.jpg"] * 3,
        "Emperor-Penguin/128.jpg",
    ]
