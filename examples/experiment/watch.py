"""Who holds up the others, where several processes train together."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
from datetime import timedelta

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.distributed import TCPStore

PATIENCE = timedelta(seconds=10)


class Watch:
    """Ends a process that has not come on for some time, and says what each of them is doing and which do not answer: a
    process that waits for another, in the middle of an operation of both, would say nothing.

    A thread of each process keeps its state in a store at process 0, with a count that shows whether it is alive. There
    is no such thread where there is one process.

    Arguments:
        accelerator: whose processes they are.
        minutes: that any one thing may take.
    """

    def __init__(self, accelerator: Accelerator, minutes: float) -> None:
        self._rank, self._count = accelerator.process_index, accelerator.num_processes
        self._limit, self._interval = 60 * minutes, min(5.0, 10 * minutes)
        self._ended, self._pings = threading.Event(), 0
        self.doing("starting")

    def doing(self, what: str) -> None:
        """Say what comes next; the time begins anew."""
        self._now = (what, time.monotonic())

    def __enter__(self) -> Watch:
        if self._count > 1:
            address = os.environ.get("MASTER_ADDR", "localhost")
            port = [0]
            if self._rank == 0:
                self._store = TCPStore(address, 0, is_master=True, timeout=PATIENCE, wait_for_workers=False)
                port = [self._store.port]
            broadcast_object_list(port)
            if self._rank != 0:
                self._store = TCPStore(address, port[0], timeout=PATIENCE, wait_for_workers=False)
            self._tell()
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        if self._count > 1:
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            with contextlib.suppress(RuntimeError):  # the store is gone, and with it process 0
                self._tell()
            if time.monotonic() - self._now[1] > self._limit:
                self._give_up()

    def _tell(self) -> None:
        self._pings += 1
        state = [f"{socket.gethostname()}, process id {os.getpid()}", self._now[0], self._pings]
        self._store.set(str(self._rank), json.dumps(state))

    def _states(self) -> list[list[str]] | None:
        """What all have told; None where process 0 does not answer, for which the store itself would wait for ever."""
        answers: list[list[list[str]]] = []

        def ask() -> None:
            with contextlib.suppress(RuntimeError):
                answers.append([json.loads(self._store.get(str(rank))) for rank in range(self._count)])

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(PATIENCE.total_seconds())
        return answers[0] if answers else None

    def _give_up(self) -> None:
        before = self._states()
        for _ in range(3 if before else 0):
            time.sleep(self._interval)
            self._tell()
        after = self._states() if before else None
        if self._ended.is_set():
            return
        if before is None or after is None:
            self._report("process 0 DOES NOT ANSWER")
            os._exit(1)
        alive = [rank for rank, (old, new) in enumerate(zip(before, after, strict=True)) if old[2] != new[2]]
        if alive[:1] == [self._rank]:  # one report is enough
            lines = [
                f"    process {rank} ({where}): {what}" + ("" if rank in alive else ", DOES NOT ANSWER")
                for rank, (where, what, _) in enumerate(after)
            ]
            self._report("what each of them is doing:\n" + "\n".join(lines))
        time.sleep(5 * self._interval)  # until the others have read the states too, which are gone with process 0
        os._exit(1)

    def _report(self, what: str) -> None:
        minutes = self._limit / 60
        print(
            f"the processes have not come on for {minutes:.3g} minutes (run.timeout_minutes); {what}\n"
            f"the checkpoints are as they were, and the same command goes on from them",
            file=sys.stderr,
            flush=True,
        )
