"""The course's VAE checkpoint: its layout, golden values, the coursework's snippet, and files that are not right."""

import argparse
import json
import math
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_vqvae import TINY, build

from models import VQVAEConfig, VQVAEModel

ROOT = Path(__file__).resolve().parents[1]


def golden_weight(key: str, shape: list[int]) -> torch.Tensor:
    """The rule by which the golden values' weights were filled."""
    w = np.random.default_rng(zlib.crc32(("open:" + key).encode())).standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        w = w if key == "quantize.embedding.weight" else w / np.sqrt(np.prod(shape[1:]))
    else:
        w = 1 + 0.1 * w if "norm" in key and key.endswith("weight") else 0.1 * w
    return torch.from_numpy(w.astype(np.float32))


@pytest.fixture(scope="module")
def course_state(shared) -> dict[str, torch.Tensor]:
    keys = json.loads((shared / "reference" / "vae_checkpoint_keys.json").read_text())
    return {key: golden_weight(key, shape) for key, shape in keys.items()}


def test_the_layout_is_the_courses(course_state):
    with torch.device("meta"):
        own = {name: tuple(tensor.shape) for name, tensor in VQVAEModel().state_dict().items()}
    assert own == {name: tuple(tensor.shape) for name, tensor in course_state.items()}
    assert len(own) == 205


SNIPPET = """
import inspect, sys, numpy, torch
borrowed, own = sys.argv[1:]
images = torch.from_numpy(numpy.load("image.npy"))
sys.modules["models"] = None  # not importable
sys.path.insert(0, borrowed)

from vae_ import VAE
vae = VAE()
ckpt = torch.load('vae_checkpoint.pth')
vae.load_state_dict(ckpt)
z = vae.encode(images)
rec_images = vae.decode(z)

numpy.savez("answer.npz", z=z.detach(), rec_images=rec_images.detach())
print(inspect.getfile(VAE))

sys.path[0] = own  # with the project at hand it is the project's class
del sys.modules["models"], sys.modules["vae_"]
from vae_ import VAE
from models import VQVAEModel
assert VAE is VQVAEModel
"""


def test_golden_values_and_the_courseworks_snippet(course_state, shared, tmp_path):
    golden = {name: torch.from_numpy(array) for name, array in np.load(shared / "reference/vae_golden.npz").items()}
    wrapped = {"model": {**course_state, "loss.discriminator.weight": torch.zeros(3)}, "epoch": 3}
    torch.save(wrapped, tmp_path / "vae_checkpoint.pth")

    vae = VQVAEModel.from_course_checkpoint(tmp_path / "vae_checkpoint.pth")
    assert not vae.training
    with torch.no_grad():
        torch.testing.assert_close(vae.encode(golden["image"]), golden["latent"], atol=1e-4, rtol=0)
        torch.testing.assert_close(vae.decode(golden["latent"]), golden["decoded"], atol=1e-4, rtol=0)

    torch.save(course_state, tmp_path / "vae_checkpoint.pth")  # as the course hands it out
    np.save(tmp_path / "image.npy", golden["image"][:1].numpy())
    folder = tmp_path / "borrowed"  # the files alone, without the project
    folder.mkdir()
    for path in (ROOT / "models").glob("*.py"):
        if path.name != "__init__.py":
            (folder / path.name).write_text(path.read_text())
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-c", SNIPPET, str(folder), str(ROOT / "models")]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()) == folder / "modeling_vqvae.py"
    answer = np.load(tmp_path / "answer.npz")
    np.testing.assert_allclose(answer["z"], golden["latent"][:1], atol=1e-4)
    # the latent is computed anew, so where two codes are equally near a pixel may take the other one
    assert np.isclose(answer["rec_images"], golden["decoded"][:1], atol=1e-3).mean() > 0.95


def test_vae_is_the_projects_class():
    from models.vae_ import VAE

    assert VAE is VQVAEModel


@pytest.fixture
def tiny_file(tmp_path) -> Path:
    path = tmp_path / "vae_checkpoint.pth"
    torch.save(build().state_dict(), path)
    return path


def load_tiny(path, folder=None, **fields):
    return VQVAEModel.from_course_checkpoint(path, folder, VQVAEConfig(**{**TINY, **fields}))


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_conversion_happens_once(tmp_path, wrapper, monkeypatch):
    state = {**build().state_dict(), "loss.logvar": torch.zeros(())}
    path = tmp_path / "some.pth"
    torch.save(state if wrapper is None else {wrapper: state, "step": 7}, path)
    first = load_tiny(path, tmp_path / "new" / "folder")
    converted = tmp_path / "new" / "folder" / "some.safetensors"
    assert {p.name for p in converted.parent.iterdir()} == {"some.safetensors"}
    torch.testing.assert_close(load_file(converted), dict(build().state_dict()), atol=0, rtol=0)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("read the pickle again"))
    for again in (load_tiny(path, tmp_path / "new" / "folder"), load_tiny(converted)):
        torch.testing.assert_close(again.state_dict(), first.state_dict(), atol=0, rtol=0)


def test_a_changed_original_or_a_damaged_conversion_is_converted_anew(tiny_file):
    load_tiny(tiny_file)
    torch.save(build(seed=1).state_dict(), tiny_file)
    torch.testing.assert_close(load_tiny(tiny_file).state_dict(), build(seed=1).state_dict(), atol=0, rtol=0)
    converted = tiny_file.with_suffix(".safetensors")
    data = bytearray(converted.read_bytes())
    data[-5] ^= 1
    converted.write_bytes(data)
    torch.testing.assert_close(load_tiny(tiny_file).state_dict(), build(seed=1).state_dict(), atol=0, rtol=0)
    assert bytearray(converted.read_bytes()) != data


def test_where_nothing_can_be_written_the_checkpoint_is_used_all_the_same(tiny_file, tmp_path, monkeypatch):
    said = []

    def refuse(*args, **kwargs):
        raise OSError("read-only file system")

    monkeypatch.setattr("models.vqvae_checkpoint.save_file", refuse)
    monkeypatch.setattr("models.vqvae_checkpoint.logger.warning", lambda *words: said.append(words))
    loaded = load_tiny(tiny_file)
    torch.testing.assert_close(loaded.state_dict(), build().state_dict(), atol=0, rtol=0)
    assert "cannot be written" in str(said)
    with pytest.raises(OSError, match="cannot be written"):
        load_tiny(tiny_file, tmp_path / "given")


def test_a_foreign_file_in_the_place_of_the_conversion_is_kept(tiny_file):
    other = tiny_file.with_suffix(".safetensors")
    save_file({"mine": torch.ones(2)}, other)
    with pytest.raises(ValueError, match=r"in the way.*another folder"):
        load_tiny(tiny_file)
    assert set(load_file(other)) == {"mine"}


def test_every_wrong_tensor_is_named(tmp_path):
    state = build().state_dict()
    del state["encoder.conv_in.bias"], state["quant_conv.weight"]
    state["surplus.weight"] = torch.zeros(1)
    state["decoder.conv_in.weight"] = torch.zeros(16, 3, 1, 1)
    torch.save(state, tmp_path / "vae.pth")
    with pytest.raises(ValueError) as caught:
        load_tiny(tmp_path / "vae.pth")
    for part in (
        str(tmp_path / "vae.pth"),
        "2 missing: encoder.conv_in.bias, quant_conv.weight",
        "1 surplus: surplus.weight",
        "1 misshapen: decoder.conv_in.weight [16, 3, 1, 1] instead of [16, 3, 3, 3]",
    ):
        assert part in str(caught.value)
    assert not (tmp_path / "vae.safetensors").exists()


def test_damaged_checkpoints_give_one_clear_error(tiny_file, tmp_path):
    whole = tiny_file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    noise = np.random.default_rng(0).bytes(1000)
    for content in (b"", b"\x80\x02.", noise, whole[: len(whole) // 2], bytes(flipped)):
        tiny_file.write_bytes(content)
        with pytest.raises(ValueError, match=r"vae_checkpoint.pth cannot be read as a checkpoint: .*damaged") as caught:
            load_tiny(tiny_file)
        assert "\n" not in str(caught.value)
    torch.save({"state_dict": build().state_dict(), "hyper_parameters": argparse.Namespace(lr=1)}, tiny_file)
    with pytest.raises(
        ValueError, match=r"objects other than tensors \(argparse.Namespace\); save only.*state_dict"
    ) as e:
        load_tiny(tiny_file)
    assert "weights_only" not in str(e.value) and "\n" not in str(e.value)
    torch.save([torch.ones(2)], tiny_file)
    with pytest.raises(ValueError, match="holds a list"):
        load_tiny(tiny_file)
    state = build().state_dict()
    state["quant_conv.bias"][1] = math.nan
    torch.save(state, tiny_file)
    with pytest.raises(ValueError, match=r"not finite in quant_conv\.bias"):
        load_tiny(tiny_file)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_tiny(tmp_path / "nowhere.pth")
    tiny_file.write_bytes(whole)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        load_tiny(tiny_file, tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"abc", r"it is text that begins with 'abc', no checkpoint; download"),
        ("<!DOCTYPE html>\n<title>Zugriff nötig</title>".encode(), r"begins with '<!DOCTYPE html> <title>Zugriff"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", r"pointer of Git LFS.*git lfs pull"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_text_in_a_checkpoints_place_is_told_as_such(tmp_path, suffix, content, message):
    path = tmp_path / f"vae_checkpoint{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path.name} cannot be read as a checkpoint: .*{message}") as caught:
        load_tiny(path)
    assert len(str(caught.value)) < 200 + len(str(path)) and "\n" not in str(caught.value)


def test_flipped_bits_in_the_old_format_are_one_clear_error_or_harmless(tiny_file):
    """The format before zip files has no checksums: a flip in a number cannot be told, all others are."""
    torch.save(build().state_dict(), tiny_file, _use_new_zipfile_serialization=False)
    whole = tiny_file.read_bytes()
    assert load_tiny(tiny_file).config.num_codes == 12
    rng, refused = np.random.default_rng(1), 0
    for position, bit in zip(rng.integers(0, 12_000, 60), rng.integers(0, 8, 60), strict=True):  # among the names
        content = bytearray(whole)
        content[position] ^= 1 << bit
        tiny_file.write_bytes(content)
        try:
            load_tiny(tiny_file)
        except ValueError as error:
            assert tiny_file.name in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 30


def test_averages_start_from_the_loaded_codes(tiny_file):
    model = load_tiny(tiny_file, ema_decay=0.9, revive_after=3)
    torch.testing.assert_close(model.quantize.cluster_sum, model.quantize.embedding.weight.detach(), atol=0, rtol=0)
