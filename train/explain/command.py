"""Explains what a run's model says, and measures how faithful the explanations are.

python -m train.explain --workdir=DIR INPUTS... [--method=grad_cam] [--target=CLASS] [--task=NAME]
[--out=FILE.html] python -m train.explain --workdir=DIR --split=test --count=8
python -m train.explain --workdir=DIR --split=test --count=100 --faithfulness [--json]
python -m train.explain --workdir=DIR_OF_A_TRANSLATOR "A dog runs."    (what each token of the
translation looks at)
"""

import argparse
import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer

from input_pipeline import translation_texts
from input_pipeline.given import given_texts
from input_pipeline.tokenizers import encode
from jaxmodels.adapt.multitask import OneTask, unwrapped
from jaxmodels.capture import feature_maps
from train import batches, files, strict_json
from train.config import EXAMPLES, ConfigError
from train.evaluate import for_this_machine
from train.explain import page as explain_page
from train.explain import translation as explain_translation
from train.explain.methods import EXPLAINERS, GRADIENTS, REPLACEMENTS, Explained
from train.files import is_disk_full, write_atomically
from train.launch import cli
from train.launch.workdir import read_card, read_config
from train.reading import read
from train.restore import restore
from train.run import Run
from train.setup import build
from train.sharding import batch_shards, put_batch
from train.state import TrainState
from train.tasks.names import class_name

TOKENS = 48
"""Of a window of a language model's split so many are explained."""

STEPS = 64
"""Of integrated gradients, unless --ig_steps says otherwise."""

COMPLETE = 0.01
"""Mean completeness error up to which integrated gradients are said to be complete."""


def explained(
    explain: Callable[..., Explained],
    run: Run,
    state: TrainState,
    arrays: dict[str, np.ndarray],
    wanted: int,
    methods: tuple[str, ...],
    replace: str,
    size: int,
    steps: int = STEPS,
) -> Explained:
    """Explanations of all examples by a function of :mod:`train.explain.methods`, on the host.

    ``size`` examples are explained at a time.
    """
    count, size = (
        len(next(iter(arrays.values()))),
        -(-size // batch_shards(run.mesh)) * batch_shards(run.mesh),
    )
    step, parts = jax.jit(partial(explain, run, methods, replace, steps=steps)), []
    for start in range(0, count, size):
        # the last example fills the last chunk
        rows = np.minimum(np.arange(start, start + size), count - 1)
        chunk = {k: x[rows] for k, x in arrays.items()} | {
            "wanted": np.full(size, wanted, np.int32)
        }
        with jax.set_mesh(run.mesh):
            batch = put_batch(chunk, run.mesh)
            parts.append(jax.device_get(step(state, batch, batch.pop("wanted"))))

    def joined(axis: int, *fields: Any) -> Any:
        return jax.tree.map(
            lambda *x: np.concatenate(x, axis).take(np.arange(count), axis), *fields
        )

    layered = ("attention", "lens")  # whose first axis is the layers
    found = Explained(
        *(joined(int(k in layered), *(getattr(p, k) for p in parts)) for k in Explained._fields)
    )
    order = [method for method in methods if method in found.attributions]  # jax has sorted them
    return found._replace(attributions={method: found.attributions[method] for method in order})


def first_examples(run: Run, split: str, count: int) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names and arrays of the first examples of a split; of windows of text, the first few
    tokens."""
    arrays = batches.examples(run, split, count)
    weight, label = (
        arrays["weight"],
        arrays.get(f"label_{task}" if (task := _task(run)) else "label"),
    )
    if weight.ndim == 2:
        arrays = {
            "tokens": arrays["tokens"][:, :TOKENS],
            "segments": (weight > 0).astype(np.int32)[:, :TOKENS],
        }
        weight = weight[:, 0]
    there = np.flatnonzero(weight)  # a split may have fewer
    known = np.full(len(weight), -1) if label is None else label
    names = [
        f"{split} {i}" + (f", labelled {_class(run, int(known[i]))}" if known[i] >= 0 else "")
        for i in there
    ]
    return names, {k: x[there] for k, x in arrays.items()}


def read_inputs(
    run: Run, inputs: list[str], invert: bool
) -> tuple[list[str], dict[str, np.ndarray], int]:
    """Names and arrays of what :mod:`train.predict` takes, or of texts for a language model; how
    many are unreadable.

    Raises:
      DataError: see :func:`train.predict.read`.
    """
    card = run.card
    if run.task.bundle.explains == "class":
        return read(inputs, run.config, card, invert)
    text = card.kind("text")
    given = given_texts(inputs, text.texts, cli.stdin_lines, warn=cli.warn, documents=True)
    texts = ["\t".join(parts) for parts in given]
    tokenizer = text.opened_tokenizer(card.name)
    rows = [encode(tokenizer, text, source="the text") for text in texts]
    if not all(map(len, rows)):
        raise ConfigError("an empty text has no next token to explain")
    if cut := sum(len(row) > text.max_len for row in rows):
        cli.warn(
            f"{cut} of {len(texts)} text(s) are longer than {text.max_len} tokens; their "
            "beginnings are cut off"
        )
    rows = [row[-text.max_len :] for row in rows]
    longest = max(map(len, rows))
    padded = {"tokens": rows, "segments": [np.ones_like(row) for row in rows]}
    return (
        texts,
        {k: np.stack([np.pad(x, (0, longest - len(x))) for x in v]) for k, v in padded.items()},
        0,
    )


def _task(run: Run) -> str | None:
    """The one of several tasks that is explained."""
    return run.model.task if isinstance(run.model, OneTask) else None


def _of_task(run: Run, given: str | None) -> Run:
    """A run with one of its tasks alone, the first unless another is given."""
    tasks = run.config.tasks.labels
    if given is not None and given not in tasks:
        raise ConfigError(
            f"--task={given} is none of this run's; there are {', '.join(tasks) or 'none'}"
        )
    if not tasks:
        return run
    task = given or tasks[0]
    return dataclasses.replace(run, model=OneTask(run.model, task, run.card.tasks[task]))


def _explainers(run: Run) -> dict[str, Callable[..., Explained]]:
    """By what is taken apart: images, texts or rows."""
    card, model = run.card, unwrapped(run.model)
    kinds = card.kinds
    if len(kinds) > 1 and model.fusion in kinds:  # it sees that one alone
        kinds = (model.fusion,)
    return {kind: EXPLAINERS[kind] for kind in kinds}


def _class(run: Run, number: int) -> str:
    return class_name(run.card.label_names if _task(run) in (None, "label") else (), number)


def _wanted(run: Run, text: str | None) -> int:
    if text is None:
        return -1
    if run.task.bundle.explains == "next token":
        tokens = encode(
            Tokenizer.from_str(run.card.kind("text").tokenizer), text, source=f"--target={text!r}"
        )
        if not len(tokens):
            raise ConfigError("--target is empty: give the text of a token")
        return int(tokens[0])
    names = [_class(run, i) for i in range(run.model.num_classes)]
    if text in names:
        return names.index(text)
    if text.isdigit() and int(text) < len(names):
        return int(text)
    raise ConfigError(f"--target={text!r} is no class; there are {', '.join(names)}")


def _replacements(run: Run, given: str | None) -> dict[str, str]:
    """What stands for nothing in the images, texts or rows of a run."""
    there = {kind: list(REPLACEMENTS[kind]) for kind in _explainers(run)}
    if "text" in there:
        tokenizer = Tokenizer.from_str(run.card.kind("text").tokenizer)
        there["text"] = [
            x for x in there["text"] if x == "drop" or tokenizer.token_to_id(x) is not None
        ]
    known = [x for kind in there.values() for x in kind]
    if given is not None and given not in known:
        raise ConfigError(f"--replace={given} does not suit this run; there are {', '.join(known)}")
    return {kind: given if given in suitable else suitable[0] for kind, suitable in there.items()}


def _methods(run: Run, given: list[str] | None) -> tuple[str, ...]:
    """Methods that suit a run's model; of these the given ones, if any are."""
    model, task = run.model, run.config.task
    if run.task.bundle.explains is None:
        raise ConfigError(
            f"a run with config.task = {task!r} has no class or next token to explain; "
            "give the workdir of a classifier, a language model or a translator"
        )
    there = [*GRADIENTS]
    if "image" in _explainers(run):
        variables = {"params": run.shapes.params, **run.shapes.model_state}
        batch = jax.eval_shape(
            run.task.eval_batch, batches.batch_shapes(run, batch_shards(run.mesh))[-1]
        )
        there += (
            ["grad_cam"]
            if feature_maps(model, variables, *(batch[k] for k in run.task.inputs))
            else []
        )
    there += ["rollout", "attention"] if hasattr(unwrapped(model), "attention") else []
    there += ["logit_lens"] if run.task.bundle.explains == "next token" else []
    for method in given or ():
        if method not in there:
            raise ConfigError(
                f"--method={method} does not suit {type(model).__name__}; there are "
                f"{', '.join(there)}"
            )
    return tuple(m for m in there if given is None or m in given)


def scores(found: Explained, there: np.ndarray) -> dict[str, dict[str, float | int]]:
    """Means over the examples that are there, of each method and of random order.

    Completeness errors that are not defined are left out and counted as ``undefined``.
    """
    result = {}
    for method in (*found.attributions, "random"):
        values = {}
        if method in found.errors:
            errors = found.errors[method][there]
            defined = errors[~np.isinf(errors)]
            if defined.size:
                values |= {
                    "completeness_error": float(defined.mean()),
                    "median_error": float(np.median(defined)),
                }
            values["undefined"] = errors.size - defined.size
        areas = {
            kind: float(getattr(found, kind)[method][there].mean())
            for kind in ("deletion", "insertion")
        }
        result[method] = values | areas
    return result


def remarks(
    found: dict[str, Explained], there: dict[str, np.ndarray], steps: int = STEPS
) -> list[str]:
    """What a reader of :func:`scores` must know of the images, texts or rows, a line each."""
    lines = []
    for kind, one in found.items():
        for method, errors in one.errors.items():
            defined = errors[there[kind]][np.isfinite(errors[there[kind]])]
            if method == "integrated_gradients" and defined.size and defined.mean() > COMPLETE:
                lines.append(
                    f"{kind} {method}: the parts miss the whole by {defined.mean():.1%} on average "
                    f"with {steps} steps; --ig_steps={4 * steps} comes nearer"
                )
            if undefined := np.isinf(errors[there[kind]]).sum():
                lines.append(
                    f"{kind} {method}: completeness of {undefined} of {there[kind].sum()} "
                    "examples, whose score equals the baseline's, is not defined"
                )
        if one.instead_of is not None:
            lines.append(f"attention by einsum in the place of {one.instead_of}")
    return lines


def table(result: dict[str, dict[str, float | int]]) -> str:
    """:func:`scores` as aligned text."""
    columns = ("completeness_error", "median_error", "deletion", "insertion")
    rows = [f"{'':<21}" + "".join(f"{c:>20}" for c in columns)]
    for method, values in result.items():
        rows.append(
            f"{method:<21}"
            + "".join(f"{values[c]:>20.4g}" if c in values else f"{'-':>20}" for c in columns)
        )
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> int:
    """Writes one HTML page, or prints how faithful the methods are; 1 if a file could not be read,
    the rest done."""
    parser = argparse.ArgumentParser(
        prog="python -m train.explain",
        description="Explains what a trained model says.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--workdir",
        type=files.given("--workdir"),
        required=True,
        help="workdir of a classifier, a language model or a translator",
    )
    parser.add_argument("--task", help="which of several to explain; default: the first")
    parser.add_argument(
        "--step", default="last", help='checkpoint: "last" (default), "best" or a number'
    )
    parser.add_argument(
        "--method", action="append", help="may be given several times; default: all that suit"
    )
    parser.add_argument(
        "--target", help="class, or next token, to explain; default: the one predicted"
    )
    parser.add_argument(
        "--replace",
        choices=sum(REPLACEMENTS.values(), ()),
        help="what stands for nothing: black (default) or blur; of texts the mask token (default, "
        "if there is one), the padding token, or drop: tokens are taken out, and gradients are "
        "measured from zero embeddings; of rows the mean of the column",
    )
    parser.add_argument("--split", help="explain the first examples of this split")
    parser.add_argument("--count", type=int, default=8, help="with --split: how many; default 8")
    parser.add_argument(
        "--ig_steps", type=int, default=STEPS, help="steps of integrated gradients; default 64"
    )
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument(
        "--invert", action="store_true", help="dark on light, for a model trained on light on dark"
    )
    parser.add_argument(
        "--faithfulness", action="store_true", help="print mean scores, write no page"
    )
    parser.add_argument("--json", action="store_true", help="with --faithfulness: print JSON")
    parser.add_argument(
        "--out", type=files.given("--out"), help="HTML file; default: explained.html in the workdir"
    )
    parser.add_argument(
        "--data_dir",
        type=files.given_text("--data_dir"),
        help="where the data set lies on this machine",
    )
    parser.add_argument(
        "--raw_dir", type=files.given_text("--raw_dir"), help="where its raw files lie"
    )
    parser.add_argument(
        "inputs", nargs="*", metavar="FILE_OR_TEXT", help="as python -m train.predict takes them"
    )
    args = parser.parse_args(argv)
    if bool(args.inputs) == bool(args.split):
        parser.error("give files or texts, or --split")
    if not all(1 <= n <= EXAMPLES for n in (args.count, args.batch_size, args.ig_steps)):
        parser.error(
            f"--count, --batch_size and --ig_steps must be at least 1, and at most {EXAMPLES}"
        )
    config, card = for_this_machine(read_config(args.workdir)), read_card(args.workdir)
    config.data.data_dir = args.data_dir or config.data.data_dir
    config.data.raw_dir = args.raw_dir or config.data.raw_dir
    card = card.changed("text", buckets=())  # examples as they come, not those of one length first
    run = _of_task(build(config, card=card), args.task)
    if run.task.bundle.explains == "translation":
        return explain_translations(run, args)
    methods, wanted = _methods(run, args.method), _wanted(run, args.target)
    if args.faithfulness:  # of which these have none
        methods = tuple(m for m in methods if m not in ("attention", "logit_lens"))
    replace = _replacements(run, args.replace)
    state = restore(run, args.workdir, args.step)
    if args.split:
        (names, arrays), broken = first_examples(run, args.split, args.count), 0
    else:
        names, arrays, broken = read_inputs(run, args.inputs, args.invert)
    if broken:
        cli.warn(
            f"{broken} of {broken + len(names)} file(s) could not be read; {len(names)} explained"
        )
    if not names:
        raise ConfigError("there is nothing to explain")
    if "segments" in arrays:
        longest = int(arrays["segments"].any(0).sum())
        arrays |= {
            k: arrays[k][:, :longest] for k in ("tokens", "segments", "types") if k in arrays
        }
    there, found, result = {}, {}, {}
    for kind, explain in _explainers(run).items():
        there[kind] = (
            arrays["present"][:, card.kinds.index(kind)]
            if "present" in arrays
            else np.ones(len(names), bool)
        )
        if there[kind].any():
            found[kind] = explained(
                explain,
                run,
                state,
                arrays,
                wanted,
                methods,
                replace[kind],
                args.batch_size,
                args.ig_steps,
            )
            prefix = f"{kind} " if len(card.inputs) > 1 else ""
            result |= {
                prefix + method: values
                for method, values in scores(found[kind], there[kind]).items()
            }
    if not found:
        raise ConfigError("the model sees nothing of what was given")
    notes = remarks(found, there, args.ig_steps)
    if args.faithfulness:
        heading = {"step": int(state.step)} | ({"split": args.split} if args.split else {})
        heading |= {"examples": len(names), "replace": ", ".join(replace.values())}
        if args.json:
            print(strict_json.dumps(heading | {"methods": result, "remarks": notes}, indent=2))
        else:
            print(
                "\n".join(
                    [table(result), *notes, "  ".join(f"{k} {v}" for k, v in heading.items())]
                )
            )
        return 1 if broken else 0
    sections = [
        section(run, arrays, name, {k: x for k, x in found.items() if there[k][i]}, i)
        for i, name in enumerate(names)
    ]
    about = [
        f"{config.model}, step {int(state.step)}",
        f"replaced by {', '.join(replace.values())}",
        *notes,
    ]
    print("\n".join([table(result), *notes, _write(args, about, explain_page.NOTE, sections)]))
    return 1 if broken else 0


def explain_translations(run: Run, args: argparse.Namespace) -> int:
    """Writes the page of a translator."""
    for name in ("method", "target", "replace", "faithfulness"):
        if getattr(args, name):
            raise ConfigError(
                f"--{name} is not for translators, which are explained by their cross-attention: "
                "leave it out"
            )
    if args.split:
        data = run.config.data
        where = {"data_dir": data.data_dir, "raw_dir": data.raw_dir}
        sources = translation_texts(run.card.name, args.split, run.card, **where)[0][: args.count]
    else:
        given = given_texts(
            args.inputs, run.card.kind("text").texts[:1], cli.stdin_lines, warn=cli.warn
        )
        sources = [text for (text,) in given]
    state = restore(run, args.workdir, args.step)
    sections, instead_of = explain_translation.sections(run, state, sources)
    notes = [] if instead_of is None else [f"attention by einsum in the place of {instead_of}"]
    about, note = [f"{run.config.model}, step {int(state.step)}", *notes], explain_translation.NOTE
    print("\n".join([*notes, _write(args, about, note, sections)]))
    return 0


def _write(args: argparse.Namespace, about: list[str], note: str, sections: list[str]) -> str:
    """Writes the page, and says so."""
    out = args.out or args.workdir / "explained.html"
    try:
        write_atomically(
            out, explain_page.document(str(args.workdir), "; ".join(about), note, sections)
        )
    except OSError as e:
        if is_disk_full(e):
            raise
        raise ConfigError(
            f"{out} cannot be written: {e.strerror}; give another --out=FILE.html"
        ) from e
    return f"wrote {out}: {len(sections)} examples"


def section(
    run: Run, arrays: dict[str, np.ndarray], name: str, found: dict[str, Explained], i: int
) -> str:
    """Example ``i`` as HTML, what of it was taken apart one after another."""
    content, says = "", "nothing of it is there"
    for kind, one in found.items():
        target = int(one.target[i])
        if run.task.bundle.explains == "next token":
            word = explain_page.word(Tokenizer.from_str(run.card.kind("text").tokenizer), target)
            what = f"next {word!r}"
        else:
            what = (f"{task}: " if (task := _task(run)) else "") + _class(run, target)
        says = f"{what} with probability {one.probability[i]:.4f}"
        content += {"image": _image, "text": _text, "row": _row}[kind](run, arrays, one, i)
    return explain_page.example(name, says, content)


def _image(run: Run, arrays: dict[str, np.ndarray], found: Explained, i: int) -> str:
    image = arrays["image"][i]
    overlays = {k: explain_page.overlay(image, v[i]) for k, v in found.attributions.items()}
    html = explain_page.figure(explain_page.picture(image), ["input"]) + _figures(
        overlays, found, i
    )
    return html + ("" if found.attention is None else explain_page.patches(found.attention[:, i]))


def _text(run: Run, arrays: dict[str, np.ndarray], found: Explained, i: int) -> str:
    tokenizer = Tokenizer.from_str(run.card.kind("text").tokenizer)
    words = [
        explain_page.word(tokenizer, t)
        for t in arrays["tokens"][i][arrays["segments"][i] > 0].tolist()
    ]
    length = len(words)
    html = _figures(
        {k: explain_page.coloured(words, v[i, :length]) for k, v in found.attributions.items()},
        found,
        i,
    )
    if found.lens is not None:
        tokens, probabilities = (x[:, i, :length, 0] for x in found.lens)
        says = [[explain_page.word(tokenizer, t) for t in layer] for layer in tokens.tolist()]
        html += explain_page.lens(words, says, probabilities)
    if found.attention is not None:
        html += explain_page.heads(found.attention[:, i, :, :length, :length])
    return html


def _row(run: Run, arrays: dict[str, np.ndarray], found: Explained, i: int) -> str:
    names, row = run.card.kind("row").feature_names, arrays["features"][i]
    return _figures(
        {k: explain_page.bars(names, row, v[i]) for k, v in found.attributions.items()}, found, i
    )


def _figures(pictures: dict[str, str], found: Explained, i: int) -> str:
    """A figure for each method, with its scores of example ``i``."""
    figures = []
    for method, picture in pictures.items():
        caption = [method.replace("_", " ")]
        if method in found.errors:
            error = found.errors[method][i]
            caption.append(f"completeness error {'-' if np.isinf(error) else f'{error:.2g}'}")
        for kind, areas in (("deletion", found.deletion), ("insertion", found.insertion)):
            caption.append(f"{kind} {areas[method][i]:.3f} ({areas['random'][i]:.3f})")
        figures.append(explain_page.figure(picture, caption))
    return "".join(figures)
