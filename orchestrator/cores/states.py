"""States: nested plain data with arrays and tensors, in a safetensors file that cannot run code.

The arrays are the file's tensors, and how they nest is a JSON text in its header.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from alexnet_core.process.files import replaced
from orchestrator.cores.contract import ContractError

STRUCTURE = "structure"
LARGE_STATE = 100 * 10**6
# safetensors 认得的；其余的按字节存，写明原来的类型
PLAIN_TYPES = frozenset(
    [
        *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
        *("float16", "float32", "float64", "complex64"),
    ]
)
ALLOWED = "tensors, arrays, numbers, texts and None, in dictionaries, lists and tuples"
_FILE = re.compile(r"(\d+)-(\d+)\.safetensors")


def state_path(folder: Path, attempt: int, report: int) -> Path:
    """Returns where the state of a report is written: `<attempt>-<report>.safetensors`."""
    return folder / f"{attempt:04d}-{report:08d}.safetensors"


def states_in(folder: Path) -> list[Path]:
    """Returns the states in a folder, the newest first: of the last attempt, then of the last report."""
    numbered = [(match, path) for path in folder.glob("*.safetensors") if (match := _FILE.fullmatch(path.name))]
    return [path for _, path in sorted(numbered, key=lambda pair: tuple(map(int, pair[0].groups())), reverse=True)]


def large_state(size: int) -> str:
    """Returns what is said of a state of `LARGE_STATE` bytes or more."""
    shown = f"{size / 10**9:.1f} GB" if size >= 10**9 else f"{size / 10**6:.0f} MB"
    return f"a state is {shown}, written with a report at most once a second; two are kept per trial"


def write_state(path: Path, state: Any) -> None:
    """Writes a state, whole or not at all.

    Args:
        path: Where; its folder is made.
        state: See `Run.save`.

    Raises:
        ContractError: Something in it is neither of what a state may hold; the line says what and where.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    structure = _packed(state, arrays, "state")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary:
        save_file(arrays, temporary, metadata={STRUCTURE: json.dumps(structure)})


def read_state(path: Path) -> Any:
    """Reads a state; tensors are on the CPU.

    Raises:
        ContractError: The file is torn, or none of ours.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dictionary
        return _unpacked(json.loads(metadata[STRUCTURE]), arrays)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ContractError(f"{path} is damaged, or no state of a training") from error


def _packed(value: Any, arrays: dict[str, np.ndarray[Any, Any]], where: str) -> Any:
    """A value as JSON; arrays and tensors go into `arrays` under a number."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int) and type(value) is int:
        return value
    if isinstance(value, float) and type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        # state_dict 的键也有整数：JSON 的键只能是文本，所以成对地写
        keys = [_packed(key, arrays, f"a key of {where}") for key in value]
        items = [_packed(item, arrays, f"{where}[{key!r}]") for key, item in value.items()]
        return {"dict": [list(pair) for pair in zip(keys, items, strict=True)]}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        items = [_packed(item, arrays, f"{where}[{number}]") for number, item in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": items}
    if isinstance(value, (np.ndarray, np.generic)):
        return _packed_array(value, arrays, where)
    if hasattr(value, "detach"):
        return _packed_tensor(value, arrays, where)
    raise ContractError(f"{where} is a {type(value).__name__}, which cannot be saved; a state holds {ALLOWED}")


def _packed_array(value: Any, arrays: dict[str, np.ndarray[Any, Any]], where: str) -> dict[str, Any]:
    if value.dtype.hasobject or value.dtype.names is not None:
        raise ContractError(f"{where} is an array of {value.dtype}, which cannot be saved; a state holds {ALLOWED}")
    name, array = str(len(arrays)), np.ascontiguousarray(value).reshape(np.shape(value))
    if array.dtype.name not in PLAIN_TYPES:
        arrays[name] = np.frombuffer(array.tobytes(), np.uint8)
        return {"array": name, "bytes_of": array.dtype.str, "shape": list(array.shape)}
    arrays[name] = array
    return {"scalar" if isinstance(value, np.generic) else "array": name}


def _packed_tensor(value: Any, arrays: dict[str, np.ndarray[Any, Any]], where: str) -> dict[str, Any]:
    import torch

    if value.layout != torch.strided or value.is_quantized:
        raise ContractError(f"{where} is a sparse or quantized tensor, which cannot be saved; use its dense values")
    tensor, name = value.detach().cpu().contiguous(), str(len(arrays))
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind in PLAIN_TYPES:
        arrays[name] = tensor.numpy()
        return {"tensor": name}
    # bfloat16、float8 之类 numpy 没有：按字节存
    arrays[name] = tensor.reshape(-1).view(torch.uint8).numpy()
    return {"tensor": name, "bytes_of": kind, "shape": list(tensor.shape)}


def _unpacked(value: Any, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    if not isinstance(value, dict):
        return value
    kind, content = next(iter(value.items()))
    if kind == "dict":
        return {_unpacked(key, arrays): _unpacked(item, arrays) for key, item in content}
    if kind in ("list", "tuple"):
        items = [_unpacked(item, arrays) for item in content]
        return items if kind == "list" else tuple(items)
    if kind == "float":
        return float(content)
    if kind == "bytes":
        return base64.b64decode(content)
    if kind == "scalar":
        return arrays[content][()]
    array = arrays[content].copy()
    if kind == "array":
        return array.view(np.dtype(value["bytes_of"])).reshape(value["shape"]) if "bytes_of" in value else array
    if kind == "tensor":
        return _unpacked_tensor(array, value)
    raise ValueError(kind)


def _unpacked_tensor(array: np.ndarray[Any, Any], value: Mapping[str, Any]) -> Any:
    import torch

    if "bytes_of" not in value:
        return torch.from_numpy(array)
    dtype, shape = getattr(torch, value["bytes_of"]), value["shape"]
    # 空的字节串没有步长，换不了类型
    return torch.from_numpy(array).view(dtype).reshape(shape) if array.size else torch.empty(shape, dtype=dtype)
