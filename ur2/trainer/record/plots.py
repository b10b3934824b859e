"""PNG pictures of a run: how reward moved, and what changed on held-out questions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Metrics = Sequence[Mapping[str, float]]
BEFORE, AFTER = "#9aa5b1", "#1f6feb"


def draw(
    plots: Path,
    metrics: Metrics,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> list[Path]:
    """Draws every plot that the numbers allow; returns their paths."""
    mpl.use("Agg")
    drawn = []
    if metrics:
        drawn += [
            _save(plots / "reward.png", _curves(metrics, "reward/mean", "reward/part/", "reward")),
            _save(
                plots / "accuracy.png",
                _curves(metrics, "accuracy/mean", "accuracy/", "accuracy in training"),
            ),
            _save(
                plots / "searches.png",
                _curves(metrics, "search/mean", "search/per_question/", "searches per question"),
            ),
            _save(
                plots / "policy.png",
                _grid(
                    metrics,
                    [
                        "policy/entropy",
                        "policy/grad_norm",
                        "mismatch/kl",
                        "group/zero_variance_fraction",
                    ],
                ),
            ),
            _save(plots / "time.png", _phases(metrics)),
            _save(plots / "idle.png", _idle(metrics)),
            _save(plots / "curriculum.png", _curriculum(metrics)),
        ]
    if before and after:
        drawn += [
            _save(
                plots / "held_out_accuracy.png",
                _bars(before, after, "accuracy_by_bucket", "held-out accuracy"),
            ),
            _save(
                plots / "held_out_searches.png",
                _bars(before, after, "searches_by_bucket", "searches per held-out question"),
            ),
        ]
    return drawn


def _save(path: Path, figure: Figure) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    return path


def _series(metrics: Metrics, key: str) -> tuple[list[float], list[float]]:
    points = [(m["step"], m[key]) for m in metrics if key in m]
    return [x for x, _ in points], [y for _, y in points]


def _curves(metrics: Metrics, main: str, prefix: str, title: str) -> Figure:
    """The mean in bold and one thin line per part or bucket."""
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    names = dict.fromkeys(k for m in metrics for k in m if k.startswith(prefix) and k != main)
    for name in names:
        axes.plot(*_series(metrics, name), linewidth=1.2, label=name.removeprefix(prefix))
    axes.plot(*_series(metrics, main), color="black", linewidth=2.2, label="mean")
    _mark_stages(axes, metrics)
    return _finish(figure, axes, title)


def _grid(metrics: Metrics, keys: Sequence[str]) -> Figure:
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, key in zip(figure.subplots(2, 2).flat, keys, strict=True):
        axes.plot(*_series(metrics, key), color=AFTER)
        axes.set_title(key)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    return figure


def _curriculum(metrics: Metrics) -> Figure:
    """By bucket: how often retrieval was on, what it adds where that is measured, what it cost."""
    shown = {
        "curriculum/retrieval_rate/": "share of groups with retrieval",
        "curriculum/gain/": "gain from retrieval, posterior mean",
        "curriculum/searches/": "searches so far",
    }
    names = dict.fromkeys(name for m in metrics for name in m)
    panels = {prefix: [n for n in names if n.startswith(prefix)] for prefix in shown}
    panels = {prefix: keys for prefix, keys in panels.items() if keys}
    figure = Figure(figsize=(7, 3.2 * max(len(panels), 1)), layout="constrained")
    for row, (prefix, keys) in enumerate(panels.items()):
        axes = figure.add_subplot(len(panels), 1, row + 1)
        for name in sorted(keys):
            axes.plot(*_series(metrics, name), linewidth=1.2, label=name.removeprefix(prefix))
        _mark_stages(axes, metrics)
        _finish(figure, axes, shown[prefix])
    return figure


def _mark_stages(axes: Axes, metrics: Metrics) -> None:
    """A dotted line where a stage of the curriculum began."""
    steps, stages = _series(metrics, "curriculum/stage")
    for step, before, after in zip(steps[1:], stages, stages[1:], strict=False):
        if before != after:
            axes.axvline(step, color="black", linestyle=":", linewidth=1.0)


def _phases(metrics: Metrics) -> Figure:
    """Seconds of each step, stacked by phase."""
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    keys = sorted({k for m in metrics for k in m if k.startswith("time/")} - {"time/step_s"})
    keys.sort(key=lambda k: -sum(m.get(k, 0.0) for m in metrics))
    shown = [k for k in keys if sum(m.get(k, 0.0) for m in metrics) > 0]
    axes.stackplot(
        [m["step"] for m in metrics],
        [[m.get(k, 0.0) for m in metrics] for k in shown],
        labels=[k.removeprefix("time/").removesuffix("_s") for k in shown],
    )
    return _finish(figure, axes, "seconds per step")


def _idle(metrics: Metrics) -> Figure:
    """How much of each step a kind of worker had nothing to do."""
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    for key in sorted({k for m in metrics for k in m if k.startswith("idle/")}):
        axes.plot(*_series(metrics, key), linewidth=1.6, label=key.removeprefix("idle/"))
    axes.set_ylim(0.0, 1.02)
    return _finish(figure, axes, "idle share of each step")


def _bars(before: Mapping[str, Any], after: Mapping[str, Any], key: str, title: str) -> Figure:
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    buckets = [b for b in before[key] if b in after[key]]  # a run may go on with other questions
    for offset, label, values, color in (
        (-0.2, "before", before[key], BEFORE),
        (0.2, "after", after[key], AFTER),
    ):
        places = [i + offset for i in range(len(buckets))]
        bars = axes.bar(places, [values[b] for b in buckets], 0.38, label=label, color=color)
        axes.bar_label(bars, fmt="%.2f", fontsize=9)
    axes.set_xticks(range(len(buckets)), buckets)
    return _finish(figure, axes, title, xlabel="")


def _finish(figure: Figure, axes: Axes, title: str, xlabel: str = "step") -> Figure:
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    if xlabel == "step":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
