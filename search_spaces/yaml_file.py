"""Reading YAML so that mistakes are found and placed: file:line:column, duplicate keys, and numbers that are numbers.

YAML 1.2's scalars: `1e-3` is a number, and `on`, `off`, `yes`, `no` are words.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from alexnet_core.configuration.wording import explain
from alexnet_core.process.files import reason_of
from search_spaces.errors import StudyError

Model = TypeVar("Model", bound=BaseModel)
# 别名层层相套时，几百字节就能展开成几十亿项
MOST_NODES = 20_000
_KEY = re.compile(r"^(?P<space> *)(?P<dash>(?:- +)*)(?P<key>[^\s#:][^:#]*:)?")
_TWO_COLONS = re.compile(r"^ *(?:- +)*[^\s:'\"]+: +[^\s'\"\[{|>].*?(?:: |:$)")
_NO_SPACE = re.compile(r"^ *(?:- +)*[A-Za-z_][\w.]*:[^\s]")


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 scalars and without duplicate keys."""


# PyYAML 沿用 YAML 1.1：1e-3 会成字符串，on/no 会成布尔值
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", "~nN\0"),
    ("int", r"^[-+]?(?:0|[1-9][0-9_]*)$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
    ("float", r"^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$", "-+."),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first) + ([""] if _tag == "null" else [])
    )


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Hashable] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} must be a word", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def load_model(path: Path, model: type[Model], shown: str | None = None) -> Model:
    """Reads a YAML file into a pydantic model.

    Args:
        path: The file.
        model: The model to validate into.
        shown: How messages name the file; its path if None.

    Raises:
        StudyError: The file cannot be read, is not YAML, or does not validate; one line per mistake.
    """
    name = shown or str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{name} cannot be read: {reason_of(error)}") from error
    return parse_model(text, model, name)


def parse_model(text: str, model: type[Model], name: str) -> Model:
    """Parses YAML text into a pydantic model; see `load_model`."""
    root, content = _load(text, name)
    if root is None or not isinstance(content, dict):
        raise StudyError(f"{name}:1:1: a study file must be a mapping of fields, not {type(content).__name__}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise StudyError("\n".join(_lines(error, root, name, model))) from error


def parse_scalar(text: str, what: str) -> Any:
    """Reads a scalar or a list of scalars as YAML; `what` begins the message of a mistake."""
    _, value = _load(text, what)
    if isinstance(value, dict):
        raise StudyError(f"{what}: the value must be a number, a word or a list")
    return value


def _load(text: str, name: str) -> tuple[yaml.Node | None, Any]:
    """Parses one document; returns its nodes, which know their places, and its content."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is not None:
            _count(root, {})
        return root, loader.construct_document(root) if root is not None else None
    except yaml.MarkedYAMLError as error:
        problem, mark = _explained(error, text)
        raise StudyError(f"{_place(name, mark)}: {problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise StudyError(f"{name}: {' '.join(str(error).split())}") from error


def _count(node: yaml.Node, counted: dict[yaml.Node, int]) -> int:
    """How many nodes there are below and with this one, aliases written out; what is too large knows its place."""
    if node not in counted:
        # 先记为过大：又遇到自己的就是循环
        counted[node] = MOST_NODES + 1
        counted[node] = 1 + sum(_count(part, counted) for part in _parts(node))
    if counted[node] > MOST_NODES:
        what = f"this has more than {MOST_NODES:,} values once its aliases are written out"
        raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)
    return counted[node]


def _parts(node: yaml.Node) -> Iterable[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return chain.from_iterable(node.value)
    return node.value if isinstance(node, yaml.SequenceNode) else ()


def _lines(error: ValidationError, root: yaml.Node, name: str, model: type[BaseModel]) -> list[str]:
    lines = []
    mistakes = error.errors(include_url=False)
    for mistake in mistakes:
        size = len(mistake["loc"])
        # pydantic 不数有错的条目，于是报太短；错在条目里
        if mistake["type"] == "too_short" and any(
            other["loc"][:size] == mistake["loc"] for other in mistakes if other is not mistake
        ):
            continue
        location = [part for part in mistake["loc"] if part not in ("[key]",)]
        mark = _find(root, location, at_key=mistake["type"] == "extra_forbidden")
        field, message = ".".join(str(part) for part in location), explain(mistake, model)
        if mistake["input"] is None and mistake["type"] in ("dict_type", "model_type", "model_attributes_type"):
            message += _without_content(mark)
        if not field:
            # 跨字段的错误自己写明字段：“baseline: ...”
            field, _, rest = message.partition(": ")
            mark, message = _find(root, field.split("."), at_key=True), rest
        lines.append(f"{_place(name, mark)}: {field}: {message}")
    return lines


def _find(node: yaml.Node, location: Sequence[str | int], *, at_key: bool) -> yaml.Mark | None:
    """The mark of the value at a pydantic location; names of union members in it are skipped."""
    mark = node.start_mark
    for part in location:
        if isinstance(node, yaml.MappingNode):
            for key_node, value_node in node.value:
                if key_node.value == str(part):
                    node, mark = value_node, value_node.start_mark
                    if part == location[-1] and (at_key or isinstance(value_node, yaml.MappingNode)):
                        mark = key_node.start_mark
                    break
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            mark = node.start_mark
    return mark


def placed(error: StudyError, path: Path) -> StudyError:
    """Returns the error with file:line:column, if its location is known and in this file."""
    try:
        root, _ = _load(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError, StudyError):
        return error
    if root is None or not error.location:
        return error
    return StudyError(f"{_place(str(path), _find(root, error.location, at_key=True))}: {error}")


def _place(name: str, mark: yaml.Mark | None) -> str:
    return f"{name}:{mark.line + 1}:{mark.column + 1}" if mark is not None else name


def _explained(error: yaml.MarkedYAMLError, text: str) -> tuple[str, yaml.Mark | None]:
    """Returns what is wrong with a YAML text in plain words, and where; what is no usual mistake in the parser's words.

    Args:
        error: From PyYAML.
        text: What it parsed.
    """
    mark, lines, problem = error.problem_mark or error.context_mark, text.splitlines(), error.problem or str(error)
    if mark is None or mark.line >= len(lines):
        return problem, mark
    line = lines[mark.line]
    if "\\t" in problem:
        return "a tab: lines are indented by spaces", mark
    if "could not find expected ':'" in problem and error.context_mark is not None:
        if _NO_SPACE.match(lines[error.context_mark.line]):
            return "a space is missing after the colon", error.context_mark
    elif "mapping values are not allowed" in problem:
        if _TWO_COLONS.match(line):
            return "a second colon: put the text behind the first one in quotes", mark
        above = next((number for number in range(mark.line - 1, -1, -1) if lines[number].strip()), mark.line)
        return (
            f"this line is indented by {_indentation(line)}, line {above + 1}, which has a value already, by "
            f"{_indentation(lines[above])}: give both the same",
            mark,
        )
    elif "expected <block end>" in problem:
        right = _nearest_open(lines[: mark.line], line)
        if right is not None and right != _first_column(line):
            return f"this line is indented by {_spaces(_first_column(line))}: indent it by {right}", mark
    return problem, mark


def _without_content(mark: yaml.Mark | None) -> str:
    """Says how to indent what belongs to a key that has no value, where the next line stands beside it.

    Args:
        mark: Of the value that is not there.
    """
    if mark is None or mark.buffer is None:
        return ""
    lines = mark.buffer.rstrip("\0").splitlines()
    if mark.line + 1 >= len(lines):
        return ""
    below, key = _KEY.match(lines[mark.line + 1]), _key_column(lines[mark.line])
    if below is None or below["key"] is None or below["dash"] or len(below["space"]) > key:
        return ""
    return f"; what belongs to it stands below it, indented by {key + 2} spaces"


def _nearest_open(above: list[str], line: str) -> int | None:
    """The column of the blocks that are open above a line which is nearest to where it stands."""
    is_item = line.lstrip().startswith("-")
    columns, deepest = set(), 10**6
    for other in reversed([one for one in above if one.strip() and not one.lstrip().startswith("#")]):
        first, key = _first_column(other), _key_column(other)
        if min(first, key) >= deepest:
            continue
        if first < key:
            columns.add(first if is_item else key)
        elif not is_item:
            columns.add(key)
        deepest = first
    place = _first_column(line)
    return min(columns, key=lambda column: (abs(column - place), -column), default=None)


def _first_column(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _key_column(line: str) -> int:
    """Where a line's key begins, behind the dash of an item."""
    found = _KEY.match(line)
    return 0 if found is None else len(found["space"]) + len(found["dash"])


def _indentation(line: str) -> str:
    return _spaces(_key_column(line))


def _spaces(count: int) -> str:
    return f"{count} {'space' if count == 1 else 'spaces'}"
