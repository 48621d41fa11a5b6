"""Fuzzing of every file and setting that a user brings: ``python -m tests.fuzz --help``."""
