"""A line from every process of a run to the first one: agreement before anything is compiled, and
one end for all.

jax's own coordination ends a process with an abort and a C++ stack as soon as anything is amiss,
and takes minutes to notice most things. Here a peer that dies is noticed when its connection
closes, one that stands still when it has not been heard for ``lost_seconds``, an exception when it
is raised; every process then says which one it was, why, and ends. What is heard comes from a
thread of its own, so that a long compilation or evaluation is no silence.
"""

import contextlib
import dataclasses
import faulthandler
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from train.config import ConfigError

LOST = 4
"""Exit code of a process that ends because of another one."""

GRACE_SECONDS = 10.0
"""That a save in flight is given to finish when a run is ended."""

_LONGEST = 1 << 22  # bytes of one message


class ProcessesDifferError(ConfigError):
    """The processes of a run are not alike; raised on all of them with the same message."""


@dataclasses.dataclass
class Peer:
    """The other end of a connection, and what has come from it."""

    index: int
    name: str  # host and process id
    socket: socket.socket
    received: bytes = b""
    heard: float = dataclasses.field(default_factory=time.monotonic)
    left: bool = False  # it said that it is done: neither silence nor its end mean anything now
    open: bool = True


class Link:
    """The connections of one process: to all others from the first, to the first from the others.

    Args:
      index: of this process; count: of all.
      peers: connected; of the first process all others, else the first alone.
      lost_seconds: silence after which a process counts as lost.
      saving: whether a checkpoint is being written, asked when a run is ended.
    """

    def __init__(
        self,
        index: int,
        count: int,
        peers: Sequence[Peer],
        *,
        lost_seconds: float,
        saving: Callable[[], bool] = lambda: False,
    ):
        self.index, self.count, self.peers = index, count, list(peers)
        self.lost_seconds, self._saving, self._may_save = lost_seconds, saving, True
        self.failed = False  # this process, and the others were told
        # somebody failed or is lost, and this process is about to end
        self.ending = threading.Event()
        # called when this process is ended at once
        self.clean_up: Callable[[], None] = lambda: None
        self._said: dict[str, dict[int, Mapping[str, str]]] = {}
        self._verdicts: dict[str, str] = {}
        self._news, self._sending = threading.Condition(), threading.Lock()
        self._selector = selectors.DefaultSelector()
        for peer in self.peers:
            peer.socket.settimeout(2.0)  # one that reads nothing must not hold up the others
            self._selector.register(peer.socket, selectors.EVENT_READ, peer)
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def agree(self, what: str, mine: Mapping[str, str], hint: str = "") -> None:
        """Waits for all processes to say the same of ``what``; each has to ask once.

        Args:
          mine: what this process says, one value for each key. {}: only waits.

        Raises:
          ProcessesDifferError: with the keys, the values, and who said which.
        """
        if self.index == 0:
            with self._news:
                self._said.setdefault(what, {})[0] = mine
                self._news.wait_for(lambda: len(self._said[what]) == self.count)
                verdict = differences(self._said.pop(what))
            self._tell(self.peers, {"verdict": [what, verdict]})
        else:
            self._tell(self.peers, {"say": [what, dict(mine)]})
            with self._news:
                self._news.wait_for(lambda: what in self._verdicts)
                verdict = self._verdicts.pop(what)
        if verdict:
            raise ProcessesDifferError(f"the processes differ: {verdict}{hint and '; '}{hint}")

    def fail(self, text: str, *, saving: bool = True) -> None:
        """Tells all others that this process ends with an error, so that they end too.

        Args:
          saving: a save in flight may still end well; False: the error is that it has failed.
        """
        self.ending.set()
        self.failed = True
        self._may_save = saving
        self._tell(self.peers, {"end": [self.index, "", f"failed: {text}", False, saving]})

    def leave(self) -> None:
        """Tells the others that this process has done its part."""
        self._tell(self.peers, {"left": True})

    def exit(self, code: int) -> NoReturn:
        """Ends this process after a save in flight was given some seconds, the first process after
        all others.

        jax aborts every process when the first one is gone, and at an ordinary exit waits for those
        that are lost.
        """
        try:
            self._wait_to_exit()
            self.clean_up()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def _wait_to_exit(self) -> None:
        until = time.monotonic() + GRACE_SECONDS
        while self._may_save and self._saving() and time.monotonic() < until:
            time.sleep(0.1)
        until = time.monotonic() + GRACE_SECONDS
        while self.index == 0 and any(p.open for p in self.peers) and time.monotonic() < until:
            time.sleep(0.05)

    def _tell(self, peers: Iterable[Peer], message: Any) -> None:
        line = json.dumps(message).encode() + b"\n"
        with self._sending:
            for peer in peers:
                if peer.open:
                    with contextlib.suppress(OSError):  # the reader notices
                        peer.socket.sendall(line)

    def _watch(self) -> None:
        interval = min(1.0, self.lost_seconds / 5)
        told = seen = time.monotonic()
        while any(peer.open for peer in self.peers):
            ready = self._selector.select(interval)
            now = time.monotonic()
            stood, seen = now - seen, now
            if stood > self.lost_seconds:  # before what the others made of that is read
                self._end(self.index, f"stood still for {stood:.0f} s", lost=True)
            for key, _ in ready:
                self._read(key.data)
            for peer in self.peers:
                if peer.open and not peer.left and now - peer.heard > self.lost_seconds:
                    peer.open = False
                    self._end(
                        peer.index, f"has been silent for {now - peer.heard:.0f} s", lost=True
                    )
            if now - told >= interval:
                self._tell(self.peers, {})
                told = now
        self._selector.close()

    def _read(self, peer: Peer) -> None:
        try:
            data = peer.socket.recv(1 << 16)
        except OSError:
            data = b""
        if not data or len(peer.received) > _LONGEST:
            self._selector.unregister(peer.socket)
            peer.open = False
            if not peer.left:
                self._end(peer.index, "ended without a word", lost=True)
            return
        peer.heard = time.monotonic()
        *lines, peer.received = (peer.received + data).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                self._end(peer.index, "sends what cannot be read", lost=True)
                return
            self._hear(peer, message)

    def _hear(self, peer: Peer, message: dict[str, Any]) -> None:
        with self._news:
            if "say" in message:
                what, values = message["say"]
                self._said.setdefault(what, {})[peer.index] = values
            if "verdict" in message:
                what, verdict = message["verdict"]
                self._verdicts[what] = verdict
            self._news.notify_all()
        peer.left = peer.left or "left" in message
        if "end" in message:
            index, name, why, lost, saving = message["end"]
            peer.left = peer.left or index == peer.index
            self._end(index, why, name=name, lost=lost, saving=saving)

    def _end(
        self, index: int, why: str, *, name: str = "", lost: bool, saving: bool = True
    ) -> None:
        """Ends this process because process ``index`` did, and on the first process all others."""
        if self.ending.is_set():
            return  # this process has failed itself, or is on its way out
        self.ending.set()
        self._may_save = saving
        name = name or next((p.name for p in self.peers if p.index == index), "")
        if self.index == 0:
            self._tell(
                (p for p in self.peers if p.index != index or lost),
                {"end": [index, name, why, lost, saving]},
            )
        who = "this process" if index == self.index else f"process {index} ({name})"
        word = "is lost: it " if lost else ""
        say(f"error: {who} {word}{why}")
        mended = "" if lost else "when that is mended, "
        say(f"this process ends too; {mended}the same command goes on from the newest checkpoint")
        if lost:
            faulthandler.dump_traceback(all_threads=True)
        threading.Thread(target=self.exit, args=(LOST,), name="exit", daemon=True).start()


def say(text: str) -> None:
    """Writes a line to standard error at once and whole."""
    with contextlib.suppress(OSError):  # a log on a full disk
        sys.stderr.flush()
        os.write(2, (text + "\n").encode())


def differences(said: Mapping[int, Mapping[str, str]]) -> str:
    """Keys of which processes say different things:
    ``jax: 0.10.2 (process 0), 0.10.1 (processes 1-3)``; "" if none.

    Args:
      said: process -> key -> value; a key that a process lacks counts as the value "nothing".
    """
    keys = dict.fromkeys(key for values in said.values() for key in values)
    found = []
    for key in keys:
        who: dict[str, list[int]] = {}
        for index in sorted(said):
            who.setdefault(said[index].get(key, "nothing"), []).append(index)
        if len(who) > 1:
            found.append(
                f"{key}: " + ", ".join(f"{value} ({numbered(who[value])})" for value in who)
            )
    return "; ".join(found)


def numbered(indices: Sequence[int]) -> str:
    """``process 3`` or ``processes 0-2, 5``, for ascending indices."""
    spans: list[list[int]] = []
    for i in indices:
        if spans and i == spans[-1][1] + 1:
            spans[-1][1] = i
        else:
            spans.append([i, i])
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
    return f"process{'es' if len(indices) > 1 else ''} {text}"
