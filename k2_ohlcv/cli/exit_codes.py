"""Exit codes: which errors end a command with one line on stderr, and with which code."""

import sys

from k2_ohlcv.domain.addresses import redact_secrets
from k2_ohlcv.domain.errors import K2Error, RunInterruptedError, UsageError

WORK_FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130


def exit_on_error(error: BaseException) -> None:
    """End the process with one line on stderr if a person can act on the error. Return otherwise.

    Raises:
        SystemExit: with the exit code.
    """
    if isinstance(error, UsageError):
        _exit(error, WRONG_USE)
    if isinstance(error, RunInterruptedError):
        _exit(error, INTERRUPTED)
    if isinstance(error, K2Error):
        _exit(error, WORK_FAILED)
    if isinstance(error, KeyboardInterrupt):
        _exit("interrupted", INTERRUPTED)
    if isinstance(error, OSError):
        _exit(f"{error.filename}: {error.strerror}" if error.filename else error, WORK_FAILED)
    # Imports PyIceberg, which most errors do not need.
    from k2_ohlcv.lake.storage_errors import describe_storage_error

    if isinstance(error, Exception) and (description := describe_storage_error(error)) is not None:
        _exit(description, WORK_FAILED)


def _exit(error: object, code: int) -> None:
    from k2_ohlcv.cli.console import report_error

    report_error(redact_secrets(str(error)))
    sys.exit(code)
