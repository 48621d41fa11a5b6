"""Pieces that two or more families share, each equal to its PyTorch namesake where it has one.

Images are laid out batch, height, width, channel. What PyTorch does by default differs from Flax in
padding, pooling, batch statistics and initial values; ``docs/differences.md`` lists it. Initial
values follow He et al. 2015 (arXiv:1502.01852) and LeCun 1998 where the family's reference
implementation does not say otherwise.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core import FrozenDict
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxmodels.nn import cpu

Initializer = jax.nn.initializers.Initializer

he_normal = nn.initializers.he_normal()
lecun_normal = nn.initializers.lecun_normal()
zeros = nn.initializers.zeros
ones = nn.initializers.ones
normal = nn.initializers.normal

kaiming_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""``torch.nn.init.kaiming_normal_(mode="fan_out", nonlinearity="relu")``: torchvision's
convolutions."""

xavier_uniform = nn.initializers.xavier_uniform()

torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""PyTorch's default for the weights of Linear and Conv: uniform within 1 / sqrt(fan_in)."""


def torch_bias(fan_in: int) -> Initializer:
    """PyTorch's default for the bias of Linear and Conv: uniform within 1 / sqrt(fan_in) of the
    layer's *weights*."""
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def at_least_float32(x: jax.Array) -> jax.Array:
    """Widens bfloat16 or float16 to float32 and leaves float32 and float64 alone (logits and losses
    need the bits)."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _with_slope(of: Callable[[jax.Array], tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
    """The first of ``of(x)``, value and slope: for the gradient the slope is kept, and nothing that
    led to it."""
    return of(at_least_float32(x))[0].astype(x.dtype)


@_with_slope.defjvp
def _with_slope_jvp(of: Any, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    value, slope = of(at_least_float32(x))
    if cpu.target_platform() != "cpu":
        # XLA for GPUs would keep the tanh of both, in float32: twice the memory of x, where both
        # are made from it again
        slope = of(at_least_float32(jax.lax.optimization_barrier(x)))[1]
    return value.astype(x.dtype), slope.astype(x.dtype) * dx


def gelu(x: jax.Array) -> jax.Array:
    """Gaussian error linear unit by the error function, PyTorch's default (Hendrycks & Gimpel
    2016)."""

    def value_and_slope(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        below = 0.5 * (1 + jax.lax.erf(x * math.sqrt(1 / 2)))
        return x * below, below + x * jnp.exp(-0.5 * x * x) * math.sqrt(1 / (2 * math.pi))

    return _with_slope(value_and_slope, x)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """``torch.nn.GELU(approximate="tanh")``, as GPT-2 has it."""

    def value_and_slope(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        scale, cubic = math.sqrt(2 / math.pi), 0.044715
        tanh = jnp.tanh(scale * (x + cubic * x**3))
        below = 0.5 * (1 + tanh)
        return x * below, below + 0.5 * x * (1 - tanh * tanh) * scale * (1 + 3 * cubic * x * x)

    return _with_slope(value_and_slope, x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "tanh": jnp.tanh,
    "silu": nn.silu,
}


class AuxiliaryLogits(NamedTuple):
    """Training outputs of a classifier with auxiliary heads, each [b, classes]."""

    logits: Float[Array, "b classes"]
    auxiliary: tuple[Float[Array, "b classes"], ...]


class TokenLogits(NamedTuple):
    """Logits of tokens, not yet multiplied out: with a large vocabulary they take more memory than
    all else.

    Attributes:
      hidden: what the last layer gives; kernel: one row for each token of the vocabulary; bias: of
        the logits, or None.
    """

    hidden: Float[Array, "b l d"]
    kernel: Float[Array, "v d"]
    bias: Float[Array, " v"] | None = None

    @property
    def logits(self) -> Float[Array, "b l v"]:
        """``hidden kernel^T + bias`` in at least float32."""
        hidden = self.hidden
        # of the product itself: bfloat16 would make ties
        wide = jnp.promote_types(hidden.dtype, jnp.float32)
        kernel = jnp.asarray(self.kernel, hidden.dtype)
        logits = cpu.product_with_rows(hidden, kernel, wide)
        return logits if self.bias is None else logits + self.bias.astype(logits.dtype)


def segment_positions(segments: Int[Array, "b l"]) -> Int[Array, "b l"]:
    """Place of each token within its run of equal ``segments``, from 0."""
    place = jnp.arange(segments.shape[1])
    first = jnp.concatenate(
        [jnp.ones_like(segments[:, :1], bool), segments[:, 1:] != segments[:, :-1]], axis=1
    )
    return place - jax.lax.cummax(jnp.where(first, place, 0), axis=1)


def hashable(value: Any) -> Any:
    """A field of a module as jax needs it, with dicts and lists frozen: modules are hashed by their
    fields."""
    if isinstance(value, Mapping):
        return FrozenDict({k: hashable(v) for k, v in value.items()})
    return tuple(map(hashable, value)) if isinstance(value, list | tuple) else value


def freeze_fields(module: nn.Module, *names: str) -> None:
    """Makes fields of a module :func:`hashable`; to be called by ``__post_init__`` before Linen's
    own."""
    for name in names:
        object.__setattr__(module, name, hashable(getattr(module, name)))


def require_positive(**sizes: int | tuple[int, ...]) -> None:
    """Raises ValueError, naming the field, unless every size is at least 1."""
    for name, size in sizes.items():
        if any(s < 1 for s in (size if isinstance(size, tuple) else (size,))):
            raise ValueError(f"{name} {size} must be at least 1")


def require_rate(**rates: float) -> None:
    """Raises ValueError, naming the field, unless every rate is in [0, 1)."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name} {rate} must be at least 0 and below 1")


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} {value!r} is not one of {', '.join(choices)}")


def unit_length(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """``torch.nn.functional.normalize``; the gradient at 0, which has none there, is that of
    ``x / 1e-12``."""
    squares = jnp.square(x).sum(-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(squares, 1e-24))


def product_of_rows(x: jax.Array, kernel: jax.Array, dimensions: object, **options) -> jax.Array:
    """``jax.lax.dot_general`` as ``nn.Dense`` calls it, by a product of two matrices.

    From more dimensions than two, XLA for CPUs copies ``x`` and the gradient to make that of the
    kernel.
    """
    del dimensions  # always the last of x with the first of the kernel
    y = jax.lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), **options)
    return y.reshape(*x.shape[:-1], kernel.shape[1])


Dense = partial(nn.Dense, dot_general=product_of_rows)


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) from one number or two."""
    return value if isinstance(value, tuple) else (value, value)


def conv(
    features: int,
    kernel_size: int | tuple[int, int],
    *,
    stride: int = 1,
    padding: int | tuple[int, int] = 0,
    use_bias: bool = True,
    kernel_init: Initializer = torch_uniform,
    bias_init: Initializer = zeros,
    dtype: DTypeLike,
    param_dtype: DTypeLike,
    name: str,
) -> nn.Conv:
    """A convolution that pads ``padding`` zeros on each side, as ``torch.nn.Conv2d``; SAME differs
    once it strides."""
    return nn.Conv(
        features,
        pair(kernel_size),
        strides=pair(stride),
        padding=tuple((p, p) for p in pair(padding)),
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=bias_init,
        dtype=dtype,
        param_dtype=param_dtype,
        conv_general_dilated=cpu.convolve,
        name=name,
    )


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _standardized(x: jax.Array, epsilon: float) -> jax.Array:
    """Each row of ``x`` less its mean, by its standard deviation.

    The gradient is written out: derived step by step it takes more passes over x.
    """
    mean, rstd = _row_statistics(x, epsilon)
    return (x - mean) * rstd


@_standardized.defjvp
def _standardized_jvp(epsilon: float, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    mean, rstd = _row_statistics(x, epsilon)
    y = (x - mean) * rstd
    return y, rstd * (dx - dx.mean(-1, keepdims=True) - y * (y * dx).mean(-1, keepdims=True))


def _row_statistics(x: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """Mean and one by the standard deviation, named for the policy by which LayerNorm keeps
    them."""
    mean = x.mean(-1, keepdims=True)
    rstd = jax.lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + epsilon)
    return checkpoint_name(mean, "mean"), checkpoint_name(rstd, "rstd")


class LayerNorm(nn.Module):
    """Layer normalisation of the last axis, as ``torch.nn.LayerNorm`` (Ba et al. 2016,
    arXiv:1607.06450).

    Statistics are computed in at least float32, in two passes. For the gradient the input is kept,
    and of each row mean and standard deviation.

    Attributes:
      epsilon: added to the variance.
      dtype: of the result; param_dtype: of scale and bias.
    """

    epsilon: float
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        """Normalises each row of ``x``."""
        scale = self.param("scale", ones, x.shape[-1:], self.param_dtype)
        bias = self.param("bias", zeros, x.shape[-1:], self.param_dtype)
        keep = jax.checkpoint_policies.save_only_these_names("mean", "rstd")

        @partial(jax.checkpoint, prevent_cse=False, policy=keep)
        def normalized(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
            y = _standardized(at_least_float32(x), self.epsilon)
            return (y * scale + bias).astype(self.dtype)

        return normalized(x, scale, bias)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, as ``torch.nn.BatchNorm2d`` (Ioffe & Szegedy
    2015).

    In training the batch is normalised by its own mean and *biased* variance; the running variance
    is moved towards the *unbiased* one (Flax: the biased one):
    ``running = (1 - momentum) * running + momentum * batch``. Statistics are computed in at least
    float32, in two passes. Under a mesh they are those of the global batch.

    Attributes:
      momentum: weight of the new batch (PyTorch 0.1 is Flax 0.9).
      epsilon: added to the variance.
      scale_init: of the scale; 0 makes a residual branch start as nothing (Goyal et al. 2017).
      dtype: of the result; param_dtype: of scale and bias.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    scale_init: Initializer = ones
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b ... c"], *, train: bool) -> Float[Array, "b ... c"]:
        """Normalises ``x``; in training also updates ``mean``, ``var`` and ``count`` of collection
        batch_stats."""
        channels = (x.shape[-1],)
        wide = jnp.promote_types(self.param_dtype, jnp.float32)
        scale = self.param("scale", self.scale_init, channels, self.param_dtype)
        bias = self.param("bias", zeros, channels, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels, wide)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels, wide)
        # batches seen; PyTorch saves it
        count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)
        x = at_least_float32(x)
        if train:
            axes = tuple(range(x.ndim - 1))
            number = x.size // x.shape[-1]
            if number < 2:
                raise ValueError(
                    f"batch normalisation of {x.shape} in training needs more than 1 value per "
                    "channel"
                )
            mean = x.mean(axes)
            var = jnp.square(x - mean).mean(axes)
            if not self.is_initializing():
                move = self.momentum
                running_mean.value = (1 - move) * running_mean.value + move * mean
                running_var.value = (1 - move) * running_var.value + move * var * (
                    number / (number - 1)
                )
                count.value = count.value + 1
        else:
            mean, var = running_mean.value, running_var.value
        y = (x - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias
        return y.astype(self.dtype)


def _windows(
    size: int, window: int, stride: int, padding: int, ceil_mode: bool
) -> tuple[int, int]:  # (windows, zeros to add after the right padding)
    span = size + 2 * padding - window
    count = -(-span // stride) + 1 if ceil_mode else span // stride + 1
    # a negative span alone is none: with ceil_mode even the first window may overhang
    if count < 1:
        raise ValueError(
            f"a pool of {window} cannot take a map of {size}: fewer pools, larger images"
        )
    # PyTorch: a window must start inside the map
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1
    return count, max(0, (count - 1) * stride + window - size - 2 * padding)


def _pool_padding(
    x: jax.Array, window: int, stride: int, padding: int, ceil_mode: bool
) -> tuple[tuple[int, int], tuple[int, int]]:
    if 2 * padding > window:
        raise ValueError(f"padding {padding} is more than half of the pool's window {window}")
    extra = [_windows(n, window, stride, padding, ceil_mode)[1] for n in x.shape[1:3]]
    return (padding, padding + extra[0]), (padding, padding + extra[1])


def max_pool(
    x: Float[Array, "b h w c"],
    window: int,
    *,
    stride: int,
    padding: int = 0,
    ceil_mode: bool = False,
) -> Float[Array, "b h2 w2 c"]:
    """``torch.nn.functional.max_pool2d``: padding is -inf; with ``ceil_mode`` a last window may
    overhang."""
    pads = _pool_padding(x, window, stride, padding, ceil_mode)
    if cpu.target_platform() == "cpu":
        return cpu.max_pool(x, window, stride, pads)
    return nn.max_pool(x, (window, window), strides=(stride, stride), padding=pads)


def avg_pool(
    x: Float[Array, "b h w c"],
    window: int,
    *,
    stride: int,
    padding: int = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Float[Array, "b h2 w2 c"]:
    """``torch.nn.functional.avg_pool2d``: zeros of the padding count, unless told otherwise; an
    overhang never does."""
    pads = _pool_padding(x, window, stride, padding, ceil_mode)
    dims, strides = (1, window, window, 1), (1, stride, stride, 1)
    zero = np.zeros((), x.dtype)
    total = jax.lax.reduce_window(x, zero, jax.lax.add, dims, strides, ((0, 0), *pads, (0, 0)))
    counted = np.ones(x.shape[1:3])
    inner = tuple((padding, padding) for _ in range(2))
    counted = np.pad(counted, inner, constant_values=float(count_include_pad))
    counted = np.pad(counted, tuple((0, after - padding) for _, after in pads))
    starts = [np.arange(n) * stride for n in total.shape[1:3]]
    counts = np.array(
        [[counted[i : i + window, j : j + window].sum() for j in starts[1]] for i in starts[0]]
    )
    return total / jnp.asarray(counts[:, :, None], total.dtype)


def adaptive_avg_pool(
    x: Float[Array, "b h w c"], size: tuple[int, int]
) -> Float[Array, "b h2 w2 c"]:
    """``torch.nn.functional.adaptive_avg_pool2d``: means over ``size`` bins that may overlap, or
    repeat small maps."""

    def bins(length: int, count: int) -> np.ndarray:  # [count, length], rows sum to 1
        matrix = np.zeros((count, length))
        for i in range(count):
            start, stop = i * length // count, -(-(i + 1) * length // count)
            matrix[i, start:stop] = 1 / (stop - start)
        return matrix

    if size == (1, 1):
        return x.mean((1, 2), keepdims=True)
    if size == x.shape[1:3]:
        return x
    rows, columns = (
        jnp.asarray(bins(n, m), x.dtype) for n, m in zip(x.shape[1:3], size, strict=True)
    )
    return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns)


def local_response_norm(
    x: Float[Array, "... c"],
    size: int = 5,
    *,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
) -> Float[Array, "... c"]:
    """``torch.nn.LocalResponseNorm``:
    ``x / (k + alpha / size * sum of squares over size channels) ** beta``.

    Krizhevsky et al. 2012 write alpha where PyTorch has alpha / size, and use k=2, size=5,
    alpha=1e-4, beta=0.75.
    """
    window = (1,) * (x.ndim - 1) + (size,)
    pads = ((0, 0),) * (x.ndim - 1) + ((size // 2, (size - 1) // 2),)
    squares = jax.lax.reduce_window(
        jnp.square(x), np.zeros((), x.dtype), jax.lax.add, window, (1,) * x.ndim, pads
    )
    return x * (k + alpha / size * squares) ** -beta


class ConvBN(nn.Module):
    """Convolution without bias, batch normalisation with epsilon 1e-3, ReLU: torchvision's
    ``BasicConv2d``.

    Attributes: see :func:`conv`.
    """

    features: int
    kernel_size: int | tuple[int, int]
    stride: int = 1
    padding: int | tuple[int, int] = 0
    kernel_init: Initializer = torch_uniform
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 c2"]:
        """Applies the three; training updates collection ``batch_stats``."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        x = conv(
            self.features,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            use_bias=False,
            kernel_init=self.kernel_init,
            name="conv",
            **dtypes,
        )(x)
        return nn.relu(BatchNorm(epsilon=1e-3, name="bn", **dtypes)(x, train=train))


def imagenet_to_half(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """From ImageNet's mean and standard deviation of each colour to 0.5: torchvision's
    ``transform_input``.

    Raises:
      ValueError: the images do not have three channels.
    """
    if x.shape[-1] != 3:
        raise ValueError(
            f"transform_input is for 3 colours, not for {x.shape[-1]} channel(s); set it to False"
        )
    mean, std = (
        jnp.asarray((0.485, 0.456, 0.406), x.dtype),
        jnp.asarray((0.229, 0.224, 0.225), x.dtype),
    )
    return (x * std + mean - 0.5) / 0.5
