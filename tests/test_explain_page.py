"""``python -m train.explain``: the page of an image, a text and a language run; scores;
mistakes."""

import base64
import io
import json
import re
from functools import partial
from html.parser import HTMLParser

import jax
import numpy as np
import pytest
from PIL import Image

from input_pipeline import DataError
from jaxmodels.explain.attention import attention_maps
from tests.conftest import ALL_DEVICES, make_tiny
from tests.test_table import make_config
from tests.test_text_runs import SMALL, config_of, labeller_config, write_labels
from train import compiling, initial, loop, setup
from train.config import ConfigError, check
from train.explain import command as explain
from train.explain import page as explain_page
from train.explain.methods import EXPLAINERS, REPLACEMENTS, Explained, explain_images
from train.launch.workdir import read_config
from train.sharding import put_batch

pytestmark = pytest.mark.usefixtures("two_devices")


class Page(HTMLParser):
    """Text and pictures of a page that refers to nothing outside itself, every element closed."""

    def __init__(self, path):
        super().__init__()
        self.open, self.pictures, self.text = [], [], ""
        self.feed(path.read_text())
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert tag not in ("script", "link", "iframe", "object")
        for name, value in attributes:
            assert not name.startswith("on") and name != "href"
            if name == "src":
                kind, data = value.split(",")
                assert kind == "data:image/png;base64"
                self.pictures.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))))
        if tag not in ("meta", "img", "br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def trained(tmp_path_factory, name, config):
    tmp = tmp_path_factory.mktemp(name)
    check(config)
    loop.train(config, tmp / "run")
    return tmp / "run"


@pytest.fixture(scope="module")
def images(tmp_path_factory, data_dir):
    config = make_tiny(data_dir)
    config.model, config.model_fields = "cnn", {"features": (8, 8), "pool": "each"}
    config.steps, config.accumulate, config.optim.learning_rate = 150, 1, 1e-2
    return trained(tmp_path_factory, "images", config)


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("labels")
    write_labels(tmp, ["text"])
    config = labeller_config(tmp, "bert_tiny")
    config.steps, config.eval_every = 100, 100
    loop.train(config, tmp / "run")
    return tmp / "run"


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("language")
    (tmp / "raw").mkdir()
    (tmp / "raw" / "text.txt").write_text("the <b>cat</b> & the dog\n" * 400)
    data = {"name": "text_files", "tokenizer": "bpe", "vocab_size": 300, "max_len": 24}
    fields = {**SMALL, "num_layers": 2, "scan": True}
    config = config_of(
        tmp, model="gpt2_tiny", model_fields=fields, task="causal_lm", data=data, steps=40
    )
    loop.train(config, tmp / "run")
    return tmp / "run"


def test_the_page_of_images(images, tmp_path, capsys):
    rng = np.random.default_rng(0)
    name = tmp_path / "<img src=x onerror=y> & co.png"
    Image.fromarray(rng.integers(0, 256, (20, 16)).astype(np.uint8)).save(name)
    out = tmp_path / "page.html"
    assert explain.main([f"--workdir={images}", f"--out={out}", str(name)]) == 0
    assert f"wrote {out}: 1 examples" in capsys.readouterr().out
    page = Page(out)
    shown, *overlays = page.pictures
    assert shown.shape == (8, 8) and [x.shape for x in overlays] == [(8, 8, 3)] * 3
    assert str(name) in page.text and re.search(
        r"\d with probability 0\.\d{4}|with probability 1.0000", page.text
    )
    for method in ("integrated gradients", "input gradient", "grad cam"):
        assert method in page.text
    assert page.text.count("completeness error") == 2
    assert len(re.findall(r"(deletion|insertion) [01]\.\d{3} \([01]\.\d{3}\)", page.text)) == 6


def test_integrated_gradients_of_a_trained_cnn_are_faithful(images, capsys):
    assert (
        explain.main(
            [f"--workdir={images}", "--split=test", "--count=40", "--faithfulness", "--json"]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["examples"] == 40 and found["step"] == 150 and found["replace"] == "black"
    methods = found["methods"]
    assert list(methods) == ["integrated_gradients", "input_gradient", "grad_cam", "random"]
    ours, chance = methods["integrated_gradients"], methods["random"]
    # the median: where a score hardly differs from the baseline's, the relative error is of no use
    assert ours["median_error"] < 0.01 < methods["input_gradient"]["median_error"]
    # by much more than 40 examples leave to chance: areas of one differ by about 0.2, so their mean
    # by 0.03
    assert (
        ours["deletion"] < chance["deletion"] - 0.15
        and ours["insertion"] > chance["insertion"] + 0.15
    )


def test_a_vit_on_a_mesh(tiny):
    """In parts of 4 on 2 x 2 x 2 devices it is explained as at once on one, whatever fills the last
    part."""
    tiny.model, tiny.model_fields = (
        "vit_ti_16",
        {**SMALL, "num_layers": 2, "patch_size": 2, "scan": True},
    )
    found = []
    for sizes, size in (((2, 2, 2), 4), ((1, 1, 1), 5)):
        tiny.mesh.data, tiny.mesh.fsdp, tiny.mesh.tensor = sizes
        run = setup.build(tiny, devices=ALL_DEVICES[: np.prod(sizes)])
        names, arrays = explain.first_examples(run, "test", 5)
        assert names[4].startswith("test 4, labelled ")
        state = initial.init(run)
        head = jax.random.normal(jax.random.key(1), (32, 10))  # it starts as zero
        state.ema_params["head"]["kernel"] = jax.device_put(
            head, state.ema_params["head"]["kernel"].sharding
        )
        methods = ("integrated_gradients", "rollout", "attention")
        found.append(
            explain.explained(explain_images, run, state, arrays, 3, methods, "blur", size)
        )
    many, one = found
    assert many.attributions["rollout"].shape == (5, 8, 8) and (many.target == 3).all()
    assert list(many.errors) == ["integrated_gradients"]
    pixels = run.task.eval_batch({"image": jax.numpy.asarray(arrays["image"])})["image"]
    maps = attention_maps(run.model, {"params": state.eval_params}, pixels).maps["attention"]
    from_class = np.asarray(maps)[:, :, :, 0, 1:].reshape(2, 5, 2, 4, 4)
    np.testing.assert_allclose(one.attention, from_class, rtol=1e-5, atol=1e-6)
    for kind in (
        "attributions",
        "probability",
        "attention",
    ):  # others depend on the places of examples in a batch, by chance
        for a, b in zip(
            jax.tree.leaves(getattr(many, kind)), jax.tree.leaves(getattr(one, kind)), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)  # float32 in another order


def test_the_page_of_texts(labels, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert (
        explain.main([f"--workdir={labels}", f"--out={out}", "hier <b> rot und hund", "hund rot"])
        == 0
    )
    page = Page(out)
    # attention of 1 layer of 2 heads: 9 and 4 tokens with a margin of 2, each 96 // n times as
    # large
    assert [x.shape for x in page.pictures] == [(11 * 10, 2 * 11 * 10), (6 * 24, 2 * 6 * 24)]
    assert "hier <b> rot und hund" in page.text and "yes with probability" in page.text
    assert page.text.count("rollout") == 2 and page.text.count("integrated gradients") == 2
    spans = re.findall(
        r'<span style="background: rgba\([\d, .]+\)" title="([^"]+)">([^<]+)</span>',
        out.read_text(),
    )
    assert [word for _, word in spans[-4:]] == ["[CLS]", "hund", "rot", "[SEP]"]
    capsys.readouterr()
    options = [
        "--split=test",
        "--count=40",
        "--batch_size=40",
        "--faithfulness",
        "--json",
        "--replace=drop",
    ]
    assert explain.main([f"--workdir={labels}", *options]) == 0
    methods = json.loads(capsys.readouterr().out)["methods"]
    ours, chance = methods["integrated_gradients"], methods["random"]
    assert ours["median_error"] < 0.01
    assert ours["deletion"] < chance["deletion"] and ours["insertion"] > chance["insertion"]


def test_the_page_of_a_language_model(language, tmp_path):
    out = tmp_path / "page.html"
    assert explain.main([f"--workdir={language}", f"--out={out}", "the <b>cat</b> & the"]) == 0
    page = Page(out)
    assert "next ' dog' with probability" in page.text and "the <b>cat</b> & the" in page.text
    assert "Logit lens" in page.text and "layer 2" in page.text and "embedding" in page.text
    (heads,) = page.pictures  # 2 layers of 2 heads
    assert heads.shape[0] == heads.shape[1] and heads.min() == 0
    rows = re.findall(r"<tr>(.*?)</tr>", out.read_text())
    assert len(rows) == 1 + 3 and rows[1].count("<td") == rows[0].count("<th") - 1
    # the last layer says what the model does
    assert re.findall(r">([^<]*)</td>", rows[1])[-1] == " dog"
    options = ["--split=train", "--count=2", "--method=input_gradient", "--target= the"]
    assert explain.main([f"--workdir={language}", f"--out={out}", *options]) == 0
    page = Page(out)
    assert (
        "train 1" in page.text
        and "next ' the' with probability" in page.text
        and "Logit lens" not in page.text
    )


@pytest.mark.parametrize(
    ("run", "options", "words"),
    [
        (
            "images",
            ["--method=rollout", "x.png"],
            "--method=rollout does not suit CNN; there are inte",
        ),
        (
            "images",
            ["--target=eleven", "x.png"],
            r"--target='eleven' is no class; there are 0, 1, 2",
        ),
        (
            "images",
            ["--replace=drop", "x.png"],
            r"--replace=drop does not suit this run; there are black, blur",
        ),
        ("images", ["x.png"], "there is nothing to explain"),
        (
            "images",
            ["--split=test", "--count=1", "--out=/nowhere/x.html"],
            r"give another --out=FILE.html",
        ),
        ("labels", ["--method=grad_cam", "x"], "--method=grad_cam does not suit BERT"),
        ("language", [""], "its text is empty"),
    ],
)
def test_mistakes(run, options, words, request):
    with pytest.raises((ConfigError, DataError), match=words):
        explain.main([f"--workdir={request.getfixturevalue(run)}", *options])


def test_a_kernel_in_whose_place_einsum_shows_the_weights_is_said(
    tmp_path, tiny, monkeypatch, capsys
):
    """By :func:`explain.main` of a ViT with two labels, which explains one: rollout works, and
    names the kernel."""
    tiny.model, tiny.model_fields = (
        "vit_ti_16",
        {**SMALL, "patch_size": 2, "attention": "xla", "dropout_rate": 0.0},
    )
    tiny.model_fields["attention_dropout_rate"] = 0.0
    tiny.tasks.labels, tiny.steps = ("label",), 3
    loop.train(tiny, tmp_path / "run")
    options = [
        f"--workdir={tmp_path / 'run'}",
        "--split=test",
        "--count=2",
        "--task=label",
        "--method=rollout",
        "--method=attention",
    ]
    capsys.readouterr()
    assert explain.main(options) == 0
    says = "attention by einsum in the place of xla"
    assert f"\n{says}\n" in capsys.readouterr().out
    page = Page(tmp_path / "run" / "explained.html")
    assert says in page.text
    # of each the image, its rollout, and for 1 layer of 2 heads the 4 x 4 patches, 24 times as
    # large
    assert [x.shape[:2] for x in page.pictures] == [(8, 8), (8, 8), (6 * 24, 2 * 6 * 24)] * 2
    assert explain.main([*options, "--faithfulness", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["remarks"] == [says]


@pytest.mark.parametrize("kind", ["image", "text", "row"])
def test_what_a_quantised_run_predicts_is_explained(kind, request, data_dir):
    if kind == "row":
        config = make_config(data_dir)
    else:
        config = read_config(request.getfixturevalue({"image": "images", "text": "labels"}[kind]))
    run = setup.build(config)
    state = initial.init(run)
    params = jax.tree.map(
        lambda p: 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), state.eval_params
    )
    state = state.replace(params=params, ema_params=None if state.ema_params is None else params)
    arrays, replace, probabilities = (
        explain.first_examples(run, "test", 8)[1],
        REPLACEMENTS[kind][0],
        [],
    )
    for quantized in (False, True):
        config.quantization_aware = quantized
        found = explain.explained(
            EXPLAINERS[kind], run, state, arrays, 0, ("input_gradient",), replace, 8
        )
        with jax.set_mesh(run.mesh):
            probabilities.append(
                jax.jit(partial(compiling.answers, run))(state, put_batch(arrays, run.mesh))[:, 0]
            )
        np.testing.assert_allclose(found.said, probabilities[-1], rtol=1e-5)
    assert not np.allclose(*probabilities, rtol=1e-3, atol=0)


def test_completeness_that_is_not_defined_is_left_out_and_counted(labels, tmp_path, capsys):
    """Nothing of "[MASK]" can be replaced: its score is that of the baseline."""
    out = tmp_path / "page.html"
    assert explain.main([f"--workdir={labels}", f"--out={out}", "[MASK]", "hier rot und hund"]) == 0
    says = "input_gradient: completeness of 1 of 2 examples, whose score equals the baseline's, is not defined"
    assert says in capsys.readouterr().out
    page = Page(out)
    assert says in page.text and page.text.count("completeness error -") == 2
    assert "inf" not in page.text.lower().replace("info", "") and "nan" not in page.text.lower()
    options = [f"--workdir={labels}", "--method=input_gradient", "--faithfulness", "--json"]
    for texts in (["[MASK]", "hier rot und hund"], ["[MASK]"]):
        assert explain.main([*options, *texts]) == 0
        found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)["methods"][
            "input_gradient"
        ]
        assert found["undefined"] == 1 and ("completeness_error" in found) == (len(texts) > 1)


def test_means_are_of_what_is_defined():
    errors = {"input_gradient": np.array([1.0, np.inf, 3.0, 8.0])}
    areas = dict.fromkeys(("input_gradient", "random"), np.ones(4))
    found = Explained(
        np.zeros(4), np.ones(4), {"input_gradient": np.ones((4, 2))}, errors, areas, areas
    )
    there = np.array([True, True, True, False])
    ours = explain.scores(found, there)["input_gradient"]
    assert ours == {
        "completeness_error": 2,
        "median_error": 2,
        "undefined": 1,
        "deletion": 1,
        "insertion": 1,
    }
    assert "completeness of 1 of 3 examples" in explain.remarks({"row": found}, {"row": there})[0]


def test_parts_that_miss_the_whole_are_said_with_the_way_out(images, tmp_path, capsys):
    options = [
        f"--workdir={images}",
        "--split=test",
        "--count=4",
        "--method=integrated_gradients",
        "--faithfulness",
    ]
    errors = []
    for steps in (1, 1024):
        assert explain.main([*options, "--json", f"--ig_steps={steps}"]) == 0
        found = json.loads(capsys.readouterr().out)
        errors.append(found["methods"]["integrated_gradients"]["completeness_error"])
        says = [
            f"the parts miss the whole by {errors[-1]:.1%} on average with 1 steps; --ig_steps=4 "
            "comes nearer"
        ]
        assert found["remarks"] == (
            [f"image integrated_gradients: {says[0]}"] if steps == 1 else []
        )
    assert errors[1] < 0.01 < errors[0]


def test_inputs_or_a_split(images, capsys):
    for options in ([], ["--split=test", "x.png"]):
        with pytest.raises(SystemExit):
            explain.main([f"--workdir={images}", *options])
        assert "give files or texts, or --split" in capsys.readouterr().err


def test_colours_say_for_and_against():
    html = explain_page.coloured(["<a>", "b", "c"], np.array([1.0, -0.5, 0.0]))
    assert (
        html.index("rgba(214, 69, 48, 1.00)") < html.index("rgba(58, 110, 190, 0.5")
        and "&lt;a&gt;" in html
    )
    flat = explain_page.coloured(["a", "b"], np.zeros(2))
    assert "0.00" in flat and "nan" not in flat
