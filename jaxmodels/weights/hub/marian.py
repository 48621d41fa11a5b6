"""``config.json`` of transformers' Marian (``MarianConfig``)."""

from typing import Any

from jaxmodels.families.transformer.model import Transformer
from jaxmodels.weights.hub.keys import (
    MAX_HEADS,
    MAX_LAYERS,
    MAX_LENGTH,
    MAX_VOCABULARY,
    MAX_WIDTH,
    Config,
    HubFamily,
    Shape,
    activation,
    activation_name,
    architecture,
    flag,
    optional,
    rate,
    require_heads,
    require_matrix,
    whole,
)
from jaxmodels.weights.rules import WeightsError

MAX_POSITIONS = 2**24
"""Numbers in the table of sines, which is made whenever the model runs."""
SIZES = {
    "layers": whole(12, MAX_LAYERS),
    "attention_heads": whole(16, MAX_HEADS),
    "ffn_dim": whole(4096, MAX_WIDTH),
}
SIDES = ("encoder", "decoder")
APPLIED = {
    "vocab_size": whole(58_101, MAX_VOCABULARY),
    "decoder_vocab_size": optional(whole(58_101, MAX_VOCABULARY)),
    "max_position_embeddings": whole(1024, MAX_LENGTH),
    **{f"{side}_{name}": setting for side in SIDES for name, setting in SIZES.items()},
    "d_model": whole(1024, MAX_WIDTH),
    "share_encoder_decoder_embeddings": flag(True),
    "tie_word_embeddings": flag(True),
    "scale_embedding": flag(False),
    "activation_function": activation("gelu"),
    "dropout": rate(0.1),
    "attention_dropout": rate(0.0),
    "activation_dropout": rate(0.0),
}
ALIASES = {
    "num_attention_heads": "encoder_attention_heads",
    "hidden_size": "d_model",
    "num_hidden_layers": "encoder_layers",
}
FIXED = {
    "is_encoder_decoder": (True,),
    "normalize_before": (False, None),
    "normalize_embedding": (False, None),
    "add_final_layer_norm": (False, None),
    "add_bias_logits": (False, None),
    "static_position_embeddings": (True, None),
}
HARMLESS = frozenset(
    (
        "is_decoder",  # each half says it for itself
        "init_std",
        # in training alone; kept for export
        "encoder_layerdrop",
        "decoder_layerdrop",
        "classifier_dropout",
        "classif_dropout",
        "extra_pos_embeddings",  # of BART's learned positions
    )
)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "MarianMTModel": {"logits_bias": True},
    "MarianModel": {"logits_bias": False},  # its hidden states are those of the logits here
}
"""Classes of transformers to the fields of their heads."""
CONSTANT = {"position": "sine_halves", "final_norm": False, "norm_first": False, "norm_eps": 1e-5}
"""Fields that no key says."""


def _fields(values: Config) -> dict[str, Any]:
    for name in SIZES:
        one, other = (values[f"{side}_{name}"] for side in SIDES)
        if one != other:
            raise WeightsError(
                f"config.json has encoder_{name} {one}, decoder_{name} {other}: not one number"
            )
    size, shared = values["d_model"], values["share_encoder_decoder_embeddings"]
    require_heads("d_model", size, "encoder_attention_heads", values["encoder_attention_heads"])
    if size % 2:
        raise WeightsError(
            f"config.json has d_model {size}; positions are pairs of sine and cosine: an even "
            "number"
        )
    require_matrix(
        "max_position_embeddings", values["max_position_embeddings"], "d_model", size, MAX_POSITIONS
    )
    for key in ("vocab_size", "decoder_vocab_size", "encoder_ffn_dim"):
        require_matrix(key, values[key] or 1, "d_model", size)
    vocab_size, target = values["vocab_size"], values["decoder_vocab_size"]
    return {
        "vocab_size": vocab_size,
        "target_vocab_size": 0 if shared else vocab_size if target is None else target,
        "max_len": values["max_position_embeddings"],
        "num_layers": values["encoder_layers"],
        "num_heads": values["encoder_attention_heads"],
        "hidden_size": size,
        "mlp_dim": values["encoder_ffn_dim"],
        "share_embeddings": shared,
        "tie_embeddings": values["tie_word_embeddings"],
        "scale_embedding": values["scale_embedding"],
        "activation": values["activation_function"],
        "dropout_rate": values["dropout"],
        "attention_dropout_rate": values["attention_dropout"],
        "activation_dropout_rate": values["activation_dropout"],
        **CONSTANT,
    }


def _head(config: Config, values: Config) -> dict[str, Any]:
    return ARCHITECTURES[architecture(config, ARCHITECTURES, "MarianMTModel")]


def _write(model: Transformer, shape: Shape) -> dict[str, Any]:
    for name, value in CONSTANT.items():
        if getattr(model, name) != value:
            raise WeightsError(
                f"transformers' Marian has {name} {value!r}, the model has {getattr(model, name)!r}"
            )
    sizes = {
        "layers": model.num_layers,
        "attention_heads": model.num_heads,
        "ffn_dim": model.mlp_dim,
    }
    return {
        "architectures": ["MarianMTModel" if model.logits_bias else "MarianModel"],
        "model_type": "marian",
        "vocab_size": model.vocab_size,
        "decoder_vocab_size": model.target_vocab_size or model.vocab_size,
        "max_position_embeddings": model.max_len,
        **{f"{side}_{name}": size for side in SIDES for name, size in sizes.items()},
        "d_model": model.hidden_size,
        "share_encoder_decoder_embeddings": model.share_embeddings,
        "tie_word_embeddings": model.tie_embeddings,
        "scale_embedding": model.scale_embedding,
        "activation_function": activation_name(model.activation, "gelu_new"),
        "dropout": model.dropout_rate,
        "attention_dropout": model.attention_dropout_rate,
        "activation_dropout": model.activation_dropout_rate,
    }


def _guesses(model: Transformer) -> dict[str, Any]:
    # <pad> of opus-mt; 0 is </s>
    last = min(model.vocab_size, model.target_vocab_size or model.vocab_size) - 1
    return {
        "pad_token_id": last,
        "decoder_start_token_id": last,
        "eos_token_id": 0,
        "forced_eos_token_id": 0,
    }


FAMILY = HubFamily(
    cls=Transformer,
    applied=APPLIED,
    aliases=ALIASES,
    fixed=FIXED,
    harmless=HARMLESS,
    fields=_fields,
    head=_head,
    write=_write,
    guesses=_guesses,
    silent=(
        "num_heads",
        "activation",
        "norm_eps",
        "scale_embedding",
        "norm_first",
        "position",
        "final_norm",
    ),
    silent_head=("tie_embeddings",),
)
