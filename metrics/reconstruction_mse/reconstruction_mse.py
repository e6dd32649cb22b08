"""Squared error of reconstructed images, in the convention of the object-centric literature."""

import datasets
import evaluate
import numpy as np

from metrics.bootstrap import interval

_DESCRIPTION = """
Squared error of reconstructions, images in [0, 1], *summed* over the channels and pixels of an image and averaged over
the images: what CLEVRTex's evaluation and SlotDiffusion report as MSE (hundreds at 128x128). It grows with the size of
the image. Beside it the mean over all values, which does not. Predictions are clipped to [0, 1], as in SlotDiffusion.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`float` in about [0, 1], or uint8; [B, C, H, W] or [B, H, W, C]): reconstructions.
    references (`float` in [0, 1], or uint8; likewise): true images. From the models' [-1, 1]: (x + 1) / 2.
    resamples (`int`), seed (`int`): of the bootstrap, default 2000 and 0.
    return_samples (`bool`): also return the value of each image. Default False.

Returns:
    reconstruction_mse (`float`): sum over each image, mean over images; reconstruction_mse_interval (`list` of two
    `float`), its 95 % percentile bootstrap interval over the images; mean_squared_error (`float`): mean over all
    values; num_images (`int`); with return_samples also samples: {reconstruction_mse (`list` of `float`)}.

Example:
    >>> images = np.zeros((2, 3, 128, 128))
    >>> metrics.load("reconstruction_mse").compute(predictions=images + 0.1, references=images)
    {'reconstruction_mse': 491.52, ..., 'mean_squared_error': 0.01, 'num_images': 2}
"""

_CITATION = """
@inproceedings{karazija2021clevrtex,
  title={{ClevrTex}: A Texture-Rich Benchmark for Unsupervised Multi-Object Segmentation},
  author={Karazija, Laurynas and Laina, Iro and Rupprecht, Christian},
  booktitle={Advances in Neural Information Processing Systems, Datasets and Benchmarks},
  year={2021}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class ReconstructionMSE(evaluate.Metric):
    def _info(self):
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"squared_errors": number, "values": number}),
            format="numpy",
            reference_urls=["https://arxiv.org/abs/2111.10265", "https://arxiv.org/abs/2305.11281"],
        )

    def add_batch(self, *, predictions=None, references=None, **unknown):
        """Add images; only their squared errors are kept."""
        if unknown:
            raise ValueError(f"reconstruction_mse takes predictions and references, not {', '.join(unknown)}")
        predictions, references = _unit_range(predictions, "predictions"), _unit_range(references, "references")
        if predictions.shape != references.shape:
            shapes = f"{list(predictions.shape)} and {list(references.shape)}"
            raise ValueError(f"Mismatch in the number or size of predictions and references: shapes {shapes}")
        if not len(references):
            raise ValueError("reconstruction_mse of no samples is not defined: give at least one")
        errors = [float(((p - r) ** 2).sum()) for p, r in zip(np.clip(predictions, 0, 1), references, strict=True)]
        super().add_batch(squared_errors=errors, values=[float(references[0].size)] * len(errors))

    def add(self, *, prediction=None, reference=None, **unknown):
        """Add one image [C, H, W] and its reconstruction."""
        self.add_batch(predictions=np.asarray(prediction)[None], references=np.asarray(reference)[None], **unknown)

    def compute(self, *, predictions=None, references=None, **options):
        """The metric of what has been added, and of what is given here; None but in process 0."""
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        if self.writer is None:
            raise ValueError("reconstruction_mse of no samples is not defined: give at least one")
        return super().compute(**options)

    def _compute(self, squared_errors, values, resamples=2000, seed=0, return_samples=False):
        result = {
            "reconstruction_mse": float(squared_errors.mean()),
            "reconstruction_mse_interval": interval(squared_errors, resamples=resamples, seed=seed),
            "mean_squared_error": float(squared_errors.sum() / values.sum()),
            "num_images": len(squared_errors),
        }
        if return_samples:
            result["samples"] = {"reconstruction_mse": squared_errors.tolist()}
        return result


def _unit_range(images, name):
    """Images as float64, uint8 divided by 255; references must lie in [0, 1]."""
    if images is None:
        raise ValueError(f"{name} are missing: give images [B, C, H, W]")
    images = np.asarray(images)
    if not len(images):
        return images
    if images.ndim != 4 or (images.dtype != np.uint8 and images.dtype.kind != "f"):
        raise ValueError(f"{name} are {images.dtype} of shape {list(images.shape)}: must be uint8 or float, 4 axes")
    if images.dtype == np.uint8:
        return images / 255.0
    images = images.astype(np.float64)
    if not np.isfinite(images).all():
        raise ValueError(f"{name} hold values that are not finite numbers")
    if name == "references" and (images.min() < 0 or images.max() > 1):
        found = f"[{images.min():.4g}, {images.max():.4g}]"
        raise ValueError(f"{name} are in {found}: they must be in [0, 1]; map the models' [-1, 1] by (x + 1) / 2")
    return images
