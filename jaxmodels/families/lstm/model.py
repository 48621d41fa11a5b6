"""LSTM text classifier (Hochreiter & Schmidhuber 1997; with forget gates, Gers et al. 2000; both
ways, Graves & Schmidhuber 2005).

Parity reference: ``torch.nn.Embedding``, ``torch.nn.LSTM`` over ``pack_padded_sequence``,
``torch.nn.Linear``, with PyTorch's initial values. Dropout stands where PyTorch's usual text
classifier has it (bentrevett's pytorch-sentiment-analysis): on the embedding, between layers and
before the classifier.

Deliberate differences: padding is left out wherever it stands, not only at the right, and no row of
the embedding is reserved for it (``padding_idx``), because it reaches nothing; a text that is all
padding has the features 0, where PyTorch raises.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.nn.cpu import row_product, target_platform
from jaxmodels.nn.layers import (
    at_least_float32,
    normal,
    require_positive,
    require_rate,
    torch_bias,
    torch_uniform,
)
from jaxmodels.nn.meshes import constrain_batch, on_any_mesh


@on_any_mesh
class LSTMClassifier(nn.Module):
    """Token embedding, stacked LSTM layers, a linear classifier of the last layer's final states.

    Attributes:
      vocab_size: number of tokens; num_classes: of logits.
      embed_size: of the embedding; hidden_size: of each layer and direction; num_layers: of the
        stack.
      bidirectional: a second LSTM reads each text from its end; every layer gives the two side by
        side.
      dropout_rate: on the embedding, between layers and before the classifier, when training.
      dtype: compute dtype; param_dtype: storage dtype.
    """

    vocab_size: int
    num_classes: int
    embed_size: int = 128
    hidden_size: int = 256
    num_layers: int = 1
    bidirectional: bool = False
    dropout_rate: float = 0.5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "b l"], segments: Int[Array, "b l"] | None = None, *, train: bool
    ) -> Float[Array, "b classes"]:
        """Float32 (or wider) logits of each text. Dropout draws from the ``dropout`` RNG.

        Args:
          segments: 0 is padding, anything else a token of the text. None: all are.

        Raises:
          ValueError: a size is below 1, or ``dropout_rate`` is no rate.
        """
        require_positive(
            vocab_size=self.vocab_size, num_classes=self.num_classes, embed_size=self.embed_size
        )
        require_positive(
            hidden_size=self.hidden_size, num_layers=self.num_layers, length=tokens.shape[1]
        )
        require_rate(dropout_rate=self.dropout_rate)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        dropout = partial(nn.Dropout, self.dropout_rate, deterministic=not train)
        real = None if segments is None else segments > 0
        if real is None and not train and target_platform() == "cpu":
            # true of all that the embedding has; without a mask XLA computes the gates anew
            # wherever they are read
            real = tokens >= -self.vocab_size
        x = nn.Embed(
            self.vocab_size,
            self.embed_size,
            embedding_init=normal(1.0),
            name="token_embed",
            **dtypes,
        )(tokens)
        x = constrain_batch(x)
        for i in range(self.num_layers):
            x = dropout(name=f"dropout_{i}")(x)
            x, final = LSTM(self.hidden_size, self.bidirectional, name=f"lstm_{i}", **dtypes)(
                x, real
            )
            x, final = constrain_batch(x), constrain_batch(final)
        final = dropout(name="dropout_head")(final)
        bias = torch_bias(final.shape[-1])
        logits = nn.Dense(
            self.num_classes, kernel_init=torch_uniform, bias_init=bias, name="head", **dtypes
        )(final)
        return at_least_float32(logits)


class LSTM(nn.Module):
    """One layer of ``torch.nn.LSTM``; fields as in :class:`LSTMClassifier`.

    Gates lie side by side in PyTorch's order, i, f, g, o. As there, each has two biases, which only
    act as their sum: one alone would take half their step. Parameters of the second direction end
    in ``_reverse``.
    """

    hidden_size: int
    bidirectional: bool
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l i"], real: Bool[Array, "b l"] | None
    ) -> tuple[Float[Array, "b l o"], Float[Array, "b o"]]:
        """The state after every token, and the final ones: after the last token, and of the reverse
        after the first.

        Args:
          real: which tokens are no padding; padding leaves the state as it is. None: all.
        """
        ways = ("", "_reverse") if self.bidirectional else ("",)
        init = torch_bias(self.hidden_size)  # the bound of every array

        def parameter(name: str, *shape: int) -> Array:
            arrays = [self.param(f"{name}{way}", init, shape, self.param_dtype) for way in ways]
            # one direction has no axis of its own: products of matrices are faster than those of
            # batches of one
            return (jnp.stack(arrays) if self.bidirectional else arrays[0]).astype(self.dtype)

        gates = 4 * self.hidden_size
        kernel_ih = parameter("kernel_ih", x.shape[-1], gates)
        kernel_hh = parameter("kernel_hh", self.hidden_size, gates)
        bias = parameter("bias_ih", gates) + parameter("bias_hh", gates)
        x = self._turned(rearrange(x.astype(self.dtype), "b l i -> l b i"))
        if real is not None:
            real = self._turned(rearrange(real, "b l -> l b 1"))
        inputs = row_product(x, kernel_ih)  # of all places in one product
        states, final = _recurrence(inputs, kernel_hh, bias, real)
        if not self.bidirectional:
            return rearrange(states, "l b h -> b l h"), final
        states = jnp.stack([states[:, 0], states[::-1, 1]], axis=1)
        return rearrange(states, "l w b h -> b l (w h)"), rearrange(final, "w b h -> b (w h)")

    def _turned(self, x: Array) -> Array:
        """[l, ...], or of two directions [l, 2, ...] with the second turned round, so that both are
        one scan."""
        return jnp.stack([x, x[::-1]], axis=1) if self.bidirectional else x


@jax.custom_vjp
def _recurrence(
    inputs: Float[Array, "l *w b k"],
    kernel: Float[Array, "*w h k"],
    bias: Float[Array, "*w k"],
    real: Bool[Array, "l *w b 1"] | None,
) -> tuple[Float[Array, "l *w b h"], Float[Array, "*w b h"]]:
    """States of an LSTM, and the last, from its inputs' products with the weights; ``real`` as in
    :class:`LSTM`.

    ``c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g)``, ``h_t = sigmoid(o) tanh(c_t)`` with i, f, g,
    o the quarters of ``inputs_t + h_{t-1} kernel + bias``; gates and c in at least float32.

    The gradients of ``kernel`` and ``bias`` are one product and one sum over all places and texts:
    left to itself, the scan would add up small ones, and on a mesh sum each over the devices.
    States, gates and cells are kept for the gradient, no more. There is no forward-mode derivative.
    """
    return _scan(inputs, kernel, bias, real, keep=False)[:2]


def _scan(
    inputs: Array, kernel: Array, bias: Array, real: Array | None, *, keep: bool
) -> tuple[Any, ...]:
    """States, the last, and if ``keep`` of all places the gates i, f, g, o and the cells."""
    bias = at_least_float32(bias)[..., None, :]

    def step(carry, inputs_real):
        (state, cell), (inputs, real) = carry, inputs_real  # [*w, b, h] twice
        gates = at_least_float32(inputs) + at_least_float32(state @ kernel) + bias
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        i, f, g, o = nn.sigmoid(i), nn.sigmoid(f), jnp.tanh(g), nn.sigmoid(o)
        new_cell = f * cell + i * g
        new_state = (o * jnp.tanh(new_cell)).astype(state.dtype)
        if real is not None:
            new_state, new_cell = jnp.where(real, new_state, state), jnp.where(real, new_cell, cell)
        return (new_state, new_cell), (
            new_state,
            *(((i, f, g, o), new_cell) if keep else (None, None)),
        )

    state = jnp.zeros((*inputs.shape[1:-1], kernel.shape[-2]), inputs.dtype)
    (final, _), (states, *kept) = jax.lax.scan(
        step, (state, at_least_float32(state)), (inputs, real)
    )
    return states, final, *kept


def _recurrence_forward(inputs, kernel, bias, real):
    states, final, *kept = _scan(inputs, kernel, bias, real, keep=True)
    return (states, final), (kernel, bias, real, states, *kept)


def _recurrence_backward(residuals, cotangent):
    kernel, bias, real, states, gates, cells = residuals
    of_states, of_final = map(at_least_float32, cotangent)

    def before(x: Array) -> Array:
        return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])

    def step(carry, at_place):
        (of_state, of_cell), (of_output, (i, f, g, o), cell, real) = carry, at_place
        of_state = of_state + of_output
        # what of the gradients goes through the gates: none at padding
        new_state, new_cell = of_state, of_cell
        if real is not None:
            new_state, new_cell = jnp.where(real, of_state, 0), jnp.where(real, of_cell, 0)
        squashed = jnp.tanh(f * cell + i * g)  # faster than to keep it
        new_cell = new_cell + new_state * o * (1 - jnp.square(squashed))
        of_gates = (
            new_cell * g * i * (1 - i),
            new_cell * cell * f * (1 - f),
            new_cell * i * (1 - jnp.square(g)),
            new_state * squashed * o * (1 - o),
        )
        of_inputs = jnp.concatenate(of_gates, -1).astype(kernel.dtype)
        back = at_least_float32(jnp.einsum("...bk,...hk->...bh", of_inputs, kernel)), new_cell * f
        if real is not None:
            back = back[0] + jnp.where(real, 0, of_state), back[1] + jnp.where(real, 0, of_cell)
        return back, of_inputs

    start = of_final, jnp.zeros_like(cells[0])
    _, of_inputs = jax.lax.scan(step, start, (of_states, gates, before(cells), real), reverse=True)
    (of_kernel,) = jax.linear_transpose(partial(row_product, before(states)), kernel)(of_inputs)
    return of_inputs, of_kernel, at_least_float32(of_inputs).sum((0, -2)).astype(bias.dtype), None


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)


def lstm(**fields: Any) -> LSTMClassifier:
    """One LSTM layer of 256 (Hochreiter & Schmidhuber 1997).

    408,835 parameters for 100 tokens and 3 classes.
    """
    return LSTMClassifier(**fields)


def bilstm(*, bidirectional: bool = True, num_layers: int = 2, **fields: Any) -> LSTMClassifier:
    """Two LSTM layers of 256, both ways (Graves & Schmidhuber 2005).

    2,381,827 parameters for 100 tokens and 3 classes.
    """
    return LSTMClassifier(bidirectional=bidirectional, num_layers=num_layers, **fields)
