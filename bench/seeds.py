"""Runs the quickstart over seeds and variants and prints the table of results.

    python scripts/bench/seeds.py                          # three seeds and four variants
    python scripts/bench/seeds.py seed=3 seed=4,algorithm=reinforce_pp

Each argument is one row: comma-separated overrides of the experiment. Rows that have already been
run (same folder) are read, not run again.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from bench.figures import tell

RUNS = Path("runs/seeds")
ROWS = [
    "seed=0",
    "seed=1",
    "seed=2",
    "seed=0,engine=hf",
    "seed=0,algorithm=reinforce_pp_baseline",
    "seed=0,curriculum=always",
    "seed=0,curriculum=never",
]
Summary = dict[str, dict[str, object]]


def main() -> None:
    rows = sys.argv[1:] or ROWS
    summaries = {row: run(row) for row in rows}
    buckets = sorted(next(iter(summaries.values()))["after"]["accuracy_by_bucket"])
    buckets.sort(key=lambda b: ["easy", "medium", "hard", "very_hard"].index(b.split("/")[-1]))
    names = [bucket.split("/")[-1] for bucket in buckets]
    print(
        f"| run | accuracy before → after | {' | '.join(names)} "
        f"| searches before → after ({' / '.join(names)}) | minutes |"
    )
    print("|---" * (len(names) + 4) + "|")
    for row, summary in summaries.items():
        print(line(row, summary, buckets))
    gains = {row: gain(summary) for row, summary in summaries.items()}
    seeds = [value for row, value in gains.items() if row.startswith("seed=") and "," not in row]
    tell(
        "seeds",
        {
            "mean_gain": statistics.fmean(seeds or gains.values()),
            "gains": gains,
        },
    )


def run(row: str) -> Summary:
    folder = RUNS / row.replace(",", "+").replace("=", "-")
    if not (folder / "summary.json").exists():
        overrides = row.split(",")
        command = [sys.executable, "-m", "ur2.train", "+experiment=quickstart", f"run_dir={folder}"]
        subprocess.run([*command, *overrides], check=True)
    return json.loads((folder / "summary.json").read_text())


def gain(summary: Summary) -> float:
    return summary["after"]["accuracy"] - summary["before"]["accuracy"]


def line(row: str, summary: Summary, buckets: list[str]) -> str:
    before, after = summary["before"], summary["after"]

    def each(part: dict[str, dict[str, float]], key: str) -> list[float]:
        return [part[key][bucket] for bucket in buckets]

    accuracies = " | ".join(
        f"{b:.2f} → {a:.2f}"
        for b, a in zip(
            each(before, "accuracy_by_bucket"), each(after, "accuracy_by_bucket"), strict=True
        )
    )
    searches = " → ".join(
        " / ".join(f"{value:.2f}" for value in each(part, "searches_by_bucket"))
        for part in (before, after)
    )
    minutes = sum(summary["wall_s"].values()) / 60
    return (
        f"| `{row.replace(',', ' ')}` | {before['accuracy']:.2f} → {after['accuracy']:.2f} | "
        f"{accuracies} | {searches} | {minutes:.1f} |"
    )
