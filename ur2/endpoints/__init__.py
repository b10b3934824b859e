"""HTTP services of others: language models behind OpenAI-compatible endpoints, search providers.

Enters: requests. Leaves: what was read from the reply, or a typed failure within a deadline.
Invariant: a reply that does not read as what was asked for is a failure, never a value.
"""
