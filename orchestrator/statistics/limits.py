"""The limits that the rules of the verdicts have, apart from any calculation, so that reading them loads no scipy."""

from __future__ import annotations

# 少于三个种子不下判断：t 区间宽得没有意义
FEWEST_SEEDS = 3
