"""Settings of the whole test run."""

from pathlib import Path

import pytest
from hypothesis import settings

# 这些机器忽快忽慢：时限只会让测试随机失败
settings.register_profile("lab", deadline=None)
settings.load_profile("lab")

STARTS_RAY = {"lab", "module_lab"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Of the two processes that share the tests, one alone starts Ray; a file's other tests stay together."""
    for item in items:
        group = "ray" if STARTS_RAY & set(item.fixturenames) else Path(item.fspath).name
        item.add_marker(pytest.mark.xdist_group(group))
