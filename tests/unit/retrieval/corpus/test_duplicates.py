import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ur2.retrieval.corpus.duplicates import count_repeats, duplicates, id_digest


@settings(deadline=None, max_examples=60)
@given(ids=st.lists(st.text("ab", max_size=3)), num_digests=st.sampled_from([3, 2**64]))
def test_exactly_the_repeated_ids_are_found_whatever_their_digests(
    ids: list[str], num_digests: int
) -> None:
    """With three digests most different ids collide."""
    digests = np.array([id_digest(id_) % num_digests for id_ in ids], dtype=np.uint64)
    expected = {(row, ids.index(id_)) for row, id_ in enumerate(ids) if ids.index(id_) != row}
    found = list(duplicates(digests, ids.__getitem__)) if ids else []
    assert set(found) == expected
    assert len(found) == len(expected)
    assert count_repeats(digests) >= len(expected)
    if num_digests > 3:
        assert count_repeats(digests) == len(expected)
