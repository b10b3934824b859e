"""Passages for queries: corpus, encoder, index, service, client, and what reads for the policy.

Enters: a passages file once (`build`), then queries. Leaves: per query the best passages, or a
typed `RetrievalFailed`. Invariant: an index is only served with the corpus and the encoder that
made it, and a failure is never turned into document text.

    passages.jsonl -> build -> {corpus.arrow, vectors.faiss, manifest.json} -> store
    queries -> client -> transport (HTTP or in process) -> service (batches, cache) -> store
    look-ups -> knowledge (corpus by task) -> client or web search -> summariser? -> finding
"""
