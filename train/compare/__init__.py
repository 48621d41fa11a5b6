"""Certificates that a model equals its PyTorch original: ``python -m train.compare MODEL``."""
