"""Batches of a run: their shapes, their loaders, and their place on the devices."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

import input_pipeline
from input_pipeline import DataSpec, Decoding
from train import sharding
from train.options import DataConfig
from train.run import Run


def put_batches(run: Run, loaded: list[dict[str, np.ndarray]]) -> dict[str, jax.Array]:
    """Places the batches of one call of the training step: ``config.steps_per_execution`` of
    them, as loaded."""
    (first, *others) = loaded
    return sharding.put_batches(loaded, run.mesh) if others else sharding.put_batch(first, run.mesh)


def loader(run: Run, split: str, *, train: bool) -> Iterator[dict[str, np.ndarray]]:
    """This process's share of the batches: an endless shuffled stream for training, one ordered
    pass otherwise."""
    size = run.config.batch_size if train else run.config.eval_batch_size
    index, count = sharding.local_rows(run.mesh, size)
    return _make_loader(
        run, split, batch_size=size, train=train, process_index=index, process_count=count
    )


def examples(run: Run, split: str, count: int) -> dict[str, np.ndarray]:
    """The first ``count`` examples of a split, the same on every process, without augmentation.

    Texts are in their own order, whatever their lengths, and padded to the greatest. Where
    there are fewer, rows of weight 0 follow.
    """
    whole = run.card.changed("text", buckets=())
    options = {"batch_size": count, "train": False, "card": whole}
    with contextlib.closing(_make_loader(run, split, **options)) as loader:
        return next(loader)


def first_examples(run: Run, count: int) -> dict[str, np.ndarray]:
    """The first ``count`` examples of training, the same on every process."""
    # only these are read
    options: dict[str, Any] = {"batch_size": count, "train": True, "in_memory_bytes": 0}
    with contextlib.closing(_make_loader(run, run.config.data.train_split, **options)) as loader:
        return next(loader)


def unaugmented_examples(run: Run, count: int) -> dict[str, np.ndarray]:
    """The first :func:`examples` of training: ``count``, or all there are."""
    batch = examples(run, run.config.data.train_split, count)
    real = batch["weight"].reshape(count, -1).any(1)
    return {k: v[real] for k, v in batch.items()}


def _make_loader(
    run: Run, split: str, *, card: DataSpec | None = None, **kwargs: Any
) -> Iterator[dict[str, np.ndarray]]:
    data, card = run.config.data, card or run.card
    return input_pipeline.make_loader(
        data.name,
        split,
        seed=run.config.seed,
        data_dir=data.data_dir,
        raw_dir=data.raw_dir,
        decoding=decoding(data),
        images="image" in card.kinds,
        labels=run.config.tasks.labels,
        known=card,
        complete=run.task.bundle.complete,
        text=card if "text" in card.kinds else None,
        **kwargs,
    )


def batch_shapes(run: Run, size: int) -> list[dict[str, jax.ShapeDtypeStruct]]:
    """Shapes and shardings of batches of ``size`` examples as loaded, one for each length that
    batches of text may have."""
    return shapes_of(run.card, size, run.mesh)


def shapes_of(
    card: DataSpec, size: int, mesh: Mesh | None = None
) -> list[dict[str, jax.ShapeDtypeStruct]]:
    """Shapes of batches as loaded: one for each length that batches may have, ascending."""

    def abstract(key: str, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        where = None if mesh is None else sharding.batch_sharding(key, shape, mesh)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    found = [card.shapes(size, length) for length in card.lengths]
    return [{k: abstract(k, *v) for k, v in shapes.items()} for shapes in found]


def decoding(data: DataConfig) -> Decoding:
    """How images become pixels."""
    return Decoding(
        image_size=data.image_size,
        resize_size=data.resize_size,
        crop_area=data.crop_area,
        randaugment_layers=data.randaugment_layers,
        randaugment_magnitude=data.randaugment_magnitude,
    )
