"""Time and memory of our models beside their PyTorch originals. Needs the extra ``parity``."""
