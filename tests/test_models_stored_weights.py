"""What is loaded from a run folder is what training wrote there: a flipped bit is one clear error in every family."""

import shutil

import pytest
import small_resnet
import small_slot_attention
import small_slot_diffusion
import small_slot_unet
import small_text2math
import small_vqvae
import torch
from transformers import AutoModel

from models import SlotDiffusionPipeline
from models.slot_diffusion_vae import load_vae
from training.checkpoints import MANIFEST, write_manifest

FAMILIES = [
    small_resnet,
    small_slot_attention,
    small_slot_diffusion,
    small_slot_unet,
    small_text2math,
    small_vqvae,
]
MESSAGE = r"cannot be trusted: model.safetensors is damaged \(its sha256 differs\); take another copy, or delete manif"


def flip_a_bit(folder) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.fixture
def saved(tmp_path, request):
    """A folder with the small model of a family, and its manifest."""
    model = request.param.build()
    model.save_pretrained(tmp_path / "sub")
    write_manifest(tmp_path / "sub")
    return model, tmp_path / "sub"


@pytest.mark.parametrize("saved", FAMILIES, indirect=True, ids=lambda family: family.__name__)
def test_a_flipped_bit_is_noticed_and_nothing_else_is_asked_for(saved):
    model, folder = saved
    kind = type(model)
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")  # a user may edit it
    expected = model.state_dict()
    for loaded in (kind.from_pretrained(folder), kind.from_pretrained(folder.parent, subfolder=folder.name)):
        assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    flip_a_bit(folder)
    for arguments, options in (((folder,), {}), ((str(folder.parent),), {"subfolder": folder.name})):
        with pytest.raises(ValueError, match=MESSAGE) as caught:
            kind.from_pretrained(*arguments, **options)
        assert str(folder) in str(caught.value) and len(str(caught.value).splitlines()) == 1
    (folder / MANIFEST).unlink()
    assert any(not torch.equal(v, expected[n]) for n, v in kind.from_pretrained(folder).state_dict().items())


@pytest.mark.parametrize("saved", [small_slot_diffusion], indirect=True)
def test_auto_classes_and_pipelines_notice_it(saved):
    flip_a_bit(saved[1])
    for load in (AutoModel.from_pretrained, SlotDiffusionPipeline.from_pretrained):
        with pytest.raises(ValueError, match=MESSAGE):
            load(saved[1])


@pytest.mark.parametrize("saved", [small_vqvae], indirect=True)
def test_a_vae_for_slot_diffusion_is_looked_at_too(saved):
    model, folder = saved
    load_vae(folder, model.config)
    flip_a_bit(folder)
    with pytest.raises(ValueError, match=r"the VAE in .* does not load: .*model.safetensors is damaged"):
        load_vae(folder, model.config)


@pytest.mark.parametrize("saved", [small_resnet], indirect=True)
def test_a_copy_without_its_weights_is_told_by_the_manifest(saved, tmp_path):
    shutil.copytree(saved[1], tmp_path / "copy", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ValueError, match=r"copy cannot be trusted: model.safetensors is missing"):
        type(saved[0]).from_pretrained(tmp_path / "copy")
