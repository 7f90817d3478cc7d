"""Studies and trials as validated data. Loads neither torch nor ray nor polars."""

import sys

# 命令一开始就看着信号
if sys.argv[:1] == ["-m"]:
    import alexnet_core  # noqa: F401
