"""Norms whose statistics are those of a batch spread over two processes."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from test_models_normalization import CHANNELS, assert_same, images, run
from torch import Tensor
from two_processes import free_port, run_on_two

from models.normalization import BatchNorm2d, build_norm


def synced_step(name: str, x: Tensor, grad: Tensor, sync: bool) -> dict[str, Tensor]:
    torch.manual_seed(1)
    layer = build_norm(name, CHANNELS, sync=sync)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(0.2, 0.8)
    return run(layer, x, grad) | {key: buffer.clone() for key, buffer in layer.named_buffers()}


IMPORTS = """
import sys, types
sys.path[:0] = sys.argv[4:]
sys.modules["models"] = package = types.ModuleType("models")  # its __init__ imports all of transformers
package.__path__ = [sys.argv[3]]
import test_models_normalization_sync
"""
ON_TWO_PROCESSES = "test_models_normalization_sync.synced_worker(rank, *sys.argv[1:3])"


def synced_worker(rank: int, port: str, folder: str) -> None:
    """What one of two processes does: its share of shares.pt, to 0.pt or 1.pt."""
    x, grad = torch.load(f"{folder}/shares.pt")[rank]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    found = {name: synced_step(name, x, grad, sync=True) for name in ("bn", "bin")}
    layer, leaf = BatchNorm2d(CHANNELS, sync=True), x.clone().requires_grad_()
    (first,) = torch.autograd.grad(layer(leaf), leaf, grad, create_graph=True)
    found["second"] = {"x": torch.autograd.grad(first.square().sum(), leaf)[0]}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    """Unequal shares of a batch on two gloo processes against the whole batch on one; second derivatives too."""
    x, grad = images(6, CHANNELS, 5, 4)
    torch.save([(x[:4], grad[:4]), (x[4:], grad[4:])], tmp_path / "shares.pt")
    here, environment = Path(__file__).parent, {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    run_on_two(IMPORTS, ON_TWO_PROCESSES, free_port(), tmp_path, here.parent / "models", here, env=environment)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for name in ("bn", "bin"):
        expected = synced_step(name, x, grad, sync=False)
        halves = [half[name] for half in found]
        joined = {key: torch.cat([half[key] for half in halves]) for key in "yx"}
        joined |= {key: halves[0][key] + halves[1][key] for key in ("weight", "bias", "gate") if key in expected}
        joined |= {key: halves[1][key] for key in ("running_mean", "running_var", "num_batches_tracked")}
        assert_same(joined, expected)
        for key in ("running_mean", "running_var"):
            assert torch.equal(halves[0][key], halves[1][key])
    layer, leaf = BatchNorm2d(CHANNELS), x.clone().requires_grad_()
    (first,) = torch.autograd.grad(layer(leaf), leaf, grad, create_graph=True)
    second = torch.autograd.grad(first.square().sum(), leaf)[0]
    assert_same({"x": torch.cat([half["second"]["x"] for half in found])}, {"x": second})
