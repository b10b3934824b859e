from collections import Counter

import numpy as np

from ur2.trainer.coldstart import batches, fingerprint, steps_of, to_sample
from ur2.trainer.options import ColdstartOptions, PhaseOptions
from ur2.types import Author, Sample, Segment


def segment(author: Author, *token_ids: int) -> Segment:
    return Segment(author=author, token_ids=token_ids, text="")


def test_only_what_the_policy_should_write_is_learned() -> None:
    sample = to_sample(
        "demo",
        [
            segment(Author.PROMPT, 1, 2),
            segment(Author.POLICY, 3),
            segment(Author.ENVIRONMENT, 4, 5),
            segment(Author.INJECTED, 6),
            segment(Author.POLICY, 7),
        ],
    )
    assert sample.token_ids.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert sample.advantages.tolist() == [0, 0, 1, 0, 0, 0, 1]


def test_every_demonstration_comes_once_per_epoch() -> None:
    samples = [to_sample(str(i), [segment(Author.POLICY, i)]) for i in range(10)]
    drawn: list[Sample] = []
    for batch in batches(samples, batch_size=5, num_steps=4, rng=np.random.default_rng(0)):
        drawn += batch.samples
    assert Counter(s.id for s in drawn) == {str(i): 2 for i in range(10)}
    assert [s.id for s in drawn[:10]] != [s.id for s in drawn[10:]]


def test_steps_follow_from_epochs_and_batch_size() -> None:
    phase = PhaseOptions(demonstrations="x", epochs=1.5, batch_size=4)
    assert steps_of(phase, 16) == 6
    assert steps_of(phase, 1) == 1


def test_a_cold_start_is_made_anew_when_anything_it_reads_changes(tmp_path, prompt_options) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "demos.jsonl"
    file.write_text("1")
    options = ColdstartOptions(out="o", phases=(PhaseOptions(demonstrations=str(file)),))
    first = fingerprint(options, prompt_options)
    assert fingerprint(options, prompt_options) == first
    file.write_text("2")
    assert fingerprint(options, prompt_options) != first
    assert fingerprint(options.model_copy(update={"seed": 1}), prompt_options) != first
