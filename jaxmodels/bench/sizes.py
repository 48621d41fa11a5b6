"""Sizes at which our models and their originals are timed.

On a CPU every family at a size of a first experiment and at twice that size; on a GPU published
models, and an LSTM.
"""

import dataclasses
from typing import Any

from jaxmodels.foreign.original import Case


def _images(
    name: str,
    model: str,
    side: int,
    channels: int,
    batch: int,
    *,
    objective: str = "",
    **fields: Any,
) -> Case:
    shape = (side, side, channels)
    objective = objective or "classification"
    return Case(
        model,
        shape,
        shape,
        fields=fields,
        timing_batch_size=batch,
        full_classes=10,
        objective=objective,
        name=name,
    )


def _texts(
    name: str,
    model: str,
    length: int,
    batch: int,
    vocabulary: int,
    *,
    objective: str = "classification",
    **fields: Any,
) -> Case:
    fields |= {} if objective == "classification" else {"max_len": length}
    return Case(
        model,
        (),
        (),
        length=length,
        fields=fields,
        timing_batch_size=batch,
        classes=vocabulary,
        full_classes=vocabulary,
        objective=objective,
        name=name,
    )


def _transformer(width: int, layers: int) -> dict[str, Any]:
    return {
        "num_layers": layers,
        "hidden_size": width,
        "num_heads": width // 32,
        "mlp_dim": 4 * width,
    }


ALEXNET = {"stem": "small", "hidden_sizes": (256, 256), "pooled_size": 2}
VGG = {"stage_sizes": (1, 1, 2), "hidden_sizes": (128,), "pooled_size": 3}

SPEED_CASES: dict[str, Case] = {
    case.key: case
    for case in (
        _images("mlp", "mlp", 28, 1, 128, hidden_sizes=(256, 128)),
        _images("mlp_2x", "mlp", 28, 1, 128, hidden_sizes=(512, 256)),
        _images("cnn", "cnn", 28, 1, 128, features=(32, 64), pool="each", hidden_size=256),
        _images("cnn_2x", "cnn", 28, 1, 128, features=(64, 128), pool="each", hidden_size=512),
        _images("alexnet", "alexnet", 28, 1, 64, features=(16, 48, 96, 64, 64), **ALEXNET),
        _images("alexnet_2x", "alexnet", 28, 1, 64, features=(32, 96, 192, 128, 128), **ALEXNET),
        _images("vgg", "vgg11", 28, 1, 64, stage_features=(16, 32, 64), **VGG),
        _images("vgg_2x", "vgg11", 28, 1, 64, stage_features=(32, 64, 128), **VGG),
        _images("googlenet", "googlenet", 64, 3, 8),
        _images("googlenet_2x", "googlenet", 64, 3, 16),
        _images("resnet18", "resnet18", 64, 3, 8),
        _images("resnet18_2x", "resnet18", 64, 3, 16),
        _images("resnet20", "resnet20", 32, 3, 32),
        _images("resnet20_2x", "resnet20", 32, 3, 64),
        _images("vit", "vit_ti_16", 32, 3, 32, patch_size=4, **_transformer(128, 6)),
        _images("vit_2x", "vit_ti_16", 32, 3, 32, patch_size=4, **_transformer(256, 6)),
        _images("vae", "vae", 28, 1, 128, objective="elbo", hidden_sizes=(400,)),
        _images("vae_2x", "vae", 28, 1, 128, objective="elbo", hidden_sizes=(800,)),
        _texts("lstm", "lstm", 64, 32, 6000, embed_size=100, hidden_size=128),
        _texts("lstm_2x", "lstm", 128, 64, 6000, embed_size=128, hidden_size=256),
        _texts(
            "transformer",
            "transformer_tiny",
            32,
            16,
            4000,
            objective="seq2seq",
            **_transformer(128, 4),
        ),
        _texts(
            "transformer_2x",
            "transformer_tiny",
            32,
            16,
            4000,
            objective="seq2seq",
            **_transformer(256, 4),
        ),
        _texts("bert", "bert_tiny", 128, 8, 4000, objective="masked_lm", **_transformer(128, 4)),
        _texts("bert_2x", "bert_tiny", 128, 8, 4000, objective="masked_lm", **_transformer(256, 4)),
        _texts("gpt2", "gpt2_tiny", 128, 8, 4000, objective="causal_lm", **_transformer(256, 6)),
        _texts("gpt2_2x", "gpt2_tiny", 256, 4, 4000, objective="causal_lm", **_transformer(512, 6)),
    )
}


IMAGENET = {"classes": 1000, "full_classes": 1000}

GPU_CASES: dict[str, Case] = {
    case.key: case
    for case in (
        _texts("gpt2_124m", "gpt2_124m", 1024, 16, 50_257, objective="causal_lm"),
        dataclasses.replace(
            _texts("bert_base_128", "bert_base", 512, 128, 30_522, objective="masked_lm"),
            length=128,
        ),
        _texts("bert_base_512", "bert_base", 512, 32, 30_522, objective="masked_lm"),
        dataclasses.replace(_images("vit_b_16", "vit_b_16", 224, 3, 128), **IMAGENET),
        dataclasses.replace(_images("resnet50", "resnet50", 224, 3, 128), **IMAGENET),
        _texts("lstm", "lstm", 128, 128, 20_000, embed_size=512, hidden_size=512),
    )
}

CASES_ON = {"cpu": SPEED_CASES, "gpu": GPU_CASES}
"""By device."""
