"""Pretrained models for new work: features, frozen parts, several tasks over one trunk."""
