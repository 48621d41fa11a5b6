"""Whether a model computes what its PyTorch original does: forward, gradients, statistics,
optimiser steps, weights.

In float64 both are the truth up to rounding, so the bars are absolute. In float32 the yardstick is
PyTorch itself: our distance from the float64 truth is at most three times PyTorch's own. Every
parameter is random and no running statistic is at its initial value, because zeros agree with
anything; dropout is off on both sides.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import jaxmodels
from jaxmodels import weights
from jaxmodels.capture import capture
from jaxmodels.families.bert.model import PretrainingLogits
from jaxmodels.nn.layers import TokenLogits
from train.compare import originals
from train.compare.cases import Case, inputs_of, make_model, objective_of
from train.compare.originals import Original
from train.compare.provenance import provenance
from train.compare.trace import Difference, as_torch, differences, first_divergence, trace_torch
from train.config import OptimConfig
from train.optim import decay_mask, make_optimizer
from train.sharding import path_name
from train.state import TrainState
from train.step import accumulated_gradients, train_step

Batch = dict[str, np.ndarray]

BARS = {  # float64, relative by norm
    "logits_rel_f64": 1e-10,
    "loss_rel_f64": 1e-10,
    "grad_rel_f64": 1e-8,
    "bn_rel_f64": 1e-10,
    "adamw_loss_rel_f64": 1e-9,  # weight decay of the wrong parameters shows at 1e-8
    "sgd_loss_rel_f64": 1e-9,
}
FLOAT32_FACTOR, FLOAT32_FLOOR = 3.0, 1e-6
# of the optimiser steps, in turn, and of the float32 comparison: at least, at most
BATCHES, MOST_BATCHES = 8, 48
ZERO_GRADIENT = 1e-11
"""A gradient smaller than this times the norm of the whole gradient is 0 by construction: a bias
that batch normalisation or softmax takes away again. Both sides must find it so; there is nothing
else to compare."""

OPTIMIZERS = {  # the timings step with these; certificates set the learning rate by FIRST_STEP
    "adamw": OptimConfig(name="adamw", learning_rate=3e-4, schedule="constant", weight_decay=0.05),
    "sgd": OptimConfig(name="sgd", schedule="constant", weight_decay=5e-4, momentum=0.9),
}
FIRST_STEP = 0.05
"""Share of the loss that the first step of each optimiser takes away, to first order; it sets the
learning rate. With longer steps deep networks depend on their weights chaotically, and rounding
alone parts the two curves."""


@dataclass
class Certificate:
    """What was found; the first fields are the keys of the JSON file, None where a model has no
    such thing."""

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
    made: dict[str, Any] = field(default_factory=dict)  # see train.compare.provenance

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


@dataclass
class Side:
    """What one framework computed for one batch: everything as NumPy, parameters by the names of
    our leaves."""

    logits: np.ndarray  # evaluation mode
    loss: float
    grads: dict[str, np.ndarray]
    stats: dict[str, np.ndarray]  # batch statistics after the step


def certify(
    case: Case,
    *,
    steps: int = 20,
    dtypes: tuple[str, ...] = ("float64", "float32", "bfloat16"),
    seed: int = 0,
    change: Callable[[jaxmodels.Module], jaxmodels.Module] = lambda model: model,
    say: Callable[[str], None] = lambda text: None,
) -> Certificate:
    """Compares a model with its original at the sizes of ``case``.

    Args:
      steps: of each optimiser; 0 leaves them out.
      dtypes: what to compare in; float64 is the truth and always there.
      change: applied to our side only; for tests, which break it on purpose.
      say: told of each stage.
    """
    result = Certificate(
        case.key,
        image_shape=case.image_shape,
        length=case.length,
        batch_size=case.batch_size,
        note=case.note,
        params=0,
        torch_params=0,
        made=provenance(),
    )
    say("counting parameters at full size")
    _count(case, result)
    with _float64(), deterministic_torch(seed):
        model = make_model(case, jnp.float64)
        original = originals.build(model, case.image_shape)
        result.original = original.source
        module = original.module.double()
        batches = [make_batch(case, np.float64, seed + i) for i in range(BATCHES)]
        randomise(module, [torch_batch(batches[0])[k] for k in inputs_of(case)])
        state_dict = {k: v.clone() for k, v in original.tensors().items()}
        tensors = {k: v.numpy() for k, v in state_dict.items()}
        _round_trip(model, tensors, original, case, result)
        model = change(model)
        variables = weights.from_torch(
            model, tensors, image_shape=case.image_shape, format=original.format
        )
        say("float64: forward, gradients and statistics")

        def truth_of(batch: Batch) -> Side:
            original.load(state_dict)
            return _torch_side(original, model, case, batch)

        truth = truth_of(batches[0])
        mine = _our_side(model, case)(variables, batches[0])
        whole = make_batch(case, np.float64, seed, padded=False)
        _blocks(model, variables, original, state_dict, case, whole, result)
        _compare_float64(mine, truth, result)
        for name in OPTIMIZERS if steps else ():
            say(f"float64: {steps} steps of {name}")
            original.load(state_dict)
            # what a step of the learning rate 1 takes away, to first order: AdamW's first step is
            # the gradient's sign
            slope = sum(
                np.square(g).sum() if name == "sgd" else np.abs(g).sum()
                for g in truth.grads.values()
            )
            config = dataclasses.replace(
                OPTIMIZERS[name], learning_rate=float(FIRST_STEP * abs(truth.loss) / slope)
            )
            turns = [batches[i % len(batches)] for i in range(steps)]
            theirs = _torch_curve(original, model, case, turns, config)
            ours = _our_curve(model, variables, case, turns, config)
            result.curves[name] = {"torch": theirs, "ours": ours}
            setattr(result, f"{name}_loss_rel_f64", _relative(np.array(ours), np.array(theirs)))
        original.load(state_dict)
    for name in dtypes:
        if name == "float32":
            say("float32: forward, gradients and statistics")
            _compare_float32(case, change, tensors, seed, truth_of, result)
        elif name == "bfloat16":
            say("bfloat16 and default precision: logits")
            _cost_of_precision(case, change, tensors, original.format, batches[0], truth, result)
    _judge(result)
    return result


def randomise(module: torch.nn.Module, inputs: Sequence[torch.Tensor] = ()) -> None:
    """Random values for every parameter and running statistic, at a scale that keeps activations
    alive.

    Args:
      inputs: running statistics are drawn around those of this batch; without it around 0 and 1.
    """
    norms = (torch.nn.BatchNorm2d, torch.nn.LayerNorm)
    scales = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, norms)}
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name in scales:
                value.copy_(1 + 0.2 * torch.randn_like(value))
            elif value.ndim >= 2 and "embed" not in name and "token" not in name:
                value.copy_(torch.randn_like(value) * (1.5 / value[0].numel()) ** 0.5)
            else:
                value.copy_(0.1 * torch.randn_like(value))
        originals.condition(module)
        batch_norms = [part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        if batch_norms and inputs:
            momentum = batch_norms[0].momentum
            for norm in batch_norms:
                norm.momentum = 1.0  # the statistics of the next batch alone
            module.train()(*inputs)
            for norm in batch_norms:
                norm.momentum = momentum
        for norm in batch_norms:
            norm.running_mean += 0.2 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= 0.5 + torch.rand_like(norm.running_var)
            norm.num_batches_tracked.fill_(3)


def make_batch(
    case: Case, dtype: Any, seed: int, *, size: int | None = None, padded: bool = True
) -> Batch:
    """A random batch. Images are neither centred nor symmetric: noise over a slope, different for
    each channel.

    Args:
      padded: whether texts have different lengths.
    """
    rng = np.random.default_rng(seed)
    size = size or case.batch_size
    if case.length:
        return _make_text(case, dtype, rng, size, padded)
    h, w, c = case.image_shape
    slope = (
        np.linspace(-1, 1, h)[:, None, None]
        + 0.5 * np.linspace(0, 1, w)[:, None]
        + 0.2 * np.arange(c)
    )
    image = 0.3 + 0.5 * slope + rng.normal(size=(size, h, w, c))
    batch = {
        "label": rng.integers(0, case.classes, size).astype(np.int32),
        "weight": np.ones(size, dtype),
    }
    if case.objective == "elbo":
        image = 1 / (1 + np.exp(-image))
        batch["noise"] = rng.normal(size=(size, make_model(case, jnp.float32).latent_size)).astype(
            dtype
        )
    return {"image": image.astype(dtype), **batch}


def _make_text(case: Case, dtype: Any, rng: np.random.Generator, size: int, padded: bool) -> Batch:
    def padded_to(length: int) -> np.ndarray:  # which tokens are real, bool [size, length]
        lengths = rng.integers(1, length + 1, size) if padded else np.full(size, length)
        lengths[0] = length
        return np.arange(length) < lengths[:, None]

    # 0 is padding alone, as it is to embeddings of PyTorch that have a padding_idx
    tokens = rng.integers(1, case.classes, (size, case.length + 1)).astype(np.int32)
    real = padded_to(case.length)
    batch = {"tokens": tokens[:, :-1] * real, "segments": real.astype(np.int32)}
    if "types" in inputs_of(case):
        batch["types"] = (np.arange(case.length) >= case.length // 3) * batch["segments"]
    if case.objective == "masked_lm":
        # more places than are counted, as in a run; padding among them
        places = np.argsort(rng.random((size, case.length)), axis=1)[:, : case.length // 3].astype(
            np.int32
        )
        masked = np.take_along_axis(batch["segments"], places, axis=1) * (
            np.arange(case.length // 3) < 5
        )
        label = rng.integers(0, 2, size).astype(np.int32)
        weights_of = {"weight": np.ones(size, dtype), "masked_weight": masked.astype(dtype)}
        weights_of["share_masked"] = np.full(size, size / masked.sum(), dtype)
        target = np.take_along_axis(tokens, places, axis=1)
        return batch | {"positions": places, "masked_target": target, "label": label, **weights_of}
    if case.objective == "classification":
        label = rng.integers(0, make_model(case, jnp.float32).num_classes, size).astype(np.int32)
        return batch | {"label": label, "weight": np.ones(size, dtype)}
    batch |= {"target": tokens[:, 1:] * real, "weight": real.astype(dtype)}
    if case.objective == "seq2seq":
        real = padded_to(case.length - 3)
        source = rng.integers(1, case.classes, real.shape).astype(np.int32) * real
        batch |= {"source": source, "source_segments": real.astype(np.int32)}
    return batch


@contextlib.contextmanager
def deterministic_torch(seed: int) -> Iterator[None]:
    """PyTorch's generator at a seed, and given back as it was."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def _count(case: Case, result: Certificate) -> None:
    model = make_model(case, jnp.float32, full=True)
    leaves = weights.shapes(model, image_shape=case.full_shape)
    result.params = sum(math.prod(v.shape) for k, v in leaves.items() if k.startswith("params/"))
    with torch.device("meta"):
        module = originals.build(model, case.full_shape).module
    result.torch_params = sum(p.numel() for p in module.parameters())
    result.params_equal = result.params == result.torch_params


def _round_trip(
    model: Any, tensors: Batch, original: Original, case: Case, result: Certificate
) -> None:
    variables = weights.from_torch(
        model, tensors, image_shape=case.image_shape, format=original.format
    )
    back = weights.to_torch(model, variables, image_shape=case.image_shape, format=original.format)
    result.roundtrip_bitwise = set(back) == set(tensors) and all(
        back[k].dtype == v.dtype and back[k].shape == v.shape and back[k].tobytes() == v.tobytes()
        for k, v in tensors.items()
    )


def torch_batch(batch: Batch) -> dict[str, torch.Tensor]:
    """A batch as PyTorch takes it: images channel first, labels and tokens int64."""
    return {
        k: torch.from_numpy(v).long() if v.dtype == np.int32 else as_torch(v)
        for k, v in batch.items()
    }


def torch_loss(original: Original, case: Case, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean loss of the original for a batch of :func:`torch_batch`."""
    return original.loss(original.module(*(batch[k] for k in inputs_of(case))), batch)


def main_output(outputs: Any) -> jax.Array:
    """Of what our models return, the part that is compared: logits, or the reconstruction."""
    if isinstance(outputs, PretrainingLogits):
        outputs = outputs.tokens
    if isinstance(outputs, TokenLogits):
        return outputs.logits
    return outputs[0] if isinstance(outputs, tuple) else outputs


def _counted(logits: np.ndarray, batch: Batch) -> np.ndarray:
    """Logits that count: what stands at padding is nobody's business, and differs."""
    for name in ("masked_weight", "weight"):
        if name in batch and logits.ndim == 3 and batch[name].shape == logits.shape[:2]:
            return logits * (batch[name] > 0)[..., None]
    return logits


def _torch_side(original: Original, model: Any, case: Case, batch: Batch) -> Side:
    module = original.module
    tensors = torch_batch(batch)
    module.eval()
    with torch.no_grad():
        logits = original.main(module(*(tensors[k] for k in inputs_of(case)))).numpy()
    module.train()
    module.zero_grad()
    loss = torch_loss(original, case, tensors)
    loss.backward()
    grads = {k: v.grad.numpy() for k, v in module.named_parameters()}
    named = {k: v.clone().numpy() for k, v in original.tensors().items()} | grads
    leaves = _flat(
        weights.from_torch(model, named, image_shape=case.image_shape, format=original.format)
    )
    module.zero_grad()
    return Side(_counted(logits, batch), loss.item(), *_split(leaves))


def _split(leaves: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    grads = {k: v for k, v in leaves.items() if k.startswith("params/")}
    return grads, {k: v for k, v in leaves.items() if k.startswith("batch_stats/")}


def _flat(tree: Any) -> dict[str, np.ndarray]:
    return {
        path_name(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _our_side(model: Any, case: Case) -> Callable[[Any, Batch], Side]:
    """A function of variables and a batch, compiled once."""

    @jax.jit
    def run(variables, batch):
        params, state = variables["params"], {k: v for k, v in variables.items() if k != "params"}
        found = accumulated_gradients(
            params,
            state,
            batch,
            jax.random.key(0),
            model=model,
            objective=objective_of(case),
            inputs=inputs_of(case),
        )
        grads, count, metrics, state = found
        logits = main_output(
            model.apply(variables, *(batch[k] for k in inputs_of(case)), train=False)
        )
        return (
            logits,
            metrics["loss"][0] / count,
            {"params": jax.tree.map(lambda g: g / count, grads), **state},
        )

    def side(variables: Any, batch: Batch) -> Side:
        logits, loss, leaves = jax.device_get(run(*jax.tree.map(jnp.asarray, (variables, batch))))
        return Side(_counted(logits, batch), float(loss), *_split(_flat(leaves)))

    return side


def _blocks(
    model: Any,
    variables: Any,
    original: Original,
    state_dict: Any,
    case: Case,
    batch: Batch,
    result: Certificate,
) -> None:
    """Every layer's input and output, in training mode, and in evaluation where that is something
    else."""
    pairs = weights.torch_modules(model, image_shape=case.image_shape, format=original.format)
    tensors = torch_batch(batch)
    inputs = tuple(jnp.asarray(batch[k]) for k in inputs_of(case))
    variables = jax.tree.map(jnp.asarray, variables)
    for train in (False, True) if "batch_stats" in variables else (True,):
        original.load(state_dict)
        original.module.train(train)
        with torch.no_grad():
            theirs = trace_torch(
                original.module, list(pairs), [tensors[k] for k in inputs_of(case)]
            )
        forward = jax.jit(partial(capture, model, train=train))
        ours = jax.device_get(forward(variables, *inputs, rngs={"dropout": jax.random.key(0)}))
        found = differences(pairs, theirs, ours)
        result.blocks = [d for d in found if d.what == "output"]
        compared = {d.torch for d in result.blocks if d.norm > 0}
        for name in sorted(pairs.keys() - compared) if train else ():
            result.failures.append(f"layer {pairs[name].module} (PyTorch: {name}) was not compared")
        result.first_divergence = result.first_divergence or first_divergence(
            found, BARS["logits_rel_f64"]
        )


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    """Distance by norm, relative to ``b``; NaN and zeros are never close."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norm = np.linalg.norm(b)
    return float(np.linalg.norm(a - b) / norm) if norm > 0 and np.isfinite(norm) else math.inf


def _worst(values: Mapping[str, float]) -> tuple[str, float]:
    """The largest, NaN counting as larger than anything."""
    return max(values.items(), key=lambda item: (math.isnan(item[1]), item[1]))


def _compare_float64(mine: Side, truth: Side, result: Certificate) -> None:
    result.logits_rel_f64 = _relative(mine.logits, truth.logits)
    result.loss_rel_f64 = abs(mine.loss - truth.loss) / abs(truth.loss)
    whole = math.sqrt(sum(float(np.vdot(g, g)) for g in truth.grads.values()))
    zero = [
        k
        for k, g in truth.grads.items()
        if k.endswith("/bias") and np.linalg.norm(g) < ZERO_GRADIENT * whole
    ]
    result.zero_gradients = zero
    errors = {}
    for k, g in truth.grads.items():
        if k in zero:  # at the bar if it is as large as a zero may be
            errors[k] = (
                np.linalg.norm(mine.grads[k]) / (ZERO_GRADIENT * whole) * BARS["grad_rel_f64"]
            )
        else:
            errors[k] = _relative(mine.grads[k], g)
    result.worst_grad, result.grad_rel_f64 = _worst({k: float(v) for k, v in errors.items()})
    if truth.stats:
        worst, result.bn_rel_f64 = _worst(
            {k: _relative(mine.stats[k], v) for k, v in truth.stats.items()}
        )
        if not result.bn_rel_f64 <= BARS["bn_rel_f64"] and result.first_divergence is None:
            result.first_divergence = (
                f"{worst}: the running statistics differ by {result.bn_rel_f64:.1e}"
            )
    if not result.grad_rel_f64 <= BARS["grad_rel_f64"] and result.first_divergence is None:
        result.first_divergence = (
            f"{result.worst_grad}: its gradient differs by {result.grad_rel_f64:.1e}"
        )
    result.norms = {
        "logits": float(np.linalg.norm(truth.logits)),
        "loss": truth.loss,
        "gradient": whole,
        "smallest compared gradient": min(
            float(np.linalg.norm(g)) for k, g in truth.grads.items() if k not in zero
        ),
        **(
            {"batch statistics": math.sqrt(sum(float(np.vdot(s, s)) for s in truth.stats.values()))}
            if truth.stats
            else {}
        ),
    }


def _compare_float32(
    case: Case,
    change: Any,
    tensors: Batch,
    seed: int,
    truth_of: Callable[[Batch], Side],
    result: Certificate,
) -> None:
    """Distances from the truth, for each tensor the smallest over several batches, on both sides.

    A ReLU whose input is within rounding of 0 is open in one precision and shut in another, on
    either side, and the gradients before it jump: few batches would compare the luck of the two, so
    there are more while a tensor fails. What is wrong in every batch stays.
    """
    narrow = _narrowed(tensors, np.float32)
    model = make_model(case, jnp.float32)
    original = originals.build(model, case.image_shape)
    state_dict = {k: torch.from_numpy(np.array(v)) for k, v in narrow.items()}
    ours_of = _our_side(change(model), case)
    variables = weights.from_torch(
        change(model), narrow, image_shape=case.image_shape, format=original.format
    )
    smallest: dict[str, tuple[float, float]] = {}  # ours, PyTorch's
    wrong: list[str] = []
    for i in range(MOST_BATCHES):
        batch = make_batch(case, np.float64, seed + i)
        truth, batch = truth_of(batch), _narrowed(batch, np.float32)
        original.load(state_dict)
        theirs = _torch_side(original, model, case, batch)
        with jax.default_matmul_precision("highest"):
            mine = ours_of(variables, batch)
        compared = {
            k: g for k, g in truth.grads.items() if k not in result.zero_gradients
        } | truth.stats
        for k, true in {"logits": truth.logits, **compared}.items():
            found = [
                side.logits if k == "logits" else (side.grads | side.stats)[k]
                for side in (mine, theirs)
            ]
            a, b = smallest.get(k, (math.inf, math.inf))
            smallest[k] = (
                np.minimum(a, _relative(found[0], true)),
                np.minimum(b, _relative(found[1], true)),
            )
        wrong = [
            k for k, (a, b) in smallest.items() if not a <= max(FLOAT32_FLOOR, FLOAT32_FACTOR * b)
        ]
        result.float32_batches = i + 1
        if i + 1 >= BATCHES and not wrong:
            break
    result.logits_rel_f32, result.torch_logits_rel_f32 = map(float, smallest["logits"])
    for what, prefix in (("grad", "params/"), ("bn", "batch_stats/")):
        group = {k: v for k, v in smallest.items() if k.startswith(prefix)}
        if group:
            setattr(
                result, f"{what}_rel_f32", float(_worst({k: v[0] for k, v in group.items()})[1])
            )
            setattr(
                result,
                f"torch_{what}_rel_f32",
                float(_worst({k: v[1] for k, v in group.items()})[1]),
            )
    for k in wrong:
        ours, torchs = smallest[k]
        result.failures.append(f"float32 {k}: {ours:.1e} from float64, PyTorch {torchs:.1e}")


def _cost_of_precision(
    case: Case,
    change: Any,
    tensors: Batch,
    format: str,
    batch: Batch,
    truth: Side,
    result: Certificate,
) -> None:
    """How far logits are from the truth in bfloat16, and in float32 at the backend's default
    precision."""
    narrow = _narrowed(tensors, np.float32)
    for name, dtype in (
        ("default_precision_logits_rel", jnp.float32),
        ("bf16_logits_rel", jnp.bfloat16),
    ):
        if dtype == jnp.float32 and jax.default_backend() == "cpu":  # its default is the highest
            result.default_precision_logits_rel = result.logits_rel_f32
            continue
        model = change(make_model(case, jnp.float32).clone(dtype=dtype))
        variables = weights.from_torch(model, narrow, image_shape=case.image_shape, format=format)
        given = [batch[k] for k in inputs_of(case)]
        inputs = [jnp.asarray(x, x.dtype if x.dtype == np.int32 else dtype) for x in given]
        outputs = jax.jit(partial(model.apply, train=False))(
            jax.tree.map(jnp.asarray, variables), *inputs
        )
        setattr(
            result,
            name,
            _relative(_counted(np.asarray(main_output(outputs), np.float64), batch), truth.logits),
        )


def _narrowed(tensors: Batch, dtype: Any) -> Batch:
    return {k: v.astype(dtype) if v.dtype == np.float64 else v for k, v in tensors.items()}


def parameter_groups(
    original: Original, model: Any, case: Case, config: OptimConfig
) -> list[dict[str, Any]]:
    """PyTorch's parameter groups: weight decay on the tensors that our mask lets decay."""
    shapes = weights.shapes(model, image_shape=case.image_shape)
    params = {k.removeprefix("params/"): v for k, v in shapes.items() if k.startswith("params/")}
    tree = weights.nested(params)
    mask = {
        path_name(path): value
        for path, value in jax.tree_util.tree_leaves_with_path(decay_mask(tree))
    }
    names = weights.torch_names(model, image_shape=case.image_shape, format=original.format)
    decayed = {n for path, flag in mask.items() if flag for n in names[f"params/{path}"]}
    groups: dict[bool, list[Any]] = {True: [], False: []}
    for name, parameter in original.module.named_parameters():
        groups[name in decayed].append(parameter)
    return [
        {"params": groups[True], "weight_decay": config.weight_decay},
        {"params": groups[False], "weight_decay": 0.0},
    ]


def torch_optimizer(
    original: Original, model: Any, case: Case, config: OptimConfig, **options: Any
) -> torch.optim.Optimizer:
    """PyTorch's optimiser for one of ours; ``options``: of how it computes, such as ``fused``."""
    groups = parameter_groups(original, model, case, config)
    if config.name == "adamw":
        betas = (config.b1, config.b2)
        return torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=betas, eps=config.eps, **options
        )
    momentum = {"momentum": config.momentum, "nesterov": config.nesterov}
    return torch.optim.SGD(groups, lr=config.learning_rate, **momentum, **options)


def _torch_curve(
    original: Original, model: Any, case: Case, batches: list[Batch], config: OptimConfig
) -> list[float]:
    original.module.train()
    optimizer = torch_optimizer(original, model, case, config)
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = torch_loss(original, case, torch_batch(batch))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def our_state(variables: Any, tx: optax.GradientTransformation) -> TrainState:
    """A TrainState at step 0 with these variables."""
    variables = jax.tree.map(jnp.asarray, variables)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        model_state={k: v for k, v in variables.items() if k != "params"},
        opt_state=tx.init(variables["params"]),
        ema_params=None,
        finite=jnp.ones((), bool),
    )


def our_step(model: Any, tx: optax.GradientTransformation, case: Case) -> partial:
    """The training step of every run, for this case."""
    return partial(
        train_step, model=model, tx=tx, objective=objective_of(case), inputs=inputs_of(case)
    )


def _our_curve(
    model: Any, variables: Any, case: Case, batches: list[Batch], config: OptimConfig
) -> list[float]:
    tx = make_optimizer(config, len(batches))
    state = our_state(variables, tx)
    step = jax.jit(our_step(model, tx, case), donate_argnums=0)
    losses = []
    for batch in batches:
        state, metrics = step(state, jax.tree.map(jnp.asarray, batch))
        losses.append(float(metrics["loss"][0] / metrics["loss"][1]))
    return losses


def _judge(result: Certificate) -> None:
    if not result.params_equal:
        result.failures.append(
            f"{result.params:,} parameters, the original has {result.torch_params:,}"
        )
    if not result.roundtrip_bitwise:
        result.failures.append("weights do not come back bit for bit")
    for name, bar in BARS.items():
        value = getattr(result, name)
        if value is not None and not value <= bar:
            result.failures.append(f"{name} {value:.1e} is above {bar:.0e}")
    if result.first_divergence:
        result.failures.append(f"first difference: {result.first_divergence}")
