"""PyTorch formats of VGG."""

from jaxmodels.families.vgg.model import VGG
from jaxmodels.foreign.formats import Formats, Rules, Shape, dense_layers
from jaxmodels.foreign.rules import BATCH_NORM, CONV, Rule


def _vgg(model: VGG, shape: Shape) -> Rules:
    rules, n = [], 0
    for stage, blocks in enumerate(model.stage_sizes):
        for block in range(blocks):
            rules.append(Rule(f"features.{n}", f"conv_{stage}_{block}", CONV))
            if model.batch_norm:
                rules.append(Rule(f"features.{n + 1}", f"bn_{stage}_{block}", BATCH_NORM))
            n += 3 if model.batch_norm else 2  # convolution, batch norm, ReLU
        n += 1  # pool
    return tuple(rules) + dense_layers(
        model, [3 * i for i in range(len(model.hidden_sizes))], offset=3
    )


FORMATS = Formats({"torchvision": _vgg})
