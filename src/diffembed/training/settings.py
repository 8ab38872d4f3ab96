"""One dataclass is the whole truth of a config: YAML reads into it, its docstrings become help and YAML comments.

Read `read_config`. Works for any frozen keyword-only dataclass with a docstring per field; knows nothing of training.
"""

import ast
import dataclasses
import inspect
import os
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from diffembed.errors import ConfigError, UnknownNameError

Config = TypeVar("Config")
LINE_WIDTH = 118
VARIABLE = re.compile(r"\$\{(\w+)\}")


def read_config(cls: type[Config], path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """The config in a YAML file, with `section.field=value` overrides on top.

    Raises ConfigError or UnknownNameError that name the file, the section, the field, and the nearest known one.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"no config file {path}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no YAML: {error}") from error
    loaded = _load_yaml(text, str(path))
    values = {} if loaded is None else loaded
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold fields and values, not a {type(values).__name__}")
    for override in overrides:
        _override(cls, values, override)
    return make_config(cls, values, str(path))


def make_config(cls: type[Config], values: Mapping[str, Any], origin: str = "config") -> Config:
    """An instance of a config class from plain values; `origin` is named in errors."""
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    arguments = {}
    for name, value in values.items():
        if name not in known:
            raise UnknownNameError(f"{origin}: {UnknownNameError.of('field', str(name), tuple(known))}")
        arguments[name] = _convert(hints[name], value, f"{origin}: {name}")
    for name, field in known.items():
        if name not in arguments and _is_required(field):
            raise ConfigError(f"{origin}: field {name!r} is missing; {field_docs(cls)[name]}")
    try:
        return cls(**arguments)
    except (ConfigError, UnknownNameError) as error:
        raise type(error)(f"{origin}: {error}") from error


def field_docs(cls: type) -> dict[str, str]:
    """Field -> docstring, in one line. Every field has one: a missing docstring is a mistake of ours."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        if dataclasses.is_dataclass(base):
            source: Any = base
            body = ast.parse(textwrap.dedent(inspect.getsource(source))).body[0]
            assert isinstance(body, ast.ClassDef)
            for line, following in zip(body.body, body.body[1:], strict=False):
                if isinstance(line, ast.AnnAssign) and isinstance(following, ast.Expr):
                    assert isinstance(line.target, ast.Name) and isinstance(following.value, ast.Constant)
                    docs[line.target.id] = " ".join(str(following.value.value).split())
    missing = [field.name for field in dataclasses.fields(cls) if field.name not in docs]
    assert not missing, f"{cls.__name__} has no docstring for {', '.join(missing)}"
    return docs


def describe(cls: type, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(dotted name, type, default, docstring) of every field, sections and lists of them opened; --fields prints it."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if section := _section(hints[field.name]):
            yield from describe(section, f"{prefix}{field.name}.")
        else:
            default = "required" if _is_required(field) else str(_plain(_default(field)))
            yield prefix + field.name, _type_text(hints[field.name]), default, field_docs(cls)[field.name]
            if typing.get_origin(hints[field.name]) is tuple and (
                item := _section(typing.get_args(hints[field.name])[0])
            ):
                yield from describe(item, f"{prefix}{field.name}[].")


def write_yaml(config: Any) -> str:
    """The config as YAML in which each field stands under its docstring; reads back as the same config."""
    return "\n".join(_yaml_lines(config, 0)) + "\n"


def resolve_path(text: str) -> Path:
    """The path a config names, with `~` and `${VARIABLE}` filled in; raises ConfigError for an unset variable."""
    for name in VARIABLE.findall(text):
        if not os.environ.get(name):
            raise ConfigError(f"{text} needs the environment variable {name}, which is not set")
    return Path(VARIABLE.sub(lambda match: os.environ[match[1]], text)).expanduser()


def resolve_name(name: str) -> str:
    """A model name, hub id or folder, with `~` and `${VARIABLE}` filled in."""
    return str(resolve_path(name)) if VARIABLE.search(name) or name.startswith("~") else name


def _load_yaml(text: str, origin: str) -> Any:
    """What a YAML text holds. A key that stands twice is refused: YAML would keep the last and say nothing."""
    import yaml

    class Loader(yaml.SafeLoader):
        # Looked at before `<<` is filled in: what a mapping takes over, it may also say itself.
        def compose_mapping_node(self, anchor: dict[Any, Any]) -> Any:
            node: Any = super().compose_mapping_node(anchor)
            lines: dict[str, int] = {}
            for key, _ in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if name in lines:
                    raise ConfigError(
                        f"{origin}: line {line} names {name!r} again, which stands in line {lines[name]} of the same "
                        "section; each key may stand once, so rename one or take it out"
                    )
                lines[name] = line
            return node

    try:
        return yaml.load(text, Loader)
    # ValueError: a date that does not exist.
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{origin} is no YAML: {' '.join(str(error).split())}") from error


def _yaml_lines(config: Any, depth: int) -> Iterator[str]:
    import yaml

    indent = "  " * depth
    docs = field_docs(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        yield from (f"{indent}# {line}" for line in textwrap.wrap(docs[field.name], LINE_WIDTH - len(indent)))
        if dataclasses.is_dataclass(value):
            yield f"{indent}{field.name}:"
            yield from _yaml_lines(value, depth + 1)
        else:
            text = yaml.safe_dump({field.name: _plain(value)}, sort_keys=False, allow_unicode=True, width=LINE_WIDTH)
            yield textwrap.indent(text.rstrip(), indent)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _override(cls: type, values: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"{override!r} sets nothing; write it as section.field=value")
    *sections, last = name.strip().split(".")
    here, section_cls = values, cls
    for section in sections:
        hints = typing.get_type_hints(section_cls)
        if section not in hints:
            raise UnknownNameError.of("field", section, tuple(hints))
        found = _section(hints[section])
        if found is None:
            raise ConfigError(f"{override!r}: {section} is a field, not a section")
        section_cls = found
        inner = here.get(section)
        # Copied, so that an override never reaches back into what the caller holds.
        here[section] = here = dict(inner) if isinstance(inner, dict) else {}
    here[last] = _load_yaml(text, f"override {override!r}")


def _convert(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type, or a ConfigError that says what was expected."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        options = [option for option in arguments if option is not type(None)]
        if value is None and len(options) < len(arguments):
            return None
        assert len(options) == 1, "a config field is one type, or that type or None"
        return _convert(options[0], value, where)
    if origin is Literal:
        if value not in arguments:
            raise UnknownNameError(f"{where}: {UnknownNameError.of('choice', str(value), tuple(map(str, arguments)))}")
        return value
    if origin is tuple:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ConfigError(f"{where} must be a list, received {value!r}")
        return tuple(_convert(arguments[0], item, f"{where}[{place}]") for place, item in enumerate(items))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must hold names and values, received {value!r}")
        return {str(key): _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if section := _section(kind):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is a section with fields, received {value!r}")
        return make_config(section, value, where)
    return _convert_scalar(kind, value, where)


def _convert_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    if kind is float:
        # YAML 1.1 reads 1e-4 as text, since it wants 1.0e-4.
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                pass
        elif isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise ConfigError(f"{where} must be {_type_text(kind)}, received {value!r}")


def _section(kind: Any) -> type | None:
    """The config class of a section or an optional section; None for a plain field."""
    options = typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else (kind,)
    sections = [option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)]
    return sections[0] if sections else None


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _type_text(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if option is type(None) else _type_text(option) for option in arguments)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin is tuple:
        return f"list of {_type_text(arguments[0])}"
    if origin in (dict, Mapping):
        return f"mapping of names to {_type_text(arguments[1])}"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "any value"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))
