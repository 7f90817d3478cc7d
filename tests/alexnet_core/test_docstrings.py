"""What takes or gives arrays says of which shape."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("alexnet_core", "orchestrator/statistics")
ARRAY = re.compile(r"\b(Tensor|ndarray|NDArray|Array)\b")
# (N, C, H, W) 或 (B,)、"of shape"、"of the same shape as x"、"of any shape"、"like `x`"
_SIDE = r"\w[\w' ]{0,16}"
SHAPE = re.compile(rf"\({_SIDE}(, ({_SIDE}|\.\.\.))+\)|\(\w+,\)|\bshapes?\b|like `\w+`")


def public_functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods whose names, and whose class's name, begin with no underscore."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from ((f"{node.name}.{n.name}", n) for n in node.body if isinstance(n, ast.FunctionDef))


def takes_or_gives_arrays(function: ast.FunctionDef) -> bool:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    annotations = [*(argument.annotation for argument in arguments), function.returns]
    return any(ARRAY.search(ast.unparse(annotation)) for annotation in annotations if annotation is not None)


def without_a_shape(path: Path) -> list[str]:
    return [
        name
        for name, function in public_functions(ast.parse(path.read_text()))
        if not function.name.startswith("_")
        and takes_or_gives_arrays(function)
        and not SHAPE.search(ast.get_docstring(function) or "")
    ]


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_function_of_arrays_gives_their_shapes(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    silent = {str(path.relative_to(ROOT)): names for path in files if (names := without_a_shape(path))}
    assert not silent, silent


def test_a_docstring_without_a_shape_is_found(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(
        'def bare(x: torch.Tensor) -> int:\n    """Counts."""\n'
        'def told(x: np.ndarray) -> int:\n    """Counts the rows of x (N, C)."""\n'
        "def silent() -> np.ndarray: ...\ndef _private(x: np.ndarray) -> None: ...\n"
        "class Net:\n    def forward(self, x: torch.Tensor) -> None: ...\n"
    )
    assert without_a_shape(planted) == ["bare", "silent", "Net.forward"]
