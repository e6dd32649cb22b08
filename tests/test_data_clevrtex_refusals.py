"""Scenes that cannot be used: missing and broken files, masks that do not fit, and fields out of range."""

from functools import partial

import numpy as np
import pytest
from scene_files import caches, coursework_folder, middle, picture, save_mask, save_scene, small_fields, true_mask

from data.clevrtex import ClevrtexData, left_out, load_clevrtex, masks_of, pixels_of
from data.image_folder import DataError


@pytest.fixture
def folder(tmp_path):
    return coursework_folder(tmp_path / "data")


@pytest.fixture
def fields(folder, tmp_path):
    return partial(small_fields, folder, tmp_path)


def test_pictures_without_masks(fields, folder, tmp_path):
    for path in (folder / "masks").rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"7 of 7 scenes cannot be used \(images/train/0.png: no mask") as caught:
        load_clevrtex(fields())
    assert 'missing_masks to "skip" or "allow"' in str(caught.value)
    assert str(caught.value).count("\n") == 1
    assert caches(tmp_path) == []
    dataset = load_clevrtex(fields(missing_masks="allow"))
    assert not any(dataset["val"]["has_mask"])
    assert pixels_of(dataset["train"][:]).shape == (4, 16, 16, 3)
    with pytest.raises(ValueError, match="row 0 of 3 has no mask"):
        masks_of(dataset["val"][:])
    with pytest.raises(DataError, match="none of 7 scenes can be used"):
        load_clevrtex(fields(missing_masks="skip"))


def test_a_mask_that_is_missing(fields, folder, caplog):
    (folder / "masks/train/2.png").unlink()
    with pytest.raises(DataError, match=r"1 of 7 scenes cannot be used \(images/train/2.png: no mask\)"):
        load_clevrtex(fields())
    dataset = load_clevrtex(fields(missing_masks="skip"))
    assert dataset["train"]["id"][:] == [0, 1, 3]
    assert left_out(fields(missing_masks="skip")) == [("images/train/2.png", "no mask")]
    assert "1 left out, such as images/train/2.png (no mask); 6 scenes kept" in caplog.text
    allowed = load_clevrtex(fields(missing_masks="allow"))["train"]
    assert allowed["has_mask"][:] == [True, True, False, True]
    np.testing.assert_array_equal(masks_of(allowed[3])[0], middle(true_mask(3)))


def test_masks_without_pictures(fields, folder):
    (folder / "images/train/1.png").unlink()
    with pytest.raises(DataError, match=r"1 masks have no picture, such as masks/train/1.png: add the pictures"):
        load_clevrtex(fields())
    skip = fields(missing_masks="skip")
    assert load_clevrtex(skip)["train"]["id"][:] == [0, 2, 3]
    assert left_out(skip) == [("masks/train/1.png", "a mask without a picture")]


def test_masks_of_another_size(fields, folder):
    save_mask(true_mask(1, (32, 32)), folder / "masks/train/1.png")
    with pytest.raises(DataError, match=r"its masks/train/1\.png: a mask of 32x32, its picture is 48x32"):
        load_clevrtex(fields())
    skip = fields(bad_files="skip")
    assert load_clevrtex(skip)["train"]["id"][:] == [0, 2, 3]
    assert left_out(skip)[0][0] == "images/train/1.png"


def test_ids_beyond_k(fields, folder):
    mask = true_mask(1)
    mask[10:20, 16:30] = 11
    save_scene(folder, "train", 1, mask)
    with pytest.raises(
        DataError, match=r"images/train/1.png: mask has ids from 0 to 11, allowed are 0 to 10"
    ) as caught:
        load_clevrtex(fields())
    assert "max_objects" in str(caught.value)
    assert load_clevrtex(fields(too_many="skip"))["train"]["id"][:] == [0, 2, 3]
    assert masks_of(load_clevrtex(fields(max_objects=11))["train"][1]).max() == 11
    with pytest.raises(DataError, match="7 of 7 scenes cannot be used"):
        load_clevrtex(fields(max_objects=3))


BAD = {"images/train/1.png": b"junk", "masks/train/2.png": b"", "masks/val/40001.png": None}


@pytest.fixture
def with_bad_files(folder):
    for path, content in BAD.items():
        (folder / path).write_bytes((folder / path).read_bytes()[:60] if content is None else content)
    return folder


def test_bad_files_are_refused_by_name(fields, with_bad_files, tmp_path):
    with pytest.raises(DataError, match="3 of 7 scenes cannot be used") as caught:
        load_clevrtex(fields())
    assert all(path in str(caught.value) for path in BAD)
    assert 'bad_files to "skip"' in str(caught.value)
    assert str(caught.value).count("\n") == 1
    assert caches(tmp_path) == []


def test_bad_files_are_skipped_and_told(fields, with_bad_files):
    skip = fields(bad_files="skip")
    dataset = load_clevrtex(skip)
    assert [row["id"] for rows in dataset.values() for row in rows] == [0, 3, 40000, 40002]
    assert [path for path, _ in left_out(skip)] == ["images/train/1.png", "images/train/2.png", "images/val/40001.png"]


@pytest.mark.parametrize(
    ("content", "message"), [(b"{", "Expecting"), (b" " * 2**21, "of 2097152 bytes"), (b"\xff", "utf-8")]
)
def test_bad_metadata(tmp_path, content, message):
    picture(0).save(tmp_path / "a0.png")
    (tmp_path / "a0.json").write_bytes(content)
    fields = ClevrtexData(
        path=str(tmp_path), image_size=16, missing_masks="allow", val_fraction=1, cache_dir=str(tmp_path / "cache")
    )
    with pytest.raises(DataError, match=f"a0.png: its a0.json: .*{message}"):
        load_clevrtex(fields, need=("val",))


def test_reading_stops_at_many_bad_files(fields, folder):
    for number in range(60):
        (folder / "images/train" / f"9{number}.png").write_bytes(b"junk")
    with pytest.raises(DataError, match="20 or more of 67 scenes cannot be used"):
        load_clevrtex(fields())


@pytest.mark.parametrize("path", ["nowhere", "empty", "scenes.zip", "scenes.npz"])
def test_unusable_paths(tmp_path, path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "scenes.zip").write_bytes(b"PK")
    (tmp_path / "scenes.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=path) as caught:
        load_clevrtex(ClevrtexData(path=str(tmp_path / path), cache_dir=str(tmp_path / "cache")))
    assert str(caught.value).count("\n") <= 1
    assert not (tmp_path / "cache").exists() or caches(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 4}, r"image_size must be an integer in \[8, 1024\], not 4"),
        ({"image_size": True}, "image_size must be an integer"),
        ({"max_objects": 256}, r"max_objects must be an integer in \[1, 255\]"),
        ({"min_objects": 0}, "min_objects must be"),
        ({"max_objects_drawn": 11}, r"max_objects_drawn must be an integer in \[1, 10\]"),
        ({"min_objects": 5, "max_objects_drawn": 4}, "min_objects <= max_objects_drawn <= max_objects"),
        ({"max_objects": 6}, "min_objects <= max_objects_drawn <= max_objects, not 3, 10, 6"),
        ({"centre_crop": 0}, "centre_crop must be above 0"),
        ({"centre_crop": 1.5}, r"centre_crop must be a number in \[0, 1\]"),
        ({"centre_crop": "0.8"}, "centre_crop must be a number"),
        ({"val_fraction": 0.6, "test_fraction": 0.5}, "leave no train"),
        ({"test_fraction": float("nan")}, "test_fraction must be"),
        ({"too_many": "drop"}, "too_many must be one of refuse, skip, not 'drop'"),
        ({"missing_masks": "ignore"}, "missing_masks must be one of refuse, skip, allow"),
        ({"bad_files": "ignore"}, "bad_files must be one of refuse, skip"),
        ({"mask_coding": "rgb"}, "mask_coding must be one of auto, index, colour"),
        ({"difficulty": "easy"}, "difficulty must be one of plain, textured, hard"),
        ({"num_train": 0, "num_val": 0, "num_test": 0}, "nothing to draw"),
        ({"seed": -1}, "seed must be"),
        ({"path": 3}, "path must be a path or null"),
    ],
)
def test_wrong_fields_name_field_and_range(changes, message):
    with pytest.raises(ValueError, match=message):
        ClevrtexData(**changes)
