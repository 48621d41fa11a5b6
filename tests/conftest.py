"""Eight devices on any machine, fixed before jax starts; data sets prepared once per test
session."""

import contextlib
import gc
import os
import shutil
import tempfile
from importlib.metadata import version

from tests.flags import FAST_COMPILATION

os.environ["JAX_PLATFORMS"] = "cpu"
# two workers share the machine, and PyTorch's threads wait for work by spinning
os.environ["OMP_NUM_THREADS"] = "1"
# the time is spent compiling
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {FAST_COMPILATION}"
# with the older emitter of fused loops, which 0.12 lacks, a quarter less
if version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# and that every operation of a program knows the lines it came from costs a tenth
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
# many tests compile the same small run; one cache for each worker, so that none reads what another
# is writing
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxmodels-tests-")
# writing costs a tenth of compiling, and shorter ones are seldom compiled again
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

# jaxtyping's hook compiles whatever is first imported from within our packages from its source, so
# the libraries are imported before them
import flax.linen  # noqa: F401
import grain  # noqa: F401
import jax
import optax  # noqa: F401
import orbax.checkpoint  # noqa: F401
import PIL.Image
import pytest
import tensorboardX  # noqa: F401
import tensorflow_datasets  # noqa: F401
from matplotlib.figure import Figure

from tests.slow import LONGEST, TABLE, matches
from train.config import CheckpointConfig, Config, DataConfig, OptimConfig

# tracing makes many objects and few of them are cyclic: at the default thresholds a twentieth of
# the time is collecting
gc.set_threshold(50_000, 20, 100)


DRAWN = Figure.savefig


def _not_drawn(self, file, **options) -> None:
    PIL.Image.new("L", (1, 1)).save(file, "PNG")


# curves and confusion are half of the time of a small run, and few tests look at them
Figure.savefig = _not_drawn


@contextlib.contextmanager
def drawing():
    """Plots are drawn; otherwise each is one pixel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", DRAWN)
        yield


@pytest.fixture
def plots():
    """For a test that looks at plots: they are drawn."""
    with drawing():
        yield


UNKNOWN = pytest.StashKey[list[str]]()
"""Entries of the table of slow tests that name no test, where whole files were collected."""


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config, items):
    """Marks as slow what the table of :mod:`tests.slow` names; workers have the longest files
    first."""
    if hasattr(config, "workerinput"):
        place = {name: i for i, name in enumerate(LONGEST)}
        items.sort(key=lambda item: place.get(item.path.stem, len(place)))
    tests: dict[tuple[str, str], dict[str, pytest.Item]] = {}  # file, function -> case -> test
    for item in items:
        case = item.name.removeprefix(item.originalname)[1:-1]
        tests.setdefault((item.path.stem, item.originalname), {})[case] = item
    unknown = []
    for file in {file for file, _ in tests} & TABLE.keys():
        for entry in TABLE[file]:
            cases = tests.get((file, entry.test), {})
            for pattern in entry.only or entry.keep or ("*",):
                if not any(matches(case, pattern) for case in cases):
                    unknown.append(f"{file}::{entry.test}[{pattern}]")
            for case, item in cases.items():
                if entry.holds(case):
                    item.add_marker(pytest.mark.slow(reason=entry.why))
    chosen = config.option.keyword or any("::" in argument for argument in config.args)
    config.stash[UNKNOWN] = [] if chosen else unknown


def pytest_collection_finish():
    gc.freeze()  # modules stay


def pytest_unconfigure():
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture
def x64():
    """float64 for one test: parity and sharding are shown where rounding does not hide a fault."""
    with jax.enable_x64(True):
        yield


ALL_DEVICES = jax.devices()
NEW_EMITTER = (
    {"xla_cpu_use_fusion_emitters": True} if "fusion_emitters" in os.environ["XLA_FLAGS"] else {}
)
"""Compiler options for two programs that are to be equal bit for bit: the older one rounds where it
fuses."""


@pytest.fixture(scope="module")
def two_devices():
    """What is not about meshes runs on two of the eight devices: a mesh still, with less to compile
    and to wait for."""
    devices = ALL_DEVICES[:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: devices)
        patch.setattr(jax, "device_count", lambda *_: len(devices))
        yield


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> str:
    """A data directory of this test session, so that no test depends on what lies in HOME."""
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture
def tiny(data_dir) -> Config:
    """Sixteen fast steps of an MLP on the embedded digits, with all that has state switched on."""
    return make_tiny(data_dir)


def make_tiny(data_dir: str) -> Config:
    """See ``tiny``; a fresh one, for fixtures that live longer."""
    return Config(
        model="mlp",
        model_fields={"hidden_sizes": (32,)},
        data=DataConfig(name="digits", data_dir=data_dir, crop_padding=1),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=2, weight_decay=1e-2, ema_decay=0.9),
        checkpoint=CheckpointConfig(every=6),
        steps=16,
        batch_size=64,
        accumulate=2,
        eval_every=8,
        eval_batch_size=128,
        log_every=4,
    )
