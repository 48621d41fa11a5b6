"""What XLA's compiler for CPUs does slowly, computed otherwise there; on other platforms this
changes nothing.

Chosen while a program is traced, by shape: convolutions of small maps and of few channels, pooling,
the largest of many, products of rows, ReLU of residual blocks.
The values are those of ``jax.lax`` up to rounding.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.experimental.xla_metadata import set_xla_metadata
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32, UInt

Pads = tuple[tuple[int, int], ...]


def target_platform() -> str:
    """For which platform a program that is being traced will be compiled: that of the mesh, or else
    of the process."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    return device.platform if device is not None else jax.default_backend()


def target_kind() -> str:
    """The kind of the devices of :func:`target_platform`, such as "TPU v3"; "" where jax does not
    say."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None) or jax.devices()[0]
    return device.device_kind or ""


def _one_device() -> bool:
    return jax.sharding.get_abstract_mesh().size <= 1


_onednn: ContextVar[bool] = ContextVar("onednn", default=False)


@contextlib.contextmanager
def for_onednn(takes_convolutions: bool = True) -> Iterator[None]:
    """While the context lasts, what is traced suits convolutions by oneDNN.

    It is for those who tell XLA to take them, by its flag
    ``xla_cpu_experimental_onednn_custom_call``.
    """
    token = _onednn.set(takes_convolutions)
    try:
        yield
    finally:
        _onednn.reset(token)


def argmax(x: Float[Array, "... n"]) -> Int32[Array, "..."]:
    """Of the last axis, the first where several are equal (on CPUs 0 is above -0, and so is NaN
    above all)."""
    if target_platform() == "cpu":  # twice as fast
        return jax.lax.top_k(x, 1)[1][..., 0]
    return x.argmax(-1).astype(jnp.int32)


def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``jax.nn.relu`` of what is long to compute, as the sum of a residual block.

    XLA computes all of it again in every fusion that reads it (the next block's, and the
    transposition for the gradient of a convolution's kernel), unless the last operation is one of
    two arrays.
    """
    return jnp.where(x <= 0, 0, x) if target_platform() == "cpu" else jax.nn.relu(x)


def row_product(
    x: Float[Array, "*rows i"], kernel: Float[Array, "*w i o"]
) -> Float[Array, "*rows o"]:
    """``x @ kernel``, of one axis of rows: for the kernel's gradient XLA transposes what is summed
    over several.

    On a mesh the axes stay apart, since one of them is sharded.
    """
    if target_platform() == "cpu" and kernel.ndim == 2 and _one_device():
        return _rows(x, kernel, jnp.matmul)
    return x @ kernel


def product_with_rows(
    x: Float[Array, "*rows d"], kernel: Float[Array, "v d"], dtype: DTypeLike
) -> Float[Array, "*rows v"]:
    """``x @ kernel.T`` with results of a dtype: of few rows the kernel comes first.

    YNNPACK puts its second matrix in another order before it multiplies.
    """
    rows = x.size // x.shape[-1]
    if target_platform() == "cpu" and _one_device() and 1 < rows <= 64 and kernel.size >= 2**22:
        y = jnp.einsum("vd,...d->v...", kernel, x, preferred_element_type=dtype)
        # or XLA would turn the product again
        return jnp.moveaxis(jax.lax.optimization_barrier(y), 0, -1)
    return jnp.einsum("...d,vd->...v", x, kernel, preferred_element_type=dtype)


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "y x c o"],
    strides: tuple[int, int],
    padding: Any,
    **options: Any,
) -> Float[Array, "b h2 w2 o"]:
    """``jax.lax.conv_general_dilated`` as ``nn.Conv`` calls it."""
    plain = options["feature_group_count"] == 1 and {
        *options["lhs_dilation"],
        *options["rhs_dilation"],
    } == {1}
    if target_platform() == "cpu" and plain and not isinstance(padding, str):
        product = partial(jnp.matmul, precision=options["precision"])
        size, pads = kernel.shape[:2], tuple(map(tuple, padding))
        if size == strides and not np.any(pads):
            return _of_tiles(x, kernel, product)
        out = _out(x, size, strides, pads)
        # of a map with fewer rows than the kernel XLA's convolution is up to 400 times slower; and
        # where there are few places for so large a kernel, what takes the time is to turn the
        # kernel for the gradients, which with strides go over the places between as well
        products = math.prod(kernel.shape[:3])  # for each value
        small = any(n < k for n, k in zip(out, size, strict=True))
        if size == (1, 1) or small or 10 * len(x) * math.prod(out) <= products * math.prod(strides):
            of_patches = partial(_of_patches, strides=strides, pads=pads, product=product)
            # patches are large: for the gradient they are made again
            return jax.checkpoint(of_patches)(x, kernel)
        same = {k: v for k, v in options.items() if k in ("precision", "preferred_element_type")}
        conv = partial(jax.lax.conv_general_dilated, window_strides=strides, padding=pads, **same)
        value = partial(conv, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        # as where an image enters: up to 8 times faster
        if products <= 32 and _one_device():  # on a mesh a call on its own would not be partitioned
            value = partial(_of_few, strides=strides, pads=pads)
        return _as_eigen_has_it(x, kernel, value, conv)
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def _out(x: Array, size: tuple[int, ...], strides: tuple[int, ...], pads: Pads) -> list[int]:
    return [
        (n + sum(p) - k) // s + 1
        for n, k, s, p in zip(x.shape[1:3], size, strides, pads, strict=True)
    ]


def _of_tiles(x: Array, kernel: Array, product: Any) -> Array:
    h, w = kernel.shape[:2]
    x = x[:, : x.shape[1] // h * h, : x.shape[2] // w * w]
    tiles = rearrange(x, "b (i h) (j w) c -> b i j (h w c)", h=h, w=w)
    return _rows(tiles, rearrange(kernel, "h w c o -> (h w c) o"), product)


def _of_patches(
    x: Array, kernel: Array, *, strides: tuple[int, ...], pads: Pads, product: Any
) -> Array:
    windows = jnp.concatenate(
        taps(jnp.pad(x, ((0, 0), *pads, (0, 0))), kernel.shape[:2], strides), -1
    )
    return _rows(windows, rearrange(kernel, "h w c o -> (h w c) o"), product)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _as_eigen_has_it(x: Array, kernel: Array, value: Any, conv: Any) -> Array:
    """``value``, a convolution whose gradients are by ``conv`` with the dimensions in the order
    that Eigen takes.

    And oneDNN. XLA turns them into that order itself, but not in a loop, where it would take up to
    50 times longer instead.
    """
    return value(x, kernel)


@_as_eigen_has_it.defjvp
def _as_eigen_has_it_jvp(
    value: Any, conv: Any, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    """So written that what transposes the change by the input and by the kernel is NHWC and
    HWIO."""
    (x, kernel), (of_x, of_kernel) = primals, tangents
    y = _as_eigen_has_it(x, kernel, value, conv)
    # oneDNN takes no reversed kernel, as a transposed convolution has; one that was then
    # transposed, it takes
    turned = jax.lax.rev(rearrange(jax.lax.rev(kernel, (0, 1)), "y x i o -> y x o i"), (0, 1))
    by_x = conv(of_x, turned, dimension_numbers=("NHWC", "HWOI", "NHWC"))
    of_kernel = rearrange(of_kernel, "y x i o -> i y x o")
    # oneDNN reads the whole gradient of y for each place of the kernel: of a few images at a time
    # it stays in the cache
    many = _onednn.get() and _one_device() and len(y) >= 64 and math.prod(y.shape[1:3]) >= 100
    size = 16 if many else len(y)
    batches = (rearrange(x[n : n + size], "b h w i -> i h w b") for n in range(0, len(y), size))
    by_kernel = [
        conv(batch, of_kernel, dimension_numbers=("CHWN", "IHWO", "HWNC")) for batch in batches
    ]
    return y, by_x + rearrange(jnp.concatenate(by_kernel, 2), "h w b o -> b h w o")


def _of_few(x: Array, kernel: Array, *, strides: tuple[int, ...], pads: Pads) -> Array:
    """The sum of a product for each place of the kernel, which is one loop."""
    # left alone, XLA would compute it anew wherever it is read
    with set_xla_metadata(inlineable="false"):
        return _sum_of_products(x, kernel, strides=strides, pads=pads)


@partial(jax.jit, static_argnames=("strides", "pads"))
def _sum_of_products(x: Array, kernel: Array, *, strides: tuple[int, ...], pads: Pads) -> Array:
    around = ((0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0))
    windows = taps(jax.lax.pad(x, np.zeros((), x.dtype), around), kernel.shape[:2], strides)
    values = [tap[..., c : c + 1] for tap in windows for c in range(x.shape[-1])]
    product = partial(jnp.matmul, preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))
    return sum(map(product, values, rearrange(kernel, "h w c o -> (h w c) 1 o"))).astype(x.dtype)


def _rows(x: Array, kernel: Array, product: Any) -> Array:
    return product(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], -1)


def taps(x: Array, size: tuple[int, ...], strides: tuple[int, ...]) -> list[Array]:
    """For each place of a window, what of ``x`` [b, ..., c] lies there in every window: arrays [b,
    ..., c]."""

    def tap(*start: int) -> Array:
        ends = (n - k + first + 1 for n, k, first in zip(x.shape[1:-1], size, start, strict=True))
        return x[:, *map(slice, start, ends, strides)]

    return [tap(*start) for start in np.ndindex(*size)]


def max_pool(
    x: Float[Array, "b h w c"], window: int, stride: int, pads: Pads
) -> Float[Array, "b h2 w2 c"]:
    """Largest value of each window, padding being -inf; the gradient goes to the first one, as
    PyTorch's does."""
    return _max_pool(x, window, stride, pads, x.shape[1:3])


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_pool(x: Array, window: int, stride: int, pads: Pads, size: tuple[int, int]) -> Array:
    # reduce_window is slower, and draws what is around it into YNNPACK, convolutions included,
    # which has one core
    return functools.reduce(jnp.maximum, _windows(x, window, stride, pads))


def _windows(x: Array, window: int, stride: int, pads: Pads) -> list[Array]:
    """The value at each place of all windows, padding being -inf."""
    everywhere = ((0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0))
    return taps(
        jax.lax.pad(x, np.array(-np.inf, x.dtype), everywhere), (window, window), (stride, stride)
    )


def _max_pool_forward(
    x: Array, window: int, stride: int, pads: Pads, size: tuple[int, int]
) -> tuple[Array, UInt[Array, "b h2 w2 c"]]:
    best, *others = _windows(x, window, stride, pads)
    # which it is, and not x and y to compare: XLA may compute x again, rounded otherwise, and none
    # would be equal
    first = jnp.zeros(best.shape, _index_type(window))
    for k, tap in enumerate(others, 1):
        better = (tap > best) | jnp.isnan(tap)
        best, first = jnp.where(better, tap, best), jnp.where(better, first.dtype.type(k), first)
    return best, first


def _max_pool_backward(
    window: int, stride: int, pads: Pads, size: tuple[int, int], first: Array, gradient: Array
) -> tuple[Array]:
    (top, bottom), (left, right) = pads
    height, width = size[0] + top + bottom, size[1] + left + right
    nowhere = np.iinfo(first.dtype).max
    overlap = -(-window // stride)  # so many windows, each way, may have a place in common
    edge = (overlap - 1, overlap - 1)
    first = jnp.pad(first, ((0, 0), edge, edge, (0, 0)), constant_values=nowhere)
    gradient = jnp.pad(gradient, ((0, 0), edge, edge, (0, 0)))
    # of squares of stride x stride places
    rows, columns = (n - overlap + 1 for n in first.shape[1:3])
    total = jnp.zeros((), gradient.dtype)
    for back in np.ndindex(overlap, overlap):  # the window that begins so many squares before
        i, j = (overlap - 1 - n for n in back)
        here, values = (
            rearrange(x[:, i : i + rows, j : j + columns], "b i j c -> b i 1 j 1 c")
            for x in (first, gradient)
        )
        y, x = (np.arange(stride) + stride * n for n in back)
        places = np.where(
            (y < window)[:, None] & (x < window), y[:, None] * window + x, nowhere - 1
        )
        chosen = here == places.astype(first.dtype)[:, None, :, None]
        total = total + jnp.where(chosen, values, np.zeros((), gradient.dtype))
    total = rearrange(total, "b i y j x c -> b (i y) (j x) c")[:, :height, :width]
    rest = [(0, length - n) for length, n in zip((height, width), total.shape[1:3], strict=True)]
    total = jnp.pad(total, ((0, 0), *rest, (0, 0)))
    return (total[:, top : top + size[0], left : left + size[1]],)


def _index_type(window: int) -> np.dtype:
    return np.dtype(np.uint8 if window < 16 else np.uint16)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
