"""What is compared: for every preset the size at which its certificate is made.

Architectures are the full ones. Images are small and texts short, because every layer is exercised
all the same and float64 on a CPU is slow; images are not square, and large enough that the last map
before a flattening is more than one pixel. A few classifiers, vocabularies and depths are cut where
the full model's optimiser state would not fit a small machine, and the certificate says so. The
number of parameters is always compared at full size.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import jaxmodels
from train.config import ConfigError
from train.objectives import causal_lm, classification, elbo, masked_lm
from train.preprocessing import text_inputs
from train.step import Objective

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
      model: preset.
      image_shape: (h, w, c) of the batches; empty for text.
      full_shape: (h, w, c) at which parameters are counted.
      length: of texts in tokens; 0 for images.
      fields: of the model, besides the number of classes.
      batch_size: of the float64 and float32 comparisons; timing_batch_size: of the timings.
      classes, full_classes: of the comparison and of the parameter count; for text the size of the
        vocabulary.
      objective: as ``train.config.Config.objective``.
      note: how this is smaller than the full model.
      name: of the case, where a preset has several.
      full_fields: of the model whose parameters are counted, besides the number of classes.
    """

    model: str
    image_shape: Shape
    full_shape: Shape = (224, 224, 3)
    length: int = 0
    fields: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 4
    timing_batch_size: int = 8
    classes: int = 10
    full_classes: int = 1000
    objective: str = "classification"
    note: str = ""
    name: str = ""
    full_fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """By which it is found in :data:`CASES`."""
        return self.name or self.model


CASES: dict[str, Case] = {
    case.key: case
    for case in (
        Case(
            "mlp", (28, 28, 1), (28, 28, 1), batch_size=16, timing_batch_size=128, full_classes=10
        ),
        Case("cnn", (28, 28, 1), (28, 28, 1), batch_size=8, timing_batch_size=64, full_classes=10),
        *(
            Case(
                name,
                (28, 28, 1),
                (28, 28, 1),
                batch_size=8,
                timing_batch_size=128,
                objective="elbo",
            )
            for name in ("vae", "vae_conv")
        ),
        Case("alexnet", (96, 64, 3)),
        *(
            Case(
                f"vgg{n}{bn}",
                (64, 32, 3),
                fields={"hidden_sizes": (512, 512)},
                note="dense layers of 512",
            )
            for n in (11, 13, 16, 19)
            for bn in ("", "_bn")
        ),
        Case("googlenet", (64, 64, 3)),
        Case("inception_v3", (299, 299, 3), (299, 299, 3), batch_size=2, timing_batch_size=2),
        *(Case(f"resnet{n}", (64, 64, 3)) for n in (18, 34, 50, 101, 152)),
        *(
            Case(
                f"resnet{n}",
                (32, 32, 3),
                (32, 32, 3),
                batch_size=8,
                timing_batch_size=64,
                full_classes=10,
            )
            for n in (20, 56)
        ),
        Case("vit_ti_16", (64, 64, 3)),
        Case("vit_s_16", (64, 64, 3), fields={"scan": True}, note="scanned"),
        Case("vit_b_16", (64, 64, 3), fields={"scan": True}, note="scanned"),
        Case("vit_b_32", (64, 64, 3), fields={"scan": True}, note="scanned"),
        Case(
            "vit_l_16",
            (64, 64, 3),
            fields={"scan": True, "num_layers": 4},
            note="scanned, 4 of 24 layers",
        ),
        Case(
            "vit_l_32",
            (64, 64, 3),
            fields={"scan": True, "num_layers": 4},
            note="scanned, 4 of 24 layers",
        ),
        Case(
            "vit_h_14",
            (56, 56, 3),
            fields={"scan": True, "num_layers": 2},
            note="scanned, 2 of 32 layers",
        ),
        *(
            Case(
                name,
                (),
                (),
                length=24,
                fields={"max_len": 32, **fields},
                classes=101,
                full_classes=full_classes,
                objective="causal_lm",
                note=f"vocabulary of 101, positions 32{note}",
            )
            for name, fields, full_classes, note in (
                ("gpt2_tiny", {}, 65, ""),
                ("gpt2_124m", {"scan": True}, 50_257, ", scanned"),
                (
                    "gpt2_355m",
                    {"scan": True, "num_layers": 8, "remat": True},
                    50_257,
                    ", scanned, 8 of 24 layers",
                ),
                ("gpt2_774m", {"scan": True, "num_layers": 4}, 50_257, ", scanned, 4 of 36 layers"),
                (
                    "gpt2_1558m",
                    {"scan": True, "num_layers": 2},
                    50_257,
                    ", scanned, 2 of 48 layers",
                ),
            )
        ),
        *(
            Case(
                model,
                (),
                (),
                length=22,
                fields={"max_len": 24, "head": head, **fields},
                full_fields={"head": head, "num_classes": 3},
                classes=101,
                full_classes=30_522,
                objective={"pretraining": "masked_lm"}.get(head, head),
                note=f"vocabulary of 101, positions 24{note}",
                name=name,
            )
            for model, name, head, fields, note in (
                ("bert_tiny", "", "pretraining", {}, ""),
                ("bert_base", "", "pretraining", {"scan": True}, ", scanned"),
                (
                    "bert_base",
                    "bert_base_classifier",
                    "classification",
                    {"scan": True},
                    ", scanned",
                ),
                (
                    "bert_large",
                    "",
                    "pretraining",
                    {"scan": True, "num_layers": 6},
                    ", scanned, 6 of 24 layers",
                ),
                ("minilm_l6", "", "pretraining", {}, ""),
                ("minilm_l6", "minilm_l6_classifier", "classification", {}, ""),
                (
                    "minilm_l12",
                    "",
                    "pretraining",
                    {"scan": True, "remat": True},
                    ", scanned, rematerialised",
                ),
            )
        ),
        *(
            Case(
                model,
                (),
                (),
                length=19,
                fields={"max_len": 24, **fields},
                full_fields=full_fields,
                classes=101,
                full_classes=full_classes,
                objective="seq2seq",
                note=f"vocabulary of 101, positions 24{note}",
                name=name,
            )
            for model, name, fields, full_fields, full_classes, note in (
                ("transformer_tiny", "", {}, {}, 8000, ""),
                (
                    "transformer_tiny",
                    "transformer_tiny_pre_norm",
                    {
                        "norm_first": True,
                        "share_embeddings": False,
                        "tie_embeddings": False,
                        "target_vocab_size": 101,
                    },
                    {"norm_first": True, "share_embeddings": False, "tie_embeddings": False},
                    8000,
                    ", pre-norm, three embeddings",
                ),
                ("transformer_base", "", {"scan": True}, {}, 37_000, ", scanned"),
                (
                    "transformer_big",
                    "",
                    {"scan": True, "remat": True, "num_layers": 2},
                    {},
                    37_000,
                    ", scanned, rematerialised, 2 of 6 layers",
                ),
                (
                    "marian",
                    "",
                    {"scan": True, "num_layers": 3},
                    {},
                    58_101,
                    ", scanned, 3 of 6 layers",
                ),
            )
        ),
        *(
            Case(
                name,
                (),
                (),
                length=17,
                batch_size=8,
                timing_batch_size=32,
                classes=101,
                full_classes=20_000,
                note="vocabulary of 101",
            )
            for name in ("lstm", "bilstm")
        ),
        Case(
            "vit_b_16_hf",
            (64, 64, 3),
            fields={"scan": True, "remat": True},
            note="scanned, rematerialised",
        ),
    )
}


def inputs_of(case: Case) -> tuple[str, ...]:
    """Keys of the batch that the model takes, in order."""
    if case.objective == "seq2seq":
        return ("source", "tokens", "source_segments", "segments")
    if case.objective == "masked_lm":
        return ("tokens", "segments", "types", "positions")
    if case.length:
        return text_inputs(make_model(case, jnp.float32))
    return ("image", "noise") if case.objective == "elbo" else ("image",)


def objective_of(case: Case) -> Objective:
    """The training objective."""
    objectives = {
        "elbo": elbo,
        "classification": classification,
        "causal_lm": causal_lm,
        "masked_lm": masked_lm,
    }
    return (objectives | {"seq2seq": causal_lm})[case.objective]


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
    """Raises ConfigError for images or batches that the architecture cannot take."""
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
        raise ConfigError(
            f"{case.model} with images {case.image_shape}, batch {case.batch_size}: {e}"
        ) from e
