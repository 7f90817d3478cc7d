"""The tables of an answer as Polars frames, for other programs: numbers, not text."""

from __future__ import annotations

import json
from collections.abc import Sequence

import polars as pl

from orchestrator.judging.answer import ArmAnswer, Compared, ContrastAnswer, SourceSpread
from orchestrator.reporting.material import Details, Material
from search_spaces.core_config import CoreDescription

_VERDICT_COLUMNS: dict[str, type[pl.DataType]] = {
    "arm": pl.String,
    "title": pl.String,
    "is_baseline": pl.Boolean,
    "n": pl.Int64,
    "scale": pl.String,
    "mean": pl.Float64,
    "sd": pl.Float64,
    "median": pl.Float64,
    "difference": pl.Float64,
    "difference_is": pl.String,
    "difference_sd": pl.Float64,
    "interval_low": pl.Float64,
    "interval_high": pl.Float64,
    "interval_level": pl.Float64,
    "p": pl.Float64,
    "adjusted_p": pl.Float64,
    "sign_flip_p": pl.Float64,
    "claimed_points": pl.Float64,
    "claimed_ratio": pl.Float64,
    "word": pl.String,
    "correlation": pl.Float64,
    "diverged": pl.Int64,
    "failed": pl.Int64,
    "seconds": pl.Float64,
    "seconds_ratio": pl.Float64,
    "memory_mb": pl.Float64,
    "memory_ratio": pl.Float64,
    "parameters": pl.Int64,
    "multiply_adds": pl.Int64,
}


def answer_frames(material: Material, details: Details) -> dict[str, pl.DataFrame]:
    """Returns the frames by name: verdicts, seeds, curves, trials; others if there is something for them.

    Those are variance, contrasts, retuned, classes, tuning and sweep.

    Errors are percent and differences percentage points, or natural logarithms of ratios (`scale`); of another core
    than AlexNet values and differences are in the unit in which its metric is shown.
    """
    answer = material.answer
    frames = {
        "verdicts": verdict_frame(answer.arms),
        "seeds": _seeds(material),
        "curves": _curves(details.curves, answer.core),
        "trials": _trials(material),
    }
    if answer.variance:
        frames["variance"] = _variance_frame(answer.variance)
    if answer.contrasts:
        frames["contrasts"] = contrast_frame(answer.contrasts)
    if answer.retuned is not None:
        frames["retuned"] = verdict_frame(answer.retuned.arms)
    if details.classes is not None:
        frames["classes"] = details.classes
    if answer.tuning:
        frames["tuning"] = pl.DataFrame([trial.model_dump() for trial in answer.tuning])
    return {**frames, "sweep": material.points} if material.points.height else frames


# 只在有它的报告里成列：没有它的旧报告一个字节也不变
_BEYOND_COLUMNS = ("beyond_low", "beyond_high", "beyond_level")


def verdict_frame(arms: Sequence[ArmAnswer]) -> pl.DataFrame:
    """Returns a row per arm; see `answer_frames` for the units."""
    return _with_beyond(pl.DataFrame([_verdict_row(arm) for arm in arms], schema=_VERDICT_COLUMNS), arms)


def _with_beyond(frame: pl.DataFrame, compared: Sequence[Compared]) -> pl.DataFrame:
    """A frame with the limits for new images behind the level of the interval; as it was where there are none."""
    if all(one.beyond is None for one in compared):
        return frame
    rows = [(*(one.beyond or (None, None)), one.beyond_level) for one in compared]
    columns = pl.DataFrame(rows, schema=dict.fromkeys(_BEYOND_COLUMNS, pl.Float64), orient="row").get_columns()
    place = frame.columns.index("interval_level") + 1
    return frame.select(*frame.columns[:place], *columns, *frame.columns[place:])


def contrast_frame(contrasts: Sequence[ContrastAnswer]) -> pl.DataFrame:
    """Returns a row per contrast; see `answer_frames` for the units. `weights` is JSON, by arm."""
    arms_only = ("arm", "is_baseline", "mean", "sd", "median", "correlation", "diverged", "failed")
    shared = [name for name in _VERDICT_COLUMNS if name in ContrastAnswer.model_fields and name not in arms_only]
    rows = [
        {
            "contrast": one.name,
            "kind": one.kind,
            "family": one.family,
            "weights": json.dumps(one.weights, sort_keys=True),
            **{name: getattr(one, name) for name in shared},
            **dict(zip(("interval_low", "interval_high"), one.interval or (None, None), strict=True)),
        }
        for one in contrasts
    ]
    named = dict.fromkeys(("contrast", "kind", "family", "weights"), pl.String)
    kept = {name: kind for name, kind in _VERDICT_COLUMNS.items() if name in (*shared, "interval_low", "interval_high")}
    return _with_beyond(pl.DataFrame(rows, schema={**named, **kept}), contrasts)


def _variance_frame(rows: Sequence[SourceSpread]) -> pl.DataFrame:
    """A row per randomness that is drawn anew; see `answer_frames` for the units."""
    columns = {"name": pl.String, "title": pl.String, "n": pl.Int64, "sd": pl.Float64, "absent": pl.String}
    ends = {"limits": pl.Float64, "seeds_needed": pl.Int64}
    cells = [
        {
            **{name: getattr(one, name) for name in columns},
            **{
                f"{name}_{end}": value
                for name in ends
                for end, value in zip(("low", "high"), getattr(one, name) or (None, None), strict=True)
            },
        }
        for one in rows
    ]
    schema = {**columns, **{f"{name}_{end}": kind for name, kind in ends.items() for end in ("low", "high")}}
    return pl.DataFrame(cells, schema=schema)


def _verdict_row(arm: ArmAnswer) -> dict[str, object]:
    low, high = arm.interval or (None, None)
    facts = {
        "arm": arm.name,
        "interval_low": low,
        "interval_high": high,
        "seconds_ratio": arm.costs.seconds_per_epoch.ratio,
        "memory_mb": arm.costs.memory_mb.mean,
        "memory_ratio": arm.costs.memory_mb.ratio,
        "parameters": arm.costs.parameters,
        "multiply_adds": arm.costs.multiply_adds,
    }
    return {name: facts[name] if name in facts else getattr(arm, name) for name in _VERDICT_COLUMNS}


def _seeds(material: Material) -> pl.DataFrame:
    value = "error" if material.answer.core is None else "value"
    rows = [
        {"arm": arm.name, "seed": int(seed), value: shown, "difference": arm.differences.get(seed)}
        for arm in material.answer.arms
        for seed, shown in arm.errors.items()
    ]
    return pl.DataFrame(rows, schema={"arm": pl.String, "seed": pl.Int64, value: pl.Float64, "difference": pl.Float64})


def _curves(epochs: pl.DataFrame, core: CoreDescription | None) -> pl.DataFrame:
    """Mean and standard deviation over seeds; single runs are in `epochs.parquet`."""
    if core is not None:
        metrics = [name for name in epochs.columns if name not in ("arm", "seed", "epoch")]
        spread = (pl.col(name).std().alias(f"{name}_sd") for name in metrics)
        means = (pl.col(name).mean() for name in metrics)
        rows = epochs.rename({"epoch": "report"}).group_by("arm", "report")
        return rows.agg(pl.len().alias("seeds"), *means, *spread).sort("arm", "report")
    return (
        epochs.group_by("arm", "epoch")
        .agg(
            pl.len().alias("seeds"),
            pl.col("train_error").mean(),
            pl.col("validation_error").mean(),
            pl.col("validation_error").std().alias("validation_sd"),
        )
        .sort("arm", "epoch")
    )


def _trials(material: Material) -> pl.DataFrame:
    rows = [record.model_dump() for record in material.provenance.records]
    names = ("arm", "seed", "phase", "key", "state", "message", "sha256")
    return pl.DataFrame(rows, schema={name: pl.Int64 if name == "seed" else pl.String for name in names})
