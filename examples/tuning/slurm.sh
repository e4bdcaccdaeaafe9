#!/bin/bash
#SBATCH --job-name=prune-search
#SBATCH --ntasks=5
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=2G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --output=search-%j.log

# One chief and four workers of a Keras Tuner search; all see the same folder.
set -euo pipefail
export KERASTUNER_ORACLE_IP=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export KERASTUNER_ORACLE_PORT=$((20000 + SLURM_JOB_ID % 20000))

# A task that dies begins again under its name, and is given its trial back.
srun --kill-on-bad-exit=0 bash -c '
  if [ "$SLURM_PROCID" -eq 0 ]; then
    export KERASTUNER_TUNER_ID=chief
  else
    export KERASTUNER_TUNER_ID=worker-$SLURM_PROCID
  fi
  for attempt in 1 2 3; do
    python examples/tune_pruning_rate.py --out="$SLURM_SUBMIT_DIR/search" && exit 0
  done
  exit 1
'
