"""Meshes and where every array lies on them. The models know nothing of this.

Tensor parallelism follows :data:`RULES`, by parameter path; whatever they leave is split over
``fsdp`` along its largest dimension that divides. Optimiser state and moving averages follow the
same rules because their paths end with the parameter's. Batches are split over ``data`` and
``fsdp``, texts over ``sequence`` too: every device has a part of each text, and attention gathers
keys and values.
"""

import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmodels.nn.paths import in_stack, is_stacked, path_name
from jaxmodels.nn.stack import preparing_layers
from train.options import MeshConfig
from train.options.fields import ConfigError

AXES = ("data", "fsdp", "sequence", "tensor")
BATCH = P(("data", "fsdp"))
TEXT = P(("data", "fsdp"), "sequence")

TEXTS = (
    "tokens",
    "segments",
    "types",
    "target",
    "characters",
    "weight",
    "source",
    "source_segments",
)
"""Keys of a batch whose arrays [b, n] have a column for each token of a text."""

FSDP_MIN_SIZE = 1024
"""Elements below which a parameter is replicated: gathering it would cost more than the memory it
frees."""

RULES: tuple[tuple[str, P], ...] = (
    # the classifier takes the features as the layer before left them: split
    (r"(^|/)head/kernel$", P("tensor", None)),
    (r"(^|/)head/bias$", P(None)),
    (r"(^|/)head_(?!(dense|next|norm)/)\w+/kernel$", P("tensor", None)),  # of one task or modality
    (r"(^|/)head_(?!(dense|next|norm)/)\w+/bias$", P(None)),
    (r"(^|/)dense(_\w+)?/kernel$", P(None, "tensor")),
    (r"(^|/)conv(_\w+)?/kernel$", P(None, None, None, "tensor")),
    (r"(^|/)(dense|conv|bn)(_\w+)?/(bias|scale|mean|var)$", P("tensor")),
    # autoencoders; the kernel of a transposed convolution is [h, w, out, in]
    (r"(^|/)(encoder|decoder)_dense_\d+/kernel$", P(None, "tensor")),
    (r"(^|/)encoder_conv_\d+/kernel$", P(None, None, None, "tensor")),
    (r"(^|/)decoder_conv_\d+/kernel$", P(None, None, "tensor", None)),
    (r"(^|/)(encoder|decoder)_(dense|conv)_\d+/bias$", P("tensor")),
    (r"(^|/)(mean|log_variance|decoder_out)/kernel$", P("tensor", None)),
    (r"(^|/)(mean|log_variance|decoder_out)/bias$", P(None)),
    (r"(^|/)log_sigma$", P()),
    # transformers: heads and the inner features of the MLP are split, the residual stream is not
    (r"(^|/)(\w+_)?attention/(query|key|value)/kernel$", P(None, "tensor")),
    (r"(^|/)(\w+_)?attention/(query|key|value)/bias$", P("tensor")),
    (r"(^|/)mlp_in/kernel$", P(None, "tensor")),
    (r"(^|/)mlp_in/bias$", P("tensor")),
    (r"(^|/)((\w+_)?attention/out|mlp_out)/kernel$", P("tensor", None)),
    (r"(^|/)((\w+_)?attention/out|mlp_out|patch_embed)/bias$", P(None)),
    (r"(^|/)patch_embed/kernel$", P(None, None)),
    (r"(^|/)norm(_\w+)?/(scale|bias)$", P(None)),
    (r"(^|/)(class_token|position)$", P(None, None, None)),
    # BERT's heads work on the residual stream
    (r"(^|/)(pooler|head_dense|head_next)/kernel$", P(None, None)),
    (r"(^|/)(pooler|head_dense|head_next)/bias$", P(None)),
    (r"(^|/)head_norm/(scale|bias)$", P(None)),
    # text: the vocabulary is split, as its logits are
    (r"(^|/)((token|source|target)_embed|head)/embedding$", P("tensor", None)),
    (r"(^|/)(logits|head)_bias$", P("tensor")),
    (r"(^|/)(position|type)_embed/embedding$", P(None, None)),
    # of two modalities, of several tasks, of residual branches
    (r"(^|/)(missing_(image|text)|weights|log_variances|layer_scale)$", P(None)),
    (r"(^|/)log_scale$", P()),
    # recurrence: every step would wait for the other devices
    (r"(^|/)lstm_\d+/kernel_(ih|hh)(_reverse)?$", P(None, None)),
    (r"(^|/)lstm_\d+/bias_(ih|hh)(_reverse)?$", P(None)),
)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh ``data x fsdp x sequence x tensor`` over ``devices`` (default: all of this job; or a
    topology's).

    Of several TPU slices, each is a part of ``data``: between them only gradients are summed.

    Raises:
      ConfigError: the sizes do not multiply to the number of devices, or the slices do not divide
        ``data``.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.sequence, config.tensor]
    fixed = math.prod(s for s in sizes if s != -1)
    text = " x ".join(f"{name} {size}" for name, size in zip(AXES, sizes, strict=True))
    if len(devices) % fixed or (-1 not in sizes and fixed != len(devices)):
        near = max(d for d in range(1, len(devices) + 1) if len(devices) % d == 0 and d <= fixed)
        raise ConfigError(
            f"config.mesh = {text} does not fit {len(devices)} device(s): the fixed sizes multiply "
            f"to {fixed}; nearest that fits: {near}, with -1 for the axis that takes the rest"
        )
    shape = tuple(len(devices) // fixed if s == -1 else s for s in sizes)
    # Explicit axes, the default, refuse an nn.Dense whose kernel is split by rows
    types = (AxisType.Auto,) * len(AXES)
    # a GPU's slice is its host, and the network between hosts is fast enough for every axis
    slices = (
        1 if devices[0].platform == "gpu" else len({getattr(d, "slice_index", 0) for d in devices})
    )
    if slices == 1:
        return jax.make_mesh(shape, AXES, axis_types=types, devices=devices)
    if shape[0] % slices:
        raise ConfigError(
            f"config.mesh.data = {shape[0]} is not divisible by the {slices} slices that the "
            f"devices are of; nearest: {-(-shape[0] // slices) * slices}, with fsdp, sequence and "
            f"tensor within the {len(devices) // slices} devices of a slice"
        )
    within, between = (shape[0] // slices, *shape[1:]), (slices, 1, 1, 1)
    options = {"devices": devices, "allow_split_physical_axes": True}
    return Mesh(
        mesh_utils.create_hybrid_device_mesh(within, between, **options), AXES, axis_types=types
    )


def spec_of(
    path: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh, *, fsdp: bool = True
) -> P:
    """Where one array of the state lies: the rule of its path as far as its shape allows, then
    ``fsdp``."""
    axes: list[str | None] = [None] * len(shape)
    scanned = (None,) if is_stacked(path) else ()
    path = path.removesuffix("_int8")  # lies as what it stands for
    for pattern, rule in RULES:
        spec = (*scanned, *rule)
        # a factored statistic ends with the parameter's path but has fewer dimensions
        if re.search(pattern, path) and len(spec) == len(shape):
            fits = [
                a is not None and mesh.shape[a] > 1 and n % mesh.shape[a] == 0
                for a, n in zip(spec, shape, strict=True)
            ]
            axes = [a if fit else None for a, fit in zip(spec, fits, strict=True)]
            break
    size = mesh.shape["fsdp"]
    # not over the layers: each is needed by all devices at its time
    free = [
        i for i, a in enumerate(axes) if a is None and shape[i] % size == 0 and i >= len(scanned)
    ]
    if fsdp and size > 1 and free and np.prod(shape) >= FSDP_MIN_SIZE:
        axes[max(free, key=lambda i: shape[i])] = "fsdp"
    return P(*axes)


def gather_fsdp(params: Any) -> Any:
    """Parameters as a step uses them: gathered over ``fsdp``, still split over ``tensor``; nothing
    without a mesh.

    Those of the layers of a transformer stay split: :func:`gathering_layers` gathers each when its
    turn comes.

    Left to itself, XLA's partitioner (jaxlib 0.10.2 to 0.12.0.1, all backends share it) computes
    *wrong numbers* for ``dy @ w.T`` with w split over (fsdp, tensor) and both dy and the result
    over ((data, fsdp), tensor). Gathered first, as FSDP means it anyway, the product never meets
    that case; tests/test_sharding.py watches.
    """
    gather = _fsdp_gather()
    if gather is None:
        return params
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x if in_stack(path_name(path)) else gather(path_name(path), x), params
    )


def gathering_layers() -> AbstractContextManager[None]:
    """The context in which a model runs with parameters of :func:`gather_fsdp`: each layer of a
    transformer gathers its own right before it runs.

    It goes by the mesh of ``jax.set_mesh``; without one, or without ``fsdp``, it does nothing.
    """
    gather = _fsdp_gather()
    if gather is None:
        return preparing_layers(None)
    return preparing_layers(
        partial(jax.tree_util.tree_map_with_path, lambda path, x: gather(path_name(path), x))
    )


def _fsdp_gather() -> Callable[[str, jax.Array], jax.Array] | None:
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.shape.get("fsdp", 1) == 1:
        return None

    def gather(path: str, x: jax.Array) -> jax.Array:
        whole, split = (spec_of(path, x.shape, mesh, fsdp=fsdp) for fsdp in (False, True))
        return x if whole == split else _gathered(x, whole, split)

    return gather


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(x: jax.Array, whole: P, split: P) -> jax.Array:
    """``x`` as ``whole`` says; its gradient, summed over the devices, as ``split`` says."""
    return jax.lax.with_sharding_constraint(x, whole)


def _gathered_forward(x, whole, split):
    return _gathered(x, whole, split), None


def _gathered_backward(whole, split, residuals, gradient):
    gradient = jax.lax.with_sharding_constraint(gradient, whole)
    return (jax.lax.with_sharding_constraint(gradient, split),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def shardings_of(tree: Any, mesh: Mesh) -> Any:
    """A tree of NamedShardings for a tree of arrays or ShapeDtypeStructs."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: NamedSharding(mesh, spec_of(path_name(path), x.shape, mesh)), tree
    )


def batch_shards(mesh: Mesh) -> int:
    """Number of parts that a batch is split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def batch_sharding(key: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Where the array ``key`` of a batch lies; of a text whose length ``sequence`` does not divide,
    all columns."""
    text = key in TEXTS and len(shape) == 2 and shape[1] % mesh.shape["sequence"] == 0
    return NamedSharding(mesh, TEXT if text else BATCH)


def local_rows(mesh: Mesh, batch_size: int) -> tuple[int, int]:
    """Which rows of a global batch this process feeds, as (index, count): part ``index`` of
    ``count`` equal parts.

    Processes that a batch is not split between, because a sequence or tensor axis spans them, feed
    the same rows.

    Raises:
      ConfigError: the process's devices hold rows that are not one such part.
    """
    indices = NamedSharding(mesh, BATCH).addressable_devices_indices_map((batch_size,))
    spans = sorted({index[0].indices(batch_size)[:2] for index in indices.values()})
    start, stop = spans[0][0], spans[-1][1]
    size = sum(b - a for a, b in spans)
    if size != stop - start or batch_size % size or start % size:
        raise ConfigError(
            f"config.mesh gives process {jax.process_index()} rows {spans} of a batch: not one "
            "equal part"
        )
    return start // size, batch_size // size


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Places this process's rows of a global batch on its devices."""
    where = {key: batch_sharding(key, value.shape, mesh) for key, value in batch.items()}
    return _put(batch, where, mesh, axis=0)


def put_batches(batches: Sequence[dict[str, np.ndarray]], mesh: Mesh) -> dict[str, jax.Array]:
    """Places this process's rows of the batches of several steps: :func:`stacked`."""
    where = {
        key: stacked(batch_sharding(key, value.shape, mesh)) for key, value in batches[0].items()
    }
    return _put(
        {key: np.stack([batch[key] for batch in batches]) for key in where}, where, mesh, axis=1
    )


def stacked(one: NamedSharding) -> NamedSharding:
    """Where batches lie that are stacked along a first axis, if a single one lies as ``one``
    says."""
    return NamedSharding(one.mesh, P(None, *one.spec))


def _put(
    batch: dict[str, np.ndarray], where: dict[str, NamedSharding], mesh: Mesh, *, axis: int
) -> dict[str, jax.Array]:
    """Global arrays of what this process has: of ``axis`` its own rows, of the others all, whoever
    takes them."""
    _, parts = local_rows(mesh, batch_shards(mesh))

    def put(value: np.ndarray, sharding: NamedSharding) -> jax.Array:
        shape = (*value.shape[:axis], parts * value.shape[axis], *value.shape[axis + 1 :])
        return jax.make_array_from_process_local_data(sharding, value, shape)

    return {key: put(value, where[key]) for key, value in batch.items()}
