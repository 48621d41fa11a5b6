"""``config.json`` of transformers' BERT (``BertConfig``)."""

from typing import Any

from jaxmodels.families.bert.model import BERT
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
    labels_of,
    number,
    number_of_labels,
    rate,
    require_heads,
    require_labels,
    require_matrix,
    whole,
)
from jaxmodels.weights.rules import WeightsError

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


FAMILY = HubFamily(
    cls=BERT,
    applied=APPLIED,
    fixed=FIXED,
    harmless=HARMLESS,
    fields=_fields,
    head=_head,
    write=_write,
    silent=("num_heads", "activation", "norm_eps"),
)
