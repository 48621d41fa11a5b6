"""A directory of weights and a given model must agree; what was read of it is what an export says
again."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import jaxmodels
from jaxmodels import weights
from jaxmodels.catalogue import HUB_FAMILIES, formats_of
from jaxmodels.foreign.original import transformers
from jaxmodels.origin import Origin
from jaxmodels.weights import WeightsError
from tests.test_hub_config import CLASSES, TINY, written
from train import initial, setup
from train.config import ConfigError

OTHER = {
    "num_heads": 4,
    "activation": "relu",
    "norm_eps": 0.25,
    "scale_embedding": True,
    "norm_first": True,
    "position": "sine",
    "tie_embeddings": False,
    "pool": "mean",
    "final_norm": True,
}
FORMATS = {f.cls: f.formats for f in jaxmodels.FAMILIES.values() if f.formats is not None}
# a shape or a name of a tensor shows them, or nothing that is computed depends on them
NOT_SILENT = {
    "attention", "aux_heads", "batch_norm", "bidirectional", "dtype", "embed_size", "features", "head", "hidden_size",
    "hidden_sizes", "image_shape", "latent_size", "layer_scale", "logits_bias", "max_len", "mlp_dim", "num_classes", "num_layers",
    "next_sentence", "origin", "param_dtype", "patch_size", "pooled_size", "pooler", "remat", "representation_size",
    "scan", "share_embeddings", "stage_features", "stage_sizes", "target_vocab_size", "type_vocab_size", "vocab_size",
    "width", "zero_init_residual",
}  # fmt: skip


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """A directory of transformers for each kind, and the model that it loads as."""
    found = {}
    for kind in CLASSES:
        directory = tmp_path_factory.mktemp(kind)
        written(kind, directory)
        found[kind] = directory, *weights.load(directory)
    return found


def init(model, shape=None):
    inputs = formats_of(model).inputs(model, shape or formats_of(model).image_shape)
    found, rng = (
        jax.eval_shape(lambda: model.init(jax.random.key(0), *inputs, train=False)),
        np.random.default_rng(0),
    )
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), found)


def test_every_field_is_compared_or_shown_by_a_shape():
    for cls, formats in FORMATS.items():
        family = next((f for f in HUB_FAMILIES.values() if f.cls is cls), None)
        silent = {*family.silent, *family.silent_head} if family else {*formats.silent}
        fields = {f.name for f in dataclasses.fields(cls)} - {"parent", "name"}
        fields = {name for name in fields if not name.endswith("dropout_rate")}
        assert silent <= fields, cls
        rest = (
            fields
            - silent
            - NOT_SILENT
            - ({"pool", "tie_embeddings"} if cls is jaxmodels.BERT else {"position"})
        )
        assert not rest, (cls, rest)


@pytest.mark.parametrize("kind", CLASSES)
def test_a_model_that_the_file_contradicts(kind, directories):
    directory, model, variables = directories[kind]
    family = HUB_FAMILIES[kind]
    assert weights.load(directory, model)[0] == model
    loose = model.clone(
        scan=True, remat=True, **{n: 0.5 for n in vars(model) if n.endswith("dropout_rate")}
    )
    assert weights.load(directory, loose)[0] == loose
    for name in (*family.silent, *family.silent_head):
        other = model.clone(**{name: OTHER[name]})
        with pytest.raises(WeightsError) as e:
            weights.load(directory, other)
        there, here = getattr(model, name), OTHER[name]
        assert f"config.json says {name} {there!r}, and the model given is {name} {here!r}" in str(
            e.value
        )
        assert "name the .safetensors file itself" in str(e.value) and "\n" not in str(e.value)
    free = model.clone(activation="relu", norm_eps=0.25)
    found = weights.load(directory / "model.safetensors", free, image_shape=family_shape(model))[1]
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def family_shape(model):
    return model.origin.image_shape or None


def test_a_new_head_need_not_agree(directories):
    directory, model, _ = directories["gpt2"]
    apart = model.clone(tie_embeddings=False)
    assert "head" not in weights.load(directory, apart, skip=("head",))[1]["params"]
    with pytest.raises(WeightsError, match="tie_embeddings True"):
        weights.load(directory, apart)


def test_another_kind_of_model(directories, tmp_path):
    directory, model, variables = directories["bert"]
    with pytest.raises(WeightsError, match=r"says model type 'bert', and the model given is GPT2"):
        weights.load(directory, directories["gpt2"][1])
    before = (directory / "config.json").read_text()
    config = json.loads(before)
    for kind, words in (("roberta", "is of model type 'roberta'"), (["bert"], "model type")):
        (directory / "config.json").write_text(json.dumps(config | {"model_type": kind}))
        with pytest.raises(WeightsError, match=words):
            weights.load(directory, model)
    for change in (
        {"is_decoder": True},
        {"position_embedding_type": "relative_key"},
        {"quantization_config": {"a": 1}},
    ):
        (directory / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(WeightsError, match=next(iter(change))):
            weights.load(directory, model)
    # of another library, or of nobody: it says nothing
    for said in ({"architecture": "bert_tiny"}, {}, {"hidden_act": "relu"}):
        (directory / "config.json").write_text(json.dumps(said))
        jax.tree.map(np.testing.assert_array_equal, weights.load(directory, model)[1], variables)
    (directory / "config.json").write_text(before)
    mlp, shape = jaxmodels.create("mlp", num_classes=3, hidden_sizes=(4,)), (2, 2, 1)
    weights.save(tmp_path, mlp, init(mlp, shape), image_shape=shape)
    with pytest.raises(
        WeightsError, match="says activation 'relu', and the model given is activation 'sigmoid'"
    ):
        weights.load(tmp_path, mlp.clone(activation="sigmoid"))
    with pytest.raises(WeightsError, match="says MLP, and the model given is BERT"):
        weights.load(tmp_path, model)
    # not of transformers
    (tmp_path / "config.json").write_text('{"model_type": "mlp", "hidden_act": "gelu"}')
    assert weights.load(tmp_path, mlp, image_shape=shape)[0] == mlp


def test_a_file_that_contradicts_itself(directories, tmp_path):
    _, model, variables = directories["bert"]
    weights.save(tmp_path, model, variables, format="transformers")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    for given in (None, model):
        with pytest.raises(
            WeightsError,
            match="contradicts itself: by its keys activation is 'relu', by its section",
        ):
            weights.load(tmp_path, given)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_key_that_was_read_is_written_again(kind, directories, tmp_path):
    directory, _, _ = directories[kind]
    before = (directory / "config.json").read_text()
    said = json.loads(before) | {
        "_name_or_path": "someone/else",
        "bos_token_id": 4,
        **({} if kind == "vit" else {"classifier_dropout": 0.25}),
        "eos_token_id": 5,
        "id2label": {"0": "negative", "1": "positive"},
        "initializer_range": 0.5,
        "label2id": {"negative": 0, "positive": 1},
        "num_beams": 3,
        "pad_token_id": 6,
        "task_specific_params": {"a": {"b": 1}},
        "torch_dtype": "float32",
        "transformers_version": "4.1.0",
    }
    generation = {"max_length": 7, "num_beams": 2, "pad_token_id": 6, "eos_token_id": [5, 7]}
    (directory / "config.json").write_text(json.dumps(said))
    (directory / "generation_config.json").write_text(json.dumps(generation))
    model, variables = weights.load(directory)
    weights.save(tmp_path, model, variables, format="transformers")
    found = json.loads((tmp_path / "config.json").read_text())
    del said["transformers_version"]  # transformers did not write this one
    assert {key: found.get(key) for key in said} == said and "transformers_version" not in found
    assert json.loads((tmp_path / "generation_config.json").read_text()) == generation
    assert weights.generation_config(tmp_path) == weights.generation_config(directory)
    assert weights.generation_config(tmp_path).stop == (5, 7)
    again, same = weights.load(tmp_path)
    assert again == model and json.loads(again.origin.config).keys() >= said.keys()
    jax.tree.map(np.testing.assert_array_equal, same, variables)
    loaded = getattr(transformers(), CLASSES[kind][1]).from_pretrained(tmp_path)
    assert loaded.config.pad_token_id == 6 and loaded.config.id2label[1] == "positive"
    (directory / "config.json").write_text(before)
    (directory / "generation_config.json").unlink()


def test_other_names_and_spellings_stay_or_give_way(directories, tmp_path):
    directory, _, _ = directories["gpt2"]
    before = (directory / "config.json").read_text()
    said = {k: v for k, v in json.loads(before).items() if k not in ("n_head", "n_embd")}
    said |= {
        "num_attention_heads": 2,
        "hidden_size": 16,
        "activation_function": "gelu_fast",
        "n_ctx": 12,
    }
    (directory / "config.json").write_text(json.dumps(said))
    model, variables = weights.load(directory)
    weights.save(tmp_path, model, variables)
    found = json.loads((tmp_path / "config.json").read_text())
    assert found["activation_function"] == "gelu_fast" and found["n_ctx"] == 12
    assert found["n_head"] == 2 and found["n_embd"] == 16 and "hidden_size" not in found
    weights.save(tmp_path, model.clone(activation="relu", norm_eps=0.5, num_heads=4), variables)
    found = json.loads((tmp_path / "config.json").read_text())
    assert (found["activation_function"], found["layer_norm_epsilon"], found["n_head"]) == (
        "relu",
        0.5,
        4,
    )
    assert found["eos_token_id"] == TINY["gpt2"]["eos_token_id"]
    (directory / "config.json").write_text(before)


def test_new_classes_have_new_names(directories, tmp_path):
    directory, _, _ = directories["bert"]
    before = (directory / "config.json").read_text()
    said = json.loads(before) | {
        "id2label": {"0": "a", "1": "b"},
        "problem_type": "single_label_classification",
    }
    (directory / "config.json").write_text(json.dumps(said | {"num_labels": 2}))
    model, variables = weights.load(directory)
    assert model.num_classes == 2
    weights.save(tmp_path, model, variables)
    found = json.loads((tmp_path / "config.json").read_text())
    assert (
        found["id2label"] == {"0": "a", "1": "b"} and found["problem_type"] == said["problem_type"]
    )
    more = model.clone(num_classes=3)
    weights.save(tmp_path, more, init(more))
    found = json.loads((tmp_path / "config.json").read_text())
    assert (
        found["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
        and "problem_type" not in found
    )
    tokens = model.clone(head="tokens")
    weights.save(tmp_path, tokens, init(tokens))
    found = json.loads((tmp_path / "config.json").read_text())
    assert found["architectures"] == ["BertForTokenClassification"]
    (directory / "config.json").write_text(before)


def test_tokens_that_an_export_guessed_are_never_believed(tmp_path):
    model = jaxmodels.create(
        "gpt2_tiny", vocab_size=9, num_layers=1, hidden_size=8, num_heads=2, mlp_dim=8
    )
    weights.save(tmp_path / "a", model, init(model))
    weights.save(tmp_path / "b", *weights.load(tmp_path / "a"))
    for name in "ab":
        assert json.loads((tmp_path / name / "config.json").read_text())["eos_token_id"] == 8
        assert weights.generation_config(tmp_path / name) == weights.GenerationConfig()


def test_the_number_of_labels_wins_over_their_names(directories, tmp_path):
    both = {"num_labels": 3, "id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
    config, _ = written("bert", tmp_path, **both)
    assert transformers().BertConfig.from_dict(config).num_labels == 3
    model, variables = weights.load(tmp_path)
    assert model.num_classes == 3
    weights.save(tmp_path, model, variables)
    found = json.loads((tmp_path / "config.json").read_text())
    assert len(found["id2label"]) == 3 and "num_labels" not in found
    assert (
        transformers().BertForSequenceClassification.from_pretrained(tmp_path).config.num_labels
        == 3
    )


def test_half_weights_are_exported_as_what_they_are(directories, tmp_path):
    directory, _, _ = directories["bert"]
    before = (directory / "config.json").read_text()
    (directory / "config.json").write_text(
        json.dumps(json.loads(before) | {"torch_dtype": "float16"})
    )
    model, variables = weights.load(directory, cast=True)
    weights.save(tmp_path, model, variables)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == "float32"
    narrow = model.clone(param_dtype=jnp.bfloat16)
    weights.save(tmp_path, narrow, jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables))
    loaded = transformers().BertForSequenceClassification.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    (directory / "config.json").write_text(before)


def test_transformers_writes_the_same_texts_from_an_export(tmp_path):
    library = transformers()
    config = library.MarianConfig(
        **TINY["marian"] | {"pad_token_id": 3, "decoder_start_token_id": 3, "eos_token_id": 2}
    )
    torch.manual_seed(0)
    twin = library.MarianMTModel(config).eval()
    with torch.no_grad():
        twin.final_logits_bias += torch.randn(twin.final_logits_bias.shape)
    twin.generation_config.update(
        forced_eos_token_id=2, no_repeat_ngram_size=2, num_beams=2, max_length=9
    )
    twin.save_pretrained(tmp_path / "theirs")
    model, variables = weights.load(tmp_path / "theirs")
    weights.save(tmp_path / "ours", model, variables, format="transformers")
    again = library.MarianMTModel.from_pretrained(tmp_path / "ours").eval()
    source = torch.tensor([[5, 6, 7, 2]])
    assert twin.generate(source).tolist() == again.generate(source).tolist()
    assert twin.generation_config.to_diff_dict() == again.generation_config.to_diff_dict()


def test_what_was_read_travels_with_a_model_and_is_none_of_its_fields(directories):
    _, model, variables = directories["bert"]
    plain = model.clone(origin=None)
    assert isinstance(model.origin, Origin) and plain == model and hash(plain) == hash(model)
    assert model.clone(num_classes=7).origin is model.origin
    assert "origin" not in repr(model) and "origin" not in jaxmodels.model_fields("bert_tiny")
    with pytest.raises(ValueError, match="no field 'origin'"):
        jaxmodels.create("bert_tiny", origin=None)
    traces = []

    @jax.jit
    def number(variables):
        traces.append(1)
        return jax.tree.leaves(variables)[0].sum()

    number(variables)
    counted = jax.jit(
        lambda m, v: (traces.append(2), jax.tree.leaves(v)[0].sum())[1], static_argnums=0
    )
    counted(plain, variables), counted(model, variables)
    assert traces == [1, 2]


@pytest.mark.parametrize(
    ("name", "size", "fields"),
    [("vit_b_16_hf", (48, 48, 3), {}), ("vit_ti_16", (96, 96, 1), {"num_classes": 3})],
)
def test_a_vit_of_any_size_is_saved(tmp_path, name, size, fields):
    small = {"num_layers": 1, "hidden_size": 16, "num_heads": 2, "mlp_dim": 24, "num_classes": 5}
    model = jaxmodels.create(name, **small | fields)
    variables = init(model, size)
    for format in weights.formats(model):
        weights.save(tmp_path / format, model, variables, format=format)
        again, found = weights.load(tmp_path / format)
        jax.tree.map(np.testing.assert_array_equal, found, variables)
        weights.save(tmp_path / "again", again, found, format="transformers")
        assert json.loads((tmp_path / "again" / "config.json").read_text())["image_size"] == size[0]
        weights.to_torch(again, found)  # which remembers it


def test_a_vit_of_oblong_images_is_saved_as_it_was_read(tmp_path, directories):
    written("vit", tmp_path / "theirs", image_size=[8, 12])
    model, variables = weights.load(tmp_path / "theirs")
    weights.save(tmp_path / "ours", model, variables, format="transformers")
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["image_size"] == [8, 12]
    with pytest.raises(
        WeightsError, match=r"6 patches are no square: say image_shape=\(height, width, 1\)"
    ):
        weights.save(tmp_path / "ours", model.clone(origin=None), variables)
    weights.save(tmp_path / "ours", model.clone(origin=None), variables, image_shape=(12, 8, 1))


def test_a_run_from_a_directory_that_contradicts_its_config(directories, tiny, tmp_path):
    run = setup.build(tiny, devices=jax.devices()[:1])
    variables = jax.tree.map(np.asarray, {"params": initial.init(run).params})
    weights.save(tmp_path, run.model, variables, image_shape=(8, 8, 1))
    config = dataclasses.replace(tiny, init_from=str(tmp_path))
    initial.start(setup.build(config, devices=jax.devices()[:1]))
    config = dataclasses.replace(
        config, model_fields={"hidden_sizes": (32,), "activation": "sigmoid"}
    )
    words = r"init_from = .* says activation 'relu', and the model given is activation 'sigmoid'"
    with pytest.raises(ConfigError, match=words):
        initial.start(setup.build(config, devices=jax.devices()[:1]))
