"""PyTorch formats of ResNet: torchvision's, and that of akamaster/pytorch_resnet_cifar10."""

from collections.abc import Callable

from jaxmodels.families.resnet.model import ResNet
from jaxmodels.foreign.formats import Formats, Rules, Shape
from jaxmodels.foreign.rules import BATCH_NORM, CONV, LINEAR, Rule


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


FORMATS = Formats(
    {"torchvision": _resnet("fc"), "cifar": _resnet("linear")},
    silent=("stem", "shortcut", "block"),
)
