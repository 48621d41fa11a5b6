"""Transfer learning: parameters that come from elsewhere, and patterns that choose parameters.

``train.config.Config`` says what freezing means, :mod:`jaxmodels.adapt.patterns` what a pattern is.
"""

import difflib
import fnmatch
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from jaxmodels import Module, weights
from jaxmodels.adapt.patterns import matches, matches_any
from train.checkpoint import CheckpointError, Checkpoints
from train.options import OptimConfig
from train.options.fields import ConfigError
from train.records import files
from train.state import PyTree, TrainState

Flat = dict[str, Any]
"""Name -> array, or what stands for one: ``params/head/kernel``, ``batch_stats/bn_stem/mean``."""


def require_matches(patterns: Iterable[str], paths: Iterable[str], field: str) -> None:
    """Raises ConfigError for a pattern that matches none of the paths, with the nearest component
    there is."""
    paths = sorted(paths)
    for pattern in patterns:
        if any(matches(pattern, path) for path in paths):
            continue
        parts, inside = pattern.split("/"), [path.split("/") for path in paths]
        for depth, part in enumerate(parts):
            names = list(dict.fromkeys(p[depth] for p in inside if len(p) > depth))
            inside = [p for p in inside if len(p) > depth and fnmatch.fnmatchcase(p[depth], part)]
            if not inside:
                break
        where = f" in {'/'.join(parts[:depth])!r}" if depth else ""
        close = difflib.get_close_matches(part, names, n=1)
        near = (
            f"did you mean {close[0]!r}"
            if close
            else f"there are {_few(names)}"
            if names
            else "nothing is"
        )
        raise ConfigError(
            f"{field} {pattern!r} matches no parameter; {near}{where}{'?' if close else ''}"
        )


def check_patterns(optim: OptimConfig, params: PyTree) -> None:
    """Raises ConfigError for a pattern that matches no parameter, or if nothing is left to
    train."""
    paths = list(_flatten(params))
    require_matches(optim.freeze, paths, "config.optim.freeze:")
    require_matches(optim.rates, paths, "config.optim.rates:")
    if all(matches_any(optim.freeze, path) for path in paths):
        raise ConfigError(
            f"config.optim.freeze = {optim.freeze} leaves no parameter to train; leave out one of "
            "them"
        )


def load(
    source: str,
    state: TrainState,
    *,
    skip: Sequence[str] | None,
    model: Module,
    image_shape: tuple[int, ...],
    warn: Callable[[str], None],
) -> tuple[TrainState, str]:
    """A fresh state with the parameters and model state of ``source``, but for what ``skip``
    matches.

    From a run with a moving average that average is taken: it is what was evaluated.

    Args:
      source: see ``Config.init_from``.
      skip: see ``Config.init_skip``.
      state: at step 0, on the mesh.
      model: of the state.
      image_shape: (height, width, channels) of its inputs.
      warn: told in one line of each damaged checkpoint that is passed over.

    Returns:
      The state, and in words what was taken from where.

    Raises:
      ConfigError: the source cannot be read, or does not fit the model; the message names the first
        arrays that do not.
    """
    wanted = _flatten({"params": state.params, **state.model_state})
    if skip is None:
        skip = ("head*",) if any(name.startswith("params/head") for name in wanted) else ()
    read = _from_run if checkpoints_of(source).is_dir() else _from_files
    found, where = read(source, wanted, skip=skip, model=model, image_shape=image_shape, warn=warn)
    count = sum(x.size for name, x in found.items() if name.startswith("params/"))
    fresh = {
        name: x.size
        for name, x in wanted.items()
        if name.startswith("params/") and name not in found
    }
    modules = {name: name.split("/")[1] for name in wanted}
    partly = {modules[name] for name in found if name in modules}
    parts = dict.fromkeys(
        name.partition("/")[2] if modules[name] in partly else modules[name] for name in fresh
    )
    variables = traverse_util.unflatten_dict(wanted | found, sep="/")
    params = variables.pop("params")
    ema_params = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
    state = state.replace(params=params, model_state=variables, ema_params=ema_params)
    return state, f"{count:,} parameters from {where}" + (
        f", {sum(fresh.values()):,} fresh: {', '.join(parts)}" if fresh else ""
    )


def load_part(
    name: str,
    source: str,
    state: TrainState,
    *,
    skip: Sequence[str] | None,
    model: Module,
    image_shape: tuple[int, ...],
    warn: Callable[[str], None],
) -> tuple[TrainState, str]:
    """A state with the parameters and model state of one sub-module from ``source``; see
    :func:`load`.

    Args:
      name: of the sub-module; model: itself, with the head that it does without here.
      skip: paths inside it; None: its head.
    """
    part = state.replace(
        params=state.params[name],
        model_state={k: v[name] for k, v in state.model_state.items() if name in v},
        ema_params=None if state.ema_params is None else state.ema_params[name],
    )
    skip = ("head*",) if skip is None else skip
    part, text = load(source, part, skip=skip, model=model, image_shape=image_shape, warn=warn)
    model_state = {
        k: {**v, name: part.model_state[k]} if k in part.model_state else v
        for k, v in state.model_state.items()
    }
    ema_params = None if state.ema_params is None else {**state.ema_params, name: part.ema_params}
    params = {**state.params, name: part.params}
    return state.replace(
        params=params, model_state=model_state, ema_params=ema_params
    ), f"{name}: {text}"


def _from_run(
    source: str, wanted: Flat, *, skip: Sequence[str], warn: Callable[[str], None], **_: Any
) -> tuple[Flat, str]:
    names = {}  # in the checkpoint -> here

    def choose(arrays: dict[str, jax.ShapeDtypeStruct]) -> PyTree:
        names.clear()  # of a damaged checkpoint
        averaged = any(name.startswith("ema_params/") for name in arrays)
        for prefix, here in (
            ("ema_params/" if averaged else "params/", "params/"),
            ("model_state/", ""),
        ):
            names.update(
                {
                    name: here + name.removeprefix(prefix)
                    for name in arrays
                    if name.startswith(prefix)
                }
            )
        here_or_there = {n.partition("/")[2] for n in [*wanted, *names.values()]}
        require_matches(skip, here_or_there, "config.init_skip:")
        kept = _require_fit(
            source, wanted, {here: arrays[name] for name, here in names.items()}, skip
        )
        tree = {name: _abstract(wanted[here]) for name, here in names.items() if here in kept}
        return traverse_util.unflatten_dict(tree, sep="/")

    checkpoints = Checkpoints(checkpoints_of(source), read_only=True)
    try:
        restored = checkpoints.restore_part(choose, warn=lambda text: warn(f"{source}: {text}"))
    except CheckpointError as e:
        raise ConfigError(f"config.init_from = {source!r}: {e}") from e
    finally:
        checkpoints.close()
    if restored is None:
        raise ConfigError(f"config.init_from = {source!r} has no finished checkpoint yet")
    tree, step = restored
    return {
        names[k]: x for k, x in _flatten(tree).items()
    }, f"the checkpoint of step {step} of {source}"


def _from_files(
    source: str,
    wanted: Flat,
    *,
    skip: Sequence[str],
    model: Module,
    image_shape: tuple[int, ...],
    **_: Any,
) -> tuple[Flat, str]:
    try:
        # a file's bfloat16 or float16 is good enough to start from
        _, variables = weights.load(
            source, model=model, image_shape=image_shape, skip=skip, cast=True
        )
    except weights.WeightsError as e:
        hint = (
            "; config.init_skip can name what is not taken, with dots also by the file's names"
            * ("left over" in str(e))
        )
        raise ConfigError(
            f"config.init_from = {source!r}, not the workdir of a run, as weights: {e}{hint}"
        ) from e
    found = _flatten(variables)
    kept = _require_fit(source, wanted, found, skip)
    return {name: jax.device_put(found[name], wanted[name].sharding) for name in kept}, source


def _require_fit(source: str, wanted: Flat, found: Flat, skip: Sequence[str]) -> list[str]:
    """Names of the arrays to take; ConfigError unless they are the same, with the same shapes, on
    both sides."""
    names = sorted(wanted.keys() | found.keys())
    names = [n for n in names if not matches_any(skip, n.partition("/")[2])]
    wrong = []
    for name in names:
        there, here = (
            (str(x[name].dtype), x[name].shape) if name in x else None for x in (found, wanted)
        )
        if there != here:
            texts = ("absent" if x is None else f"{x[0]} {x[1]}" for x in (there, here))
            wrong.append("{} is {} there and {} here".format(name, *texts))
    if wrong:
        raise ConfigError(
            f"config.init_from = {source!r} does not fit the model: {_few(wrong, ', and')}; set "
            "config.model and config.model_fields as they were, or config.init_skip to what shall "
            "start fresh"
        )
    if not names:
        raise ConfigError(f"config.init_skip = {tuple(skip)} leaves nothing to take from {source}")
    return names


def checkpoints_of(source: str, what: str = "config.init_from") -> Path:
    """Where the checkpoints of a run are, given its workdir or just that; no such directory: it is
    no run."""
    path = files.user_path(source, what)
    return path if path.name == "checkpoints" else path / "checkpoints"


def _abstract(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)


def _flatten(tree: PyTree) -> Flat:
    return traverse_util.flatten_dict(tree, sep="/")


def _few(texts: list[str], last: str = ",", limit: int = 3) -> str:
    more = f"{last} {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more
