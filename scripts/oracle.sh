#!/usr/bin/env bash
# Compares our advantages, losses, corrections and divergences with verl's and TRL's on the same random arrays.
# Both are installed into an environment of their own, since they conflict with ours. Exit code 1: a difference
# that is not a known one.
#   UR2_ORACLE_DIR=DIR        the environment (default ~/.cache/ur2/oracle, about 7 GB)
#   PYTHON=python3.11         the interpreter to build it on
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
env=${UR2_ORACLE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/ur2/oracle}
wanted="torch==2.13.0 trl==1.16.0 verl==0.9.1"

if [ "$(cat "$env/ur2-oracle" 2>/dev/null)" != "$wanted" ]; then
  echo "oracle: installing $wanted into $env; a few minutes"
  "${PYTHON:-python3.11}" -m venv "$env"
  # torch first: with it present, nothing else pulls another build of it
  for package in $wanted; do
    "$env/bin/python" -m pip --disable-pip-version-check install --quiet "$package" 2>"$env/pip.log" ||
      { tail -n 20 "$env/pip.log" >&2; echo "oracle: $package could not be installed" >&2; exit 2; }
  done
  echo "$wanted" >"$env/ur2-oracle"
fi
PYTHONPATH=$root OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} CUDA_VISIBLE_DEVICES= \
  exec "$env/bin/python" -W ignore scripts/oracle/compare.py
