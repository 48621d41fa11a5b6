"""Certificates that a Flax model computes what its PyTorch original does.

:func:`certify` takes a :class:`Subject`: an original, our model, the names that pair their weights,
and batches. It returns a :class:`Certificate`, which :mod:`jaxmodels.parity.report` prints.
Needs the extra ``parity``.
"""

from jaxmodels.parity.certificate import certify
from jaxmodels.parity.record import Certificate
from jaxmodels.parity.subject import Optimizer, Original, Ours, Subject, ours_of

__all__ = ["Certificate", "Optimizer", "Original", "Ours", "Subject", "certify", "ours_of"]
