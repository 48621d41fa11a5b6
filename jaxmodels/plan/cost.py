"""Estimates the least time of a step by the roofline, and the bytes that its collectives send.

All times are estimates from below: each resource is as fast as its data sheet says, and all of them
work at the same time. Latency, the shape of matrices and waiting are not modelled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxmodels.plan.chips import PEAK_FLOPS, Chip
from jaxmodels.plan.hlo import Collective, Program


@dataclass(frozen=True)
class Traffic:
    """Collectives of one kind over one network, which one device takes part in during one step.

    Attributes:
      network: "ICI" within a slice of TPUs or a host of GPUs (there NVLink), "DCN" between them.
      count: number of operations.
      bytes: bytes that the device sends.
      seconds: least time that sending takes.
    """

    kind: str
    network: str
    count: int
    bytes: float
    seconds: float


@dataclass(frozen=True)
class Roofline:
    """Least seconds that each resource needs for one step, and the share of the peak that the
    slowest leaves."""

    compute: float
    memory: float
    ici: float
    dcn: float
    mfu: float  # of the model's operations, at the time of the slowest

    @property
    def seconds(self) -> float:
        """Least seconds of a step, if everything overlaps."""
        return max(self.compute, self.memory, self.ici, self.dcn)

    @property
    def bound(self) -> str:
        """The slowest resource."""
        return max(("compute", "memory", "ici", "dcn"), key=lambda name: getattr(self, name))


def sent(kind: str, size: int) -> float:
    """The share of the whole array's bytes that a device sends in a ring of ``size`` devices (see
    :class:`Collective`)."""
    share = (size - 1) / size
    return {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share)


def traffic(
    collectives: Sequence[Collective], devices: Sequence[Any], chip: Chip | None
) -> list[Traffic]:
    """Sums collectives by kind and network.

    A group that spans slices, or hosts of GPUs, works in steps: each slice for itself, and then
    device by device across. In an all-reduce of P bytes on i devices in each of s slices, a device
    sends 2 P (i - 1) / i within its slice and 2 (P / i) (s - 1) / s across. The TPU's compiler
    writes these steps itself. A ring uses the links along all axes of the slice that its group
    spans: two for each axis that closes, else one.

    Args:
      devices: devices in the order of the mesh, by which collectives number them.
      chip: rates of one device; None leaves the seconds at 0.
    """
    found: dict[tuple[str, str], list[float]] = {}

    def add(one: Collective, network: str, amount: float, rate: float) -> None:
        total = found.setdefault((one.kind, network), [0, 0, 0])
        seconds = one.times * amount / rate if rate else 0.0
        for i, value in enumerate((one.times, one.times * amount, seconds)):
            total[i] += value

    whole = len({slice_of(device, chip) for device in devices})
    for one in collectives:
        if one.across:
            size = one.bytes * (whole if one.kind == "all-gather" else 1)
            add(one, "DCN", sent(one.kind, whole) * size, chip.dcn if chip else 0.0)
            continue
        slices = max(len({slice_of(devices[i], chip) for i in group}) for group in one.groups)
        group = max(one.groups, key=len)
        first = slice_of(devices[group[0]], chip)
        inner = [devices[i] for i in group if slices == 1 or slice_of(devices[i], chip) == first]
        dcn, link = (chip.dcn, chip.link * links(inner, chip)) if chip else (0.0, 0.0)
        if one.kind == "collective-permute":
            add(one, "ICI" if slices == 1 else "DCN", one.bytes, link if slices == 1 else dcn)
            continue
        if len(inner) > 1:
            add(one, "ICI", sent(one.kind, len(inner)) * one.bytes, link)
        if slices > 1:
            part = 1 if one.kind == "all-to-all" else len(inner)
            add(one, "DCN", sent(one.kind, slices) * one.bytes / part, dcn)
    return [
        Traffic(*key, int(count), size, seconds)
        for key, (count, size, seconds) in sorted(found.items())
    ]


def slice_of(device: Any, chip: Chip | None) -> int:
    """Number of the slice, or of the host of GPUs, that a device belongs to."""
    return getattr(device, "slice_index", device.process_index if chip and not chip.closes else 0)


def links(group: Sequence[Any], chip: Chip) -> int:
    """Number of links by which a device sends to the others of its group, all in one slice."""
    places = [getattr(device, "coords", None) for device in group]
    if not chip.closes or None in places:
        return 1
    spans = [len(set(axis)) for axis in zip(*places, strict=True)]
    return max(1, sum(2 if span % chip.closes == 0 else 1 for span in spans if span > 1))


def roofline(
    program: Program, traffics: Sequence[Traffic], chip: Chip, model_flops: float, devices: int
) -> Roofline:
    """Divides the work of a program by the rates of a chip.

    The program's text does not show operations of kernels, but the model's FLOPs hold them. The
    greater of the two numbers counts.

    Args:
      model_flops: FLOPs of one step, over all devices.
      devices: number of devices.
    """
    peak = PEAK_FLOPS[chip.kind]
    flops = max(program.flops, model_flops / devices)
    ici, dcn = (
        sum((t.seconds for t in traffics if t.network == network), 0.0)
        for network in ("ICI", "DCN")
    )
    times = (flops / peak, program.memory_bytes / chip.bandwidth, ici, dcn)
    return Roofline(*times, mfu=model_flops / (devices * peak * max(times)) if max(times) else 0.0)
