"""Plans a slice before it is rented: a step compiled ahead of time for chips that are not here.

:func:`plan` takes any function of arrays, abstract arguments and the name of a topology. Its record
says whether the step fits, its FLOPs, its collectives and its least time. TPUs need the extra
``jaxmodels[plan]``.
"""

from jaxmodels.plan.compiling import Memory, Plan, plan
from jaxmodels.plan.cost import Roofline, Traffic
from jaxmodels.plan.errors import PlanError
from jaxmodels.plan.topologies import Topology, find_topology

__all__ = [
    "Memory",
    "Plan",
    "PlanError",
    "Roofline",
    "Topology",
    "Traffic",
    "find_topology",
    "plan",
]
