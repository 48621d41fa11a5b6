"""The options of a run: typed dataclasses with their defaults and limits.

:mod:`train.config` reads and checks them.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from train.options.fields import COUNT, limit

EXAMPLES = 2**20
"""The most examples of a batch."""

PIXELS = 2**13
"""The most pixels of a side."""

# may differ when a workdir is resumed: does not change what is computed
RESUMABLE = {"resumable": True}
ORDERED = {"ordered": True}  # a dict whose order counts


@dataclass
class DataConfig:
    """Where examples come from and what is done to them. Images are uint8 until they are on the
    device."""

    # a built-in data set, any prepared TFDS data set in data_dir, or package.module:attribute of
    # your own
    name: str = "digits"
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
class TasksConfig:
    """Several tasks at once: ``loss = sum_i w_i L_i``. Task masked_lm has the parts masked and
    next."""

    # classification: features that are class labels, each a task; empty: label alone
    labels: tuple[str, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)  # w_i; 1 of those that are not named
    learned: bool = False  # weights are learned too, as the inverse of each task's variance


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

    # a name of jaxmodels.list_models(), or package.module:attribute of your own
    model: str = "cnn"
    # of that module; the data say num_classes, image_shape
    model_fields: dict[str, Any] = field(default_factory=dict)
    # what it learns: a name of train.tasks.TASKS, or package.module:attribute of your own
    task: str = "classification"
    # of that task: a dataclass in its file, train/tasks/NAME.py; {}: its defaults
    options: Any = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    processes: ProcessesConfig = field(default_factory=ProcessesConfig)
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
    # of the computation; parameters are stored in float32
    dtype: Literal["float32", "bfloat16"] = "float32"
    # trains and evaluates with the rounding of int8, see jaxmodels.compress.quantize
    quantization_aware: bool = False
