"""What transformers writes for each class: loaded with the same outputs, or refused in a line that names it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxmodels import weights
from train.compare.certificate import randomise
from train.compare.originals import transformers

BERT = {
    "vocab_size": 30,
    "max_position_embeddings": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
}
GPT2 = {"vocab_size": 30, "n_positions": 16, "n_layer": 1, "n_head": 2, "n_embd": 16, "pad_token_id": 0}
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
    ("BertForSequenceClassification", {"problem_type": "multi_label_classification", "num_labels": 3}, {}),
    ("BertForSequenceClassification", {"problem_type": "regression", "num_labels": 1}, {}),
    ("BertForTokenClassification", {"num_labels": 3}, {}),
    ("BertForQuestionAnswering", {}, {}),
    ("ViTForImageClassification", {"num_labels": 3}, {}),
    ("ViTModel", {}, {}),
    ("ViTModel", {"pooler_output_size": 10}, {"use_mask_token": True}),
    ("ViTModel", {}, {"add_pooling_layer": False}),
    ("GPT2Model", {}, {}),
    ("GPT2LMHeadModel", {}, {}),
    ("GPT2LMHeadModel", {"tie_word_embeddings": False}, {}),
    ("MarianModel", {}, {}),
    ("MarianModel", {"share_encoder_decoder_embeddings": False}, {}),
    ("MarianMTModel", {}, {}),
    ("MarianMTModel", {"tie_word_embeddings": False}, {}),
    ("MarianMTModel", {"share_encoder_decoder_embeddings": False}, {}),
    ("MarianMTModel", {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False}, {}),
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
    """Outputs of transformers, the last hidden state, pooled features and logits, whichever there are."""
    given = {k: torch.from_numpy(np.array(v)) for k, v in inputs_of(type(module).__name__)[0].items()}
    with torch.no_grad():
        outputs = module(**given)
    names = ("last_hidden_state", "pooler_output", "logits", "prediction_logits", "seq_relationship_logits")
    names += ("start_logits", "end_logits")
    return [outputs[name].numpy() for name in names if outputs.get(name) is not None]


def ours(cls, model, variables):
    """The same of ours."""
    found = model.apply(variables, *map(jnp.asarray, inputs_of(cls)[1]), train=False)
    if cls in ("GPT2Model", "MarianModel"):
        return [found.hidden]
    if hasattr(found, "tokens"):
        found = (found.tokens.logits, found.next_sentence)
    found = found.logits if hasattr(found, "logits") else found
    found = found if isinstance(found, tuple) else (found,)
    return [np.asarray(x) for x in found if x is not None]


def assert_same(cls, model, variables, expected):
    found, segments = ours(cls, model, variables), inputs_of(cls)[1][1] if cls.startswith("Bert") else None
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        real = segments > 0 if segments is not None and a.shape[:2] == segments.shape else slice(None)
        assert np.abs(b).max() > 1e-2
        np.testing.assert_allclose(a[real], b[real], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("cls", "settings", "arguments"), CASES, ids=IDS)
def test_each_class_gives_the_same_and_comes_back(tmp_path, cls, settings, arguments):
    module = make(cls, settings, arguments)
    module.save_pretrained(tmp_path / "theirs")
    expected = theirs(module)
    model, variables = weights.load(tmp_path / "theirs")
    wanted = jax.eval_shape(lambda: model.init(jax.random.key(0), *map(jnp.asarray, inputs_of(cls)[1]), train=False))
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
