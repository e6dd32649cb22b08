import json
import re
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard
from trained_text2math import base_folder, evaluated_run, make_run

from evaluation.card import write_card
from evaluation.runs import load_run
from models.programs import parse


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return evaluated_run(base_folder(tmp_path_factory))


def test_the_card_loads_back_with_the_models_numbers_and_not_the_lookups(trained):
    card = ModelCard.load(trained / "README.md")
    content = load_run(trained).metrics["metrics"]
    measured = {(r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert len(measured) == 9
    assert measured["validation", "exact_match"] == pytest.approx(content["val"]["exact_match"], abs=1e-6)
    assert measured["test", "execution_accuracy"] == pytest.approx(content["test"]["execution_accuracy"], abs=1e-6)
    assert {r.dataset_name for r in card.data.eval_results} == {"MathQA"}
    assert "Look-up: exact match, novel problems" in card.text and "bootstrap over problems" in card.text


def test_the_python_of_the_card_runs(trained):
    (code,) = re.findall(r"```python\n(.*?)```", (trained / "README.md").read_text(), flags=re.S)
    said = []
    code = code.replace(f'"{trained.name}"', repr(str(trained))).replace(", trust_remote_code=True", "")
    exec(compile(code, "card", "exec"), {"print": said.append})
    assert parse(said[0])
    assert len(code.partition("\n\n")[0].splitlines()) == 3


def test_a_run_that_was_only_trained_has_a_card(tmp_path_factory, tmp_path):
    base = base_folder(tmp_path_factory)
    folder = make_run(tmp_path / "new", base, data={"num_train": 100, "num_dev": 20, "num_test": 20}, steps=2)
    card = ModelCard.load(write_card(folder))
    assert {r.dataset_name for r in card.data.eval_results} == {"generated word problems"}
    assert "says nothing about problems that people write" in card.text and "In brackets" not in card.text
    assert "Loss of a token, Exact match" in card.text and (folder / "figures" / "curves.png").is_file()


def test_the_card_says_by_which_search_its_numbers_are(trained, tmp_path):
    text = (trained / "README.md").read_text()
    assert (
        "95 % intervals (Wilson, of token match by bootstrap over problems; programs by beam search with 10 beams)"
        in text.replace("\u00a0", " ")
    )
    folder = shutil.copytree(trained, tmp_path / "copy")
    content = json.loads((folder / "metrics.json").read_text())
    (part := dict(content["evaluation"]))["splits"] = {"test": {}}  # the others' numbers are then training's
    (folder / "metrics.json").write_text(json.dumps({**content, "evaluation": content["evaluation"] | part}))
    assert "those of greedy search (train, val) and beam search with 10 beams (test)." in write_card(folder).read_text()
    del content["evaluation"]
    (folder / "metrics.json").write_text(json.dumps(content))
    assert "The numbers above are those of greedy search." in write_card(folder).read_text()


@pytest.mark.parametrize("choice", [None, "load_best_model_at_end", "early_stopping_patience"])
def test_validation_is_said_to_be_optimistic_where_it_chose_the_epoch(trained, tmp_path, choice):
    folder = shutil.copytree(trained, tmp_path / "copy")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["training"] |= {choice: 3} if choice else {}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert ("optimistic" in write_card(folder).read_text()) == bool(choice)


def test_sources_follow_the_model(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "copy")
    assert "Luong" in write_card(folder).read_text() and "Bahdanau" not in write_card(folder).read_text()
    config = (folder / "config.json").read_text().replace('"multiplicative"', '"additive"')
    (folder / "config.json").write_text(config)
    assert "Bahdanau" in write_card(folder).read_text()


def test_the_card_gives_away_no_path_and_no_gallery(trained):
    text = (trained / "README.md").read_text()
    assert "/tmp" not in text and not re.search(r"galleries|report\.html|predictions[/.]", text)
