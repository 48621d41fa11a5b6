"""PyTorch formats of ViT, and ``config.json`` of transformers (``ViTConfig``)."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from jaxmodels.families.vit.model import ViT
from jaxmodels.foreign.formats import Asked, Formats, Parts, Rules, block_name, renamed
from jaxmodels.foreign.json_files import short
from jaxmodels.foreign.keys import (
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
from jaxmodels.foreign.rules import (
    LAYER_NORM,
    LINEAR,
    Rule,
    Tensor,
    WeightsError,
    linear,
    packed_attention,
)


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


HUB = HubFamily(
    model_type="vit",
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
    without_place={"ViTForMaskedImageModeling": ("decoder.*",)},
)


def _vit_torchvision(model: ViT, shape: Shape) -> Rules:
    block, theirs = block_name(model), "encoder.layers.encoder_layer_{i}"
    return (
        Rule("conv_proj", "patch_embed", _patches(model)),
        Rule("", "", (Tensor("class_token", "class_token"),)),
        Rule("encoder", "", (Tensor("pos_embedding", "position"),)),
        Rule(f"{theirs}.ln_1", f"{block}/norm_1", LAYER_NORM),
        Rule(f"{theirs}.self_attention", f"{block}/attention", packed_attention()),
        Rule(f"{theirs}.ln_2", f"{block}/norm_2", LAYER_NORM),
        Rule(f"{theirs}.mlp.0", f"{block}/mlp_in", LINEAR),
        Rule(f"{theirs}.mlp.3", f"{block}/mlp_out", LINEAR),
        Rule("encoder.ln", "norm", LAYER_NORM),
        Rule("heads.pre_logits", "dense", LINEAR),
        Rule("heads.head", "head", LINEAR),
    )


def _vit_transformers(model: ViT, shape: Shape, prefix: str = "vit.") -> Rules:
    block, theirs = block_name(model), f"{prefix}encoder.layer.{{i}}"
    return (
        Rule(f"{prefix}embeddings.patch_embeddings.projection", "patch_embed", _patches(model)),
        Rule(
            f"{prefix}embeddings",
            "",
            (Tensor("cls_token", "class_token"), Tensor("position_embeddings", "position")),
        ),
        Rule(f"{theirs}.layernorm_before", f"{block}/norm_1", LAYER_NORM),
        *(
            Rule(f"{theirs}.attention.attention.{name}", f"{block}/attention/{name}", LINEAR)
            for name in ("query", "key", "value")
        ),
        Rule(f"{theirs}.attention.output.dense", f"{block}/attention/out", LINEAR),
        Rule(f"{theirs}.layernorm_after", f"{block}/norm_2", LAYER_NORM),
        Rule(f"{theirs}.intermediate.dense", f"{block}/mlp_in", LINEAR),
        Rule(f"{theirs}.output.dense", f"{block}/mlp_out", LINEAR),
        Rule(f"{prefix}layernorm", "norm", LAYER_NORM),
        Rule(f"{prefix}pooler.dense", "dense", LINEAR),
        Rule("classifier", "head", LINEAR),
    )


IN_MEMORY = {
    "encoder.layer.": "layers.",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "}.output.dense": "}.mlp.fc2",
}
"""Parts of names in transformers' files to those that version 5 has in memory."""


def _patches(model: ViT) -> tuple[Tensor, ...]:
    """A convolution with stride = kernel is one matrix over the flattened patch."""
    return linear("d c p q -> (p q c) d", p=model.patch_size, q=model.patch_size)


def _parts(model: ViT, asked: Asked) -> Parts:
    pooler = () if asked.left("dense") else asked.names("pooler.dense")
    unused: tuple[str, ...] = ()
    # an error, no other class
    lost = asked.cls == "ViTForImageClassification" and not asked.all("classifier")
    if asked.left("head") or (asked.foreign and not asked.names("classifier") and not lost):
        width = model.representation_size
        if asked.foreign:
            width = next(
                (asked.tensors[name].shape[0] for name in pooler if name.endswith(".weight")), 0
            )
        model = model.clone(num_classes=0, representation_size=0 if asked.left("dense") else width)
        unused = asked.all("classifier", "heads.head")
    if not model.representation_size:
        unused += asked.all("pooler.dense")
    return Parts(model, unused, ("params/head", "params/dense"))


def _image_shape_of(model: ViT, parameters: Mapping[str, Any]) -> Shape | None:
    """(h, w, c) by the number of positions and the size of a patch.

    Raises:
      WeightsError: not so many patches make a square, and nobody said how they lie.
    """
    if "position" not in parameters or "patch_embed" not in parameters:
        return None
    patch, patches = model.patch_size, parameters["position"].shape[1] - (model.pool == "cls")
    channels = parameters["patch_embed"]["kernel"].shape[0] // patch**2
    known = model.origin.image_shape if model.origin else ()
    if known and (known[0] // patch) * (known[1] // patch) == patches:
        return (*known[:2], channels)
    side = math.isqrt(patches)
    if side * side != patches:
        raise WeightsError(
            f"{patches} patches are no square: say image_shape=(height, width, {channels})"
        )
    return side * patch, side * patch, channels


FORMATS = Formats(
    {
        "torchvision": _vit_torchvision,
        "transformers": _vit_transformers,
        "transformers5": lambda model, shape: renamed(_vit_transformers(model, shape), IN_MEMORY),
        "transformers_base": partial(_vit_transformers, prefix=""),
    },
    # stands for patches that are hidden on purpose
    unread=lambda model: r"(vit\.)?embeddings\.mask_token",
    renamed={  # torchvision before 0.13
        r"(encoder_layer_\d+\.mlp)\.linear_1\.": r"\1.0.",
        r"(encoder_layer_\d+\.mlp)\.linear_2\.": r"\1.3.",
    },
    parts=_parts,
    image_shape_of=_image_shape_of,
)
