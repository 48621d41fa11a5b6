"""``jaxmodels.parity`` alone: a pair that is none of the library's families, sound and broken."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen as nn

from jaxmodels.foreign.rules import Pair, Tensor
from jaxmodels.parity import Optimizer, Subject, certify, ours_of, report
from jaxmodels.parity.randomness import randomise

NAMES = ("0", "3")  # of the original's linear layers


class Small(nn.Module):
    """Two dense layers around a batch norm."""

    dtype: object
    momentum: float = 0.9
    slope: float = 0.0

    @nn.compact
    def __call__(self, x, *, train):
        wide = jnp.float64 if self.dtype == "float64" else jnp.float32
        fields = {"dtype": jnp.dtype(self.dtype), "param_dtype": wide}
        x = nn.Dense(6, name="dense_0", **fields)(x)
        x = nn.BatchNorm(
            not train, momentum=self.momentum, name="norm", use_fast_variance=False, **fields
        )(x)
        return nn.Dense(3, name="dense_3", **fields)(nn.leaky_relu(x, self.slope))


@dataclass
class Theirs:
    module: torch.nn.Module
    source: str = "written here"

    def main(self, outputs):
        return outputs

    def loss(self, outputs, batch):
        return torch.nn.functional.cross_entropy(outputs, batch["label"])

    def tensors(self):
        return {k: v.detach() for k, v in self.module.state_dict().items() if "num_" not in k}

    def load(self, tensors):
        self.module.load_state_dict(tensors, strict=False)


class BatchNorm(torch.nn.BatchNorm1d):
    """Its running variance is that of the batch, not the unbiased one, as Flax has it."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        mean, var = x.mean(0), x.var(0, unbiased=False)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var, self.momentum)
        return (x - mean) / torch.sqrt(var + self.eps) * self.weight + self.bias


def original(dtype):
    layers = [torch.nn.Linear(5, 6), BatchNorm(6), torch.nn.ReLU(), torch.nn.Linear(6, 3)]
    return Theirs(torch.nn.Sequential(*layers).to(getattr(torch, dtype)))


def to_ours(tensors):
    params = {
        f"dense_{i}": {"kernel": tensors[f"{i}.weight"].T, "bias": tensors[f"{i}.bias"]}
        for i in NAMES
    }
    params["norm"] = {"scale": tensors["1.weight"], "bias": tensors["1.bias"]}
    stats = {"mean": tensors["1.running_mean"], "var": tensors["1.running_var"]}
    return {"params": params, "batch_stats": {"norm": stats}}


def to_theirs(variables):
    params, stats = variables["params"], variables["batch_stats"]["norm"]
    found = {f"{i}.weight": params[f"dense_{i}"]["kernel"].T for i in NAMES}
    found |= {f"{i}.bias": params[f"dense_{i}"]["bias"] for i in NAMES}
    found |= {"1.weight": params["norm"]["scale"], "1.bias": params["norm"]["bias"]}
    return found | {"1.running_mean": stats["mean"], "1.running_var": stats["var"]}


def loss(outputs, batch):
    losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["label"])
    return losses.sum(), jnp.asarray(losses.size, losses.dtype)


def batch(i):
    rng = np.random.default_rng(i)
    return {"x": rng.normal(size=(16, 5)) + 0.3, "label": rng.integers(0, 3, 16).astype(np.int32)}


def subject(*, loss=loss, to_theirs=to_theirs, parameters=(69, 69), momentum=0.5, **fields):
    tensor = Tensor("weight", "kernel", "o i -> i o")
    modules = {i: Pair(f"dense_{i}", None, tensor) for i in NAMES}
    sides = {"to_ours": to_ours, "to_theirs": to_theirs, "modules": modules, "loss": loss}
    sgd = Optimizer(
        lambda rate, steps: optax.sgd(rate, momentum=momentum),
        lambda original, rate: torch.optim.SGD(original.module.parameters(), rate, momentum=0.5),
    )
    return Subject(
        original,
        lambda dtype, original: ours_of(Small(dtype, **fields), inputs=("x",), **sides),
        inputs=("x",),
        batch=batch,
        whole=lambda: batch(0),
        parameters=parameters,
        optimizers={"sgd": sgd},
    )


def test_a_pair_of_ones_own_passes():
    said = []
    result = certify("small", subject(), steps=4, say=said.append)
    assert not result.failures and result.first_divergence is None
    assert result.sgd_loss_rel_f64 < 1e-12 and result.adamw_loss_rel_f64 is None
    assert result.bn_rel_f64 < 1e-14 and result.roundtrip_bitwise
    assert len(result.blocks) == 2 and all(d.norm > 1e-2 for d in result.blocks)
    assert result.bf16_logits_rel > 100 * result.logits_rel_f32 > 0
    assert len(result.curves["sgd"]["ours"]) == 4 and np.ptp(result.curves["sgd"]["ours"]) > 1e-3
    assert len(said) == 4 and "pass" in report.summary(result)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"slope": 0.1}, "first difference: before dense_3 (PyTorch: 3): its input differs"),
        ({"momentum": 0.4}, "sgd_loss_rel_f64"),
        ({"loss": lambda outputs, batch: (loss(outputs, batch)[0], 17.0)}, "loss_rel_f64"),
        ({"parameters": (69, 70)}, "69 parameters, the original has 70"),
        ({"to_theirs": lambda v: {k: x * 1.5 for k, x in to_theirs(v).items()}}, "weights do not"),
    ],
)
def test_faults_are_found(fault, words):
    steps = 4 if "momentum" in fault else 0
    result = certify("small", subject(**fault), steps=steps, dtypes=())
    assert any(failure.startswith(words) for failure in result.failures), result.failures


def test_no_statistic_stays_at_its_initial_value():
    module = original("float32").module
    for inputs in ((), (torch.randn(16, 5),)):
        randomise(module, inputs)
        assert (module[1].running_mean != 0).all() and (module[1].running_var != 1).all()
        assert module[1].momentum == 0.1


def test_a_missing_package_is_named_with_the_extra():
    code = "import sys; sys.modules['torch'] = None; import jaxmodels; import jaxmodels.parity"
    command, root = [sys.executable, "-c", code], Path(__file__).parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "pip install jaxmodels[parity]" in done.stderr.splitlines()[-1]
