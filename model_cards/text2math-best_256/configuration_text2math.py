"""Configuration of the encoder-decoder that translates a word problem into a program of operations."""

from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import BertConfig, PreTrainedConfig

from .field_checks import is_integer, require
from .programs import MAX_NUMBERS, program_tokens

ENCODERS = ("lstm", "bert")
ATTENTION_TYPES = ("multiplicative", "additive")
POOLINGS = ("mean", "cls")
NUMBER_NAMES = [f"n{index}" for index in range(MAX_NUMBERS)]
NOT_OF_THE_ENCODER = ("_name_or_path", "architectures", "dtype", "transformers_version", "vocab_size")


@strict
class Text2MathConfig(PreTrainedConfig):
    r"""What the model is made of; the defaults are a bidirectional LSTM encoder and an LSTM decoder with attention.

    All arguments are keyword arguments. A wrong value raises at construction, naming the field and its range. What
    belongs to the tokenizer comes from it: `Text2MathConfig(**tokenizer.model_fields(), ...)`.

    Args:
        encoder (`str`, defaults to `"lstm"`): `"lstm"` (bidirectional) or `"bert"` (a `BertModel`).
        attention (`bool`, defaults to `True`): global attention over the encoder's states; without it the decoder
            gets the encoder's final state and nothing else.
        attention_type (`str`, defaults to `"multiplicative"`): score h W s (Luong et al. 2015, "general"), or
            `"additive"`: v tanh(U h + W s) (Bahdanau et al. 2015).
        input_feeding (`bool`, defaults to `False`): the last attentional vector is an input of the next step (Luong et
            al. 2015, section 3.3); training then goes step by step.
        freeze_encoder (`bool`, defaults to `False`): a BERT encoder that is never trained and stays in evaluation mode.
        freeze_embeddings (`bool`, defaults to `False`): word vectors of the LSTM encoder that are never trained.
        vocab_size (`int`, defaults to 8000): source tokens, those for numbers included.
        number_token_ids (`list[int]`, defaults to 3..20): source ids of `n0`, `n1`, ….
        program_tokens (`list[str]`, defaults to `programs.program_tokens()`): the target vocabulary; the ids of
            padding, begin and end are those of its `<pad>`, `<bos>`, `<eos>`.
        embedding_size (`int`, defaults to 256): word vectors of the LSTM encoder.
        hidden_size (`int`, defaults to 256): state of each direction of the LSTM encoder, and of the decoder.
        decoder_hidden_size (`int`, *optional*): state of the decoder where it is to differ from `hidden_size`.
        program_embedding_size (`int`, *optional*): vectors of the target tokens; the decoder's state size if not given.
        num_layers (`int`, defaults to 1): of the LSTM encoder and of the decoder.
        dropout (`float`, defaults to 0.3): in [0, 1); on embeddings, between LSTM layers, on the encoder's states and
            on the vector from which tokens are predicted.
        label_smoothing (`float`, defaults to 0.0): in [0, 1); in training mode only, so that an evaluation loss is the
            plain cross-entropy.
        bert_config (`dict`, *optional*): fields of a `BertConfig`; the base-sized default if not given. Its
            `vocab_size` is this config's.
        pooling (`str`, defaults to `"mean"`): what starts the decoder with BERT: mean over the tokens, or `"cls"`.
        pointer (`bool`, defaults to `False`): score and input vector of the token `n_i` come from the encoder's state
            at the i-th number of the problem, in place of fixed rows.
        quantity_embeddings (`bool`, defaults to `False`): features of each number's value (size, sign, whole, rank, …)
            are added where it stands; the model then needs `number_values`.
        max_program_length (`int`, defaults to 160): target tokens that generation makes at most, the end included.

    Example:
    ```python
    >>> config = Text2MathConfig(encoder="lstm", attention=True, hidden_size=256)
    >>> model = Text2MathForProgramGeneration(config)
    ```
    """

    model_type = "text2math"
    keys_to_ignore_at_inference = ["cross_attentions", "encoder_last_hidden_state"]

    encoder: str = "lstm"
    attention: bool = True
    attention_type: str = "multiplicative"
    input_feeding: bool = False
    freeze_encoder: bool = False
    freeze_embeddings: bool = False
    vocab_size: int = 8000
    number_token_ids: list[int] | tuple[int, ...] = tuple(range(3, 3 + MAX_NUMBERS))
    program_tokens: list[str] | tuple[str, ...] | None = None
    embedding_size: int = 256
    hidden_size: int = 256
    decoder_hidden_size: int | None = None
    program_embedding_size: int | None = None
    num_layers: int = 1
    dropout: float | int = 0.3
    label_smoothing: float | int = 0.0
    bert_config: dict | None = None
    pooling: str = "mean"
    pointer: bool = False
    quantity_embeddings: bool = False
    max_program_length: int = 160

    def __post_init__(self, **kwargs: Any) -> None:
        self.number_token_ids = list(self.number_token_ids)
        self.program_tokens = program_tokens() if self.program_tokens is None else list(self.program_tokens)
        for name, token in (("pad", "<pad>"), ("bos", "<bos>"), ("eos", "<eos>")):
            if token in self.program_tokens:
                kwargs[f"{name}_token_id"] = self.program_tokens.index(token)
        kwargs["decoder_start_token_id"] = kwargs.get("bos_token_id")
        kwargs["is_encoder_decoder"] = True
        if self.decoder_hidden_size is None:
            self.decoder_hidden_size = self.hidden_size
        if self.program_embedding_size is None:
            self.program_embedding_size = self.decoder_hidden_size
        super().__post_init__(**kwargs)
        if self.encoder == "bert":
            given = {} if self.bert_config is None else self.bert_config
            self.bert_config = {k: v for k, v in given.items() if k not in NOT_OF_THE_ENCODER}
        self.validate_fields()

    @property
    def program_vocab_size(self) -> int:
        """Number of target tokens."""
        return len(self.program_tokens)

    @property
    def state_size(self) -> int:
        """Width of the encoder's states."""
        return 2 * self.hidden_size if self.encoder == "lstm" else self.to_bert_config().hidden_size

    def to_bert_config(self) -> BertConfig:
        """The configuration of the BERT encoder, with this config's source vocabulary."""
        return BertConfig(**self.bert_config, vocab_size=self.vocab_size)

    def validate_fields(self) -> None:
        """Raise `ValueError` where a field is out of its range; also run by `validate()` before the config is saved."""
        choices = {"encoder": ENCODERS, "attention_type": ATTENTION_TYPES, "pooling": POOLINGS}
        for field, allowed in choices.items():
            require(getattr(self, field) in allowed, field, getattr(self, field), " or ".join(map(repr, allowed)))
        sizes = ("vocab_size", "embedding_size", "hidden_size", "decoder_hidden_size", "program_embedding_size")
        for field in (*sizes, "num_layers", "max_program_length"):
            require(is_integer(getattr(self, field), 1), field, getattr(self, field), "an integer of at least 1")
        for field in ("dropout", "label_smoothing"):
            require(0 <= getattr(self, field) < 1, field, getattr(self, field), "in [0, 1)")
        require(self.attention or not self.input_feeding, "input_feeding", True, "False without attention")
        bert, lstm = self.encoder == "bert", self.encoder == "lstm"
        require(bert or not self.freeze_encoder, "freeze_encoder", True, "False unless encoder is 'bert'")
        require(lstm or not self.freeze_embeddings, "freeze_embeddings", True, "False unless encoder is 'lstm'")
        require(bert or self.bert_config is None, "bert_config", self.bert_config, "None unless encoder is 'bert'")
        self._validate_vocabularies()
        if bert:
            _validate_bert(self.bert_config)

    def _validate_vocabularies(self) -> None:
        tokens, ids = self.program_tokens, self.number_token_ids
        special = ("<pad>", "<bos>", "<eos>", "<unk>")
        require(len(set(tokens)) == len(tokens), "program_tokens", "...", "without a token that occurs twice")
        missing = [token for token in (*special, *NUMBER_NAMES) if token not in tokens]
        require(not missing, "program_tokens", "...", f"with {', '.join(missing)}")
        first = tokens.index("n0")
        in_order = tokens[first : first + MAX_NUMBERS] == NUMBER_NAMES
        require(in_order, "program_tokens", "...", f"with n0 to n{MAX_NUMBERS - 1} in order, one after the other")
        distinct = len(ids) == len(set(ids)) == MAX_NUMBERS and all(0 <= index < self.vocab_size for index in ids)
        allowed = f"{MAX_NUMBERS} different source ids below vocab_size={self.vocab_size}"
        require(distinct, "number_token_ids", ids, allowed)


def _validate_bert(fields: dict) -> None:
    try:
        config = BertConfig(**fields)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise ValueError(f"bert_config={fields!r} is not possible: {' '.join(str(error).split())}") from error
    kind = fields.get("model_type", "bert")
    require(kind == "bert", "bert_config['model_type']", kind, "'bert'")
    divides = config.hidden_size % config.num_attention_heads == 0
    require(divides, "bert_config['hidden_size']", config.hidden_size, "a multiple of num_attention_heads")


__all__ = ["Text2MathConfig"]
