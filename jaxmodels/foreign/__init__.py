"""Records that describe foreign files: tensors of PyTorch, ``config.json``, original models.

Families fill these records in, and :mod:`jaxmodels.weights` applies them. Nothing here imports
either.
"""
