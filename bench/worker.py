"""A contender in a process of its own: `python -m bench.worker NAME` takes jobs on stdin, a line each.

Answers each on stdout with a line of JSON: what the run took.
"""

import gc
import json
import os
import resource
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from bench.engines import create_engine
from bench.job import Job, Run
from bench.lake import ROOT


def peak_memory() -> int:
    """The most bytes that this process has held.

    Linux's own ru_maxrss may be that of the process which started this one, so /proc goes first.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def serve(name: str) -> None:
    """Take jobs until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    contender = create_engine(name)
    for line in sys.stdin:
        job = Job.from_json(line)
        contender.prepare(job)
        gc.collect()
        cpu, started = time.process_time(), time.perf_counter()
        contender.run(job)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        print(json.dumps(asdict(Run(seconds, cpu, peak_memory()))), file=answers)


class Worker(AbstractContextManager["Worker"]):
    """The other side: starts the process, gives it jobs, ends it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT.parent,
        )

    def run(self, job: Job) -> Run:
        """What a job took.

        Raises:
            RuntimeError: the process broke off; it has said on stderr why.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(job.to_json(), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} broke off, exit code {self._process.wait()}: see above")
        return Run(**json.loads(answer))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process: at once where something failed."""
        if kind is not None:
            self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    serve(sys.argv[1])
