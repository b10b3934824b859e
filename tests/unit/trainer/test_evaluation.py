import pytest

from ur2.errors import ComponentError
from ur2.trainer.evaluation import Evaluation
from ur2.types import Level, Status


def test_a_question_whose_tools_failed_is_in_no_accuracy(group_of) -> None:  # type: ignore[no-untyped-def]
    failed = group_of((0.0,), level=Level.HARD, statuses=(Status.TOOL_FAILED,))
    cut = group_of((0.0,), statuses=(Status.TRUNCATED,))
    evaluation = Evaluation.of([group_of((1.0,)), cut, failed])
    assert evaluation.accuracy == 0.5
    assert evaluation.accuracy_by_bucket == {"qa/easy": 0.5}
    assert evaluation.num_questions == 2


def test_an_evaluation_of_failed_tools_alone_is_refused(group_of) -> None:  # type: ignore[no-untyped-def]
    failed = group_of((0.0, 0.0), statuses=(Status.TOOL_FAILED,) * 2)
    with pytest.raises(ComponentError, match="every held-out question"):
        Evaluation.of([failed])
