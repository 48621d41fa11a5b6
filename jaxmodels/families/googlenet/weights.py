"""PyTorch formats of GoogLeNet."""

from jaxmodels.families.googlenet.model import GoogLeNet
from jaxmodels.foreign.formats import Formats, Rules, Shape, conv_bn
from jaxmodels.foreign.rules import LINEAR, Rule, linear_after_flatten


def _googlenet(model: GoogLeNet, shape: Shape) -> Rules:
    rules = conv_bn("conv{i}", "conv_{i}") + conv_bn(
        "inception{b}.branch1", "inception_{b}/branch_1"
    )
    for branch, layer in ((2, 0), (2, 1), (3, 0), (3, 1), (4, 1)):
        rules += conv_bn(
            f"inception{{b}}.branch{branch}.{layer}", f"inception_{{b}}/branch_{branch}_{layer}"
        )
    return (
        *rules,
        *conv_bn("aux{i}.conv", "aux_{i}/conv"),
        Rule("aux{i}.fc1", "aux_{i}/dense_0", linear_after_flatten(4, 4)),
        Rule("aux{i}.fc2", "aux_{i}/head", LINEAR),
        Rule("fc", "head", LINEAR),
    )


FORMATS = Formats({"torchvision": _googlenet}, silent=("stem", "transform_input"))
