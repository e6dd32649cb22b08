"""What the model card says about a member of the ResNet family."""

from __future__ import annotations

from .card import CardContent, optimisation
from .observations import points
from .resnet_report import data_name, describe
from .runs import Run

USAGE = """\
from transformers import AutoImageProcessor, AutoModelForImageClassification
processor = AutoImageProcessor.from_pretrained("{name}")
model = AutoModelForImageClassification.from_pretrained("{name}", trust_remote_code=True)"""

MEASURES = {
    "accuracy": "Accuracy",
    "f1_micro": "Micro F1",
    "f1_macro": "Macro F1",
    "loss": "Cross-entropy",
    "calibration_error": "Expected calibration error",
}


def card_content(run: Run) -> CardContent:
    """Texts and metadata of the card, from the run's recipe, config and metrics."""
    generated = run.is_generated
    norm = str(run.config.get("norm"))
    return CardContent(
        task="image-classification",
        task_name="Image classification",
        title=f"ResNet 6n+2: {run.name}",
        summary=f"{describe(run)} The network follows He et al. 2016, section 4.2.",
        usage=USAGE.format(name=run.folder.name),
        procedure=_procedure(run, generated),
        intended_use="Teaching, and comparing normalisation layers on small image-classification tasks. Images should "
        "look like those it was trained on: one object of one of the classes in config.json, at the same resolution.",
        limits=_limits(run, generated),
        dataset_name=data_name(run),
        dataset_type="generated" if generated else "imagefolder",
        measures=MEASURES,
        shares=frozenset({"accuracy", "f1_micro", "f1_macro"}),
        intervals_note="Wilson for accuracy, bootstrap over samples for macro F1",
        sources=[
            "K. He, X. Zhang, S. Ren, J. Sun: Deep residual learning for image recognition. CVPR 2016.",
            *_norm_source(norm),
        ],
        tags=["resnet", "image-classification", f"norm-{norm}", "from-scratch"],
    )


def _norm_source(norm: str) -> list[str]:
    sources = {
        "bn": "S. Ioffe, C. Szegedy: Batch normalization. ICML 2015.",
        "in": "D. Ulyanov, A. Vedaldi, V. Lempitsky: Instance normalization. arXiv:1607.08022.",
        "bin": "H. Nam, H.-E. Kim: Batch-instance normalization. NeurIPS 2018.",
        "ln": "J. L. Ba, J. R. Kiros, G. E. Hinton: Layer normalization. arXiv:1607.06450.",
        "gn": "Y. Wu, K. He: Group normalization. ECCV 2018.",
    }
    return [sources[norm]] if norm in sources else []


def _procedure(run: Run, generated: bool) -> str:
    samples = {split: n["samples"] for split, n in (run.metrics.get("metrics") or {}).items() if "samples" in n}
    counts = f" ({', '.join(f'{count:,} {split}' for split, count in samples.items())})" if samples else ""
    kind = "pictures drawn by this project's generator" if generated else "class folders of photographs"
    audited = run.evaluation.get("data")
    if audited:
        across = audited["exact_across"] + audited["near_across"]
        kind += (
            f" (the audit found {audited['bad_files']:,} unusable files and {across:,} pairs of equal or nearly equal "
            f"images in two splits; {audited['dropped']:,} images were dropped for it)"
        )
    return (
        f"Data: {data_name(run)}, {kind}, {len(run.labels)} classes{counts}. Trained from random weights with "
        f"{optimisation(run)}."
    )


def _limits(run: Run, generated: bool) -> list[str]:
    val = (run.metrics.get("metrics") or {}).get("val") or {}
    limits = [
        f"It always answers with one of its {len(run.labels)} classes, whatever the image shows.",
        "It has no pretraining: images that differ in style, scale or resolution from the training set lower its "
        "accuracy.",
    ]
    if "accuracy_interval" in val:
        low, high = val["accuracy_interval"]
        training = run.recipe.get("training") or {}
        stopped = training.get("early_stopping_patience") or training.get("load_best_model_at_end")
        limits.append(
            f"Validation accuracy rests on {val['samples']:,} images, so it is known to about "
            f"{points((high - low) / 2)}, and it served to choose between {'epochs and ' if stopped else ''}recipes, "
            "which makes it somewhat optimistic."
        )
    if generated:
        limits.append("It was trained on drawn pictures and says nothing about photographs.")
    else:
        limits.append("The licence of the training images is not known here; they are not part of this repository.")
    return limits
