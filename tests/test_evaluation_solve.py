import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from trained_text2math import base_folder, make_run

from evaluation import solve
from evaluation.card import write_card
from evaluation.publishing import publish
from evaluation.runs import RunError
from models import Text2MathForProgramGeneration, Text2MathTokenizer
from models.programs import execute, parse
from training.checkpoints import write_manifest

CARDS = Path(solve.__file__).parents[1] / "model_cards"
PROBLEM = "ann fills 12 boxes with 5 pens each . how many pens ?"
DISCOUNT = "cups cost 400 with 15 % off . what does leo pay ?"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "solver", base_folder(tmp_path_factory), steps=60)


@pytest.fixture(scope="module")
def solver(run):
    return solve.Solver.from_pretrained(run, device="cpu")


def test_a_problem_is_solved_with_program_steps_and_answer(solver):
    solution = solver(DISCOUNT)
    assert solution.program == "multiply(n0,n1)|divide(#0,const_100)|subtract(n0,#1)"
    assert solution.answer == 340 and solution.error is None
    assert solution.trace[0] == "#0 = multiply(n0, n1) = 400 x 15 = 6000" and len(solution.trace) == 3
    assert "answer   340" in str(solution) and solution.program in str(solution)


def test_candidates_are_programs_in_order_with_their_own_values_and_probabilities(run, solver):
    solution = solver(PROBLEM)
    scores = [c.log_probability for c in solution.candidates]
    assert len(scores) == 5 and scores == sorted(scores, reverse=True)
    assert len({c.program for c in solution.candidates}) == 5
    for candidate in solution.candidates:
        assert parse(candidate.program) and candidate.probability == pytest.approx(math.exp(candidate.log_probability))
        assert candidate.answer == execute(candidate.program, PROBLEM)
    model, tokenizer = Text2MathForProgramGeneration.from_pretrained(run), Text2MathTokenizer.from_pretrained(run)
    ids = model.generate(**tokenizer(PROBLEM, return_tensors="pt"), num_beams=10, constrained=True)[0]
    assert solution.candidates[0].program == tokenizer.decode_program(ids)


def test_the_best_program_with_a_value_is_taken(solver):
    problem = "ann shares 12 pens among 0 friends . how many pens each ?"
    solution = solver(problem)
    values = [c.answer for c in solution.candidates]
    assert None in values, "no candidate divides by zero: the test shows nothing"
    first = next(c for c in solution.candidates if c.answer is not None)
    assert (solution.program, solution.answer) == (first.program, first.answer)
    assert "division by zero" in solution.candidates[values.index(None)].error


def test_several_problems_give_what_each_gives_alone(solver):
    both = solver([PROBLEM, DISCOUNT])
    assert [s.program for s in both] == [solver(p).program for p in (PROBLEM, DISCOUNT)]


@pytest.mark.parametrize("problem", ["", "   ", 5, "x" * 10_001, "2 and \ud800 3"])
def test_what_is_no_problem_is_refused(solver, problem):
    with pytest.raises(ValueError, match="problem 1"):
        solver([PROBLEM, problem])


def test_a_file_is_solved_line_by_line_in_order(solver, tmp_path, monkeypatch):
    monkeypatch.setattr(solve, "CHUNK", 2)
    lines = [{"Problem": PROBLEM, "answer": 7}, DISCOUNT, {"problem": PROBLEM, "id": 3}]
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\ufeff" + "\n\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    with out.open("w") as file:
        assert solve.solve_file(solver, source, file) == 3
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [f["solution"]["answer"] for f in found] == [60, 340, 60]
    assert found[0]["answer"] == 7 and found[1]["problem"] == DISCOUNT and found[2]["id"] == 3


@pytest.mark.parametrize("line", ["{", "{}", '{"problem": ""}', "[1]", '{"problem": 3}', '"\\ud800 3"', "\udcff"])
def test_a_bad_line_is_named(tmp_path, line):
    source = tmp_path / "in.jsonl"
    source.write_bytes(f'"fine 1"\n{line}\n'.encode(errors="surrogateescape"))
    problems = solve.read_problems(source)
    assert next(problems)[0] == "fine 1"
    with pytest.raises(RunError, match=r"in\.jsonl, line 2: "):
        next(problems)


def test_the_command_solves_a_problem(run):
    command = [sys.executable, "-m", "evaluation.solve", str(run), DISCOUNT, "--device", "cpu", "--candidates", "2"]
    done = subprocess.run(command, cwd=Path(solve.__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "answer   340" and done.stdout.count("%") == 2 and not done.stderr


def test_the_command_solves_a_file(run, tmp_path, capsys):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps(PROBLEM))
    assert solve.main([str(run), "--jsonl", str(source), "--out", str(out), "--device", "cpu"]) == 0
    assert json.loads(out.read_text())["solution"]["answer"] == 60
    assert "1 problems solved" in capsys.readouterr().err


def test_a_file_is_not_replaced_by_its_own_solutions(run, tmp_path, capsys):
    source, link = tmp_path / "in.jsonl", tmp_path / "link.jsonl"
    source.write_text(json.dumps(PROBLEM))
    link.symlink_to(source)
    for out in (source, link):
        with pytest.raises(SystemExit):
            solve.main([str(run), "--jsonl", str(source), "--out", str(out), "--device", "cpu"])
    assert "same file" in capsys.readouterr().err and json.loads(source.read_text()) == PROBLEM


def test_an_error_leaves_the_old_solutions_and_keeps_those_made_before(run, tmp_path, capsys):
    source, out, part = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "out.jsonl.part"))
    out.write_text("old\n")
    command = [str(run), "--jsonl", str(source), "--out", str(out), "--device", "cpu"]
    assert solve.main(command) == 1  # there is no such file
    assert "in.jsonl" in capsys.readouterr().err and out.read_text() == "old\n" and not part.exists()
    source.write_text(json.dumps(PROBLEM) + "\n{}\n")
    assert solve.main(command) == 1
    printed = capsys.readouterr().err
    assert "line 2" in printed and str(part) in printed and printed.count("\n") == 1
    assert out.read_text() == "old\n" and json.loads(part.read_text())["solution"]["answer"] == 60
    source.write_text(json.dumps(PROBLEM))
    assert solve.main(command) == 0
    assert json.loads(out.read_text())["solution"]["answer"] == 60 and not part.exists()


def test_what_was_read_before_a_bad_line_is_printed(run, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text(json.dumps(PROBLEM) + "\n{}\n")
    assert solve.main([str(run), "--jsonl", str(tmp_path / "in.jsonl"), "--device", "cpu"]) == 1
    assert json.loads(capsys.readouterr().out)["solution"]["answer"] == 60


def test_a_published_checkpoint_solves_as_its_run_does(run, solver, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    write_card(folder)
    published = publish(folder, tmp_path / "cards", weights="full")
    assert not (published / "recipe.yaml").exists()
    found = solve.Solver.from_pretrained(published, device="cpu")([PROBLEM, DISCOUNT])
    assert found == solver([PROBLEM, DISCOUNT])


def test_the_checkpoint_that_is_published_here_solves():
    folder = CARDS / "text2math-best_256"
    if not (folder / "model.safetensors").is_file():
        pytest.skip(f"no weights in {folder}")
    solution = solve.Solver.from_pretrained(folder, device="cpu")("a car runs 375 km in 3 hours . what is its speed ?")
    assert solution.answer == 125


def test_weights_that_the_manifest_does_not_know_are_refused(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    write_manifest(folder)
    assert solve.Solver.from_pretrained(folder, device="cpu")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(RunError, match=r"model\.safetensors is damaged"):
        solve.Solver.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize("device", ["foo", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_named(run, device):
    with pytest.raises(RunError, match=device):
        solve.Solver.from_pretrained(run, device=device)


def test_errors_of_the_command_take_one_line(run, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("model_family: resnet\n")
    (tmp_path / "config.json").write_text("{}")
    for arguments in ([str(tmp_path), "x"], [str(tmp_path / "absent"), "x"], [str(run), " "]):
        assert solve.main(arguments) == 1
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ") and printed.err.count("\n") == 1 and not printed.out
    for arguments in ([str(run)], [str(run), "x", "--jsonl", "y"], [str(run), "x", "--out", "y"]):
        with pytest.raises(SystemExit) as stopped:
            solve.main(arguments)
        assert stopped.value.code == 2


def test_options_of_the_solver_are_checked(solver):
    wrong = ({"num_candidates": 0}, {"num_beams": 2, "num_candidates": 3}, {"semantics": "loose"}, {"num_beams": 0})
    for options, named in zip(wrong, ("num_candidates", "num_candidates", "semantics", "num_beams is 0"), strict=True):
        with pytest.raises(ValueError, match=named):
            solve.Solver(solver.generator, **options)


def test_greedy_search_keeps_one_program(solver):
    greedy = solve.Solver(solver.generator, num_beams=1)
    assert len(greedy(PROBLEM).candidates) == 1
