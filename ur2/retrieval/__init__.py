"""Passages for queries.

Enters: files of passages once (`corpus`, `build`), then queries. Leaves: per query the best
passages, or a typed `RetrievalFailed`. Invariant: an index is only served with the corpus and the
encoder that made it, and a failure is never turned into document text.

    files as published -> corpus -> encoder: shards of vectors -> index -> manifest: a store
    queries -> client -> transport (HTTP or in process) -> service (batches, cache) -> store
    look-ups -> reading (corpus by task) -> client or web search -> summariser? -> finding

A room does one of these; `build`, `autotune` and `serve` are commands that join rooms, and
`options`, `manifest` and `partial` (work that a kill may interrupt) are known to several.
"""
