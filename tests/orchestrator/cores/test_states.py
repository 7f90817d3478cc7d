"""A state comes back as it was saved, runs no code, and what it cannot hold is named with its place."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.cores.contract import ContractError
from orchestrator.cores.states import read_state, state_path, states_in, write_state

LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=8))
KEYS = st.one_of(st.text(max_size=4), st.integers(-3, 3))
STATES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.tuples(inner, inner), st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    """Equal in type and value; NaN is NaN, and -0.0 is not 0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STATES)
def test_plain_data_comes_back_with_its_types(tmp_path: Path, state: Any) -> None:
    path = tmp_path / "state.safetensors"
    write_state(path, state)
    assert same(read_state(path), state)


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "bfloat16", "int64", "uint8", "bool", "complex64", "complex128"]
)
def test_tensors_come_back_bit_by_bit_on_the_cpu(tmp_path: Path, dtype: str) -> None:
    tensor = (torch.arange(12).reshape(3, 4) % 3).to(getattr(torch, dtype))
    views = {"whole": tensor, "turned": tensor.T, "row": tensor[1], "one": tensor[0, 1], "none": tensor[:0]}
    write_state(tmp_path / "state.safetensors", views)
    for name, read in read_state(tmp_path / "state.safetensors").items():
        assert read.dtype == views[name].dtype
        assert read.shape == views[name].shape
        assert torch.equal(read, views[name])


@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3).T, np.array("text"), np.array([1 + 2j]), np.zeros((0, 3), ">i4"), np.float32(0.1)],
)
def test_arrays_come_back(tmp_path: Path, array: Any) -> None:
    write_state(tmp_path / "state.safetensors", [array])
    (read,) = read_state(tmp_path / "state.safetensors")
    assert type(read) is type(array)
    assert read.shape == array.shape
    assert np.array_equal(read, array)


def test_a_models_and_an_optimizers_states_come_back_as_torch_takes_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    write_state(tmp_path / "state.safetensors", {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    read = read_state(tmp_path / "state.safetensors")
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    other.load_state_dict(read["model"])
    again = torch.optim.AdamW(other.parameters())
    again.load_state_dict(read["optimizer"])
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        for name, value in optimizer.state[one].items():
            assert torch.equal(again.state[two][name], value), name


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ({"model": torch.nn.Linear(1, 1)}, "state['model'] is a Linear, which cannot be saved"),
        ({"seen": [{1, 2}]}, "state['seen'][0] is a set, which cannot be saved"),
        (np.array([object()]), "state is an array of object, which cannot be saved"),
        ({"sparse": torch.zeros(2, 2).to_sparse()}, "state['sparse'] is a sparse or quantized tensor"),
        ({Path("a"): 1}, "a key of state is a"),
    ],
)
def test_what_a_state_cannot_hold_is_named_with_its_place(tmp_path: Path, state: Any, line: str) -> None:
    with pytest.raises(ContractError) as caught:
        write_state(tmp_path / "state.safetensors", state)
    assert line in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_torn_file_a_pickle_and_a_file_of_another_kind_are_no_states(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    write_state(whole, {"weights": torch.ones(1000), "loss": math.inf})
    content = whole.read_bytes()
    others = {"torn": content[:-100], "pickle": pickle.dumps({"a": 1}), "empty": b"", "text": b"epoch 3"}
    for name, other in others.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(other)
        with pytest.raises(ContractError, match=f"{name}.safetensors is damaged"):
            read_state(path)


def test_the_newest_state_is_of_the_last_attempt_and_report(tmp_path: Path) -> None:
    names = [(1, 30), (2, 4), (1, 9), (2, 12)]
    for attempt, report in names:
        write_state(state_path(tmp_path, attempt, report), {"report": report})
    (tmp_path / "best.safetensors").touch()
    assert [read_state(path)["report"] for path in states_in(tmp_path)] == [12, 4, 30, 9]
