"""The closed lists that a user chooses from. Imports nothing, so that anything may import it."""

from __future__ import annotations

from typing import Literal, get_args

SecondObjective = Literal["multiply_adds", "images_per_second"]
SECOND_OBJECTIVES: tuple[SecondObjective, ...] = get_args(SecondObjective)
DEFAULT_DATASET = "digits"
DEFAULT_STUDY = "lrn"
AUTO: Literal["auto"] = "auto"
# 这个词指所有研究一起问
PAPER = "paper"
PrunerName = Literal["none", "asha", "median"]
PRUNERS: tuple[PrunerName, ...] = get_args(PrunerName)
SamplerName = Literal["tpe", "cmaes", "gp", "random", "qmc", "grid", "nsga2"]
DEFAULT_SAMPLER: SamplerName = "tpe"
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
