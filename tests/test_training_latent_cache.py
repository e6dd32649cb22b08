"""Latents on disk: those of the autoencoder, made once, and never those of another picture or another autoencoder."""

import pickle

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict

from data.clevrtex import image_processor
from tests import small_vqvae
from training import latent_cache
from training.latent_cache import LatentCache

SIZE = 16


def pictures(seed: int = 0, train: int = 70, val: int = 5) -> DatasetDict:
    """Random pictures; those of val have ids from 1000 on."""
    rng = np.random.default_rng(seed)

    def split(first: int, count: int) -> Dataset:
        rows = [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8).tobytes() for _ in range(count)]
        return Dataset.from_dict({"pixels": rows, "id": list(range(first, first + count))})

    return DatasetDict(train=split(0, train), val=split(1000, val))


def frozen(seed: int = 0, **fields):
    return small_vqvae.build(seed, **fields).eval().requires_grad_(False)


@pytest.fixture
def compute(tmp_path, capsys):
    """The cache, and whether it was made anew, and what was said on stderr."""

    def call(autoencoder, dataset):
        capsys.readouterr()
        cache = LatentCache.compute(autoencoder, image_processor(SIZE), dataset, str(tmp_path / "cache"))
        said = capsys.readouterr()
        return cache, "encoding" in said.out, said.err

    return call


def latent_of(autoencoder, row) -> np.ndarray:
    image = np.frombuffer(row["pixels"], dtype=np.uint8).reshape(SIZE, SIZE, 3).astype(np.float32) / 127.5 - 1
    with torch.no_grad():
        return autoencoder.encode(torch.from_numpy(image).permute(2, 0, 1)[None])[0].numpy()


def test_latents_are_the_autoencoders_and_are_computed_once(compute):
    autoencoder, dataset = frozen(), pictures()
    cache, made, _ = compute(autoencoder, dataset)
    assert made and cache.latent_shape == (3, 4, 4)
    ids = [3, 1004, 69]
    found = cache.batch(ids).numpy()
    for latent, row in zip(found, (dataset["train"][3], dataset["val"][4], dataset["train"][69]), strict=True):
        np.testing.assert_allclose(latent, latent_of(autoencoder, row), atol=1e-5)
    everything = np.stack([latent_of(autoencoder, row) for row in dataset["train"]])
    assert cache.standard_deviation(range(70)) == pytest.approx(everything.std(), rel=1e-5)
    again, made, said = compute(frozen(), pictures())
    assert not made and said == "" and np.array_equal(again.batch(ids), found)


@pytest.mark.parametrize("what", ["weights", "settings", "pictures", "ids"])
def test_what_was_made_from_something_else_is_not_taken(compute, what):
    autoencoder, dataset = frozen(), pictures()
    before = compute(autoencoder, dataset)[0].batch([2]).numpy()
    if what == "weights":
        autoencoder.quant_conv.bias.data[1] += 1e-3
    elif what == "settings":
        autoencoder = frozen(num_groups=2)  # as many weights, with other groups
    elif what == "pictures":
        dataset = DatasetDict(train=pictures(seed=1)["train"], val=dataset["val"])  # same ids, number, and sizes
    else:
        dataset["train"] = dataset["train"].remove_columns("id").add_column("id", list(range(69, -1, -1)))
    cache, made, _ = compute(autoencoder, dataset)
    assert made and not np.array_equal(cache.batch([2]), before)
    row = next(row for row in dataset["train"] if row["id"] == 2)
    np.testing.assert_allclose(cache.batch([2])[0], latent_of(autoencoder, row), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "position"),
    [(latent_cache.VALUES, -7), (latent_cache.VALUES, 1), (latent_cache.IDS, -8), (latent_cache.IDS, 1)],
)
def test_damaged_files_are_found_and_made_again(compute, name, position):
    autoencoder, dataset = frozen(), pictures()
    cache, _, _ = compute(autoencoder, dataset)
    whole = cache.batch([5, 1001]).clone()
    path = cache.folder / name
    content = bytearray(path.read_bytes())
    content[position] ^= 16
    path.write_bytes(content)
    cache, made, said = compute(autoencoder, dataset)
    assert made and f"stale: {name} is damaged; encoding again" in said
    assert torch.equal(cache.batch([5, 1001]), whole)
    assert compute(autoencoder, dataset)[1:] == (False, "")


def test_files_that_cannot_be_opened_are_made_again(compute, monkeypatch):
    autoencoder, dataset = frozen(), pictures()
    with monkeypatch.context() as patch:  # whole, but in a format of another version
        patch.setattr(np, "save", lambda path, ids: path.write_bytes(b"no numbers"))
        with pytest.raises(ValueError):
            compute(autoencoder, dataset)
    _, made, said = compute(autoencoder, dataset)
    assert made and "stale: they cannot be opened" in said


def test_latents_that_the_code_of_today_would_not_give_are_made_again(compute, monkeypatch):
    autoencoder, dataset = frozen(), pictures()
    with monkeypatch.context() as patch:  # the encoder as it was in an earlier version
        original = type(autoencoder).encode
        patch.setattr(type(autoencoder), "encode", lambda self, images: 1.1 * original(self, images))
        compute(autoencoder, dataset)
    cache, made, said = compute(autoencoder, dataset)
    assert made and "stale: the autoencoder gives others" in said
    np.testing.assert_allclose(cache.batch([4])[0], latent_of(autoencoder, dataset["train"][4]), atol=1e-5)


def test_a_kill_while_encoding_leaves_nothing_that_is_taken_for_a_cache(compute, monkeypatch, tmp_path):
    autoencoder, dataset = frozen(), pictures()
    original, calls = type(autoencoder).encode, []

    def dying(self, images):
        calls.append(len(images))
        if len(calls) > 1:
            raise KeyboardInterrupt
        return original(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(type(autoencoder), "encode", dying)
        with pytest.raises(KeyboardInterrupt):
            compute(autoencoder, dataset)
    assert not list(tmp_path.rglob(latent_cache.VALUES))
    cache, made, _ = compute(autoencoder, dataset)
    np.testing.assert_allclose(cache.batch([69])[0], latent_of(autoencoder, dataset["train"][69]), atol=1e-5)
    assert made


def test_an_autoencoder_of_diffusers_has_its_latents_kept_too(compute):
    from diffusers import VQModel

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    library = VQModel(block_out_channels=(4, 4, 4), norm_num_groups=2, num_vq_embeddings=8, **blocks).eval()
    dataset = pictures(train=3, val=2)
    cache, made, _ = compute(library.requires_grad_(False), dataset)
    image = np.frombuffer(dataset["train"][1]["pixels"], dtype=np.uint8).reshape(SIZE, SIZE, 3) / np.float32(127.5) - 1
    with torch.no_grad():
        expected = library.encode(torch.from_numpy(image).permute(2, 0, 1)[None]).latents[0] * 0.18215
    assert made and torch.allclose(cache.batch([1])[0], expected, atol=1e-5)
    assert not compute(library, dataset)[1]


def test_a_worker_opens_the_files_and_is_not_sent_their_content(compute):
    cache, _, _ = compute(frozen(), pictures(train=300))
    sent = pickle.dumps(cache)
    assert len(sent) < 1000
    assert torch.equal(pickle.loads(sent).batch([7, 250]), cache.batch([7, 250]))
