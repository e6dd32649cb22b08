"""Quantisation against brute force, moving averages against the paper's formula, dead codes, several processes."""

import os
import sys
from pathlib import Path

import pytest
import torch
from two_processes import free_port, run_on_two

from models.vector_quantizer import MAX_PENDING, VectorQuantizer

ROOT = Path(__file__).resolve().parents[1]


def quantise(quantizer: VectorQuantizer, flat: torch.Tensor):
    return quantizer(flat.view(1, 1, *flat.shape).permute(0, 3, 1, 2))


@pytest.mark.parametrize("chunk", [1, 5, 1 << 20])
def test_nearest_code_equals_brute_force_and_takes_the_first_of_equals(chunk, monkeypatch):
    monkeypatch.setitem(sys.modules["models.vector_quantizer"].CHUNK_VALUES, "cpu", chunk * 40)
    quantizer = VectorQuantizer(40, 3)
    with torch.no_grad():
        quantizer.embedding.weight[30] = quantizer.embedding.weight[7]
    flat = torch.cat([torch.randn(57, 3), quantizer.embedding.weight.detach()[[7]]])
    distances = (flat[:, None].double() - quantizer.embedding.weight.detach().double()).square().sum(2)
    found = quantizer.nearest(flat)
    assert torch.equal(found, distances.argmin(1)) and found[-1] == 7


def test_distances_are_not_taken_in_half_precision():
    quantizer = VectorQuantizer(500, 3)
    flat = torch.randn(400, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.nearest(flat), quantizer.nearest(flat.double().float()))
        values = quantizer(flat.view(1, 20, 20, 3).permute(0, 3, 1, 2)).values
    assert torch.equal(values.permute(0, 2, 3, 1).reshape(400, 3), quantizer.embedding.weight[quantizer.nearest(flat)])


def test_codebook_use():
    quantizer = VectorQuantizer(8, 2).eval()
    latents = quantizer.embedding.weight.detach()[[0, 0, 3, 3]].view(1, 2, 2, 2).permute(0, 3, 1, 2)
    output = quantizer(latents)
    assert output.perplexity.item() == pytest.approx(2.0) and output.codebook_use.item() == 0.25
    assert output.counts.tolist() == [2, 0, 0, 2, 0, 0, 0, 0]


def test_moving_averages_follow_the_appendix():
    quantizer = VectorQuantizer(5, 2, ema_decay=0.8).train()
    size, total = torch.ones(5), quantizer.embedding.weight.detach().clone()
    for step in range(4):
        flat = torch.randn(30, 2, generator=torch.Generator().manual_seed(step))
        codes = quantise(quantizer, flat).codes.flatten()
        quantizer.update()
        for i in range(5):
            size[i] = 0.8 * size[i] + 0.2 * (codes == i).sum()
            total[i] = 0.8 * total[i] + 0.2 * flat[codes == i].sum(0)
        torch.testing.assert_close(quantizer.embedding.weight, total / size[:, None])
    assert not list(quantizer.parameters()) and quantizer.num_updates == 4


def test_a_code_whose_average_has_run_dry_stays_where_it_is():
    quantizer = VectorQuantizer(2, 1, ema_decay=0.01).train()
    with torch.no_grad():
        quantizer.embedding.weight.copy_(torch.tensor([[0.0], [100.0]]))
        quantizer.reset_statistics()
    for _ in range(40):
        quantise(quantizer, torch.zeros(4, 1))
        quantizer.update()
    assert quantizer.embedding.weight[:, 0].tolist() == pytest.approx([0.0, 100.0])


def test_dead_codes_become_latents_of_the_batch():
    def run(seed: int) -> VectorQuantizer:
        torch.manual_seed(0)
        quantizer = VectorQuantizer(6, 2, revive_after=3, seed=seed).train()
        with torch.no_grad():
            quantizer.embedding.weight.copy_(torch.tensor([[0.0, 0.0], *[[9.0 + i, 9.0] for i in range(5)]]))
        quantise(quantizer, 0.1 * torch.rand(20, 2, generator=torch.Generator().manual_seed(5)))
        quantizer.update()
        return quantizer

    flat = 0.1 * torch.rand(20, 2, generator=torch.Generator().manual_seed(5))
    first = run(0).embedding.weight.detach()
    assert torch.equal(first[0], torch.zeros(2))
    matches = (first[1:, None] == flat).all(2)
    assert matches.any(1).all() and matches.int().argmax(1).unique().numel() == 5  # five different ones
    assert torch.equal(first, run(0).embedding.weight) and not torch.equal(first, run(1).embedding.weight)

    quantizer = run(0)
    corner = quantizer.embedding.weight.detach()[[1]].repeat(4, 1)
    for update in (1, 2, 3):
        quantise(quantizer, corner)
        quantizer.update()
        unchanged = torch.equal(quantizer.embedding.weight, first)
        assert unchanged == (update < 3)
    assert torch.equal(quantizer.embedding.weight, first[[1]].expand(6, 2))


def test_forgetting_the_update_is_an_error():
    quantizer = VectorQuantizer(2, 1, revive_after=1).train()
    quantizer._pending = [(torch.zeros(1), torch.zeros(1, 1))] * MAX_PENDING
    with pytest.raises(RuntimeError, match="after_optimizer_step"):
        quantise(quantizer, torch.zeros(1, 1))
    quantise(quantizer.eval(), torch.zeros(1, 1))


IMPORTS = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[3])
from vector_quantizer import VectorQuantizer  # imports torch alone
"""
ON_TWO_PROCESSES = """
port, folder = sys.argv[1:3]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
assert dist.get_world_size() == 2
quantizer = VectorQuantizer(6, 2, ema_decay=0.9, revive_after=1).train()
quantizer.load_state_dict(torch.load(f"{folder}/start.pt"))
flat = torch.load(f"{folder}/flat.pt")
flat = flat[:13] if rank == 0 else flat[13:]
quantizer(flat.view(1, 1, -1, 2).permute(0, 3, 1, 2))
quantizer.update()
torch.save(quantizer.state_dict(), f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def test_two_processes_update_as_one(tmp_path):
    quantizer = VectorQuantizer(6, 2, ema_decay=0.9, revive_after=1).train()
    flat = torch.randn(20, 2)
    torch.save(quantizer.state_dict(), tmp_path / "start.pt")
    torch.save(flat, tmp_path / "flat.pt")
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    run_on_two(IMPORTS, ON_TWO_PROCESSES, free_port(), tmp_path, ROOT / "models", cwd=tmp_path, env=environment)
    before = quantizer.embedding.weight.clone()
    quantise(quantizer, flat)
    quantizer.update()
    assert not torch.equal(quantizer.embedding.weight, before)
    for rank in (0, 1):
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(state, dict(quantizer.state_dict()), atol=1e-6, rtol=1e-6)
