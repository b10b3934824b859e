"""Questions, searches and documents as text and token ids.

Enters: questions, passages, demonstrations, and what the policy wrote. Leaves: segments of token
ids and typed actions. Invariant: one `Dialect` gives the markers to the prompt, the stop strings,
the parser and the documents, and no retrieved text can carry a marker.
"""
