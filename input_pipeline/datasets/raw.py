"""Raw files: where they are looked for, how they are downloaded, and how they are checked.

Order: `raw_dir` if the user names one (and then nowhere else), a directory where the operating
system installs the files, the download cache below `data_dir`, and last the network.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import zlib
from pathlib import Path

import tqdm

from input_pipeline.errors import DataError

_CHUNK = 1 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class RawFile:
    """One published file.

    Attributes:
        url: where it is published; the last part is the file's name.
        size: bytes of the published file.
        sha256: of the published file.
        unpacked: name of the file or directory it unpacks to, which is accepted in its place.
        payload_sha256: of the decompressed content, if known. Distributions compress the same
            content anew, so where this is known it decides, for the compressed and the unpacked
            file alike.
    """

    url: str
    size: int
    sha256: str
    unpacked: str
    payload_sha256: str = ""

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]


def checksum_error(source: Path | str, expected: str, actual: str) -> DataError:
    return DataError(
        f"bad checksum: {source} has sha256 {actual}, expected {expected}. The file is damaged or "
        "is another data set: delete it and fetch it again."
    )


def verify(path: Path, raw: RawFile) -> None:
    """Raises `DataError` unless `path` is byte for byte the published file."""
    if path.stat().st_size != raw.size:
        raise DataError(
            f"{path} has {path.stat().st_size} bytes, expected {raw.size}: it is truncated or is "
            "another file. Delete it and fetch it again."
        )
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != raw.sha256:
        raise checksum_error(path, raw.sha256, actual)


def read_payload(path: Path) -> bytes:
    """Returns the content of `path`, decompressed if it ends in .gz; a truncated .gz gives what
    there is."""
    if path.suffix != ".gz":
        return path.read_bytes()
    content = bytearray()
    try:
        with gzip.open(path) as file:
            while chunk := file.read(1 << 20):
                content += chunk
    except EOFError:
        pass  # The byte count below names the expected and the actual size.
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path} is not a sound gzip file ({error}): delete it and fetch it again"
        ) from error
    return bytes(content)


def verify_payload(path: Path, content: bytes, raw: RawFile) -> None:
    """Raises `DataError` unless `content`, decompressed from `path`, is that of the published
    file."""
    actual = hashlib.sha256(content).hexdigest()
    if actual != raw.payload_sha256:
        raise checksum_error(path, raw.payload_sha256, actual)


def find(directory: Path, raw: RawFile) -> Path | None:
    """Returns the path of `raw`, packed or unpacked, in `directory` (which may be the unpacked
    directory itself)."""
    for candidate in (directory / raw.name, directory / raw.unpacked):
        if candidate.exists():
            return candidate
    return directory if directory.name == raw.unpacked and directory.is_dir() else None


def obtain(
    name: str,
    files: tuple[RawFile, ...],
    *,
    raw_dir: Path | None,
    data_dir: Path,
    system_dir: Path | None,
    advice: str,
) -> list[Path]:
    """Finds or downloads the raw files of data set `name`.

    Args:
        name: data set name, for messages and the download directory.
        files: what is needed.
        raw_dir: directory named by the user; if given, nothing else is searched.
        data_dir: TFDS root; downloads go to `<data_dir>/downloads/jaxmodels/<name>/`.
        system_dir: where an operating system package puts the files, if there is one.
        advice: one sentence added to the error when a download fails.

    Returns:
        One existing path per file, in order; not yet checked, unless downloaded just now.

    Raises:
        DataError: a file is missing from `raw_dir`, cannot be downloaded, or is not the published
          one.
    """
    if raw_dir is not None:
        found = [find(raw_dir, raw) for raw in files]
        missing = [
            f"{raw.name} (or {raw.unpacked})"
            for raw, path in zip(files, found, strict=True)
            if path is None
        ]
        if missing:
            raise DataError(f"{name}: raw_dir {raw_dir} lacks {', '.join(missing)}")
        return [path for path in found if path is not None]
    if system_dir is not None:
        found = [find(system_dir, raw) for raw in files]
        if None not in found:
            return [path for path in found if path is not None]
    downloads = data_dir / "downloads" / "jaxmodels" / name
    names = ", ".join(raw.name for raw in files)
    advice = (
        f"Offline: get {names} by other means and pass their directory as "
        f"--config.data.raw_dir=DIR. {advice}"
    )
    return [find(downloads, raw) or download(raw, downloads, advice.strip()) for raw in files]


def download(raw: RawFile, directory: Path, advice: str) -> Path:
    """Downloads `raw` into `directory`; the file appears under its name only when complete and
    verified."""
    import requests

    directory.mkdir(parents=True, exist_ok=True)
    target = directory / raw.name
    part = directory / f"{raw.name}.part"
    try:
        # disable=None: no progress bar unless stderr is a terminal.
        with (
            requests.get(raw.url, stream=True, timeout=30) as response,
            part.open("wb") as file,
            tqdm.tqdm(
                total=raw.size, unit="B", unit_scale=True, desc=raw.name, disable=None
            ) as progress,
        ):
            response.raise_for_status()
            for chunk in response.iter_content(_CHUNK):
                progress.update(file.write(chunk))
        verify(part, raw)
    except requests.RequestException as error:
        part.unlink(missing_ok=True)
        # A connection error wraps urllib3's, whose `reason` says it in few words.
        reason = getattr(error.args[0], "reason", error) if error.args else type(error).__name__
        raise DataError(f"cannot download {raw.url} ({reason}). {advice}") from error
    except DataError as error:
        part.unlink(missing_ok=True)
        raise DataError(
            f"{raw.url} did not deliver the published file: {error} {advice}"
        ) from error
    part.replace(target)
    return target
