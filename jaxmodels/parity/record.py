"""The record of a certificate, and the bars that it has to pass."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxmodels.parity.trace import Difference

BARS = {  # float64, relative by norm
    "logits_rel_f64": 1e-10,
    "loss_rel_f64": 1e-10,
    "grad_rel_f64": 1e-8,
    "bn_rel_f64": 1e-10,
    "adamw_loss_rel_f64": 1e-9,  # weight decay of the wrong parameters shows at 1e-8
    "sgd_loss_rel_f64": 1e-9,
}
FLOAT32_FACTOR, FLOAT32_FLOOR = 3.0, 1e-6


@dataclass
class Certificate:
    """The results of a comparison.

    The fields up to ``ratio_infer`` are the columns of a table of certificates. A field is None
    where a model has no such thing.
    """

    model: str
    params_equal: bool = False
    logits_rel_f64: float | None = None
    grad_rel_f64: float | None = None
    worst_grad: str | None = None
    bn_rel_f64: float | None = None
    adamw_loss_rel_f64: float | None = None
    sgd_loss_rel_f64: float | None = None
    logits_rel_f32: float | None = None
    torch_logits_rel_f32: float | None = None
    grad_rel_f32: float | None = None
    torch_grad_rel_f32: float | None = None
    roundtrip_bitwise: bool = False
    ratio_train: float | None = None
    ratio_infer: float | None = None
    # beyond the table
    original: str = ""
    note: str = ""
    params: int = 0
    torch_params: int = 0
    image_shape: tuple[int, ...] = ()
    length: int = 0
    batch_size: int = 0
    first_divergence: str | None = None
    loss_rel_f64: float | None = None
    float32_batches: int = 0
    bn_rel_f32: float | None = None
    torch_bn_rel_f32: float | None = None
    bf16_logits_rel: float | None = None
    default_precision_logits_rel: float | None = None
    zero_gradients: list[str] = field(default_factory=list)
    norms: dict[str, float] = field(default_factory=dict)
    blocks: list[Difference] = field(default_factory=list)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    made: dict[str, Any] = field(default_factory=dict)  # see jaxmodels.parity.provenance

    def to_json(self) -> dict[str, Any]:
        """JSON values; NaN and Inf, which JSON does not have, as text."""
        values = dataclasses.asdict(self)
        values["pass"] = not self.failures
        return json_values(values)


def json_values(value: Any) -> Any:
    """``value`` with NaN and Inf as text, all the way down."""
    if isinstance(value, Mapping):
        return {k: json_values(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def relative(a: Any, b: Any) -> float:
    """Distance by norm, relative to ``b``; NaN and zeros are never close."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norm = np.linalg.norm(b)
    return float(np.linalg.norm(a - b) / norm) if norm > 0 and np.isfinite(norm) else math.inf


def worst(values: Mapping[str, float]) -> tuple[str, float]:
    """The largest value and its name, NaN counting as larger than anything."""
    return max(values.items(), key=lambda item: (math.isnan(item[1]), item[1]))
