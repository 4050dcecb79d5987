"""The tables of docs/operations/profile.md, from the pydantic models and the presets: every field, and every model."""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

from pydantic import BaseModel

from pipelines.profile import RUNS, Profile, demo, paper
from training.runtime.project import PROJECT

HOME = Path("$FUTURE_L1_HOME")
EXAMPLES = {"sft": "future_l1", "rl": "la_dapo"}
"""The runs whose values the table has."""
MAX_CHARACTERS = 60
ROOMS = ("assets", "evaluation", "pipelines", "training")
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "minItems": "at least"}
TYPES = {"integer": "integer", "number": "number", "boolean": "true or false", "string": "text", "null": "none"}
ABSENT = object()


class ProfileField(NamedTuple):
    """A field that an overlay may have: its path, type, values in the presets (else its default), and meaning."""

    path: str
    kind: str
    value: str
    meaning: str


def profile_fields() -> list[ProfileField]:
    """Every field of a profile, in the order of the models."""
    schema = Profile.model_json_schema()
    presets = {preset.name: _runs_by_name(preset.model_dump(mode="json")) for preset in (demo(HOME), paper(HOME))}
    documented = {model.__name__: _docstrings(model) for model in _models(Profile)}
    return list(_fields(schema, schema["$defs"], documented, "", presets))


def _fields(
    model: Mapping[str, Any], defs: Mapping[str, Any], documented: Mapping[str, dict[str, str]], path: str,
    presets: Mapping[str, Any],
) -> Iterator[ProfileField]:  # fmt: skip
    """The fields of a model's schema below a path; `presets` has what each preset has there, ABSENT for nothing."""
    for name, spec in model["properties"].items():
        here = f"{path}.{name}".lstrip(".")
        values = {preset: table[name] if isinstance(table, Mapping) else ABSENT for preset, table in presets.items()}
        meaning = spec.get("description") or documented[model["title"]].get(name, "")
        inner = [defs[part["$ref"].rpartition("/")[2]] for part in _parts(spec) if "$ref" in part]
        if not inner:
            default = "required" if name in model.get("required", ()) else spec.get("default")
            yield ProfileField(here, _kind(spec), _value(values, default), meaning)
            continue
        yield ProfileField(here, "table", "" if any(_is_there(value) for value in values.values()) else "none", meaning)
        for variant in inner:
            kind = variant["properties"].get("kind", {}).get("const")
            by_name = here in RUNS or "additionalProperties" in spec
            label = f"{here}.NAME" if by_name else f"{here} ({kind})" if kind and len(inner) > 1 else here
            there = {
                preset: _example(here, value) if not kind or (_is_there(value) and value["kind"] == kind) else ABSENT
                for preset, value in values.items()
            }
            yield from _fields(variant, defs, documented, label, there)


def _is_there(value: Any) -> bool:
    return value is not ABSENT and value is not None


def _example(path: str, value: Any) -> Any:
    """One of a table by name: a run's, ABSENT where there is none."""
    if path in RUNS and _is_there(value):
        return value[EXAMPLES[path]]
    return ABSENT if value == {} else value


def _parts(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A field's schema, or its alternatives; of a list or a table by name its items'."""
    alternatives = spec.get("anyOf") or spec.get("oneOf") or [spec]
    items = [(part, part.get("items") or part.get("additionalProperties") or {}) for part in alternatives]
    return [item if isinstance(item, dict) and "$ref" in item else part for part, item in items]


def _kind(spec: Mapping[str, Any]) -> str:
    """A type and its bounds, in words."""
    if alternatives := spec.get("anyOf"):
        return " or ".join(_kind(one) for one in alternatives)
    if "enum" in spec or "const" in spec:
        return ", ".join(f"`{value}`" for value in spec.get("enum", [spec.get("const")]))
    bounds = [f"{sign} {spec[name]}" for name, sign in BOUNDS.items() if name in spec and "prefixItems" not in spec]
    match spec.get("type"):
        case "array" if "prefixItems" in spec:
            kind = f"list of {len(spec['prefixItems'])}: {_kind(spec['prefixItems'][0])}"
        case "array":
            kind = f"list of {_kind(spec['items'])}"
        case "object":
            values = spec.get("additionalProperties") or next(iter(spec["patternProperties"].values()))
            kind = f"table of {_kind(values)}"
        case name:
            kind = "path" if spec.get("format") == "path" else TYPES[str(name)]
    return ", ".join([kind, *bounds]) if "minItems" in spec else " ".join([kind, ", ".join(bounds)]).strip()


def _value(values: Mapping[str, Any], default: Any) -> str:
    """What the presets have, once where it is the same; else the default."""
    texts = {preset: _text(value) for preset, value in values.items() if value is not ABSENT}
    if not texts:
        return default if default == "required" else _text(default)
    if len(set(texts.values())) == len(texts) > 1:
        return "; ".join(f"{preset} {text}" for preset, text in texts.items())
    return next(iter(texts.values()))


def _text(value: Any) -> str:
    """A value on one line, without what is of this machine."""
    if value is None or value in ([], {}, ""):
        return "none" if value is None else "empty"
    if value == sys.executable:
        return "the running Python"
    text = str(value).replace(f"{PROJECT}/", "").replace("\n", " ")
    text = text.lower() if isinstance(value, bool) else text
    return f"`{text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + ' ...'}`"


def _runs_by_name(profile: dict[str, Any]) -> dict[str, Any]:
    return profile | {kind: {run["recipe"]["name"]: run for run in profile[kind]} for kind in RUNS}


def _models(model: type) -> Iterator[type]:
    """A model, and those that its fields hold."""
    yield model
    is_model = issubclass(model, BaseModel)
    fields = [one.annotation for one in model.model_fields.values()] if is_model else get_type_hints(model).values()
    for annotation in fields:
        for part in _leaves(annotation):
            if isinstance(part, type) and (issubclass(part, BaseModel) or is_dataclass(part)):
                yield from _models(part)


def _leaves(annotation: Any) -> Iterator[Any]:
    arguments = get_args(annotation)
    yield from ([leaf for one in arguments for leaf in _leaves(one)] if arguments else [annotation])


def _docstrings(model: type) -> dict[str, str]:
    """The docstrings below the fields of a model and of its bases."""
    texts: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if base.__module__.split(".")[0] not in ROOMS or "[" in base.__name__:  # a library's, or a generic's variant
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, following in zip(tree.body, tree.body[1:], strict=False):
            match field, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[name] = " ".join(text.split())
    return texts


def fields_table() -> list[list[str]]:
    """The rows of the page's table of fields, its head first."""
    rows = [[f"`{one.path}`", one.kind, one.value, one.meaning] for one in profile_fields()]
    return [["field", "type", "value", "meaning"], *rows]


def models_table() -> list[list[str]]:
    """The rows of the page's table of the models of a paper run, its head first."""
    profile = paper(HOME)
    sft = [[f"`{run.recipe.name}`", "SFT", f"`{run.data}`", "the base model"] for run in profile.sft]
    rl = [[f"`{run.recipe.name}`", "RL", f"`{run.data}`", f"`{run.start}`"] for run in profile.rl]
    return [["model", "training", "set", "starts from"], *sft, *rl]
