"""``dataset.json`` of a workdir: each value is of the type that the card says, or it is damaged."""

import json

import pytest

from input_pipeline import DatasetCard, TableCard, TextCard
from input_pipeline.features import to_json
from train.launch.workdir import WorkdirError, read_card

CARDS = (
    DatasetCard("digits", "1.0.0", {"train": 3}, (8, 8, 1), 2, ("a", "b"), "/x", {"label": 2}),
    TableCard(
        "table", "1.0.0", {"train": 3}, ("h", "w"), ("no", "yes"), (0.0, 1.5), (1.0, 2.0), "/x"
    ),
    TextCard("texts", "1.0.0", {"train": 3}, 10, 8, "{}", "/x", "labels", buckets=(4, 8)),
)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.kinds[0])
def test_a_card_is_read_as_it_was_written_or_refused(card, tmp_path):
    path, values = tmp_path / "dataset.json", to_json(card)
    path.write_text(json.dumps(values))
    assert read_card(tmp_path) == card
    for name in values:
        other = 3 if isinstance(values[name], str) else "x"
        for wrong in (
            None,
            1.5,
            3 if name == "isolate" else True,
            other,
            {"a": "b"},
            [[1]],
            float("nan"),
        ):
            path.write_text(json.dumps(values | {name: wrong}))
            with pytest.raises(WorkdirError, match=r"dataset\.json is damaged"):
                read_card(tmp_path)


@pytest.mark.parametrize("shape", [(8, 8), (0, 8, 1), (8, 8, 10**9), ()])
def test_no_image_has_such_a_shape(shape, tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps(to_json(CARDS[0]) | {"image_shape": shape}))
    with pytest.raises(WorkdirError, match=r"dataset\.json is damaged"):
        read_card(tmp_path)
