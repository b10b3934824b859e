import os
import subprocess
import sys

import pytest

from ur2.processor import has_avx512

HEAVY = ("torch", "faiss", "sentence_transformers", "pyarrow", "fastapi", "httpx")


def test_options_import_nothing_heavy() -> None:
    code = f"import sys, ur2.retrieval.options; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_client_needs_neither_index_nor_encoder() -> None:
    heavy = {"torch", "faiss", "pyarrow"}
    code = f"import sys, ur2.retrieval.client.retriever; print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_matrix_products_of_search_use_what_the_processor_has() -> None:
    if not has_avx512():
        pytest.skip("no processor with AVX-512")
    threadpoolctl = pytest.importorskip("threadpoolctl")
    assert threadpoolctl
    code = """
import os, ur2.retrieval.index.nearest, threadpoolctl
libraries = [lib for lib in threadpoolctl.threadpool_info() if "faiss" in lib["filepath"]]
print(sorted({lib.get("architecture", "") for lib in libraries} - {""}))
assert "OPENBLAS_CORETYPE" not in os.environ
"""
    environment = {key: value for key, value in os.environ.items() if key != "OPENBLAS_CORETYPE"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['SkylakeX']"
