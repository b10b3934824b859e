"""Named failures and their exit codes: 2 bad input, 3 a component failed, 130 interrupted."""

import errno
import logging
import sys
from collections.abc import Callable
from typing import NoReturn

EXIT_BAD_INPUT = 2
EXIT_COMPONENT_FAILED = 3
EXIT_INTERRUPTED = 130


class Ur2Error(Exception):
    """A failure whose message alone tells the user what, where and what to do."""

    exit_code = EXIT_COMPONENT_FAILED


class InputError(Ur2Error):
    """Bad configuration or input; raised before any work is lost."""

    exit_code = EXIT_BAD_INPUT


class ComponentError(Ur2Error):
    """A component failed past its retries."""


class NotFiniteError(ComponentError):
    """An optimizer step that was refused, since its loss or gradient is not finite."""

    def __init__(self, message: str, sample_ids: tuple[str, ...] = ()) -> None:
        super().__init__(message, sample_ids)  # both, so that it survives pickling
        self.sample_ids = sample_ids

    def __str__(self) -> str:
        return str(self.args[0])


class PluginError(Ur2Error):
    """A class that a user brought failed, or broke the contract of its kind."""


class RetrievalError(ComponentError):
    """The retriever failed or did not answer in time."""


class RunInterruptedError(Ur2Error):
    """The user asked a run to stop."""

    exit_code = EXIT_INTERRUPTED


WRONG_PATH = {
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
"""Errors that the user can mend by naming another file; a full disk is none of these."""


def refused(error: OSError) -> Ur2Error:
    """An error of the operating system as a failure with one message."""
    failure = InputError if error.errno in WRONG_PATH else ComponentError
    return failure(str(error).partition("] ")[2] or str(error))


def run_entry(main: Callable[[], None]) -> None:
    """Runs a command's `main` and turns named failures into one message and an exit code."""
    try:
        main()
    except Ur2Error as error:
        _end(error)
    except OSError as error:
        if error.errno is None:  # not the operating system's
            raise
        _end(refused(error))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(EXIT_INTERRUPTED)


def _end(error: Ur2Error) -> NoReturn:
    logging.getLogger("ur2").debug("failed", exc_info=True)
    sys.stderr.write(f"error: {error}\n")
    sys.exit(error.exit_code)
