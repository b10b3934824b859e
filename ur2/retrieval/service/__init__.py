"""Many callers' queries answered from opened indexes.

Enters: queries by corpus. Leaves: passages, or an error that says whether asking again helps.
Invariant: memory and waiting are bounded, equal queries are searched once, and an index can be
replaced while others go on being searched.
"""
