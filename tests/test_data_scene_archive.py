"""Scenes in one .npz file: what is read, what is refused, and that nothing in it is executed."""

import io
import zipfile

import numpy as np
import pytest

from data.clevrtex import ClevrtexData, load_clevrtex, masks_of, pixels_of
from data.image_folder import DataError
from data.scene_archive import read_archive


def archive(path, **changes):
    """Three scenes of 20x20; an array is left out where it is None."""
    rng = np.random.default_rng(0)
    stored = {
        "image": rng.integers(0, 256, (3, 20, 20, 3), dtype=np.uint8),
        "mask": rng.integers(0, 5, (3, 20, 20), dtype=np.uint8),
        "predicted_mask": rng.integers(0, 21, (3, 20, 20), dtype=np.uint8),
        "index": np.array([5, 900, 7]),
    }
    np.savez(path, **{name: values for name, values in (stored | changes).items() if values is not None})
    return stored


def test_what_is_read(tmp_path):
    stored = archive(tmp_path / "scenes.npz")
    found = read_archive(tmp_path / "scenes.npz")
    for name in ("image", "mask", "predicted_mask"):
        np.testing.assert_array_equal(getattr(found, name), stored[name])
    assert found.ids == [5, 900, 7]


@pytest.mark.parametrize(
    "index",
    [
        None,
        np.array([1, 1, 2]),
        np.array([0.5, 1.5, 2.5]),
        np.array([1, 2]),
        np.array([-1, 0, 1]),
        np.array([2**40, 0, 1]),
        np.array([2**64 - 5, 7, 8], dtype=np.uint64),
    ],
)
def test_without_a_usable_index_the_ids_are_positions(tmp_path, index):
    archive(tmp_path / "scenes.npz", index=index, mask=None, predicted_mask=None)
    found = read_archive(tmp_path / "scenes.npz")
    assert found.ids == [0, 1, 2]
    assert found.mask is None
    assert found.predicted_mask is None


def test_an_archive_is_an_evaluation_set(tmp_path):
    stored = archive(tmp_path / "scenes.npz")
    fields = ClevrtexData(path=str(tmp_path / "scenes.npz"), image_size=20, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(DataError, match="has no train split, only val"):
        load_clevrtex(fields)
    rows = load_clevrtex(fields, need=("val",))["val"]
    np.testing.assert_array_equal(pixels_of(rows[:]), stored["image"])
    np.testing.assert_array_equal(masks_of(rows[:]), stored["mask"])
    np.testing.assert_array_equal(masks_of(rows[:], "predicted_mask"), stored["predicted_mask"])
    assert rows["id"][:] == [5, 900, 7]
    assert rows["path"][1] == "scenes.npz/1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "the array image is missing"),
        ({"image": np.zeros((3, 20, 20, 3))}, r"the array image is float64 \[3, 20, 20, 3\]"),
        ({"mask": np.zeros((3, 20, 21), dtype=int)}, r"the array mask is int64 \[3, 20, 21\]"),
        ({"predicted_mask": np.zeros((3, 20, 20))}, "the array predicted_mask is float64"),
        ({"mask": np.array([{}] * 3)}, "not a readable .npz file of plain arrays"),
        ({"mask": np.full((3, 20, 20), 11)}, "scenes.npz/0: mask has ids from 11 to 11"),
        ({"mask": None}, "scenes.npz/0: no mask"),
        (
            {"mask": np.full((3, 20, 20), 2**32 + 1)},
            "the array mask has ids from 4294967297 to 4294967297, outside 0 to",
        ),
        ({"predicted_mask": np.full((3, 20, 20), -1)}, "the array predicted_mask has ids from -1 to -1"),
    ],
)
def test_archives_that_cannot_be_used(tmp_path, changes, message):
    archive(tmp_path / "scenes.npz", **changes)
    fields = ClevrtexData(path=str(tmp_path / "scenes.npz"), image_size=20, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(DataError, match=message):
        load_clevrtex(fields, need=("val",))


def test_an_archive_is_bounded(tmp_path, monkeypatch):
    archive(tmp_path / "scenes.npz")
    monkeypatch.setattr("data.scene_archive.MAX_ARCHIVE_BYTES", 1000)
    fields = ClevrtexData(path=str(tmp_path / "scenes.npz"), cache_dir=str(tmp_path / "cache"))
    with pytest.raises(DataError, match="unpacks to"):
        load_clevrtex(fields, need=("val",))


def test_an_array_that_claims_more_than_the_archive_holds_is_refused_before_it_is_allocated(tmp_path):
    header = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (2**21, 64, 64, 3)}
    np.lib.format.write_array_header_1_0(header, shape)
    with zipfile.ZipFile(tmp_path / "scenes.npz", "w") as members:
        members.writestr("image.npy", header.getvalue())
    with pytest.raises(DataError, match="unpacks to 24576 MiB, more than 4096"):
        read_archive(tmp_path / "scenes.npz")
