#!/bin/bash
# One training on two nodes of a SLURM cluster, in the project's folder on a file system that both nodes see:
#   dvc repro recipe && dvc repro balance@0 && sbatch docs/slurm/train.sh resnet18 0
# and when the job has ended: dvc commit train@resnet18-0
# What it has done is kept: a job that is requeued, or submitted again, goes on from the newest checkpoint.
#SBATCH --job-name=tumorboard
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
model=$1 fold=$2
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export PATH="$PWD/.venv/bin:$PATH"
# export GLOO_SOCKET_IFNAME=ib0 NCCL_SOCKET_IFNAME=ib0   # where a node's name is not the address of the fast network
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1   # workers started again must not find the addresses of dead ones
mkdir -p "models/$model" "metrics/train/$model"
srun --kill-on-bad-exit=0 torchrun \
  --nnodes "$SLURM_NNODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" --max-restarts 10 \
  --rdzv-backend c10d --rdzv-endpoint "$head:29400" --rdzv-id "$SLURM_JOB_ID" --rdzv-conf join_timeout=1800 \
  -m stages.train "$model" "$fold" data/crop/store data/split/manifest.csv "data/balance/$fold" \
  "recipes/$model.json" "models/$model/$fold.safetensors" "training/$model/$fold" "metrics/train/$model/$fold.json"
