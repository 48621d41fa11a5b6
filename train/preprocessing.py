"""What a model takes of the data, and what is done to a batch on the device before."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray
from tokenizers import Tokenizer

from input_pipeline import Card, DatasetCard, TableCard, TextCard, image
from input_pipeline.cropping import crop_text
from input_pipeline.image_text import text_card
from input_pipeline.text import tokenizer_of
from input_pipeline.tokenizers import stands_for_no_text
from jaxmodels import Fusion, Module
from jaxmodels.adapt.multitask import LearnedWeights, MultiHead, OneTask
from train.fields import ConfigError
from train.options import Config
from train.step import Batch


def check_embeddings(model: Module, card: Card) -> None:
    """Raises `ConfigError` where the texts have a token or a type that the model does not embed: it
    would be NaN."""
    text = text_card(card)
    if text is None:
        return
    types = 2 if text.form == "sentence_pairs" else 0
    if getattr(unwrapped(model), "type_vocab_size", 2) < 2 and text.form in ("labels", "numbers"):
        types = 1 + max(tokenizer_of(text).encode(*[""] * len(text.texts)).type_ids, default=0)
    for name, needed in (("target_vocab_size", text.vocab_size), ("type_vocab_size", types)):
        there = getattr(unwrapped(model), name, None)
        if there and there < needed:  # 0: as large as another
            raise ConfigError(
                f"config.model_fields.{name} = {there} is below the {needed} of {text.name}; "
                f"nearest: {needed}"
            )


def row_keys(key: PRNGKeyArray, rows: int) -> Array:
    """A key for each row of a batch, a function of its place alone."""
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(rows, dtype=jnp.uint32))


def text_inputs(model: Module) -> tuple[str, ...]:
    """Keys of a batch of texts that a model takes: types are for those that know them."""
    return (
        ("tokens", "segments", "types")
        if hasattr(model, "type_vocab_size")
        else ("tokens", "segments")
    )


def model_inputs(model: Module, card: Card) -> tuple[str, ...]:
    """Keys of a batch that a model takes, in order."""
    if isinstance(card, DatasetCard):
        return ("image",)
    if isinstance(card, TableCard):
        return ("features",)
    if isinstance(card, TextCard):
        return text_inputs(unwrapped(model))
    takes_missing = isinstance(unwrapped(model), Fusion)
    return (
        ("image", "tokens", "segments", "present")
        if takes_missing
        else ("image", "tokens", "segments")
    )


def unwrapped(model: Module) -> Module:
    """The model that the config names, out of what several tasks put around it."""
    match model:
        case LearnedWeights(model=inner) | MultiHead(trunk=inner) | OneTask(whole=inner):
            return unwrapped(inner)
    return model


def preprocessing(
    config: Config, model: Module, card: Card
) -> tuple[Callable[[PRNGKeyArray, Batch], Batch], Callable[[Batch], Batch]]:
    """Of training and evaluation: images are augmented and normalised, numbers standardised, tokens
    are as they are."""
    if isinstance(card, TextCard):
        crop = _text_crops(config, card) if config.data.crop_text else lambda key, batch: batch
        return crop, lambda batch: batch
    if isinstance(card, TableCard):

        def standardise(batch: Batch) -> Batch:
            features = (batch["features"] - jnp.asarray(card.mean)) / jnp.asarray(card.std)
            return {**batch, "features": features.astype(config.dtype)}

        return lambda key, batch: standardise(batch), standardise
    data, dtype = config.data, jnp.dtype(config.dtype)
    augment = partial(
        image.preprocess_train,
        mean=data.mean,
        std=data.std,
        # soft labels are as wide as the logits
        num_classes=model.num_classes if data.mixup else card.num_classes,
        crop_padding=data.crop_padding,
        flip=data.flip,
        erasing=data.erasing,
        mixup=data.mixup,
        dtype=dtype,
    )

    def hide(key: PRNGKeyArray, batch: Batch) -> Batch:
        hide_key, key = jax.random.split(key)
        return augment(
            key, {**batch, "present": hide_one(hide_key, batch["present"], data.hide_rate)}
        )

    evaluated = partial(image.preprocess_eval, mean=data.mean, std=data.std, dtype=dtype)
    return hide if data.hide_rate else augment, evaluated


def _text_crops(config: Config, card: TextCard) -> Callable[[PRNGKeyArray, Batch], Batch]:
    if len(card.texts) > 1:
        raise ConfigError(
            f"config.data.crop_text = {config.data.crop_text} is not for pairs "
            f"({' and '.join(card.texts)}); nearest: config.data.crop_text = 0.0"
        )
    ordinary = all_but(stands_for_no_text(Tokenizer.from_str(card.tokenizer), unknown=False), card)
    crop = jax.vmap(partial(crop_text, rate=config.data.crop_text))

    def cropped(key: PRNGKeyArray, batch: Batch) -> Batch:
        tokens, segments = batch["tokens"], batch["segments"]
        words = ordinary[tokens] & (segments > 0)
        tokens, segments = crop(row_keys(key, len(tokens)), tokens, segments, words)
        return {**batch, "tokens": tokens, "segments": segments}

    return cropped


def all_but(special: list[int], card: TextCard) -> Bool[Array, " v"]:
    """Of each number of the vocabulary, whether it is none of these."""
    return jnp.ones(card.vocab_size, bool).at[jnp.asarray(special, jnp.int32)].set(False)


def hide_one(key: PRNGKeyArray, present: Bool[Array, "b 2"], rate: float) -> Bool[Array, "b 2"]:
    """Takes away one of the two, drawn evenly, with probability ``rate``; never the only one there
    is."""
    hide_key, which_key = jax.random.split(key)
    hidden = jax.random.bernoulli(hide_key, rate, present.shape[:1]) & present.all(1)
    which = jax.random.bernoulli(which_key, 0.5, present.shape[:1])
    return present & ~(hidden[:, None] & jnp.stack([which, ~which], 1))
