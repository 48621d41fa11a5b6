"""Several processes: how they are found and joined, what they compare, and how all end when one
does."""

import contextlib
import socket
import threading
import time

import pytest

from tests import processes
from train.config import Config, ConfigError
from train.launch import distributed, link
from train.launch.distributed import Place, find_place, roll_call
from train.launch.link import Link, Peer, ProcessesDifferError

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NODELIST": "node[003-004]",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
BY_HAND = {"JAX_COORDINATOR_ADDRESS": "host:1234", "JAX_NUM_PROCESSES": "8", "JAX_PROCESS_ID": "5"}


@pytest.fixture
def place_of(monkeypatch):
    """find_place in an environment that holds only what is given: jax's detection reads os.environ
    itself."""

    def found(env):
        others = {
            "TPU_WORKER_HOSTNAMES",
            "KUBERNETES_SERVICE_HOST",
            "SLURM_STEP_TASKS_PER_NODE",
            "SLURM_NODEID",
        }
        for key in {
            *SLURM,
            *OPEN_MPI,
            *BY_HAND,
            *others,
            "OMPI_COMM_WORLD_LOCAL_SIZE",
        } - env.keys():
            monkeypatch.delenv(key, raising=False)
        for key, value in env.items():
            monkeypatch.setenv(key, value)
        return find_place(env, 1.0)

    return found


def test_launchers_are_found(place_of):
    """Ports by the rules of jax: Slurm's 61440 + job % 4096, Open MPI's 61440 + (job / 4096) %
    4096."""
    assert place_of({}) is None
    assert place_of(BY_HAND) == Place("host:1234", 8, 5)
    assert place_of(SLURM) == Place(f"node003:{61440 + 4711 % 4096}", 2, 1, [0])
    assert place_of(OPEN_MPI) == Place(f"10.96.0.1:{61440 + 1531576320 // 4096 % 4096}", 4, 3, [1])
    # of host 0
    for tasks, devices in (("1(x2)", None), ("4,1", [0]), ("1,4(x2)", None), ("8(x2)", [0])):
        assert (
            place_of(SLURM | {"SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": "0"}).devices
            == devices
        )
    assert (
        place_of(SLURM | {"SLURM_STEP_TASKS_PER_NODE": "4,1", "SLURM_NODEID": "1"}).devices is None
    )
    assert place_of(OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}).devices is None, (
        "all of this host's"
    )
    assert place_of(OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}).devices == [1]
    assert place_of(SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) is None, (
        "sbatch alone starts one process"
    )
    assert (
        place_of(
            {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "h:1"}
        )
        is None
    )
    for env, name in (
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "a TPU pod"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "a"}, "several TPU slices"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    ):
        assert distributed.launched_by(env) == name


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID"),
        (BY_HAND | {"JAX_PROCESS_ID": "8"}, "from 0 to 7"),
        (BY_HAND | {"JAX_PROCESS_ID": "one"}, "whole numbers"),
        (BY_HAND | {"JAX_COORDINATOR_ADDRESS": "host"}, "must be host:port"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "nothing says JAX_COORDINATOR_ADDRESS"),
    ],
)
def test_what_is_wrong_with_the_environment_is_said(place_of, env, words):
    with pytest.raises(ConfigError, match=words):
        place_of(env)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def called(places, seconds=10.0):
    """What roll_call gives each, or the message of its error, all at once in threads."""
    found: list = [None] * len(places)

    def one(i):
        try:
            found[i] = roll_call(places[i], seconds)
        except ConfigError as e:
            found[i] = str(e)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(places))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def close(found):
    for peers in found:
        for peer in peers if isinstance(peers, list) else []:
            peer.socket.close()


def test_roll_call():
    address = f"127.0.0.1:{free_port()}"
    found = called([Place(address, 3, i) for i in range(3)])
    assert [[p.index for p in peers] for peers in found] == [[1, 2], [0], [0]]
    close(found)


def connected(port):
    for _ in range(500):
        with contextlib.suppress(ConnectionRefusedError):
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        time.sleep(0.01)
    raise AssertionError("nobody listens")


def test_a_process_that_is_started_anew_takes_its_place():
    address = f"127.0.0.1:{free_port()}"
    found: list = []
    first = threading.Thread(target=lambda: found.append(roll_call(Place(address, 3, 0), 10.0)))
    first.start()
    with contextlib.ExitStack() as stack:
        for attempt in range(2):  # the first of them dies
            connection = stack.enter_context(connected(int(address.split(":")[1])))
            assert distributed._line(connection) == distributed._GREETING
            connection.sendall(b'{"index": 1, "count": 3, "name": "x"}\n')
            if attempt == 0:
                time.sleep(0.2)
                connection.close()
        found += called([Place(address, 3, 2)])
        first.join(10)
    assert sorted(len(peers) for peers in found) == [1, 2]
    close(found)


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([(3, 2)], "process 0 is one of 2, but process 2"),
        ([(3, 1), (3, 1)], "two processes are number 1"),
        ([(3, 1)], "process 2 of 3 did not come within 1 s"),
    ],
)
def test_roll_call_says_who_is_wrong_to_all(others, words):
    address = f"127.0.0.1:{free_port()}"
    count = 3 if others[0][1] == 1 else 2
    found = called(
        [Place(address, count, 0), *(Place(address, n, i) for n, i in others)], seconds=1.0
    )
    assert all(words in text for text in found), found


def test_a_coordinator_that_is_not_there_or_busy_is_named():
    port = free_port()
    with pytest.raises(
        ConfigError,
        match=rf"process 0 was not reached at 127\.0\.0\.1:{port} within 0\.3 s \(Connec",
    ):
        roll_call(Place(f"127.0.0.1:{port}", 2, 1), 0.3)
    with socket.create_server(("127.0.0.1", port)) as server:
        with pytest.raises(ConfigError, match=f"port {port} of this machine is in use"):
            roll_call(Place(f"127.0.0.1:{port}", 2, 0), 0.3)

        def answer():
            with server.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 400\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ConfigError, match="something else has that port"):
            roll_call(Place(f"127.0.0.1:{port}", 2, 1), 0.3)
        thread.join()


def test_numbers_and_differences_in_words():
    assert [link.numbered(x) for x in ([3], [0, 1, 2, 5], [1, 3])] == [
        "process 3",
        "processes 0-2, 5",
        "processes 1, 3",
    ]
    same = {"jax": "1", "seed": "0"}
    assert link.differences({0: same, 1: dict(same)}) == ""
    text = link.differences({0: same, 1: same | {"seed": "7"}, 2: {"jax": "1"}})
    assert text == "seed: 0 (process 0), 7 (process 1), nothing (process 2)"


def test_what_is_compared():
    said = distributed.program(Config())
    assert said["config.optim.learning_rate"] == "0.001" and len(said["source"]) == 12
    assert {"python", "jax", "jaxlib", "flax", "optax", "numpy"} <= said.keys()
    assert not {"config.data.data_dir", "config.data.raw_dir"} & said.keys(), (
        "may lie elsewhere on each host"
    )
    assert distributed.flat({"a": {"b": "x" * 100}, "c": []}, "d").keys() == {"d.a.b", "d.c"}


@pytest.fixture
def pair(monkeypatch):
    """Two links, connected, in one process; what would end the process is noted: (index of the
    link, text)."""
    ended = []
    monkeypatch.setattr(Link, "exit", lambda self, code: ended.append(("exit", code)))
    monkeypatch.setattr(
        link, "say", lambda text: ended.append((threading.current_thread().name, text))
    )
    monkeypatch.setattr(
        link.faulthandler, "dump_traceback", lambda all_threads: ended.append(("stacks", ""))
    )
    ends = socket.socketpair()
    links = [Link(i, 2, [Peer(1 - i, f"host{1 - i}", ends[i])], lost_seconds=1.0) for i in range(2)]
    yield links, ends, ended
    for one, end in zip(links, ends, strict=True):
        one.ending.set()
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    for thread in threading.enumerate():
        if thread.name in ("watch", "exit"):
            thread.join(15)
            assert not thread.is_alive()
    for end in ends:
        end.close()


def until(condition):
    for _ in range(500):
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_links_agree_or_say_who_differs(pair):
    links, _, ended = pair
    for what, said in (("same", [{"a": "1"}, {"a": "1"}]), ("other", [{"a": "1"}, {"a": "2"}])):
        found: list = [None, None]

        def ask(i, what=what, said=said, found=found):
            try:
                links[i].agree(what, said[i], "make them alike")
            except ProcessesDifferError as e:
                found[i] = str(e)

        thread = threading.Thread(target=ask, args=(1,))
        thread.start()
        ask(0)
        thread.join()
        expected = (
            "the processes differ: a: 1 (process 0), 2 (process 1); make them alike"
            if what == "other"
            else None
        )
        assert found == [expected] * 2
    time.sleep(1.5)
    assert not ended, "beats are heard: neither is lost"


def texts(ended):
    return [text for _, text in ended if isinstance(text, str)]


def test_a_peer_that_fails_is_quoted(pair):
    links, _, ended = pair
    links[1].fail("Traceback ...\nValueError: bad")
    assert until(lambda: ("exit", 4) in ended)
    assert "error: process 1 (host1) failed: Traceback ...\nValueError: bad" in texts(ended)
    assert ("stacks", "") not in ended, "they say nothing of another process's mistake"


def test_a_peer_that_hangs_up_is_lost_at_once(pair):
    _, ends, ended = pair
    ends[1].shutdown(socket.SHUT_RDWR)
    assert until(
        lambda: "error: process 1 (host1) is lost: it ended without a word" in texts(ended)
    )
    assert until(lambda: ("stacks", "") in ended)


def test_a_silent_peer_is_lost_after_the_time_that_was_set(monkeypatch, pair):
    links, _, ended = pair
    monkeypatch.setattr(links[1], "_tell", lambda peers, message: None)  # it stands still
    start = time.monotonic()
    assert until(lambda: ("stacks", "") in ended)
    assert 0.9 < time.monotonic() - start < 4
    assert any("process 1 (host1) is lost: it has been silent for" in text for text in texts(ended))


def test_one_that_has_left_is_neither(pair):
    links, ends, ended = pair
    links[1].leave()
    assert until(lambda: links[0].peers[0].left)
    ends[1].shutdown(socket.SHUT_WR)
    assert until(lambda: not links[0].peers[0].open)
    time.sleep(1.3)
    assert not [text for text in texts(ended) if "process 1" in text]


def digits(data_dir):
    return [f"--config.data.data_dir={data_dir}", "--config.steps=4000"]


def test_an_exception_in_one_process_ends_both(tmp_path, data_dir):
    marker = tmp_path / "raised"
    failing = ["-c", processes.FAILING.format(step=3, marker=str(marker))]
    with processes.group(
        tmp_path / "w", *digits(data_dir), logs=tmp_path, programs={1: failing}
    ) as run:
        assert run.wait_for(marker.exists), run.text(0) + run.text(1)
        start = time.monotonic()
        assert run.wait(limit=150) == [4, 1], run.text(0) + run.text(1)
        assert time.monotonic() - start < processes.SOON
        for index in (0, 1):
            assert "RuntimeError: on purpose" in run.text(index) and "in broken" in run.text(index)
        assert "error: process 1 (" in run.text(0) and "process 1 of 2 failed" in run.text(1)


def test_a_difference_is_told_by_both_before_anything_is_compiled(tmp_path, data_dir):
    flags = [f"--config.data.data_dir={data_dir}"]
    other = "import sys; sys.argv.append('--config.seed=7'); from train.__main__ import program; program()"
    with processes.group(tmp_path / "w", *flags, logs=tmp_path, programs={1: ["-c", other]}) as run:
        assert run.wait(limit=150) == [2, 2]
        for index in (0, 1):
            lines = run.text(index).splitlines()
            assert lines[-1].startswith(
                "error: the processes differ: config.seed: 0 (process 0), 7 (process 1); give all"
            )
    assert not (tmp_path / "w").exists()


def test_a_killed_coordinator_is_noticed_and_named(tmp_path, data_dir):
    with processes.group(tmp_path / "w", *digits(data_dir), logs=tmp_path) as run:
        assert run.wait_for(lambda: run.step() >= 3), run.text(0) + run.text(1)
        run.processes[0].kill()
        start = time.monotonic()
        assert run.wait([1], limit=150)[0] not in (0, None)
        assert time.monotonic() - start < processes.SOON
        assert (
            "error: process 0 (" in run.text(1)
            and "is lost" in run.text(1)
            and "Thread 0x" in run.text(1)
        )
        assert "the same command goes on from the newest checkpoint" in run.text(1)


def test_a_save_that_cannot_be_renamed_ends_both_soon(tmp_path, data_dir):
    """The last step of a save is process 0's alone; what it says, both say, and no save in flight
    is waited for."""
    marker = tmp_path / "failed"
    failing = ["-c", processes.UNWRITABLE.format(step=10, marker=str(marker), call="rename")]
    with processes.group(
        tmp_path / "w", *digits(data_dir), logs=tmp_path, programs={0: failing}
    ) as run:
        assert run.wait_for(marker.exists), run.text(0) + run.text(1)
        start = time.monotonic()
        assert run.wait(limit=150) == [1, 4], run.text(0) + run.text(1)
        assert time.monotonic() - start < processes.SAVE_SOON
        for index in (0, 1):
            assert "cannot save the checkpoint of step 10" in run.text(index)
            assert "Input/output error" in run.text(index) and "Traceback" not in run.text(index)


def test_a_start_that_fails_on_one_leaves_no_workdir(tmp_path, data_dir):
    """Also where process 0, which made it, is ended by the other's mistake."""
    other = (
        "import dataclasses, train.loop as loop\nfrom input_pipeline import DataError\n"
        "def build(*args, **options):\n    raise DataError('not here')\n"
        "loop.build = build\nfrom train.__main__ import program; program()"
    )
    with processes.group(
        tmp_path / "w", *digits(data_dir), logs=tmp_path, programs={1: ["-c", other]}
    ) as run:
        assert run.wait(limit=150) == [4, 2], run.text(0) + run.text(1)
    assert not (tmp_path / "w").exists()
