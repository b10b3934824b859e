"""Options of a teacher: the model whose episodes the cold start learns from."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ur2.options import Options
from ur2.rollout.options import EngineOptions, RemoteOptions


class TeacherOptions(Options):
    """A model that plays the run's environment, and which of its episodes are kept."""

    out: str
    """The folder of attempts. What is there is continued; `demonstrations.jsonl` in it is the file
    for `coldstart.phases`."""
    model: str
    """The name that the endpoint serves, or, for a local engine, a folder or Hugging Face name."""
    engine: EngineOptions = EngineOptions(
        name="remote", remote=RemoteOptions(api="chat"), max_num_seqs=16
    )
    """By default a chat endpoint, whose address is `engine.remote.url`, with 16 requests at a time;
    or a local engine."""
    num_workers: int = Field(1, ge=1)
    """Local engines that share the questions."""
    system: str | None = None
    """The teacher's system message in the place of the run's, such as the form of a turn for a
    model that has not learned it. It is not shown to the model that learns."""
    questions: str | None = None
    """A file of questions; by default `dataset.train`."""
    limit: int | None = Field(None, ge=1)
    """Only this many questions, from the first."""
    retrieval: bool = True
    """Whether retrieval is on."""
    attempts: int = Field(7, ge=1)
    """Episodes that a question may take; R3-RAG's number."""
    first_temperature: float = Field(0.0, ge=0.0, le=2.0)
    """Sampling in the first attempt at a question."""
    later_temperature: float = Field(0.9, ge=0.0, le=2.0)
    """Sampling in the others."""
    keep: Literal["first_correct", "best"] = "first_correct"
    """`first_correct`: attempts at a question end with the first that is kept; `best`: all are
    made, and the one with the highest reward is kept. Correct is what the run's graders call so;
    an answer without a verdict is not kept."""
    min_correct: float = Field(1.0, gt=0.0, le=1.0)
    """Episodes with a lower grade are not kept; 1 is right in the words of every grader."""
    min_searches: int = Field(0, ge=0)
    """Episodes with fewer searches are not kept."""
    max_searches: int | None = Field(None, ge=0)
    """Episodes with more are not kept."""
    max_context_tokens: int | None = Field(None, ge=1)
    """Episodes with a longer context are not kept; see `max_tokens` for what a token is."""
    max_calls: int | None = Field(10_000, ge=1)
    """Turns that the teacher may write in all, earlier runs included; null for no bound. An attempt
    begins only if it and those under way fit in, each counted as the longest so far. Attempts that
    a failure or a kill cut off, and requests that were tried again, are not counted."""
    max_tokens: int | None = Field(None, ge=1)
    """The same for tokens, read and written; those of a chat endpoint are counted as a token for
    four characters."""

    @field_validator("engine", mode="before")
    @classmethod
    def _is_a_chat_endpoint_unless_named(cls, given: Any) -> Any:
        """A part of the default engine's options leaves the others as they are."""
        if not isinstance(given, dict) or given.get("name", "remote") != "remote":
            return given
        remote = {"api": "chat", **given.get("remote", {})}
        return {"name": "remote", "max_num_seqs": 16, **given, "remote": remote}

    @model_validator(mode="after")
    def _can_keep_something(self) -> Self:
        if self.max_searches is not None and self.max_searches < self.min_searches:
            raise ValueError("max_searches is less than min_searches: nothing could be kept")
        if self.attempts > 2 and self.later_temperature == 0:
            raise ValueError("later_temperature is 0, so that all attempts would be the same")
        return self
