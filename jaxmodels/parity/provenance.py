"""Provenance of a certificate: versions, commit, date, machine."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import jaxmodels

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "torchvision", "transformers")
ROOT = Path(__file__).parents[2]


def provenance() -> dict[str, Any]:
    """Returns ``versions``, ``commit``, ``date`` in UTC and ``machine``, as JSON values.

    ``commit`` is None unless the package is in a checkout of its own.
    """
    devices = jax.devices()
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
            "jaxmodels": jaxmodels.__version__,
        },
        "commit": commit(ROOT),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "platform": platform.platform(),
            "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        },
    }


def in_words(made: Mapping[str, Any]) -> str:
    """:func:`provenance` in one line."""
    machine = made["machine"]
    versions = ", ".join(
        f"{name} {version}" for name, version in made["versions"].items() if version
    )
    where = f"commit {made['commit']}" if made["commit"] else "no commit"
    return (
        f"{made['date']}, {where}; {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['devices']}; {versions}"
    )


def commit(root: Path) -> str | None:
    """The commit of a checkout, with "+ changes" where its files differ from it.

    Returns None without git, without a commit, and for a folder inside another checkout.
    """

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(root), *arguments]
        try:
            found = subprocess.run(command, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return found.stdout.strip() if found.returncode == 0 else None

    top, head = git("rev-parse", "--show-toplevel"), git("rev-parse", "HEAD")
    if not top or not head or Path(top).resolve() != root.resolve():
        return None
    return f"{head} + changes" if git("status", "--porcelain", "--untracked-files=no") else head


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    """The processor's name where Linux tells it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
