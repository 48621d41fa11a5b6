"""A plan: a step compiled for devices that are not here, and what the compiler says of it."""

import contextlib
import dataclasses
import functools
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmodels.nn.attention import KERNELS, exact_attention
from jaxmodels.plan.cost import Roofline, Traffic, roofline, traffic
from jaxmodels.plan.errors import PlanError
from jaxmodels.plan.flops import count_flops
from jaxmodels.plan.hlo import read_program
from jaxmodels.plan.topologies import Topology, find_topology


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      state: bytes of the step's first argument, computed from its shapes and shardings.
      limit: bytes that a program may use; None if not known.
      arguments, temporaries, outputs, aliased, code: the compiler's account. Aliased outputs lie
        where arguments lay. None where it did not finish.
      needed: bytes that the compiler's message names for a step that does not fit; else None.
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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The record of a step on a topology, made before the step has run.

    Attributes:
      mesh: axis -> devices.
      settings, batch, parameters: the caller's words about the step, which :func:`plan` leaves
        empty: the fields it changed, the shapes of the batch, the number of parameters.
      fits: None where no limit is known.
      model_flops: FLOPs of one step by formula, over all devices (see jaxmodels/plan/flops.py).
      compiled_flops: FLOPs of products and convolutions in the compiled program, on one device,
        loops unrolled.
      analysis_flops: FLOPs of one device by the compiler's ``cost_analysis``, which counts bodies
        of loops once.
      loops: times that each loop runs; None where not known, and then it counts once.
      kernels: executions of kernels on one device, whose operations ``compiled_flops`` leaves out.
      reason: the compiler's words about a step that does not fit.
    """

    topology: str
    devices: int
    mesh: dict[str, int]
    settings: dict[str, Any] = field(default_factory=dict)
    batch: dict[str, list[int]] = field(default_factory=dict)
    parameters: int = 0
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
        """The record as a dict that JSON can hold, with the peak of memory and the slowest
        resource."""
        found = dataclasses.asdict(self) | {"peak": self.memory.peak}
        if self.roofline:
            found["roofline"] |= {"seconds": self.roofline.seconds, "bound": self.roofline.bound}
        return found


def plan(
    step: Callable[..., Any] | jax.stages.Traced,
    *arguments: Any,
    topology: str | Topology,
    mesh: Mesh | None = None,
    **options: Any,
) -> Plan:
    """Compiles a step for a topology whose devices are not here.

    On GPUs attention is traced as einsum, because cuDNN asks the GPU itself whether it can attend.

    Args:
      step: a function of arrays, jitted or not, or a step traced already. One that is not jitted
        is traced once more where attention kernels hide what they compute, to count its FLOPs.
      arguments: pytrees of ``jax.ShapeDtypeStruct``; the first is the state. A leaf without a
        sharding is whole on every device.
      topology: a name such as ``v5e:4x4``, or what :func:`find_topology` gave for it.
      mesh: a mesh of the topology's devices. None: that of the first argument with a sharding.
      options: for ``jax.jit``, of a step that is not jitted: ``donate_argnums=0``.

    Raises:
      PlanError: unknown topology, or no mesh of its devices.
    """
    where = find_topology(topology) if isinstance(topology, str) else topology
    mesh = mesh or _mesh_of(arguments, where)
    if not {*mesh.devices.flat} <= {*where.devices}:
        raise PlanError(f"the mesh has devices that are not of the topology {where.name}")
    arguments = _placed(arguments, mesh)
    start = time.perf_counter()
    traced, model_flops, warnings = _trace(step, arguments, mesh, options)
    devices, chip = list(mesh.devices.flat), where.chip
    memory = Memory(state_bytes(arguments[:1]), chip.memory if chip else None)
    common = {
        "topology": where.name,
        "devices": len(where.devices),
        "mesh": dict(mesh.shape),
        "model_flops": model_flops,
    }

    def refused(needed: float | None, seconds: float, reason: str) -> Plan:
        return Plan(
            **common,
            memory=dataclasses.replace(memory, needed=needed),
            fits=False,
            compile_seconds=seconds,
            warnings=warnings,
            reason=reason,
        )

    if memory.limit is not None and memory.state > memory.limit:
        reason = (
            "the state alone, parameters and what the optimiser keeps, is larger than the memory"
        )
        return refused(float(memory.state), 0.0, reason)
    with captured_stderr() as said:
        try:
            with jax.set_mesh(mesh):
                compiled = traced.lower().compile()
        except jax.errors.JaxRuntimeError as e:
            if "RESOURCE_EXHAUSTED" not in str(e):
                raise
            needed, seconds = needed_bytes(str(e), memory.state), time.perf_counter() - start
            return refused(needed, seconds, first_line(str(e)))
    seconds = time.perf_counter() - start
    stats = compiled.memory_analysis()
    memory = dataclasses.replace(
        memory,
        arguments=stats.argument_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
    )
    program = read_program(compiled.as_text(), len(devices))
    found = traffic(program.collectives, devices, chip)
    repeated = program.flops * len(devices) / max(model_flops, 1)
    if repeated > 1.6:
        warnings.append(
            f"the devices together compute {repeated:.1f} times what the model asks for"
        )
    return Plan(
        **common,
        memory=memory,
        fits=None if memory.limit is None else memory.peak <= memory.limit,
        compile_seconds=seconds,
        compiled_flops=program.flops,
        analysis_flops=float((compiled.cost_analysis() or {}).get("flops", 0.0)),
        collectives=found,
        loops=list(program.loops),
        kernels=program.kernels,
        roofline=chip and roofline(program, found, chip, float(model_flops), len(devices)),
        warnings=warnings + rematerialisations(said[0]),
    )


def _mesh_of(arguments: tuple[Any, ...], topology: Topology) -> Mesh:
    """The mesh of the first leaf that lies on one."""
    for leaf in jax.tree.leaves(arguments):
        where = getattr(leaf, "sharding", None)
        if isinstance(where, NamedSharding) and isinstance(where.mesh, Mesh):
            return where.mesh
    raise PlanError(
        f"no argument has a sharding on devices of {topology.name}; give mesh=, a mesh of "
        "find_topology(...).devices"
    )


def _placed(arguments: tuple[Any, ...], mesh: Mesh) -> tuple[Any, ...]:
    """Arguments whose leaves without a sharding are whole on every device of the mesh."""

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct) or leaf.sharding is not None:
            return leaf
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, P()))

    return jax.tree.map(place, arguments)


def _trace(
    step: Any, arguments: tuple[Any, ...], mesh: Mesh, options: dict[str, Any]
) -> tuple[jax.stages.Traced, int, list[str]]:
    """The traced step, its FLOPs by formula, and warnings."""
    if isinstance(step, jax.stages.Traced):
        return step, count_flops(step.jaxpr), []

    def trace() -> jax.stages.Traced:
        if isinstance(step, jax.stages.Wrapped):
            return step.trace(*arguments)
        # a new function each time: jax would give back the trace of the one before
        return jax.jit(functools.partial(step), **options).trace(*arguments)

    platform, replaced = mesh.devices.flat[0].platform, set[str]()
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        if platform == "gpu":  # cuDNN asks the GPU whether it can
            replaced = stack.enter_context(exact_attention())
        traced = formula = trace()
    if platform in KERNELS and platform != "gpu" and not isinstance(step, jax.stages.Wrapped):
        # an attention kernel computes its scores more than once, or hides what it computes
        with jax.set_mesh(mesh), exact_attention():
            formula = trace()
    warnings = ["attention by einsum: cuDNN, its kernel, needs the GPU, and takes less memory"]
    return traced, count_flops(formula.jaxpr), warnings if replaced else []


def state_bytes(tree: Any) -> int:
    """Bytes of a tree of arrays with shardings on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def rematerialisations(log: str) -> list[str]:
    """Warnings of the partitioner in a log: it gathers an array whole to split it anew."""
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
    """Peak memory in bytes, parsed from XLA's out-of-memory message; None where it names none.

    Adds the state if the message counts temporaries only.
    """
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
    """The first line of an out-of-memory message, without its code."""
    return message.splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")


@contextlib.contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Catches what the compiler writes on standard error, which is not Python's.

    Yields:
      a list that gets the text as its one element at the end.
    """
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
