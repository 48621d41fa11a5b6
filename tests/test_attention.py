"""Attention: every backend against plain products, masks by gradient, the cache against the whole
text."""

import importlib.util
import itertools
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import AxisType
from torch.nn import functional as F

from jaxmodels.nn.attention import AttentionMask, MultiHeadAttention, attention, choose_backend
from jaxmodels.nn.cpu import target_platform
from jaxmodels.nn.layers import segment_positions, xavier_uniform
from tests.compiled import apply, init

ROOT = Path(__file__).parents[1]


def heads(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def mask_of(kind, queries, keys):
    if kind == "causal":
        return AttentionMask(causal=True)
    if kind == "packed":
        segments = jnp.asarray(
            [[1] * 20 + [2] * 30 + [0] * (queries - 50), [1] * queries], jnp.int32
        )
        return AttentionMask(segments, segments, causal=True)
    valid = jnp.asarray([[1] * (keys - 7) + [0] * 7, [1] * keys], jnp.int32)
    return AttentionMask(jnp.ones((2, queries), jnp.int32), valid)


@pytest.mark.parametrize(
    ("backend", "kind", "size"),
    [
        *itertools.product(
            ["deferred", "xla", "splash"], ["causal", "padding", "cross", "packed"], [32, 64, 128]
        )
    ],
)
def test_backends_equal_plain_products(backend, kind, size):
    queries, keys = (64, 64) if kind != "cross" else (48, 70)
    q, k, v = (heads(2, 2, n, size, seed=i) for i, n in enumerate((queries, keys, keys)))
    mask = mask_of(kind, queries, keys)
    weight = heads(2, 2, queries, size, seed=3)
    # padding looks at padding: what it gets is nobody's business, but it must not be NaN
    if kind == "packed":
        weight = weight * (mask.query_segments > 0)[:, None, :, None]

    def loss(q, k, v, backend):
        out = attention(q, k, v, mask, backend=backend)
        return (jnp.nan_to_num(out, nan=1e9) * weight).sum()

    both = jax.jit(jax.value_and_grad(loss, (0, 1, 2)), static_argnums=3)
    value, grads = both(q, k, v, backend)
    expected, expected_grads = both(q, k, v, "einsum")
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-3)
    for a, b in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("backend", ["deferred", "xla", "splash"])
def test_backends_equal_plain_products_with_a_cache(backend):
    q, k, v = (heads(2, 2, n, 32, seed=i) for i, n in enumerate((1, 16, 16)))
    segments = jnp.asarray([[0] * 3 + [1] * 13, [1] * 16], jnp.int32)
    mask = AttentionMask(jnp.ones((2, 1), jnp.int32), segments, jnp.asarray(9), causal=True)
    ours, plain = (
        jax.jit(partial(attention, mask=mask, backend=b))(q, k, v) for b in (backend, "einsum")
    )
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)


def test_deferred_division_drops_the_weights_that_einsum_drops_and_overflows_nowhere():
    q, k, v = (heads(2, 2, 40, 8, seed=i) for i in range(3))
    kept = heads(2, 2, 40, 40, seed=3) > 0
    ours, plain = (
        attention(
            q,
            k,
            v,
            AttentionMask(causal=True),
            backend=b,
            dropout=lambda w: jnp.where(kept, 2 * w, 0),
        )
        for b in ("deferred", "einsum")
    )
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)
    same = jnp.full((1, 1, 4096, 8), 30, jnp.float16)  # 4,096 x 30 is more than float16 has
    assert (
        attention(same, same, same, AttentionMask(), backend="deferred")[0, 0, 0].tolist()
        == [30] * 8
    )


def test_a_query_that_may_attend_to_nothing_gets_the_mean():
    q, k, v = (heads(1, 2, 5, 8, seed=i) for i in range(3))
    mask = AttentionMask(jnp.asarray([[1, 1, 1, 1, 2]]), jnp.ones((1, 5), jnp.int32))
    for backend in ("einsum", "deferred"):
        out = attention(q, k, v, mask, backend=backend)
        np.testing.assert_allclose(out[:, :, 4], v.mean(2), rtol=1e-5, atol=1e-6)


def test_softmax_is_wide():
    q, k = (heads(1, 1, 9, 8, seed=i, dtype=jnp.bfloat16) for i in range(2))
    seen = []
    attention(q, k, k, AttentionMask(), dropout=lambda w: seen.append(w) or w)
    assert seen[0].dtype == jnp.bfloat16  # the weights are for a product
    rows = np.asarray(
        jax.nn.softmax((q.astype(jnp.float32) / 8**0.5) @ k.astype(jnp.float32).swapaxes(2, 3))
    )
    np.testing.assert_allclose(np.asarray(seen[0], np.float32), rows, atol=4e-3)


def test_equals_pytorch():
    q, k, v = (np.random.default_rng(i).normal(size=(2, 3, n, 8)) for i, n in enumerate((5, 7, 7)))
    allowed = np.ones((2, 1, 5, 7), bool)
    allowed[0, :, :, 4:] = False
    mask = AttentionMask(jnp.ones((2, 5), jnp.int32), jnp.asarray(allowed[:, 0, 0], jnp.int32))
    with jax.enable_x64(True):
        ours = attention(*map(jnp.asarray, (q, k, v)), mask)
        theirs = F.scaled_dot_product_attention(
            *map(torch.tensor, (q, k, v)), attn_mask=torch.tensor(allowed)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        causal = attention(*map(jnp.asarray, (q, q, q)), AttentionMask(causal=True))
        theirs = F.scaled_dot_product_attention(*[torch.tensor(q)] * 3, is_causal=True)
        np.testing.assert_allclose(causal, theirs, rtol=1e-12)


def layer(**fields):
    fields = {"num_heads": 2, "dropout_rate": 0.0, "train": False, "backend": "einsum", **fields}
    return MultiHeadAttention(kernel_init=xavier_uniform, **fields)


def test_nothing_is_seen_of_later_tokens_nor_of_other_segments():
    """By gradient: which inputs an output depends on."""
    x = heads(1, 8, 4)
    segments = jnp.asarray([[0, 0, 1, 1, 1, 2, 2, 2]], jnp.int32)
    model = layer()
    params = init(model, x)
    for causal in (True, False):
        mask = AttentionMask(segments, segments, causal=causal)
        output = partial(model.apply, params, mask=mask)
        jacobian = jax.jit(jax.jacobian(output))(x)[0, :, :, 0]
        depends = np.abs(jacobian).sum((1, 3)) > 0  # [output place, input place]
        same = np.asarray(segments[0])[:, None] == np.asarray(segments[0])
        expected = np.tril(same) if causal else same
        assert (depends == expected).all()


def test_cross_attention_sees_the_memory_that_is_not_padding():
    x, memory = heads(1, 3, 4), heads(1, 5, 4, seed=1)
    mask = AttentionMask(jnp.ones((1, 3), jnp.int32), jnp.asarray([[1, 1, 1, 0, 0]], jnp.int32))
    model = layer()
    params = init(model, x, memory, mask)
    output = partial(model.apply, params, x, mask=mask)
    jacobian = jax.jit(jax.jacobian(output))(memory)[0, :, :, 0]
    assert ((np.abs(jacobian).sum((0, 1, 3)) > 0) == [True, True, True, False, False]).all()


def test_a_cache_gives_what_the_whole_text_does():
    x = heads(2, 7, 4)
    segments = jnp.asarray([[1] * 7, [0, 0, 1, 1, 1, 1, 1]], jnp.int32)
    model = layer()
    params = init(model, x)["params"]
    whole = apply(model, {"params": params}, x, mask=AttentionMask(segments, segments, causal=True))
    cache, parts = {}, []
    for start, stop in ((0, 4), (4, 5), (5, 7)):
        mask = AttentionMask(segments[:, start:stop], segments, jnp.asarray(start), causal=True)
        part, changed = apply(
            model, {"params": params, **cache}, x[:, start:stop], mask=mask, mutable=["cache"]
        )
        cache = dict(changed)
        parts.append(part)
    real = np.asarray(segments) > 0
    np.testing.assert_allclose(
        np.concatenate(parts, 1)[real], np.asarray(whole)[real], rtol=1e-5, atol=1e-6
    )


def test_positions_begin_anew_in_each_segment():
    segments = jnp.asarray([[0, 0, 1, 1, 1, 2], [3, 3, 3, 1, 0, 0]], jnp.int32)
    assert segment_positions(segments).tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 0, 0, 1]]


def test_dropout_needs_the_weights():
    model = layer(backend="xla", dropout_rate=0.1, train=True)
    with pytest.raises(ValueError, match=r"attention 'xla' has no dropout_rate 0\.1"):
        model.init(jax.random.key(0), heads(1, 3, 4))


CAN = {"dtype": jnp.bfloat16, "head_size": 64, "queries": 1024, "keys": 1024}


@pytest.mark.parametrize(
    ("platform", "changes", "chosen", "why"),
    [
        ("cpu", {}, "deferred", "no kernel for cpu"),
        ("rocm", {}, "einsum", "no kernel for rocm"),
        ("tpu", {}, "splash", "kernel for tpu"),
        ("tpu", {"dtype": jnp.float32, "head_size": 25, "parts": 4}, "splash", "kernel"),
        ("tpu", {"dropout_rate": 0.1}, "einsum", "splash has no dropout_rate 0.1"),
        ("tpu", {"dtype": jnp.float64}, "einsum", "float64"),
        (
            "tpu",
            {"device_kind": "TPU v3"},
            "einsum",
            "splash does not compile in bfloat16 for TPU v3",
        ),
        ("tpu", {"device_kind": "TPU v3", "dtype": jnp.float32}, "splash", "kernel"),
        ("tpu", {"device_kind": "TPU v4"}, "splash", "kernel"),
        ("tpu", {"keys": 64}, "einsum", "below 128 tokens"),
        ("tpu", {"queries": 1000, "parts": 2}, "einsum", "2 x a multiple of 128, not 1000"),
        ("gpu", {}, "cudnn", "kernel for gpu"),
        ("gpu", {"dtype": jnp.float32}, "einsum", "not for float32"),
        ("gpu", {"head_size": 20}, "einsum", "not of 20"),
        ("gpu", {"head_size": 256}, "einsum", "not of 256"),
        ("gpu", {"capability": 7.5}, "einsum", "compute capability 8.0, not 7.5"),
        ("gpu", {"keys": 1023}, "cudnn", "kernel"),
    ],
)
def test_auto_takes_the_kernel_that_can_and_says_why(platform, changes, chosen, why):
    found, reason = choose_backend("auto", platform=platform, **CAN | changes)
    assert found == chosen and why in reason


def test_a_backend_that_is_named_is_taken_or_refused():
    assert choose_backend("splash", platform="cpu", **CAN | {"keys": 16})[0] == "splash"
    assert choose_backend("xla", platform="tpu", **CAN)[0] == "xla"
    for backend, platform, changes, words in (
        ("cudnn", "cpu", {}, "'cudnn' is not for cpu"),
        (
            "cudnn",
            "gpu",
            {"dtype": jnp.float32},
            "'cudnn' is for bfloat16 and float16, not for float32",
        ),
        ("splash", "tpu", {"dropout_rate": 0.1}, r"'splash' has no dropout_rate 0\.1"),
        (
            "splash",
            "tpu",
            {"device_kind": "TPU v3"},
            "'splash' does not compile in bfloat16 for TPU v3: 'einsum' can",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            choose_backend(backend, platform=platform, **CAN | changes)


AXES = ("data", "fsdp", "sequence", "tensor")


@pytest.mark.parametrize(("kind", "size"), [("causal", 64), ("packed", 128), ("padding", 64)])
def test_splash_on_a_mesh_equals_plain_products(kind, size):
    """Every device has a part of examples, heads and queries; the causal mask knows which."""
    q, k, v, weight = (heads(2, 2, 256, size, seed=i) for i in range(4))
    mask = mask_of(kind, 256, 256)
    if kind == "packed":
        weight = weight * (mask.query_segments > 0)[:, None, :, None]

    def loss(q, k, v, backend):
        out = attention(q, k, v, mask, backend=backend)
        return (jnp.nan_to_num(out, nan=1e9) * weight).sum(), out

    gradient = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
    (_, expected), expected_grads = jax.jit(gradient, static_argnums=3)(q, k, v, "einsum")
    mesh = jax.make_mesh((1, 2, 2, 2), AXES, axis_types=(AxisType.Auto,) * 4)
    with jax.set_mesh(mesh):
        (_, out), grads = jax.jit(gradient, static_argnums=3)(q, k, v, "splash")
    assert out.sharding.shard_shape(out.shape) == (1, 1, 128, size)
    real = np.asarray(weight != 0)
    np.testing.assert_allclose(np.where(real, out, 0), np.where(real, expected, 0), atol=1e-5)
    for a, b in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def unlock_cudnn(monkeypatch):
    """Lets jax trace what a Hopper with cuDNN would run."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(
        cudnn, "check_compute_capability", lambda capability: float(capability) <= 9
    )
    monkeypatch.setattr(
        cudnn, "is_cuda_compute_capability_equal", lambda capability: capability == "9.0"
    )


@pytest.mark.parametrize(("queries", "keys"), [(63, 63), (64, 57), (57, 64), (1, 64)])
@pytest.mark.parametrize("kind", ["full", "causal", "padding", "packed"])
def test_cudnn_with_odd_lengths_is_given_one_more_that_nothing_attends_to(
    kind, queries, keys, monkeypatch
):
    """What jax would hand to cuDNN, computed by XLA instead; and cuDNN's call, which jax refuses
    for odd lengths."""
    if kind == "packed" and queries != keys:
        pytest.skip("a packed text attends to itself")
    q, k, v, weight = (
        heads(2, 2, queries, 8),
        *(heads(2, 2, keys, 8, seed=i) for i in (1, 2)),
        heads(2, 2, queries, 8, seed=3),
    )
    mask = AttentionMask() if kind == "full" else mask_of(kind, queries, keys)

    def loss(q, k, v, backend):
        return (attention(q, k, v, mask, backend=backend) * weight).sum()

    expected = jax.jit(jax.value_and_grad(loss, (0, 1, 2)), static_argnums=3)(q, k, v, "einsum")
    real = jax.nn.dot_product_attention
    with monkeypatch.context() as patch:
        given = []
        patch.setattr(
            jax.nn,
            "dot_product_attention",
            lambda *x, **options: (
                given.append(options["mask"]) or real(*x, **options | {"implementation": "xla"})
            ),
        )
        found = jax.value_and_grad(loss, (0, 1, 2))(q, k, v, "cudnn")
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert all(mask is None or jax.jit(lambda mask=mask: mask.any(-1).all())() for mask in given), (
        "a row has no keys"
    )
    unlock_cudnn(monkeypatch)
    half = [jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) for x in (q, k, v)]
    traced = jax.jit(jax.grad(partial(loss, backend="cudnn"), (0, 1, 2))).trace(*half)
    assert "Backward" in traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("segmented", [False, True])
def test_cudnn_is_lowered_with_each_device_s_own_queries(segmented, monkeypatch):
    """As far as it goes without a GPU: the calls that the program for one would make, and their
    shapes."""
    unlock_cudnn(monkeypatch)
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H100", num_cores=None, platform="gpu")
    mesh = jax.sharding.AbstractMesh(
        (1, 2, 2, 2), AXES, (AxisType.Auto,) * 4, abstract_device=device
    )
    x = jax.ShapeDtypeStruct((4, 4, 256, 64), jnp.bfloat16)

    def gradient(x, segments):
        assert target_platform() == "gpu"
        mask = (
            AttentionMask(segments, segments, causal=True)
            if segmented
            else AttentionMask(causal=True)
        )
        out = attention(x, x, x, mask, backend="cudnn")
        return out.astype(jnp.float32).sum()

    def text():
        traced = jax.jit(jax.grad(gradient)).trace(x, jax.ShapeDtypeStruct((4, 256), jnp.int32))
        return traced.lower(lowering_platforms=("cuda",)).as_text()

    with jax.sharding.use_abstract_mesh(mesh):
        split = text()
    assert "@__cudnn$fmhaScaleBiasSoftmaxBackward" in split
    assert "tensor<2x128x2x64xbf16>" in split and "tensor<2x256x2x64xbf16>" in split
    if not segmented:
        monkeypatch.setattr("tests.test_attention.target_platform", lambda: "gpu")
        whole = text()
        assert "@__cudnn$fmhaSoftmaxBackward" in whole and "256x256" not in whole, (
            "no mask is read from memory"
        )


TPU = """
import os
os.environ.update(
    JAX_PLATFORMS="cpu", TPU_ACCELERATOR_TYPE="v5litepod-8", TPU_WORKER_HOSTNAMES="localhost", TPU_LOG_DIR="disabled",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
)
import sys
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec as P
from jaxmodels.nn.attention import AttentionMask, MultiHeadAttention
from jaxmodels.nn.layers import normal

axes = ("data", "fsdp", "sequence", "tensor")
layer = MultiHeadAttention(
    num_heads=2, dropout_rate=0.0, train=True, backend="auto", kernel_init=normal(), dtype=jnp.bfloat16
)
for name, size, causal in (("v5e:2x2", 64, True), ("v5p:2x2x1", 128, True), ("v6e:2x2", 128, False)):
    topology = topologies.get_topology_desc(platform="tpu", topology_name=name)
    mesh = jax.make_mesh((1, 1, 2, 2), axes, axis_types=(jax.sharding.AxisType.Auto,) * 4, devices=topology.devices)
    x = jnp.zeros((1, 512, 2 * size), jnp.bfloat16)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)

    def loss(params, x, segments):
        mask = AttentionMask(segments, segments, causal=causal)
        return layer.apply(params, x, mask=mask).astype(jnp.float32).sum()

    place = NamedSharding(mesh, P(None, "sequence"))
    params = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=NamedSharding(mesh, P())), params)
    arguments = [jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)]
    arguments += [jax.ShapeDtypeStruct((1, 512), jnp.int32, sharding=place)]
    with jax.set_mesh(mesh):
        text = jax.jit(jax.grad(loss)).lower(params, *arguments).compile().as_text()
    assert text.count("splash") >= 3, name
    print(name, "ok")
"""


def test_auto_is_the_kernel_on_tpus():
    """Compiled ahead of time, forward and backward; in a process of its own, whose environment
    names the TPU."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu, the compiler for TPUs, is not installed: pip install jax[tpu]")
    done = subprocess.run(
        [sys.executable, "-c", TPU], capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    assert done.stdout.count("ok") == 3, done.stderr[-2000:]
