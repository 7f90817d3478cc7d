"""Settings of the whole test run."""

from hypothesis import settings

# 这些机器忽快忽慢：时限只会让测试随机失败
settings.register_profile("lab", deadline=None)
settings.load_profile("lab")
