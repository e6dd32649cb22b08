"""A small text-to-program model, trained for a moment on simple problems, in a run folder as `train.py` leaves it. The
first call of a session trains, later ones copy."""

import json
import random
import shutil
from pathlib import Path

import pandas as pd
import torch
import yaml

from data.mathqa import MathQAData, load_mathqa
from evaluation.options import Options
from evaluation.pipeline import evaluate_run
from models import Text2MathConfig, Text2MathForProgramGeneration, Text2MathTokenizer
from models.programs import execute

SIZES = {"train": 240, "dev": 60, "test": 30}
MODEL = {
    "encoder": "lstm",
    "embedding_size": 32,
    "hidden_size": 48,
    "max_program_length": 24,
    "dropout": 0.0,
    "pointer": True,
}
THINGS = ("apples", "pears", "pens", "books", "coins", "cups", "maps", "keys", "rings", "nuts", "bags", "toys")
PEOPLE = ("ann", "bob", "eve", "tom", "sue", "max", "ida", "leo")
TEMPLATES = (
    ("{p} has {a} {t} and gets {b} more . how many {t} now ?", "add(n0,n1)|"),
    ("{p} has {a} {t} and loses {b} . how many {t} are left ?", "subtract(n0,n1)"),
    ("{p} fills {a} boxes with {b} {t} each . how many {t} ?", "multiply(n0,n1)|"),
    ("{p} shares {a} {t} among {b} friends . how many {t} each ?", "divide(n0,n1)|"),
    ("{t} cost {a} with {b} % off . what does {p} pay ?", "multiply(n0,n1)|divide(#0,const_100)|subtract(n0,#1)|"),
    ("a garden of {p} is {a} by {b} . how long is the fence ?", "rectangle_perimeter(n0,n1)|"),
)


def write_problems(folder: Path) -> Path:
    """train.json, dev.json and test.json of 6 kinds of problems; half of dev has twins in train."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, size in SIZES.items():
        draw = random.Random(split)
        records = []
        for number in range(size):
            text, program = TEMPLATES[number % len(TEMPLATES)]
            things = THINGS if split == "train" else THINGS[::-1][: 4 + number % 8]
            a, b = draw.randint(20, 900), draw.randint(2, 19)
            problem = text.format(p=draw.choice(PEOPLE), t=draw.choice(things), a=a, b=b)
            answer = round(execute(program, problem), 6)
            records.append({"Problem": problem, "linear_formula": program, "answer": answer})
        (folder / f"{split}.json").write_text(json.dumps(records))
    return folder


def history(values: list[float], splits: tuple[str, ...] = ("train", "val")) -> pd.DataFrame:
    """A history with the given exact match, one an epoch; train is 0.05 above."""
    rows = []
    for epoch, value in enumerate(values, 1):
        for split in splits:
            exact = value + 0.05 * (split == "train")
            rows.append({"step": 20 * epoch, "epoch": epoch, "split": split, "loss": 1 - value, "exact_match": exact})
    table = pd.DataFrame(rows, columns=["step", "epoch", "split", "loss", "exact_match"])
    return table.assign(token_match=table["exact_match"] + 0.1, execution_accuracy=table["exact_match"] + 0.02)


def train(folder: Path, data: dict, model_fields: dict, steps: int) -> None:
    """Weights and tokenizer of a model trained for `steps` steps of 32 problems."""
    rows = load_mathqa(MathQAData(**data))["train"]
    tokenizer = Text2MathTokenizer.from_problems(rows["problem"], min_frequency=1)
    torch.manual_seed(0)
    model = Text2MathForProgramGeneration(Text2MathConfig(**tokenizer.model_fields(), **model_fields)).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=4e-3)
    problems, programs = list(rows["problem"]), list(rows["program"])
    for step in range(steps):
        start = step * 32 % (len(problems) - 31)
        batch = tokenizer(problems[start : start + 32], padding=True, return_tensors="pt")
        ids = [torch.tensor(tokenizer.encode_program(program)[1:]) for program in programs[start : start + 32]]
        labels = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-100)
        loss = model(batch["input_ids"], batch["attention_mask"], labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_run(folder: Path, base: Path, steps: int = 27, data: dict | None = None, **fields) -> Path:
    """A run in `folder`; problems, weights and the data's cache are kept in `base`, to be used again.

    `data` None stands for the problems of `write_problems`; else they are the fields of the recipe's group.
    """
    if data is None:
        problems = base / "mathqa"
        data = {"path": str(problems if problems.is_dir() else write_problems(problems))}
    data = {**data, "cache_dir": str(base / "cache")}
    fields = {**MODEL, **fields}
    kept = base / f"model-{abs(hash(json.dumps([steps, data, fields], sort_keys=True)))}"
    if not kept.is_dir():
        train(kept, data, fields, steps)
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    recipe = {
        "model_family": "text2math",
        "name": f"study/{folder.name}",
        "model": fields,
        "data": data,
        "training": {"learning_rate": 0.01, "per_device_train_batch_size": 32, "teacher_forcing": 0.9},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    history([0.1, 0.3, 0.2]).to_csv(folder / "history.csv", index=False)
    training = {"seconds": 12.5, "epochs": 3, "steps": steps, "parameters": 60000, "device": "cpu"}
    training |= {"machine": "m", "command": "train.py"}
    metrics = {"val": {"loss": 1.2, "exact_match": 0.2, "token_match": 0.4, "execution_accuracy": 0.22}}
    content = {"model": "text2math", "name": recipe["name"], "metrics": metrics, "training": training}
    (folder / "metrics.json").write_text(json.dumps(content))
    return folder


def base_folder(tmp_path_factory) -> Path:
    """Where a session keeps what its test modules share."""
    base = tmp_path_factory.getbasetemp() / "text2math"
    base.mkdir(exist_ok=True)
    return base


def evaluated_run(base: Path) -> Path:
    """A run that was evaluated with 1, 4 and 10 beams, made once a session: copy it before changing it."""
    folder = base / "runs" / "attention"
    if not (folder / "report.html").is_file():
        evaluate_run(make_run(folder, base), Options(device="cpu", beams=(1, 4, 10)))
    return folder
