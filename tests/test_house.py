"""The house rules: who imports whom, nothing heavy or foreign at run time, what the wheel holds."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxmodels
from tests import house
from tests.conftest import UNKNOWN
from tests.flags import FAST_COMPILATION
from tests.slow import LONGEST

ROOT = Path(__file__).parent.parent
ROOMS = ("configs", "train", "jaxmodels", "input_pipeline")
MAY_IMPORT = {
    "configs": {"train"},
    "train": {"train", "jaxmodels", "input_pipeline"},
    "jaxmodels": {"jaxmodels"},
    "input_pipeline": {"input_pipeline"},
}
FOREIGN = {"torch", "torchvision", "transformers", "tensorflow"}
# the originals; certificates; the converter of pickles
MAY_BE_FOREIGN = (
    "train/compare/",
    "jaxmodels/parity/extra.py",
    "jaxmodels/weights/convert.py",
    "jaxmodels/foreign/original.py",
    *(f"jaxmodels/families/{name}/original.py" for name in jaxmodels.FAMILIES),
)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_import_directions(room):
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        for name in imports(path):
            top = name.partition(".")[0]
            assert top not in ROOMS or top in MAY_IMPORT[room], f"{path}: {name}"
            assert top not in FOREIGN or str(path.relative_to(ROOT)).startswith(MAY_BE_FOREIGN), (
                f"{path}: {name}"
            )
            if room == "jaxmodels" and path != ROOT / "jaxmodels/parity/extra.py":
                assert top not in ("optax", "orbax", "grain", "tensorflow_datasets"), (
                    f"{path}: {name}"
                )


AT_IMPORT = {
    "jaxmodels/__init__.py": "former paths of its modules",
    "train/records/writers.py": "torch is hidden from tensorboardX, and not after it",
}


def statements(body):
    """Those that run when a module is imported, whatever they stand in."""
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test).startswith("__name__ =="):
            continue
        yield node
        for name in ("body", "orelse", "finalbody"):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield from statements(getattr(node, name, []))


def changes_others(node):
    """Whether a statement is a call alone, but for derivatives, or assigns to what is of another
    module."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return not ast.unparse(node.value.func).endswith((".defvjp", ".defjvp"))
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    targets = [getattr(t, "value", t) if isinstance(t, ast.Subscript) else t for t in targets]
    return any(isinstance(t, ast.Attribute) for t in targets)


@pytest.mark.parametrize("room", ROOMS)
def test_an_import_changes_nothing_elsewhere(room):
    for path in (ROOT / room).rglob("*.py"):
        if str(path.relative_to(ROOT)) not in AT_IMPORT:
            found = [*filter(changes_others, statements(ast.parse(path.read_text()).body))]
            assert not found, f"{path}:{found[0].lineno}: {ast.unparse(found[0])}"


def test_linen_is_behind_the_wall():
    for path in [*(ROOT / "train").rglob("*.py"), *(ROOT / "input_pipeline").rglob("*.py")]:
        assert not {"flax.linen", "flax.nnx"} & set(imports(path)), path


def test_a_first_run_needs_neither_tensorflow_nor_torch(tmp_path):
    """``import tensorflow`` raises, and a data set is prepared, read and trained on in a fresh
    process."""
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(FOREIGN)!r}:
            raise ImportError(name + " must not be imported")
sys.meta_path.insert(0, Refuse())
import importlib.util  # etils asks whether tensorflow is installed, without importing it
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "tensorflow" else find_spec(name, package)
from train.__main__ import main
main(["--config=configs/digits_cnn.py", "--workdir={tmp_path}/w", "--config.data.data_dir={tmp_path}/data",
      "--config.model=mlp", "--config.model_fields={{'hidden_sizes': (32,)}}",
      "--config.steps=20", "--config.optim.warmup_steps=2", "--config.log_every=10"])
import tensorflow_datasets as tfds
assert len(tfds.data_source("digits", data_dir="{tmp_path}/data", split="train")) == 1438
assert not {{"tensorflow", "torch"}} & set(sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": FAST_COMPILATION},  # one device
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "w" / "summary.json").exists()


def test_imports_without_warnings_and_without_what_is_foreign():
    """In one process, the library first."""
    modules = (
        *("jaxmodels", "jaxmodels.plan", "jaxmodels.weights", "input_pipeline", "train.loop"),
        *("train.plan.search", "train.predict", "train.generate", "train.explain.command"),
    )
    code = f"""
import importlib, sys
for module in {modules!r}:
    importlib.import_module(module)
    assert not {FOREIGN!r} & set(sys.modules), module
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_the_table_of_slow_tests_names_tests_that_exist(request):
    assert not request.config.stash[UNKNOWN]
    assert all((ROOT / "tests" / f"{name}.py").exists() for name in LONGEST)


def test_the_house_is_no_further_from_its_plan():
    """What is over a limit is printed; limits are in tests/house.py and may only fall."""
    assert house.main() == 0
