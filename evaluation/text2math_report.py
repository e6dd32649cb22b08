"""What the report on a run of the text-to-program family says and shows."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from . import figures, sections, text2math_figures
from .program_details import SPLIT_ORDER
from .program_errors import KINDS
from .report import (
    NO_VALUE,
    Cell,
    Figures,
    Report,
    Section,
    Sheet,
    Table,
    Text,
    interval,
    percent,
)
from .runs import Run, write_atomically, write_json
from .sections import size_of, trained_for
from .text2math_observations import FEW, close_split, is_carved, observe_run

PANELS = (
    ("loss", "Loss of a token"),
    ("exact_match", "Exact match"),
    ("execution_accuracy", "Execution accuracy"),
    ("token_match", "Token match"),
)
ATTENTION_FIGURES = ("attention_right.png", "attention_wrong.png")  # made of generated problems only
FIRST_SHEET = "attention_1.png"
PUBLISHED_FIGURES = (
    "curves.png",
    "exact_match.png",
    "execution_accuracy.png",
    "by_length.png",
    "by_operation.png",
    "beams.png",
    "calibration.png",
    *ATTENTION_FIGURES,
)
ENCODERS = {"lstm": "bidirectional LSTM encoder", "bert": "BERT encoder"}
MEASURES = {"exact_match": "Exact match", "execution_accuracy": "Execution accuracy", "token_match": "Token match"}


def observe(run: Run) -> list[str]:
    """The sentences of the report and the card."""
    return observe_run(run)


def data_name(run: Run) -> str:
    """The data set by its last path component, or the generator's problems."""
    return sections.data_name(run, "generated word problems")


def split_name(run: Run, split: str) -> str:
    """A split in a table: `val` is dev.json unless another part was carved for it."""
    if split == "val":
        return "validation (carved from train)" if is_carved(run) else "validation"
    return {"train": "train (sample)"}.get(split, split)


def describe(run: Run) -> str:
    """One sentence: which network, on what, for how long."""
    config = run.config
    frozen = "frozen " if config.get("freeze_encoder") else ""
    encoder = f"{frozen}{ENCODERS.get(config.get('encoder'), config.get('encoder'))}"
    kind = config.get("attention_type", "")
    attention = f"with {kind} attention" if config.get("attention") else "without attention"
    extras = [n.replace("_", " ") for n in ("pointer", "quantity_embeddings", "input_feeding") if config.get(n)]
    size, how = size_of(run), trained_for(run)
    return (
        f"Word problems to programs: {encoder}, LSTM decoder {attention}"
        f"{''.join(f', {extra}' for extra in extras)}{size}; {data_name(run)}{how}."
    )


def number_figures(run: Run) -> dict[str, Figure]:
    """The figures without any problem in them, by file name. (The card draws the curves.)"""
    split = close_split(run)
    if split is None:
        return {}
    details, numbers = run.evaluation["splits"][split], run.metrics["metrics"][split]
    made = {}
    lookup = details.get("lookup", {})
    if lookup:
        rows = [("all problems", numbers, _of_lookup(numbers))]
        for name, label in (("seen", "seen in train"), ("novel", "novel")):
            part = details["parts"].get("by_novelty", {}).get(name)
            if part:
                rows.append((label, part, lookup.get("by_novelty", {}).get(name)))
        for metric in ("exact_match", "execution_accuracy"):
            made[metric] = text2math_figures.against_lookup(rows, metric)
    lengths = details["parts"].get("by_operations", {})
    if lengths:
        made["by_length"] = text2math_figures.by_length(lengths, lookup.get("by_operations", {}))
    operations = [
        {"label": name, "recall": part["exact_match"], "support": part["samples"]}
        | dict(zip(("low", "high"), part["exact_match_interval"], strict=True))
        for name, part in details["parts"].get("by_operation", {}).items()
        if part["samples"] >= FEW
    ]
    if operations:
        made["by_operation"] = figures.recall_per_class(operations, "exact match of programs with it")
    if len(details.get("beams") or {}) > 1:
        made["beams"] = text2math_figures.beams(details["beams"])
    if details.get("calibration"):
        error, bins = details["calibration"]["error"], details["calibration"]["bins"]
        made["calibration"] = figures.reliability(bins, error, "probability of the program")
    return made


def _of_lookup(numbers: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("lookup_"): value for key, value in numbers.items() if key.startswith("lookup_")}


def build_report(run: Run, pictures: dict[str, Any]) -> Report:
    """The whole report of one run. `pictures` are the attention maps and errors from `text2math.evaluate`."""
    made = number_figures(run)
    split = close_split(run)
    details = (run.evaluation.get("splits") or {}).get(split, {})
    parts = [
        Section("Results", [results_table(run)]),
        Section("Observations", [Text(run.evaluation.get("observations") or [], listed=True)]),
        Section(
            "Learning curves",
            sections.learning_curves([figures.Curve(run.folder.name, figures.BLUE, run.history)], PANELS),
        ),
        Section("Beside the look-up", _lookup(made)),
        Section("Length and operations", _parts(details, made)),
        Section("Beam search", _beams(run, made)),
        Section("Errors", _errors(details, pictures)),
        Section("Calibration", _calibration(made)),
        Section("Attention", _attention(pictures)),
        Section("Set-up", sections.setup(run)),
    ]
    return Report(
        title=run.name,
        kicker="Text to program · evaluation of one run",
        lead=describe(run),
        headline=_headline(run, split),
        sections=sections.filled(parts),
        footer=sections.footer(run, "Problems"),
    )


def _headline(run: Run, split: str | None) -> list[tuple[str, str, str]]:
    if split is None:
        return []
    numbers = run.metrics["metrics"][split]
    where = split_name(run, split).partition(" (")[0]
    rows = [("exact_match", "Exact match"), ("execution_accuracy", "Execution accuracy")]
    found = [(f"{name}, {where}", percent(numbers[key]), interval(numbers[f"{key}_interval"])) for key, name in rows]
    for key, name in (("novel_exact_match", "Exact match, novel"), ("lookup_exact_match", "Look-up, exact match")):
        if key in numbers:
            found.append((name, percent(numbers[key]), interval(numbers[f"{key}_interval"])))
    return found


def results_table(run: Run) -> Table:
    """Every metric on every split with intervals, of all and of novel problems, and the look-up's below each."""
    rows = []
    for split, numbers in (run.metrics.get("metrics") or {}).items():
        if "exact_match_interval" not in numbers:
            continue
        name = split_name(run, split)
        labels = {"": name, "novel_": f"{name}, novel", "unseen_": f"{name}, novel to the carved part too"}
        for prefix, label in labels.items():
            if f"{prefix}exact_match" in numbers:
                rows.append(_row(label, numbers, prefix))
            for kind, words in (("lookup_", "look-up"), ("lookup_whole_", "look-up with the carved part")):
                if f"{kind}{prefix}exact_match" in numbers:
                    rows.append(_row(f"{words}, {label}", numbers, f"{kind}{prefix}"))
    beams = run.evaluation.get("main_beams")
    return Table(
        ["Split", *MEASURES.values(), "Programs", "With a value", "Loss", "Problems"],
        rows,
        f"Beam search with {beams} {'beam' if beams == 1 else 'beams'}, unconstrained; 95 % intervals: Wilson, of "
        "token match by bootstrap over problems. Novel: no training problem differs from it in numbers only. "
        "Look-up: the program of the training problem that looks most alike, without any learning. Loss: mean "
        "cross-entropy of a gold token.",
    )


def beams_of(run: Run, split: str) -> int:
    """With how many beams the programs behind a split's numbers were found: one, which is greedy, where they are those
    of training."""
    return run.evaluation["main_beams"] if split in (run.evaluation.get("splits") or {}) else 1


def _row(label: str, numbers: dict[str, Any], prefix: str) -> list[Any]:
    measured = [
        Cell(percent(numbers[f"{prefix}{key}"]), interval(numbers.get(f"{prefix}{key}_interval"))) for key in MEASURES
    ]
    plain = prefix == ""
    shares = [percent(numbers.get(key)) if plain else NO_VALUE for key in ("parses", "executes")]
    loss = f"{numbers['loss']:.3f}" if plain and "loss" in numbers else NO_VALUE
    samples = numbers.get(f"{prefix}samples")
    return [label, *measured, *shares, loss, f"{samples:,}" if samples else NO_VALUE]


def _lookup(made: dict[str, Figure]) -> list[Any]:
    shown = [made[key] for key in ("exact_match", "execution_accuracy") if key in made]
    names = [f"{MEASURES[key]} of the model and of the look-up" for key in MEASURES if key in made]
    return [Figures.of(shown, names)] if shown else []


def _parts(details: dict[str, Any], made: dict[str, Figure]) -> list[Any]:
    blocks: list[Any] = []
    shown = {
        "by_length": "Exact match by number of operations",
        "by_operation": "Exact match of programs with each operation",
    }
    present = {key: text for key, text in shown.items() if key in made}
    if present:
        blocks.append(Figures.of([made[key] for key in present], list(present.values())))
    captions = {"by_operations": "By number of operations", "by_operation": "By operation (a problem counts for each)"}
    for part, title in (("by_operations", "Operations of the gold program"), ("by_operation", "Operation")):
        rows = []
        for name, numbers in details.get("parts", {}).get(part, {}).items():
            other = details.get("lookup", {}).get(part, {}).get(name)
            rows.append(
                [
                    name,
                    f"{numbers['samples']:,}",
                    *(Cell(percent(numbers[key]), interval(numbers[f"{key}_interval"])) for key in MEASURES),
                    percent(other["exact_match"]) if other else NO_VALUE,
                ]
            )
        if rows:
            columns = [title, "Problems", *MEASURES.values(), "Look-up, exact"]
            blocks.append(Table(columns, rows, captions[part], folded=True))
    return blocks


def _beams(run: Run, made: dict[str, Figure]) -> list[Any]:
    rows, devices = [], set()
    for split in SPLIT_ORDER:
        details = (run.evaluation.get("splits") or {}).get(split, {})
        found = [(f"{width}", numbers) for width, numbers in (details.get("beams") or {}).items()]
        if "constrained" in details:
            made_of = {**details["constrained"], "samples": run.metrics["metrics"][split]["samples"]}
            found.append((f"{run.evaluation.get('main_beams')}, constrained", made_of))
        for width, numbers in found:
            devices.add(numbers.get("device") or str(run.evaluation.get("device")))
            rows.append(
                [
                    split_name(run, split),
                    width,
                    *(Cell(percent(numbers[key]), interval(numbers[f"{key}_interval"])) for key in MEASURES),
                    percent(numbers["parses"]),
                    percent(numbers["executes"]),
                    f"{1000 * numbers['seconds'] / numbers['samples']:.1f}",
                ]
            )
    if not rows:
        return []
    caption = (
        f"Wall time on {' and '.join(sorted(devices))}, tokenizing included. Constrained: only programs that "
        "parse, with numbers which the problem has, are searched."
    )
    columns = ["Split", "Beams", *MEASURES.values(), "Programs", "With a value", "ms a problem"]
    blocks: list[Any] = [Table(columns, rows, caption, text_columns=2)]
    if "beams" in made:
        blocks.append(Figures.of([made["beams"]], ["Quality and time by width of beam search"], wide=True))
    return blocks


def _errors(details: dict[str, Any], pictures: dict[str, Any]) -> list[Any]:
    errors, blocks = details.get("errors"), []
    if errors and errors["different"]:
        rows = [
            [KINDS[kind], f"{row['count']:,}", percent(row["count"] / errors["different"]), f"{row['alternatives']:,}"]
            for kind, row in sorted(errors["kinds"].items(), key=lambda item: -item[1]["count"])
        ]
        caption = "Where predictions first differ from the gold program, and how many give the answer all the same."
        blocks.append(Table(["First difference", "Predictions", "Share", "Right answer"], rows, caption))
    if errors and errors["operations"]:
        rows = [[p["gold"], p["predicted"], str(p["count"]), percent(p["share"])] for p in errors["operations"]]
        columns = ["Gold operation", "Predicted", "Predictions", "Share of its confusions"]
        blocks.append(Table(columns, rows, "The operations most often confused.", text_columns=2))
    worst = pictures.get("errors") or []
    if worst:
        note = (
            "The wrong answers that the model was surest of. Left the gold program with the value of each step, right "
            "the prediction."
        )
        blocks.append(Text([note], quiet=True))
        blocks += [_error_sheet(item) for item in worst]
    return blocks


def _error_sheet(item: dict[str, Any]) -> Sheet:
    rank = f"no. {item['gold_rank']}" if item["gold_rank"] else "not"
    kind = "" if item["novel"] is None else ", novel" if item["novel"] else ", seen in train with other numbers"
    facts = (
        f"Answer {item['answer']:.10g}; probability of the prediction {percent(item['probability'])}; the gold program "
        f"is {rank} among the {item['looked_at']} best{kind}."
    )
    listings = [("Gold", item["gold"], "good"), ("Predicted", item["predicted"], "bad")]
    return Sheet(f"Problem {item['id']}", [item["problem"], facts], listings)


def _calibration(made: dict[str, Figure]) -> list[Any]:
    if "calibration" not in made:
        return []
    caption = (
        "Bars and points: share of exact matches by the probability that the model gives to its program. Orange: "
        "distance to a calibrated model, which lies on the dotted diagonal."
    )
    return [Figures.of([made["calibration"]], ["Reliability diagram of programs"], caption=caption)]


def _attention(pictures: dict[str, Any]) -> list[Any]:
    blocks: list[Any] = []
    for item in pictures.get("attention") or []:
        verdict = "Exact match" if item["right"] else f"Not the gold program, {item['gold'].removesuffix('|')}"
        caption = f"Problem {item['id']}. {verdict}. Rows: the tokens of the prediction; columns: those of the problem."
        description = f"Attention weights of problem {item['id']}"
        blocks.append(Figures.of([_map(item)], [description], caption=caption, wide=True))
    if blocks:
        note = "With which weights each token of a program was predicted from the tokens of its problem; dark is 1."
        blocks.insert(0, Text([note], quiet=True))
    return blocks


def _map(item: dict[str, Any]) -> Figure:
    attention = item["attention"]
    return text2math_figures.attention_map(attention.source, attention.target, attention.weights)


def save_galleries(run: Run, pictures: dict[str, Any]) -> None:
    """Write the attention maps and an index to `galleries/`, not to be published; of generated problems the first right
    and the first wrong one also to `figures/`.
    """
    for name in ATTENTION_FIGURES:
        (run.folder / "figures" / name).unlink(missing_ok=True)
    index, shown = [], {}
    for number, item in enumerate(pictures.get("attention") or [], 1):
        picture = figures.to_png(_map(item))
        write_atomically(run.folder / "galleries" / f"attention_{number}.png", picture)
        facts = {key: item[key] for key in ("id", "right", "gold")}
        index.append({"picture": f"attention_{number}.png", **facts, "predicted": item["attention"].target[:-1]})
        shown.setdefault(ATTENTION_FIGURES[0 if item["right"] else 1], picture)
    if not index:
        return
    write_json(run.folder / "galleries" / "attention.json", {"split": pictures["split"], "maps": index})
    for name, picture in shown.items() if run.is_generated else ():
        write_atomically(run.folder / "figures" / name, picture)
