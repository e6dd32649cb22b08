"""Tokens of word problems and of programs.

The numbers of a problem become the tokens `n0`, `n1`, …, one for each that `programs.extract_numbers` finds and in the
same order, so that `n2` in a program and the token `n2` of its problem are the same number; the text stays with the
caller, for execution. Programs become an operation followed by its arguments (`programs.to_tokens`).
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoTokenizer, BatchEncoding, PreTrainedTokenizerFast

from .pretrained_bert import locate_bert
from .programs import MAX_NUMBERS, Number, ProgramError, extract_numbers, from_tokens, program_tokens, to_tokens

NUMBER_TOKENS = [f"n{index}" for index in range(MAX_NUMBERS)]
FURTHER_NUMBER = "<number>"  # every number after the last that has a token of its own
PAD, UNKNOWN, END = "<pad>", "<unk>", "<eos>"
MAX_WORDS = 512  # what the tokenizer of words calls its longest problem; MathQA has 356


class Text2MathTokenizer(PreTrainedTokenizerFast):
    """Source tokens (words, or the wordpieces of a BERT) and target tokens (the closed vocabulary of programs).

    Made by [`from_problems`], by [`from_pretrained_bert`], or loaded with `from_pretrained`. Called with problems it
    gives `input_ids`, `attention_mask` and `number_values`: the values of the numbers, `MAX_NUMBERS` for each problem,
    NaN where there are fewer.
    """

    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "right"

    # ---- Construction ----

    @classmethod
    def from_problems(cls, problems: Iterable[str], min_frequency: int = 2) -> "Text2MathTokenizer":
        """A tokenizer of lower-case words and punctuation marks that knows those which occur at least `min_frequency`
        times in `problems`, the most frequent first; others are `<unk>`. A problem ends in `<eos>`."""
        if min_frequency < 1:
            raise ValueError(f"min_frequency is {min_frequency}: it must be at least 1")
        normalizer = normalizers.BertNormalizer(handle_chinese_chars=False)
        splitter = pre_tokenizers.BertPreTokenizer()
        counts: Counter[str] = Counter()
        numbers = {*NUMBER_TOKENS, FURTHER_NUMBER}
        for problem in problems:
            text = normalizer.normalize_str(_masked(problem, extract_numbers(problem), further=""))
            counts.update(word for word, _ in splitter.pre_tokenize_str(text) if word not in numbers)
        known = sorted(
            (word for word, count in counts.items() if count >= min_frequency), key=lambda w: (-counts[w], w)
        )
        if not known:
            raise ValueError(f"no word occurs {min_frequency} times in these problems: there is nothing to learn from")
        vocabulary = [PAD, UNKNOWN, END, *NUMBER_TOKENS, FURTHER_NUMBER, *known]
        backend = Tokenizer(WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
        backend.normalizer, backend.pre_tokenizer = normalizer, splitter
        backend.post_processor = processors.TemplateProcessing(
            single=f"$A {END}", special_tokens=[(END, vocabulary.index(END))]
        )
        return cls._around(backend, pad_token=PAD, unk_token=UNKNOWN, eos_token=END, model_max_length=MAX_WORDS)

    @classmethod
    def from_pretrained_bert(cls, path_or_name: str | Path) -> "Text2MathTokenizer":
        """The wordpieces of a trained BERT (a folder, an installed package or a hub name, see
        [`pretrained_bert.locate_bert`]) with the tokens for numbers added behind them."""
        where = locate_bert(path_or_name)
        bert = AutoTokenizer.from_pretrained(where)
        if getattr(bert, "cls_token", None) is None or bert.pad_token is None or not bert.is_fast:
            raise ValueError(f"{path_or_name} has a {type(bert).__name__}, which is not the tokenizer of a BERT")
        backend = Tokenizer.from_str(bert.backend_tokenizer.to_str())
        backend.no_padding()  # what a tokenizer.json may have baked in
        backend.no_truncation()
        special = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
        kept = {name: getattr(bert, name) for name in special if getattr(bert, name) is not None}
        return cls._around(backend, **kept, model_max_length=min(bert.model_max_length, MAX_WORDS))

    @classmethod
    def _around(cls, backend: Tokenizer, **fields) -> "Text2MathTokenizer":
        names = [*NUMBER_TOKENS, FURTHER_NUMBER]
        backend.add_tokens([AddedToken(name, single_word=name != FURTHER_NUMBER, normalized=False) for name in names])
        return cls(tokenizer_object=backend, program_tokens=program_tokens(), **fields)

    def model_fields(self) -> dict:
        """The fields of `Text2MathConfig` that follow from this tokenizer."""
        return {
            "vocab_size": len(self),
            "number_token_ids": self.convert_tokens_to_ids(NUMBER_TOKENS),
            "program_tokens": self.program_tokens,
        }

    # ---- Problems ----

    def _encode_plus(self, text, text_pair=None, is_split_into_words: bool = False, **kwargs) -> BatchEncoding:
        if text_pair is not None or is_split_into_words:
            raise ValueError("this tokenizer takes problems as whole texts: no text pairs and no split words")
        for option in ("return_offsets_mapping", "return_overflowing_tokens"):
            if kwargs.get(option):
                raise ValueError(f"{option} is not possible: numbers are masked before the text is split")
        problems = [text] if isinstance(text, str) else list(text)
        wrong = next((index for index, problem in enumerate(problems) if not isinstance(problem, str)), None)
        if wrong is not None:
            raise ValueError(f"problem {wrong} is a {type(problems[wrong]).__name__}: this tokenizer takes texts")
        for index, problem in enumerate(problems):
            try:
                problem.encode()
            except UnicodeEncodeError:
                raise ValueError(f"problem {index} holds a lone surrogate, half a character: it is no text") from None
        found = [extract_numbers(problem) for problem in problems]
        reserved = self._reserved()
        masked = [
            _masked(problem, numbers, reserved=reserved) for problem, numbers in zip(problems, found, strict=True)
        ]
        encoding = super()._encode_plus(masked[0] if isinstance(text, str) else masked, **kwargs)
        values = [_values(numbers) for numbers in found]
        tensors = kwargs.get("return_tensors")
        if tensors is None:
            encoding["number_values"] = values[0] if isinstance(text, str) else values
        else:
            encoding.update(BatchEncoding({"number_values": values}, tensor_type=tensors))
        return encoding

    def _switch_to_target_mode(self) -> None:
        raise ValueError("text_target: targets are programs, whose ids `encode_program` gives")

    def _reserved(self) -> re.Pattern[str]:
        """The spellings of the tokens that a problem's text must not be taken for: `<pad>`, `<number>`, …."""
        names = self.get_added_vocab().keys() - set(NUMBER_TOKENS)
        return re.compile("|".join(re.escape(name) for name in sorted(names)))

    def too_long(self, problems: Sequence[str], limit: int) -> list[tuple[int, int]]:
        """(position, number of tokens) of each problem that has more than `limit` tokens, end marks included."""
        ends = self.num_special_tokens_to_add()
        # A token is at least a character; only beyond ASCII the normaliser may make several of one.
        chosen = [i for i, text in enumerate(problems) if len(text) + ends > limit or not text.isascii()]
        if not chosen:
            return []
        counts = [len(ids) for ids in self([problems[i] for i in chosen], verbose=False)["input_ids"]]
        return [(i, count) for i, count in zip(chosen, counts, strict=True) if count > limit]

    def surface_tokens(self, problem: str, **kwargs) -> list[str]:
        """The tokens of a problem for people, end marks included: numbers as they are written in it."""
        tokens = self.tokenize(problem, add_special_tokens=True, **kwargs)
        written = iter([number.text for number in extract_numbers(problem)])
        numbers = {*NUMBER_TOKENS, FURTHER_NUMBER}
        return [next(written) if token in numbers else token for token in tokens]

    def spellings(self) -> list[str]:
        """For each source id what to look up among trained word vectors: the word itself, for `n3` the numeral 3,
        nothing for special tokens."""
        words = self.convert_ids_to_tokens(list(range(len(self))))
        special = {*self.all_special_tokens, FURTHER_NUMBER}
        numerals = {token: str(index) for index, token in enumerate(NUMBER_TOKENS)}
        return ["" if word in special else numerals.get(word, word) for word in words]

    # ---- Programs ----

    @property
    def program_tokens(self) -> list[str]:
        """The target vocabulary in the order of its ids."""
        return list(self.init_kwargs["program_tokens"])

    @cached_property
    def _program_ids(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.program_tokens)}

    def encode_program(self, program: str) -> list[int]:
        """Target ids of a program, `<bos>` first and `<eos>` last; `<unk>` for a token outside the vocabulary.

        `ProgramError` where the text is no program.
        """
        ids = self._program_ids
        unknown = ids["<unk>"]
        return [ids["<bos>"], *(ids.get(token, unknown) for token in to_tokens(program)), ids["<eos>"]]

    def decode_program(self, ids: Sequence[int] | Tensor, return_valid: bool = False) -> str | tuple[str, bool]:
        """The program text of target ids [T]; `<bos>` and `<pad>` are dropped, nothing counts after `<eos>`.

        Where the tokens are no program the text is the tokens themselves, separated by spaces (which `programs.parse`
        refuses); an id outside the vocabulary reads `<unk>`. With `return_valid` also whether it is a program.
        """
        values = ids.tolist() if isinstance(ids, Tensor) else [int(index) for index in ids]
        tokens = []
        names = self._program_names
        for index in values:
            token = names[index] if 0 <= index < len(names) else "<unk>"
            if token == "<eos>":
                break
            if token not in ("<bos>", "<pad>"):
                tokens.append(token)
        try:
            program, valid = from_tokens(tokens), True
        except ProgramError:
            program, valid = " ".join(tokens), False
        return (program, valid) if return_valid else program

    @cached_property
    def _program_names(self) -> list[str]:
        return self.program_tokens


def _masked(
    problem: str, numbers: list[Number], further: str = FURTHER_NUMBER, reserved: re.Pattern[str] | None = None
) -> str:
    """The problem with ` n0 `, ` n1 `, … in place of its numbers, and `further` in place of those after the last
    that has a token of its own. No digit is left, so a literal "n1" of the text cannot be taken for the token; what
    matches `reserved` is broken behind its first character, where punctuation is split in any case."""
    pieces, position = [], 0
    for index, number in enumerate(numbers):
        pieces += [_broken(problem[position : number.start], reserved)]
        pieces += [NUMBER_TOKENS[index] if index < MAX_NUMBERS else further]
        position = number.end
    return " ".join([*pieces, _broken(problem[position:], reserved)])


def _broken(text: str, reserved: re.Pattern[str] | None) -> str:
    return text if reserved is None else reserved.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def _values(numbers: list[Number]) -> list[float]:
    """The values of the first `MAX_NUMBERS` numbers, then NaN; one too large for a float32 is its largest."""
    largest = torch.finfo(torch.float32).max
    values = [max(-largest, min(largest, number.value)) for number in numbers[:MAX_NUMBERS]]
    return values + [math.nan] * (MAX_NUMBERS - len(values))


Text2MathTokenizer.register_for_auto_class("AutoTokenizer")

__all__ = ["Text2MathTokenizer"]
