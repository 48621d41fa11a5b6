"""Smaller models: pruning, int8 and their files, as pure functions of parameters that work on every
model here."""
