"""transformers' BERT, and its certificates."""

from jaxmodels.families.bert.model import BERT
from jaxmodels.families.bert.weights import HUB, bert_class
from jaxmodels.foreign.original import (
    SDPA,
    Case,
    Original,
    OriginalError,
    Shape,
    token_cross_entropy,
    transformers,
    transformers_source,
)


def original(model: BERT, shape: Shape) -> Original:
    """transformers' class of the model's head.

    Dropout and all, in training mode, with its own random initial values.

    Raises:
      OriginalError: there is none with these fields, or its library is not installed.
    """
    from torch.nn import functional as F

    library = transformers()
    config = library.BertConfig(**HUB.config(model, shape))
    config._attn_implementation = SDPA
    name = bert_class(model)

    class Bert(getattr(library, name)):
        """Called with what our model is called with."""

        def forward(self, tokens, segments=None, types=None, positions=None):
            place = None if segments is None else (segments.cumsum(1) - 1).clamp(min=0)
            given = {"attention_mask": segments, "token_type_ids": types, "position_ids": place}
            if positions is None:
                return super().forward(input_ids=tokens, **given)
            # theirs makes logits at every place; the same layers, at those that are asked for
            found = self.bert(input_ids=tokens, **given)
            hidden = found[0].gather(1, positions[..., None].expand(-1, -1, found[0].shape[-1]))
            if not model.next_sentence:
                return library.modeling_outputs.MaskedLMOutput(logits=self.cls(hidden))
            logits, following = self.cls(hidden, found[1])
            return library.models.bert.modeling_bert.BertForPreTrainingOutput(
                prediction_logits=logits, seq_relationship_logits=following
            )

    def masked_loss(logits, batch):
        return token_cross_entropy(
            logits, {"target": batch["masked_target"], "weight": batch["masked_weight"]}
        )

    def pretraining_loss(outputs, batch):
        following = F.cross_entropy(outputs.seq_relationship_logits, batch["label"])
        return masked_loss(outputs.prediction_logits, batch) + following

    if model.head == "pretraining":
        # untied, the second of two biases is never read
        names = ("decoder.weight", "decoder.bias") if model.tie_embeddings else ("bias",)
        tied = frozenset(f"cls.predictions.{name}" for name in names)
        main, loss = (lambda outputs: outputs.prediction_logits), pretraining_loss
        if not model.next_sentence:
            main, loss = (
                (lambda outputs: outputs.logits),
                lambda outputs, batch: masked_loss(outputs.logits, batch),
            )
    elif model.head == "classification":
        tied, main = frozenset[str](), lambda outputs: outputs.logits
        loss = lambda outputs, batch: F.cross_entropy(outputs.logits, batch["label"])  # noqa: E731
    else:
        raise OriginalError(
            f"BERT with head {model.head!r} has an original, and no objective to compare it by"
        )
    return Original(
        Bert(config), transformers_source(name), "transformers", main=main, loss=loss, tied=tied
    )


CASES = (
    *(
        Case(
            model,
            (),
            (),
            length=22,
            fields={"max_len": 24, "head": head, **fields},
            full_fields={"head": head, "num_classes": 3},
            classes=101,
            full_classes=30_522,
            objective={"pretraining": "masked_lm"}.get(head, head),
            note=f"vocabulary of 101, positions 24{note}",
            name=name,
        )
        for model, name, head, fields, note in (
            ("bert_tiny", "", "pretraining", {}, ""),
            ("bert_base", "", "pretraining", {"scan": True}, ", scanned"),
            (
                "bert_base",
                "bert_base_classifier",
                "classification",
                {"scan": True},
                ", scanned",
            ),
            (
                "bert_large",
                "",
                "pretraining",
                {"scan": True, "num_layers": 6},
                ", scanned, 6 of 24 layers",
            ),
            ("minilm_l6", "", "pretraining", {}, ""),
            ("minilm_l6", "minilm_l6_classifier", "classification", {}, ""),
            (
                "minilm_l12",
                "",
                "pretraining",
                {"scan": True, "remat": True},
                ", scanned, rematerialised",
            ),
        )
    ),
)
