"""Former place of :mod:`train.tasks`."""

from train.tasks import Task, make_task
from train.tasks.multitask import share

__all__ = ["Task", "make_task", "share"]
