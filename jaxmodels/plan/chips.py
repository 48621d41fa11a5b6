"""Rates and memory of known chips, from their data sheets."""

from dataclasses import dataclass

PEAK_FLOPS: dict[str, float] = {
    # dense bfloat16, or float16 on chips without it (V100, T4), whatever the run computes in
    # per JAX device: up to v3 and for v7x that is half a chip. Source: the vendors' data sheets,
    # dense
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1153.5e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L4": 121e12,
    "Tesla T4": 65e12,
    "Tesla V100-SXM2-16GB": 125e12,
}


@dataclass(frozen=True)
class Chip:
    """Rates and memory of one JAX device, which up to TPU v3 and for TPU7x is half a chip.

    Attributes:
      kind: name in :data:`PEAK_FLOPS`.
      memory: bytes that a program may use.
      bandwidth: bytes per second that the memory reads or writes.
      link: bytes per second that leave through one link of the fast network, in one direction.
      closes: an axis of a slice whose length is a multiple of this is a ring: two links lead along
        it, not one.
      dcn: bytes per second that leave for other slices, through the network of the data centre.
    """

    kind: str
    memory: float
    bandwidth: float
    link: float
    closes: int
    dcn: float


GIB = 2**30

CHIPS: dict[str, Chip] = {
    # memory of TPUs: what the compiler of libtpu 0.0.42.1 says is available, somewhat less than is
    # built in. Bandwidths: cloud.google.com/tpu/docs (v4, v5e, v5p, v6e, tpu7x); links, rings, the
    # others and 25 GB/s of DCN for each host of v3 and v4: "How to Scale Your Model"
    # (jax-ml.github.io/scaling-book), chapter 2. DCN of v5e and v6e: that of a pod over its 256
    # chips
    "v3": Chip("TPU v3", 15.48 * GIB, 450e9, 50e9, 32, 3.1e9),
    "v4": Chip("TPU v4", 30.75 * GIB, 1200e9, 45e9, 4, 6.25e9),
    "v5e": Chip("TPU v5e", 15.75 * GIB, 819e9, 50e9, 16, 3.125e9),
    "v5p": Chip("TPU v5p", 95.74 * GIB, 2765e9, 100e9, 4, 6.25e9),
    "v6e": Chip("TPU v6e", 31.25 * GIB, 1600e9, 100e9, 16, 12.5e9),
    "tpu7x": Chip("TPU7x", 94.75 * GIB, 3690e9, 50e9, 4, 6.25e9),
    # NVIDIA's data sheets: NVLink in one direction, one 400 Gbit/s adapter for each GPU; of the
    # memory the three quarters that jax takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise
    "h100": Chip("NVIDIA H100 80GB HBM3", 60e9, 3350e9, 450e9, 0, 50e9),
    "h200": Chip("NVIDIA H200", 105.75e9, 4800e9, 450e9, 0, 50e9),
}


def mfu(flops: float, seconds: float, device_kind: str, devices: int) -> float | None:
    """Fraction of the devices' 16-bit peak that ``flops`` in ``seconds`` reach; None for an unknown
    chip."""
    peak = PEAK_FLOPS.get(device_kind)
    return flops / seconds / (peak * devices) if peak and flops and seconds else None
