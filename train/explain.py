"""Explains what a run's model says, and measures how faithful the explanations are.

python -m train.explain --workdir=DIR FILES_OR_TEXTS... [--method=grad_cam] [--target=CLASS] [--out=FILE.html]
python -m train.explain --workdir=DIR --split=test --count=8
python -m train.explain --workdir=DIR --split=test --count=100 --faithfulness [--json]
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from tokenizers import Tokenizer

from input_pipeline import TextCard
from input_pipeline.tokenizers import encode
from jaxmodels.capture import feature_maps
from jaxmodels.explain import faithfulness
from jaxmodels.explain.attention import attention_maps, over_patches, rollout
from jaxmodels.explain.grad_cam import grad_cam
from jaxmodels.explain.gradients import (
    Attribution,
    image_score,
    input_gradient,
    integrated_gradients,
    logit,
    token_embeddings,
    token_score,
)
from jaxmodels.explain.logit_lens import logit_lens
from train import cli, explain_page
from train.checkpoint import is_disk_full
from train.config import ConfigError
from train.evaluate import for_this_machine, restore
from train.metrics import write_atomically
from train.predict import read_images, read_texts
from train.setup import Run, build
from train.sharding import batch_shards, put_batch
from train.state import TrainState
from train.step import Batch, eval_variables
from train.workdir import read_card, read_config

GRADIENTS: dict[str, Callable[..., Attribution]] = {
    "integrated_gradients": integrated_gradients,
    "input_gradient": input_gradient,
}
REPLACEMENTS = {"image": ("black", "blur"), "text": ("[MASK]", "[PAD]", "drop")}
"""What stands for nothing: what gradients are measured from, and what comes where pixels or tokens are removed."""

UNITS = 28  # at most so many rows and columns of an image are removed one by one
TOKENS = 48  # of a window of a language model's split that are shown


class Explained(NamedTuple):
    """Of a batch of b examples.

    Attributes:
      target: the class or token that is explained; probability: of it.
      attributions: method -> [b, h, w] or [b, l].
      errors: method by gradients -> completeness error [b].
      deletion, insertion: method, and "random" -> area under the curve [b].
      attention: [layers, b, heads, l, l], or None.
      lens: most probable tokens and their probabilities, [layers, b, l, 1] each, or None.
    """

    target: Int[Array, " b"]
    probability: Float[Array, " b"]
    attributions: dict[str, Array]
    errors: dict[str, Array]
    deletion: dict[str, Array]
    insertion: dict[str, Array]
    attention: Array | None = None
    lens: tuple[Array, Array] | None = None


def methods_of(run: Run) -> tuple[str, ...]:
    """Methods that suit a run's model.

    Raises:
      ConfigError: none does.
    """
    model, objective = run.model, run.config.objective
    if objective not in ("classification", "causal_lm"):
        raise ConfigError(
            f"a run with config.objective = {objective!r} has no class or next token to explain; "
            "give the workdir of a classifier or of a language model"
        )
    attention = ("rollout",) if hasattr(model, "attention") else ()
    if objective == "causal_lm":
        return (*GRADIENTS, *attention, "attention", "logit_lens")
    if isinstance(run.card, TextCard):
        return (*GRADIENTS, *attention)
    variables = {"params": run.shapes.params, **run.shapes.model_state}
    image = jax.ShapeDtypeStruct((1, *run.card.image_shape), jnp.float32)
    return (*GRADIENTS, *(("grad_cam",) if feature_maps(model, variables, image) else ()), *attention)


def explain_images(
    run: Run, methods: tuple[str, ...], replace: str, state: TrainState, batch: Batch, wanted: Int[Array, " b"]
) -> Explained:
    """Explanations of a batch of images as loaded. Pure.

    Args:
      replace: of :data:`REPLACEMENTS`.
      wanted: classes to explain; -1: the one predicted.
    """
    model, variables, data = run.model, eval_variables(state), run.config.data
    images = run.task.eval_batch(batch)["image"].astype(jnp.float32)
    logits = model.apply(variables, images, train=False)
    target = jnp.where(wanted < 0, logits.argmax(-1), wanted)
    if replace == "black":
        black = -jnp.asarray(data.mean) / jnp.asarray(data.std)
        baseline = jnp.broadcast_to(black, (1, *images.shape[1:]))
    else:
        baseline = faithfulness.blurred(images, max(1.0, images.shape[1] / 16))
    rows, columns = (min(UNITS, n) for n in images.shape[1:3])
    values, errors = {}, {}
    for method in methods:
        if method in GRADIENTS:
            found = GRADIENTS[method](image_score(model, variables, target), images, baseline)
            values[method], errors[method] = found.values.sum(-1), found.completeness_error
        elif method == "grad_cam":
            values[method] = grad_cam(model, variables, images, target)
        else:
            patches = (n // model.patch_size for n in images.shape[1:3])
            rolled = over_patches(rollout(attention_maps(model, variables, images).maps["attention"]), *patches)
            values[method] = jax.image.resize(rolled, images.shape[:3], "nearest")

    def probability(removed: Bool[Array, "b n"]) -> Float[Array, " b"]:
        left = faithfulness.replace_units(images, baseline, removed, rows, columns)
        return _probability(model.apply(variables, left, train=False), target)

    units = {k: faithfulness.image_units(v, rows, columns) for k, v in values.items()}
    everything = jnp.ones((len(images), rows * columns), bool)
    return Explained(target, _probability(logits, target), values, errors, *_areas(probability, units, everything))


def explain_texts(
    run: Run, methods: tuple[str, ...], replace: str, state: TrainState, batch: Batch, wanted: Int[Array, " b"]
) -> Explained:
    """Explanations of a batch of texts: of their class, or of a language model's next token. Pure.

    Args: see :func:`explain_images`; of texts for a language model, ``wanted`` are tokens.
    """
    model, variables, tokenizer = run.model, eval_variables(state), Tokenizer.from_str(run.card.tokenizer)
    tokens, segments = batch["tokens"], batch["segments"]
    inputs = tuple(batch[k] for k in ("tokens", "segments", "types") if k in (*run.task.inputs, "segments"))
    language = run.config.objective == "causal_lm"

    def place(segments: Int[Array, "b l"]) -> Int[Array, " b"] | None:  # of the last token
        return jnp.maximum(segments.sum(1) - 1, 0) if language else None

    def outputs(inputs: tuple[Array, ...]) -> Float[Array, "b k"]:
        found = model.apply(variables, *inputs, train=False)
        if not language:
            return found
        last = jnp.take_along_axis(found.hidden, place(inputs[1])[:, None, None], axis=1)
        return found._replace(hidden=last).logits[:, 0]

    logits = outputs(inputs)
    target = jnp.where(wanted < 0, logits.argmax(-1), wanted)
    special = [i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special]
    real = (segments > 0) & ~jnp.isin(tokens, jnp.asarray(special, jnp.int32))
    if language:  # the next token is read behind the last
        real &= jnp.arange(tokens.shape[1]) != place(segments)[:, None]
    embedded = token_embeddings(model, variables, *inputs)
    if replace == "drop":
        baseline = jnp.zeros_like(embedded)
    else:
        other = tokenizer.token_to_id(replace)
        nothing = faithfulness.replace_tokens(tokens, other, real)
        baseline = token_embeddings(model, variables, nothing, *inputs[1:])
    maps = (
        attention_maps(model, variables, *inputs).maps["attention"] if {"rollout", "attention"} & {*methods} else None
    )
    values, errors = {}, {}
    for method in methods:
        if method in GRADIENTS:
            score = token_score(model, variables, inputs, target, place(segments))
            found = GRADIENTS[method](score, embedded, baseline)
            values[method], errors[method] = found.values.sum(-1), found.completeness_error
        elif method == "rollout":
            rolled = rollout(maps, segments)
            row = place(segments) if language else jnp.zeros(len(tokens), jnp.int32)
            values[method] = jnp.take_along_axis(rolled, row[:, None, None], axis=1)[:, 0]

    def probability(removed: Bool[Array, "b l"]) -> Float[Array, " b"]:
        if replace == "drop":
            return _probability(outputs(faithfulness.drop_tokens(removed, *inputs)), target)
        return _probability(outputs((faithfulness.replace_tokens(tokens, other, removed), *inputs[1:])), target)

    return Explained(
        target,
        _probability(logits, target),
        values,
        errors,
        *_areas(probability, values, real),
        attention=maps if "attention" in methods else None,
        lens=tuple(logit_lens(model, variables, tokens, segments, top=1)) if "logit_lens" in methods else None,
    )


def _probability(logits: Float[Array, "b k"], target: Int[Array, " b"]) -> Float[Array, " b"]:
    return jnp.exp(logit(jax.nn.log_softmax(logits), target))


def _areas(
    probability: faithfulness.Probability, units: dict[str, Float[Array, "b n"]], real: Bool[Array, "b n"]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Areas under deletion and insertion curves of each method and of random order."""
    found = {name: faithfulness.curves(probability, values, real) for name, values in units.items()}
    found["random"] = faithfulness.random_curves(jax.random.key(0), probability, real)
    return tuple(
        {k: faithfulness.area(getattr(c, kind)) for k, c in found.items()} for kind in ("deletion", "insertion")
    )


def explained(
    run: Run,
    state: TrainState,
    arrays: dict[str, np.ndarray],
    wanted: int,
    methods: tuple[str, ...],
    replace: str,
    size: int,
) -> Explained:
    """Explanations of all examples, ``size`` of them at a time, on the host."""
    explain = explain_texts if isinstance(run.card, TextCard) else explain_images
    count, size = len(next(iter(arrays.values()))), -(-size // batch_shards(run.mesh)) * batch_shards(run.mesh)
    step, parts = jax.jit(lambda *args: explain(run, methods, replace, *args)), []
    for start in range(0, count, size):
        chunk = {k: x[start : start + size] for k, x in arrays.items()} | {
            "wanted": np.full(min(size, count - start), wanted, np.int32)
        }
        padded = {k: np.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1), "edge") for k, x in chunk.items()}
        with jax.set_mesh(run.mesh):
            batch = put_batch(padded, run.mesh)
            parts.append(jax.device_get(step(state, batch, batch.pop("wanted"))))

    def joined(axis: int, *fields: Any) -> Any:  # without what filled the last chunk
        return jax.tree.map(lambda *x: np.concatenate(x, axis).take(np.arange(count), axis), *fields)

    layered = ("attention", "lens")  # whose first axis is the layers
    return Explained(*(joined(int(k in layered), *(getattr(p, k) for p in parts)) for k in Explained._fields))


def first_examples(run: Run, split: str, count: int) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names and arrays of the first examples of a split; of windows of text, the first few tokens."""
    arrays = run.examples(split, count)
    weight, label = arrays.pop("weight"), arrays.pop("label", None)
    if weight.ndim == 2:
        arrays = {"tokens": arrays["tokens"][:, :TOKENS], "segments": (weight > 0).astype(np.int32)[:, :TOKENS]}
        weight = weight[:, 0]
    there = np.flatnonzero(weight)  # a split may have fewer
    names = [f"{split} {i}" + (f", labelled {_class(run, label[i])}" if label is not None else "") for i in there]
    return names, {k: x[there] for k, x in arrays.items()}


def read_inputs(run: Run, inputs: list[str], invert: bool) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names and arrays of image files, or texts, as :mod:`train.predict` takes them."""
    card = run.card
    if not isinstance(card, TextCard):
        names, arrays, _ = read_images([Path(x) for x in inputs], run.config, card, invert)
        return names, arrays
    if run.config.objective == "classification":
        return read_texts(inputs, card)
    texts = [text for word in inputs for text in (cli.stdin_lines() if word == "-" else [word])]
    tokenizer = Tokenizer.from_str(card.tokenizer)
    rows = [encode(tokenizer, text, source="the text") for text in texts]
    if not all(map(len, rows)):
        raise ConfigError("an empty text has no next token to explain")
    if cut := sum(len(row) > card.max_len for row in rows):
        cli.warn(f"{cut} of {len(texts)} text(s) are longer than {card.max_len} tokens; their beginnings are cut off")
    rows = [row[-card.max_len :] for row in rows]
    longest = max(map(len, rows))
    padded = {"tokens": rows, "segments": [np.ones_like(row) for row in rows]}
    return texts, {k: np.stack([np.pad(x, (0, longest - len(x))) for x in v]) for k, v in padded.items()}


def _class(run: Run, number: int) -> str:
    names = run.card.label_names
    return names[number] if number < len(names) else str(number)


def _wanted(run: Run, text: str | None) -> int:
    if text is None:
        return -1
    if run.config.objective == "causal_lm":
        return int(encode(Tokenizer.from_str(run.card.tokenizer), text, source=f"--target={text!r}")[0])
    names = [_class(run, i) for i in range(run.model.num_classes)]
    if text in names:
        return names.index(text)
    if text.isdigit() and int(text) < len(names):
        return int(text)
    raise ConfigError(f"--target={text!r} is no class; there are {', '.join(names)}")


def _replacement(run: Run, given: str | None) -> str:
    if isinstance(run.card, TextCard):
        tokenizer = Tokenizer.from_str(run.card.tokenizer)
        there = [x for x in REPLACEMENTS["text"] if x == "drop" or tokenizer.token_to_id(x) is not None]
    else:
        there = list(REPLACEMENTS["image"])
    if given is None:
        return there[0]
    if given not in there:
        raise ConfigError(f"--replace={given} does not suit this run; there are {', '.join(there)}")
    return given


def _methods(run: Run, given: list[str] | None) -> tuple[str, ...]:
    there = methods_of(run)
    for method in given or ():
        if method not in there:
            name = type(run.model).__name__
            raise ConfigError(f"--method={method} does not suit {name}; there are {', '.join(there)}")
    return tuple(m for m in there if given is None or m in given)


def scores(found: Explained, methods: list[str]) -> dict[str, dict[str, float]]:
    """Means over the examples, of each method and of random order."""
    result = {}
    for method in (*methods, "random"):
        errors = found.errors.get(method)
        of_errors = {} if errors is None else {"completeness_error": errors.mean(), "median_error": np.median(errors)}
        areas = {"deletion": found.deletion[method].mean(), "insertion": found.insertion[method].mean()}
        result[method] = {k: float(v) for k, v in (of_errors | areas).items()}
    return result


def table(result: dict[str, dict[str, float]]) -> str:
    """:func:`scores` as aligned text."""
    columns = ("completeness_error", "median_error", "deletion", "insertion")
    rows = [f"{'':<21}" + "".join(f"{c:>20}" for c in columns)]
    for method, values in result.items():
        rows.append(f"{method:<21}" + "".join(f"{values[c]:>20.4g}" if c in values else f"{'-':>20}" for c in columns))
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> int:
    """Writes one HTML page, or prints how faithful the methods are."""
    parser = argparse.ArgumentParser(
        prog="python -m train.explain", description="Explains what a trained model says.", allow_abbrev=False
    )
    parser.add_argument("--workdir", type=Path, required=True, help="workdir of a classifier or a language model")
    parser.add_argument("--step", default="last", help='checkpoint: "last" (default), "best" or a number')
    parser.add_argument("--method", action="append", help="may be given several times; default: all that suit")
    parser.add_argument("--target", help="class, or next token, to explain; default: the one predicted")
    parser.add_argument(
        "--replace",
        choices=sum(REPLACEMENTS.values(), ()),
        help="what stands for nothing: black (default) or blur; of texts the mask token (default, if there is one), "
        "the padding token, or drop: tokens are taken out, and gradients are measured from zero embeddings",
    )
    parser.add_argument("--split", help="explain the first examples of this split")
    parser.add_argument("--count", type=int, default=8, help="with --split: how many; default 8")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--invert", action="store_true", help="dark on light, for a model trained on light on dark")
    parser.add_argument("--faithfulness", action="store_true", help="print mean scores, write no page")
    parser.add_argument("--json", action="store_true", help="with --faithfulness: print JSON")
    parser.add_argument("--out", type=Path, help="HTML file; default: explained.html in the workdir")
    parser.add_argument("--data_dir", default=None, help="where the data set lies on this machine")
    parser.add_argument("--raw_dir", default=None, help="where its raw files lie")
    parser.add_argument("inputs", nargs="*", metavar="FILE_OR_TEXT", help="as python -m train.predict takes them")
    args = parser.parse_args(argv)
    if bool(args.inputs) == bool(args.split):
        parser.error("give files or texts, or --split")
    if args.count < 1 or args.batch_size < 1:
        parser.error("--count and --batch_size must be at least 1")
    config, card = for_this_machine(read_config(args.workdir)), read_card(args.workdir)
    config.data.data_dir = args.data_dir or config.data.data_dir
    config.data.raw_dir = args.raw_dir or config.data.raw_dir
    if isinstance(card, TextCard):  # examples as they come, not those of one length first
        card = dataclasses.replace(card, buckets=())
    run = build(config, card=card)
    methods, wanted = _methods(run, args.method), _wanted(run, args.target)
    replace = _replacement(run, args.replace)
    state = restore(run, args.workdir, args.step)
    if args.split:
        names, arrays = first_examples(run, args.split, args.count)
    else:
        names, arrays = read_inputs(run, args.inputs, args.invert)
    if not names:
        raise ConfigError("there is nothing to explain")
    if "segments" in arrays:
        longest = int(arrays["segments"].any(0).sum())
        arrays = {k: x[:, :longest] for k, x in arrays.items()}
    found = explained(run, state, arrays, wanted, methods, replace, args.batch_size)
    result = scores(found, [m for m in methods if m in found.attributions])
    if args.faithfulness:
        heading = {"step": int(state.step), "examples": len(names), "replace": replace}
        if args.json:
            print(json.dumps(heading | {"methods": result}, indent=2))
        else:
            print(table(result) + "\n" + "  ".join(f"{k} {v}" for k, v in heading.items()))
        return 0
    out = args.out or args.workdir / "explained.html"
    sections = [section(run, arrays, name, found, i) for i, name in enumerate(names)]
    about = f"{config.model}, step {int(state.step)}; replaced by {replace}"
    try:
        write_atomically(out, explain_page.document(str(args.workdir), about, sections))
    except OSError as e:
        if is_disk_full(e):
            raise
        raise ConfigError(f"{out} cannot be written: {e.strerror}; give another --out=FILE.html") from e
    print(f"wrote {out}: {len(names)} examples")
    return 0


def section(run: Run, arrays: dict[str, np.ndarray], name: str, found: Explained, i: int) -> str:
    """Example ``i`` as HTML."""
    if isinstance(run.card, TextCard):
        tokenizer = Tokenizer.from_str(run.card.tokenizer)
        words = [explain_page.word(tokenizer, t) for t in arrays["tokens"][i][arrays["segments"][i] > 0]]
        length, shown, extra = len(words), "", ""
        pictures = {k: explain_page.coloured(words, v[i, :length]) for k, v in found.attributions.items()}
        if found.lens is not None:
            tokens, probabilities = (x[:, i, :length, 0] for x in found.lens)
            says = [[explain_page.word(tokenizer, t) for t in layer] for layer in tokens]
            extra += explain_page.lens(words, says, probabilities)
        if found.attention is not None:
            extra += explain_page.heads(found.attention[:, i, :, :length, :length])
    else:
        image = arrays["image"][i]
        shown, extra = explain_page.figure(explain_page.picture(image), ["input"]), ""
        pictures = {k: explain_page.overlay(image, v[i]) for k, v in found.attributions.items()}
    if run.config.objective == "causal_lm":
        target = f"next {explain_page.word(tokenizer, found.target[i])!r}"
    else:
        target = _class(run, found.target[i])
    figures = [shown]
    for method, picture in pictures.items():
        caption = [method.replace("_", " ")]
        if method in found.errors:
            caption.append(f"completeness error {found.errors[method][i]:.2g}")
        for kind, areas in (("deletion", found.deletion), ("insertion", found.insertion)):
            caption.append(f"{kind} {areas[method][i]:.3f} ({areas['random'][i]:.3f})")
        figures.append(explain_page.figure(picture, caption))
    says = f"{target} with probability {found.probability[i]:.4f}"
    return explain_page.example(name, says, "".join(figures) + extra)


if __name__ == "__main__":
    sys.exit(cli.run(main))
