"""Translations by beam search, and how good they are: BLEU as sacrebleu computes it."""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import sacrebleu
from jax.experimental import multihost_utils
from tokenizers import Tokenizer

from input_pipeline import translation_texts
from input_pipeline.marian import Marian, ends, source_tokens, written
from jaxmodels.decode.beam import beam_search
from jaxmodels.decode.settings import GenerationConfig, places, says_length
from train.errors import Stopped
from train.launch.cli import stdin_lines, warn
from train.options.fields import ConfigError
from train.records.files import write_atomically
from train.run import Run
from train.state import TrainState
from train.step import eval_variables
from train.task import Report
from train.tasks.writing import over

BATCH = 64
"""Sources translated at once."""

Translated = tuple[dict[str, float], list[tuple[str, str, str]]]
"""BLEU and share of exact matches; source, reference and translation of each example."""


def translate(
    model: Any,
    variables: Any,
    tokenizer: Tokenizer | Marian,
    sources: Sequence[str],
    lengths: Sequence[int],
    settings: GenerationConfig,
    *,
    max_len: int | None = None,
    seed: int = 0,
    stopping: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Translations in the order of the sources.

    Args:
      tokenizer: of sources and translations.
      lengths: to which sources are padded, ascending: one compilation each. What is longer than the
        last is cut, with a warning.
      settings: of the search; the tokenizer says with which tokens texts start and end where they
        do not.
      max_len: places of a translation, its start token's included; default: as the settings say, or
        the last of ``lengths``.
      seed: of the draws, if the settings ask for them.

    Returns:
      As many for each source as ``settings.num_return_sequences`` says, or 1, the best first.

    Raises:
      Stopped: ``stopping`` said so.
    """
    begin, end = ends(tokenizer, "translation")
    settings = dataclasses.replace(
        settings,
        start=begin if settings.start is None else settings.start,
        stop=settings.stop or (end,),
    )
    if max_len is None:
        max_len = places(settings, 1, lengths[-1]) if says_length(settings) else lengths[-1]
    rows = [
        [*ids, end] for ids in source_tokens(tokenizer, sources, source="the text to be translated")
    ]
    longer = sum(len(row) > lengths[-1] for row in rows)
    if longer:
        warn(
            f"{longer:,} of {len(rows):,} sources are longer than {lengths[-1]} tokens and are cut"
        )
    rows = [row[: lengths[-1]] for row in rows]
    count = settings.num_return_sequences or 1
    found, size = [[""] * count for _ in rows], min(BATCH, 1 << (len(rows) - 1).bit_length())
    for indices, length in _batches([len(row) for row in rows], lengths):
        if stopping():
            raise Stopped
        tokens, segments = np.zeros((2, size, length), np.int32)
        segments[:, 0] = 1  # rows that only fill up have one token
        for i, index in enumerate(indices):
            tokens[i, : len(rows[index])], segments[i, : len(rows[index])] = rows[index], 1
        texts, _ = beam_search(
            model, variables, tokens, segments, max_len=max_len, settings=settings, seed=seed
        )
        for i, index in enumerate(indices):
            if len(rows[index]) == 1:
                continue  # an empty source has an empty translation
            ours = texts[count * i : count * (i + 1)]
            found[index] = [
                written(tokenizer, [t for t in text if t not in settings.stop]) for text in ours
            ]
    return [text for texts in found for text in texts]


def settings_of(options: Any) -> GenerationConfig:
    """The search by which a run is measured, by the options of its task."""
    return GenerationConfig(beams=options.beams, length_penalty=options.length_penalty)


def _batches(sizes: list[int], lengths: Sequence[int]) -> Iterator[tuple[list[int], int]]:
    """Indices of at most BATCH sources of about the same length, and what they are padded to."""
    need = np.searchsorted(lengths, sizes)
    for i, length in enumerate(lengths):
        indices = np.flatnonzero(need == i).tolist()
        for start in range(0, len(indices), BATCH):
            yield indices[start : start + BATCH], length


def measure(run: Any, state: TrainState, split: str, stopping: Callable[[], bool]) -> Translated:
    """Scores of a split, and its sources, references and translations.

    Raises:
      Stopped: ``stopping`` said so.
    """
    card = run.card
    sources, references = translation_texts(
        card.name, split, card, data_dir=run.config.data.data_dir, raw_dir=run.config.data.raw_dir
    )
    variables = eval_variables(state)
    if jax.process_count() > 1:
        variables = multihost_utils.process_allgather(variables, tiled=True)
    tokenizer = Tokenizer.from_str(card.kind("text").tokenizer)
    settings = settings_of(run.config.options)
    found = translate(
        run.model, variables, tokenizer, sources, card.lengths, settings, stopping=stopping
    )
    exact = np.mean([a.strip() == b.strip() for a, b in zip(found, references, strict=True)])
    scores = {
        "bleu": bleu(found, references, run.config.options.bleu_tokenizer),
        "exact_match": float(exact),
    }
    return scores, list(zip(sources, references, found, strict=True))


def write(run: Run, state: TrainState, given: Mapping[str, Any], args: Any) -> int:
    """Translates with a run; see :func:`write_translations`.

    Args:
      given: settings of the command line.
      args: its other flags.
    """
    return write_translations(
        run.model,
        eval_variables(state),
        Tokenizer.from_str(run.card.kind("text").tokenizer),
        run.card.lengths,
        settings_of(run.config.options),
        args,
        given=given,
    )


def write_translations(
    model: Any,
    variables: Any,
    tokenizer: Tokenizer | Marian,
    lengths: Sequence[int],
    settings: GenerationConfig,
    args: Any,
    *,
    given: Mapping[str, Any],
) -> int:
    """Prints the translation of the prompt, or of every line of standard input.

    Args: as of :func:`translate`; ``given`` goes over the settings.
    """
    if args.stop:
        raise ConfigError(
            f"--stop={args.stop[0]} is for language models: a translation ends with its end token "
            "alone"
        )
    settings = over(settings, given)
    sources = [args.prompt] if args.prompt else stdin_lines()
    start = time.perf_counter()
    try:
        found = translate(model, variables, tokenizer, sources, lengths, settings, seed=args.seed)
    except ValueError as e:
        raise ConfigError(str(e)) from e
    print("\n".join(found))
    seconds = time.perf_counter() - start
    print(f"{len(found)} texts in {seconds:.2f} s, compilation included", file=sys.stderr)
    return 0


def bleu(translations: Sequence[str], references: Sequence[str], tokenizer: str = "13a") -> float:
    """BLEU of a corpus with one reference each (Papineni et al. 2002), 0 to 100."""
    return float(_metric(tokenizer).corpus_score(list(translations), [list(references)]).score)


def bleu_signature(tokenizer: str) -> str:
    """How :func:`bleu` is computed, in sacrebleu's words (Post 2018): to be stated with a score."""
    metric = _metric(tokenizer)
    metric.corpus_score([""], [[""]])  # it learns here how many references there are
    return str(metric.get_signature())


def _metric(tokenizer: str) -> sacrebleu.metrics.BLEU:
    return sacrebleu.metrics.BLEU(tokenize=tokenizer)


def _write(
    run: Any, found: Translated, values: dict[str, Any], workdir: Path, split: str
) -> tuple[str, ...]:
    rows = [("source", "reference", "translation"), *found[1]]
    lines = ("\t".join(" ".join(text.split()) for text in row) + "\n" for row in rows)
    write_atomically(workdir / "translations.tsv", "".join(lines))
    return ("translations.tsv",)


REPORT = Report(
    "translations",
    measure=measure,
    means=lambda found: found[0],
    values=lambda run, found: {"bleu_signature": bleu_signature(run.config.options.bleu_tokenizer)},
    lines=lambda values: [f"BLEU as sacrebleu's {values['bleu_signature']}"],
    files=_write,
)
"""BLEU of the translations of a split, and ``translations.tsv``."""
