"""From folders, archives and drawings to pixels, masks, ids and metadata, and to caches of them."""

import json
import os
from functools import partial

import numpy as np
import pytest
from PIL import Image
from scene_files import (
    COLOURS,
    caches,
    coursework_folder,
    middle,
    picture,
    save_mask,
    save_scene,
    small_fields,
    true_mask,
)

from data import clevrtex
from data.clevrtex import ClevrtexData, crop_of, image_processor, left_out, load_clevrtex, masks_of, pixels_of, square
from data.image_folder import DataError
from data.scenes import render_scene


@pytest.fixture
def folder(tmp_path):
    return coursework_folder(tmp_path / "data")


@pytest.fixture
def fields(folder, tmp_path):
    return partial(small_fields, folder, tmp_path)


def test_columns_splits_and_ids(fields):
    dataset = load_clevrtex(fields())
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 4, "val": 3}
    assert dataset["train"].column_names == ["pixels", "mask", "has_mask", "id", "path", "metadata"]
    assert dataset["train"]["id"][:] == [0, 1, 2, 3]
    assert dataset["val"]["id"][:] == [40000, 40001, 40002]
    assert dataset["val"]["path"][0] == "images/val/40000.png"
    assert all(dataset["train"]["has_mask"])
    assert left_out(fields()) == []


@pytest.mark.parametrize("coding", ["index", "palette"])
def test_ids_are_kept_exactly(fields, folder, coding):
    for number in range(4):
        save_scene(folder, "train", number, coding=coding)
    rows = load_clevrtex(fields())["train"]
    got = masks_of(rows[:])
    assert got.shape == (4, 16, 16)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, [middle(true_mask(number)) for number in range(4)])


def test_colours_become_ids(fields, folder):
    for number in range(4):
        save_scene(folder, "train", number, coding="colour")
    order = {0: 0} | {k: 1 + i for i, k in enumerate(sorted(range(1, 5), key=lambda k: COLOURS[k].tolist()))}
    rows = load_clevrtex(fields(mask_coding="colour", path=str(folder / "images/..")), need=("train",))["train"]
    for number in range(4):
        want = np.vectorize(order.get)(middle(true_mask(number)))
        np.testing.assert_array_equal(masks_of(rows[number])[0], want)


def test_pixels_are_the_processors(fields, folder):
    """Cache = the image processor on the central square, exactly, before rescaling and normalisation."""
    processor = image_processor(16)
    for row in load_clevrtex(fields())["train"]:
        with Image.open(folder / row["path"]) as image:
            want = processor(square(image), do_rescale=False, do_normalize=False)["pixel_values"][0]
        np.testing.assert_array_equal(pixels_of(row)[0], want.permute(1, 2, 0).numpy())


def test_models_take_minus_one_to_one():
    image = Image.fromarray(np.array([[[0, 128, 255]]], dtype=np.uint8).repeat(20, axis=0).repeat(20, axis=1))
    values = image_processor(16)(image, return_tensors="pt")["pixel_values"]
    assert values.shape == (1, 3, 16, 16)
    np.testing.assert_allclose(values[0, :, 3, 4], [-1, 0.00392, 1], atol=1e-4)


@pytest.mark.parametrize(("centre_crop", "side"), [(None, 192), (1.0, 240), (0.5, 120)])
def test_originals_are_cropped_as_published(tmp_path, centre_crop, side):
    """320x240 RGBA: central 192, then bilinear and nearest, as in the evaluation code of CLEVRTex."""
    root = tmp_path / "clevrtex_full"
    for number in range(10):
        name = root / "0" / f"CLEVRTEX_full_{number:06d}"
        name.parent.mkdir(parents=True, exist_ok=True)
        picture(number, (320, 240)).convert("RGBA").save(f"{name}.png", compress_level=1)
        save_mask(true_mask(number, (320, 240)), name.with_name(name.name + "_flat.png"), "palette")
        name.with_suffix(".json").write_text(json.dumps({"objects": [{"shape": "cube"}], "index": number}, indent=2))
    fields = ClevrtexData(path=str(tmp_path), centre_crop=centre_crop, cache_dir=str(tmp_path / "cache"))
    dataset = load_clevrtex(fields, need=("train", "val", "test"))
    assert {split: rows["id"][:] for split, rows in dataset.items()} == {
        "train": list(range(2, 10)),
        "val": [1],
        "test": [0],
    }
    row = dataset["val"][0]
    assert json.loads(row["metadata"]) == {"objects": [{"shape": "cube"}], "index": 1}
    left, upper = (320 - side) // 2, (240 - side) // 2
    box = (left, upper, left + side, upper + side)
    want = picture(1, (320, 240)).crop(box).resize((128, 128), Image.Resampling.BILINEAR)
    assert np.abs(pixels_of(row)[0].astype(int) - np.asarray(want)).max() <= 1
    mask = Image.fromarray(true_mask(1, (320, 240))).crop(box).resize((128, 128), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(masks_of(row)[0], np.asarray(mask))
    saved = image_processor(128, crop_of(fields))  # what a run carries: one resize, then the crop
    smooth = Image.fromarray(np.add.outer(np.arange(240) * 0.5, np.arange(320) * 0.4).astype(np.uint8)).convert("RGB")
    theirs = saved(smooth, return_tensors="np", do_rescale=False, do_normalize=False)["pixel_values"][0, 0].astype(int)
    mine = np.asarray(smooth.crop(box).resize((128, 128), Image.Resampling.BILINEAR))[..., 0]
    assert np.abs(theirs - mine).max() <= 2


def test_masks_of_takes_a_batch_a_row_and_rows(fields):
    rows = load_clevrtex(fields())["train"]
    batch = masks_of(rows[:3])
    np.testing.assert_array_equal(masks_of([rows[i] for i in range(3)]), batch)
    np.testing.assert_array_equal(masks_of(rows[2]), batch[2:3])
    np.testing.assert_array_equal(masks_of(rows[[2, 0]]), batch[[2, 0]])
    with pytest.raises(ValueError, match="no rows"):
        masks_of([])


def test_what_the_crop_removes_does_not_count(fields, folder):
    mask = np.minimum(true_mask(1), 3)
    mask[:, :8] = 200
    save_scene(folder, "train", 1, mask)
    np.testing.assert_array_equal(masks_of(load_clevrtex(fields())["train"][1])[0], middle(mask))


def test_levels_of_grey_that_mean_colours(fields, folder):
    for number in range(4):
        save_scene(folder, "train", number, true_mask(number) * 60)
    with pytest.raises(DataError, match='mask_coding to "colour"'):
        load_clevrtex(fields())
    rows = load_clevrtex(fields(mask_coding="colour"))["train"]
    np.testing.assert_array_equal(masks_of(rows[:]), [middle(true_mask(number)) for number in range(4)])


def forbid_work(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("decoded again")

    for name in ("_read", "render_scene", "read_archive"):
        monkeypatch.setattr(clevrtex, name, fail)


def test_second_load_decodes_nothing(fields, tmp_path, monkeypatch):
    first = load_clevrtex(fields())
    forbid_work(monkeypatch)
    second = load_clevrtex(fields())
    for split, rows in first.items():
        assert rows[:] == second[split][:]
    assert len(caches(tmp_path)) == 1


@pytest.mark.parametrize("change", ["added", "removed", "mask", "touched"])
def test_a_stale_cache_is_noticed(fields, folder, tmp_path, change):
    load_clevrtex(fields())
    if change == "added":
        save_scene(folder, "train", 9)
    elif change == "removed":
        (folder / "images/train/1.png").unlink()
        (folder / "masks/train/1.png").unlink()
    elif change == "mask":
        save_mask(true_mask(77), folder / "masks/train/1.png")
    else:
        os.utime(folder / "masks/train/1.png", ns=(1, 1))
    rows = load_clevrtex(fields())["train"]
    assert len(rows) == {"added": 5, "removed": 3}.get(change, 4)
    if change == "mask":
        np.testing.assert_array_equal(masks_of(rows[1])[0], middle(true_mask(77)))
    assert len(caches(tmp_path)) == 1


def test_fields_and_versions_have_caches_of_their_own(fields, monkeypatch):
    assert masks_of(load_clevrtex(fields(image_size=24))["val"][:]).shape == (3, 24, 24)
    assert masks_of(load_clevrtex(fields())["val"][:]).shape == (3, 16, 16)
    half = masks_of(load_clevrtex(fields(centre_crop=0.5))["val"][:])
    np.testing.assert_array_equal(half[0], middle(true_mask(40000), 0.5))
    monkeypatch.setattr(clevrtex, "PREPROCESSING_VERSION", -1)
    forbid_work(monkeypatch)
    with pytest.raises(AssertionError, match="decoded again"):
        load_clevrtex(fields())


def test_an_interrupted_build_leaves_nothing(fields, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(clevrtex, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_clevrtex(fields())
    assert caches(tmp_path) == []


def test_a_flat_folder_of_ones_own_pictures(tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / "own").mkdir(exist_ok=True)
        picture(len(name), (30, 50)).save(tmp_path / "own" / f"{name}.jpg")
    fields = ClevrtexData(
        path=str(tmp_path / "own"),
        image_size=16,
        missing_masks="allow",
        val_fraction=1,
        cache_dir=str(tmp_path / "cache"),
    )
    rows = load_clevrtex(fields, need=("val",))["val"]
    assert rows["path"][:] == ["one.jpg", "three.jpg", "two.jpg"]
    assert rows["id"][:] == [0, 1, 2]
    with pytest.raises(DataError, match="own has no train split, only val"):
        load_clevrtex(fields)


def drawn(tmp_path, **changes):
    counts = {"num_train": 6, "num_val": 3, "num_test": 0}
    return ClevrtexData(**{"image_size": 32, **counts, "cache_dir": str(tmp_path / "cache"), **changes})


@pytest.mark.parametrize("difficulty", ["plain", "hard"])
def test_drawn_scenes(tmp_path, monkeypatch, difficulty):
    fields = drawn(tmp_path, difficulty=difficulty, seed=4, min_objects=4, max_objects_drawn=6)
    dataset = load_clevrtex(fields)
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 6, "val": 3}
    assert dataset["train"].column_names == ["pixels", "mask", "has_mask", "id", "path", "metadata"]
    ids = [i for rows in dataset.values() for i in rows["id"]]
    assert len(set(ids)) == 9
    scene = render_scene("val", 2, 4, 32, difficulty, 4, 6)
    row = dataset["val"][2]
    np.testing.assert_array_equal(pixels_of(row)[0], scene.image)
    np.testing.assert_array_equal(masks_of(row)[0], scene.mask)
    assert json.loads(row["metadata"]) == scene.metadata
    assert row["path"] == "val/000002"
    more = load_clevrtex(drawn(tmp_path, **{**vars(fields), "num_train": 9}))
    assert more["train"][:6] == dataset["train"][:]  # ids included
    forbid_work(monkeypatch)
    assert load_clevrtex(fields)["val"][:] == dataset["val"][:]
    with pytest.raises(
        DataError, match="the drawn data have no test split, only train, val: set num_test to at least 1"
    ):
        load_clevrtex(fields, need=["test"])


def test_drawn_and_stored_scenes_have_the_same_columns(tmp_path, fields):
    assert load_clevrtex(drawn(tmp_path))["train"].features == load_clevrtex(fields())["train"].features


def test_default_cache_lies_beside_the_datasets_library(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    load_clevrtex(ClevrtexData(image_size=8, num_train=1, num_val=1, num_test=0))
    assert list((tmp_path / "hf/course_models").glob("scenes-textured-8-*/splits"))


def test_real_scenes(shared, tmp_path):
    """25 real scenes with true and predicted masks; and the three raw renders beside them."""
    path = shared / "data/clevrtex_real/scenes25.npz"
    with np.load(path, allow_pickle=False) as stored:
        rows = load_clevrtex(ClevrtexData(path=str(path), cache_dir=str(tmp_path)), need=("val",))["val"]
        for name, got in (
            ("image", pixels_of(rows[:])),
            ("mask", masks_of(rows[:])),
            ("predicted_mask", masks_of(rows[:], "predicted_mask")),
            ("index", rows["id"][:]),
        ):
            np.testing.assert_array_equal(got, stored[name])
    small = load_clevrtex(ClevrtexData(path=str(path), image_size=64, cache_dir=str(tmp_path)), need=("val",))["val"]
    np.testing.assert_array_equal(masks_of(small[:]), masks_of(rows[:])[:, 1::2, 1::2])
    fields = ClevrtexData(path=str(path.parent), missing_masks="allow", val_fraction=1, cache_dir=str(tmp_path))
    raw = load_clevrtex(fields, need=("val",))["val"]
    assert raw["id"][:] == [1, 2, 3]
    for row in raw:
        with Image.open(path.parent / row["path"]) as image:
            assert image.size == (320, 240)
            want = image.convert("RGB").crop((64, 24, 256, 216)).resize((128, 128), Image.Resampling.BILINEAR)
        assert np.abs(pixels_of(row)[0].astype(int) - np.asarray(want)).max() <= 1
