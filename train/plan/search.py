"""Changes of a config that make its step fit, and those that make it fastest."""

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jaxmodels
from input_pipeline import DataSpec
from jaxmodels.plan import Plan, Topology
from jaxmodels.plan.search import (
    Settings,
    fastest,
    first_that_fits,
    meshes,
    micro_batches,
    powers,
    split_most,
    time_of,
)
from jaxmodels.plan.topologies import larger
from train.config import Config, ConfigError, check
from train.plan.compiling import make_plan
from train.plan.topology import find_topology
from train.tasks.checks import reads_images, reads_text


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


def can_rematerialise(config: Config) -> bool:
    """True if the model could compute activations again in the backward pass and does not yet."""
    return "remat" in jaxmodels.model_fields(config.model) and not config.model_fields.get(
        "remat", False
    )


def on_mesh(config: Config, devices: int, mesh: dict[str, int]) -> Settings:
    """The fields that set a mesh. An evaluation batch that does not divide grows with it."""
    found: Settings = {
        f"mesh.{axis}": size for axis, size in mesh.items() if size != sizes(config, devices)[axis]
    }
    shards = mesh["data"] * mesh["fsdp"]
    if config.eval_batch_size % shards:
        found["eval_batch_size"] = -(-config.eval_batch_size // shards) * shards
    return found


def more_micro_batches(config: Config, mesh: dict[str, int]) -> list[Settings]:
    """The settings of more micro-batches than the config has."""
    shards = mesh["data"] * mesh["fsdp"]
    counts = micro_batches(config.batch_size, shards, above=config.accumulate)
    return [{"accumulate": count} for count in counts]


def ways_out(config: Config, topology: Topology) -> list[Settings]:
    """Changes that need less memory, in order of what they cost: fewer changes come first.

    Among as many changes, parameters split over all devices of a slice come first, which costs
    their gathering. Then come more micro-batches, which gather once more each. Rematerialisation,
    which costs a forward pass, comes last.
    """
    devices = len(topology.devices)
    mesh = sizes(config, devices)
    split = [{}, on_mesh(config, devices, split_most(mesh, topology))]
    more = [{}, *more_micro_batches(config, mesh)]
    remat: list[Settings] = (
        [{}, {"model_fields.remat": True}] if can_rematerialise(config) else [{}]
    )
    found = [a | b | c for a, b, c in itertools.product(split, more, remat) if a | b | c]

    def cost(settings: Settings) -> tuple[int, bool, int]:
        again, count = "model_fields.remat" in settings, settings.get("accumulate", 0)
        return any(k.startswith("mesh.") for k in settings) + again + bool(count), again, count

    return sorted(_unique(found), key=cost)


def find_way_out(
    config: Config, card: DataSpec, topology: Topology, say: Callable[[str], None]
) -> tuple[Plan | None, list[Plan]]:
    """The first change that makes a step fit, on this topology or else on a larger one, and all
    that were tried.

    Args:
      say: told what is tried.
    """
    return first_that_fits(
        _candidates(config, topology),
        lambda settings, where: attempt(config, card, where, settings, say),
    )


def _candidates(config: Config, topology: Topology) -> Iterator[tuple[Settings, Topology]]:
    for settings in ways_out(config, topology):
        yield settings, topology
    for name in larger(topology.name) if topology.chip and topology.chip.closes else []:
        wider = find_topology(name)
        mesh = split_most(sizes(config, len(topology.devices)), wider)
        split = on_mesh(config, len(wider.devices), mesh)
        remat: Settings = {"model_fields.remat": True} if can_rematerialise(config) else {}
        more = more_micro_batches(config, mesh)
        for settings in _unique([split, split | remat, *(split | remat | one for one in more)]):
            yield settings, wider


def _unique(candidates: list[Settings]) -> list[Settings]:
    return [one for i, one in enumerate(candidates) if one not in candidates[:i]]


def search(
    config: Config, card: DataSpec, topology: Topology, *, limit: int, say: Callable[[str], None]
) -> tuple[list[Plan], int]:
    """Plans that fit, the fastest by the roofline first, and the number of groups of candidates not
    tried.

    A group is a mesh (tensor, or for texts sequence, up to 8) with or without rematerialisation
    (see :func:`jaxmodels.plan.search.fastest`). The config as it stands comes first.

    Args:
      limit: greatest number of compilations.
    """
    return fastest(
        itertools.chain([[{}]], _groups(config, topology)),
        lambda settings: attempt(config, card, topology, settings, say),
        limit=limit,
    )


def _groups(config: Config, topology: Topology) -> Iterator[list[Settings]]:
    devices, remats = len(topology.devices), [{}]
    if "remat" in jaxmodels.model_fields(config.model):
        remats = [{"model_fields.remat": again} for again in (False, True)]
    for mesh, remat in itertools.product(meshes(topology, _sequences(config, devices)), remats):
        shards = mesh["data"] * mesh["fsdp"]
        counts = [
            n for n in powers(config.batch_size // shards) if config.batch_size % (n * shards) == 0
        ]
        group = [on_mesh(config, devices, mesh) | remat | {"accumulate": n} for n in counts]
        yield [{k: v for k, v in settings.items() if v != _value(config, k)} for settings in group]


def _sequences(config: Config, devices: int) -> list[int]:
    """Sizes of the axis ``sequence`` to try.

    Tokens of images stay as they are: with a class token they rarely divide.
    """
    if (
        "attention" in jaxmodels.model_fields(config.model)
        and reads_text(config)
        and not reads_images(config)
    ):
        return [n for n in powers(8) if config.data.max_len % n == 0]
    return [sizes(config, devices)["sequence"]]


def _value(config: Config, key: str) -> Any:
    holder: Any = config
    for name in key.split("."):
        holder = holder.get(name, False) if isinstance(holder, dict) else getattr(holder, name)
    return holder


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
