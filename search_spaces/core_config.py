"""What is trained, as data: a configuration of the built-in AlexNet, or of a core that says by itself what it is.

A core's description travels with every configuration of it, so that reading records never imports its code.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, Field, JsonValue, PrivateAttr, ValidationError, model_validator

from alexnet_core.configuration.frozen import Frozen
from alexnet_core.configuration.train_config import LARGEST_SEED, DataSpec, TrainConfig
from alexnet_core.configuration.wording import explain, nearest
from search_spaces.errors import StudyError

CORE_NAME = r"[a-z0-9][a-z0-9_-]{0,47}"
METRIC_NAME = r"[A-Za-z][A-Za-z0-9_.-]{0,63}"
SOURCE_NAME = r"[a-z][a-z0-9_]{0,31}"
# 与各来源的名字并列：trial 自己的种子，即除划分以外的全部
OWN_SEED = "seed"
ALL_TOGETHER = "all_together"
# 划分不随 trial 的种子走：没有要求时，各种子用同一个
SPLIT = "split"
PERCENT = "%"
ALEXNET_NAME = "alexnet"
LEAST_PLAIN_EXPONENT, MOST_PLAIN_EXPONENT = -4, 6
# 报告的曲线表里已有这些列；均值的标准差在名字后加 _sd
TAKEN_METRICS = ("arm", "seed", "seeds", "epoch", "report")
EDIT_NAME_LENGTH = 20
# 代码的指纹也是文件夹名：只有这个样子的才可信
FINGERPRINT = re.compile(r"[0-9a-f]{20}")
# 再大的数，平方就溢出：没有均值和方差可言
LARGEST_METRIC = 1e100
MetricValue = Annotated[float, Field(ge=-LARGEST_METRIC, le=LARGEST_METRIC)]


class MetricDescription(Frozen):
    """A number that every report of a core has.

    Attributes:
        unit: What it is shown in, such as `%`; empty for a plain number.
        better: Which way is good.
        scale: What a value is multiplied with to be shown: 100 for a share in [0, 1] that is shown in percent.
    """

    unit: Annotated[str, Field(max_length=24)] = ""
    better: Literal["lower", "higher"] = "lower"
    scale: float = Field(default=1.0, gt=0)

    def objective(self, value: float) -> float:
        """Returns what is minimised: the value, with its sign turned where higher is better; its own inverse."""
        return value if self.better == "lower" else -value

    def number(self, value: float) -> str:
        """Returns a value as shown, without its unit: percent with two digits, other numbers with four significant."""
        return number_in(value * self.scale, self.unit)

    def text(self, value: float) -> str:
        """Returns a value as shown: `12.34 %`, `0.1234 nats`."""
        return f"{self.number(value)} {self.unit}".rstrip()


def number_in(value: float, unit: str) -> str:
    """Returns a metric's value in its unit as written, without the unit: `12.34` percent, else `0.1234` or `48210`."""
    return f"{value:.2f}" if unit == PERCENT else significant(value, 4)


def significant(value: float, digits: int) -> str:
    """Returns a number with so many significant digits, in plain writing unless it is very large or very small."""
    if value == 0.0 or not math.isfinite(value):
        return f"{value + 0.0:g}"
    # 先按位数取整再看量级：9.9996 写成 10.00
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    if LEAST_PLAIN_EXPONENT <= exponent <= MOST_PLAIN_EXPONENT:
        return f"{value:.{max(0, digits - 1 - exponent)}f}"
    return f"{value:.{digits - 1}e}"


def readable(name: str) -> str:
    """Returns a metric's name as people read it: `test error`."""
    return name.replace("_", " ")


def metric_named(names: Iterable[str], given: str) -> str:
    """Returns the metric that chooses or judges: what is given, else the only one there is; empty where neither is."""
    first, *others = names
    return given or ("" if others else first)


def metrics_mistake(names: Sequence[str], chosen_by: str, judged_by: str) -> str:
    """Returns what is wrong with the names of a core's metrics; nothing where they are right.

    Args:
        names: Of all metrics.
        chosen_by: That which chooses.
        judged_by: That which judges.
    """
    for name in names:
        if name in TAKEN_METRICS:
            return f"metrics: {name!r} is a column of the report's tables already; call yours otherwise"
        if name.removesuffix("_sd") in set(names) - {name}:
            return f"metrics: {name!r} is the standard deviation of the other in the report's tables; call it otherwise"
    for which, name, what in (
        ("chosen_by", chosen_by, "sweeps and best choose"),
        ("judged_by", judged_by, "verdicts go"),
    ):
        if not name:
            return f"{which}: of several metrics name the one by which {what}: {', '.join(names)}"
        if name not in names:
            return f"{which}: {name!r} is none of the metrics: {', '.join(names)}"
    return ""


class CoreDescription(Frozen):
    """What a core declares.

    Attributes:
        name: Short name; part of every key.
        version: Part of every key.
        metrics: What every report has, by name.
        chosen_by: The metric by which sweeps, pruning, re-tuning and `best` choose.
        judged_by: The metric that verdicts are about.
        gpus: GPUs per worker.
        deterministic: Whether the same seed gives the same numbers.
        has_sizes: Whether it says the sizes of a configuration.
        added_later: Fields that came after the first version, with the values that leave keys as they are.
        randomness: Sources of randomness that each have a seed of their own.
    """

    name: Annotated[str, Field(pattern=rf"^{CORE_NAME}$")]
    version: int = Field(ge=1)
    metrics: dict[Annotated[str, Field(pattern=rf"^{METRIC_NAME}$")], MetricDescription] = Field(min_length=1)
    chosen_by: str
    judged_by: str
    gpus: int = Field(default=1, ge=0)
    deterministic: bool = True
    has_sizes: bool = False
    added_later: dict[str, JsonValue] = {}
    # 后来才有：没有声明就不写，旧记录的字节不变
    randomness: tuple[Annotated[str, Field(pattern=rf"^{SOURCE_NAME}$")], ...] = Field(
        default=(), exclude_if=lambda sources: not sources
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if mistake := metrics_mistake(tuple(self.metrics), self.chosen_by, self.judged_by):
            raise ValueError(mistake)
        return self

    @property
    def chosen(self) -> MetricDescription:
        """The metric that chooses."""
        return self.metrics[self.chosen_by]


def usual_seed(source: str, seed: int) -> int:
    """Returns by which seed a core's source of randomness is drawn where nothing else is said.

    Args:
        source: Its name.
        seed: The trial's own.
    """
    return 0 if source == SPLIT else seed


def unusual_seeds(seeds: Mapping[str, int], seed: int) -> dict[str, int]:
    """Returns the seeds of those sources that the trial's own seed does not say already."""
    return {source: other for source, other in seeds.items() if other != usual_seed(source, seed)}


class CoreData(Frozen):
    """What a core trains on.

    Attributes:
        name: The study's recipe.
        digest: What the core says of the data's content; empty where it says nothing.
        root: The folder given with `--data-root`, outside the key.
    """

    name: str
    digest: str = ""
    root: str | None = None


class EditedFields(Frozen):
    """What a core's own model made of an edit.

    Attributes:
        fields: All fields of the configuration.
        digest: Of the data that it is trained on.
    """

    fields: dict[str, JsonValue]
    digest: str = ""


class CoreSide(NamedTuple):
    """What is asked of a core's own code while its trials are planned.

    Attributes:
        model: Of its configuration.
        digest: Returns what stands for the content of a configuration's data; empty where the core says nothing.
    """

    model: type[BaseModel]
    digest: Callable[[BaseModel], str]


class CoreConfig(Frozen):
    """A trial of a core.

    Attributes:
        core: What the core declares.
        fields: Of its configuration, all of them, as plain data.
        data: What it trains on.
        seed: Of the trial.
        seeds: Those of sources of randomness that are drawn by another one than usual, see `usual_seed`.
    """

    core: CoreDescription
    fields: dict[str, JsonValue]
    data: CoreData
    seed: int = Field(ge=0, le=LARGEST_SEED)
    seeds: dict[str, Annotated[int, Field(ge=0, le=LARGEST_SEED)]] = Field(
        default={}, exclude_if=lambda seeds: not seeds
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_usual_seeds(cls, content: Any) -> Any:
        # 与平常的种子相同，就等于没有另给：还是同一个 trial
        if isinstance(content, dict) and isinstance(content.get("seeds"), Mapping):
            return {**content, "seeds": unusual_seeds(content["seeds"], content.get("seed", 0))}
        return content

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        if strangers := sorted(set(self.seeds) - set(self.core.randomness)):
            raise ValueError(f"seeds: core {self.core.name} declares no source of randomness {strangers[0]!r}")
        # 表里靠名字认 AlexNet 的行
        if self.core.name == ALEXNET_NAME:
            raise ValueError(f"core.name: {ALEXNET_NAME} is the built-in network, which is described otherwise")
        # JSON 的 NaN 进不了 key：别人的记录里也可能有
        json.dumps(self.fields, allow_nan=False)
        return self

    # 只有要训练的命令才有：读记录的不导入 core 的代码，只查当时记下的结果
    _code: CoreSide | None = PrivateAttr(default=None)
    _edited: dict[str, EditedFields] = PrivateAttr(default_factory=dict)

    @classmethod
    def of(cls, code: CoreSide, core: CoreDescription, data: CoreData, what: str) -> CoreConfig:
        """Returns the configuration in which all fields are at their defaults, with seed 0.

        Args:
            code: What is asked of the core's own code.
            core: What the core declares.
            data: What it trains on; the digest follows.
            what: Who asks, for messages.

        Raises:
            StudyError: The core's own defaults cannot be used.
        """
        config = cls(core=core, fields={}, data=data, seed=0)
        config._code = code
        return config._with({}, what)

    def with_fields(self, edits: Mapping[str, JsonValue], what: str) -> CoreConfig:
        """Returns the configuration with edits, validated by the core's own model.

        Args:
            edits: Dotted field to new value.
            what: Who asks, for messages: "arm no_norm", "--set".

        Raises:
            StudyError: An unknown field, or a value that does not validate.
        """
        name = _edit_name(self.fields, edits)
        if self._code is None:
            return self._as_remembered(name, edits, what)
        made = self._with(_with_edits(self.fields, edits, what), what)
        self._edited[name] = EditedFields(fields=made.fields, digest=made.data.digest)
        return made

    def _as_remembered(self, name: str, edits: Mapping[str, JsonValue], what: str) -> CoreConfig:
        """What the core's own code made of the edits when they were planned; else the plain values."""
        known = self._edited.get(name)
        if known is None:
            return self.model_copy(update={"fields": _with_edits(self.fields, edits, what)})
        data = self.data.model_copy(update={"digest": known.digest})
        return self.model_copy(update={"fields": dict(known.fields), "data": data})

    @property
    def edits_made(self) -> Mapping[str, EditedFields]:
        """What became of each edit of it and of what was made of it, by a name of what was edited and how."""
        return self._edited

    def remember(self, edits: Mapping[str, EditedFields]) -> None:
        """Learns what became of edits when they were planned, so that they can be read without the core's code."""
        self._edited.update(edits)

    def _with(self, fields: dict[str, Any], what: str) -> CoreConfig:
        assert self._code is not None
        valid = _validated(self._code.model, fields, what)
        plain = valid.model_dump(mode="json")
        # 字段可以换数据：摘要跟着配置走
        data = self.data.model_copy(update={"digest": self._code.digest(valid)})
        return self.model_copy(update={"fields": plain, "data": data})


TrialConfig = TrainConfig | CoreConfig
DataOfTrial = DataSpec | CoreData


def _edit_name(fields: Mapping[str, Any], edits: Mapping[str, JsonValue]) -> str:
    text = json.dumps([fields, edits], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:EDIT_NAME_LENGTH]


def _with_edits(fields: Mapping[str, Any], edits: Mapping[str, JsonValue], what: str) -> dict[str, Any]:
    edited = deepcopy(dict(fields))
    for path, value in edits.items():
        _assign(edited, path, value, what)
    return edited


def _assign(fields: dict[str, Any], path: str, value: JsonValue, what: str) -> None:
    *parents, last = path.split(".")
    place: Any = fields
    for part in parents:
        place = place.get(part) if isinstance(place, dict) else None
    # 内层的映射可以是随意的：新的名字由 core 自己的模型去判断
    if not isinstance(place, dict) or (not parents and last not in place):
        raise StudyError(f"{what}: unknown field {path}{nearest(path, sorted(fields))}")
    before = place.get(last)
    # pydantic 会把 true 当作 1
    if isinstance(value, bool) and isinstance(before, (int, float)) and not isinstance(before, bool):
        raise StudyError(f"{what}: {path}: must be a number, such as {before!r}, not {str(value).lower()}")
    place[last] = value


def configuration_of(model: type[BaseModel], fields: Mapping[str, Any]) -> BaseModel:
    """Returns what a core's model makes of plain fields, each by its own name; raises pydantic's ValidationError.

    A field that the model has not, also further down, is an error, whatever the model itself says of such: pydantic's
    default is to pass over it, and an arm with a misspelt field would be trained as the baseline.
    """
    return model.model_validate(fields, extra="forbid", by_alias=False, by_name=True)


def _validated(model: type[BaseModel], fields: dict[str, Any], what: str) -> BaseModel:
    """The fields as the core's model takes them; its mistakes in one line."""
    begin = f"{what}: " if what else ""
    try:
        valid = configuration_of(model, fields)
        json.dumps(valid.model_dump(mode="json"), allow_nan=False)
        if path := _unordered(valid.model_dump()):
            raise ValueError(f"{path} is a set, which is written in another order each time; make it a tuple")
    except ValidationError as error:
        lines = []
        for mistake in error.errors(include_url=False):
            where = ".".join(map(str, mistake["loc"]))
            lines.append(f"{where}: {explain(mistake, model)}" if where else explain(mistake, model))
        raise StudyError(f"{begin}{'; '.join(lines)}") from error
    except (TypeError, ValueError) as error:
        raise StudyError(f"{begin}the configuration cannot be written as JSON: {error}") from error
    return valid


def _unordered(value: Any, path: str = "") -> str:
    """The dotted name of a set in plain data: written down, its order and so the key would change by process."""
    if isinstance(value, (set, frozenset)):
        return path
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    below = (_unordered(item, f"{path}.{name}".lstrip(".")) for name, item in items)
    return next(filter(None, below), "")


def value_of(config: CoreConfig, path: str) -> Any:
    """Returns a field of a core's configuration by its dotted name; raises KeyError."""
    place: Any = config.fields
    for part in path.split("."):
        if not isinstance(place, dict):
            raise KeyError(path)
        place = place[part]
    return place


def key_content(config: CoreConfig) -> dict[str, Any]:
    """Returns what names a trial: its core, version, fields, data and seeds; not paths, metrics or units."""
    fields = deepcopy(config.fields)
    for path, default in config.core.added_later.items():
        if path in fields and fields[path] == default:
            del fields[path]
    return {
        "config": fields,
        "core": config.core.name,
        "data": config.data.digest,
        "seed": config.seed,
        **({"seeds": config.seeds} if config.seeds else {}),
        "version": config.core.version,
    }


ALEXNET = CoreDescription(
    name=ALEXNET_NAME,
    version=1,
    metrics={
        name: MetricDescription(unit="%", scale=100.0) for name in ("training_error", "validation_error", "test_error")
    },
    chosen_by="validation_error",
    judged_by="test_error",
    gpus=2,
    has_sizes=True,
)


def description_of(config: TrialConfig) -> CoreDescription:
    """Returns what the core of a configuration declares."""
    return config.core if isinstance(config, CoreConfig) else ALEXNET


def planned_parts(config: TrialConfig) -> int:
    """Returns in how many parts a training is reckoned: epochs, or one whole training where its length is not known."""
    return 1 if isinstance(config, CoreConfig) else config.training.epochs


def parse_config(plain: Any) -> TrialConfig:
    """Validates a configuration out of a record; raises pydantic's ValidationError."""
    return (CoreConfig if is_of_core(plain) else TrainConfig).model_validate(plain)


def is_of_core(plain: Any) -> bool:
    """Says whether plain data is a configuration of a core, rather than of AlexNet."""
    return isinstance(plain, Mapping) and "core" in plain


def flattened(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested mappings as one, with dotted names; an empty mapping stays one."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
