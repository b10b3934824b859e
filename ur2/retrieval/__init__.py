"""Passages for queries: corpus, encoder, index, service, client, and what reads for the policy.

Enters: files of passages once (`corpus`, `build`), then queries. Leaves: per query the best
passages, or a typed `RetrievalFailed`. Invariant: an index is only served with the corpus and the
encoder that made it, and a failure is never turned into document text.

    files as published -> corpus.arrow -> shards of vectors -> index, words -> manifest: a store
    queries -> client -> transport (HTTP or in process) -> service (batches, cache) -> store
    look-ups -> knowledge (corpus by task) -> client or web search -> summariser? -> finding
"""
