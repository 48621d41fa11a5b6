"""Accounting for the keys of a ``config.json`` of transformers.

Every key is applied, on a list of those that change nothing, or refused by name. Names, defaults
and precedence are those of transformers' config classes (5.23) and of the files that its versions
since 2 wrote.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flax import linen as nn

from jaxmodels.foreign.json_files import short
from jaxmodels.foreign.rules import WeightsError

Shape = tuple[int, ...]
Config = Mapping[str, Any]

MAX_LAYERS, MAX_HEADS, MAX_WIDTH = 1_000, 4_096, 2**18
MAX_VOCABULARY, MAX_LENGTH, MAX_LABELS = 2**25, 2**20, 2**20
MAX_PIXELS, MAX_CHANNELS = 2**14, 2**10
"""Beyond these a size is a mistake, and nothing is traced or allocated by it."""
MAX_MATRIX = 2**31
"""Numbers in one matrix."""


class Setting(NamedTuple):
    """A key that is applied: its default, and what turns a value into ours; ValueError says what it
    must be."""

    default: Any
    read: Callable[[Any], Any]


def whole(default: int, most: int, least: int = 1) -> Setting:
    """A whole number."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"it must be a whole number, as {default}")
        if not least <= value <= most:
            raise ValueError(f"it must be {least:,} to {most:,}")
        return value

    return Setting(default, read)


def number(default: float, least: float = 0.0, below: float = 1e6) -> Setting:
    """A number; ``below`` itself is too much."""

    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"it must be a number, as {default}")
        if not least <= value < below:  # NaN is neither
            raise ValueError(f"it must be at least {least:g} and below {below:g}")
        return float(value)

    return Setting(default, read)


def rate(default: float) -> Setting:
    """A dropout rate."""
    return number(default, 0.0, 1.0)


def flag(default: bool) -> Setting:
    """true or false."""

    def read(value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError("it must be true or false")
        return value

    return Setting(default, read)


def optional(setting: Setting) -> Setting:
    """The same, or null, which is the default."""
    return Setting(None, lambda value: None if value is None else setting.read(value))


ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",  # its constant sqrt(2 / pi) has ten digits
    "relu": "relu",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
"""transformers' names of the functions there are here."""


def activation(default: str) -> Setting:
    """One of transformers' names, as our name."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise ValueError(f"there are {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]

    return Setting(default, read)


def activation_name(activation: str, tanh: str) -> str:
    """transformers' name of our activation; ``tanh``: of the approximated GELU.

    Raises:
      WeightsError: it has none.
    """
    name = tanh if activation == "gelu_tanh" else activation
    if ACTIVATIONS.get(name) != activation:
        raise WeightsError(f"activation {activation!r} has no name in transformers")
    return name


GENERATION = frozenset(
    """
    assistant_confidence_threshold assistant_early_exit assistant_ensemble_weight
    assistant_lookbehind bad_words_ids begin_suppress_tokens bos_token_id cache_config
    cache_implementation compile_config constraints continuous_batching_config
    decoder_start_token_id disable_compile diversity_penalty do_sample dola_layers
    early_stopping encoder_no_repeat_ngram_size encoder_repetition_penalty eos_token_id
    epsilon_cutoff eta_cutoff exponential_decay_length_penalty force_bos_token_to_be_generated
    force_words_ids forced_bos_token_id forced_eos_token_id guidance_scale is_assistant
    length_penalty low_memory max_cache_len max_length max_matching_ngram_size max_new_tokens
    max_time min_length min_new_tokens min_p no_repeat_ngram_size num_assistant_tokens
    num_assistant_tokens_schedule num_beam_groups num_beams num_return_sequences output_logits
    output_scores pad_token_id penalty_alpha prefill_chunk_size prompt_lookup_num_tokens
    remove_invalid_values renormalize_logits repetition_penalty return_dict_in_generate
    sequence_bias speculation_type stop_strings suppress_tokens target_lookbehind temperature
    token_healing top_h top_k top_p typical_p use_cache use_mtp watermarking_config
    """.split()
)
"""Keys of how a model writes: nothing that it computes depends on them; ``generation_config`` reads
them."""

BOOKKEEPING = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash
    _experts_implementation _from_model_config _name_or_path _num_labels _output_attentions
    architectures attn_implementation chunk_size_feed_forward cls_token_id dtype
    experts_implementation finetuning_task gradient_checkpointing id2label initializer_factor
    initializer_range is_staged_model jaxmodels label2id language license mask_token_id
    max_seq_length model_max_length model_type name name_or_path num_labels output_attentions
    output_hidden_states output_past prefix problem_type return_dict
    sbert_ce_default_activation_function sentence_transformers sep_token_id task_specific_params
    tf_legacy_loss tie_last_hidden_states tokenizer_class torch_dtype torchscript
    transformers.js_config transformers_version unk_token_id use_bfloat16 use_return_dict
    xla_device
    """.split()
)
"""Keys of every family that change nothing in what a model computes.

They name the file's writer, the outputs that are returned, and ways to save memory (chunks of a
feed-forward layer give the same). They also give how new parameters begin, special tokens, and the
stored type, which tensors say. ``architectures``, labels and ``problem_type`` are read by the
``head`` of a family. Sentence-transformers applies its activation to the logits afterwards.
"""

FIXED: Mapping[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "is_causal": (None,),
    "per_layer_config": (None, {}),
    "position_embedding_type": ("absolute", None),
    "pruned_heads": (None, {}),
    "quantization_config": (None,),
    "tie_encoder_decoder": (False, None),
}
"""Keys of every family that change the result, with the values under which it is ours."""


@dataclass(frozen=True)
class HubFamily:
    """The description of a model by a family of transformers.

    Attributes:
      model_type: of the ``config.json``.
      cls: our class; format: of its tensors in ``jaxmodels.weights``, None where files have one of
        several.
      applied: keys that are read, each with its default and its type.
      aliases: ``attribute_map`` of the config class: other names of keys, which win where both are
        there.
      fixed: keys with the values under which the original computes what the model here does.
      harmless: keys that change nothing, beside those of every family.
      fields: the values of ``applied`` to fields of the model, without those of its head.
      head: the file, and the values of ``applied``, to the fields that say what the model ends in.
      shape: the values of ``applied`` to the image shape (h, w, c); empty for text.
      write: a model and its image shape to the keys that its fields say.
      guesses: the same to keys that no field says, for where nothing was read.
      silent: fields that no shape shows; silent_head: those of the head among them.
      without_place: classes of transformers whose head there is not here, with patterns of its
        tensors: the rest can be read.
      decoders: classes of transformers of which no part computes what the model here does, and what
        they are.
    """

    model_type: str
    cls: type[nn.Module]
    applied: Mapping[str, Setting]
    fields: Callable[[Config], dict[str, Any]]
    head: Callable[[Config, Config], dict[str, Any]]
    write: Callable[[Any, Shape], dict[str, Any]]
    silent: tuple[str, ...]
    silent_head: tuple[str, ...] = ()
    format: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()
    shape: Callable[[Config], Shape] = lambda values: ()
    guesses: Callable[[Any], dict[str, Any]] = lambda model: {}
    without_place: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    decoders: Mapping[str, str] = field(default_factory=dict)

    def config(self, model: nn.Module, shape: Shape) -> dict[str, Any]:
        """``config.json`` with which transformers loads an export, by the model's fields alone."""
        return self.write(model, shape) | self.guesses(model)


def account(config: Config, family: HubFamily) -> dict[str, Any]:
    """The value of every key that a family applies, of its type and within its bounds.

    Raises:
      WeightsError: a wrong type or an absurd size; a value that changes the result; a key that
        nobody knows.
    """
    fixed = FIXED | family.fixed
    harmless = (BOOKKEEPING | GENERATION | family.harmless) - fixed.keys()
    given: dict[str, Any] = {}
    for key, value in config.items():
        if key in family.aliases:
            continue
        if key in family.applied:
            given[key] = value
        elif key in fixed:
            if not any(type(value) is type(good) and value == good for good in fixed[key]):
                raise WeightsError(
                    f"config.json has {key} {short(value)}, and the model here has "
                    f"{fixed[key][0]!r}"
                )
        elif key not in harmless and not _empty(value):
            raise WeightsError(
                f"config.json has {short(key)} {short(value)}, which is not known here and may "
                "change what the model computes; if it does not, take it out of the file"
            )
    given |= {family.aliases[key]: value for key, value in config.items() if key in family.aliases}
    values = {}
    for key, setting in family.applied.items():
        try:
            values[key] = setting.read(given[key] if key in given else setting.default)
        except ValueError as e:
            raise WeightsError(f"config.json has {key} {short(given[key])}; {e}") from e
    number_of_labels(config)
    return values


def _empty(value: Any) -> bool:
    """Tells whether the value of an unknown key says nothing."""
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)


def number_of_labels(config: Config) -> int:
    """The number of labels that a file says, 2 if none; ``num_labels`` wins over ``id2label``, as
    in transformers.

    Raises:
      WeightsError: a wrong type.
    """
    labels, count = config.get("id2label"), config.get("num_labels")
    if labels is not None and not isinstance(labels, dict):
        raise WeightsError(
            f"config.json has id2label {short(labels)}; it must be an object from numbers to names"
        )
    if any(not str(key).strip().isdecimal() for key in labels or {}):
        raise WeightsError(
            f"config.json has id2label {short(labels)}; its names must be whole numbers"
        )
    if count is None:
        return 2 if labels is None else len(labels)
    try:
        return whole(2, MAX_LABELS, least=0).read(count)
    except ValueError as e:
        raise WeightsError(f"config.json has num_labels {short(count)}; {e}") from e


def first_architecture(config: Config) -> str | None:
    """The first of ``architectures``, None for none.

    Raises:
      WeightsError: a wrong type.
    """
    names = config.get("architectures")
    if names is None or names == []:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise WeightsError(
            f"config.json has architectures {short(names)}; it must be a list of names of classes"
        )
    return names[0]


def architecture(config: Config, known: Mapping[str, Any], default: str) -> str:
    """The first of ``architectures``, which must be known.

    Raises:
      WeightsError: a wrong type, or another class of transformers.
    """
    name = first_architecture(config)
    if name is not None and name not in known:
        raise WeightsError(
            f"config.json is of {short(name)[1:-1]}; there are {', '.join(known)}. With "
            "model=jaxmodels.create(...) and skip parts of it can be read"
        )
    return default if name is None else name


def require_labels(config: Config) -> int:
    """The number of labels of a classifier, at least 1."""
    count = number_of_labels(config)
    if not 1 <= count <= MAX_LABELS:
        raise WeightsError(
            f"config.json has {count:,} labels, and a classifier has 1 to {MAX_LABELS:,}"
        )
    return count


def require_heads(size_key: str, size: int, heads_key: str, heads: int) -> None:
    """Raises WeightsError unless the heads divide the width."""
    if size % heads:
        raise WeightsError(
            f"config.json has {size_key} {size}, which {heads_key} {heads} does not divide"
        )


def require_matrix(
    rows_key: str, rows: int, columns_key: str, columns: int, most: int = MAX_MATRIX
) -> None:
    """Raises WeightsError for a matrix of absurd size."""
    if rows * columns > most:
        raise WeightsError(
            f"config.json has {rows_key} {rows:,} and {columns_key} {columns:,}: a matrix of more "
            f"than {most:,} numbers"
        )


def labels_of(count: int) -> dict[str, Any]:
    """``id2label`` and ``label2id`` where nobody gave names."""
    return {
        "id2label": {str(i): f"LABEL_{i}" for i in range(count)},
        "label2id": {f"LABEL_{i}": i for i in range(count)},
    }
