import json
import re
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard
from trained_run import make_run

from evaluation.card import write_card
from evaluation.runs import RunError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "bn", tmp_path_factory.mktemp("cache"), steps=1)


def test_the_card_of_a_run_that_was_only_trained_loads_back(trained):
    path = write_card(trained)
    card = ModelCard.load(path)
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "transformers")
    assert card.data.pipeline_tag == "image-classification" and "norm-bn" in card.data.tags
    results = {(r.dataset_split, r.metric_name): r.metric_value for r in card.data.eval_results}
    assert results["validation", "Accuracy"] == 0.4 and results["validation", "Macro F1"] == 0.39
    assert {r.dataset_name for r in card.data.eval_results} == {"generated pictures"}
    assert (trained / "figures" / "curves.png").is_file() and "(figures/curves.png)" in card.text


def test_metadata_survives_a_second_round(trained):
    card = ModelCard.load(write_card(trained))
    again = ModelCard(str(card))
    assert again.data.to_dict() == card.data.to_dict()
    assert again.data.model_name == "resnet-study-bn"


def test_tables_are_markdown_tables(trained):
    text = write_card(trained).read_text()
    assert "| | val |\n|---|---|\n| Accuracy |" in text
    assert "\n\n\n" not in text


def test_the_card_states_intervals_and_observations_once_there_are_some(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert "In brackets" not in write_card(trained).read_text()
    metrics["metrics"]["val"] |= {"accuracy_interval": [0.31, 0.49], "samples": 100}
    metrics["evaluation"] = {"observations": ["Something is 4."]}
    (trained / "metrics.json").write_text(json.dumps(metrics))
    text = write_card(trained).read_text().replace("\u00a0", " ")
    assert "40.0 % (31.0 to 49.0 %)" in text and "- Something is 4." in text and "rests on 100 images" in text


def test_the_card_gives_away_no_path_of_this_machine(trained):
    text = write_card(trained).read_text()
    assert str(trained.parent) not in text and "/tmp" not in text
    assert not re.search(r"\]\(/|galleries|report\.html", text)


def test_of_paths_in_recipe_and_command_the_last_part_is_shown(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "copy")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["data"] |= {"path": "/home/someone/birds6.tar", "cache_dir": "../cache"}
    recipe["training"] = {**recipe.get("training", {}), "vae_recipe": "/opt/recipes/tiny.yaml"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["training"]["command"] = "train.py --recipe recipes/x.yaml --path '/home/someone/my birds' --runs ../runs"
    (folder / "metrics.json").write_text(json.dumps(metrics))
    text = write_card(folder).read_text()
    assert "| `path` | birds6.tar |" in text and "| `vae_recipe` | tiny.yaml |" in text
    assert "train.py --recipe recipes/x.yaml --path 'my birds' --runs runs\n" in text
    assert not re.search(r"/home|/opt|\.\./", text)


def test_a_run_evaluated_once_keeps_no_picture_of_curves_and_one_without_a_history_keeps_its_own(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    picture, lines = folder / "figures" / "curves.png", (folder / "history.csv").read_text().splitlines(keepends=True)
    write_card(folder)
    (folder / "history.csv").rename(tmp_path / "history.csv")
    write_card(folder)
    assert picture.is_file()
    once = [line for line in lines if line.startswith(("step,", lines[1].split(",")[0] + ","))]
    (folder / "history.csv").write_text("".join(once))
    assert "(figures/curves.png)" not in write_card(folder).read_text() and not picture.exists()


def test_the_python_of_the_card_is_python(trained):
    (code,) = re.findall(r"```python\n(.*?)```", write_card(trained).read_text(), flags=re.S)
    compile(code, "card", "exec")
    assert len(code.strip().splitlines()) == 3 and "trust_remote_code=True" in code


def test_an_unknown_family_is_an_error(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model_family: perceptron\n")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RunError, match="perceptron"):
        write_card(tmp_path)
