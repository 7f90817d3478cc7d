"""Clusters of logical nodes on one machine: real scheduling and reservations, no CUDA."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.lab import Lab

NODES = """
import json, os, sys, time
# 忙的机器上一个节点要等很久
switches = {"RAY_AUTH_MODE": "token", "RAY_worker_maximum_startup_concurrency": "8"}
patience = {"RAY_raylet_start_wait_time_s": "300", "RAY_agent_register_timeout_ms": "300000"}
os.environ.update(switches | patience)
from orchestrator.running.cluster.access import ensure_private_token
from orchestrator.running.cluster.environment import prepare_environment
prepare_environment(joins=True)
ensure_private_token()
from ray._private.node import Node
from ray.cluster_utils import Cluster
Node.start_api_server = lambda node, **options: None
gpus = json.loads(sys.argv[1])
# 有几个 CPU，每个节点就预备几个谁也用不着的进程；日志也没有人听
node = {"num_cpus": 2, "include_log_monitor": False}
cluster = Cluster(initialize_head=True, head_node_args={**node, "num_gpus": gpus[0], "include_dashboard": False})
nodes = [cluster.head_node]
for count in gpus[1:]:
    nodes.append(cluster.add_node(**node, num_gpus=count))
print(cluster.address, flush=True)
for line in sys.stdin:
    verb, number = line.split()
    if verb == "add":
        nodes.append(cluster.add_node(**node, num_gpus=int(number)))
    else:
        cluster.remove_node(nodes[int(number)], allow_graceful=False)
    print(verb, flush=True)
cluster.shutdown()
"""


# Ray 在 worker 启动之后才设 CUDA_VISIBLE_DEVICES，它自己的 /proc/PID/environ 里没有；子进程的里面有
WITNESS = """
import os, subprocess, threading, time
kept = []
def witness():
    while not os.environ.get("CUDA_VISIBLE_DEVICES"):
        time.sleep(0.1)
    # 管道的这一端随 worker 一起没了，子进程就读到尽头
    kept.append(subprocess.Popen(["sh", "-c", "read line", "gpu-witness"], stdin=subprocess.PIPE))
if "default_worker.py" in open("/proc/self/cmdline").read():
    threading.Thread(target=witness, daemon=True).start()
"""


@dataclass
class Nodes:
    """A cluster of logical nodes in a process of its own."""

    address: str
    process: subprocess.Popen[str]

    def tell(self, verb: str, number: int) -> None:
        """`add` a node of so many GPUs, or `remove` the node of that number, without warning."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{verb} {number}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == verb


@contextmanager
def nodes(lab: Lab, gpus: str) -> Iterator[Nodes]:
    """A cluster whose workers have a witness each."""
    (lab.home / "witness").mkdir()
    (lab.home / "witness" / "sitecustomize.py").write_text(WITNESS)
    path = os.pathsep.join([str(lab.home / "witness"), os.environ.get("PYTHONPATH", "")])
    process = lab.start_program(NODES, gpus, PYTHONPATH=path)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()
        yield Nodes(line.strip(), process)
    finally:
        process.communicate("", timeout=60)
