"""Noise schedule and ancestral sampler of denoising diffusion models, with the interface of diffusers' schedulers.

Ho, Jain & Abbeel 2020, "Denoising Diffusion Probabilistic Models" (arXiv:2006.11239): equation 4 (forward process),
equations 6 and 7 (posterior), section 3.2 (the two fixed variances). v-prediction: Salimans & Ho 2022
(arXiv:2202.00512), appendix D. Spacings of a shorter run: Lin et al. 2023 (arXiv:2305.08891), table 2.

Of diffusers this uses the interface alone: a model trained with it samples with diffusers' DDPM, DDIM and DPM-Solver++
built from `scheduler.config`, and the other way round.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

CHOICES = {
    "beta_schedule": ("linear", "scaled_linear"),
    "variance_type": ("fixed_small", "fixed_large"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
}
NOT_HERE = ("thresholding", "rescale_betas_zero_snr")  # what other schedulers' configs may ask for
USED_DEFAULTS = "_use_default_values"


class LatentDDPMScheduler(SchedulerMixin, ConfigMixin):
    """The forward process q(x_t | x_0) and the ancestral step p(x_prev | x_t) for latents (nothing is clipped).

    Coefficients are computed in fp64; samples keep their dtype and are computed in fp32 where it is a half precision.
    Every argument is part of the config that other schedulers are made from, defaults included (diffusers' own
    `from_config` drops values that were not given explicitly, so that another class's default would take their place).

    Args:
        num_train_timesteps: T, the length of the chain.
        beta_start: beta of t = 0, in (0, 1).
        beta_end: beta of t = T - 1, in (0, 1), not below `beta_start`.
        beta_schedule: `"linear"`, or `"scaled_linear"`: linear in the square root of beta.
        trained_betas: all T betas themselves, in place of the three above.
        variance_type: of the ancestral step: `"fixed_small"` (that of the posterior) or `"fixed_large"` (beta).
        clip_sample: clamp the predicted x_0 to +-`clip_sample_range`; not for latents.
        prediction_type: what the model's output is: `"epsilon"` (the noise), `"sample"` (x_0), `"v_prediction"`.
        clip_sample_range: see `clip_sample`.
        timestep_spacing: how n < T steps are chosen: `"leading"`, `"trailing"` or `"linspace"`.
        steps_offset: added to the timesteps of `"leading"`.

    Raises:
        ValueError: a field out of its range, naming it.
    """

    _compatibles = [
        "DDIMScheduler",
        "DDPMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
    ]
    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0015,
        beta_end: float = 0.0195,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        variance_type: str | None = "fixed_small",
        clip_sample: bool = False,
        prediction_type: str = "epsilon",
        clip_sample_range: float = 1.0,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
    ):
        if variance_type is None:  # as DPM-Solver++ has it in its config
            self.register_to_config(variance_type="fixed_small")
        for field, known in CHOICES.items():
            if self.config[field] not in known:
                raise ValueError(f"{field}={self.config[field]!r} is not known here; choose one of {', '.join(known)}")
        if num_train_timesteps < 1:
            raise ValueError(f"num_train_timesteps={num_train_timesteps} must be at least 1")

        betas = self._make_betas()  # [T] fp64
        alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        self._alphas_cumprod = alphas_cumprod.tolist()
        self._signal, self._noise = alphas_cumprod.sqrt().float(), (1 - alphas_cumprod).sqrt().float()
        self.betas, self.alphas, self.alphas_cumprod = betas.float(), (1 - betas).float(), alphas_cumprod.float()

        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self._set_order(list(range(num_train_timesteps - 1, -1, -1)))

    def _make_betas(self) -> Tensor:
        config, count = self.config, self.config.num_train_timesteps
        if config.trained_betas is not None:
            betas = torch.as_tensor(config.trained_betas, dtype=torch.float64)
            if betas.shape != (count,):
                raise ValueError(
                    f"trained_betas has shape {list(betas.shape)} instead of [num_train_timesteps={count}]"
                )
            if not ((betas > 0) & (betas < 1)).all():
                raise ValueError("trained_betas must all be in (0, 1)")
            return betas
        if not 0 < config.beta_start <= config.beta_end < 1:
            raise ValueError(
                f"beta_start={config.beta_start} and beta_end={config.beta_end} must be in (0, 1) and not falling"
            )
        if config.beta_schedule == "linear":
            return torch.linspace(config.beta_start, config.beta_end, count, dtype=torch.float64)
        roots = torch.linspace(math.sqrt(config.beta_start), math.sqrt(config.beta_end), count, dtype=torch.float64)
        return roots.square()

    # ---- Configuration: every value explicit, both ways ----

    def register_to_config(self, **kwargs: Any) -> None:
        """Record every value given, those equal to a default too: diffusers drops these when a config changes class."""
        kwargs.pop(USED_DEFAULTS, None)
        super().register_to_config(**kwargs)

    @classmethod
    def from_config(cls, config: dict[str, Any], return_unused_kwargs: bool = False, **kwargs: Any):
        """A scheduler with another's config, with the values that the other class had by default too.

        Raises ValueError where the config asks for what this scheduler does not do.
        """
        wanted = {**config, **kwargs}
        for field in NOT_HERE:
            if wanted.get(field):
                raise ValueError(
                    f"{field}={wanted[field]!r} is not known here; pass {field}=False, or keep its scheduler"
                )
        config = {name: value for name, value in config.items() if name != USED_DEFAULTS}
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)

    # ---- Forward process ----

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, for each sample its own t: timesteps [B] (equation 4).

        Raises ValueError for a timestep outside [0, T), where timesteps are on the CPU: elsewhere looking is waiting.
        """
        signal, spread = self._coefficients(original_samples, timesteps)
        return (signal * original_samples + spread * noise).to(original_samples.dtype)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """v = sqrt(abar_t) noise - sqrt(1 - abar_t) x_0, for each sample its own t: timesteps [B]."""
        signal, spread = self._coefficients(sample, timesteps)
        return (signal * noise - spread * sample).to(sample.dtype)

    def training_target(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the model's output is compared with, by `prediction_type`."""
        if self.config.prediction_type == "epsilon":
            return noise
        if self.config.prediction_type == "sample":
            return original_samples
        return self.get_velocity(original_samples, noise, timesteps)

    def _coefficients(self, samples: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar) and sqrt(1 - abar) of each timestep, shaped to broadcast over samples."""
        if self._signal.device != samples.device:
            self._signal, self._noise = self._signal.to(samples.device), self._noise.to(samples.device)
        timesteps, count = torch.as_tensor(timesteps).flatten(), len(self._signal)
        if timesteps.device.type == "cpu" and len(timesteps) and not 0 <= timesteps.min() <= timesteps.max() < count:
            raise ValueError(
                f"timesteps run from {timesteps.min()} to {timesteps.max()}: the chain has 0 to {count - 1}"
            )
        timesteps = timesteps.to(samples.device)
        shape = (-1, *[1] * (samples.dim() - 1))
        return self._signal[timesteps].view(shape), self._noise[timesteps].view(shape)

    # ---- Sampling ----

    def scale_model_input(self, sample: Tensor, timestep: int | Tensor | None = None) -> Tensor:
        """The sample as it is: this chain needs no scaling."""
        return sample

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the timesteps of a sampling run, given by their number or one by one.

        Args:
            num_inference_steps: 1 to T, spread over the chain by `timestep_spacing`.
            device: where `self.timesteps` goes.
            timesteps: falling, each in [0, T); exclusive with `num_inference_steps`.
        """
        count = self.config.num_train_timesteps
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("give either num_inference_steps or timesteps")
        if timesteps is not None:
            chosen = [int(t) for t in timesteps]
            falling = all(later < earlier for earlier, later in pairwise(chosen))
            if not chosen or not falling or chosen[0] >= count or chosen[-1] < 0:
                raise ValueError(f"timesteps must be falling whole numbers in [0, {count}), not {chosen[:10]}")
        else:
            if not 1 <= num_inference_steps <= count:
                raise ValueError(f"num_inference_steps={num_inference_steps} must be from 1 to {count}")
            chosen = self._spaced(num_inference_steps)
        self.num_inference_steps = len(chosen)
        self._set_order(chosen, device)

    def _spaced(self, steps: int) -> list[int]:
        """`steps` falling timesteps (table 2 of Lin et al.), rounded as diffusers does."""
        count, spacing = self.config.num_train_timesteps, self.config.timestep_spacing
        if spacing == "leading":
            chosen = [i * (count // steps) + self.config.steps_offset for i in reversed(range(steps))]
            if chosen[0] >= count:
                raise ValueError(f"steps_offset={self.config.steps_offset} leads beyond the last timestep {count - 1}")
            return chosen
        if spacing == "trailing":
            chosen = np.arange(count, 0, -count / steps)[:steps].round() - 1  # cut: rounding may add one more
        else:
            chosen = np.linspace(0, count - 1, steps).round()[::-1]
        return chosen.astype(int).tolist()

    def _set_order(self, timesteps: list[int], device: str | torch.device | None = None) -> None:
        self.timesteps = torch.tensor(timesteps, dtype=torch.int64, device=device)
        self._previous = dict(zip(timesteps, [*timesteps[1:], -1], strict=True))

    def previous_timestep(self, timestep: int | Tensor) -> int:
        """The timestep after `timestep` in the run, which is the earlier one in the chain; -1 after the last."""
        previous = self._previous.get(int(timestep))
        if previous is None:
            raise ValueError(
                f"timestep {int(timestep)} is none of the {len(self._previous)} of this run; call set_timesteps first"
            )
        return previous

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        variance_noise: Tensor | None = None,
    ) -> DDPMSchedulerOutput | tuple[Tensor, Tensor]:
        """One ancestral step: a draw from p(x_prev | x_t), given what the model says of x_t.

        Args:
            model_output: as `prediction_type` says, of the shape of `sample`.
            timestep: t, one of `self.timesteps`.
            sample: x_t [B, ...].
            generator: for the noise; a list has one for each sample.
            return_dict: `False` gives a tuple.
            variance_noise: the noise itself, in place of a draw.

        Returns:
            `prev_sample`, and `pred_original_sample`: the x_0 that the model's output amounts to.
        """
        t = int(timestep)
        previous = self.previous_timestep(t)
        work = torch.promote_types(sample.dtype, torch.float32)
        x_t, output = sample.to(work), model_output.to(work)

        # 1. abar of this timestep and of the next in the run; beta of the step between them
        alpha_bar = self._alphas_cumprod[t]
        alpha_bar_previous = self._alphas_cumprod[previous] if previous >= 0 else 1.0
        alpha = alpha_bar / alpha_bar_previous
        beta = 1 - alpha

        # 2. x_0 that the output amounts to
        if self.config.prediction_type == "epsilon":
            x_0 = (x_t - math.sqrt(1 - alpha_bar) * output) / math.sqrt(alpha_bar)
        elif self.config.prediction_type == "sample":
            x_0 = output
        else:
            x_0 = math.sqrt(alpha_bar) * x_t - math.sqrt(1 - alpha_bar) * output
        if self.config.clip_sample:
            x_0 = x_0.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)

        # 3. mean of the posterior q(x_prev | x_t, x_0), equation 7
        from_x_0 = math.sqrt(alpha_bar_previous) * beta / (1 - alpha_bar)
        from_x_t = math.sqrt(alpha) * (1 - alpha_bar_previous) / (1 - alpha_bar)
        x_previous = from_x_0 * x_0 + from_x_t * x_t

        # 4. noise, except at the end of the chain
        if t > 0:
            small = self.config.variance_type == "fixed_small"
            variance = (1 - alpha_bar_previous) / (1 - alpha_bar) * beta if small else beta
            if variance_noise is None:
                variance_noise = _normal(model_output, generator)
            x_previous = x_previous + math.sqrt(variance) * variance_noise.to(work)

        x_previous, x_0 = x_previous.to(sample.dtype), x_0.to(sample.dtype)
        if not return_dict:
            return x_previous, x_0
        return DDPMSchedulerOutput(prev_sample=x_previous, pred_original_sample=x_0)

    def __len__(self) -> int:
        return self.config.num_train_timesteps


def _normal(like: Tensor, generator: torch.Generator | list[torch.Generator] | None) -> Tensor:
    """Unit normal noise, drawn on the generator's device; with a list, each sample from its own."""
    if isinstance(generator, (list, tuple)):
        if len(generator) != len(like):
            raise ValueError(f"{len(generator)} generators for a batch of {len(like)}; give one for each sample")
        return torch.cat([_normal(row, own) for row, own in zip(like.split(1), generator, strict=True)])
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


__all__ = ["LatentDDPMScheduler"]
