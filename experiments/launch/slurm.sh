#!/usr/bin/env bash
# Ground truth on a Slurm cluster: every task of the array computes its part of the chunks into a
# folder that all nodes see; a task that is lost or requeued goes on from what is there.
#
#   sbatch --array=1-16 experiments/launch/slurm.sh --dataset cifar10 --model resnet18 --out /shared/truth
#   # when all are done, the same options once more, without an array, write the estimate:
#   python -m experiments.memorize run --dataset cifar10 --model resnet18 --out /shared/truth
#
#SBATCH --job-name=jaxmul-truth
#SBATCH --requeue
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
set -euo pipefail
# COUNT stays 16 where a few lost tasks are sent again: COUNT=16 sbatch --array=3,7 …
exec python -m experiments.memorize run \
  --part "${SLURM_ARRAY_TASK_ID}/${COUNT:-$SLURM_ARRAY_TASK_COUNT}" "$@"
