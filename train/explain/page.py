"""One self-contained HTML page of explanations: no scripts, pictures as data URIs, everything
escaped."""

import base64
import html
import io

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, decoders

FOR, AGAINST = (214, 69, 48), (58, 110, 190)
"""Colours of what speaks for and against the target."""

LENS_PLACES = 40  # the last places of a text that the lens shows

NOTE = (
    "Red speaks for the target, blue against it. Deletion and insertion: area under the "
    "probability of the target while the image's units or the text's tokens are removed, or come "
    "back, in the order of the attribution; in brackets in random order. Deletion should be lower "
    "than that, insertion higher. Where a number is explained, minus the distance from what it is "
    "for the whole input stands for the probability."
)

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em;
  color: #222 }
section { border-top: 1px solid #ccc; padding: 1em 0 }
h2 { font-size: 1.05em; margin: 0; overflow-wrap: anywhere }
img { image-rendering: pixelated; min-width: 11em; max-width: 100% }
img.wide { min-width: 0; max-width: none }
figure { display: inline-block; margin: 0 1em 1em 0; vertical-align: top }
figcaption { font-size: 0.85em }
.text { font-size: 1.1em; white-space: pre-wrap; line-height: 2 }
.text span, td { border-radius: 3px; padding: 1px 2px }
.scroll { overflow-x: auto }
.bar { display: inline-block; height: 0.8em }
table { border-collapse: collapse; font-size: 0.8em; white-space: pre }
th { font-weight: normal; color: #666; text-align: left; padding: 0 6px }
"""


def document(title: str, about: str, note: str, sections: list[str]) -> str:
    """The page.

    Args:
      title, about, note: plain text.
      sections: HTML of :func:`example`.
    """
    return (
        '<!doctype html>\n<html lang="en"><meta '
        f'charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style>\n<h1>{html.escape(title)}</h1>\n<p>{html.escape(about)}</p>\n<p>{html.escape(note)}</p>\n"
        + "\n".join(sections)
        + "\n</html>\n"
    )


def example(name: str, says: str, content: str) -> str:
    """One example: its name and what the model says, as plain text, then HTML."""
    return f"<section><h2>{html.escape(name)}</h2><p>{html.escape(says)}</p>{content}</section>"


def figure(content: str, caption: list[str]) -> str:
    """A picture or text, as HTML, with lines of plain text under it."""
    lines = "<br>".join(map(html.escape, caption))
    return f"<figure>{content}<figcaption>{lines}</figcaption></figure>"


def picture(pixels: np.ndarray, kind: str = "") -> str:
    """uint8 [h, w] or [h, w, c] as an image element."""
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels).save(
        file, "PNG"
    )
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img class="{kind}" alt="" src="data:image/png;base64,{data}">'


def overlay(pixels: np.ndarray, values: np.ndarray) -> str:
    """An attribution [h, w] over its image, uint8 [h, w, c], which is shown pale and grey."""
    grey = 0.4 * pixels.mean(-1, keepdims=True) + 0.55 * 255
    strength = _strength(values)[..., None]
    colour = np.where(strength > 0, FOR, AGAINST)
    return picture((grey + np.abs(strength) * (colour - grey)).round().astype(np.uint8))


def _strength(values: np.ndarray) -> np.ndarray:
    """Scaled to [-1, 1]; what all have is left out, and the few greatest of many are cut, so that
    the others show."""
    values = values - max(values.min(), 0)
    scale = np.quantile(np.abs(values), 0.99) or np.abs(values).max() or 1.0
    return np.clip(values / scale, -1, 1)


def word(tokenizer: Tokenizer, token: int) -> str:
    """A token as people read it; line breaks are shown."""
    text = tokenizer.id_to_token(token) or ""
    if isinstance(tokenizer.decoder, decoders.ByteLevel):
        text = tokenizer.decode([token], skip_special_tokens=False) or text
    return text.replace("\n", "⏎").replace("\t", "⇥")


def coloured(words: list[str], values: np.ndarray) -> str:
    """Tokens on the colour of their attributions."""
    spans = []
    for text, strength, value in zip(words, _strength(values), values, strict=True):
        red, green, blue = FOR if strength > 0 else AGAINST
        style = f"background: rgba({red}, {green}, {blue}, {abs(strength):.2f})"
        spans.append(f'<span style="{style}" title="{value:.4g}">{html.escape(text)}</span>')
    return f'<div class="text">{"<wbr>".join(spans)}</div>'


def bars(names: tuple[str, ...], numbers: np.ndarray, values: np.ndarray) -> str:
    """A row as a table: each column's name, number and attribution with a bar, the greatest
    first."""
    scale, rows = np.abs(values).max() or 1.0, []
    for i in np.argsort(-np.abs(values), kind="stable"):
        colour = "rgb({}, {}, {})".format(*(FOR if values[i] > 0 else AGAINST))
        width = f"{10 * abs(values[i]) / scale:.2f}em"
        bar = f'<span class="bar" style="width: {width}; background: {colour}"></span>'
        rows.append(
            f"<tr><th>{html.escape(names[i])}</th><td>{numbers[i]:.4g}</td><td>{values[i]:+.3f}</td><td>{bar}</td></tr>"
        )
    return f"<table>{''.join(rows)}</table>"


def lens(words: list[str], says: list[list[str]], probabilities: np.ndarray) -> str:
    """The logit lens: for each layer, last first, the most probable token behind each of
    ``words``."""
    first = max(0, len(words) - LENS_PLACES)
    head = "".join(f"<th>{html.escape(text)}</th>" for text in words[first:])
    rows = []
    for layer in reversed(range(len(says))):
        cells = "".join(
            f'<td style="background: rgba(70, 150, 90, {p:.2f})" '
            f'title="{p:.3f}">{html.escape(text)}</td>'
            for text, p in zip(says[layer][first:], probabilities[layer][first:], strict=True)
        )
        rows.append(f"<tr><th>{f'layer {layer}' if layer else 'embedding'}</th>{cells}</tr>")
    table = f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"
    return f'<p>Logit lens: what each layer would say next.</p><div class="scroll">{table}</div>'


def alignment(source: list[str], target: list[str], weights: np.ndarray) -> str:
    """Attention weights [target, source] as a table: a row for each token that is written, dark
    where it looks."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in source)
    rows = []
    for text, row in zip(target, weights, strict=True):
        cells = "".join(
            f'<td style="background: rgba(70, 150, 90, {w:.2f})" title="{w:.3f}">{w:.2f}</td>'
            for w in row
        )
        rows.append(f"<tr><th>{html.escape(text)}</th>{cells}</tr>")
    table = f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"
    return f'<div class="scroll">{table}</div>'


def heads(maps: np.ndarray) -> str:
    """Attention weights of texts [layers, heads, queries, keys]: dark where a query looks."""
    what = "a row of each square is a token that looks, a column one that is looked at"
    return _sheet(maps / maps.max(-1, keepdims=True), what)


def patches(maps: np.ndarray) -> str:
    """Attention weights of images [layers, heads, rows, columns]: dark where it looks."""
    # all may go to the class token
    most = np.maximum(maps.max((-2, -1), keepdims=True), np.finfo(maps.dtype).tiny)
    return _sheet(maps / most, "each square is the image, dark where it is looked at")


def _sheet(maps: np.ndarray, what: str) -> str:
    """Maps [layers, heads, h, w] in [0, 1]: a row of pictures for each layer."""
    layers, count, height, width = maps.shape
    sheet = np.full((layers * (height + 2), count * (width + 2)), 255, np.uint8)
    for layer, head in np.ndindex(layers, count):
        top, left = layer * (height + 2), head * (width + 2)
        sheet[top : top + height, left : left + width] = (235 * (1 - maps[layer, head])).round()
    scale = max(1, 96 // max(height, width))
    enlarged = sheet.repeat(scale, 0).repeat(scale, 1)
    return (
        f"<p>Attention: {layers} layers from top to bottom, {count} heads from left to right; "
        f"{what}.</p>"
        f'<div class="scroll">{picture(enlarged, "wide")}</div>'
    )
