#!/bin/bash
# A recipe on two machines of a SLURM cluster with eight GPUs each: sbatch slurm.sh
# --out and the data lie on a file system that all machines share. Two minutes before its time limit the job queues itself
# again, and then continues where it stopped; a job that loses a machine is queued again by SLURM.
#SBATCH --job-name=attar
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" \
  --rdzv-endpoint "$first:29500" -m attar run cda/imagenet-1k-ipc50 --data.root /shared/data --out /shared/runs/in1k &
wait $!  # in the background, because the shell handles a signal only between commands
