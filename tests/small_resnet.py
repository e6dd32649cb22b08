"""Small ResNets and images for the tests of the family."""

import torch

from models import ResNet6n2Config, ResNet6n2ForImageClassification

NORMS = ("torch_bn", "bn", "in", "bin", "ln", "gn", "none")


def build(seed: int = 0, **fields) -> ResNet6n2ForImageClassification:
    torch.manual_seed(seed)
    return ResNet6n2ForImageClassification(ResNet6n2Config(**{"n": 1, "num_labels": 5, **fields}))


def images(batch: int = 4, size: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def with_odd_values(model):
    """Move every parameter and buffer off its initial value, so that a swapped or forgotten one shows."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.2 * torch.rand(tensor.shape, generator=generator))
    model.after_optimizer_step()
    return model
