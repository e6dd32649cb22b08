"""`train.py` as a user meets it: bad input, two runs at once, signals, a kill, several processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import evaluate_all
import train
from tests.two_processes import train_on_two
from training.errors import Terminated

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--image_size", "16", "--num_classes", "3", "--num_train", "64", "--num_val", "21", "--num_test", "9"]
SMALL += ["--widths", "[8,8,8]", "--num_groups", "4", "--per_device_train_batch_size", "8", "--precision", "fp32"]
SMALL += ["--warmup_steps", "2", "--disable_tqdm", "true"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Overrides that make the tiny recipe take a second, with a data cache of their own."""
    cache = tmp_path_factory.mktemp("cache")
    return [*SMALL, "--cache_dir", str(cache)]


def class_folders(root, splits=("train", "val"), classes=("crow", "owl"), images=6):
    for split in splits:
        for label in classes:
            folder = root / split / label
            folder.mkdir(parents=True)
            for i in range(images):
                Image.new("RGB", (20, 18), (i * 40, 80, 90)).save(folder / f"{split}{i}{label}.png")
    return root


def run_main(capsys, *arguments):
    code = train.main([str(a) for a in arguments])
    return code, capsys.readouterr().err.strip()


BAD_INPUT = {
    "no model": ([], "say what to train"),
    "an unknown key": (["--model", "resnet", "--nrom", "gn"], "did you mean 'norm'"),
    "an unknown norm": (["--model", "resnet", "--norm", "gm"], "gm"),
    "n of 0": (["--model", "resnet", "--n", "0"], "n=0"),
    "a word for n": (["--model", "resnet", "--n", "two"], "'n'"),
    "groups that do not divide": (["--model", "resnet", "--norm", "gn", "--num_groups", "7"], "num_groups=7"),
    "a word for a number": (["--model", "resnet", "--learning_rate", "fast"], "learning_rate must be a number"),
    "a missing folder": (["--model", "resnet", "--path", "nowhere"], "nowhere"),
    "a missing recipe": (["--recipe", "nowhere.yaml"], "there is no recipe nowhere.yaml"),
    "r that cannot be drawn": (["--model", "resnet", "--r", "300"], "num_classes must be an integer in"),
    "a metric not measured": (
        ["--model", "resnet", "--early_stopping_patience", "1", "--metric_for_best_model", "val_f2"],
        "'val_f2', which is not measured",
    ),
    "a metric of no split": (
        ["--model", "resnet", "--early_stopping_patience", "1", "--metric_for_best_model", "accuracy"],
        "'accuracy', which is not measured: it must begin with one of train_, val_, such as val_loss",
    ),
    "a token that a card would show": (["--model", "resnet", "--hub_token", "hf_abc"], "unknown option --hub_token"),
    "a name that leads out": (["--model", "resnet", "--name", "../birds"], "must be a folder below"),
    "no epochs": (["--model", "resnet", "--num_train_epochs", "0"], "num_train_epochs must be more than 0"),
    "half a pixel": (["--model", "resnet", "--crop_padding", "2.5"], "crop_padding must be an integer"),
    "no batch a step": (["--model", "resnet", "--gradient_accumulation_steps", "0"], "must be 1 or more, not 0"),
    "a misspelt optimiser setting": (
        ["--model", "resnet", "--optim", "sgd", "--optim_args", "momntum=0.9"],
        "optim_args names 'momntum'",
    ),
    "a misspelt group": (["--model", "resnet", "--lr_multipliers", "{gaet: 3}"], "lr_multipliers names 'gaet'"),
    "no clipping by null": (
        ["--model", "resnet", "--max_grad_norm", "null"],
        "max_grad_norm must be a number, not null",
    ),
    "half a seed": (["--model", "resnet", "--seed", "1.5"], "seed must be an integer, not 1.5"),
    "a number for groups": (["--model", "resnet", "--lr_multipliers", "3"], "must be a mapping of numbers, not 3"),
    "a number for a pair": (["--model", "resnet", "--crop_area", "0.5"], "must be a list of numbers or null, not 0.5"),
    "a word in a pair": (["--model", "resnet", "--crop_area", "[a, 1]"], "must be a list of numbers or null, not ['a'"),
    "a word for a group": (["--model", "resnet", "--lr_multipliers", "{gate: ten}"], "must be a mapping of numbers"),
    "an empty batch": (["--model", "resnet", "--per_device_train_batch_size", "0"], "batch_size must be 1 or more"),
    "no name": (["--model", "resnet", "--name", ""], "the run's name is ''"),
    "growing weights": (["--model", "resnet", "--weight_decay", "-0.1"], "weight_decay must be 0 or more, not -0.1"),
    "no such sampler": (
        ["--model", "resnet", "--train_sampling_strategy", "shuffled"],
        "train_sampling_strategy must be one of random, sequential, group_by_length, not 'shuffled'",
    ),
    "a checkpoint of one's own": (["--model", "resnet", "--resume_from_checkpoint", "x"], "unknown option"),
    "smoothing of soft labels": (
        ["--model", "resnet", "--label_smoothing_factor", "0.1"],
        "label_smoothing_factor is not used here: set model.label_smoothing",
    ),
    "a setting without a value": (
        ["--model", "resnet", "--optim", "sgd", "--optim_args", "momentum"],
        "optim_args must be name=value pairs, not 'momentum'",
    ),
    "a logger that is not installed": (["--model", "resnet", "--report_to", "comet_ml"], "comet"),
    "an optimiser that is not installed": (["--model", "resnet", "--optim", "adamw_bnb_8bit"], "bitsandbytes"),
    "a setting of no schedule": (
        ["--model", "resnet", "--lr_scheduler_kwargs", "{min_lr_rat: 0.01}"],
        "unexpected keyword argument 'min_lr_rat'",
    ),
    "weights rounded to evaluate": (["--model", "resnet", "--bf16_full_eval", "true"], "unknown option"),
    "too many processes asked for": (["--model", "resnet", "--processes", "4"], "1 process(es) were started, not 4"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_clear_error_and_leaves_nothing(case, capsys, tmp_path, small, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD_INPUT[case]
    if "--model" in arguments:
        own = {a for a in arguments if a.startswith("--")}
        pairs = zip(small[::2], small[1::2], strict=True)
        arguments = [*arguments, *(x for pair in pairs if pair[0] not in own for x in pair)]
    code, error = run_main(capsys, *arguments, "--runs", tmp_path / "runs")
    assert code == 2
    last = error.splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.yaml")) and not list(tmp_path.rglob("*.safetensors"))


def test_folders_that_cannot_be_used_are_named(capsys, tmp_path):
    common = ["--model", "resnet", "--image_size", "16", "--runs", tmp_path / "runs", "--cache_dir", tmp_path / "c"]
    empty = tmp_path / "empty"
    empty.mkdir()
    code, error = run_main(capsys, *common, "--path", empty)
    assert code == 2 and str(empty) in error
    birds = class_folders(tmp_path / "birds")
    code, error = run_main(capsys, *common, "--path", birds, "--r", "5")
    assert code == 2 and "(--r) is 5" in error and "has 2 classes: --r 2" in error
    (birds / "train" / "wren").mkdir()
    code, error = run_main(capsys, *common, "--path", birds)
    assert code == 2 and "wren" in error
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("recipe.yaml"))


def test_own_class_folders_train_and_load_back(capsys, tmp_path):
    birds = class_folders(tmp_path / "birds")
    code, error = run_main(
        capsys, "--model", "resnet", "--path", birds, "--image_size", "16", "--runs", tmp_path, "--name", "mine",
        "--cache_dir", tmp_path / "c", "--num_train_epochs", "1", "--per_device_train_batch_size", "4",
        "--warmup_steps", "0", "--learning-rate=1e-2",
    )  # fmt: skip
    assert code == 0, error
    folder = tmp_path / "resnet" / "mine"
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder)
    assert model.config.id2label == {0: "crow", 1: "owl"}
    assert "learning_rate: 0.01" in (folder / "recipe.yaml").read_text()
    assert (folder / "README.md").is_file() and (folder / "modeling_resnet.py").is_file()
    code, _ = run_main(capsys, "--recipe", folder / "recipe.yaml", "--runs", tmp_path / "again", "--name", "mine")
    assert code == 0, "the resolved recipe is a recipe"
    again = load_file(tmp_path / "again" / "resnet" / "mine" / "model.safetensors")
    assert all(torch.equal(v, again[k]) for k, v in load_file(folder / "model.safetensors").items())


def test_a_study_runs_all_and_skips_what_has_finished(capsys, tmp_path, small):
    study = tmp_path / "norms"
    study.mkdir()
    for norm in ("bn", "none"):
        text = f"model_family: resnet\nmodel: {{norm: {norm}, n: 1}}\ntraining: {{num_train_epochs: 1}}\n"
        (study / f"{norm}.yaml").write_text(text)
    call = ["--recipe", study, "--runs", tmp_path / "runs", *small]
    assert run_main(capsys, *call)[0] == 0
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs" / "resnet" / "norms").rglob("model.safetensors")}
    assert {p.parent.name for p in written} == {"bn", "none"}
    assert run_main(capsys, *call)[0] == 0
    assert {p: p.stat().st_mtime_ns for p in written} == written


def test_a_study_goes_on_after_a_run_that_cannot_be_trained(capsys, tmp_path, small):
    study = tmp_path / "norms"
    study.mkdir()
    for name, model in (("a", "{norm: ln, num_channels: 1, n: 1}"), ("b", "{norm: bn, n: 1}")):
        text = f"model_family: resnet\nmodel: {model}\ntraining: {{num_train_epochs: 1}}\n"
        (study / f"{name}.yaml").write_text(text)
    code, error = run_main(capsys, "--recipe", study, "--runs", tmp_path / "runs", *small)
    assert code == 2 and "error in norms/a: " in error and error.endswith("1 of 2 runs failed: norms/a")
    assert [p.parent.name for p in (tmp_path / "runs").rglob("metrics.json")] == ["b"]


def test_a_study_of_two_processes_ends_with_a_run_that_one_of_them_cannot_begin(tmp_path, small):
    """The other has not failed: it would train the first run into the folder of the second."""
    study = tmp_path / "norms"
    study.mkdir()
    for name in ("a", "b"):
        text = "model_family: resnet\nmodel: {norm: bn, n: 1}\ntraining: {num_train_epochs: 1}\n"
        (study / f"{name}.yaml").write_text(text)
    thesis = tmp_path / "runs" / "resnet" / "norms" / "a" / "thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    call = ["--recipe", study, "--runs", tmp_path / "runs", *small]
    said = train_on_two(list(map(str, call)), ("resnet",), code=2)
    assert "is not empty" in said and not (tmp_path / "runs" / "resnet" / "norms" / "b").exists()


def test_other_settings_for_a_finished_run_are_an_error(capsys, tmp_path, small):
    call = ["--model", "resnet", "--runs", tmp_path, "--num_train_epochs", "1", *small]
    assert run_main(capsys, *call)[0] == 0
    code, error = run_main(capsys, *call, "--norm", "gn")
    assert code == 2 and "holds another experiment (model.norm: 'gn', was 'bn')" in error
    assert run_main(capsys, *call, "--norm", "gn", "--overwrite")[0] == 0
    assert "norm: gn" in (tmp_path / "resnet" / "tiny" / "recipe.yaml").read_text()


def test_a_stopped_run_that_overwrites_says_how_to_go_on(capsys, tmp_path, small, monkeypatch):
    def stopped(*args, **kwargs):
        raise Terminated(15, 4)

    monkeypatch.setattr(train, "execute", stopped)
    code, error = run_main(capsys, "--model", "resnet", "--runs", tmp_path, "--overwrite", *small)
    assert code == 143 and error.endswith("run the same command again to resume, without --overwrite")


def test_a_dry_run_prints_the_cost_and_writes_nothing(capsys, tmp_path, small):
    assert train.main(["--model", "resnet", "--dry-run", "--runs", str(tmp_path / "runs"), *small]) == 0
    said = capsys.readouterr().out
    assert said.startswith("NO RECIPE GIVEN: training resnet for minutes on EMBEDDED data (tiny.yaml).")
    for word in ("parameters", "memory a step", "at batch 8\n", "expected"):
        assert word in said
    assert re.search(r"steps +112\n", said)  # 14 epochs of 64 / 8
    share = ["--eval_strategy", "steps", "--eval_steps", "0.25"]  # of all steps
    assert train.main(["--model", "resnet", "--dry-run", *share, *small]) == 0
    code, error = run_main(capsys, "--model", "resnet", "--dry-run", *small, "--per_device_train_batch_size", "500")
    assert code == 2 and "fewer than one batch of 500" in error
    capsys.readouterr()
    code = train.main(["--model", "resnet", "--dry-run", "--path", str(tmp_path / "nowhere")])
    assert "tiny.yaml trains resnet for minutes, meant for EMBEDDED data" in capsys.readouterr().out and code == 2
    assert train.main(["--model", "resnet", "--dry-run", "--gradient_accumulation_steps", "3", *small]) == 0
    said = capsys.readouterr().out
    assert "at batch 8 times 3\n" in said and re.search(r"steps +42\n", said)  # 3, 3 and 2 batches an epoch
    assert not list(tmp_path.rglob("*"))


def start(arguments, processes=None, **environment):
    command = [sys.executable, "train.py"]
    if processes:
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            f"--nproc_per_node={processes}",
            "--master_port=29541",
        ]
        command.append("train.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.Popen(
        [*command, *map(str, arguments)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def wait_for(condition, process, seconds=90):
    deadline = time.time() + seconds
    while not condition():
        assert process.poll() is None, f"ended early: {process.stderr.read()}"
        assert time.time() < deadline, "waited too long"
        time.sleep(0.02)


def test_signals_a_kill_and_a_second_run_lose_nothing(capsys, tmp_path, small):
    """SIGTERM saves and exits with 143; kill -9 at any moment leaves a run that resumes to the same weights."""
    call = ["--model", "resnet", *small, "--save_strategy", "steps", "--save_steps", "3", "--num_train_epochs", "40"]
    call += ["--eval_strategy", "no"]
    runs = tmp_path / "runs"
    checkpoints = runs / "resnet" / "tiny" / "checkpoints"
    process = start([*call, "--runs", runs])
    wait_for(lambda: checkpoints.is_dir() and any(checkpoints.glob("checkpoint-*")), process)
    code, error = run_main(capsys, *call, "--runs", runs)
    assert code == 2 and "another run or evaluation is writing to" in error
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 143, stderr
    assert "run the same command again to resume" in stderr
    stopped_at = max(int(p.name.split("-")[1]) for p in checkpoints.glob("checkpoint-*"))

    process = start([*call, "--runs", runs])
    wait_for(lambda: any(int(p.name.split("-")[1]) > stopped_at + 5 for p in checkpoints.glob("checkpoint-*")), process)
    process.kill()
    process.communicate()
    assert run_main(capsys, *call, "--runs", runs)[0] == 0
    assert run_main(capsys, *call, "--runs", tmp_path / "whole")[0] == 0
    pair = [load_file(r / "resnet" / "tiny" / "model.safetensors") for r in (runs, tmp_path / "whole")]
    assert all(torch.equal(value, pair[1][name]) for name, value in pair[0].items())


def test_two_processes_give_what_one_gives(tmp_path, small, capsys):
    """Same global batch, synchronised batch norm: the same curve, and metrics over every sample exactly once."""
    call = ["--model", "resnet", *small, "--sync_norm", "true", "--num_train_epochs", "2", "--learning_rate", "0.02"]
    call += ["--per_device_eval_batch_size", "5"]
    batch = call.index("--per_device_train_batch_size") + 1
    assert run_main(capsys, *call, "--runs", tmp_path / "one")[0] == 0
    call[batch] = "4"
    process = start(
        [*call, "--runs", tmp_path / "two", "--processes", 2], processes=2, GLOO_SOCKET_IFNAME="lo",
        ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    stderr = process.communicate(timeout=200)[1]
    assert process.returncode == 0, stderr
    facts = [json.loads((tmp_path / n / "resnet" / "tiny" / "metrics.json").read_text()) for n in ("one", "two")]
    assert facts[1]["training"]["processes"] == 2
    for split, samples in {"train": 64, "val": 21, "test": 9}.items():  # 21 and 9 do not divide by 2 processes
        one, two = (f["metrics"][split] for f in facts)
        assert one["accuracy"] * samples == pytest.approx(round(one["accuracy"] * samples)), "not of all samples"
        assert one["accuracy"] == pytest.approx(two["accuracy"], abs=1e-9)
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
    pair = [load_file(tmp_path / n / "resnet" / "tiny" / "model.safetensors") for n in ("one", "two")]
    for name, value in pair[0].items():
        assert torch.allclose(value.float(), pair[1][name].float(), atol=1e-4), name


def test_what_the_audit_finds_is_shown_in_training_and_in_the_report_but_not_published(capsys, tmp_path):
    birds = tmp_path / "birds"
    for index, path in enumerate(
        f"{s}/{c}/{i}.png" for s in ("train", "val") for c in ("crow", "owl") for i in range(6)
    ):
        (birds / path).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((20, 18), 30 + index).save(birds / path)
    (birds / "train" / "owl" / "broken.png").write_text("no picture")
    shutil.copy(birds / "val" / "crow" / "0.png", birds / "train" / "crow" / "twice.png")
    call = ["--model", "resnet", "--path", birds, "--image_size", "16", "--runs", tmp_path, "--name", "mine"]
    call += ["--cache_dir", tmp_path / "c", "--num_train_epochs", "1", "--per_device_train_batch_size", "4"]
    code, said = run_main(capsys, *call, "--bad_files", "skip", "--leakage", "drop")
    assert code == 0 and "bad: train/owl/broken.png: " in said, said
    assert re.search(r"in two splits: (val/crow/0.png = )?train/crow/twice.png( = val/crow/0.png)?\n", said)
    folder = tmp_path / "resnet" / "mine"
    assert evaluate_all.main([str(folder)]) == 0
    report = (folder / "report.html").read_text()
    assert "train/owl/broken.png" in report and "train/crow/twice.png" in report and "Images of every class" in report
    counts = json.loads((folder / "metrics.json").read_text())["evaluation"]["data"]
    assert counts["bad_files"] == counts["exact_across"] == counts["dropped"] == 1
    assert "the audit found 1 unusable files" in (folder / "README.md").read_text()
    assert "broken.png" not in (folder / "metrics.json").read_text() + (folder / "README.md").read_text()


def test_data_that_have_changed_since_a_run_began_are_an_error(capsys, tmp_path):
    birds = class_folders(tmp_path / "birds", splits=("train",), images=12)
    call = ["--model", "resnet", "--path", birds, "--image_size", "16", "--runs", tmp_path, "--name", "mine"]
    call += ["--cache_dir", tmp_path / "c", "--num_train_epochs", "1", "--per_device_train_batch_size", "4"]
    assert run_main(capsys, *call)[0] == 0
    folder = tmp_path / "resnet" / "mine"
    assert json.loads((folder / "data.json").read_text())["val"]["samples"] == 4
    Image.new("RGB", (20, 18), (7, 80, 90)).save(birds / "train" / "crow" / "another.png")
    assert evaluate_all.main([str(folder)]) == 1
    assert "the data have changed since this run began: " in capsys.readouterr().err
    (folder / "metrics.json").unlink()  # as a run that was interrupted
    code, error = run_main(capsys, *call)
    assert code == 2 and "the data have changed since this run began: " in error
    (birds / "train" / "crow" / "another.png").unlink()
    assert run_main(capsys, *call)[0] == 0 and evaluate_all.main([str(folder)]) == 0
