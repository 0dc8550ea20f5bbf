#!/bin/bash
# Runs one training on two nodes of a SLURM cluster. Submit it in the project folder, on a file system of both nodes:
#   dvc repro recipe && dvc repro balance@0 && sbatch docs/slurm/train.sh resnet18 0
# After the job has ended: dvc commit --force train@resnet18-0 (without --force it asks, and fails without a terminal)
# A job that is requeued or submitted again resumes from the latest checkpoint.
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
# Uncomment if the name of a node does not resolve to its address in the fast network:
# export GLOO_SOCKET_IFNAME=ib0 NCCL_SOCKET_IFNAME=ib0
# Restarted workers must not use the addresses of dead ones:
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
mkdir -p "models/$model" "predictions/held_out/$model" "metrics/train/$model"
srun --kill-on-bad-exit=0 torchrun \
  --nnodes "$SLURM_NNODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" --max-restarts 10 \
  --rdzv-backend c10d --rdzv-endpoint "$head:29400" --rdzv-id "$SLURM_JOB_ID" --rdzv-conf join_timeout=1800 \
  -m stages.train --model "$model" --fold "$fold" --store data/crop/store --manifest data/split/manifest.csv \
  --balance "data/balance/$fold" --recipe "recipes/$model.json" --weights "models/$model/$fold.safetensors" \
  --held-out "predictions/held_out/$model/$fold.safetensors" \
  --out "training/$model/$fold" --metrics "metrics/train/$model/$fold.json"
