"""From a recipe to the parts of a run: settings are checked first, then files, then everything is built."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from unreel.core.distributed import rank, world_size
from unreel.core.errors import DataError, UsageError
from unreel.core.settings import Layer, Settings, describe
from unreel.core.words import counted
from unreel.data.choice import choose_rows, choose_validation, long_enough, open_data, warn_of_groups
from unreel.data.columns import Columns
from unreel.data.contracts import SupportsViews, min_frames
from unreel.data.dataset import ClipDataset
from unreel.data.loader import ClipLoader
from unreel.data.manifest import Manifest, Source
from unreel.data.objects import choose_tables, open_facts, table_name
from unreel.data.record import DataRecord
from unreel.data.split_names import split_role
from unreel.data.tables import header_of
from unreel.data.validation import ValidationLoader
from unreel.methods import Method, create_method, method_builder
from unreel.methods.method import DataFacts
from unreel.nn import Encoder, create_encoder
from unreel.nn.encoder import without_weights
from unreel.nn.foreign import is_foreign, name_factory
from unreel.nn.going_on import go_on
from unreel.nn.initial import initial_weights
from unreel.nn.registry import encoder_builder
from unreel.recipes import list_recipes, load_recipe
from unreel.recipes.schema import named_method, place_overrides, resolve, settings_schema
from unreel.train import build_optimizer
from unreel.train.backend import start_processes
from unreel.train.options import Training

_FROM_DATA = "data"
"""The origin of a setting that follows from the data."""
SHORTENED = "shortened with"
"""How the origin of a shortened warm-up begins."""


def default_recipe(method: str | None = None, *, images: bool = False) -> str | None:
    """The recipe for a machine without a GPU, where the method has one.

    Args:
        method: a name; None takes CVRL, and for images SimCLR, which is CVRL without time.
        images: the data are images only: the method's recipe for images, where it has one.
    """
    known = list_recipes()
    name = method or ("simclr" if images else "cvrl")
    return next((r for r in ([f"{name}_images"] if images else []) + [f"{name}_small"] if r in known), None)


def list_all(
    recipe: str | os.PathLike[str],
    overrides: Sequence[Layer] = (),
    *,
    call: Mapping[str, object] | None = None,
    origin: str = "call",
) -> list[dict[str, str]]:
    """Every setting of a recipe: ``setting``, ``value``, ``may be`` (type, limits, unit) and ``origin``."""
    _allow_factories(None, overrides, call)
    layers = [*load_recipe(recipe).layers, *overrides]
    asked = (*overrides, Layer(origin, place_overrides(layers, call or {}, origin=origin)))
    settings = fit_warmup(resolve([*layers, asked[-1]]), asked)
    rows = []
    for section, part in settings.schema.items():
        name = settings[section].get("name") if part.choose is not None else None
        infos = {info.name: info for builder in reversed(part.resolve(name)) for info in describe(builder)}
        for key, value in settings.to_plain()[section].items():
            info = infos.get(key)
            may_be = info.expected if info is not None else "text"
            shown = "none" if value is None else str(value)
            origin = settings.origins[section][key]
            rows.append({"setting": f"{section}.{key}", "value": shown, "may_be": may_be, "origin": origin})
    return rows


@dataclass(frozen=True)
class Prepared:
    """Everything a pre-training run is made of, before its first step.

    ``source`` is where the data were found, ``num_found`` how many rows there were before ``data.split`` chose, and
    ``num_short`` how many of those it chose have fewer frames than the method's sampler needs: ``manifest`` is without
    them. ``told`` is what was decided about the splits, and what of given weights matched. ``notes`` says all of it,
    for people. ``record`` is what all chosen rows and their files are, for the run's folder.
    """

    settings: Settings
    manifest: Manifest
    source: str
    num_found: int
    method: Method
    loader: ClipLoader
    optimizer: torch.optim.Optimizer
    num_short: int = 0
    told: tuple[str, ...] = ()
    validation: ValidationLoader | None = None
    record: DataRecord | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever reads the run's results should know of its data, a sentence each."""
        if not self.num_short:
            return self.told
        held = 0 if self.validation is None else len(self.validation.dataset)
        total, needed = len(self.manifest) + held + self.num_short, min_frames(self.method.sampler)
        return (
            *self.told,
            f"Shorter than {counted(needed, 'frame')} and left out: {self.num_short} of {total} videos.",
        )

    @property
    def total_steps(self) -> int:
        return Training(**self.settings.arguments("train", Training)).total_steps(self.loader)


def prepare(
    method: str | Method | None,
    data: Source,
    *,
    encoder: str | Encoder | None = None,
    recipe: str | os.PathLike[str] | None = None,
    overrides: Sequence[Layer] = (),
    call: Mapping[str, object] | None = None,
    origin: str = "call",
) -> Prepared:
    """Check every setting, find the data and build all parts; nothing is trained or written.

    Args:
        method: a name, a ``Method``, or None for the recipe's.
        data: a folder, a manifest, or a list of paths.
        encoder: a name, an ``Encoder``, or None for the recipe's. Code that a name tells is run only when it is named
            here or in what goes over the recipe, and not where only a recipe names it.
        recipe: a name or a file; by default the method's small one.
        overrides: layers over the recipe.
        call: keyword overrides over those, see ``place_overrides``. origin: where they were written.

    Raises: UsageError for wrong settings, before any file is opened; DataError for missing files or facts, or too few
        videos.
    """
    start_processes()
    _allow_factories(encoder, overrides, call)
    own_method = method if isinstance(method, Method) else None
    if own_method is not None and encoder is not None:
        raise UsageError("a Method has its own encoder: leave out encoder=")
    own_encoder = own_method.encoder if own_method is not None else encoder if isinstance(encoder, Encoder) else None
    by_name = (own_method is None, own_encoder is None or bool(own_encoder.architecture))
    call, overrides = columns_as_settings(data, call or {}, overrides, method, origin)
    found = list_data(data, overrides) if recipe is None and own_method is None else None
    if recipe is None:
        images = found is not None and found.only_images
        named = method if isinstance(method, str) else named_method(overrides) if own_method is None else None
        recipe = default_recipe(named, images=images)
    layers = [*_recipe_layers(recipe, *by_name), *overrides, _given(method, encoder, own_encoder)]
    asked = (*overrides, Layer(origin, place_overrides(layers, call or {}, origin=origin, by_name=by_name)))
    settings = fit_warmup(resolve([*layers, asked[-1]], by_name), asked)  # before any file is looked at

    found = open_data(data, **settings.arguments("data", open_data)) if found is None else found
    warn_of_groups(found)
    rows = choose_rows(found, **settings.arguments("data", choose_rows))
    told = rows.notices[len(found.notices) :]
    rows.check_files()
    source = os.path.abspath(data) if isinstance(data, str | os.PathLike) else found.root
    header = (
        f"unreel {version('unreel')}: the complete settings of a run, each with its origin.\n"
        f"To run it again: unreel pretrain {source} --recipe THIS-FILE --out NEW-RUN"
    )
    record = DataRecord.of(rows)
    settings = replace(settings, header=header).put("data", {"digest": record.digest}, "call")
    settings, own_encoder, started = start_encoder(settings, own_encoder, seed=settings["train"]["seed"])
    if own_method is None:
        settings, own_method = _with_method(settings, own_encoder, found, rows)
    tables = choose_tables(
        rows, (*own_method.sidecars, *own_method.aligned), **settings.arguments("data", choose_tables)
    )
    if tables:
        # By name, as the settings are part of what a run is: it is not resumed with boxes of another encoder.
        settings = settings.put("data", {n: table_name(Path(p), rows) for n, p in tables.items()}, "call")

    train, needed = settings["train"], min_frames(own_method.sampler)
    manifest, short = long_enough(_labelled(rows, own_method), needed)
    manifest, held = choose_validation(found, manifest, **settings.arguments("train", choose_validation))
    _check_enough_are_long(own_method, len(manifest), short, settings)
    dataset = partial(_dataset, settings, own_method, tables)
    loader = ClipLoader(
        dataset(manifest, own_method.views, own_method.aligned),
        rank=rank(),
        world_size=world_size(),
        **settings.arguments("train", ClipLoader),
    )
    settings = fit_warmup(settings, asked, loader.steps_per_epoch / train["accumulate"])
    validation = None
    if held is not None:
        held, _ = long_enough(_labelled(held, own_method), needed)
        fixed = train["validation_draws"] == "fixed"
        views = own_method.validation_views if fixed and own_method.validation_views is not None else own_method.views
        validation = ValidationLoader(
            dataset(held, views, ()),  # nothing is mixed there
            train["batch_size"],
            workers=train["workers"],
            timeout_s=train["timeout_s"],
            start_method=train["start_method"],
        )
    optimizer = build_optimizer(
        own_method, global_batch=train["batch_size"] * train["accumulate"], **settings["optimizer"]
    )
    told = (*told, *started)
    return Prepared(
        settings, manifest, source, len(found), own_method, loader, optimizer, short, told, validation, record
    )


def _allow_factories(
    encoder: str | Encoder | None, overrides: Sequence[Layer], call: Mapping[str, object] | None
) -> None:
    """Take as named by the user what is named here, see ``unreel.nn.foreign``."""
    given = dict(call or {})
    section = given.get("encoder")
    sections = [layer.sections.get("encoder", {}) for layer in overrides]
    sections += [section] if isinstance(section, Mapping) else []
    for name in (encoder, given.get("encoder.name"), *(section.get("name") for section in sections)):
        if isinstance(name, str):
            name_factory(name)


def columns_as_settings(
    data: Source, call: Mapping[str, object], overrides: Sequence[Layer], method: str | Method | None, origin: str
) -> tuple[dict[str, object], list[Layer]]:
    """A call's ``path``, ``label``, ``group``, ``split``, ``start`` and ``end`` as settings, which a run keeps.

    ``split`` is the name of a column, or, as in ``data.split``, of the splits to learn from.
    """
    columns, others = Columns.taken(call)
    split = str(columns.split or "")
    if split and (split in ("auto", "all") or split_role(split) or split not in header_of(data)):
        columns, others["data.split"] = replace(columns, split=None), columns.split
    own = {f"{name}_column": value for name, value in vars(columns).items() if value is not None}
    sections = {"data": own} if own else {}
    name = method if isinstance(method, str) else named_method(overrides) if method is None else None
    if columns.label is not None and name and "label" in settings_schema(name)["method"].names(name):
        sections["method"] = {"label": columns.label}
    return others, [*overrides, Layer(origin, sections)] if sections else [*overrides]


def list_data(data: Source, overrides: Sequence[Layer]) -> Manifest | None:
    """The data as a list of names, without opening a file; None where that fails.

    The reason is said once the settings are known to be right.
    """
    try:
        known = {f"{f.name}_column" for f in fields(Columns)}
        own: dict[str, Any] = {
            k: v for layer in overrides for k, v in layer.sections.get("data", {}).items() if k in known
        }
        return open_data(data, **own)
    except DataError:
        return None


def _recipe_layers(recipe: str | os.PathLike[str] | None, method: bool, encoder: bool) -> list[Layer]:
    """A recipe's layers, without the sections of what the caller gives as an object."""
    if recipe is None:
        return []
    loaded = load_recipe(recipe)
    name = named_method(loaded.layers)
    left_out = set() if method else {"method", *(method_builder(name).parts if name is not None else ())}
    left_out |= set() if encoder else {"encoder"}
    return [
        Layer(layer.origin, {s: keys for s, keys in layer.sections.items() if s not in left_out})
        for layer in loaded.layers
    ]


def _given(method: str | Method | None, encoder: str | Encoder | None, own_encoder: Encoder | None) -> Layer:
    """Method and encoder as the caller gave them, where they have names."""
    named: dict[str, dict[str, object]] = {}
    if isinstance(method, str):
        named["method"] = {"name": method}
    if isinstance(encoder, str):
        named["encoder"] = {"name": encoder}
    elif own_encoder is not None and own_encoder.architecture:
        named["encoder"] = {"name": own_encoder.architecture, **own_encoder.arguments}
    return Layer("call", named)


def start_encoder(
    settings: Settings, own: Encoder | None = None, *, seed: int = 0
) -> tuple[Settings, Encoder, tuple[str, ...]]:
    """The encoder with its initial weights, the settings that say which these are, and a sentence on what matched.

    Args:
        settings: with a section ``encoder``, unless ``own`` has no name. own: an encoder that is there already.
        seed: of weights that are drawn.
    Raises: UsageError for weights that do not fit; DataError where they cannot be read.
    """
    encoder = own
    if encoder is None:
        name = str(settings["encoder"]["name"])
        arguments = settings.arguments("encoder", encoder_builder(name))
        replaced = settings["encoder"]["weights"] is not None
        encoder = create_encoder(name, seed=seed, **(without_weights(arguments) if replaced else arguments))
        if is_foreign(name):  # what its package said is a setting of the run
            said = {key: encoder.arguments[key] for key, value in arguments.items() if value is None}
            settings = settings.put("encoder", {k: v for k, v in said.items() if v is not None}, name)
    matched = None
    if "encoder" in settings:
        matched = initial_weights(encoder, **settings.arguments("encoder", initial_weights))
        go_on(encoder, **settings.arguments("encoder", go_on))
    if matched is None:
        return settings, encoder, ()
    weights = os.path.abspath(str(settings["encoder"]["weights"]))
    settings = settings.put("encoder", {"weights": weights, "weights_digest": matched.digest}, "call")
    return settings, encoder, (f"The encoder starts from {weights}: {matched}.",)


def _with_method(settings: Settings, encoder: Encoder, found: Manifest, rows: Manifest) -> tuple[Settings, Method]:
    """The method with its parts, and the settings with what follows from the data."""
    name = str(settings["method"]["name"])
    trained, _ = choose_validation(found, rows, **settings.arguments("train", choose_validation))
    values = method_builder(name).from_data(DataFacts(rows, len(trained)), settings["method"])
    if values:
        settings = settings.put("method", values, _FROM_DATA)
    method = create_method(name, encoder, seed=settings["train"]["seed"], **method_arguments(settings))
    _check_not_images(rows, method, name)
    return settings, method


def method_arguments(settings: Settings) -> dict[str, object]:
    """The keyword arguments of ``create_method``: the method's own, and a mapping of settings for each part."""
    parts = method_builder(str(settings["method"]["name"])).parts
    return {**settings.arguments("method"), **{name: dict(settings[name]) for name in parts if name in settings}}


def fit_warmup(settings: Settings, asked: Sequence[Layer], epoch_steps: float | None = None) -> Settings:
    """The settings with a shorter warm-up, where the caller set how long to train and it would be most of that.

    A warm-up of more than half of the run becomes a tenth of it, as in the recipes. One that the caller set himself,
    or that the recipe sets beside its own length, stays.

    Args:
        settings: complete ones. asked: the caller's own layers, over the recipe's.
        epoch_steps: optimiser steps per epoch. Without them only a length and a warm-up in one unit can be compared.

    Raises: UsageError for a warm-up that stays and is longer than the run, naming both settings and their origins.
    """
    train, origins = settings["train"], settings.origins["train"]
    if (train["epochs"] is None) == (train["steps"] is None):
        return settings  # `run_length` says what is wrong
    length = "epochs" if train["steps"] is None else "steps"
    warmup = "warmup_epochs" if train["warmup_steps"] is None else "warmup_steps"
    total, start = train[length], train[warmup]
    if warmup != f"warmup_{length}":
        if epoch_steps is None:
            return settings
        total = max(1, round(total * epoch_steps)) if length == "epochs" else total
        start = round(start * epoch_steps) if warmup == "warmup_epochs" else start
    tenth = round(train["epochs"] / 10, 6) if length == "epochs" else train["steps"] // 10
    own = {key for layer in asked for key, value in layer.sections.get("train", {}).items() if value is not None}
    if length in own and not own & {"warmup_epochs", "warmup_steps"} and start > total / 2:
        return settings.put("train", {f"warmup_{length}": tenth}, f"{SHORTENED} train.{length}")
    if start <= total:
        return settings
    converted = f"; that is {start:,} of {total:,} steps" if warmup != f"warmup_{length}" else ""
    raise UsageError(
        f"train.{warmup} is {train[warmup]:g} ({origins[warmup]}), longer than the whole run: train.{length} is "
        f"{train[length]:g} ({origins[length]}){converted}. Set train.warmup_{length} to less, such as {tenth:g}, or "
        f"train.{length} to more"
    )


def _dataset(
    settings: Settings,
    method: Method,
    tables: Mapping[str, str],
    rows: Manifest,
    views: SupportsViews,
    aligned: Sequence[str],
) -> ClipDataset:
    facts = open_facts(rows, method.sidecars, aligned, tables=tables)
    return ClipDataset(
        facts.manifest,
        method.sampler,
        views,
        seed=settings["train"]["seed"],
        sidecars=facts.sidecars,
        aligned=facts.aligned,
        target_columns=method.target_columns,
        **settings.arguments("data", ClipDataset),
    )


def _check_not_images(manifest: Manifest, method: Method, name: str) -> None:
    frames = method.encoder.input_spec.num_frames
    if (frames == 1 and min_frames(method.sampler) == 1) or not manifest.only_images:
        return
    fitting = [r.removesuffix("_images") for r in list_recipes("*_images")]
    first = str(default_recipe(images=True)).removesuffix("_images")
    other = f"take --method {first} and leave --recipe out (methods for images: {', '.join(fitting)})"
    if min_frames(method.sampler) > 1:
        raise UsageError(
            f"{name} learns from what changes in time, and all {len(manifest)} files here are images: {other}"
        )
    advice = f"take --recipe {name}_images" if name in fitting else other
    raise UsageError(
        f"all {len(manifest)} files here are images, and each of {name}'s clips would show one of them {frames} times: "
        f"{advice}; or set clips.clip_frames to 1 and clips.stride to 1"
    )


def _labelled(manifest: Manifest, method: Method) -> Manifest:
    """Without the rows that lack a label the method learns from."""
    for column in method.target_columns:
        manifest = manifest.subset(i for i, label in enumerate(manifest.labels(column)) if label)
    return manifest


# Settings of clips that decide how many frames a sampler needs, and which way they help.
_LENGTH_KNOBS = {"num_snippets": "fewer", "clip_frames": "shorter clips", "interval": "smaller", "stride": "smaller"}


def _check_enough_are_long(method: Method, kept: int, short: int, settings: Settings) -> None:
    batch_size = settings["train"]["batch_size"]
    if not short or kept >= batch_size:
        return
    home = "clips" if "clips" in settings else "method"
    knobs = [f"{home}.{name} ({way})" for name, way in _LENGTH_KNOBS.items() if name in settings.get(home, {})]
    raise DataError(
        f"shorter than the {counted(min_frames(method.sampler), 'frame')} that {method.sampler!r} needs: {short} of "
        f"{counted(kept + short, 'video')}; the {kept} left are fewer than one batch of {batch_size}. "
        f"Use longer videos, or change {', '.join([*knobs, 'train.batch_size (smaller)'])}"
    )
