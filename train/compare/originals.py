"""The PyTorch originals: torchvision's, transformers' and plain ``torch.nn`` models, from the
fields of ours.

Only this package and the tests import PyTorch.
"""

import contextlib
import functools
import importlib.metadata
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import torch
from torch import nn
from torch.nn import functional as F

import jaxmodels
from jaxmodels.catalogue import formats_of
from jaxmodels.families.alexnet.model import AlexNet
from jaxmodels.families.bert.model import BERT
from jaxmodels.families.bert.weights import bert_class
from jaxmodels.families.cnn.model import CNN
from jaxmodels.families.googlenet.model import GoogLeNet
from jaxmodels.families.gpt2.model import GPT2
from jaxmodels.families.inception.model import InceptionV3
from jaxmodels.families.lstm.model import LSTMClassifier
from jaxmodels.families.mlp.model import MLP
from jaxmodels.families.resnet.model import ResNet
from jaxmodels.families.transformer.model import Transformer
from jaxmodels.families.vae.model import VAE
from jaxmodels.families.vgg.model import VGG
from jaxmodels.families.vit.model import ViT
from jaxmodels.foreign.rules import WeightsError
from jaxmodels.weights.hub_config import transformers_config
from train.config import ConfigError

Shape = tuple[int, ...]
ACTIVATIONS = {
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
}
ACTIVATIONS["gelu_tanh"] = functools.partial(F.gelu, approximate="tanh")
ACTIVATION_MODULES = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "gelu_tanh": functools.partial(nn.GELU, approximate="tanh"),
}


@dataclass(frozen=True)
class Original:
    """A PyTorch model.

    Attributes:
      source: library, version and model.
      format: of its state dict in ``jaxmodels.weights``.
      main: of what the module returns, the part that is compared (logits), laid out as ours.
      loss: (what the module returns, batch) -> mean loss, as our objective defines it.
      tied: names in the state dict of tensors that it has under another name too; files leave them
        out.
    """

    module: nn.Module
    source: str
    format: str
    main: Callable[[Any], torch.Tensor] = lambda outputs: outputs
    loss: Callable[[Any, dict[str, torch.Tensor]], torch.Tensor] = lambda outputs, batch: (
        F.cross_entropy(outputs, batch["label"])
    )
    tied: frozenset[str] = frozenset()

    def tensors(self) -> dict[str, torch.Tensor]:
        """The state dict without what is tied; the tensors are the module's own."""
        return {k: v.detach() for k, v in self.module.state_dict().items() if k not in self.tied}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Sets everything to what :meth:`tensors` gave."""
        missing, left_over = self.module.load_state_dict(tensors, strict=False)
        if set(missing) != self.tied or left_over:
            raise KeyError(f"missing {missing}, left over {left_over}")


def build(model: jaxmodels.Module, image_shape: Shape) -> Original:
    """The PyTorch original of a model, dropout and all, in training mode, with its own random
    initial values.

    Raises:
      ConfigError: there is no original with these fields, or its library is not installed.
    """
    for cls, builder in BUILDERS.items():
        if type(model) is cls:
            try:
                return builder(model, image_shape)
            except WeightsError as e:  # transformers' config has no place for a field
                raise ConfigError(f"{cls.__name__} has no original with these fields: {e}") from e
    raise ConfigError(f"{type(model).__name__} has no PyTorch original here")


@functools.cache
def torchvision():
    """The models of torchvision, with or without its compiled operators.

    Beside a CPU build of PyTorch those do not load, and declaring their shapes fails the import; no
    model needs them.
    """
    with _lenient_register_fake():
        try:
            import torchvision.models as models
        except ImportError as e:
            raise ConfigError(
                f"this comparison needs torchvision ({e}): pip install -e .[compare]"
            ) from e
    return models


@contextlib.contextmanager
def _lenient_register_fake() -> Iterator[None]:
    register_fake = torch.library.register_fake

    def lenient(op, *args, **kwargs):
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return register_fake(op, *args, **kwargs)

    torch.library.register_fake = lenient
    try:
        yield
    finally:
        torch.library.register_fake = register_fake


def condition(module: nn.Module) -> None:
    """Tames random values in the deepest networks, in place, where they would amplify rounding a
    thousandfold.

    Residual branches get less weight beside their shortcut; in Inception's long chains of
    convolution, norm and ReLU most units are opened, since norms after half-shut ReLUs make small
    differences grow.
    """
    resnet = torchvision().resnet
    for part in module.modules():
        if isinstance(part, resnet.Bottleneck):
            part.bn3.weight.mul_(0.3)
        elif isinstance(part, resnet.BasicBlock | TorchCIFARBlock):
            part.bn2.weight.mul_(0.3)
        elif type(part).__name__ == "BasicConv2d":
            # torchvision has two; one's module hides behind a function
            part.bn.bias.add_(1)


@functools.cache
def transformers():
    """The library of that name."""
    torchvision()  # it imports torchvision, if it is there
    try:
        import transformers
    except ImportError as e:
        raise ConfigError(
            f"this comparison needs transformers ({e}): pip install -e .[compare]"
        ) from e
    return transformers


SDPA = "sdpa"
"""Attention of transformers' models: their eager one takes its softmax in float32 whatever the
type."""


WHOLE_TEXTS = "sdpa_of_whole_texts"
"""The same without masks, by which transformers does not know it, and so makes none."""


def without_masks(module: nn.Module) -> None:
    """Has a model of transformers take every text for whole, in place, so that PyTorch may use
    flash attention.

    Otherwise it makes a mask wherever it cannot see that there is no padding: with PyTorch before
    2.14 always under ``torch.compile``. Other models are left alone.
    """
    config = getattr(module, "config", None)
    if getattr(config, "_attn_implementation", None) == SDPA:
        library = transformers()
        attention = library.integrations.sdpa_attention.sdpa_attention_forward
        library.AttentionInterface.register(WHOLE_TEXTS, attention)
        config._attn_implementation = WHOLE_TEXTS


def _transformers_source(name: str) -> str:
    return f"transformers {transformers().__version__} {name}"


def _torchvision_source(name: str) -> str:
    return f"torchvision {importlib.metadata.version('torchvision')} {name}"


def _require_defaults(model: jaxmodels.Module, with_: str = "", **needed: Any) -> None:
    wrong = [
        f"{k}={getattr(model, k)!r} (it has {v!r})"
        for k, v in needed.items()
        if getattr(model, k) != v
    ]
    if wrong:
        raise ConfigError(
            f"the original of {type(model).__name__}{with_} has no {', '.join(wrong)}"
        )


def _mlp(model: MLP, shape: Shape) -> Original:
    sizes = [math.prod(shape), *model.hidden_sizes]
    layers: list[nn.Module] = [nn.Flatten()]
    for i, size in enumerate(model.hidden_sizes):
        activation = ACTIVATION_MODULES[model.activation]()
        if model.dropout_rate:  # one module, so that the numbers of the others stay
            activation = nn.Sequential(activation, nn.Dropout(model.dropout_rate))
        layers += [nn.Linear(sizes[i], size), activation]
    return Original(
        nn.Sequential(*layers, nn.Linear(sizes[-1], model.num_classes)), "torch.nn", "torch"
    )


class TorchCNN(nn.Module):
    """Convolutions, pools, an optional dense layer and a classifier, as anybody would write it in
    PyTorch."""

    def __init__(self, model: CNN, shape: Shape):
        super().__init__()
        channels = [shape[2], *model.features]
        self.pool, height, width = model.pool, *shape[:2]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(channels)
        )
        pools = {"none": 0, "last": 1, "each": len(model.features)}[model.pool]
        flat = channels[-1] * (height // 2**pools) * (width // 2**pools)
        self.dense = nn.Linear(flat, model.hidden_size) if model.hidden_size else None
        self.head = nn.Linear(model.hidden_size or flat, model.num_classes)
        self.dropout = nn.Dropout(model.dropout_rate)

    def forward(self, x):
        for i, conv in enumerate(self.convs):
            x = F.relu(conv(x))
            if self.pool == "each" or (self.pool == "last" and i == len(self.convs) - 1):
                x = F.max_pool2d(x, 2)
        x = x.flatten(1)
        if self.dense is not None:
            x = F.relu(self.dense(self.dropout(x)))
        return self.head(self.dropout(x))


def _cnn(model: CNN, shape: Shape) -> Original:
    return Original(TorchCNN(model, shape), "torch.nn", "torch")


def _alexnet(model: AlexNet, shape: Shape) -> Original:
    _require_defaults(model, lrn=False)
    module = torchvision().AlexNet(num_classes=model.num_classes, dropout=model.dropout_rate)
    a, b, c, d, e = model.features
    if (shape[2], *model.features) != (3, 64, 192, 384, 256, 256):
        module.features[3], module.features[6] = (
            nn.Conv2d(a, b, 5, padding=2),
            nn.Conv2d(b, c, 3, padding=1),
        )
        module.features[8], module.features[10] = (
            nn.Conv2d(c, d, 3, padding=1),
            nn.Conv2d(d, e, 3, padding=1),
        )
        module.features[0] = nn.Conv2d(shape[2], a, 11, stride=4, padding=2)
    if model.stem == "small":
        module.features[0] = nn.Conv2d(shape[2], a, 5, padding=2)
    side, hidden = model.pooled_size, model.hidden_sizes
    if (side, e, hidden) != (6, 256, (4096, 4096)):
        module.avgpool = nn.AdaptiveAvgPool2d((side, side))
        layers: list[nn.Module] = []
        sizes = [e * side * side, *hidden]
        for n, m in itertools.pairwise(sizes):
            layers += [nn.Dropout(model.dropout_rate), nn.Linear(n, m), nn.ReLU()]
        module.classifier = nn.Sequential(*layers, nn.Linear(sizes[-1], model.num_classes))
    return Original(module, _torchvision_source("alexnet"), "torchvision")


def _vgg(model: VGG, shape: Shape) -> Original:
    vgg = torchvision().vgg
    plan: list[int | str] = []
    for blocks, features in zip(model.stage_sizes, model.stage_features, strict=True):
        plan += [features] * blocks + ["M"]
    features = vgg.make_layers(plan, batch_norm=model.batch_norm)
    if shape[2] != 3:
        features[0] = nn.Conv2d(shape[2], model.stage_features[0], 3, padding=1)
    module = vgg.VGG(features, num_classes=model.num_classes, dropout=model.dropout_rate)
    side, hidden = model.pooled_size, model.hidden_sizes
    if (side, model.stage_features[-1], hidden) != (7, 512, (4096, 4096)):
        module.avgpool = nn.AdaptiveAvgPool2d((side, side))
        sizes = [model.stage_features[-1] * side * side, *hidden]
        layers: list[nn.Module] = []
        for a, b in zip(sizes, hidden, strict=False):
            layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(model.dropout_rate)]
        module.classifier = nn.Sequential(*layers, nn.Linear(sizes[-1], model.num_classes))
        for layer in module.classifier:
            if isinstance(layer, nn.Linear):  # as torchvision does to its own
                nn.init.normal_(layer.weight, 0, 0.01)
                nn.init.zeros_(layer.bias)
    return Original(module, _torchvision_source("vgg"), "torchvision")


def _with_auxiliary(module: nn.Module, source: str) -> Original:
    """A classifier of the Inception family: a tuple in training, logits first, and logits
    otherwise."""

    def main(outputs):
        return outputs[0] if isinstance(outputs, tuple) else outputs

    def loss(outputs, batch):
        auxiliary = outputs[1:] if isinstance(outputs, tuple) else ()
        losses = [F.cross_entropy(x, batch["label"]) for x in (main(outputs), *auxiliary)]
        return losses[0] + 0.3 * sum(losses[1:])

    return Original(module, source, "torchvision", main=main, loss=loss)


def _googlenet(model: GoogLeNet, shape: Shape) -> Original:
    _require_defaults(model, stem="imagenet")
    module = torchvision().GoogLeNet(
        num_classes=model.num_classes,
        aux_logits=model.aux_heads,
        transform_input=model.transform_input,
        init_weights=True,
        dropout=model.dropout_rate,
        dropout_aux=model.aux_dropout_rate,
    )
    if shape[2] != 3:
        module.conv1.conv = nn.Conv2d(shape[2], 64, 7, stride=2, padding=3, bias=False)
    return _with_auxiliary(module, _torchvision_source("googlenet"))


def _inception_v3(model: InceptionV3, shape: Shape) -> Original:
    module = torchvision().Inception3(
        num_classes=model.num_classes,
        aux_logits=model.aux_heads,
        transform_input=model.transform_input,
        init_weights=True,
        dropout=model.dropout_rate,
    )
    if shape[2] != 3:
        module.Conv2d_1a_3x3.conv = nn.Conv2d(shape[2], 32, 3, stride=2, bias=False)
    return _with_auxiliary(module, _torchvision_source("inception_v3"))


class TorchVAE(nn.Module):
    """Kingma & Welling 2014 as in pytorch/examples, or with convolutions; the noise is an input."""

    def __init__(self, model: VAE, shape: Shape):
        super().__init__()
        height, width, channels = shape
        self.conv, self.activation = model.kind == "conv", ACTIVATIONS[model.activation]
        if self.conv:
            unit, sizes = 2 ** len(model.features), [channels, *model.features]
            self.map = (sizes[-1], height // unit, width // unit)
            flat = math.prod(self.map)
            self.encoder_conv = nn.ModuleList(
                nn.Conv2d(a, b, 4, 2, 1) for a, b in itertools.pairwise(sizes)
            )
            self.decoder_dense = nn.ModuleList([nn.Linear(model.latent_size, flat)])
            pairs = itertools.pairwise(sizes[::-1])
            self.decoder_conv = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairs)
        else:
            sizes, flat = [math.prod(shape), *model.hidden_sizes], model.hidden_sizes[-1]
            self.map = (channels, height, width)
            self.encoder_dense = nn.ModuleList(
                nn.Linear(a, b) for a, b in itertools.pairwise(sizes)
            )
            pairs = itertools.pairwise([model.latent_size, *model.hidden_sizes[::-1]])
            self.decoder_dense = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)
            self.decoder_out = nn.Linear(model.hidden_sizes[0], math.prod(shape))
        self.mean, self.log_variance = (
            nn.Linear(flat, model.latent_size),
            nn.Linear(flat, model.latent_size),
        )
        self.log_sigma = nn.Parameter(torch.zeros(())) if model.likelihood == "gaussian" else None

    def forward(self, x, noise):
        if self.conv:
            for layer in self.encoder_conv:
                x = self.activation(layer(x))
        x = x.flatten(1)
        if not self.conv:
            for layer in self.encoder_dense:
                x = self.activation(layer(x))
        mean, log_variance = self.mean(x), self.log_variance(x)
        z = mean + torch.exp(0.5 * log_variance) * noise
        for layer in self.decoder_dense:
            z = self.activation(layer(z))
        z = z.unflatten(1, self.map) if self.conv else self.decoder_out(z).unflatten(1, self.map)
        if self.conv:
            for i, layer in enumerate(self.decoder_conv):
                z = layer(self.activation(z) if i else z)
        return z, mean, log_variance


def _vae(model: VAE, shape: Shape) -> Original:
    _require_defaults(model, image_shape=tuple(shape))
    module = TorchVAE(model, shape)

    def loss(outputs, batch):
        decoded, mean, log_variance = outputs
        if module.log_sigma is None:
            reconstruction = F.binary_cross_entropy_with_logits(
                decoded, batch["image"], reduction="sum"
            )
        else:
            normal = torch.distributions.Normal(decoded, module.log_sigma.exp())
            reconstruction = -normal.log_prob(batch["image"]).sum()
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum()
        return (reconstruction + kl) / len(decoded)

    source = "Kingma & Welling 2014 in torch.nn"
    return Original(
        module, source, "torch", main=lambda outputs: outputs[0].permute(0, 2, 3, 1), loss=loss
    )


def _resnet(model: ResNet, shape: Shape) -> Original:
    resnet = torchvision().resnet
    kind = f" with shortcut={model.shortcut!r}"
    if model.shortcut == "pad":
        _require_defaults(model, kind, block="basic", stem="small", zero_init_residual=False)
        return Original(
            TorchCIFARResNet(model, shape[2]), "He et al. 2016 section 4.2 in torch.nn", "cifar"
        )
    _require_defaults(model, kind, width=64)
    if len(model.stage_sizes) != 4:
        raise ConfigError(
            f"torchvision's ResNet has four stages, not stage_sizes={model.stage_sizes}"
        )
    block = resnet.BasicBlock if model.block == "basic" else resnet.Bottleneck
    module = resnet.ResNet(
        block,
        list(model.stage_sizes),
        num_classes=model.num_classes,
        zero_init_residual=model.zero_init_residual,
    )
    if model.stem == "small":
        module.conv1, module.maxpool = (
            nn.Conv2d(shape[2], 64, 3, padding=1, bias=False),
            nn.Identity(),
        )
    elif shape[2] != 3:
        module.conv1 = nn.Conv2d(shape[2], 64, 7, stride=2, padding=3, bias=False)
    return Original(module, _torchvision_source("resnet"), "torchvision")


class TorchCIFARResNet(nn.Module):
    """The CIFAR networks of He et al. 2016, with the module names of
    akamaster/pytorch_resnet_cifar10."""

    def __init__(self, model: ResNet, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, model.width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(model.width)
        width = model.width
        for i, blocks in enumerate(model.stage_sizes):
            out = model.width * 2**i
            strides = [2 if i else 1] + [1] * (blocks - 1)
            layer = nn.Sequential(
                *(TorchCIFARBlock(width if j == 0 else out, out, s) for j, s in enumerate(strides))
            )
            setattr(self, f"layer{i + 1}", layer)
            width = out
        self.stages = len(model.stage_sizes)
        self.linear = nn.Linear(width, model.num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        for i in range(self.stages):
            x = getattr(self, f"layer{i + 1}")(x)
        return self.linear(x.mean((2, 3)))


class TorchCIFARBlock(nn.Module):
    """Two 3x3 convolutions; where the shape changes, the shortcut takes every second pixel and adds
    zero channels."""

    def __init__(self, width: int, out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.missing = stride, out - width

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1 or self.missing:
            before = self.missing // 2
            x = F.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.missing - before)
            )
        return F.relu(x + y)


def _vit(model: ViT, shape: Shape) -> Original:
    if shape[0] != shape[1]:
        raise ConfigError(f"the originals of ViT take square images, not {shape[0]}x{shape[1]}")
    _require_defaults(model, pool="cls", position="learned", activation="gelu")
    if not model.num_classes:
        raise ConfigError(
            "a ViT without classes has an original, and no objective to compare it by"
        )
    if model.norm_eps == 1e-12:
        return _vit_transformers(model, shape)
    module = torchvision().VisionTransformer(
        image_size=shape[0],
        patch_size=model.patch_size,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        hidden_dim=model.hidden_size,
        mlp_dim=model.mlp_dim,
        dropout=model.dropout_rate,
        attention_dropout=model.attention_dropout_rate,
        num_classes=model.num_classes,
        representation_size=model.representation_size or None,
        norm_layer=functools.partial(nn.LayerNorm, eps=model.norm_eps),
    )
    if shape[2] != 3:
        p = model.patch_size
        module.conv_proj = nn.Conv2d(shape[2], model.hidden_size, p, stride=p)
    return Original(module, _torchvision_source("vision_transformer"), "torchvision")


def _vit_transformers(model: ViT, shape: Shape) -> Original:
    config = transformers().ViTConfig(**transformers_config(model, shape))
    config._attn_implementation = SDPA
    return Original(
        transformers().ViTForImageClassification(config),
        _transformers_source("ViTForImageClassification"),
        "transformers5",
        main=lambda outputs: outputs.logits,
        loss=lambda outputs, batch: F.cross_entropy(outputs.logits, batch["label"]),
    )


def _gpt2(model: GPT2, shape: Shape) -> Original:
    library = transformers()

    class GPT2LMHeadModel(library.GPT2LMHeadModel):
        """Called with what our model is called with; padding is hidden by the mask and has the
        position 0."""

        def forward(self, tokens, segments=None):
            position = None if segments is None else ((segments > 0).cumsum(1) - 1).clamp(min=0)
            return super().forward(
                input_ids=tokens, attention_mask=segments, position_ids=position, use_cache=False
            )

    config = library.GPT2Config(**transformers_config(model, shape))
    config._attn_implementation = SDPA
    return Original(
        GPT2LMHeadModel(config),
        _transformers_source("GPT2LMHeadModel"),
        "transformers",
        main=lambda outputs: outputs.logits,
        loss=lambda outputs, batch: token_cross_entropy(outputs.logits, batch),
        tied=frozenset({"lm_head.weight"} if model.tie_embeddings else ()),
    )


def _bert(model: BERT, shape: Shape) -> Original:
    library = transformers()
    config = library.BertConfig(**transformers_config(model, shape))
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
        raise ConfigError(
            f"BERT with head {model.head!r} has an original, and no objective to compare it by"
        )
    return Original(
        Bert(config), _transformers_source(name), "transformers", main=main, loss=loss, tied=tied
    )


class SinePositions(nn.Module):
    """Vaswani et al. 2017, section 3.5, in the model's precision; called as Marian's."""

    def __init__(self, model: Transformer):
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
        self.position = SinePositions(model)
        self.scale = math.sqrt(size) if model.scale_embedding else 1.0
        self.dropout = nn.Dropout(model.dropout_rate)
        fields = {
            "dropout": model.dropout_rate,
            "activation": ACTIVATIONS[model.activation],
            "layer_norm_eps": model.norm_eps,
            "norm_first": model.norm_first,
            "batch_first": True,
        }
        sizes = (size, model.num_heads, model.mlp_dim)
        norms = [
            nn.LayerNorm(size, eps=model.norm_eps) if model.final_norm else None for _ in range(2)
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


def _transformer(model: Transformer, shape: Shape) -> Original:
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
    library = transformers()

    class MarianMTModel(library.MarianMTModel):
        """Called with what our model is called with."""

        def forward(self, source, target, source_segments=None, target_segments=None):
            given = {"attention_mask": source_segments, "decoder_attention_mask": target_segments}
            return super().forward(
                input_ids=source, decoder_input_ids=target, use_cache=False, **given
            )

    config = library.MarianConfig(**transformers_config(model, shape))
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
        side.embed_positions = SinePositions(model)
        side.embed_tokens.padding_idx = None
    return Original(
        module,
        _transformers_source("MarianMTModel"),
        "transformers",
        main=lambda outputs: outputs.logits,
        loss=lambda outputs, batch: token_cross_entropy(outputs.logits, batch),
        tied=frozenset(formats_of(model).ties(model, "transformers")),
    )


class TorchLSTMClassifier(nn.Module):
    """The usual text classifier over packed texts; ``segments`` are 1, and 0 for padding at the
    right."""

    def __init__(self, model: LSTMClassifier):
        super().__init__()
        self.embedding = nn.Embedding(model.vocab_size, model.embed_size)
        self.lstm = nn.LSTM(
            model.embed_size,
            model.hidden_size,
            model.num_layers,
            batch_first=True,
            # there is no place for it, and a warning
            dropout=model.dropout_rate if model.num_layers > 1 else 0.0,
            bidirectional=model.bidirectional,
        )
        self.dropout = nn.Dropout(model.dropout_rate)
        self.directions = 1 + model.bidirectional
        self.fc = nn.Linear(self.directions * model.hidden_size, model.num_classes)

    def forward(self, tokens, segments=None):
        x = self.dropout(self.embedding(tokens))
        if segments is not None:
            lengths = (segments > 0).sum(1).cpu()
            x = nn.utils.rnn.pack_padded_sequence(
                x, lengths, batch_first=True, enforce_sorted=False
            )
        _, (final, _) = self.lstm(x)  # [layers x directions, b, h]
        return self.fc(self.dropout(final[-self.directions :].transpose(0, 1).flatten(1)))


def _lstm(model: LSTMClassifier, shape: Shape) -> Original:
    return Original(TorchLSTMClassifier(model), "torch.nn", "torch")


def token_cross_entropy(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean over the tokens that count, by ``weight``."""
    losses = F.cross_entropy(logits.flatten(0, 1), batch["target"].flatten(), reduction="none")
    weight = batch["weight"].flatten()
    return (losses * weight).sum() / weight.sum()


BUILDERS: dict[type, Callable[[Any, Shape], Original]] = {
    MLP: _mlp,
    CNN: _cnn,
    VAE: _vae,
    GoogLeNet: _googlenet,
    InceptionV3: _inception_v3,
    AlexNet: _alexnet,
    VGG: _vgg,
    ResNet: _resnet,
    ViT: _vit,
    GPT2: _gpt2,
    LSTMClassifier: _lstm,
    Transformer: _transformer,
    BERT: _bert,
}
