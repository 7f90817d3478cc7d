"""The sanity command passes here, and says so when something is wrong."""

from __future__ import annotations

import pytest

from alexnet_core.__main__ import main
from alexnet_core.commands import sanity


@pytest.mark.slow
def test_every_check_passes_and_is_printed_with_its_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sanity", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("ok   ")]) == 15
    assert lines[-1] == "all checks passed"


@pytest.mark.slow
def test_a_wrong_number_fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # 把一个被检查的数改错：检查必须失败，而不是形同虚设
    monkeypatch.setattr(sanity, "DRAWS_DIGEST", "0" * 16)
    monkeypatch.setitem(sanity.PARAMETERS, "alexnet-half", 59_798_311)
    assert main(["sanity", "--device", "cpu"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 2
    assert "parameters" in failed[0]
    assert "random draws" in failed[1]
