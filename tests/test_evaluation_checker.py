import json

import pytest

from evaluation.checker import check_run, run_checker
from evaluation.runs import RunError

PROBLEM = "ann has 6 pens and 3 boxes"
# A checker as the course calls it: it judges, prints, and writes its verdicts into the file that it was given.
CHECKER = """
import json, sys
records = json.load(open(sys.argv[1]))
values = {"add(n0,n1)": 9, "multiply(n0,n1)": 18, "subtract(n0,n1)": 3}
right = 0
for record in records:
    value = values.get(record["predicted"])
    good = value is not None and abs(value - record["answer"]) <= 0.02 * record["answer"]
    record["predicted_answer"] = value if good or record["Problem"].endswith("!") else None
    right += good
print(f"Execution Accuracy: {100 * right / len(records)}!!")
json.dump(records, open(sys.argv[1], "w"))
"""


def record(predicted: str, answer: float = 9, problem: str = PROBLEM) -> dict:
    return {"Problem": problem, "linear_formula": "add(n0,n1)|", "answer": answer, "predicted": predicted}


@pytest.fixture
def files(tmp_path):
    """(checker, predictions): write the records, get both paths."""
    checker = tmp_path / "checker.py"
    checker.write_text(CHECKER)

    def write(records):
        path = tmp_path / "predictions" / "dev.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(records))
        return checker, path

    return write


def test_the_checker_speaks_and_the_original_stays_as_it_was(files):
    checker, path = files([record("add(n0,n1)"), record("subtract(n0,n1)"), record("add(n0")])
    before = path.read_bytes()
    verdict = run_checker(checker, path)
    assert path.read_bytes() == before
    assert verdict.output.startswith("Execution Accuracy: 33.3") and verdict.samples == 3
    assert verdict.execution_accuracy == verdict.exact_match == pytest.approx(1 / 3)
    assert verdict.disagreements == [] and "judged alike" in str(verdict)


def test_records_judged_differently_are_listed(files):
    checker, path = files([record("add(n0,n1)"), record("subtract(n0,n1)", problem=PROBLEM + " !")])
    verdict = run_checker(checker, path)
    assert verdict.disagreements == [1] and "differently for 1 records: 1" in str(verdict)


def test_a_factorial_without_end_is_withheld(files):
    checker, path = files([record("factorial(n0)", problem="a 99999999999 and 3"), record("add(n0,n1)")])
    checker.write_text(CHECKER.replace("right = 0", "right = 0\nassert records[0]['predicted'] == ''"))
    verdict = run_checker(checker, path)
    assert verdict.withheld == 1 and "1 predictions were withheld" in str(verdict) and verdict.execution_accuracy == 0.5


def test_what_is_no_program_is_not_said_to_be_a_factorial_without_end(files):
    checker, path = files([record("factorial(n0"), record("add(n0,n1)")])
    verdict = run_checker(checker, path)
    assert verdict.withheld == 1 and "(too large, or no program)" in str(verdict)
    assert "factorial would not end" not in str(verdict)


def test_a_checker_that_leaves_no_verdicts_is_only_quoted(files):
    checker, path = files([record("add(n0,n1)")])
    checker.write_text("print('fine')")
    verdict = run_checker(checker, path)
    assert verdict.disagreements is None and str(verdict).splitlines()[0] == "fine"


def test_a_checker_that_fails_or_hangs_is_named(files):
    checker, path = files([record("add(n0,n1)")])
    checker.write_text("raise SystemExit('no numpy')")
    with pytest.raises(RunError, match=r"code 1 .* no numpy"):
        run_checker(checker, path)
    checker.write_text("import time; time.sleep(60)")
    with pytest.raises(RunError, match=r"not ended after 0\.5 s"):
        run_checker(checker, path, timeout=0.5)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '[{"Problem": "x"}]', '[{"Problem": 1}]'])
def test_damaged_predictions_are_named(files, content):
    checker, path = files([])
    path.write_text(content)
    with pytest.raises(RunError, match=r"dev\.json"):
        run_checker(checker, path)


def test_a_missing_checker_is_named(files):
    _, path = files([record("add(n0,n1)")])
    with pytest.raises(RunError, match=r"absent\.py"):
        run_checker(path.parent / "absent.py", path)


def test_a_run_is_checked_split_by_split_and_the_words_are_kept(files, tmp_path):
    checker, path = files([record("add(n0,n1)")])
    (path.parent / "val.json").write_text(json.dumps([record("subtract(n0,n1)")]))
    said = check_run(tmp_path, checker)
    assert "dev:\nExecution Accuracy: 100.0!!" in said and "val:\nExecution Accuracy: 0.0!!" in said
    assert (tmp_path / "checker.txt").read_text().strip() == said
    with pytest.raises(RunError, match="no predictions"):
        check_run(tmp_path / "predictions", checker)
