"""transformers' GPT-2, and its certificates."""

from jaxmodels.families.gpt2.model import GPT2
from jaxmodels.families.gpt2.weights import HUB
from jaxmodels.foreign.original import (
    SDPA,
    Case,
    Original,
    Shape,
    token_cross_entropy,
    transformers,
    transformers_source,
)


def original(model: GPT2, shape: Shape) -> Original:
    """transformers' GPT2LMHeadModel, with its own random initial values."""
    library = transformers()

    class GPT2LMHeadModel(library.GPT2LMHeadModel):
        """Called with what our model is called with; padding is hidden by the mask and has the
        position 0."""

        def forward(self, tokens, segments=None):
            position = None if segments is None else ((segments > 0).cumsum(1) - 1).clamp(min=0)
            return super().forward(
                input_ids=tokens, attention_mask=segments, position_ids=position, use_cache=False
            )

    config = library.GPT2Config(**HUB.config(model, shape))
    config._attn_implementation = SDPA
    return Original(
        GPT2LMHeadModel(config),
        transformers_source("GPT2LMHeadModel"),
        "transformers",
        main=lambda outputs: outputs.logits,
        loss=lambda outputs, batch: token_cross_entropy(outputs.logits, batch),
        tied=frozenset({"lm_head.weight"} if model.tie_embeddings else ()),
    )


CASES = (
    *(
        Case(
            name,
            (),
            (),
            length=24,
            fields={"max_len": 32, **fields},
            classes=101,
            full_classes=full_classes,
            objective="causal_lm",
            note=f"vocabulary of 101, positions 32{note}",
        )
        for name, fields, full_classes, note in (
            ("gpt2_tiny", {}, 65, ""),
            ("gpt2_124m", {"scan": True}, 50_257, ", scanned"),
            (
                "gpt2_355m",
                {"scan": True, "num_layers": 8, "remat": True},
                50_257,
                ", scanned, 8 of 24 layers",
            ),
            ("gpt2_774m", {"scan": True, "num_layers": 4}, 50_257, ", scanned, 4 of 36 layers"),
            (
                "gpt2_1558m",
                {"scan": True, "num_layers": 2},
                50_257,
                ", scanned, 2 of 48 layers",
            ),
        )
    ),
)
