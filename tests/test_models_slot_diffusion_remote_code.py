"""A saved slot diffusion model carries its code, its pipeline's included: it samples where the project is not."""

import pytest
import torch
from small_slot_diffusion import build, training_inputs
from test_models_remote_code import ROOT, one_thread, run_elsewhere  # noqa: F401

CODE = {
    *("configuration_slot_diffusion.py", "modeling_slot_diffusion.py", "pipeline_slot_diffusion.py"),
    *("foreign_schedulers.py", "pipeline_inputs.py", "stored_weights.py"),
    *("slot_diffusion_vae.py", "scheduling_ddpm.py", "latent_space.py", "field_checks.py", "group_norm.py"),
    *("configuration_slot_attention.py", "modeling_slot_attention.py", "slot_attention.py", "slot_encoders.py"),
    *("slot_decoders.py", "configuration_resnet.py", "modeling_resnet.py", "normalization.py"),
    *("normalization_passes.py", "configuration_slot_unet.py", "modeling_slot_unet.py", "slot_unet_blocks.py"),
    *("configuration_vqvae.py", "modeling_vqvae.py", "vqvae_layers.py", "vqvae_checkpoint.py", "vector_quantizer.py"),
}

# What the other process does: makes the project unimportable, loads, answers, samples, and saves once more.
ELSEWHERE = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"models", "data", "metrics", "training", "evaluation"}:
            raise ModuleNotFoundError(f"{name} is blocked in this process", name=name)

sys.meta_path.insert(0, Blocked())
import torch
from transformers import AutoModel

folder = sys.argv[1]
inputs = torch.load(f"{folder}/inputs.pt", weights_only=True)

def answer(path):
    model = AutoModel.from_pretrained(path, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    assert not any(p.requires_grad for p in model.vae.parameters()) and model.unet.conv_in.weight.requires_grad
    pipeline = model.pipeline()
    assert type(pipeline).__module__.startswith("transformers_modules.")
    with torch.no_grad():
        losses = model(**inputs).losses
    made = pipeline(image=inputs["pixel_values"], seed=3, scheduler="dpmsolver++", num_inference_steps=3,
                    progress_bar=False)
    return model, {"losses": losses, "images": made.images, "masks": made.masks}

model, first = answer(folder)
model.save_pretrained(f"{folder}/again")
for name, value in answer(f"{folder}/again")[1].items():
    assert torch.equal(value, first[name]), name
torch.save(first, f"{folder}/answer.pt")
"""


@pytest.mark.usefixtures("one_thread")
def test_loads_and_samples_where_the_project_is_not_importable(tmp_path):
    model, folder = build(), tmp_path / "run"
    model.save_pretrained(folder)
    assert {path.name for path in folder.glob("*.py")} == CODE
    for name in CODE:
        assert (folder / name).read_text() == (ROOT / "models" / name).read_text()
    inputs = training_inputs(model)
    torch.save(inputs, folder / "inputs.pt")
    result = run_elsewhere(tmp_path, ELSEWHERE, folder)
    assert result.returncode == 0, result.stderr
    answer = torch.load(folder / "answer.pt", weights_only=True)
    with torch.no_grad():
        assert torch.equal(answer["losses"], model(**inputs).losses)
    options = {"seed": 3, "scheduler": "dpmsolver++", "num_inference_steps": 3, "progress_bar": False}
    made = model.pipeline()(image=inputs["pixel_values"], **options)
    assert torch.equal(answer["images"], made.images) and torch.equal(answer["masks"], made.masks)
