"""PyTorch formats of AlexNet."""

from jaxmodels.families.alexnet.model import AlexNet
from jaxmodels.foreign.formats import Formats, Rules, Shape, dense_layers
from jaxmodels.foreign.rules import CONV, Rule


def _alexnet(model: AlexNet, shape: Shape) -> Rules:
    convs = tuple(Rule(f"features.{n}", f"conv_{i}", CONV) for i, n in enumerate((0, 3, 6, 8, 10)))
    return convs + dense_layers(
        model, [1 + 3 * i for i in range(len(model.hidden_sizes))], offset=2
    )


FORMATS = Formats({"torchvision": _alexnet}, silent=("stem", "lrn"))
