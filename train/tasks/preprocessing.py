"""What a model takes of the data, and what is done to a batch on the device before."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray

from input_pipeline import DataSpec
from input_pipeline.features import Preparation
from jaxmodels import Fusion, Module
from jaxmodels.adapt.multitask import unwrapped
from train.options.fields import ConfigError
from train.step import Batch
from train.task import Setting


def check_embeddings(model: Module, card: DataSpec) -> None:
    """Raises `ConfigError` where the texts have a token or a type that the model does not embed: it
    would be NaN."""
    text = card.kind("text")
    if text is None:
        return
    types = 2 if text.cut == "sentence_pairs" else 0
    if getattr(unwrapped(model), "type_vocab_size", 2) < 2 and text.cut == "texts":
        tokenizer = text.opened_tokenizer(card.name)
        types = 1 + max(tokenizer.encode(*[""] * len(text.texts)).type_ids, default=0)
    for name, needed in (("target_vocab_size", text.vocab_size), ("type_vocab_size", types)):
        there = getattr(unwrapped(model), name, None)
        if there and there < needed:  # 0: as large as another
            raise ConfigError(
                f"config.model_fields.{name} = {there} is below the {needed} of {card.name}; "
                f"nearest: {needed}"
            )


def row_keys(key: PRNGKeyArray, rows: int) -> Array:
    """A key for each row of a batch, a function of its place alone."""
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(rows, dtype=jnp.uint32))


def model_inputs(model: Module, card: DataSpec) -> tuple[str, ...]:
    """Keys of a batch that a model takes, in order: types if it knows them and texts are its only
    input, and what is missing if it knows that."""
    model, alone = unwrapped(model), len(card.inputs) == 1
    typed = alone and hasattr(model, "type_vocab_size")
    keys = tuple(k for f in card.inputs for k in f.arrays if typed or k != "types")
    return keys if alone or not isinstance(model, Fusion) else (*keys, "present")


def preprocessing(
    setting: Setting,
) -> tuple[Callable[[PRNGKeyArray, Batch], Batch], Callable[[Batch], Batch]]:
    """Of training and evaluation: images are augmented and normalised, numbers standardised, tokens
    are as they are.

    Raises:
      ConfigError: pairs of texts are to be cropped.
    """
    model, card, data = setting.model, setting.card, setting.data
    text = card.kind("text")
    if data.crop_text and text and len(text.texts) > 1:
        raise ConfigError(
            f"config.data.crop_text = {data.crop_text} is not for pairs "
            f"({' and '.join(text.texts)}); nearest: config.data.crop_text = 0.0"
        )
    how = Preparation(
        mean=data.mean,
        std=data.std,
        crop_padding=data.crop_padding,
        flip=data.flip,
        erasing=data.erasing,
        mixup=data.mixup,
        # soft labels are as wide as the logits
        soft_labels=model.num_classes if data.mixup else card.num_classes,
        crop_text=data.crop_text,
        hide_rate=data.hide_rate,
        dtype=setting.dtype,
    )
    return (
        lambda key, batch: card.train_batch(key, batch, how),
        lambda batch: card.eval_batch(batch, how),
    )


def all_but(special: list[int], card: DataSpec) -> Bool[Array, " v"]:
    """Of each number of the vocabulary, whether it is none of these."""
    return (
        jnp.ones(card.kind("text").vocab_size, bool).at[jnp.asarray(special, jnp.int32)].set(False)
    )
