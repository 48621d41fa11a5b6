"""PyTorch formats of GPT-2, and ``config.json`` of transformers (``GPT2Config``)."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxmodels.families.gpt2.model import GPT2
from jaxmodels.foreign.formats import TOKENS, Formats, Rules, block_name
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
    number,
    optional,
    rate,
    require_heads,
    require_matrix,
    whole,
)
from jaxmodels.foreign.rules import (
    CONV1D,
    EMBEDDING,
    LAYER_NORM,
    Rule,
    Tensor,
    packed_attention_conv1d,
)

APPLIED = {
    "vocab_size": whole(50_257, MAX_VOCABULARY),
    "n_positions": whole(1024, MAX_LENGTH),
    "n_layer": whole(12, MAX_LAYERS),
    "n_head": whole(12, MAX_HEADS),
    "n_embd": whole(768, MAX_WIDTH),
    "n_inner": optional(whole(3072, MAX_WIDTH)),
    "tie_word_embeddings": flag(True),
    "activation_function": activation("gelu_new"),
    "layer_norm_epsilon": number(1e-5),
    "embd_pdrop": rate(0.1),
    "resid_pdrop": rate(0.1),
    "attn_pdrop": rate(0.1),
}
ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
FIXED = {
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "is_encoder_decoder": (False,),
}
HARMLESS = frozenset(
    (
        "n_ctx",  # n_positions, once more, of files before transformers 4
        "is_decoder",  # which GPT-2 always is
        "reorder_and_upcast_attn",  # the same products in another order
        "predict_special_tokens",
        "n_special",  # tokens that OpenAI's first GPT added to its vocabulary
        # of the second head of GPT2DoubleHeadsModel
        "summary_type",
        "summary_use_proj",
        "summary_activation",
        "summary_proj_to_labels",
        "summary_first_dropout",
        "summary_last_dropout",
        # of the dropout before a classifier
        "classifier_dropout",
        "hidden_dropout",
    )
)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": {},
    "GPT2Model": {"tie_embeddings": True},  # its hidden states are those of the logits here
    "GPT2DoubleHeadsModel": {},
    # without a matrix for logits of their own
    "GPT2ForSequenceClassification": {"tie_embeddings": True},
    "GPT2ForTokenClassification": {"tie_embeddings": True},
    "GPT2ForQuestionAnswering": {"tie_embeddings": True},
}
"""Classes of transformers to the fields of their heads."""


def _fields(values: Config) -> dict[str, Any]:
    size, inner = values["n_embd"], values["n_inner"]
    inner = 4 * size if inner is None else inner
    require_heads("n_embd", size, "n_head", values["n_head"])
    require_matrix("n_embd", size, "n_inner", inner)
    for key in ("vocab_size", "n_positions"):
        require_matrix(key, values[key], "n_embd", size)
    return {
        "vocab_size": values["vocab_size"],
        "max_len": values["n_positions"],
        "num_layers": values["n_layer"],
        "num_heads": values["n_head"],
        "hidden_size": size,
        "mlp_dim": inner,
        "tie_embeddings": values["tie_word_embeddings"],
        "activation": values["activation_function"],
        "norm_eps": values["layer_norm_epsilon"],
        "embedding_dropout_rate": values["embd_pdrop"],
        "dropout_rate": values["resid_pdrop"],
        "attention_dropout_rate": values["attn_pdrop"],
    }


def _head(config: Config, values: Config) -> dict[str, Any]:
    return ARCHITECTURES[architecture(config, ARCHITECTURES, "GPT2LMHeadModel")]


def _write(model: GPT2, shape: Shape) -> dict[str, Any]:
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
        "activation_function": activation_name(model.activation, "gelu_new"),
        "layer_norm_epsilon": model.norm_eps,
        "embd_pdrop": model.embedding_dropout_rate,
        "resid_pdrop": model.dropout_rate,
        "attn_pdrop": model.attention_dropout_rate,
    }


def _guesses(model: GPT2) -> dict[str, Any]:
    last = model.vocab_size - 1  # <|endoftext|> of GPT-2's own vocabulary
    return {"bos_token_id": last, "eos_token_id": last}


HUB = HubFamily(
    model_type="gpt2",
    cls=GPT2,
    applied=APPLIED,
    aliases=ALIASES,
    fixed=FIXED,
    harmless=HARMLESS,
    fields=_fields,
    head=_head,
    write=_write,
    guesses=_guesses,
    silent=("num_heads", "activation", "norm_eps"),
    silent_head=("tie_embeddings",),
    without_place={
        "GPT2ForSequenceClassification": ("score.*",),
        "GPT2ForTokenClassification": ("classifier.*",),
        "GPT2ForQuestionAnswering": ("qa_outputs.*",),
        "GPT2DoubleHeadsModel": ("multiple_choice_head.*",),
    },
)


def _gpt2(prefix: str) -> Callable[[GPT2, Shape], Rules]:
    def rules(model: GPT2, shape: Shape) -> Rules:
        block, theirs = block_name(model), f"{prefix}h.{{i}}"
        return (
            Rule(f"{prefix}wte", "token_embed", EMBEDDING),
            Rule(f"{prefix}wpe", "position_embed", EMBEDDING),
            Rule(f"{theirs}.ln_1", f"{block}/norm_1", LAYER_NORM),
            Rule(f"{theirs}.attn", f"{block}/attention", packed_attention_conv1d()),
            Rule(f"{theirs}.ln_2", f"{block}/norm_2", LAYER_NORM),
            Rule(f"{theirs}.mlp.c_fc", f"{block}/mlp_in", CONV1D),
            Rule(f"{theirs}.mlp.c_proj", f"{block}/mlp_out", CONV1D),
            Rule(f"{prefix}ln_f", "norm", LAYER_NORM),
            Rule("", "head", (Tensor("lm_head.weight", "embedding"),)),
        )

    return rules


def _gpt2_ties(model: GPT2, format: str) -> Mapping[str, str]:
    first = "transformer.wte.weight" if format == "transformers" else "wte.weight"
    return {"lm_head.weight": first} if model.tie_embeddings else {}


def _is_causal(mask: np.ndarray) -> bool:
    """True if a mask has ones at and below its diagonal and zeros above it."""
    size = mask.shape[-1:]
    return mask.shape == (1, 1, *size * 2) and np.array_equal(
        mask[0, 0] != 0, np.tri(*size, dtype=bool)
    )


def _is_hidden(value: np.ndarray) -> bool:
    """True if a score is so low that its exponential is 0 beside any other."""
    return value.shape == () and bool(value <= -1e4)


FORMATS = Formats(
    {"transformers": _gpt2("transformer."), "transformers_base": _gpt2("")},
    **TOKENS,
    constants={
        r"(transformer\.)?h\.\d+\.attn\.bias": (_is_causal, "the causal mask"),
        r"(transformer\.)?h\.\d+\.attn\.masked_bias": (
            _is_hidden,
            "a number of -10,000 or less",
        ),
    },
    ties=_gpt2_ties,
)
