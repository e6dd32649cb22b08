"""The model families, written from scratch; importing this package registers them with the library's Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from .configuration_resnet import ResNet6n2Config
from .modeling_resnet import ResNet6n2ForImageClassification, ResNet6n2Model, ResNet6n2PreTrainedModel
from .normalization import (
    BatchInstanceNorm2d,
    BatchNorm2d,
    GroupNorm,
    InstanceNorm2d,
    LayerNorm2d,
    build_norm,
)

AutoConfig.register(ResNet6n2Config.model_type, ResNet6n2Config)
AutoModel.register(ResNet6n2Config, ResNet6n2Model)
AutoModelForImageClassification.register(ResNet6n2Config, ResNet6n2ForImageClassification)

__all__ = [
    "BatchInstanceNorm2d",
    "BatchNorm2d",
    "GroupNorm",
    "InstanceNorm2d",
    "LayerNorm2d",
    "ResNet6n2Config",
    "ResNet6n2ForImageClassification",
    "ResNet6n2Model",
    "ResNet6n2PreTrainedModel",
    "build_norm",
]
