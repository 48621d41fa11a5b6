"""Fusion against PyTorch given the same features; a missing image or text; the dual encoder;
emoji."""

import html
import json
import math
import re
import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import PIL.features
import pytest
import torch
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image

import jaxmodels
from input_pipeline import DataError, DatasetCard, ImageTextCard, TextCard
from input_pipeline.datasets.emoji import GIVE_AWAY, EmojiName, read_names
from input_pipeline.features.spec import hide_one
from input_pipeline.tokenizers import train_tokenizer
from jaxmodels.adapt.features import features
from jaxmodels.families.fusion.model import FUSIONS, ContrastiveOutputs
from tests.compiled import apply, drawn, init
from tests.conftest import ALL_DEVICES
from train import batches, evaluate, loop, predict, setup, sharding
from train.config import (
    CheckpointConfig,
    Config,
    ConfigError,
    DataConfig,
    MeshConfig,
    OptimConfig,
    check,
)
from train.explain import command as explain
from train.step import accumulated_gradients
from train.tasks import retrieval
from train.tasks.classification import classification
from train.tasks.contrastive import contrastive

pytestmark = pytest.mark.usefixtures("two_devices")

FIELDS = {
    "image_fields": {"features": (4, 6)},
    "text_encoder": "bert_tiny",
    "text_fields": {"num_layers": 1, "hidden_size": 16, "mlp_dim": 24, "dropout_rate": 0.0},
    "hidden_size": 16,
    "outer_size": 3,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_dim": 24,
    "patch_size": 4,
    "max_len": 8,
    "dropout_rate": 0.0,
}
BOTH = [kind for kind in FUSIONS if kind not in ("image", "text")]


def example(kind, **fields):
    """A model in float64 with every parameter random, and inputs: the third text has padding, two
    lack something."""
    model = jaxmodels.create(
        "fusion",
        num_classes=5,
        vocab_size=11,
        fusion=kind,
        dtype=jnp.float64,
        param_dtype=jnp.float64,
        **FIELDS | fields,
    )
    rng = np.random.default_rng(0)
    image, tokens = rng.normal(size=(5, 8, 8, 3)), rng.integers(1, 11, (5, 6)).astype(np.int32)
    segments = np.ones((5, 6), np.int32)
    segments[2, 4:] = 0
    present = np.array([[1, 1], [1, 1], [1, 1], [0, 1], [1, 0]], bool)
    inputs = tuple(map(jnp.asarray, (image, tokens, segments, present)))
    return model, drawn(model, *inputs, rng=rng, scale=0.3, train=False), inputs


def linear(params, x):
    return x @ torch.tensor(np.asarray(params["kernel"])) + torch.tensor(np.asarray(params["bias"]))


def expected_logits(kind, params, image, text, tokens_real, present):
    """By PyTorch, from the features under the encoders' heads."""
    tensor = lambda x: torch.tensor(np.asarray(x))  # noqa: E731
    present, real = tensor(present), tensor(tokens_real)
    if kind == "cross_attention":
        places = {
            "image": linear(params["dense_image"], tensor(image.places)),
            "text": linear(params["dense_text"], tensor(text.places)),
        }
        groups = {
            "image": present[:, :1].expand(-1, places["image"].shape[1]),
            "text": real & present[:, 1:],
        }
        means = []
        for name, other in (("image", "text"), ("text", "image")):
            p, x, memory = params[f"{name}_cross_attention"], places[name], places[other]
            q, k, v = (
                linear(p[n], y) for n, y in (("query", x), ("key", memory), ("value", memory))
            )
            y = torch.zeros_like(x)
            for b in range(len(x)):  # one by one, with only the keys that are there
                keep = groups[other][b]
                if keep.any():
                    heads = [
                        t.reshape(-1, 2, 8).transpose(0, 1) for t in (q[b], k[b][keep], v[b][keep])
                    ]
                    found = torch.nn.functional.scaled_dot_product_attention(*heads)
                    y[b] = linear(p["out"], found.transpose(0, 1).reshape(-1, 16))
            norm = params[f"norm_{name}"]
            x = torch.nn.functional.layer_norm(
                x + y, (16,), tensor(norm["scale"]), tensor(norm["bias"]), eps=1e-5
            )
            weight = groups[name].double()[..., None]
            means.append((x * weight).sum(1) / weight.sum(1).clamp(min=1))
        return linear(params["head"], linear(params["dense_fused"], torch.cat(means, -1)).relu())
    ones = []
    for m, (name, found) in enumerate((("image", image), ("text", text))):
        x = linear(params[f"dense_{name}"], tensor(found.whole)).relu()
        ones.append(torch.where(present[:, m, None], x, tensor(params[f"missing_{name}"])))
    weight = tensor(params.get("weights", np.zeros(2))).expand(len(present), 2)
    weight = weight.masked_fill(~present, -math.inf).softmax(-1)
    if kind in ("mean", "learned"):
        decided = [
            linear(params[f"head_{n}"], x).softmax(-1)
            for n, x in zip(("image", "text"), ones, strict=True)
        ]
        return (weight[:, :1] * decided[0] + weight[:, 1:] * decided[1]).log()
    if kind == "concat":
        x = torch.cat(ones, -1)
    elif kind == "sum":
        x = weight[:, :1] * ones[0] + weight[:, 1:] * ones[1]
    else:
        small = [
            linear(params[f"dense_outer_{n}"], x)
            for n, x in zip(("image", "text"), ones, strict=True)
        ]
        first, second = (torch.nn.functional.pad(x, (0, 1), value=1.0) for x in small)
        x = torch.stack([torch.outer(a, b).flatten() for a, b in zip(first, second, strict=True)])
    return linear(params["head"], linear(params["dense_fused"], x).relu())


@pytest.mark.parametrize("kind", [kind for kind in BOTH if kind != "direct"])
def test_what_is_fused_equals_pytorch(kind, x64):
    model, variables, inputs = example(kind)
    params = variables["params"]
    image, tokens, segments, present = inputs
    encoders = {
        "image": (
            jaxmodels.create("cnn", num_classes=1, pool="each", **FIELDS["image_fields"]),
            (image,),
        ),
        "text": (
            jaxmodels.create(
                "bert_tiny",
                vocab_size=11,
                max_len=8,
                head="classification",
                **FIELDS["text_fields"],
            ),
            (tokens, segments),
        ),
    }
    found = {
        name: apply(
            encoder.clone(dtype=jnp.float64),
            {"params": params[name]},
            *given,
            method=lambda m, *x: features(m, *x, train=False),
        )
        for name, (encoder, given) in encoders.items()
    }
    expected = expected_logits(kind, params, found["image"], found["text"], segments > 0, present)
    logits = apply(model, variables, *inputs, train=False)
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-9, atol=1e-11)


def test_the_direct_model_is_berts_encoder_over_patches_and_tokens(x64):
    """Against BERT itself on tokens alone: with the image hidden, patches take no part."""
    model, variables, (image, tokens, segments, _) = example("direct")
    params = variables["params"]
    no_image = jnp.broadcast_to(jnp.array([False, True]), (len(tokens), 2))
    logits = apply(model, variables, image, tokens, segments, no_image, train=False)
    # a BERT whose first token is the class token: its position embedding is 0, of the others as
    # here
    table = jnp.concatenate([params["token_embed"]["embedding"], params["class_token"][0]])
    position = jnp.concatenate([jnp.zeros((1, 16)), params["position_embed"]["embedding"]])
    bert = jaxmodels.BERT(
        vocab_size=12,
        max_len=9,
        num_layers=2,
        num_heads=2,
        hidden_size=16,
        mlp_dim=24,
        head="none",
        dtype=jnp.float64,
        param_dtype=jnp.float64,
    )
    theirs = {
        "token_embed": {"embedding": table},
        "position_embed": {"embedding": position},
        "type_embed": {"embedding": jnp.zeros((2, 16))},
        "pooler": {"kernel": jnp.zeros((16, 16)), "bias": jnp.zeros(16)},
        **{name: params[name] for name in ("norm", "block_0", "block_1")},
    }
    tokens = jnp.concatenate([jnp.full((5, 1), 11), tokens], 1)
    segments = jnp.concatenate([jnp.ones((5, 1), jnp.int32), segments], 1)

    hidden = apply(bert, {"params": theirs}, tokens, segments, train=False).hidden[:, 0]
    expected = hidden @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", FUSIONS)
def test_what_is_missing_or_padding_has_no_influence(kind, x64):
    model, variables, (image, tokens, segments, present) = example(kind)

    def influence(image, embedding, present):
        params = {**variables["params"]}
        if "text" in params:
            params["text"] = {**params["text"], "token_embed": {"embedding": embedding}}
        elif "token_embed" in params:
            params["token_embed"] = {"embedding": embedding}
        logits = model.apply({"params": params}, image, tokens, segments, present, train=False)
        return (logits * jnp.arange(1.0, 6)).sum()

    params = variables["params"]
    embedding = (
        params["text" if "text" in params else "token_embed"]
        if kind != "image"
        else {"embedding": jnp.ones((11, 4))}
    )
    embedding = embedding.get("token_embed", embedding)["embedding"]
    gradients = jax.jit(jax.grad(influence, (0, 1)))
    of_image, of_words = gradients(image, embedding, present)
    sees_image, sees_text = kind != "text", kind != "image"
    norms = [float(jnp.abs(x).sum()) for x in of_image]
    assert [n > 0 for n in norms] == [sees_image, sees_image, sees_image, False, sees_image]
    assert bool(jnp.abs(of_words).sum() > 0) == sees_text
    nobody = present.at[:, 1].set(False)
    assert not jnp.abs(gradients(image, embedding, nobody)[1]).any()
    # of padding: another token there changes nothing
    other = tokens.at[2, 4:].set(tokens[2, 4:] % 10 + 1)
    logits = jax.jit(partial(model.apply, train=False))
    same = [logits(variables, image, t, segments, present) for t in (tokens, other)]
    np.testing.assert_allclose(*same, rtol=1e-12)


@pytest.mark.parametrize("kind", FUSIONS)
def test_nothing_there_is_still_a_number(kind, x64):
    model, variables, (image, tokens, segments, present) = example(kind)
    logits = apply(model, variables, image, tokens, segments * 0, present & False, train=False)
    assert jnp.isfinite(logits).all()


def test_decisions_are_probabilities(x64):
    model, variables, inputs = example("learned")
    np.testing.assert_allclose(
        jnp.exp(apply(model, variables, *inputs, train=False)).sum(-1), 1, rtol=1e-12
    )


def test_one_of_two_is_hidden():
    present = jnp.ones((20_000, 2), bool).at[:100].set(jnp.array([True, False]))
    found = np.asarray(hide_one(jax.random.key(0), present, 0.3))
    assert (found[:100] == [True, False]).all()  # the only one there is
    assert found.any(1).all()
    rates = 1 - found[100:].mean(0)
    np.testing.assert_allclose(rates, 0.15, atol=0.01)  # five deviations are 0.013


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"fusion": "both"}, "fusion 'both' is not one of image, text"),
        ({"image_encoder": "bert_tiny"}, "image_encoder 'bert_tiny' is not one of cnn"),
        ({"text_fields": {"depth": 3}}, "text_fields {'depth': 3} do not fit 'bert_tiny'"),
        ({"fusion": "direct", "patch_size": 3}, "8x8 is not divisible by patch_size 3"),
        (
            {"fusion": "cross_attention", "num_heads": 3},
            "hidden_size 16 is not divisible by num_heads 3",
        ),
    ],
)
def test_mistakes(fields, words, x64):
    with pytest.raises(ValueError, match=words):
        example(fields.pop("fusion", "concat"), **fields)


def test_an_encoder_without_places_is_refused(x64):
    model = jaxmodels.MLP(num_classes=3)
    variables = init(model, jnp.ones((1, 2, 2, 1)), train=False)
    found = apply(
        model, variables, jnp.ones((1, 2, 2, 1)), method=lambda m, x: features(m, x, train=False)
    )
    assert found.places is None and found.whole.shape == (1, 128)
    no_head = jaxmodels.create("gpt2_tiny", vocab_size=5, num_layers=1)
    with pytest.raises(ValueError, match="GPT2 has 0 modules named head"):
        init(
            no_head,
            jnp.ones((1, 2), int),
            method=lambda m, x: features(m, x, train=False),
        )
    two, variables, inputs = example("mean")
    with pytest.raises(
        ValueError, match=r"Fusion has 0 modules named head; .* nearest: fusion='concat'"
    ):
        apply(two, variables, *inputs, method=lambda m, *x: features(m, *x, train=False))


# The dual encoder


def test_contrastive_loss_equals_pytorch(x64):
    rng = np.random.default_rng(0)
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 6, 4)))
    weight = np.array([1.0, 1, 1, 1, 0, 0])
    found = contrastive(
        ContrastiveOutputs(*map(jnp.asarray, (image, text, 7.0))), {"weight": jnp.asarray(weight)}
    )
    logits = torch.tensor(7.0 * image[:4] @ text[:4].T)  # padding is nobody's negative
    own = torch.arange(4)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    np.testing.assert_allclose(found["loss"][0] / found["loss"][1], expected.item(), rtol=1e-12)
    right = sum((m.argmax(1) == own).double().mean() for m in (logits, logits.T)) / 2
    np.testing.assert_allclose(found["accuracy"][0] / found["accuracy"][1], right.item())


def test_embeddings_have_length_1_and_the_scale_an_end():
    model = jaxmodels.create(
        "dual_encoder", vocab_size=11, embed_size=7, image_fields={"features": (4,)}
    )
    inputs = jax.random.normal(jax.random.key(1), (3, 8, 8, 3)), jnp.ones((3, 5), jnp.int32)
    variables = init(model, *inputs, train=False)
    found = apply(model, variables, *inputs, train=False)
    for x in found[:2]:
        np.testing.assert_allclose(jnp.linalg.norm(x, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(found.scale, 1 / 0.07, rtol=1e-6)
    variables["params"]["log_scale"] = jnp.asarray(9.0)
    assert apply(model, variables, *inputs, train=False).scale == 100


def test_recall_counts_what_is_better_or_equal():
    similarity = np.array([[0.9, 0.1, 0.2], [0.5, 0.5, 0.1], [0.3, 0.2, 0.1]])
    assert retrieval.recall(similarity, 1) == pytest.approx(1 / 3)
    assert retrieval.recall(similarity, 2) == pytest.approx(2 / 3)
    assert retrieval.recall(similarity, 3) == 1
    # embeddings that are no numbers find nothing
    assert retrieval.recall(np.full((3, 3), np.nan), 3) == 0


# On meshes


def mesh_run(kind, **mesh):
    tokenizer = train_tokenizer("words", ["a b c d e f g h i"], 20)
    text = TextCard(
        "emoji", "1.0.0", {}, 12, 8, tokenizer.to_str(), "", "labels", ("text",), tuple("01234")
    )
    card = ImageTextCard(DatasetCard("emoji", "1.0.0", {}, (8, 8, 3), 5, tuple("01234"), ""), text)
    config = Config(
        model="fusion",
        model_fields={"fusion": kind, **FIELDS},
        data=DataConfig(name="emoji", max_len=8),
        mesh=MeshConfig(**{"data": 1, **mesh}),
        batch_size=16,
        eval_batch_size=16,
        steps=2,
    )
    check(config)
    count = math.prod(mesh.values()) if mesh else 1
    return setup.build(config, card=card, devices=ALL_DEVICES[:count])


def test_gradients_on_a_mesh_equal_those_of_one_device(x64):
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=(16, 8, 8, 3)),
        "tokens": rng.integers(1, 12, (16, 8)).astype(np.int32),
        "segments": (np.arange(8) < rng.integers(1, 9, (16, 1))).astype(np.int32),
        "present": rng.random((16, 2)) < 0.7,
        "label": rng.integers(0, 5, 16).astype(np.int32),
        "weight": (np.arange(16) < 13).astype(np.float64),
    }

    def gradients(**mesh):
        run = mesh_run("cross_attention", **mesh)
        model = run.model.clone(dtype=jnp.float64, param_dtype=jnp.float64)
        inputs = run.task.inputs
        params = model.init(
            jax.random.key(0), *(jnp.asarray(batch[k]) for k in inputs), train=False
        )["params"]
        params = jax.device_put(
            params, sharding.shardings_of({"params": params}, run.mesh)["params"]
        )

        def of(params, batch):
            grads, count, _, _ = accumulated_gradients(
                params,
                {},
                batch,
                jax.random.key(0),
                model=model,
                objective=classification,
                inputs=inputs,
                accumulate=2,
            )
            return jax.tree.map(lambda g: g / count, grads)

        with jax.set_mesh(run.mesh):
            return jax.device_get(jax.jit(of)(params, sharding.put_batch(batch, run.mesh)))

    one = gradients()
    many = gradients(data=2, fsdp=2, tensor=2)
    for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", FUSIONS)
def test_every_parameter_has_its_rule(kind):
    run = mesh_run(kind)
    mesh = jax.sharding.AbstractMesh((1, 1, 1, 8), sharding.AXES)
    for path, leaf in jax.tree_util.tree_leaves_with_path(run.shapes.params):
        name = sharding.path_name(path)
        matching = [pattern for pattern, _ in sharding.RULES if re.search(pattern, name)]
        assert len(matching) == 1, (name, matching)
        assert isinstance(NamedSharding(run.mesh, sharding.spec_of(name, leaf.shape, mesh)).spec, P)


# Emoji


LINES = """# group: Smileys & Emotion
# subgroup: face-smiling
263A FE0F ; fully-qualified # ☺️ E0.6 smiling face
263A ; unqualified # ☺ E0.6 smiling face
# group: People & Body
# subgroup: hand-fingers-open
1F44B ; fully-qualified # 👋 E0.6 waving hand
1F44B 1F3FF ; fully-qualified # 👋🏿 E1.0 waving hand: dark skin tone
1F468 200D 1F52C ; fully-qualified # 👨‍🔬 E4.0 man scientist
1F469 1F3FB 200D 1F52C ; fully-qualified # 👩🏻‍🔬 E4.0 woman scientist: light skin tone
1F93D 200D 2642 FE0F ; fully-qualified # 🤽‍♂️ E4.0 man playing water polo
1F93D ; fully-qualified # 🤽 E3.0 person playing water polo
1F469 200D 1F9B0 ; fully-qualified # 👩‍🦰 E11.0 woman: red hair
1F9D1 ; fully-qualified # 🧑 E5.0 person
# group: Component
# subgroup: skin-tone
1F3FB ; component # 🏻 E1.0 light skin tone
# group: Flags
# subgroup: country-flag
1F1E8 1F1EE ; fully-qualified # 🇨🇮 E2.0 flag: Côte d\u2019Ivoire
"""


def test_names_lose_what_gives_the_group_away(tmp_path):
    path = tmp_path / "emoji-test.txt"
    path.write_text(LINES, "utf-8")
    names = {n.name: n for n in read_names(path)}
    assert len(names) == 10
    assert (
        names["smiling face"].emoji == "\u263a\ufe0f"
        and names["smiling face"].subgroup == "face-smiling"
    )
    assert names["smiling face"].text == "smiling"
    assert names["waving hand: dark skin tone"].text == "waving hand"
    assert names["flag: Côte d\u2019Ivoire"].text == "côte d\u2019ivoire"
    assert names["person"].text == ""
    assert not GIVE_AWAY & {word for n in names.values() for word in n.text.split()}


def test_variants_stay_together(tmp_path):
    path = tmp_path / "emoji-test.txt"
    path.write_text(LINES, "utf-8")
    keys = {n.name: n.key for n in read_names(path)}
    together = [
        ("waving hand", "waving hand: dark skin tone"),
        ("man scientist", "woman scientist: light skin tone"),
        ("man playing water polo", "person playing water polo"),
        ("woman: red hair", "person"),
    ]
    for a, b in together:
        assert keys[a] == keys[b]
    assert len(set(keys.values())) == len(keys) - len(together)


def test_files_that_are_not_emoji(tmp_path):
    path = tmp_path / "emoji-test.txt"
    path.write_text("nothing")
    with pytest.raises(DataError, match=r"names no emoji: is it Unicode's emoji-test.txt\?"):
        read_names(path)
    path.write_text("# group: Runes\n# subgroup: r\n16A0 ; fully-qualified # x E1.0 rune\n")
    with pytest.raises(DataError, match="in a group 'Runes' that is none of"):
        read_names(path)
    with pytest.raises(DataError, match="apt install fonts-noto-color-emoji unicode-data"):
        setup.build(
            Config(model="fusion", data=DataConfig(name="emoji", raw_dir=str(tmp_path / "no")))
        )


@pytest.fixture(scope="module")
def font(tmp_path_factory):
    """A raw_dir: a font without colours that a library brings, and symbols that it has."""
    if not PIL.features.check("raqm"):
        pytest.skip("Pillow finds no fribidi here, which the drawing of emoji needs and says")
    directory = tmp_path_factory.mktemp("font")
    shutil.copy(
        Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf",
        directory / "NotoColorEmoji.ttf",
    )
    groups = {
        "Smileys & Emotion": range(0x1F600, 0x1F624),
        "Symbols": range(0x2648, 0x2668),
        "Objects": range(0x2692, 0x269D),
    }
    lines = []
    for group, codes in groups.items():
        lines += [f"# group: {group}", f"# subgroup: {group.lower().split()[0]}"]
        for code in codes:
            lines.append(
                f"{code:X} ; fully-qualified # {chr(code)} E1.0 {group.split()[0].lower()} "
                f"kind{code % 3} n{code}"
            )
    lines += ["1FAE0 ; fully-qualified # x E14.0 melting face"]  # which the font lacks
    (directory / "emoji-test.txt").write_text("\n".join(lines), "utf-8")
    return directory


def emoji_config(font, data_dir, **fields) -> Config:
    config = Config(
        **{
            "model": "fusion",
            "model_fields": {
                "fusion": "concat",
                "image_fields": {"features": (8,)},
                "text_fields": {"hidden_size": 8},
            },
            "data": DataConfig(
                name="emoji",
                data_dir=data_dir,
                raw_dir=str(font),
                eval_split="test",
                image_size=16,
                texts=("text",),
                tokenizer="words",
                vocab_size=50,
                max_len=4,
                hide_rate=0.25,
            ),
            "optim": OptimConfig(learning_rate=1e-2),
            "checkpoint": CheckpointConfig(every=8),
            "steps": 16,
            "batch_size": 16,
            "eval_batch_size": 16,
            "eval_every": 8,
            "log_every": 8,
            **fields,
        }
    )
    if config.model == "dual_encoder":
        config.data.hide_rate = 0.0
    check(config)
    return config


@pytest.fixture(scope="module")
def fused(font, tmp_path_factory, data_dir):
    workdir = tmp_path_factory.mktemp("fused") / "run"
    return workdir, loop.train(emoji_config(font, data_dir), workdir)


def test_a_run_of_fusion(fused, capsys):
    workdir, summary = fused
    test = summary["test"]
    assert summary["train"]["accuracy"] > 0.6 and 0 <= test["accuracy"] <= 1
    assert {"accuracy_without_image", "accuracy_without_text"} <= set(test)
    assert evaluate.main([f"--workdir={workdir}", "--json"]) == 0  # by dataset.json alone
    found = json.loads(capsys.readouterr().out)
    assert (
        found["accuracy"] == test["accuracy"]
        and found["accuracy_without_text"] == test["accuracy_without_text"]
    )


def test_an_image_with_a_text_is_labelled_and_explained(fused, tmp_path, capsys):
    workdir, _ = fused
    name = tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)).save(
        name
    )
    inputs = [f"{name}\tobjects kind1", str(name), "\tobjects kind1"]
    assert predict.main([f"--workdir={workdir}", "--json", *inputs, "nowhere.png"]) == 1
    printed = capsys.readouterr()
    found = [json.loads(line) for line in printed.out.splitlines()]
    assert [x["example"] for x in found] == [f"{name} objects kind1", str(name), "objects kind1"]
    assert (
        len({x["labels"][0]["probability"] for x in found}) == 3
        and "nowhere.png: no such file" in printed.err
    )
    out = tmp_path / "page.html"
    assert explain.main([f"--workdir={workdir}", f"--out={out}", *inputs, "nowhere.png"]) == 1
    assert "1 of 4 file(s) could not be read; 3 explained" in capsys.readouterr().err
    both, image, text = out.read_text().split("<section>")[1:]
    # with the image itself
    for part, pictures, texts in ((both, 4, 2), (image, 4, 0), (text, 0, 2)):
        assert part.count("<img") == pictures and part.count('class="text"') == texts
    for part, x in zip((both, image, text), found, strict=True):
        label = x["labels"][0]
        assert f"{html.escape(label['label'])} with probability {label['probability']:.4f}" in part
    capsys.readouterr()
    options = [
        f"--workdir={workdir}",
        "--split=train",
        "--count=24",
        "--batch_size=24",
        "--faithfulness",
        "--json",
    ]
    assert explain.main(options) == 0
    methods = json.loads(capsys.readouterr().out)["methods"]
    assert {name.split()[0] for name in methods} == {"image", "text"}
    for kind in ("image", "text"):
        ours, chance = methods[f"{kind} integrated_gradients"], methods[f"{kind} random"]
        assert ours["median_error"] < 0.05
        assert ours["deletion"] <= chance["deletion"] and ours["insertion"] >= chance["insertion"]


def test_batches_have_both_and_say_what_is_missing(font, data_dir):
    run = setup.build(emoji_config(font, data_dir))
    total = sum(run.card.splits.values())
    assert total == 36 + 32 + 11  # the melting face is left out
    batch = next(batches.loader(run, "train", train=True))
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == run.card.shapes(16, 4)
    assert batch["image"].min() < 100 and batch["image"].max() == 255  # black on white
    assert batch["present"][:, 0].all()
    np.testing.assert_array_equal(batch["present"][:, 1], batch["segments"].any(1))


def test_a_run_of_the_dual_encoder(font, data_dir, tmp_path):
    config = emoji_config(
        font,
        data_dir,
        model="dual_encoder",
        task="contrastive",
        model_fields={
            "image_fields": {"features": (8,)},
            "text_fields": {"hidden_size": 8},
            "embed_size": 8,
        },
    )
    summary = loop.train(config, tmp_path / "run")
    test = summary["test"]
    assert test["chance_recall_at_1"] == pytest.approx(1 / test["examples"])
    assert 0 <= test["text_of_image_recall_at_1"] <= test["text_of_image_recall_at_5"] <= 1
    assert test["image_of_text_recall_at_10"] >= test["image_of_text_recall_at_5"]


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"data": DataConfig(name="digits", hide_rate=0.5)},
            "config.data.hide_rate = 0.5 is not for model 'cnn'",
        ),
        (
            {"model": "fusion", "data": DataConfig(mixup=0.2)},
            "config.data.mixup = 0.2 is not for model 'fusion'",
        ),
        (
            {"model": "dual_encoder"},
            "'classification' does not fit model 'dual_encoder'; nearest: .* 'contrastive'",
        ),
    ],
)
def test_configs_that_cannot_be(change, words):
    with pytest.raises(ConfigError, match=words):
        check(Config(**change))


def test_emoji_are_hashable_names():
    assert (
        len({EmojiName("a", "Flags", "b", "flag: c"), EmojiName("a", "Flags", "b", "flag: c")}) == 1
    )
