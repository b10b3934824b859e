#!/usr/bin/env bash
# The gate: format, lint, types, layers. --fix repairs what can be repaired.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
[ -x $bin/ruff ] || { echo "check: nothing is installed yet; run bash scripts/setup.sh" >&2; exit 2; }

if [ "${1:-}" = --fix ]; then
  $bin/ruff check --fix .
  $bin/ruff format .
fi
$bin/ruff format --check .
$bin/ruff check .
$bin/mypy
$bin/lint-imports
