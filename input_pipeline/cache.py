"""Arrays and files that save time when they are there again: with a digest of every block, so that
damage is noticed.

A cache is a directory of files, and of ``digests``: a line for each file with its bytes and the
CRC-32 of each block of it, from the first byte of its header on. CRC-32 finds every error of up to
32 bits in a row. The text of ``digests`` is made again from the files and must be the same.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

BLOCK = 1 << 22
"""Bytes under one digest."""

_THREADS = min(8, os.cpu_count() or 1)  # zlib computes without the interpreter lock


def digest_lines(contents: dict[str, np.ndarray]) -> str:
    """The text of ``digests`` for files whose bytes, uint8 [n], are given by name."""
    lines = []
    with ThreadPoolExecutor(_THREADS) as pool:  # starts a thread only when it is given something
        for name, data in contents.items():
            blocks = [data[i : i + BLOCK] for i in range(0, len(data), BLOCK)]
            digests = pool.map(zlib.crc32, blocks) if len(blocks) > 1 else map(zlib.crc32, blocks)
            lines.append(" ".join([name, str(len(data)), *(f"{digest:08x}" for digest in digests)]))
    return "".join(f"{line}\n" for line in lines)


@contextlib.contextmanager
def written(directory: Path, names: Sequence[str]) -> Iterator[Path]:
    """A directory to write files with these names into; complete and with its digests it becomes
    ``directory``.

    Raises:
        OSError: it cannot be written.
    """
    temporary = directory.with_name(f"{directory.name}.tmp{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        (temporary / "digests").write_text(
            digest_lines({name: _mapped(temporary / name) for name in names})
        )
        shutil.rmtree(directory, ignore_errors=True)  # an unsound one
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def checked(
    directory: Path, names: Sequence[str], *, mapped: Sequence[str] = (), say: bool = True
) -> dict[str, np.ndarray] | None:
    """The bytes of the files of a cache, uint8 [n] each; None if it is not there, or does not fit
    its digests.

    Args:
        directory: of the cache.
        names: of its files, in the order in which they were written.
        mapped: names of those that stay on disk and are mapped into memory.
        say: print a line where a cache is damaged.
    """
    try:
        if not directory.exists():
            return None
        found = {
            name: _mapped(directory / name)
            if name in mapped
            else np.fromfile(directory / name, np.uint8)
            for name in names
        }
        if digest_lines(found).encode() == (directory / "digests").read_bytes():
            return found
        reason = "does not fit its digests"
    except (OSError, ValueError) as error:  # ValueError: numpy's of what is no file
        reason = getattr(error, "strerror", None) or str(error)
    if say:
        print(f"the cache {directory} is damaged ({reason}) and is made again", file=sys.stderr)
    return None


def array_of(data: np.ndarray) -> np.ndarray:
    """The array of a .npy file whose bytes are given; it shares their memory."""
    header = io.BytesIO(data[:4096].tobytes())
    np.lib.format.read_magic(header)
    shape, _, dtype = np.lib.format.read_array_header_1_0(header)
    return data[header.tell() :].view(dtype).reshape(shape)


def _mapped(path: Path) -> np.ndarray:
    """The bytes of a file, which are read when they are looked at."""
    return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
