"""PyTorch formats of ConvNeXt."""

from jaxmodels.families.convnext.model import ConvNeXt
from jaxmodels.foreign.formats import Formats, Rules, Shape
from jaxmodels.foreign.rules import CONV, LAYER_NORM, LINEAR, Rule, Tensor


def _convnext(model: ConvNeXt, shape: Shape) -> Rules:
    """``features`` has stem, stage, reduction, stage, ...; a reduction has its norm first."""
    rules = [Rule("features.0.0", "conv_1", CONV), Rule("features.0.1", "norm_1", LAYER_NORM)]
    for stage in range(1, len(model.stage_sizes) + 1):
        if stage > 1:
            reduction = f"features.{2 * stage - 2}"
            rules.append(Rule(f"{reduction}.0", f"norm_{stage}", LAYER_NORM))
            rules.append(Rule(f"{reduction}.1", f"conv_{stage}", CONV))
        theirs, ours = f"features.{2 * stage - 1}.{{j}}", f"stage_{stage}_block_{{j}}"
        scale = (Tensor("layer_scale", "layer_scale", layout="c 1 1 -> c"),)
        rules += [
            Rule(theirs, ours, scale),
            Rule(f"{theirs}.block.0", f"{ours}/conv", CONV),
            Rule(f"{theirs}.block.2", f"{ours}/norm", LAYER_NORM),
            Rule(f"{theirs}.block.3", f"{ours}/mlp_in", LINEAR),
            Rule(f"{theirs}.block.5", f"{ours}/mlp_out", LINEAR),
        ]
    return (
        *rules,
        Rule("classifier.0", "norm", LAYER_NORM),
        Rule("classifier.2", "head", LINEAR),
    )


FORMATS = Formats({"torchvision": _convnext}, silent=("layer_scale",))
