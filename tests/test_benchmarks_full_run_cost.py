"""The operations that `benchmarks/full_run_cost.py` counts are those that the formulas give."""

import torch
import torch.nn.functional as F
from benchmark_modules import load_benchmark


def test_products_and_attention_are_counted():
    """A product of [n, k] and [k, m] has 2 n k m operations; attention is two, its backward pass four more."""
    count = load_benchmark("full_run_cost").count
    weight = torch.randn(7, 5, requires_grad=True)
    assert count(lambda: torch.randn(3, 7) @ weight) == 2 * 3 * 7 * 5
    q, k, v = torch.randn(3, 1, 2, 16, 8, requires_grad=True).unbind()
    products = 2 * 2 * 16 * 16 * 8
    assert count(lambda: F.scaled_dot_product_attention(q, k, v)) == 2 * products
    assert count(lambda: F.scaled_dot_product_attention(q, k, v), backward=True) == 6 * products
