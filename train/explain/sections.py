"""The part of the page that is of one example: its images, texts or rows, with every method's
attributions."""

import numpy as np
from tokenizers import Tokenizer

from train.explain import page as explain_page
from train.explain.choices import shown_class, task_of
from train.explain.methods import Explained
from train.run import Run


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
            what = (f"{task}: " if (task := task_of(run)) else "") + shown_class(run, target)
        number = run.task.bundle.explains == "number"
        says = f"{what} {'=' if number else 'with probability'} {one.said[i]:.4f}"
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
