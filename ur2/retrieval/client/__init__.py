"""The caller's side of retrieval, and the bodies and errors that both sides know.

Enters: queries. Leaves: per query passages or a `RetrievalFailed`. Invariant: a search ends within
its deadline, its attempts are bounded, and only failures that may pass are tried again. Nothing
here needs an index or an encoder.
"""
