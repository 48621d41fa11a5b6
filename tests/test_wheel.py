"""The wheel in an environment that has its dependencies and nothing else.

Nothing is downloaded. The environment is an empty venv, into which every file of the distributions
that the wheel requires, and that those require in turn, is linked from this one: the files that
their own records list, and so what pip would unpack. pip itself then installs the wheel without an
index. It refuses if a requirement is not met by what is linked. What nobody requires is not there.
"""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
OWN = {"jax", "flax", "einops", "jaxtyping", "safetensors", "huggingface-hub"}

PROGRAM = """
import sys, tempfile
import jax, numpy as np
import jaxmodels
from jaxmodels import weights
from jaxmodels.decode.generate import generate

assert sys.prefix in jaxmodels.__file__, jaxmodels.__file__
model = jaxmodels.create("gpt2_tiny", num_layers=1, vocab_size=32, max_len=16)
tokens = np.arange(8)[None]
variables = jax.jit(model.init, static_argnames="train")(jax.random.key(0), tokens, train=False)
with tempfile.TemporaryDirectory() as folder:
    weights.save(f"{folder}/saved", model, variables)
    loaded, again = weights.load(f"{folder}/saved")
jax.tree.map(np.testing.assert_array_equal, variables, again)
(text,) = generate(loaded, again, [[1, 2, 3]], max_len=8, stop=())
assert len(text) == 5 and all(0 <= token < 32 for token in text), text
others = {"train", "input_pipeline", "optax", "orbax", "tensorstore", "torch", "transformers"}
assert not others & {name.partition(".")[0] for name in sys.modules}
print("works")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_it_holds_jaxmodels_only(wheel):
    names = {n.partition("/")[0] for n in zipfile.ZipFile(wheel).namelist()}
    assert names == {"jaxmodels", wheel.name.partition("-py3")[0] + ".dist-info"}


def requirements(texts, extras=("",)):
    """Those that count on this machine, with any of ``extras``."""
    found = map(Requirement, texts or ())
    return [
        r for r in found if not r.marker or any(r.marker.evaluate({"extra": e}) for e in extras)
    ]


def closure(wanted):
    """Distributions that meet the requirements ``wanted``, and those that they require in turn."""
    found, seen = {}, set()
    while wanted:
        one = wanted.pop()
        key = (canonicalize_name(one.name), frozenset(one.extras))
        if key in seen:
            continue
        seen.add(key)
        found[key[0]] = metadata.distribution(one.name)
        wanted += requirements(found[key[0]].requires, ("", *one.extras))
    return found


def link(distribution, site):
    """Links the files of a distribution into ``site``; scripts, which lie elsewhere, are left."""
    for file in distribution.files:
        if ".." in file.parts:
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() and (source := Path(distribution.locate_file(file))).exists():
            target.symlink_to(source)


def run(*command, **options):
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_works_with_its_dependencies_alone(wheel, tmp_path):
    (ours,) = metadata.distributions(name="jaxmodels", path=[str(wheel)])
    needed = requirements(ours.requires)
    assert {canonicalize_name(r.name) for r in needed} == OWN
    assert any(str(file) == "jaxmodels/py.typed" for file in ours.files)

    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    prefix = {"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")}
    site = Path(sysconfig.get_path("purelib", "venv", prefix))
    for distribution in closure(needed).values():
        link(distribution, site)
    command = ("install", "--quiet", "--no-index", "--disable-pip-version-check", str(wheel))
    run(sys.executable, "-m", "pip", "--python", str(python), *command)
    # -I: neither this directory nor PYTHONPATH
    assert run(str(python), "-I", "-W", "error", "-c", PROGRAM, cwd=tmp_path) == "works\n"


def test_every_extra_that_is_named_somewhere_exists(wheel):
    (ours,) = metadata.distributions(name="jaxmodels", path=[str(wheel)])
    extras = set(ours.metadata.get_all("Provides-Extra"))
    assert extras == {"train", "parity", "compare", "plan", "cuda", "tpu", "dev"}
