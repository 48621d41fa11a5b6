"""Reading and writing safetensors, without PyTorch and without ever unpickling.

Files written here carry a SHA-256 digest of all names, shapes, types and bytes in their metadata,
and reading verifies it: the format itself does not notice a flipped bit. Files from elsewhere have
none and are checked by their structure.

:func:`read_header` says what a file holds without reading any of it, so that nothing is allocated
for tensors that no model has.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  teaches NumPy the name bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxmodels.foreign.rules import WeightsError

DIGEST = "jaxmodels.sha256"
PICKLES = {".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle"}
HASH = re.compile(r"[0-9a-f]{64}")
MAX_HEADER = 2**23
"""Bytes of a header or an index, 8 MiB: some 80,000 tensors. PyTorch's own limit takes a gigabyte
to read."""
DTYPES = {
    "BOOL": "bool",
    **{
        f"{kind}{bits}": f"{name}{bits}"
        for kind, name in (("I", "int"), ("U", "uint"))
        for bits in (8, 16, 32, 64)
    },
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "BF16": "bfloat16",
    "C64": "complex64",
}
"""Types of safetensors that NumPy has -> their names there."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


class Stated(NamedTuple):
    """Shape and type of a tensor, from a file's header."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Header(NamedTuple):
    """A file before its tensors are read: their shapes by name, and whether it has a digest."""

    tensors: dict[str, Stated]
    metadata: dict[str, str]


def local_path(path: str | Path) -> Path:
    """A path that a user gave, with ``~`` expanded.

    Raises:
      WeightsError: empty, of an unknown user, or a URL: only local files are read and written here.
    """
    if isinstance(path, str):
        shown = f"{path[:80]!r}{'...' * (len(path) > 80)}"
        if not path.strip() or "\0" in path:
            raise WeightsError(f"{shown} is no path")
        if "://" in path:
            raise WeightsError(
                f"{shown} is a URL; download it, or mount the bucket, and give a path of this "
                "machine"
            )
    try:
        return Path(path).expanduser()
    except RuntimeError as e:
        raise WeightsError(
            f"{path}: there is no such user, or the user has no home directory"
        ) from e


def write_tensors(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes one safetensors file, replacing it whole or not at all.

    Raises:
      OSError: the disk is full or the directory not writable.
    """
    path = local_path(path)
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    part = path.with_name(path.name + ".part")
    try:
        part.touch()
        mode = part.stat().st_mode  # the umask's; save_file makes a file for its owner alone
        save_file(arrays, part, metadata={"format": "pt", DIGEST: _digest(arrays)})
        part.chmod(mode)
        part.replace(path)
    except SafetensorError as e:
        raise OSError(f"cannot write {path}: {_one_line(e)}") from e
    finally:
        part.unlink(missing_ok=True)


def read_tensors(path: str | Path, *, signed: bool = False) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file, or of a directory of them (``model.safetensors``, or
    several with an index).

    Args:
      signed: the file was written here, so that it has to have a digest.

    Raises:
      WeightsError: missing, a pickle, truncated, corrupt, or not what its digest or index says.
    """
    tensors: dict[str, np.ndarray] = {}
    for file, names in _files(local_path(path)).items():
        found = _read_file(file, signed=signed)
        _require_listed(file, found, names)
        tensors |= found
    return tensors


def read_header(path: str | Path) -> dict[str, Stated]:
    """Shapes and types of what :func:`read_tensors` would read, without reading it.

    Raises:
      WeightsError: as :func:`read_tensors`, as far as headers and indices show it.
    """
    tensors: dict[str, Stated] = {}
    for file, names in _files(local_path(path)).items():
        found = _read_header(file).tensors
        _require_listed(file, found, names)
        tensors |= found
    return tensors


def _files(path: Path) -> dict[Path, set[str] | None]:
    """The files of a directory, or the one file, and the names that its index expects in each, None
    without index."""
    if not path.exists():
        raise WeightsError(f"{path} does not exist")
    if not path.is_dir():
        return {path: None}
    if (path / "model.safetensors").exists():
        return {path / "model.safetensors": None}
    index = path / "model.safetensors.index.json"
    if not index.exists():
        files = sorted(path.glob("*.safetensors"))
        if len(files) == 1:
            return {files[0]: None}
        pickles = sorted(p.name for p in path.iterdir() if p.suffix in PICKLES)
        found = (
            f"{len(files)} safetensors files and no {index.name}"
            if files
            else "no safetensors file"
        )
        raise WeightsError(
            f"{path} holds {found}" + (_way_out(path / pickles[0]) if pickles and not files else "")
        )
    try:
        if index.stat().st_size > MAX_HEADER:
            raise ValueError(
                f"it has {index.stat().st_size:,} bytes, and {MAX_HEADER:,} are read at most"
            )
        places = json.loads(index.read_text(), object_pairs_hook=_unique)["weight_map"]
        files: dict[Path, set[str] | None] = {}
        for tensor, name in sorted(places.items()):
            if Path(name).name != name or name in ("", ".."):
                raise WeightsError(f"{index} points outside its directory: {name[:100]!r}")
            files.setdefault(path / name, set()).add(tensor)
    except WeightsError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise WeightsError(f"{index} is not an index of safetensors files ({_one_line(e)})") from e
    return files


def _require_listed(file: Path, found: Mapping[str, Any], names: set[str] | None) -> None:
    """An index names each tensor of its files once: what lies in two of them is in one that does
    not have it."""
    differ = sorted(set(found) ^ names) if names is not None else []
    if differ:
        listed = ", ".join(name[:60] for name in differ[:5])
        raise WeightsError(
            f"{file.parent / 'model.safetensors.index.json'} and {file.name} disagree on {listed}"
        )


def resolve_source(source: str | Path) -> Path:
    """A local path as it is; a Hugging Face hub id (``owner/name`` or ``owner/name@revision``)
    after its download.

    Raises:
      WeightsError: neither, or the download failed.
    """
    path = local_path(source)
    if path.exists():
        return path
    if not HUB_ID.fullmatch(str(source)) or path.suffix in {*PICKLES, ".safetensors"}:
        raise WeightsError(
            f"{source} does not exist, and is not the id of a Hugging Face repository either"
        )
    from huggingface_hub import snapshot_download

    name, _, revision = str(source).partition("@")
    try:
        # the tokenizer too, where there is one
        patterns = [
            "*.safetensors",
            "*.json",
            "merges.txt",
            "vocab.bpe",
            "vocab.txt",
            "*.spm",
            "*.model",
        ]
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except Exception as e:  # many kinds: no network, no such repository, no permission
        raise WeightsError(
            f"{source} is no local path, and it cannot be fetched from the Hugging Face hub "
            f"({_one_line(e)})"
        ) from e


def _read_file(path: Path, *, signed: bool) -> dict[str, np.ndarray]:
    header = _read_header(path)
    digest = header.metadata.get(DIGEST)
    renamed = difflib.get_close_matches(DIGEST, header.metadata, n=1)  # the name is damaged
    if digest is None and (
        signed or any(HASH.fullmatch(header.metadata[name]) for name in renamed)
    ):
        raise WeightsError(
            f"{path} has lost the SHA-256 of its tensors, with which jaxmodels wrote it: export it "
            "again. If another program has written it since, take the section jaxmodels out of the "
            "config.json beside it"
        )
    try:
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (
        SafetensorError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        MemoryError,
    ) as e:
        raise _bad(path, _one_line(e)) from e
    if digest is not None and digest != _digest(tensors):
        raise WeightsError(
            f"{path} is damaged: its tensors do not fit its SHA-256; export it again"
        )
    return tensors


def _read_header(path: Path) -> Header:
    try:
        if not path.is_file():
            raise WeightsError(f"{path} is {'not a file' if path.exists() else 'missing'}")
        with path.open("rb") as file:
            start = file.read(16)
            size = int.from_bytes(start[:8], "little")
            if start.startswith(b"PK\x03\x04") or (start[:1] == b"\x80" and start[8:9] != b"{"):
                raise WeightsError(
                    f"{path} is a pickle, which can run any code when it is opened{_way_out(path)}"
                )
            if size > MAX_HEADER and start[8:9] == b"{":
                raise _bad(
                    path,
                    f"its header of {size:,} bytes is longer than the {MAX_HEADER:,} that are read",
                )
            file.seek(8)
            text = file.read(min(size, MAX_HEADER))
        with safe_open(path, "np"):  # every check of shapes, types and offsets
            said = json.loads(text, object_pairs_hook=_unique)
        metadata = said.pop("__metadata__", None) or {}
        tensors = {name: _stated(name, tensor) for name, tensor in said.items()}
    except WeightsError:
        raise
    except (
        SafetensorError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as e:
        raise _bad(path, _one_line(e)) from e
    return Header(tensors, metadata)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; ValueError for a name that is there twice, of which safetensors would take
    the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"{twice[:60]!r} is there twice")
    return found


def _stated(name: str, said: Mapping[str, Any]) -> Stated:
    if said["dtype"] not in DTYPES:
        raise ValueError(
            f"tensor {name[:60]!r} is of type {said['dtype']}, which NumPy has not; convert it to "
            "BF16 or F32 first"
        )
    if len(said["shape"]) > 32:
        raise ValueError(f"tensor {name[:60]!r} has {len(said['shape'])} axes")
    return Stated(tuple(said["shape"]), np.dtype(DTYPES[said["dtype"]]))


def _bad(path: Path, why: str) -> WeightsError:
    hint = _way_out(path) if path.suffix in PICKLES else "; fetch or export it again"
    return WeightsError(f"{path} is not a good safetensors file ({why}){hint}")


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        total.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        total.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    return total.hexdigest()


def _way_out(path: Path) -> str:
    return (
        f"; convert it: python -m jaxmodels.weights convert {path} "
        f"{path.with_suffix('.safetensors')}"
    )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text if len(text) < 200 else text[:200] + "...") or type(error).__name__
