"""Searches candidates for a plan that fits, and for the fastest one.

A candidate is a dict of settings, whose meaning only the caller knows. The caller's function
``attempt`` makes its plan, or gives None where the candidate is impossible.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jaxmodels.plan.compiling import Plan
from jaxmodels.plan.topologies import Topology

Settings = dict[str, Any]
"""Names of what a candidate changes -> values."""


def time_of(plan: Plan) -> float:
    """The number that ranks plans: seconds of a step, or bytes held and sent where no chip is
    known."""
    if plan.roofline is not None:
        return plan.roofline.seconds
    return (plan.memory.peak or 0) + sum(t.bytes for t in plan.collectives)


def first_that_fits(
    candidates: Iterable[tuple[Settings, Topology]],
    attempt: Callable[[Settings, Topology], Plan | None],
) -> tuple[Plan | None, list[Plan]]:
    """Tries candidates in order until one fits.

    Returns:
      The first plan that fits or None, and all plans that were made.
    """
    tried: list[Plan] = []
    for settings, where in candidates:
        plan = attempt(settings, where)
        if plan is not None:
            tried.append(plan)
            if plan.fits is True:
                return plan, tried
    return None, tried


def fastest(
    groups: Iterable[list[Settings]], attempt: Callable[[Settings], Plan | None], *, limit: int
) -> tuple[list[Plan], int]:
    """Ranks the plans that fit, the fastest by the roofline first.

    A group is one candidate with ever more micro-batches. Each is tried with the fewest that fit.
    Where fewer did not fit, more are tried for as long as they are faster: the compiler itself
    computes things again where memory is nearly full.

    Args:
      limit: greatest number of compilations.

    Returns:
      The plans, and the number of groups that the limit cut off.
    """
    found: list[Plan] = []
    tried: list[tuple[Settings, Plan | None]] = []
    compiled = left = 0
    for group in groups:
        best = None
        for settings in group:
            if known := [plan for other, plan in tried if other == settings]:
                plan = known[0]
            elif compiled < limit:
                plan = attempt(settings)
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


def meshes(topology: Topology, sequences: Iterable[int]) -> list[dict[str, int]]:
    """Lists the meshes of all devices of a topology: those that split least over ``tensor`` or
    ``sequence`` and most over ``fsdp`` come first.

    Only one of ``tensor``, up to 8, and ``sequence`` is split at a time.

    Args:
      sequences: sizes that ``sequence`` may have, the smallest first.
    """
    sizes, inside = list(sequences), len(topology.devices) // topology.slices
    found = [
        {
            "data": topology.slices * data,
            "fsdp": inside // (data * tensor * sequence),
            "sequence": sequence,
            "tensor": tensor,
        }
        for tensor, sequence in itertools.product(powers(8), sizes)
        if tensor == 1 or sequence == sizes[0]
        for data in range(1, inside + 1)
        if inside % (data * tensor * sequence) == 0
    ]
    return sorted(found, key=lambda m: (m["tensor"] * m["sequence"], -m["fsdp"]))


def split_most(mesh: dict[str, int], topology: Topology) -> dict[str, int]:
    """Changes a mesh so that parameters are split over all devices of each slice that its axes
    other than ``data`` and ``fsdp`` leave."""
    others = math.prod(size for axis, size in mesh.items() if axis not in ("data", "fsdp"))
    return mesh | {
        "data": topology.slices,
        "fsdp": max(1, len(topology.devices) // topology.slices // others),
    }


def micro_batches(batch_size: int, shards: int, *, above: int) -> Iterator[int]:
    """Numbers of micro-batches, each twice the one before, until a device has one example.

    Args:
      shards: parts that a batch is split into.
      above: the number to begin with is twice this one.
    """
    count = 2 * above
    while batch_size % (shards * count) == 0:
        yield count
        count *= 2


def powers(most: int) -> list[int]:
    """Powers of two from 1 to ``most``."""
    return [2**i for i in range(max(most, 1).bit_length())]
