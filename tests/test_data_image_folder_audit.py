"""Duplicates, leakage, counts."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from data.image_decoding import THUMBNAIL, ImageRecord, inspect
from data.image_folder_audit import HASH_BITS, THUMBNAIL_RMS, AuditReport, examine, near_pairs, to_drop


def scene(seed, size=96):
    """A smooth random picture, as photographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def slow_near_pairs(hashes_a, thumbnails_a, hashes_b, thumbnails_b):
    """The definition, pair by pair."""
    found = []
    for i in range(len(hashes_a)):
        for j in range(len(hashes_b)):
            a, b = thumbnails_a[i].astype(float), thumbnails_b[j].astype(float)
            if min(a.std(), b.std()) < 4 or bin(int(hashes_a[i]) ^ int(hashes_b[j])).count("1") > HASH_BITS:
                continue
            rms = (((a - a.mean()) / a.std() - (b - b.mean()) / b.std()) ** 2).mean() ** 0.5
            if rms < THUMBNAIL_RMS:
                found.append((i, j))
    return found


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 12), st.integers(1, 12))
def test_near_pairs_equal_the_definition(seed, num_a, num_b):
    rng = np.random.default_rng(seed)
    originals = rng.integers(0, 256, (4, THUMBNAIL, THUMBNAIL, 3))
    noise = rng.integers(-60, 60, (num_a + num_b, THUMBNAIL, THUMBNAIL, 3)) * rng.integers(
        0, 2, (num_a + num_b, 1, 1, 1)
    )
    thumbnails = np.clip(originals[rng.integers(0, 4, num_a + num_b)] + noise, 0, 255).astype(np.uint8)
    flips = (np.uint64(1) << rng.integers(0, 64, (num_a + num_b, 10)).astype(np.uint64)) * rng.integers(
        0, 2, (num_a + num_b, 10)
    ).astype(np.uint64)
    hashes = np.bitwise_xor.reduce(flips, axis=1)
    a, b = slice(0, num_a), slice(num_a, None)
    got = near_pairs(hashes[a], thumbnails[a], hashes[b], thumbnails[b])
    assert sorted(map(tuple, got.tolist())) == slow_near_pairs(hashes[a], thumbnails[a], hashes[b], thumbnails[b])


def test_near_search_over_20_million_pairs_finds_the_planted_ones():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 22_000, dtype=np.uint64)
    thumbnails = rng.integers(0, 256, (22_000, THUMBNAIL, THUMBNAIL, 3), dtype=np.uint8)
    for i in (0, 500, 999):
        hashes[i], thumbnails[i] = hashes[1000 + i] ^ np.uint64(0b101), thumbnails[1000 + i]
    got = near_pairs(hashes[:1000], thumbnails[:1000], hashes[1000:], thumbnails[1000:])
    assert got.tolist() == [[0, 0], [500, 500], [999, 999]]


CHANGES = {
    "recoded": lambda image, path: image.save(path, quality=60),
    "smaller": lambda image, path: image.resize((60, 60)).save(path, quality=90),
    "brighter": lambda image, path: ImageEnhance.Brightness(image).enhance(1.15).save(path, quality=90),
    "slightly-cropped": lambda image, path: image.crop((1, 1, 95, 95)).save(path, quality=90),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_another_picture_is_not(tmp_path, change):
    scene(0).save(tmp_path / "original.png")
    CHANGES[change](scene(0), tmp_path / "copy.jpg")
    scene(1).save(tmp_path / "other.png")
    records = [inspect(tmp_path, name)[0] for name in ("original.png", "copy.jpg", "other.png")]
    splits = {"original.png": "train", "copy.jpg": "val", "other.png": "val"}
    report = examine(records, splits, dict.fromkeys(splits, "a"))
    assert report.near_across == [["copy.jpg", "original.png"]]
    assert report.exact_across == []


def test_blank_pictures_resemble_nothing(tmp_path):
    Image.new("RGB", (30, 30), "white").save(tmp_path / "a.png")
    Image.new("RGB", (40, 40), "white").save(tmp_path / "b.png")
    records = [inspect(tmp_path, name)[0] for name in ("a.png", "b.png")]
    assert examine(records, {"a.png": "train", "b.png": "val"}, dict.fromkeys(("a.png", "b.png"), "x")).leaks == []


def record(path, content, error=""):
    rng = np.random.default_rng(zlib.crc32(content.encode()))
    thumbnail = rng.integers(0, 256, THUMBNAIL * THUMBNAIL * 3, dtype=np.uint8).tobytes()
    return ImageRecord(path, 10, 20, "RGB", error, content, int(rng.integers(2**63)), thumbnail)


def small_set():
    table = [
        ("train/a/1", "A"), ("train/a/2", "A"), ("val/a/1", "A"), ("test/b/1", "A"),
        ("train/b/1", "B"), ("val/b/1", "C"), ("test/b/2", "C"),
    ]  # fmt: skip
    records = [record(path, content) for path, content in table] + [record("val/b/bad", "", "empty (0 bytes)")]
    splits = {entry.path: entry.path.split("/")[0] for entry in records}
    labels = {entry.path: entry.path.split("/")[1] for entry in records}
    return records, splits, labels


def test_exact_duplicates_within_across_and_under_two_classes():
    report = examine(*small_set())
    assert report.exact_within == [["train/a/1", "train/a/2"]]
    assert report.exact_across == [
        ["train/a/1", "val/a/1"],
        ["train/a/2", "val/a/1"],
        ["train/a/1", "test/b/1"],
        ["train/a/2", "test/b/1"],
        ["val/a/1", "test/b/1"],
        ["val/b/1", "test/b/2"],
    ]
    assert report.conflicting == [["train/a/1", "test/b/1"], ["train/a/2", "test/b/1"], ["val/a/1", "test/b/1"]]
    assert report.near_across == []


def test_dropping_leaves_no_pair_across():
    records, splits, labels = small_set()
    report = examine(records, splits, labels)
    dropped = to_drop(report.leaks, splits)
    assert dropped == {"train/a/1", "train/a/2", "test/b/1", "test/b/2"}
    rest = [entry for entry in records if entry.path not in dropped]
    assert examine(rest, splits, labels).leaks == []


def test_counts_notes_and_bad_files():
    report = examine(*small_set())
    assert report.class_counts == {"train": {"a": 2, "b": 1}, "val": {"a": 1, "b": 1}, "test": {"a": 0, "b": 2}}
    assert report.bad_files == [{"path": "val/b/bad", "reason": "empty (0 bytes)"}]
    assert report.notes == ["test has no image of 1 classes: a"]
    assert report.width_range == [10, 10, 10]
    assert report.num_images == 7


def test_report_prints_few_lines_and_survives_the_disk(tmp_path):
    report = examine(*small_set())
    report.dropped = ["ü/1"]
    report.save(tmp_path / "audit.json")
    assert AuditReport.load(tmp_path / "audit.json") == report
    text = str(report)
    assert "7 images, 2 classes: train 3, val 2, test 2" in text
    assert "val/b/bad: empty (0 bytes)" in text
    assert "6 exact" in text
    assert text.count("\n") < 15


def test_report_of_nothing():
    assert "0 images" in str(AuditReport())


def test_pictures_that_all_look_alike_are_compared_a_few_pairs_at_a_time(monkeypatch):
    hashes = np.zeros(60, dtype=np.uint64)
    thumbnails = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    thumbnails[30:] = thumbnails[:30]
    monkeypatch.setattr("data.image_folder_audit.COMPARED_AT_ONCE", 7)  # 900 pairs pass by their hash
    got = near_pairs(hashes[:30], thumbnails[:30], hashes[30:], thumbnails[30:])
    assert sorted(map(tuple, got.tolist())) == [(i, i) for i in range(30)]
