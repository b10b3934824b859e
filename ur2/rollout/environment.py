"""The rules of the game, without I/O: what a completed turn leads to."""

from dataclasses import dataclass

from ur2.prompts.dialect import Answer, Dialect, Search, Stop
from ur2.types import Status, Task


@dataclass(frozen=True, slots=True)
class Refused:
    """The turn searches where it must not; the episode ends with `status`."""

    query: str
    status: Status


Move = Search | Refused | Answer | Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What one episode allows."""

    dialect: Dialect
    task: Task
    retrieval: bool
    max_turns: int

    def react(self, completion: str, *, num_turns: int, num_searches: int) -> Move:
        """What happens after the policy completed a turn.

        A search is refused, and ends the episode, where retrieval is off or the dialect's number
        of searches is used up (`NO_ANSWER`), and in the last turn, in which nothing could be made
        of its documents (`OUT_OF_TURNS`).

        Args:
            completion: the turn's text, which ended by itself (not by a token budget).
            num_turns: turns completed, this one included.
            num_searches: searches made before this turn.
        """
        match self.dialect.parse(completion, self.task):
            case Search(query):
                if not self.retrieval or num_searches >= self.dialect.limits.max_searches:
                    return Refused(query, Status.NO_ANSWER)
                if num_turns >= self.max_turns:
                    return Refused(query, Status.OUT_OF_TURNS)
                return Search(query)
            case other:
                return other

    def must_answer(self, *, num_turns: int, num_searches: int) -> bool:
        """Whether the next turn's search would be refused."""
        searched_out = num_searches >= self.dialect.limits.max_searches
        return not self.retrieval or searched_out or num_turns + 1 >= self.max_turns
