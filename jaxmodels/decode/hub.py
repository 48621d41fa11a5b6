"""Settings from the files of transformers: every key is applied, known to change no text, or
refused by name."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxmodels.decode import values
from jaxmodels.decode.settings import CHECKS, GenerationConfig, outside

FIELDS = {
    "decoder_start_token_id": "start",
    "bos_token_id": "bos",
    "pad_token_id": "pad",
    "eos_token_id": "stop",
    "bad_words_ids": "bad_words",
    "num_beams": "beams",
    "forced_bos_token_id": "forced_bos",
    "forced_eos_token_id": "forced_eos",
}
"""Keys whose fields have another name."""

APPLIED = {
    name: FIELDS.get(name, name)
    for name in (*FIELDS, *CHECKS)
    if name not in (*FIELDS.values(), "forbidden")
}
"""Key -> field."""

WITH_ASSISTANT = "of an assistant model, and there is none"
OUTPUTS = "of outputs beside the text"
CACHE = "of where keys and values are kept"

HARMLESS = {
    "transformers_version": "says who wrote the file",
    "_from_model_config": "says how the file was made",
    "_commit_hash": "says where the file came from",
    "output_attentions": OUTPUTS,
    "output_hidden_states": OUTPUTS,
    "output_scores": OUTPUTS,
    "output_logits": OUTPUTS,
    "return_dict_in_generate": OUTPUTS,
    "use_cache": CACHE,
    "max_cache_len": CACHE,
    "cache_config": "of a quantized cache alone, which is refused",
    "prefill_chunk_size": "of memory while a prompt is read",
    "compile_config": "of compilation",
    "disable_compile": "of compilation",
    "continuous_batching_config": "of another function than generate",
    "num_assistant_tokens": WITH_ASSISTANT,
    "num_assistant_tokens_schedule": WITH_ASSISTANT,
    "assistant_confidence_threshold": WITH_ASSISTANT,
    "assistant_lookbehind": WITH_ASSISTANT,
    "target_lookbehind": WITH_ASSISTANT,
    "assistant_ensemble_weight": WITH_ASSISTANT,
    "speculation_type": WITH_ASSISTANT,
    "max_matching_ngram_size": "of prompt lookup, which is refused",
}
"""Keys that change no text, and why."""

Acts = Callable[[Any], bool]


def _set(value: Any) -> bool:
    return value is not None


def _on(value: Any) -> bool:
    return value not in (None, False)


def _nonzero(value: Any) -> bool:
    return value is not None and value != 0


REFUSED: dict[str, tuple[Acts, str]] = {
    "penalty_alpha": (_nonzero, "contrastive search is not done here"),
    "dola_layers": (_set, "DoLa is not done here"),
    "prompt_lookup_num_tokens": (_set, "assisted generation is not done here"),
    "assistant_early_exit": (_set, "assisted generation is not done here"),
    "use_mtp": (_on, "assisted generation is not done here"),
    "is_assistant": (_on, "assisted generation is not done here"),
    "num_beam_groups": (lambda value: value not in (None, 1), "group beam search is not done here"),
    "diversity_penalty": (_nonzero, "group beam search is not done here"),
    "constraints": (_set, "constrained search is not done here"),
    "force_words_ids": (_set, "constrained search is not done here"),
    "guidance_scale": (
        lambda value: value not in (None, 1),
        "classifier-free guidance is not done here",
    ),
    "watermarking_config": (_set, "watermarks are not made here"),
    "low_memory": (_on, "transformers refuses it as well"),
    "token_healing": (_on, "prompts are taken as they are"),
    "force_bos_token_to_be_generated": (_on, "forced_bos_token_id says which token"),
    "max_time": (_set, "a text would depend on the machine"),
    "stop_strings": (_set, "tokens end a text here; python -m train.generate has --stop=TEXT"),
    "cache_implementation": (
        lambda value: value in ("quantized", "paged") or not isinstance(value, str | None),
        "such a cache changes the numbers",
    ),
}
"""Keys that would change a text: which values do, and why they are refused."""


def settings_of_files(
    config: Mapping[str, Any] | None, generation: Mapping[str, Any] | None
) -> GenerationConfig:
    """Settings of generation, from a directory of transformers.

    As in transformers, ``generation_config.json`` says it all where it exists, else
    ``config.json``.

    Args:
      config: the object of ``config.json``; generation: the object of ``generation_config.json``;
        None for no file.

    Raises:
      ValueError: settings that are refused; values that are wrong. The message names the file.
    """
    config, name = config or {}, "config.json" if generation is None else "generation_config.json"
    try:
        if generation is None:
            known = {*APPLIED, *HARMLESS, *REFUSED}
            generation = {key: value for key, value in config.items() if key in known}
        found = settings_from_transformers(generation)
        if (size := _vocabulary(config)) and (wrong := outside(found, size)):
            raise ValueError(
                f"{_key(wrong[0])} has token {wrong[1]}, outside the model's vocabulary of {size}"
            )
    except ValueError as e:
        raise ValueError(f"{name}: {e}") from e
    return found


def settings_from_transformers(said: Mapping[str, Any]) -> GenerationConfig:
    """Settings from the keys of transformers' ``GenerationConfig``; None says nothing, as there.

    Raises:
      ValueError: keys that are refused or not known, values that are wrong.
    """
    found: dict[str, Any] = {}
    for key, value in said.items():
        if key in APPLIED:
            if value is not None:
                field = APPLIED[key]
                found[field] = CHECKS[field](key, value)
        elif key in REFUSED:
            acts, why = REFUSED[key]
            if acts(value):
                raise ValueError(
                    f"{key} {values.cut(value)} is refused: {why}. Take it out of the file"
                )
        elif key not in HARMLESS and value is not None:
            raise ValueError(
                f"{values.cut(key)} is no setting that is known here, and may change texts: take "
                "it out of the file"
            )
    words, stop = found.pop("bad_words", ()), found.get("stop", ())
    found["forbidden"] = tuple(word[0] for word in words if len(word) == 1 and word[0] not in stop)
    found["bad_words"] = tuple(word for word in words if len(word) > 1)
    if (start := found.get("start", found.get("bos"))) is not None:
        found["start"] = start
    if (
        found.get("num_return_sequences", 1) > 1
        and not found.get("do_sample")
        and found.get("beams", 1) == 1
    ):
        raise ValueError(
            f"num_return_sequences {found['num_return_sequences']} needs do_sample or num_beams: "
            "greedy texts are equal"
        )
    return GenerationConfig(**found)


def _key(field: str) -> str:
    """The key of a field."""
    return next(
        (
            key
            for key, name in APPLIED.items()
            if name == ("bad_words" if field == "forbidden" else field)
        )
    )


def _vocabulary(config: Mapping[str, Any]) -> int | None:
    """Tokens of the vocabulary that texts are of, if ``config.json`` says how many."""
    sizes = [config.get("decoder_vocab_size"), config.get("vocab_size")]
    return next((size for size in sizes if isinstance(size, int) and size > 0), None)
