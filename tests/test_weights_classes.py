"""What transformers writes for each class: loaded with the same outputs, or refused in a line that
names it."""

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model

from jaxmodels import weights
from jaxmodels.foreign.original import transformers
from jaxmodels.weights import WeightsError
from tests.compiled import apply
from train.compare.certificate import randomise

BERT = {
    "vocab_size": 30,
    "max_position_embeddings": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
}
GPT2 = {
    "vocab_size": 30,
    "n_positions": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 16,
    "pad_token_id": 0,
}
VIT = {
    "image_size": 16,
    "patch_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
}
MARIAN = {
    "vocab_size": 30,
    "d_model": 16,
    "max_position_embeddings": 16,
    **{f"{side}_layers": 1 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": 24 for side in ("encoder", "decoder")},
    "pad_token_id": 29,
    "decoder_start_token_id": 29,
}
SIZES = {"Bert": BERT, "GPT2": GPT2, "ViT": VIT, "Marian": MARIAN}
CASES = [  # class, settings of its config, arguments of the class
    ("BertModel", {}, {}),
    ("BertModel", {}, {"add_pooling_layer": False}),
    ("BertForPreTraining", {}, {}),
    ("BertForPreTraining", {"tie_word_embeddings": False}, {}),
    ("BertForMaskedLM", {}, {}),
    ("BertForMaskedLM", {"tie_word_embeddings": False}, {}),
    ("BertForNextSentencePrediction", {}, {}),
    ("BertForMultipleChoice", {}, {}),
    (
        "BertForSequenceClassification",
        {"problem_type": "multi_label_classification", "num_labels": 3},
        {},
    ),
    ("BertForSequenceClassification", {"problem_type": "regression", "num_labels": 1}, {}),
    ("BertForTokenClassification", {"num_labels": 3}, {}),
    ("BertForQuestionAnswering", {}, {}),
    ("ViTForImageClassification", {"num_labels": 3}, {}),
    ("ViTModel", {}, {}),
    ("ViTModel", {"pooler_output_size": 10}, {"use_mask_token": True}),
    ("ViTModel", {}, {"add_pooling_layer": False}),
    ("GPT2Model", {}, {}),
    ("GPT2Model", {"tie_word_embeddings": False}, {}),
    ("GPT2LMHeadModel", {}, {}),
    ("GPT2LMHeadModel", {"tie_word_embeddings": False}, {}),
    ("MarianModel", {}, {}),
    ("MarianModel", {"share_encoder_decoder_embeddings": False}, {}),
    ("MarianModel", {"tie_word_embeddings": False}, {}),
    ("MarianModel", {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False}, {}),
    ("MarianMTModel", {}, {}),
    ("MarianMTModel", {"tie_word_embeddings": False}, {}),
    ("MarianMTModel", {"share_encoder_decoder_embeddings": False}, {}),
    (
        "MarianMTModel",
        {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False},
        {},
    ),
]
IDS = ["-".join([cls, *map(str, {**settings, **arguments})]) for cls, settings, arguments in CASES]


def make(cls, settings=None, arguments=None):
    """A small model of a class of transformers with random weights, biases and norms too."""
    library = transformers()
    family = next(name for name in SIZES if cls.startswith(name))
    config = getattr(library, f"{family}Config")(**SIZES[family], **(settings or {}))
    torch.manual_seed(0)
    module = getattr(library, cls)(config, **(arguments or {})).eval()
    tables = {n: p.clone() for n, p in module.named_parameters() if "embed_positions" in n}
    randomise(module)
    for name, table in tables.items():
        module.get_parameter(name).data = table
    return module


def inputs_of(cls):
    """What a class of transformers and our model are called with."""
    rng = np.random.default_rng(0)
    if cls.startswith("ViT"):
        image = rng.normal(size=(2, 16, 16, 3)).astype(np.float32)
        return {"pixel_values": image.transpose(0, 3, 1, 2)}, (image,)
    if cls.startswith("Marian"):
        source, target = rng.integers(0, 29, (2, 2, 7))
        return {"input_ids": source, "decoder_input_ids": target}, (source, target)
    tokens = rng.integers(1, 30, (2, 3, 7) if cls == "BertForMultipleChoice" else (2, 7))
    if cls.startswith("GPT2"):
        return {"input_ids": tokens}, (tokens,)
    segments = (np.arange(7) < rng.integers(4, 8, (*tokens.shape[:-1], 1))).astype(np.int32)
    types = rng.integers(0, 2, tokens.shape)
    return (
        {"input_ids": tokens, "attention_mask": segments, "token_type_ids": types},
        (tokens, segments, types),
    )


def theirs(module):
    """Outputs of transformers, the last hidden state, pooled features and logits, whichever there
    are."""
    given = {
        k: torch.from_numpy(np.array(v)) for k, v in inputs_of(type(module).__name__)[0].items()
    }
    with torch.no_grad():
        outputs = module(**given)
    names = (
        "last_hidden_state",
        "pooler_output",
        "logits",
        "prediction_logits",
        "seq_relationship_logits",
    )
    names += ("start_logits", "end_logits")
    return [outputs[name].numpy() for name in names if outputs.get(name) is not None]


def ours(cls, model, variables):
    """The same of ours."""
    found = apply(model, variables, *map(jnp.asarray, inputs_of(cls)[1]), train=False)
    if cls in ("GPT2Model", "MarianModel"):
        return [found.hidden]
    if hasattr(found, "tokens"):
        found = (found.tokens.logits, found.next_sentence)
    found = found.logits if hasattr(found, "logits") else found
    found = found if isinstance(found, tuple) else (found,)
    return [np.asarray(x) for x in found if x is not None]


def assert_same(cls, model, variables, expected):
    found, segments = (
        ours(cls, model, variables),
        inputs_of(cls)[1][1] if cls.startswith("Bert") else None,
    )
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        real = (
            segments > 0 if segments is not None and a.shape[:2] == segments.shape else slice(None)
        )
        assert np.abs(b).max() > 1e-2
        np.testing.assert_allclose(a[real], b[real], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("cls", "settings", "arguments"), CASES, ids=IDS)
def test_each_class_gives_the_same_and_comes_back(tmp_path, cls, settings, arguments):
    module = make(cls, settings, arguments)
    module.save_pretrained(tmp_path / "theirs")
    expected = theirs(module)
    model, variables = weights.load(tmp_path / "theirs")
    wanted = jax.eval_shape(
        lambda: model.init(jax.random.key(0), *map(jnp.asarray, inputs_of(cls)[1]), train=False)
    )
    assert jax.tree.structure(wanted) == jax.tree.structure(variables)  # nothing that is not needed
    assert_same(cls, model, variables, expected)
    weights.save(tmp_path / "ours", model, variables, format="transformers")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"] == [cls]
    again = getattr(transformers(), cls).from_pretrained(tmp_path / "ours", **arguments).eval()
    for a, b in zip(theirs(again), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    same, found = weights.load(tmp_path / "ours")
    assert same == model
    jax.tree.map(np.testing.assert_array_equal, found, variables)


@pytest.mark.parametrize(
    ("cls", "skip"),
    [
        ("GPT2ForSequenceClassification", "score.*"),
        ("GPT2ForTokenClassification", "classifier.*"),
        ("GPT2ForQuestionAnswering", "qa_outputs.*"),
        ("GPT2DoubleHeadsModel", "multiple_choice_head.*"),
        ("ViTForMaskedImageModeling", "decoder.*"),
    ],
)
def test_a_head_without_a_place_is_named_and_can_be_left_out(tmp_path, cls, skip):
    module = make(cls, {"encoder_stride": 8} if cls.startswith("ViT") else {})
    module.save_pretrained(tmp_path / "theirs")
    with pytest.raises(
        WeightsError,
        match=rf"is of {cls}, and \w+ has no place for .*skip=\('{skip[:-1]}\*',\) loads",
    ):
        weights.load(tmp_path / "theirs")
    model, variables = weights.load(tmp_path / "theirs", skip=(skip,))
    base, name = (
        (module.vit, "ViTModel") if cls.startswith("ViT") else (module.transformer, "GPT2Model")
    )
    assert_same(name, model, variables, theirs(base))
    weights.save(tmp_path / "ours", model, variables, format="transformers")
    wanted = "ViTModel" if cls.startswith("ViT") else "GPT2LMHeadModel"
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"] == [wanted]


@pytest.mark.parametrize(
    ("cls", "settings"), [("BertLMHeadModel", {"is_decoder": True}), ("MarianForCausalLM", {})]
)
def test_a_decoder_alone_is_refused_by_name(tmp_path, cls, settings):
    make(cls, settings).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=rf"is of {cls}, a .* no such model here"):
        weights.load(tmp_path)


ALIASES = [  # class, of each group of tied tensors the one that is kept, the others
    ("GPT2LMHeadModel", ["lm_head.weight"], ["transformer.wte.weight"]),
    ("GPT2LMHeadModel", ["transformer.wte.weight"], ["lm_head.weight"]),
    (
        "BertForMaskedLM",
        ["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"],
        ["bert.embeddings.word_embeddings.weight", "cls.predictions.bias"],
    ),
    *(
        ("MarianMTModel", [kept], [name for name in names if name != kept])
        for names in [
            [
                "lm_head.weight",
                "model.shared.weight",
                "model.encoder.embed_tokens.weight",
                "model.decoder.embed_tokens.weight",
            ]
        ]
        for kept in names
    ),
]


@pytest.mark.parametrize(
    ("cls", "kept", "others"), ALIASES, ids=[f"{a[0]}-{a[1][0]}" for a in ALIASES]
)
def test_a_tied_tensor_may_lie_there_under_any_of_its_names(tmp_path, cls, kept, others):
    module = make(cls)
    module.save_pretrained(tmp_path)
    state = {k: v.contiguous() for k, v in module.state_dict().items() if k not in others}
    assert set(kept) <= set(state)
    save_file(
        state, tmp_path / "model.safetensors", {"format": "pt"} | dict.fromkeys(others, kept[0])
    )
    assert_same(cls, *weights.load(tmp_path), theirs(module))


@pytest.mark.parametrize(
    "cls", ["GPT2LMHeadModel", "BertForMaskedLM", "BertForPreTraining", "MarianMTModel"]
)
def test_files_of_save_model_and_of_several_names(tmp_path, cls):
    module = make(cls)
    module.save_pretrained(tmp_path)
    save_model(module, tmp_path / "model.safetensors")
    assert_same(cls, *weights.load(tmp_path), theirs(module))
    # as a pickle has them
    whole = {k: v.clone().contiguous() for k, v in module.state_dict().items()}
    save_file(whole, tmp_path / "model.safetensors")
    assert_same(cls, *weights.load(tmp_path), theirs(module))
    twin = {"GPT2LMHeadModel": "lm_head.weight", "MarianMTModel": "lm_head.weight"}.get(
        cls, "cls.predictions.decoder.weight"
    )
    save_file(whole | {twin: whole[twin] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=rf"{twin} differs from .*tie_embeddings"):
        weights.load(tmp_path)


def test_names_of_before_and_parts_that_a_class_does_not_use(tmp_path, caplog):
    """gamma and beta, positions among the tensors, a pooler where no class uses it, an untied head
    with one bias."""
    for cls, settings in (
        ("BertForMaskedLM", {}),
        ("BertForTokenClassification", {"num_labels": 3}),
    ):
        module = make(cls, settings)
        module.save_pretrained(tmp_path)
        old = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): x
            for name, x in load_file(tmp_path / "model.safetensors").items()
        }
        old |= {"bert.embeddings.position_ids": torch.arange(16)[None]}
        old |= {
            "bert.pooler.dense.weight": torch.ones(16, 16),
            "bert.pooler.dense.bias": torch.ones(16),
        }
        save_file(old, tmp_path / "model.safetensors")
        caplog.clear()
        assert_same(cls, *weights.load(tmp_path), theirs(module))
        assert (
            "the model has no use for bert.pooler.dense.bias; bert.pooler.dense.weight"
            in caplog.text
        )
        both = old | {
            "bert.embeddings.LayerNorm.weight": old["bert.embeddings.LayerNorm.gamma"].clone()
        }
        save_file(both, tmp_path / "model.safetensors")
        with pytest.raises(
            WeightsError, match=r"LayerNorm\.\w+ and \S+LayerNorm\.\w+ are two of one name"
        ):
            weights.load(tmp_path)
    module = make("BertForMaskedLM", {"tie_word_embeddings": False})
    # one, before transformers 5
    module.cls.predictions.decoder.bias.data = module.cls.predictions.bias.data
    module.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state.pop("cls.predictions.decoder.bias", None)
    save_file(state, tmp_path / "model.safetensors")
    assert_same("BertForMaskedLM", *weights.load(tmp_path), theirs(module))


CONSTANTS = [  # class, name, the constant as files have it, others
    (
        "BertModel",
        "embeddings.position_ids",
        torch.arange(16)[None],
        [torch.arange(16).flip(0), torch.zeros(16)],
    ),
    (
        "BertModel",
        "embeddings.token_type_ids",
        torch.zeros(1, 16, dtype=torch.int64),
        [torch.ones(1, 16)],
    ),
    (
        "GPT2Model",
        "h.0.attn.bias",
        torch.ones(16, 16).tril().bool()[None, None],
        [torch.ones(1, 1, 16, 16), torch.ones(16, 16).triu()[None, None], torch.ones(16)],
    ),
    (
        "GPT2Model",
        "h.0.attn.masked_bias",
        torch.tensor(-1e4),
        [torch.tensor(0.0), torch.tensor(float("nan"))],
    ),
]


@pytest.mark.parametrize(("cls", "name", "good", "bad"), CONSTANTS, ids=[c[1] for c in CONSTANTS])
def test_constants_are_compared_before_they_are_dropped(tmp_path, cls, name, good, bad):
    module = make(cls)
    module.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for value in (
        good,
        good.float(),
        good.to(torch.uint8) if good.dtype == torch.bool else good.double(),
    ):
        save_file(tensors | {name: value.contiguous()}, tmp_path / "model.safetensors")
        assert_same(cls, *weights.load(tmp_path), theirs(module))
    for value in bad:
        save_file(tensors | {name: value.contiguous()}, tmp_path / "model.safetensors")
        with pytest.raises(
            WeightsError, match=rf"{name} is not .*the model has no place for another; skip="
        ):
            weights.load(tmp_path)
        weights.load(tmp_path, skip=(name,))


@pytest.mark.parametrize("cls", ["MarianMTModel", "MarianModel"])
def test_a_table_of_positions_is_the_sinusoid_or_refused(tmp_path, cls):
    module = make(cls)
    module.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    prefix = "model." if cls == "MarianMTModel" else ""
    names = [f"{prefix}{side}.embed_positions.weight" for side in ("encoder", "decoder")]
    table = (module.model if prefix else module).encoder.embed_positions.weight.data
    for value in (table, table.half(), table.bfloat16(), table.double()):
        save_file(tensors | {name: value.clone() for name in names}, tmp_path / "model.safetensors")
        assert_same(cls, *weights.load(tmp_path), theirs(module))
    changed = table.clone()
    changed[3, 5] += 1e-4
    for value in (
        changed,
        torch.zeros(16, 16),
        table[:, :8],
        table[None],
        torch.full((16, 16), float("nan")),
    ):
        save_file(tensors | {names[1]: value.contiguous().clone()}, tmp_path / "model.safetensors")
        with pytest.raises(
            WeightsError, match=r"decoder\.embed_positions\.weight is not the sines"
        ):
            weights.load(tmp_path)


@pytest.mark.parametrize(
    ("cls", "skip", "name"),
    [
        ("BertForPreTraining", ("pooler", "head_next"), "BertForMaskedLM"),
        ("BertForPreTraining", ("head",), "BertModel"),
        ("BertForPreTraining", ("head*",), "BertModel"),
        ("BertForSequenceClassification", ("head",), "BertModel"),
        ("BertForSequenceClassification", ("classifier.*",), "BertModel"),
        ("BertForTokenClassification", ("head",), "BertModel"),
        ("BertModel", ("pooler",), "BertModel"),
        ("ViTForImageClassification", ("head",), "ViTModel"),
        ("ViTModel", ("head",), "ViTModel"),
        ("ViTModel", ("dense",), "ViTModel"),
        ("ViTModel", ("pooler.*",), "ViTModel"),
    ],
)
def test_skip_gives_a_model_that_runs(tmp_path, cls, skip, name):
    module = make(cls)
    module.save_pretrained(tmp_path)
    model, variables = weights.load(tmp_path, skip=skip)
    base = module if "For" not in cls else module.vit if cls.startswith("ViT") else module.bert
    if name == "BertForMaskedLM":
        expected = theirs(module)[:1]
    else:
        outputs = theirs(base)
        expected = outputs[
            : 2 if skip in (("head",), ("head*",), ("classifier.*",)) and len(outputs) > 1 else 1
        ]
    assert_same(name, model, variables, expected)
    weights.save(tmp_path / "ours", model, variables, format="transformers")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["architectures"] == [name]


def test_skip_of_what_a_model_needs_is_refused_unless_the_model_is_passed(tmp_path):
    module = make("GPT2LMHeadModel")
    module.save_pretrained(tmp_path)
    with pytest.raises(
        WeightsError,
        match=r"leaves out params/token_embed/embedding, without which GPT2 does not run",
    ):
        weights.load(tmp_path, skip=("token_embed",))
    model = weights.load(tmp_path)[0]
    assert "token_embed" not in weights.load(tmp_path, model, skip=("token_embed",))[1]["params"]
    with pytest.raises(WeightsError, match="skip 'nothing' matches nothing"):
        weights.load(tmp_path, skip=("nothing",))


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "0.auto_model.", "net.a.b."]
)
def test_prefixes_are_taken_off_and_named(tmp_path, caplog, prefix):
    for cls in ("BertForMaskedLM", "GPT2LMHeadModel", "ViTForImageClassification", "MarianMTModel"):
        module = make(cls)
        module.save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        save_file({prefix + name: x for name, x in tensors.items()}, tmp_path / "model.safetensors")
        caplog.clear()
        with caplog.at_level(logging.WARNING, "jaxmodels.weights"):
            assert_same(cls, *weights.load(tmp_path), theirs(module))
        said = prefix.replace("_orig_mod.", "")
        assert (f"the names begin with {said!r}, which is taken off" in caplog.text) == bool(said)


@pytest.mark.parametrize(
    ("cls", "part"),
    [
        ("BertForPreTraining", "pooler"),
        ("BertForPreTraining", "seq_relationship"),
        ("ViTForImageClassification", "classifier"),
    ],
)
def test_a_class_that_lacks_one_of_its_parts_is_no_other_class(tmp_path, cls, part):
    make(cls).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        {name: x for name, x in tensors.items() if part not in name}, tmp_path / "model.safetensors"
    )
    with pytest.raises(WeightsError, match=rf"{part}\S* is missing"):
        weights.load(tmp_path)


def test_what_transformers_made_of_an_export_is_read_as_its_own(tmp_path):
    module = make("BertForPreTraining")
    module.save_pretrained(tmp_path / "theirs")
    weights.save(tmp_path / "ours", *weights.load(tmp_path / "theirs"), format="transformers")
    again = type(module).from_pretrained(tmp_path / "ours").eval()
    again.bert.embeddings.LayerNorm.bias.data += 1
    again.config.bos_token_id = 7
    again.save_pretrained(tmp_path / "again")
    assert_same("BertForPreTraining", *weights.load(tmp_path / "again"), theirs(again))
    assert weights.generation_config(tmp_path / "again").bos == 7
