"""Certificates: every family against its original at light sizes, and faults made on purpose are
found and located."""

import dataclasses
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

import jaxmodels
import jaxmodels.families.resnet.model
import jaxmodels.foreign.formats
from jaxmodels import originals, weights
from jaxmodels.bench import decoding as bench_decoding
from jaxmodels.bench import sizes
from jaxmodels.bench import timing as bench_timing
from jaxmodels.catalogue import formats_of
from jaxmodels.foreign import rules
from jaxmodels.foreign.original import Case
from jaxmodels.originals import batches, cases
from jaxmodels.originals.cases import CASES
from jaxmodels.parity import certificate as parity_certificate
from jaxmodels.parity import randomness, sides, trace
from tests.test_models import COMPOSED
from train import loop, optim
from train.compare import __main__ as command
from train.compare import (
    certificate,
    decoding,
    optimizers,
    speed,
    tables,
    timing,
    twin,
)
from train.compare.certificate import certify
from train.config import ConfigError

KEYS = (
    "model params_equal logits_rel_f64 grad_rel_f64 worst_grad bn_rel_f64 adamw_loss_rel_f64 "
    "sgd_loss_rel_f64 logits_rel_f32 torch_logits_rel_f32 grad_rel_f32 torch_grad_rel_f32 "
    "roundtrip_bitwise ratio_train ratio_infer pass"
).split()

SMALL_VGG = {"stage_features": (4, 5, 6, 7, 8), "hidden_sizes": (16, 12), "pooled_size": 2}
SMALL = {"num_layers": 2, "hidden_size": 32, "num_heads": 2, "mlp_dim": 48}


def case(name, shape, batch_size=4, classes=7, **fields):
    length = 0 if shape else 10
    sizes = {"image_shape": shape, "length": length, "batch_size": batch_size, "classes": classes}
    return dataclasses.replace(CASES[name], **sizes, fields=fields, note="")


LIGHT = {  # id -> (case, steps of each optimiser)
    "mlp": (case("mlp", (6, 5, 3), hidden_sizes=(24, 16)), 5),
    "mlp-linear": (case("mlp", (8, 8, 1), hidden_sizes=()), 0),
    "mlp-sigmoid": (case("mlp", (4, 4, 2), hidden_sizes=(16, 16, 16), activation="sigmoid"), 0),
    "cnn-last": (case("cnn", (9, 7, 3), features=(4, 6), hidden_size=16), 5),
    "cnn-each": (case("cnn", (12, 12, 1), features=(4, 6), pool="each"), 0),
    "cnn-none": (case("cnn", (6, 6, 2), features=(4, 8, 12), pool="none"), 0),
    "alexnet": (case("alexnet", (96, 72, 3), features=(4, 6, 8, 7, 5), hidden_sizes=(16, 12)), 5),
    "alexnet-small": (
        case(
            "alexnet",
            (28, 28, 1),
            features=(4, 6, 8, 7, 5),
            hidden_sizes=(16, 12),
            stem="small",
            pooled_size=3,
        ),
        0,
    ),
    "vgg": (case("vgg11", (64, 32, 1), **SMALL_VGG), 0),
    "vgg-bn": (case("vgg13_bn", (32, 64, 3), **SMALL_VGG), 5),
    "resnet-basic": (case("resnet18", (48, 40, 3), batch_size=3, stage_sizes=(1, 1, 1, 1)), 3),
    "resnet-bottleneck": (
        case("resnet50", (12, 12, 1), batch_size=3, stage_sizes=(1, 2, 1, 1), stem="small"),
        0,
    ),
    "convnext": (
        case(
            "convnext_tiny",
            (40, 24, 3),
            stage_sizes=(1, 2, 1),
            stage_features=(8, 12, 16),
        ),
        5,
    ),
    "resnet-cifar": (case("resnet20", (13, 15, 1), stage_sizes=(1, 2, 1), width=4), 5),
    "vit": (case("vit_ti_16", (24, 24, 3), patch_size=8, **SMALL, representation_size=20), 0),
    "vit-scan": (case("vit_ti_16", (24, 24, 1), patch_size=8, **SMALL, scan=True), 5),
    "vit-transformers": (
        case("vit_b_16_hf", (24, 24, 3), patch_size=8, **SMALL, scan=True, remat=True),
        0,
    ),
    "gpt2": (case("gpt2_tiny", (), max_len=12, **SMALL), 0),
    "gpt2-untied": (case("gpt2_tiny", (), max_len=12, **SMALL, tie_embeddings=False), 0),
    "gpt2-scan": (case("gpt2_tiny", (), max_len=12, **SMALL, scan=True, remat=True), 5),
    "bert": (case("bert_tiny", (), max_len=12, **SMALL), 0),
    "bert-scan": (
        case(
            "bert_base_classifier",
            (),
            max_len=12,
            **SMALL,
            head="classification",
            scan=True,
            remat=True,
        ),
        5,
    ),
    "transformer": (case("transformer_tiny", (), max_len=12, **SMALL, scan=True), 5),
    "transformer-pre-norm": (
        case("transformer_tiny", (), max_len=12, **SMALL, norm_first=True, share_embeddings=False),
        0,
    ),
    "marian": (case("marian", (), max_len=12, **SMALL, scan=True), 0),
    "lstm": (case("lstm", (), embed_size=12, hidden_size=16), 5),
    "lstm-2": (case("lstm", (), embed_size=12, hidden_size=16, num_layers=2), 5),
    "bilstm": (case("bilstm", (), embed_size=12, hidden_size=16), 5),
    "vae": (case("vae", (6, 4, 2), hidden_sizes=(24, 16), latent_size=5), 5),
    "vae-conv": (
        case("vae_conv", (8, 12, 2), features=(4, 6), latent_size=5, likelihood="gaussian"),
        5,
    ),
}
ONE_EACH = (
    *(
        "mlp",
        "cnn-none",
        "alexnet-small",
        "vgg-bn",
        "resnet-basic",
        "resnet-cifar",
        "vit-scan",
        "convnext",
    ),
    *("gpt2-scan", "bert-scan", "transformer", "marian", "bilstm", "vae-conv"),
)
DEEP = ("googlenet", "inception_v3")


@pytest.mark.parametrize("name", ONE_EACH)
def test_float64_equals_the_original(name, monkeypatch):
    """Logits, loss, every gradient, every layer and the statistics; steps of training and float32
    are in the long test below, and a test of its own counts parameters at full size."""
    monkeypatch.setattr(certificate, "count", lambda case: (0, 0))
    result = certify(LIGHT[name][0], steps=0, dtypes=())
    assert not result.failures
    assert result.first_divergence is None
    assert len(result.blocks) >= 1
    assert all(d.norm > 1e-3 for d in result.blocks), "comparing zeros proves nothing"
    assert all(v > 1e-6 for v in result.norms.values())


def test_every_family_of_certificates_has_a_light_case():
    model = lambda case: type(cases.make_model(case, jnp.float32))  # noqa: E731
    light = {model(LIGHT[name][0]) for name in ONE_EACH}
    deep = {type(jaxmodels.create(name, num_classes=3)) for name in DEEP}
    assert light | deep == {model(case) for case in CASES.values()}


@pytest.mark.parametrize("name", LIGHT)
def test_every_family_equals_its_original(name):
    light, steps = LIGHT[name]
    result = certify(light, steps=steps, dtypes=("float64", "float32"))
    assert not result.failures
    assert result.first_divergence is None
    assert len(result.blocks) >= 1
    assert all(d.norm > 1e-3 for d in result.blocks), "comparing zeros proves nothing"
    assert all(v > 1e-6 for v in result.norms.values())
    assert result.torch_grad_rel_f32 > 0
    for curves in result.curves.values():
        assert len(curves["ours"]) == steps
        assert np.ptp(curves["torch"]) > 1e-3


@pytest.mark.parametrize("name", DEEP)
def test_the_deep_ones_in_evaluation(name):
    """Logits of the whole network; gradients and steps are in the full certificates, they take a
    minute to compile."""
    small = case(name, (80, 80, 3), batch_size=2)
    with jax.enable_x64(True), randomness.deterministic_torch(0):
        # its auxiliary head wants 299 pixels
        fields = {"aux_heads": False} if name == "inception_v3" else {}
        model = cases.make_model(dataclasses.replace(small, fields=fields), jnp.float64)
        original = originals.build(model, small.image_shape)
        original.module.double().eval()
        certificate.randomise(original.module)
        tensors = {k: v.numpy() for k, v in original.module.state_dict().items()}
        batch = batches.make_batch(small, np.float64, 0)
        with torch.no_grad():
            expected = original.main(original.module(trace.as_torch(batch["image"]))).numpy()
        variables = weights.from_torch(
            model, tensors, image_shape=(299, 299, 3), format=original.format
        )
        logits = jax.jit(partial(model.apply, train=False))(variables, jnp.asarray(batch["image"]))
    assert np.linalg.norm(expected) > 1e-3
    np.testing.assert_allclose(logits, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("name", CASES)
def test_parameters_are_counted_at_full_size(name):
    params, torch_params = certificate.count(CASES[name])
    assert params == torch_params > 0


def test_no_model_escapes_its_certificate():
    assert {case.model for case in CASES.values()} | COMPOSED == set(jaxmodels.list_models())


def test_same_instead_of_torch_padding_is_located(monkeypatch):
    conv = jaxmodels.families.resnet.model.conv

    def faulty(features, kernel_size, **fields):
        if features != 16 or fields["stride"] != 2:
            return conv(features, kernel_size, **fields)
        kept = {k: v for k, v in fields.items() if k not in ("stride", "padding")}
        return nn.Conv(features, (kernel_size, kernel_size), strides=(2, 2), padding="SAME", **kept)

    small = case("resnet20", (16, 16, 3), stage_sizes=(1, 1, 1), width=8)
    monkeypatch.setattr(jaxmodels.families.resnet.model, "conv", faulty)
    result = certify(small, steps=0, dtypes=())
    assert result.failures
    assert result.first_divergence.startswith(
        "stage_2_block_0/conv_1 (PyTorch: layer2.0.conv1): same input, output"
    )


def test_tanh_instead_of_exact_gelu_is_located():
    small = case("vit_ti_16", (16, 16, 3), patch_size=8, **SMALL)
    result = certify(
        small, steps=0, dtypes=(), change=lambda model: model.clone(activation="gelu_tanh")
    )
    assert result.failures
    assert result.first_divergence.startswith(
        "before block_0/mlp_out (PyTorch: encoder.layers.encoder_layer_0.mlp.3): its input differs "
        "by"
    )
    assert "block_0/mlp_in before it agrees" in result.first_divergence


def test_epsilon_of_layer_norm_is_located():
    small = case("vit_ti_16", (16, 16, 3), patch_size=8, **SMALL, scan=True)
    result = certify(small, steps=0, dtypes=(), change=lambda model: model.clone(norm_eps=1e-5))
    assert result.first_divergence.startswith(
        "blocks/norm_1 (PyTorch: encoder.layers.encoder_layer_0.ln_1): same input"
    )


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"epsilon": 1e-6}, "bn_stem (PyTorch: bn1): same input, output differs"),
        ({"momentum": 0.01}, "the running statistics differ"),
    ],
)
def test_faults_of_batch_norm_are_located(monkeypatch, fault, words):
    batch_norm = jaxmodels.families.resnet.model.BatchNorm
    small = case("resnet20", (16, 16, 3), stage_sizes=(1, 1, 1), width=8)
    monkeypatch.setattr(jaxmodels.families.resnet.model, "BatchNorm", partial(batch_norm, **fault))
    result = certify(small, steps=0, dtypes=())
    assert result.failures
    assert words in result.first_divergence
    assert "bn" in result.first_divergence


@pytest.mark.parametrize(
    ("name", "fields"), [("vgg11", SMALL_VGG), ("alexnet", {"features": (4, 6, 8, 7, 5)})]
)
def test_another_order_of_flattening_fails_at_the_size_of_the_certificate(
    monkeypatch, name, fields
):
    """Small maps must not be so small that the pool before the dense layers repeats one pixel."""
    monkeypatch.setattr(
        jaxmodels.foreign.formats,
        "linear_after_flatten",
        lambda h, w: rules.linear("o (c h w) -> (w h c) o", h=h, w=w),
    )
    small = dataclasses.replace(
        CASES[name], fields={**fields, "hidden_sizes": (16, 12)}, batch_size=2
    )
    result = certify(small, steps=0, dtypes=())
    assert "dense_0" in result.first_divergence
    assert any(f.startswith("logits_rel_f64") for f in result.failures)


def test_a_constant_in_the_loss_fails(monkeypatch):
    objective = optimizers.OBJECTIVES["classification"]

    def shifted(outputs, batch):
        metrics = objective(outputs, batch)
        total, count = metrics["loss"]
        return metrics | {"loss": (total + 3 * count, count)}

    monkeypatch.setitem(optimizers.OBJECTIVES, "classification", shifted)
    result = certify(case("mlp", (4, 4, 1), hidden_sizes=(8,)), steps=0, dtypes=())
    assert [f.partition(" ")[0] for f in result.failures] == ["loss_rel_f64"]


def test_a_layer_that_is_not_compared_fails(monkeypatch):
    found = parity_certificate.differences
    monkeypatch.setattr(
        parity_certificate,
        "differences",
        lambda *args: [d for d in found(*args) if d.ours != "dense_0"],
    )
    result = certify(case("mlp", (4, 4, 1), hidden_sizes=(8,)), steps=0, dtypes=())
    assert result.failures == ["layer dense_0 (PyTorch: 1) was not compared"]


def test_decay_of_biases_fails(monkeypatch):
    """The mask of weight decay: PyTorch's side takes its groups from it, so only ours is
    changed."""
    monkeypatch.setattr(
        "train.optim.decay_mask", lambda params: jax.tree.map(lambda p: True, params)
    )
    result = certify(CASES["mlp"], steps=5, dtypes=())
    assert [f.partition(" ")[0] for f in result.failures] == [
        "adamw_loss_rel_f64",
        "sgd_loss_rel_f64",
    ]


def test_a_fault_of_the_optimizer_fails(monkeypatch):
    small = case("mlp", (4, 4, 1), hidden_sizes=(8,))
    make = certificate.make_optimizer
    monkeypatch.setattr(
        certificate,
        "make_optimizer",
        lambda config, n: make(dataclasses.replace(config, weight_decay=0.0), n),
    )
    result = certify(small, steps=5, dtypes=())
    assert [f.partition(" ")[0] for f in result.failures] == [
        "adamw_loss_rel_f64",
        "sgd_loss_rel_f64",
    ]


def test_the_command(tmp_path, monkeypatch, single_calls, capsys, plots):
    monkeypatch.setitem(cases.CASES, "mlp", case("mlp", (4, 4, 1), hidden_sizes=(8,)))
    json_file, html_file = tmp_path / "c.json", tmp_path / "c.html"
    arguments = ["mlp", "--steps=2", "--timing=eager", f"--json={json_file}", f"--html={html_file}"]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "pass" in printed
    (found,) = json.loads(json_file.read_text())
    assert list(found)[: len(KEYS) - 1] == KEYS[:-1]
    assert found["pass"] is True
    assert found["ratio_train"] > 0
    assert found["bf16_logits_rel"] > found["logits_rel_f32"] > 0
    page = html_file.read_text()
    assert "data:image/png;base64" in page
    assert "dense_0" in page
    text = tables.with_table("a\n" + "\nold\n".join(tables.MARKS) + "\nb\n", [found])
    assert "| `mlp` |" in text
    assert "old" not in text
    assert text.startswith("a\n")
    assert text.endswith("\nb\n")

    monkeypatch.setattr(parity_certificate, "BARS", dict.fromkeys(parity_certificate.BARS, 1e-30))
    assert command.main(["mlp", "--steps=0", "--timing=none", f"--json={json_file}"]) == 1
    assert json.loads(json_file.read_text())[0]["pass"] is False
    assert "FAIL" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name models, or say --all"),
        (["mlp", "--all"], "name models, or say --all"),
        (["mlp", "--dtype=float16"], "--dtype=float16 is not one of"),
        (["mlp", "--steps=-1"], "must be positive"),
        (["mlp", "--steps=1"], "nearest: 2"),
        (["mlp", "--device=gpu"], "--device=gpu is for --speed-only"),
        (["mlp", "--json=/no/where/x.json"], "the folder of /no/where/x.json does not exist"),
    ],
)
def test_mistakes_on_the_command_line(arguments, words, capsys):
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["vit_ti_16", "--image_size=30"], "not divisible by patch_size 16"),
        (["alexnet", "--image_size=32"], "a pool of 3 cannot take a map of"),
        (["resnet18", "--image_size=32", "--batch_size=1"], "needs more than 1 value per channel"),
    ],
)
def test_sizes_that_the_architecture_cannot_take(arguments, words):
    with pytest.raises(ValueError, match=words):
        command.main(arguments)


def test_a_model_without_an_original_is_named():
    with pytest.raises(ValueError, match="'resnet19' has no PyTorch original"):
        command.main(["resnet19"])
    model = jaxmodels.create("alexnet", num_classes=3, lrn=True)
    with pytest.raises(
        ValueError, match=r"the original of AlexNet has no lrn=True \(it has False\)"
    ):
        originals.build(model, (64, 64, 3))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_twin_trains_as_a_run_of_ours(tiny, tmp_path, capsys, optimizer):
    """Sixteen steps are too few for rounding to part the two: the same data, augmentation, schedule
    and clipping."""
    tiny.optim = dataclasses.replace(tiny.optim, name=optimizer, ema_decay=0.0, clip_norm=0.5)
    tiny.accumulate = 1
    ours = loop.train(tiny, tmp_path / "run")["test"]
    assert twin.main([f"--workdir={tmp_path / 'run'}", f"--json={tmp_path / 'scores.json'}"]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores.keys() == {"loss", "accuracy", "top5"}
    assert scores["loss"]["ours"] == ours["loss"]
    assert scores["loss"]["pytorch"] == pytest.approx(ours["loss"], rel=1e-4)
    assert "accuracy" in capsys.readouterr().out


def test_a_twin_refuses_what_it_does_not_do(tiny):
    with pytest.raises(
        ValueError, match=r"not trained with config.optim.ema_decay = 0.9, config.accumulate = 2"
    ):
        twin.train_twin(tiny)


INITIAL = {  # the project's own choice for mlp and cnn is He's
    "alexnet": ((64, 64, 3), {"hidden_sizes": (128, 96), "pooled_size": 2}),
    "vgg11_bn": ((32, 32, 3), {"hidden_sizes": (128, 96), "pooled_size": 2}),
    "googlenet": ((224, 224, 3), {}),
    "inception_v3": ((299, 299, 3), {}),
    "resnet18": ((64, 64, 3), {"zero_init_residual": True}),
    "convnext_tiny": ((64, 64, 3), {"stage_sizes": (1, 1, 1, 1)}),
    "vit_ti_16": ((32, 32, 3), {"num_layers": 2, "representation_size": 64}),
    "gpt2_tiny": ((), {}),
    "bert_tiny": ((), {}),
    "transformer_tiny": ((), {}),
    "bilstm": ((), {}),
    "vae": ((28, 28, 1), {}),
    "vae_conv": ((28, 28, 1), {}),
}


@pytest.mark.parametrize("name", INITIAL)
def test_initial_values_are_drawn_as_the_originals(name):
    """Same mean, spread and bound for every tensor, as far as its size lets one tell."""
    shape, fields = INITIAL[name]
    light = Case(
        name, shape, fields=fields, objective=CASES[name].objective, length=0 if shape else 9
    )
    model = cases.make_model(light, jnp.float32)
    with randomness.deterministic_torch(0):
        original = originals.build(model, shape)
    tensors = {k: v.numpy() for k, v in original.tensors().items()}
    theirs = sides.flat(
        weights.from_torch(model, tensors, image_shape=shape, format=original.format)
    )
    inputs = formats_of(model).inputs(model, shape)
    # for hundreds of tensors the default generator takes long to compile
    key = jax.random.key(0, impl="rbg")
    ours = sides.flat(jax.jit(partial(model.init, train=False))(key, *inputs))
    assert sorted(ours) == sorted(theirs)
    drawn = 0
    for path, a in ours.items():
        b = theirs[path]
        if b.size == 1:
            continue
        assert (a.std() == 0) == (b.std() == 0), path
        if b.std() == 0:
            np.testing.assert_array_equal(a, b, err_msg=path)
        elif b.size >= 1000:
            slack = 5 / np.sqrt(b.size)
            assert abs(a.std() / b.std() - 1) < slack, path
            assert abs(a.mean() - b.mean()) < 2 * slack * b.std(), path
            assert 0.6 < np.abs(a).max() / np.abs(b).max() < 1.6, path
            drawn += 1
        else:
            assert 0.5 < a.std() / b.std() < 2 or b.size < 40, path  # too few to tell
    assert drawn >= 2


class Clock:
    """In the place of the module ``time``."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_no_contender_pays_for_what_another_left_behind(monkeypatch):
    """As PyTorch's threads, which look for work for a while after its last call, and take every
    second moment."""
    clock = Clock()
    monkeypatch.setattr(bench_timing, "time", clock)
    spins_until = 0.0

    def torch() -> None:
        nonlocal spins_until
        clock.sleep(0.004)
        spins_until = clock.now + 0.02

    def ours() -> None:
        clock.sleep(0.01 if clock.now < spins_until else 0.005)

    found = bench_timing.alternate({"torch": torch, "ours": ours}, rounds=4)
    assert found["torch"]["max"] == pytest.approx(0.004) and found["ours"]["max"] == pytest.approx(
        0.005
    )
    first = [0.1]  # and its memory is cold
    monkeypatch.setattr(bench_timing, "PAUSE_SECONDS", 0.0)
    found = bench_timing.alternate(
        {"cold": lambda: clock.sleep(first.pop() if first else 0.001)}, rounds=1
    )
    assert found["cold"]["max"] == pytest.approx(0.001)


@pytest.fixture
def single_calls(monkeypatch):
    """A round is one timed call, without a pause before it."""
    monkeypatch.setattr(bench_timing, "ROUND_SECONDS", 0.0)
    monkeypatch.setattr(bench_timing, "PAUSE_SECONDS", 0.0)


def test_speed(tmp_path, single_calls, capsys):
    assert (
        command.main(
            ["mlp", "--speed-only", "--timing=eager", "--json", str(tmp_path / "mlp.json")]
        )
        == 0
    )
    (mlp,) = json.loads((tmp_path / "mlp.json").read_text())
    assert "| `mlp` | 128 |" in capsys.readouterr().out
    # images take no gradient
    assert mlp["flops"] == 2 * 128 * (3 * (784 * 256 + 256 * 128 + 128 * 10) - 784 * 256)
    assert mlp["share"] == pytest.approx(
        mlp["flops"] / mlp["train"]["ours"]["median"] / mlp["matmul_flops_per_s"]
    )
    found = [
        mlp | {"ratio_train": 2.0, "ratio_infer": 1.5},
        mlp | {"model": "b", "ratio_train": 0.75, "ratio_infer": 1.0},
    ]
    page = speed.page(found, plot="bench.png")
    assert "| `b` | 128 | **0.75** |" in page and "| `mlp` | 128 | 2.00 |" in page
    assert "Behind: `b` train 0.75." in page and "](bench.png)" in page
    with pytest.raises(ConfigError, match="nonsense"):
        command.main(["nonsense", "--speed-only"])


@pytest.fixture
def settings_of_torch():
    """Of a GPU they are set for the process, which other tests share: put back as they were."""
    precision, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.benchmark
    yield
    torch.set_float32_matmul_precision(precision)
    cudnn.allow_tf32, cudnn.benchmark = before


def test_speed_on_a_gpu_is_of_bfloat16(
    tmp_path, monkeypatch, single_calls, capsys, settings_of_torch
):
    """With a CPU in the GPU's place, which is told all that a GPU is, and small models for the
    published ones."""
    monkeypatch.setattr(timing.Setting, "on_gpu", True)
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append(1))
    small = {"num_layers": 1, "hidden_size": 32, "num_heads": 2}
    gpt2 = dataclasses.replace(
        sizes.GPU_CASES["gpt2_124m"], fields=small | {"max_len": 16}, length=16, classes=50
    )
    resnet = dataclasses.replace(
        sizes.GPU_CASES["resnet50"], fields={"stage_sizes": (1, 1, 1, 1)}, classes=5
    )
    for one in (gpt2, dataclasses.replace(resnet, image_shape=(32, 32, 3))):
        monkeypatch.setitem(sizes.GPU_CASES, one.key, dataclasses.replace(one, timing_batch_size=4))
    monkeypatch.setitem(timing.SETTINGS, "gpu", timing.Setting("cpu", bfloat16=True))
    monkeypatch.setattr(speed, "prepare", lambda device: None)
    monkeypatch.setattr(timing, "mfu", lambda flops, seconds, kind, devices: 0.25)
    for name, items in (("gpt2_124m", 64), ("resnet50", 4)):
        flags = ["--device=gpu", "--timing=eager", "--json", str(tmp_path / "found.json")]
        assert command.main([name, "--speed-only", *flags]) == 0
        (found,) = json.loads((tmp_path / "found.json").read_text())
        assert found["items"] == items and found["precision"] == "bfloat16" and found["flops"] > 1e5
        assert "| MFU |" in capsys.readouterr().out and waited
    page = speed.page([found | {"machine": {"gpu": "NVIDIA H100"}}], plot="x.png")
    assert (
        "--device=gpu`" in page
        and "in bfloat16 with AdamW (PyTorch by autocast" in page
        and "| 0.25 |" in page
    )
    model = timing._model(sizes.GPU_CASES["gpt2_124m"], timing.SETTINGS["gpu"])
    variables = model.init(jax.random.key(0), jnp.zeros((1, 16), jnp.int32), train=False)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype("float32")}
    assert (
        model.apply(variables, jnp.zeros((1, 16), jnp.int32), train=False).hidden.dtype
        == jnp.bfloat16
    )


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_whole_texts_are_timed_without_masks(name, monkeypatch):
    """So that PyTorch may use flash attention, compiled or not; the outputs are the same."""
    case = sizes.SPEED_CASES[name]
    small = {"num_layers": 1, "hidden_size": 32, "num_heads": 2, "mlp_dim": 64}
    case = dataclasses.replace(case, fields=case.fields | small, timing_batch_size=2)
    model, seen = cases.make_model(case, jnp.float32), []
    attention = torch.nn.functional.scaled_dot_product_attention

    def watched(*arguments, attn_mask=None, is_causal=False, **options):
        seen.append((attn_mask is not None, is_causal))
        return attention(*arguments, attn_mask=attn_mask, is_causal=is_causal, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    original = originals.build(model, case.image_shape)
    batch = batches.make_batch(case, np.float32, 0, size=2, padded=False)
    tokens, segments, *_ = inputs = timing._given(sides.torch_batch(batch), case)
    assert tokens.shape == (2, 128) and segments is None
    run = lambda module: original.main(module.eval()(*inputs)).detach()  # noqa: E731
    expected = run(original.module)
    originals.without_masks(original.module)
    seen.clear()
    torch.testing.assert_close(run(original.module), expected)
    eager = list(seen)
    seen.clear()
    torch.testing.assert_close(run(torch.compile(original.module, backend="eager")), expected)
    assert eager == seen and not any(masked for masked, _ in seen)
    assert any(causal for _, causal in seen) == (name == "gpt2")
    given = []

    def watch(call, args, kwargs, context):
        if not context.module.path and context.method_name == "__call__":
            given.append(args)
        return call(*args, **kwargs)

    tx = optim.make_optimizer(optimizers.OPTIMIZERS["adamw"], 1)
    shapes = weights.nested(dict(weights.shapes(model, image_shape=case.image_shape)))
    state = jax.eval_shape(partial(optimizers.our_state, tx=tx), shapes)
    with nn.intercept_methods(watch):
        jax.eval_shape(timing._our_step(model, tx, case), state, batch)
    assert given and all(
        segments is None and tokens.shape == (2, 128) for tokens, segments, *_ in given
    )


def test_certificates_time_only_where_both_are_on_a_cpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ConfigError, match=r"jax is on gpu.* --timing=none"):
        command.main(["mlp", "--steps=0"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there_is_named():
    """In a process of its own, which has not used jax yet."""
    words = [sys.executable, "-m", "train.compare", "gpt2_124m", "--speed-only", "--device=gpu"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (
        done.returncode == 2
        and "error: --device=gpu: " in done.stderr
        and "Traceback" not in done.stderr
    )


def test_published_models_are_timed_on_a_gpu():
    counts = {"gpt2_124m": 124_439_808, "bert_base_128": 110_106_428, "bert_base_512": 110_106_428}
    counts |= {"vit_b_16": 86_567_656, "resnet50": 25_557_032}
    for name, count in counts.items():
        case = sizes.GPU_CASES[name]
        shapes = weights.shapes(
            timing._model(case, timing.SETTINGS["gpu"]), image_shape=case.image_shape
        )
        assert sum(v.size for k, v in shapes.items() if k.startswith("params/")) == count, name


def test_speed_of_several_is_written_model_by_model(tmp_path, monkeypatch, capsys, plots):
    """The second fails: what is known of the first is there."""

    def run(words, **options):
        name, file = words[3], Path(words[words.index("--json") + 1])
        assert "--speed-only" in words and "--timing" in words
        if name == "vae":
            return subprocess.CompletedProcess(words, 1)
        times = {
            side: {"median": t, "min": t, "max": t} for side, t in (("torch", 3.0), ("ours", 2.0))
        }
        result = {
            "model": name,
            "batch_size": 8,
            "share": 0.5,
            "compile_s": {},
            "machine": {"cores": 2},
        }
        result["matmul_flops_per_s"] = 2e11
        result |= {"train": times, "infer": times, "ratio_train": 1.5, "ratio_infer": 1.5}
        file.write_text(json.dumps([result]))
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(subprocess, "run", run)
    files = [f"--json={tmp_path / 'b.json'}", f"--table={tmp_path / 'b.md'}"]
    assert command.main(["mlp", "vae", "--speed-only", "--timing=eager", *files]) == 1
    assert "1 of 2 failed: vae" in capsys.readouterr().out
    assert [r["model"] for r in json.loads((tmp_path / "b.json").read_text())] == ["mlp"]
    assert "at 200 GFLOP/s" in (tmp_path / "b.md").read_text()
    assert (
        "| `mlp` | 8 | 1.50 |" in (tmp_path / "b.md").read_text()
        and "](b.png)" in (tmp_path / "b.md").read_text()
    )
    assert (tmp_path / "b.png").stat().st_size > 5_000


def test_peak_memory_is_of_the_case_that_is_given():
    """Of the very sizes, in a process of its own: 8,192 examples take more than 4."""
    case = dataclasses.replace(sizes.SPEED_CASES["mlp"], fields={"hidden_sizes": (512,)})
    found = [
        timing._peak_memory(dataclasses.replace(case, timing_batch_size=n), "ours")
        for n in (4, 8192)
    ]
    assert found[1] > found[0] + 20  # MB: 8,192 images alone are 26


def test_decoding(tmp_path, monkeypatch, single_calls, capsys):
    monkeypatch.setattr(bench_decoding, "VOCABULARY", 300)
    sizes = ["--batch_size=1", "--batch_size=3", "--prompt=5", "--tokens=6", "--rounds=1"]
    assert decoding.main(["--model=gpt2_tiny", *sizes, f"--json={tmp_path / 'd.json'}"]) == 0
    found = json.loads((tmp_path / "d.json").read_text())
    assert [r["batch_size"] for r in found] == [1, 3] and all(r["equal"] == 1.0 for r in found)
    for r in found:
        (first, whole) = (
            {side: r[key][side]["median"] for side in ("torch", "ours")} for key in ("first", "all")
        )
        assert (
            r["ratio"] == whole["torch"] / whole["ours"]
            and r["ratio_first"] == first["torch"] / first["ours"]
        )
    assert capsys.readouterr().out.count("equal tokens 100.0%") == 2
    with pytest.raises(SystemExit):
        decoding.main(["--model=vit_ti_16"])
    assert "--model=vit_ti_16 is not one of gpt2_" in capsys.readouterr().err
