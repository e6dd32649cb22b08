"""Layouts of pictures and masks, their splits and ids."""

from pathlib import Path

import pytest

from data.image_folder import DataError
from data.scene_folder import list_scenes, scene_ids, split_scenes


def tree(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def listed(root):
    """{image: (mask, metadata, split)} and the orphans."""
    scenes, orphans = list_scenes(root)
    return {
        scene.image.path: (
            scene.mask and scene.mask.path,
            scene.metadata and scene.metadata.path,
            scene.split,
        )
        for scene in scenes
    }, orphans


def test_the_courses_layout(tmp_path):
    names = ["CLEVRTEX_full_000000.png", "CLEVRTEX_full_000001.png"]
    paths = [f"{role}/{split}/{name}" for role in ("images", "masks") for split in ("train", "val") for name in names]
    found, orphans = listed(tree(tmp_path, *paths))
    assert orphans == []
    assert found == {
        f"images/{split}/{name}": (f"masks/{split}/{name}", None, split) for split in ("train", "val") for name in names
    }
    assert list(found) == sorted(found)


def test_masks_with_an_ending_of_their_own(tmp_path):
    found, _ = listed(tree(tmp_path, "images/val/a.jpg", "masks/val/a_flat.png", "images/val/b.jpg", "masks/val/b.png"))
    assert found == {
        "images/val/a.jpg": ("masks/val/a_flat.png", None, "val"),
        "images/val/b.jpg": ("masks/val/b.png", None, "val"),
    }


def test_the_original_release(tmp_path):
    names = [f"clevrtex_full/{k // 1000}/CLEVRTEX_full_{k:06d}" for k in (0, 7, 999, 1000, 12345)]
    paths = [name + ending for name in names for ending in (".png", "_flat.png", ".json", "_depth.png", "_normal.exr")]
    found, orphans = listed(tree(tmp_path, *paths, "clevrtex_full/README.md"))
    assert orphans == []
    assert found == {f"{name}.png": (f"{name}_flat.png", f"{name}.json", None) for name in names}


@pytest.mark.parametrize(
    "paths",
    [
        ["a.png", "b.png", "masks/a.png", "masks/b.png"],
        ["images/a.png", "images/b.png", "masks/a.png", "masks/b.png"],
        ["Images/a.png", "Images/b.webp", "Masks/a.png", "Masks/b.png"],
        ["a.png", "b.png", "a_mask.png", "b_mask.png"],
        ["wrap/a.png", "wrap/b.png", "wrap/a_flat.png", "wrap/b_flat.png"],
    ],
)
def test_flat_folders(tmp_path, paths):
    found, orphans = listed(tree(tmp_path, *paths, ".hidden/c.png", ".DS_Store", "notes.txt"))
    assert orphans == []
    assert list(found) == paths[:2]
    assert [mask for mask, _, _ in found.values()] == paths[2:]


def test_splits_above_images_and_masks(tmp_path):
    paths = ["train/images/a.png", "train/masks/a.png", "validation/images/a.png", "validation/masks/a.png"]
    found, _ = listed(tree(tmp_path, *paths))
    assert found == {paths[0]: (paths[1], None, "train"), paths[2]: (paths[3], None, "val")}


def test_pictures_alone_and_masks_alone(tmp_path):
    found, orphans = listed(tree(tmp_path, "images/a.png", "masks/b.png", "masks/c.png"))
    assert found == {"images/a.png": (None, None, None)}
    assert orphans == ["masks/b.png", "masks/c.png"]


def test_a_mask_of_another_split_is_no_mask(tmp_path):
    found, orphans = listed(tree(tmp_path, "images/train/a.png", "masks/val/a.png"))
    assert found == {"images/train/a.png": (None, None, "train")}
    assert orphans == ["masks/val/a.png"]


def test_natural_order(tmp_path):
    found, _ = listed(tree(tmp_path, *[f"{k}.png" for k in (10, 2, 1, 100)]))
    assert list(found) == ["1.png", "2.png", "10.png", "100.png"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["masks/a.png", "x.txt"], "holds no picture"),
        (["a.png", "a.jpg"], "are both the image of 'a'"),
        (["a.png", "a_flat.png", "masks/a.png"], "are both the mask of 'a'"),
        (["images/a.png", "labels/a.png"], "1 pictures lie outside the folders called images, such as labels/a.png"),
        (["images/train/a.png", "images/b.png"], "1 pictures lie outside the split folders, such as images/b.png"),
    ],
)
def test_layouts_that_cannot_be_understood(tmp_path, paths, message):
    with pytest.raises(DataError, match=message):
        list_scenes(tree(tmp_path, *paths))


def test_links_to_folders_are_followed_once(tmp_path):
    tree(tmp_path / "elsewhere", "pictures/1.png", "labels/1.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").symlink_to(tmp_path / "elsewhere" / "pictures")
    (tmp_path / "data" / "masks").symlink_to(tmp_path / "elsewhere" / "labels")
    (tmp_path / "elsewhere" / "pictures" / "back").symlink_to(tmp_path / "data")
    assert listed(tmp_path / "data") == ({"images/1.png": ("masks/1.png", None, None)}, [])


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"no data folder at .*nowhere"):
        list_scenes(tmp_path / "nowhere")


def test_ids_are_the_numbers_of_the_names():
    assert scene_ids(["0/CLEVRTEX_full_000246", "5/CLEVRTEX_full_005225"]) == [246, 5225]
    assert scene_ids(["a7", "b7"]) == [0, 1]  # not unique
    assert scene_ids(["a1", "b"]) == [0, 1]  # not all
    assert scene_ids(["1" * 30, "2" * 30]) == [0, 1]  # not 64 bits
    assert scene_ids([f"a{2**40 - 1}", "a3"]) == [2**40 - 1, 3]
    assert scene_ids([f"a{2**40}", "a3"]) == [0, 1]  # not 40 bits, which draws have for them
    assert scene_ids(["1763846284123", "1763846284999"]) == [0, 1]  # milliseconds


def splits_of(tmp_path, names, val=0.2, test=0.0, seed=0):
    scenes, _ = list_scenes(tree(tmp_path, *names))
    assigned = split_scenes(scenes, val, test, seed)
    return {Path(scene.image.path).stem: split for scene, split in zip(scenes, assigned, strict=True)}


def test_the_published_split_of_the_original_release(tmp_path):
    """First tenth test, second tenth val, by rank of the number; `outd` is test; other fractions change nothing."""
    names = [f"CLEVRTEX_full_{3 * k:06d}.png" for k in range(25)] + [f"CLEVRTEX_outd_{k:06d}.png" for k in range(3)]
    found = splits_of(tmp_path, names, val=0.5, test=0.3)
    full = [found[f"CLEVRTEX_full_{3 * k:06d}"] for k in range(25)]
    assert full == ["test"] * 2 + ["val"] * 3 + ["train"] * 20
    assert {found[f"CLEVRTEX_outd_{k:06d}"] for k in range(3)} == {"test"}


def test_other_pictures_are_carved(tmp_path):
    names = [f"{k}.png" for k in range(40)]
    found = splits_of(tmp_path, names, val=0.25, test=0.1)
    assert sorted(found.values()) == ["test"] * 4 + ["train"] * 26 + ["val"] * 10
    assert splits_of(tmp_path, names, val=0.25, test=0.1) == found
    assert splits_of(tmp_path, names, val=0.25, test=0.1, seed=1) != found
    assert set(splits_of(tmp_path, names, val=1).values()) == {"val"}
    with pytest.raises(DataError, match=r"^too few pictures \(1\) to carve val_fraction 0.2 and test_fraction 0.0"):
        splits_of(tmp_path / "one", ["0.png"])
