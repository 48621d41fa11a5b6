"""A plan: the training step of a config compiled for a topology, and what the compiler says of
it."""

import contextlib
import dataclasses
import math
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax

from input_pipeline import DataSpec
from jaxmodels.nn.attention import exact_attention
from jaxmodels.nn.paths import path_name
from train.config import Config
from train.plan.cost import Roofline, Traffic, roofline, traffic
from train.plan.hlo import read_program
from train.plan.topology import Topology
from train.setup import Run, build, parameter_count
from train.sharding import FSDP_MIN_SIZE, spec_of

LARGE = 2**20
"""Bytes from which it is worth a warning that an array is whole on every device."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      state: of the TrainState, by arithmetic.
      arguments, temporaries, outputs, aliased, code: as the compiler says; aliased outputs lie
        where arguments lay. None where it did not finish.
      needed: of a step that does not fit, what its message names; else None.
      limit: what a program may use; None if not known.
    """

    state: int
    limit: float | None
    arguments: int | None = None
    temporaries: int | None = None
    outputs: int | None = None
    aliased: int | None = None
    code: int | None = None
    needed: float | None = None

    @property
    def peak(self) -> float | None:
        """Arguments, outputs that are not aliased, temporaries and code at once."""
        parts = (self.arguments, self.temporaries, self.outputs, self.aliased, self.code)
        if None in parts:
            return self.needed
        return float(self.arguments + self.temporaries + self.outputs - self.aliased + self.code)


@dataclass(frozen=True)
class Plan:
    """What is known of a training step on a topology before it has run.

    Attributes:
      mesh: axis -> devices.
      settings: dotted fields of the config by which it differs from what was asked for.
      fits: None where no limit is known.
      model_flops: of one step by formula (see train/flops.py), over all devices.
      compiled_flops: of products and convolutions in the compiled program, of one device, loops
        unrolled.
      analysis_flops: what the compiler's ``cost_analysis`` says of one device: bodies of loops
        once.
      loops: times that each loop runs, None where not known; then it counts once.
      kernels: executions of kernels on one device, whose operations ``compiled_flops`` leaves out.
      reason: of a step that does not fit, the compiler's words.
    """

    topology: str
    devices: int
    mesh: dict[str, int]
    settings: dict[str, Any]
    batch: dict[str, list[int]]
    parameters: int
    memory: Memory
    fits: bool | None
    model_flops: int
    compile_seconds: float
    compiled_flops: float | None = None
    analysis_flops: float | None = None
    collectives: list[Traffic] = field(default_factory=list)
    loops: list[int | None] = field(default_factory=list)
    kernels: int = 0
    roofline: Roofline | None = None
    warnings: list[str] = field(default_factory=list)
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        found = dataclasses.asdict(self) | {"peak": self.memory.peak}
        if self.roofline:
            found["roofline"] |= {"seconds": self.roofline.seconds, "bound": self.roofline.bound}
        return found


def make_plan(
    config: Config, card: DataSpec, topology: Topology, settings: dict[str, Any] | None = None
) -> Plan:
    """Compiles the training step of a config, of the longest batches, for a topology.

    Raises:
      ConfigError: the config does not fit the mesh or the data.
    """
    run = build(config, card=card, devices=topology.devices)
    limit = topology.chip.memory if topology.chip else None
    memory = Memory(state_bytes(run), limit)
    start = time.perf_counter()
    warnings, replaced = sharding_warnings(run), set[str]()
    with contextlib.ExitStack() as stack:
        if topology.devices[0].platform == "gpu":  # cuDNN asks the GPU whether it can
            replaced = stack.enter_context(exact_attention())
        traced = run.trace_train_step()[-1]
    if replaced:
        warnings.append(
            "attention by einsum: cuDNN, its kernel, needs the GPU, and takes less memory"
        )
    common = {
        "topology": topology.name,
        "devices": len(topology.devices),
        "mesh": dict(run.mesh.shape),
        "settings": settings or {},
        "batch": {k: list(v.shape) for k, v in run.batch_shapes(config.batch_size)[-1].items()},
        "parameters": parameter_count(run)[0],
        "model_flops": run.model_flops(traced),
    }
    if limit is not None and memory.state > limit:
        reason = (
            "the state alone, parameters and what the optimiser keeps, is larger than the memory"
        )
        memory = dataclasses.replace(memory, needed=float(memory.state))
        return Plan(
            **common,
            memory=memory,
            fits=False,
            compile_seconds=0.0,
            warnings=warnings,
            reason=reason,
        )
    with captured_stderr() as said:
        try:
            with jax.set_mesh(run.mesh):
                compiled = traced.lower().compile()
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            memory, reason = (
                dataclasses.replace(memory, needed=needed_bytes(str(e), memory.state)),
                first_line(str(e)),
            )
            seconds = time.perf_counter() - start
            return Plan(
                **common,
                memory=memory,
                fits=False,
                compile_seconds=seconds,
                warnings=warnings,
                reason=reason,
            )
    seconds = time.perf_counter() - start
    stats, devices = compiled.memory_analysis(), list(run.mesh.devices.flat)
    memory = dataclasses.replace(
        memory,
        arguments=stats.argument_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
    )
    program = read_program(compiled.as_text(), len(devices))
    found = traffic(program.collectives, devices, topology.chip)
    repeated = program.flops * len(devices) / max(common["model_flops"], 1)
    if repeated > 1.6:
        warnings.append(
            f"the devices together compute {repeated:.1f} times what the model asks for"
        )
    return Plan(
        **common,
        memory=memory,
        fits=None if limit is None else memory.peak <= limit,
        compile_seconds=seconds,
        compiled_flops=program.flops,
        analysis_flops=float((compiled.cost_analysis() or {}).get("flops", 0.0)),
        collectives=found,
        loops=list(program.loops),
        kernels=program.kernels,
        roofline=topology.chip
        and roofline(program, found, topology.chip, common["model_flops"], len(devices)),
        warnings=warnings + rematerialisations(said[0]),
    )


def state_bytes(run: Run) -> int:
    """Of the TrainState on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(run.shapes)
    )


def sharding_warnings(run: Run) -> list[str]:
    """Arrays of the state that are whole along an axis of the mesh because their dimensions do not
    divide."""
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


def rematerialisations(log: str) -> list[str]:
    """Where the partitioner says that it gathers an array whole to split it anew."""
    found = re.findall(
        r"Involuntary full rematerialization[^\n]*?(?:for HLO operation %?([^\n]{0,160}))", log
    )
    operations = [re.search(r'op_name="([^"]*)"', one) for one in found]
    names = sorted({one.group(1) if one else "?" for one in operations})
    return [
        f"involuntary full rematerialisation: the partitioner gathers an array whole in {name}"
        for name in names
    ]


def needed_bytes(message: str, state: int) -> float | None:
    """Memory that a step wants by the compiler's message that there is not so much; of one about
    temporaries alone with the state."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    for pattern in (
        r"[Uu]sed ([\d.]+)([KMGT]?) of",
        r"\(([\d.]+)([KMGT]?)\) exceeds",
        r"allocate ([\d.]+)([KMGT]?)i?B",
    ):
        if found := re.search(pattern, message):
            wanted = float(found.group(1)) * units[found.group(2)]
            return wanted + state if "HLO temporaries" in message else wanted
    return None


def first_line(message: str) -> str:
    """Of a message, without its code."""
    return message.splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")


@contextlib.contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """What the compiler writes on standard error, which is not Python's, as the one element of a
    list, at the end."""
    said: list[str] = []
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
