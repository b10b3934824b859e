"""The record of an episode under way, token by token."""

from collections.abc import Sequence
from dataclasses import replace

from ur2.environments.base import Branch, Reply, Turn
from ur2.rollout.engines.base import Generation
from ur2.rollout.options import RolloutOptions
from ur2.types import Author, Segment, Status, ToolUse, Trajectory


class EpisodeRecord:
    """Segments and events, which are only ever appended."""

    def __init__(self, trajectory_id: str, branch: Branch | None) -> None:
        self.id = trajectory_id
        self._parent = branch.parent if branch else ""
        self._segments: list[Segment] = []
        self._events: tuple[ToolUse, ...] = branch.events if branch else ()
        self._start = 0
        """Where the current context begins among the segments."""
        self.token_ids: list[int] = []
        """The current context's tokens."""
        self._num_prompt_tokens = 0
        self.num_turns = 0
        for segment in branch.segments if branch else ():
            self._append(segment)

    @property
    def where(self) -> str:
        """The place in the run, for messages."""
        return f"in trajectory '{self.id}', turn {self.num_turns}"

    @property
    def context(self) -> tuple[Segment, ...]:
        """The segments of the current context."""
        return tuple(self._segments[self._start :])

    def ended(self, stop_token_ids: Sequence[int]) -> bool:
        """Whether the context stands with a token that ends a turn of the model."""
        return bool(self.token_ids) and self.token_ids[-1] in stop_token_ids

    def num_left(self, options: RolloutOptions) -> int:
        """Tokens that the current context still holds."""
        return options.max_tokens - (len(self.token_ids) - self._num_prompt_tokens)

    def take(self, segments: Sequence[Segment], options: RolloutOptions) -> bool:
        """Adds what the policy is to read; False where it does not fit, or leaves no room."""
        num_tokens = sum(len(segment.token_ids) for segment in segments)
        begins = segments[0].author is Author.PROMPT
        if (begins and num_tokens > options.max_prompt_tokens) or (
            not begins and num_tokens >= self.num_left(options)
        ):
            return False
        for segment in segments:
            self._append(segment)
        return True

    def write(self, written: Generation, role: str) -> Turn:
        """Adds what the policy wrote, and returns it as its environment sees it."""
        self._append(
            Segment(
                author=Author.POLICY,
                token_ids=written.token_ids,
                text=written.text,
                logprobs=written.logprobs,
                weight_versions=written.weight_versions,
                turn=self.num_turns,
                role=role,
                allowed=written.allowed,
            )
        )
        transcript = "".join(s.text for s in self._segments if s.author is not Author.PROMPT)
        return Turn(
            text=written.text,
            number=self.num_turns,
            events=self._events,
            is_cut=written.finish == "length",
            transcript=transcript,
        )

    def note(self, reply: Reply) -> None:
        """Adds what the last turn led to."""
        self._events += reply.events
        if reply.reward:
            self._segments[-1] = replace(self._segments[-1], reward=float(reply.reward))

    def end(self, status: Status, answer: str | None = None) -> Trajectory:
        """The trajectory."""
        return Trajectory(
            id=self.id,
            segments=tuple(self._segments),
            events=self._events,
            status=status,
            answer=answer,
            parent=self._parent,
        )

    def _append(self, segment: Segment) -> None:
        if segment.author is Author.PROMPT:
            self._start, self.token_ids = len(self._segments), []
            self._num_prompt_tokens = len(segment.token_ids)
        self.num_turns += segment.author is Author.POLICY
        self._segments.append(segment)
        self.token_ids.extend(segment.token_ids)
