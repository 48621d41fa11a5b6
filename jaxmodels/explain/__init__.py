"""Why a model says what it says: pure functions on any model, which is left as it is.

``attention``, ``grad_cam``, ``gradients`` and ``logit_lens`` explain; ``faithfulness`` measures how
well.
"""
