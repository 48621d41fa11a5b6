"""Plans of configs: the training step of a config, handed to :func:`jaxmodels.plan.plan`."""

import dataclasses
import math
from typing import Any

import jax

from input_pipeline import DataSpec
from jaxmodels.nn.paths import path_name
from jaxmodels.plan import Plan, Topology, plan
from train.batches import batch_shapes
from train.compiling import step_function
from train.config import Config
from train.run import Run, parameter_count
from train.setup import build, with_teacher
from train.sharding import FSDP_MIN_SIZE, spec_of

LARGE = 2**20
"""Bytes from which it is worth a warning that an array is whole on every device."""


def make_plan(
    config: Config, card: DataSpec, topology: Topology, settings: dict[str, Any] | None = None
) -> Plan:
    """Compiles the training step of a config for a topology, with its longest batches.

    Args:
      settings: the fields by which the config differs from what was asked for, for the record.

    Raises:
      ConfigError: the config does not fit the mesh or the data.
    """
    run = with_teacher(build(config, card=card, devices=topology.devices))
    batch = batch_shapes(run, config.batch_size)[-1]
    found = plan(
        step_function(run),
        run.shapes,
        batch,
        *(() if run.teacher is None else (run.teacher.state,)),
        topology=topology,
        mesh=run.mesh,
        donate_argnums=0,
        out_shardings=(jax.tree.map(lambda s: s.sharding, run.shapes), None),
    )
    return dataclasses.replace(
        found,
        settings=settings or {},
        batch={k: list(v.shape) for k, v in batch.items()},
        parameters=parameter_count(run)[0],
        warnings=sharding_warnings(run) + found.warnings,
    )


def sharding_warnings(run: Run) -> list[str]:
    """Warns of parameters that are whole along an axis of the mesh because no dimension divides."""
    mesh, lost = run.mesh, {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(run.shapes.params):
        name, size = path_name(path), math.prod(leaf.shape) * leaf.dtype.itemsize
        if math.prod(leaf.shape) < FSDP_MIN_SIZE:
            continue
        # a shape that divides by everything
        wanted = spec_of(name, tuple(n * mesh.size for n in leaf.shape), mesh)
        for axis in _axes(wanted) - _axes(leaf.sharding.spec):
            if mesh.shape[axis] > 1:
                lost.setdefault(axis, []).append((size, name, list(leaf.shape)))
    found = []
    for axis, arrays in lost.items():
        size, name, shape = max(arrays)
        total = sum(size for size, _, _ in arrays)
        what = "large: " if total >= LARGE else ""
        found.append(
            f"{what}{len(arrays)} parameter(s), {total / 2**20:.1f} MiB, are not split over {axis} "
            f"= {mesh.shape[axis]}: no free dimension divides; the largest is {name} {shape}"
        )
    return found


def _axes(spec: Any) -> set[str]:
    return {
        axis for part in spec if part for axis in (part if isinstance(part, tuple) else (part,))
    }
