"""Families of transformers: what each key of their ``config.json`` means to a model here, one file
per family."""
