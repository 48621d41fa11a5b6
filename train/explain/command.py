"""Explains what a run's model says, and measures how faithful the explanations are.

python -m train.explain --workdir=DIR INPUTS... [--method=grad_cam] [--target=CLASS] [--task=NAME]
[--out=FILE.html] python -m train.explain --workdir=DIR --split=test --count=8
python -m train.explain --workdir=DIR --split=test --count=100 --faithfulness [--json]
python -m train.explain --workdir=DIR_OF_A_TRANSLATOR "A dog runs."    (what each token of the
translation looks at)
"""

import argparse

import numpy as np

from input_pipeline import translation_texts
from input_pipeline.given import given_texts
from train.config import EXAMPLES, ConfigError
from train.explain import page as explain_page
from train.explain import translation as explain_translation
from train.explain.choices import explainers, methods_of, one_task, replacements, wanted_of
from train.explain.explaining import STEPS, explained, remarks, scores, table
from train.explain.inputs import first_examples, read_inputs
from train.explain.methods import REPLACEMENTS
from train.explain.sections import section
from train.launch import cli
from train.records import files, opening, strict_json
from train.records.files import is_disk_full, write_atomically
from train.records.restore import restore
from train.run import Run
from train.setup import build


def main(argv: list[str] | None = None) -> int:
    """Writes one HTML page, or prints how faithful the methods are; 1 if a file could not be read,
    the rest done."""
    args = _parse(argv)
    config, card = opening.read(args)
    card = card.changed("text", buckets=())  # examples as they come, not those of one length first
    run = one_task(build(config, card=card), args.task)
    if run.task.bundle.explains == "translation":
        return explain_translations(run, args)
    methods, wanted = methods_of(run, args.method), wanted_of(run, args.target)
    if args.faithfulness:  # of which these have none
        methods = tuple(m for m in methods if m not in ("attention", "logit_lens"))
    replace = replacements(run, args.replace)
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
    for kind, explain in explainers(run).items():
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


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m train.explain",
        description="Explains what a trained model says.",
        allow_abbrev=False,
    )
    opening.add_flags(parser, workdir="workdir of a classifier, a language model or a translator")
    parser.add_argument("--task", help="which of several to explain; default: the first")
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
        "inputs", nargs="*", metavar="FILE_OR_TEXT", help="as python -m train.predict takes them"
    )
    args = parser.parse_args(argv)
    if bool(args.inputs) == bool(args.split):
        parser.error("give files or texts, or --split")
    if not all(1 <= n <= EXAMPLES for n in (args.count, args.batch_size, args.ig_steps)):
        parser.error(
            f"--count, --batch_size and --ig_steps must be at least 1, and at most {EXAMPLES}"
        )
    return args


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
