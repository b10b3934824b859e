#!/usr/bin/env bash
# From a fresh clone to a policy that has learned when to search. Arguments are overrides of the
# experiment, for example: bash scripts/quickstart.sh seed=1 algorithm=reinforce_pp_baseline
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/setup.sh
if [ "$(sed -n 2p .venv/ur2-setup)" = hf ]; then
  echo "NOTICE: vllm is not installed on this machine; rollouts run on the slower engine 'hf'."
  echo "        To try its installation again: rm .venv/ur2-setup, then the same command."
  set -- engine=hf "$@"
fi
exec .venv/bin/python -m ur2.train +experiment=quickstart "$@"
