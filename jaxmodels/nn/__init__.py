"""Layers, attention and stacks of layers, and how they run on CPUs and meshes."""
