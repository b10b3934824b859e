#!/usr/bin/env bash
# A run on several nodes of a SLURM cluster, submitted from the repository root on a shared file system:
#   sbatch --nodes=2 --gpus-per-node=8 scripts/launch_slurm.sh +experiment=NAME [key=value ...]
# Nodes are checked before anything starts. 5 minutes before its time ends, the job writes a checkpoint and
# puts itself back into the queue; there it goes on. launch.KEY=VALUE as in launch_ssh.sh.
#   scancel --batch --signal=TERM JOB     stops with a checkpoint (plain scancel kills ray at once)
#   sbatch --signal=B:USR1@900 ...        more time for the checkpoint
# Exit codes: the run's; 2 also when the nodes do not fit, 3 also when ray does not start.
#SBATCH --job-name=ur2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

fail() { echo "launch_slurm: $*" >&2; exit 2; }

[ -n "${SLURM_JOB_NODELIST:-}" ] || fail "submit this with sbatch: sbatch --nodes=2 scripts/launch_slurm.sh ..."
cd "$SLURM_SUBMIT_DIR"  # SLURM runs a copy of this file, from elsewhere
[ -f scripts/launch_slurm.sh ] || fail "submit this from the repository root, not from $PWD"

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed 's/.*/"&"/' | paste -sd, -)
python=${UR2_PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || fail "no interpreter at $python; run \`bash scripts/setup.sh\`, or set UR2_PYTHON"
# exec: the signals of SLURM are for the launcher
exec "$python" -m ur2.launch launch.through=srun "launch.hosts=[$hosts]" "$@"
