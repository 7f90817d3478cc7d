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

# Slurm's word to stop: preemption, or two minutes before the allocation ends. The driver then stops between two batches,
# as Ctrl-C does.
stop= driver=
trap '[ -n "$stop" ] || { stop=1; [ -z "$driver" ] || kill -TERM "$driver" 2> /dev/null; }' TERM

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Ports of the job's own: another job may have its head on the same node.
port=$((20000 + SLURM_JOB_ID % 3000 * 3))
# Preemption with a grace time tells the steps only, not this script: the head's step passes it on.
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" bash -c "trap 'kill -TERM $$ \$!' TERM
    uv run ray start --head --node-ip-address=$head --port=$port --ray-client-server-port=$((port + 1)) \
        --dashboard-port=$((port + 2)) --num-cpus=\${SLURM_CPUS_ON_NODE:-1} --block & wait \$!; wait \$!" &
step=$!
until [ -n "$stop" ] || uv run ray status --address="$head:$port" > /dev/null 2>&1; do
    kill -0 "$step" 2> /dev/null || { echo "Ray did not start on $head" >&2; exit 3; }
    sleep 2
done

code=130
if [ -z "$stop" ]; then
    if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
        others=$((SLURM_JOB_NUM_NODES - 1))
        srun --overlap --nodes="$others" --ntasks="$others" --exclude="$head" \
            bash -c "exec uv run ray start --address=$head:$port --num-cpus=\${SLURM_CPUS_ON_NODE:-1} --block" &
    fi
    uv run python -m orchestrator.ablate --address "$head:$port" --results "$RESULTS" "$@" &
    driver=$!
    [ -z "$stop" ] || kill -TERM "$driver"
    wait "$driver"
    code=$?
    # A trapped signal ends `wait` early; the driver's own code comes from the next one.
    while kill -0 "$driver" 2> /dev/null; do
        wait "$driver"
        code=$?
    done
fi
# Told to stop before the end (0 to 2: the study has ended): the same command goes on where it stopped. A job that was
# cancelled, or that Slurm has put back itself, is no longer running and stays what it is.
if [ -n "$stop" ] && [ "$code" -gt 2 ] && scontrol show job "$SLURM_JOB_ID" | grep -q JobState=RUNNING; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
