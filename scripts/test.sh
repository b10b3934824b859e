#!/usr/bin/env bash
# Sets up, then checks and tests everything. Arguments go to pytest, for example: -k advantages
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/setup.sh
bash scripts/check.sh
if [ $# -gt 0 ]; then exec .venv/bin/python -m pytest "$@"; fi

# Unit tests side by side; the others, which start whole systems and count what these leave, in turn.
failed=0
.venv/bin/python -m pytest tests/unit --numprocesses=auto --maxprocesses=8 || failed=$?
if [ $failed = 2 ]; then exit 2; fi  # Ctrl-C
# The arithmetic once more as on a processor with neither AVX-512 nor bfloat16 units, so far as torch
# can be told to be on one.
ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 .venv/bin/python -m pytest tests/unit/test_processor.py \
  tests/unit/policy tests/unit/retrieval/encoder --numprocesses=auto --maxprocesses=8 || failed=$?
if [ $failed = 2 ]; then exit 2; fi
.venv/bin/python -m pytest tests/integration tests/gpu || failed=$?
exit $failed
