"""``config.json`` of transformers: what it says of a model, and what we write for it to read."""

from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from jaxmodels.bert import BERT
from jaxmodels.gpt2 import GPT2
from jaxmodels.transformer import Transformer
from jaxmodels.vit import ViT
from jaxmodels.weights.rules import WeightsError

Shape = tuple[int, ...]
Described = tuple[type[nn.Module], dict[str, Any], Shape, str | None]
"""Our class, its fields, the image shape (empty for text) and the format, None where files have one of several."""

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def fields_from_transformers(config: Mapping[str, Any]) -> Described:
    """What a ``config.json`` of transformers describes.

    Raises:
      WeightsError: a model type, or a setting, that we do not have.
    """
    kind = config.get("model_type")
    if kind not in READERS:
        raise WeightsError(f"config.json is of model type {kind!r}; there is a map for {', '.join(READERS)}")
    return READERS[kind](config)


def transformers_config(model: nn.Module, shape: Shape) -> dict[str, Any]:
    """``config.json`` with which transformers loads what is exported in its format."""
    return WRITERS[type(model)](model, shape)


def _activation(config: Mapping[str, Any], key: str, default: str) -> str:
    activation = config.get(key, default)
    if activation not in ACTIVATIONS:
        raise WeightsError(f"config.json has {key} {activation!r}; there are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[activation]


def _activation_name(activation: str, tanh: str) -> str:
    names = {"gelu": "gelu", "gelu_tanh": tanh, "relu": "relu", "silu": "silu"}
    if activation not in names:
        raise WeightsError(f"activation {activation!r} has no name in transformers")
    return names[activation]


def _require(config: Mapping[str, Any], **needed: Any) -> None:
    for key, value in needed.items():
        if config.get(key, value) != value:
            raise WeightsError(f"config.json has {key} {config[key]!r}, and the model here has {value!r}")


def _read_vit(config: Mapping[str, Any]) -> Described:
    _require(config, qkv_bias=True)
    size = config.get("image_size", 224)
    height, width = size if isinstance(size, list) else (size, size)
    labels = config.get("id2label") or {str(i): "" for i in range(config.get("num_labels", 2))}
    fields = {
        "num_classes": len(labels),
        "patch_size": config.get("patch_size", 16),
        "num_layers": config.get("num_hidden_layers", 12),
        "num_heads": config.get("num_attention_heads", 12),
        "hidden_size": config.get("hidden_size", 768),
        "mlp_dim": config.get("intermediate_size", 3072),
        "activation": _activation(config, "hidden_act", "gelu"),
        "norm_eps": float(config.get("layer_norm_eps", 1e-12)),
        "dropout_rate": float(config.get("hidden_dropout_prob", 0.0)),
        "attention_dropout_rate": float(config.get("attention_probs_dropout_prob", 0.0)),
    }
    return ViT, fields, (height, width, config.get("num_channels", 3)), "transformers"


def _write_vit(model: ViT, shape: Shape) -> dict[str, Any]:
    if model.representation_size or model.pool != "cls" or model.position != "learned":
        raise WeightsError("transformers' ViT has neither representation_size, nor mean pool, nor sine positions")
    return {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "image_size": shape[0] if shape[0] == shape[1] else list(shape[:2]),
        "num_channels": shape[2],
        "patch_size": model.patch_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.mlp_dim,
        "hidden_act": _activation_name(model.activation, "gelu_pytorch_tanh"),
        "layer_norm_eps": model.norm_eps,
        "hidden_dropout_prob": model.dropout_rate,
        "attention_probs_dropout_prob": model.attention_dropout_rate,
        "qkv_bias": True,
        "id2label": {str(i): f"LABEL_{i}" for i in range(model.num_classes)},
        "label2id": {f"LABEL_{i}": i for i in range(model.num_classes)},
    }


def _read_gpt2(config: Mapping[str, Any]) -> Described:
    _require(config, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    size = config.get("n_embd", 768)
    fields = {
        "vocab_size": config.get("vocab_size", 50_257),
        "max_len": config.get("n_positions", 1024),
        "num_layers": config.get("n_layer", 12),
        "num_heads": config.get("n_head", 12),
        "hidden_size": size,
        "mlp_dim": config.get("n_inner") or 4 * size,
        "tie_embeddings": config.get("tie_word_embeddings", True),
        "activation": _activation(config, "activation_function", "gelu_new"),
        "norm_eps": float(config.get("layer_norm_epsilon", 1e-5)),
        "embedding_dropout_rate": float(config.get("embd_pdrop", 0.1)),
        "dropout_rate": float(config.get("resid_pdrop", 0.1)),
        "attention_dropout_rate": float(config.get("attn_pdrop", 0.1)),
    }
    return GPT2, fields, (), None


def _write_gpt2(model: GPT2, shape: Shape) -> dict[str, Any]:
    last = model.vocab_size - 1  # <|endoftext|> of GPT-2's own vocabulary
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": model.vocab_size,
        "n_positions": model.max_len,
        "n_layer": model.num_layers,
        "n_head": model.num_heads,
        "n_embd": model.hidden_size,
        "n_inner": model.mlp_dim,
        "tie_word_embeddings": model.tie_embeddings,
        "activation_function": _activation_name(model.activation, "gelu_new"),
        "layer_norm_epsilon": model.norm_eps,
        "embd_pdrop": model.embedding_dropout_rate,
        "resid_pdrop": model.dropout_rate,
        "attn_pdrop": model.attention_dropout_rate,
        "bos_token_id": last,
        "eos_token_id": last,
    }


BERT_CLASSES = {
    "pretraining": "BertForPreTraining",
    "classification": "BertForSequenceClassification",
    "tokens": "BertForTokenClassification",
    "spans": "BertForQuestionAnswering",
    "none": "BertModel",
}


def _read_bert(config: Mapping[str, Any]) -> Described:
    _require(config, position_embedding_type="absolute", is_decoder=False, add_cross_attention=False)
    classes = config.get("architectures") or ["BertModel"]
    heads = {name: head for head, name in BERT_CLASSES.items()}
    heads["BertForMaskedLM"] = "pretraining"  # what the files of bert-base-uncased hold, whatever they say
    if classes[0] not in heads:
        raise WeightsError(
            f"config.json is of {classes[0]}; there are {', '.join(heads)}. With model=jaxmodels.create(...) and skip "
            "parts of it can be read"
        )
    if config.get("problem_type") not in (None, "single_label_classification", "regression"):
        raise WeightsError(
            f"config.json has problem_type {config['problem_type']!r}, and the model here has classes or numbers"
        )
    fields = {
        "vocab_size": config.get("vocab_size", 30_522),
        "max_len": config.get("max_position_embeddings", 512),
        "type_vocab_size": config.get("type_vocab_size", 2),
        "num_layers": config.get("num_hidden_layers", 12),
        "num_heads": config.get("num_attention_heads", 12),
        "hidden_size": config.get("hidden_size", 768),
        "mlp_dim": config.get("intermediate_size", 3072),
        "head": heads[classes[0]],
        "num_classes": len(config.get("id2label") or {}) or config.get("num_labels", 2),
        "activation": _activation(config, "hidden_act", "gelu"),
        "norm_eps": float(config.get("layer_norm_eps", 1e-12)),
        "dropout_rate": float(config.get("hidden_dropout_prob", 0.1)),
        "attention_dropout_rate": float(config.get("attention_probs_dropout_prob", 0.1)),
    }
    return BERT, fields, (), None


def _write_bert(model: BERT, shape: Shape) -> dict[str, Any]:
    if model.head == "classification" and model.pool != "cls":
        raise WeightsError(
            f"transformers' BERT classifies by its pooler and not by pool={model.pool!r}; nearest: 'cls'"
        )
    labels = {}
    if model.head in ("classification", "tokens"):
        labels = {
            "id2label": {str(i): f"LABEL_{i}" for i in range(model.num_classes)},
            "label2id": {f"LABEL_{i}": i for i in range(model.num_classes)},
        }
    return {
        "architectures": [BERT_CLASSES[model.head]],
        "model_type": "bert",
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.max_len,
        "type_vocab_size": model.type_vocab_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.mlp_dim,
        "hidden_act": _activation_name(model.activation, "gelu_new"),
        "layer_norm_eps": model.norm_eps,
        "hidden_dropout_prob": model.dropout_rate,
        "attention_probs_dropout_prob": model.attention_dropout_rate,
        **labels,
    }


def _read_marian(config: Mapping[str, Any]) -> Described:
    _require(config, normalize_before=False, add_final_layer_norm=False, normalize_embedding=False)
    sizes = {}
    for name, default in {"layers": 12, "attention_heads": 16, "ffn_dim": 4096}.items():
        sizes[name], other = (config.get(f"{side}_{name}", default) for side in ("encoder", "decoder"))
        if sizes[name] != other:
            raise WeightsError(f"config.json has encoder_{name} {sizes[name]}, decoder_{name} {other}: not one number")
    shared, vocab_size = config.get("share_encoder_decoder_embeddings", True), config.get("vocab_size", 58_101)
    fields = {
        "vocab_size": vocab_size,
        "target_vocab_size": 0 if shared else config.get("decoder_vocab_size") or vocab_size,
        "max_len": config.get("max_position_embeddings", 1024),
        "num_layers": sizes["layers"],
        "num_heads": sizes["attention_heads"],
        "hidden_size": config.get("d_model", 1024),
        "mlp_dim": sizes["ffn_dim"],
        "share_embeddings": shared,
        "tie_embeddings": config.get("tie_word_embeddings", True),
        "logits_bias": True,
        "position": "sine_halves",
        "scale_embedding": config.get("scale_embedding", False),
        "activation": _activation(config, "activation_function", "gelu"),
        "final_norm": False,
        "dropout_rate": float(config.get("dropout", 0.1)),
        "attention_dropout_rate": float(config.get("attention_dropout", 0.0)),
        "activation_dropout_rate": float(config.get("activation_dropout", 0.0)),
    }
    return Transformer, fields, (), "transformers"


def _write_marian(model: Transformer, shape: Shape) -> dict[str, Any]:
    norms = {"norm_first": False, "final_norm": False, "norm_eps": 1e-5}
    for name, value in (norms | {"position": "sine_halves", "logits_bias": True}).items():
        if getattr(model, name) != value:
            raise WeightsError(f"transformers' Marian has {name} {value!r}, the model has {getattr(model, name)!r}")
    target = model.target_vocab_size or model.vocab_size
    last = min(model.vocab_size, target) - 1  # <pad> of the vocabularies of opus-mt; 0 is </s>
    sizes = {"layers": model.num_layers, "attention_heads": model.num_heads, "ffn_dim": model.mlp_dim}
    return {
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
        "vocab_size": model.vocab_size,
        "decoder_vocab_size": target,
        "max_position_embeddings": model.max_len,
        **{f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in sizes.items()},
        "d_model": model.hidden_size,
        "share_encoder_decoder_embeddings": model.share_embeddings,
        "tie_word_embeddings": model.tie_embeddings,
        "scale_embedding": model.scale_embedding,
        "activation_function": _activation_name(model.activation, "gelu_new"),
        "dropout": model.dropout_rate,
        "attention_dropout": model.attention_dropout_rate,
        "activation_dropout": model.activation_dropout_rate,
        "pad_token_id": last,
        "decoder_start_token_id": last,
        "eos_token_id": 0,
        "forced_eos_token_id": 0,
    }


READERS: dict[str, Callable[[Mapping[str, Any]], Described]] = {
    "vit": _read_vit,
    "bert": _read_bert,
    "gpt2": _read_gpt2,
    "marian": _read_marian,
}
WRITERS: dict[type[nn.Module], Callable[[Any, Shape], dict[str, Any]]] = {
    ViT: _write_vit,
    BERT: _write_bert,
    GPT2: _write_gpt2,
    Transformer: _write_marian,
}
