"""How many networks answer together, and over how many views."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class EnsembleConfig(BaseModel):
    """How many networks answer together.

    Attributes:
        networks: How many are averaged.
        of: How many each seed has to itself, the most that any arm averages: seed 0 has the first so many exports,
            seed 1 the next, so that arms are paired by network and no network serves two seeds.
        views: 1 for the centre crop, 10 for the mean over ten views of each network.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    networks: int = Field(default=1, ge=1)
    of: int = Field(default=7, ge=1)
    views: Literal[1, 10] = 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.networks > self.of:
            raise ValueError(f"networks {self.networks} is more than of {self.of}, which a seed has to itself")
        return self
