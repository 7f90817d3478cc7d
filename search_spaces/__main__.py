"""`python -m search_spaces schema`: the JSON schema of a study file, for editors that complete and check YAML."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from alexnet_core.process.command_line import CommandParser
from alexnet_core.process.interruption import stoppable
from search_spaces.design import MOST_LEVELS
from search_spaces.space import ALEXNET_FIELD
from search_spaces.study import FEWEST_COMPARED, PRIMARY_METRICS, CommonRecipe, Study, common_recipes


@stoppable
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = CommandParser(
        prog="python -m search_spaces",
        description="Print the JSON schema of a study file, for editors that complete and check YAML.",
        examples={
            "schema": "the schema, to look at",
            "schema > study.schema.json": "into a file: then begin a study with "
            "'# yaml-language-server: $schema=study.schema.json'",
            "schema | jq '.properties | keys'": "the fields of a study",
        },
    )
    parser.add_argument("what", choices=("schema",), help="print the JSON schema of a study file")
    parser.parse_args(arguments)
    print(json.dumps(study_schema(), indent=1))
    return 0


def study_schema() -> dict[str, Any]:
    """Returns the JSON schema (draft 2020-12) of a study file.

    A recipe of a data set that has a common recipe may leave out what is in it.
    """
    schema = Study.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    full = schema["$defs"]["Recipe"]
    schema["$defs"]["SharedRecipe"] = {**full, "title": "SharedRecipe"}
    # 训练可以只写要改的字段
    partial = {name: value for name, value in schema["$defs"]["TrainingSpec"].items() if name != "required"}
    schema["$defs"]["PartialTraining"] = {**partial, "title": "PartialTraining"}
    properties = {**full["properties"], "training": {"$ref": "#/$defs/PartialTraining"}}
    schema["$defs"]["SharedRecipe"]["properties"] = properties
    recipes = schema["properties"]["recipes"]
    recipes["properties"] = {name: {"$ref": "#/$defs/SharedRecipe"} for name in common_recipes()}
    if "patternProperties" in recipes:
        names = "|".join(sorted(common_recipes()))
        recipes["patternProperties"] = {
            pattern.replace("^", f"^(?!(?:{names})$)", 1): value
            for pattern, value in recipes["patternProperties"].items()
        }
        schema |= _of_alexnet(recipes["patternProperties"])
    return schema | _of_designs(schema) | _of_reproductions(full)


def _of_designs(schema: dict[str, Any]) -> dict[str, Any]:
    """What holds of a design: it makes the arms, and a plain list is enough for the values of one field."""
    arms, factors = schema["properties"]["arms"], schema["properties"]["factors"]["anyOf"][0]
    values = {"type": "array", "minItems": 2, "maxItems": MOST_LEVELS}
    patterns = factors["patternProperties"].items()
    factors["patternProperties"] = {pattern: {"anyOf": [levels, values]} for pattern, levels in patterns}
    del arms["minItems"]
    written = {"required": ["arms", "baseline"], "properties": {"arms": {"minItems": FEWEST_COMPARED}}}
    published = {"arms": {"minItems": 1, "items": {"required": ["published"]}}}
    # 设计自己造 arm：写了 design，arms 与 baseline 就可以不写
    return {
        "required": [name for name in schema["required"] if name not in ("arms", "baseline")],
        "anyOf": [
            written,
            {"required": ["design", "factors"]},
            {"required": ["kind", "arms"], "properties": published},
        ],
    }


def _of_reproductions(recipe: dict[str, Any]) -> dict[str, Any]:
    """What holds of comparisons alone: a reproduction looks for no effect.

    Args:
        recipe: The definition of a recipe, of which that becomes no part.
    """
    # 共用配方的定义与它共有这张表
    recipe["required"].remove("smallest_effect")
    needs = {"properties": {"recipes": {"additionalProperties": {"required": ["smallest_effect"]}}}}
    return {"allOf": [{"if": {"not": {"required": ["kind"]}}, "then": needs}]}


def _of_alexnet(recipes: Mapping[str, Any]) -> dict[str, Any]:
    """What holds of a study that names no core: its recipes say network and training, its arms set their fields.

    Args:
        recipes: The patterns of the names of recipes that are not shared.
    """
    whole = {"required": sorted(CommonRecipe.model_fields)}
    fields = {"properties": {"set": {"propertyNames": {"pattern": ALEXNET_FIELD}}}}
    of_alexnet = {
        "recipes": {"patternProperties": dict.fromkeys(recipes, whole)},
        "arms": {"items": fields},
        "primary_metric": {"enum": list(PRIMARY_METRICS)},
    }
    return {"if": {"not": {"required": ["core"]}}, "then": {"properties": of_alexnet}}


if __name__ == "__main__":
    sys.exit(main())
