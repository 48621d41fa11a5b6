"""The error of a plan that cannot be made."""


class PlanError(ValueError):
    """A topology or a mesh that no plan can be made for. The message is one line for the user."""
