import json
import shutil

import numpy as np
import pytest
from PIL import Image
from trained_run import make_run as make_resnet
from trained_text2math import SIZES, base_folder, evaluated_run, make_run, write_problems

import train
from evaluation.options import Options
from evaluation.pipeline import evaluate_run
from evaluation.program_generation import Generator
from evaluation.resnet import Classifier
from evaluation.runs import RunError
from evaluation.scores import score


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_folder(tmp_path_factory)


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def without_time(details):
    """Details of a split without how long its beam searches took."""
    return json.loads(json.dumps(details), object_hook=lambda d: {k: v for k, v in d.items() if k != "seconds"})


def test_splits_evaluated_before_stay_when_another_is_asked_for(base, tmp_path, monkeypatch):
    folder = shutil.copytree(evaluated_run(base), tmp_path / "run")
    before = metrics_of(folder)
    searched, original = [], Generator.generate

    def counted(self, problems, *args, **kwargs):
        searched.append(len(problems))
        return original(self, problems, *args, **kwargs)

    monkeypatch.setattr(Generator, "generate", counted)
    assert evaluate_run(folder, Options(device="cpu", splits=("test",)))
    after = metrics_of(folder)
    assert list(after["evaluation"]["splits"]) == list(before["evaluation"]["splits"])
    for split, details in before["evaluation"]["splits"].items():
        assert without_time(after["evaluation"]["splits"][split]) == without_time(details)
    assert after["metrics"] == before["metrics"]
    assert after["evaluation"]["observations"] == before["evaluation"]["observations"]
    assert sum(searched) < 20  # the errors that are shown, and nothing else


def test_a_split_that_is_evaluated_later_joins_those_before(base, tmp_path):
    folder = make_run(tmp_path / "run", base, steps=5)
    assert evaluate_run(folder, Options(device="cpu", splits=("test",), beams=(1,)))
    assert list(metrics_of(folder)["evaluation"]["splits"]) == ["test"]
    assert evaluate_run(folder, Options(device="cpu", splits=("val",), beams=(1,)))
    content = metrics_of(folder)
    assert list(content["evaluation"]["splits"]) == ["val", "test"]
    assert "errors" in content["evaluation"]["splits"]["val"]  # the one that is looked at closely is now this one
    assert any(sentence.startswith("On validation (60") for sentence in content["evaluation"]["observations"])
    assert len(json.loads((folder / "predictions.json").read_text())) == SIZES["test"]


def test_splits_that_there_are_are_named_where_none_is_the_one_asked_for(base, tmp_path):
    folder = shutil.copytree(evaluated_run(base), tmp_path / "run")
    before = (folder / "metrics.json").read_bytes()
    with pytest.raises(RunError, match="none of the splits dev; they have train, val, test"):
        evaluate_run(folder, Options(device="cpu", splits=("dev",)))
    assert (folder / "metrics.json").read_bytes() == before
    with pytest.raises(RunError, match="none of the splits dev; they have train, val, test"):
        evaluate_run(make_run(tmp_path / "new", base, steps=5), Options(device="cpu", splits=("dev",)))


def test_splits_of_a_classifier_stay_too(tmp_path):
    folder = make_resnet(tmp_path / "bn", tmp_path / "cache", steps=2)
    assert evaluate_run(folder, Options(device="cpu", splits=("val",)))
    before = metrics_of(folder)
    assert evaluate_run(folder, Options(device="cpu", splits=("test",)))
    after = metrics_of(folder)
    assert list(after["evaluation"]["splits"]) == ["val", "test"]
    assert after["evaluation"]["splits"]["val"] == before["evaluation"]["splits"]["val"]
    assert after["evaluation"]["grad_cam"] == before["evaluation"]["grad_cam"]
    assert set(before["evaluation"]["observations"]) < set(after["evaluation"]["observations"])


def test_a_number_that_an_evaluation_no_longer_makes_does_not_outlive_it(tmp_path, monkeypatch):
    folder = make_resnet(tmp_path / "bn", tmp_path / "cache", steps=2)
    content = metrics_of(folder)
    content["metrics"]["val"]["of_training"] = 0.5
    (folder / "metrics.json").write_text(json.dumps(content))
    monkeypatch.setattr("evaluation.resnet.score", lambda *given: with_extra(*given))

    def with_extra(predicted, labels):
        numbers, details = score(predicted, labels)
        return {**numbers, "once": 1.0}, details

    evaluate_run(folder, Options(device="cpu", splits=("val",)))
    assert metrics_of(folder)["metrics"]["val"]["once"] == 1.0
    monkeypatch.setattr("evaluation.resnet.score", score)
    evaluate_run(folder, Options(device="cpu", splits=("val",), force=True))
    numbers = metrics_of(folder)["metrics"]["val"]
    assert "once" not in numbers and numbers["of_training"] == 0.5


def test_pictures_replaced_under_their_names_are_predicted_again(tmp_path, monkeypatch):
    pictures = tmp_path / "pictures"
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for name in ("crow", "owl"):
            (pictures / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(
                    pictures / split / name / f"{i}.png"
                )
    small = ["--image_size", "16", "--n", "1", "--widths", "[8, 8, 8]", "--per_device_train_batch_size", "4"]
    short = ["--num_train_epochs", "1", "--warmup_steps", "0", "--disable_tqdm", "true", "--name", "mine"]
    own = ["--path", str(pictures), "--cache_dir", str(tmp_path / "cache"), "--runs", str(tmp_path)]
    assert train.main(["--model", "resnet", *small, *short, *own]) == 0
    folder, predicted, original = tmp_path / "resnet" / "mine", [], Classifier.predict

    def counted(self, split, *rest):
        predicted.append(len(split))
        return original(self, split, *rest)

    monkeypatch.setattr(Classifier, "predict", counted)
    options = Options(device="cpu", splits=("val",))
    assert evaluate_run(folder, options) and not evaluate_run(folder, options)
    Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(pictures / "val" / "owl" / "3.png")
    assert evaluate_run(folder, options) and not evaluate_run(folder, options)
    assert predicted == [8, 8]


def test_problems_that_changed_are_evaluated_again_and_missing_ones_change_nothing(base, tmp_path):
    data = write_problems(tmp_path / "problems")
    held_back = (data / "test.json").rename(tmp_path / "test.json")
    folder = make_run(tmp_path / "run", base, steps=2, data={"path": str(data)})
    options = Options(device="cpu", beams=(1,))
    assert evaluate_run(folder, options) and not evaluate_run(folder, options)
    assert "test" not in metrics_of(folder)["metrics"]
    held_back.rename(data / "test.json")
    assert evaluate_run(folder, options) and not evaluate_run(folder, options)
    assert metrics_of(folder)["metrics"]["test"]["samples"] == SIZES["test"]
    data.rename(tmp_path / "elsewhere")
    assert not evaluate_run(folder, options)
    with pytest.raises(RunError, match="problems"):
        evaluate_run(folder, Options(device="cpu", beams=(1, 2)))
