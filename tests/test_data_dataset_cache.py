"""A cache is complete for its description, or not there, whatever happens while it is built."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, load_from_disk

from data import dataset_cache
from data.dataset_cache import MANIFEST, built, is_valid, source_of


def write(text):
    def build(staging: Path) -> None:
        (staging / "sub").mkdir()
        (staging / "sub/data").write_text(text)

    return build


def never(staging):
    raise AssertionError("built again")


def leftovers(folder):
    """What lies beside the cache, the lock file aside."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_built_once(tmp_path):
    folder = tmp_path / "deep/cache"
    assert built(folder, {"v": 1}, write("one")) == folder
    assert built(folder, {"v": 1}, never) == folder
    assert (folder / "sub/data").read_text() == "one"
    assert leftovers(folder.parent) == ["cache"]


def test_another_description_replaces_it(tmp_path):
    folder = tmp_path / "cache"
    built(folder, {"v": 1}, write("one"))
    built(folder, {"v": 2}, write("two"))
    assert (folder / "sub/data").read_text() == "two"
    assert not is_valid(folder, {"v": 1})
    assert leftovers(tmp_path) == ["cache"]


@pytest.mark.parametrize("damage", ["truncated", "missing", "added", "no manifest", "half a manifest", "list manifest"])
def test_a_damaged_cache_is_built_again(tmp_path, damage):
    folder = tmp_path / "cache"
    built(folder, {"v": 1}, write("one"))
    data, manifest = folder / "sub/data", folder / MANIFEST
    {
        "truncated": lambda: data.write_text("on"),
        "missing": data.unlink,
        "added": lambda: (folder / "more").write_text("x"),
        "no manifest": manifest.unlink,
        "half a manifest": lambda: manifest.write_text(manifest.read_text()[:20]),
        "list manifest": lambda: manifest.write_text("[1]"),
    }[damage]()
    built(folder, {"v": 1}, write("again"))
    assert data.read_text() == "again"
    assert leftovers(tmp_path) == ["cache"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError("x")]
)
def test_an_exception_leaves_nothing_new(tmp_path, error):
    folder = tmp_path / "cache"

    def build(staging):
        write("half")(staging)
        raise error

    with pytest.raises(type(error)):
        built(folder, {"v": 1}, build)
    assert leftovers(tmp_path) == []
    built(folder, {"v": 1}, write("old"))
    with pytest.raises(type(error)):
        built(folder, {"v": 2}, build)
    assert is_valid(folder, {"v": 1})
    assert leftovers(tmp_path) == ["cache"]


def test_no_space_for_the_manifest(tmp_path, monkeypatch):
    def full(folder, description):
        (folder / MANIFEST).write_text("{")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(dataset_cache, "_seal", full)
    with pytest.raises(OSError, match="No space left"):
        built(tmp_path / "cache", {"v": 1}, write("one"))
    assert leftovers(tmp_path) == []


SLOW_BUILD = """
import sys, time
from pathlib import Path
from data.dataset_cache import built
def build(staging):
    (staging / "data").write_text("half")
    Path(sys.argv[1], "started").touch()
    time.sleep(60)
built(Path(sys.argv[1], "cache"), {"v": 1}, build)
"""


def test_a_killed_build_is_not_taken_for_a_cache(tmp_path):
    root = Path(__file__).resolve().parents[1]
    process = subprocess.Popen([sys.executable, "-c", SLOW_BUILD, str(tmp_path)], cwd=root)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "started").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert (tmp_path / "cache.building/data").read_text() == "half"
    assert not is_valid(tmp_path / "cache", {"v": 1})
    built(tmp_path / "cache", {"v": 1}, write("whole"))
    assert (tmp_path / "cache/sub/data").read_text() == "whole"
    assert leftovers(tmp_path) == ["cache", "started"]


def _build_and_count(folder, ready):
    def build(staging):
        with (folder.parent / "builds").open("a") as log:
            log.write("x")
        time.sleep(0.3)
        (staging / "data").write_text("whole")

    ready.wait()
    built(folder, {"v": 1}, build)
    assert (folder / "data").read_text() == "whole"


def test_processes_at_once_build_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(2)
    processes = [context.Process(target=_build_and_count, args=(tmp_path / "cache", ready)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "builds").read_text() == "x"
    assert leftovers(tmp_path) == ["builds", "cache"]


def test_splits_know_what_their_cache_was_built_from(tmp_path):
    splits = DatasetDict(val=Dataset.from_dict({"id": list(range(9))}))
    assert source_of(splits) is None
    for files in ("one", "another"):
        description = {"version": 1, "fields": {"image_size": 8}, "source": {"listing": files}}
        folder = built(tmp_path / "cache", description, lambda staging: splits.save_to_disk(str(staging / "splits")))
        found = load_from_disk(str(folder / "splits"))
        assert source_of(found) == source_of({"val": found["val"].select([3, 1])})
        assert source_of(found) == {"version": 1, "source": {"listing": files}}
