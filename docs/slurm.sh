#!/usr/bin/env bash
# One study on a Slurm allocation: sbatch docs/slurm.sh --study lrn --dataset imagenet --data-root /shared/imagenet
# All nodes must share $RESULTS, the data and this folder. What is said of it: docs/clusters.md.
#SBATCH --job-name=ablation
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=ablation-%j.log
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
RESULTS=${RESULTS:-$PWD/results}
export RAY_AUTH_MODE=token RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 RAY_USAGE_STATS_ENABLED=0

# The token that all nodes and the driver show; nobody else may read it.
(umask 077 && mkdir -p ~/.ray && { [ -s ~/.ray/auth_token ] || od -An -tx1 -N32 /dev/urandom | tr -d ' \n' > ~/.ray/auth_token; })

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    uv run ray start --head --node-ip-address="$head" --port="$port" --block &
until uv run ray status --address="$head:$port" > /dev/null 2>&1; do sleep 2; done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    others=$((SLURM_JOB_NUM_NODES - 1))
    srun --overlap --nodes="$others" --ntasks="$others" --exclude="$head" \
        uv run ray start --address="$head:$port" --block &
fi

uv run python -m orchestrator.ablate --address "$head:$port" --results "$RESULTS" "$@" &
driver=$!
# Preemption and the end of the allocation: stop between two batches, as Ctrl-C does.
trap 'kill -TERM "$driver" 2> /dev/null' TERM
wait "$driver"
code=$?
# A trapped signal ends `wait` early; the driver's own code comes from the next one.
while kill -0 "$driver" 2> /dev/null; do
    wait "$driver"
    code=$?
done
# 130: interrupted, and the same command goes on where it stopped.
if [ "$code" -eq 130 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
