"""``config.json`` of transformers' ViT (``ViTConfig``)."""

from typing import Any

from jaxmodels.families.vit.model import ViT
from jaxmodels.weights.hub.keys import (
    MAX_CHANNELS,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_LENGTH,
    MAX_PIXELS,
    MAX_WIDTH,
    Config,
    HubFamily,
    Setting,
    Shape,
    activation,
    activation_name,
    architecture,
    labels_of,
    number,
    rate,
    require_heads,
    require_labels,
    require_matrix,
    whole,
)
from jaxmodels.weights.json_files import short
from jaxmodels.weights.rules import WeightsError


def _sides(default: int) -> Setting:
    """One number, or height and width."""

    def read(value: Any) -> tuple[int, int]:
        one = whole(default, MAX_PIXELS).read
        if not isinstance(value, list):
            return one(value), one(value)
        if len(value) != 2:
            raise ValueError(f"it must be one number, or height and width, as {default}")
        return one(value[0]), one(value[1])

    return Setting(default, read)


APPLIED = {
    "image_size": _sides(224),
    "patch_size": _sides(16),
    "num_channels": whole(3, MAX_CHANNELS),
    "num_hidden_layers": whole(12, MAX_LAYERS),
    "num_attention_heads": whole(12, MAX_HEADS),
    "hidden_size": whole(768, MAX_WIDTH),
    "intermediate_size": whole(3072, MAX_WIDTH),
    "hidden_act": activation("gelu"),
    "layer_norm_eps": number(1e-12),
    "hidden_dropout_prob": rate(0.0),
    "attention_probs_dropout_prob": rate(0.0),
}
FIXED = {"qkv_bias": (True,), "is_encoder_decoder": (False,)}
HARMLESS = frozenset(
    (
        "encoder_stride",  # of the decoder of ViTForMaskedImageModeling
        "pooler_act",  # of ViTModel's pooler, see _head; a classifier has none
        "pooler_output_size",
    )
)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "ViTForImageClassification": {},
    "ViTModel": {"num_classes": 0},
    "ViTForMaskedImageModeling": {"num_classes": 0},
}
"""Classes of transformers to the fields of their heads; the width of a pooler is that of its
tensors."""


def _fields(values: Config) -> dict[str, Any]:
    (height, width), (patch, other) = values["image_size"], values["patch_size"]
    if patch != other:
        raise WeightsError(
            f"config.json has patch_size {[patch, other]}, and patches here are square"
        )
    if height % patch or width % patch:
        raise WeightsError(
            f"config.json has image_size {height}x{width}, which patch_size {patch} does not divide"
        )
    heads, size = values["num_attention_heads"], values["hidden_size"]
    require_heads("hidden_size", size, "num_attention_heads", heads)
    require_matrix("rows of patches", height // patch, "columns", width // patch, MAX_LENGTH)
    require_matrix(
        "numbers in a patch", patch * patch * values["num_channels"], "hidden_size", size, 2**28
    )
    require_matrix("hidden_size", size, "intermediate_size", values["intermediate_size"])
    return {
        "patch_size": patch,
        "num_layers": values["num_hidden_layers"],
        "num_heads": heads,
        "hidden_size": size,
        "mlp_dim": values["intermediate_size"],
        "activation": values["hidden_act"],
        "norm_eps": values["layer_norm_eps"],
        "dropout_rate": values["hidden_dropout_prob"],
        "attention_dropout_rate": values["attention_probs_dropout_prob"],
        "pool": "cls",
    }


def _head(config: Config, values: Config) -> dict[str, Any]:
    name = architecture(config, ARCHITECTURES, "ViTForImageClassification")
    if name == "ViTModel" and config.get("pooler_act", "tanh") != "tanh":
        raise WeightsError(
            f"config.json has pooler_act {short(config['pooler_act'])}, and the pooler here has "
            "'tanh'"
        )
    return ARCHITECTURES[name] or {"num_classes": require_labels(config)}


def _write(model: ViT, shape: Shape) -> dict[str, Any]:
    if (
        (model.representation_size and model.num_classes)
        or model.pool != "cls"
        or model.position != "learned"
    ):
        raise WeightsError(
            "transformers' ViT has neither representation_size, nor mean pool, nor sine positions"
        )
    head = {
        "architectures": ["ViTForImageClassification" if model.num_classes else "ViTModel"],
        **(labels_of(model.num_classes) if model.num_classes else {}),
        **({"pooler_output_size": model.representation_size} if model.representation_size else {}),
    }
    return {
        "model_type": "vit",
        "image_size": shape[0] if shape[0] == shape[1] else list(shape[:2]),
        "num_channels": shape[2],
        "patch_size": model.patch_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.mlp_dim,
        "hidden_act": activation_name(model.activation, "gelu_pytorch_tanh"),
        "layer_norm_eps": model.norm_eps,
        "hidden_dropout_prob": model.dropout_rate,
        "attention_probs_dropout_prob": model.attention_dropout_rate,
        "qkv_bias": True,
        **head,
    }


FAMILY = HubFamily(
    cls=ViT,
    applied=APPLIED,
    fixed=FIXED,
    harmless=HARMLESS,
    fields=_fields,
    head=_head,
    shape=lambda values: (*values["image_size"], values["num_channels"]),
    write=_write,
    silent=("num_heads", "activation", "norm_eps"),
    silent_head=("pool",),
)
