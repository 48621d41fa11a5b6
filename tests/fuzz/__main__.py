"""Damages files and settings in thousands of ways and looks at what becomes of them:
``python -m tests.fuzz [KIND]``.

Each case must end within ten seconds and a gibibyte, as one short line of an error that a user can
mend, or with the content that an independent reader finds in the same file. A case is a function of
the kind, the seed and its number: ``python -m tests.fuzz images --seed=0 --case=417`` tries it
again.
"""

import argparse
import collections
import sys
import threading
import time
from queue import Empty, SimpleQueue

from tests.fuzz.worker import Worker

COUNTS = {
    "safetensors": 1000,
    "compressed": 1000,
    "configs": 1000,
    "tokenizers": 1000,
    "images": 1000,
    "rows": 1000,
    "workdirs": 900,
    "checkpoints": 100,
    "overrides": 500,
}
"""Kind -> cases; workdirs and their checkpoints are a thousand together."""

PROCESSES = 2


def main(argv: list[str] | None = None) -> int:
    """Prints each fault and a table of all kinds; returns 1 if there was a fault."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Fuzzes every reader of users' files."
    )
    parser.add_argument(
        "kinds", nargs="*", metavar="KIND", help=f"default: all, {', '.join(COUNTS)}"
    )
    parser.add_argument(
        "--count", type=int, help="cases of each kind; default: 1,000, of config overrides 500"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="this one alone")
    args = parser.parse_args(argv)
    if unknown := set(args.kinds) - set(COUNTS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}; there are {', '.join(COUNTS)}")
    queue: SimpleQueue[str] = SimpleQueue()
    for kind in args.kinds or COUNTS:
        queue.put(kind)
    faults = collections.Counter()
    lock = threading.Lock()

    def work() -> None:
        while True:
            try:
                kind = queue.get_nowait()
            except Empty:
                return
            start, results = time.perf_counter(), collections.Counter()
            worker = Worker(kind, args.seed)
            cases = [args.case] if args.case is not None else range(args.count or COUNTS[kind])
            try:
                for case in cases:
                    result, what = worker.attempt(case)
                    results[result] += 1
                    if result == "fault":
                        with lock:
                            print(f"{kind} --seed={args.seed} --case={case}: {what}", flush=True)
            except RuntimeError as e:
                results["fault"] += 1
                print(e, flush=True)
            finally:
                worker.end()
            with lock:
                faults[kind] = results["fault"]
                print(
                    f"{kind:<12} {sum(results.values()):5} cases  {results['refused']:5} refused  "
                    f"{results['accepted']:5} accepted as they are  {results['fault']:5} faults  "
                    f"{time.perf_counter() - start:4.0f} s",
                    flush=True,
                )

    threads = [threading.Thread(target=work) for _ in range(PROCESSES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 1 if sum(faults.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
