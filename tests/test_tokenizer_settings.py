"""Directories of tokenizers: each setting beside a vocabulary gives what transformers gives, or is
refused by name."""

import inspect
import json
import random
import resource
import time

import pytest
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from input_pipeline import DataError
from input_pipeline.tokenizers import END_OF_TEXT, fingerprint, load_tokenizer
from jaxmodels import originals

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>", "<unk>", "<pad>", "<mask>"]
BERT = [*SPECIAL, *"üu中文axbeé<>!.',s", "中文", "##b", "##x", "##a", "ent", "##ent"]
BYTES = [
    *SPECIAL[5:],
    "<|endoftext|>",
    *sorted(pre_tokenizers.ByteLevel.alphabet()),
    "Ġa",
    "ab",
    "Ġ<",
]
TEXTS = [
    *(
        "Ü a x",
        "ü ab",
        "中文 a",
        "a <ent> b",
        "a<ent>b ENT",
        "<s> a </s> [MASK] b <mask>",
        "",
        "  ",
        "é É e\u0301",
    ),
    *(
        "a\x00b\t x\u2028a\u200b",
        "<ENT> a [CLS]",
        "a ' s . b",
        "xx <|endoftext|> a",
        "a  <ent>  b",
        "x" * 120,
    ),
    *("\u202e\u05e9\u05dc\u05d5\u05dd \U0001f642 a\u0323\u0301\u0302 \ufb01", " a", "a\r\nb"),
]


def directory(path, kind, **files):
    """A directory with the vocabulary of a class, and files of these contents."""
    path.mkdir(parents=True)
    if kind == "BertTokenizer":
        (path / "vocab.txt").write_text("\n".join(BERT) + "\n")
    else:
        (path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(BYTES)}))
        (path / "merges.txt").write_text("#version: 0.2\nĠ a\na b\nĠ <\n")
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def compare(path, texts=TEXTS):
    """Ours and transformers' give the same, also for pairs and back; says whether ours could be
    read."""
    auto = originals.transformers().AutoTokenizer
    try:
        ours = load_tokenizer(path)
    except DataError as error:
        assert len(str(error)) <= 500 and "\n" not in str(error)
        return str(error)
    theirs = auto.from_pretrained(path)
    for text in texts:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text).ids == ids, text
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids), text
    pair = ours.encode("a b", "x")
    found = theirs("a b", "x", return_token_type_ids=True)
    assert (pair.ids, pair.type_ids) == (found["input_ids"], found["token_type_ids"])
    return ""


def token(content, rng):
    flags = {name: rng.random() < 0.4 for name in ("lstrip", "rstrip", "single_word", "normalized")}
    return {"content": content, **flags, "special": rng.random() < 0.5}


def choices(kind, rng):
    """Values of keys, of which one or several are tried."""
    size = len(BERT if kind == "BertTokenizer" else BYTES)
    added = {
        "added_tokens_decoder": [
            {str(size): token("<ent>", rng)},
            {str(size + 5): token("<ent>", rng)},
        ]
    }
    added["added_tokens_decoder"].append(
        {str(size): token("<ent>", rng), str(size + 1): token("ENT", rng)}
    )
    special = {
        "bos_token": ["<s>", {"__type": "AddedToken", **token("<s>", rng)}],
        "eos_token": ["</s>", None],
        "unk_token": ["<unk>"],
        "sep_token": ["</s>"],
        "pad_token": ["<pad>"],
        "cls_token": ["<s>", {"__type": "AddedToken", **token("<s>", rng)}],
        "mask_token": ["<mask>", {"__type": "AddedToken", **token("<mask>", rng)}],
        "additional_special_tokens": [["<ent>"], ["<ent>", "x"], []],
        "extra_special_tokens": [["<ENT>"], {"ent_token": "<ent>"}],
        "image_token": ["<ent>"],
    }
    flags = (
        "clean_up_tokenization_spaces",
        "split_special_tokens",
        "add_bos_token",
        "add_eos_token",
        "made_up",
    )
    own = inspect.signature(getattr(originals.transformers(), kind).__init__).parameters
    own_flags = {name for name, p in own.items() if isinstance(p.default, bool)} | (
        {"strip_accents"} & own.keys()
    )
    return added | special | {key: [True, False] for key in [*flags, *sorted(own_flags)]}


@pytest.mark.parametrize("kind", ["BertTokenizer", "GPT2Tokenizer", "RobertaTokenizer"])
def test_each_key_gives_what_transformers_gives_or_is_refused_by_name(kind, tmp_path):
    read, rng = 0, random.Random(0)
    known = choices(kind, rng)
    own = inspect.signature(getattr(originals.transformers(), kind).__init__).parameters
    # none is forgotten here
    assert own.keys() - known.keys() <= {"self", "vocab", "merges", "errors", "kwargs"}
    for key, values in known.items():
        for i, value in enumerate(values):
            config = {"tokenizer_class": kind, key: value}
            said = compare(directory(tmp_path / f"{key}{i}", kind, tokenizer_config=config))
            read += not said
            assert not said or key in said or "gives the added token" in said
    assert read >= 20


@pytest.mark.parametrize("kind", ["BertTokenizer", "GPT2Tokenizer", "RobertaTokenizer"])
def test_files_together_give_what_transformers_gives(kind, tmp_path):
    read, rng = 0, random.Random(1)
    for i in range(30):
        known = choices(kind, rng) | {
            "split_special_tokens": [False],
            "made_up": [None],
            "add_eos_token": [None],
        }
        config = {"tokenizer_class": rng.choice([kind, f"{kind}Fast"])}
        config |= {key: rng.choice(values) for key, values in known.items() if rng.random() < 0.25}
        files = {"tokenizer_config": config}
        if rng.random() < 0.5:
            plain = {
                "cls_token": "<s>",
                "sep_token": "</s>",
                "unk_token": {**token("<unk>", rng)},
                "pad_token": "<pad>",
            }
            files["special_tokens_map"] = {
                key: value for key, value in plain.items() if rng.random() < 0.5
            }
        if rng.random() < 0.3:
            size = len(BERT if kind == "BertTokenizer" else BYTES)
            files["added_tokens"] = {"<ent>": size, "ENT": size + 1}
        read += not compare(directory(tmp_path / str(i), kind, **files))
    assert read >= 15


@pytest.mark.parametrize("kind", ["BertTokenizer", "GPT2Tokenizer"])
def test_settings_beside_a_tokenizer_json_go_over_it(kind, tmp_path):
    read, rng = 0, random.Random(2)
    auto = originals.transformers().AutoTokenizer
    for i in range(25):
        first = {
            "tokenizer_class": kind,
            "additional_special_tokens": ["<ent>"],
            "do_lower_case": rng.random() < 0.5,
        }
        if kind == "GPT2Tokenizer":
            first["add_prefix_space"] = first.pop("do_lower_case")
        saved = tmp_path / f"saved{i}"
        auto.from_pretrained(
            directory(tmp_path / str(i), kind, tokenizer_config=first)
        ).save_pretrained(saved)
        written = json.loads((saved / "tokenizer_config.json").read_text())
        known = choices(kind, rng) | {"split_special_tokens": [False]}
        written |= {key: rng.choice(values) for key, values in known.items() if rng.random() < 0.2}
        (saved / "tokenizer_config.json").write_text(json.dumps(written))
        read += not compare(saved)
    assert read >= 15


def test_a_tokenizer_json_that_contradicts_silent_settings_is_refused(tmp_path):
    auto = originals.transformers().AutoTokenizer
    cased = {"tokenizer_class": "BertTokenizer", "do_lower_case": False}
    auto.from_pretrained(
        directory(tmp_path / "a", "BertTokenizer", tokenizer_config=cased)
    ).save_pretrained(tmp_path / "b")
    assert load_tokenizer(tmp_path / "b").encode("Ü").tokens == ["[CLS]", "[UNK]", "[SEP]"]
    (tmp_path / "b" / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    with pytest.raises(
        DataError, match=r"tokenizer.json contradicts tokenizer_config.json: its normalizer"
    ):
        load_tokenizer(tmp_path / "b")
    load_tokenizer(tmp_path / "b" / "tokenizer.json")  # read alone
    (tmp_path / "a" / "vocab.txt").write_text("\n".join([*BERT, "Hello"]) + "\n")
    (tmp_path / "a" / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    with pytest.raises(
        DataError,
        match=r"'Hello', and tokenizer_config.json beside it says nothing of do_lower_case",
    ):
        load_tokenizer(tmp_path / "a")


def test_a_gpt2_may_end_otherwise(tmp_path):
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "</s>")
    path = directory(tmp_path / "a", "GPT2Tokenizer", tokenizer_config=names)
    (path / "vocab.json").write_text(
        json.dumps({token: i for i, token in enumerate(BYTES) if i != 5})
    )
    assert "<|endoftext|>" not in load_tokenizer(path).get_vocab()
    assert load_tokenizer(path).encode("a</s>").ids[-1] == 1


def as_before(path, kind, lowercase):
    """What was made of such a directory when no settings but ``do_lower_case`` were read."""
    if kind == "BertTokenizer":
        tokenizer = Tokenizer(
            models.WordPiece.from_file(str(path / "vocab.txt"), unk_token="[UNK]")
        )
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        tokenizer.pre_tokenizer, tokenizer.decoder = (
            pre_tokenizers.BertPreTokenizer(),
            decoders.WordPiece(),
        )
        tokenizer.add_special_tokens(SPECIAL[:5])
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    else:
        tokenizer = Tokenizer(
            models.BPE.from_file(str(path / "vocab.json"), str(path / "merges.txt"))
        )
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("BertTokenizer", None),
        (
            "BertTokenizer",
            {
                "do_lower_case": False,
                "strip_accents": None,
                "never_split": None,
                "cls_token": "[CLS]",
            },
        ),
        ("GPT2Tokenizer", None),
        (
            "GPT2Tokenizer",
            {"eos_token": {"__type": "AddedToken", "content": END_OF_TEXT, "normalized": True}},
        ),
    ],
)
def test_tokenizers_of_before_are_the_same(kind, config, tmp_path):
    """Their digests are in the names of caches."""
    files = {} if config is None else {"tokenizer_config": config}
    path = directory(tmp_path / "a", kind, **files)
    assert load_tokenizer(path).to_str() == as_before(path, kind, config is None).to_str()


def test_cleaning_up_leaves_digests_as_they_were(tmp_path):
    """Cleaning up decoded texts leaves the digest of the tokenizer alone."""
    cleaned = {"clean_up_tokenization_spaces": True, "do_lower_case": True}
    path = directory(tmp_path / "a", "BertTokenizer", tokenizer_config=cleaned)
    tokenizer = load_tokenizer(path)
    assert tokenizer.decode(tokenizer.encode("a ' s").ids) == "a's"
    assert fingerprint(tokenizer) == fingerprint(as_before(path, "BertTokenizer", True))


@pytest.mark.parametrize(
    ("key", "value"),
    [("do_lower_case", False), ("keep_accents", True), ("add_prefix_space", False)],
)
def test_settings_that_a_tokenizer_json_of_sentencepiece_contradicts(key, value, tmp_path):
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"tokenizer_class": "AlbertTokenizer", "do_lower_case": True, "keep_accents": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(tmp_path).encode("A").tokens
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(DataError, match=f"which has {key} = {value}; give tokenizer"):
        load_tokenizer(tmp_path)


def damaged(path, name, content):
    if content is None:
        (path / name).unlink(missing_ok=True)
        (path / name).mkdir()
    else:
        (path / name).write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "name", "content", "words"),
    [
        ("BertTokenizer", "tokenizer_config.json", b"[" * 5_000_000, "nested too deeply"),
        ("BertTokenizer", "tokenizer_config.json", b'{"a":' * 100_000, "nested too deeply"),
        ("BertTokenizer", "tokenizer_config.json", b"[]", "a JSON object is needed"),
        ("BertTokenizer", "tokenizer_config.json", b"", "is not JSON"),
        ("BertTokenizer", "tokenizer_config.json", b"\xff\xfe", "is not UTF-8"),
        ("BertTokenizer", "tokenizer_config.json", None, "is not a file"),
        (
            "BertTokenizer",
            "tokenizer_config.json",
            b'{"do_lower_case": "yes"}',
            "neither true nor false",
        ),
        ("BertTokenizer", "tokenizer_config.json", b'{"cls_token": 5}', "is no token"),
        (
            "BertTokenizer",
            "tokenizer_config.json",
            b'{"tokenizer_class": "CLIPTokenizer"}',
            "'CLIPTokenizer'",
        ),
        ("BertTokenizer", "config.json", b'{"model_type": "clip"}', "'clip'"),
        (
            "BertTokenizer",
            "special_tokens_map.json",
            b'{"cls_token": {"content": [1]}}',
            "is no token",
        ),
        (
            "BertTokenizer",
            "added_tokens.json",
            b'{"<e>": 1000000000000}',
            "of a token is not in 0 .. ",
        ),
        (
            "BertTokenizer",
            "added_tokens.json",
            b'{"<e>": 99}',
            "the number 99, and behind this vocabulary it has",
        ),
        ("BertTokenizer", "vocab.txt", b"", "holds a tokenizer without tokens"),
        ("BertTokenizer", "vocab.txt", b"a\nb\xff\n", "is not UTF-8"),
        ("BertTokenizer", "vocab.txt", None, "is not a file"),
        (
            "BertTokenizer",
            "tokenizer.json",
            b"[" * 1_000_000,
            "holds no tokenizer that can be read",
        ),
        ("GPT2Tokenizer", "vocab.json", b'{"a": 1000000000000}', "it must be in 0 .. "),
        ("GPT2Tokenizer", "vocab.json", b'{"a": 4294967297}', "it must be in 0 .. "),
        ("GPT2Tokenizer", "vocab.json", b'{"a": 0, "b": 0}', "gives 'a' and 'b' one number, 0"),
        ("GPT2Tokenizer", "vocab.json", b'{"a": 1.5}', "it must be in 0 .. "),
        ("GPT2Tokenizer", "merges.txt", b"#version: 0.2\nq z\n", "`qz` out of vocabulary"),
        ("GPT2Tokenizer", "merges.txt", b"a b c\n", "holds no tokenizer that can be read"),
        ("GPT2Tokenizer", "merges.txt", b"\xff \xff\n", "is not UTF-8"),
    ],
)
def test_damaged_files_end_in_one_line(kind, name, content, words, tmp_path):
    path = directory(tmp_path / "a", kind)
    damaged(path, name, content)
    begin = time.monotonic()
    with pytest.raises(DataError) as found:
        load_tokenizer(path)
    assert (
        words in str(found.value) and len(str(found.value)) <= 500 and "\n" not in str(found.value)
    )
    assert time.monotonic() - begin < 10


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = directory(tmp_path / "a", "GPT2Tokenizer")
    with open(path / "vocab.json", "wb") as file:
        file.truncate(1 << 40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        DataError, match=r"has 1,099,511,627,776 bytes: a tokenizer's file has at most 50,331,648"
    ):
        load_tokenizer(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20


def test_a_far_number_in_a_tokenizer_json_is_refused(tmp_path):
    path = directory(tmp_path / "a", "BertTokenizer")
    tokenizer = load_tokenizer(path)
    written = json.loads(tokenizer.to_str())
    written["model"]["vocab"]["far"] = 4_000_000_000
    (path / "tokenizer.json").write_text(json.dumps(written))
    with pytest.raises(
        DataError, match=r"has a token with the number 4,000,000,000: numbers of tokens are below"
    ):
        load_tokenizer(path)
    assert AddedToken("[CLS]", special=True) in tokenizer.get_added_tokens_decoder().values()
