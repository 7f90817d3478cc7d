"""Settings of the whole test run."""

import os
import sys

import pytest
from hypothesis import settings

from tests.progress import FileProgress

# 这些机器忽快忽慢：时限只会让测试随机失败
settings.register_profile("lab", deadline=None)
settings.load_profile("lab")

# 几百个子进程导入同样的包：只编译一次
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

LONGEST = ("test_survival.py", "test_cluster.py")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Shows files and slow tests in place of dots, where pytest is asked for neither more nor less (-v, -q)."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and config.get_verbosity() == 0 and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FileProgress(reporter))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start Ray come first, the longest at the head: the others fill up what they leave."""
    starts_ray = {item.path for item in items if {"lab", "module_lab"} & set(getattr(item, "fixturenames", ()))}
    items.sort(key=lambda item: (item.path.name not in LONGEST, item.path not in starts_ray))
