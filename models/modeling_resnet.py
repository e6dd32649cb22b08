"""The 6n+2 ResNet of He et al. 2016, "Deep Residual Learning for Image Recognition" (arXiv:1512.03385), section 4.2.

A 3x3 stem, three stages of n residual blocks of two 3x3 convolutions each (2n layers per stage), the first
convolution of stages 2 and 3 with stride 2, global mean pool, linear: 1 + 6n + 1 layers. A normalisation follows each
convolution directly.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutputWithNoAttention,
)

from .configuration_resnet import ResNet6n2Config
from .normalization import BatchInstanceNorm2d, build_norm
from .stored_weights import CheckedPreTrainedModel


class ResNet6n2ConvLayer(nn.Module):
    """A convolution and the normalisation directly after it; the convolution has a bias only where no norm follows."""

    def __init__(self, config: ResNet6n2Config, in_channels: int, out_channels: int, kernel_size: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=config.norm == "none"
        )
        self.norm = build_norm(config.norm, out_channels, num_groups=config.num_groups, sync=config.sync_norm)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(self.conv(hidden))


class ResNet6n2PadShortcut(nn.Module):
    """Option A of the paper: every second pixel of the identity, and zeros for the channels it lacks (at the end)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.new_channels = out_channels - in_channels
        self.stride = stride

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = hidden[:, :, :: self.stride, :: self.stride]
        return F.pad(hidden, (0, 0, 0, 0, 0, self.new_channels))


class ResNet6n2Block(GradientCheckpointingLayer):
    """Two 3x3 convolutions with a residual round the pair: relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)).

    Nothing is done in place: Grad-CAM reads the convolutions' outputs, which without a norm are the block's own sums.
    """

    def __init__(self, config: ResNet6n2Config, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.layer1 = ResNet6n2ConvLayer(config, in_channels, out_channels, kernel_size=3, stride=stride)
        self.layer2 = ResNet6n2ConvLayer(config, out_channels, out_channels, kernel_size=3, stride=1)
        if stride == 1 and in_channels == out_channels:
            self.shortcut = nn.Identity()
        elif config.shortcut == "A":
            self.shortcut = ResNet6n2PadShortcut(in_channels, out_channels, stride)
        else:
            self.shortcut = ResNet6n2ConvLayer(config, in_channels, out_channels, kernel_size=1, stride=stride)

    def forward(self, hidden: Tensor) -> Tensor:
        residual = self.shortcut(hidden)
        hidden = F.relu(self.layer1(hidden))
        return F.relu(self.layer2(hidden) + residual)


class ResNet6n2PreTrainedModel(CheckedPreTrainedModel):
    """Initialisation, loading and saving, and what a trainer asks of every member of the family."""

    config: ResNet6n2Config
    base_model_prefix = "resnet"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a mean over the batch: the trainer divides by the accumulation steps
    _no_split_modules = ["ResNet6n2Block"]
    _can_compile_fullgraph = True

    def __init__(self, config: ResNet6n2Config):
        config.validate_fields()  # fields may have been set since the config was made, `from_pretrained` does so
        super().__init__(config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """He et al. 2015 (arXiv:1502.01852, equation 14) for convolutions, torch's default for the linear layer."""
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            bound = 1 / math.sqrt(module.in_features)
            init.uniform_(module.bias, -bound, bound)
        else:  # a norm: none of the other modules holds a tensor of its own
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                init.constant_(tensor, 1.0 if name in ("weight", "gate", "running_var") else 0.0)

    def parameter_groups(self) -> dict[str, list[str]]:
        """Every parameter's name in one of `decay` (weights of convolutions and the linear layer), `no_decay` (biases
        and norm parameters) and, where the norm is batch-instance, `gate` (its gates: own learning rate, no decay)."""
        groups: dict[str, list[str]] = {"decay": [], "no_decay": []}
        for prefix, module in self.named_modules():
            for name, _ in module.named_parameters(recurse=False):
                if isinstance(module, (nn.Conv2d, nn.Linear)) and name == "weight":
                    group = "decay"
                elif isinstance(module, BatchInstanceNorm2d) and name == "gate":
                    group = "gate"
                else:
                    group = "no_decay"
                groups.setdefault(group, []).append(f"{prefix}.{name}" if prefix else name)
        return groups

    def after_optimizer_step(self) -> None:
        """Clamp the gates of batch-instance norm to [0, 1]; nothing to do for the other norms."""
        for module in self.modules():
            if isinstance(module, BatchInstanceNorm2d):
                module.clamp_gate_()

    def conv_layers(self) -> list[nn.Conv2d]:
        """The 6n convolutions of the residual blocks in forward order, 2n per stage (no stem, no shortcuts)."""
        blocks = [module for module in self.modules() if isinstance(module, ResNet6n2Block)]
        return [layer.conv for block in blocks for layer in (block.layer1, block.layer2)]

    def gradcam_layers(self) -> list[nn.Conv2d]:
        """The last 2n convolutions, which are those of stage 3."""
        return self.conv_layers()[-2 * self.config.n :]

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable = checkpoint,
        every_n_layers: int = 1,
    ) -> None:
        if enable:
            gradient_checkpointing_func = partial(
                gradient_checkpointing_func, context_fn=lambda: (nullcontext(), _running_statistics_kept(self))
            )
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, every_n_layers)


@contextmanager
def _running_statistics_kept(model: nn.Module) -> Iterator[None]:
    """Let the norms update copies of their buffers: a checkpointed block runs a second time in the backward pass, and
    that run must not move the running statistics again. (Swapped, not restored: autograd may hold the originals.)"""
    originals = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    for module, buffers in originals:
        module._buffers.update({name: None if buffer is None else buffer.clone() for name, buffer in buffers.items()})
    try:
        yield
    finally:
        for module, buffers in originals:
            module._buffers.update(buffers)


class ResNet6n2Model(ResNet6n2PreTrainedModel):
    """Stem and three stages, without the classifier."""

    def __init__(self, config: ResNet6n2Config):
        super().__init__(config)
        self.stem = ResNet6n2ConvLayer(config, config.num_channels, config.widths[0], kernel_size=3, stride=1)
        self.stages = nn.ModuleList()
        in_channels = config.widths[0]
        for stage, out_channels in enumerate(config.widths):
            blocks = nn.ModuleList()
            for block in range(config.n):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(ResNet6n2Block(config, in_channels, out_channels, stride))
                in_channels = out_channels
            self.stages.append(blocks)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPoolingAndNoAttention | tuple:
        """Features of images [B, num_channels, H, W].

        Returns `last_hidden_state` [B, widths[2], H/4, W/4] (odd sizes round up), `pooler_output` [B, widths[2]], and,
        if asked, `hidden_states`: the output of the stem and of each stage.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if return_dict is None:
            return_dict = self.config.return_dict
        channels = self.config.num_channels
        if pixel_values.ndim != 4 or pixel_values.shape[1] != channels or not pixel_values.is_floating_point():
            raise ValueError(
                f"pixel_values is {pixel_values.dtype} of shape {tuple(pixel_values.shape)}: this model takes "
                f"normalised floating-point images [batch, {channels}, height, width]"
            )

        hidden = F.relu(self.stem(pixel_values.to(self.stem.conv.weight.dtype)))  # [B, 16, H, W]
        hidden_states = (hidden,)
        for blocks in self.stages:
            for block in blocks:
                hidden = block(hidden)
            hidden_states = (*hidden_states, hidden)  # [B, 16, H, W], [B, 32, H/2, W/2], [B, 64, H/4, W/4]
        pooled = hidden.mean(dim=(2, 3))  # [B, 64]

        if not return_dict:
            return (hidden, pooled, hidden_states) if output_hidden_states else (hidden, pooled)
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=hidden,
            pooler_output=pooled,
            hidden_states=hidden_states if output_hidden_states else None,
        )


class ResNet6n2ForImageClassification(ResNet6n2PreTrainedModel):
    """The 6n+2 ResNet with its linear classifier."""

    def __init__(self, config: ResNet6n2Config):
        super().__init__(config)
        self.resnet = ResNet6n2Model(config)
        self.classifier = nn.Linear(config.widths[-1], config.num_labels)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutputWithNoAttention | tuple:
        """Logits [B, num_labels] of images [B, num_channels, H, W], and the loss where labels are given.

        Args:
            labels: class indices [B], or soft labels [B, num_labels] whose rows sum to 1 (mixup, CutMix).
            output_hidden_states: also return the outputs of the stem and of each stage.
            return_dict: `False` gives a plain tuple (loss if labels are given, logits, hidden states if asked).
        """
        if return_dict is None:
            return_dict = self.config.return_dict
        outputs = self.resnet(pixel_values, output_hidden_states=output_hidden_states, return_dict=True)
        logits = self.classifier(outputs.pooler_output)
        loss = None if labels is None else self._loss(logits, labels)

        if not return_dict:
            return tuple(value for value in (loss, logits, outputs.hidden_states) if value is not None)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=outputs.hidden_states)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """As in the library, whose `register_for_auto_class` keeps one name: `AutoModel` finds the net without its
        classifier as well."""
        module = type(self).__module__.rpartition(".")[2]
        known = getattr(self.config, "auto_map", None) or {}
        self.config.auto_map = {**known, "AutoModel": f"{module}.{ResNet6n2Model.__name__}"}
        return super().save_pretrained(*args, **kwargs)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy in fp32; smoothed in training mode only."""
        indices = labels.shape == logits.shape[:1] and not labels.is_floating_point()
        if not indices and not (labels.shape == logits.shape and labels.is_floating_point()):
            raise ValueError(
                f"labels are {labels.dtype} of shape {tuple(labels.shape)}: they must be class indices "
                f"[{logits.shape[0]}] or floating-point soft labels {list(logits.shape)}"
            )
        labels = labels.long() if indices else labels.float()
        smoothing = self.config.label_smoothing if self.training else 0.0
        return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


ResNet6n2Config.register_for_auto_class()
ResNet6n2Model.register_for_auto_class("AutoModel")
ResNet6n2ForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["ResNet6n2Config", "ResNet6n2ForImageClassification", "ResNet6n2Model", "ResNet6n2PreTrainedModel"]
