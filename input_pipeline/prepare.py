"""From a data set's name to a prepared TFDS data set on disk."""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from input_pipeline.datasets import BUILTIN
from input_pipeline.errors import DataError

_DATA_DIR_HINT = (
    "choose another place with --config.data.data_dir=DIR or the environment variable TFDS_DATA_DIR"
)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def data_root(data_dir: str | os.PathLike | None) -> Path:
    """Returns the TFDS root: `data_dir`, else $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    if data_dir is not None:
        return user_path(data_dir, "data_dir")
    return user_path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", "TFDS_DATA_DIR")


def user_path(path: str | os.PathLike, what: str) -> Path:
    """Returns a path that a user gave as `what`, with `~` expanded.

    Raises:
        DataError: empty, of an unknown user, or a URL: TFDS's record files are read from local
          paths alone.
    """
    text = os.fspath(path)
    shown = f"{what} = {text[:80]!r}{'...' * (len(text) > 80)}"
    if not text.strip() or "\0" in text:
        raise DataError(f"{shown} is no path; name a directory, or leave it out")
    if found := _SCHEME.match(text):
        raise DataError(
            f"{shown}: {found[1]}:// is not supported, only paths of this machine; mount the "
            "bucket (gcsfuse, s3fs) and give the path of the mount"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise DataError(
            f"{shown}: there is no such user, or the user has no home directory"
        ) from error


@contextlib.contextmanager
def locked(root: Path, name: str) -> Iterator[None]:
    """Holds an exclusive lock on data set `name` below `root` against other processes on this file
    system."""
    with (root / f".{name.replace('/', '-')}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            # Some network file systems have no locks. TFDS still renames complete data sets into
            # place.
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        yield


def open_builder(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    raw_dir: str | os.PathLike | None = None,
) -> tfds.core.DatasetBuilder:
    """Opens a prepared data set, preparing it first if it is a built-in one.

    Args:
        name: a built-in data set, or `name[/config][:version]` of one that TFDS has prepared in
          `data_dir`.
        data_dir: TFDS root; None means $TFDS_DATA_DIR or ~/tensorflow_datasets.
        raw_dir: where the raw files of a built-in set are; None looks in the usual places and then
          downloads.

    Returns:
        A builder whose `as_data_source` works.

    Raises:
        DataError: unknown name, missing or damaged raw files, `data_dir` not writable or full, or a
            file format without random access.
    """
    root = data_root(data_dir)
    raw_dir = None if raw_dir is None else user_path(raw_dir, "raw_dir")
    if name in BUILTIN:
        key = BUILTIN[name].content_key(raw_dir)
        root = root / "local" / key if key else root
        directory = root / name / str(BUILTIN[name].VERSION)
        if not _is_prepared(directory):
            _prepare(name, root, directory, raw_dir)
    else:
        directory = _find_prepared(name, root)
    builder = tfds.builder_from_directory(directory)
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    random_access = {file_format.value for file_format in tfds.core.FileFormat.with_random_access()}
    if not formats & random_access:
        raise DataError(
            f"{directory} is prepared as {', '.join(sorted(formats)) or 'nothing known'}, which "
            "has no random access. Prepare it again with "
            "download_and_prepare(file_format='array_record')"
            + (", or delete that directory." if name in BUILTIN else ".")
        )
    return builder


def _is_prepared(directory: Path) -> bool:
    # TFDS writes elsewhere and renames at the end, so what stands under the final name is complete.
    return (directory / "dataset_info.json").is_file() and (directory / "features.json").is_file()


def _find_prepared(name: str, root: Path) -> Path:
    base, _, version = name.partition(":")
    versions = [
        path
        for path in (root / base).glob("*")
        if _VERSION.fullmatch(path.name) and _is_prepared(path)
    ]
    found = [path for path in versions if version in ("", path.name)]
    if found:
        return max(found, key=lambda path: tuple(map(int, path.name.split("."))))
    if versions:
        raise DataError(
            f"{base} has no version {version} in {root}, only "
            f"{', '.join(sorted(p.name for p in versions))}"
        )
    prepared = {
        str(path.parent.parent.relative_to(root)) for path in root.glob("*/**/dataset_info.json")
    }
    nearest = difflib.get_close_matches(base, sorted(prepared | set(BUILTIN)), n=3)
    raise DataError(
        f"unknown data set {name!r}"
        + (f", did you mean {' or '.join(nearest)}?" if nearest else ".")
        + f" Built in: {', '.join(BUILTIN)}."
        + f" Prepared in {root}: {', '.join(sorted(prepared)) or 'none'}."
    )


def _prepare(name: str, root: Path, directory: Path, raw_dir: str | os.PathLike | None) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root, name):
            if _is_prepared(directory):  # by the process that held the lock
                return
            # What a killed process left. No live process owns it: the lock is ours.
            for stale in directory.parent.glob(f"incomplete.*_{directory.name}"):
                shutil.rmtree(stale)
            print(f"preparing {name} in {directory}", file=sys.stderr)
            if not sys.stderr.isatty():
                tfds.disable_progress_bar()
            builder = BUILTIN[name](data_dir=root, raw_dir=raw_dir, file_format="array_record")
            with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints what was just said
                builder.download_and_prepare(
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
                )
    except (OSError, RuntimeError) as error:
        # array_record reports every failure to write as a RuntimeError.
        if isinstance(error, RuntimeError) and "No space left on device" not in str(error):
            raise
        raise DataError(
            f"cannot prepare {name} in data_dir {root} ({error}); {_DATA_DIR_HINT}"
        ) from error
