"""How far eight devices are from one, every family on every mesh:
``python -m tests.meshes [FAMILY ...]``; ten minutes.

Prints a table, that of docs/meshes.md. Exit code 1 if a distance in float64 is not below 1e-10.
"""

import os

from tests.flags import FAST_COMPILATION

os.environ["JAX_PLATFORMS"] = "cpu"  # before jax starts
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {FAST_COMPILATION}"

import sys
from typing import Any

import jax
import numpy as np
import pytest

from tests.test_sharding import (
    FAMILIES,
    MESHES,
    SEQUENCE,
    TRANSFORMERS,
    few_blocks,
    gradients,
    relative,
)

FLOAT32 = ("data=8", "fsdp=8", "fsdp=4 x tensor=2", "sequence=2 x fsdp=2 x tensor=2")


def worst(found: Any, one: Any, exact: Any) -> float:
    """Largest distance of an array, by norm; those that are zero by construction, in float64 but
    for rounding, not."""
    leaves = zip(*map(jax.tree.leaves, (found, one, exact)), strict=True)
    return max(
        float(np.linalg.norm(a - b) / np.linalg.norm(b))
        for a, b, e in leaves
        if np.linalg.norm(e) > 1e-12
    )


def row(family: str) -> tuple[list[str], bool]:
    """Cells of the table, and whether float64 held."""
    meshes = MESHES | ({FLOAT32[-1]: SEQUENCE} if family in TRANSFORMERS else {})
    with jax.enable_x64(True):
        one = gradients(family, {})
        largest = max(relative(gradients(family, mesh), one) for mesh in meshes.values())
        exact = gradients(family, {}, dropout=False)  # masks are others in float32
    one = gradients(family, {}, np.float32, dropout=False)
    cells = [f"`{family}`", f"{largest:.0e}", f"{worst(one, exact, exact):.0e}"]
    for name in FLOAT32:
        of = lambda mesh: gradients(family, mesh, np.float32, dropout=False)  # noqa: E731
        cells.append(f"{worst(of(meshes[name]), one, exact):.0e}" if name in meshes else "-")
    return cells, largest < 1e-10


def main(argv: list[str]) -> int:
    """Of the families named, or of all."""
    if wrong := set(argv) - set(FAMILIES):
        print(
            f"error: no family {', '.join(sorted(wrong))}; there are {', '.join(FAMILIES)}",
            file=sys.stderr,
        )
        return 2
    head = ["family", "float64, worst of all meshes", "float32: one device, from float64", *FLOAT32]
    for cells in (head, ["---"] * len(head)):
        print(f"| {' | '.join(cells)} |")
    held = True
    for family in argv or FAMILIES:
        with pytest.MonkeyPatch.context() as patch:
            few_blocks(patch)
            cells, good = row(family)
        print(f"| {' | '.join(cells)} |", flush=True)
        held &= good
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
