"""Beam search against enumeration, a plain search without early stop, greedy search, and transformers' own."""

import itertools
import math
from types import ModuleType

import pytest
import torch
from benchmark_modules import load_benchmark
from hypothesis import given, settings
from hypothesis import strategies as st
from small_decoders import BOS, EOS, PAD, AttentiveDecoder, TableDecoder, Tensors, random_memory
from torch import Tensor

from models.beam_search import BeamSearchOutput, beam_search, reorder_state
from models.configuration_text2math import Text2MathConfig
from models.modeling_text2math import Text2MathForProgramGeneration

PENALTIES = (0.0, 0.5, 1.0, 2.0, -1.0)


def hypotheses(output: BeamSearchOutput) -> list[list[tuple[list[int], float]]]:
    """Per example the tokens and score of each hypothesis."""
    return [
        [
            (tokens[:length].tolist(), score.item())
            for tokens, length, score in zip(*row, strict=True)
            if score > -math.inf
        ]
        for row in zip(output.sequences, output.lengths, output.scores, strict=True)
    ]


def assert_same(
    ours: list[list[tuple[list[int], float]]], theirs: list[list[tuple[list[int], float]]], tolerance: float = 1e-4
) -> None:
    """Equal scores in equal order, and equal tokens wherever a score is alone."""
    assert len(ours) == len(theirs)
    for mine, expected in zip(ours, theirs, strict=True):
        scores = [score for _, score in expected]
        assert [score for _, score in mine] == pytest.approx(scores, abs=tolerance)
        for rank, (tokens, _) in enumerate(mine):
            if sum(abs(score - scores[rank]) < tolerance for score in scores) == 1:
                assert tokens == expected[rank][0]


def plain_search(
    decoder: TableDecoder, example: int, num_beams: int, max_length: int, n: int, penalty: float
) -> list[tuple[list[int], float]]:
    """The same search with lists, one example, to the very end."""
    running, finished = [([], 0.0)], []
    logs = decoder.logs(example)
    for length in range(1, max_length + 1):
        candidates = [
            ([*tokens, token], score + logs[(length - 1) % len(logs)][tokens[-1] if tokens else BOS][token])
            for tokens, score in running
            for token in range(len(logs[0]))
        ]
        candidates.sort(key=lambda candidate: -candidate[1])
        candidates = candidates[: 2 * num_beams]
        ends = [tokens[-1] == EOS or length == max_length for tokens, _ in candidates]
        finished += [
            (tokens, score / length**penalty)
            for (tokens, score), end in zip(candidates[:num_beams], ends, strict=False)
            if end
        ]
        running = [candidate for candidate, end in zip(candidates, ends, strict=True) if not end][:num_beams]
    return sorted(finished, key=lambda hypothesis: -hypothesis[1])[:n]


@pytest.mark.parametrize("penalty", PENALTIES)
def test_wide_beam_equals_enumeration(penalty: float):
    vocabulary, max_length, n = 4, 4, 12
    decoder = TableDecoder(2 * torch.randn(3, 4, vocabulary, vocabulary))
    others = [token for token in range(vocabulary) if token != EOS]
    everything = [[*body, EOS] for length in range(max_length) for body in itertools.product(others, repeat=length)] + [
        list(body) for body in itertools.product(others, repeat=max_length)
    ]  # cut off
    expected = []
    for example in range(3):
        scored = [(tokens, decoder.score(example, tokens) / len(tokens) ** penalty) for tokens in everything]
        expected.append(sorted(scored, key=lambda hypothesis: -hypothesis[1])[:n])
    output = beam_search(
        **decoder.arguments(),
        num_beams=len(everything),
        max_length=max_length,
        num_return_sequences=n,
        length_penalty=penalty,
    )
    assert_same(hypotheses(output), expected)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(("num_beams", "n"), [(2, 1), (3, 3), (5, 2), (12, 12)])
def test_early_stop_changes_nothing(penalty: float, num_beams: int, n: int):
    decoder = TableDecoder(2 * torch.randn(12, 5, 7, 7) + torch.tensor([0, 0, 1.5, 0, 0, 0, 0]))
    output = beam_search(
        **decoder.arguments(), num_beams=num_beams, max_length=9, num_return_sequences=n, length_penalty=penalty
    )
    assert_same(hypotheses(output), [plain_search(decoder, row, num_beams, 9, n, penalty) for row in range(12)])


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_one_beam_is_greedy(penalty: float):
    decoder = TableDecoder(torch.randn(20, 3, 6, 6))
    output = beam_search(**decoder.arguments(), num_beams=1, max_length=8, length_penalty=penalty)
    for example, found in enumerate(hypotheses(output)):
        tokens = [BOS]
        while len(tokens) <= 8 and tokens[-1] != EOS:
            tokens.append(int(decoder.tables[example, (len(tokens) - 1) % 3, tokens[-1]].argmax()))
        score = decoder.score(example, tokens[1:]) / (len(tokens) - 1) ** penalty
        assert_same([found], [[(tokens[1:], score)]])


def test_stops_as_soon_as_nothing_can_win():
    sure = torch.full((1, 5, 5), -20.0)
    sure[..., EOS] = 20.0
    slow = torch.zeros(1, 5, 5)
    slow[..., EOS] = -30.0
    decoder = TableDecoder(torch.stack((slow, sure, slow, sure)))
    beam_search(**decoder.arguments(), num_beams=3, max_length=6)
    assert decoder.batches == [4, 2, 2, 2, 2, 2]  # the sure ones leave after their first token
    decoder.batches.clear()
    beam_search(**decoder.arguments([1, 3]), num_beams=3, max_length=6, num_return_sequences=3)
    assert decoder.batches == [2, 2]  # nothing after the second token can reach the third best


@pytest.mark.parametrize("num_beams", [1, 4])
def test_does_not_depend_on_batch_padding_and_order(num_beams: int):
    decoder = AttentiveDecoder(11, 16)
    states, mask = random_memory(24, 9, 16)
    options = {"num_beams": num_beams, "max_length": 12, "num_return_sequences": min(num_beams, 3)}

    def search(rows: Tensor, padding: int) -> list[list[tuple[list[int], float]]]:
        length = int(mask[rows].sum(1).max())
        some = states[rows, :length], mask[rows, :length]
        some = [torch.cat((x, x.new_ones(len(rows), padding, *x.shape[2:])), dim=1) for x in some]
        some[1][:, length:] = False
        return hypotheses(beam_search(**decoder.arguments(*some), **options))

    together = search(torch.arange(24), padding=0)
    assert len({len(row[0][0]) for row in together}) > 3  # examples finish at different steps
    order = torch.randperm(24)
    shuffled = search(order, padding=3)
    assert_same([shuffled[i] for i in order.argsort()], together, 1e-5)
    assert_same([search(torch.tensor([row]), padding=row % 2)[0] for row in range(24)], together, 1e-5)


def test_equal_scores_are_ordered_by_beam_and_token():
    tables = torch.zeros(9, 1, 70, 70)
    tables[4] = torch.randn(1, 70, 70)
    decoder = TableDecoder(tables)
    options = {"num_beams": 4, "max_length": 2, "num_return_sequences": 4}
    output = beam_search(**decoder.arguments(), **options)
    # Of the first step's candidates 0, 1, 2, ... token 2 ends; of the second's, all below it, the first beam's.
    expected = [[EOS], [0, 0], [0, 1], [0, 2]]
    for row in (0, 1, 2, 3, 5, 6, 7, 8):
        assert [tokens for tokens, _ in hypotheses(output)[row]] == expected
        alone = beam_search(**decoder.arguments([row]), **options)
        assert [tokens for tokens, _ in hypotheses(alone)[0]] == expected


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    """`benchmarks/beam_search.py`, which runs transformers' generate over a decoder of ours."""
    return load_benchmark("beam_search")


@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize(("num_beams", "penalty"), [(2, 0.0), (4, 0.0), (10, 0.0), (4, 1.0), (4, -0.5)])
def test_equals_transformers(benchmark: ModuleType, num_beams: int, penalty: float, copied: bool):
    max_length, lengths = 12, set()
    for seed in range(12):
        torch.manual_seed(seed)
        decoder = AttentiveDecoder(23, 12, sharpness=1.0 + seed)
        states, mask = random_memory(5, 6, 12)
        arguments = decoder.arguments(states, mask)
        theirs = benchmark.LibraryBeamSearch(decoder, decoder.step, (BOS, EOS, PAD), copied)
        sequences, scores = theirs.search(
            arguments["state"],
            arguments["memory"],
            5,
            num_beams,
            max_length,
            scored=True,
            num_return_sequences=num_beams,
            length_penalty=penalty,
        )
        expected = []
        for tokens, score in zip(sequences.tolist(), scores.tolist(), strict=True):
            length = tokens.index(EOS) + 1 if EOS in tokens else max_length
            lengths.add(length)
            expected.append((tokens[:length], score))
        expected = [expected[row * num_beams : (row + 1) * num_beams] for row in range(5)]
        output = beam_search(
            **arguments,
            num_beams=num_beams,
            max_length=max_length,
            num_return_sequences=num_beams,
            length_penalty=penalty,
        )
        assert_same(hypotheses(output), expected, 2e-5)
        best = beam_search(**arguments, num_beams=num_beams, max_length=max_length, length_penalty=penalty)
        assert_same(hypotheses(best), [row[:1] for row in expected], 2e-5)
    assert {1, max_length} <= lengths  # from the shortest to the cut off


@pytest.mark.parametrize(
    "fields",
    [
        {"attention": False},
        {"attention_type": "additive", "num_layers": 2},
        {"input_feeding": True, "pointer": True},
    ],
)
def test_equals_transformers_on_the_model(benchmark: ModuleType, fields: dict):
    config = Text2MathConfig(vocab_size=60, embedding_size=12, hidden_size=16, max_program_length=9, **fields)
    model = Text2MathForProgramGeneration(config).eval()
    with torch.no_grad():
        model.decoder.output.weight.mul_(20)
        model.decoder.output.bias[config.eos_token_id] = 1.0
    mask = torch.arange(14) < torch.tensor([14, 3, 9, 1, 12, 6]).unsqueeze(1)
    inputs = {"input_ids": torch.randint(3, 60, mask.shape) * mask, "attention_mask": mask.long()}
    problems = benchmark.Problems(model, inputs, num_beams=4, max_length=9)
    benchmark.check(problems)  # raises where transformers finds anything else
    expected = problems.ours(problems.encode(), n=2).sequences
    torch.testing.assert_close(model.generate(**inputs, num_beams=4, num_return_sequences=2), expected.flatten(0, 1))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    vocabulary=st.integers(3, 9),
    num_beams=st.integers(1, 12),
    max_length=st.integers(1, 7),
    penalty=st.sampled_from(PENALTIES),
    data=st.data(),
)
def test_n_best(seed: int, vocabulary: int, num_beams: int, max_length: int, penalty: float, data: st.DataObject):
    n = data.draw(st.integers(1, num_beams))
    generator = torch.Generator().manual_seed(seed)
    decoder = TableDecoder(3 * torch.randn(4, 3, vocabulary, vocabulary, generator=generator))
    output = beam_search(
        **decoder.arguments(),
        num_beams=num_beams,
        max_length=max_length,
        num_return_sequences=n,
        length_penalty=penalty,
    )
    assert output.sequences.shape == (4, n, output.lengths.max())
    assert output.scores.shape == output.log_probabilities.shape == output.lengths.shape == (4, n)
    assert (output.scores[:, :-1] >= output.scores[:, 1:]).all()
    assert (output.scores[:, 0] > -math.inf).all()
    after = torch.arange(output.sequences.shape[2]) >= output.lengths.unsqueeze(2)
    assert (output.sequences[after] == PAD).all()
    assert ((output.lengths == 0) == (output.scores == -math.inf)).all()
    for row, found in enumerate(hypotheses(output)):
        assert len({tuple(tokens) for tokens, _ in found}) == len(found)
        for rank, (tokens, score) in enumerate(found):
            assert EOS not in tokens[:-1]
            assert tokens[-1] == EOS or len(tokens) == max_length
            log_probability = output.log_probabilities[row, rank].item()
            assert log_probability == pytest.approx(decoder.score(row, tokens), abs=1e-4)
            assert score == pytest.approx(log_probability / len(tokens) ** penalty, rel=1e-5, abs=1e-6)


def test_fewer_hypotheses_than_asked_for():
    decoder = TableDecoder(torch.randn(2, 1, 4, 4))
    output = beam_search(**decoder.arguments(), num_beams=9, max_length=1, num_return_sequences=6)
    assert output.lengths.tolist() == [[1, 1, 1, 1, 0, 0]] * 2
    assert (output.scores[:, 4:] == -math.inf).all() and (output.sequences[:, 4:] == PAD).all()
    for found in hypotheses(output):
        assert sorted(tokens for tokens, _ in found) == [[0], [1], [2], [3]]


class EvenLengths:
    """Admits the end token after an even number of tokens only, and then nothing else."""

    def __init__(self, vocabulary: int):
        self.ends = torch.zeros(vocabulary, dtype=torch.bool)
        self.ends[EOS] = True
        self.length = torch.zeros(1, 1, dtype=torch.long)

    def admissible(self) -> Tensor:
        may_end = ((self.length > 0) & (self.length % 2 == 0)).unsqueeze(2)
        return torch.where(may_end, self.ends, ~self.ends)

    def advance(self, beams: Tensor, tokens: Tensor) -> None:
        self.length = self.length.flatten()[beams * 0] + 1


def test_constraint():
    decoder = TableDecoder(torch.randn(3, 2, 5, 5))
    constraint = EvenLengths(5)
    output = beam_search(
        **decoder.arguments(), num_beams=6, max_length=7, num_return_sequences=6, constraint=constraint
    )
    bodies = [[a, b, EOS] for a in range(5) for b in range(5) if EOS not in (a, b)]
    for row, found in enumerate(hypotheses(output)):
        assert found[0][0] in bodies and all(tokens in bodies for tokens, _ in found)
        for tokens, score in found:  # what is not admitted takes its probability along
            assert score == pytest.approx(decoder.score(row, tokens), abs=1e-4)


def test_nothing_admissible_gives_no_hypothesis():
    class Nothing(EvenLengths):
        def admissible(self) -> Tensor:
            return torch.zeros(1, 1, 5, dtype=torch.bool)

    output = beam_search(
        **TableDecoder(torch.randn(2, 2, 5, 5)).arguments(), num_beams=3, max_length=4, constraint=Nothing(5)
    )
    assert output.scores.tolist() == [[-math.inf]] * 2 and output.sequences.shape == (2, 1, 0)


def test_half_precision_logits_are_normalised_in_float32():
    tables = torch.randn(3, 2, 40, 40).bfloat16()
    half = beam_search(**TableDecoder(tables).arguments(), num_beams=4, max_length=6, num_return_sequences=4)
    full = beam_search(**TableDecoder(tables.float()).arguments(), num_beams=4, max_length=6, num_return_sequences=4)
    assert half.scores.dtype == torch.float32
    torch.testing.assert_close(half.scores, full.scores, rtol=0, atol=0)
    torch.testing.assert_close(half.sequences, full.sequences, rtol=0, atol=0)


def test_the_result_may_be_written_to():
    output = beam_search(**TableDecoder(torch.randn(2, 2, 5, 5)).arguments(), num_beams=2, max_length=4)
    assert not any(getattr(output, field).is_inference() for field in output.__dataclass_fields__)
    output.sequences[output.sequences == PAD] = -100


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("token", [0, 3, 5])
def test_logits_that_are_not_numbers(value: float, token: int):
    tables = torch.randn(3, 2, 6, 6)
    tables[1, 1, 4, token] = value
    tables[1, 0, BOS, 4] = 9.0
    with pytest.raises(ValueError, match="logits for token 2 of a sequence are NaN or infinite"):
        beam_search(**TableDecoder(tables).arguments(), num_beams=2, max_length=4)


def test_minus_infinity_rules_a_token_out():
    tables = torch.randn(2, 3, 6, 6)
    tables[..., [0, 1]] = -math.inf
    output = beam_search(**TableDecoder(tables).arguments(), num_beams=20, max_length=4, num_return_sequences=20)
    assert all(set(tokens) <= {2, 3, 4, 5} for row in hypotheses(output) for tokens, _ in row)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"num_beams": 2.0}, r"num_beams is 2\.0"),
        ({"max_length": 0}, "max_length is 0"),
        ({"num_return_sequences": 4}, "num_return_sequences is 4 and num_beams 3"),
        ({"length_penalty": math.nan}, "length_penalty is nan"),
        ({"length_penalty": "high"}, "length_penalty is 'high'"),
        ({"eos_token_id": 6}, r"\(1, 6, 0\), the decoder's vocabulary has 6"),
        ({"decode_step": lambda tokens, state, memory: (memory.states[:, 0, 0], state)}, r"logits of shape \(2, 6\)"),
    ],
)
def test_wrong_arguments(changed: dict, message: str):
    arguments = TableDecoder(torch.randn(2, 1, 6, 6)).arguments() | {"num_beams": 3, "max_length": 4} | changed
    with pytest.raises(ValueError, match=message):
        beam_search(**arguments)


def test_state_of_any_nesting_is_reordered():
    class Own:
        def reorder(self, beams: Tensor) -> str:
            return f"beams {beams.tolist()}"

    tensor = torch.arange(12).view(2, 3, 2)
    beams = torch.tensor([[5, 5]])
    moved = reorder_state({"a": (tensor, [tensor]), "own": Own()}, beams)
    expected = torch.tensor([[[10, 11], [10, 11]]])
    torch.testing.assert_close(moved["a"][0], expected)
    torch.testing.assert_close(moved["a"][1][0], expected)
    assert moved["own"] == "beams [[5, 5]]"
    assert reorder_state(Tensors(tensor, None).states, beams).shape == (1, 2, 2)
