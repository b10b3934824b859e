"""The first words that a policy reads, rendered as the workers do, before there is a worker."""

from dataclasses import dataclass, field

from ur2.environments.base import Knowledge, Services
from ur2.environments.game import Game
from ur2.environments.search import SearchOptions
from ur2.environments.toolbox.box import Toolbox
from ur2.environments.toolbox.options import ToolboxOptions
from ur2.errors import InputError
from ur2.prompts.render import PromptRenderer
from ur2.rollout.episode import check_prompt, read_ask
from ur2.rollout.options import RolloutOptions
from ur2.types import Assignment, Finding, Lookup, Question, RetrievalFailed, Segment


class NoKnowledge:
    """Stands in where nothing is searched."""

    async def look_up(self, lookup: Lookup) -> Finding:
        """Fails every search."""
        return Finding(outcome=RetrievalFailed(reason="there is nothing to search"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Openings:
    """Renders the opening of any question."""

    renderer: PromptRenderer
    game: Game
    options: RolloutOptions
    toolbox: Toolbox = field(default_factory=lambda: Toolbox(ToolboxOptions()))
    """Not started: tools of servers are missing from these openings."""

    def prompt(self, question: Question, retrieval: bool) -> Segment:
        """Where the episodes of a question begin.

        Raises:
            InputError: there is no template for the question's task, or the prompt is too long.
            PluginError: the environment failed.
        """
        assignment = Assignment(
            id=question.id, question=question, retrieval=retrieval, reason="opening", step=0
        )
        services = make_services(self.renderer, self.game, self.toolbox, NoKnowledge())
        where = f"on question '{question.id}'"
        _, ask = self.game.opened(assignment, services, where=where)
        (prompt,) = read_ask(self.renderer, ask, 0)
        check_prompt(prompt, assignment, self.options)
        return prompt


def make_services(
    renderer: PromptRenderer, game: Game, toolbox: Toolbox, knowledge: Knowledge
) -> Services:
    """The services of environments.

    Raises:
        InputError: the environment's tools are shown by the model's chat template, which cannot.
    """
    wording = renderer.wording
    if not getattr(game.kind, "calls_tools", False):
        return Services(knowledge=knowledge, wording=wording, tools=toolbox.tools)
    call_format = renderer.call_format()
    return Services(
        knowledge=knowledge, wording=wording, tools=toolbox.tools, call_format=call_format
    )


def check_observations(renderer: PromptRenderer, game: Game) -> None:
    """Raises an InputError where no document fits into an observation."""
    if not isinstance(game.options, SearchOptions):
        return
    limit = game.options.max_observation_tokens
    empty = renderer.wording.dialect.wrap(())
    num_tokens = len(renderer.piece("", before=empty.before, after=empty.after).token_ids)
    if num_tokens >= limit:
        raise InputError(
            f"environment.search.max_observation_tokens={limit}: the markers alone take "
            f"{num_tokens}; raise it"
        )
