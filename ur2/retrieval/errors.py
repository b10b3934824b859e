"""The failure of a retriever that may pass, as opposed to one that asking again cannot mend."""

from ur2.errors import RetrievalError


class RetrievalUnavailableError(RetrievalError):
    """The retriever did not answer this time; worth another attempt."""
