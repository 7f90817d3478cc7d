"""The base of every configuration (frozen, no unknown fields, no infinities), and what is wrong with one in a line."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from alexnet_core.configuration.wording import explain


class Frozen(BaseModel):
    """Base of every configuration object: immutable, no unknown fields, no NaN and no infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)


def first_mistake(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Returns the first mistake of a configuration or record in one line: `training.epochs: must be a whole number`.

    Args:
        error: Of the validation.
        model: What was validated, for the names of its fields.
    """
    mistake = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in mistake["loc"])
    message = explain(mistake, model)
    # 整个文件不成 JSON，或者错在几个字段之间：没有位置可说
    return f"{where}: {message}" if where else message
