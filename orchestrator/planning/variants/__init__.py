"""Studies and plans made of others: controls of equal size, the baseline alone, several as one, chosen afterwards."""

from __future__ import annotations

# 设计与比较方式不再适用：只拿 arm 与基线比
AGAINST_BASELINE = {"kind": None, "design": None, "factors": None, "compare": None}
