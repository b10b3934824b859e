"""The order of questions: buckets by weight, and within a bucket a new random order per epoch."""

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ur2.curriculum.interest import Interest
from ur2.curriculum.options import CurriculumOptions
from ur2.curriculum.outcome import GroupOutcome
from ur2.errors import InputError
from ur2.types import Question


@dataclass(slots=True, kw_only=True)
class Epoch:
    """One pass over a bucket."""

    number: int = -1
    """From 0; -1 before the first."""
    order: list[int] = field(default_factory=list)
    """Places of the questions that take part."""
    num_drawn: int = 0


class Sampler:
    """An endless stream of questions.

    After n draws a bucket with share w was drawn w n times, to within less than the number of
    buckets. No question is drawn twice in an epoch of its bucket, and all are drawn unless the
    options select some (see `Interest`). The order follows from (seed, bucket, epoch), and where
    some are selected from how questions did before the epoch began.

    Args:
        questions: at least one.
        options: the mix by bucket, and what takes part in an epoch.
        seed: of the order within buckets.

    Raises:
        InputError: there is no question, or a weight names a bucket without questions.
    """

    def __init__(
        self, questions: Sequence[Question], options: CurriculumOptions, seed: int
    ) -> None:
        buckets: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            buckets[question.bucket].append(question)
        counts = {name: len(buckets[name]) for name in sorted(buckets)}
        self._shares = _shares(counts, options.bucket_weights)
        self._questions = {name: buckets[name] for name in self._shares}
        self._seed = seed
        self._interest = Interest(options)
        self._num_drawn = dict.fromkeys(self._shares, 0)
        self._epochs = {name: Epoch() for name in self._shares}
        self._fingerprint = _fingerprint(self._questions)

    def draw(self) -> Question:
        """The next question: of the bucket that lags its share most, the next of its epoch."""
        total = sum(self._num_drawn.values()) + 1
        lag = {name: share * total - self._num_drawn[name] for name, share in self._shares.items()}
        bucket = max(lag, key=lag.__getitem__)
        self._num_drawn[bucket] += 1
        epoch = self._epochs[bucket]
        if epoch.num_drawn == len(epoch.order):
            number = epoch.number + 1
            epoch = Epoch(number=number, order=self._order(bucket, number, select=True))
            self._epochs[bucket] = epoch
        epoch.num_drawn += 1
        return self._questions[bucket][epoch.order[epoch.num_drawn - 1]]

    def observe(self, outcomes: Sequence[GroupOutcome]) -> None:
        """Later epochs may depend on how questions did."""
        self._interest.observe(outcomes)

    def metrics(self) -> dict[str, float]:
        """Retired questions, where there may be any."""
        if not self._interest.selects:
            return {}
        return {"curriculum/questions_retired": float(self._interest.num_retired())}

    def state_dict(self) -> dict[str, Any]:
        """Counters, and where questions are selected what that rests on, as plain data."""
        epochs = {name: asdict(epoch) for name, epoch in self._epochs.items()}
        if not self._interest.selects:
            for epoch in epochs.values():
                del epoch["order"]
        return {
            "seed": self._seed,
            "num_drawn": dict(self._num_drawn),
            "epochs": epochs,
            "interest": self._interest.state_dict(),
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
        self._interest.load_state_dict(state["interest"])
        for name in self._shares:
            kept = state["epochs"][name]
            order = kept.get("order")
            if order is None:
                order = self._order(name, kept["number"], select=False)
            number, num_drawn = int(kept["number"]), int(kept["num_drawn"])
            self._epochs[name] = Epoch(number=number, order=list(order), num_drawn=num_drawn)

    def _order(self, bucket: str, epoch: int, *, select: bool) -> list[int]:
        """Those who take part, shuffled; before the first epoch none."""
        if epoch < 0:
            return []
        questions = self._questions[bucket]
        rng = np.random.default_rng([self._seed, zlib.crc32(bucket.encode()), epoch])
        order: list[int] = rng.permutation(len(questions)).tolist()
        if not (select and self._interest.selects):
            return order
        members = set(self._interest.members(questions, rng))
        return [place for place in order if place in members]


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
