"""Where everything lies in a results folder, and which names may stand there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from search_spaces import arm
from search_spaces.study import ONLY_RECIPE
from search_spaces.trial import KEY_LENGTH

KEY = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")
# 加号只在几个数据集合问的文件夹名里：自己的研究取不到这样的名字
STUDY_FOLDER = re.compile(r"[a-z0-9][a-z0-9_+-]{0,200}")
NAME = re.compile(arm.NAME)
# 不合群的记录重新训练时，原样移到这里
LEFT_OUT = "trials.left_out"
# 重新调参的 arm 在原名后加后缀
ARM = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# 在 trial 的文件夹里：worker 绕过 Python 写的话，暂存到驱动把它收进日志
OUTPUTS = re.compile(r"output-(\d+)\.txt")
# 每张图答对与否；worker 先放在 checkpoint/ 里，由驱动收进记录
CORRECT = "correct.bin"


def output_path(folder: Path, attempt: int) -> Path:
    """Returns where the workers of an attempt write what goes past Python, until the driver moves it into the log."""
    return folder / f"output-{attempt}.txt"


def evaluation_path(folder: Path, views: int) -> Path:
    """Returns where a trial's evaluation in so many views lies."""
    return folder / "evaluations" / f"{views}.json"


def study_folder(results: Path, study: str, dataset: str, default_dataset: str) -> Path:
    """Returns where a study's plan and answer lie: `studies/<name>/`, with the data set behind others' names."""
    name = study if dataset in (default_dataset, ONLY_RECIPE) else f"{study}-{dataset}"
    return results / "studies" / name


def joint_folder(results: Path, study: str, datasets: Iterable[str]) -> Path:
    """Returns where a study on several data sets has its page: `studies/<name>+<data set>+<data set>/`, sorted."""
    return results / "studies" / "+".join([study, *sorted(datasets)])


def is_joint(name: str) -> bool:
    """Returns whether a study's folder is that of one study on several data sets."""
    return "+" in name


def trial_folder(results: Path, key: str) -> Path:
    """Returns the folder of a trial's record."""
    return results / "trials" / key


def table_folder(results: Path) -> Path:
    """Returns where the tables lie."""
    return results / "tables"
