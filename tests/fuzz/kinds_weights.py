"""Weights: safetensors, compressed weights, and what directories of transformers say in JSON."""

import json
import struct
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file
from transformers import AutoConfig, BertConfig, GPT2Config, MarianConfig, ViTConfig
from transformers import GenerationConfig as TheirGenerationConfig

import jaxmodels
from jaxmodels import weights
from jaxmodels.compress import files
from jaxmodels.compress.prune import prune
from jaxmodels.compress.quantize import quantize
from jaxmodels.nn.paths import path_name
from jaxmodels.weights.files import DIGEST, read_tensors, write_tensors
from tests.fuzz.mutations import Rng, flipped, json_mutated, mutated, pick
from tests.fuzz.oracle import Fault, put, refusing, require_same

SHAPE = (4, 4, 1)

Raw = dict[str, tuple[tuple[int, ...], bytes]]
"""Name of a tensor -> its shape and bytes."""


def _model() -> Any:
    return jaxmodels.create("mlp", num_classes=3, hidden_sizes=(40,))


def _variables(model: Any) -> Any:
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), np.zeros((1, *SHAPE), np.float32), train=False)
    )
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)


def raw_tensors(content: bytes) -> tuple[Raw, dict[str, str]]:
    """Tensors and metadata of a safetensors file, by the definition of the format.

    Raises:
      ValueError, KeyError, TypeError, struct.error: it is none.
    """
    (size,) = struct.unpack_from("<Q", content)
    header, data = json.loads(content[8 : 8 + size].decode()), content[8 + size :]
    metadata, found = header.pop("__metadata__", None) or {}, {}
    for name, said in header.items():
        start, end = said["data_offsets"]
        found[name] = (tuple(said["shape"]), data[start:end])
    return found, metadata


def _raw(tensors: dict[str, np.ndarray]) -> Raw:
    return {name: (x.shape, np.ascontiguousarray(x).tobytes()) for name, x in tensors.items()}


def _header_mutated(rng: Rng, content: bytes) -> bytes:
    """The same file with other JSON in its header, whose length fits."""
    (size,) = struct.unpack_from("<Q", content)
    header = json_mutated(rng, content[8 : 8 + size])
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


def _without_digest(content: bytes) -> bytes:
    (size,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"].pop(DIGEST)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def _changed(rng: Rng, content: bytes, other: bytes) -> bytes:
    kind = int(rng.integers(3))
    if kind == 0:
        return _header_mutated(rng, content)
    return flipped(rng, content) if kind == 1 else mutated(rng, content, other)


def prepare_safetensors(directory: Path) -> Any:
    """A file that was written here, with its digest, and one from elsewhere."""
    model = _model()
    tensors = {
        k: np.array(v)
        for k, v in weights.to_torch(model, _variables(model), image_shape=SHAPE).items()
    }
    write_tensors(directory / "ours.safetensors", tensors)
    save_file(tensors, directory / "theirs.safetensors")
    contents = [(directory / f"{name}.safetensors").read_bytes() for name in ("ours", "theirs")]
    for content in contents:
        require_same(
            _raw(read_tensors(put(directory, "healthy.safetensors", content))),
            raw_tensors(content)[0],
            "it",
        )
    return model, _raw(tensors), contents


def safetensors(context: Any, rng: Rng, place: Path) -> None:
    """Reads what the format says; a file of ours gives what was written, or is refused."""
    model, original, contents = context
    content = _changed(rng, pick(rng, contents), pick(rng, contents))
    path = put(place, "model.safetensors", content)
    with refusing():
        tensors = read_tensors(path)
    expected, metadata = raw_tensors(content)
    require_same(_raw(tensors), expected, "tensors")
    if DIGEST in metadata:
        require_same(_raw(tensors), original, "tensors under a digest")
    with refusing():
        found = weights.from_torch(model, tensors, image_shape=SHAPE)
    again = weights.to_torch(model, found, image_shape=SHAPE)
    for name, value in again.items():
        require_same(np.asarray(value).tobytes(), tensors[name].astype(value.dtype).tobytes(), name)


def prepare_compressed(directory: Path) -> Any:
    """int8, pruned, both, neither."""
    params = _variables(jaxmodels.create("mlp", num_classes=3, hidden_sizes=(64,)))
    kinds = (quantize(params), prune(params, 0.9), quantize(prune(params, 0.9)), params)
    context = []
    for i, variables in enumerate(kinds):
        path = directory / f"{i}.safetensors"
        files.save(path, jax.device_get(variables))
        context.append((path.read_bytes(), _flat(variables)))
        require_same(_flat(files.load(path)), context[-1][1], "the healthy file")
    return context


def _flat(tree: Any) -> Raw:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(k): (np.shape(x), np.asarray(x).tobytes()) for k, x in leaves}


def compressed(context: Any, rng: Rng, place: Path) -> None:
    """Every change of a file with a digest is noticed, and so is a digest that is not there."""
    content, original = pick(rng, context)
    stripped = rng.integers(10) == 0
    changed = (
        _without_digest(content) if stripped else _changed(rng, content, pick(rng, context)[0])
    )
    path = put(place, "w.safetensors", changed)
    with refusing():
        found = files.load(path)
    if stripped:
        raise Fault("a file without its digest was accepted")
    require_same(_flat(found), original, "variables")


SMALL = {
    BertConfig: {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    },
    GPT2Config: {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 32},
    ViTConfig: {
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    },
    MarianConfig: {
        "d_model": 8,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
    }
    | {
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "decoder_ffn_dim": 16,
        "vocab_size": 100,
    }
    | {
        "pad_token_id": 99,
        "decoder_start_token_id": 99,
        "eos_token_id": 0,
        "forced_eos_token_id": 0,
    },
}

FIELDS = {
    "bert": {
        "vocab_size": "vocab_size",
        "max_position_embeddings": "max_len",
        "type_vocab_size": "type_vocab_size",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "hidden_size": "hidden_size",
        "intermediate_size": "mlp_dim",
        "layer_norm_eps": "norm_eps",
        "hidden_dropout_prob": "dropout_rate",
        "attention_probs_dropout_prob": "attention_dropout_rate",
    },
    "gpt2": {
        "vocab_size": "vocab_size",
        "n_positions": "max_len",
        "n_layer": "num_layers",
        "n_head": "num_heads",
        "n_embd": "hidden_size",
        "layer_norm_epsilon": "norm_eps",
        "embd_pdrop": "embedding_dropout_rate",
        "resid_pdrop": "dropout_rate",
        "attn_pdrop": "attention_dropout_rate",
    },
    "vit": {
        "patch_size": "patch_size",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "hidden_size": "hidden_size",
        "intermediate_size": "mlp_dim",
        "layer_norm_eps": "norm_eps",
        "hidden_dropout_prob": "dropout_rate",
        "attention_probs_dropout_prob": "attention_dropout_rate",
    },
    "marian": {
        "vocab_size": "vocab_size",
        "d_model": "hidden_size",
        "encoder_layers": "num_layers",
        "encoder_attention_heads": "num_heads",
        "encoder_ffn_dim": "mlp_dim",
        "dropout": "dropout_rate",
        "attention_dropout": "attention_dropout_rate",
        "activation_dropout": "activation_dropout_rate",
        "scale_embedding": "scale_embedding",
    },
}
"""Model type -> attribute of transformers' config -> our field."""

SETTINGS = {
    "num_beams": "beams",
    "length_penalty": "length_penalty",
    "early_stopping": "early_stopping",
    "max_length": "max_length",
    "max_new_tokens": "max_new_tokens",
    "min_length": "min_length",
    "do_sample": "do_sample",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "pad_token_id": "pad",
    "forced_bos_token_id": "forced_bos",
    "renormalize_logits": "renormalize_logits",
}
"""Attribute of transformers' generation config -> our field."""

GENERATION = {
    "num_beams": 4,
    "length_penalty": 0.0,
    "early_stopping": "never",
    "max_length": 20,
    "min_length": 2,
    "temperature": 0.7,
    "top_k": 5,
    "repetition_penalty": 1.2,
    "no_repeat_ngram_size": 3,
    "bad_words_ids": [[3], [4, 5]],
    "eos_token_id": [0, 1],
    "pad_token_id": 2,
    "suppress_tokens": [7],
    "transformers_version": "4.40.0",
}


def prepare_configs(directory: Path) -> Any:
    """``config.json`` of each family, as its class writes it, and a ``generation_config.json``."""
    contents = [json.dumps(cls(**fields).to_diff_dict()).encode() for cls, fields in SMALL.items()]
    for content in contents:
        put(directory, "config.json", content)
        _require_fields(directory, content)
    return contents, json.dumps(GENERATION).encode()


def configs(context: Any, rng: Rng, place: Path) -> None:
    """Fields of the model are what transformers' own class takes from the same file."""
    contents, generation = context
    if rng.integers(4) == 0:
        _generation(rng, place, generation)
        return
    content, other = pick(rng, contents), pick(rng, contents)
    changed = json_mutated(rng, content) if rng.integers(4) else mutated(rng, content, other)
    put(place, "config.json", changed)
    _require_fields(place, changed)


def _require_fields(place: Path, content: bytes) -> None:
    from jaxmodels.weights.directory import described

    with refusing():
        model = described(place).model
    said = json.loads(content.decode("utf-8-sig"))
    try:
        theirs = AutoConfig.for_model(**said)
    except Exception:  # they check less, and elsewhere
        return
    for key, field in FIELDS[said["model_type"]].items():
        require_same(getattr(model, field), getattr(theirs, key), f"{key} as {field}")


def _generation(rng: Rng, place: Path, content: bytes) -> None:
    changed = json_mutated(rng, content) if rng.integers(4) else mutated(rng, content)
    put(place, "generation_config.json", changed)
    with refusing():
        found = weights.generation_config(place)
    said = json.loads(changed.decode("utf-8-sig"))
    try:
        theirs = TheirGenerationConfig.from_dict(dict(said))
    except Exception:
        return
    for key, field in SETTINGS.items():
        if said.get(key) is not None:
            require_same(getattr(found, field), getattr(theirs, key), f"{key} as {field}")
