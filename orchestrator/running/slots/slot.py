"""Slots: warm Ray Train worker groups that the driver owns.

Each slot is one `fit()` of a Ray Train trainer in a thread of the driver. Its workers take trials from the broker, so
a further trial costs no process start (measured in `tests/benchmarks/orchestration.py`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.running.slots.broker_clients import SlotClient
from orchestrator.running.slots.deaths import death_notice, reason
from orchestrator.running.slots.messages import Died

if TYPE_CHECKING:
    from ray.exceptions import RayActorError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlotPlan:
    """How many slots there are and what each reserves.

    Attributes:
        slots: Number of slots.
        workers: Data-parallel workers per slot.
        gpus_per_worker: GPUs that each worker reserves; 0 trains on the CPU, a share below 1 leaves room for others.
        device: `auto`, or `cpu` to train on the CPU whatever is reserved (a rehearsal of a placement).
        threads: CPU threads per worker.
        follows: Whether further slots start when nodes join the cluster.
        joined: Whether the cluster was there before, so that an autoscaler may have to bring nodes.
    """

    slots: int
    workers: int
    gpus_per_worker: float
    device: str
    threads: int = 1
    follows: bool = False
    joined: bool = False


class Slots:
    """The slots of a driver. They start at once and stay warm until the process ends.

    Attributes:
        failure: Why a slot could not be kept, where one could not.
        count: How many there are.
    """

    def __init__(self, plan: SlotPlan, study: str, storage: Path, worker_environment: dict[str, str]) -> None:
        """Starts one thread per slot.

        Args:
            plan: Numbers and reservations.
            study: Names the slots on the Train page of the dashboard: `<study>-slot-0`.
            storage: Scratch folder of Ray Train, on a file system that all nodes share.
            worker_environment: Environment variables of the worker processes.
        """
        self.failure: BaseException | None = None
        self._closing = threading.Event()
        self._plan, self._study, self._storage = plan, study, storage
        self._worker_environment = worker_environment
        self.count = 0
        self.grow(plan.slots)

    def grow(self, count: int) -> None:
        """Starts further slots, up to `count`."""
        for slot in range(self.count, count):
            threading.Thread(target=self._keep, args=(slot,), name=f"slot-{slot}", daemon=True).start()
        self.count = max(self.count, count)

    def close(self) -> None:
        """Says that a slot which ends now need not be renewed."""
        self._closing.set()

    def _keep(self, slot: int) -> None:
        from ray.exceptions import RayActorError

        renewals = 0
        try:
            while not self._closing.is_set():
                try:
                    self._fit(slot, renewals)
                except RayActorError as error:
                    if not self._closing.is_set():
                        self._bury(slot, error)
                renewals += 1
        except BaseException as error:
            # 关闭 Ray 时 fit() 必然抛错，那不是故障
            if not self._closing.is_set():
                self.failure = error
                logger.debug("slot %d ended", slot, exc_info=True)

    def _bury(self, slot: int, error: RayActorError) -> None:
        """Frees what a slot reserved whose controller died, and says so: too many deaths end the study."""
        # 控制器建的资源组比它活得久，不放掉就没有地方重建；死得早的还没有建
        free_reservations(error.actor_id)
        SlotClient(slot).tell(Died(f"its controller: {reason(error)}"))

    def _fit(self, slot: int, renewals: int) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        from orchestrator.running.workers.slot_loop import WorkerSettings, slot_loop

        plan = self._plan
        on_gpus = plan.gpus_per_worker > 0
        resources: dict[str, float] = {"CPU": plan.threads}
        if on_gpus:
            resources["GPU"] = plan.gpus_per_worker
        trainer = _trainer(plan)(
            slot_loop,
            train_loop_config=asdict(WorkerSettings(slot, plan.device, plan.gpus_per_worker, plan.threads)),
            scaling_config=ScalingConfig(num_workers=plan.workers, use_gpu=on_gpus, resources_per_worker=resources),
            run_config=RunConfig(
                name=f"{self._study}-slot-{slot}" + (f"-renewed-{renewals}" if renewals else ""),
                storage_path=str(self._storage),
                failure_config=FailureConfig(max_failures=-1),
                callbacks=[death_notice(slot)],
                worker_runtime_env={"env_vars": self._worker_environment} if self._worker_environment else None,
            ),
        )
        trainer.fit()


def free_reservations(actor: str | None) -> None:
    """Removes the placement groups that an actor which has died made; Ray keeps them as long as the driver lives.

    Args:
        actor: Ray's ID of the actor in hex, or None where Ray did not say which; then those of all actors of this
            driver that have died.
    """
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData
    from ray.util.placement_group import PlacementGroup, PlacementGroupID, remove_placement_group

    job = bytes.fromhex(ray.get_runtime_context().get_job_id())
    # 公开的表不说是谁建的
    for entry in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(entry)
        creator = ray.ActorID(group.creator_actor_id)
        # 驱动自己建的（Tune 的）没有建它的 actor，表上却也写着“已死”：删了它们，Tune 就永远等下去
        dead_of_ours = group.creator_actor_dead and not creator.is_nil() and group.creator_job_id == job
        is_theirs = creator.hex() == actor if actor is not None else dead_of_ours
        if is_theirs and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))


def _trainer(plan: SlotPlan) -> Any:
    """The Ray Train trainer of a slot: torch's process group is for the workers that share one trial."""
    if plan.workers == 1:
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

        # 单个 worker 不需要进程组；TorchTrainer 会让每个控制器都载入 torch（两秒、三百多兆）
        return _without_helpers(DataParallelTrainer, plan.joined)
    from ray.train.torch import TorchConfig, TorchTrainer

    backend = "nccl" if plan.gpus_per_worker > 0 and plan.device != "cpu" else "gloo"
    return partial(_without_helpers(TorchTrainer, plan.joined), torch_config=TorchConfig(backend=backend))


def _without_helpers(trainer: Any, joined: bool) -> Any:
    """A trainer without the actors that a slot does not need, of some seconds of CPU and 120 to 200 MB each.

    One hands out Ray Data sets. Another removes the placement group of a dead controller, which `Slots` does itself:
    it asks the dashboard once a second, where there is none in vain, and outlives a driver that joined a cluster.
    The third asks an autoscaler for nodes, and the controller waits for it before it starts a worker: a Ray of this
    machine's own has none.
    """
    helpers = ("DatasetsCallback", "PlacementGroupCleanerCallback")

    class SlotTrainer(trainer):  # type: ignore[misc]
        def fit(self) -> None:
            """As Ray's own, but that the training function travels with the call and not through the object store."""
            from ray.train.v2._internal.execution.failure_handling import create_failure_policy
            from ray.train.v2._internal.execution.scaling_policy import create_scaling_policy

            scaling_policy = create_scaling_policy if joined else _policy_without_autoscaler
            result = self._initialize_and_run_controller(
                # 对象存储里若有驱动放的东西，raylet 一死，Ray 去找它，就抢先以 1 结束进程
                train_fn_ref=_Sent(self._get_train_func()),
                scaling_policy=scaling_policy(self.scaling_config),
                failure_policy=create_failure_policy(self.run_config.failure_config),
                train_run_context=self.train_run_context,
                callbacks=self._create_default_callbacks(),
                validation_config=self.validation_config,
            )
            if result.error:
                raise result.error

        def _initialize_and_run_controller(self, **arguments: Any) -> Any:
            """As Ray's own, but that the dashboard's page of actors says which slot they are of."""
            import ray
            from ray.train.v2._internal.constants import get_env_vars_to_propagate

            here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
            # Ray 自己也这样：控制器在异步里等待，不必为此警告
            variables = {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0", **get_env_vars_to_propagate()}
            actor = ray.remote(num_cpus=0, label_selector=here, runtime_env={"env_vars": variables})
            controller = actor(_named_controller(self.run_config.name)).remote(**arguments)
            ray.get(controller.run.remote())
            return ray.get(controller.get_result.remote())

        def _create_default_callbacks(self) -> list[Any]:
            callbacks: list[Any] = super()._create_default_callbacks()
            return [callback for callback in callbacks if type(callback).__name__ not in helpers]

    return SlotTrainer


def _named_controller(slot: str) -> type:
    """Ray Train's controller with a `repr`, as its workers have, which the dashboard shows: `lrn-slot-0 worker`.

    Its workers meet at no actor of Ray's either, three seconds of CPU and 120 MB: they report to the broker alone.
    """
    from ray.train.v2._internal.execution import controller, worker_group
    from ray.train.v2._internal.execution.worker_group import state
    from ray.train.v2._internal.execution.worker_group import worker_group as starting

    class RayTrainWorker(worker_group.RayTrainWorker):  # type: ignore[misc]  # ray is untyped here
        def __repr__(self) -> str:
            return f"{slot} worker"

    class WorkerGroup(worker_group.WorkerGroup):  # type: ignore[misc]
        _worker_cls = RayTrainWorker

        def _start_impl(self, *arguments: Any, **options: Any) -> Any:
            # 在控制器的进程里：worker 之间只经 torch 与代理通话
            starting.SynchronizationActor, state._shutdown_sync_actor = _NoMeeting, _NoMeeting.end
            return super()._start_impl(*arguments, **options)

    class TrainController(controller.TrainController):  # type: ignore[misc]
        worker_group_cls = WorkerGroup

        def __repr__(self) -> str:
            return f"{slot} controller"

    # 进程的标题由类名来：人和测试都按标题找进程
    RayTrainWorker.__qualname__, TrainController.__qualname__ = "RayTrainWorker", "TrainController"
    return TrainController


class _NoMeeting:
    """Stands where Ray Train would start the actor at which the reports of its workers meet."""

    @classmethod
    def options(cls, **_: Any) -> type[_NoMeeting]:
        """Returns what is started."""
        return cls

    @classmethod
    def remote(cls, **_: Any) -> _NoMeeting:
        """Starts nothing."""
        return cls()

    def end(self) -> None:
        """Ends nothing."""


@dataclass(frozen=True)
class _Sent:
    """Stands where Ray Train has a reference to its training function: it travels with the call, in no object store.

    Attributes:
        function: The training function.
    """

    function: Callable[[], Any]

    def get(self) -> Callable[[], Any]:
        """Returns the function."""
        return self.function


def _policy_without_autoscaler(scaling_config: Any) -> Any:
    """Ray's fixed scaling policy without its requests to an autoscaler."""
    from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

    class OwnMachinePolicy(FixedScalingPolicy):  # type: ignore[misc]  # ray is untyped here
        """Lives in the controller of one slot."""

        def after_controller_start(self, train_run_context: Any) -> None:
            """Asks for no nodes."""

        def _maybe_send_resource_request(self) -> None:
            """Asks for no nodes."""

    return OwnMachinePolicy(scaling_config=scaling_config)
