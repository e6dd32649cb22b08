"""From JSON files to checked rows with groups, novelty, carved parts and lengths."""

import json
import re
from pathlib import Path

import pytest
import torch
from scene_files import caches
from transformers import TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from data import mathqa
from data.mathqa import DataError, MathQAData, load_mathqa, mask_numbers, place_of, source_of
from models.programs import execute, from_tokens, is_correct, to_tokens


def record(problem="what is 3 plus 4 ?", program="add(n0,n1)|", answer=7):
    return {"Problem": problem, "linear_formula": program, "answer": answer}


TRAIN = [
    record(),
    record("a car goes 60 km in 2 hours . find its speed .", "divide(n0,n1)", 30.0),
    record("what is 10 plus 20 ?", "add(n0,n1)", 30),
    record("what is 1.5 plus 2 ?", "add(n0,n1)", 3.5),
    record("find half of 9 .", "divide(n0,const_2)|", 4.5),
]
DEV = [record("what is 8 plus 9 ?", answer=17), record("what is 8 minus 9 ?", "subtract(n0,n1)", -1)]
TEST = [record("what is 5 minus 9 ?", "subtract(n0,n1)", -4), record("find half of 2 .", "divide(n0,const_2)", 1)]


def write(folder, **splits):
    folder.mkdir(exist_ok=True)
    for split, content in splits.items():
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / f"{split}.json").write_bytes(content)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "problems", train=TRAIN, dev=DEV, test=TEST)


@pytest.fixture
def fields(folder, tmp_path):
    def make(**changes):
        return MathQAData(**{"path": str(folder), "cache_dir": str(tmp_path / "cache"), **changes})

    return make


def error_of(*arguments, **options):
    with pytest.raises(DataError) as info:
        load_mathqa(*arguments, **options)
    return str(info.value)


def test_columns(fields):
    dataset = load_mathqa(fields(), need=("train", "val", "test"))
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 5, "val": 2, "test": 2}
    kinds = {name: feature.dtype for name, feature in dataset["val"].features.items()}
    assert kinds == {
        "id": "int64", "problem": "string", "program": "string", "answer": "float64",
        "group": "int64", "novel": "bool", "length": "int64",
    }  # fmt: skip
    assert dataset["train"]["problem"][:] == [entry["Problem"] for entry in TRAIN]
    assert dataset["train"]["program"][0] == "add(n0,n1)|"
    assert dataset["val"]["answer"][:] == [17.0, -1.0]
    assert dataset["train"]["length"][:] == [6, 13, 6, 6, 5]
    assert dataset["train"]["id"][:] == [0, 1, 2, 3, 4]
    assert dataset["val"]["id"][:] + dataset["test"]["id"][:] == [10_000_000, 10_000_001, 20_000_000, 20_000_001]


def test_groups_join_problems_that_differ_in_numbers(fields):
    dataset = load_mathqa(fields())
    assert dataset["train"]["group"][:] == [0, 1, 0, 0, 2]
    assert dataset["val"]["group"][:] == [0, 3]
    assert dataset["test"]["group"][:] == [3, 2]
    assert dataset["train"]["novel"][:] == [False] * 5
    assert dataset["val"]["novel"][:] == [False, True]
    assert dataset["test"]["novel"][:] == [True, False]  # a twin in dev is none in train


def test_novelty_is_unknown_without_train(folder, fields):
    (folder / "train.json").unlink()
    assert load_mathqa(fields(), need=("test",))["test"]["novel"][:] == [None, None]


@pytest.mark.parametrize(
    ("problem", "masked"),
    [
        ("rs . 1,500.50 at 5 %", "rs . #,# at # %"),
        ("take 3. or .5 or -2", "take # or .# or -#"),
        ("no numbers", "no numbers"),
    ],
)
def test_mask(problem, masked):
    assert mask_numbers(problem) == masked


def test_byte_order_mark(folder, fields, tmp_path):
    plain = load_mathqa(fields())
    write(folder, train=b"\xef\xbb\xbf" + (folder / "train.json").read_bytes())
    marked = load_mathqa(fields(cache_dir=str(tmp_path / "other")))
    assert marked["train"].to_dict() == plain["train"].to_dict()


def test_dev_may_be_called_val(folder, fields):
    (folder / "dev.json").rename(folder / "val.json")
    assert len(load_mathqa(fields(), need=("val",))["val"]) == 2
    write(folder, dev=DEV)
    assert "dev.json, val.json would all be the split val" in error_of(fields())


BAD = {
    "no object": ("text", "the string 'text' is no record"),
    "no problem": ({"linear_formula": "add(n0,n1)", "answer": 1}, "the key 'Problem' is missing"),
    "no program": ({"Problem": "x 1", "answer": 1}, "the key 'linear_formula' is missing"),
    "no answer": ({"Problem": "x 1", "linear_formula": "sqrt(n0)"}, "the key 'answer' is missing"),
    "problem a number": (record(problem=3), "Problem must be a string, not the number 3"),
    "program null": (record(program=None), "linear_formula must be a string, not null"),
    "empty problem": (record(problem=" \n"), "Problem is empty"),
    "answer a string": (record(answer="7"), "answer must be a number, not the string '7'"),
    "answer a list": (record(answer=[7]), "answer must be a number, not a list"),
    "answer true": (record(answer=True), "answer must be a number, not the value true"),
    "answer NaN": (record(answer=float("nan")), "answer must be a finite number"),
    "answer too large": (record(answer=10**400), "answer must be a finite number"),
    "unknown operation": (record(program="plus(n0,n1)"), "linear_formula does not parse: "),
    "unclosed": (record(program="add(n0,n1"), "linear_formula does not parse: "),
    "empty program": (record(program=""), "linear_formula does not parse: "),
    "lone surrogate": (record(problem="a \ud800 b"), "Problem is not valid UTF-8 at character 2"),
    "too long": (record(problem="word " * 600), "Problem has 600 words, more than max_source_length (512)"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_record_is_named_or_left_out(folder, fields, tmp_path, caplog, case):
    entry, reason = BAD[case]
    write(folder, train=[*TRAIN[:2], entry, *TRAIN[2:]])
    message = error_of(fields())
    assert f"train.json, record 2 (from 0): {reason}" in message
    assert len(message.splitlines()) <= 2
    assert caches(tmp_path) == []
    for _ in range(2):  # told again where the cache is used
        caplog.clear()
        rows = load_mathqa(fields(bad_records="skip"))["train"]
        assert "1 bad records left out" in caplog.text and reason in caplog.text
    assert rows["problem"][:] == [entry["Problem"] for entry in TRAIN]
    assert rows["id"][:] == [0, 1, 3, 4, 5]


def test_bytes_that_are_no_utf8(folder, fields):
    """Latin-1 in the second record of dev: the record is named, the others are read."""
    write(folder, dev=json.dumps([*DEV, record("caffe @ 3 ?")]).encode().replace(b"caffe @", b"caff\xe8 4"))
    assert "dev.json, record 2 (from 0): Problem is not valid UTF-8 at character 4" in error_of(fields())
    assert len(load_mathqa(fields(bad_records="skip"))["val"]) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'[{"Problem": "x"', "is not JSON: "),
        (b"", "is not JSON: "),
        (b'{"Problem": "x"}\n{"Problem": "y"}', "is not JSON: Extra data"),
        (b"[" * 100_000, "is not JSON: "),
        (b"[" + b"9" * 5000 + b"]", "is not JSON: "),
        (json.dumps(TRAIN).encode("utf-16"), "is not JSON: "),
        (json.dumps(TRAIN[0]).encode(), "holds an object, not a list of records"),
        (b'"text"', "holds the string 'text', not a list"),
        (b"[]", "holds no records"),
    ],
)
def test_a_file_that_is_no_list_of_records(folder, fields, content, reason):
    write(folder, dev=content)
    for bad_records in ("refuse", "skip"):
        message = error_of(fields(bad_records=bad_records))
        assert "dev.json " in message and reason in message and len(message) < 300


def test_many_bad_records_are_counted(folder, fields):
    write(folder, train=[record(answer="x")] * 9)
    message = error_of(fields())
    assert "9 bad records" in message and "and 4 more" in message
    assert "train.json has no other" in error_of(fields(bad_records="skip"))


def test_missing_folder_and_splits(folder, fields, tmp_path):
    assert "no data folder at" in error_of(fields(path=str(tmp_path / "nowhere")))
    assert "has none of train.json, dev.json and test.json" in error_of(fields(path=str(tmp_path)))
    assert "has no dev split: that one exists only with tune_size" in error_of(fields(), need=("dev",))
    (folder / "test.json").unlink()
    assert "has no test split: it needs test.json" in error_of(fields(), need=("train", "test"))
    (folder / "dev.json").unlink()
    assert "it needs dev.json, or set tune_size or dev_fraction" in error_of(fields(), need=("val",))
    assert set(load_mathqa(fields())) == {"train"}
    (folder / "train.json").rename(folder / "test.json")
    assert "no train.json to carve val from" in error_of(fields(tune_size=2), need=("test",))
    assert caches(tmp_path) and "num_dev > 0" in error_of(MathQAData(num_dev=0), need=("val",))


@pytest.fixture
def many(tmp_path):
    """120 problems of 40 texts, three of each; dev repeats some of the texts."""
    train = [record(f"thing {i % 40 * 'x'} costs {i} and {i + 1} ?") for i in range(120)]
    return write(tmp_path / "many", train=train, dev=train[:10])


def test_tune_part(fields, many):
    whole, dataset = (load_mathqa(fields(path=str(many), tune_size=size)) for size in (0, 20))
    assert list(dataset) == ["train", "val", "dev"]
    # 18 and not 20: groups of three stay whole.
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 102, "val": 18, "dev": 10}
    texts = {split: {mask_numbers(text) for text in rows["problem"]} for split, rows in dataset.items()}
    assert not texts["train"] & texts["val"]
    assert sorted(dataset["train"]["id"][:] + dataset["val"]["id"][:]) == list(range(120))
    rows = {row["id"]: row for row in whole["train"]}
    assert all(row["problem"] == rows[row["id"]]["problem"] for row in dataset["val"])
    assert all(row["group"] == rows[row["id"]]["group"] for part in ("train", "val") for row in dataset[part])
    assert all(dataset["val"]["novel"]) and not any(dataset["train"]["novel"])
    expected = [mask_numbers(text) not in texts["train"] for text in dataset["dev"]["problem"]]
    assert dataset["dev"]["novel"][:] == expected and 0 < sum(expected) < 10
    assert dataset["dev"]["id"][:] == whole["val"]["id"][:]


def test_tune_part_depends_on_the_seed_alone(fields, many, tmp_path):
    def ids(**changes):
        return load_mathqa(fields(path=str(many), tune_size=18, **changes))["val"]["id"][:]

    assert ids() == ids(cache_dir=str(tmp_path / "other"))
    assert ids() != ids(seed=1)


def test_dev_fraction_stands_in_for_a_missing_dev(fields, many):
    assert len(load_mathqa(fields(path=str(many), dev_fraction=0.2))["val"]) == 10  # dev.json is there
    (many / "dev.json").unlink()
    dataset = load_mathqa(fields(path=str(many), dev_fraction=0.2), need=("train", "val"))
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 96, "val": 24}


@pytest.mark.parametrize("size", [2, 120, 500])
def test_a_part_that_cannot_be_carved(fields, many, size):
    assert f"no {size} of train's 120 problems" in error_of(fields(path=str(many), tune_size=size))


def test_the_cache(folder, fields, monkeypatch, tmp_path):
    first = load_mathqa(fields())
    with monkeypatch.context() as patch:
        patch.setattr(mathqa, "read_records", None)
        again = load_mathqa(fields())
    assert again["train"].to_dict() == first["train"].to_dict()
    write(folder, dev=DEV[:1])  # noticed by its content
    assert len(load_mathqa(fields())["val"]) == 1
    assert len(caches(tmp_path)) == 1


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"tune_size": -1}, "tune_size"),
        ({"tune_size": True}, "tune_size"),
        ({"num_train": 0}, "num_train"),
        ({"seed": 1.5}, "seed"),
        ({"dev_fraction": 1.0}, "dev_fraction"),
        ({"dev_fraction": "a"}, "dev_fraction"),
        ({"dev_fraction": 0.1, "tune_size": 5}, "dev_fraction"),
        ({"max_source_length": 0}, "max_source_length"),
        ({"bad_records": "ignore"}, "bad_records"),
        ({"path": 3}, "path"),
    ],
)
def test_fields_are_checked(changes, name):
    with pytest.raises(ValueError, match=name):
        MathQAData(**changes)


def test_a_sample_is_found_in_its_file(folder, fields):
    data = load_mathqa(fields())
    for split, records in (("train", TRAIN), ("val", DEV), ("test", TEST)):
        for row in data[split]:
            path, position = re.fullmatch(r"(.+), record (\d+) \(from 0\)", place_of(fields(), row["id"])).groups()
            assert json.loads(Path(path).read_text())[int(position)]["Problem"] == row["problem"]
            assert records[int(position)]["Problem"] == row["problem"]
    assert place_of(MathQAData(), 10_000_003) == "problem 3 written for val"


def test_what_the_data_are_made_of(folder, fields):
    before = source_of(fields())
    assert list(before) == ["train", "val", "test"]
    (folder / "test.json").write_text(json.dumps(TEST[:1]))
    after = source_of(fields())
    assert after["test"] != before["test"] and after["train"] == before["train"]
    (folder / "test.json").unlink()
    assert source_of(fields()) == {split: after[split] for split in ("train", "val")}
    with pytest.raises(DataError, match="absent"):
        source_of(fields(path=str(folder / "absent")))


def test_problems_written_here(tmp_path):
    fields = MathQAData(num_train=700, num_dev=60, num_test=40, cache_dir=str(tmp_path / "cache"))
    dataset = load_mathqa(fields, need=("train", "val", "test"))
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 700, "val": 60, "test": 40}
    assert not any(dataset["val"]["novel"]) and all(dataset["test"]["novel"])
    assert all(row["answer"] == execute(row["program"], row["problem"]) for row in dataset["test"])
    ids = [number for rows in dataset.values() for number in rows["id"]]
    assert len(set(ids)) == 800
    tuned = load_mathqa(MathQAData(num_train=700, tune_size=50, num_test=0, cache_dir=str(tmp_path / "cache")))
    assert set(tuned) == {"train", "val", "dev"} and len(tuned["val"]) == 50
    assert not set(tuned["train"]["group"]) & set(tuned["val"]["group"])
    counts = {"num_train": 100, "num_dev": 0, "num_test": 0, "cache_dir": str(tmp_path / "cache")}
    for fraction, splits in ((0.0, {"train"}), (0.1, {"train", "val"})):
        assert set(load_mathqa(MathQAData(dev_fraction=fraction, **counts))) == splits


def test_lengths_serve_the_library_sampler(tmp_path):
    """The Trainer reads the column under its default name; batches then hold problems of like lengths."""
    arguments = TrainingArguments(output_dir=str(tmp_path), train_sampling_strategy="group_by_length", use_cpu=True)
    rows = load_mathqa(MathQAData(num_train=640, cache_dir=str(tmp_path / "cache")))["train"]
    lengths = rows[arguments.length_column_name][:]
    assert lengths == [len(text.split()) for text in rows["problem"]]

    def padded(order):
        batches = [[lengths[i] for i in order[start : start + 16]] for start in range(0, len(order), 16)]
        return sum(max(batch) * len(batch) for batch in batches)

    grouped = list(LengthGroupedSampler(16, lengths=lengths, generator=torch.Generator().manual_seed(0)))
    assert sorted(grouped) == list(range(640))
    assert padded(grouped) - sum(lengths) < (padded(range(640)) - sum(lengths)) / 4


def test_the_real_data(shared, tmp_path):
    folder = shared / "data" / "mathqa"
    if not folder.is_dir():
        pytest.skip(f"no MathQA at {folder}")
    dataset = load_mathqa(MathQAData(path=str(folder), cache_dir=str(tmp_path)), need=("train", "val"))
    assert {split: len(rows) for split, rows in dataset.items() if split != "test"} == {"train": 19791, "val": 2961}
    assert sum(dataset["val"]["novel"]) == 866
    assert len(set(dataset["train"]["group"])) == 8802
    raw = json.loads((folder / "dev.json").read_text())
    assert dataset["val"]["program"][:] == [entry["linear_formula"] for entry in raw]
    for row in dataset["val"]:
        assert is_correct(execute(row["program"], row["problem"]), row["answer"])
        assert from_tokens(to_tokens(row["program"])) == row["program"].removesuffix("|")
