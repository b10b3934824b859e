"""Worked examples as episodes would record them."""

from ur2.demonstrations import DemonstratedTurn, Demonstration
from ur2.prompts.render import PromptRenderer
from ur2.types import Author, Segment, Task


def demonstration_segments(
    renderer: PromptRenderer, demo: Demonstration, *, max_observation_tokens: int | None = None
) -> tuple[Segment, ...]:
    """A worked example as segments.

    Turns are POLICY segments, or INJECTED ones (without loss) where `learn` is False; documents
    are ENVIRONMENT segments. An answer whose marker does not stop generation is followed by the
    tokenizer's end-of-sequence token.

    Raises:
        InputError: a turn's text would not be read back as that turn.
    """
    message = renderer.wording.message(demo.question, demo.retrieval)
    segments = [renderer.opening(message)]
    for number, turn in enumerate(demo.turns):
        segments.append(_turn(renderer, turn, demo.question.task, number))
        if turn.search is not None:
            found = renderer.wording.dialect.wrap(turn.documents)
            segments.append(
                renderer.piece(
                    found.text,
                    before=found.before,
                    after=found.after,
                    max_tokens=max_observation_tokens,
                    turn=number,
                )
            )
    return tuple(segments)


def _turn(renderer: PromptRenderer, turn: DemonstratedTurn, task: Task, number: int) -> Segment:
    dialect = renderer.wording.dialect
    text = dialect.render_turn(turn.thought, search=turn.search, answer=turn.answer, task=task)
    stops = turn.search is not None or dialect.answer_form(task).form == "tags"
    end = "" if stops else renderer.end_of_turn
    author = Author.POLICY if turn.learn else Author.INJECTED
    return renderer.piece("", before=f"{text}{end}", author=author, turn=number)
