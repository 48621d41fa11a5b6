"""What the hardware can do and needs: peak rates of known chips, memory of the host."""

import contextlib
import ctypes
import glob
import hashlib
import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import jax

# by which jax knows of a TPU
from jax._src.hardware_utils import num_available_tpu_chips_and_device_id

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
    """What a plan has to know of one JAX device, which up to TPU v3 and for TPU7x is half a chip.

    Attributes:
      kind: name in :data:`PEAK_FLOPS`.
      memory: bytes that a program may use.
      bandwidth: of that memory, bytes per second.
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


def quiet_without_tpu() -> None:
    """Tells libtpu where it would be, if there is no TPU: else it prints what it misses, as soon as
    jax looks for one.

    Nothing is set where there is a TPU, or where the environment says something of one. To be
    called before jax looks for devices.
    """
    nodes = [*glob.glob("/dev/accel[0-9]*"), *glob.glob("/dev/vfio/[0-9]*")]
    said = {
        "TPU_ACCELERATOR_TYPE",
        "TPU_WORKER_HOSTNAMES",
        "TPU_WORKER_ID",
        "TPU_NAME",
        "JAX_FORCE_TPU_INIT",
    }
    if (
        not nodes
        and not said & os.environ.keys()
        and not num_available_tpu_chips_and_device_id()[0]
    ):
        os.environ |= {"TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost"}


def keep_freed_memory() -> None:
    """Lets this process keep the memory that it frees, in huge pages; does nothing where malloc is
    not that of glibc.

    XLA on a CPU allocates the buffers of a step anew, glibc maps and unmaps large ones each time,
    and the kernel then clears every page again: a quarter of a step. Threads share one heap,
    because one of their own is unmapped whenever it is empty. To be called before there are
    threads.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)
    libc.mallopt(_M_ARENA_MAX, 1)
    with contextlib.suppress(OSError, ValueError):
        # there, to reserve is to take
        if Path("/proc/sys/vm/overcommit_memory").read_text().strip() != "2":
            _let_heap_have_huge_pages(
                libc, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
            )


def _let_heap_have_huge_pages(libc: ctypes.CDLL, size: int) -> None:
    """Of the heap's next ``size`` bytes, none of which is taken: glibc itself asks for them by
    GLIBC_TUNABLES alone."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    start = libc.malloc(size)
    if start:
        page = os.sysconf("SC_PAGE_SIZE")
        first = -(-start // page) * page
        libc.madvise(first, size - (first - start), _MADV_HUGEPAGE)
        libc.free(start)


_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of malloc.h
_MADV_HUGEPAGE = 14  # of sys/mman.h


def choose_libraries(*, onednn: bool) -> bool:
    """Lets a CPU compute convolutions on all cores; to be called before jax compiles anything.

    jaxlib 0.10 computes them by YNNPACK on one core. Without it they are Eigen's: on two cores 1.8
    times faster, their kernel's gradient 2.6 times. Other versions may not know the flags, and XLA
    ends a process for an unknown flag.

    Args:
      onednn: on x86 jaxlib 0.12 takes oneDNN, PyTorch's own, for convolutions, 1.2 to 1.4 times
        faster once more, and for products of transposed matrices. jaxlib cannot keep what is
        compiled with it for the next time: it is for what runs longer than it compiles. Where
        ``XLA_FLAGS`` has one of the two flags that it takes, nothing is set.

    Returns:
      Whether XLA takes oneDNN for convolutions now, by these flags or by the user's.
    """
    flags, jaxlib = os.environ.get("XLA_FLAGS", ""), version("jaxlib")
    own, not_ynns = "", f"--{_YNN}=-individual_convolution"
    if jaxlib.startswith("0.10."):
        own = not_ynns
    elif (
        jaxlib.startswith("0.12.")
        and onednn
        and platform.machine() == "x86_64"
        and _ONEDNN not in flags
    ):
        own = f"{not_ynns} --{_ONEDNN}=true"  # YNNPACK would take them first
    if own and _YNN not in flags:
        os.environ["XLA_FLAGS"] = flags = f"{flags} {own}".strip()
    return f"{_ONEDNN}=true" in flags


def keep_compiled_programs() -> None:
    """Lets jax keep what took it over a second to compile in ``~/.cache/jaxmodels`` and read it the
    next time.

    Unless ``JAX_COMPILATION_CACHE_DIR`` names another directory;
    ``JAX_ENABLE_COMPILATION_CACHE=false`` keeps nothing. Programs for a CPU hold its machine code,
    for so many cores: each kind of machine has a directory of its own.
    """
    if not jax.config.jax_compilation_cache_dir:
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: nobody knows where home is
            home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxmodels"
            (home / _cpu()).mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(home / _cpu()))


def _cpu() -> str:
    """Name of what this machine's CPU can do for this process."""
    affinity = getattr(os, "sched_getaffinity", None)
    able = [platform.machine(), str(len(affinity(0)) if affinity else os.cpu_count())]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        able += sorted(
            {line for line in lines if line.startswith(("model name", "flags", "Features"))}
        )
    return hashlib.sha256("\n".join(able).encode()).hexdigest()[:12]


_YNN, _ONEDNN = "xla_cpu_experimental_ynn_fusion_type", "xla_cpu_experimental_onednn_custom_call"
