import json

import numpy as np
import pytest
import torch
from small_text2math import PROBLEMS, PROGRAMS, build, save_bert, tokenizer

from evaluation.program_generation import Generator, model_digest
from evaluation.runs import RunError, load_run
from models import Text2MathTokenizer


def generator(folder, variant: str, batch_size: int = 3, **fields) -> Generator:
    """A small model with random weights, saved as a run and loaded back."""
    made = tokenizer()
    if "bert" in variant:
        save_bert(folder / "bert")
        made = Text2MathTokenizer.from_pretrained_bert(folder / "bert")
    run = folder / "run"
    build(variant, **{**made.model_fields(), "max_program_length": 12, **fields}).save_pretrained(run)
    made.save_pretrained(run)
    (run / "recipe.yaml").write_text("model_family: text2math\n")
    return Generator(load_run(run), "cpu", batch_size)


@pytest.mark.parametrize("variant", ["plain", "input feeding", "numbers", "frozen bert"])
def test_a_batch_gives_what_each_problem_gives_alone(tmp_path, variant):
    made = generator(tmp_path, variant)
    together = made.generate(PROBLEMS, num_beams=4, constrained=True, count=3)
    for problem, found in zip(PROBLEMS, together, strict=True):
        (alone,) = made.generate([problem], num_beams=4, constrained=True, count=3)
        assert [h.program for h in found] == [h.program for h in alone] and all(h.valid for h in found)
        assert [h.log_probability for h in found] == pytest.approx([h.log_probability for h in alone], abs=1e-4)


@pytest.mark.parametrize("variant", ["plain", "numbers", "bert"])
def test_the_probability_of_a_found_program_is_that_of_the_same_text(tmp_path, variant):
    made = generator(tmp_path, variant)
    found = made.generate(PROBLEMS, num_beams=4, constrained=True, count=4)
    valid = [(p, h) for p, best in zip(PROBLEMS, found, strict=True) for h in best if h.valid]
    assert len(valid) == 16
    sums, tokens = made.log_probabilities([p for p, _ in valid], [h.program for _, h in valid])
    assert sums == pytest.approx([h.log_probability for _, h in valid], abs=1e-3)
    assert tokens.tolist() == [len(made.tokenizer.encode_program(h.program)) - 1 for _, h in valid]


def test_a_problem_longer_than_bert_reads_is_cut_and_named(tmp_path, caplog):
    made = generator(tmp_path, "bert")
    assert made.longest == 64
    long = "a train of 7 " * 60
    made.generate(PROBLEMS, num_beams=2, constrained=True)
    assert not caplog.messages
    (found,) = made.generate([long], num_beams=2, constrained=True)
    assert caplog.messages == [f"1 problems are cut at 64 wordpieces: the first, of 242, begins {long[:60]!r}"]
    attention = made.attention(long, found[0].program)
    assert attention.weights.shape[1] == len(attention.source) == 64


def test_attention_names_the_places_of_the_numbers(tmp_path):
    attention = generator(tmp_path, "plain").attention(PROBLEMS[2], PROGRAMS[2])
    assert [attention.source[i] for i in attention.numbers] == ["3.5", "1,000", "7"]
    assert attention.target == ["add", "n0", "n1", "add", "n2", "#0", "<eos>"]
    assert np.allclose(attention.weights.sum(1), 1, atol=1e-5)
    assert generator(tmp_path, "no attention").attention(PROBLEMS[0], PROGRAMS[0]) is None


def test_where_no_program_ends_the_one_hypothesis_is_cut_off(tmp_path):
    made = generator(tmp_path, "plain", max_program_length=3)
    with torch.no_grad():
        made.model.decoder.output.bias[made.model.config.eos_token_id] = -1e4
    found = made.generate(PROBLEMS[:2], num_beams=2)
    assert [len(hypotheses) for hypotheses in found] == [1, 1]
    assert not any(hypotheses[0].valid for hypotheses in found)


def test_the_digest_follows_weights_config_and_tokenizer(tmp_path):
    made = generator(tmp_path, "plain")
    run = load_run(tmp_path / "run")
    before = model_digest(run, "code")
    assert before == model_digest(run, "code") != model_digest(run, "other code")
    for name in ("config.json", "tokenizer.json"):
        content = json.loads((run.folder / name).read_text())
        (run.folder / name).write_text(json.dumps({**content, "changed": 1}))
        assert model_digest(run, "code") != before
        (run.folder / name).write_text(json.dumps(content))
    assert made.model.training is False


def test_a_run_without_a_tokenizer_is_named(tmp_path):
    generator(tmp_path, "plain")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "run" / name).unlink()
    with pytest.raises(RunError, match="no tokenizer"):
        Generator(load_run(tmp_path / "run"), "cpu")
