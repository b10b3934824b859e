"""The order of questions: buckets by weight, and within a bucket a new random order per epoch."""

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ur2.errors import InputError
from ur2.types import Question


class Sampler:
    """An endless stream of questions.

    After n draws a bucket with share w was drawn w n times, to within less than the number of
    buckets. The order within a bucket's epoch follows from (seed, bucket, epoch), so that the state
    is a few counters.

    Args:
        questions: at least one.
        weights: the mix by bucket; empty: by number of questions.
        seed: of the order within buckets.

    Raises:
        InputError: there is no question, or a weight names a bucket without questions.
    """

    def __init__(
        self, questions: Sequence[Question], weights: Mapping[str, float], seed: int
    ) -> None:
        buckets: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            buckets[question.bucket].append(question)
        self._shares = _shares({name: len(buckets[name]) for name in sorted(buckets)}, weights)
        self._questions = {name: buckets[name] for name in self._shares}
        self._seed = seed
        self._num_drawn = dict.fromkeys(self._shares, 0)
        self._orders: dict[str, tuple[int, list[int]]] = {}
        self._fingerprint = _fingerprint(self._questions)

    def draw(self) -> Question:
        """The next question: of the bucket that lags its share most, the next of its epoch."""
        total = sum(self._num_drawn.values()) + 1
        lag = {name: share * total - self._num_drawn[name] for name, share in self._shares.items()}
        bucket = max(lag, key=lag.__getitem__)
        epoch, position = divmod(self._num_drawn[bucket], len(self._questions[bucket]))
        self._num_drawn[bucket] += 1
        return self._questions[bucket][self._order(bucket, epoch)[position]]

    def state_dict(self) -> dict[str, Any]:
        """Counters, as plain data."""
        return {
            "seed": self._seed,
            "num_drawn": dict(self._num_drawn),
            "fingerprint": self._fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state` was taken.

        Raises:
            InputError: the questions or the drawn buckets are not those of the checkpoint.
        """
        if state["fingerprint"] != self._fingerprint:
            raise InputError(
                "the questions are not those that the checkpoint was made with, so its position "
                "in them has no meaning; restore dataset and curriculum.bucket_weights, or start "
                "anew with resume=none"
            )
        self._seed = int(state["seed"])
        self._num_drawn = {name: int(state["num_drawn"][name]) for name in self._shares}
        self._orders.clear()

    def _order(self, bucket: str, epoch: int) -> list[int]:
        cached = self._orders.get(bucket)
        if cached is None or cached[0] != epoch:
            rng = np.random.default_rng([self._seed, zlib.crc32(bucket.encode()), epoch])
            cached = (epoch, rng.permutation(len(self._questions[bucket])).tolist())
            self._orders[bucket] = cached
        return cached[1]


def _shares(counts: Mapping[str, int], weights: Mapping[str, float]) -> dict[str, float]:
    """The share of each bucket that is drawn at all, in order of name; sums to 1."""
    if not counts:
        raise InputError("the curriculum has no question to draw; check the training file")
    wanted = dict(weights) or counts
    positive = {name: float(wanted[name]) for name in sorted(wanted) if wanted[name] > 0}
    if missing := sorted(set(positive) - set(counts)):
        raise InputError(
            f"curriculum.bucket_weights: no question is in {', '.join(missing)}; the training file "
            f"has {', '.join(f'{name} ({count})' for name, count in counts.items())}"
        )
    if not positive:
        raise InputError("curriculum.bucket_weights: all are 0; give one bucket a positive weight")
    total = sum(positive.values())
    return {name: weight / total for name, weight in positive.items()}


def _fingerprint(questions: Mapping[str, Sequence[Question]]) -> str:
    digest = hashlib.sha256()
    for bucket, members in questions.items():
        digest.update("\0".join([bucket, *(question.id for question in members), ""]).encode())
    return digest.hexdigest()
