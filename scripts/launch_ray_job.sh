#!/usr/bin/env bash
# A run on a ray cluster that is up already (ray[default], KubeRay, Anyscale):
#   bash scripts/launch_ray_job.sh http://head:8265 +experiment=NAME [key=value ...]
# Its nodes are checked before anything loads, its log is shown here, Ctrl-C stops it with a checkpoint.
# job.KEY=VALUE sets the folder or container it runs in; http://head:8265 --help lists the keys.
# Exit codes: the run's; 2 also when the nodes do not fit, 3 also when the cluster does not answer.
#   UR2_PYTHON=PATH           the interpreter here (default .venv/bin/python)
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-} in
  -h | --help | "") sed -n '2,7s/^# \{0,1\}//p' scripts/launch_ray_job.sh; [ $# -gt 0 ] || exit 2; exit 0 ;;
esac
python=${UR2_PYTHON:-.venv/bin/python}
if ! command -v "$python" >/dev/null; then
  echo "launch_ray_job: no interpreter at $python; run \`bash scripts/setup.sh\`, or set UR2_PYTHON" >&2
  exit 2
fi
exec "$python" -m ur2.launch.job "job.address=$1" "${@:2}"
