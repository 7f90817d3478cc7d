"""Files as an enemy or a broken disk would leave them: real ones with bytes or JSON values changed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=True)
    | st.sampled_from(
        ["", "..", "../../x", "\0", "a" * 300, "\x1b[31m", "<script>", "｜", "1e999", "nan", "~", "é" * 128]
    )
    | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Cut off, or with a few bytes overwritten."""
    if draw(st.booleans()):
        return content[: draw(st.integers(0, len(content)))]
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        if changed:
            changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


@st.composite
def changed_json(draw: st.DrawFn, content: Any) -> Any:
    """With a value somewhere replaced, removed, or added."""
    changed = copy.deepcopy(content)
    spot = changed
    while True:
        keys: list[Any] = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
        if not keys:
            return draw(VALUES)
        key = draw(st.sampled_from(keys))
        if isinstance(spot[key], (dict, list)) and spot[key] and draw(st.integers(0, 3)):
            spot = spot[key]
            continue
        action = draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "replace":
            spot[key] = draw(VALUES)
        elif action == "remove":
            del spot[key]
        elif isinstance(spot, dict):
            spot[draw(st.text(max_size=6))] = draw(VALUES)
        else:
            spot.append(draw(VALUES))
        return changed


def changed_file(content: bytes) -> st.SearchStrategy[bytes]:
    """A JSON file with a value changed, or bytes; JSON may hold NaN and lone surrogates, as Python's writer does."""
    try:
        parsed = json.loads(content)
    except ValueError:
        return changed_bytes(content)
    as_json: Callable[[Any], bytes] = lambda value: json.dumps(value).encode()  # noqa: E731
    return changed_json(parsed).map(as_json) | changed_bytes(content)
