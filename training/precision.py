"""Which number format and memory layout a machine trains convolutional nets fastest in.

On CPUs with native bf16 instructions (AVX512-BF16 or AMX), channels_last with bf16 autocast trains the ResNet of
this project several times faster than fp32 contiguous (`benchmarks/resnet_step.py` measures it). On NVIDIA GPUs
from Ampere on, bf16 tensor cores want channels_last as well.
"""

import torch

PRECISIONS = ("auto", "bf16", "fp32")
MEMORY_FORMATS = ("auto", "channels_last", "contiguous")


def machine_has_bf16() -> bool:
    """True where bf16 arithmetic is native, so that autocast gains time rather than only rounding."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def use_bf16(precision: str) -> bool:
    """Resolve `auto`, `bf16` or `fp32` for this machine."""
    return machine_has_bf16() if precision == "auto" else precision == "bf16"


def memory_format(choice: str, *, convolutional: bool) -> torch.memory_format:
    """Resolve `auto`, `channels_last` or `contiguous`; only convolutional nets gain from channels_last."""
    if choice == "auto":
        choice = "channels_last" if convolutional else "contiguous"
    return torch.channels_last if choice == "channels_last" else torch.contiguous_format
