import subprocess
import sys

HEAVY = ("torch", "faiss", "sentence_transformers", "pyarrow", "fastapi", "httpx")


def test_options_import_nothing_heavy() -> None:
    code = f"import sys, ur2.retrieval.options; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_client_needs_neither_index_nor_encoder() -> None:
    code = "import sys, ur2.retrieval.client; print({'torch', 'faiss', 'pyarrow'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
