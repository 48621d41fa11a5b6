"""Errors of runs, files and checkpoints. Their messages are one line and meant for the user."""


class WorkdirError(RuntimeError):
    """The workdir or a path cannot be used."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read."""


class SaveError(CheckpointError):
    """A checkpoint could not be written: no save is in flight any more."""


class NonFiniteError(RuntimeError):
    """Training met NaN or Inf."""


class Stopped(Exception):
    """A signal cut an evaluation short. Nobody sees it: the loop saves and leaves."""
