"""Settings are constructor arguments: read from signatures, checked before anything starts, written with their origin.

There is no second copy of a default. A setting's type, range and unit stand in the signature that uses it, as
``Annotated[float, Range(gt=0, unit="s")]`` or any pydantic or annotated_types metadata. A recipe is a flat YAML
mapping, two levels deep: a section per constructor, a value per keyword argument; ``name`` chooses the constructor.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from os import PathLike
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from unreel.core.errors import UsageError, nearest, unknown_name
from unreel.core.files import write_whole
from unreel.core.strict_yaml import Sections, load_sections

Builder: TypeAlias = Callable[..., object]
Values: TypeAlias = Mapping[str, object]
ORIGINS = "origins.json"
"""Beside a run's config.yaml: section → setting → where its value came from."""

_Given: TypeAlias = tuple[object, str]  # a value and its origin


@dataclass(frozen=True)
class Setting:
    """One setting, as a signature has it. ``default`` is ``inspect.Parameter.empty`` where there is none."""

    name: str
    hint: Any
    adapter: TypeAdapter[Any]
    default: object

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def type(self) -> str:
        """What it may be, as people read it: "number or none"."""
        return _type_name(self.hint)

    @property
    def limits(self) -> str:
        """ "> 0, ≤ 1"; empty without any."""
        found = [
            f"{sign} {bound:g}"
            for entry in _metadata(self.hint)
            for name, sign in _SIGNS.items()
            if isinstance(bound := getattr(entry, name, None), int | float)
        ]
        return ", ".join(dict.fromkeys(found))

    @property
    def unit(self) -> str:
        """ "frames"; empty without one."""
        return next((entry.unit for entry in _metadata(self.hint) if getattr(entry, "unit", "")), "")

    @property
    def expected(self) -> str:
        """Type, limits and unit."""
        return " ".join(filter(None, (self.type, self.limits, self.unit)))


# --- signatures -------------------------------------------------------------------------------------------------


def _type_hints(function: Callable[..., object]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    # A name imported for type checkers only, or an alias of such: that parameter is an object, the others still count.
    except (NameError, TypeError):
        hints: dict[str, Any] = {}
        for name, annotation in getattr(function, "__annotations__", {}).items():
            try:
                hints[name] = get_type_hints(
                    type("_One", (), {"__annotations__": {name: annotation}}),
                    globalns=getattr(function, "__globals__", {}),
                    include_extras=True,
                )[name]
            except (NameError, TypeError):
                hints[name] = object
        return hints


def _settable(hint: Any) -> Any:
    """The part of a type that a recipe can hold: functions are wired in Python. ``object`` when nothing is left."""
    origin = get_origin(hint)
    if origin is Callable or hint is Callable:
        return object
    if origin is Annotated:
        inner, *metadata = get_args(hint)
        kept = _settable(inner)
        return kept if kept is object else Annotated[(kept, *metadata)]
    if _is_union(hint):
        members = [_settable(a) for a in get_args(hint)]
        kept_members = [m for m in members if m is not object]
        if not any(m is not type(None) for m in kept_members):
            return object
        return Union[tuple(kept_members)]  # noqa: UP007 - built from a list
    return hint


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def own_parameters(builder: Builder) -> tuple[dict[str, Setting], bool]:
    """The settable parameters of a signature by name, and whether it takes further keywords."""
    function = builder.__init__ if inspect.isclass(builder) else builder
    hints = _type_hints(function)
    found: dict[str, Setting] = {}
    open_ended = False
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            open_ended = True
        if name == "self" or parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
            continue
        hint = _settable(hints.get(name, Any))
        if hint is object:
            continue
        try:
            adapter = TypeAdapter(hint)
        except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
            continue  # an object (an encoder, a tensor): wired in Python, never a setting
        if parameter.default is inspect.Parameter.empty and hint is Any:
            continue
        found[name] = Setting(name, hint, adapter, parameter.default)
    return found, open_ended


@lru_cache(maxsize=256)
def _parameters(builder: Builder) -> Mapping[str, Setting]:
    """The settable parameters of a constructor; ``**kwargs`` are followed into the class the function returns."""
    found, open_ended = own_parameters(builder)
    if open_ended and not inspect.isclass(builder):
        target = _type_hints(builder).get("return")
        if inspect.isclass(target):
            found = {**own_parameters(target)[0], **found}
    return found


def _merged(builders: Sequence[Builder]) -> dict[str, Setting]:
    """The settings of several constructors; the first default counts, and what is required once is required."""
    merged: dict[str, Setting] = {}
    for builder in builders:
        for name, parameter in _parameters(builder).items():
            if name not in merged or (parameter.required and not merged[name].required):
                merged[name] = parameter
    return merged


def _plain(hint: Any, value: object) -> object:
    """A default or a validated value as YAML can hold it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(Any, item) for item in value]
    return TypeAdapter(hint).dump_python(value, mode="json")


def _type_name(hint: Any) -> str:
    if hint is None or hint is type(None):
        return "none"
    origin = get_origin(hint)
    if origin is Annotated:
        return _type_name(get_args(hint)[0])
    if origin is Literal:
        return " | ".join(str(a) for a in get_args(hint))
    if _is_union(hint):
        return " or ".join(_type_name(a) for a in get_args(hint))
    if origin in (tuple, list) or (inspect.isclass(origin) and issubclass(origin, Sequence)):
        arguments = [a for a in get_args(hint) if a is not Ellipsis]
        if origin is tuple and Ellipsis not in get_args(hint):
            return "(" + ", ".join(_type_name(a) for a in arguments) + ")"
        return f"list of {_type_name(arguments[0])}" if arguments else "list"
    if origin is not None:
        return str(getattr(origin, "__name__", origin)).lower()
    plain = {int: "integer", float: "number", bool: "true or false", str: "text", Any: "any value"}
    return plain.get(hint, str(getattr(hint, "__name__", hint)))


_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def _metadata(hint: Any) -> Iterator[Any]:
    """What annotations say beside the type, those of nested types included."""
    inside = get_args(hint) if get_origin(hint) is not Literal else ()
    if get_origin(hint) is Annotated:
        inner, *metadata = inside
        for entry in metadata:
            yield from (entry, *getattr(entry, "metadata", ()))
        inside = (inner,)
    for argument in inside:
        yield from _metadata(argument)


def describe(builder: Builder) -> list[Setting]:
    """The settings a constructor takes, in the order of its signature."""
    return [*_parameters(builder).values()]


def defaults(builder: Builder) -> dict[str, object]:
    """The default of every setting that has one, as plain values."""
    return {p.name: _plain(p.hint, p.default) for p in _parameters(builder).values() if not p.required}


# --- checking ---------------------------------------------------------------------------------------------------


def _options(hint: Any) -> list[object]:
    """What a ``Literal`` may be, alone or in a union."""
    return [a for part in (hint, *get_args(hint)) if get_origin(part) is Literal for a in get_args(part)]


def refusal(name: str, parameter: Setting, value: object, error: ValidationError) -> UsageError:
    """The error for a value that pydantic refused: what was expected, and what was given."""
    details = error.errors()
    shown = repr(value) if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    first = details[0]
    kind, context, inner = first["type"], first.get("ctx", {}), first["input"]
    kinds = {d["type"] for d in details}
    where = "".join(f"[{i}]" for i in first["loc"] if isinstance(i, int))
    if kind == "literal_error" and len(kinds) == 1:
        options = _options(parameter.hint)
        close = nearest(inner, [str(o) for o in options]) if isinstance(inner, str) else []
        tail = f"; did you mean {close[0]!r}?" if close else ""
        found = repr(inner) if isinstance(inner, str) else shown
        return UsageError(f"{name}{where} must be one of {', '.join(map(str, options))}, got {found}{tail}")
    if len(details) == 1:
        bounds = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
        if kind in bounds:
            key = bounds[kind]
            found = shown if not where else json.dumps(inner, default=str)
            bound = f"{_SIGNS[key]} {context[key]:g} {parameter.unit}".rstrip()
            return UsageError(f"{name}{where} must be {bound}, got {found}")
        if kind in ("value_error", "assertion_error"):
            return UsageError(f"{name}: {context.get('error', first['msg'])}, got {shown}")
    return UsageError(f"{name} must be {parameter.expected}, got {shown}")


def validate(builder: Builder, values: Values, where: str = "") -> dict[str, Any]:
    """Check settings against a constructor's signature and convert them to its types.

    Only the given keys come back; call the constructor with them and its own defaults fill the rest.

    Args:
        builder: a class or a function with annotated parameters.
        values: setting → value, as read from YAML or a command line (numbers may still be text).
        where: the section's name, put before each key in errors.

    Raises: UsageError for an unknown key (with the nearest one) or a refused value (with what was expected).
    """
    return _check(_parameters(builder), values, where)


def _near_settings(name: str, prefix: str, known: Iterable[str], elsewhere: Mapping[str, str]) -> list[str]:
    """Settings that may be meant, best first: the same name in another section, one like it here, one there."""
    here = [key for key in sorted(known) if key.startswith(name)] + nearest(name, known, cutoff=0.6)
    there = [elsewhere[key] for key in nearest(name, elsewhere, cutoff=0.8)]
    same = [elsewhere[name]] if name in elsewhere else []
    return list(dict.fromkeys([*same, *(prefix + key for key in here)] or there))[:3]


def _check(
    known: Mapping[str, Setting], values: Values, where: str, elsewhere: Callable[[], Mapping[str, str]] = dict
) -> dict[str, Any]:
    prefix = f"{where}." if where else ""
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            close = _near_settings(name, prefix, known, elsewhere())
            if close:
                hint = f"did you mean {' or '.join(close)}?"
            else:
                hint = f"known: {', '.join(prefix + k for k in sorted(known)) or 'none'}."
            raise UsageError(f"unknown setting {prefix}{name}; {hint}")
        parameter = known[name]
        try:
            checked[name] = parameter.adapter.validate_python(value)
        except ValidationError as error:
            if value is not None or "none" not in _options(parameter.hint):
                raise refusal(prefix + name, parameter, value, error) from None
            checked[name] = "none"  # what a command line or YAML takes for nothing is an option here
    return checked


# --- complete settings ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """One section of the settings: the arguments of one or several constructors, of which ``name`` may choose one.

    Attributes:
        builders: whose arguments the section holds; one argument may belong to several.
        choose: name → a further constructor, raising UsageError (with the nearest names) for an unknown one.
        default_name: what ``choose`` gets when no layer names one.
        omit: arguments that the caller puts in place himself although their type is plain.
        exclusive: groups of arguments of which one is given: a layer that sets one drops what earlier layers set for
            the others ("steps" on the command line replaces "epochs" of the recipe).
        defaults: values that take the place of the constructors' own defaults.
    """

    builders: tuple[Builder, ...] = ()
    choose: Callable[[str], Builder] | None = None
    default_name: str | None = None
    omit: frozenset[str] = frozenset()
    exclusive: tuple[frozenset[str], ...] = ()
    defaults: Mapping[str, object] = field(default_factory=dict)

    def names(self, name: str | None = None) -> list[str]:
        """What the section's settings are called, where ``name`` chooses."""
        return [key for key in _merged(self.resolve(name)) if key not in self.omit]

    def resolve(self, name: str | None) -> tuple[Builder, ...]:
        if self.choose is None:
            return self.builders
        if name is None:
            raise UsageError("is missing; say which one to use")
        return (self.choose(name), *self.builders)

    def merge(self, earlier: dict[str, _Given], later: Mapping[str, _Given]) -> None:
        """Put a later layer's values over earlier ones, in place."""
        if self.choose is not None and "name" in later:
            old = earlier["name"][0] if "name" in earlier else self.default_name
            if old != later["name"][0]:
                earlier.clear()
        for group in self.exclusive:
            if any(later[key][0] is not None for key in group & later.keys()):
                for key in group - later.keys():
                    earlier.pop(key, None)
        earlier.update(later)


@dataclass(frozen=True)
class Layer:
    """Settings from one place; a later layer wins. ``origin`` is "recipe NAME", "command line" or "call"."""

    origin: str
    sections: Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class Settings(Mapping[str, Mapping[str, Any]]):
    """Complete settings, two levels deep, with the origin of every value.

    ``settings["method"]`` maps each argument to a value of the type its constructor asks for. A section whose
    ``name`` a later layer changes starts again from that constructor's own defaults. ``header`` is written as comments
    at the top of config.yaml. ``schema`` is what the values were checked against.
    """

    typed: dict[str, dict[str, Any]]
    origins: dict[str, dict[str, str]]
    plain: dict[str, dict[str, object]] = field(repr=False)
    header: str = ""
    schema: Mapping[str, Section] = field(default_factory=dict, repr=False)

    @classmethod
    def resolve(cls, schema: Mapping[str, Section], layers: Sequence[Layer], *, header: str = "") -> Settings:
        """Merge layers over the constructors' defaults and check every value.

        Raises: UsageError for an unknown section or key (with the nearest one), a refused or a missing value.
        """
        given: dict[str, dict[str, _Given]] = {section: {} for section in schema}
        for layer in layers:
            for section, keys in layer.sections.items():
                if section not in schema:
                    raise unknown_name("section", section, schema)
                schema[section].merge(given[section], {key: (value, layer.origin) for key, value in keys.items()})
        settings = cls({}, {}, {}, header, schema)
        for section, part in schema.items():
            settings._complete(section, part, given[section], partial(_names_elsewhere, schema, given, section))
        return settings

    def put(self, section: str, values: Values, origin: str) -> Settings:
        """The same settings with a few values of one section in the place of what they were."""
        part, origins = self.schema[section], self.origins[section]
        given = {key: (value, origins[key]) for key, value in self.typed[section].items() if origins[key] != "default"}
        part.merge(given, {key: (value, origin) for key, value in values.items()})
        changed = replace(self, typed={**self.typed}, origins={**self.origins}, plain={**self.plain})
        changed._complete(section, part, given, dict)
        return changed

    def _complete(
        self, section: str, part: Section, given: Mapping[str, _Given], elsewhere: Callable[[], Mapping[str, str]]
    ) -> None:
        typed: dict[str, Any] = {}
        plain: dict[str, object] = {}
        origins: dict[str, str] = {}
        entries = dict(given)
        name: str | None = None
        if part.choose is not None:
            chosen, origin = entries.pop("name", (part.default_name, "default"))
            if chosen is not None:
                name = typed["name"] = plain["name"] = str(chosen)
                origins["name"] = origin
        try:
            parameters = _merged(part.resolve(name))
        except UsageError as error:
            raise UsageError(f"{section}.name {error}" if name is None else f"{section}.name: {error}") from None
        wired = sorted(part.omit & entries.keys())
        if wired:
            raise UsageError(f"{section}.{wired[0]} is not a setting: unreel fills it in itself")
        parameters = {key: p for key, p in parameters.items() if key not in part.omit}
        checked = _check(parameters, {key: value for key, (value, _) in entries.items()}, section, elsewhere)
        for key, parameter in parameters.items():
            if key in checked:
                typed[key], origins[key] = checked[key], entries[key][1]
            elif key in part.defaults:
                typed[key], origins[key] = part.defaults[key], "default"
            elif parameter.required:
                raise UsageError(f"{section}.{key} is missing; expected {parameter.type}")
            else:
                typed[key], origins[key] = parameter.default, "default"
            plain[key] = _plain(parameter.hint, typed[key])
        self.typed[section], self.plain[section], self.origins[section] = typed, plain, origins

    def __getitem__(self, section: str) -> Mapping[str, Any]:
        return self.typed[section]

    def __iter__(self) -> Iterator[str]:
        return iter(self.typed)

    def __len__(self) -> int:
        return len(self.typed)

    def arguments(self, section: str, builder: Builder | None = None) -> dict[str, Any]:
        """A section's keyword arguments for a constructor: those it takes, or all of them but a chooser's ``name``."""
        values = self.typed[section]
        if builder is not None:
            return {key: values[key] for key in _parameters(builder) if key in values}
        return {key: value for key, value in values.items() if key != "name"}

    def to_plain(self) -> dict[str, dict[str, object]]:
        """The same as plain values (JSON and YAML can hold them)."""
        return {section: dict(keys) for section, keys in self.plain.items()}

    def to_yaml(self) -> str:
        """YAML text, one value a line, each with its origin as a comment for people."""
        lines = [f"# {line}".rstrip() for line in self.header.splitlines()]
        for section, keys in self.plain.items():
            lines.append(f"{section}:" if keys else f"{section}: {{}}")
            entries = [f"  {key}: {_flow(value)}" for key, value in keys.items()]
            width = min(48, max((len(e) for e in entries), default=0))
            for entry, origin in zip(entries, self.origins[section].values(), strict=True):
                lines.append(f"{entry:<{width}}  # {origin}")
        return "\n".join(lines) + "\n"

    def dump(self, path: str | PathLike[str]) -> None:
        """Write config.yaml, and beside it origins.json, by which ``load_layers`` tells where each value came from."""
        write_whole(Path(path).with_name(ORIGINS), json.dumps(self.origins, indent=1) + "\n")
        write_whole(path, self.to_yaml())


def _names_elsewhere(
    schema: Mapping[str, Section], given: Mapping[str, Mapping[str, _Given]], section: str
) -> dict[str, str]:
    """What other sections' settings are called: name → SECTION.NAME, the first section that has it."""
    found: dict[str, str] = {}
    for other, part in schema.items():
        name = given[other].get("name", (part.default_name, ""))[0]
        try:
            builders = part.resolve(None if name is None else str(name)) if other != section else ()
        except UsageError:
            continue  # said when that section's turn comes
        for builder in builders:
            for key in _parameters(builder).keys() - part.omit:
                found.setdefault(key, f"{other}.{key}")
    return found


def _flow(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1_000_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("...").strip()


def load_layers(path: str | PathLike[str]) -> list[Layer]:
    """A recipe as one layer; a run's config.yaml as one layer per origin in the origins.json beside it.

    Values a run took from defaults keep that origin: the run is the same even if a default changes later.
    """
    file = Path(path)
    sections = load_sections(file)
    origin = f"recipe {file.stem}"
    marks = read_origins(file)
    split: dict[str, Sections] = {}
    for section, keys in sections.items():
        for key, value in keys.items():
            place = marks.get(section, {}).get(key, origin)
            split.setdefault(place, {}).setdefault(section, {})[key] = value
    # The names go first, because a changed name empties its section; then the defaults, because one of two alternatives
    # may have a default that must not push the other one out.
    order = sorted(split, key=lambda place: place != "default")
    layers = [Layer(place, split[place]) for place in order]
    named = {s: k["name"] for s, k in sections.items() if "name" in k}
    first = Layer(origin, {s: {"name": n} for s, n in named.items()})
    return [first, *layers] if named else layers


def read_origins(path: str | PathLike[str]) -> dict[str, dict[str, str]]:
    """Where the values of a run's config.yaml came from; nothing for a file of another name, or where it is unknown."""
    file = Path(path)
    if file.name != "config.yaml":
        return {}
    try:
        found = json.loads(file.with_name(ORIGINS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
