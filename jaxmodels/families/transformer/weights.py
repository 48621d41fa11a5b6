"""PyTorch formats of the Transformer, and ``config.json`` of transformers' Marian
(``MarianConfig``)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmodels.families.transformer.model import Transformer, sine_positions
from jaxmodels.foreign.formats import Asked, Formats, Parts, Rules, block_name
from jaxmodels.foreign.keys import (
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
from jaxmodels.foreign.rules import (
    EMBEDDING,
    LAYER_NORM,
    LINEAR,
    Rule,
    Tensor,
    WeightsError,
    packed_attention,
)

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


HUB = HubFamily(
    model_type="marian",
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
    decoders={"MarianForCausalLM": "a decoder of Marian without its encoder"},
)


def _embeddings(model: Transformer, shared: str, source: str, target: str, head: str) -> Rules:
    """Token embeddings as the model has them, and the logits' matrix, which is multiplied out late
    on our side."""
    separate = (Rule(source, "source_embed", EMBEDDING), Rule(target, "target_embed", EMBEDDING))
    embeddings = (Rule(shared, "token_embed", EMBEDDING),) if model.share_embeddings else separate
    return (*embeddings, Rule("", "head", (Tensor(f"{head}.weight", "embedding"),)))


def _transformer_torch(model: Transformer, shape: Shape) -> Rules:
    """``torch.nn.Transformer`` as ``transformer`` between ``embedding`` (or two) and ``generator``,
    a Linear."""
    block, rules = block_name(model), []
    for side, layers in (
        ("encoder", {"self_attn": "attention", "norm1": "norm_1", "norm2": "norm_2"}),
        (
            "decoder",
            {
                "self_attn": "attention",
                "norm1": "norm_1",
                "multihead_attn": "cross_attention",
                "norm2": "norm_2",
                "norm3": "norm_3",
            },
        ),
    ):
        layers = layers | {"linear1": "mlp_in", "linear2": "mlp_out"}
        for torch, ours in layers.items():
            kind = (
                packed_attention() if "attn" in torch else LAYER_NORM if "norm" in torch else LINEAR
            )
            rules.append(
                Rule(f"transformer.{side}.layers.{{i}}.{torch}", f"{side}/{block}/{ours}", kind)
            )
        rules.append(Rule(f"transformer.{side}.norm", f"{side}/norm", LAYER_NORM))
    return (
        *_embeddings(model, "embedding", "source_embedding", "target_embedding", "generator"),
        *rules,
        Rule("", "", (Tensor("generator.bias", "logits_bias"),)),
    )


def _transformer_transformers(model: Transformer, shape: Shape, prefix: str = "model.") -> Rules:
    """MarianMTModel; without the prefix MarianModel, which has no head."""
    block, rules = block_name(model), []
    for side, attentions in (
        ("encoder", {"self_attn": "attention"}),
        ("decoder", {"self_attn": "attention", "encoder_attn": "cross_attention"}),
    ):
        theirs, ours = f"{prefix}{side}.layers.{{i}}", f"{side}/{block}"
        for i, (torch, attention) in enumerate(attentions.items(), 1):
            rules += [
                Rule(f"{theirs}.{torch}.{name[0]}_proj", f"{ours}/{attention}/{name}", LINEAR)
                for name in ("query", "key", "value")
            ]
            rules.append(Rule(f"{theirs}.{torch}.out_proj", f"{ours}/{attention}/out", LINEAR))
            rules.append(Rule(f"{theirs}.{torch}_layer_norm", f"{ours}/norm_{i}", LAYER_NORM))
        rules += [
            Rule(f"{theirs}.fc1", f"{ours}/mlp_in", LINEAR),
            Rule(f"{theirs}.fc2", f"{ours}/mlp_out", LINEAR),
            Rule(f"{theirs}.final_layer_norm", f"{ours}/norm_{len(attentions) + 1}", LAYER_NORM),
        ]
    embeddings = (
        f"{prefix}shared",
        f"{prefix}encoder.embed_tokens",
        f"{prefix}decoder.embed_tokens",
        "lm_head",
    )
    return (
        *_embeddings(model, *embeddings),
        *rules,
        Rule("", "", (Tensor("final_logits_bias", "logits_bias", layout="1 v -> v"),)),
    )


def _transformer_ties(model: Transformer, format: str) -> Mapping[str, str]:
    if format == "torch":
        target = "embedding" if model.share_embeddings else "target_embedding"
        return {"generator.weight": f"{target}.weight"} if model.tie_embeddings else {}
    prefix = "model." if format == "transformers" else ""
    sides = [f"{prefix}{side}.embed_tokens.weight" for side in ("encoder", "decoder")]
    ties = dict.fromkeys(sides, f"{prefix}shared.weight") if model.share_embeddings else {}
    if model.tie_embeddings:
        ties["lm_head.weight"] = f"{prefix}shared.weight" if model.share_embeddings else sides[1]
    return ties


def _is_sinusoid(table: np.ndarray) -> bool:
    """True if a table of positions is Marian's, as far as its type can say."""
    if table.ndim != 2 or table.shape[1] % 2 or not jnp.issubdtype(table.dtype, jnp.floating):
        return False
    difference = np.abs(sine_positions(*table.shape, halves=True) - table.astype(np.float64))
    eps = max(float(jnp.finfo(table.dtype).eps), 2**-23)  # a file of float64 has it from float32
    return bool((difference <= eps).all())  # NaN is not


def _parts(model: Transformer, asked: Asked) -> Parts:
    if not asked.foreign:
        return Parts(model)
    model = model.clone(
        logits_bias="final_logits_bias" in {name.rpartition(".")[2] for name in asked.tensors}
    )
    untied = not model.tie_embeddings
    if untied and not model.logits_bias and not asked.all("lm_head"):  # MarianModel has no logits
        model = model.clone(tie_embeddings=True)
    sides = [asked.names(f"{side}.embed_tokens") for side in ("encoder", "decoder")]
    # transformers 5 ties none of the three then
    if model.share_embeddings and untied and all(sides):
        return Parts(model.clone(share_embeddings=False), asked.all("shared"))
    return Parts(model)


FORMATS = Formats(
    {
        "torch": _transformer_torch,
        "transformers": _transformer_transformers,
        "transformers_base": partial(_transformer_transformers, prefix=""),
    },
    image_shape=(),
    inputs=lambda model, shape: (jnp.zeros((1, 1), jnp.int32),) * 2,
    constants={
        r"(model\.)?(encoder|decoder)\.embed_positions\.weight": (
            _is_sinusoid,
            "the sines that the model computes",
        )
    },
    ties=_transformer_ties,
    parts=_parts,
)
