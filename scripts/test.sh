#!/usr/bin/env bash
# Sets up, then checks and tests everything. Arguments go to pytest, for example: -k advantages
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/setup.sh
bash scripts/check.sh
exec .venv/bin/python -m pytest "$@"
