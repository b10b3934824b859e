"""Options of benchmarks and of averages over them."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ur2.options import Options
from ur2.rewards.qa import Normalise
from ur2.types import Task

MetricName = Literal[
    "exact_match", "cover_exact_match", "f1", "accuracy", "macro_accuracy", "equivalence", "judge"
]
METRICS_OF_TASK: dict[Task, frozenset[MetricName]] = {
    "qa": frozenset({"exact_match", "cover_exact_match", "f1", "judge"}),
    "choice": frozenset({"accuracy", "macro_accuracy"}),
    "math": frozenset({"equivalence", "judge"}),
}
Published = dict[str, dict[str, float]]


class BenchmarkOptions(Options):
    """One question file and how it is measured."""

    title: str
    """Its name in tables."""
    file: str
    """The question file."""
    task: Task
    """The task of its questions."""
    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)]
    """The measures, headline first. `accuracy` is of choices and `macro_accuracy` its mean over
    `parts`; `equivalence` is mathematical; `judge` asks a language model."""
    normalise: Normalise = "squad"
    """The rule of the metrics of words, as `reward.qa.normalise`."""
    parts: Literal["subject", "level"] | None = None
    """Report the first metric also for each subject or level."""
    published: Published = Field(default_factory=dict)
    """Numbers of others, in percent: system, then row (a metric or a part), then value."""

    @model_validator(mode="after")
    def _metrics_fit(self) -> Self:
        known = METRICS_OF_TASK[self.task]
        if unfit := [name for name in self.metrics if name not in known]:
            raise ValueError(
                f"{', '.join(unfit)} does not measure '{self.task}'; "
                f"known: {', '.join(sorted(known))}"
            )
        if "macro_accuracy" in self.metrics and self.parts is None:
            raise ValueError("macro_accuracy is a mean over `parts`, which is not set")
        return self


class AverageOptions(Options):
    """The mean of one metric over several benchmarks."""

    of: tuple[str, ...]
    """The benchmarks by their key; the average is left out where one was not run."""
    metric: MetricName
    """Which metric."""
    published: dict[str, float] = Field(default_factory=dict)
    """The average that others report, in percent, by system."""
