import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ur2.datasets import load_questions

ROOT = Path(__file__).parents[3]
COMMIT = "Tsinghua-dhy/UR2/b1cbc8bc4b4d94778baa2dd4180643b10703d753"

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


def download(
    folder: Path, *sets: str, mirror: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the script into `folder`, with a local folder standing in for the network."""
    homes = f"file://{mirror or folder / 'no-such-mirror'}"
    env = os.environ | {"DATA": str(folder / "data"), "UR2_GITHUB_RAW": homes, "HF_ENDPOINT": homes}
    command = ["bash", str(ROOT / "scripts" / "download_data.sh"), *sets]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_without_a_network_every_missing_file_is_named_with_its_home(tmp_path: Path) -> None:
    result = download(tmp_path, "medqa", "search_r1")
    assert result.returncode == 2
    assert "2 file(s) are missing" in result.stderr
    assert f"{tmp_path}/data/medqa/train.jsonl  from  file://" in result.stderr
    assert f"{tmp_path}/data/search_r1/train.parquet  from  file://" in result.stderr
    assert "licence  train.jsonl: UR² Apache-2.0; MedQA MIT" in result.stdout


def test_a_file_that_does_not_fit_its_checksum_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "mirror" / COMMIT / "train" / "datasets" / "train_mmlu_medqa.jsonl"
    source.parent.mkdir(parents=True)
    source.write_text("<html>not found</html>")
    result = download(tmp_path, "medqa", mirror=tmp_path / "mirror")
    assert result.returncode == 2
    assert "does not fit its checksum (git:b4693c7" in result.stderr
    assert list((tmp_path / "data" / "medqa").iterdir()) == []


def test_without_a_published_checksum_the_first_download_decides(tmp_path: Path) -> None:
    source = tmp_path / "datasets/PeterJinGo/nq_hotpotqa_train/resolve/main/train.parquet"
    source.parent.mkdir(parents=True)
    source.write_bytes(b"as published")
    got = tmp_path / "data" / "search_r1" / "train.parquet"
    assert download(tmp_path, "search_r1", mirror=tmp_path).returncode == 0
    assert got.read_bytes() == b"as published"
    got.unlink()
    source.write_bytes(b"as changed since")
    assert download(tmp_path, "search_r1", mirror=tmp_path).returncode == 2
    assert not got.exists()


def test_an_unknown_set_is_named_with_the_known_ones(tmp_path: Path) -> None:
    result = download(tmp_path, "ur3")
    assert result.returncode == 2
    assert "no set 'ur3'; known: math medqa search_r1 ur2" in result.stderr


def test_help_lists_every_set(tmp_path: Path) -> None:
    result = download(tmp_path, "--help")
    assert result.returncode == 0
    assert {"ur2", "medqa", "math", "search_r1"} <= set(result.stdout.split())


def reference() -> Path:
    beside = ROOT.parent / "shared" / "data"
    return Path(os.environ.get("UR2_SHARED_DATA", beside)) / "ur2_reference"


@pytest.mark.skipif(not reference().is_dir(), reason="needs UR2_SHARED_DATA with ur2_reference")
def test_a_set_arrives_whole_resumes_and_is_not_fetched_twice(tmp_path: Path) -> None:
    home = tmp_path / "mirror" / COMMIT
    shutil.copytree(reference() / "train", home / "train" / "datasets")
    ignore = shutil.ignore_patterns("train")
    shutil.copytree(reference(), home / "eval" / "dataset", ignore=ignore)
    begun = tmp_path / "data" / "ur2" / "mmlupro.jsonl.part"
    begun.parent.mkdir(parents=True)
    begun.write_bytes((home / "eval/dataset/mmlupro/mmlupro.jsonl").read_bytes()[:1000])
    assert download(tmp_path, "ur2", mirror=tmp_path / "mirror").returncode == 0
    assert len(load_questions(str(tmp_path / "data/ur2/mmlupro.jsonl"))) == 1880
    assert len(list((tmp_path / "data" / "ur2").iterdir())) == 12
    shutil.rmtree(home)
    again = download(tmp_path, "ur2")
    assert again.returncode == 0
    assert again.stdout.count("  have  ") == 12
