import json
import time
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ur2.trainer.record.timeline import Timeline

LANES = st.sampled_from(["loop", "retrieval", "rollout worker 0", "rollout worker 1"])
TIMES = st.integers(0, 50)
SPANS = st.lists(st.tuples(LANES, TIMES, TIMES), max_size=40)
FLUSHES = st.lists(SPANS, min_size=1, max_size=5)
ON_DISK = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


def events(path):
    return json.loads(path.read_text())


def spans(*paths):
    """(lane, name, start, end) of each span of trace files, in order."""
    found = []
    for path in paths:
        lanes = {
            e["pid"]: e["args"]["name"]
            for e in events(path)
            if e["ph"] == "M" and e["name"] == "process_name"
        }
        found += [
            (lanes[e["pid"]], e["name"], e["ts"], e["ts"] + e["dur"])
            for e in events(path)
            if e["ph"] == "X"
        ]
    return sorted(found)


def rows(path):
    """(start, end) of the spans of each row of a trace file."""
    found = defaultdict(list)
    for e in events(path):
        if e["ph"] == "X":
            found[e["pid"], e["tid"]].append((e["ts"], e["ts"] + e["dur"]))
    return found


@ON_DISK
@given(flushes=FLUSHES)
def test_every_span_is_in_the_file_in_microseconds_and_no_row_holds_two_at_once(
    flushes, tmp_path_factory
):
    path = tmp_path_factory.mktemp("run") / "timeline.json"
    timeline = Timeline(path)
    added = []
    for number, batch in enumerate(flushes):
        for lane, start, length in batch:
            name = f"{number}"
            timeline.add(lane, name, start, start + length)
            added.append((lane, name, start * 1_000_000, (start + length) * 1_000_000))
        timeline.flush()
        if added:
            assert spans(path) == sorted(added)
    if not added:
        assert not path.exists()
        return
    threads = [tid for _, tid in rows(path)]
    assert len(set(threads)) == len(threads), "a viewer names threads by their number alone"
    for row in rows(path).values():
        for (_, end), (start, _) in zip(sorted(row), sorted(row)[1:], strict=False):
            assert end <= start


@ON_DISK
@given(batch=SPANS.filter(len))
def test_a_lane_has_no_more_rows_than_spans_at_once(batch, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "timeline.json"
    timeline = Timeline(path)
    for lane, start, length in batch:
        timeline.add(lane, "x", start, start + length + 0.5)
    timeline.flush()
    most = {
        lane: max(
            sum(b == lane and start <= t < start + length + 0.5 for b, start, length in batch)
            for t in range(101)
        )
        for lane, _, _ in batch
    }
    assert len(rows(path)) == sum(most.values())


@ON_DISK
@given(kept=st.integers(0, 2000))
def test_a_file_that_a_kill_cut_anywhere_is_continued_with_its_whole_lines(kept, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "timeline.json"
    first = Timeline(path)
    for number in range(12):
        first.add("loop", f"phase {number}", number, number + 1)
    first.flush()
    content = path.read_bytes()[:kept]
    path.write_bytes(content)
    second = Timeline(path)
    second.add("loop", "phase 12", 12.0, 13.0)
    second.flush()
    whole = sum(
        f'"phase {number}"' in line
        for line in content.decode().split("\n")
        for number in range(12)
        if line.endswith(("},", "}"))
    )
    names = sorted(start for _, _, start, _ in spans(path))
    assert names == [n * 1_000_000 for n in [*range(whole), 12]]


def test_a_long_run_keeps_its_last_spans_in_two_files_of_bounded_size(tmp_path):
    path = tmp_path / "timeline.json"
    timeline = Timeline(path, max_bytes=4_000)
    for number in range(200):
        timeline.add("retrieval", f"{number}", number, number + 0.5)
        timeline.flush()
    previous = tmp_path / "timeline.previous.json"
    assert path.stat().st_size < 4_500
    assert previous.stat().st_size < 4_500
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, previous.name]
    kept = [int(name) for lane, name, _, _ in spans(previous, path) if lane == "retrieval"]
    assert sorted(kept) == list(range(min(kept), 200))
    assert ("timeline", f"continues {previous.name}") in [s[:2] for s in spans(path)]


def test_a_file_that_was_cut_is_whole_before_it_is_put_aside(tmp_path):
    path = tmp_path / "timeline.json"
    timeline = Timeline(path)
    for number in range(50):
        timeline.add("loop", f"phase {number}", number, number + 1)
    timeline.flush()
    path.write_bytes(path.read_bytes()[:-20])
    second = Timeline(path, max_bytes=100)
    second.add("loop", "phase 50", 50.0, 51.0)
    second.flush()
    kept = {
        start
        for lane, _, start, _ in spans(path, tmp_path / "timeline.previous.json")
        if lane == "loop"
    }
    assert kept == {n * 1_000_000 for n in range(51) if n != 49}


@pytest.mark.parametrize("name", ["x" * 1000, 'quoted "query"\n and more', "Zürich 東京"])
def test_any_text_can_be_a_name_and_a_long_one_is_cut(tmp_path, name):
    path = tmp_path / "timeline.json"
    timeline = Timeline(path)
    timeline.add("retrieval", name, 1.0, 2.0)
    timeline.flush()
    assert spans(path) == [("retrieval", name[:80], 1_000_000, 2_000_000)]


def test_a_clock_that_was_set_back_makes_no_negative_duration(tmp_path):
    path = tmp_path / "timeline.json"
    timeline = Timeline(path)
    began_s = time.time()
    timeline.add("loop", "x", 5.0, 4.0)
    timeline.add("policy rank 0", "update", began_s + 0.5, began_s - 3600.0)
    timeline.flush()
    assert ("loop", "x", 5_000_000, 5_000_000) in spans(path)
    assert all(start <= end for _, _, start, end in spans(path))
    time.sleep(0.01)
    assert timeline.idleness.take(time.time())["idle/trainer"] == 1.0
