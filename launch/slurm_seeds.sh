#!/usr/bin/env bash
# One run for each seed as a SLURM job array, one GPU each; every run resumes if it is requeued.
#
#   CONFIG=configs/chex.py:method=three_n_gan,images=200 DATA=DIR RUNS=runs/chex \
#       sbatch --array=0-4 launch/slurm_seeds.sh
#
# CONFIG  FILE:key=value,... without the seed        DATA  the config's data.dir
# RUNS    folder that the run folders are made in    further flags are handed on
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --requeue
set -euo pipefail
: "${CONFIG:?set CONFIG=FILE:key=value,...}" "${RUNS:?set RUNS=folder of the runs}"
: "${SLURM_ARRAY_TASK_ID:?start with sbatch --array=0-4}"
separator=$([[ "$CONFIG" == *.py ]] && echo : || echo ,)
exec python -m ssl_gan_jax.main \
    --config="$CONFIG${separator}seed=$SLURM_ARRAY_TASK_ID" \
    --config.data.dir="${DATA:-}" \
    --workdir="$RUNS/seed$SLURM_ARRAY_TASK_ID" "$@"
