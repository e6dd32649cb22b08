"""A saved text-to-program model and its tokenizer carry their code: they load and search where the project is not."""

import json

import pytest
from small_text2math import PROBLEMS, build, tokenizer
from test_models_remote_code import ROOT, one_thread, run_elsewhere  # noqa: F401

CODE = {
    "beam_search.py",
    "configuration_text2math.py",
    "field_checks.py",
    "modeling_text2math.py",
    "pretrained_bert.py",
    "program_constraint.py",
    "program_operations.py",
    "programs.py",
    "stored_weights.py",
    "text2math_decoder.py",
    "text2math_encoder.py",
    "text2math_numbers.py",
    "text2math_options.py",
    "text2math_outputs.py",
    "tokenization_text2math.py",
}

# What the other process does: makes the project unimportable, loads model and tokenizer of each folder, and searches.
ELSEWHERE = """
import importlib.abc, json, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"models", "data", "metrics", "training", "evaluation"}:
            raise ModuleNotFoundError(f"{name} is blocked in this process", name=name)

sys.meta_path.insert(0, Blocked())
import torch
from transformers import AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

for folder in sys.argv[1:]:
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    for loaded in (model, tokenizer):
        assert type(loaded).__module__.startswith("transformers_modules."), type(loaded).__module__
    problems = json.load(open(f"{folder}/problems.json"))
    inputs = tokenizer(problems, padding=True, return_tensors="pt")
    found = model.generate(**inputs, num_return_sequences=3, return_dict_in_generate=True)
    programs = [tokenizer.decode_program(ids) for ids in found.sequences]
    model.save_pretrained(f"{folder}/again")
    again = AutoModel.from_pretrained(f"{folder}/again", trust_remote_code=True)
    assert type(again).__name__ == type(model).__name__
    assert torch.equal(again.generate(**inputs, num_return_sequences=3), found.sequences)
    answer = {"programs": programs, "scores": found.sequences_scores.tolist()}
    json.dump(answer, open(f"{folder}/answer.json", "w"))
"""


@pytest.mark.usefixtures("one_thread")
def test_loads_and_generates_the_same_beams_where_the_project_is_not_importable(tmp_path):
    folders, expected = [], []
    for variant, constrained in (("numbers", True), ("frozen bert", False)):
        model, folder = build(variant), tmp_path / variant.replace(" ", "_")
        model.generation_config.update(num_beams=4, max_new_tokens=8)
        model.generation_config.constrained = constrained
        model.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        (folder / "problems.json").write_text(json.dumps(PROBLEMS))
        inputs = tokenizer()(PROBLEMS, padding=True, return_tensors="pt")
        found = model.generate(**inputs, num_return_sequences=3, return_dict_in_generate=True)
        programs = [tokenizer().decode_program(ids) for ids in found.sequences]
        expected.append({"programs": programs, "scores": found.sequences_scores.tolist()})
        folders.append(folder)

    result = run_elsewhere(tmp_path, ELSEWHERE, *folders)

    assert result.returncode == 0, result.stderr
    for folder, answer in zip(folders, expected, strict=True):
        assert json.loads((folder / "answer.json").read_text()) == answer


def test_the_saved_folder_holds_the_code_and_nothing_of_this_machine(tmp_path):
    build().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == CODE
    for name in CODE:
        assert (tmp_path / name).read_text() == (ROOT / "models" / name).read_text()
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_text2math.Text2MathConfig",
        "AutoModel": "modeling_text2math.Text2MathForProgramGeneration",
        "AutoModelForSeq2SeqLM": "modeling_text2math.Text2MathForProgramGeneration",
    }
    saved = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert "tokenization_text2math.Text2MathTokenizer" in saved["auto_map"]["AutoTokenizer"]
    for path in tmp_path.glob("*.json"):
        assert str(ROOT) not in path.read_text() and str(tmp_path) not in path.read_text(), path.name
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]
