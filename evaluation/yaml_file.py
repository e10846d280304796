"""Read a YAML file into a pydantic model; what is wrong is said with file, line, key and what is allowed."""

import re
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from evaluation.errors import EvaluationError

Model = TypeVar("Model", bound=BaseModel)
Location = Sequence[str | int]
_ORDER = {"extra_forbidden": 0, "missing": 2}  # a mistyped key says more than the one that is then missing
_MISFIT = "misfit"
_WORDS = {
    "too_short": "give at least {min_length}",
    "too_long": "give at most {max_length}",
    "path_type": "expected a path",
}
_MAPPING = re.compile(r"a valid dictionary( or instance of \w+)?")


def read_yaml(path: Path, model: type[Model]) -> Model:
    """Return the content of ``path`` as ``model``.

    Raises:
        EvaluationError: the file cannot be read, is no YAML, names a key twice, or does not fit the model; the
            message names file, line, key and what is allowed there.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path} cannot be read: it is no UTF-8 text (byte {error.start})") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise EvaluationError(f"{path}, line {line}: this is no YAML ({error.problem})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # e.g. the date 2024-99-99
        raise EvaluationError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if root is None or not isinstance(values, dict):
        raise EvaluationError(f"{path} is empty or no mapping; allowed keys: {', '.join(model.model_fields)}")
    _refuse_repeated_keys(path, root)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise EvaluationError(_sentence(path, root, model, error)) from error


def misfit(message: str, *keys: str) -> PydanticCustomError:
    """Return the error of a validator that is to be shown at the line of a key inside, without the value."""
    return PydanticCustomError(_MISFIT, "{message}", {"message": message, "keys": keys})


def misfit_at(path: Path, location: Location, error: Exception) -> EvaluationError:
    """Return what is wrong with a key of a file that was read before, with its line."""
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    line = 1 if root is None else _line(root, location)
    return EvaluationError(f"{path}, line {line}: {'.'.join(map(str, location))}: {error}")


def checked_sampling(sampling: str) -> str:
    """Return the name of a sampling of frames, for a validator.

    Raises:
        ValueError: there is none of that name.
    """
    from metrics.errors import UnknownNameError
    from metrics.sampling import parse_sampling

    try:
        parse_sampling(sampling)
    except UnknownNameError as error:
        raise ValueError(str(error)) from error
    return sampling


def _sentence(path: Path, root: yaml.Node, model: type[BaseModel], error: ValidationError) -> str:
    first = min(error.errors(include_url=False), key=lambda item: _ORDER.get(item["type"], 1))
    location = [part for part in first["loc"] if part != "[key]"]
    if first["type"] == _MISFIT:
        location += first["ctx"]["keys"]
    where = f"{path}, line {_line(root, location)}"
    key = ".".join(str(part) for part in location) or "the file"
    if first["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        return f"{where}: unknown key {key!r}; allowed here: {', '.join(known)}"
    if first["type"] == "missing":
        return f"{where}: the key {key!r} is missing"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in _WORDS:
        message = _WORDS[first["type"]].format(**first.get("ctx", {}))
    elif first["type"] not in (_MISFIT, "value_error"):
        message = _MAPPING.sub("a mapping", message.replace("a valid tuple", "a list"))
        message = message[:1].lower() + message[1:]
    got = first["input"]
    scalar = isinstance(got, str | int | float | bool | None)
    shown = f", got {got!r}" if scalar and first["type"] != _MISFIT else ""
    return f"{where}: {key}: {message}{shown}"


def _line(node: yaml.Node, location: Location) -> int:
    """Return the line of a key or list item; of the nearest enclosing one where it is missing."""
    line = node.start_mark.line + 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                return line
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _fields_at(model: type[BaseModel], location: Location) -> list[str]:
    """Return the keys that the model nested at ``location`` knows."""
    found: Any = model
    for part in location:
        if isinstance(part, str) and isinstance(found, type) and issubclass(found, BaseModel):
            field = found.model_fields.get(part)
            inner = _models_in(field.annotation) if field is not None else []
            found = inner[0] if inner else found
    return list(found.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (list, tuple, dict, Union, types.UnionType):
        return [model for argument in get_args(annotation) for model in _models_in(argument)]
    return []


def _refuse_repeated_keys(path: Path, node: yaml.Node) -> None:
    """Refuse a mapping that names a key twice, of which YAML would silently keep the last."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(path, item)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if key.value in seen:
            raise EvaluationError(
                f"{path}, line {key.start_mark.line + 1}: the key {key.value!r} is given twice; keep one"
            )
        seen.add(key.value)
        _refuse_repeated_keys(path, value)
