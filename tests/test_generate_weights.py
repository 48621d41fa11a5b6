"""Texts and translations by directories of transformers: as transformers' own, and when they
end."""

import json

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from input_pipeline import DataError
from input_pipeline.tokenizers import END_OF_TEXT, sentence_ends, train_tokenizer
from jaxmodels import originals, weights
from tests.test_generate_text import pair as language_pair
from tests.test_transformer import END, START, translators
from train import generate
from train.config import ConfigError


def word_tokenizer(size, *, special, frame=None):
    """Words w0, w1, ... with these numbers but for the special ones."""
    words = {special.get(i, f"w{i}"): i for i in range(size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w1"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token) for token in special.values()])
    if frame:
        known = [(token, i) for i, token in special.items()]
        tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=known)
    return tokenizer


def change(path, **values):
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    """A directory of transformers with a tokenizer whose </s> is 0 and whose <pad> is the last, and
    its model."""
    directory = tmp_path_factory.mktemp("marian")
    model, _, twin = translators(3.0, num_layers=1)
    twin.save_pretrained(directory)
    tokenizer = word_tokenizer(
        model.vocab_size, special={END: "</s>", START: "<pad>"}, frame="$A </s>"
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory, twin


def theirs(twin, text, **options):
    source = torch.tensor([[int(word[1:]) for word in text.split()] + [END]])
    with torch.no_grad():
        found = twin.generate(
            source, do_sample=False, early_stopping=False, max_length=16, **options
        )
    return " ".join(f"w{token}" for token in found[0].tolist() if token not in (START, END))


def test_marian_weights_translate_as_transformers_do(marian, capsys):
    directory, twin = marian
    for text in ("w3 w9 w4", "w17"):
        for beams in (1, 3):
            assert (
                generate.main([f"--weights={directory}", f"--prompt={text}", f"--beams={beams}"])
                == 0
            )
            assert capsys.readouterr().out.strip() == theirs(twin, text, num_beams=beams)
    assert (
        generate.main([f"--weights={directory}", f"--prompt={text}", "--beams=3", "--max_tokens=2"])
        == 0
    )
    assert len(capsys.readouterr().out.split()) <= 2


def test_what_generation_config_says_is_done(marian, tmp_path, capsys):
    directory, twin = marian
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    free = theirs(twin, "w3 w9 w4", num_beams=2)
    word = int(free.split()[0][1:])
    said = {"num_beams": 2, "length_penalty": 0.5, "bad_words_ids": [[word]]}
    change(tmp_path / "generation_config.json", **said)
    assert generate.main([f"--weights={tmp_path}", "--prompt=w3 w9 w4"]) == 0
    found = capsys.readouterr().out.strip()
    assert found == theirs(twin, "w3 w9 w4", **said) and f"w{word}" not in found.split()
    change(tmp_path / "generation_config.json", num_beam_groups=2)
    with pytest.raises(
        ConfigError, match="num_beam_groups 2 is refused: group beam search is not done here"
    ):
        generate.main([f"--weights={tmp_path}", "--prompt=w3"])
    change(tmp_path / "generation_config.json", num_beam_groups=None)
    apart, variables, _ = translators(0.0, num_layers=1, share_embeddings=False)
    weights.save(tmp_path / "apart", apart, variables, format="transformers")
    (tmp_path / "apart" / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    with pytest.raises(
        ConfigError, match="has a vocabulary for the source and another for the target"
    ):
        generate.main([f"--weights={tmp_path / 'apart'}", "--prompt=w3"])
    with pytest.raises(ConfigError, match="--stop=w4 is for language models"):
        generate.main([f"--weights={directory}", "--prompt=w3", "--stop=w4"])
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"no tokenizer at .*: give a tokenizer\.json"):
        generate.main([f"--weights={tmp_path}", "--prompt=w3"])
    word_tokenizer(40, special={0: "</s>"}).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match="the tokenizer has 40 tokens and the weights are for 31"):
        generate.main([f"--weights={tmp_path}", "--prompt=w3"])


def test_all_settings_reach_the_command_line(marian, tmp_path, capsys):
    """Those of the file, several of the best texts, several ends; flags go over them, 0 too."""
    directory, twin = marian
    for path in directory.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    ends = {"decoder_start_token_id": START, "pad_token_id": START, "eos_token_id": [END, 11]}
    said = ends | {
        "num_beams": 3,
        "num_return_sequences": 2,
        "length_penalty": 0.0,
        "no_repeat_ngram_size": 1,
    }
    (tmp_path / "generation_config.json").write_text(
        json.dumps(said | {"max_length": 7, "forced_eos_token_id": END})
    )
    reread = type(twin).from_pretrained(tmp_path).eval()
    source = torch.tensor([[3, 9, 4, END]])
    for flags, options in (
        ([], {}),
        (["--length_penalty=2", "--max_tokens=9"], {"length_penalty": 2.0, "max_new_tokens": 9}),
        (["--beams=2", "--count=1"], {"num_beams": 2, "num_return_sequences": 1}),
    ):
        assert generate.main([f"--weights={tmp_path}", "--prompt=w3 w9 w4", *flags]) == 0
        expected = [
            " ".join(f"w{token}" for token in row if token not in (START, END, 11))
            for row in reread.generate(source, **options).tolist()
        ]
        assert capsys.readouterr().out.split("\n")[:-1] == expected


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    directory = tmp_path_factory.mktemp("gpt2")
    model, _, twin = language_pair(num_layers=1)
    twin.save_pretrained(directory)
    word_tokenizer(model.vocab_size, special={2: "</s>"}).save(str(directory / "tokenizer.json"))
    return directory


def written(directory, capsys, *options):
    prompt = "w3 w9 w4"
    assert (
        generate.main([f"--weights={directory}", f"--prompt={prompt}", "--temperature=3", *options])
        == 0
    )
    found = capsys.readouterr()
    assert found.out.startswith(prompt)
    return found.out.removesuffix("\n"), int(found.err.split()[0])


def test_a_text_ends_where_the_weights_or_the_caller_say(gpt2, capsys):
    """At any of several end tokens, and before any of several texts, which may be parts of tokens
    or several."""
    free, count = written(gpt2, capsys)
    words = free.split(" ")
    assert count == 37 and len(words) == 40 and len(set(words[3:20])) > 8
    numbers = [int(word[1:]) for word in words]
    first = {word: i for i, word in reversed([*enumerate(words)]) if i >= 3}
    for ends in (numbers[9], [numbers[12], numbers[9]]):
        change(gpt2 / "generation_config.json", eos_token_id=ends)
        last = min(first[f"w{i}"] for i in ([ends] if isinstance(ends, int) else ends))
        assert written(gpt2, capsys) == (" ".join(words[: last + 1]), last - 2)
    change(gpt2 / "generation_config.json", eos_token_id=None)
    change(gpt2 / "config.json", eos_token_id=None)
    assert written(gpt2, capsys)[0] == free
    several = " ".join(words[10:12])
    text, count = written(gpt2, capsys, f"--stop={several}", "--stop=not there")
    assert text == free[: free.index(several, len("w3 w9 w4"))] and count < 37
    assert written(gpt2, capsys, f"--stop={words[20]}", f"--stop={several[:-1]}")[0] in text
    with pytest.raises(SystemExit):
        generate.main([f"--weights={gpt2}", "--stop="])


def test_the_file_says_whether_a_text_is_drawn_and_flags_go_over_it(gpt2, tmp_path, capsys):
    for path in gpt2.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    prompt = torch.tensor([[3, 9, 4]])

    def ours(*flags):
        assert generate.main([f"--weights={tmp_path}", "--prompt=w3 w9 w4", *flags]) == 0
        return capsys.readouterr().out.strip()

    said = {
        "eos_token_id": 2,
        "max_new_tokens": 12,
        "repetition_penalty": 1.2,
        "suppress_tokens": [5],
    }
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    twin = originals.transformers().GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    row = twin.generate(prompt, attention_mask=torch.ones_like(prompt))[0].tolist()
    greedy = ours()
    assert (
        greedy == " ".join(f"w{token}" for token in row if token != 2)
        and ours("--seed=1") == greedy
    )
    assert ours("--temperature=5") != greedy and ours("--temperature=5", "--seed=1") != ours(
        "--temperature=5"
    )
    assert ours("--max_tokens=2") == " ".join(greedy.split()[:5])
    (tmp_path / "generation_config.json").write_text(
        json.dumps(said | {"do_sample": True, "temperature": 5.0})
    )
    assert ours() != greedy and ours("--seed=1") != ours()
    assert ours("--temperature=0") == ours("--top_k=1") == greedy
    (tmp_path / "generation_config.json").write_text(json.dumps(said | {"num_beams": 4}))
    with pytest.raises(
        ConfigError, match="num_beams 4: a language model writes greedily or draws here"
    ):
        ours()
    assert ours("--beams=1") == greedy
    with pytest.raises(SystemExit):
        ours("--temperature=nan")
    assert "temperature nan must be at least 0" in capsys.readouterr().err


def test_a_gpt2_that_ends_otherwise_needs_no_end_of_text(gpt2, tmp_path, capsys):
    """GPT-2's class adds <|endoftext|> behind a vocabulary that lacks it; the end is the
    weights'."""
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        if (gpt2 / name).exists():
            (tmp_path / name).write_bytes((gpt2 / name).read_bytes())
    size = json.loads((gpt2 / "config.json").read_text())["vocab_size"]
    letters = ["</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())][:size]
    (tmp_path / "vocab.json").write_text(
        json.dumps({letter: i for i, letter in enumerate(letters)})
    )
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    options = [f"--weights={tmp_path}", f"--prompt={letters[3]}", "--temperature=3"]
    change(tmp_path / "generation_config.json", eos_token_id=0)
    assert generate.main(options) == 0
    free = capsys.readouterr().out.removesuffix("\n")
    assert len(free) > 1 and free[0] == letters[3]


def test_several_texts_end_each_for_itself(gpt2, capsys):
    options = [f"--weights={gpt2}", "--prompt=w3", "--count=3", "--temperature=3", "--seed=1"]
    generate.main(options)
    free = capsys.readouterr().out
    generate.main([*options, "--stop=w1"])  # w1, w10, ...
    cut = capsys.readouterr().out
    for a, b in zip(free.split("---")[1:], cut.split("---")[1:], strict=True):
        assert b.strip() == a.partition("w1")[0].strip()
    assert cut != free


def test_what_our_own_directories_say_of_tokens_is_not_believed(tmp_path):
    model, variables, _ = language_pair(num_layers=1)
    weights.save(tmp_path, model, variables, format="transformers")
    assert (
        json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == model.vocab_size - 1
    )
    assert weights.generation_config(tmp_path) == weights.GenerationConfig()


@pytest.mark.parametrize(
    ("special", "frame", "ends"),
    [
        ({0: "</s>", 6: "<pad>"}, "$A </s>", ("<pad>", "</s>")),  # Marian, T5
        ({3: "</s>"}, "$A </s>", ("</s>", "</s>")),
        ({0: "<s>", 2: "</s>", 1: "<pad>"}, "<s> $A </s>", ("<s>", "</s>")),  # BART
        # ModernBERT
        ({1: "[CLS]", 2: "[SEP]", 5: END_OF_TEXT}, "[CLS] $A [SEP]", ("[CLS]", "[SEP]")),
        ({1: "<s>", 2: "</s>"}, None, ("<s>", "</s>")),
        ({1: "<s>", 2: "</s>"}, "<s> $A", ("<s>", "</s>")),  # Llama
        ({4: END_OF_TEXT}, None, (END_OF_TEXT, END_OF_TEXT)),
    ],
)
def test_the_tokenizer_says_what_frames_a_sentence(special, frame, ends):
    tokenizer = word_tokenizer(8, special=special, frame=frame)
    assert sentence_ends(tokenizer, "x") == tuple(map(tokenizer.token_to_id, ends))


def test_tokenizers_trained_here_have_the_ends_they_had():
    for kind, ends in (
        ("words", ("[CLS]", "[SEP]")),
        ("wordpiece", ("[CLS]", "[SEP]")),
        ("bpe", (END_OF_TEXT, END_OF_TEXT)),
    ):
        tokenizer = train_tokenizer(kind, ["a cat sat"], 300)
        assert sentence_ends(tokenizer, "x") == tuple(map(tokenizer.token_to_id, ends))
    with pytest.raises(DataError, match=r"x needs a tokenizer with \[CLS\], \[SEP\]"):
        sentence_ends(train_tokenizer("characters", ["a cat"], 9), "x")
