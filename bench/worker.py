"""An engine in a separate process: `python -m bench.worker NAME` reads jobs from stdin, one a line.

For each job the worker writes a line of JSON to stdout: seconds, processor time and peak memory.
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
    """The peak memory of this process in bytes.

    On Linux ru_maxrss may be that of the parent process, so /proc is read first.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def serve(name: str) -> None:
    """Run jobs until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    engine = create_engine(name)
    for line in sys.stdin:
        job = Job.from_json(line)
        engine.prepare(job)
        gc.collect()
        cpu, started = time.process_time(), time.perf_counter()
        engine.run(job)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        print(json.dumps(asdict(Run(seconds, cpu, peak_memory()))), file=answers)


class Worker(AbstractContextManager["Worker"]):
    """The parent's side: starts the process, sends jobs, ends the process."""

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
        """Run a job and return its measurements.

        Raises:
            RuntimeError: the process ended early. Its stderr has the reason.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(job.to_json(), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} ended early, exit code {self._process.wait()}: see above")
        return Run(**json.loads(answer))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process. After an error, kill it."""
        if kind is not None:
            self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    serve(sys.argv[1])
