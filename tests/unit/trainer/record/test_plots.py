import io

import pytest
from rich.console import Console

from ur2.trainer.record import plots
from ur2.trainer.record.reporting import Reporter
from ur2.trainer.record.run_directory import RunDirectory
from ur2.trainer.record.trackers import Trackers

METRICS = [
    {
        "step": float(step),
        "reward/mean": 0.1 * step,
        "accuracy/mean": 0.1 * step,
        "search/mean": 1.0,
        "time/rollout_s": 1.0,
        "curriculum/retrieval_rate/qa/easy": 0.5,
        "curriculum/retrieval_rate/qa/hard": 1.0,
        "curriculum/gain/qa/hard": 0.3,
        "curriculum/stage": float(step > 3),
        "idle/trainer": 0.6,
        "idle/rollout": 0.05 * step,
        **({"idle/retrieval": 0.8} if step != 3 else {}),
    }
    for step in range(1, 7)
]


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def test_every_plot_is_drawn_from_what_there_is(tmp_path):
    drawn = plots.draw(tmp_path, METRICS, None, None)
    assert {path.stem for path in drawn} >= {"reward", "accuracy", "searches", "curriculum", "idle"}
    assert all(path.stat().st_size > 1000 for path in drawn)


def test_the_curriculum_is_shown_by_bucket_in_the_panels_that_were_measured():
    figure = plots._curriculum(METRICS)
    assert titles(figure) == [
        "share of groups with retrieval",
        "gain from retrieval, posterior mean",
    ]
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["qa/easy", "qa/hard"]


def test_a_step_without_a_share_of_idle_time_leaves_a_gap_in_no_other_line():
    (axes,) = plots._idle(METRICS).axes
    assert axes.get_legend_handles_labels()[1] == ["retrieval", "rollout", "trainer"]
    assert [len(line.get_xdata()) for line in axes.lines] == [5, 6, 6]


@pytest.mark.parametrize("with_stages", [True, False])
def test_the_step_at_which_a_stage_began_is_marked(with_stages):
    metrics = METRICS
    if not with_stages:
        metrics = [{k: v for k, v in m.items() if k != "curriculum/stage"} for m in METRICS]
    figure = plots._curves(metrics, "reward/mean", "reward/part/", "reward")
    dotted = [line for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert [line.get_xdata()[0] for line in dotted] == ([4.0] if with_stages else [])


def measured(**accuracy):
    return {
        "accuracy": 0.5,
        "num_questions": 8,
        "accuracy_by_bucket": {f"qa/{level}": value for level, value in accuracy.items()},
        "searches_by_bucket": {f"qa/{level}": 1.0 for level in accuracy},
    }


def test_a_run_that_went_on_with_other_held_out_questions_shows_the_buckets_of_both(tmp_path):
    before, after = measured(easy=0.2, hard=0.1), measured(hard=0.6, very_hard=0.3)
    figure = plots._bars(before, after, "accuracy_by_bucket", "accuracy")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["qa/hard"]
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.1, 0.6]
    run = RunDirectory(tmp_path)
    said = io.StringIO()
    reporter = Reporter(
        run, Trackers({}), num_steps=1, dump_trajectories=False, console=Console(file=said)
    )
    reporter.finish({"steps": 1}, before, after)
    assert run.finished_steps() == 1
    assert "qa/hard" in said.getvalue()
