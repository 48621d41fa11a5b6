"""Files that a run keeps and paths that a user gives: what they may be, and how they are opened,
read and replaced."""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from train.errors import WorkdirError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISREG, "a file"),
)
# what a system says of a full disk: in Python by its number, in TensorStore's errors by its words
_FULL = {
    errno.ENOSPC: ("No space left on device", "disk full"),
    errno.EDQUOT: ("Disk quota exceeded", "disk full (the quota is used up)"),
    errno.EFBIG: ("File too large", "disk full (ulimit -f limits the size of files)"),
}
FAULTS = {
    errno.EIO,
    errno.EROFS,
    errno.ESTALE,
    errno.EACCES,
    errno.EPERM,
    errno.ENODEV,
    errno.ENXIO,
    errno.EMFILE,
}
"""Numbers of errors that only a file system has, also where no name of a file comes with them."""


def user_path(text: str, what: str) -> Path:
    """The path that a user gave, with ``~`` and ``~name`` expanded.

    Args:
      what: the flag or field that it came from, for the error.

    Raises:
      WorkdirError: empty, with a NUL byte, of an unknown user, or a URL: there is no local file
        that it could mean.
    """
    shown = f"{what}={text[:80]!r}{'...' * (len(text) > 80)}"
    if not text.strip():
        raise WorkdirError(f"{what} is empty; give a path")
    if "\0" in text:
        raise WorkdirError(f"{shown} is no path: it has a NUL byte")
    if found := _SCHEME.match(text):
        raise WorkdirError(
            f"{shown}: {found[1]}:// is not supported, only paths of this machine; mount the "
            "bucket (gcsfuse, s3fs) and give the path of the mount"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as e:
        raise WorkdirError(
            f"{shown}: there is no such user, or the user has no home directory"
        ) from e


def given(flag: str) -> Callable[[str], Path]:
    """:func:`user_path` of a flag's value, as argparse's ``type``."""
    return lambda text: user_path(text, flag)


def given_text(flag: str) -> Callable[[str], str]:
    """:func:`given`, as text."""
    return lambda text: str(user_path(text, flag))


def kind(path: Path) -> str | None:
    """The kind of a path, a link not followed: "a file", "a directory", ...; None: nothing is
    there."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "a device")


def require(path: Path, wanted: str) -> None:
    """Raises WorkdirError unless ``path`` is of the kind that is ``wanted``, or nothing."""
    found = kind(path)
    if (found, wanted) == ("a symbolic link", "a directory"):
        raise WorkdirError(
            f"{path} is a symbolic link, not a directory; put it itself there (mount --bind brings "
            "another disk), or make the whole workdir the link"
        )
    if found not in (wanted, None):
        raise WorkdirError(f"{path} is {found}, not {wanted}; move it away, or choose another path")


def open_own(path: Path, flags: int) -> BinaryIO:
    """Opens a regular file and nothing else: no link is followed, and no pipe waited for.

    Args:
      flags: of ``os.open``. The mode of a file that is made is that of the umask.

    Raises:
      WorkdirError: something else lies there.
      OSError: as ``os.open``.
    """
    require(path, "a file")  # says which kind; the flags are for what comes in between
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise WorkdirError(f"{path} is not a file; move it away, or choose another path")
    writes = {
        os.O_RDONLY: "rb",
        os.O_WRONLY: "ab" if flags & os.O_APPEND else "wb",
        os.O_RDWR: "rb+",
    }
    return os.fdopen(descriptor, writes[flags & os.O_ACCMODE])


def read_own(path: Path) -> bytes | None:
    """Bytes of a regular file; None if there is nothing. Raises as :func:`open_own`."""
    try:
        with open_own(path, os.O_RDONLY) as file:
            return file.read()
    except FileNotFoundError:
        return None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces a file so that a kill leaves the old or the new content, never half of it.

    Raises:
      WorkdirError: ``path`` is no file.
      OSError: the disk is full, or the directory not writable.
    """
    # no device is replaced by a file
    if kind(path) != "a symbolic link" or (path.exists() and not path.is_file()):
        require(path, "a file")
    part = path.with_name(path.name + ".part")
    try:
        with open_own(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def keep_aside(path: Path, content: bytes) -> Path:
    """Keeps the bytes of a damaged file beside it, as ``NAME.damaged-1``; the first number that is
    free."""
    for n in range(1, 10_000):
        aside = path.with_name(f"{path.name}.damaged-{n}")
        # a start that failed had kept it already
        if kind(aside) is None or read_own(aside) == content:
            break
    write_atomically(aside, content)
    return aside


def is_disk_full(error: BaseException | None) -> bool:
    """True if an error, or one that caused it, says that no space is left, for all or for this user
    or file."""
    return bool(disk_full(error))


def disk_full(error: BaseException | None) -> str:
    """ "disk full" in words if an error, or one that caused it, says so; "" otherwise."""
    while error is not None:
        for number, (words, said) in _FULL.items():
            if getattr(error, "errno", None) == number or words in str(error):
                return said
        error = error.__cause__ or error.__context__
    return ""


def cause(error: BaseException) -> str:
    """The file system's own words, if an error or one that caused it has them; else the error in
    one line."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, OSError) and found.strerror:
            return f"{found.strerror}: {found.filename}" if found.filename else found.strerror
        if words := re.search(r"[^:]*: ([^:\[]+) \[OS error (\d+)", str(found)):
            return words[1]
        found = found.__cause__ or found.__context__
    return one_line(error)


def one_line(error: BaseException, length: int = 160) -> str:
    """Type and message of an error in one line, cut at ``length`` characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= length else text[:length] + "..."
