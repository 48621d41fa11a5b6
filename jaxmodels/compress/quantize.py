"""int8: symmetric weights, one scale for each output channel; activations scaled as they come
(Jacob et al. 2018, arXiv:1712.05877, without zero points).

``q = round(w / s)`` with ``s = max|w| / 127``, computed as ``w (127 / max|w|)`` and
``max|w| (1 / 127)``.

A quantised tree is that of the parameters with ``kernel_int8`` and ``kernel_scale`` in the place of
``kernel``, and embeddings likewise; any model runs on it, unchanged, within :func:`executing`, and
elsewhere misses its ``kernel``. Dense layers and convolutions then multiply int8 by int8 and add up
in int32. Convolutions do so as a product of matrices, the windows with the kernel: that is as fast
as float32's on CPUs, where XLA's own int8 convolution is up to seven times slower. Rows of
embeddings are dequantised as they are looked up; kernels of modules that are neither (grouped or
dilated convolutions) before they are used.

Not quantised: the recurrence of an LSTM (its kernels stay float32), products of attention, norms,
transposed convolutions, and logits by a tied embedding, which are computed with its dequantised
rows.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int8

from jaxmodels.compress.prune import PyTree, Select
from jaxmodels.nn.cpu import taps
from jaxmodels.nn.paths import is_stacked, path_name

LEVELS = 127
"""Of each sign; -128 is not used, so that the range is symmetric."""

INT8, SCALE = "_int8", "_scale"
"""Names of what stands for a parameter end in these."""


def quantizable(path: str) -> bool:
    """Kernels of dense layers and convolutions, the head's included, and embeddings."""
    *modules, name = path.split("/")
    transposed = any(module.startswith("decoder_conv_") for module in modules)
    return name in ("kernel", "embedding") and not transposed


def quantize(params: PyTree, *, select: Select = quantizable) -> PyTree:
    """``..._int8`` and float32 ``..._scale`` in the place of each selected parameter.

    Kernels have a scale for each output (last axis), embeddings for each row, and both for each
    scanned layer.
    """

    def walk(tree: PyTree, path: str) -> PyTree:
        found = {}
        for name, x in tree.items():
            here = f"{path}{name}"
            if isinstance(x, dict):
                found[name] = walk(x, f"{here}/")
            elif select(here):
                q, scale = _quantized(x, _axes(here, x.ndim))
                found |= {name + INT8: q, name + SCALE: scale.reshape(scale_shape(here, x.shape))}
            else:
                found[name] = x
        return found

    return walk(params, "")


def dequantize(params: PyTree, dtype: Any = jnp.float32) -> PyTree:
    """The parameters that a quantised tree stands for: ``q s``, in the place of ``q`` and ``s``."""

    def walk(tree: PyTree, path: str) -> PyTree:
        found = {}
        for name, x in tree.items():
            whole, scale = name.removesuffix(INT8), name.removesuffix(INT8) + SCALE
            if isinstance(x, dict):
                found[name] = walk(x, f"{path}{name}/")
            elif whole != name:
                axes = _axes(f"{path}{whole}", x.ndim)
                found[whole] = (x * jnp.expand_dims(tree[scale], axes)).astype(dtype)
            elif name.removesuffix(SCALE) + INT8 not in tree:
                found[name] = x
        return found

    return walk(params, "")


def int8_share(params: PyTree) -> float:
    """Share of a tree's numbers that are int8."""
    leaves = jax.tree.leaves(params)
    return sum(x.size for x in leaves if x.dtype == jnp.int8) / max(1, sum(x.size for x in leaves))


def executing() -> AbstractContextManager[None]:
    """While the context lasts, ``model.apply`` and what is traced run quantised modules in int8,
    others as ever."""

    def intercept(
        call: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ):
        module, method = context.module, context.method_name
        if isinstance(module, nn.Embed) and module.has_variable("params", "embedding" + INT8):
            return _embed(module, method, call, args, kwargs)
        if method != "__call__" or not module.has_variable("params", "kernel" + INT8):
            return call(*args, **kwargs)
        kernel, scale = (module.get_variable("params", "kernel" + end) for end in (INT8, SCALE))
        swapped: dict[str, Any] = {}
        if isinstance(module, nn.Dense):
            swapped["dot_general"] = partial(_int8_dense, scale=scale)
        elif isinstance(module, nn.Conv) and _plain(module):
            swapped["conv_general_dilated"] = partial(_int8_conv, scale=scale)
        else:
            kernel = kernel * scale
        given = module.param
        swapped["param"] = lambda name, *rest, **options: (
            kernel if name == "kernel" else given(name, *rest, **options)
        )
        # and not a clone: what captures or changes modules shall still see this one
        with _swapped(module, swapped):
            return call(*args, **kwargs)

    return nn.intercept_methods(intercept)


@contextlib.contextmanager
def _swapped(module: nn.Module, attributes: dict[str, Any]) -> Iterator[None]:
    """While the context lasts, the module has these attributes."""
    before = {name: module.__dict__[name] for name in attributes if name in module.__dict__}
    for name, value in attributes.items():
        object.__setattr__(module, name, value)
    try:
        yield
    finally:
        for name in attributes:
            object.__delattr__(module, name)
        for name, value in before.items():
            object.__setattr__(module, name, value)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def fake_quantized(x: Float[Array, "..."], axes: tuple[int, ...]) -> Float[Array, "..."]:
    """``x`` rounded to what int8 with one scale over ``axes`` can express; its derivative is that
    of ``x``.

    The straight-through estimator of Bengio et al. 2013 (arXiv:1308.3432). Nothing is clipped: the
    scale fits ``x``.
    """
    q, scale = _quantized(x, axes)
    return (q * scale).astype(x.dtype)


@fake_quantized.defjvp
def _straight_through(axes: tuple[int, ...], primals: Any, tangents: Any) -> Any:
    return fake_quantized(*primals, axes), tangents[0]


def fake_quantize(params: PyTree, *, select: Select = quantizable) -> PyTree:
    """``dequantize(quantize(params))`` with the gradient of ``params``, for quantisation-aware
    training."""

    def one(path: Any, x: Array) -> Array:
        name = path_name(path)
        return fake_quantized(x, _axes(name, x.ndim)) if select(name) else x

    return jax.tree_util.tree_map_with_path(one, params)


def fake_activations() -> AbstractContextManager[None]:
    """While the context lasts, the inputs of dense layers and convolutions are rounded as
    :func:`executing` does."""

    def intercept(
        call: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ):
        module = context.module
        if context.method_name != "__call__" or not isinstance(module, nn.Dense | nn.Conv):
            return call(*args, **kwargs)
        if isinstance(module, nn.Conv) and not _plain(module):
            return call(*args, **kwargs)
        x, *rest = args
        return call(fake_quantized(x, _row_axes(module, x.ndim)), *rest, **kwargs)

    return nn.intercept_methods(intercept)


def _quantized(x: Array, axes: tuple[int, ...]) -> tuple[Int8[Array, "..."], Array]:
    """int8, and the scale over ``axes``, which are kept; in at least float32."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    largest = jnp.abs(x).max(axes, keepdims=True)
    # where all is 0, and all becomes 0
    largest = jnp.where(largest > LEVELS * jnp.finfo(x.dtype).tiny, largest, 1)
    # products: XLA makes them of divisions by constants and by what is broadcast, in some programs
    # and not in others
    q = jnp.clip(jnp.round(x * (LEVELS / largest)), -LEVELS, LEVELS)
    return q.astype(jnp.int8), largest * (1 / LEVELS)


def _axes(path: str, ndim: int) -> tuple[int, ...]:
    """Axes over which a parameter has one scale."""
    if path.endswith("embedding"):
        return (ndim - 1,)
    return tuple(range(is_stacked(path), ndim - 1))


def scale_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the scales of a parameter: path and shape to the axes that have one for each of
    their places."""
    return tuple(n for i, n in enumerate(shape) if i not in _axes(path, len(shape)))


def _row_axes(module: nn.Module, ndim: int) -> tuple[int, ...]:
    """One scale for each row of a dense layer's input, for each example of a convolution's."""
    return (ndim - 1,) if isinstance(module, nn.Dense) else tuple(range(1, ndim))


def _plain(module: nn.Conv) -> bool:
    ones = (None, 1, (1,) * len(module.kernel_size))
    return (
        module.feature_group_count == 1
        and module.kernel_dilation in ones
        and module.input_dilation in ones
    )


def _embed(
    module: nn.Embed,
    method: str,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
):
    if method not in ("setup", "__call__"):
        return call(*args, **kwargs)
    embedding, scale = (module.get_variable("params", "embedding" + end) for end in (INT8, SCALE))
    if method == "setup":  # for those that use the whole embedding, as tied logits do
        module.embedding = embedding * scale[:, None]
        return None
    rows = jnp.take(embedding, args[0], axis=0) * jnp.take(scale, args[0], axis=0)[..., None]
    return rows.astype(module.dtype or rows.dtype)


def _int8_product(x: Array, kernel: Array, scale: Array, row_scale: Array, dtype: Any) -> Array:
    """``x kernel`` of int8 [..., i] and [i, o], in int32, times the scales."""
    rows = x.reshape(-1, x.shape[-1])
    y = jax.lax.dot_general(
        rows, kernel, (((1,), (0,)), ((), ())), preferred_element_type=jnp.int32
    )
    return (y.reshape(*x.shape[:-1], -1) * row_scale * scale).astype(dtype)


def _int8_dense(x: Array, kernel: Array, dimensions: Any, *, scale: Array, **_: Any) -> Array:
    """``dot_general`` of ``nn.Dense``, which has cast the int8 kernel to its own dtype: back
    without loss."""
    rows, row_scale = _quantized(x, (x.ndim - 1,))
    return _int8_product(rows, kernel.astype(jnp.int8), scale, row_scale, x.dtype)


def _int8_conv(
    x: Array,
    kernel: Array,
    strides: tuple[int, ...],
    padding: Any,
    *,
    scale: Array,
    dimension_numbers: Any,
    **_: Any,
) -> Array:
    """``conv_general_dilated`` of ``nn.Conv``, as :func:`_int8_dense`; [b, ..., c] with [..., c,
    o]."""
    x8, row_scale = _quantized(x, tuple(range(1, x.ndim)))
    sizes = kernel.shape[:-2]
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:-1], sizes, strides, padding)
    windows = jnp.concatenate(
        taps(jnp.pad(x8, ((0, 0), *padding, (0, 0))), sizes, strides), axis=-1
    )
    flat = kernel.astype(jnp.int8).reshape(-1, kernel.shape[-1])
    return _int8_product(windows, flat, scale, row_scale, x.dtype)
