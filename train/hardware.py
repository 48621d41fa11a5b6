"""What the hardware can do and needs: peak rates of known chips, memory of the host."""

import ctypes

PEAK_FLOPS: dict[str, float] = {
    # dense bfloat16, or float16 on chips without it (V100, T4), whatever the run computes in
    # per JAX device: up to v3 and for v7x that is half a chip. Source: the vendors' data sheets, dense
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


def mfu(flops: float, seconds: float, device_kind: str, devices: int) -> float | None:
    """Fraction of the devices' 16-bit peak that ``flops`` in ``seconds`` reach; None for an unknown chip."""
    peak = PEAK_FLOPS.get(device_kind)
    return flops / seconds / (peak * devices) if peak and flops and seconds else None


def keep_freed_memory() -> None:
    """Lets this process keep the memory that it frees; does nothing where malloc is not that of glibc.

    XLA on a CPU allocates the buffers of a step anew, glibc maps and unmaps large ones each time, and the kernel then
    clears every page again: a third of the step of a small Transformer.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h
