import cv2
import numpy as np
import pytest
import torch

from evaluation import grad_cam
from models import ResNet6n2Config, ResNet6n2ForImageClassification


def small_model(norm: str = "bn", n: int = 1) -> ResNet6n2ForImageClassification:
    torch.manual_seed(3)
    model = ResNet6n2ForImageClassification(ResNet6n2Config(n=n, num_labels=4, norm=norm))
    model.train()(pixel_values=torch.randn(8, 3, 32, 32))  # running statistics that are not the initial ones
    return model.eval()


def slow_grad_cam(model, image: torch.Tensor, target: int, size: int) -> np.ndarray:
    """Selvaraju et al. 2017, equations 1 and 2, layer by layer with hooks; then the mean over layers of the maps."""
    kept = {}
    layers = model.conv_layers()[-2 * model.config.n :]
    if model.config.norm == "in":
        layers = [layer for block in model.resnet.stages[2] for layer in (block.layer1, block.layer2)]

    def keep(module, inputs, output):
        output.retain_grad()
        kept[module] = output

    handles = [layer.register_forward_hook(keep) for layer in layers]
    model(pixel_values=image[None]).logits[0, target].backward()
    for handle in handles:
        handle.remove()
    maps = []
    for layer in layers:
        activation, gradient = kept[layer][0], kept[layer].grad[0]  # [C, h, w]
        weights = gradient.mean((1, 2))
        cam = torch.relu((weights[:, None, None] * activation).sum(0)).detach().numpy()
        cam = (cam - cam.min()) / (cam.max() - cam.min() + 1e-7)
        maps.append(cv2.resize(cam, (size, size), interpolation=cv2.INTER_LINEAR))
    mean = np.mean(maps, 0)
    return (mean - mean.min()) / (mean.max() - mean.min() + 1e-7)


@pytest.mark.parametrize(("norm", "n", "size"), [("bn", 1, 64), ("in", 1, 64), ("none", 2, 64), ("gn", 1, 16)])
def test_maps_equal_an_independent_grad_cam(norm, n, size):
    model, images = small_model(norm, n), torch.randn(3, 3, 32, 32)
    targets = np.array([2, 0, 3])
    maps = grad_cam.compute_maps(model, images, targets, size=size, batch_size=2)
    assert maps.shape == (3, size, size)
    for cam, image, target in zip(maps, images, targets, strict=True):
        assert cam == pytest.approx(slow_grad_cam(model, image, int(target), size), abs=1e-4)


def test_under_instance_norm_a_convolutions_own_output_would_say_nothing():
    """The reason for `target_layers`: Grad-CAM's weights are zero there, whatever the image and the class."""
    model = small_model("in")
    outputs = []
    handle = model.gradcam_layers()[-1].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    logits = model(pixel_values=torch.randn(1, 3, 32, 32)).logits
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, 1], outputs[0])
    assert gradient.mean((2, 3)).abs().max() < 1e-5 * gradient.abs().max()
    layers, name = grad_cam.target_layers(model)
    assert [layer.conv for layer in layers] == model.gradcam_layers() and "after" in name
    grouped = small_model("gn")
    assert grad_cam.target_layers(grouped) == (grouped.gradcam_layers(), "convolutions")


def test_maps_depend_on_the_target_class():
    model, images = small_model(), torch.randn(1, 3, 32, 32)
    maps = [grad_cam.compute_maps(model, images, np.array([target])) for target in (0, 1)]
    assert np.abs(maps[0] - maps[1]).max() > 0.1


def test_maps_leave_no_hooks_and_no_gradients():
    model = small_model()
    grad_cam.compute_maps(model, torch.randn(1, 3, 32, 32), np.array([0]))
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_classes_are_the_courseworks_seven_where_present():
    names = ["Hoopoe", *grad_cam.COURSE_CLASSES, "House-Crow"]
    assert [names[i] for i in grad_cam.choose_classes(names, np.ones(9))] == list(grad_cam.COURSE_CLASSES)


def test_classes_are_all_up_to_ten_and_else_the_seven_largest():
    assert grad_cam.choose_classes([str(i) for i in range(10)], np.ones(10)) == list(range(10))
    support = np.array([1, 9, 9, 9, 9, 9, 9, 9, 9, 2, 3, 0])
    assert grad_cam.choose_classes([str(i) for i in range(12)], support) == [1, 2, 3, 4, 5, 6, 7]


def test_images_are_chosen_by_id_whatever_their_order():
    rng = np.random.default_rng(0)
    labels, predicted, ids = rng.integers(0, 2, 60), rng.integers(0, 2, 60), rng.permutation(60)
    cells = grad_cam.choose_images(labels, predicted, ids, [0, 1])
    shuffled = rng.permutation(60)
    again = grad_cam.choose_images(labels[shuffled], predicted[shuffled], ids[shuffled], [0, 1])
    assert [ids[c["index"]] for c in cells] == [ids[shuffled][c["index"]] for c in again]
    assert len(cells) == 20
    for cell in cells:
        assert labels[cell["index"]] == cell["class_index"]
        assert (predicted[cell["index"]] == cell["class_index"]) == cell["right"] == (cell["column"] < 5)


def test_a_shortage_is_named_with_its_number():
    labels, predicted = np.zeros(9, int), np.array([0] * 7 + [1] * 2)
    cells = grad_cam.choose_images(labels, predicted, np.arange(9), [0])
    assert grad_cam.shortage_note(cells, 0, right=7, wrong=2) == "Fewer than 5 exist: only 2 classified wrong."
    assert "none classified right" in grad_cam.shortage_note([], 0, right=0, wrong=0)
    full = grad_cam.choose_images(np.zeros(10, int), np.array([0, 1] * 5), np.arange(10), [0])
    assert grad_cam.shortage_note(full, 0, right=5, wrong=5) == ""


def test_sheet_puts_every_cell_at_64_pixels_where_the_index_says():
    cells = [{"row": 0, "column": 0}, {"row": 1, "column": 7}]
    images = [np.full((32, 32, 3), 200, np.uint8), np.zeros((224, 224, 3), np.uint8)]
    maps = np.stack([np.zeros((64, 64)), np.ones((64, 64))])
    sheet = grad_cam.sheet(images, maps, cells)
    for cell, image, cam in zip(cells, images, maps, strict=True):
        y, x = grad_cam.sheet_position(cell)
        expected = grad_cam.overlay(cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA), cam)
        assert (sheet[y : y + 64, x : x + 64] == expected).all()
    painted = (sheet != 255).any(-1).sum()
    assert painted <= 2 * 64 * 64


def test_maps_in_numbers():
    uniform, corner, nothing = np.ones((64, 64)), np.zeros((64, 64)), np.zeros((64, 64))
    corner[0, 0] = 1
    centre, entropy = grad_cam.describe_maps(np.stack([uniform, corner, nothing]))
    assert centre[:2] == pytest.approx([0.25, 0])
    assert entropy[:2] == pytest.approx([1, 0])
    assert np.isnan(centre[2]) and np.isnan(entropy[2])
