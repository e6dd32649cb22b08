"""Finding files and classes, carving splits, unpacking archives."""

import io
import os
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import image_folder
from data.image_folder import DataError, ImageFile, assign_splits, extract_tar, find_root, list_images, natural_key


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


@given(st.lists(st.integers(0, 10**9), min_size=2, unique=True))
def test_natural_sort_is_numeric(numbers):
    assert sorted((f"class{n}" for n in numbers), key=natural_key) == [f"class{n}" for n in sorted(numbers)]


def test_links_inside_a_class_are_followed_and_names_are_utf_8(tmp_path):
    touch(tmp_path / "elsewhere", "3.png", "4.png")
    touch(tmp_path / "birds", "a/1.png", "b/2.png")
    (tmp_path / "birds" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "elsewhere")
    _, classes, files = list_images(tmp_path / "birds")
    assert classes == ["a", "b"]
    assert [file.path for file in files] == ["a/1.png", "a/more/3.png", "a/more/4.png", "b/2.png"]
    touch(tmp_path / "birds", os.fsdecode(b"b/caf\xe9.png"))
    with pytest.raises(DataError, match=r"caf.udce9.png' is not UTF-8: rename it"):
        list_images(tmp_path / "birds")


def test_natural_sort_of_mixed_names():
    names = ["b", "A10", "a2", "10", "9", "a", "a2b"]
    assert sorted(names, key=natural_key) == ["9", "10", "a", "a2", "a2b", "A10", "b"]


@given(st.lists(st.text(max_size=8), max_size=6))
def test_natural_sort_orders_any_names_the_same_way(names):
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == sorted(backwards, key=natural_key)


def test_flat_class_folders(tmp_path):
    root, names, files = list_images(touch(tmp_path, "c10/a.jpg", "c2/deep/b.png", "c2/a10.jpg", "c2/a9.jpg"))
    assert root == tmp_path
    assert names == ["c2", "c10"]
    assert [file.path for file in files] == ["c2/a9.jpg", "c2/a10.jpg", "c2/deep/b.png", "c10/a.jpg"]
    assert {file.split for file in files} == {None}


def test_a_test_folder_that_comes_later_leaves_the_places_of_the_others(tmp_path):
    _, _, before = list_images(touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg", "val/b/4.jpg"))
    _, _, after = list_images(touch(tmp_path, "test/a/5.jpg", "test/b/6.jpg"))
    assert [file.path for file in after[:4]] == [file.path for file in before]
    assert [file.split for file in after] == ["train", "train", "val", "val", "test", "test"]


@pytest.mark.parametrize("val_name", ["val", "valid", "validation", "Val"])
def test_split_folders_below_a_wrapping_one(tmp_path, val_name):
    touch(tmp_path, "wrap/train/a/1.jpg", "wrap/train/b/1.jpg", f"wrap/{val_name}/b/1.jpg")
    root, names, files = list_images(tmp_path)
    assert root == tmp_path / "wrap"
    assert names == ["a", "b"]
    assert [(file.split, file.class_name) for file in files] == [("train", "a"), ("train", "b"), ("val", "b")]


def test_training_and_testing_are_splits_and_no_classes(tmp_path):
    _, names, files = list_images(touch(tmp_path, *(f"{s}/{c}/1.jpg" for s in ("training", "testing") for c in "ab")))
    assert names == ["a", "b"] and [file.split for file in files] == ["train", "train", "test", "test"]


@pytest.mark.parametrize("place", ["", "train/"])
def test_pictures_of_no_class_are_named(tmp_path, place):
    touch(tmp_path, f"{place}a/1.jpg", f"{place}b/1.jpg", f"{place}labels.csv")
    assert list_images(tmp_path)[1] == ["a", "b"]
    touch(tmp_path, f"{place}2.PNG", f"{place}3.jpg")
    with pytest.raises(DataError, match=r"holds 2 pictures beside its class folders, of no class: move 2.PNG and"):
        list_images(tmp_path)


def test_a_lone_train_folder_is_not_a_wrapper(tmp_path):
    assert find_root(touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg")) == tmp_path


def test_hidden_files_are_passed_over(tmp_path):
    touch(tmp_path, "a/1.jpg", "a/.DS_Store", "a/._1.jpg", "b/1.jpg", ".git/c/1.jpg")
    assert [file.path for file in list_images(tmp_path)[2]] == ["a/1.jpg", "b/1.jpg"]


@pytest.mark.parametrize(
    ("paths", "folders", "message"),
    [
        ([], [], "holds no class folder"),
        (["a/1.jpg", "b/1.jpg"], ["c"], "class folder .*c holds no file"),
        (["a/1.jpg"], [], "only the class 'a'"),
        (["train/a/1", "train/b/1"], ["val"], "val holds no class folder"),
        (["train/a/1", "train/b/1", "val/a/1", "val/c/1"], [], "1 class folders that train has not: c"),
        (["train/a/1", "train/b/1", "val/a/1", "valid/a/1"], [], "holds both"),
    ],
)
def test_unusable_folders(tmp_path, paths, folders, message):
    touch(tmp_path, *paths)
    for folder in folders:
        (tmp_path / folder).mkdir()
    with pytest.raises(DataError, match=message) as caught:
        list_images(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert str(caught.value).count("\n") <= 1


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match=r"no data folder at .*nowhere"):
        list_images(tmp_path / "nowhere")


def make_files(counts, split=None):
    prefix = f"{split}/" if split else ""
    return [
        ImageFile(f"{prefix}{name}/{i}.jpg", name, split, 1, 1) for name, count in counts.items() for i in range(count)
    ]


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(6, 60), min_size=2),
    st.floats(0, 0.4),
    st.floats(0, 0.4),
    st.integers(0, 100),
)
def test_carved_splits_are_stratified_and_complete(counts, val_fraction, test_fraction, seed):
    files = make_files(counts)
    splits = assign_splits(files, val_fraction, test_fraction, seed)
    assert set(splits) == {file.path for file in files}
    for name, count in counts.items():
        got = [splits[file.path] for file in files if file.class_name == name]
        for split, fraction in (("val", val_fraction), ("test", test_fraction)):
            assert got.count(split) == (max(1, round(fraction * count)) if fraction else 0)
        assert got.count("train") >= 1


def test_split_depends_on_the_seed_and_hardly_on_other_files():
    files = make_files({"a": 100, "b": 100})
    first = assign_splits(files, 0.2, 0.1, seed=0)
    assert first == assign_splits(files[::-1], 0.2, 0.1, seed=0)
    assert first != assign_splits(files, 0.2, 0.1, seed=1)
    more = assign_splits([*files, ImageFile("a/new.jpg", "a", None, 1, 1)], 0.2, 0.1, seed=0)
    assert sum(more[path] != split for path, split in first.items()) <= 2


def test_folders_decide_and_only_missing_splits_are_carved_from_train():
    files = make_files({"a": 10, "b": 10}, "train") + make_files({"a": 3, "b": 3}, "test")
    splits = assign_splits(files, 0.2, 0.5, seed=0)
    assert [splits[file.path] for file in files[20:]] == ["test"] * 6
    assert sorted(splits.values()) == ["test"] * 6 + ["train"] * 16 + ["val"] * 4


def test_nothing_is_carved_where_there_is_no_train_folder():
    assert set(assign_splits(make_files({"a": 4, "b": 4}, "test"), 0.5, 0.0, 0).values()) == {"test"}


def test_a_class_too_small_to_carve_from():
    with pytest.raises(DataError, match="class 'b' has 1 images, too few"):
        assign_splits(make_files({"a": 10, "b": 1}), 0.2, 0.0, 0)


def pack(path, *members):
    """members: (name, content) or a TarInfo."""
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_unpacking(tmp_path):
    extract_tar(pack(tmp_path / "d.tar", ("a/1.jpg", b"one"), ("b/2.jpg", b"two")), tmp_path / "out")
    assert (tmp_path / "out/a/1.jpg").read_bytes() == b"one"
    assert (tmp_path / "out/b/2.jpg").read_bytes() == b"two"


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (("../escaped.jpg", b"x"), "unsafe member"),
        (("a/../../escaped.jpg", b"x"), "unsafe member"),
        (special("a/link", tarfile.SYMTYPE, "/etc/passwd"), "holds the link 'a/link'"),
        (special("a/hard", tarfile.LNKTYPE, "a/1.jpg"), "holds the link 'a/hard'"),
        (special("a/pipe", tarfile.FIFOTYPE), "neither file nor folder"),
        (special("a/device", tarfile.CHRTYPE), "neither file nor folder"),
    ],
)
def test_unsafe_archives_are_refused(tmp_path, member, message):
    with pytest.raises(DataError, match=message):
        extract_tar(pack(tmp_path / "d.tar", ("a/1.jpg", b"x"), member), tmp_path / "in/out")
    assert not list(tmp_path.rglob("escaped.jpg"))


def test_an_absolute_member_stays_inside(tmp_path):
    extract_tar(pack(tmp_path / "d.tar", (f"{tmp_path}/absolute.jpg", b"x")), tmp_path / "out")
    assert not (tmp_path / "absolute.jpg").exists()
    assert len(list((tmp_path / "out").rglob("absolute.jpg"))) == 1


@pytest.mark.parametrize(("limit", "value"), [("MAX_TAR_BYTES", 5), ("MAX_TAR_MEMBERS", 1)])
def test_the_size_of_an_archive_is_bounded(tmp_path, monkeypatch, limit, value):
    monkeypatch.setattr(image_folder, limit, value)
    with pytest.raises(DataError, match="unpacks to more than"):
        extract_tar(pack(tmp_path / "d.tar", ("a/1.jpg", b"1234"), ("a/2.jpg", b"1234")), tmp_path / "out")


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_damaged_archives(tmp_path, suffix):
    path = tmp_path / f"d.{suffix}"
    with tarfile.open(path, "w:gz" if suffix.endswith("gz") else "w") as tar:
        info = tarfile.TarInfo("a/1.jpg")
        info.size = 50_000
        tar.addfile(info, io.BytesIO(bytes(i * i % 251 for i in range(50_000))))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="not a readable tar file"):
        extract_tar(path, tmp_path / "out")
    path.write_bytes(b"not an archive at all")
    with pytest.raises(DataError, match="not a readable tar file"):
        extract_tar(path, tmp_path / "out2")
