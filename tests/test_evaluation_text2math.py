import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from trained_text2math import SIZES, base_folder, evaluated_run, make_run

from data.mathqa import MathQAData, load_mathqa
from evaluation import text2math
from evaluation.lookup import Lookup
from evaluation.options import Options
from evaluation.program_generation import Generator
from evaluation.program_store import read_entries, search_name
from evaluation.runs import RunError, load_run
from models import Text2MathForProgramGeneration, Text2MathTokenizer
from models.programs import execute
from training.digests import data_digests


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_folder(tmp_path_factory)


@pytest.fixture(scope="module")
def trained(base):
    return evaluated_run(base)


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


@pytest.fixture(scope="module")
def data(trained):
    return load_mathqa(MathQAData(**load_run(trained).recipe["data"]))


@pytest.fixture(scope="module")
def alone(trained):
    """Loaded by the classes themselves, one problem at a time: (model, tokenizer)."""
    return Text2MathForProgramGeneration.from_pretrained(trained).eval(), Text2MathTokenizer.from_pretrained(trained)


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_nothing_rounds_to_tf32_while_the_model_runs(trained, monkeypatch):
    generator, seen, run = Generator(load_run(trained)), [], Text2MathForProgramGeneration.encode

    def noticed(model, *args, **kwargs):
        seen.append(torch.backends.cudnn.allow_tf32)
        return run(model, *args, **kwargs)

    monkeypatch.setattr(Text2MathForProgramGeneration, "encode", noticed)
    generator.generate(["what is 3 plus 4 ?"], 2)
    generator.log_probabilities(["what is 3 plus 4 ?"], ["add(n0,n1)"])
    generator.attention("what is 3 plus 4 ?", "add(n0,n1)")
    assert seen == [False] * 3 and torch.backends.cudnn.allow_tf32


def test_predictions_are_those_of_the_model_one_problem_at_a_time(trained, data, alone):
    model, tokenizer = alone
    records = json.loads((trained / "predictions" / "val.json").read_text())
    assert [r["Problem"] for r in records] == list(data["val"]["problem"])
    for record in records[::7]:
        inputs = tokenizer(record["Problem"], return_tensors="pt")
        assert record["predicted"] == tokenizer.decode_program(model.generate(**inputs, num_beams=10)[0])


def test_numbers_equal_plain_counting_over_the_predictions(trained):
    content = metrics_of(trained)
    for split, size in (("val", SIZES["dev"]), ("test", SIZES["test"]), ("train", SIZES["train"])):
        records = json.loads((trained / "predictions" / f"{split}.json").read_text())
        exact = [r["predicted"].strip("|") == r["linear_formula"].strip("|") for r in records]
        right = [abs(value_of(r) - r["answer"]) <= 0.02 * abs(r["answer"]) for r in records]
        numbers = content["metrics"][split]
        assert numbers["samples"] == len(records) == size
        assert numbers["exact_match"] == pytest.approx(np.mean(exact))
        assert numbers["execution_accuracy"] == pytest.approx(np.mean(right))
        low, high = numbers["exact_match_interval"]
        assert low <= numbers["exact_match"] <= high and high - low < 0.4


def value_of(record) -> float:
    try:
        return execute(record["predicted"], record["Problem"])
    except ValueError:
        return math.inf


def test_predictions_json_is_the_test_split_in_the_checkers_format(trained):
    records = json.loads((trained / "predictions.json").read_text())
    assert records == json.loads((trained / "predictions" / "test.json").read_text())
    assert {tuple(record) for record in records} == {("Problem", "linear_formula", "answer", "predicted")}


def test_the_loss_is_the_mean_over_gold_tokens(trained, data, alone):
    model, tokenizer = alone
    total = count = 0
    for row in data["val"]:
        labels = torch.tensor([tokenizer.encode_program(row["program"])[1:]])
        inputs = tokenizer(row["problem"], return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs, labels=labels).logits
        total += F.cross_entropy(logits[0], labels[0], reduction="sum").item()
        count += labels.numel()
    assert metrics_of(trained)["metrics"]["val"]["loss"] == pytest.approx(total / count, rel=1e-4)


def test_the_lookup_stands_beside_every_held_out_split(trained, data):
    content = metrics_of(trained)
    found = Lookup().fit(data["train"]["problem"], data["train"]["program"]).predict(data["val"]["problem"])
    exact = np.array([a == b.strip("|") for a, b in zip(found, data["val"]["program"], strict=True)])
    novel = np.array(data["val"]["novel"])
    numbers = content["metrics"]["val"]
    assert numbers["lookup_exact_match"] == pytest.approx(exact.mean())
    assert numbers["lookup_novel_exact_match"] == pytest.approx(exact[novel].mean())
    assert numbers["novel_samples"] == novel.sum() and 0 < novel.sum() < len(novel)
    test = content["evaluation"]["splits"]["val"]["against_lookup"]["all"]["exact_match"]
    gap = numbers["exact_match"] - numbers["lookup_exact_match"]
    assert test["difference"] == pytest.approx(gap) and 0 <= test["p_value"] <= 1
    assert (
        "lookup_exact_match" in content["metrics"]["test"] and "lookup_exact_match" not in content["metrics"]["train"]
    )


def test_every_width_is_measured_and_ten_gives_the_runs_numbers(trained):
    content = metrics_of(trained)
    assert content["evaluation"]["beams"] == [1, 4, 10] and content["evaluation"]["main_beams"] == 10
    for split in ("val", "test"):
        widths = content["evaluation"]["splits"][split]["beams"]
        assert list(widths) == ["1", "4", "10"] and all(row["seconds"] > 0 for row in widths.values())
        assert widths["10"]["exact_match"] == content["metrics"][split]["exact_match"]
        assert "against_narrowest" in widths["4"] and "against_narrowest" not in widths["1"]
    assert "beams" not in content["evaluation"]["splits"]["train"]


def test_constrained_predictions_are_programs(trained):
    entry = read_entries(trained)[search_name("val", 10, constrained=True)]
    made = metrics_of(trained)["evaluation"]["splits"]["val"]["constrained"]
    assert made["parses"] == 1.0
    free = read_entries(trained)[search_name("val", 10)]["programs"]
    assert made["different"] == sum(a != b for a, b in zip(free, entry["programs"], strict=True))


@pytest.fixture(scope="module")
def again(trained, tmp_path_factory):
    """A second evaluation of the same run: (folder, result, how many problems each search had)."""
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("again") / "run")
    seen = []
    original = Generator.generate

    def refuse(*args, **kwargs):
        raise AssertionError("the gold programs were scored again")

    def count(self, problems, *args, **kwargs):
        seen.append(len(problems))
        return original(self, problems, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Generator, "log_probabilities", refuse)
        patch.setattr(Generator, "generate", count)
        result = text2math.evaluate(load_run(folder), Options(device="cpu"))
    return folder, result, seen


def test_nothing_stored_is_computed_again(trained, again):
    _, result, seen = again
    assert result["evaluation"]["beams"] == [1, 4, 10]  # what was measured before stays
    assert seen == [len(result["pictures"]["errors"])]  # only the shown errors are searched, for their ten best
    before = metrics_of(trained)["metrics"]["val"]
    assert result["metrics"]["val"] == {key: before[key] for key in result["metrics"]["val"]}


def test_other_weights_are_searched_anew(copy, base):
    other = make_run(copy.parent / "other", base, steps=20)
    shutil.copyfile(other / "model.safetensors", copy / "model.safetensors")
    before = metrics_of(copy)["metrics"]["val"]["loss"]
    result = text2math.evaluate(load_run(copy), Options(device="cpu", splits=("val",)))
    assert result["metrics"]["val"]["loss"] > before + 0.1
    assert list(result["metrics"]) == ["val"]


def test_the_worst_errors_are_the_surest_wrong_answers(again):
    folder, result, _ = again
    errors = result["pictures"]["errors"]
    records = {r["Problem"]: r for r in json.loads((folder / "predictions" / "val.json").read_text())}
    assert errors and [e["probability"] for e in errors] == sorted((e["probability"] for e in errors), reverse=True)
    for error in errors:
        record = records[error["problem"]]
        assert abs(value_of(record) - record["answer"]) > 0.02 * abs(record["answer"])
        answer = float(error["gold"][-1].rpartition(" = ")[2])
        assert answer == pytest.approx(error["answer"], rel=1e-6)
        assert error["gold_rank"] is None or 2 <= error["gold_rank"] <= 10


def test_attention_maps_are_distributions_over_the_problem(again):
    maps = again[1]["pictures"]["attention"]
    assert [item["right"] for item in maps] == [True] * 3 + [False] * 3
    for item in maps:
        attention = item["attention"]
        assert attention.weights.shape == (len(attention.target), len(attention.source))
        assert attention.weights.sum(1) == pytest.approx(np.ones(len(attention.target)), abs=1e-5)
        assert attention.target[-1] == "<eos>" and attention.source[-1] == "<eos>"
        assert [attention.source[i] for i in attention.numbers] == [t for t in attention.source if t[0].isdigit()]


def test_a_model_without_attention_has_no_maps(base, tmp_path):
    folder = make_run(tmp_path / "plain", base, steps=5, attention=False, pointer=False)
    result = text2math.evaluate(load_run(folder), Options(device="cpu", splits=("val",), beams=(2,)))
    assert result["pictures"]["attention"] == [] and result["evaluation"]["splits"]["val"]["attention"] is None
    assert result["evaluation"]["main_beams"] == 2


def test_dev_is_looked_at_where_val_was_carved(base, tmp_path):
    data = {"path": str(base / "mathqa"), "tune_size": 30}
    folder = make_run(tmp_path / "tuned", base, steps=5, data=data)
    result = text2math.evaluate(load_run(folder), Options(device="cpu", splits=("val", "dev"), beams=(1,)))
    splits = result["evaluation"]["splits"]
    assert "errors" in splits["dev"] and "errors" not in splits["val"]
    assert len(json.loads((folder / "predictions.json").read_text())) == SIZES["dev"]
    data = load_mathqa(MathQAData(**load_run(folder).recipe["data"]))
    problems = [*data["train"]["problem"], *data["val"]["problem"]]
    lookup = Lookup().fit(problems, [*data["train"]["program"], *data["val"]["program"]])
    gold = [program.strip("|") for program in data["dev"]["program"]]
    exact = [a == b for a, b in zip(lookup.predict(data["dev"]["problem"]), gold, strict=True)]
    twins = {re.sub(r"\d+", "#", problem) for problem in problems}
    unseen = [re.sub(r"\d+", "#", problem) not in twins for problem in data["dev"]["problem"]]
    numbers = result["metrics"]["dev"]
    assert numbers["lookup_whole_exact_match"] == pytest.approx(np.mean(exact))
    assert numbers["lookup_whole_unseen_exact_match"] == pytest.approx(np.mean(np.array(exact)[unseen]))
    assert numbers["unseen_samples"] == sum(unseen) < numbers["novel_samples"]
    assert "lookup_whole_exact_match" not in result["metrics"]["val"]
    assert result["evaluation"]["carved"]


def test_a_fraction_to_carve_counts_only_where_there_is_no_dev_json(base, tmp_path):
    data = {"path": str(base / "mathqa"), "dev_fraction": 0.1}
    folder = make_run(tmp_path / "fraction", base, steps=5, data=data)
    result = text2math.evaluate(load_run(folder), Options(device="cpu", splits=("val", "test"), beams=(1,)))
    assert not result["evaluation"]["carved"] and "unseen_samples" not in result["metrics"]["test"]


def test_a_field_of_another_version_and_missing_data_are_named(copy):
    run = load_run(copy)
    run.recipe["data"]["colour"] = "red"
    with pytest.raises(RunError, match="'colour'"):
        text2math.evaluate(run, Options())
    run = load_run(copy)
    run.recipe["data"]["path"] = str(copy / "absent")
    with pytest.raises(RunError, match="absent"):
        text2math.evaluate(run, Options())


def test_other_problems_than_those_of_the_training_are_refused(copy, data):
    began = data_digests(data)
    (copy / "data.json").write_text(json.dumps(began))
    text2math.load_data(load_run(copy))
    began["val"]["sha256"] = "0" * 64
    (copy / "data.json").write_text(json.dumps(began))
    with pytest.raises(RunError, match="the data have changed since this run began: val"):
        text2math.load_data(load_run(copy))


def test_metrics_hold_no_problem_text(trained, data):
    text = (trained / "metrics.json").read_text() + (trained / "README.md").read_text()
    assert not any(problem in text for split in data.values() for problem in split["problem"])
