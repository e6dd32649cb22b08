import numpy as np
import pytest

from metrics.wilson import share_interval, wilson_interval


def test_wilson_interval_equals_its_formula():
    n, k, z = 122, 104, 1.959963984540054
    p = k / n
    centre, spread = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = ((centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n))
    assert wilson_interval(k, n) == pytest.approx(expected, abs=1e-9)


def test_wilson_interval_stays_in_range_at_the_ends():
    assert wilson_interval(0, 10)[0] == 0 and wilson_interval(10, 10)[1] == 1
    with pytest.raises(ValueError, match="at least one sample"):
        wilson_interval(0, 0)


def test_the_interval_of_a_share_is_no_point_where_all_outcomes_are_equal():
    assert share_interval([False] * 65) == pytest.approx([0, 0.0558], abs=5e-5)
    assert share_interval(np.ones(7, bool)) == pytest.approx([0.6457, 1], abs=5e-5)
