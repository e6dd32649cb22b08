"""Configuration of the 6n+2 ResNet of He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .field_checks import is_integer, require
from .normalization import build_norm

SHORTCUTS = ("A", "B")


@strict
class ResNet6n2Config(PreTrainedConfig):
    r"""What a 6n+2 ResNet is made of; the defaults are the coursework's net of n=2 and 25 classes (173,481 parameters).

    All arguments are keyword arguments. A wrong value raises at construction, naming the field and its range.

    Args:
        n (`int`, defaults to 2): blocks per stage, at least 1; the net has 6n+2 layers (n=2: ResNet-14).
        num_labels (`int`, defaults to 25): classes, at least 2. As in every library config it is a view of `id2label`.
        norm (`str`, defaults to `"bn"`): one of `torch_bn`, `bn`, `in`, `bin`, `ln`, `gn`, `none`.
        num_groups (`int`, defaults to 8): groups of `gn`; must divide each of `widths`.
        shortcut (`str`, defaults to `"A"`): where the shape changes, `"A"` subsamples and pads with zero channels
            (no parameters), `"B"` is a 1x1 convolution with stride 2.
        widths (`list[int]`, defaults to `(16, 32, 64)`): channels of the three stages; with shortcut `"A"` they may
            not decrease.
        num_channels (`int`, defaults to 3): channels of the image, at least 1.
        sync_norm (`bool`, defaults to `False`): `bn` and `bin` reduce their statistics over all processes.
        label_smoothing (`float`, defaults to 0.0): in [0, 1); applies to the loss in training mode only, so that an
            evaluation loss is the plain cross-entropy.

    Example:
    ```python
    >>> config = ResNet6n2Config(n=2, num_labels=25, norm="gn")
    >>> model = ResNet6n2ForImageClassification(config)
    ```
    """

    model_type = "resnet6n2"

    n: int = 2
    norm: str = "bn"
    num_groups: int = 8
    shortcut: str = "A"
    widths: list[int] | tuple[int, ...] = (16, 32, 64)
    num_channels: int = 3
    sync_norm: bool = False
    label_smoothing: float | int = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        self.widths = list(self.widths)
        if kwargs.get("num_labels") is None:  # the library's default is 2 classes
            kwargs["num_labels"] = 25 if self.id2label is None else len(self.id2label)
        require(is_integer(kwargs["num_labels"], 2), "num_labels", kwargs["num_labels"], "an integer of at least 2")
        super().__post_init__(**kwargs)
        if self.label2id is None:
            self.label2id = {label: index for index, label in self.id2label.items()}
        self.validate_fields()

    def to_diff_dict(self) -> dict[str, Any]:
        """What is saved; always with the labels, which the library leaves out where there are its default two."""
        return {**super().to_diff_dict(), "id2label": self.id2label, "label2id": self.label2id}

    def validate_fields(self) -> None:
        """Raise `ValueError` where a field is out of its range; also run by `validate()` before the config is saved."""
        require(is_integer(self.num_labels, 2), "num_labels", self.num_labels, "an integer of at least 2")
        for field in ("n", "num_channels", "num_groups"):
            require(is_integer(getattr(self, field), 1), field, getattr(self, field), "an integer of at least 1")
        require(self.shortcut in SHORTCUTS, "shortcut", self.shortcut, "'A' (zero padding) or 'B' (1x1 convolution)")
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")
        three_widths = len(self.widths) == 3 and all(is_integer(width, 1) for width in self.widths)
        require(three_widths, "widths", self.widths, "three integers of at least 1, one per stage")
        if self.shortcut == "A":
            rising = self.widths == sorted(self.widths)
            require(rising, "widths", self.widths, "not decreasing with shortcut='A' (padding only adds channels)")
        build_norm(self.norm, max(self.widths), num_groups=1)  # an unknown name raises, naming the nearest known one
        if self.norm == "gn":
            divides = all(width % self.num_groups == 0 for width in self.widths)
            require(divides, "num_groups", self.num_groups, f"a divisor of each of widths={self.widths}")


__all__ = ["ResNet6n2Config"]
