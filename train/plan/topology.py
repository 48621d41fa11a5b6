"""Topologies by their names on the command line."""

from jaxmodels.plan import PlanError, Topology, topologies
from train.config import ConfigError


def find_topology(name: str) -> Topology:
    """Finds the devices of ``--topology=NAME`` (see :func:`jaxmodels.plan.find_topology`).

    Raises:
      ConfigError: no such chip or shape, or what compiles for it is not installed.
    """
    try:
        return topologies.find_topology(name)
    except PlanError as e:
        raise ConfigError(str(e)) from e
