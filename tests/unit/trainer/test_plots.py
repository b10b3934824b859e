import pytest

from ur2.trainer import plots

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
