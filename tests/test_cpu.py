"""What is computed otherwise on CPUs equals what jax.lax computes, gradients included."""

import ctypes
import os
import platform
import re
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from jax import lax

from jaxmodels.nn import cpu
from jaxmodels.nn.layers import conv, max_pool
from train.launch import hardware


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize(
    ("height", "width", "kernel", "stride", "padding"),
    [
        (2, 3, 3, 1, 1),
        (4, 4, 3, 2, 1),
        (1, 1, 3, 1, 1),
        (4, 4, 7, 2, 3),
        (5, 6, 1, 2, 0),
        (5, 5, 1, 1, 0),
        (9, 8, 4, 4, 0),
        (9, 8, 3, 1, 1),
        (9, 8, 3, 2, 0),
    ],
)
def test_convolutions_by_products(height, width, kernel, stride, padding):
    layer = conv(
        5,
        kernel,
        stride=stride,
        padding=padding,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        name="conv",
    )
    x, k = random(0, 2, height, width, 3), random(1, kernel, kernel, 3, 5)

    def ours(x, k):
        return layer.apply({"params": {"kernel": k, "bias": jnp.zeros(5)}}, x)

    def reference(x, k):
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, k, (stride, stride), [(padding, padding)] * 2, dimension_numbers=layout
        )

    assert "conv_general_dilated" not in str(jax.make_jaxpr(ours)(x, k))
    y, backward = jax.vjp(ours, x, k)
    wanted, wanted_backward = jax.vjp(reference, x, k)
    np.testing.assert_allclose(y, wanted, atol=1e-5)
    for one, other in zip(
        backward(random(2, *y.shape)), wanted_backward(random(2, *y.shape)), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(("stride", "images"), [(1, 2), (2, 25)])
def test_few_places_of_a_large_kernel_are_products(stride, images):
    """Two images of 5 x 5 and 64 channels: 50 places of 576 products each; of three images it is a
    convolution.

    With stride 2 it is 9 places of an image, which count a quarter.
    """

    def ours(x, k):
        dtypes = {"dtype": jnp.float32, "param_dtype": jnp.float32}
        layer = conv(5, 3, padding=1, stride=stride, use_bias=False, **dtypes, name="conv")
        return layer.apply({"params": {"kernel": k}}, x)

    def reference(x, k):
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, k, (stride, stride), [(1, 1), (1, 1)], dimension_numbers=layout
        )

    x, k = random(0, images + 1, 5, 5, 64), random(1, 3, 3, 64, 5)
    assert "conv_general_dilated" in str(jax.make_jaxpr(ours)(x, k))
    x = x[:images]
    assert "conv_general_dilated" not in str(jax.make_jaxpr(ours)(x, k))
    (y, backward), (wanted, wanted_backward) = (jax.vjp(f, x, k) for f in (ours, reference))
    np.testing.assert_allclose(y, wanted, atol=1e-4)
    for one, other in zip(backward(y), wanted_backward(y), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-3)


def test_other_convolutions_and_other_platforms_are_left_alone(monkeypatch):
    def program(size, channels=4):
        layer = conv(5, 3, padding=1, dtype=jnp.float32, param_dtype=jnp.float32, name="conv")
        return str(
            jax.make_jaxpr(
                lambda: layer.init_with_output(
                    jax.random.key(0), jnp.zeros((2, size, size, channels))
                )[0]
            )()
        )

    assert "conv_general_dilated" in program(8)
    assert "conv_general_dilated" not in program(2)
    # on which a call of few channels would not be partitioned
    with jax.set_mesh(jax.make_mesh((2,), ("data",))):
        assert "conv_general_dilated" in program(8, channels=3)
    assert "conv_general_dilated" not in program(8, channels=3)
    monkeypatch.setattr("jaxmodels.nn.cpu.target_platform", lambda: "tpu")
    assert "conv_general_dilated" in program(2)


@pytest.mark.parametrize(
    ("channels", "stride", "padding"), [(4, 1, 1), (4, 2, 1), (4, 2, 0), (3, 2, 1)]
)
def test_gradients_of_convolutions_in_a_loop_are_convolutions_that_eigen_has(
    channels, stride, padding
):
    """XLA itself puts the dimensions into that order outside of loops alone; in them it is up to 50
    times slower."""
    layer = conv(
        16,
        3,
        stride=stride,
        padding=padding,
        use_bias=False,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        name="conv",
    )
    layout = ("NHWC", "HWIO", "NHWC")

    def reference(x, k):
        return lax.conv_general_dilated(
            x, k, (stride, stride), [(padding, padding)] * 2, dimension_numbers=layout
        )

    def ours(x, k):
        return layer.apply({"params": {"kernel": k}}, x)

    x, k = random(0, 2, 17, 18, channels), random(1, 3, 3, channels, 16)
    y, backward = jax.vjp(ours, x, k)
    wanted, wanted_backward = jax.vjp(reference, x, k)
    np.testing.assert_allclose(y, wanted, atol=1e-5)
    for one, other in zip(backward(y), wanted_backward(y), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)
    tangents = random(2, *x.shape), random(3, *k.shape)
    np.testing.assert_allclose(
        *(jax.jvp(f, (x, k), tangents)[1] for f in (ours, reference)), atol=1e-4
    )

    def looped(x, k):
        return lax.scan(
            lambda k, x: (
                jax.grad(lambda k: (ours(ours(x, k)[..., :channels], k) ** 2).sum())(k),
                0,
            ),
            k,
            x,
        )

    found = re.findall(
        r"convolution\(.*dim_labels=([^ ,]*)", jax.jit(looped).lower(x[None], k).compile().as_text()
    )
    assert len(found) >= 3 and set(found) == {"b01f_01io->b01f"}


def test_a_convolution_of_few_channels_in_forward_mode_and_bfloat16():
    def ours(x, k):
        layer = conv(
            64, 3, padding=1, use_bias=False, dtype=x.dtype, param_dtype=x.dtype, name="conv"
        )
        return layer.apply({"params": {"kernel": k}}, x)

    x, k = random(0, 2, 6, 6, 3), random(1, 3, 3, 3, 64)
    np.testing.assert_allclose(jax.jacfwd(ours)(x[:1], k), jax.jacrev(ours)(x[:1], k), atol=1e-6)
    programs = cpu._sum_of_products._cache_size()
    ours(x, k)
    ours(x, k)
    # without jit around it is compiled once, not each time
    assert cpu._sum_of_products._cache_size() == programs + 1
    x, k = x.astype(jnp.bfloat16), k.astype(jnp.bfloat16)
    y, exact = ours(x, k), ours(x.astype(jnp.float32), k.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    # summed in float32, rounded once
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=2**-8)


@pytest.mark.parametrize(
    ("window", "stride", "padding", "ceil_mode"),
    [
        (2, 2, 0, False),
        (3, 2, 0, False),
        (3, 2, 1, False),
        (3, 1, 1, False),
        (3, 2, 0, True),
        (2, 2, 0, True),
        (2, 3, 0, False),
    ],
)
def test_of_equal_values_the_first_has_the_gradient_of_a_pool(
    window, stride, padding, ceil_mode, monkeypatch
):
    # full of ties
    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (2, 7, 6, 3)), jnp.float32)
    y, backward = jax.vjp(
        lambda x: max_pool(x, window, stride=stride, padding=padding, ceil_mode=ceil_mode), x
    )
    gradient = random(1, *y.shape)
    theirs = torch.tensor(np.asarray(x)).permute(0, 3, 1, 2).requires_grad_()
    pooled = torch.nn.functional.max_pool2d(theirs, window, stride, padding, ceil_mode=ceil_mode)
    np.testing.assert_array_equal(y, pooled.detach().permute(0, 2, 3, 1))
    pooled.backward(torch.tensor(np.asarray(gradient)).permute(0, 3, 1, 2))
    np.testing.assert_allclose(backward(gradient)[0], theirs.grad.permute(0, 2, 3, 1), atol=1e-6)
    monkeypatch.setattr(cpu, "max_pool", None)
    monkeypatch.setattr(cpu, "target_platform", lambda: "tpu")  # XLA's own there
    np.testing.assert_array_equal(
        max_pool(x, window, stride=stride, padding=padding, ceil_mode=ceil_mode), y
    )


def test_a_pool_of_more_places_than_a_byte_can_number():
    x = random(0, 2, 33, 36, 3)
    # one by one the operations take 5 s
    gradient = jax.jit(jax.grad(lambda x: max_pool(x, 17, stride=8).sum()))(x)
    theirs = torch.tensor(np.asarray(x)).permute(0, 3, 1, 2).requires_grad_()
    torch.nn.functional.max_pool2d(theirs, 17, 8).sum().backward()
    np.testing.assert_array_equal(gradient, theirs.grad.permute(0, 2, 3, 1))


def test_a_pool_of_bfloat16_keeps_its_type():
    x = random(0, 2, 4, 4, 3).astype(jnp.bfloat16)
    y, backward = jax.vjp(lambda x: nn.relu(max_pool(x, 2, stride=2)), x)
    assert backward(y)[0].dtype == y.dtype == jnp.bfloat16


def test_a_pool_whose_gradient_is_taken_gives_what_it_gives_alone():
    x = random(0, 2, 6, 6, 3).at[0, 1].set(jnp.nan).at[0, 0, 0].set(jnp.nan).at[1, 3].set(-jnp.inf)
    for stride in (1, 2):
        y, _ = jax.vjp(lambda x, stride=stride: max_pool(x, 2, stride=stride), x)
        np.testing.assert_array_equal(y, max_pool(x, 2, stride=stride))
        assert jnp.isnan(y).any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_argmax_is_jaxs(dtype):
    # most have several equal
    x = jnp.round(jax.random.normal(jax.random.key(0), (40, 17)), 0).astype(dtype)
    x = x.at[0].set(-jnp.inf).at[1, 5].set(jnp.nan).at[2].set(0.0)
    found = jax.jit(cpu.argmax)(x)
    np.testing.assert_array_equal(found, x.argmax(-1))
    assert found.dtype == jnp.int32 and (np.sort(x, -1)[:, -1] == np.sort(x, -1)[:, -2]).sum() > 10


def test_product_of_few_rows_is_that_of_many():
    keys = jax.random.split(jax.random.key(0), 3)
    kernel = jax.random.normal(keys[0], (2**14, 2**8))
    x, y = jax.random.normal(keys[1], (2, 3, 2**8)), jax.random.normal(keys[2], (2, 3, 2**14))

    def of(product, dtype):
        found, back = jax.vjp(
            lambda *inputs: product(*inputs), x.astype(dtype), kernel.astype(dtype)
        )
        return found, *back(y.astype(found.dtype))

    few = partial(cpu.product_with_rows, dtype=jnp.float32)
    turned = [
        "optimization_barrier" in jax.jit(few).lower(rows, kernel).as_text()
        for rows in (x, x[:1, :1])
    ]
    assert turned == [True, False]
    # gradients in bfloat16 are rounded at 2**-9
    for dtype, bound in (("float32", 1e-5), ("bfloat16", 1e-2)):
        expected = of(
            lambda x, kernel: jnp.einsum(
                "bld,vd->blv", x, kernel, preferred_element_type=jnp.float32
            ),
            dtype,
        )
        for ours, plain in zip(of(few, dtype), expected, strict=True):
            assert ours.dtype == plain.dtype and ours.shape == plain.shape
            np.testing.assert_allclose(
                ours, plain, rtol=0, atol=bound * np.abs(np.asarray(plain, "f")).max()
            )


def test_where_compiled_programs_are_kept(tmp_path, monkeypatch):
    """In the cache directory of the user, if there is one, unless the user names another."""
    chosen = []
    config = SimpleNamespace(
        jax_compilation_cache_dir="mine", update=lambda *named: chosen.append(named)
    )
    monkeypatch.setattr(hardware, "jax", SimpleNamespace(config=config))
    hardware.keep_compiled_programs()
    assert chosen == []
    config.jax_compilation_cache_dir = None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    hardware.keep_compiled_programs()
    ((name, place),) = chosen
    assert (
        name == "jax_compilation_cache_dir"
        and Path(place).parent == tmp_path / "jaxmodels"
        and Path(place).is_dir()
    )
    before = hardware._cpu()
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(97), raising=False)
    assert hardware._cpu() != before  # programs are made for so many cores
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    hardware.keep_compiled_programs()
    assert len(chosen) == 1


YNN = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"


@pytest.mark.parametrize(
    ("release", "machine", "onednn", "flags", "wanted"),
    [
        ("0.10.2", "x86_64", True, "", YNN),
        ("0.10.2", "aarch64", False, "--a=b", f"--a=b {YNN}"),
        ("0.11.0", "x86_64", True, "--a=b", "--a=b"),
        (
            "0.12.0.1",
            "x86_64",
            True,
            "--a=b",
            f"--a=b {YNN} --xla_cpu_experimental_onednn_custom_call=true",
        ),
        ("0.12.0.1", "x86_64", False, "", ""),
        ("0.12.0.1", "aarch64", True, "", ""),
        ("0.12.0.1", "x86_64", True, *["--xla_cpu_experimental_onednn_custom_call=false"] * 2),
        ("0.10.2", "x86_64", True, *["--xla_cpu_experimental_ynn_fusion_type="] * 2),
        ("0.12.0.1", "x86_64", True, *["--xla_cpu_experimental_ynn_fusion_type="] * 2),
        (
            "0.10.2",
            "x86_64",
            True,
            "--xla_cpu_experimental_onednn_custom_call=false",
            f"--xla_cpu_experimental_onednn_custom_call=false {YNN}",
        ),
    ],
)
def test_flags_that_a_release_knows(release, machine, onednn, flags, wanted, monkeypatch):
    monkeypatch.setattr(hardware, "version", lambda name: {"jaxlib": release}[name])
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setenv("XLA_FLAGS", flags)
    by_onednn = hardware.choose_libraries(onednn=onednn)
    assert os.environ["XLA_FLAGS"] == wanted
    assert by_onednn == wanted.endswith("onednn_custom_call=true")


def test_gradients_of_kernels_in_parts_for_onednn_alone(monkeypatch):
    """The flags of the process change nothing by themselves."""
    x, k, g = random(0, 72, 12, 11, 16), random(1, 3, 3, 16, 32), random(2, 72, 12, 11, 32)

    def gradient(x, k, g):
        layer = conv(
            32, 3, padding=1, use_bias=False, dtype="float32", param_dtype="float32", name="conv"
        )
        return jax.vjp(lambda k: layer.apply({"params": {"kernel": k}}, x), k)[1](g)

    def convolutions():
        traced = jax.jit(lambda *arrays: gradient(*arrays)).trace(x, k, g)
        return str(traced.jaxpr).count("conv_general_dilated["), traced.lower().compile()(x, k, g)

    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_experimental_onednn_custom_call=true")
    few, one = convolutions()
    with cpu.for_onednn():
        many, other = convolutions()
    assert many - few == 4  # five parts of 16 images, the last of 8
    assert convolutions()[0] == few
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3), one, other)


@pytest.mark.skipif(
    not version("jaxlib").startswith("0.12.") or platform.machine() != "x86_64",
    reason="a jaxlib without oneDNN's",
)
def test_convolutions_and_their_gradients_by_onednn():
    script = """
from functools import partial
import jax, numpy as np
from jax import lax
from jaxmodels.nn.cpu import for_onednn
from jaxmodels.nn.layers import conv
from train.launch.hardware import choose_libraries
assert choose_libraries(onednn=True)

def random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")

def ours(x, k):
    layer = conv(32, 3, padding=1, use_bias=False, dtype="float32", param_dtype="float32", name="conv")
    return layer.apply({"params": {"kernel": k}}, x)

def reference(x, k):
    return lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

def both(f, x, k, g):
    y, back = jax.vjp(f, x, k)
    return y, back(g)

for images in 4, 72:
    x, k, g = random(0, images, 12, 11, 16), random(1, 3, 3, 16, 32), random(2, images, 12, 11, 32)
    with for_onednn():
        program = jax.jit(partial(both, ours)).lower(x, k, g).compile()
    with jax.enable_x64(True):
        wanted = jax.jit(partial(both, reference))(*(np.float64(a) for a in (x, k, g)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3), program(x, k, g), wanted)
    text = program.as_text()
    print(text.count('custom_call_target="__onednn$convolution"'), text.count(" convolution("))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    # of 72 images the gradient of the kernel is the sum of those of five parts
    assert done.stdout.splitlines() == ["3 0", "7 0"]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc's malloc")
def test_freed_memory_is_kept_whatever_thread_allocates_it():
    script = """
import resource, threading
import numpy as np
from train.launch.hardware import keep_freed_memory
keep_freed_memory()

def fill():  # 7 of 24 MiB: more than two need a heap each, were heaps the thread's own, which goes as it is freed
    for i in range(5):
        if i == 1:
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
        arrays = [np.full(6 << 20, 1.0, np.float32) for _ in range(7)]
        del arrays
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)

faults = []
thread = threading.Thread(target=fill)
thread.start()
thread.join()
print(faults[1] - faults[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 1000  # 10,472 with a heap for each thread


def test_relu_is_jaxs():
    x = jnp.array([-np.inf, -1.0, -0.0, 0.0, 1e-30, 2.0, np.inf, np.nan])
    np.testing.assert_array_equal(cpu.relu(x), nn.relu(x))
    np.testing.assert_array_equal(*(jax.vmap(jax.grad(f))(x[:-1]) for f in (cpu.relu, nn.relu)))
    assert cpu.relu(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("both_ways", [False, True])
def test_products_of_rows(both_ways):
    x, kernel = random(0, 5, *(2,) * both_ways, 3, 4), random(1, *(2,) * both_ways, 4, 6)
    got, back = jax.vjp(cpu.row_product, x, kernel)
    gradient = random(2, *got.shape)
    expected, expected_back = jax.vjp(jnp.matmul, x, kernel)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(back(gradient), expected_back(gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
