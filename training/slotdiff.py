"""The task of slot diffusion: scenes in; masks, slots, and pictures made from slots out (experiment D1)."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BitImageProcessor, PreTrainedModel

from models import SlotDiffusionConfig, SlotDiffusionModel, SlotDiffusionOutput, SlotDiffusionPipeline, VQVAEConfig
from training.autoencoder import autoencoder_config, load_autoencoder
from training.diffusion_noise import diffusion_draws
from training.digests import weights_digest
from training.errors import CheckpointError, RunError
from training.latent_cache import LatentCache
from training.recipe import Recipe, load_recipe
from training.run_folder import RunFolder
from training.scene_task import SceneCollator, SceneTrainer, SegmentationArguments, SegmentationTask
from training.tasks import build_config
from training.trainer import SAMPLE_IDS

ROOT = Path(__file__).resolve().parents[1]
SAMPLER, SAMPLER_STEPS = "dpmsolver++", 20  # of the pictures that are drawn as training goes
SCALED_BY = 1000  # pictures whose latents give `scale_latents` its number
SCALE_DIGITS = 4  # so that a cache made on another machine gives the same


@dataclass
class SlotDiffusionArguments(SegmentationArguments):
    """[`training.scene_task.SegmentationArguments`], and:

    Args:
        vae_recipe: a recipe of the family vae, relative to the working directory or to the project. It is trained
            first, into runs/vae/<its name> and with this run's data, where that has not been done. Not looked at
            where `model.vae` names an autoencoder.
        cache_latents: compute the latents of all pictures once and keep them on disk.
        scale_latents: set `model.latent_scale` to one over the standard deviation of the training split's latents.
    """

    vae_recipe: str | None = None
    cache_latents: bool = True
    scale_latents: bool = False


def _seen_from_here(name: str) -> Path:
    """The path that a recipe names: relative to the working directory or else, if it is there, to the project."""
    path = Path(name).expanduser()
    return ROOT / path if not path.exists() and (ROOT / path).exists() else path


class ZeroLatents:
    """Stands for a [`LatentCache`] in a dry run."""

    def __init__(self, latent_shape: tuple[int, int, int]):
        self.latent_shape = latent_shape

    def batch(self, ids: Sequence[int]) -> Tensor:
        return torch.zeros(len(ids), *self.latent_shape)


class SlotDiffusionCollator(SceneCollator):
    """Adds to [`training.scene_task.SceneCollator`] what the denoising loss is taken at.

    Args:
        processor, noise_shape, seed, epoch: as of the base class.
        config: of the model.
        latents: by sample id, unscaled; None where the model is to encode the pictures itself.
    """

    def __init__(
        self,
        processor: BitImageProcessor,
        noise_shape: tuple[int, int] | None,
        seed: int,
        epoch: Tensor | None,
        config: SlotDiffusionConfig,
        latents: LatentCache | ZeroLatents | None,
    ):
        super().__init__(processor, noise_shape, seed, epoch)
        self.shape, self.num_timesteps = config.latent_shape, config.num_train_timesteps
        self.scale, self.latents = config.latent_scale, latents

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Besides: timesteps int64 [B], noise [B, C, h, w], and with a cache the scaled latents [B, C, h, w]."""
        batch = super().__call__(rows)
        ids = batch[SAMPLE_IDS]
        draws = diffusion_draws(ids, self.stream, self.shape, self.num_timesteps, self.seed)
        batch["timesteps"], batch["noise"] = draws
        if self.latents is not None:
            batch["latents"] = self.latents.batch(ids) * self.scale
        return batch


class SlotDiffusionTrainer(SceneTrainer):
    """Evaluates by the denoising error at fixed timesteps and noise."""

    sheet_title = "image, true masks, predicted masks, sample from the slots"

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None) -> None:
        vae = self.accelerator.unwrap_model(self.model).vae
        named = weights_digest(vae)
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if weights_digest(vae) != named:  # the latents in the cache are of the one that is named
            raise CheckpointError(
                f"{resume_from_checkpoint} was made with another autoencoder than the one that is now where the recipe "
                "names it: put the old one back, or take another --name"
            )

    def losses_of(self, output: SlotDiffusionOutput, inputs: dict[str, Any]) -> Tensor:
        return output.losses

    def pictures_of(self, model: PreTrainedModel, output: SlotDiffusionOutput) -> Tensor:
        sample = SlotDiffusionPipeline(model)
        made = sample(
            slots=output.slots,
            seed=self.args.seed,
            sample_ids=self._sample_ids,
            scheduler=SAMPLER,
            num_inference_steps=max(1, min(SAMPLER_STEPS, model.config.num_train_timesteps - 1)),
            progress_bar=False,
        )
        return made.images


class SlotDiffusionTask(SegmentationTask):
    """Denoise the latents of scenes given their slots; slots and denoiser are learned together."""

    family = "slotdiff"
    model_class = SlotDiffusionModel
    config_class = SlotDiffusionConfig
    arguments_class = SlotDiffusionArguments
    trainer_class = SlotDiffusionTrainer

    def __init__(self, recipe):
        self.runs = Path("runs")
        self._latents: LatentCache | ZeroLatents | None = None
        super().__init__(recipe)

    @classmethod
    def known_fields(cls) -> dict[str, set[str]]:
        known = super().known_fields()
        return {**known, "model": known["model"] | {"vae"}}

    # ---- The autoencoder ----

    @cached_property
    def vae_recipe(self) -> Recipe | None:
        """The recipe that the autoencoder is trained by; None where `model.vae` names a trained one."""
        named, source = self.arguments.vae_recipe, self.recipe.source
        if self.recipe.model.get("vae") is not None:
            return None
        if named is None:
            raise RunError(
                f"{source}: no autoencoder is named; set model.vae (a run folder of the family vae, or the course's "
                "vae_checkpoint.pth) or training.vae_recipe (such as recipes/vae/plain64.yaml)"
            )
        path = _seen_from_here(named)
        if not path.is_file():
            raise RunError(f"{source}: training.vae_recipe names {named}, which is not there")
        recipe = load_recipe(path)
        if recipe.model_family != "vae":
            raise RunError(
                f"{source}: training.vae_recipe names {named}, a recipe of {recipe.model_family}, not of vae"
            )
        return recipe

    @property
    def vae_path(self) -> Path:
        """Where the autoencoder is, or will be."""
        if self.vae_recipe is None:
            return _seen_from_here(self.recipe.model["vae"])
        return self.runs / "vae" / self.vae_recipe.name

    @property
    def _vae_field(self) -> str:
        """What names the autoencoder, for errors."""
        field = "model.vae" if self.vae_recipe is None else "training.vae_recipe"
        return f"{self.recipe.source}: {field}"

    def config_fields(self) -> dict[str, Any]:
        """The config's fields; `vae_config` is what the autoencoder says of itself."""
        fields = super().config_fields()
        fields.pop("vae", None)
        if self.vae_recipe is not None:
            known = build_config(VQVAEConfig, self.vae_recipe.model, self.vae_recipe.source)
        else:
            known = autoencoder_config(self.vae_path, self._vae_field)
        if known is not None and "vae_config" in fields:
            raise RunError(f"{self._vae_field} names an autoencoder that has a config; leave out model.vae_config")
        return {"vae_config": VQVAEConfig() if known is None else known, **fields}

    def prerequisites(self, runs: Path) -> list[Recipe]:
        self.runs = runs
        if self.vae_recipe is None:
            return []
        recipe = dataclasses.replace(self.vae_recipe, data=dict(self.recipe.data))
        folder = RunFolder(self.vae_path)
        if not folder.finished:
            return [recipe]
        if differences := folder.differences(recipe):
            raise RunError(
                f"{folder.path} holds another autoencoder than {self._vae_field} asks for "
                f"({'; '.join(differences[:4])}); to use it, name it with --vae {folder.path}; else delete it, or "
                "choose another --runs"
            )
        return []

    # ---- Data and model ----

    def check_fit(self) -> None:
        self.check_slots(self.config.num_slots)

    def build_model(self) -> PreTrainedModel:
        if self.rehearsal:
            self._latents = ZeroLatents(self.config.latent_shape) if self.arguments.cache_latents else None
            return SlotDiffusionModel(self.config)
        cache_dir = self.data_fields.cache_dir
        vae = load_autoencoder(self.vae_path, self.config.vae_config, self._vae_field)
        if self.arguments.cache_latents:
            self._latents = LatentCache.compute(vae, self.processor, self.datasets, cache_dir)
        if self.arguments.scale_latents:
            self.config.latent_scale = self._scale()
        torch.manual_seed(self.arguments.seed)
        return SlotDiffusionModel.from_parts(self.config, vae)

    def _scale(self) -> float:
        """One over the standard deviation of the latents of the first pictures of the training split."""
        if "latent_scale" in self.recipe.model:
            raise RunError(
                f"{self.recipe.source}: training.scale_latents works out what model.latent_scale sets: leave one out"
            )
        if self._latents is None:
            raise RunError(f"{self.recipe.source}: training.scale_latents needs training.cache_latents: true")
        deviation = self._latents.standard_deviation(self.datasets["train"][:SCALED_BY]["id"])
        if not deviation > 0:
            raise RunError(f"{self._vae_field}: its latents are all the same; train it for longer")
        return float(f"{1 / deviation:.{SCALE_DIGITS}g}")

    def collator(self, epoch: Tensor | None = None) -> SlotDiffusionCollator:
        slots = self.config.slot_config
        shape = (slots.num_slots, slots.slot_size) if slots.slot_init == "sampled" else None
        return SlotDiffusionCollator(self.processor, shape, self.arguments.seed, epoch, self.config, self._latents)
