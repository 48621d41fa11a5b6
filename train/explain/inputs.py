"""Examples that are explained: the first of a split, or what a person gives."""

import numpy as np

from input_pipeline.given import given_texts
from input_pipeline.tokenizers import encode
from train import batches
from train.config import ConfigError
from train.explain.choices import shown_class, task_of
from train.launch import cli
from train.records.reading import read
from train.run import Run

TOKENS = 48
"""Of a window of a language model's split so many are explained."""


def first_examples(run: Run, split: str, count: int) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names and arrays of the first examples of a split; of windows of text, the first few
    tokens."""
    arrays = batches.examples(run, split, count)
    weight, label = (
        arrays["weight"],
        arrays.get(f"label_{task}" if (task := task_of(run)) else "label"),
    )
    if weight.ndim == 2:
        arrays = {
            "tokens": arrays["tokens"][:, :TOKENS],
            "segments": (weight > 0).astype(np.int32)[:, :TOKENS],
        }
        weight = weight[:, 0]
    there = np.flatnonzero(weight)  # a split may have fewer
    names = [f"{split} {i}" + _labelled(run, label, i) for i in there.tolist()]
    return names, {k: x[there] for k, x in arrays.items()}


def _labelled(run: Run, label: np.ndarray | None, i: int) -> str:
    """The label of an example in words; "" if it has none."""
    if label is None:
        return ""
    if np.issubdtype(label.dtype, np.floating):
        return f", labelled {' '.join(f'{x:g}' for x in label[i].reshape(-1))}"
    return f", labelled {shown_class(run, int(label[i]))}" if label[i] >= 0 else ""


def read_inputs(
    run: Run, inputs: list[str], invert: bool
) -> tuple[list[str], dict[str, np.ndarray], int]:
    """Names and arrays of what :mod:`train.predict` takes, or of texts for a language model; how
    many are unreadable.

    Raises:
      DataError: see :func:`train.predict.read`.
    """
    card = run.card
    if run.task.bundle.explains != "next token":
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
