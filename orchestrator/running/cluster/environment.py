"""Ray's switches for a driver, and what a trial's worker finds in its environment: set before Ray is loaded."""

from __future__ import annotations

import os

from alexnet_core.process.memory import MMAP_THRESHOLD, TRIM_THRESHOLD

# 单线程，不归还内存：每一步重新缺页要占 5 % 到 15 % 的时间（tests/benchmarks/core）
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(MMAP_THRESHOLD),
    "MALLOC_TRIM_THRESHOLD_": str(TRIM_THRESHOLD),
}
_RAY_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # 我们自己按时间存检查点，节点走了就是一次失败的尝试；这个守望进程每槽位要一秒半和一百多兆
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # 默认按核数限制同时启动的进程，两核机器会为此报警并拖慢
    "RAY_worker_maximum_startup_concurrency": "8",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
}
_OWN_RAY = {
    # 一台机器不需要网络：网卡没了照样训练，端口也只开在回环上。ray.init 会把 127.0.0.1 换回网卡的地址，只有这个开关不会
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # 忙的机器上一个进程启动要一分多钟，那不是坏了
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_agent_register_timeout_ms": "300000",
    # 问一次节点在不在最多等这么久：等久了就看不到 raylet 已经死了
    "RAY_raylet_start_wait_time_s": "5",
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_py_gcs_connect_timeout_s": "120",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
}


def prepare_environment(verbose: bool = False, dashboard: bool = True, joins: bool = False) -> None:
    """Sets Ray's switches for this process and its children, before Ray is loaded.

    What the user has set stays, but `PYTHONDONTWRITEBYTECODE`.

    Args:
        verbose: Whether Ray may print on the terminal.
        dashboard: Whether somebody may look at Ray's Train page, which an actor of its own keeps up to date.
        joins: Whether a cluster is joined, which must be there already.
    """
    for name, value in _RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # 十几个 Ray 进程都要导入同样的包：不许留下编译结果，每次启动就慢几倍
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1" if dashboard else "0")
    if not joins:
        for name, value in _OWN_RAY.items():
            os.environ.setdefault(name, value)
        os.environ.setdefault("RAY_enable_metrics_collection", "1" if dashboard else "0")
    if joins:
        # 集群应已在运行：Ray 的二十次重试要一刻钟
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")
    if not verbose:
        # raylet 的报告不经 logging，直接打印；尝试失败与重来由我们自己说
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")
