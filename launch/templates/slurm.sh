#!/usr/bin/env bash
# One run on the GPUs of several nodes, a process for each GPU; requeued where it is pre-empted or
# its time is up, it goes on from its last checkpoint. --workdir must be on a shared file system.
#
#: ARGS                    Python's arguments, such as '-m ssl_gan_jax.main --config=... --workdir=...'
#: NAME=ssl-gan-jax        of the job
#: NODES=1                 machines
#: GPUS=1                  of each
#: CPUS=4                  cores for each GPU
#: TIME=24:00:00           limit of one go
#: GRACE=120               seconds before it at which the run is told to save
#SBATCH --job-name={{NAME}}
#SBATCH --nodes={{NODES}}
#SBATCH --ntasks-per-node={{GPUS}}
#SBATCH --gpus-per-node={{GPUS}}
#SBATCH --cpus-per-task={{CPUS}}
#SBATCH --time={{TIME}}
#SBATCH --signal=TERM@{{GRACE}}
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
code=0
# SLURM's own variables tell JAX who is who.
export SSL_GAN_JAX_DISTRIBUTED=auto SSL_GAN_JAX_STOP_CODE=75
srun --kill-on-bad-exit=1 python {{ARGS}} || code=$?
if [[ $code == 75 ]]; then # saved on SIGTERM, not done
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
