"""Processes, the workdir and the command line of a run."""
