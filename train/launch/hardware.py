"""Settings of this process that its hardware needs, made before jax looks for devices."""

import contextlib
import ctypes
import glob
import hashlib
import os
import platform
from importlib.metadata import version
from pathlib import Path

import jax

# by which jax knows of a TPU
from jax._src.hardware_utils import num_available_tpu_chips_and_device_id


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
