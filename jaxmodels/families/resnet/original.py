"""torchvision's ResNet, the CIFAR networks in ``torch.nn``, and their certificates."""

from typing import Any

from jaxmodels.families.resnet.model import ResNet
from jaxmodels.foreign.original import (
    Case,
    Original,
    OriginalError,
    Shape,
    require_defaults,
    torchvision,
    torchvision_source,
)


def original(model: ResNet, shape: Shape) -> Original:
    """torchvision's ResNet, or with ``shortcut="pad"`` :func:`cifar_resnet`.

    Dropout and all, in training mode, with its own random initial values.

    Raises:
      OriginalError: there is none with these fields, or its library is not installed.
    """
    from torch import nn

    resnet = torchvision().resnet
    kind = f" with shortcut={model.shortcut!r}"
    if model.shortcut == "pad":
        require_defaults(model, kind, block="basic", stem="small", zero_init_residual=False)
        return Original(
            cifar_resnet(model, shape[2]), "He et al. 2016 section 4.2 in torch.nn", "cifar"
        )
    require_defaults(model, kind, width=64)
    if len(model.stage_sizes) != 4:
        raise OriginalError(
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
    return Original(module, torchvision_source("resnet"), "torchvision")


def cifar_resnet(model: ResNet, channels: int) -> Any:
    """The CIFAR networks of He et al. 2016, named as in akamaster/pytorch_resnet_cifar10."""
    from torch import nn
    from torch.nn import functional as F

    class TorchCIFARBlock(nn.Module):
        """Two 3x3 convolutions and a shortcut without parameters.

        Where the shape changes, it takes every second pixel and adds zero channels.
        """

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
                    x[:, :, :: self.stride, :: self.stride],
                    (0, 0, 0, 0, before, self.missing - before),
                )
            return F.relu(x + y)

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
                    *(
                        TorchCIFARBlock(width if j == 0 else out, out, s)
                        for j, s in enumerate(strides)
                    )
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

    return TorchCIFARResNet(model, channels)


def condition(module: Any) -> None:
    """Gives residual branches less weight beside their shortcut, in place.

    With random values the deepest networks amplify rounding a thousandfold otherwise.
    """
    resnet = torchvision().resnet
    for part in module.modules():
        if isinstance(part, resnet.Bottleneck):
            part.bn3.weight.mul_(0.3)
        elif isinstance(part, resnet.BasicBlock) or type(part).__name__ == "TorchCIFARBlock":
            part.bn2.weight.mul_(0.3)


CASES = (
    *(Case(f"resnet{n}", (64, 64, 3)) for n in (18, 34, 50, 101, 152)),
    *(
        Case(
            f"resnet{n}",
            (32, 32, 3),
            (32, 32, 3),
            batch_size=8,
            timing_batch_size=64,
            full_classes=10,
        )
        for n in (20, 56)
    ),
)
