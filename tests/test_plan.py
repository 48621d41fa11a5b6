"""Plans: operations against formulas, programs against hand-written ones, every family through a
TPU's compiler."""

import dataclasses
import importlib.util
import itertools
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxmodels
from input_pipeline import DatasetCard
from jaxmodels.families.googlenet import model as googlenet
from jaxmodels.plan.chips import CHIPS, PEAK_FLOPS
from jaxmodels.plan.compiling import (
    Memory,
    Plan,
    captured_stderr,
    needed_bytes,
    rematerialisations,
)
from jaxmodels.plan.cost import Roofline, links, roofline, traffic
from jaxmodels.plan.flops import count_flops, meeting
from jaxmodels.plan.hlo import Collective, Program, read_groups, read_program
from jaxmodels.plan.topologies import larger
from train.batches import batch_shapes
from train.checks import check_batch
from train.compiling import model_flops, trace_train_step
from train.config import Config, ConfigError, DataConfig, MeshConfig, OptimConfig, load_config
from train.plan import compiling, report, search, topology
from train.plan.__main__ import main
from train.plan.cards import Given, card_of
from train.setup import attention_backend, build

ROOT = Path(__file__).parent.parent
GIB = 2**30

# --- operations by formula


def mlp_flops(batch, *sizes):
    """Forward, gradient of the weights, and gradient of the inputs but for the first layer's."""
    products = [2 * batch * a * b for a, b in itertools.pairwise(sizes)]
    return 3 * sum(products) - products[0]


def gpt_flops(batch, length, layers, width, inner, vocab):
    """Radford et al. 2019: query, key, value and out, two products of attention, two of the MLP;
    tied logits."""
    tokens = batch * length
    layer = 4 * width**2 + 2 * length * width + 2 * width * inner
    return 3 * 2 * tokens * (layers * layer + width * vocab)


def gpt_config(**fields) -> Config:
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_size": 128, "mlp_dim": 512, "vocab_size": 512}
    sizes["attention"] = "einsum"  # what a kernel computes is not in the compiled program's text
    rates = dict.fromkeys(("dropout_rate", "embedding_dropout_rate", "attention_dropout_rate"), 0.0)
    return Config(
        model="gpt2_tiny",
        model_fields=sizes | rates | fields,
        task="causal_lm",
        data=DataConfig(name="mine", max_len=128, tokenizer="bpe", vocab_size=512),
        batch_size=16,
        eval_batch_size=16,
        dtype="bfloat16",
    )


def mlp_config(*hidden, batch=256, **mesh) -> Config:
    return Config(
        model="mlp",
        model_fields={"hidden_sizes": hidden},
        data=DataConfig(name="mine"),
        mesh=MeshConfig(**mesh),
        batch_size=batch,
        eval_batch_size=batch,
        dtype="bfloat16",
    )


IMAGES = Given(image=(16, 16, 1), classes=10)


def step_flops(config, given=IMAGES, devices=1):
    run = build(config, card=card_of(config, given)[0], devices=jax.devices()[:devices])
    return count_flops(trace_train_step(run)[-1].jaxpr)


def test_flops_of_an_mlp_are_those_of_its_products():
    assert step_flops(mlp_config(64, 32, batch=24)) == mlp_flops(24, 256, 64, 32, 10)


@pytest.mark.parametrize(
    "fields", [{}, {"scan": True}, {"remat": True}, {"scan": True, "remat": True}], ids=str
)
@pytest.mark.parametrize("accumulate", [1, 4])
def test_flops_of_gpt2_are_the_same_however_it_is_computed(fields, accumulate):
    """Scanned layers count as often as they run, what is computed again not at all."""
    config = gpt_config(**fields)
    config.accumulate = accumulate
    assert step_flops(config, Given()) == gpt_flops(16, 128, 2, 128, 512, 512)


def test_a_mesh_does_not_change_the_operations_of_a_model():
    config = mlp_config(64, 32, batch=24, data=2, fsdp=2, tensor=2)
    assert step_flops(config, devices=8) == mlp_flops(24, 256, 64, 32, 10)


@pytest.mark.parametrize("size", [1, 5, 8])
@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize(
    ("stride", "low", "dilation", "spread"),
    [(1, 1, 1, 1), (2, 1, 1, 1), (1, 2, 2, 1), (1, -1, 1, 2)],
)
def test_places_that_meet(size, window, stride, low, dilation, spread):
    padded = [False] * max(low, 0) + [i % dilation == 0 for i in range((size - 1) * dilation + 1)][
        max(-low, 0) :
    ]
    padded += [False] * 4
    out = max((len(padded) - (window - 1) * spread - 1) // stride + 1, 0)
    want = sum(padded[o * stride + w * spread] for o in range(out) for w in range(window))
    assert meeting(size, window, out, stride, low, dilation, spread) == want


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_flops_of_a_convolution_and_of_its_gradients(groups, stride):
    """A product for each pair of a weight and a value that meets no padding, and as many for either
    gradient."""

    def conv(x, w):
        return jax.lax.conv_general_dilated(
            x,
            w,
            (stride, stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    x, w = jnp.ones((2, 7, 9, 4)), jnp.ones((3, 3, 4 // groups, 6))
    met = float(jax.jit(conv)(jnp.ones_like(x), jnp.ones_like(w)).sum())  # every such pair adds one
    assert count_flops(jax.make_jaxpr(conv)(x, w)) == 2 * met
    both = jax.make_jaxpr(jax.grad(lambda x, w: (conv(x, w) ** 2).sum(), (0, 1)))(x, w)
    assert count_flops(both) == 3 * 2 * met


def test_branches_count_as_the_most_expensive():
    x = jnp.ones((8, 8))
    jaxpr = jax.make_jaxpr(lambda p, x: jax.lax.cond(p, lambda x: x @ x @ x, lambda x: x @ x, x))(
        True, x
    )
    assert count_flops(jaxpr) == 2 * 2 * 8**3


# --- compiled programs

PROGRAM = """\
HloModule jit_step, is_scheduled=true, num_partitions=4

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%all-reduce-scatter.1 (input: f32[64,64]) -> f32[16,64] {
  %input = f32[64,64]{1,0} parameter(0)
  %all-reduce.9 = f32[64,64]{1,0} all-reduce(%input), channel_id=3, replica_groups={{0,1,2,3}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %dynamic-slice.1 = f32[16,64]{1,0} dynamic-slice(%all-reduce.9, %zero, %zero), dynamic_slice_sizes={16,64}
}

%start (p: bf16[8,64]) -> bf16[32,64] {
  %p = bf16[8,64]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[32,64]{1,0} all-gather(%p), channel_id=5, replica_groups=[1,4]<=[4], chain_id="7"
}

%overlap (p.1: bf16[8,64], q: f32[64,64]) -> f32[64,64] {
  %p.1 = bf16[8,64]{1,0} parameter(0)
  %q = f32[64,64]{1,0:T(8,128)S(1)} parameter(1)
  %all-gather.3 = bf16[32,64]{1,0} all-gather(%p.1), channel_id=5, replica_groups=[1,4]<=[4], chain_id="7"
  ROOT %convolution.1 = f32[64,64]{1,0} convolution(%q, %q), dim_labels=bf_io->bf
}

%body (state: (s32[], f32[64,64], f32[3,64,64])) -> (s32[], f32[64,64], f32[3,64,64]) {
  %state = (s32[], f32[64,64]{1,0}, f32[3,64,64]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %w = f32[64,64]{1,0} get-tuple-element(%state), index=1
  %stack = f32[3,64,64]{2,1,0} get-tuple-element(%state), index=2
  %dot.1 = f32[64,64]{1,0} dot(%w, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %gathered = (f32[64,64]{1,0}, f32[128,64]{1,0}) all-gather-start(%dot.1), channel_id=1, replica_groups={{0,1},{2,3}}
  %done = f32[128,64]{1,0} all-gather-done(%gathered)
  %kernel = f32[64,64]{1,0} custom-call(%dot.1), custom_call_target="tpu_custom_call", frontend_attributes={kernel={
"block": 256
}}, metadata={op_name="splash"}
  %moved = f32[64,64]{1,0} collective-permute(%dot.1), channel_id=8, source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
  ROOT %next = (s32[], f32[64,64]{1,0}, f32[3,64,64]{2,1,0}) tuple(%i, %moved, %stack)
}

%condition (state.1: (s32[], f32[64,64], f32[3,64,64])) -> pred[] {
  %state.1 = (s32[], f32[64,64]{1,0}, f32[3,64,64]{2,1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[]{:T(128)} constant(12)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (a: f32[64,64], b: bf16[8,64], c: f32[3,64,64]) -> f32[64,64] {
  %a = f32[64,64]{1,0} parameter(0)
  %b = bf16[8,64]{1,0} parameter(1)
  %c = f32[3,64,64]{2,1,0} parameter(2)
  %zero.1 = s32[] constant(0)
  %first = (s32[], f32[64,64]{1,0}, f32[3,64,64]{2,1,0}) tuple(%zero.1, %a, /*index=2*/%c)
  %loop = (s32[], f32[64,64]{1,0}, f32[3,64,64]{2,1,0}) while(%first), condition=%condition, body=%body
  %w.1 = f32[64,64]{1,0} get-tuple-element(%loop), index=1
  %async-collective-start = bf16[32,64]{1,0} fusion(%b), kind=kCustom, calls=%start
  %fusion.1 = f32[64,64]{1,0} fusion(%b, %w.1), kind=kOutput, calls=%overlap
  %fusion.2 = f32[16,64]{1,0} fusion(%fusion.1), kind=kCustom, calls=%all-reduce-scatter.1
  %total = (f32[64,64]{1,0}, f32[]) all-reduce(%w.1, %a), channel_id=2, replica_groups=mesh['x'=2,'y'=2] {'y'}
  ROOT %result = f32[64,64]{1,0} get-tuple-element(%total), index=0
}
"""


def test_a_hand_written_program_is_read():
    found = read_program(PROGRAM, 4)
    assert found.loops == (12,) and found.kernels == 12
    assert found.flops == 12 * 2 * 64**3 + 2 * 64**3
    matrix = 64 * 64 * 4
    everything = ((0, 1, 2, 3),)
    assert set(found.collectives) == {
        Collective("reduce-scatter", matrix, everything, 1),
        Collective("all-gather", 32 * 64 * 2, everything, 1),  # once, though three fusions name it
        Collective("all-gather", 2 * matrix, ((0, 1), (2, 3)), 12),
        Collective("collective-permute", matrix, ((0, 1), (1, 2), (2, 3), (3, 0)), 12),
        Collective("all-reduce", 2 * matrix, ((0, 1), (2, 3)), 1),
    }


def test_memory_is_what_operations_read_and_write():
    text = """\
%fused (p: f32[16,64,64], i: s32[]) -> f32[1,64,64] {
  %p = f32[16,64,64]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = f32[1,64,64]{2,1,0} dynamic-slice(%p, %i, %zero, %zero), dynamic_slice_sizes={1,64,64}
}

ENTRY %main (a: f32[16,64,64], b: f32[64,64]) -> f32[64,64] {
  %a = f32[16,64,64]{2,1,0} parameter(0)
  %b = f32[64,64]{1,0} parameter(1)
  %one = s32[] constant(1)
  %layer = f32[1,64,64]{2,1,0} fusion(%a, %one), kind=kLoop, calls=%fused
  %near = f32[64,64]{1,0:T(8,128)S(1)} negate(%b)
  ROOT %far = f32[64,64]{1,0} exponential(%near)
}
"""
    matrix, number = 64 * 64 * 4, 4
    # the slice is read and written, with its index; b is read; the last result is written
    assert read_program(text, 1).memory_bytes == 2 * matrix + number + matrix + matrix


def test_a_fusion_that_runs_beside_others_counts_as_one():
    """As GPUs slice stacks: the operands stand among the results of what begins it."""
    text = """\
%fused (p: f32[16,64,64], i: s32[], new: f32[1,64,64]) -> f32[16,64,64] {
  %p = f32[16,64,64]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %new = f32[1,64,64]{2,1,0} parameter(2)
  %zero = s32[] constant(0)
  %twice = f32[1,64,64]{2,1,0} add(%new, %new)
  ROOT %out = f32[16,64,64]{2,1,0} dynamic-update-slice(%p, %twice, %i, %zero, %zero)
}

ENTRY %main (a: f32[16,64,64], b: f32[1,64,64]) -> f32[16,64,64] {
  %a = f32[16,64,64]{2,1,0} parameter(0)
  %b = f32[1,64,64]{2,1,0} parameter(1)
  %one = s32[] constant(1)
  %begun = ((f32[16,64,64]{2,1,0}, s32[], f32[1,64,64]{2,1,0}), f32[16,64,64]{2,1,0}, u32[]) \
fusion-start(%a, %one, %b), kind=kLoop, calls=%fused
  ROOT %ended = f32[16,64,64]{2,1,0} fusion-done(%begun)
}
"""
    # b is read, its double written; and the index
    assert read_program(text, 1).memory_bytes == 2 * 64 * 64 * 4 + 4


def test_memory_of_stacks_that_a_layer_reads_and_writes_is_the_layers():
    """As loops over layers do it: a fusion updates two stacks in place, and another inside it
    slices a third."""
    text = """\
%inner (p: f32[16,64,64], i: s32[]) -> f32[64,64] {
  %p = f32[16,64,64]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %slice = f32[1,64,64]{2,1,0} dynamic-slice(%p, %i, %zero, %zero), dynamic_slice_sizes={1,64,64}
  ROOT %layer = f32[64,64]{1,0} bitcast(%slice)
}

%fused (a: f32[16,64,64], b: f32[16,64,64], c: f32[16,64,64], i: s32[]) -> (f32[16,64,64], f32[16,64,64]) {
  %a = f32[16,64,64]{2,1,0} parameter(0)
  %b = f32[16,64,64]{2,1,0} parameter(1)
  %c = f32[16,64,64]{2,1,0} parameter(2)
  %i.1 = s32[] parameter(3)
  %zero.1 = s32[] constant(0)
  %read = f32[64,64]{1,0} fusion(%c, %i.1), kind=kLoop, calls=%inner
  %new = f32[1,64,64]{2,1,0} bitcast(%read)
  %first = f32[16,64,64]{2,1,0} dynamic-update-slice(%a, %new, %i.1, %zero.1, %zero.1)
  %second = f32[16,64,64]{2,1,0} dynamic-update-slice(%b, %new, %i.1, %zero.1, %zero.1)
  ROOT %both = (f32[16,64,64]{2,1,0}, f32[16,64,64]{2,1,0}) tuple(%first, %second)
}

ENTRY %main (x: f32[16,64,64], y: f32[16,64,64], z: f32[16,64,64]) -> (f32[16,64,64], f32[16,64,64]) {
  %x = f32[16,64,64]{2,1,0} parameter(0)
  %y = f32[16,64,64]{2,1,0} parameter(1)
  %z = f32[16,64,64]{2,1,0} parameter(2)
  %one = s32[] constant(1)
  ROOT %out = (f32[16,64,64]{2,1,0}, f32[16,64,64]{2,1,0}) fusion(%x, %y, %z, %one), kind=kLoop, calls=%fused
}
"""
    matrix, number = 64 * 64 * 4, 4
    assert read_program(text, 1).memory_bytes == 3 * matrix + number


def test_a_loop_of_unknown_length_counts_once_and_is_reported():
    text = PROGRAM.replace(
        "%less = pred[] compare(%i.1, %limit), direction=LT", "%less = pred[] custom(%state.1)"
    )
    found = read_program(text, 4)
    assert found.loops == (None,)
    assert found.flops == 2 * 2 * 64**3
    text = text.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}')
    assert read_program(text, 4).flops == (5 + 1) * 2 * 64**3


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}", {(0, 2), (1, 3)}),
        ("replica_groups=[2,2]<=[4]", {(0, 1), (2, 3)}),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", {(0, 2), (1, 3)}),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", {(0, 2), (1, 3)}),
        ("replica_groups=mesh['a'=2,'b'=1,'c'=2] {'b','c'}", {(0, 1), (2, 3)}),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", {(0, 1), (2, 3)}),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", {(0, 1), (2, 3)}),
        ("replica_groups=mesh['a'=4] {'a':(1)2}", {(0, 2), (1, 3)}),
        ("replica_groups={}", {(0, 1, 2, 3)}),
    ],
)
def test_groups_in_every_notation(text, groups):
    assert set(read_groups(f", channel_id=1, {text}, use_global_device_ids=true", 4)) == groups


# --- estimates


@dataclass(frozen=True)
class FakeDevice:
    coords: tuple[int, ...]
    slice_index: int = 0
    process_index: int = 0


def square(slices=1):
    return [FakeDevice((x, y, 0), s) for s in range(slices) for x in range(4) for y in range(4)]


def test_traffic_and_roofline_by_hand():
    chip, megabyte = CHIPS["v5e"], 10**6
    row, everything = ((0, 1, 2, 3),), (tuple(range(16)),)
    collectives = (
        Collective("all-gather", 8 * megabyte, row, 10),
        Collective("all-reduce", 16 * megabyte, everything, 1),
        Collective("reduce-scatter", 16 * megabyte, everything, 2),
    )
    gather, reduce, scatter = traffic(collectives, square(), chip)
    assert (gather.kind, gather.network, gather.count) == ("all-gather", "ICI", 10)
    assert gather.bytes == 10 * 8 * megabyte * 3 / 4  # all but a device's own quarter
    # one axis of 4, which is no ring: one link
    assert gather.seconds == pytest.approx(gather.bytes / 50e9)
    assert (reduce.kind, reduce.bytes) == ("all-reduce", 2 * 16 * megabyte * 15 / 16)
    assert reduce.seconds == pytest.approx(reduce.bytes / 100e9)  # two axes
    assert scatter.bytes == 2 * 16 * megabyte * 15 / 16
    program = Program(flops=197e12, memory_bytes=819e9 / 2, collectives=collectives, loops=())
    roof = roofline(program, [gather, reduce, scatter], chip, model_flops=8 * 197e12, devices=16)
    assert (roof.compute, roof.memory, roof.dcn) == pytest.approx((1.0, 0.5, 0.0))
    assert roof.ici == pytest.approx((60e6 / 50 + 30e6 / 100 + 30e6 / 100) / 1e9)
    assert (roof.seconds, roof.bound) == (1.0, "compute")
    assert roof.mfu == pytest.approx(0.5)


def test_between_slices_a_device_sends_its_part_alone():
    chip = CHIPS["v5e"]
    (inside, across) = sorted(
        traffic([Collective("all-reduce", 32 * 10**6, (tuple(range(32)),), 1)], square(2), chip),
        key=lambda t: t.network != "ICI",
    )
    assert (inside.network, across.network) == ("ICI", "DCN")
    assert inside.bytes == 2 * 32e6 * 15 / 16
    assert across.bytes == 2 * (32e6 / 16) * 1 / 2
    assert across.seconds == pytest.approx(across.bytes / 3.125e9)
    # as the TPU's compiler writes it: the steps one by one, and hosts that carry what crosses
    text = """\
ENTRY %main (a: f32[64,64]) -> f32[64,64] {
  %a = f32[64,64]{1,0} parameter(0)
  %after = token[] after-all()
  ROOT %send = (f32[64,64]{1,0}, u32[], token[]) send(%a, %after), channel_id=2, is_host_transfer=true, \
frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
}
"""
    (across,) = traffic(read_program(text, 32).collectives, square(2), chip)
    assert (across.kind, across.network, across.bytes) == ("all-reduce", "DCN", 2 * 64 * 64 * 4 / 2)


def test_a_ring_has_two_links():
    assert links([FakeDevice((x, 0, 0)) for x in range(16)], CHIPS["v5e"]) == 2
    assert links([FakeDevice((x, 0, 0)) for x in range(8)], CHIPS["v5e"]) == 1
    assert links([FakeDevice((x, y, 0)) for x in range(4) for y in range(4)], CHIPS["v5p"]) == 4
    assert links([FakeDevice((0, 0, 0))] * 2, CHIPS["v3"]) == 1  # two cores of a chip


def test_every_chip_has_a_peak():
    assert all(chip.kind in PEAK_FLOPS for chip in CHIPS.values())


def test_messages_of_compilers_are_understood():
    one = "Ran out of memory on HBM, the memory required for HLO temporaries (28.72G) exceeds available HBM (15.75G)."
    assert needed_bytes(one, GIB) == pytest.approx(29.72 * GIB)
    other = "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 17.21G of 15.75G hbm."
    assert needed_bytes(other, GIB) == pytest.approx(17.21 * GIB)
    assert needed_bytes("it is broken", GIB) is None


# --- on CPU devices, where no compiler of TPUs is needed


def test_involuntary_rematerialisation_is_heard():
    """The partitioner itself says it, on a standard error that is not Python's."""
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

    def f(x):
        x = jax.lax.with_sharding_constraint(x, P(("a", "b"), None))
        return 2 * jax.lax.with_sharding_constraint(jnp.sin(x.reshape(8, 8, 64)), P(None, "b", "a"))

    x = jax.ShapeDtypeStruct(
        (64, 64), jnp.float32, sharding=NamedSharding(mesh, P(("b", "a"), None))
    )
    with captured_stderr() as said, jax.set_mesh(mesh):
        jax.jit(f, out_shardings=NamedSharding(mesh, P("b", "a", None))).lower(x).compile()
    (warning,) = rematerialisations(said[0])
    assert "reshape" in warning


def plan_on_cpus(config, given=IMAGES):
    return compiling.make_plan(config, card_of(config, given)[0], topology.find_topology("cpu:8"))


def test_a_plan_on_cpus():
    """Data parallelism reduces every gradient once: all parameters, in float32."""
    plan = plan_on_cpus(mlp_config(64, 64))
    assert plan.fits is None and plan.roofline is None and not plan.warnings
    assert plan.compiled_flops * 8 == pytest.approx(plan.model_flops)
    assert plan.memory.state == pytest.approx(3 * 4 * plan.parameters, rel=1e-3)
    (reduce,) = plan.collectives
    assert (reduce.kind, reduce.network) == ("all-reduce", "ICI")
    assert reduce.bytes == pytest.approx(2 * 7 / 8 * 4 * plan.parameters, rel=0.01)
    text = report.report(plan, name="mine", data="known", accumulate=1)
    assert "CPUs have no limit" in text and "all-reduce" in text


def test_what_does_not_divide_is_reported():
    config = mlp_config(512, 64, data=1, fsdp=8)
    assert compiling.sharding_warnings(build(config, card=card_of(config, IMAGES)[0])) == []
    config = mlp_config(513, 515, data=1, fsdp=4, tensor=2)
    (fsdp, tensor) = sorted(
        compiling.sharding_warnings(build(config, card=card_of(config, IMAGES)[0]))
    )
    assert (
        "2 parameter(s)" in fsdp
        and "dense_1/kernel [513, 515]" in fsdp
        and "fsdp = 4" in fsdp
        and "large" in fsdp
    )
    assert "tensor = 2" in tensor and "dense_1/kernel" in tensor


# --- what the command line says


def test_data_that_are_not_here_ask_for_flags():
    images = mlp_config(64)
    with pytest.raises(ConfigError, match=r"say the images with --image=HEIGHTxWIDTHxCHANNELS"):
        card_of(images, Given(classes=3))
    with pytest.raises(ConfigError, match=r"say the classes with --classes=NUMBER"):
        card_of(images, Given(image=(8, 8, 1)))
    assert card_of(images, IMAGES)[0].kind("image").image_shape == (16, 16, 1)
    text = gpt_config()
    text.data.tokenizer, text.data.vocab_size = "characters", 8192
    with pytest.raises(ConfigError, match=r"say the characters with --vocab=NUMBER"):
        card_of(text, Given())
    text.data.tokenizer = "somebody/tokenizer"
    del text.model_fields["vocab_size"]
    with pytest.raises(ConfigError, match=r"say it with --vocab=NUMBER"):
        card_of(text, Given())
    assert card_of(text, Given(vocab=99))[0].kind("text").vocab_size == 99


def test_data_that_are_here_speak_for_themselves(tiny):
    build(tiny, devices=jax.devices()[:1])  # prepares the digits
    card, where = card_of(tiny, Given())
    assert card.splits == {"train": 1438, "test": 359} and "prepared" in where


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("[!_]*.py")), ids=lambda p: p.stem)
def test_every_config_can_be_planned_without_its_data(path, tmp_path):
    config = load_config(path)
    config.data.data_dir = str(tmp_path)
    card, where = card_of(config, Given())
    assert "prepared" not in where
    run = build(config, card=card, devices=jax.devices()[:1])
    assert batch_shapes(run, config.batch_size)


def test_topologies_have_names():
    for name, message in (
        ("v5e", "is not CHIP:SHAPE"),
        ("v5:2x2", r"no chip 'v5', there are v3, .*nearest: v5"),
        ("2*cpu:4", "CPUs have a number"),
    ):
        with pytest.raises(ConfigError, match=message):
            topology.find_topology(name)
    assert larger("v5e:2x2") == [
        "v5e:2x4",
        "v5e:4x4",
        "v5e:4x8",
        "v5e:8x8",
        "v5e:8x16",
        "v5e:16x16",
    ]
    assert larger("2*v5p:2x2x1")[:3] == ["2*v5p:2x2x2", "2*v5p:2x2x4", "2*v5p:2x4x4"]


def test_without_a_compiler_the_way_out_is_named(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'jaxmodels\[plan\]'.*--topology=cpu:8"):
        topology.find_topology("v5e:2x2")
    with pytest.raises(ConfigError, match=r"jax-cuda13-pjrt"):
        topology.find_topology("h100:8")


def test_mistakes_on_the_command_line():
    for argv, message in (
        ([], "--config=FILE is missing"),
        (
            ["--config=configs/digits_cnn.py", "--serch"],
            "unknown argument --serch; did you mean --search",
        ),
        (
            ["--config=configs/digits_cnn.py", "--topology=cpu:8", "--image=8"],
            "--image=8 is not HEIGHTxWIDTHxCHANNELS",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            main(argv)


# --- ways out


def test_ways_out_come_in_the_order_of_their_cost():
    config = gpt_config()
    config.accumulate = 2
    found = search.ways_out(config, topology.Topology("fake", square()[:4], None))
    assert found[0] == {"mesh.data": 1, "mesh.fsdp": 4}
    assert found[1] == {"accumulate": 4}
    assert found[2] == {"model_fields.remat": True}
    assert found[-1] == {
        "mesh.data": 1,
        "mesh.fsdp": 4,
        "model_fields.remat": True,
        "accumulate": 4,
    }
    config.model_fields["remat"] = True
    config.mesh = MeshConfig(data=1, fsdp=4)
    assert search.ways_out(config, topology.Topology("fake", square()[:4], None)) == [
        {"accumulate": 4}
    ]


def test_settings_are_set_and_checked():
    config = gpt_config()
    other = search.changed(config, {"mesh.fsdp": 4, "model_fields.remat": True, "accumulate": 2})
    assert (other.mesh.fsdp, other.model_fields["remat"], other.accumulate) == (4, True, 2)
    assert (config.mesh.fsdp, config.accumulate) == (1, 1) and "remat" not in config.model_fields
    with pytest.raises(ConfigError, match="accumulate"):
        search.changed(config, {"accumulate": 3})


@pytest.fixture
def formula(monkeypatch):
    """Plans without a compiler, of devices that hold 100 bytes."""

    def use(state: float, activations: float, seconds=lambda mesh: 1.0, again=lambda needed: 0.0):
        def make_plan(config, card, where, settings):
            mesh = search.sizes(config, len(where.devices))
            if math.prod(mesh.values()) != len(where.devices) or mesh["data"] % where.slices:
                raise ConfigError("not so many devices")
            check_batch(config, mesh["data"] * mesh["fsdp"])
            whole = 1 if config.model_fields.get("remat") else 4
            of_batch = whole * activations / math.prod(mesh.values()) / config.accumulate
            needed = state / mesh["fsdp"] / mesh["tensor"] + of_batch
            return Plan(
                topology=where.name,
                devices=len(where.devices),
                mesh=mesh,
                settings=settings,
                batch={},
                parameters=0,
                memory=Memory(state=0, limit=100.0, needed=needed),
                fits=needed <= 100,
                model_flops=0,
                compile_seconds=1.0,
                roofline=Roofline(seconds(mesh) + again(needed), 0.0, 0.0, 0.0, 0.0),
            )

        monkeypatch.setattr(search, "make_plan", make_plan)
        monkeypatch.setattr(search, "find_topology", devices_of)

    return use


def devices_of(name):
    slices = int(name.partition("*")[0]) if "*" in name else 1
    count = slices * math.prod(map(int, name.partition(":")[2].split("x")))
    return topology.Topology(
        name, [FakeDevice((i, 0, 0)) for i in range(count)], CHIPS["v5e"], slices
    )


def silent(text):
    pass


CARD = DatasetCard("mine", "0.0.0", {}, (16, 16, 1), 10, tuple("0123456789"), "")
"""Of which a formula asks nothing."""


def test_a_larger_slice_is_the_last_way_out(formula):
    """A state of 1000 bytes takes 16 devices; then 60 of activations are 22 too many, 15 are
    not."""
    formula(state=1000, activations=240)
    found, tried = search.find_way_out(gpt_config(), CARD, devices_of("v5e:2x2"), silent)
    assert (found.topology, found.fits) == ("v5e:4x4", True)
    assert found.settings == {"mesh.data": 1, "mesh.fsdp": 16, "model_fields.remat": True}
    assert found.memory.peak == 1000 / 16 + 240 / 16 and tried[-1] is found
    assert [name for name, _ in itertools.groupby(p.topology for p in tried)] == [
        "v5e:2x2",
        "v5e:2x4",
        "v5e:4x4",
    ]
    assert not any(p.fits for p in tried[:-1])
    on_eight = [p.settings for p in tried if p.topology == "v5e:2x4"]
    split = {"mesh.data": 1, "mesh.fsdp": 8}
    again = split | {"model_fields.remat": True}
    assert on_eight == [split, again, again | {"accumulate": 2}]
    asked = dataclasses.replace(tried[0], topology="v5e:2x2")
    text = report.way_out_text(found, tried, asked)
    assert (
        "--topology=v5e:4x4 --config.mesh.data=1 --config.mesh.fsdp=16 "
        "--config.model_fields.remat=True" in text
    )


def test_larger_slices_stay_as_many(formula):
    """Only ``fsdp``, which stays within a slice, grows."""
    formula(state=700, activations=0)
    found, _ = search.find_way_out(gpt_config(), CARD, devices_of("2*v5e:2x2"), silent)
    assert (found.topology, found.settings) == ("2*v5e:2x4", {"mesh.data": 2, "mesh.fsdp": 8})


def test_where_nothing_helps_all_that_was_tried_is_said(formula):
    formula(state=1e9, activations=0)
    found, tried = search.find_way_out(gpt_config(), CARD, devices_of("v5e:2x2"), silent)
    assert found is None
    assert {p.topology for p in tried} == {"v5e:2x2", "v5e:2x4", "v5e:4x4"}, (
        "16 examples are for 16 devices"
    )
    assert f"none among {len(tried)} candidates" in report.way_out_text(found, tried, tried[0])


@pytest.mark.parametrize("best", [(1, 8, 1, 1), (2, 2, 2, 1), (1, 2, 4, 1), (4, 1, 1, 2)], ids=str)
def test_the_search_finds_the_fastest_mesh_from_wherever_it_starts(best, formula):
    """Time is one second and one more for each step away from ``best``."""

    def seconds(mesh):
        return 1.0 + sum(abs(math.log2(a / b)) for a, b in zip(mesh.values(), best, strict=True))

    formula(state=0, activations=0, seconds=seconds)
    bad = (1, 1, 1, 8) if best[3] == 1 else (1, 1, 8, 1)
    for hand in (bad, best):
        config = gpt_config()
        config.mesh = MeshConfig(*hand)
        plans, left = search.search(config, CARD, devices_of("v5e:2x4"), limit=100, say=silent)
        own = next(p for p in plans if not p.settings)
        assert tuple(plans[0].mesh.values()) == best and left == 0
        assert search.time_of(plans[0]) == 1.0 and search.time_of(own) == seconds(own.mesh)
        assert (search.time_of(plans[0]) < search.time_of(own)) == (hand != best)


def test_the_search_tries_more_micro_batches_where_memory_is_nearly_full(formula):
    """Above half of the memory the compiler computes things again, which takes as long as the
    rest."""
    formula(state=0, activations=400, again=lambda needed: float(50 < needed <= 100))
    config = gpt_config()
    config.batch_size, config.mesh = 64, MeshConfig(data=1, fsdp=8)
    plans, left = search.search(config, CARD, devices_of("v5e:2x4"), limit=100, say=silent)
    kept = [p for p in plans if p.mesh["fsdp"] == 8 and "model_fields.remat" not in p.settings]
    found = {p.settings["accumulate"]: search.time_of(p) for p in kept}
    assert found == {2: 2.0, 4: 1.0, 8: 1.0} and left == 0  # 1 does not fit; 8 is no faster than 4
    formula(state=0, activations=200)  # of which all fit
    plans, _ = search.search(config, CARD, devices_of("v5e:2x4"), limit=100, say=silent)
    assert {p.settings.get("accumulate", 1) for p in plans} == {1}


@pytest.mark.parametrize(
    ("config", "meshes"),
    [
        # data x fsdp = 8, 4, 2, 1: 4 + 3 + 2 + 1; again 3 + 2 + 1 with sequence for tensor
        (gpt_config(), 16),
        (mlp_config(64), 10),
    ],
    ids=["text", "images"],
)
def test_the_search_splits_texts_alone_and_not_over_two_axes(config, meshes, formula):
    formula(state=0, activations=0)
    config.batch_size = config.eval_batch_size = 64
    plans, _ = search.search(config, CARD, devices_of("v5e:2x4"), limit=100, say=silent)
    found = {tuple(p.mesh.values()) for p in plans}
    assert len(found) == meshes
    assert all(min(sequence, tensor) == 1 for _, _, sequence, tensor in found)
    assert any(sequence > 1 for _, _, sequence, _ in found) == (meshes == 16)
    if meshes == 16:
        config.data.max_len = 100  # of which there are no eighths
        plans, _ = search.search(config, CARD, devices_of("v5e:2x4"), limit=100, say=silent)
        assert {p.mesh["sequence"] for p in plans} == {1, 2, 4}


# --- compiled for a TPU


def dropout_free(model, **fields):
    rates = {name: 0.0 for name in jaxmodels.model_fields(model) if name.endswith("dropout_rate")}
    return rates | fields


def family(model, task="classification", batch=32, **fields) -> Config:
    text = "vocab_size" in jaxmodels.model_fields(model)
    return Config(
        model=model,
        model_fields=dropout_free(model, **fields),
        task=task,
        data=DataConfig(name="mine", tokenizer="wordpiece", vocab_size=256, max_len=64)
        if text
        else DataConfig(name="mine"),
        optim=OptimConfig(name="sgd"),
        mesh=MeshConfig(data=2, fsdp=2),
        batch_size=batch,
        eval_batch_size=batch,
        dtype="bfloat16",
    )


SMALL = {"num_layers": 1, "num_heads": 2, "hidden_size": 128, "mlp_dim": 256}
PAIR = {"image_encoder": "cnn", "image_fields": {"features": (16, 32)}} | {
    "text_encoder": "lstm",
    "text_fields": {"hidden_size": 128},
}
COLOUR = Given(image=(16, 16, 3), classes=16)
FAMILIES = {
    "cnn": (family("cnn", batch=128, features=(16, 32), hidden_size=128), COLOUR),
    "resnet": (family("resnet20", batch=128, stage_sizes=(1,), width=32), COLOUR),
    "vgg": (
        family(
            "vgg11",
            batch=128,
            stage_sizes=(1, 1),
            stage_features=(32, 64),
            hidden_sizes=(128,),
            pooled_size=2,
        ),
        COLOUR,
    ),
    "vit": (family("vit_ti_16", patch_size=4, scan=True, **SMALL), COLOUR),
    "bert": (family("bert_tiny", "masked_lm", **SMALL), Given()),
    "transformer": (family("transformer_tiny", "seq2seq", **SMALL), Given()),
    "lstm": (family("lstm", hidden_size=128), Given(classes=2)),
    "vae": (family("vae", "elbo", hidden_sizes=(128,)), Given(image=(16, 16, 1), classes=10)),
    "alexnet": (
        family(
            "alexnet",
            stem="small",
            features=(16, 32, 32, 32, 32),
            hidden_sizes=(128, 128),
            pooled_size=1,
        ),
        COLOUR,
    ),
    "googlenet": (family("googlenet", stem="small"), COLOUR),
    "fusion": (family("fusion", fusion="direct", patch_size=4, **SMALL), COLOUR),
    "dual_encoder": (family("dual_encoder", "contrastive", embed_size=64, **PAIR), COLOUR),
    "multi_task": (
        family("mlp", hidden_sizes=(128,)),
        DatasetCard(
            "mine", "0.0.0", {}, (16, 16, 3), 10, tuple("0123456789"), "", {"digit": 10, "other": 4}
        ),
    ),
}
FAMILIES["vae"][0].data.mean, FAMILIES["vae"][0].data.std = (0.0,), (1.0,)
FAMILIES["fusion"][0].data.texts = FAMILIES["dual_encoder"][0].data.texts = ("text",)
FAMILIES["dual_encoder"][0].model_fields |= {
    "image_fields": {"features": (16, 32)},
    "text_fields": {"hidden_size": 128},
}
FAMILIES["multi_task"][0].tasks.labels = ("digit", "other")
IMAGES_OF_16 = Given(image=(16, 16, 1), classes=16)
SEVEN_BILLION = (
    ROOT / "configs" / "gpt2_1558m_openwebtext.py",
    (
        "model_fields.hidden_size=4096",
        "model_fields.num_layers=32",
        "model_fields.num_heads=32",
        "model_fields.mlp_dim=16384",
    ),
)


FEW = ("multi_task",)
"""Families that are compiled with the short plans; the others wait for ``make test-all``."""


class Compiled:
    """Plans for four TPUs by name; made in a process of its own, whose jax is not the tests'."""

    def __init__(self):
        jax.config.update("jax_enable_compilation_cache", False)
        self.where, self.found = topology.find_topology("v5e:2x2"), {}
        # all are alike, and slow to compile
        googlenet.BLOCKS, googlenet.AUXILIARY = {"3a": googlenet.BLOCKS["3a"]}, {}

    def add(self, name, config, given=IMAGES_OF_16):
        card = card_of(config, given)[0] if isinstance(given, Given) else given
        plan = compiling.make_plan(config, card, self.where)
        self.found[name] = plan.to_json()
        return plan

    def few(self):
        """Those of every ``make test``."""
        self.add("data", mlp_config(512, 512, batch=1024, data=4))
        self.add("fsdp", mlp_config(1024, 1024, batch=1024, data=1, fsdp=4))
        gpt = split_gpt()
        self.add("gpt2", gpt, Given())
        gpt.model_fields["attention"] = "auto"
        run = build(gpt, card=card_of(gpt, Given())[0], devices=self.where.devices)
        traced = trace_train_step(run)[-1]
        self.found["kernel"] = [count_flops(traced.jaxpr), model_flops(run, traced)]
        file, overrides = SEVEN_BILLION
        self.add("7B", load_config(file, overrides), Given())
        for name in FEW:
            self.add(name, *FAMILIES[name])

    def rest(self):
        """The others."""
        gpt = split_gpt()
        gpt.model_fields["attention"], gpt.mesh = "auto", MeshConfig()
        card, older = card_of(gpt, Given())[0], topology.find_topology("v3:2x2")
        run = build(gpt, card=card, devices=older.devices)
        self.found["v3"] = (
            compiling.make_plan(gpt, card, older).to_json(),
            attention_backend(run.model, card, run.mesh),
        )
        for name in FAMILIES.keys() - set(FEW):
            self.add(name, *FAMILIES[name])
        large = mlp_config(35_840, 35_840, batch=64)  # 14.4 of 15.75 GiB are state
        refused = self.add("large", large)
        card = card_of(large, IMAGES_OF_16)[0]
        out, tried = search.find_way_out(large, card, self.where, print)
        self.found["way out"], self.found["tried"] = out.to_json(), len(tried)
        words = report.memory_text(refused), report.way_out_text(out, tried, refused)
        self.found["words"] = words
        hand = mlp_config(128, 128, batch=4096, data=1, tensor=4)
        card = card_of(hand, IMAGES_OF_16)[0]
        plans, left = search.search(hand, card, self.where, limit=4, say=print)
        self.found["search"], self.found["left"] = [plan.to_json() for plan in plans], left
        self.found["ranking"] = report.ranking(plans, left)


def split_gpt() -> Config:
    """Three layers in a loop, two micro-batches, parameters over four devices."""
    gpt = gpt_config(scan=True, remat=True, num_layers=3)
    gpt.mesh, gpt.accumulate = MeshConfig(data=1, fsdp=4), 2
    return gpt


def compiled(which: str, directory: Path) -> dict:
    """Plans of one of :class:`Compiled`'s two parts, as JSON gives them."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip(
            "libtpu, the compiler of TPUs, is not installed (pip install 'jaxmodels[plan]')"
        )
    path = directory / "plans.json"
    environment = {
        k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
    }
    code = (
        "import json, pathlib; from tests.test_plan import Compiled; plans = Compiled(); "
        f"plans.{which}(); pathlib.Path({str(path)!r}).write_text(json.dumps(plans.found))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    return compiled("few", tmp_path_factory.mktemp("plan"))


@pytest.fixture(scope="module")
def other_plans(tmp_path_factory):
    return compiled("rest", tmp_path_factory.mktemp("plan"))


def sent(plan, *kinds):
    return sum(t["bytes"] for t in plan["collectives"] if t["kind"] in kinds)


def count(plan, *kinds):
    return sum(t["count"] for t in plan["collectives"] if t["kind"] in kinds)


def test_attention_of_an_older_chip_is_by_what_compiles_for_it(other_plans):
    """TPU v3 has no bfloat16 in kernels: ``auto`` is plain products there, and the plan
    compiles."""
    plan, (backend, why) = other_plans["v3"]
    assert backend == "einsum" and why == "splash does not compile in bfloat16 for TPU v3"
    assert plan["compiled_flops"] and plan["kernels"] == 0


def test_data_parallelism_reduces_every_gradient_once(plans):
    """In one operation: the compiler joins them; in another, the loss and what counts its
    examples."""
    plan = plans["data"]
    assert plan["fits"] and plan["compiled_flops"] * 4 == pytest.approx(
        plan["model_flops"], rel=0.01
    )
    assert {t["kind"] for t in plan["collectives"]} == {"all-reduce"} and count(
        plan, "all-reduce"
    ) == 2
    # in the bfloat16 that they are computed in
    assert sent(plan, "all-reduce") == pytest.approx(2 * 3 / 4 * 2 * plan["parameters"], rel=0.02)


def test_fsdp_gathers_parameters_and_scatters_gradients(plans):
    plan = plans["fsdp"]
    assert plan["compiled_flops"] * 4 == pytest.approx(plan["model_flops"], rel=0.01)
    assert not plan["warnings"]
    assert sent(plan, "all-gather") == pytest.approx(3 / 4 * 2 * plan["parameters"], rel=0.02)
    # each parameter of 1024 or more numbers, three kernels and two biases, is gathered for itself;
    # gradients together
    assert count(plan, "all-gather") == 5 and count(plan, "reduce-scatter") == 1
    # a small gradient, the head's, may be summed whole: an all-reduce sends twice as much
    scattered = sent(plan, "reduce-scatter") + sent(plan, "all-reduce") / 2
    assert scattered == pytest.approx(3 / 4 * 2 * plan["parameters"], rel=0.02)
    assert sent(plan, "all-reduce") < 0.1 * sent(plan, "reduce-scatter")
    # no large tensor is whole on every device: a quarter of the state lies on each, and what the
    # step is given with it
    assert plan["memory"]["state"] == pytest.approx(3 * 4 * plan["parameters"] / 4, rel=0.02)
    batch = 1024 * (256 + 8) / 4
    assert plan["memory"]["arguments"] == pytest.approx(plan["memory"]["state"] + batch, rel=0.05)


def test_loops_are_unrolled_and_rematerialisation_is_seen(plans):
    """Three layers in a loop in a loop of two micro-batches; each layer's forward pass but its last
    product again."""
    plan = plans["gpt2"]
    model = gpt_flops(16, 128, 3, 128, 512, 512)
    assert plan["model_flops"] == model
    kernel, formula = plans["kernel"]
    assert formula == model < kernel, "splash computes its scores more than once"
    layer = 4 * 128**2 + 2 * 128 * 128 + 128 * 512
    again = 2 * 16 * 128 * 3 * layer
    assert plan["compiled_flops"] * 4 == pytest.approx(model + again, rel=0.05)
    assert sorted(plan["loops"])[-2:] == [3, 3] and 2 in plan["loops"]
    assert plan["analysis_flops"] < 0.6 * plan["compiled_flops"]  # bodies once: not to be believed


def test_fsdp_gathers_each_layer_of_a_transformer_in_each_pass(plans):
    """Three layers, two micro-batches; a layer's forward pass runs again in its backward pass, with
    what that gathers.

    Gathered are, of a layer, query, key, value, out, the two kernels of the MLP, and the bias of
    512 numbers, which of three layers has more than 1024; once in a step, before the micro-batches,
    the embeddings of tokens and positions.
    """
    plan, layers, passes, micro = plans["gpt2"], 3, 2, 2
    split = 4 * 128**2 + 2 * 128 * 512 + 512
    embeddings = (512 + 128) * 128
    gathered = 2 * (layers * passes * micro * split + embeddings)  # in bfloat16
    assert count(plan, "all-gather") == layers * passes * micro * 7 + 2
    assert sent(plan, "all-gather") == 3 / 4 * gathered
    # gradients once for each micro-batch; those of the tokens' embedding twice, of the logits and,
    # in float32, of what was looked up; a layer's in two operations: the MLP's are scattered, the
    # smaller ones joined, summed whole
    reduced = micro * (2 * plan["parameters"] + 4 * 512 * 128)
    assert sent(plan, "reduce-scatter") + sent(plan, "all-reduce") / 2 == pytest.approx(
        3 / 4 * reduced, rel=0.01
    )
    assert count(plan, "reduce-scatter") == micro * (layers + 2)  # and of the embedding
    # the gradient's norm, for which the optimiser waits, is one by itself; since libtpu 0.0.50 so
    # is one more number
    alone = 1 if version("libtpu").startswith("0.0.42.") else 2
    assert micro * layers < count(plan, "all-reduce") <= micro * (layers + 3) + alone
    assert {t["kind"] for t in plan["collectives"]} == {
        "all-gather",
        "reduce-scatter",
        "all-reduce",
    }
    assert not plan["warnings"]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_compiles_and_computes_what_its_formula_says(name, request):
    plan = request.getfixturevalue("plans" if name in FEW else "other_plans")[name]
    assert plan["fits"] and plan["peak"] < 0.1 * plan["memory"]["limit"]
    assert plan["compiled_flops"] * 4 == pytest.approx(plan["model_flops"], rel=0.05)
    assert plan["collectives"] and plan["warnings"] == []


def test_what_does_not_fit_is_refused_with_the_way_out(other_plans):
    plan, out = other_plans["large"], other_plans["way out"]
    assert plan["fits"] is False and plan["reason"]
    assert plan["peak"] > plan["memory"]["limit"] or "exceeds" in plan["reason"]
    assert (
        out["fits"]
        and out["settings"] == {"mesh.data": 1, "mesh.fsdp": 4}
        and other_plans["tried"] == 1
    )
    assert out["peak"] < out["memory"]["limit"]
    refusal, way_out = other_plans["words"]
    assert refusal.startswith("DOES NOT FIT") and "15.75 GiB" in refusal
    assert (
        "--config.mesh.data=1 --config.mesh.fsdp=4: fits" in way_out
        and "compiling 1 of 1" in way_out
    )


def test_a_state_that_is_too_large_is_not_even_compiled(plans):
    plan = plans["7B"]
    assert (
        plan["fits"] is False and plan["compile_seconds"] == 0 and "state alone" in plan["reason"]
    )
    assert 6.5e9 < plan["parameters"] < 7e9
    assert plan["memory"]["state"] == pytest.approx(12 * plan["parameters"] / 4, rel=1e-3)


def test_the_search_is_faster_than_a_bad_mesh_by_hand(other_plans):
    """Features of a small MLP over all devices: every layer is summed or gathered over the whole
    batch."""
    found = other_plans["search"]
    times = [plan["roofline"]["seconds"] for plan in found]
    (own,) = [plan for plan in found if not plan["settings"]]
    assert own["mesh"] == {"data": 1, "fsdp": 1, "sequence": 1, "tensor": 4} and times == sorted(
        times
    )
    assert (
        times[0] < 0.2 * own["roofline"]["seconds"] and len(found) == 4 and other_plans["left"] > 0
    )
    assert (
        "(the config as it stands)" in other_plans["ranking"]
        and "--limit=N" in other_plans["ranking"]
    )


def test_the_table_has_a_row_for_every_config():
    """docs/plans.md is what the command wrote last; two large recipes fit the slices that their
    cards name."""
    rows = json.loads((ROOT / "docs" / "plans.json").read_text())
    assert set(rows) == {p.stem for p in (ROOT / "configs").glob("[!_]*.py")}
    assert (ROOT / "docs" / "plans.md").read_text() == report.table(rows)
    for name, where in (("gpt2_1558m_openwebtext", "v5e:4x4"), ("imagenet_vit_l16", "v5e:2x4")):
        assert (rows[name]["topology"], rows[name]["fits"]) == (where, True)
        assert rows[name]["peak"] < rows[name]["memory"]["limit"] == CHIPS["v5e"].memory
    for name, row in rows.items():
        assert row["fits"], name
        # the compiled program does not say what kernels compute
        least = 0.8 if row["kernels"] else 0.95
        assert least < row["compiled_flops"] * row["devices"] / row["model_flops"] < 1.6, name
        assert math.isclose(
            row["roofline"]["seconds"],
            max(row["roofline"][k] for k in ("compute", "memory", "ici", "dcn")),
        )


@pytest.mark.parametrize("name", json.loads((ROOT / "docs" / "plans.json").read_text()))
def test_the_table_is_of_the_configs_as_they_are(name):
    row = json.loads((ROOT / "docs" / "plans.json").read_text())[name]
    config = load_config(ROOT / "configs" / f"{name}.py", ())
    if row["devices"] > len(jax.devices()):
        config.mesh, row["devices"] = MeshConfig(data=1, fsdp=8), 8
    run = build(config, card=card_of(config, Given())[0], devices=jax.devices()[: row["devices"]])
    batch = {k: list(v.shape) for k, v in batch_shapes(run, config.batch_size)[-1].items()}
    assert (compiling.parameter_count(run)[0], batch) == (row["parameters"], row["batch"])
