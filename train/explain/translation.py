"""What a translator's decoder looks at: greedy translations, and the cross-attention of each of
their tokens."""

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from input_pipeline.sequences import Ragged
from input_pipeline.tokenizers import encode_all, sentence_ends
from jaxmodels.decode.beam import beam_search
from jaxmodels.explain.attention import attention_maps
from train.config import ConfigError
from train.explain import page as explain_page
from train.launch import cli
from train.run import Run
from train.state import TrainState
from train.step import eval_variables

NOTE = (
    "Greedy translations. A row for each token that is written, a column for each of the source: "
    "how much the decoder looks at it while writing, the mean of the cross-attention over layers "
    "and heads."
)


def sections(run: Run, state: TrainState, sources: Sequence[str]) -> tuple[list[str], str | None]:
    """A section of the page for each source, and the attention backend in whose place einsum was
    run, if any.

    Raises:
      ConfigError: an empty source.
    """
    tokenizer, longest = Tokenizer.from_str(run.card.kind("text").tokenizer), run.card.lengths[-1]
    begin, end = sentence_ends(tokenizer, "translation")
    rows = [
        [*e.ids, end]
        for e in encode_all(tokenizer, sources, special=False, source="the text to be translated")
    ]
    if min(map(len, rows)) < 2:
        raise ConfigError("an empty text has no translation to explain")
    if cut := sum(len(row) > longest for row in rows):
        cli.warn(f"{cut} of {len(rows)} text(s) are longer than {longest} tokens and are cut")
    rows = [row[:longest] for row in rows]
    source, source_segments = _padded(rows)
    variables = eval_variables(state)
    texts, _ = beam_search(
        run.model, variables, source, source_segments, beams=1, max_len=longest, bos=begin, eos=end
    )
    tokens, segments = _padded([[begin, *text[:-1]] for text in texts])
    found, instead_of = attention_maps(
        run.model, variables, source, tokens, source_segments, segments
    )
    weights = np.asarray(found["decoder/cross_attention"].mean((0, 2)))  # [b, target, source]
    result = []
    for name, row, text, w in zip(sources, rows, texts, weights, strict=True):
        theirs, ours = ([explain_page.word(tokenizer, token) for token in x] for x in (row, text))
        says = tokenizer.decode([token for token in text if token != end])
        table = explain_page.alignment(theirs, ours, w[: len(text), : len(row)])
        result.append(explain_page.example(name, says, table))
    return result, instead_of


def _padded(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and segments [b, longest]."""
    return Ragged(rows).padded(np.arange(len(rows)), max(map(len, rows)))
