"""Typed configuration: dataclasses, overrides from the command line, and checks that run before any
work.

A config file defines ``get_config() -> Config``. Every value, from the file or from
``--config.a.b=value``, is checked against its annotation, its choices and its limits; a mistake is
a :class:`ConfigError` of one line that names the field, the value and the nearest right one.
"""

import copy
import dataclasses
import difflib
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jaxmodels
from jaxmodels.families.fusion.model import MODALITIES
from train import dormant
from train.fields import (
    COUNT,
    ConfigError,
    check_limits,
    check_section,
    check_type,
    coerce,
    fill,
    limit,
    nearest_multiples,
    nearest_name,
    section_differences,
    set_field,
    shown,
)

OBJECTIVES: dict[type, tuple[str, ...]] = {
    jaxmodels.VAE: ("elbo",),
    jaxmodels.GPT2: ("causal_lm",),
    jaxmodels.BERT: ("masked_lm", "classification", "regression"),
    jaxmodels.LSTMClassifier: ("classification", "regression"),
    jaxmodels.Transformer: ("seq2seq",),
    jaxmodels.DualEncoder: ("contrastive",),
}
"""Of the classes of models that are for other objectives than classification."""

IMAGE_AND_TEXT = (jaxmodels.Fusion, jaxmodels.DualEncoder)
"""Classes of models that take both."""

HEADS = {
    "masked_lm": "pretraining",
    "classification": "classification",
    "regression": "classification",
}
"""Objective -> field ``head`` of the models that have one."""

EXAMPLES = 2**20
"""The most examples of a batch."""


PIXELS = 2**13
"""The most pixels of a side."""

SIZES = {
    **dict.fromkeys(("num_layers", "stage_sizes"), 2**9),
    **dict.fromkeys(("num_heads", "pooled_size"), 2**12),
    **dict.fromkeys(("patch_size", "image_shape"), PIXELS),
    **dict.fromkeys(
        ("hidden_size", "hidden_sizes", "mlp_dim", "embed_size", "width", "max_len"), 2**20
    ),
    **dict.fromkeys(
        ("features", "stage_features", "latent_size", "outer_size", "representation_size"), 2**20
    ),
    **dict.fromkeys(("vocab_size", "target_vocab_size", "type_vocab_size", "num_classes"), 2**24),
}
"""Field of a model -> the greatest whole number in it: ten times and more what any published model
has."""

# may differ when a workdir is resumed: does not change what is computed
RESUMABLE = {"resumable": True}
ORDERED = {"ordered": True}  # a dict whose order counts


@dataclass
class DataConfig:
    """Where examples come from and what is done to them. Images are uint8 until they are on the
    device."""

    name: str = "digits"  # a built-in data set, or any prepared TFDS data set in data_dir
    train_split: str = "train"  # TFDS split strings, slices allowed: "train[:90%]"
    eval_split: str = "test"
    # None: $TFDS_DATA_DIR or ~/tensorflow_datasets
    data_dir: str | None = field(default=None, metadata=RESUMABLE)
    # raw files of the data set, if you have them
    raw_dir: str | None = field(default=None, metadata=RESUMABLE)
    # resize to this many pixels, height and width
    image_size: int | None = field(default=None, metadata=limit(low=1, high=PIXELS))
    # resize to this, then crop the centre
    resize_size: int | None = field(default=None, metadata=limit(low=1, high=PIXELS))
    # training: random crops of (smallest, largest) share of the area, resized
    crop_area: tuple[float, ...] = field(default=(), metadata=limit(above=0, high=1))
    # training: operations per image
    randaugment_layers: int = field(default=0, metadata=limit(low=0, high=100))
    # of the largest
    randaugment_magnitude: float = field(default=0.3, metadata=limit(low=0, high=1))
    mean: tuple[float, ...] = (0.5,)  # of x / 255, one value or one per channel
    std: tuple[float, ...] = (0.5,)
    # pad by this many pixels and crop at random
    crop_padding: int = field(default=0, metadata=limit(low=0, high=PIXELS))
    flip: bool = False  # left-right with probability 1/2
    # probability of random erasing per image
    erasing: float = field(default=0.0, metadata=limit(low=0, high=1))
    mixup: float = field(default=0.0, metadata=limit(low=0, high=1e6))  # alpha of mixup; 0 is off
    # text: characters, words, bpe or wordpiece, trained on train_split; or a tokenizer.json, or a
    # directory with vocab.txt, with GPT-2's encoder.json and vocab.bpe or with a SentencePiece
    # model, or a Hugging Face hub id
    tokenizer: str = "bpe"
    # of a tokenizer trained here, at most
    vocab_size: int = field(default=8192, metadata=limit(low=2, high=COUNT))
    max_len: int = field(default=256, metadata=limit(low=1, high=2**20))  # tokens of an example
    # attention stays within a document and positions start anew in each
    isolate_documents: bool = False
    # features with the text and its pair, or source and target; empty: those there are
    texts: tuple[str, ...] = ()
    # labels, pairs: lengths below max_len to which batches of shorter texts are padded
    buckets: tuple[int, ...] = ()
    # masked_lm: share of the tokens
    mask_rate: float = field(default=0.15, metadata=limit(above=0, below=1))
    # labelled texts, training: probability that a text is cut to a span of its tokens; for what a
    # teacher labels
    crop_text: float = field(default=0.0, metadata=limit(low=0, high=1))
    # images with a text, training: probability that one of the two, drawn at random, is hidden from
    # the model
    hide_rate: float = field(default=0.0, metadata=limit(low=0, high=1))


@dataclass
class OptimConfig:
    """Optimiser, schedule; ``learning_rate`` is the peak. Weight decay is decoupled, for sgd L2 (as
    PyTorch)."""

    name: Literal["adamw", "sgd", "lion", "adafactor"] = "adamw"
    learning_rate: float = field(default=1e-3, metadata=limit(above=0, high=1e4))
    schedule: Literal["cosine", "linear", "rsqrt", "constant"] = "cosine"
    warmup_steps: int = field(default=0, metadata=limit(low=0))
    # last learning rate / peak (cosine, linear)
    end_factor: float = field(default=0.0, metadata=limit(low=0, high=1))
    # on parameters with two or more dimensions
    weight_decay: float = field(default=0.0, metadata=limit(low=0))
    # of the gradients, global
    clip_norm: float | None = field(default=None, metadata=limit(above=0))
    b1: float = field(default=0.9, metadata=limit(low=0, below=1))  # adamw, lion
    b2: float = field(default=0.999, metadata=limit(low=0, below=1))  # adamw, lion
    eps: float = field(default=1e-8, metadata=limit(above=0))  # adamw
    momentum: float = field(default=0.9, metadata=limit(low=0, below=1))  # sgd
    nesterov: bool = False  # sgd
    # of the parameters; evaluated when > 0
    ema_decay: float = field(default=0.0, metadata=limit(low=0, below=1))
    freeze: tuple[str, ...] = ()  # patterns (see Config) of parameters that stay as they are
    # pattern -> times the rate; first match
    rates: dict[str, float] = field(default_factory=dict, metadata=ORDERED)


@dataclass
class MeshConfig:
    """Devices along each axis; -1 (at most once) takes what the others leave.

    Of several TPU slices each is a part of ``data``, which their number must divide.
    """

    data: int = field(default=-1, metadata=RESUMABLE)  # replicas of the parameters, examples split
    fsdp: int = field(default=1, metadata=RESUMABLE)  # examples and parameters split
    # tokens of each example split, of transformers
    sequence: int = field(default=1, metadata=RESUMABLE)
    tensor: int = field(default=1, metadata=RESUMABLE)  # features split


@dataclass
class CheckpointConfig:
    """What is kept in ``WORKDIR/checkpoints``. Every evaluation saves too, so that the best can be
    kept."""

    every: int = field(default=500, metadata=limit(low=1) | RESUMABLE)  # steps
    keep_last: int = field(default=2, metadata=limit(low=1) | RESUMABLE)
    # by accuracy, loss or ELBO on eval_split
    keep_best: int = field(default=1, metadata=limit(low=0) | RESUMABLE)


@dataclass
class ProcessesConfig:
    """Of a run with several processes, see docs/processes.md."""

    # that the first to start waits
    join_seconds: float = field(default=300.0, metadata=limit(above=0, high=1e6) | RESUMABLE)
    # of silence, and one counts as lost
    lost_seconds: float = field(default=60.0, metadata=limit(low=1, high=1e6) | RESUMABLE)


@dataclass
class VAEConfig:
    """Of objective elbo."""

    # weight of the Kullback-Leibler divergence in the loss
    beta: float = field(default=1.0, metadata=limit(low=0))
    # draws per image for log p(x) at the end
    importance_samples: int = field(default=64, metadata=limit(low=1, high=2**20))


@dataclass
class TasksConfig:
    """Several tasks at once: ``loss = sum_i w_i L_i``. Objective masked_lm has the tasks masked and
    next."""

    # classification: features that are class labels, each a task; empty: label alone
    labels: tuple[str, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)  # w_i; 1 of those that are not named
    learned: bool = False  # weights are learned too, as the inverse of each task's variance


@dataclass
class BeamConfig:
    """Of the translations by which objective seq2seq is measured when a run ends."""

    beams: int = field(default=4, metadata=limit(low=1, high=2**10))
    # scores are divided by length to this power
    length_penalty: float = field(default=1.0, metadata=limit(low=-100, high=100))
    # sacrebleu's; BLEU counts what it gives
    bleu_tokenizer: Literal["13a", "intl", "char", "zh", "none"] = "13a"


@dataclass
class PruneConfig:
    """Weights that go, while a run trains or before it does: kernels that train, but for the
    head's."""

    # share at the end; 0: no pruning
    sparsity: float = field(default=0.0, metadata=limit(low=0, below=1))
    # of all kernels together, of each, or of every 4 consecutive inputs 2: that is sparsity 0.5, at
    # once
    scope: Literal["global", "layer", "2:4"] = "global"
    # which: the smallest; or, once before step 0, of what init_from gives those that matter least
    # to what their layer computes, for which those that stay make up (jaxmodels.compress.surgeon)
    method: Literal["magnitude", "surgeon"] = "magnitude"
    begin_step: int = field(default=0, metadata=limit(low=0))  # steps done before the first go
    # and before the last do; 0: all at once
    end_step: int = field(default=0, metadata=limit(low=0))
    every: int = field(default=100, metadata=limit(low=1))  # steps from one time to the next
    # of train_split, for the surgeon
    examples: int = field(default=2048, metadata=limit(low=1, high=EXAMPLES))


@dataclass
class DistillConfig:
    """A teacher whose logits a classifier learns from as well (Hinton et al. 2015)."""

    # the workdir of another run on the same data (its best checkpoint, or the last where none has a
    # score), or weights that say themselves what they are: a directory of transformers or a Hugging
    # Face hub id
    teacher: str | None = None
    temperature: float = field(default=4.0, metadata=limit(above=0))
    # weight of the teacher; 1 - alpha of the labels
    alpha: float = field(default=0.9, metadata=limit(low=0, high=1))
    # weight of the angle between what both heads take, which must be as wide (Sanh et al. 2019); 0:
    # logits alone
    hidden: float = field(default=0.0, metadata=limit(low=0))


@dataclass
class Config:
    """One run. The same config gives the same run, bit for bit, on the same kind and number of
    devices.

    On GPUs that takes XLA_FLAGS=--xla_gpu_deterministic_ops=true.

    Patterns name parameters by the first components of their paths, with shell wildcards inside a
    component: ``stage_1_block_0`` is that whole block, ``*/bn_1/scale`` one parameter of every
    block, ``stage_[12]_*`` two stages. One that matches nothing is an error.

    A module all of whose parameters are frozen (``optim.freeze``) runs as in evaluation: no dropout
    in it, batch norm by its running statistics, which stay as they are. Factors of ``optim.rates``
    act on the whole update, decoupled weight decay included, as a PyTorch parameter group's own
    rate; ``--config.optim.rates.head=10`` sets one.
    """

    model: str = "cnn"  # a name of jaxmodels.list_models()
    # of that module; the data say num_classes, image_shape
    model_fields: dict[str, Any] = field(default_factory=dict)
    # elbo: for the models vae and vae_conv; causal_lm: next tokens, for the models gpt2_*;
    # masked_lm: masked tokens and the next sentence, for bert_* and minilm_*; seq2seq: translation,
    # for transformer_*; contrastive: images and their texts find each other, for dual_encoder;
    # regression: a number of a text, for bert_*, minilm_*, lstm and bilstm
    objective: Literal[
        "classification", "regression", "elbo", "causal_lm", "masked_lm", "seq2seq", "contrastive"
    ] = "classification"
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    processes: ProcessesConfig = field(default_factory=ProcessesConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    beam: BeamConfig = field(default_factory=BeamConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    # initial parameters: the workdir of another run (its best checkpoint, or the last where none
    # has a score), a .safetensors file or a directory of them, or a Hugging Face hub id; read once,
    # when a run begins. A part of a file that the model does not have is named in init_skip with
    # dots, as the file does: "vit.pooler"
    init_from: str | None = None
    # patterns of what starts fresh all the same; None: the head; (): nothing
    init_skip: tuple[str, ...] | None = None
    # the same for the encoders of fusion and dual_encoder: "image" or "text" -> source; init_skip
    # is of paths in them
    init_parts: dict[str, str] = field(default_factory=dict)
    seed: int = field(default=0, metadata=limit(low=0, high=2**32 - 1))
    steps: int = field(default=1000, metadata=limit(low=1))  # optimiser steps
    # examples per step, on all devices
    batch_size: int = field(default=128, metadata=limit(low=1, high=EXAMPLES))
    # micro-batches per optimiser step
    accumulate: int = field(default=1, metadata=limit(low=1, high=EXAMPLES))
    # optimiser steps of one call to the device: more where a step is shorter than what the host
    # does between two
    steps_per_execution: int = field(default=1, metadata=limit(low=1, high=10_000))
    eval_batch_size: int = field(default=512, metadata=limit(low=1, high=EXAMPLES))
    eval_every: int = field(default=500, metadata=limit(low=1))  # steps
    log_every: int = field(default=50, metadata=limit(low=1))  # steps
    label_smoothing: float = field(default=0.0, metadata=limit(low=0, high=1))
    # of the computation; parameters are stored in float32
    dtype: Literal["float32", "bfloat16"] = "float32"
    # trains and evaluates with the rounding of int8, see jaxmodels.compress.quantize
    quantization_aware: bool = False


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    say: Callable[[str], None] = lambda text: None,
) -> Config:
    """Runs ``get_config()`` of a config file, applies ``a.b=value`` overrides and checks the
    result.

    A warm-up of the file that fewer steps leave no room for keeps its share of the steps.

    Args:
      say: told of that, in one line.

    Raises:
      ConfigError: no such file, not a config file, or a field that is unknown, of the wrong type or
        out of its limits.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.stem, [p.stem for p in path.parent.glob("*.py")], n=1)
        hint = (
            f"; did you mean {path.parent / near[0]}.py?"
            if near
            else "; python -m train --list shows those there are"
        )
        raise ConfigError(f"config file {path} does not exist{hint}")
    spec = importlib.util.spec_from_file_location(f"configs.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"config file {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as e:
        raise ConfigError(f"config file {path}: {type(e).__name__}: {e}") from e
    if not isinstance(config, Config):
        raise ConfigError(
            f"config file {path}: get_config() returned {type(config).__name__}, not a "
            "train.config.Config"
        )
    of_file = copy.deepcopy(config)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"--config.{override} has no value; write --config.{override}=VALUE")
        set_field(config, key, text)
    told = {override.partition("=")[0] for override in overrides}
    check_section(config, "config")
    try:
        check_section(of_file, "config")
    except ConfigError:  # which the command line mends
        of_file = config
    if "optim.warmup_steps" not in told:
        _shorten_warmup(config, of_file, say)
    check(config)
    # what belongs to something that the command line switches off is no mistake
    without = {k: v for k, v in _dormant(config).items() if k in told or k in _dormant(of_file)}
    if without:
        raise ConfigError(dormant.complaint(config, without))
    return config


def _shorten_warmup(config: Config, of_file: Config, say: Callable[[str], None]) -> None:
    """Gives the warm-up of a file its share of the steps again, where fewer steps leave no room for
    it."""
    warmup, steps = of_file.optim.warmup_steps, config.steps
    if warmup < of_file.steps and warmup >= steps:
        shorter = min(max(1, round(warmup * steps / of_file.steps)), steps - 1)
        of = f"the same share of config.steps = {steps} as {warmup} is of {of_file.steps}"
        say(
            f"config.optim.warmup_steps = {warmup} does not fit and is shortened to {shorter}, {of}"
        )
        config.optim.warmup_steps = shorter


def _awake(config: Config) -> Config:
    """A copy with defaults for options that have no effect."""
    config = copy.deepcopy(config)
    for name in _dormant(config):
        dormant.reset(config, name)
    return config


def _dormant(config: Config) -> dict[str, str]:
    return dormant.dormant(config, text=config.model in jaxmodels.MODELS and reads_text(config))


def check(config: Config) -> None:
    """Checks types, choices, limits and what fields say about each other; needs no device.

    Raises:
      ConfigError: for the first field that is wrong.
    """
    check_section(config, "config")
    if config.batch_size % config.accumulate:
        near = nearest_multiples(config.batch_size, config.accumulate)
        raise ConfigError(
            f"config.batch_size = {config.batch_size} is not divisible by config.accumulate = "
            f"{config.accumulate}; nearest: {near}"
        )
    _check_steps_per_execution(config)
    if config.optim.warmup_steps >= config.steps:
        raise ConfigError(
            f"config.optim.warmup_steps = {config.optim.warmup_steps} is not below config.steps = "
            f"{config.steps}; nearest: {config.steps - 1}"
        )
    if len(config.data.mean) != len(config.data.std):
        raise ConfigError(
            f"config.data.mean = {shown(config.data.mean)} and config.data.std = "
            f"{shown(config.data.std)} differ in length"
        )
    if any(s <= 0 for s in config.data.std):
        raise ConfigError(
            f"config.data.std = {shown(config.data.std)} must be positive; nearest: 0.5"
        )
    sizes = dataclasses.asdict(config.mesh)
    if list(sizes.values()).count(-1) > 1:
        raise ConfigError(f"config.mesh = {sizes}: only one axis can be -1")
    for name, size in sizes.items():
        if size < 1 and size != -1:
            raise ConfigError(
                f"config.mesh.{name} = {size} must be a number of devices or -1; nearest: 1"
            )
    if config.objective in ("regression", "elbo", "contrastive"):
        for name, value in (
            ("label_smoothing", config.label_smoothing),
            ("data.mixup", config.data.mixup),
        ):
            if value:
                what = f"objective {config.objective} has none"
                raise ConfigError(
                    f"config.{name} = {shown(value)} is for labels, and {what}; nearest: 0"
                )
    for pattern, rate in config.optim.rates.items():
        if rate <= 0:
            raise ConfigError(
                f"config.optim.rates.{pattern} = {rate} must be above 0; config.optim.freeze stops "
                "training"
            )
    _check_model(config)
    if config.mesh.sequence != 1 and "attention" not in jaxmodels.model_fields(config.model):
        raise ConfigError(
            f"config.mesh.sequence = {config.mesh.sequence} splits the tokens of transformers, and "
            f"model {config.model!r} is none; nearest: 1"
        )
    _check_compression(config)
    if reads_text(config) and not reads_images(config):
        _require_no_images(config, f"model {config.model!r} reads text")
    _check_text(config)
    _check_image_text(config)
    _check_tasks(config)


def _check_steps_per_execution(config: Config) -> None:
    count, of = (
        config.steps_per_execution,
        f"config.steps_per_execution = {config.steps_per_execution}",
    )
    whole = {"steps": config.steps, "log_every": config.log_every, "eval_every": config.eval_every}
    for name, value in (whole | {"checkpoint.every": config.checkpoint.every}).items():
        if value % count:
            near = nearest_multiples(value, count)
            raise ConfigError(
                f"config.{name} = {shown(value)} is not divisible by {of}; nearest: {near}"
            )
    if count > 1 and config.data.buckets:
        raise ConfigError(f"{of} needs batches of one length; nearest: config.data.buckets = ()")


def _check_compression(config: Config) -> None:
    prune = config.prune
    if prune.sparsity:
        if not prune.begin_step <= prune.end_step < config.steps:
            raise ConfigError(
                f"config.prune.begin_step = {prune.begin_step}, config.prune.end_step = "
                f"{prune.end_step} and config.steps = {config.steps} must be in this order, the "
                "end below the steps"
            )
        if prune.scope == "2:4" and prune.sparsity != 0.5:
            raise ConfigError(
                f"config.prune.sparsity = {prune.sparsity} with scope 2:4; nearest: 0.5"
            )
        if prune.method == "surgeon":
            _check_surgeon(config)
    if config.distill.teacher is not None and config.objective != "classification":
        raise ConfigError(
            f"config.distill.teacher = {shown(config.distill.teacher)} is for objective "
            f"classification, not for {config.objective!r}; nearest: config.distill.teacher = None"
        )


def _check_surgeon(config: Config) -> None:
    """Needs what is to be pruned when the run begins, and what of it is padding."""
    prune, of = config.prune, "config.prune.method = 'surgeon'"
    if config.init_from is None:
        raise ConfigError(
            f"{of} prunes what was trained; set config.init_from to it, or "
            "config.prune.method=magnitude"
        )
    for name in ("begin_step", "end_step"):
        if getattr(prune, name):
            raise ConfigError(
                f"config.prune.{name} = {getattr(prune, name)}, but {of} prunes at once; nearest: 0"
            )
    if prune.scope == "2:4":
        raise ConfigError(f"config.prune.scope = '2:4' is not for {of}; nearest: 'layer'")
    if config.objective == "seq2seq":
        raise ConfigError(f"{of} is not for objective seq2seq; nearest: 'magnitude'")


def _check_text(config: Config) -> None:
    if config.data.isolate_documents and config.objective != "causal_lm":
        raise ConfigError(
            "config.data.isolate_documents = True is for objective causal_lm; nearest: "
            "config.data.isolate_documents = False"
        )
    rate = config.data.crop_text
    labelled = (
        reads_text(config) and not reads_images(config) and config.objective == "classification"
    )
    if rate and not labelled:
        raise ConfigError(
            f"config.data.crop_text = {rate} is for labelled texts; nearest: config.data.crop_text "
            "= 0.0"
        )
    buckets, longest = config.data.buckets, config.data.max_len
    if buckets and not (
        reads_text(config) and config.objective in ("classification", "regression", "seq2seq")
    ):
        raise ConfigError(
            f"config.data.buckets = {shown(buckets)} is for labelled texts and for pairs; nearest: "
            "config.data.buckets = ()"
        )
    if any(not 0 < length < longest for length in buckets):
        raise ConfigError(
            f"config.data.buckets = {shown(buckets)} must be between 0 and config.data.max_len = "
            f"{longest}"
        )


def _check_image_text(config: Config) -> None:
    both = reads_text(config) and reads_images(config)
    for name in config.init_parts:
        if not both or name not in MODALITIES:
            raise ConfigError(
                f"config.init_parts.{name} is not an encoder of model {config.model!r}"
            )
    if config.init_parts and config.init_from:
        raise ConfigError("config.init_from and config.init_parts exclude each other")
    for name, value, wrong in (
        ("hide_rate", config.data.hide_rate, not both or config.objective == "contrastive"),
        ("mixup", config.data.mixup, both),
        ("buckets", config.data.buckets, both),
    ):
        if value and wrong:
            what = f"model {config.model!r} with objective {config.objective!r}"
            raise ConfigError(
                f"config.data.{name} = {shown(value)} is not for {what}; nearest: {type(value)()}"
            )


def _check_tasks(config: Config) -> None:
    tasks = task_names(config)
    for name in config.tasks.weights:
        if name not in tasks:
            raise ConfigError(
                f"config.tasks.weights.{name} is of no task"
                + (nearest_name(name, tasks) or f"; objective {config.objective!r} has but one")
            )
    for name, weight in config.tasks.weights.items():
        if weight <= 0:
            raise ConfigError(f"config.tasks.weights.{name} = {weight} must be above 0")
    if config.tasks.labels and config.objective != "classification":
        raise ConfigError(
            f"config.tasks.labels = {shown(config.tasks.labels)} are for objective classification, "
            f"not for {config.objective!r}; nearest: ()"
        )
    if config.tasks.labels and (config.data.mixup or config.data.buckets):
        name = "mixup" if config.data.mixup else "buckets"
        raise ConfigError(
            f"config.data.{name} is for one label, not for config.tasks.labels = "
            f"{shown(config.tasks.labels)}"
        )
    if len(set(config.tasks.labels)) < len(config.tasks.labels):
        raise ConfigError(
            f"config.tasks.labels = {shown(config.tasks.labels)} names one of them twice"
        )
    if config.tasks.learned and len(tasks) < 2:
        raise ConfigError(
            "config.tasks.learned = True is for several tasks; name them with config.tasks.labels"
        )


def task_names(config: Config) -> tuple[str, ...]:
    """Of a run with several tasks, in order; else ()."""
    return ("masked", "next") if config.objective == "masked_lm" else config.tasks.labels


def reads_text(config: Config) -> bool:
    """Whether the model takes text: its data are tokens."""
    return "vocab_size" in jaxmodels.model_fields(config.model)


def reads_images(config: Config) -> bool:
    """Whether the model takes images, alone or with a text; or, if its data are a table, rows of
    numbers."""
    return not reads_text(config) or jaxmodels.model_class(config.model) in IMAGE_AND_TEXT


def check_table(config: Config) -> None:
    """Checks a config whose data are a table: rows of numbers.

    Raises:
      ConfigError: a model or an option that is for images.
    """
    if jaxmodels.model_class(config.model) is not jaxmodels.MLP:
        raise ConfigError(
            f"config.model = {config.model!r} is for images, and {config.data.name} is a table; "
            "nearest: config.model = 'mlp'"
        )
    _require_no_images(config, f"{config.data.name} is a table")


def _require_no_images(config: Config, instead: str) -> None:
    plain = DataConfig()
    for name in (
        "image_size",
        "resize_size",
        "crop_area",
        "randaugment_layers",
        "mean",
        "std",
        "crop_padding",
        "flip",
        "erasing",
        "mixup",
    ):
        value, default = getattr(config.data, name), getattr(plain, name)
        if value != default:
            raise ConfigError(
                f"config.data.{name} = {shown(value)} is for images, and {instead}; nearest: "
                f"{default!r}"
            )


def check_batch(config: Config, shards: int) -> None:
    """Checks that batches split evenly over ``shards`` = data x fsdp devices, micro-batch by
    micro-batch."""
    for name, size, unit in (
        ("batch_size", config.batch_size, shards * config.accumulate),
        ("eval_batch_size", config.eval_batch_size, shards),
    ):
        if size % unit:
            of = f"mesh data x fsdp = {shards}"
            of += f" times accumulate = {config.accumulate}" if unit != shards else ""
            near = nearest_multiples(size, unit)
            raise ConfigError(f"config.{name} = {size} is not divisible by {of}; nearest: {near}")


def resolve_text_fields(config: Config, vocab_size: int, num_classes: int) -> dict[str, Any]:
    """``config.model_fields`` plus what the model has to know of the text: vocabulary, longest
    text, classes if any."""
    fields = dict(config.model_fields)
    known = jaxmodels.model_fields(config.model)
    if (
        num_classes
        and "num_classes" in known
        and fields.setdefault("num_classes", num_classes) < num_classes
    ):
        raise ConfigError(
            f"config.model_fields.num_classes = {fields['num_classes']} is below the {num_classes} "
            f"classes of {config.data.name}; nearest: {num_classes}"
        )
    for name, needed, of in (
        ("vocab_size", vocab_size, f"tokens of data.tokenizer = {shown(config.data.tokenizer)}"),
        ("max_len", config.data.max_len, "tokens of config.data.max_len"),
    ):
        if name in known and fields.setdefault(name, needed) < needed:
            raise ConfigError(
                f"config.model_fields.{name} = {fields[name]} is below the {needed} {of}; nearest: "
                f"{needed}"
            )
    return fields


def resolve_model_fields(
    config: Config, num_classes: int, image_shape: tuple[int, ...]
) -> dict[str, Any]:
    """``config.model_fields`` plus what the model has to know of the data: number of classes, shape
    of the images."""
    known, fields = jaxmodels.model_fields(config.model), dict(config.model_fields)
    if "num_classes" in known and fields.setdefault("num_classes", num_classes) < num_classes:
        raise ConfigError(
            f"config.model_fields.num_classes = {fields['num_classes']} is below the {num_classes} "
            f"classes of {config.data.name}; nearest: {num_classes}"
        )
    if "image_shape" in known and fields.setdefault("image_shape", image_shape) != image_shape:
        raise ConfigError(
            f"config.model_fields.image_shape = {fields['image_shape']} is not that of "
            f"{config.data.name}'s images; nearest: {image_shape}"
        )
    return fields


def to_json(config: Config) -> str:
    """The resolved config as JSON text; :func:`from_json` reads it back."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Reads what :func:`to_json` wrote. Raises ConfigError where it does not fit this version's
    fields."""
    config = Config()
    try:
        values = json.loads(text)
    except RecursionError:
        raise ConfigError("the JSON of the config is nested too deeply") from None
    fill(config, values, "config")
    check(config)
    return config


def differences(a: Config, b: Config) -> list[str]:
    """Fields that change what is computed and differ, as ``"config.seed: 0 -> 1"``.

    Resumable fields and those that have no effect are left out.
    """
    return section_differences(_awake(a), _awake(b), "config")


def _check_size(value: Any, key: str, name: str) -> None:
    """Whole numbers of a model's field, in tuples and in fields of the models within it too, are no
    absurd ones."""
    if isinstance(value, dict):
        for k, v in value.items():
            _check_size(v, str(k), f"{name}.{shown(k)}")
        return
    if isinstance(value, tuple | list):
        for item in value:
            _check_size(item, key, name)
    if type(value) is int:
        check_limits(value, limit(low=-COUNT, high=SIZES.get(key, COUNT)), name)


def _check_model(config: Config) -> None:
    try:
        known = jaxmodels.model_fields(config.model)
    except ValueError as e:
        raise ConfigError(f"config.model: {e}") from None
    for key, value in config.model_fields.items():
        name = f"config.model_fields.{key}"
        if key not in known or key in ("dtype", "param_dtype"):
            hint = (
                "; set config.dtype"
                if key in ("dtype", "param_dtype")
                else nearest_name(key, known)
            )
            raise ConfigError(f"{name} is not a field of model {config.model!r}{hint}")
        value = config.model_fields[key] = coerce(value, known[key])
        check_type(value, known[key], name)
        _check_size(value, key, name)
    fitting = OBJECTIVES.get(jaxmodels.model_class(config.model), ("classification",))
    if config.objective not in fitting:
        raise ConfigError(
            f"config.objective = {config.objective!r} does not fit model {config.model!r}; "
            f"nearest: config.objective = {fitting[0]!r}"
        )
    head = HEADS.get(config.objective)
    if "head" in known and config.model_fields.setdefault("head", head) != head:
        raise ConfigError(
            f"config.model_fields.head = {config.model_fields['head']!r} is not for objective "
            f"{config.objective!r}; nearest: {head!r}"
        )
