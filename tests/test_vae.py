"""The variational autoencoder: against PyTorch, the bound and its estimate, and whole runs with
their pictures."""

import dataclasses
import json
import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch import nn as tnn
from torch.nn import functional as F

import jaxmodels
from input_pipeline import DatasetCard
from jaxmodels.families.vae.model import VAE, VAEOutputs
from tests import conftest
from tests.test_loop import assert_same_run
from train import batches, evaluate, generate, initial, loop, predict, setup, sharding
from train.config import Config, ConfigError, DataConfig, MeshConfig, OptimConfig, check
from train.errors import NonFiniteError
from train.launch import cli
from train.loop import train
from train.records import opening
from train.step import accumulated_gradients
from train.tasks.elbo import elbo, importance_weighted_log_likelihood, log_likelihood

pytestmark = pytest.mark.usefixtures("two_devices")

CARD = DatasetCard(
    "digits", "1.0.0", {"train": 1438, "test": 359}, (8, 8, 1), 10, tuple("0123456789"), ""
)


def init(model, dtype=jnp.float32):
    shapes = (2, *model.image_shape), (2, model.latent_size)
    return jax.jit(partial(model.init, train=False))(
        jax.random.key(0), *(jnp.zeros(s, dtype) for s in shapes)
    )


def randomised(model, rng, scale):
    """Float64 parameters none of which is zero."""
    shapes = jax.eval_shape(partial(init, model, jnp.float64))["params"]
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(0, scale, p.shape)), shapes)


class TorchVAE(tnn.Module):
    """As anybody would write it in PyTorch, channels first; only flattenings are put into our
    order."""

    def __init__(self, params, model):
        super().__init__()
        self.shape, self.activation = (
            model.image_shape,
            {"relu": F.relu, "tanh": torch.tanh}[model.activation],
        )
        self.paths = {}
        for name, p in params.items():
            if name == "log_sigma":
                self.log_sigma = tnn.Parameter(torch.tensor(p))
                continue
            if p["kernel"].ndim == 2:
                layer = tnn.Linear(*p["kernel"].shape)
            elif name.startswith("encoder"):
                layer = tnn.Conv2d(*p["kernel"].shape[2:], 4, stride=2, padding=1)
            else:
                layer = tnn.ConvTranspose2d(*p["kernel"].shape[:1:-1], 4, stride=2, padding=1)
            layer.weight.data = torch.tensor(
                np.ascontiguousarray(self.rearranged(name, p["kernel"]))
            )
            layer.bias.data = torch.tensor(p["bias"])
            self.add_module(name, layer)
            self.paths[name] = layer

    @staticmethod
    def rearranged(name, x, back=False):
        if x.ndim == 2:
            return x.T
        ours, theirs = (
            ("h w i o", "o i h w") if name.startswith("encoder") else ("h w o i", "i o h w")
        )
        return rearrange(x, f"{theirs} -> {ours}" if back else f"{ours} -> {theirs}")

    def layers(self, prefix):
        return [m for n, m in sorted(self.paths.items()) if n.startswith(prefix)]

    def forward(self, image, noise):
        x = rearrange(image, "b h w c -> b c h w")
        for layer in self.layers("encoder_conv"):
            x = self.activation(layer(x))
        x = rearrange(x, "b c h w -> b (h w c)")
        for layer in self.layers("encoder_dense"):
            x = self.activation(layer(x))
        mean, log_variance = self.paths["mean"](x), self.paths["log_variance"](x)
        x = mean + torch.exp(0.5 * log_variance) * noise
        for layer in self.layers("decoder_dense"):
            x = self.activation(layer(x))
        height, width, _ = self.shape
        convolutions = self.layers("decoder_conv")
        if not convolutions:
            return self.paths["decoder_out"](x).reshape(-1, *self.shape), mean, log_variance
        scale = 2 ** len(convolutions)
        x = rearrange(x, "b (h w c) -> b c h w", h=height // scale, w=width // scale)
        for i, layer in enumerate(convolutions):
            x = layer(self.activation(x) if i else x)
        return rearrange(x, "b c h w -> b h w c"), mean, log_variance

    def gradients(self):
        found = {
            f"{n}/kernel": self.rearranged(n, m.weight.grad.numpy(), back=True)
            for n, m in self.paths.items()
        }
        found |= {f"{n}/bias": m.bias.grad.numpy() for n, m in self.paths.items()}
        return found | (
            {"log_sigma": self.log_sigma.grad.numpy()} if hasattr(self, "log_sigma") else {}
        )


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert np.linalg.norm(b) > 1e-6, "comparing zeros proves nothing"
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize(
    ("likelihood", "fields"),
    [
        ("bernoulli", {"image_shape": (6, 5, 3), "hidden_sizes": (24,)}),
        ("gaussian", {"image_shape": (4, 4, 1), "hidden_sizes": (16, 12, 8), "activation": "tanh"}),
        ("gaussian", {"image_shape": (8, 12, 3), "kind": "conv", "features": (4, 6)}),
        (
            "bernoulli",
            {"image_shape": (8, 8, 1), "kind": "conv", "features": (4, 6, 8), "activation": "tanh"},
        ),
    ],
)
def test_equals_pytorch_in_float64(likelihood, fields, x64):
    batch, beta = 5, 0.7
    model = VAE(
        **fields, latent_size=3, likelihood=likelihood, dtype=jnp.float64, param_dtype=jnp.float64
    )
    rng = np.random.default_rng(0)
    params = randomised(model, rng, 0.4)
    image = rng.uniform(size=(batch, *model.image_shape))
    noise, weight = rng.normal(size=(batch, 3)), np.array([1.0, 1, 0, 1, 1])

    def loss_fn(params):
        outputs = model.apply(
            {"params": params}, jnp.asarray(image), jnp.asarray(noise), train=True
        )
        metrics = elbo(
            outputs, {"image": jnp.asarray(image), "weight": jnp.asarray(weight)}, beta=beta
        )
        return metrics["loss"][0] / metrics["loss"][1], metrics

    (loss, metrics), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params)
    twin = TorchVAE(jax.tree.map(np.asarray, params), model)
    real = torch.tensor(weight) > 0
    x = torch.tensor(image)[real]
    decoded, mean, log_variance = twin(x, torch.tensor(noise)[real])
    if likelihood == "bernoulli":
        reconstruction = F.binary_cross_entropy_with_logits(decoded, x, reduction="sum")
    else:
        reconstruction = (
            -torch.distributions.Normal(decoded, twin.log_sigma.exp()).log_prob(x).sum()
        )
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum()
    twin_loss = (reconstruction + beta * kl) / 4
    twin_loss.backward()
    assert {float(count) for _, count in metrics.values()} == {4.0}
    assert relative(metrics["reconstruction"][0], reconstruction.item()) < 1e-10
    assert relative(metrics["kl"][0], kl.item()) < 1e-10
    assert relative(metrics["elbo"][0], -(reconstruction + kl).item()) < 1e-10
    assert relative(loss, twin_loss.item()) < 1e-10
    found = {sharding.path_name(path): g for path, g in jax.tree_util.tree_leaves_with_path(grads)}
    expected = twin.gradients()
    assert sorted(found) == sorted(expected)
    for path in found:
        assert relative(found[path], expected[path]) < 1e-10, path


def test_initial_values_are_spread_as_pytorchs():
    model = VAE(image_shape=(16, 16, 8), kind="conv", features=(32, 16))
    params = init(model)["params"]
    torch.manual_seed(0)
    twin = TorchVAE(jax.tree.map(np.asarray, params), model)
    for name, layer in twin.paths.items():
        layer.reset_parameters()
        for ours, theirs in (
            (params[name]["kernel"], layer.weight),
            (params[name]["bias"], layer.bias),
        ):
            bound = theirs.abs().max().item()
            assert abs(ours).max() == pytest.approx(bound, rel=0.3 if ours.size < 100 else 0.02), (
                name
            )
            if ours.size > 1000:
                assert ours.std() == pytest.approx(theirs.std().item(), rel=0.05), name


@pytest.mark.parametrize(
    ("fields", "image", "noise", "match"),
    [
        ({"kind": "cnn"}, (8, 8, 1), 20, "mlp, conv"),
        ({"likelihood": "normal"}, (8, 8, 1), 20, "bernoulli, gaussian"),
        ({"activation": "swich"}, (8, 8, 1), 20, "relu, sigmoid"),
        ({"latent_size": 0}, (8, 8, 1), 20, "latent_size 0 must be at least 1"),
        ({"image_shape": (8, 8)}, (8, 8, 1), 20, "height, width, channels"),
        (
            {"kind": "conv", "features": (4, 4, 4, 4)},
            (8, 8, 1),
            20,
            "halved 4 times: .* multiples of 16",
        ),
        ({}, (8, 7, 1), 20, r"\(8, 7, 1\) are not of image_shape \(8, 8, 1\)"),
        ({}, (8, 8, 1), 1, r"noise of \(2, 1\)"),
    ],
)
def test_impossible_fields_and_inputs_say_so(fields, image, noise, match):
    model = VAE(**({"image_shape": (8, 8, 1)} | fields))
    with pytest.raises(ValueError, match=match):
        jax.eval_shape(
            partial(model.init, train=False),
            jax.random.key(0),
            jnp.zeros((2, *image)),
            jnp.zeros((2, noise)),
        )


def test_extreme_logits_and_variances_are_finite():
    image = jnp.asarray([[[[1.0], [0.0]]], [[[1.0], [0.5]]]])

    def loss(logits, log_variance):
        outputs = VAEOutputs(logits, jnp.zeros((2, 1)), log_variance, None)
        return elbo(outputs, {"image": image, "weight": jnp.ones(2)})["loss"][0]

    # right, and wrong by 1e4 + 0.5e4 nats
    logits = jnp.asarray([[[[1e4], [-1e4]]], [[[-1e4], [1e4]]]])
    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    value, grads = both(logits, jnp.full((2, 1), -100.0))
    assert value == pytest.approx(1.5e4 + 2 * 0.5 * 99, rel=1e-6)
    assert all(jnp.isfinite(g).all() for g in grads)


def linear_vae(rng, latent=2):
    """A decoder without hidden layer: p(x) is then a multivariate normal, known in closed form."""
    model = VAE(
        (2, 3, 1),
        latent,
        hidden_sizes=(),
        likelihood="gaussian",
        dtype=jnp.float64,
        param_dtype=jnp.float64,
    )
    params = randomised(model, rng, 0.3)
    image = rng.normal(size=(4, 2, 3, 1))
    kernel, bias = (np.asarray(params["decoder_out"][k]) for k in ("kernel", "bias"))
    covariance = kernel.T @ kernel + np.exp(2 * float(params["log_sigma"])) * np.eye(6)
    exact = multivariate_normal(bias, covariance).logpdf(image.reshape(4, 6))
    return model, params, image, exact


def test_importance_weighting_against_numpy_and_the_exact_likelihood(x64):
    rng = np.random.default_rng(0)
    model, params, image, exact = linear_vae(rng)
    forward = jax.jit(
        lambda image, noise: model.apply({"params": params}, image, noise, train=False)
    )

    estimate = jax.jit(partial(importance_weighted_log_likelihood, forward, jnp.asarray(image)))
    estimates = jax.jit(jax.vmap(estimate))

    @jax.jit
    def bounds(noise):
        weights = jnp.eye(4)  # one image at a time
        outputs = jax.vmap(forward, (None, 0))(jnp.asarray(image), noise)
        terms = jax.vmap(
            lambda o: jax.vmap(
                lambda w: elbo(o, {"image": jnp.asarray(image), "weight": w})["elbo"][0]
            )(weights)
        )
        return terms(outputs)

    noise = rng.normal(size=(7, 4, 2))
    log_weights = []
    for draw in noise:
        outputs = jax.device_get(forward(image, draw))
        deviation = np.exp(0.5 * outputs.log_variance)
        z = outputs.mean + deviation * draw
        prior = -0.5 * (z**2 + math.log(2 * math.pi)).sum(-1)
        posterior = (
            -0.5 * ((z - outputs.mean) / deviation) ** 2
            - np.log(deviation)
            - 0.5 * math.log(2 * math.pi)
        ).sum(-1)
        log_weights.append(
            np.asarray(log_likelihood(outputs, jnp.asarray(image))) + prior - posterior
        )
    np.testing.assert_allclose(
        estimate(jnp.asarray(noise)), logsumexp(log_weights, axis=0) - math.log(7), rtol=1e-12
    )

    # one draw: the ELBO, but with the divergence taken at the draw and not in expectation
    np.testing.assert_allclose(estimate(jnp.asarray(noise[:1])), log_weights[0], rtol=1e-12)
    many = rng.normal(size=(5000, 1, 4, 2))
    one = np.mean(estimates(many), 0)
    np.testing.assert_allclose(one, bounds(many[:, 0]).mean(0), atol=0.1)

    # and with more draws it rises to log p(x)
    ten = np.mean(estimates(many.reshape(500, 10, 4, 2)), 0)
    assert (one < ten - 0.05).all() and (ten < exact).all()
    np.testing.assert_allclose(estimate(jnp.asarray(many[:, 0])), exact, atol=0.05)


@pytest.mark.parametrize("name", ["vae", "vae_conv"])
def test_each_parameter_is_matched_by_exactly_one_rule(name):
    model = jaxmodels.create(name, image_shape=(8, 8, 1), likelihood="gaussian")
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        jax.eval_shape(partial(init, model))["params"]
    ):
        matched = [(p, s) for p, s in sharding.RULES if re.search(p, sharding.path_name(path))]
        assert len(matched) == 1, sharding.path_name(path)
        assert len(matched[0][1]) == len(leaf.shape)


def test_float64_gradients_on_a_mesh_equal_one_device(x64):
    def gradients(mesh, devices, accumulate=1):
        fields = {"hidden_sizes": (64, 32), "latent_size": 8}
        config = make_tiny("", fields=fields, mesh=MeshConfig(**mesh))
        run = setup.build(config, card=CARD, devices=conftest.ALL_DEVICES[:devices])
        module = run.model.clone(dtype=jnp.float64, param_dtype=jnp.float64)
        rng = np.random.default_rng(0)
        params = jax.device_put(
            randomised(module, rng, 0.1), sharding.shardings_of(run.shapes.params, run.mesh)
        )
        batch = {
            "image": rng.uniform(size=(32, 8, 8, 1)),
            "noise": rng.normal(size=(32, 8)),
            "weight": np.ones(32),
        }

        def step(params, batch):
            return accumulated_gradients(
                params,
                {},
                batch,
                jax.random.key(0),
                model=module,
                objective=elbo,
                inputs=run.task.inputs,
                accumulate=accumulate,
            )[0]

        with jax.set_mesh(run.mesh):
            return jax.device_get(jax.jit(step)(params, sharding.put_batch(batch, run.mesh)))

    one = gradients({}, 1)
    for other in (
        gradients({"data": 2, "fsdp": 2, "tensor": 2}, 8),
        gradients({"data": 1, "tensor": 4}, 4, 2),
    ):
        for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(one), strict=True):
            assert relative(a, b) < 1e-10


def make_tiny(data_dir, *, model="vae", fields=None, **kwargs) -> Config:
    """Sixteen steps on the embedded digits."""
    return dataclasses.replace(
        conftest.make_tiny(data_dir),
        model=model,
        model_fields=fields or {"hidden_sizes": (32,), "latent_size": 4},
        task="elbo",
        data=DataConfig(name="digits", data_dir=data_dir or None, mean=(0.0,), std=(1.0,)),
        optim=OptimConfig(learning_rate=3e-3, ema_decay=0.9),
        **kwargs,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data_dir):
    """An undisturbed run, shared by the tests that only look."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, train(make_tiny(data_dir), workdir)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_a_run_leaves_scores_and_pictures(whole, capsys):
    workdir, summary = whole
    assert summary == json.loads((workdir / "summary.json").read_text())
    test = summary["test"]
    assert set(test) == {
        "loss",
        "elbo",
        "kl",
        "reconstruction",
        "importance_weighted_log_likelihood",
        "examples",
    }
    assert test["examples"] == 359 and summary["train"]["examples"] == 1438
    assert (
        test["elbo"]
        == pytest.approx(-test["loss"])
        == pytest.approx(-test["kl"] - test["reconstruction"])
    )
    assert test["importance_weighted_log_likelihood"] > test["elbo"]
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["elbo"] > records[0]["elbo"]
    assert not (workdir / "confusion.png").exists() and (workdir / "curves.png").exists()
    names = {
        f"{name}_{step}.png" for name in ("samples", "reconstructions", "walk") for step in (8, 16)
    }
    assert {p.name for p in (workdir / "samples").iterdir()} == names
    run = setup.build(opening.read_config(workdir))
    originals = batches.examples(run, "test", 16)["image"][..., 0]
    picture = pixels(workdir / "samples" / "reconstructions_16.png")
    assert picture.shape == (4 * 8, 8 * 8) and pixels(
        workdir / "samples" / "samples_16.png"
    ).shape == (64, 64)
    rows = rearrange(picture, "(r h) (n w) -> r n h w", r=4, n=8)
    np.testing.assert_array_equal(rows[[0, 2]].reshape(16, 8, 8), originals)
    walk = rearrange(
        pixels(workdir / "samples" / "walk_16.png"), "(r h) (n w) -> r n h w", r=8, n=8
    )
    ends = rearrange(walk[:, [0, 7]], "r two h w -> (r two) h w")
    assert abs(ends.astype(int) - rows[[1, 3]].reshape(16, 8, 8)).max() <= 1, (
        "a walk ends at the reconstructions"
    )
    assert evaluate.main([f"--workdir={workdir}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == test
    assert evaluate.main([f"--workdir={workdir}", "--step=best"]) == 0
    assert "elbo" in capsys.readouterr().out


@pytest.mark.parametrize("stop_at", [5, 8])
def test_stopping_and_resuming_changes_nothing(data_dir, whole, tmp_path, monkeypatch, stop_at):
    def reached(self, step):
        self.asked, self.name = self.asked or step == stop_at, "SIGTERM"
        return self.asked

    monkeypatch.setattr(loop._Stop, "reached", reached)
    assert train(make_tiny(data_dir), tmp_path / "parts") is None
    monkeypatch.undo()
    summary = train(make_tiny(data_dir), tmp_path / "parts")
    assert_same_run(whole[0], tmp_path / "parts")
    assert summary["test"] == whole[1]["test"] and summary["train"] == whole[1]["train"]
    for picture in (whole[0] / "samples").glob("*_*[0-9].png"):
        assert (tmp_path / "parts" / "samples" / picture.name).read_bytes() == picture.read_bytes()


def test_noise_is_new_in_every_step_and_fixed_in_evaluation(data_dir):
    task = setup.build(make_tiny(data_dir)).task
    batch = {"image": jnp.zeros((6, 8, 8, 1), jnp.uint8), "weight": jnp.ones(6)}
    keys = [jax.random.fold_in(jax.random.key(0), step) for step in range(2)]
    a, b, again = (task.train_batch(key, batch)["noise"] for key in (*keys, keys[0]))
    assert a.shape == (6, 4) and jnp.array_equal(a, again) and not jnp.isin(a, b).any()
    fixed = task.eval_batch(batch)["noise"]
    few = task.eval_batch(jax.tree.map(lambda x: x[:4], batch))["noise"]
    assert jnp.array_equal(fixed[:4], few) and len(jnp.unique(fixed)) == fixed.size
    other = setup.build(dataclasses.replace(make_tiny(data_dir), seed=1)).task
    assert not jnp.isin(other.eval_batch(batch)["noise"], fixed).any()


def test_generate_draws_what_the_run_drew(whole, tmp_path, capsys):
    workdir, _ = whole
    out = tmp_path / "grid.png"
    assert generate.main([f"--workdir={workdir}", f"--out={out}"]) == 0
    assert "64 samples of step 16" in capsys.readouterr().out
    picture = pixels(out)
    np.testing.assert_allclose(
        picture.astype(int), pixels(workdir / "samples" / "samples_16.png"), atol=1
    )
    generate.main([f"--workdir={workdir}", f"--out={out}", "--count=11", "--step=best"])
    few = pixels(out)
    assert few.shape == (16, 64) and (few[8:, 24:] == 255).all()
    np.testing.assert_allclose(few[:8].astype(int), picture[:8], atol=1)
    np.testing.assert_allclose(few[8:, :24].astype(int), picture[8:16, :24], atol=1)
    generate.main([f"--workdir={workdir}", f"--out={out}", "--step=12"])
    assert not np.array_equal(pixels(out), picture)
    generate.main([f"--workdir={workdir}", f"--out={out}", "--seed=1"])
    assert not np.array_equal(pixels(out), picture)


def test_mistakes_are_one_line(whole, tiny, tmp_path, capsys):
    workdir, _ = whole
    train(dataclasses.replace(tiny, steps=4), tmp_path / "classes")
    for main, args, words in (
        (
            generate.main,
            [f"--workdir={tmp_path / 'classes'}"],
            "config.task = 'classification'",
        ),
        (generate.main, [f"--workdir={tmp_path / 'none'}"], "not the workdir of a run"),
        (generate.main, [f"--workdir={workdir}", "--step=3"], "no checkpoint of step 3"),
        (generate.main, [f"--workdir={workdir}", "--out=/dev/null/x.png"], "--out=FILE.png"),
        (predict.main, [f"--workdir={workdir}", "x.png"], "config.task = 'elbo'"),
    ):
        assert cli.run(partial(main, args)) == 2
        captured = capsys.readouterr()
        assert (
            captured.err.startswith("error: ")
            and captured.err.count("\n") == 1
            and words in captured.err
        )
    for flag, word in (
        ("--step=x", "last, best"),
        ("--count=0", "at least 1"),
        ("--seed=-1", "0 .. "),
        ("--out=x", ".png"),
    ):
        with pytest.raises(SystemExit):
            generate.main([f"--workdir={workdir}", flag])
        assert word in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"data": DataConfig(mean=(0.5,), std=(0.5,))},
            "pixels to [-1, 1], and the Bernoulli likelihood is for [0, 1]",
        ),
        (
            {"task": "classification"},
            "does not fit model 'vae'; nearest: config.task = 'elbo'",
        ),
        (
            {"model": "cnn", "model_fields": {}},
            "does not fit model 'cnn'; nearest: config.task = 'classification'",
        ),
        ({"options": {"label_smoothing": 0.1}}, "config.options.label_smoothing does not exist"),
        ({"model_fields": {"image_shape": (28, 28, 1)}}, "nearest: (8, 8, 1)"),
        ({"model": "vae_conv", "model_fields": {"features": (4, 4, 4, 4)}}, "multiples of 16"),
    ],
)
def test_configs_that_cannot_be(change, words):
    with pytest.raises(ConfigError) as e:
        config = dataclasses.replace(make_tiny(""), **change)
        check(config)
        setup.build(config, card=CARD)
    assert words in str(e.value) and "\n" not in str(e.value)


def test_a_gaussian_convolutional_run_in_bfloat16_may_shift_its_pixels(data_dir, tmp_path):
    fields = {"features": (4,), "likelihood": "gaussian"}
    config = make_tiny(
        data_dir,
        model="vae_conv",
        fields=fields,
        dtype="bfloat16",
        options={"importance_samples": 2},
    )
    config.data = DataConfig(name="digits", data_dir=data_dir)
    config.steps = config.eval_every = 4
    config.accumulate = 1
    summary = train(config, tmp_path)
    assert (
        np.isfinite(summary["test"]["elbo"]) and (tmp_path / "samples" / "samples_4.png").exists()
    )


def test_nan_names_the_tensor(data_dir, tmp_path, monkeypatch):
    original = initial.start

    def poisoned(self, **kwargs):
        state, origin = original(self, **kwargs)
        kernel = state.params["log_variance"]["kernel"]
        params = state.params | {
            "log_variance": state.params["log_variance"] | {"kernel": kernel.at[0].set(3e38)}
        }
        return state.replace(
            params=jax.device_put(params, jax.tree.map(lambda x: x.sharding, state.params))
        ), origin

    monkeypatch.setattr(initial, "start", poisoned)
    with pytest.raises(NonFiniteError, match="first non-finite tensor: outputs/decoder"):
        train(make_tiny(data_dir), tmp_path)
