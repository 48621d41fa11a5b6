"""The library's plan of a step that no config made: any function, for CPUs that stand in."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmodels.plan import PlanError, find_topology, plan


def step(weights, x):
    """Sums the gradient of a product over the devices, as data parallelism does."""
    gradient = jax.grad(lambda w: ((x @ w) ** 2).sum())(weights)
    return weights - 0.1 * gradient


WEIGHTS = jax.ShapeDtypeStruct((64, 32), jnp.float32)
FORWARD = 2 * 16 * 64 * 32


@pytest.fixture
def mesh():
    return jax.make_mesh(
        (8,),
        ("data",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=find_topology("cpu:8").devices,
    )


def batch(mesh):
    return jax.ShapeDtypeStruct((16, 64), jnp.float32, sharding=NamedSharding(mesh, P("data")))


def test_any_function_can_be_planned(mesh):
    """The mesh is that of the batch; weights without a sharding lie whole on every device."""
    found = plan(step, WEIGHTS, batch(mesh), topology="cpu:8", donate_argnums=0)
    assert (found.topology, found.devices, found.mesh) == ("cpu:8", 8, {"data": 8})
    assert found.memory.state == 64 * 32 * 4 and found.memory.aliased == 64 * 32 * 4
    assert found.memory.arguments == found.memory.state + 16 * 64 * 4 / 8
    # forward and the gradient of the weights, an eighth on each device
    assert found.model_flops == 2 * FORWARD == 8 * found.compiled_flops
    (reduce,) = found.collectives
    assert (reduce.kind, reduce.bytes) == ("all-reduce", 2 * 7 / 8 * 64 * 32 * 4)
    assert found.fits is None and found.settings == {} and found.to_json()["peak"]


def test_jitted_and_traced_steps_give_the_same_plan(mesh):
    def record(step, *arguments):
        found = plan(step, WEIGHTS, *arguments, topology="cpu:8", mesh=mesh).to_json()
        return found | {"compile_seconds": 0}

    x = batch(mesh)
    whole = jax.ShapeDtypeStruct(WEIGHTS.shape, WEIGHTS.dtype, sharding=NamedSharding(mesh, P()))
    with jax.set_mesh(mesh):
        traced = jax.jit(step).trace(whole, x)
    assert record(step, x) == record(jax.jit(step), x) == record(traced)


def test_what_cannot_be_planned_is_said(mesh):
    with pytest.raises(PlanError, match=r"no chip 'v5'.*nearest: v5"):
        plan(step, WEIGHTS, WEIGHTS, topology="v5:2x2")
    with pytest.raises(PlanError, match="no argument has a sharding on devices of cpu:8"):
        plan(step, WEIGHTS, WEIGHTS, topology="cpu:8")
    with pytest.raises(PlanError, match="devices that are not of the topology cpu:4"):
        plan(step, WEIGHTS, batch(mesh), topology="cpu:4")
