"""What the model card says about a member of the text-to-program family."""

from __future__ import annotations

from training.portable import last_part

from .card import CardContent, optimisation
from .observations import points
from .runs import Run
from .text2math_observations import close_split
from .text2math_report import MEASURES, PANELS, beams_of, data_name, describe

USAGE = """\
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=True)
model = AutoModelForSeq2SeqLM.from_pretrained("{name}", trust_remote_code=True)

inputs = tokenizer("a shirt of 40 dollars is sold at a discount of 15 % . what is its price ?", return_tensors="pt")
print(tokenizer.decode_program(model.generate(**inputs, num_beams=10)[0]))"""

BESIDE = {
    "novel_exact_match": "Exact match, novel problems",
    "novel_execution_accuracy": "Execution accuracy, novel problems",
    "lookup_exact_match": "Look-up without learning: exact match",
    "lookup_execution_accuracy": "Look-up: execution accuracy",
    "lookup_novel_exact_match": "Look-up: exact match, novel problems",
    "lookup_novel_execution_accuracy": "Look-up: execution accuracy, novel problems",
    "unseen_exact_match": "Exact match, novel to the carved part too",
    "unseen_execution_accuracy": "Execution accuracy, novel to the carved part too",
    "lookup_whole_exact_match": "Look-up with the carved part: exact match",
    "lookup_whole_execution_accuracy": "Look-up with the carved part: execution accuracy",
    "lookup_whole_unseen_exact_match": "Look-up with the carved part: exact match, novel to it",
    "lookup_whole_unseen_execution_accuracy": "Look-up with the carved part: execution accuracy, novel to it",
    "parses": "Predictions that are programs",
    "executes": "Predictions that have a value",
    "loss": "Loss (cross-entropy of a gold token)",
}
PICTURES = {
    "exact_match.png": "Exact match of the model and of the look-up, with 95 % intervals",
    "by_length.png": "Exact match by number of operations",
    "beams.png": "Quality and time by width of beam search",
    "attention_right.png": "Attention weights of a right program over its problem",
    "attention_wrong.png": "Attention weights of a wrong program over its problem",
}
SOURCES = {
    "data": "A. Amini, S. Gabriel, P. Lin, R. Koncel-Kedziorski, Y. Choi, H. Hajishirzi: MathQA: Towards interpretable "
    "math word problem solving with operation-based formalisms. NAACL 2019.",
    "attention": "M.-T. Luong, H. Pham, C. D. Manning: Effective approaches to attention-based neural machine "
    "translation. EMNLP 2015.",
    "additive": "D. Bahdanau, K. Cho, Y. Bengio: Neural machine translation by jointly learning to align and "
    "translate. ICLR 2015.",
    "bert": "J. Devlin, M.-W. Chang, K. Lee, K. Toutanova: BERT: Pre-training of deep bidirectional transformers for "
    "language understanding. NAACL 2019.",
    "forcing": "S. Bengio, O. Vinyals, N. Jaitly, N. Shazeer: Scheduled sampling for sequence prediction with "
    "recurrent neural networks. NeurIPS 2015.",
    "pointer": "O. Vinyals, M. Fortunato, N. Jaitly: Pointer networks. NeurIPS 2015.",
}


def card_content(run: Run) -> CardContent:
    """Texts and metadata of the card, from the run's recipe, config and metrics."""
    generated = run.is_generated
    name = data_name(run)
    is_mathqa = not generated and name.lower().startswith("mathqa")
    tags = ["text2math", "math-word-problems", "program-synthesis", f"encoder-{run.config.get('encoder')}"]
    return CardContent(
        task="text-generation",
        task_name="Program generation for math word problems",
        title=f"Text to program: {run.name}",
        summary=describe(run),
        usage=USAGE.format(name=run.folder.name),
        procedure=_procedure(run, generated),
        intended_use="Teaching, and comparing encoders, attention and search on math word problems of one sentence to "
        "a few, in English. The program says how the answer comes about, and running it gives the number; where this "
        'project is installed, `python -m evaluation.solve FOLDER "problem"` does both.',
        limits=_limits(run, generated),
        dataset_name="MathQA" if is_mathqa else name,
        dataset_type="generated" if generated else "math_qa" if is_mathqa else "json",
        measures=MEASURES,
        beside=BESIDE,
        shares=frozenset({*MEASURES, *BESIDE} - {"loss"}),
        intervals_note=f"Wilson, of token match by bootstrap over problems; programs by {_search(run)}",
        panels=PANELS,
        pictures=PICTURES,
        sources=_sources(run),
        tags=[*tags, "attention" if run.config.get("attention") else "no-attention", "from-scratch"],
    )


def _search(run: Run) -> str:
    """By which search the programs behind the numbers were found."""
    found: dict[int, list[str]] = {}
    for split in run.metrics.get("metrics") or {}:
        found.setdefault(beams_of(run, split), []).append(split)
    names = {beams: "greedy search" if beams == 1 else f"beam search with {beams} beams" for beams in found}
    if len(found) < 2:
        return next(iter(names.values()), "greedy search")
    return " and ".join(f"{names[beams]} ({', '.join(splits)})" for beams, splits in found.items())


def _sources(run: Run) -> list[str]:
    config, training = run.config, run.recipe.get("training") or {}
    used = ["data"]
    if config.get("attention"):
        used.append("additive" if config.get("attention_type") == "additive" else "attention")
    if config.get("encoder") == "bert":
        used.append("bert")
    if training.get("teacher_forcing", 1.0) < 1:
        used.append("forcing")
    if config.get("pointer"):
        used.append("pointer")
    return [SOURCES[name] for name in used]


def _procedure(run: Run, generated: bool) -> str:
    training = run.recipe.get("training") or {}
    data = run.recipe.get("data") or {}
    kind = "problems written by this project's generator" if generated else "word problems with gold programs"
    start = "random weights"
    if training.get("encoder_checkpoint"):
        start = f"the weights of {last_part(training['encoder_checkpoint'])} in the encoder, random ones elsewhere"
    elif training.get("word_vectors"):
        start = f"word vectors of {last_part(training['word_vectors'])}, random weights elsewhere"
    carved = f"; {data['tune_size']:,} problems of train were carved to choose by" if data.get("tune_size") else ""
    forcing = f", teacher forcing {training['teacher_forcing']:g}" if "teacher_forcing" in training else ""
    return (
        f"Data: {data_name(run)}, {kind}{carved}. Trained from {start} with {optimisation(run)}{forcing}. "
        "Numbers of a problem are read as n0, n1, … in the order of the text; targets are operations and arguments, "
        f"brackets follow from the arity. The numbers above are those of {_search(run)}."
    )


def _limits(run: Run, generated: bool) -> list[str]:
    limits = [
        "It knows the operations and constants of its training programs and no others, and it answers every problem, "
        "also one that it does not understand: the probability of the program says little about the latter.",
        "The value of a program is computed as the course's checker does it, whose formulas are not all mathematics "
        "(volumes of cylinders and cones among them); the exact reading is a second mode.",
    ]
    split = close_split(run)
    numbers = (run.metrics.get("metrics") or {}).get(split or "", {})
    if "novel_exact_match" in numbers:
        gap = numbers["exact_match"] - numbers["novel_exact_match"]
        direction = "lower" if gap >= 0 else "higher"
        limits.append(
            f"On problems without a twin in the training data exact match is {points(gap)} {direction} than on all."
        )
    training = run.recipe.get("training") or {}
    chosen = training.get("load_best_model_at_end") or training.get("early_stopping_patience")
    if split == "val" and chosen and "exact_match" in numbers:
        limits.append("The validation split served to choose between epochs, which makes its numbers optimistic.")
    if generated:
        limits.append("It was trained on generated problems and says nothing about problems that people write.")
    else:
        limits.append("The licence of the training problems is not known here; they are not part of this repository.")
    return limits
