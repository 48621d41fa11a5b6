"""A stand-in for data that are not here: of them, a plan needs shapes alone."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from input_pipeline import DataError, DataSpec, is_own
from input_pipeline.cards import image_data, image_text_data, table_data, text_data
from input_pipeline.features import Number
from input_pipeline.prepare import data_root
from input_pipeline.tokenizers import KINDS, load_tokenizer, train_tokenizer, vocabulary_size
from train.config import Config, ConfigError, DataConfig
from train.setup import describe
from train.tasks import bundle_named
from train.tasks.checks import reads_images, reads_text

IMAGES: dict[str, tuple[tuple[int, int, int], int]] = {
    "digits": ((8, 8, 1), 10),
    "mnist": ((28, 28, 1), 10),
    "fashion_mnist": ((28, 28, 1), 10),
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
    "emoji": ((64, 64, 3), 9),
    "turned_digits": ((16, 16, 1), 0),
    "posed_digits": ((16, 16, 1), 0),
    "imagenet2012": ((224, 224, 3), 1000),
}
"""Public data sets -> shape of an image, classes; 0 where the label is numbers."""

TABLES = {"breast_cancer": (30, 2), "diabetes": (10, 0)}
"""Public data sets -> numbers in a row, classes; 0 where the label is numbers."""

NUMBERS = {"diabetes": 1, "turned_digits": 1, "posed_digits": 3}
"""Public data sets -> numbers of their label."""

TASKS_OF = {"emoji": {"label": 9, "subgroup": 99}}
"""Public data sets -> their labels, with the classes of each."""

LABELS = {"sst2": 2}
"""Public data sets of texts -> classes."""

CHARACTERS = {"tiny_shakespeare": 65}
"""Public data sets of texts -> different characters."""


@dataclass(frozen=True)
class Given:
    """What the command line says of the data; None where it says nothing."""

    image: tuple[int, int, int] | None = None
    classes: int | None = None
    vocab: int | None = None


def card_of(config: Config, given: Given) -> tuple[DataSpec, str]:
    """Shapes of the data, and in words where they are from.

    Data that are prepared are asked themselves; nothing is downloaded or prepared.

    Raises:
      ConfigError: the size of something is not known; it names the flag that says it.
    """
    if is_own(config.data.name):
        return describe(config), f"those of {config.data.name}"
    if given == Given() and _is_prepared(config):
        try:
            return describe(config), f"those of {config.data.name}, prepared"
        except (DataError, ConfigError):  # a tokenizer that is not here, a split that is missing
            pass
    data, image, text = config.data, None, None
    if data.name in TABLES:
        columns, classes = TABLES[data.name]
        ones, names = (1.0,) * columns, tuple(map(str, range(columns)))
        found = table_data(data.name, "0.0.0", {}, names, _names(classes), ones, ones, "")
        return _with_numbers(found), "known sizes"
    tasks = {name: TASKS_OF.get(data.name, {}).get(name, 0) for name in config.tasks.labels}
    if not all(tasks.values()):
        raise ConfigError(
            f"{data.name} is not prepared in {data_root(data.data_dir)}, and no flag says the "
            f"classes of config.tasks.labels = {config.tasks.labels}; prepare it first"
        )
    if reads_images(config):
        shape, classes = IMAGES.get(data.name, (None, None))
        shape, classes = given.image or shape, given.classes or classes
        if shape is None and data.image_size is not None:
            shape = (data.image_size, data.image_size, 3)
        if shape is None:
            raise ConfigError(_missing(data, "the images", "--image=HEIGHTxWIDTHxCHANNELS"))
        if classes is None:
            raise ConfigError(_missing(data, "the classes", "--classes=NUMBER"))
        if data.image_size is not None:
            shape = (data.image_size, data.image_size, shape[2])
        found = image_data(data.name, "0.0.0", {}, shape, classes, _names(classes), "", tasks)
        image = _with_numbers(found)
    if reads_text(config):
        text = _texts(config, given)
    where = "sizes from the config and the command line; the data are not here"
    return (image_text_data(image, text) if image and text else image or text), where


def _with_numbers(spec: DataSpec) -> DataSpec:
    """The data set with the numbers that its label is known to be, if it is."""
    if spec.name not in NUMBERS:
        return spec
    label = Number(NUMBERS[spec.name])
    return dataclasses.replace(spec, features={**spec.features, "label": label})


def _texts(config: Config, given: Given) -> DataSpec:
    data, form = config.data, bundle_named(config.task).form
    classes = given.classes or LABELS.get(data.name) or config.model_fields.get("num_classes")
    if form == "labels" and not reads_images(config) and classes is None:
        raise ConfigError(_missing(data, "the classes", "--classes=NUMBER"))
    return text_data(
        name=data.name,
        version="0.0.0",
        splits={},
        vocab_size=_vocabulary(config, given),
        max_len=data.max_len,
        # of the tokenizer, a training step asks only which tokens are special
        tokenizer=train_tokenizer("wordpiece", ["a word"], 20).to_str(),
        directory="",
        form=form,
        label_names=_names(classes) if form == "labels" and classes else (),
        isolate=data.isolate_documents,
        buckets=tuple(sorted({*data.buckets, data.max_len})) if data.buckets else (),
    )


def _vocabulary(config: Config, given: Given) -> int:
    data = config.data
    if given.vocab is not None:
        return given.vocab
    if data.tokenizer == "characters":
        if data.name in CHARACTERS:
            return CHARACTERS[data.name]
        raise ConfigError(_missing(data, "the characters", "--vocab=NUMBER"))
    if data.tokenizer in KINDS or data.vocab_size != DataConfig().vocab_size:
        return data.vocab_size
    if Path(data.tokenizer).expanduser().exists():
        return vocabulary_size(load_tokenizer(data.tokenizer))
    if "vocab_size" in config.model_fields:
        return config.model_fields["vocab_size"]
    raise ConfigError(
        f"config.data.tokenizer = {data.tokenizer!r} is not here to be asked for its size; say it "
        "with --vocab=NUMBER"
    )


def _is_prepared(config: Config) -> bool:
    """Whether the data set itself lies on disk; whether it suits, it says itself."""
    root = data_root(config.data.data_dir)
    name = config.data.name.partition(":")[0]
    return any((root / name).glob("[0-9]*/dataset_info.json"))


def _names(count: int) -> tuple[str, ...]:
    return tuple(map(str, range(count)))


def _missing(data: DataConfig, what: str, flag: str) -> str:
    return f"{data.name} is not prepared in {data_root(data.data_dir)}; say {what} with {flag}"
