"""Rows to splits on disk."""

import os

import pytest
from datasets import DatasetDict, Features, Value

from data.split_store import save_splits, write_rows

FEATURES = Features(number=Value("int64"), blob=Value("large_binary"))


def test_rows_reach_their_splits_in_order(tmp_path):
    rows = [{"number": k, "blob": bytes([k]) if k % 2 else None} for k in range(9)]
    everything = write_rows(lambda: rows, FEATURES, 10, tmp_path)
    save_splits(everything, ["val", "train", ""] * 3, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["splits"]
    dataset = DatasetDict.load_from_disk(str(tmp_path / "splits"))
    assert list(dataset) == ["train", "val"]
    assert dataset["train"]["number"][:] == [1, 4, 7]
    assert dataset["val"]["blob"][:] == [None, b"\x03", None]
    assert dataset["train"].features == FEATURES


def test_the_cause_of_a_failure_is_what_is_raised(tmp_path):
    def rows():
        yield {"number": 1, "blob": b""}
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_rows(rows, FEATURES, 10, tmp_path)


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_shards_are_written_by_several_processes_in_their_order(tmp_path, monkeypatch, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores), raising=False)

    def rows(shards):
        for shard in shards:
            for k in shard:
                yield {"number": k, "blob": str(os.getpid()).encode()}

    everything = write_rows(rows, FEATURES, 10, tmp_path, [range(k, k + 3) for k in range(0, 15, 3)])
    assert everything["number"][:] == list(range(15))
    assert len(set(everything["blob"])) == cores
    save_splits(everything, ["train"] * 15, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["splits"]


def test_the_cause_of_a_failure_in_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(2), raising=False)

    def rows(shards):
        yield {"number": 1, "blob": b""}
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_rows(rows, FEATURES, 10, tmp_path, [1, 2, 3])
