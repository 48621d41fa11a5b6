"""Which PyTorch formats each model family has, and their rules.

``torchvision`` and ``transformers`` are those libraries' state dicts, the latter as it lies on disk
and on the hub, and ``transformers5`` as transformers 5 has it in memory; ``transformers_base`` are
the same without the prefix of the model with a head, as OpenAI's files on the hub; ``torch`` is a
plain ``torch.nn`` model as one would write it,
given in each function; ``cifar`` has the names of akamaster/pytorch_resnet_cifar10.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxmodels.families.alexnet.model import AlexNet
from jaxmodels.families.bert.model import BERT
from jaxmodels.families.cnn.model import CNN
from jaxmodels.families.googlenet.model import GoogLeNet
from jaxmodels.families.gpt2.model import GPT2
from jaxmodels.families.inception.model import BLOCKS as INCEPTION_BLOCKS
from jaxmodels.families.inception.model import InceptionV3, branch_names
from jaxmodels.families.lstm.model import LSTMClassifier
from jaxmodels.families.mlp.model import MLP
from jaxmodels.families.resnet.model import ResNet
from jaxmodels.families.transformer.model import Transformer, sine_positions
from jaxmodels.families.vae.model import VAE
from jaxmodels.families.vgg.model import VGG
from jaxmodels.families.vit.model import ViT
from jaxmodels.weights.rules import (
    BATCH_NORM,
    CONV,
    CONV1D,
    CONV_TRANSPOSE,
    EMBEDDING,
    LAYER_NORM,
    LINEAR,
    Rule,
    Tensor,
    WeightsError,
    linear,
    linear_after_flatten,
    linear_before_unflatten,
    packed_attention,
    packed_attention_conv1d,
)

Shape = tuple[int, ...]
Rules = tuple[Rule, ...]


@dataclass(frozen=True)
class Family:
    """How a family meets PyTorch.

    Attributes:
      formats: by name, the preferred first: functions of a model and its image shape (h, w, c) to
        rules.
      image_shape: what the pretrained models take; None where there is nothing to assume.
      inputs: a model and its image shape to an example of what it is called with, one example long.
      constants: tensors that hold a constant, which some files have: by the regular expression of
        their names, a function of the tensor that says whether it is that, and the constant in
        words.
      unread: a model to a regular expression of tensors that the original has and never computes
        with.
      ties: a model and a format to the names that tensors have a second time, with the first. A
        file may have them, and they must be equal then; they are not written.
      renamed: regular expression of a part of a name, as some files have it, to what it is today.
    """

    formats: Mapping[str, Callable[[Any, Shape], Rules]]
    image_shape: Shape | None = (224, 224, 3)
    inputs: Callable[[Any, Shape], tuple[jax.Array, ...]] = lambda model, shape: (
        jnp.zeros((1, *shape)),
    )
    constants: Mapping[str, tuple[Callable[[np.ndarray], bool], str]] = field(default_factory=dict)
    unread: Callable[[Any], str] = lambda model: ""
    ties: Callable[[Any, str], Mapping[str, str]] = lambda model, format: {}
    renamed: Mapping[str, str] = field(default_factory=dict)


def _mlp(model: MLP, shape: Shape) -> Rules:
    """``Sequential(Flatten, Linear, ReLU, ..., Linear)``: Linear i is module 1 + 2 i."""
    count = len(model.hidden_sizes)
    first = linear_after_flatten(*shape[:2]) if len(shape) == 3 else LINEAR
    names = [*(f"dense_{i}" for i in range(count)), "head"]
    return tuple(
        Rule(f"{1 + 2 * i}", name, first if i == 0 else LINEAR) for i, name in enumerate(names)
    )


def _cnn(model: CNN, shape: Shape) -> Rules:
    """Modules ``convs.i``, ``dense`` (optional) and ``head``; the flattening is channel first."""
    pools = {"none": 0, "last": 1, "each": len(model.features)}[model.pool]
    first = linear_after_flatten(shape[0] // 2**pools, shape[1] // 2**pools)
    rules = (
        Rule("convs.{i}", "conv_{i}", CONV),
        Rule("head", "head", LINEAR if model.hidden_size else first),
    )
    return (*rules, Rule("dense", "dense", first)) if model.hidden_size else rules


def _alexnet(model: AlexNet, shape: Shape) -> Rules:
    convs = tuple(Rule(f"features.{n}", f"conv_{i}", CONV) for i, n in enumerate((0, 3, 6, 8, 10)))
    return convs + _classifier(model, [1 + 3 * i for i in range(len(model.hidden_sizes))], offset=2)


def _vgg(model: VGG, shape: Shape) -> Rules:
    rules, n = [], 0
    for stage, blocks in enumerate(model.stage_sizes):
        for block in range(blocks):
            rules.append(Rule(f"features.{n}", f"conv_{stage}_{block}", CONV))
            if model.batch_norm:
                rules.append(Rule(f"features.{n + 1}", f"bn_{stage}_{block}", BATCH_NORM))
            n += 3 if model.batch_norm else 2  # convolution, batch norm, ReLU
        n += 1  # pool
    return tuple(rules) + _classifier(
        model, [3 * i for i in range(len(model.hidden_sizes))], offset=3
    )


def _classifier(model: AlexNet | VGG, places: list[int], *, offset: int) -> Rules:
    """Dense layers at ``classifier.N``; the head stands ``offset`` behind the last hidden one."""
    last = places[-1] + offset if places else 0
    first = linear_after_flatten(model.pooled_size, model.pooled_size)
    names = [*(f"dense_{i}" for i in range(len(places))), "head"]
    kinds = [first] + [LINEAR] * len(places)
    return tuple(
        Rule(f"classifier.{n}", name, kind)
        for n, name, kind in zip([*places, last], names, kinds, strict=True)
    )


def _resnet(head: str) -> Callable[[ResNet, Shape], Rules]:
    rules = (
        Rule("conv1", "conv_stem", CONV),
        Rule("bn1", "bn_stem", BATCH_NORM),
        Rule("layer{i}.{j}.conv{k}", "stage_{i}_block_{j}/conv_{k}", CONV),
        Rule("layer{i}.{j}.bn{k}", "stage_{i}_block_{j}/bn_{k}", BATCH_NORM),
        Rule("layer{i}.{j}.downsample.0", "stage_{i}_block_{j}/conv_shortcut", CONV),
        Rule("layer{i}.{j}.downsample.1", "stage_{i}_block_{j}/bn_shortcut", BATCH_NORM),
        Rule(head, "head", LINEAR),
    )
    # conv_{k} and bn_{k} would match the shortcut's names too
    numbered = [r for r in rules if "{k}" in r.ours]
    fixed = tuple(r for r in rules if r not in numbered)
    numbered = tuple(
        Rule(r.torch.replace("{k}", str(k)), r.ours.replace("{k}", str(k)), r.kind)
        for r in numbered
        for k in (1, 2, 3)
    )
    return lambda model, shape: fixed + numbered


def _conv_bn(torch: str, ours: str) -> Rules:
    """torchvision's BasicConv2d."""
    return Rule(f"{torch}.conv", f"{ours}/conv", CONV), Rule(
        f"{torch}.bn", f"{ours}/bn", BATCH_NORM
    )


def _googlenet(model: GoogLeNet, shape: Shape) -> Rules:
    rules = _conv_bn("conv{i}", "conv_{i}") + _conv_bn(
        "inception{b}.branch1", "inception_{b}/branch_1"
    )
    for branch, layer in ((2, 0), (2, 1), (3, 0), (3, 1), (4, 1)):
        rules += _conv_bn(
            f"inception{{b}}.branch{branch}.{layer}", f"inception_{{b}}/branch_{branch}_{layer}"
        )
    return (
        *rules,
        *_conv_bn("aux{i}.conv", "aux_{i}/conv"),
        Rule("aux{i}.fc1", "aux_{i}/dense_0", linear_after_flatten(4, 4)),
        Rule("aux{i}.fc2", "aux_{i}/head", LINEAR),
        Rule("fc", "head", LINEAR),
    )


def _inception_v3(model: InceptionV3, shape: Shape) -> Rules:
    rules = _conv_bn("Conv2d_{n}", "conv_{n}") + _conv_bn("AuxLogits.conv{i}", "aux/conv_{i}")
    for name in sorted(
        {name for branches in INCEPTION_BLOCKS.values() for name in branch_names(branches)}
    ):
        theirs = "branch_pool" if name == "branch_pool" else name.replace("branch_", "branch", 1)
        rules += _conv_bn(f"Mixed_{{b}}.{theirs}", f"mixed_{{b}}/{name}")
    return (*rules, Rule("AuxLogits.fc", "aux/head", LINEAR), Rule("fc", "head", LINEAR))


def _vae(model: VAE, shape: Shape) -> Rules:
    """Module lists with our names; images and maps are flattened channel first."""
    height, width = shape[:2]
    if model.kind == "mlp":
        image = linear_after_flatten(height, width)
        encoder = tuple(
            Rule(f"encoder_dense.{i}", f"encoder_dense_{i}", LINEAR if i else image)
            for i in range(len(model.hidden_sizes))
        )
        decoder = (Rule("decoder_dense.{i}", "decoder_dense_{i}", LINEAR),)
        last, code = (
            (Rule("decoder_out", "decoder_out", linear_before_unflatten(height, width)),),
            LINEAR,
        )
    else:
        unit = 2 ** len(model.features)
        encoder = (Rule("encoder_conv.{i}", "encoder_conv_{i}", CONV),)
        first = linear_before_unflatten(height // unit, width // unit)
        decoder = (Rule("decoder_dense.0", "decoder_dense_0", first),)
        last = (Rule("decoder_conv.{i}", "decoder_conv_{i}", CONV_TRANSPOSE),)
        code = linear_after_flatten(height // unit, width // unit)
    heads = (Rule("mean", "mean", code), Rule("log_variance", "log_variance", code))
    return encoder + heads + decoder + last + (Rule("", "", (Tensor("log_sigma", "log_sigma"),)),)


def _vit_torchvision(model: ViT, shape: Shape) -> Rules:
    block, theirs = _block(model), "encoder.layers.encoder_layer_{i}"
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
    block, theirs = _block(model), f"{prefix}encoder.layer.{{i}}"
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


VIT_IN_MEMORY = {
    "encoder.layer.": "layers.",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "}.output.dense": "}.mlp.fc2",
}


def _renamed(rules: Rules, names: Mapping[str, str]) -> Rules:
    renamed = []
    for rule in rules:
        torch = rule.torch
        for old, new in names.items():
            torch = torch.replace(old, new)
        renamed.append(Rule(torch, rule.ours, rule.kind))
    return tuple(renamed)


def _gpt2(prefix: str) -> Callable[[GPT2, Shape], Rules]:
    def rules(model: GPT2, shape: Shape) -> Rules:
        block, theirs = _block(model), f"{prefix}h.{{i}}"
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


def _bert(prefix: str) -> Callable[[BERT, Shape], Rules]:
    def rules(model: BERT, shape: Shape) -> Rules:
        block, theirs = _block(model), f"{prefix}encoder.layer.{{i}}"
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


def _embeddings(model: Transformer, shared: str, source: str, target: str, head: str) -> Rules:
    """Token embeddings as the model has them, and the logits' matrix, which is multiplied out late
    on our side."""
    separate = (Rule(source, "source_embed", EMBEDDING), Rule(target, "target_embed", EMBEDDING))
    embeddings = (Rule(shared, "token_embed", EMBEDDING),) if model.share_embeddings else separate
    return (*embeddings, Rule("", "head", (Tensor(f"{head}.weight", "embedding"),)))


def _transformer_torch(model: Transformer, shape: Shape) -> Rules:
    """``torch.nn.Transformer`` as ``transformer`` between ``embedding`` (or two) and ``generator``,
    a Linear."""
    block, rules = _block(model), []
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
    block, rules = _block(model), []
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


LSTM_TENSORS = (  # of one direction
    ("weight_ih", "kernel_ih", "o i -> i o"),
    ("weight_hh", "kernel_hh", "o i -> i o"),
    ("bias_ih", "bias_ih", ""),
    ("bias_hh", "bias_hh", ""),
)


def _lstm(model: LSTMClassifier, shape: Shape) -> Rules:
    """Modules ``embedding``, ``lstm`` (all layers) and ``fc``."""
    layers = (
        Rule(
            "lstm",
            f"lstm_{i}",
            tuple(
                Tensor(f"{torch}_l{i}{way}", f"{ours}{way}", layout=layout)
                for way in ("", "_reverse")
                for torch, ours, layout in LSTM_TENSORS
            ),
        )
        for i in range(model.num_layers)
    )
    return (Rule("embedding", "token_embed", EMBEDDING), *layers, Rule("fc", "head", LINEAR))


def _block(model: ViT | GPT2 | BERT | Transformer) -> str:
    return "blocks[{i}]" if model.scan else "block_{i}"


def _patches(model: ViT) -> tuple[Tensor, ...]:
    """A convolution with stride = kernel is one matrix over the flattened patch."""
    return linear("d c p q -> (p q c) d", p=model.patch_size, q=model.patch_size)


TOKENS = {"image_shape": (), "inputs": lambda model, shape: (jnp.zeros((1, 1), jnp.int32),)}
"""Of families that read text: there is no shape that a weight depends on."""
TOKEN_PAIRS = {
    "image_shape": (),
    "inputs": lambda model, shape: (jnp.zeros((1, 1), jnp.int32),) * 2,
}


def _is_causal(mask: np.ndarray) -> bool:
    """True if a mask has ones at and below its diagonal and zeros above it."""
    size = mask.shape[-1:]
    return mask.shape == (1, 1, *size * 2) and np.array_equal(
        mask[0, 0] != 0, np.tri(*size, dtype=bool)
    )


def _is_hidden(value: np.ndarray) -> bool:
    """True if a score is so low that its exponential is 0 beside any other."""
    return value.shape == () and bool(value <= -1e4)


def _counts(positions: np.ndarray) -> bool:
    """True if positions are 0, 1, 2, ..."""
    return np.array_equal(positions.reshape(-1), np.arange(positions.size))


def _is_sinusoid(table: np.ndarray) -> bool:
    """True if a table of positions is Marian's, as far as its type can say."""
    if table.ndim != 2 or table.shape[1] % 2 or not jnp.issubdtype(table.dtype, jnp.floating):
        return False
    difference = np.abs(sine_positions(*table.shape, halves=True) - table.astype(np.float64))
    eps = max(float(jnp.finfo(table.dtype).eps), 2**-23)  # a file of float64 has it from float32
    return bool((difference <= eps).all())  # NaN is not


FAMILIES: dict[type[nn.Module], Family] = {
    MLP: Family({"torch": _mlp}, None),
    CNN: Family({"torch": _cnn}, None),
    AlexNet: Family({"torchvision": _alexnet}),
    VGG: Family({"torchvision": _vgg}),
    GoogLeNet: Family({"torchvision": _googlenet}),
    InceptionV3: Family({"torchvision": _inception_v3}, (299, 299, 3)),
    VAE: Family(
        {"torch": _vae},
        None,
        lambda model, shape: (jnp.zeros((1, *shape)), jnp.zeros((1, model.latent_size))),
    ),
    ResNet: Family({"torchvision": _resnet("fc"), "cifar": _resnet("linear")}),
    ViT: Family(
        {
            "torchvision": _vit_torchvision,
            "transformers": _vit_transformers,
            "transformers5": lambda model, shape: _renamed(
                _vit_transformers(model, shape), VIT_IN_MEMORY
            ),
            "transformers_base": partial(_vit_transformers, prefix=""),
        },
        # stands for patches that are hidden on purpose
        unread=lambda model: r"(vit\.)?embeddings\.mask_token",
        renamed={  # torchvision before 0.13
            r"(encoder_layer_\d+\.mlp)\.linear_1\.": r"\1.0.",
            r"(encoder_layer_\d+\.mlp)\.linear_2\.": r"\1.3.",
        },
    ),
    BERT: Family(
        {"transformers": _bert("bert."), "transformers_base": _bert("")},
        **TOKENS,
        constants={
            r"(bert\.)?embeddings\.position_ids": (_counts, "0, 1, 2, ..."),
            r"(bert\.)?embeddings\.token_type_ids": (lambda types: not types.any(), "zeros"),
        },
        unread=lambda model: "" if model.tie_embeddings else r"cls\.predictions\.bias",
        ties=_bert_ties,
        renamed={r"LayerNorm\.gamma$": "LayerNorm.weight", r"LayerNorm\.beta$": "LayerNorm.bias"},
    ),
    GPT2: Family(
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
    ),
    LSTMClassifier: Family({"torch": _lstm}, **TOKENS),
    Transformer: Family(
        {
            "torch": _transformer_torch,
            "transformers": _transformer_transformers,
            "transformers_base": partial(_transformer_transformers, prefix=""),
        },
        **TOKEN_PAIRS,
        constants={
            r"(model\.)?(encoder|decoder)\.embed_positions\.weight": (
                _is_sinusoid,
                "the sines that the model computes",
            )
        },
        ties=_transformer_ties,
    ),
}


def family_of(model: nn.Module) -> Family:
    """The family of a model. Raises WeightsError if its class has no map."""
    if type(model) not in FAMILIES:
        raise WeightsError(f"{type(model).__name__} has no map to PyTorch's tensors")
    return FAMILIES[type(model)]
