"""Explanations of a batch by every method, their completeness errors and faithfulness: pure
functions of a state.

They explain what :mod:`train.predict` says: where a run is quantised, so are they, and gradients go
straight through the rounding (see :mod:`jaxmodels.compress.quantize`).
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int
from tokenizers import Tokenizer

from input_pipeline.tokenizers import stands_for_no_text
from jaxmodels import Module
from jaxmodels.adapt.multitask import unwrapped
from jaxmodels.explain import faithfulness
from jaxmodels.explain.attention import attention_maps, over_patches, rollout
from jaxmodels.explain.grad_cam import grad_cam
from jaxmodels.explain.gradients import (
    Attribution,
    input_gradient,
    input_score,
    integrated_gradients,
    logit,
    logits_at,
    token_embeddings,
    token_score,
)
from jaxmodels.explain.logit_lens import logit_lens
from jaxmodels.families.fusion.model import has_text_encoder
from train.run import Run
from train.sharding import gathering_layers
from train.state import PyTree, TrainState
from train.step import Batch, eval_variables, rounding

GRADIENTS: dict[str, Callable[..., Attribution]] = {
    "integrated_gradients": integrated_gradients,
    "input_gradient": input_gradient,
}
REPLACEMENTS = {"image": ("black", "blur"), "text": ("[MASK]", "[PAD]", "drop"), "row": ("mean",)}
"""What stands for nothing: what gradients are measured from, and what comes where pixels, tokens or
numbers go."""

UNITS = 28
"""At most so many rows and columns of an image are removed one by one."""


@jax.tree_util.register_static
class Backend(str):
    """Name of an attention backend; no array, so that a compiled function can return it."""


class Explained(NamedTuple):
    """Of a batch of b examples.

    Attributes:
      target: the class, token or number that is explained.
      said: its probability, or the number itself.
      attributions: method -> [b, h, w] of images, [b, l] of texts, [b, d] of rows.
      errors: method by gradients -> completeness error [b].
      deletion, insertion: method, and "random" -> area under the curve [b].
      attention: of texts [layers, b, heads, l, l]; of images [layers, b, heads, rows, columns], to
        the patches from the class token or, without one, from all tokens on average; or None.
      lens: most probable tokens and their probabilities, [layers, b, l, 1] each, or None.
      instead_of: the attention backend in the place of which einsum was run for its weights, or
        None.
    """

    target: Int[Array, " b"]
    said: Float[Array, " b"]
    attributions: dict[str, Array]
    errors: dict[str, Array]
    deletion: dict[str, Array]
    insertion: dict[str, Array]
    attention: Array | None = None
    lens: tuple[Array, Array] | None = None
    instead_of: Backend | None = None


def _as_predicted(explain: Callable[..., Explained]) -> Callable[..., Explained]:
    """The model runs as in the run's steps: activations are rounded where the run's are, and layers
    gathered."""

    @wraps(explain)
    def as_predicted(run: Run, *args: Any, **options: Any) -> Explained:
        with rounding(run.config.quantization_aware), gathering_layers():
            return explain(run, *args, **options)

    return as_predicted


@_as_predicted
def explain_images(
    run: Run,
    methods: tuple[str, ...],
    replace: str,
    state: TrainState,
    batch: Batch,
    wanted: Int[Array, " b"],
    *,
    steps: int,
) -> Explained:
    """Explanations of a batch of images as loaded; a text that comes with them stays. Pure.

    Args:
      replace: of :data:`REPLACEMENTS`.
      wanted: classes to explain; -1: the one predicted.
      steps: of integrated gradients.
    """
    model, variables, data = run.model, _variables(run, state), run.config.data
    images, *rest = _inputs(run, run.task.eval_batch(batch))
    images = images.astype(jnp.float32)
    logits = model.apply(variables, images, *rest, train=False)
    target = jnp.where(wanted < 0, _predicted(run, logits), wanted)
    if replace == "black":
        black = -jnp.asarray(data.mean) / jnp.asarray(data.std)
        baseline = jnp.broadcast_to(black, (1, *images.shape[1:]))
    else:
        baseline = faithfulness.blurred(images, max(1.0, images.shape[1] / 16))
    rows, columns = (min(UNITS, n) for n in images.shape[1:3])
    maps, instead_of = _attention(methods, model, variables, images, *rest)
    patches = [n // getattr(unwrapped(model), "patch_size", 1) for n in images.shape[1:3]]
    values, errors = {}, {}
    for method in methods:
        if method in GRADIENTS:
            found = _gradients(method, steps)(
                input_score(model, variables, target, *rest), images, baseline
            )
            values[method], errors[method] = found.values.sum(-1), found.completeness_error
        elif method == "grad_cam":
            values[method] = grad_cam(model, variables, images, target, *rest)
        elif method == "rollout":
            rolled = over_patches(rollout(maps), *patches)
            values[method] = jax.image.resize(rolled, images.shape[:3], "nearest")

    said = _said(run, logits, target)

    def probability(removed: Bool[Array, "b n"]) -> Float[Array, " b"]:
        left = faithfulness.replace_units(images, baseline, removed, rows, columns)
        return _left(run, said, model.apply(variables, left, *rest, train=False), target)

    units = {k: faithfulness.image_units(v, rows, columns) for k, v in values.items()}
    everything = jnp.ones((len(images), rows * columns), bool)
    areas = _areas(probability, units, everything)
    if "attention" in methods:
        looks = over_patches(rearrange(maps, "l b h q k -> (l b h) q k"), *patches)
        maps = rearrange(looks, "(l b h) y x -> l b h y x", l=maps.shape[0], b=maps.shape[1])
    found = Explained(target, said, values, errors, *areas, instead_of=instead_of)
    return found._replace(attention=maps) if "attention" in methods else found


@_as_predicted
def explain_texts(
    run: Run,
    methods: tuple[str, ...],
    replace: str,
    state: TrainState,
    batch: Batch,
    wanted: Int[Array, " b"],
    *,
    steps: int,
) -> Explained:
    """Explanations of a batch of texts: of their class, or of a language model's next token. Pure.

    An image that comes with them stays.

    Args: see :func:`explain_images`; of texts for a language model, ``wanted`` are tokens.
    """
    model, variables, tokenizer = (
        run.model,
        _variables(run, state),
        Tokenizer.from_str(run.card.kind("text").tokenizer),
    )
    batch = run.task.eval_batch(batch)
    tokens, segments = batch["tokens"], batch["segments"]
    language = run.task.bundle.explains == "next token"
    embedding = "text/token_embed" if has_text_encoder(unwrapped(model)) else "token_embed"
    of_tokens = [k for k in ("tokens", "segments", "types") if k in (*run.task.inputs, "segments")]
    inputs = _inputs(run, batch)

    def place(segments: Int[Array, "b l"]) -> Int[Array, " b"] | None:  # of the last token
        return jnp.maximum(segments.sum(1) - 1, 0) if language else None

    def outputs(**changed: Array) -> Float[Array, "b k"]:
        found = model.apply(variables, *_inputs(run, batch | changed), train=False)
        return logits_at(found, place(changed.get("segments", segments))) if language else found

    logits = outputs()
    target = jnp.where(wanted < 0, _predicted(run, logits), wanted)
    real = (segments > 0) & ~jnp.isin(tokens, jnp.asarray(stands_for_no_text(tokenizer), jnp.int32))
    if language:  # the next token is read behind the last
        real &= jnp.arange(tokens.shape[1]) != place(segments)[:, None]
    embedded = token_embeddings(model, variables, *inputs, embedding=embedding)
    if replace == "drop":
        baseline = jnp.zeros_like(embedded)
    else:
        other = tokenizer.token_to_id(replace)
        nothing = _inputs(run, batch | {"tokens": faithfulness.replace_tokens(tokens, other, real)})
        baseline = token_embeddings(model, variables, *nothing, embedding=embedding)
    maps, instead_of = _attention(methods, model, variables, *inputs)
    values, errors = {}, {}
    for method in methods:
        if method in GRADIENTS:
            score = token_score(
                model, variables, inputs, target, place(segments), embedding=embedding
            )
            found = _gradients(method, steps)(score, embedded, baseline)
            values[method], errors[method] = found.values.sum(-1), found.completeness_error
        elif method == "rollout":
            rolled = rollout(maps, segments)
            row = place(segments) if language else jnp.zeros(len(tokens), jnp.int32)
            values[method] = jnp.take_along_axis(rolled, row[:, None, None], axis=1)[:, 0]

    said = _said(run, logits, target)

    def probability(removed: Bool[Array, "b l"]) -> Float[Array, " b"]:
        if replace == "drop":
            left = faithfulness.drop_tokens(removed, *(batch[k] for k in of_tokens))
            found = outputs(**dict(zip(of_tokens, left, strict=True)))
        else:
            found = outputs(tokens=faithfulness.replace_tokens(tokens, other, removed))
        return _left(run, said, found, target)

    return Explained(
        target,
        said,
        values,
        errors,
        *_areas(probability, values, real),
        attention=maps if "attention" in methods else None,
        lens=tuple(logit_lens(model, variables, tokens, segments, top=1))
        if "logit_lens" in methods
        else None,
        instead_of=instead_of,
    )


@_as_predicted
def explain_rows(
    run: Run,
    methods: tuple[str, ...],
    replace: str,
    state: TrainState,
    batch: Batch,
    wanted: Int[Array, " b"],
    *,
    steps: int,
) -> Explained:
    """Explanations of a batch of rows as loaded, from the mean of each column on. Pure.

    Args: see :func:`explain_images`.
    """
    model, variables = run.model, _variables(run, state)
    rows = run.task.eval_batch(batch)["features"].astype(jnp.float32)
    logits = model.apply(variables, rows, train=False)
    target = jnp.where(wanted < 0, _predicted(run, logits), wanted)
    values, errors = {}, {}
    for method in methods:
        found = _gradients(method, steps)(
            input_score(model, variables, target), rows, jnp.zeros_like(rows[:1])
        )
        values[method], errors[method] = found.values, found.completeness_error

    said = _said(run, logits, target)

    def probability(removed: Bool[Array, "b d"]) -> Float[Array, " b"]:
        found = model.apply(variables, jnp.where(removed, 0, rows), train=False)
        return _left(run, said, found, target)

    areas = _areas(probability, values, jnp.ones(rows.shape, bool))
    return Explained(target, said, values, errors, *areas)


EXPLAINERS = {"image": explain_images, "text": explain_texts, "row": explain_rows}
"""By what is taken apart."""


def _gradients(method: str, steps: int) -> Callable[..., Attribution]:
    options = {"steps": steps} if method == "integrated_gradients" else {}
    return partial(GRADIENTS[method], **options)


def _variables(run: Run, state: TrainState) -> PyTree:
    return eval_variables(state, run.config.quantization_aware)


def _attention(
    methods: tuple[str, ...], model: Module, variables: PyTree, *inputs: Array
) -> tuple[Float[Array, "layers b heads n n"] | None, Backend | None]:
    """Attention weights where a method needs them, and the backend that einsum has replaced for
    them."""
    if not {"rollout", "attention"} & {*methods}:
        return None, None
    maps, instead_of = attention_maps(model, variables, *inputs)
    return maps["attention"], None if instead_of is None else Backend(instead_of)


def _inputs(run: Run, batch: Batch) -> tuple[Array, ...]:
    """Of the model, out of a preprocessed batch; models of text always get their segments."""
    names = run.task.inputs
    return tuple(batch[k] for k in (names if names != ("tokens",) else ("tokens", "segments")))


def _predicted(run: Run, outputs: Float[Array, "b k"]) -> Int[Array, " b"]:
    """What is explained where nobody says: the most probable class or token, or the first
    number."""
    number = run.task.bundle.explains == "number"
    return jnp.zeros(len(outputs), jnp.int32) if number else outputs.argmax(-1)


def _said(run: Run, outputs: Float[Array, "b k"], target: Int[Array, " b"]) -> Float[Array, " b"]:
    """The probability of the target, or the number in the units of the data."""
    if run.task.bundle.explains == "number":
        label = run.card.label
        return logit(outputs if label is None else label.in_units(outputs), target)
    return jnp.exp(logit(jax.nn.log_softmax(outputs), target))


def _left(
    run: Run,
    whole: Float[Array, " b"],
    outputs: Float[Array, "b k"],
    target: Int[Array, " b"],
) -> Float[Array, " b"]:
    """How much of what is said of the whole input is left: the probability, or minus the distance
    from the number."""
    part = _said(run, outputs, target)
    return -jnp.abs(part - whole) if run.task.bundle.explains == "number" else part


def _areas(
    probability: faithfulness.Probability,
    units: dict[str, Float[Array, "b n"]],
    real: Bool[Array, "b n"],
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Areas under deletion and insertion curves of each method and of random order."""
    found = {name: faithfulness.curves(probability, values, real) for name, values in units.items()}
    found["random"] = faithfulness.random_curves(jax.random.key(0), probability, real)
    return tuple(
        {k: faithfulness.area(getattr(c, kind)) for k, c in found.items()}
        for kind in ("deletion", "insertion")
    )
