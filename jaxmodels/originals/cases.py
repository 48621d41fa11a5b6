"""The cases of certificates of all families, gathered, and what is made of one.

Each family says in ``jaxmodels/families/*/original.py`` at which size its presets are compared.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import jaxmodels
from jaxmodels.foreign.original import Case, OriginalError

CASES: dict[str, Case] = {
    case.key: case for family in jaxmodels.FAMILIES.values() for case in family.cases
}
"""What is compared, by name."""


def own_case(name: str) -> Case:
    """The case of a model of one's own, ``"package.module:FAMILY.preset"``: that of the preset's
    name among the cases of its family.

    Raises:
      OriginalError: there is no such model, or it has no original or no case.
    """
    try:
        family = jaxmodels.family_of(name)
    except ValueError as e:
        raise OriginalError(str(e)) from e
    preset = name.partition(":")[2].partition(".")[2] or next(iter(family.presets))
    found = [case for case in family.cases if case.key == preset]
    if family.original is None or not found:
        raise OriginalError(
            f"{name} has no certificate: its jaxmodels.families.Family needs an original and "
            f"Case({preset!r}, ...) among its cases"
        )
    return dataclasses.replace(found[0], model=name, name=name)


def inputs_of(case: Case) -> tuple[str, ...]:
    """Keys of the batch that the model takes, in order."""
    if case.objective == "seq2seq":
        return ("source", "tokens", "source_segments", "segments")
    if case.objective == "masked_lm":
        return ("tokens", "segments", "types", "positions")
    if case.length:
        types = ("types",) if hasattr(make_model(case, jnp.float32), "type_vocab_size") else ()
        return ("tokens", "segments", *types)
    return ("image", "noise") if case.objective == "elbo" else ("image",)


def make_model(case: Case, dtype: Any, *, full: bool = False) -> jaxmodels.Module:
    """The model of a case in one dtype; ``full``: as it is counted."""
    fields = dict(case.full_fields if full else case.fields)
    if case.length:
        fields["vocab_size"] = case.full_classes if full else case.classes
        if case.objective == "classification":
            fields["num_classes"] = 3
    elif case.objective == "classification":
        fields["num_classes"] = case.full_classes if full else case.classes
    else:
        fields["image_shape"] = case.full_shape if full else case.image_shape
    for name in jaxmodels.model_fields(case.model):
        if name.endswith("dropout_rate"):
            fields[name] = 0.0  # the two sides draw other masks
    return jaxmodels.create(case.model, **fields, dtype=dtype, param_dtype=dtype)


def require_possible(case: Case) -> None:
    """Raises OriginalError for images or batches that the architecture cannot take."""
    model, keys = (
        make_model(case, jnp.float32),
        {"params": jax.random.key(0), "dropout": jax.random.key(0)},
    )
    if case.length:
        count = 2 if case.objective == "seq2seq" else 1
        inputs = [jnp.zeros((case.batch_size, case.length), jnp.int32)] * count
    else:
        inputs = [jnp.zeros((case.batch_size, *case.image_shape))]
    if case.objective == "elbo":
        inputs.append(jnp.zeros((case.batch_size, model.latent_size)))
    try:
        jax.eval_shape(partial(model.init, train=True), keys, *inputs)
    except (ValueError, TypeError, ZeroDivisionError) as e:
        raise OriginalError(
            f"{case.model} with images {case.image_shape}, batch {case.batch_size}: {e}"
        ) from e
