#!/usr/bin/env bash
# A run on several nodes that ssh reaches without a password, from the repository root that all of them share:
#   bash scripts/launch_ssh.sh hosts.txt +experiment=NAME [key=value ...]
#   HOSTS=a,b bash scripts/launch_ssh.sh +experiment=NAME [key=value ...]
# hosts.txt has one host a line, the head first. launch.KEY=VALUE sets ports, Python or container; --help
# lists the keys. Nodes are checked before anything starts; Ctrl-C leaves a checkpoint; no ray is left behind.
# Exit codes: the run's; 2 also when the nodes do not fit, 3 also when ray does not start.
#   UR2_PYTHON=PATH           the launcher's own interpreter (default .venv/bin/python)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${UR2_PYTHON:-$root/.venv/bin/python}

fail() { echo "launch_ssh: $*" >&2; exit 2; }

case ${1:-} in
  -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; cd "$root"; exec "$python" -m ur2.launch --help ;;
esac
if [ -n "${HOSTS:-}" ]; then
  from=HOSTS lines=$(tr ',' '\n' <<<"$HOSTS")
else
  [ -f "${1:-}" ] || fail "no file '${1:-}' with one host a line; name one, or set HOSTS=a,b"
  from=$1 lines=$(sed 's/#.*//' "$1")
  shift
fi
hosts=$(tr -d '\r' <<<"$lines" | awk 'NF { printf "%s\"%s\"", (n++ ? "," : ""), $1 }')
[ -n "$hosts" ] || fail "$from names no host"
cd "$root"
command -v "$python" >/dev/null || fail "no interpreter at $python; run \`bash scripts/setup.sh\`, or set UR2_PYTHON"
exec "$python" -m ur2.launch "launch.hosts=[$hosts]" "$@"
