import json

from ur2.trainer.timeline import Timeline


def spans(path):
    """(lane, name, start, end) of each span of a trace file."""
    events = json.loads(path.read_text())
    lanes = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    begins = {(e["cat"], e["id"]): e for e in events if e["ph"] == "b"}
    ends = [e for e in events if e["ph"] == "e"]
    assert len(begins) == len(ends)
    return [(lanes[e["tid"]], e["name"], begins[e["cat"], e["id"]]["ts"], e["ts"]) for e in ends]


def test_overlapping_spans_of_all_lanes_survive_a_restart_of_the_process(tmp_path):
    path = tmp_path / "timeline.json"
    first = Timeline(path)
    first.add("loop", "rollout", 1.0, 2.0)
    first.add("rollout worker 0", "a", 1.0, 1.9)
    first.flush()
    first.add("rollout worker 0", "b", 1.1, 1.8)
    first.flush()
    second = Timeline(path)
    second.add("rollout worker 0", "c", 11.0, 12.0)
    second.add("loop", "update", 12.0, 12.5)
    second.flush()
    second.flush()
    assert spans(path) == [
        ("loop", "rollout", 1_000_000, 2_000_000),
        ("rollout worker 0", "a", 1_000_000, 1_900_000),
        ("rollout worker 0", "b", 1_100_000, 1_800_000),
        ("rollout worker 0", "c", 11_000_000, 12_000_000),
        ("loop", "update", 12_000_000, 12_500_000),
    ]


def test_a_file_that_lost_its_end_is_continued(tmp_path):
    path = tmp_path / "timeline.json"
    timeline = Timeline(path)
    timeline.add("loop", "rollout", 1.0, 2.0)
    timeline.flush()
    path.write_text(path.read_text().removesuffix("\n]\n"))
    timeline.add("loop", "update", 2.0, 3.0)
    timeline.flush()
    assert [name for _, name, _, _ in spans(path)] == ["rollout", "update"]
