"""Compression of a finished classifier, and pruning while it trains."""
