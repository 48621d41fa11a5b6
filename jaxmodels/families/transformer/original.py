"""``torch.nn.Transformer`` and transformers' Marian, and their certificates."""

import math
from typing import Any

import jax.numpy as jnp

from jaxmodels.families.transformer.model import Transformer
from jaxmodels.families.transformer.weights import FORMATS, HUB
from jaxmodels.foreign.original import (
    SDPA,
    Case,
    Original,
    Shape,
    activation,
    token_cross_entropy,
    transformers,
    transformers_source,
)


def original(model: Transformer, shape: Shape) -> Original:
    """``torch.nn.Transformer`` between embeddings, or transformers' Marian.

    Dropout and all, in training mode, with its own random initial values.

    Raises:
      OriginalError: there is none with these fields, or its library is not installed.
    """
    import torch
    from torch import nn

    class TorchTransformer(nn.Module):
        """Embeddings and positions as in the paper, ``torch.nn.Transformer``, logits."""

        def __init__(self, model: Transformer):
            super().__init__()
            size, target_vocab_size = model.hidden_size, model.target_vocab_size or model.vocab_size
            if model.share_embeddings:
                self.embedding = nn.Embedding(model.vocab_size, size)
                self.embeddings = (self.embedding, self.embedding)
            else:
                self.source_embedding = nn.Embedding(model.vocab_size, size)
                self.target_embedding = nn.Embedding(target_vocab_size, size)
                self.embeddings = (self.source_embedding, self.target_embedding)
            self.position = sine_positions(model)
            self.scale = math.sqrt(size) if model.scale_embedding else 1.0
            self.dropout = nn.Dropout(model.dropout_rate)
            fields = {
                "dropout": model.dropout_rate,
                "activation": activation(model.activation),
                "layer_norm_eps": model.norm_eps,
                "norm_first": model.norm_first,
                "batch_first": True,
            }
            sizes = (size, model.num_heads, model.mlp_dim)
            norms = [
                nn.LayerNorm(size, eps=model.norm_eps) if model.final_norm else None
                for _ in range(2)
            ]
            encoder_layer = nn.TransformerEncoderLayer(*sizes, **fields)
            decoder_layer = nn.TransformerDecoderLayer(*sizes, **fields)
            self.transformer = nn.Transformer(
                *sizes[:2],
                custom_encoder=nn.TransformerEncoder(
                    encoder_layer, model.num_layers, norms[0], enable_nested_tensor=False
                ),
                custom_decoder=nn.TransformerDecoder(decoder_layer, model.num_layers, norms[1]),
                batch_first=True,
            )
            for part in self.transformer.modules():
                if isinstance(part, nn.MultiheadAttention):
                    part.dropout = model.attention_dropout_rate
                elif isinstance(part, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
                    part.dropout.p = model.activation_dropout_rate
            self.generator = nn.Linear(size, target_vocab_size, bias=model.logits_bias)
            for embedding in {*self.embeddings, self.generator}:
                nn.init.normal_(embedding.weight, 0, size**-0.5)
            if model.logits_bias:
                nn.init.zeros_(self.generator.bias)
            if model.tie_embeddings:
                self.generator.weight = self.embeddings[1].weight

        def forward(self, source, target, source_segments=None, target_segments=None):
            source_padding, target_padding = (
                x if x is None else x == 0 for x in (source_segments, target_segments)
            )
            later = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
            embedded = [
                self.dropout(embedding(x) * self.scale + self.position(x.shape))
                for embedding, x in zip(self.embeddings, (source, target), strict=True)
            ]
            hidden = self.transformer(
                *embedded,
                tgt_mask=later,
                src_key_padding_mask=source_padding,
                tgt_key_padding_mask=target_padding,
                memory_key_padding_mask=source_padding,
            )
            return self.generator(hidden)

    if model.position == "sine_halves" and model.logits_bias:
        return _marian(model, shape)
    return Original(
        TorchTransformer(model),
        f"torch {torch.__version__} nn.Transformer",
        "torch",
        loss=token_cross_entropy,
        tied=frozenset({"generator.weight"} if model.tie_embeddings else ()),
    )


def _marian(model: Transformer, shape: Shape) -> Original:
    """MarianMTModel, with a bias that trains."""
    from torch import nn

    library = transformers()

    class MarianMTModel(library.MarianMTModel):
        """Called with what our model is called with."""

        def forward(self, source, target, source_segments=None, target_segments=None):
            given = {"attention_mask": source_segments, "decoder_attention_mask": target_segments}
            return super().forward(
                input_ids=source, decoder_input_ids=target, use_cache=False, **given
            )

    config = library.MarianConfig(**HUB.config(model, shape))
    config._attn_implementation = SDPA
    module = MarianMTModel(config)
    if model.share_embeddings:
        module.set_input_embeddings(module.model.shared)  # one module, not three with one weight
    # Marian itself trains this bias, which transformers fixes
    bias = module.final_logits_bias
    del module.final_logits_bias
    module.final_logits_bias = nn.Parameter(bias)
    for side in (module.model.encoder, module.model.decoder):
        # theirs is rounded to float32 whatever the type, and no gradient reaches the row of the
        # padding token, with which every target starts
        side.embed_positions = sine_positions(model)
        side.embed_tokens.padding_idx = None
    return Original(
        module,
        transformers_source("MarianMTModel"),
        "transformers",
        main=lambda outputs: outputs.logits,
        loss=lambda outputs, batch: token_cross_entropy(outputs.logits, batch),
        tied=frozenset(FORMATS.ties(model, "transformers")),
    )


def sine_positions(model: Transformer) -> Any:
    """A module with the positions of Vaswani et al. 2017, section 3.5; called as Marian's."""
    import torch
    from torch import nn

    class SinePositions(nn.Module):
        """Vaswani et al. 2017, section 3.5, in the model's precision; called as Marian's."""

        def __init__(self):
            super().__init__()
            length, size, halves = model.max_len, model.hidden_size, model.position == "sine_halves"
            frequency = torch.exp(
                torch.arange(0, size, 2, dtype=torch.float64) * (-math.log(10_000) / size)
            )
            angles = torch.arange(length, dtype=torch.float64)[:, None] * frequency
            table = torch.empty(length, size, dtype=torch.float64)
            first, second = (
                (slice(size // 2), slice(size // 2, None))
                if halves
                else (slice(0, None, 2), slice(1, None, 2))
            )
            table[:, first], table[:, second] = angles.sin(), angles.cos()
            dtype = getattr(torch, jnp.dtype(model.param_dtype).name)
            self.register_buffer("table", table.to(dtype), persistent=False)

        def forward(self, shape, past=0, position_ids=None):
            return self.table[past : past + shape[1]]

    return SinePositions()


CASES = (
    *(
        Case(
            model,
            (),
            (),
            length=19,
            fields={"max_len": 24, **fields},
            full_fields=full_fields,
            classes=101,
            full_classes=full_classes,
            objective="seq2seq",
            note=f"vocabulary of 101, positions 24{note}",
            name=name,
        )
        for model, name, fields, full_fields, full_classes, note in (
            ("transformer_tiny", "", {}, {}, 8000, ""),
            (
                "transformer_tiny",
                "transformer_tiny_pre_norm",
                {
                    "norm_first": True,
                    "share_embeddings": False,
                    "tie_embeddings": False,
                    "target_vocab_size": 101,
                },
                {"norm_first": True, "share_embeddings": False, "tie_embeddings": False},
                8000,
                ", pre-norm, three embeddings",
            ),
            ("transformer_base", "", {"scan": True}, {}, 37_000, ", scanned"),
            (
                "transformer_big",
                "",
                {"scan": True, "remat": True, "num_layers": 2},
                {},
                37_000,
                ", scanned, rematerialised, 2 of 6 layers",
            ),
            (
                "marian",
                "",
                {"scan": True, "num_layers": 3},
                {},
                58_101,
                ", scanned, 3 of 6 layers",
            ),
        )
    ),
)
