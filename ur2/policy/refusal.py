"""The error of an optimizer step that was not applied."""

from collections.abc import Sequence

from ur2.errors import NotFiniteError
from ur2.policy.batch.packing import RankStep
from ur2.policy.loss import Report
from ur2.policy.ranks import gather_objects

MAX_NAMED_SAMPLES = 20


def refusal(step: RankStep, reports: Sequence[Report]) -> NotFiniteError:
    """Which samples kept a step from being applied; called on all ranks."""
    here = [
        sample.id
        for microbatch, report in zip(step.microbatches, reports, strict=True)
        for sample, broken in zip(microbatch, report.broken_B.tolist(), strict=False)
        if broken
    ]
    ids = tuple(sorted(id_ for part in gather_objects(here) for id_ in part))
    if not ids:
        everyone = gather_objects([s.id for m in step.microbatches for s in m])
        return NotFiniteError(
            "policy update stopped: the losses are finite, but their gradient is not; the "
            "weights are unchanged (try a lower policy.learning_rate)",
            tuple(sorted(id_ for part in everyone for id_ in part)),
        )
    named = ", ".join(ids[:MAX_NAMED_SAMPLES]) + (", ..." if ids[MAX_NAMED_SAMPLES:] else "")
    return NotFiniteError(
        f"policy update stopped: the loss of {len(ids)} samples is not finite ({named}); the "
        "weights are unchanged",
        ids,
    )
