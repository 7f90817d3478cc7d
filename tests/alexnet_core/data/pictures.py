"""Little trees of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_core.configuration.train_config import DataSpec
from alexnet_core.data.loading import summarise_data


def picture(path: Path, seed: int = 0) -> Path:
    """A picture of noise, 24x20 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, *path.as_posix().encode()]).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def tree(root: Path, splits: tuple[str, ...], count: int = 10) -> Path:
    """Splits of classes a and b."""
    for split in splits:
        for name in ("a", "b"):
            for number in range(count):
                picture(root / split / name / f"{number}.jpg")
    return root


def spec_of(root: Path, size: int = 16, digest: str | None = None) -> DataSpec:
    """Its data, without a cache."""
    digest = digest or summarise_data("imagefolder", root).digest
    return DataSpec(name="t", source="imagefolder", image_size=size, digest=digest, root=str(root))
