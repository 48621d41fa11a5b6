"""Keeps quiet what Orbax and TensorStore leave behind when one of many reads or writes fails.

Orbax raises the first failure and drops the rest. Each dropped part would print a traceback of its
own, at once or when it is collected, in any thread. Only reports that can be of nothing else are
left out.
"""

import inspect
import logging
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

_LIBRARIES = ("/orbax/", "/tensorstore/")
_installed = threading.Lock()  # held for good by the first that comes


def keep_quiet() -> None:
    """Puts filters before the hooks of this process, once; all else passes."""
    if not _installed.acquire(blocking=False):
        return
    unraisable, uncaught = sys.unraisablehook, sys.excepthook

    def without_coroutines(report: Any) -> None:
        """Coroutines of Orbax that are collected before they ended."""
        dropped = inspect.iscoroutine(report.object) and _of_libraries(
            report.object.cr_code.co_filename
        )
        if not dropped and not _late(report.exc_value, report.exc_traceback):
            unraisable(report)

    def without_late_answers(
        cls: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """Answers of TensorStore's threads to an event loop that Orbax has closed."""
        if not _late(error, trace):
            uncaught(cls, error, trace)

    sys.unraisablehook, sys.excepthook = without_coroutines, without_late_answers
    logging.getLogger("asyncio").addFilter(_no_task_of_libraries)


def _of_libraries(text: str) -> bool:
    return any(name in text.replace("\\", "/") for name in _LIBRARIES)


def _late(error: BaseException | None, trace: TracebackType | None) -> bool:
    """True if a call from outside of Python met a closed event loop: the outermost frame is
    asyncio's own."""
    closed = isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
    return closed and (
        trace is None or Path(trace.tb_frame.f_code.co_filename).parent.name == "asyncio"
    )


def _no_task_of_libraries(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    abandoned = text.startswith(
        ("Task exception was never retrieved", "Task was destroyed but it is pending")
    )
    return not (abandoned and _of_libraries(text))
