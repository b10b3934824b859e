"""R3-RAG's vectors from end to end: game, judge, grader, reward and credit of its experiment."""

import pytest

from ur2.config.load import compose
from ur2.environments.steps import StepsEnvironment
from ur2.prompts.dialect import Dialect
from ur2.rewards.rubric import Rubric
from ur2.testing.players import play
from ur2.testing.records import make_assignment
from ur2.trainer.credit import credited
from ur2.types import Group, Level, Question

QUESTION = Question(id="q", task="qa", text="Where?", answers=("Tacoma",), level=Level.HARD)
RIGHT, WRONG = "Tacoma", "Rome"


def turn(number, answer=None):
    end = f"The final answer: {answer}" if answer else "The retrieval query: Who wrote Dune? When?"
    return f"Step {number}:\nThe problem analysis: I think.\n{end}"


@pytest.mark.parametrize(
    ("worths", "turns", "overrides", "rewards"),
    [
        ((0.8, 0.6), (turn(1), turn(2), turn(3, RIGHT)), [], [1.28, 0.96, 2.0]),
        ((0.8, 0.6), (turn(1), turn(2), turn(3, WRONG)), [], [0.64, 0.48, 0.0]),
        ((0.5,) * 5, [turn(n) for n in range(1, 6)], [], [0.45] * 5),
        ((0.7,), (turn(1), "no step", "none", "nothing"), [], [0.7, -0.9]),
        ((), (turn(1, RIGHT),), [], [2.0]),
        (
            (0.8, 0.6),
            (turn(1), turn(2), turn(3, RIGHT)),
            ["reward.terms.steps.options.variant=outcome"],
            [2.0, 2.0, 2.0],
        ),
        (
            (0.8, 0.6),
            (turn(1), turn(2), turn(3, RIGHT)),
            ["reward.terms.steps.options.variant=process"],
            [0.8, 0.6, 0.0],
        ),
    ],
)
async def test_each_step_is_a_sample_with_its_published_reward(
    worths, turns, overrides, rewards, serve_http
):
    left = iter(worths)

    def judge(sent):
        return {"choices": [{"message": {"content": f"Fine.\nRelevance: {next(left)}"}}]}

    options = compose(
        [
            "+experiment=r3rag_qwen7b",
            f"environment.steps.relevance.endpoint.url={serve_http(judge).url}",
            *overrides,
        ]
    )
    assignment = make_assignment(question=QUESTION)
    steps = options.environment.steps.model_dump(mode="json")
    played = await play(StepsEnvironment, *turns, options=steps, assignment=assignment)
    rubric = Rubric.from_options(options.reward, Dialect(options.prompt.protocol))
    scored = await rubric.score(Group(assignment=assignment, trajectories=(played,)), step=1)
    samples = credited(options.algorithm.credit, played, scored.scores[0])
    assert [sample.reward for sample in samples] == pytest.approx(rewards)
    assert next(left, None) is None, "every retrieval was judged"
