"""Encoder-decoder that translates a word problem into a program of operations (the task of Amini et al. 2019, MathQA).

A bidirectional LSTM or a BERT reads the problem, an LSTM with global attention (Luong et al. 2015) writes the program.
Encoders, decoder and search are in `text2math_encoder.py`, `text2math_decoder.py` and `beam_search.py`.
"""

import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertModel, GenerationConfig, GenerationMixin
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput

from .beam_search import BeamSearchOutput, beam_search
from .configuration_text2math import Text2MathConfig
from .pretrained_bert import digit_ids, load_bert
from .program_constraint import ProgramConstraint
from .stored_weights import CheckedPreTrainedModel
from .text2math_decoder import Memory, ProgramDecoder, State
from .text2math_encoder import BertProblemEncoder, LSTMProblemEncoder, checked_mask
from .text2math_numbers import NumberTokens
from .text2math_options import generation_options
from .text2math_outputs import Text2MathGenerateOutput, Text2MathOutput

IGNORED = -100  # a label that does not count


class Text2MathPreTrainedModel(CheckedPreTrainedModel):
    """Initialisation, loading and saving, and what a trainer asks of every member of the family."""

    config: Text2MathConfig
    base_model_prefix = "text2math"
    main_input_name = "input_ids"
    input_modalities = ("text",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # `num_items_in_batch`
    _no_split_modules = ["BertLayer", "LSTMProblemEncoder", "ProgramDecoder"]
    _supports_sdpa = True

    def __init__(self, config: Text2MathConfig):
        config.validate_fields()  # fields may have been set since the config was made, `from_pretrained` does so
        super().__init__(config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Glorot & Bengio 2010 for weights that read inputs, orthogonal for recurrent ones (Saxe et al. 2014), a bias
        of 1 for forget gates (Jozefowicz et al. 2015), 0 for others; vectors of tokens standard normal, as torch's own.
        A BERT initialises itself."""
        if isinstance(module, nn.LSTM):
            for name, parameter in module.named_parameters():
                if name.startswith("weight"):
                    for gate in parameter.chunk(4):
                        (init.xavier_uniform_ if "_ih_" in name else init.orthogonal_)(gate)
                else:
                    init.zeros_(parameter)
                    if "_ih_" in name:  # the two biases are added: 1 in one of them
                        init.ones_(parameter.chunk(4)[1])
        elif isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)

    def parameter_groups(self) -> dict[str, list[str]]:
        """Every parameter's name in one of `decay` (weights of linear layers and LSTMs), `no_decay` (biases, vectors of
        tokens), and for a BERT encoder `encoder` (its matrices, which training decays only where `group_weight_decay`
        names them) and `encoder_no_decay` (its biases and norms)."""
        groups: dict[str, list[str]] = {"decay": [], "no_decay": [], "encoder": [], "encoder_no_decay": []}
        for prefix, module in self.named_modules():
            in_bert = prefix.startswith("encoder.bert")
            matrices = (nn.Linear, nn.LSTM, nn.Embedding) if in_bert else (nn.Linear, nn.LSTM)
            for name, _ in module.named_parameters(recurse=False):
                decays = isinstance(module, matrices) and name.startswith("weight")
                group = (
                    ("encoder" if decays else "encoder_no_decay") if in_bert else ("decay" if decays else "no_decay")
                )
                groups[group].append(f"{prefix}.{name}" if prefix else name)
        return groups


class Text2MathForProgramGeneration(Text2MathPreTrainedModel, GenerationMixin):
    """The encoder-decoder with its loss and its search.

    `labels` are target ids that end in `<eos>`, padded with -100 (`tokenizer.encode_program(program)[1:]`).
    """

    def __init__(self, config: Text2MathConfig):
        super().__init__(config)
        self.encoder = (BertProblemEncoder if config.encoder == "bert" else LSTMProblemEncoder)(config)
        self.decoder = ProgramDecoder(config)
        self.post_init()
        self._freeze()
        self.generation_config.update(num_beams=10, num_return_sequences=1, max_new_tokens=config.max_program_length)
        self.generation_config.constrained = False
        self.generation_config._from_model_config = False  # else loading it drops what the library does not know

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in the library, which hands out every weight as a trainable one: what the config freezes is not."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded)._freeze()
        return loaded

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """As in the library, whose `register_for_auto_class` keeps one name: `AutoModel` finds the class as well."""
        name = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"
        self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), "AutoModel": name}
        return super().save_pretrained(*args, **kwargs)

    def _freeze(self) -> None:
        if self.config.freeze_encoder:
            self.encoder.bert.requires_grad_(False).eval()
        if self.config.freeze_embeddings:
            self.encoder.embedding.requires_grad_(False)

    @classmethod
    def from_encoder(cls, path_or_name: str | Path, config: Text2MathConfig) -> "Text2MathForProgramGeneration":
        """A model whose BERT encoder has trained weights, everything else being freshly initialised.

        The vectors of the tokens `n0`, `n1`, … begin as those of the wordpieces "0", "1", …: a frozen encoder then
        reads numbers that it knows. Other tokens that the checkpoint does not have get the mean of these.

        Args:
            path_or_name: a folder, an installed package or a hub name, see [`pretrained_bert.locate_bert`].
            config: with `encoder="bert"`, and the `vocab_size` and `number_token_ids` of the tokenizer made by
                `Text2MathTokenizer.from_pretrained_bert(path_or_name)`; its `bert_config` is the checkpoint's and may
                set other dropout probabilities only.

        Raises FileNotFoundError, which names the missing file and the offline choice, where there is no such
        checkpoint; ValueError where it is not a BERT, lacks weights or has another vocabulary.
        """
        if config.encoder != "bert":
            raise ValueError(f"from_encoder needs a config with encoder='bert', not {config.encoder!r}")
        bert = load_bert(path_or_name)
        if config.vocab_size < bert.config.vocab_size:
            tokens = bert.config.vocab_size
            raise ValueError(f"vocab_size is {config.vocab_size}, but {path_or_name} alone has {tokens} tokens")
        free = [name for name in bert.config.to_dict() if "dropout" in name]
        if fixed := [name for name in config.bert_config if name not in free]:
            allowed = ", ".join(free)
            raise ValueError(f"bert_config sets {', '.join(fixed)}: beside a checkpoint it may set {allowed} alone")
        fields = copy.deepcopy(config.to_dict()) | {"bert_config": bert.config.to_diff_dict() | config.bert_config}
        model = cls(type(config)(**fields))
        model._adopt_bert(bert, digit_ids(path_or_name, len(config.number_token_ids)))
        return model

    @torch.no_grad()
    def _adopt_bert(self, bert: BertModel, digits: list[int]) -> None:
        """Take over a BERT's weights; `digits` are its ids of the wordpieces "0", "1", …."""
        weights = bert.state_dict()
        name = "embeddings.word_embeddings.weight"
        vectors = weights[name]
        table = vectors[digits].mean(dim=0).repeat(self.config.vocab_size, 1)
        table[: len(vectors)] = vectors
        table[self.config.number_token_ids] = vectors[digits]
        self.encoder.bert.load_state_dict(weights | {name: table})

    @torch.no_grad()
    def set_word_vectors(self, matrix: Tensor) -> None:
        """Begin with trained word vectors: `matrix` [vocab_size, embedding_size], rows of NaN for words that have none.
        Those keep their random vectors, scaled to the spread of the others."""
        if self.config.encoder != "lstm":
            raise ValueError("word vectors belong to encoder='lstm'")
        weight = self.encoder.embedding.weight
        matrix = torch.as_tensor(matrix).to(weight)
        if matrix.shape != weight.shape:
            raise ValueError(
                f"word vectors of shape {list(matrix.shape)} do not fit: the model has {list(weight.shape)} "
                "(vocab_size, embedding_size)"
            )
        known = matrix.isfinite().all(dim=1)
        if known.sum() < 2:
            raise ValueError("no word of this vocabulary has a vector")
        weight[~known] *= matrix[known].std() / weight[~known].std() if (~known).sum() > 1 else 1.0
        weight[known] = matrix[known]

    def get_input_embeddings(self) -> nn.Embedding:
        """The vectors of the source tokens."""
        bert = self.config.encoder == "bert"
        return self.encoder.bert.get_input_embeddings() if bert else self.encoder.embedding

    # ---- Encoder ----

    def encoder_states(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, number_values: Tensor | None = None
    ) -> Tensor:
        """The encoder's states [B, S, state_size], which `encode`, `forward` and `generate` take as `encoder_outputs`.

        Those of a frozen BERT are always the same: compute them once. (Quantity embeddings are not yet in them.)
        """
        mask = checked_mask(input_ids, attention_mask)
        return self.encoder.states(input_ids, mask, self._numbers(input_ids, number_values))

    def _numbers(self, input_ids: Tensor, number_values: Tensor | None) -> NumberTokens:
        return NumberTokens.find(input_ids, self.config.number_token_ids, number_values)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        number_values: Tensor | None = None,
        encoder_outputs: Tensor | ModelOutput | tuple | None = None,
    ) -> Memory:
        """What the decoder has to know of problems `input_ids` [B, S].

        Args:
            attention_mask: [B, S], 1 up to the end of each problem and 0 behind it; all 1 if not given.
            number_values: [B, N] values of the numbers, NaN where there are fewer; needed with `quantity_embeddings`.
            encoder_outputs: states [B, S, state_size] from `encoder_states`, which then does not run.
        """
        mask = checked_mask(input_ids, attention_mask)
        numbers = self._numbers(input_ids, number_values)
        if encoder_outputs is None:
            states = self.encoder.states(input_ids, mask, numbers)
        else:
            states = encoder_outputs if isinstance(encoder_outputs, Tensor) else encoder_outputs[0]
            expected = (*input_ids.shape, self.config.state_size)
            if states.shape != expected:
                raise ValueError(f"encoder_outputs are {tuple(states.shape)}, these problems need {expected}")
            states = states.to(self.decoder.bridge.weight.dtype)
        states = self.encoder.complete(states, numbers)
        return self.decoder.remember(states, mask, self.encoder.summary(states, mask), numbers)

    # ---- Training ----

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        teacher_forcing_mask: Tensor | None = None,
        number_values: Tensor | None = None,
        encoder_outputs: Tensor | ModelOutput | tuple | None = None,
        decoder_input_ids: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> Text2MathOutput | tuple:
        """Logits of each token of the programs given those in front of it, and the loss where labels are given.

        Args:
            input_ids, attention_mask, number_values, encoder_outputs: as for `encode`.
            labels: target ids [B, T] that end in `<eos>`, padded with -100; logits in the padding mean nothing.
            teacher_forcing_mask: bool [B, T], see `teacher_forcing.teacher_forcing_mask`: where entry t is false, the
                decoder is fed at step t not the label t - 1 but its own most probable token of step t - 1 (without
                `input_feeding` from a first pass without dropout and gradient). None feeds the labels, in one go.
            decoder_input_ids: target ids [B, T] to feed where there are no labels, `<bos>` first.
            num_items_in_batch: by what the loss is divided, in place of the number of labels here: a trainer gives the
                number in all parts of a batch that is split over steps or processes.
            output_attentions: also return the attention weights.
            return_dict: `False` gives a plain tuple of what is not None.
        """
        if labels is None and decoder_input_ids is None:
            raise ValueError("forward needs labels (or decoder_input_ids); programs are made by generate")
        memory = self.encode(input_ids, attention_mask, number_values, encoder_outputs)
        inputs = self._shifted(labels, len(input_ids)) if labels is not None else decoder_input_ids
        if teacher_forcing_mask is not None:
            if teacher_forcing_mask.shape != inputs.shape or teacher_forcing_mask.dtype != torch.bool:
                raise ValueError(
                    f"teacher_forcing_mask is {teacher_forcing_mask.dtype} {list(teacher_forcing_mask.shape)}: "
                    f"it must be bool {list(inputs.shape)}"
                )
            padding = torch.zeros_like(inputs, dtype=torch.bool) if labels is None else labels == IGNORED
            teacher_forcing_mask = teacher_forcing_mask | padding
        lengths = None if labels is None else self._lengths(labels)
        logits, weights = self._decode(inputs, teacher_forcing_mask, memory, lengths)
        loss = None if labels is None else self._loss(logits, labels, num_items_in_batch)

        if output_attentions is None:
            output_attentions = self.config.output_attentions
        output = Text2MathOutput(loss, logits, weights if output_attentions else None, memory.states)
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def _shifted(self, labels: Tensor, batch: int) -> Tensor:
        """The decoder's inputs [B, T]: `<bos>`, then the labels but the last."""
        if labels.ndim != 2 or labels.is_floating_point() or len(labels) != batch:
            raise ValueError(f"labels are {labels.dtype} {list(labels.shape)}: they must be ids [{batch}, T]")
        start = labels.new_full((batch, 1), self.config.bos_token_id)
        return torch.cat((start, labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, self.config.pad_token_id)), 1)

    def _lengths(self, labels: Tensor) -> Tensor:
        """How many of `labels` [B, T] there are up to the last that is not -100, [B]."""
        return ((labels != IGNORED) * torch.arange(1, labels.shape[1] + 1, device=labels.device)).amax(dim=1)

    def _decode(
        self, inputs: Tensor, keep: Tensor | None, memory: Memory, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits [B, T, V] and attention weights; where `keep` is false the input is the model's own token."""
        if self.config.input_feeding:
            keep = torch.ones_like(inputs, dtype=torch.bool) if keep is None else keep
            return self.decoder.run(inputs, keep, memory)
        if keep is not None and not keep.all():
            inputs = self._own_tokens(inputs, keep, memory)
        return self.decoder(inputs, memory, lengths)

    def _own_tokens(self, inputs: Tensor, keep: Tensor, memory: Memory) -> Tensor:
        """`inputs` [B, T] with the model's most probable tokens where `keep` is false. No gradient goes through the
        choice of a token, so what follows may again run over the whole sequences at once."""
        training = self.decoder.training
        self.decoder.eval()
        try:
            return self.decoder.own_tokens(inputs, keep, memory)
        finally:
            self.decoder.train(training)
            torch.clear_autocast_cache()  # in some versions of torch it holds weights cast without a gradient

    def _loss(self, logits: Tensor, labels: Tensor, count: Tensor | int | None) -> Tensor:
        """Cross-entropy of the labels that are not -100, summed and divided by `count`, by their number if None: at
        least in fp32; smoothed in training mode only."""
        smoothing = self.config.label_smoothing if self.training else 0.0
        logits = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))  # [B * T, V]
        keywords = {"ignore_index": IGNORED, "label_smoothing": smoothing}
        if count is None:
            return F.cross_entropy(logits, labels.flatten(), **keywords)
        return F.cross_entropy(logits, labels.flatten(), reduction="sum", **keywords) / count

    # ---- Search ----

    def initial_state(self, memory: Memory) -> State:
        """The decoder's state before `<bos>`: tensors [B, 1, ...]."""
        return self.decoder.initial_state(memory)

    def decode_step(self, tokens: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """Continue k sequences of each example by one token: `tokens` [B, k], `state` of tensors [B, k, ...] ->
        logits [B, k, program_vocab_size] and the new state."""
        logits, state, _ = self.decoder.step(tokens, state, memory)
        return logits, state

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        number_values: Tensor | None = None,
        encoder_outputs: Tensor | ModelOutput | tuple | None = None,
        generation_config: GenerationConfig | None = None,
        **kwargs: Any,
    ) -> Tensor | Text2MathGenerateOutput:
        """Programs for problems `input_ids` [B, S], by beam search (`beam_search.py`), in evaluation mode.

        Args:
            input_ids, attention_mask, number_values, encoder_outputs: as for `encode`.
            generation_config: in place of the model's own (`generation_config.json`); ValueError for a setting in it
                that this search does not have.
            kwargs: before both, any of
                num_beams (10): 1 is greedy search.
                num_return_sequences (1): the n best, n at most num_beams.
                max_new_tokens (`max_program_length`): target tokens, `<eos>` included.
                length_penalty (0.0): programs are ranked by log-probability / length ** length_penalty.
                constrained (False): only programs that parse, use numbers which the problem has and earlier results.
                return_dict_in_generate (False): a [`Text2MathGenerateOutput`] with scores.

        Returns target ids int64 [B * n, T] without `<bos>`, for `tokenizer.decode_program`.
        """
        config = self.generation_config if generation_config is None else generation_config
        options = generation_options(kwargs, config, self.config.max_program_length)
        if len(input_ids) == 0:
            nothing = BeamSearchOutput.empty(0, options["num_return_sequences"], input_ids.device)
            return self._generated(nothing, options)
        training = self.training
        self.eval()
        try:
            memory = self.encode(input_ids, attention_mask, number_values, encoder_outputs)
            found = self._search(self.decoder.prepare_search(memory), options)
        finally:
            self.train(training)
        return self._generated(found, options)

    def _generated(self, found: BeamSearchOutput, options: dict[str, Any]) -> Tensor | Text2MathGenerateOutput:
        if not options["return_dict_in_generate"]:
            return found.sequences.flatten(0, 1)
        parts = (found.sequences, found.scores, found.log_probabilities, found.lengths)
        return Text2MathGenerateOutput(*(part.flatten(0, 1) for part in parts))

    def _search(self, memory: Memory, options: dict[str, Any]) -> BeamSearchOutput:
        constraint, longest = None, options["max_new_tokens"]
        if options["constrained"]:
            constraint = ProgramConstraint(self.config.program_tokens, memory.numbers_count, longest)
        return beam_search(
            self.decode_step,
            self.initial_state(memory),
            memory,
            batch_size=len(memory.mask),
            num_beams=options["num_beams"],
            max_length=longest,
            bos_token_id=self.config.bos_token_id,
            eos_token_id=self.config.eos_token_id,
            pad_token_id=self.config.pad_token_id,
            num_return_sequences=options["num_return_sequences"],
            length_penalty=options["length_penalty"],
            constraint=constraint,
            device=memory.mask.device,
        )


Text2MathConfig.register_for_auto_class()
Text2MathForProgramGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")

__all__ = [
    "Text2MathConfig",
    "Text2MathForProgramGeneration",
    "Text2MathGenerateOutput",
    "Text2MathOutput",
    "Text2MathPreTrainedModel",
]
