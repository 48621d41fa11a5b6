"""The packages of the extra ``parity``, imported in one place: the rest of the library needs none.

Raises:
  ImportError: at import, with the command that installs what is missing.
"""

try:
    import optax
    import torch
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as e:
    raise ImportError(
        f"jaxmodels.parity needs torch, optax and matplotlib ({e}): pip install jaxmodels[parity]"
    ) from e

__all__ = ["Figure", "FigureCanvasAgg", "optax", "torch"]
