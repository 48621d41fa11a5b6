"""Several processes, one for each host or device, started with the same command: finds, joins and
compares them.

Before jax knows of the others, every process connects to the first one at the coordinator's own
address, so that no other port is needed: a wrong count, an index given twice, a coordinator that
cannot be reached and programs that differ become one line on every process (jax's coordination
service aborts instead, and a second process with an index that a run has already would end that
run). The connections stay, see :mod:`train.launch.link`.
"""

import contextlib
import dataclasses
import errno
import faulthandler
import glob
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import jax

# what jax.distributed.initialize() asks; the answer is needed before it
from jax._src.clusters import ClusterEnv

from train.config import Config, ConfigError
from train.errors import SaveError
from train.launch import cli
from train.launch.link import GRACE_SECONDS, Link, Peer, ProcessesDifferError, numbered, say

_GREETING = b"jaxmodels processes 1\n"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "grain")
_ROOT = Path(__file__).parents[2]
_OF_ONE_HOST = ("config.data.data_dir", "config.data.raw_dir")  # may lie elsewhere on each

_link: Link | None = None


@dataclasses.dataclass(frozen=True)
class Place:
    """Of this process among all: where the first one listens (host:port), how many there are, which
    one this is."""

    address: str
    count: int
    index: int
    devices: list[int] | None = None  # the local ones that are this process's; None: all


@contextlib.contextmanager
def joined(config: Config, workdir: Path) -> Iterator[None]:
    """Joins the other processes if the environment says that there are some; all leave together.

    Raises:
      ConfigError: they cannot be found or joined, or differ in program or config.
    """
    global _link
    place = find_place(os.environ, config.processes.join_seconds)
    if place is None or place.count == 1:
        yield
        return
    faulthandler.enable()  # jax aborts where all else fails
    peers = roll_call(place, config.processes.join_seconds)
    _link = link = Link(
        place.index,
        place.count,
        peers,
        lost_seconds=config.processes.lost_seconds,
        saving=lambda: any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*")),
    )
    try:
        link.agree(
            "program", program(config), "give all of them the same program, packages and command"
        )
        jax.distributed.initialize(
            place.address,
            place.count,
            place.index,
            place.devices,
            cluster_detection_method="deactivate",
            initialization_timeout=math.ceil(config.processes.join_seconds),
            # the last resort
            heartbeat_timeout_seconds=math.ceil(config.processes.lost_seconds + 6 * GRACE_SECONDS),
        )
        for number in passed_on():  # jax tells the others of SIGTERM alone
            signal.signal(number, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
        yield
        link.agree("end", {})  # the first one writes results when the others are done
    except BaseException as e:
        failed(e)
        raise
    link.leave()


def passed_on() -> list[signal.Signals]:
    """Signals that ask a run to save and stop, as SIGTERM does: a terminal that closes, and Slurm's
    ``--signal``.

    One that was ignored when this process started, as ``nohup`` does with SIGHUP, stays ignored.
    """
    return [s for s in (signal.SIGHUP, signal.SIGUSR1) if signal.getsignal(s) != signal.SIG_IGN]


def agree(what: str, mine: Mapping[str, str], hint: str = "") -> None:
    """:meth:`train.launch.link.Link.agree`; nothing where there is one process."""
    if _link is not None:
        _link.agree(what, mine, hint)


def before_exit(clean_up: Callable[[], None]) -> None:
    """Has this called where this process is ended because of another one; nothing where there is
    one process."""
    if _link is not None:
        _link.clean_up = clean_up


def failed(error: BaseException) -> None:
    """Tells the other processes, once, of an error that ends this one; nothing where there is one
    process.

    Does not return where another process is the cause: this one is ended with the reason, see
    :mod:`train.launch.link`.
    """
    link = _link
    if link is None or link.failed:
        return
    if isinstance(error, ProcessesDifferError):
        link.leave()  # all say the same
        return
    # a collective fails when another process is gone: the news of it may take a moment
    if link.ending.wait(2.0 if _of_jax(error) else 0.0):
        time.sleep(4 * GRACE_SECONDS)
    known = cli.explain(error)
    text = known[0] if known else "".join(traceback.format_exception(error))
    link.fail(text, saving=not isinstance(error, SaveError))
    say(f"error: process {link.index} of {link.count} failed; the others are told")


def exit_with(run: Callable[[], int]) -> NoReturn:
    """Exits with the code that ``run`` returns; where other processes must not be waited for, at
    once."""
    try:
        code = run()
    except BaseException:
        if _link is None:
            raise
        traceback.print_exc()
        code = 1
    if _link is not None and code:
        _link.exit(code)
    sys.exit(code)


def _of_jax(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError):
            return True
        error = error.__cause__ or error.__context__
    return False


def program(config: Config) -> dict[str, str]:
    """What has to be equal on all processes before they start: versions, source and config."""
    source = hashlib.sha256()
    for room in ("jaxmodels", "train", "input_pipeline"):
        for path in sorted((_ROOT / room).rglob("*.py")):
            source.update(f"{path.relative_to(_ROOT)}\n".encode() + path.read_bytes())
    for name in (config.model, config.objective, config.data.name):  # package.module:attribute
        module, separator, attribute = name.partition(":")
        if separator and attribute[:1].isidentifier() and (spec := find_spec(module)):
            source.update(Path(spec.origin).read_bytes() if spec.origin else b"")
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    settings = {
        k: v for k, v in flat(dataclasses.asdict(config), "config").items() if k not in _OF_ONE_HOST
    }
    compiler = {k: os.environ.get(k, "") for k in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    compiler |= {
        k: str(getattr(jax.config, k)) for k in ("jax_enable_x64", "jax_default_matmul_precision")
    }
    found = {"python": platform.python_version(), **versions, "source": source.hexdigest()[:12]}
    return found | flat(compiler, "environment") | settings


def flat(values: Mapping[str, Any], name: str) -> dict[str, str]:
    """Nested dicts as one with dotted names; long values as the beginning of their SHA-256."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{name}.{key}")
            continue
        text = json.dumps(value, default=str)
        found[f"{name}.{key}"] = (
            text if len(text) <= 80 else f"sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]}"
        )
    return found


def find_place(env: Mapping[str, str], seconds: float) -> Place | None:
    """This process's place among others, None if nothing says that there are others.

    jax asks Slurm's srun, Open MPI, TPU pods, GKE and Kubernetes; JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID go before what it finds.

    Raises:
      ConfigError: what the environment says is incomplete or contradicts itself.
    """
    try:
        count, index = (
            int(env[k]) if k in env else None for k in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
        )
    except ValueError as e:
        raise ConfigError(f"JAX_NUM_PROCESSES and JAX_PROCESS_ID must be whole numbers: {e}") from e
    address, launcher = env.get("JAX_COORDINATOR_ADDRESS"), launched_by(env)
    if count == 1:
        return None
    given = [
        k for k in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID") if k in env
    ]
    devices = None
    if launcher is not None or len(given) == 3:
        try:
            address, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(
                address, count, index, None, None, math.ceil(seconds)
            )
        except Exception as e:  # whatever the launcher's variables or its server make of it
            if launcher == "a TPU host" and not given:
                cli.warn(f"this TPU host does not know of others, and trains alone ({e})")
                return None
            raise ConfigError(
                f"cannot join the other processes: {launcher}: {e}; {_BY_HAND}"
            ) from e
    if address is None or count is None or index is None:
        if not given and launcher in (None, "a TPU host"):
            return None
        known = {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": count,
            "JAX_PROCESS_ID": index,
        }
        missing = ", ".join(k for k, v in known.items() if v is None)
        raise ConfigError(f"cannot join the other processes: nothing says {missing}; {_BY_HAND}")
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ConfigError(f"JAX_COORDINATOR_ADDRESS = {address!r} must be host:port")
    if not 0 <= index < count:
        raise ConfigError(
            f"JAX_PROCESS_ID = {index} must be from 0 to {count - 1}, one below JAX_NUM_PROCESSES "
            f"= {count}"
        )
    alone = _tasks_of_this_host(env) == 1  # then all of its devices are this process's
    return Place(address, count, index, None if devices is None or alone else list(devices))


_BY_HAND = (
    "set JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and JAX_PROCESS_ID in every "
    "process, or none of them"
)


def _tasks_of_this_host(env: Mapping[str, str]) -> int | None:
    """As Open MPI, or Slurm's "4(x2),1" (4 on each of the first two hosts, 1 on the third), says
    it; None: neither."""
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in env:
        return int(env["OMPI_COMM_WORLD_LOCAL_SIZE"])
    counts: list[int] = []
    for tasks, hosts in re.findall(
        r"(\d+)(?:\(x(\d+)\))?", env.get("SLURM_STEP_TASKS_PER_NODE", "")
    ):
        counts += [int(tasks)] * int(hosts or 1)
    host = int(env.get("SLURM_NODEID", 0))
    return counts[host] if host < len(counts) else None


def launched_by(env: Mapping[str, str]) -> str | None:
    """Who started this process as one of several, in words; None where nothing says so."""
    if int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return "Slurm's srun"
    if int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return "Open MPI"
    if any("," in env.get(name, "") for name in ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")):
        return "a TPU pod"
    if "MEGASCALE_COORDINATOR_ADDRESS" in env:
        return "several TPU slices"
    if _on_tpu_vm(env):
        return "a TPU host"
    # an indexed Job; jax asks the cluster's server for the others, with a package that few have
    if {
        "KUBERNETES_SERVICE_HOST",
        "JOB_COMPLETION_INDEX",
    } <= env.keys() and find_spec("kubernetes"):
        return "Kubernetes"
    return None


def _on_tpu_vm(env: Mapping[str, str]) -> bool:
    """Whether this is a Google Cloud TPU host that has to ask the metadata server for the
    others."""
    chips = [*glob.glob("/dev/accel[0-9]*"), *glob.glob("/dev/vfio/[0-9]*")]
    return (
        bool(chips) and "tpu" in env.get("JAX_PLATFORMS", "tpu") and find_spec("libtpu") is not None
    )


def roll_call(place: Place, seconds: float) -> list[Peer]:
    """Connects all processes with the first one.

    Returns:
      The others on the first process, the first on the others.

    Raises:
      ConfigError: not all came, or the first could not be reached, within ``seconds``; the port is
        in use; two have the same index, or they disagree on their number.
    """
    return _receive(place, seconds) if place.index == 0 else [_connect(place, seconds)]


def _receive(place: Place, seconds: float) -> list[Peer]:
    address = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", place.address)  # as jax does
    port, until = int(address.rpartition(":")[2]), time.monotonic() + seconds
    peers: dict[int, Peer] = {}
    waiting: dict[socket.socket, bytes] = {}  # connections that have not said who they are
    with _listen(port) as listener, selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        wrong = ""
        while len(peers) < place.count - 1 and not wrong:
            left = until - time.monotonic()
            if left <= 0:
                missing = [i for i in range(1, place.count) if i not in peers]
                wrong = f"{numbered(missing)} of {place.count} did not come within {seconds:g} s"
                break
            for key, _ in selector.select(min(left, 1.0)):
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    connection.setblocking(False)
                    waiting[connection] = b""
                    selector.register(connection, selectors.EVENT_READ)
                    with contextlib.suppress(OSError):
                        connection.send(_GREETING)
                    continue
                connection = key.fileobj
                try:
                    data = connection.recv(4096)
                except OSError:
                    data = b""
                waiting[connection] += data
                if data and b"\n" not in waiting[connection] and len(waiting[connection]) < 4096:
                    continue
                selector.unregister(connection)
                peer = _introduced(connection, waiting.pop(connection)) if data else None
                if peer is None:
                    connection.close()  # not one of us
                    continue
                found, count = peer
                if found.index in peers and _gone(peers[found.index].socket):  # it was started anew
                    peers.pop(found.index).socket.close()
                clash = _clash(place, peers, found, count)
                if clash:
                    wrong = wrong or clash
                    waiting[connection] = b""  # told as well
                else:
                    peers[found.index] = found
    for connection in [*(p.socket for p in peers.values()), *waiting]:
        error = wrong or (
            "all processes of this run are there already" if connection in waiting else ""
        )
        with contextlib.suppress(OSError):
            connection.settimeout(2.0)
            connection.sendall((json.dumps({"error": error, "name": _name()}) + "\n").encode())
        if error:
            connection.close()
    if wrong:
        raise ConfigError(f"cannot join the other processes: {wrong}")
    for peer in peers.values():
        peer.heard = time.monotonic()
    return [peers[i] for i in sorted(peers)]


def _gone(connection: socket.socket) -> bool:
    """Whether the other end has hung up."""
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _clash(place: Place, peers: Mapping[int, Peer], found: Peer, count: int) -> str:
    """Why a process cannot be one of these; "" if it can."""
    if count != place.count:
        return (
            f"process 0 is one of {place.count}, but process {found.index} ({found.name}) is one "
            f"of {count}; JAX_NUM_PROCESSES must be the same everywhere"
        )
    if found.index in peers or not 0 < found.index < count:
        other = peers[found.index].name if found.index in peers else _name()
        return f"two processes are number {found.index}: {other} and {found.name}"
    return ""


def _listen(port: int) -> socket.socket:
    dual = socket.has_dualstack_ipv6()
    try:
        family, host = (socket.AF_INET6, "::") if dual else (socket.AF_INET, "0.0.0.0")
        return socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=dual)
    except OSError as e:
        why = (
            "is in use, by another run?"
            if e.errno == errno.EADDRINUSE
            else f"cannot be used: {e.strerror}"
        )
        raise ConfigError(
            f"cannot join the other processes: port {port} of this machine {why}; choose another "
            "in JAX_COORDINATOR_ADDRESS (or JAX_COORDINATOR_PORT, where a launcher says the rest)"
        ) from e


def _introduced(connection: socket.socket, data: bytes) -> tuple[Peer, int] | None:
    """Who is at the other end, and how many processes it counts."""
    try:
        hello = json.loads(data.partition(b"\n")[0])
        return Peer(int(hello["index"]), str(hello["name"]), connection), int(hello["count"])
    except (ValueError, KeyError, TypeError):
        return None


def _connect(place: Place, seconds: float) -> Peer:
    host, _, port = place.address.rpartition(":")
    until, reason = time.monotonic() + seconds, "not tried"
    hello = (
        json.dumps({"index": place.index, "count": place.count, "name": _name()}).encode() + b"\n"
    )
    while (left := until - time.monotonic()) > 0:
        try:
            connection = socket.create_connection(
                (host.strip("[]"), int(port)), timeout=min(left, 10.0)
            )
        except OSError as e:  # it may not have started
            reason = e.strerror or str(e)
            time.sleep(min(0.5, left))
            continue
        try:
            if _line(connection) == _GREETING:
                connection.sendall(hello)
                # it says itself who did not come
                connection.settimeout(max(until - time.monotonic(), 0.0) + 10.0)
                answer = json.loads(_line(connection))
                if answer["error"]:
                    connection.close()
                    raise ConfigError(f"cannot join the other processes: {answer['error']}")
                return Peer(0, answer["name"], connection)
            reason = _BUSY
        except (OSError, ValueError) as e:
            if isinstance(e, ConfigError):
                raise
            closed, silent = isinstance(e, ValueError), isinstance(e, TimeoutError)
            reason = (
                "it closed the connection"
                if closed
                else _BUSY
                if silent
                else (e.strerror or str(e))
            )
        connection.close()
        time.sleep(min(0.5, max(until - time.monotonic(), 0.0)))
    raise ConfigError(
        f"cannot join the other processes: process 0 was not reached at {place.address} within "
        f"{seconds:g} s ({reason}); is it running, and is the port open? "
        "config.processes.join_seconds says how long to wait"
    )


_BUSY = "something else has that port, such as a run that has begun"


def _line(connection: socket.socket) -> bytes:
    """The next line; byte by byte, so that what follows is left to the link."""
    line = b""
    while not line.endswith(b"\n") and len(line) < 4096:
        byte = connection.recv(1)
        if not byte:
            break
        line += byte
    return line


def _name() -> str:
    return f"{socket.gethostname()}, pid {os.getpid()}"
