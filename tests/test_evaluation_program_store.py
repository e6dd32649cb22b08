import pytest

from evaluation.program_store import Store, read_entries, text_digest
from evaluation.runs import RunError


def test_a_result_is_computed_once_for_the_same_inputs(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"programs": ["add(n0,n1)"]}

    first = Store(tmp_path).remember("val, beam 10", "a", compute)
    again = Store(tmp_path).remember("val, beam 10", "a", compute)
    assert first["programs"] == again["programs"] and len(calls) == 1
    Store(tmp_path).remember("val, beam 10", "b", compute)
    assert len(calls) == 2 and read_entries(tmp_path)["val, beam 10"]["inputs"] == "b"


def test_force_computes_anew_but_once_an_evaluation(tmp_path):
    numbers = iter(range(10))
    Store(tmp_path).remember("x", "a", lambda: {"n": next(numbers)})
    store = Store(tmp_path, force=True)
    assert [store.remember("x", "a", lambda: {"n": next(numbers)})["n"] for _ in range(3)] == [1, 1, 1]


def test_what_was_stored_before_an_interruption_is_kept(tmp_path):
    store = Store(tmp_path)
    store.remember("x", "a", lambda: {"n": 1})
    with pytest.raises(KeyboardInterrupt):
        store.remember("y", "a", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert list(read_entries(tmp_path)) == ["x"]


@pytest.mark.parametrize("text", ["{", "[1]", '{"x": 1}'])
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "generated.json").write_text(text)
    with pytest.raises(RunError, match=r"generated\.json"):
        read_entries(tmp_path)
    with pytest.raises(RunError):
        Store(tmp_path)
    assert Store(tmp_path, force=True).remember("x", "a", lambda: {"n": 1})["n"] == 1


def test_order_and_columns_matter_to_a_splits_digest():
    assert text_digest(["a", "b"], [1, 2]) != text_digest(["b", "a"], [1, 2]) != text_digest(["a", "b"], [2, 1])
