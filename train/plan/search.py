"""Other meshes, rematerialisation and micro-batches: what makes a step fit, and what makes it
fastest."""

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jaxmodels
from input_pipeline import DataSpec
from train.config import Config, ConfigError, check, reads_images, reads_text
from train.plan.compiling import Plan, make_plan
from train.plan.topology import Topology, find_topology, larger

Settings = dict[str, Any]
"""Dotted fields of a config -> values."""


def changed(config: Config, settings: Settings) -> Config:
    """A checked copy of a config with some fields set.

    Raises:
      ConfigError: a value that the config does not take.
    """
    config = copy.deepcopy(config)
    for key, value in settings.items():
        *parents, name = key.split(".")
        holder = config
        for parent in parents:
            holder = getattr(holder, parent)
        if isinstance(holder, dict):
            holder[name] = value
        else:
            setattr(holder, name, value)
    check(config)
    return config


def sizes(config: Config, devices: int) -> dict[str, int]:
    """The mesh of a config on a number of devices, without -1."""
    mesh = dataclasses.asdict(config.mesh)
    rest = devices // math.prod(size for size in mesh.values() if size != -1)
    return {axis: rest if size == -1 else size for axis, size in mesh.items()}


def micro_batches(config: Config, shards: int) -> Iterator[int]:
    """Numbers of micro-batches above the config's own, each twice the one before, until a device
    has one example."""
    count = 2 * config.accumulate
    while config.batch_size % (shards * count) == 0:
        yield count
        count *= 2


def can_rematerialise(config: Config) -> bool:
    """Whether the model could compute activations again in the backward pass and does not yet."""
    return "remat" in jaxmodels.model_fields(config.model) and not config.model_fields.get(
        "remat", False
    )


def on_mesh(config: Config, devices: int, mesh: dict[str, int]) -> Settings:
    """What sets a mesh; an evaluation batch that does not divide grows with it."""
    found: Settings = {
        f"mesh.{axis}": size for axis, size in mesh.items() if size != sizes(config, devices)[axis]
    }
    shards = mesh["data"] * mesh["fsdp"]
    if config.eval_batch_size % shards:
        found["eval_batch_size"] = -(-config.eval_batch_size // shards) * shards
    return found


def ways_out(config: Config, topology: Topology) -> list[Settings]:
    """Changes that need less memory, in order of what they cost: fewer changes come first.

    Of as many changes: parameters split over all devices of a slice, which costs their gathering;
    more micro-batches, which cost that once more each; rematerialisation, which costs a forward
    pass.
    """
    devices = len(topology.devices)
    mesh = sizes(config, devices)
    meshes = [{}, on_mesh(config, devices, split_most(mesh, topology))]
    more = [{}, *({"accumulate": n} for n in micro_batches(config, mesh["data"] * mesh["fsdp"]))]
    remat: list[Settings] = (
        [{}, {"model_fields.remat": True}] if can_rematerialise(config) else [{}]
    )
    found = [a | b | c for a, b, c in itertools.product(meshes, more, remat) if a | b | c]
    unique = [settings for i, settings in enumerate(found) if settings not in found[:i]]

    def cost(settings: Settings) -> tuple[int, bool, int]:
        again, count = "model_fields.remat" in settings, settings.get("accumulate", 0)
        return any(k.startswith("mesh.") for k in settings) + again + bool(count), again, count

    return sorted(unique, key=cost)


def split_most(mesh: dict[str, int], topology: Topology) -> dict[str, int]:
    """A mesh like this one, but with parameters split over all devices of each slice that its other
    axes leave."""
    others = math.prod(size for axis, size in mesh.items() if axis not in ("data", "fsdp"))
    return mesh | {
        "data": topology.slices,
        "fsdp": max(1, len(topology.devices) // topology.slices // others),
    }


def find_way_out(
    config: Config, card: DataSpec, topology: Topology, say: Callable[[str], None]
) -> tuple[Plan | None, list[Plan]]:
    """The first change that makes a step fit, on this topology or else on a larger one, and all
    that were tried.

    Args:
      say: told what is tried.
    """
    tried: list[Plan] = []

    def fits(settings: Settings, where: Topology) -> bool:
        plan = attempt(config, card, where, settings, say)
        tried.extend([plan] if plan else [])
        return plan is not None and plan.fits is True

    for settings in ways_out(config, topology):
        if fits(settings, topology):
            return tried[-1], tried
    for name in larger(topology.name) if topology.chip and topology.chip.closes else []:
        wider = find_topology(name)
        mesh = split_most(sizes(config, len(topology.devices)), wider)
        split = on_mesh(config, len(wider.devices), mesh)
        remat: Settings = {"model_fields.remat": True} if can_rematerialise(config) else {}
        more: list[Settings] = [
            {"accumulate": n} for n in micro_batches(config, mesh["data"] * mesh["fsdp"])
        ]
        options = [split, split | remat, *(split | remat | one for one in more)]
        for settings in [o for i, o in enumerate(options) if o not in options[:i]]:
            if fits(settings, wider):
                return tried[-1], tried
    return None, tried


def search(
    config: Config, card: DataSpec, topology: Topology, *, limit: int, say: Callable[[str], None]
) -> tuple[list[Plan], int]:
    """Plans that fit, the fastest by the roofline first, and the number of groups of candidates not
    tried.

    A group is a mesh (tensor, or for texts sequence, up to 8) with or without rematerialisation; of
    each the fewest micro-batches that fit and, where fewer did not, more for as long as they are
    faster: the compiler itself computes things again where memory is nearly full. The config as it
    stands comes first.

    Args:
      limit: compilations.
    """
    found: list[Plan] = []
    tried: list[tuple[Settings, Plan | None]] = []
    compiled = left = 0
    for group in [[{}], *_groups(config, topology)]:
        best = None
        for settings in group:
            if known := [plan for other, plan in tried if other == settings]:
                plan = known[0]
            elif compiled < limit:
                plan = attempt(config, card, topology, settings, say)
                tried.append((settings, plan))
                compiled += plan is not None and plan.compile_seconds > 0
                if plan is not None and plan.fits is not False:
                    found.append(plan)
            else:
                left += 1
                break
            if plan is None:
                break
            if plan.fits is not False:
                if settings is group[0] or (best is not None and time_of(plan) >= best):
                    break
                best = time_of(plan)
            elif plan.compile_seconds == 0:
                # the state alone is too large: micro-batches do not help
                break
    return sorted(found, key=time_of), left


def _groups(config: Config, topology: Topology) -> Iterator[list[Settings]]:
    devices, remats = len(topology.devices), [{}]
    if "remat" in jaxmodels.model_fields(config.model):
        remats = [{"model_fields.remat": again} for again in (False, True)]
    for mesh, remat in itertools.product(_meshes(config, devices, topology.slices), remats):
        shards = mesh["data"] * mesh["fsdp"]
        counts = [
            n for n in _powers(config.batch_size // shards) if config.batch_size % (n * shards) == 0
        ]
        group = [on_mesh(config, devices, mesh) | remat | {"accumulate": n} for n in counts]
        yield [{k: v for k, v in settings.items() if v != _value(config, k)} for settings in group]


def _meshes(config: Config, devices: int, slices: int) -> list[dict[str, int]]:
    """Of all devices, those that split least over ``tensor`` or ``sequence`` and most over ``fsdp``
    first.

    Of the two, one is split at a time. Tokens of images stay as they are: with a class token they
    rarely divide.
    """
    parts = [sizes(config, devices)["sequence"]]
    if (
        "attention" in jaxmodels.model_fields(config.model)
        and reads_text(config)
        and not reads_images(config)
    ):
        parts = [n for n in _powers(8) if config.data.max_len % n == 0]
    inside = devices // slices
    found = [
        {
            "data": slices * data,
            "fsdp": inside // (data * tensor * part),
            "sequence": part,
            "tensor": tensor,
        }
        for tensor, part in itertools.product(_powers(8), parts)
        if tensor == 1 or part == parts[0]
        for data in range(1, inside + 1)
        if inside % (data * tensor * part) == 0
    ]
    return sorted(found, key=lambda m: (m["tensor"] * m["sequence"], -m["fsdp"]))


def _powers(most: int) -> list[int]:
    return [2**i for i in range(max(most, 1).bit_length())]


def _value(config: Config, key: str) -> Any:
    holder: Any = config
    for name in key.split("."):
        holder = holder.get(name, False) if isinstance(holder, dict) else getattr(holder, name)
    return holder


def time_of(plan: Plan) -> float:
    """By which plans are ranked: seconds of a step, or, where no chip is known, bytes held and
    sent."""
    if plan.roofline is not None:
        return plan.roofline.seconds
    return (plan.memory.peak or 0) + sum(t.bytes for t in plan.collectives)


def attempt(
    config: Config,
    card: DataSpec,
    topology: Topology,
    settings: Settings,
    say: Callable[[str], None],
) -> Plan | None:
    """The plan of a config with some fields set; None where the batch or the model does not divide
    so."""
    words = (
        f"{' '.join(f'{k}={v}' for k, v in settings.items()) or 'the config as it stands'} on "
        f"{topology.name}"
    )
    try:
        plan = make_plan(changed(config, settings), card, topology, settings)
    except ConfigError as e:
        say(f"{words}: not possible: {e}")
        return None
    state = {True: "fits", False: "does not fit", None: "compiled"}[plan.fits]
    say(f"{words}: {state}" + (f", at least {time_of(plan) * 1e3:.1f} ms" if plan.roofline else ""))
    return plan
