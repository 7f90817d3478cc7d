"""How messages are worded: counted things, the nearest known name, and pydantic's mistakes in the user's words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

# 类型不对时不引 pydantic 的话（valid integer、instance of ...），说该写什么
_RIGHT = {
    "model_type": "a mapping of fields",
    "model_attributes_type": "a mapping of fields",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "tuple_type": "a list, such as [a, b]",
    "list_type": "a list, such as [a, b]",
    "string_type": "text",
    "string_unicode": "text in UTF-8",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "invalid-json-value": "a number, a word, a list or a mapping",
}
_LIMITS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
_LENGTHS = {
    "too_short": ("min_length", "at least", "entry", "entries"),
    "too_long": ("max_length", "at most", "entry", "entries"),
    "string_too_short": ("min_length", "at least", "letter", "letters"),
    "string_too_long": ("max_length", "at most", "letter", "letters"),
}
_PATTERNS = {
    "^(network|": "a field, such as network.lrn*.alpha, training.epochs or data.train_images",
    "^[A-Za-z_][": "a field, such as learning_rate or optimizer.learning_rate",
    "^[A-Za-z][": "letters, digits, _, . and -, 64 at most, the first a letter",
    "^[a-z0-9][a-z0-9_-]": "lower-case letters, digits, - and _, 48 at most, the first a letter or digit",
    "^[a-z0-9_*?]": "a layer's name, globs allowed, such as conv4 or lrn*",
    "^[a-z][a-z0-9": "lower-case letters, digits and - or _, the first a letter",
    "^[0-9a-f]{": "{} hexadecimal digits",
    "^training": "a number of the training, such as training.learning_rate",
}
MOST_LETTERS = 60


def counted(number: int, noun: str, nouns: str = "") -> str:
    """Returns `1 seed`, `8 seeds`.

    Args:
        number: How many.
        noun: Of one.
        nouns: Of several, where that is not the noun with an s.
    """
    return f"{number} {noun if number == 1 else nouns or f'{noun}s'}"


def nearest(word: str, known: Sequence[str]) -> str:
    """Returns what may have been meant by an unknown name, or else what there is; nothing where there is nothing."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else (f"; it has: {', '.join(known)}" if known else "")


def explain(mistake: ErrorDetails, model: type[BaseModel] | None = None) -> str:
    """Says a pydantic mistake in one line: what would be right, and what was given.

    Args:
        mistake: One of `ValidationError.errors()`.
        model: What was validated, for the names of its fields.
    """
    kind, context, given = mistake["type"], mistake.get("ctx", {}), mistake["input"]
    if kind == "extra_forbidden":
        place = mistake["loc"]
        return f"unknown field{nearest(str(place[-1]), sorted(_fields_at(model, place[:-1])))}"
    if kind == "missing":
        return "this field is missing"
    if kind == "value_error":
        return mistake["msg"].removeprefix("Value error, ")
    if kind == "json_invalid":
        return mistake["msg"]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        field = str(context["discriminator"]).strip("'")
        if "tag" not in context:
            return f"{field} is missing: it says what kind this is"
        return f"{field} must be one of {context['expected_tags']}, not {context['tag']!r}"
    if kind in _LENGTHS:
        bound, how, noun, nouns = _LENGTHS[kind]
        length = context.get("actual_length", len(given) if isinstance(given, str) else None)
        there = f", not {length}" if length is not None else ""
        return f"must have {how} {counted(context[bound], noun, nouns)}{there}"
    return f"must be {_right(kind, context, mistake['msg'])}{_not(given)}"


def _right(kind: str, context: Mapping[str, Any], message: str) -> str:
    """What a value should have been."""
    if kind in _RIGHT:
        return _RIGHT[kind]
    if kind in _LIMITS:
        bound, how = _LIMITS[kind]
        return f"{how} {context[bound]:g}" if isinstance(context[bound], float) else f"{how} {context[bound]}"
    if kind == "string_pattern_mismatch":
        pattern = str(context["pattern"])
        length = re.search(r"\{(\d+)\}", pattern)
        known = (text for start, text in _PATTERNS.items() if pattern.startswith(start))
        return next((text.format(length[1] if length else "") for text in known), f"like {pattern}")
    # literal_error、enum 等：pydantic 的话里就列着可选的
    return message.removeprefix("Input should be ")


def _not(given: Any) -> str:
    """What was given, where it is short enough to be shown."""
    if given is None:
        return ", but nothing is given"
    if isinstance(given, bool):
        return f", not {str(given).lower()}"
    if isinstance(given, str | int | float):
        shown = repr(given)
        return f", not {shown if len(shown) <= MOST_LETTERS else f'{shown[:MOST_LETTERS]}...'}"
    return ", not a mapping" if isinstance(given, dict) else ", not a list" if isinstance(given, list | tuple) else ""


def _fields_at(model: type[BaseModel] | None, place: Sequence[str | int]) -> set[str]:
    """The names that fields may have at a pydantic location; an alias is a field's name."""
    models = [] if model is None else [model]
    for part in place:
        inner = [
            of_field
            for one in models
            for name, field in one.model_fields.items()
            if part == (field.alias or name)
            for of_field in _models_in(field.annotation)
        ]
        # 序号、字典的键、并集里的名字都不换模型；并集的标签挑出其中一个
        models = inner or [one for one in models if _is_tagged(one, part)] or models
    return {field.alias or name for one in models for name, field in one.model_fields.items()}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation speaks of: of a tuple, a dictionary or a union its members."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _is_tagged(model: type[BaseModel], tag: str | int) -> bool:
    return any(tag in get_args(field.annotation) for field in model.model_fields.values())
