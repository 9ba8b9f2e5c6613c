"""Calls of one function in several processes that start together."""

import multiprocessing
from collections.abc import Callable
from typing import Any

COUNT = 4


def call_together(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call a function of a module in four processes at the same moment.

    Args:
        function: an importable function.
        arguments: its arguments, the same in each process.

    Returns:
        The four results. An exception is returned as its text.
    """
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(COUNT), spawn.Queue()
    processes = [
        spawn.Process(target=_call, args=(barrier, results, function, arguments)) for _ in range(COUNT)
    ]
    for process in processes:
        process.start()
    returned = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    return returned


def _call(barrier: Any, results: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    barrier.wait()
    try:
        results.put(function(*arguments))
    except Exception as error:
        results.put(repr(error))
