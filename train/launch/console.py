"""Standard output and error that a run does not depend on: closed, or with a reader or terminal
that has gone."""

import contextlib
import io
import os
import sys
from typing import TextIO


class _Lasting(io.FileIO):
    """A descriptor to which every write succeeds; what it cannot take is lost."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        try:
            return super().write(data) or len(data)
        except OSError:
            return len(data)


def outlive() -> None:
    """Lets this process go on without its standard streams. To be called before it opens files.

    A standard descriptor that is closed becomes ``/dev/null``: else the next file that is opened
    gets its number, and with it what libraries print.
    """
    for descriptor in range(3):
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            continue
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)
    sys.stdout, sys.stderr = _lasting(1, sys.stdout), _lasting(2, sys.stderr)


def _lasting(descriptor: int, stream: TextIO | None) -> TextIO:
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.flush()
    errors = (
        "backslashreplace"
        if descriptor == 2
        else getattr(stream, "errors", None) or "backslashreplace"
    )
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(descriptor, "w", closefd=False)),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors=errors,
        line_buffering=descriptor == 2 or os.isatty(descriptor),
    )
