"""Reading and writing safetensors, without PyTorch and without ever unpickling.

Files written here carry a SHA-256 digest of all names, shapes, types and bytes in their metadata, and reading verifies
it: the format itself does not notice a flipped bit. Files from elsewhere have none and are checked by their structure.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401  teaches NumPy the name bfloat16
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxmodels.weights.rules import WeightsError

DIGEST = "jaxmodels.sha256"
PICKLES = {".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


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
            raise WeightsError(f"{shown} is a URL; download it, or mount the bucket, and give a path of this machine")
    try:
        return Path(path).expanduser()
    except RuntimeError as e:
        raise WeightsError(f"{path}: there is no such user, or the user has no home directory") from e


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


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file, or of a directory of them (``model.safetensors``, or several with an index).

    Raises:
      WeightsError: missing, a pickle, truncated, corrupt, or not what its digest or index says.
    """
    path = local_path(path)
    if not path.exists():
        raise WeightsError(f"{path} does not exist")
    if not path.is_dir():
        return _read_file(path)
    if (path / "model.safetensors").exists():
        return _read_file(path / "model.safetensors")
    index = path / "model.safetensors.index.json"
    if not index.exists():
        files = sorted(path.glob("*.safetensors"))
        if len(files) == 1:
            return _read_file(files[0])
        pickles = sorted(p.name for p in path.iterdir() if p.suffix in PICKLES)
        found = f"{len(files)} safetensors files and no {index.name}" if files else "no safetensors file"
        raise WeightsError(f"{path} holds {found}" + (_way_out(path / pickles[0]) if pickles and not files else ""))
    try:
        places = {str(k): str(v) for k, v in json.loads(index.read_text())["weight_map"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise WeightsError(f"{index} is not an index of safetensors files ({_one_line(e)})") from e
    tensors = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise WeightsError(f"{index} points outside its directory: {name!r}")
        tensors |= _read_file(path / name)
    differ = sorted(set(tensors) ^ set(places))
    if differ:
        raise WeightsError(f"{index} and the files it names disagree on {', '.join(differ[:5])}")
    return tensors


def resolve_source(source: str | Path) -> Path:
    """A local path as it is; a Hugging Face hub id (``owner/name`` or ``owner/name@revision``) after its download.

    Raises:
      WeightsError: neither, or the download failed.
    """
    path = local_path(source)
    if path.exists():
        return path
    if not HUB_ID.fullmatch(str(source)) or path.suffix in {*PICKLES, ".safetensors"}:
        raise WeightsError(f"{source} does not exist, and is not the id of a Hugging Face repository either")
    from huggingface_hub import snapshot_download

    name, _, revision = str(source).partition("@")
    try:
        # the tokenizer too, where there is one
        patterns = ["*.safetensors", "*.json", "merges.txt", "vocab.txt"]
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except Exception as e:  # many kinds: no network, no such repository, no permission
        raise WeightsError(
            f"{source} is no local path, and it cannot be fetched from the Hugging Face hub ({_one_line(e)})"
        ) from e


def _read_file(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as e:
        raise WeightsError(f"{path} cannot be read: {e.strerror}") from e
    if start.startswith(b"PK\x03\x04") or (start[:1] == b"\x80" and start[8:9] != b"{"):
        raise WeightsError(f"{path} is a pickle, which can run any code when it is opened{_way_out(path)}")
    try:
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            digest = (file.metadata() or {}).get(DIGEST)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, MemoryError) as e:
        hint = _way_out(path) if path.suffix in PICKLES else "; fetch or export it again"
        raise WeightsError(f"{path} is not a good safetensors file ({_one_line(e)}){hint}") from e
    if digest is not None and digest != _digest(tensors):
        raise WeightsError(f"{path} is damaged: its tensors do not fit its SHA-256; export it again")
    return tensors


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        total.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        total.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    return total.hexdigest()


def _way_out(path: Path) -> str:
    return f"; convert it: python -m jaxmodels.weights convert {path} {path.with_suffix('.safetensors')}"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text if len(text) < 200 else text[:200] + "...") or type(error).__name__
