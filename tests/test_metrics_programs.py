"""The metric modules of predicted programs and their intervals: values by hand, slow definitions, the real data."""

import json
import re
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import metrics
from metrics.bootstrap import interval
from models.programs import to_tokens

NAMES = ("exact_match", "execution_accuracy", "program_validity", "token_match")
PROBLEM = "2 apples and 3 pears"


@pytest.fixture(scope="module")
def module():
    loaded = {name: metrics.load(name) for name in NAMES}
    return lambda name, **columns: loaded[name].compute(**columns)


@pytest.fixture(scope="module")
def dev(shared) -> list[dict]:
    return json.loads((shared / "data/mathqa/dev.json").read_text(encoding="utf-8"))


def test_a_missing_prediction_is_wrong(module):
    gold, problems = ["add(n0,n1)", "add(n0,n1)"], ["3 and 4", "5 and 6"]
    given = {"predictions": ["add(n0,n1)", None]}
    assert module("exact_match", **given, references=gold)["exact_match"] == 0.5
    assert module("token_match", **given, references=gold)["token_match"] == 0.5
    assert module("execution_accuracy", **given, problems=problems, answers=[7, 11])["execution_accuracy"] == 0.5
    assert module("program_validity", **given, problems=problems)["parses"] == 0.5


def test_exact_match_drops_one_trailing_bar_on_either_side(module):
    pairs = [
        ("add(n0,n1)", "add(n0,n1)", True),
        ("add(n0,n1)|", "add(n0,n1)", True),
        ("add(n0,n1)", "add(n0,n1)|", True),
        ("add(n0,n1)||", "add(n0,n1)|", False),
        ("add(n1,n0)", "add(n0,n1)", False),
        ("add(n0, n1)", "add(n0,n1)", False),
        ("", "add(n0,n1)", False),
        ("not a program", "not a program|", True),
    ]
    predictions, references, same = zip(*pairs, strict=True)
    result = module("exact_match", predictions=predictions, references=references, return_samples=True)
    assert result["samples"] == {"exact_match": list(same)}
    assert result["exact_match"] == 0.5


def test_execution_accuracy_counts_values_within_two_per_cent(module):
    rows = [
        ("add(n0,n1)", 5, True),
        ("add(n1,n0)|", 5, True),
        ("add(n0,n1)", 5.1, True),
        ("add(n0,n1)", 5.11, False),
        ("add(n0,n2)", 5, False),
        ("add(n0", 5, False),
        ("", 0, False),
        ("subtract(n0,n0)|divide(#0,#0)", 0, False),
        ("negate(n0)|sqrt(#0)", 0, False),
        ("subtract(n0,n0)", 0, True),
        ("factorial(const_3600)", 1, False),
    ]
    predictions, answers, right = zip(*rows, strict=True)
    columns = {"predictions": predictions, "problems": [PROBLEM] * len(rows), "answers": answers}
    result = module("execution_accuracy", **columns, return_samples=True)
    assert result["samples"] == {"execution_accuracy": list(right)}
    assert result["execution_accuracy"] == pytest.approx(4 / 11)
    assert "reference_execution_accuracy" not in result


def test_execution_accuracy_takes_either_reading(module):
    columns = {"predictions": ["volume_cube(n0)"], "problems": [PROBLEM], "answers": [8]}
    assert module("execution_accuracy", **columns)["execution_accuracy"] == 0.0
    assert module("execution_accuracy", **columns, semantics="exact")["execution_accuracy"] == 1.0
    with pytest.raises(ValueError, match="semantics must be checker or exact"):
        module("execution_accuracy", **columns, semantics="")


def test_gold_programs_that_do_not_give_the_answer_are_reported_and_are_no_contradiction(module):
    result = module(
        "execution_accuracy",
        predictions=["add(n0,n1)", "add(n0,n1)"],
        problems=[PROBLEM] * 2,
        answers=[5, 7],
        references=["add(n0,n1)|", "add(n0,n1)|"],
    )
    assert result["execution_accuracy"] == result["reference_execution_accuracy"] == 0.5
    with pytest.raises(ValueError, match="1 predictions need as many references, got 2"):
        module("execution_accuracy", predictions=[""], problems=[""], answers=[0], references=["", ""])


def test_execution_accuracy_below_exact_match_is_refused(module, monkeypatch):
    metric = metrics.load("execution_accuracy")
    script = sys.modules[type(metric).__module__]
    lenient = script.try_execute
    needs_bar = lambda program, *rest: lenient(program, *rest) if program.endswith("|") else None  # noqa: E731
    monkeypatch.setattr(script, "try_execute", needs_bar)
    columns = {"problems": [PROBLEM], "answers": [5], "references": ["add(n0,n1)|"]}
    assert metric.compute(predictions=["add(n0,n1)|"], **columns)["execution_accuracy"] == 1.0
    with pytest.raises(AssertionError, match=r"sample 0: the prediction 'add\(n0,n1\)' is the gold program"):
        metric.compute(predictions=["add(n0,n1)"], **columns)


def test_validity_tells_programs_from_values(module):
    rows = [
        ("add(n0,n1)", True, True, ""),
        ("add(n0,n2)", True, False, "the problem has no n2"),
        ("subtract(n0,n0)|inverse(#0)", True, False, "step #1, inverse: division by zero"),
        ("add(n0)", False, False, "add takes 2 arguments, not 1, at character 4"),
        ("", False, False, "empty"),
    ]
    predictions, parses, executes, reasons = zip(*rows, strict=True)
    result = module("program_validity", predictions=predictions, problems=[PROBLEM] * 5, return_samples=True)
    assert (result["parses"], result["executes"]) == (pytest.approx(0.6), pytest.approx(0.2))
    assert result["samples"]["parses"] == list(parses)
    assert result["samples"]["executes"] == list(executes)
    assert all(want in got for want, got in zip(reasons, result["samples"]["reason"], strict=True))
    assert result["samples"]["reason"][0] == ""


def test_token_match_by_hand(module):
    rows = [
        ("add(n0,n1)", "add(n0,n1)|", 1.0, 3, 3),
        ("add(n0,n1)", "add(n0,n2)|negate(#0)", 2 / 5, 2, 3),
        ("add(n0,n2)|negate(#0)|negate(#1)", "add(n0,n2)", 3 / 7, 3, 7),
        ("negate(n0)|add(n0,n2)", "add(n0,n2)", 1 / 5, 1, 5),
        ("", "add(n0,n2)", 0.0, 0, 0),
        ("add ( n0 , n2 ,", "add(n0,n2)", 1.0, 3, 3),
        ("", "", 1.0, 0, 0),
    ]
    predictions, references, shares, matching, lengths = zip(*rows, strict=True)
    result = module("token_match", predictions=predictions, references=references, return_samples=True)
    assert result["samples"]["token_match"] == pytest.approx(shares)
    assert result["samples"]["matching_tokens"] == list(matching)
    assert result["samples"]["prediction_tokens"] == list(lengths)
    assert result["token_match"] == pytest.approx(sum(shares) / 7)
    assert result["token_accuracy"] == pytest.approx(sum(matching) / sum(lengths))
    nothing = module("token_match", predictions=["", ""], references=["add(n0,n1)"] * 2)
    assert nothing["token_accuracy"] == nothing["token_match"] == 0.0


PROGRAMS = st.lists(st.sampled_from(["add(n0,n1)", "add(n1,n0)", "negate(n0)", "negate(#0)", "inverse(#1)", "x("])).map(
    "|".join
)


@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(st.tuples(PROGRAMS, PROGRAMS), min_size=1, max_size=12))
def test_matches_against_their_definitions(module, pairs):
    predictions, references = zip(*pairs, strict=True)
    matches = shares = tokens = 0
    for prediction, reference in pairs:
        a, b = (re.sub(r"[(),|]", " ", text).split() for text in (prediction, reference))
        same = len([i for i in range(min(len(a), len(b))) if a[i] == b[i]])
        shares += same / max(len(a), len(b)) if a or b else 1
        matches, tokens = matches + same, tokens + len(a)
    found = module("token_match", predictions=predictions, references=references)
    assert found["token_match"] == pytest.approx(shares / len(pairs))
    assert found["token_accuracy"] == pytest.approx(matches / tokens if tokens else 0)
    exact = module("exact_match", predictions=predictions, references=references)
    assert found["token_match"] >= exact["exact_match"] - 1e-12
    for result, names in ((found, ("token_match", "token_accuracy")), (exact, ("exact_match",))):
        for name in names:
            low, high = result[f"{name}_interval"]
            assert 0 <= low <= high <= 1


def test_gold_programs_score_one_on_the_real_data(module, dev):
    problems, programs, answers = ([row[key] for row in dev] for key in ("Problem", "linear_formula", "answer"))
    texts = {"predictions": [program.removesuffix("|") for program in programs], "references": programs}
    assert module("exact_match", **texts)["exact_match_interval"] == [
        pytest.approx(1 - 1.96**2 / len(dev), abs=1e-4),
        1.0,
    ]
    tokens = module("token_match", **texts, return_samples=True)
    assert tokens["token_match"] == tokens["token_accuracy"] == 1.0
    assert tokens["samples"]["prediction_tokens"] == [len(to_tokens(program)) for program in programs]
    executed = module("execution_accuracy", **texts, problems=problems, answers=answers)
    assert executed["execution_accuracy"] == executed["reference_execution_accuracy"] == 1.0
    validity = module("program_validity", predictions=programs, problems=problems)
    assert validity["parses"] == validity["executes"] == 1.0
    shuffled = {**texts, "predictions": programs[1:] + programs[:1]}
    wrong = module("execution_accuracy", **shuffled, problems=problems, answers=answers)["execution_accuracy"]
    assert module("exact_match", **shuffled)["exact_match"] <= wrong < 0.2


def test_modules_load_by_path_from_another_folder_and_describe_themselves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text("raise SystemExit('the wrong module')")
        loaded = metrics.load(name)
        assert "Returns" in loaded.inputs_description and "title" in loaded.citation
        empty = {feature: [] for feature in loaded.features}
        with pytest.raises(ValueError, match="give at least one"):
            loaded.compute(**empty)


@pytest.mark.parametrize("name", NAMES)
def test_results_are_json_and_batches_add_up(name):
    loaded = metrics.load(name)
    values = {
        "predictions": ["add(n0,n1)", "negate(n0)", "add(n0"] * 5,
        "references": ["add(n0,n1)|", "negate(n1)", "add(n0,n1)"] * 5,
        "problems": [PROBLEM] * 15,
        "answers": [5.0, -3.0, 5.0] * 5,
    }
    columns = {feature: values[feature] for feature in loaded.features}
    whole = loaded.compute(**columns, return_samples=True)
    for start in range(0, 15, 4):
        loaded.add_batch(**{feature: column[start : start + 4] for feature, column in columns.items()})
    assert json.loads(json.dumps(loaded.compute(return_samples=True))) == whole


def test_intervals_are_those_of_resampling_the_samples():
    generator = np.random.default_rng(3)
    right = generator.random(200) < 0.7
    scipys = scipy.stats.bootstrap((right,), np.mean, n_resamples=4000, method="percentile", rng=generator, batch=100)
    assert interval(right) == pytest.approx(list(scipys.confidence_interval), abs=0.01)
    shares = generator.random(150) ** 2
    scipys = scipy.stats.bootstrap((shares,), np.mean, n_resamples=4000, method="percentile", rng=generator, batch=100)
    assert interval(shares) == pytest.approx(list(scipys.confidence_interval), abs=0.01)
    lengths = generator.integers(1, 30, 150)
    matching = generator.binomial(lengths, 0.6)
    rows = generator.integers(0, 150, (4000, 150))
    ratios = matching[rows].sum(1) / lengths[rows].sum(1)
    assert interval(matching, lengths) == pytest.approx(np.percentile(ratios, [2.5, 97.5]), abs=0.01)


def test_the_interval_of_a_share_is_the_binomials():
    """Resampled hits are Binomial(n, k/n): exact quantiles, against which 20,000 draws are off by a hit at most."""
    right = [True] * 30 + [False] * 70
    exact = scipy.stats.binom.ppf([0.025, 0.975], 100, 0.3) / 100
    assert interval(right, resamples=20_000) == pytest.approx(exact, abs=0.0101)


def test_intervals_are_deterministic_and_refuse_nothing_to_resample():
    values = [0.0, 0.25, 1.0, 1.0]
    assert interval(values) == interval(values)
    assert interval(values, seed=1, resamples=50) != interval(values, seed=2, resamples=50)
    assert interval([1, 1, 1]) == [1.0, 1.0]
    assert interval([0, 0], [0, 0]) == [0.0, 0.0]
    with pytest.raises(ValueError, match="at least one sample"):
        interval([])
    with pytest.raises(ValueError, match="shapes"):
        interval([1, 2], [1])
    with pytest.raises(ValueError, match="resamples must be at least 1"):
        interval([1.0], resamples=0)
