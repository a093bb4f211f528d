"""The sections of a run's settings: one for each part, read from the signature of what builds it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from unreel.core.errors import UsageError, nearest
from unreel.core.settings import Layer, Section, Settings
from unreel.core.strict_yaml import Sections
from unreel.data.choice import choose_rows, choose_validation, open_data
from unreel.data.dataset import ClipDataset
from unreel.data.loader import ClipLoader
from unreel.data.objects import choose_tables
from unreel.methods import method_builder
from unreel.nn.going_on import go_on
from unreel.nn.initial import initial_weights
from unreel.nn.registry import encoder_builder
from unreel.train import build_optimizer
from unreel.train.backend import Backend
from unreel.train.options import Keeping, Training

COMMAND_LINE = "command line"
"""The origin of a setting that was typed."""
USUAL_METHOD = "cvrl"

# What is put in place, and no setting of the section `train`.
_WIRED = frozenset({"found", "rows", "rank", "world_size", "quarantine"})
_DATA_WIRED = frozenset(
    {"manifest", "sampler", "views", "seed", "sidecars", "aligned", "sound", "target_columns", "decoder"}
)
# Sections that belong to no method: they stay when a later layer names another one.
_OF_ALL = frozenset({"data", "encoder", "optimizer", "train"})
# Settings of a method that version 0.1 kept under another name than the part that has them now.
_RENAMED = {
    **{"views": "views.preset", "interval_scale": "clips.scale", "head_dim": "head.hidden"},
    **{"corruption": "corruption.kind", "corrupt": "corruption.which"},
}

log = logging.getLogger(__name__)


def settings_schema(method: str | None = USUAL_METHOD, *, encoder: bool = True) -> dict[str, Section]:
    """The sections of a pre-training recipe.

    Args:
        method: whose parts have sections; None leaves them out, for a method that is given as an object.
        encoder: False leaves out the encoder's, for one whose architecture has no name.
    Raises: UsageError for an unknown method, with the nearest.
    """
    schema = {
        "data": Section((open_data, choose_rows, ClipDataset, choose_tables), omit=_DATA_WIRED | {"names", "source"})
    }
    if method is not None:
        parts = method_builder(method).parts
        schema["method"] = Section(choose=method_builder, default_name=method, omit=frozenset({"encoder", *parts}))
        sections = {name: part.section(parts) for name, part in parts.items()}
        schema |= {name: section for name, section in sections.items() if section.names()}
    if encoder:
        schema["encoder"] = Section((initial_weights, go_on), choose=encoder_builder)
    schema["optimizer"] = Section(
        (build_optimizer,), omit=frozenset({"global_batch"}), exclusive=(frozenset({"lr", "lr_per_256"}),)
    )
    schema["train"] = Section(
        (Training, Backend, Keeping, ClipLoader, choose_validation),
        omit=_WIRED,
        exclusive=(frozenset({"steps", "epochs"}), frozenset({"warmup_steps", "warmup_epochs"})),
    )
    return schema


def named_method(layers: Sequence[Layer]) -> str | None:
    """The method that the last of these layers to name one names."""
    names = [layer.sections["method"]["name"] for layer in layers if "name" in layer.sections.get("method", {})]
    return str(names[-1]) if names else None


def resolve(layers: Sequence[Layer], by_name: tuple[bool, bool] = (True, True)) -> Settings:
    """Complete settings from layers, checked.

    A layer that names another method than those before it drops what they say of the method and its parts.

    Args:
        layers: in order; a later one wins.
        by_name: whether the method, and whether the encoder, has a name; False where the caller gives an object.
    Raises: UsageError as ``Settings.resolve``; and for a setting that a part has now, with its new name.
    """
    method, encoder = by_name
    schema = settings_schema((named_method(layers) or USUAL_METHOD) if method else None, encoder=encoder)
    kept: list[Layer] = []
    last = USUAL_METHOD
    for layer in layers:
        name = str(layer.sections.get("method", {}).get("name", last))
        if name != last:
            kept = [Layer(k.origin, {s: v for s, v in k.sections.items() if s in _OF_ALL}) for k in kept]
            last = name
        kept.append(layer)
    if method:
        for layer in kept:
            for key, new in moved_settings(schema, layer.sections.get("method", {})).items():
                raise UsageError(f"method.{key} is now {new}: write {_written(new, layer.origin)}")
    return Settings.resolve(schema, kept)


def _written(setting: str, origin: str) -> str:
    section, _, key = setting.partition(".")
    return f"--{setting}" if origin == COMMAND_LINE else f"{section}={{{key!r}: …}}"


def moved_settings(schema: Mapping[str, Section], given: Mapping[str, object]) -> dict[str, str]:
    """Which of these settings of version 0.1's section ``method`` a part has now: old name → SECTION.NAME."""
    own = {"name", *schema["method"].names(schema["method"].default_name)}
    homes = {key: section for section in schema.keys() - _OF_ALL - {"method"} for key in schema[section].names()}
    found = {}
    for key in given:
        new = _RENAMED.get(key) or (f"{homes[key]}.{key}" if key in homes else None)
        if key not in own and new is not None and new.partition(".")[0] in schema:
            found[key] = new
    return found


def with_parts(layers: Sequence[Layer], where: str) -> list[Layer]:
    """A file's layers with version 0.1's settings in the sections of the parts that have them now.

    Args:
        layers: those of one file. where: the file's name, for the notice.
    """
    name = named_method(layers) or USUAL_METHOD
    if not any(layer.sections.get("method") for layer in layers):
        return list(layers)
    schema = settings_schema(name)
    out: list[Layer] = []
    all_moved: dict[str, str] = {}
    for layer in layers:
        sections: Sections = {section: dict(keys) for section, keys in layer.sections.items()}
        moved = moved_settings(schema, sections.get("method", {}))
        for old, new in moved.items():
            section, _, key = new.partition(".")
            sections.setdefault(section, {}).setdefault(key, sections["method"].pop(old))
        all_moved |= moved
        out.append(Layer(layer.origin, sections))
    if all_moved:
        shown = ", ".join(f"method.{old} is now {new}" for old, new in list(all_moved.items())[:3])
        more = " …" if len(all_moved) > 3 else ""
        log.info("%s uses names of version 0.1, which were understood: %s%s", where, shown, more)
    return out


def place_overrides(
    layers: Sequence[Layer],
    overrides: Mapping[str, object],
    *,
    by_name: tuple[bool, bool] = (True, True),
    origin: str = "call",
) -> Sections:
    """Keyword overrides as sections: ``optimizer={"lr": 0.1}``, ``**{"optimizer.lr": 0.1}``, or ``lr=0.1``.

    A bare name goes to the one section that has it, from Python and from the command line (``origin``) alike.
    Raises UsageError when none or several have it, in the words of where it came from.
    """
    sections: Sections = {}
    bare: dict[str, object] = {}
    for key, value in overrides.items():
        section, dot, name = key.partition(".")
        if dot:
            sections.setdefault(section, {})[name] = value
        elif isinstance(value, Mapping):
            sections.setdefault(key, {}).update(value)
        else:
            bare[key] = value
    if not bare:
        return sections
    every = (*layers, Layer(origin, sections))
    method, encoder = by_name
    schema = settings_schema((named_method(every) or USUAL_METHOD) if method else None, encoder=encoder)
    homes: dict[str, list[str]] = {}
    for section, part in schema.items():
        names = [layer.sections.get(section, {}).get("name") for layer in every]
        if part.choose is not None:
            homes.setdefault("name", []).append(section)
        chosen = next((str(n) for n in reversed(names) if n is not None), part.default_name)
        for key in part.names(chosen):
            homes.setdefault(key, []).append(section)
    for key, value in bare.items():
        found = homes.get(key, [])
        if len(found) != 1:
            raise _not_one_home(key, found, homes, origin)
        sections.setdefault(found[0], {})[key] = value
    return sections


def _not_one_home(key: str, found: Sequence[str], homes: Mapping[str, Sequence[str]], origin: str) -> UsageError:
    typed = origin == COMMAND_LINE
    shown = f"--{key}" if typed else repr(key)
    if found:
        ways = [_written(f"{home}.{key}", origin) for home in found]
        return UsageError(f"{shown} is a setting of {' and '.join(found)}: write {' or '.join(ways)}")
    if key in _RENAMED:
        return UsageError(f"{shown} is now {_RENAMED[key]}: write {_written(_RENAMED[key], origin)}")
    close = nearest(key, homes, limit=1)
    hint = f"; did you mean {'--' * typed}{homes[close[0]][0]}.{close[0]}?" if close else ""
    return UsageError(f"unknown setting {shown}{hint}")
