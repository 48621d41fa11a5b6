"""PyTorch formats of BERT, and ``config.json`` of transformers (``BertConfig``)."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxmodels.families.bert.model import BERT
from jaxmodels.foreign.formats import TOKENS, Asked, Formats, Parts, Rules, block_name
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
    labels_of,
    number,
    number_of_labels,
    rate,
    require_heads,
    require_labels,
    require_matrix,
    whole,
)
from jaxmodels.foreign.rules import EMBEDDING, LAYER_NORM, LINEAR, Rule, Tensor, WeightsError

APPLIED = {
    "vocab_size": whole(30_522, MAX_VOCABULARY),
    "max_position_embeddings": whole(512, MAX_LENGTH),
    "type_vocab_size": whole(2, MAX_VOCABULARY),
    "num_hidden_layers": whole(12, MAX_LAYERS),
    "num_attention_heads": whole(12, MAX_HEADS),
    "hidden_size": whole(768, MAX_WIDTH),
    "intermediate_size": whole(3072, MAX_WIDTH),
    "hidden_act": activation("gelu"),
    "layer_norm_eps": number(1e-12),
    "hidden_dropout_prob": rate(0.1),
    "attention_probs_dropout_prob": rate(0.1),
    "tie_word_embeddings": flag(True),
}
FIXED = {"is_decoder": (False,), "is_encoder_decoder": (False,)}
HARMLESS = frozenset(
    (
        "classifier_dropout",  # in training alone; kept for export
        # of the multilingual files of 2018, from Google's own code
        "directionality",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
    )
)
BERT_CLASSES = {
    "pretraining": "BertForPreTraining",
    "classification": "BertForSequenceClassification",
    "tokens": "BertForTokenClassification",
    "spans": "BertForQuestionAnswering",
    "none": "BertModel",
    "next_sentence": "BertForNextSentencePrediction",
    "choices": "BertForMultipleChoice",
}
ARCHITECTURES = {name: head for head, name in BERT_CLASSES.items()} | {
    # the files of bert-base-uncased say so and hold next sentence and pooler too; others do not
    "BertForMaskedLM": "pretraining",
}
"""Classes of transformers to our heads."""


def _fields(values: Config) -> dict[str, Any]:
    size = values["hidden_size"]
    require_heads("hidden_size", size, "num_attention_heads", values["num_attention_heads"])
    for key in ("vocab_size", "max_position_embeddings", "type_vocab_size", "intermediate_size"):
        require_matrix(key, values[key], "hidden_size", size)
    return {
        "vocab_size": values["vocab_size"],
        "max_len": values["max_position_embeddings"],
        "type_vocab_size": values["type_vocab_size"],
        "num_layers": values["num_hidden_layers"],
        "num_heads": values["num_attention_heads"],
        "hidden_size": size,
        "mlp_dim": values["intermediate_size"],
        "activation": values["hidden_act"],
        "norm_eps": values["layer_norm_eps"],
        "dropout_rate": values["hidden_dropout_prob"],
        "attention_dropout_rate": values["attention_probs_dropout_prob"],
    }


def _head(config: Config, values: Config) -> dict[str, Any]:
    name = architecture(config, ARCHITECTURES, "BertModel")
    head = ARCHITECTURES[name]
    labels = (
        require_labels(config)
        if head in ("classification", "tokens")
        else max(1, number_of_labels(config))
    )
    tied = values["tie_word_embeddings"] or head != "pretraining"
    # BertForMaskedLM has next sentence too where its file does
    surely = {"next_sentence": True} if name == "BertForPreTraining" else {}
    return {"head": head, "num_classes": labels, "tie_embeddings": tied, **surely}


def bert_class(model: BERT) -> str:
    """The class of transformers that a model is."""
    return BERT_CLASSES[model.head] if model.next_sentence else "BertForMaskedLM"


def _write(model: BERT, shape: Shape) -> dict[str, Any]:
    if model.head == "classification" and model.pool != "cls":
        raise WeightsError(
            f"transformers' BERT classifies by its pooler and not by pool={model.pool!r}; nearest: "
            "'cls'"
        )
    return {
        "architectures": [bert_class(model)],
        "model_type": "bert",
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.max_len,
        "type_vocab_size": model.type_vocab_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.mlp_dim,
        "hidden_act": activation_name(model.activation, "gelu_new"),
        "layer_norm_eps": model.norm_eps,
        "hidden_dropout_prob": model.dropout_rate,
        "attention_probs_dropout_prob": model.attention_dropout_rate,
        "tie_word_embeddings": model.tie_embeddings,
        **(labels_of(model.num_classes) if model.head in ("classification", "tokens") else {}),
    }


HUB = HubFamily(
    model_type="bert",
    cls=BERT,
    applied=APPLIED,
    fixed=FIXED,
    harmless=HARMLESS,
    fields=_fields,
    head=_head,
    write=_write,
    silent=("num_heads", "activation", "norm_eps"),
    decoders={
        "BertLMHeadModel": "a BERT that sees no later token",
        "BertGenerationDecoder": "a BERT that sees no later token",
    },
)


def _bert(prefix: str) -> Callable[[BERT, Shape], Rules]:
    def rules(model: BERT, shape: Shape) -> Rules:
        block, theirs = block_name(model), f"{prefix}encoder.layer.{{i}}"
        head = {"spans": "qa_outputs"}.get(model.head, "classifier")
        return (
            Rule(f"{prefix}embeddings.word_embeddings", "token_embed", EMBEDDING),
            Rule(f"{prefix}embeddings.position_embeddings", "position_embed", EMBEDDING),
            Rule(f"{prefix}embeddings.token_type_embeddings", "type_embed", EMBEDDING),
            Rule(f"{prefix}embeddings.LayerNorm", "norm", LAYER_NORM),
            *(
                Rule(f"{theirs}.attention.self.{name}", f"{block}/attention/{name}", LINEAR)
                for name in ("query", "key", "value")
            ),
            Rule(f"{theirs}.attention.output.dense", f"{block}/attention/out", LINEAR),
            Rule(f"{theirs}.attention.output.LayerNorm", f"{block}/norm_1", LAYER_NORM),
            Rule(f"{theirs}.intermediate.dense", f"{block}/mlp_in", LINEAR),
            Rule(f"{theirs}.output.dense", f"{block}/mlp_out", LINEAR),
            Rule(f"{theirs}.output.LayerNorm", f"{block}/norm_2", LAYER_NORM),
            Rule(f"{prefix}pooler.dense", "pooler", LINEAR),
            Rule("cls.predictions.transform.dense", "head_dense", LINEAR),
            Rule("cls.predictions.transform.LayerNorm", "head_norm", LAYER_NORM),
            Rule(
                "cls.predictions",
                "",
                (Tensor("bias" if model.tie_embeddings else "decoder.bias", "head_bias"),),
            ),
            Rule("cls.predictions.decoder", "head_decoder", EMBEDDING),
            Rule("cls.seq_relationship", "head_next", LINEAR),
            Rule(head, "head", LINEAR),
        )

    return rules


def _bert_ties(model: BERT, format: str) -> Mapping[str, str]:
    if model.head != "pretraining":
        return {}
    prefix = "bert." if format == "transformers" else ""
    decoder = "cls.predictions.decoder"
    if not model.tie_embeddings:  # before transformers 5 the bias had two names all the same
        return {"cls.predictions.bias": f"{decoder}.bias"}
    return {
        f"{decoder}.weight": f"{prefix}embeddings.word_embeddings.weight",
        f"{decoder}.bias": "cls.predictions.bias",
    }


def _counts(positions: np.ndarray) -> bool:
    """True if positions are 0, 1, 2, ..."""
    return np.array_equal(positions.reshape(-1), np.arange(positions.size))


PARTS = ("pooler", "head", "head_dense", "head_norm", "head_bias", "head_decoder", "head_next")


HEAD_MODULES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "pretraining": (("cls.predictions", "cls.seq_relationship"), "head_dense"),
    "next_sentence": (("cls.seq_relationship",), "head_next"),
    "classification": (("classifier",), "head"),
    "choices": (("classifier",), "head"),
    "tokens": (("classifier",), "head"),
    "spans": (("qa_outputs",), "head"),
    "none": ((), "head"),
}
"""Modules of each head in a file, and the one here that stands for it."""


def _parts(model: BERT, asked: Asked) -> Parts:
    pooler = bool(asked.names("pooler.dense")) and not asked.left("pooler")
    following = bool(asked.names("cls.seq_relationship")) and not asked.left("head_next")
    theirs, ours = HEAD_MODULES[model.head]
    if asked.left(ours) or asked.left("head") or (asked.all(*theirs) and not asked.names(*theirs)):
        model = model.clone(head="none", pool="cls", next_sentence=True, tie_embeddings=True)
        unused = asked.all(*theirs)
    elif model.head == "pretraining":
        left = (
            asked.left("pooler")
            or asked.left("head_next")
            or (asked.all("cls.seq_relationship") and not following)
        )
        whole = asked.cls == "BertForPreTraining" and not left  # what it lacks is an error
        model = model.clone(next_sentence=model.next_sentence and (whole or (pooler and following)))
        unused = () if model.next_sentence else asked.all("cls.seq_relationship")
    else:
        unused = ()
    if model.head == "none":
        model = model.clone(pooler=model.pooler and pooler)
    if model.head in ("tokens", "spans") or not (model.pooler and model.next_sentence):
        unused += asked.all("pooler.dense")
    return Parts(model, unused, tuple(f"params/{name}" for name in PARTS))


FORMATS = Formats(
    {"transformers": _bert("bert."), "transformers_base": _bert("")},
    **TOKENS,
    constants={
        r"(bert\.)?embeddings\.position_ids": (_counts, "0, 1, 2, ..."),
        r"(bert\.)?embeddings\.token_type_ids": (lambda types: not types.any(), "zeros"),
    },
    unread=lambda model: "" if model.tie_embeddings else r"cls\.predictions\.bias",
    ties=_bert_ties,
    renamed={r"LayerNorm\.gamma$": "LayerNorm.weight", r"LayerNorm\.beta$": "LayerNorm.bias"},
    parts=_parts,
)
