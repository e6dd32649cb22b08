"""Tokens of problems, aligned with the numbers that the checker counts, and of programs."""

import json
import math

import pytest
import torch
from small_text2math import PROBLEMS, PROGRAMS, build, save_bert, tokenizer
from transformers import AutoTokenizer

from models import Text2MathTokenizer
from models.programs import MAX_NUMBERS, ProgramError, extract_numbers, parse, program_tokens

HARD = "n1 costs 1,000.50 ; N2 is -3.5 , x² is 12,34 and 2/3 of <number> ½ é n0n ٣ ."


def test_words_and_numbers():
    tok = tokenizer()
    words = tok.tokenize(PROBLEMS[0])
    assert " ".join(words) == "a train of n0 meters passes a pole in n1 seconds . what is its speed ?"
    assert " ".join(tok.tokenize("the sum of 3.5 and 1,000 and 7")) == "the sum of n0 and n1 and n2"
    ids = tok("Tom HAS zebras", add_special_tokens=True).input_ids
    assert tok.convert_ids_to_tokens(ids) == ["tom", "has", "<unk>", "<eos>"]
    assert tok("").input_ids == [tok.eos_token_id]


@pytest.mark.parametrize("kind", ["words", "wordpieces"])
def test_number_tokens_are_the_numbers_of_the_text_in_order(kind, tmp_path):
    if kind == "words":
        tok = tokenizer([*PROBLEMS, HARD])
    else:
        save_bert(tmp_path)
        tok = Text2MathTokenizer.from_pretrained_bert(tmp_path)
    many = " ".join(f"{i} apples ," for i in range(25))
    for text in (*PROBLEMS, HARD, many):
        numbers = extract_numbers(text)
        encoded = tok(text)
        found = [t for t in tok.convert_ids_to_tokens(encoded.input_ids) if t[0] == "n" and t[1:].isdigit()]
        further = encoded.input_ids.count(tok.convert_tokens_to_ids("<number>"))
        assert found == [f"n{i}" for i in range(min(len(numbers), MAX_NUMBERS))]
        assert further == max(0, len(numbers) - MAX_NUMBERS)
        values = [number.value for number in numbers[:MAX_NUMBERS]]
        assert encoded.number_values[: len(values)] == pytest.approx(values)
        assert len(encoded.number_values) == MAX_NUMBERS and all(map(math.isnan, encoded.number_values[len(values) :]))
        assert not any(character.isdecimal() for t in tok.tokenize(text) if t not in found for character in t)


@pytest.mark.parametrize("kind", ["words", "wordpieces"])
def test_the_names_of_tokens_in_a_text_are_text(kind, tmp_path):
    text = "1 and <eos> <pad> <unk> [PAD] [CLS][SEP]<<number> n0 n7 <bos> 5"
    if kind == "words":
        tok = tokenizer([*PROBLEMS, "and eos pad number unk < > [ ] cls sep"])
    else:
        save_bert(tmp_path)
        tok = Text2MathTokenizer.from_pretrained_bert(tmp_path)
    ids, plain = tok(text, add_special_tokens=False).input_ids, tok.backend_tokenizer.pre_tokenizer
    names = {"<eos>", "<pad>", "<number>", "[PAD]", "[CLS]", "[SEP]"} & tok.get_vocab().keys()
    assert not {tok.convert_tokens_to_ids(name) for name in names} & set(ids)
    written = " ".join(word for word, _ in plain.pre_tokenize_str("and <eos> <pad> <unk> [PAD] [CLS][SEP]<<number> n"))
    assert ids == tok(f"1 {written} 0 n 7 < bos > 5", add_special_tokens=False).input_ids
    shown = tok.surface_tokens(text)
    assert len(shown) == len(tok(text).input_ids) and [s for s in shown if s.isdigit()] == ["1", "0", "7", "5"]


def test_problems_that_are_too_long_are_counted(tmp_path):
    save_bert(tmp_path)
    tok = Text2MathTokenizer.from_pretrained_bert(tmp_path)
    problems = [PROBLEMS[0], "train of " * 3, "a 1234567 " * 4, "\ud55c" * 3]
    lengths = [len(ids) for ids in tok(problems).input_ids]
    for limit in range(1, 25):
        assert tok.too_long(problems, limit) == [(i, n) for i, n in enumerate(lengths) if n > limit]


def test_batches():
    batch = tokenizer()(PROBLEMS, padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask", "number_values"}
    assert batch.input_ids.shape == batch.attention_mask.shape and batch.number_values.shape == (4, MAX_NUMBERS)
    assert batch.number_values.dtype == torch.float32 and batch.number_values[2, :3].tolist() == [3.5, 1000.0, 7.0]
    lists = tokenizer()(PROBLEMS)
    for row, ids in enumerate(lists.input_ids):
        assert batch.input_ids[row, : len(ids)].tolist() == ids and (batch.input_ids[row, len(ids) :] == 0).all()
        assert batch.attention_mask[row].sum() == len(ids)
        assert tokenizer()(PROBLEMS[row]).input_ids == ids
    again = tokenizer().pad({name: lists[name] for name in batch}, return_tensors="pt")
    for name in batch:
        torch.testing.assert_close(again[name], batch[name], equal_nan=True)
    cut = tokenizer()(PROBLEMS, padding=True, truncation=True, max_length=6, return_tensors="pt")
    assert cut.input_ids.shape == (4, 6) and (cut.input_ids[:, -1] == tokenizer().eos_token_id).all()
    torch.testing.assert_close(cut.number_values, batch.number_values, equal_nan=True)
    huge = tokenizer()("9" * 400, return_tensors="pt").number_values
    assert huge[0, 0] == torch.finfo(torch.float32).max


def test_surface_tokens_show_the_numbers_as_written():
    text = "The sum of 1,000 and -3.5 is what ?"
    assert tokenizer().surface_tokens(text) == ["the", "sum", "of", "1,000", "and", "-3.5", "is", "what", "?", "<eos>"]
    assert len(tokenizer().surface_tokens(text)) == len(tokenizer()(text).input_ids)


def test_the_vocabulary():
    problems = ["b b b a a c", "b a 5 c d"]
    tok = Text2MathTokenizer.from_problems(problems, min_frequency=2)
    words = tok.convert_ids_to_tokens(range(len(tok)))
    assert words == ["<pad>", "<unk>", "<eos>", *(f"n{i}" for i in range(18)), "<number>", "b", "a", "c"]
    assert tok.model_fields() == {
        "vocab_size": 25,
        "number_token_ids": list(range(3, 21)),
        "program_tokens": program_tokens(),
    }
    assert len(Text2MathTokenizer.from_problems(problems, min_frequency=1)) == 26
    assert tok.spellings() == ["", "", "", *map(str, range(18)), "", "b", "a", "c"]
    with pytest.raises(ValueError, match="no word occurs 9 times"):
        Text2MathTokenizer.from_problems(problems, min_frequency=9)
    with pytest.raises(ValueError, match="min_frequency is 0"):
        Text2MathTokenizer.from_problems(problems, min_frequency=0)


def test_wordpieces_of_a_bert(tmp_path):
    bert = save_bert(tmp_path)
    tok = Text2MathTokenizer.from_pretrained_bert(tmp_path)
    assert tok.model_fields()["number_token_ids"] == list(range(bert.config.vocab_size, bert.config.vocab_size + 18))
    assert len(tok) == bert.config.vocab_size + 19
    assert tok.tokenize("What trains 12 , 3 ?") == ["what", "train", "##s", "n0", ",", "n1", "?"]
    ids = tok("what is a train ?").input_ids
    assert ids == AutoTokenizer.from_pretrained(tmp_path)("what is a train ?").input_ids
    assert tok.convert_ids_to_tokens(ids)[0] == "[CLS]" and tok.convert_ids_to_tokens(ids)[-1] == "[SEP]"
    tok.save_pretrained(tmp_path / "ours")
    loaded = Text2MathTokenizer.from_pretrained(tmp_path / "ours")
    assert loaded([*PROBLEMS, HARD]).input_ids == tok([*PROBLEMS, HARD]).input_ids


def test_padding_baked_into_a_file_is_taken_out(tmp_path):
    save_bert(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text())
    saved["padding"] = {
        "strategy": {"Fixed": 128},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    saved["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved))
    tok = Text2MathTokenizer.from_pretrained_bert(tmp_path)
    assert len(tok("what is a train of a train ?").input_ids) == 10


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_there_and_back(program):
    tok = tokenizer()
    ids = tok.encode_program(program + "|")
    assert ids[0] == 1 and ids[-1] == 2
    assert [tok.program_tokens[i] for i in ids[1:-1]] == [
        token for operation, arguments in parse(program) for token in (operation, *arguments)
    ]
    assert tok.decode_program(ids) == tok.decode_program(torch.tensor([*ids[1:], 0, 0, 7])) == program
    assert tok.decode_program(ids, return_valid=True) == (program, True)


def test_decoding_never_raises():
    tok = tokenizer()
    add, n0 = tok.program_tokens.index("add"), tok.program_tokens.index("n0")
    assert tok.decode_program([add, n0, 2], return_valid=True) == ("add n0", False)
    assert tok.decode_program([add, n0, 9999, -1, 3], return_valid=True) == ("add n0 <unk> <unk> <unk>", False)
    for ids in ([], [2], [0, 0], [1, 2]):
        assert tok.decode_program(ids, return_valid=True) == ("", False)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        text, valid = tok.decode_program(torch.randint(0, 146, (12,), generator=generator), return_valid=True)
        try:
            parse(text)
        except ProgramError:
            assert not valid
        else:
            assert valid


def test_encoding_refuses_what_is_no_program_and_marks_what_it_does_not_know():
    with pytest.raises(ProgramError):
        tokenizer().encode_program("add(n0")
    unknown = tokenizer().program_tokens.index("<unk>")
    assert tokenizer().encode_program("add(n0,const_77)")[3] == unknown


@pytest.mark.parametrize("wrong", [["a b", None], [["a", "b"]], [1]])
def test_wrong_inputs_are_named(wrong):
    with pytest.raises(ValueError, match=r"takes texts|text input must be"):
        tokenizer()(wrong)
    with pytest.raises(ValueError, match="whole texts"):
        tokenizer()("a", "b")
    with pytest.raises(ValueError, match="problem 1 holds a lone surrogate"):
        tokenizer()(["a", "3 and \ud800 4"])
    with pytest.raises(ValueError, match="text_target: targets are programs"):
        tokenizer()("a", text_target="add(n0,n1)")
    for option in ("return_offsets_mapping", "return_overflowing_tokens"):
        with pytest.raises(ValueError, match=f"{option} is not possible"):
            tokenizer()("3 and 4", **{option: True})


def test_saved_and_loaded_also_as_auto_tokenizer(tmp_path):
    tok = tokenizer([*PROBLEMS, HARD])
    tok.save_pretrained(tmp_path)
    build().save_pretrained(tmp_path)
    for loaded in (Text2MathTokenizer.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert type(loaded) is Text2MathTokenizer and len(loaded) == len(tok)
        assert loaded([*PROBLEMS, HARD], padding=True).input_ids == tok([*PROBLEMS, HARD], padding=True).input_ids
        assert loaded.encode_program(PROGRAMS[1]) == tok.encode_program(PROGRAMS[1])
        assert loaded.model_fields() == tok.model_fields() and loaded.model_max_length == tok.model_max_length
    assert str(tmp_path) not in (tmp_path / "tokenizer_config.json").read_text()


def test_on_the_real_problems(shared):
    records = json.loads((shared / "data/mathqa/dev.json").read_text(encoding="utf-8-sig"))
    texts = [record["Problem"] for record in records]
    tok = Text2MathTokenizer.from_problems(texts, min_frequency=2)
    numbers = set(tok.model_fields()["number_token_ids"])
    for text, ids in zip(texts, tok(texts).input_ids, strict=True):
        assert sum(token in numbers for token in ids) == min(MAX_NUMBERS, len(extract_numbers(text)))
    unknown = tok.program_tokens.index("<unk>")
    for record in records:
        ids = tok.encode_program(record["linear_formula"])
        assert unknown not in ids
        assert tok.decode_program(ids) == record["linear_formula"].removesuffix("|")
