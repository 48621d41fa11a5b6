"""Finds absent devices by a name: ``v5e:4x4``, ``2*v5p:2x2x1``, ``h100:8``, ``cpu:8``."""

import difflib
import importlib.util
import math
import os
import re
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from jaxmodels.plan.chips import CHIPS, Chip
from jaxmodels.plan.errors import PlanError

INSTALL = (
    "planning for TPUs needs libtpu, the compiler of TPUs, which no TPU is needed for: pip install "
    "'jaxmodels[plan]' (Linux, x86_64); without it --topology=cpu:8 compiles for that number of "
    "CPU devices"
)

ENVIRONMENT = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # some name must be there; topologies say theirs
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_SKIP_MDS_QUERY": "1",  # no question to the metadata server of a cloud
    "TPU_LOG_DIR": "disabled",
    "TPU_STDERR_LOG_LEVEL": "1",  # warnings, among them the partitioner's
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # beside other processes that plan
}


@dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
      name: the name that was asked for.
      devices: devices of all slices. Only CPUs can run anything.
      chip: rates and memory of one device; None for CPUs.
      slices: number of slices of TPUs, or of hosts of GPUs. A data centre's network joins them.
    """

    name: str
    devices: list[Any]
    chip: Chip | None
    slices: int = 1


def find_topology(name: str) -> Topology:
    """Finds the devices of a topology, ``[SLICES*]CHIP:SHAPE``; jax must not have met any device
    yet.

    Raises:
      PlanError: no such chip or shape, or what compiles for it is not installed.
    """
    found = re.fullmatch(r"(?:(\d+)\*)?(\w+):(\d+(?:x\d+)*)", name)
    if not found:
        raise PlanError(f"--topology={name} is not CHIP:SHAPE such as v5e:4x4, 2*v5e:4x4 or cpu:8")
    slices, chip, shape = int(found[1] or 1), found[2], tuple(map(int, found[3].split("x")))
    if chip == "cpu":
        if slices > 1 or len(shape) > 1:
            raise PlanError(f"--topology={name}: CPUs have a number, as in cpu:8")
        return Topology(name, _cpus(shape[0]), None)
    if chip not in CHIPS:
        near = difflib.get_close_matches(chip, [*CHIPS, "cpu"], n=1)
        raise PlanError(
            f"--topology={name}: no chip {chip!r}, there are {', '.join(CHIPS)}, cpu"
            + (f"; nearest: {near[0]}" if near else "")
        )
    make = _gpus if chip in ("h100", "h200") else _tpus
    return Topology(name, make(name, slices, chip, shape), CHIPS[chip], slices)


def larger(name: str) -> list[str]:
    """Names the next greater topologies of the same TPU, ascending, up to 256 chips.

    Each doubles the shortest axis.
    """
    head, _, text = name.rpartition(":")
    shape, found = [int(n) for n in text.split("x")], []
    while len(shape) > 1 and 2 * math.prod(shape) <= 256:
        if shape == [1, 1]:
            shape = [2, 2]
        else:
            shape[shape.index(min(shape))] *= 2
            shape = shape if 1 in shape else sorted(shape)
        found.append(f"{head}:{'x'.join(map(str, shape))}")
    return found


def _cpus(count: int) -> list[jax.Device]:
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise PlanError(
            f"--topology=cpu:{count}: XLA_FLAGS allows {len(devices)} CPU devices; unset it"
        )
    return devices[:count]


def _tpus(name: str, slices: int, chip: str, shape: tuple[int, ...]) -> list[jax.Device]:
    if importlib.util.find_spec("libtpu") is None:
        raise PlanError(f"--topology={name}: {INSTALL}")
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    options: dict[str, Any] = {
        "chips_per_host_bounds": (1, 1, 1) if math.prod(shape) == 1 else (2, 2, 1)
    }
    if chip == "v4":
        options["chip_config_name"] = "megacore"  # the two cores of a chip as one device
    if slices > 1:
        options["num_slices"] = slices
    try:
        return topologies.get_topology_desc(
            platform="tpu", topology_name=f"{chip}:{'x'.join(map(str, shape))}", **options
        ).devices
    except Exception as e:  # the plugin raises nothing narrower
        dimensions = "AxBxC" if chip in ("v4", "v5p", "tpu7x") else "AxB"
        raise PlanError(
            f"--topology={name}: {str(e).splitlines()[0]}; shapes of {chip} are {dimensions}, one "
            "chip or even numbers"
        ) from e


GPU_TARGET = """\
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: %(bandwidth)d l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: %(memory)d
  shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 minor: 0 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "%(kind)s"
"""
"""XLA's description of a Hopper GPU."""


def _gpus(name: str, slices: int, chip: str, shape: tuple[int, ...]) -> list[jax.Device]:
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        raise PlanError(
            f"--topology={name}: planning for GPUs needs their compiler, which no GPU is needed "
            "for: pip install --no-deps jax-cuda13-pjrt jax-cuda13-plugin, of the version of jaxlib"
        )
    if len(shape) > 1 or shape[0] > 8:
        raise PlanError(
            f"--topology={name}: a host has up to 8 GPUs; several hosts are written 4*{chip}:8"
        )
    hopper = CHIPS[chip]
    target = GPU_TARGET % {
        "bandwidth": hopper.bandwidth,
        "memory": hopper.memory,
        "kind": hopper.kind,
    }
    try:
        return topologies.get_topology_desc(
            platform="cuda",
            topology_name=chip,
            target_config=target,
            topology=f"1x{slices}x{shape[0]}",
        ).devices
    except Exception as e:  # the plugin raises nothing narrower
        raise PlanError(f"--topology={name}: {str(e).splitlines()[0]}") from e
