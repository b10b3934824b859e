"""What a node finds out: real ports, files and clocks of this machine."""

import socket
import time
from pathlib import Path
from typing import Any

import pytest

from ur2.launch.checks import NodeChecks, code_digest, fingerprint, own_address, plugin_digest


def facts(checks: NodeChecks, **more: Any) -> dict[str, Any]:
    request = {"ports": {}, "held": [], "inputs": [], "hub_models": [], "plugins": []}
    request["towards"] = "8.8.8.8"
    return checks.facts(**(request | more))


def test_a_taken_port_is_named_with_who_has_it() -> None:
    checks = NodeChecks()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        taken = facts(checks, ports={"address": (port, port)})["taken"]
        assert list(taken) == ["address"]
        (who,) = taken["address"]
    assert who.startswith(f"{port} (pid ")
    assert facts(checks, ports={"address": (port, port)})["taken"] == {"address": []}
    checks.close()


def test_only_named_ports_are_held_and_all_are_freed() -> None:
    checks = NodeChecks()
    with socket.create_server(("", 0)) as free:
        first = free.getsockname()[1]
    held = facts(checks, ports={"address": (first, first)}, held=[first])["held"]
    assert first in held
    peers = [("127.0.0.1", port) for port in held]
    assert checks.look([], "t", peers)["unreached"] == []
    checks.close()
    assert len(checks.look([], "t", peers)["unreached"]) == len(peers) == 2


def test_a_probe_is_seen_where_the_folder_is_the_same(tmp_path: Path) -> None:
    head, other = NodeChecks(), NodeChecks()
    mine, shared = tmp_path / "mine", tmp_path / "new" / "shared"
    mine.mkdir()
    assert head.write([str(shared)], "token") == {}
    seen = other.look([str(shared), str(mine)], "token", [], probe_timeout_s=0)
    assert seen["unseen"] == [str(mine)]
    assert other.look([str(shared)], "another", [], probe_timeout_s=0)["unseen"] == [str(shared)]
    head.close()
    assert list(shared.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_problem_not_an_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    problems = NodeChecks().write([str(tmp_path / "file" / "in-it"), str(tmp_path)], "token")
    assert list(problems) == [str(tmp_path / "file" / "in-it")]


def test_fingerprints_differ_where_contents_do(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert fingerprint(one) is None
    one.write_bytes(b"a" * 300_000)
    two.write_bytes(b"a" * 300_000)
    assert fingerprint(one) == fingerprint(two)
    two.write_bytes(b"a" * 299_999 + b"b")
    assert fingerprint(one) != fingerprint(two)
    whole = fingerprint(tmp_path)
    two.write_bytes(b"")
    assert fingerprint(tmp_path) not in (whole, None)


def test_the_codes_digest_changes_with_a_source_and_not_with_data(tmp_path: Path) -> None:
    (tmp_path / "ur2").mkdir()
    source = tmp_path / "ur2" / "a.py"
    source.write_text("1")
    before = code_digest(tmp_path)
    (tmp_path / "data.jsonl").write_text("x")
    assert code_digest(tmp_path) == before
    source.write_text("2")
    assert code_digest(tmp_path) != before


def test_a_users_package_is_known_by_its_files_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "my_games"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError")
    (tmp_path / "my_tools.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = plugin_digest("my_games")
    (package / "notes.txt").write_text("x")
    assert before == plugin_digest("my_games") is not None
    (package / "guess.yaml").write_text("a: 1")
    assert plugin_digest("my_games") != before
    assert plugin_digest("my_tools") not in (before, None)
    assert plugin_digest("nobodys_games") is None


def test_the_facts_are_those_of_this_machine() -> None:
    checks = NodeChecks()
    found = facts(checks, inputs=[__file__, "/nowhere"])
    checks.close()
    assert found["packages"]["torch"]
    assert found["inputs"]["/nowhere"] is None
    assert found["inputs"][__file__]
    assert own_address("127.0.0.1") == "127.0.0.1"
    assert abs(checks.time()["time"] - time.time()) < 1
