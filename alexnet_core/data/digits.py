"""The 1,797 handwritten digits inside scikit-learn, without importing it."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np

from alexnet_core.errors import CoreError
from alexnet_core.process.files import reason_of

DIGITS_FRACTIONS = (0.6, 0.2, 0.2)
DIGITS_NAMES = tuple(str(digit) for digit in range(10))


@lru_cache(maxsize=1)
def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 digits of scikit-learn (UCI optdigits test set): uint8 (N, 16, 16, 3) and int64 (N,).

    Values 0..16 become 0..255; each pixel becomes 2x2, so that the mini network's poolings have room.

    Raises:
        CoreError: scikit-learn's data file is missing.
    """
    # 直接读包内文件，不导入 scikit-learn：它会带来第二个 OpenMP 运行时
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise CoreError("the digits need scikit-learn's package data; install scikit-learn")
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    except OSError as error:
        raise CoreError(f"scikit-learn's digits cannot be read at {path}: {reason_of(error)}") from error
    levels = np.round(table[:, :64].reshape(-1, 8, 8) * (255.0 / 16.0)).astype(np.uint8)
    large = levels.repeat(2, axis=1).repeat(2, axis=2)
    return np.repeat(large[..., None], 3, axis=3), table[:, 64].copy()


def digits_digest(images: np.ndarray, labels: np.ndarray) -> str:
    """Returns the digest of the digits' content: pixels uint8 (N, H, W, 3) and labels int64 (N,)."""
    return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
