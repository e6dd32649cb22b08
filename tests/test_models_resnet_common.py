"""The 6n+2 ResNet: its configuration, and what the library's common tests ask of a vision model."""

import math
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image
from small_resnet import NORMS, build, images, with_odd_values
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, ViTImageProcessor, pipeline

from models import ResNet6n2Config, ResNet6n2ForImageClassification, ResNet6n2Model

# --- Configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 0}, r"n=0 .*at least 1"),
        ({"num_labels": 1}, r"num_labels=1 .*at least 2"),
        ({"id2label": {0: "only one"}}, r"num_labels=1 .*at least 2"),
        ({"norm": "bm"}, r"'bm'.*did you mean 'bn'"),
        ({"norm": "gn", "num_groups": 3}, r"num_groups=3 .*divisor.*16, 32, 64"),
        ({"num_groups": 0}, r"num_groups=0 .*at least 1"),
        ({"shortcut": "C"}, r"shortcut='C' .*'A'.*'B'"),
        ({"label_smoothing": 1.0}, r"label_smoothing=1.0 .*\[0, 1\)"),
        ({"label_smoothing": math.nan}, r"label_smoothing=nan"),
        ({"widths": (16, 32)}, r"widths=\[16, 32\] .*three"),
        ({"widths": (16, 0, 64)}, r"widths=.*at least 1"),
        ({"widths": (64, 32, 16)}, r"widths=.*not decreasing"),
        ({"num_channels": 0}, r"num_channels=0 .*at least 1"),
    ],
)
def test_config_refuses_a_value_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        ResNet6n2Config(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fields", [{"n": "2"}, {"n": True}, {"widths": 16}, {"norm": 1}, {"sync_norm": "yes"}])
def test_config_refuses_a_wrong_type(fields):
    with pytest.raises(Exception, match=f"field '{next(iter(fields))}'") as caught:
        ResNet6n2Config(**fields)
    assert type(caught.value).__name__ == "StrictDataclassFieldValidationError"


@pytest.mark.parametrize("num_labels", [2, 7, 25])
def test_config_round_trip(tmp_path, num_labels):
    fields = {"n": 3, "norm": "gn", "num_groups": 4, "shortcut": "B", "widths": (8, 8, 24), "label_smoothing": 0.1}
    config = ResNet6n2Config(num_labels=num_labels, **fields)
    config.save_pretrained(tmp_path)
    for loaded in (ResNet6n2Config.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is ResNet6n2Config
        assert loaded.num_labels == num_labels and loaded.id2label == config.id2label
        assert {name: getattr(loaded, name) for name in fields} == {**fields, "widths": [8, 8, 24]}


def test_config_labels_as_in_the_library():
    assert ResNet6n2Config().num_labels == 25
    config = ResNet6n2Config(id2label={"0": "Hoopoe", "1": "House-Crow", "2": "Gray-Wagtail"})
    assert config.num_labels == 3 and config.id2label[2] == "Gray-Wagtail"
    assert config.label2id == {"Hoopoe": 0, "House-Crow": 1, "Gray-Wagtail": 2}
    config.num_labels = 4
    assert config.id2label[3] == "LABEL_3" and config.label2id["LABEL_3"] == 3


def test_a_field_set_after_construction_is_checked_by_the_model(tmp_path):
    build().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="n=0"):
        ResNet6n2ForImageClassification.from_pretrained(tmp_path, n=0)


# --- What the library asks of a vision model --------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_save_and_load(norm, tmp_path):
    model = with_odd_values(build(norm=norm, shortcut="B")).eval()
    model.save_pretrained(tmp_path)
    for loader in (ResNet6n2ForImageClassification, AutoModelForImageClassification):
        loaded, info = loader.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is ResNet6n2ForImageClassification and not loaded.training
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), atol=0, rtol=0)
        assert torch.equal(loaded(images()).logits, model(images()).logits)
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is ResNet6n2Model
    assert torch.equal(base(images()).pooler_output, model.resnet(images()).pooler_output)


def test_missing_and_unexpected_keys_are_reported(tmp_path):
    model = with_odd_values(build())
    model.save_pretrained(tmp_path)
    state = model.state_dict()
    missing = {"resnet.stages.1.0.layer1.norm.running_var", "resnet.stem.conv.weight"}
    state = OrderedDict((name, tensor) for name, tensor in state.items() if name not in missing)
    state["resnet.stem.conv.extra"] = torch.zeros(1)
    loaded, info = ResNet6n2ForImageClassification.from_pretrained(
        None, config=model.config, state_dict=state, output_loading_info=True
    )
    assert set(info["missing_keys"]) == missing
    assert set(info["unexpected_keys"]) == {"resnet.stem.conv.extra"}
    assert (loaded.resnet.stages[1][0].layer1.norm.running_var == 1).all()
    assert torch.equal(loaded.classifier.weight, model.classifier.weight)


def assert_freshly_initialised(model):
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert tensor.device.type == "cpu" and tensor.float().isfinite().all(), name
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            std = math.sqrt(2 / (module.out_channels * module.kernel_size[0] ** 2))
            assert module.weight.std().item() == pytest.approx(std, rel=0.2)
            assert module.bias is None or (module.bias == 0).all()
        elif isinstance(module, torch.nn.Linear):
            assert 0 < module.weight.abs().max() <= 1 / 8 and 0 < module.bias.abs().max() <= 1 / 8
        else:
            for name, value in (("weight", 1), ("bias", 0), ("gate", 1), ("running_mean", 0), ("running_var", 1)):
                tensor = getattr(module, name, None)
                assert tensor is None or (tensor == value).all(), (module, name)
            assert getattr(module, "num_batches_tracked", None) is None or module.num_batches_tracked == 0


@pytest.mark.parametrize("norm", NORMS)
def test_initialisation_also_from_meta(norm):
    assert_freshly_initialised(build(norm=norm, n=2, shortcut="B"))
    config = ResNet6n2Config(norm=norm, n=2, shortcut="B")
    assert_freshly_initialised(ResNet6n2ForImageClassification.from_pretrained(None, config=config, state_dict={}))
    with torch.device("meta"):
        model = ResNet6n2ForImageClassification(config)
    assert all(p.is_meta for p in model.parameters())
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(77)
    for module in model.modules():
        module._is_hf_initialized = False
    model.init_weights()
    assert_freshly_initialised(model)


def test_other_labels_through_ignore_mismatched_sizes(tmp_path):
    model = with_odd_values(build())
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="mismatched"):
        ResNet6n2ForImageClassification.from_pretrained(tmp_path, num_labels=9)
    loaded, info = ResNet6n2ForImageClassification.from_pretrained(
        tmp_path, num_labels=9, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert {key[0] for key in info["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}
    assert loaded(images()).logits.shape == (4, 9) and loaded.config.id2label[8] == "LABEL_8"
    assert torch.equal(loaded.resnet.stem.conv.weight, model.resnet.stem.conv.weight)
    assert 0 < loaded.classifier.weight.abs().max() <= 1 / 8


@pytest.mark.parametrize("norm", NORMS)
def test_determinism_and_batching(norm):
    model = with_odd_values(build(norm=norm)).eval()
    with torch.no_grad():
        whole = model(images()).logits
        assert torch.equal(whole, model(images()).logits)
        single = torch.cat([model(image[None]).logits for image in images()])
    torch.testing.assert_close(single, whole, atol=1e-5, rtol=1e-5)


def test_hidden_states_and_return_dict():
    model = build().eval()
    labels = torch.tensor([0, 1, 2, 4])
    plain = model(images())
    assert set(plain) == {"logits"} and plain.hidden_states is None and not hasattr(plain, "attentions")
    full = model(images(), labels=labels, output_hidden_states=True)
    assert len(full.hidden_states) == 4
    values = model(images(), labels=labels, output_hidden_states=True, return_dict=False)
    assert isinstance(values, tuple) and len(values) == 3
    torch.testing.assert_close(values, full.to_tuple(), atol=0, rtol=0)
    assert len(model(images(), return_dict=False)) == 1
    base = model.resnet(images(), return_dict=False, output_hidden_states=True)
    torch.testing.assert_close(base[2], full.hidden_states, atol=0, rtol=0)
    model.config.output_hidden_states, model.config.return_dict = True, False
    torch.testing.assert_close(model(images(), labels=labels), values, atol=0, rtol=0)


def test_hidden_states_keep_their_gradients():
    output = build()(images(), output_hidden_states=True)
    for hidden in output.hidden_states:
        hidden.retain_grad()
    output.logits[:, 0].sum().backward()
    assert all(hidden.grad is not None and hidden.grad.abs().sum() > 0 for hidden in output.hidden_states)


def test_no_weights_are_tied_and_no_names_are_hidden(tmp_path):
    model = build(norm="bin")
    pointers = [tensor.data_ptr() for tensor in model.state_dict().values()]
    assert len(set(pointers)) == len(pointers) and not model.all_tied_weights_keys
    assert set(model.state_dict()) == {name for name, _ in (*model.named_parameters(), *model.named_buffers())}


@pytest.mark.parametrize("norm", NORMS)
def test_loads_in_bf16(norm, tmp_path):
    model = build(norm=norm).eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 for p in loaded.parameters())
    output = loaded(images(), labels=torch.tensor([0, 1, 2, 4]))  # fp32 images are cast
    assert output.logits.dtype == torch.bfloat16 and output.loss.dtype == torch.float32
    torch.testing.assert_close(output.logits.float(), model(images()).logits, atol=0.1, rtol=0.1)


def test_image_classification_pipeline(tmp_path):
    names = ["Hoopoe", "House-Crow", "Gray-Wagtail", "Indian-Pitta", "Sarus-Crane"]
    model = build(id2label=dict(enumerate(names)), num_labels=5).eval()
    processor = ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    answers = pipeline("image-classification", model=str(tmp_path), device="cpu")(Image.fromarray(pixels), top_k=5)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        expected = model(tensor).logits.softmax(1)[0]
    assert [answer["label"] for answer in answers] == [names[i] for i in expected.argsort(descending=True)]
    assert [answer["score"] for answer in answers] == pytest.approx(sorted(expected.tolist(), reverse=True), abs=1e-4)
