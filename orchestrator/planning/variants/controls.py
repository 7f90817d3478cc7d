"""`--matched`: beside an arm that offers it a control of the baseline's size, one field of which is solved."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from alexnet_core.configuration.network_spec import layer_shapes
from alexnet_core.configuration.train_config import TrainConfig
from orchestrator.cores.contract import ContractError, Core
from orchestrator.cores.identity import CoreCode, load_core_of
from orchestrator.cores.reports import checked_sizes
from orchestrator.errors import ExitCode, LabError
from search_spaces.arm import LONGEST_NAME, Arm
from search_spaces.core_config import TrialConfig, configuration_of
from search_spaces.edits import concrete_fields, edited, field_values
from search_spaces.errors import StudyError
from search_spaces.study import Study

MATCHED = "_matched"
MATCHES_WITHIN = 0.01
STEPS = (1, 2, 4, 8, 16, 32, 64)
# 更大的值没有网络装得下
MOST_DOUBLED = 2**24
# 一个配置的规模：parameters 或 multiply_adds
Size = Callable[[TrialConfig, str], int]


def with_controls(study: Study, base: TrialConfig, code: CoreCode | None = None) -> Study:
    """Returns the study with a control of equal size beside each arm that offers one.

    Args:
        study: The study, on a data set.
        base: The configuration that its arms start from.
        code: Of the core, which says the sizes; None for AlexNet.

    Raises:
        LabError: It offers none, its core says no sizes, or it compares otherwise than with the baseline.
        StudyError: No value of the field gives the baseline's size within 1 %, or a control has another arm's name.
    """
    offering = [arm for arm in study.arms if arm.match is not None]
    if not offering:
        raise LabError(
            f"study {study.name} offers no control of equal size: leave --matched out, or give an arm match and by",
            exit_code=ExitCode.WRONG_USE,
        )
    if any(contrast.kind != "arm" for contrast in study.contrasts):
        raise LabError(
            f"--matched compares controls with the baseline, and study {study.name} compares otherwise",
            exit_code=ExitCode.WRONG_USE,
        )
    names = [*(arm.name for arm in study.arms), *map(_control_name, offering)]
    for arm in offering:
        if names.count(name := _control_name(arm)) > 1:
            raise StudyError(
                f"arm {arm.name}: its control of equal size is called {name}, and so is another arm; give one of the "
                "two another name",
                ("arms", study.place(arm), "name"),
            )
    size = partial(size_of, core=None if code is None else load_core_of(code))
    controls = (_control(study, base, arm, size) for arm in offering)
    # 接在最后：文件里 arm 的次序不变，错误才找得到地方
    added = tuple(control for control in controls if control is not None)
    return study.model_copy(update={"arms": (*study.arms, *added)})


def controls_in(study: Study) -> list[Arm]:
    """Returns the controls of a study that `with_controls` has returned."""
    names = {_control_name(arm) for arm in study.arms if arm.match is not None}
    return [arm for arm in study.arms if arm.name in names]


def _control_name(arm: Arm) -> str:
    return f"{arm.name[: LONGEST_NAME - len(MATCHED)]}{MATCHED}"


def _control(study: Study, base: TrialConfig, arm: Arm, size: Size) -> Arm | None:
    """The arm with the field solved, and in its title what came of it; None where it has that size already."""
    assert arm.match is not None
    assert arm.by is not None
    baseline, place = study.arm(study.baseline), study.place(arm)
    target = size(edited(base, baseline.set, baseline.remove, f"arm {baseline.name}"), arm.match)
    try:
        before, value, reached = _solved(base, arm, target, size)
    except StudyError as error:
        raise StudyError(str(error), ("arms", place, "by")) from error
    away, kind = reached / target - 1.0, arm.match.replace("_", "-")
    if abs(away) > MATCHES_WITHIN:
        raise StudyError(
            f"arm {arm.name}: no {arm.by} gives it the baseline's {target:,} {kind} within {MATCHES_WITHIN:.0%}: the "
            f"nearest is {value} with {reached:,}",
            ("arms", place, "by"),
        )
    if value == before:
        return None
    sized = f"{reached:,} {kind}, {away:+.2%} of the baseline's"
    return Arm(
        name=_control_name(arm),
        title=f"{arm.title}; {arm.by.removeprefix('network.')} {value} instead of {before}: {sized}",
        set={**arm.set, arm.by: value},
        remove=arm.remove,
        views=arm.views,
    )


def _solved(base: TrialConfig, arm: Arm, target: int, size: Size) -> tuple[int, int, int]:
    """The field's value in the arm, the one at which the size is nearest to a target, and that size."""
    assert arm.match is not None
    assert arm.by is not None
    what, field, kind = f"arm {arm.name}", arm.by, arm.match
    config = edited(base, arm.set, arm.remove, what)
    concrete_fields(config, {field: 0}, (), f"{what}: by")
    start = field_values(config, field)
    if not start or not isinstance(start[0], int) or isinstance(start[0], bool) or len(set(start)) > 1:
        raise StudyError(f"{what}: by: {field} is not one whole number of its {_whose(base)}")
    sizes = {start[0]: size(config, kind)}

    def size_at(value: int) -> int | None:
        """The size with another value; None where the configuration does not take it."""
        if value not in sizes:
            try:
                sizes[value] = size(edited(base, {**arm.set, field: value}, arm.remove, what), kind)
            except StudyError:
                return None
        return sizes[value]

    # 两座塔时宽度须成双，注意力的宽度是头数的倍数：先找出合法的步长
    steps = [step for step in STEPS if size_at(start[0] + step) is not None]
    if not steps:
        raise StudyError(f"{what}: by: {field} takes no other value than {start[0]}")
    step = next((step for step in steps if sizes[start[0] + step] != sizes[start[0]]), None)
    if step is None:
        raise StudyError(f"{what}: by: its {kind.replace('_', '-')} do not depend on {field}")
    rises = sizes[start[0] + step] > sizes[start[0]]
    if sizes[start[0]] != target:
        _search(size_at, start[0], step if rises == (sizes[start[0]] < target) else -step, target)
    value = min(sizes, key=lambda one: (abs(sizes[one] - target), one))
    return start[0], value, sizes[value]


def _search(size_at: Callable[[int], int | None], start: int, step: int, target: int) -> None:
    """Asks for sizes of ever nearer values, by doubling and then halving, until two neighbours enclose the target."""
    begin = size_at(start)
    assert begin is not None
    most = MOST_DOUBLED if step > 0 else (start - 1) // -step

    def is_short(place: int) -> bool:
        # 不合法的值当作已经越过：只在合法的一边找
        reached = size_at(start + place * step)
        return reached is not None and reached != target and (reached < target) == (begin < target)

    low, high = 0, 1
    while high <= most and is_short(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_short(middle) else (low, middle)


def _whose(config: TrialConfig) -> str:
    return "network" if isinstance(config, TrainConfig) else "configuration"


def size_of(config: TrialConfig, kind: str, core: Core | None = None) -> int:
    """Returns a network's `parameters`, or its `multiply_adds` per image.

    Args:
        config: The configuration.
        kind: Which of the two.
        core: Which says them, of another core.

    Raises:
        LabError: The core says no such sizes of any configuration.
        StudyError: It says none of this one.
    """
    if isinstance(config, TrainConfig):
        return int(sum(getattr(shape, kind) for shape in layer_shapes(config.network)))
    assert core is not None
    if core.sizes is None:
        raise LabError(
            f"--matched: core {core.name} says no sizes: give its Core a function sizes that returns {kind}",
            exit_code=ExitCode.WRONG_USE,
        )
    try:
        sizes = checked_sizes(core, configuration_of(core.config, config.fields))
    except ContractError as error:
        raise StudyError(f"core {core.name}: {error}") from error
    if not sizes.get(kind):
        raise StudyError(f"core {core.name}: its sizes do not say {kind} of this configuration")
    return round(sizes[kind])
