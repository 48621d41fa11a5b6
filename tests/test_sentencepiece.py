"""Tokenizers from SentencePiece models, and translations by a Marian with its own files: as
transformers has them."""

import json
import random
import shutil
from pydoc_data.topics import topics

import pytest
import sentencepiece
import torch

from input_pipeline import DataError, marian
from input_pipeline.tokenizers import load_tokenizer
from jaxmodels import originals
from tests.test_tokenizer_settings import compare
from train import generate

FILES = {
    "T5Tokenizer": "spiece.model",
    "AlbertTokenizer": "spiece.model",
    "XLMRobertaTokenizer": "sentencepiece.bpe.model",
    "LlamaTokenizer": "tokenizer.model",
}
LINES = [
    line
    for name in ("for", "if", "while", "try", "with")
    for line in topics[name].split("\n")
    if line.strip()
]
LINES += [
    "héllo wörld ñandú ﬁne Ünïcödé",
    "中文字 日本語 テスト",
    "Привет мир",
    "it ' s a . b <ent>",
] * 20
LETTERS = "abcdeéüßñ中文日本テスト\U0001f642\U0001f469\u200d\U0001f469 \t\n\u2028\u200b\u0301\u0323\u0302\x00\x01\xa0"
LETTERS += "\u05e9\u05dc\u05d5\u05dd مرحبا.,'\"\ufb01①Ⅳ가\u1100\u1161\u11a8▁<>"


def texts(count):
    rng = random.Random(0)
    fixed = [
        "Hello world",
        "  two  spaces ",
        "",
        "   ",
        "a </s> b",
        "<unk> x <pad> <s>",
        "x <ent> y",
        "it ' s a . b",
    ]
    fixed += [
        "<extra_id_0> a <extra_id_5>",
        "[CLS] a [MASK]",
        "q" * 300,
        ">>de<< Hello",
        ">>xx<< if",
        "a >>de<< b",
    ]
    fixed += [
        ">> no << x",
        ">>de<<",
        "</s> a </s>b",
        "a<ent>b <ent>",
        "e\u0301 a\u0323\u0302 \ufb01\u0301",
    ]
    return [
        *fixed,
        *("".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 30))) for _ in range(count)),
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """SentencePiece models of several settings, by name."""
    directory = tmp_path_factory.mktemp("models")
    bert = {
        "pad_id": 0,
        "unk_id": 1,
        "bos_id": -1,
        "eos_id": -1,
        "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
    }
    plain = {
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
    }
    unigram, bpe = (
        {"model_type": "unigram", "vocab_size": 250},
        {"model_type": "bpe", "vocab_size": 600},
    )
    made = {
        "t5": unigram | {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
        "plain": unigram | {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1} | plain,
        "symbols": unigram
        | {"user_defined_symbols": ["<ent>", "x y"], "control_symbols": ["<ctl>"]},
        "folded": unigram | bert | {"normalization_rule_name": "nmt_nfkc_cf"},
        "bytes": bpe | {"byte_fallback": True, "normalization_rule_name": "identity"},
        "bpe": bpe | {"user_defined_symbols": ["<ent>"]},
    }
    for name, options in made.items():
        prefix = str(directory / name)
        options |= {"minloglevel": 2, "character_coverage": 0.999, "num_threads": 1}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LINES), model_prefix=prefix, **options
        )
    return {name: directory / f"{name}.model" for name in made}


KEYS = {
    "T5Tokenizer": {"extra_ids": [0, 10]},
    "AlbertTokenizer": {
        "do_lower_case": [True, False],
        "keep_accents": [True],
        "add_bos_token": [False],
    },
    "XLMRobertaTokenizer": {"add_prefix_space": [True, False], "bos_token": ["<s>"]},
    "LlamaTokenizer": {"legacy": [True, False], "add_bos_token": [True], "add_eos_token": [True]},
}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("T5Tokenizer", ("t5", "plain", "symbols")),
        ("AlbertTokenizer", ("folded",)),
        ("XLMRobertaTokenizer", ("symbols", "bpe")),
        ("LlamaTokenizer", ("bytes", "bpe", "symbols")),
    ],
)
def test_models_of_each_class_give_what_transformers_gives(kind, names, trained, tmp_path):
    read, rng = 0, random.Random(3)
    cases = [{}, *({key: value} for key, values in KEYS[kind].items() for value in values)]
    cases += [{"add_prefix_space": False}] if kind == "LlamaTokenizer" else []
    end = {
        "__type": "AddedToken",
        "content": "</s>",
        "lstrip": True,
        "rstrip": True,
        "normalized": True,
    }
    cases += [
        {"clean_up_tokenization_spaces": True},
        {"additional_special_tokens": ["<ent>"]},
        {"eos_token": end},
    ]
    cases += [{"pad_token": "<new>"}, {"made_up": 1}, {"sp_model_kwargs": {"alpha": 0.1}}]
    for i, config in enumerate(cases):
        path = tmp_path / str(i)
        path.mkdir()
        shutil.copy(trained[rng.choice(names)], path / FILES[kind])
        (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, **config}))
        said = compare(path, texts(25))
        assert not said or next(iter(config)) in said
        read += not said
    assert read >= len(cases) - 3


def test_a_model_whose_class_is_not_said_is_refused(trained, tmp_path):
    shutil.copy(trained["t5"], tmp_path / "spiece.model")
    for where in (tmp_path, tmp_path / "spiece.model"):
        with pytest.raises(
            DataError, match=r"no tokenizer_class in a tokenizer_config\.json beside it says whose"
        ):
            load_tokenizer(where)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "XLNetTokenizer"}')
    with pytest.raises(DataError, match="it is of 'XLNetTokenizer': T5Tokenizer, AlbertTokenizer"):
        load_tokenizer(tmp_path)


def test_damaged_models_end_in_one_line(trained, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    whole, rng, refused = trained["t5"].read_bytes(), random.Random(0), 0
    damaged = [b"", b"no model", whole[: len(whole) // 2], whole[::-1]]
    for _ in range(40):
        changed = bytearray(whole)
        for _ in range(rng.randint(1, 20)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        damaged.append(bytes(changed))
    for content in damaged:
        (tmp_path / "spiece.model").write_bytes(content)
        try:
            load_tokenizer(tmp_path).encode("a text")
        except DataError as error:
            assert len(str(error)) <= 500 and "\n" not in str(error)
            refused += 1
    assert refused > 30


def marian_files(path, trained, source="symbols", target="folded", **config):
    """Marian's own files, whose vocabulary lacks some pieces of both models and has some of
    neither."""
    path.mkdir(exist_ok=True)
    shutil.copy(trained[source], path / "source.spm")
    shutil.copy(trained[target], path / "target.spm")
    rng, pieces = random.Random(0), set()
    for name in (source, target):
        model = sentencepiece.SentencePieceProcessor(model_file=str(trained[name]))
        pieces |= {model.id_to_piece(i) for i in range(len(model)) if rng.random() < 0.9}
    pieces = sorted((pieces | {">>de<<", "中文"}) - {"</s>", "<unk>", "<pad>"})
    numbers = {piece: i for i, piece in enumerate(["</s>", "<unk>", *pieces, "<pad>"])}
    (path / "vocab.json").write_text(json.dumps(numbers))
    (path / "tokenizer_config.json").write_text(
        json.dumps({"source_lang": "en", "target_lang": "de", **config})
    )
    return numbers


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
@pytest.mark.parametrize(
    ("source", "config"),
    [
        ("t5", {}),
        ("symbols", {"clean_up_tokenization_spaces": True, "additional_special_tokens": ["<ent>"]}),
        (
            "bytes",
            {
                "eos_token": {
                    "__type": "AddedToken",
                    "content": "</s>",
                    "lstrip": True,
                    "rstrip": True,
                }
            },
        ),
        (
            "bpe",
            {
                "added_tokens_decoder": {
                    "0": {"content": "</s>", "special": True, "lstrip": True, "rstrip": True}
                }
            },
        ),
        (
            "plain",
            {
                "added_tokens_decoder": {
                    "900": {"content": "<ent>", "single_word": True, "normalized": True}
                }
            },
        ),
    ],
)
def test_marian_files_give_what_transformers_gives(source, config, trained, tmp_path):
    numbers, rng = marian_files(tmp_path, trained, source, **config), random.Random(1)
    theirs = originals.transformers().MarianTokenizer.from_pretrained(tmp_path)
    ours = marian.load(tmp_path)
    assert (
        isinstance(ours, marian.Marian)
        and ours.end == theirs.eos_token_id
        and ours.pad == theirs.pad_token_id
    )
    given = texts(60)
    for text, found in zip(given, marian.source_tokens(ours, given, source="x"), strict=True):
        assert [*found, ours.end] == theirs(text)["input_ids"], text
        for ids in (found, [rng.randrange(len(numbers)) for _ in range(9)]):
            assert marian.written(ours, ids) == theirs.decode(ids, skip_special_tokens=True), text


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"vocab.json": "{}"}, "has no number for unk_token '<unk>'"),
        ({"vocab.json": '{"<unk>": 0, "</s>": 1}'}, "has no number for pad_token|<pad>"),
        ({"source.spm": ""}, "holds 0 pieces"),
        ({"source.spm": None}, "lacks source.spm: Marian's tokenizer is"),
        (
            {"tokenizer_config.json": '{"separate_vocabs": true}'},
            "'separate_vocabs' = True is not applied",
        ),
        ({"tokenizer_config.json": '{"sp_model_kwargs": {"alpha": 1}}'}, "'sp_model_kwargs' = "),
    ],
)
def test_marian_files_that_cannot_be_read(changed, words, trained, tmp_path):
    marian_files(tmp_path, trained)
    for name, content in changed.items():
        (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)
    if words.endswith("<pad>"):  # a special token that is in no file is put behind the vocabulary
        assert marian.load(tmp_path).pad == 2
        return
    with pytest.raises(DataError, match=words):
        marian.load(tmp_path)


def test_one_tokenizer_for_training_is_not_made_of_marian_files(trained, tmp_path):
    marian_files(tmp_path, trained)
    with pytest.raises(
        DataError, match=r"train\.generate --weights reads them; to train, give a tokenizer\.json"
    ):
        load_tokenizer(tmp_path)


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_a_directory_as_it_is_on_the_hub_translates(trained, tmp_path, capsys):
    """A model and its tokenizer as transformers saves them, without a tokenizer.json."""
    library = originals.transformers()
    numbers = marian_files(tmp_path / "files", trained, "t5")
    size = len(numbers)
    special = {"pad_token_id": size - 1, "decoder_start_token_id": size - 1, "eos_token_id": 0}
    sizes = {
        "d_model": 16,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": 32,
    }
    layers = {
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
    }
    config = library.MarianConfig(
        vocab_size=size, init_std=0.6, forced_eos_token_id=None, **special, **sizes, **layers
    )
    torch.manual_seed(0)
    twin = library.MarianMTModel(config).eval()
    twin.generation_config = library.GenerationConfig(
        bad_words_ids=[[size - 1]], max_length=32, **special
    )
    twin.save_pretrained(tmp_path / "hub")
    tokenizer = library.MarianTokenizer.from_pretrained(tmp_path / "files")
    tokenizer.save_pretrained(tmp_path / "hub")
    names = {path.name for path in (tmp_path / "hub").iterdir()}
    assert {"source.spm", "target.spm", "vocab.json"} <= names and "tokenizer.json" not in names
    found = []
    for text, beams in (
        ("The for statement.", 3),
        (">>de<< if  while \u4e2d\u6587", 3),
        ("The for statement.", 1),
    ):
        ids = twin.generate(
            **tokenizer([text], return_tensors="pt"), num_beams=beams, do_sample=False
        )
        assert (
            generate.main([f"--weights={tmp_path / 'hub'}", f"--prompt={text}", f"--beams={beams}"])
            == 0
        )
        found.append(capsys.readouterr().out.removesuffix("\n"))
        assert found[-1] == tokenizer.decode(ids[0], skip_special_tokens=True)
    assert len({*found}) > 1 and all(found)
