"""Why there are no passages: what may pass, as opposed to what asking again cannot mend."""

from ur2.errors import RetrievalError


class RetrievalUnavailableError(RetrievalError):
    """The retriever did not answer this time; worth another attempt."""

    retry_after_s: float | None = None
    """How long to wait before that attempt, where the retriever said so."""


class RetrievalOverloadedError(RetrievalUnavailableError):
    """Too many queries wait already."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RetrievalDeadlineError(RetrievalUnavailableError):
    """The time that the caller gave is over."""


class UnknownCorpusError(RetrievalError):
    """The request names a corpus that is not served."""
