"""A family, a feature, a task and a data set of somebody's own, in one file: what a newcomer
writes. ``tests/test_open_house.py`` trains, resumes, evaluates, predicts, explains, plans and
certifies with it."""

import dataclasses
from functools import partial
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from input_pipeline import DataSet
from input_pipeline.features import Feature, Image
from input_pipeline.features.feature import Shapes
from jaxmodels.families import Family
from jaxmodels.foreign.formats import Formats, Rules
from jaxmodels.foreign.original import Case, Original
from jaxmodels.foreign.rules import CONV, LAYER_NORM, LINEAR, Rule
from jaxmodels.nn.layers import Dense, LayerNorm, at_least_float32, conv, gelu
from train.options.fields import limit
from train.step import Metric
from train.task import Bundle, Report, Setting, Task
from train.tasks.preprocessing import model_inputs, preprocessing

# A family: a stem of patches and blocks of ConvNeXt.


class Compass(nn.Module):
    """Patches, blocks of a depthwise convolution and an MLP, mean of the map, head.

    Attributes:
      num_classes: number of outputs.
      width: channels.
      depth: blocks.
    """

    num_classes: int
    width: int = 16
    depth: int = 1
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b outputs"]:
        """Maps images to outputs."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm, dense = partial(LayerNorm, 1e-6, **dtypes), partial(Dense, **dtypes)
        x = conv(self.width, 4, stride=4, name="stem", **dtypes)(x)
        for i in range(self.depth):
            mix = nn.Conv(
                self.width, (3, 3), feature_group_count=self.width, name=f"mix_{i}", **dtypes
            )
            y = mix(x)
            y = dense(4 * self.width, name=f"in_{i}")(norm(name=f"norm_{i}")(y))
            x = x + dense(self.width, name=f"out_{i}")(gelu(y))
        x = norm(name="norm")(x.mean((1, 2)))
        return at_least_float32(dense(self.num_classes, name="head")(x))


def compass_small(*, width: int = 8, depth: int = 1, **fields: Any) -> Compass:
    """One block of 8 channels."""
    return Compass(width=width, depth=depth, **fields)


def _rules(model: Compass, shape: tuple[int, ...]) -> Rules:
    blocks = (
        (f"blocks.{{j}}.{theirs}", f"{ours}_{{j}}", layer)
        for theirs, ours, layer in (
            ("mix", "mix", CONV),
            ("norm", "norm", LAYER_NORM),
            ("expand", "in", LINEAR),
            ("contract", "out", LINEAR),
        )
    )
    return (
        Rule("stem", "stem", CONV),
        *(Rule(*block) for block in blocks),
        Rule("norm", "norm", LAYER_NORM),
        Rule("head", "head", LINEAR),
    )


def _original(model: Compass, shape: tuple[int, ...]) -> Original:
    import torch
    from torch.nn import functional as F

    class Block(torch.nn.Module):
        def __init__(self, width: int):
            super().__init__()
            self.mix = torch.nn.Conv2d(width, width, 3, padding=1, groups=width)
            self.norm = torch.nn.LayerNorm(width, 1e-6)
            self.expand = torch.nn.Linear(width, 4 * width)
            self.contract = torch.nn.Linear(4 * width, width)

        def forward(self, x):
            y = self.norm(self.mix(x).permute(0, 2, 3, 1))
            return x + self.contract(F.gelu(self.expand(y))).permute(0, 3, 1, 2)

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Conv2d(shape[2], model.width, 4, stride=4)
            self.blocks = torch.nn.ModuleList(Block(model.width) for _ in range(model.depth))
            self.norm = torch.nn.LayerNorm(model.width, 1e-6)
            self.head = torch.nn.Linear(model.width, model.num_classes)

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x.mean((2, 3))))

    return Original(Theirs(), "tests/hers.py", "torch")


FAMILY = Family(
    Compass,
    {"compass": Compass, "small": compass_small},
    inputs=("image",),
    outputs=("logits",),
    formats=Formats({"torch": _rules}),
    original=_original,
    cases=(Case("small", (8, 12, 1), full_shape=(16, 16, 1), full_classes=10),),
)


# A feature: the angle of a line.


@dataclasses.dataclass(frozen=True)
class Angle(Feature):
    """An angle of each example in radians, the same after ``period``."""

    kind: ClassVar[str] = "angle"

    period: float

    @property
    def num_classes(self) -> int:
        """Outputs of a model: cosine and sine."""
        return 2

    def shapes(self, size: int, length: int) -> Shapes:
        """See `Feature.shapes`."""
        return {"angle": ((size,), np.float32)}

    def summary(self, label: str = "", *, alone: bool = True) -> str:
        """See `Feature.summary`."""
        return f"an angle each, modulo {self.period:.3g}"


# A data set: lines across the middle of an image.


def _features() -> dict[str, Feature]:
    return {"image": Image((16, 16, 1)), "label": Angle(float(np.pi))}


def _lines(seed: int, count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, np.pi, count).astype(np.float32)
    y, x = np.mgrid[-7.5:8, -7.5:8]
    distance = x * np.sin(angle)[:, None, None] - y * np.cos(angle)[:, None, None]
    image = 255 * np.exp(-(distance**2) / 2) * rng.uniform(0.5, 1, (count, 1, 1))
    return {"image": image[..., None].astype(np.uint8), "angle": angle}


LINES = DataSet(_features, {"train": partial(_lines, 0, 512), "test": partial(_lines, 1, 128)})


# A task: to tell the angle.


@dataclasses.dataclass
class AngleOptions:
    """Options of the task."""

    # weight of how far the outputs are from the unit circle
    circle: float = dataclasses.field(default=0.1, metadata=limit(low=0))


def angle_loss(
    outputs: Float[Array, "b 2"], batch: dict[str, Array], *, period: float, circle: float
) -> dict[str, Metric]:
    """``loss = sum_b w_b (|o_b / |o_b| - u_b|^2 + circle (|o_b| - 1)^2)`` with u the unit vector
    of the angle, and the error in degrees."""
    turn, weight = 2 * jnp.pi / period, batch["weight"]
    wanted = jnp.stack([jnp.cos(turn * batch["angle"]), jnp.sin(turn * batch["angle"])], -1)
    length = jnp.sqrt((outputs**2).sum(-1) + 1e-12)
    unit = outputs / length[:, None]
    loss = ((unit - wanted) ** 2).sum(-1) + circle * (length - 1) ** 2
    cosine = jnp.clip((unit * wanted).sum(-1), -1, 1)
    degrees = jnp.degrees(jnp.arccos(cosine)) / turn
    count = weight.sum()
    return {"loss": ((loss * weight).sum(), count), "degrees": ((degrees * weight).sum(), count)}


def _within(outputs: Array, batch: dict[str, Array]) -> Array:
    """Number of examples whose error is below 5 degrees, and of all."""

    turn = 2.0
    angle = jnp.arctan2(outputs[:, 1], outputs[:, 0]) / turn
    error = jnp.abs((angle - batch["angle"] + jnp.pi / 2) % jnp.pi - jnp.pi / 2)
    return jnp.stack([((error < jnp.radians(5)) * batch["weight"]).sum(), batch["weight"].sum()])


WITHIN = Report(
    "within",
    count=_within,
    values=lambda run, found: {"within_5_degrees": float(found[0] / found[1])},
    lines=lambda values: [f"within 5 degrees: {values['within_5_degrees']:.3f}"],
)


def _show(run: Any, answer: np.ndarray, top: int) -> tuple[dict[str, Any], str]:
    period = run.card.kind("angle").period
    degrees = float(np.degrees(np.arctan2(answer[1], answer[0]) * period / (2 * np.pi)) % 180)
    return {"degrees": degrees}, f"{degrees:.1f} degrees"


def _make(setting: Setting) -> Task:
    train_batch, eval_batch = preprocessing(setting)
    period = setting.card.kind("angle").period
    loss = partial(angle_loss, period=period, circle=setting.options.circle)
    return Task(
        ANGLE,
        train_objective=loss,
        eval_objective=loss,
        train_batch=train_batch,
        eval_batch=eval_batch,
        inputs=model_inputs(setting.model, setting.card),
        reports=(WITHIN,),
    )


ANGLE = Bundle(
    "angle",
    _make,
    options=AngleOptions,
    answer=lambda outputs: outputs,
    score="degrees",
    show=_show,
    explains="number",
)
