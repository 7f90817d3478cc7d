"""Settings of the whole test run."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# 这些机器忽快忽慢：时限只会让测试随机失败
settings.register_profile("lab", deadline=None)
settings.load_profile("lab")


class OneStartsRay(LoadScopeScheduling):  # type: ignore[misc]  # xdist is untyped here
    """Of the processes that share the tests, one alone starts Ray; a file's tests stay together."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "ray" if _starts_ray(file) else file


@lru_cache
def _starts_ray(file: str) -> bool:
    return "from tests.lab import" in (Path(__file__).parents[1] / file).read_text()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneStartsRay:
    return OneStartsRay(config, log)
