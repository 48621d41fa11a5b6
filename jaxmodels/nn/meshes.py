"""Models on the mesh around them, ``jax.set_mesh``, whatever the type of its axes.

Auto: XLA decides where arrays lie, and is told at block boundaries. Explicit, the default of
``jax.make_mesh``: the type of every array says where it lies. The models compute under Auto axes
there too: arrays lose their place in the type when they enter and have it again when they leave.
Manual: the model runs inside ``jax.shard_map``.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import linen as nn
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

Class = TypeVar("Class", bound=type[nn.Module])


def constrain_batch(x: jax.Array, *names: str | None) -> jax.Array:
    """Keeps the leading dimension split over the mesh's ``data`` and ``fsdp`` axes; does nothing
    without a mesh.

    Called at block boundaries. Without it XLA may choose to gather the batch instead of a split
    parameter, and every device then computes every example. Axes that are not Auto are left alone:
    where arrays lie on them is decided.

    Args:
      names: of the dimensions behind the first: ``"tokens"`` are split over the mesh's
        ``sequence``, ``"heads"`` over ``tensor``, each where it divides; ``"all_tokens"`` are on
        every device of ``sequence``. The rest is XLA's.
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = {*mesh.auto_axes}
    if not free or not {"data", "fsdp"} & {*mesh.axis_names}:
        return x
    where: list[Any] = [P.UNCONSTRAINED] * x.ndim
    where[0] = tuple(a for a in ("data", "fsdp") if a in free) or P.UNCONSTRAINED
    for i, name in enumerate(names, 1):
        axis = {"tokens": "sequence", "all_tokens": "sequence", "heads": "tensor", None: None}[name]
        if (
            axis in free
            and mesh.shape[axis] > 1
            and (name == "tokens" or x.shape[i] % mesh.shape[axis] == 0)
        ):
            where[i] = None if name == "all_tokens" else axis
    return jax.lax.with_sharding_constraint(x, P(*where))


def on_any_mesh(cls: Class) -> Class:
    """Has ``init`` and ``apply`` of a module compute as :func:`under_auto_axes` says."""
    cls.apply = _method_under_auto_axes(cls.apply)
    cls.init_with_output = _method_under_auto_axes(cls.init_with_output)
    return cls


def _method_under_auto_axes(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return under_auto_axes(functools.partial(method, self), changed="[1]")(*args, **kwargs)

    return run


def under_auto_axes(
    function: Callable[..., Any], *, examples: int | None = 1, changed: str = ""
) -> Callable[..., Any]:
    """``function`` that computes under Auto axes where the mesh has Explicit ones.

    Arrays lose their place in the type when they enter, and stay where they are. Those that leave
    lie on the Explicit axes so: what was given as it was; ``changed`` as the first argument, leaf
    by leaf; other arrays as the examples if they have as many rows; the rest on every device.

    Args:
      examples: place among the arguments from which on the first array has a row for each example;
        None: none has.
      changed: key path in the result of what has the structure of the first argument, "" if nothing
        has.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        mesh = jax.sharding.get_abstract_mesh()
        if not mesh.explicit_axes:
            return function(*args, **kwargs)
        of_examples = (
            () if examples is None else [x for _, x in _arrays((args[examples:], kwargs)) if x.ndim]
        )
        count, rows = (
            (len(of_examples[0]), P(*_spec(of_examples[0])[:1])) if of_examples else (-1, P())
        )
        before = (
            {f"{changed}{jax.tree_util.keystr(k)}": _spec(x) for k, x in _arrays(args[0])}
            if changed
            else {}
        )
        # by identity: an array inside, and as it was given
        given: dict[int, tuple[jax.Array, jax.Array]] = {}

        def place(x: Any) -> Any:
            # where it is; one that lies on no mesh yet would have gradients of two types, which jax
            # cannot add
            return jax.sharding.reshard(x, _spec(x)) if isinstance(x, jax.Array) else x

        def enter(x: Any) -> Any:
            if not isinstance(x, jax.Array):
                return x
            inside = jax.sharding.reshard(x, P())
            given[id(inside)] = inside, x
            return inside

        def leave(path: Any, x: Any) -> Any:
            if not isinstance(x, jax.Array) or jax.typeof(x).sharding.mesh.empty:
                return x
            if id(x) in given:
                return given[id(x)][1]
            place = rows if x.ndim and len(x) == count else P()
            return jax.sharding.reshard(x, before.get(jax.tree_util.keystr(path), place))

        args, kwargs = jax.tree.map(place, (args, kwargs))
        with jax.sharding.use_abstract_mesh(
            mesh.update_axis_types(dict.fromkeys(mesh.explicit_axes, AxisType.Auto))
        ):
            found = function(*jax.tree.map(enter, args), **jax.tree.map(enter, kwargs))
        return jax.tree_util.tree_map_with_path(leave, found)

    return run


def _arrays(tree: Any) -> list[tuple[Any, jax.Array]]:
    return [
        (k, x) for k, x in jax.tree_util.tree_leaves_with_path(tree) if isinstance(x, jax.Array)
    ]


def _spec(x: jax.Array) -> P:
    return jax.typeof(x).sharding.spec
