"""Refuses a run that cannot be in memory at all, before anything large is made.

Only absurd sizes are refused: a run that just fits may still end for want of memory.
"""

import contextlib
import math
import os
from pathlib import Path
from typing import Any

import jax

from train import batches
from train.options.fields import ConfigError, shown

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux says how much of the machine's memory this container may have, in its versions 2 and
1 of that."""


def host_bytes() -> int | None:
    """Bytes of memory of this machine, or of this container's share of it; None if nobody says."""
    found = []
    with contextlib.suppress(OSError, ValueError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for path in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            found.append(int(Path(path).read_text()))
    return min((size for size in found if size > 0), default=None)


def device_bytes(device: jax.Device, sharers: int) -> int | None:
    """Bytes of memory of a device, None if nobody says; devices that are parts of the processor
    share the machine's."""
    if device.platform == "cpu":
        host = host_bytes()
        return None if host is None else host // sharers
    stats = device.memory_stats() or {}
    return stats.get("bytes_limit")


def require(run: Any) -> None:
    """Checks what can be known before anything is compiled.

    Raises:
      ConfigError: the parameters, with what the optimiser keeps, are larger than a device's memory,
        or this process's share of the largest batches than the machine's.
    """
    config, local = (
        run.config,
        [d for d in run.mesh.devices.flat if d.process_index == jax.process_index()],
    )
    state = sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(run.shapes)
    )
    model = f"config.model = {config.model!r} with {shown(config.model_fields)}"
    _require(state, device_bytes(local[0], len(local)), f"the state of {model}", "each device")
    for name, size, together in (
        ("batch_size", config.batch_size, config.steps_per_execution),
        ("eval_batch_size", config.eval_batch_size, 1),
    ):
        largest = max(
            sum(math.prod(x.shape) * x.dtype.itemsize for x in batch.values())
            for batch in batches.batch_shapes(run, size)
        )
        share = largest * together // jax.process_count()
        _require(share, host_bytes(), f"what config.{name} = {size} loads at once", "this machine")


def fitting(compiled: Any, what: str) -> Any:
    """A compiled program, if it fits.

    Raises:
      ConfigError: by the compiler's own account it needs more than a device's memory.
    """
    stats, devices = compiled.memory_analysis(), jax.local_devices()
    if stats is not None:
        size = stats.temp_size_in_bytes + stats.argument_size_in_bytes
        _require(size, device_bytes(devices[0], len(devices)), what, "each device")
    return compiled


def _require(size: int, limit: int | None, what: str, where: str) -> None:
    if limit is not None and size > limit:
        raise ConfigError(
            f"{what} takes {size / 2**30:,.1f} GiB, and the memory of {where} is "
            f"{limit / 2**30:,.1f} GiB; take a smaller batch, a smaller model or more devices, and "
            "a new --workdir"
        )
