"""PyTorch formats of Inception v3."""

from jaxmodels.families.inception.model import BLOCKS, InceptionV3, branch_names
from jaxmodels.foreign.formats import Formats, Rules, Shape, conv_bn
from jaxmodels.foreign.rules import LINEAR, Rule


def _inception_v3(model: InceptionV3, shape: Shape) -> Rules:
    rules = conv_bn("Conv2d_{n}", "conv_{n}") + conv_bn("AuxLogits.conv{i}", "aux/conv_{i}")
    for name in sorted({name for branches in BLOCKS.values() for name in branch_names(branches)}):
        theirs = "branch_pool" if name == "branch_pool" else name.replace("branch_", "branch", 1)
        rules += conv_bn(f"Mixed_{{b}}.{theirs}", f"mixed_{{b}}/{name}")
    return (*rules, Rule("AuxLogits.fc", "aux/head", LINEAR), Rule("fc", "head", LINEAR))


FORMATS = Formats({"torchvision": _inception_v3}, (299, 299, 3), silent=("transform_input",))
