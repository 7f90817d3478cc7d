"""Which configuration is best, which of its seeds is exported, and whose weights are still needed."""

from __future__ import annotations

import polars as pl

from orchestrator.records.retention import EXPORT, VERDICT

# 这些阶段的误差挑选过配置
CHOOSING = ("sweep", "tuning")
# 只有同一个 core 在同一份数据上的数才能比
COMPARABLE = ("data_name", "data_digest", "core", "core_version")

# 训练图与验证图的第几次划分：AlexNet 的，别的 core 的
DRAWING = ("data.resplit", "seeds.split")


def exported_if_best(trials: pl.DataFrame, members: pl.DataFrame) -> set[str]:
    """Returns the keys of the trials that an export takes when their configuration is the best one.

    Args:
        trials: The trials table.
        members: The members table.

    Returns:
        The seeds of median error, over all trials of a configuration and over those of each study.
    """
    exported: set[str] = set()
    for study in (None, *members["study"].unique().sort()):
        finished = finished_trials(trials, members, study=study).sort("objective", "seed")
        medians = finished.group_by("configuration").agg(pl.col("key").get((pl.len() - 1) // 2))
        exported |= set(medians["key"])
    return exported


def needed_weights(trials: pl.DataFrame, members: pl.DataFrame) -> dict[str, str]:
    """Returns what final weights are needed for, by key: judged arms, and what an export would take.

    Args:
        trials: The trials table.
        members: The members table.

    Returns:
        `retention.VERDICT` or `retention.EXPORT`; an export may be asked of a data set, and of a study on it.
    """
    judged = members.filter(pl.col("phase") != "sweep")["key"]
    needed = dict.fromkeys(judged, VERDICT)
    for study in (None, *members["study"].unique().sort()):
        finished = finished_trials(trials, members, study=study)
        # 扫描里最好的点也留着权重：确认之后它可能就是第一
        for _, ranked in rank(finished, members).group_by(*COMPARABLE, "chosen", maintain_order=True):
            needed[median_trial(finished, ranked["configuration"][0])] = EXPORT
    return needed


def finished_trials(
    trials: pl.DataFrame, members: pl.DataFrame, *, dataset: str | None = None, study: str | None = None
) -> pl.DataFrame:
    """Returns the finished trials that are asked for; of a confirmed configuration those on fresh seeds alone.

    Trials of which some randomness is drawn by another seed than their own (`ablate --variance`) are left out.

    Where a configuration was trained both on one split for all seeds and on a split of each seed (`vary: [split]`), the
    kind of which there are more seeds counts, and the former where they are as many.

    Trials that only tuned an arm count where their configuration has no others.

    Args:
        trials: The trials table.
        members: The members table.
        dataset: Only this data set: its name, or the beginning of its digest.
        study: Only trials that are members of this study.

    Returns:
        Rows of the trials table, with `confirmed`: whether the configuration was confirmed on fresh seeds, and
        `chosen`: whether all its trials are such as chose it (points of a sweep or a re-tuning), so that its error
        flatters it.
    """
    finished = trials.filter((pl.col("state") == "finished") & pl.col("objective").is_not_null())
    # 只换一处随机的 trial 不算又一个种子：其余与种子 0 相同
    finished = finished.filter(pl.col("drawn_apart").is_null())
    if dataset is not None:
        finished = finished.filter((pl.col("data_name") == dataset) | pl.col("data_digest").str.starts_with(dataset))
    if study is not None:
        members = members.filter(pl.col("study") == study)
        finished = finished.join(members.select("key").unique(), on="key", how="semi")
    # 调参的种子挑中了它自己的取值，有别的种子就不算
    by_phase = members.group_by("key").agg((pl.col("phase") == "tuning").all().alias("tuning"))
    finished = finished.join(by_phase, on="key", how="left").with_columns(pl.col("tuning").fill_null(False))
    finished = finished.filter(~pl.col("tuning") | pl.col("tuning").all().over("configuration")).drop("tuning")
    # 确认过的配置只看新种子：挑中它的那次扫描不再算数
    confirmed = pl.col("key").is_in(members.filter(pl.col("phase") == "confirmation")["key"].unique().to_list())
    finished = finished.with_columns(confirmed.alias("fresh"))
    finished = finished.with_columns(pl.col("fresh").any().over("configuration").alias("confirmed"))
    finished = _of_one_kind(finished.filter(pl.col("fresh") | ~pl.col("confirmed")))
    # 挑出它的误差就是它自己的误差：没有别的种子作证，只能靠后
    judging = pl.col("key").is_in(members.filter(~pl.col("phase").is_in(CHOOSING))["key"].unique().to_list())
    choosing = pl.col("key").is_in(members.filter(pl.col("phase").is_in(CHOOSING))["key"].unique().to_list())
    return finished.with_columns((choosing & ~judging).all().over("configuration").alias("chosen"))


def _of_one_kind(finished: pl.DataFrame) -> pl.DataFrame:
    """Each seed of a configuration once: on the split of all seeds, or on its own."""
    columns = [pl.col(name) for name in DRAWING if name in finished.columns]
    drawing = pl.coalesce(*columns, pl.lit(0)).cast(pl.Int64)
    # 同一种子的两次训练初值、次序都相同：当作两个独立的种子，标准差就偏了
    one, own = drawing == 0, drawing == pl.col("seed")
    more_own = own.sum().over("configuration") > one.sum().over("configuration")
    return finished.filter(pl.when(more_own).then(own).otherwise(one))


def rank(finished: pl.DataFrame, members: pl.DataFrame) -> pl.DataFrame:
    """Ranks the configurations of each core on each data set by their mean objective over seeds.

    Points of a sweep that no fresh seed has confirmed come after all others: the value that chose them flatters them.

    Args:
        finished: From `finished_trials`.
        members: The members table.

    Returns:
        One row per configuration: `COMPARABLE`, configuration, confirmed, chosen, seeds, objective (mean; the lower the
        better), objective_sd, judged (mean of the metric that judges; null where it is not known), as the core counts
        them, AlexNet in [0, 1], arms; the best of each core on each data set first.
    """
    names = members.group_by("key").agg(
        (pl.col("study") + "/" + pl.col("arm")).unique().sort().str.join(", ").alias("arms")
    )
    return (
        finished.join(names, on="key", how="left")
        .group_by(*COMPARABLE, "configuration")
        .agg(
            pl.col("confirmed").first(),
            pl.col("chosen").first(),
            pl.len().alias("seeds"),
            pl.col("objective").mean(),
            pl.col("objective").std().alias("objective_sd"),
            pl.col("judged").mean(),
            pl.col("arms").drop_nulls().first(),
        )
        .sort(*COMPARABLE, "chosen", "objective", "configuration")
    )


def median_trial(finished: pl.DataFrame, configuration: str) -> str:
    """Returns the key of a configuration's seed with the median objective (the lower one of two)."""
    seeds = finished.filter(pl.col("configuration") == configuration).sort("objective", "seed")
    middle = seeds.row((seeds.height - 1) // 2, named=True)
    return str(middle["key"])


def best_seeds(finished: pl.DataFrame, configuration: str, count: int) -> tuple[str, ...]:
    """Returns the keys of a configuration's seeds with the lowest objective, the best first."""
    seeds = finished.filter(pl.col("configuration") == configuration).sort("objective", "seed")
    return tuple(seeds["key"].head(count))
