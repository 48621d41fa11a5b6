"""Choosing the next token: settings of ``generation_config.json``, processors of scores, draws.

``settings`` says what may be asked for, and ``hub`` reads it from directories of transformers.
``rules`` makes arrays of it, by which ``processors`` change the scores. ``sampling`` draws.
"""
