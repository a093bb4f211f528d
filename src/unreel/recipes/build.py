"""From a recipe to the parts of a run: settings are checked first, then files, then everything is built."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, cast

import torch

from unreel.core.distributed import rank, world_size
from unreel.core.errors import DataError, UsageError, nearest
from unreel.core.settings import Builder, Layer, Range, Section, Sections, Settings, describe
from unreel.core.words import counted
from unreel.data.batch import Batch
from unreel.data.contracts import SupportsViews, min_frames
from unreel.data.dataset import ClipDataset
from unreel.data.lengths import long_enough
from unreel.data.loader import ClipLoader
from unreel.data.manifest import Manifest, Source
from unreel.data.objects import choose_table, open_facts, table_name
from unreel.data.record import DataRecord
from unreel.data.split_names import count_splits, split_role, unclear_splits
from unreel.data.splits import hold_out
from unreel.data.validation import ValidationLoader
from unreel.methods import Method, create_method, method_builder
from unreel.nn import Encoder, create_encoder
from unreel.nn.initial import initial_weights
from unreel.nn.registry import ENCODERS
from unreel.recipes import list_recipes, load_recipe
from unreel.train import build_optimizer
from unreel.train import run as train_run
from unreel.train.backend import start_processes

# What a caller of `pretrain` and `ClipLoader` puts in place; everything else in their signatures is a setting.
_WIRED = frozenset(
    {
        "out",
        "settings",
        "card",
        "notes",
        "record",
        "resume",
        "validate",
        "found",
        "rows",
        "rank",
        "world_size",
        "quarantine",
    }
)
_DATA_WIRED = frozenset({"manifest", "sampler", "views", "seed", "sidecars", "aligned", "target_columns", "decoder"})
# Sections that a recipe may hold although the caller passes the object itself.
_OBJECTS = frozenset({"method", "encoder"})


def choose_rows(manifest: Manifest, *, split: str = "auto", digest: str | None = None) -> Manifest:
    """The rows to learn from.

    Args:
        manifest: all rows.
        split: "auto" takes the training split, however it is written ("Training"), and all rows where no row has a
            split; "all"; or the names of splits, separated by commas.
        digest: written by unreel into config.yaml, so that a run is not resumed on other data.

    Raises: DataError for a split that no row is in, and where "auto" cannot tell what may be learned from.
    """
    del digest
    names = [row.split for row in manifest]
    if split == "all" or (split == "auto" and not any(names)):
        return manifest
    if split != "auto":
        wanted = [name.strip() for name in split.split(",")]
        for name in wanted:
            manifest.select(split=name)
        return manifest.select(split=wanted)
    roles = [split_role(name) for name in names]
    choice = "say what to learn from: --data.split all, or the names of splits, such as --data.split "
    if "train" in roles:
        chosen = manifest.select(split="train")
        left = [name for name, role in zip(names, roles, strict=True) if not role]
        notice = f"Not learned from, beside the training split: {count_splits(left)}." if left else ""
    elif None in roles:
        cells = [(manifest.where(i), names[i]) for i, role in enumerate(roles) if role is None]
        raise unclear_splits(cells, f"Or {choice}{cells[0][1]}")
    elif "" in roles:
        chosen = manifest.subset(i for i, role in enumerate(roles) if not role)
        notice = f"Learned from: the {len(chosen)} rows without a split ({count_splits(filter(None, names))} held out)."
    else:
        found = f"no row is in a training split; there are {count_splits(names)}"
        raise DataError(f"{found}. To learn from those, {choice}{names[0]}")
    return replace(chosen, notices=(*chosen.notices, notice)) if notice else chosen


def choose_validation(
    found: Manifest, rows: Manifest, *, validation: Annotated[float, Range(ge=0)] | str = 0, seed: int = 0
) -> tuple[Manifest, Manifest | None]:
    """The rows to train on, and those to measure on while training.

    Args:
        found: all rows of the data. rows: those chosen to learn from.
        validation: how many of ``rows`` to hold out, a share of them below 1, or the name of a split of ``found``;
            0 holds out none. Groups stay whole.
        seed: of the choice; the run's.
    Raises: UsageError, DataError for an amount or a split that cannot be.
    """
    if isinstance(validation, str):
        held = found.select(split=validation)
        listed = {held.sample_id(i) for i in range(len(held))}
        return rows.subset(i for i in range(len(rows)) if rows.sample_id(i) not in listed), held
    if not validation:
        return rows, None
    mask = hold_out(rows, validation, seed=seed)
    return (
        rows.subset(i for i, out in enumerate(mask) if not out),
        rows.subset(i for i, out in enumerate(mask) if out),
    )


def choose_tables(
    manifest: Manifest, method: Method, *, boxes: str | None = None, masks: str | None = None
) -> dict[str, str]:
    """The tables of computed boxes and masks that a method reads, by name.

    Args:
        manifest: the rows to learn from. method: who asks.
        boxes: which table of boxes, where `unreel data annotate boxes` made several: its path or its name.
        masks: which table of masks.
    Raises: DataError where there is none, naming the command; UsageError where there are several, or not this one.
    """
    asked = [name for name in ("boxes", "masks") if name in (*method.sidecars, *method.aligned)]
    return {name: str(choose_table(name, manifest, boxes if name == "boxes" else masks)) for name in asked}


def _encoder_builder(name: str) -> Builder:
    return ENCODERS[name]


def settings_schema(*, method: bool = True, encoder: bool = True) -> dict[str, Section]:
    """The sections of a pre-training recipe; without those that the caller passes as objects."""
    schema = {"data": Section((choose_rows, ClipDataset, choose_tables), omit=_DATA_WIRED | {"method"})}
    if method:
        schema["method"] = Section(choose=method_builder, default_name="cvrl")
    if encoder:
        schema["encoder"] = Section((initial_weights,), choose=_encoder_builder)
    schema["optimizer"] = Section(
        (build_optimizer,), omit=frozenset({"global_batch"}), exclusive=(frozenset({"lr", "lr_per_256"}),)
    )
    schema["train"] = Section(
        (train_run.pretrain, ClipLoader, choose_validation),
        omit=_WIRED,
        exclusive=(frozenset({"steps", "epochs"}), frozenset({"warmup_steps", "warmup_epochs"})),
    )
    return schema


def place_overrides(
    schema: Mapping[str, Section], layers: Sequence[Layer], overrides: Mapping[str, object], *, origin: str = "call"
) -> Sections:
    """Keyword overrides as sections: ``optimizer={"lr": 0.1}``, ``**{"optimizer.lr": 0.1}``, or ``lr=0.1``.

    A bare name goes to the one section that has it, from Python and from the command line (``origin``) alike.
    Raises UsageError when none or several have it, in the words of where it came from.
    """
    typed = origin == COMMAND_LINE
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
    homes: dict[str, list[str]] = {}
    for section, part in schema.items():
        names = [layer.sections.get(section, {}).get("name") for layer in (*layers, Layer("call", sections))]
        if part.choose is not None:
            homes.setdefault("name", []).append(section)
        chosen = next((str(n) for n in reversed(names) if n is not None), part.default_name)
        for builder in part.resolve(chosen):
            for info in describe(builder):
                if info.name not in part.omit and section not in homes.setdefault(info.name, []):
                    homes[info.name].append(section)
    for key, value in bare.items():
        found = homes.get(key, [])
        if len(found) != 1:
            shown = f"--{key}" if typed else repr(key)
            if found:
                ways = [f"--{home}.{key}" if typed else f"{home}={{{key!r}: …}}" for home in found]
                raise UsageError(f"{shown} is a setting of {' and '.join(found)}: write {' or '.join(ways)}")
            close = nearest(key, homes, limit=1)
            hint = f"; did you mean {'--' * typed}{homes[close[0]][0]}.{close[0]}?" if close else ""
            raise UsageError(f"unknown setting {shown}{hint}")
        sections.setdefault(found[0], {})[key] = value
    return sections


def default_recipe(method: str | None = None, *, images: bool = False) -> str | None:
    """The recipe for a machine without a GPU, where the method has one.

    Args:
        method: a name; None takes CVRL, and for images SimCLR, which is CVRL without time.
        images: the data are images only: the method's recipe for images, where it has one.
    """
    known = list_recipes()
    name = method or ("simclr" if images else "cvrl")
    return next((r for r in ([f"{name}_images"] if images else []) + [f"{name}_small"] if r in known), None)


COMMAND_LINE = "command line"
"""The origin of a setting that was typed."""
# What a shortened warm-up is called in config.yaml; `core.settings.load_layers` reads it back.
SHORTENED = "shortened with"


def fit_warmup(settings: Settings, asked: Sequence[Layer], epoch_steps: float | None = None) -> Layer | None:
    """A shorter warm-up, where the caller set how long to train and the recipe's warm-up would be most of that.

    A warm-up of more than half of the run becomes a tenth of it, as in the recipes. One that the caller set himself,
    or that the recipe sets beside its own length, stays.

    Args:
        settings: complete ones. asked: the caller's own layers, over the recipe's.
        epoch_steps: optimiser steps per epoch. Without them only a length and a warm-up in one unit can be compared.

    Raises: UsageError for a warm-up that stays and is longer than the run, naming both settings and their origins.
    """
    train, origins = settings["train"], settings.origins["train"]
    if (train["epochs"] is None) == (train["steps"] is None):
        return None  # `run_length` says what is wrong
    length = "epochs" if train["steps"] is None else "steps"
    warmup = "warmup_epochs" if train["warmup_steps"] is None else "warmup_steps"
    total, start = train[length], train[warmup]
    if warmup != f"warmup_{length}":
        if epoch_steps is None:
            return None
        total = max(1, round(total * epoch_steps)) if length == "epochs" else total
        start = round(start * epoch_steps) if warmup == "warmup_epochs" else start
    tenth = round(train["epochs"] / 10, 6) if length == "epochs" else train["steps"] // 10
    own = {key for layer in asked for key, value in layer.sections.get("train", {}).items() if value is not None}
    if length in own and not own & {"warmup_epochs", "warmup_steps"} and start > total / 2:
        return Layer(f"{SHORTENED} train.{length}", {"train": {f"warmup_{length}": tenth}})
    if start <= total:
        return None
    converted = f"; that is {start:,} of {total:,} steps" if warmup != f"warmup_{length}" else ""
    raise UsageError(
        f"train.{warmup} is {train[warmup]:g} ({origins[warmup]}), longer than the whole run: train.{length} is "
        f"{train[length]:g} ({origins[length]}){converted}. Set train.warmup_{length} to less, such as {tenth:g}, or "
        f"train.{length} to more"
    )


def list_all(
    recipe: str | os.PathLike[str],
    overrides: Sequence[Layer] = (),
    *,
    call: Mapping[str, object] | None = None,
    origin: str = "call",
) -> list[dict[str, str]]:
    """Every setting of a recipe: ``setting``, ``value``, ``may be`` (type, limits, unit) and ``origin``."""
    schema = settings_schema()
    layers = [*load_recipe(recipe).layers, *overrides]
    asked = (*overrides, Layer(origin, place_overrides(schema, layers, call or {}, origin=origin)))
    layers.append(asked[-1])
    settings = Settings.resolve(schema, layers)
    shorter = fit_warmup(settings, asked)
    if shorter is not None:
        settings = Settings.resolve(schema, [*layers, shorter])
    rows = []
    for section, part in schema.items():
        name = settings[section].get("name") if part.choose is not None else None
        infos = {info.name: info for builder in reversed(part.resolve(name)) for info in describe(builder)}
        for key, value in settings.to_plain()[section].items():
            info = infos.get(key)
            may_be = " ".join(filter(None, (info.type, info.limits, info.unit))) if info is not None else "text"
            origin = settings.origins[section][key]
            shown = "none" if value is None else str(value)
            rows.append({"setting": f"{section}.{key}", "value": shown, "may_be": may_be, "origin": origin})
    return rows


@dataclass(frozen=True)
class Prepared:
    """Everything a pre-training run is made of, before its first step.

    ``source`` is where the data were found, ``num_found`` how many rows there were before ``data.split`` chose, and
    ``num_short`` how many of those it chose have fewer frames than the method's sampler needs: ``manifest`` is without
    them. ``told`` is what was decided about the splits. ``notes`` says all of it, for people. ``record`` is what all
    chosen rows and their files are, for the run's folder.
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
    def batches(self) -> Iterable[Batch]:
        """The loader, as the trainer declares it; it is asked for any step, never iterated from the beginning."""
        return cast(Iterable[Batch], self.loader)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        train = self.settings["train"]
        return train_run.run_length(
            self.batches, epochs=train["epochs"], steps=train["steps"], accumulate=train["accumulate"]
        )


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
        encoder: a name, an ``Encoder``, or None for the recipe's.
        recipe: a name or a file; by default the method's small one.
        overrides: layers over the recipe.
        call: keyword overrides over those, see ``place_overrides``. origin: where they were written.

    Raises: UsageError for wrong settings, before any file is opened; DataError for missing files or facts, or too few
        videos.
    """
    start_processes()
    own_method = method if isinstance(method, Method) else None
    if own_method is not None and encoder is not None:
        raise UsageError("a Method has its own encoder: leave out encoder=")
    own_encoder = own_method.encoder if own_method is not None else encoder if isinstance(encoder, Encoder) else None
    known_encoder = own_encoder is None or bool(own_encoder.architecture)
    schema = settings_schema(method=own_method is None, encoder=known_encoder)
    layers: list[Layer] = []
    found: Manifest | None = None
    if recipe is None and own_method is None:
        try:
            found = Manifest.open(data)  # a list of names: no file is opened
        except DataError:
            found = None  # said below, once the settings are known to be right
        images = found is not None and found.only_images
        recipe = default_recipe(method if isinstance(method, str) else _named(overrides), images=images)
    elif recipe is None:
        recipe = default_recipe()
    if recipe is not None:
        for layer in load_recipe(recipe).layers:
            sections = {s: keys for s, keys in layer.sections.items() if s in schema or s not in _OBJECTS}
            layers.append(Layer(layer.origin, sections))
    layers += overrides
    named: Sections = {}
    if isinstance(method, str):
        named["method"] = {"name": method}
    if isinstance(encoder, str):
        named["encoder"] = {"name": encoder}
    elif own_encoder is not None and known_encoder:
        named["encoder"] = {"name": own_encoder.architecture, **own_encoder.arguments}
    layers.append(Layer("call", named))
    asked = (*overrides, Layer(origin, place_overrides(schema, layers, call or {}, origin=origin)))
    layers.append(asked[-1])
    settings = Settings.resolve(schema, layers)  # before any file is looked at
    shorter = fit_warmup(settings, asked)
    if shorter is not None:
        layers.append(shorter)

    found = Manifest.open(data) if found is None else found
    manifest = choose_rows(found, **settings.arguments("data", choose_rows))
    told = manifest.notices[len(found.notices) :]
    manifest.check_files()
    source = os.path.abspath(data) if isinstance(data, str | os.PathLike) else found.root
    header = (
        f"unreel {version('unreel')}: the complete settings of a run, each with its origin.\n"
        f"To run it again: unreel pretrain {source} --recipe THIS-FILE --out NEW-RUN"
    )
    record = DataRecord.of(manifest)
    layers.append(Layer("call", {"data": {"digest": record.digest}}))
    settings = replace(Settings.resolve(schema, layers), header=header)

    train = settings["train"]
    if own_method is None and own_encoder is None:
        name = str(settings["encoder"]["name"])
        own_encoder = create_encoder(name, seed=train["seed"], **settings.arguments("encoder", _encoder_builder(name)))
    if own_encoder is not None and "encoder" in settings:
        matched = initial_weights(own_encoder, **settings.arguments("encoder", initial_weights))
        if matched is not None:
            weights = os.path.abspath(str(settings["encoder"]["weights"]))
            layers.append(Layer("call", {"encoder": {"weights": weights, "weights_digest": matched.digest}}))
    if own_method is None:
        assert own_encoder is not None
        chosen = settings["method"]
        if not chosen.get("classes", True):  # a method of labels, whose classes are the data's
            labels = sorted(set(manifest.labels(chosen["label"])) - {""})
            layers.append(Layer("call", {"method": {"classes": labels}}))
        if chosen.get("num_sources", True) is None:  # a method that remembers every training row, whatever its length
            rows, _ = choose_validation(found, manifest, **settings.arguments("train", choose_validation))
            layers.append(Layer("call", {"method": {"num_sources": len(rows)}}))
        settings = replace(Settings.resolve(schema, layers), header=header)
        name = str(settings["method"]["name"])
        own_method = create_method(name, own_encoder, seed=train["seed"], **settings.arguments("method"))
        _check_not_images(manifest, own_method, name)
    tables = choose_tables(manifest, own_method, **settings.arguments("data", choose_tables))
    if tables:
        # By name, as the settings are part of what a run is: it is not resumed with boxes of another encoder.
        layers.append(Layer("call", {"data": {n: table_name(Path(p), manifest) for n, p in tables.items()}}))
        settings = replace(Settings.resolve(schema, layers), header=header)
    manifest, short = long_enough(_labelled(manifest, own_method), min_frames(own_method.sampler))
    manifest, held = choose_validation(found, manifest, **settings.arguments("train", choose_validation))
    _check_enough_are_long(own_method, len(manifest), short, settings)
    method_of_run = own_method

    def dataset(rows: Manifest, views: SupportsViews, aligned: Sequence[str]) -> ClipDataset:
        facts = open_facts(rows, method_of_run.sidecars, aligned, tables=tables)
        return ClipDataset(
            facts.manifest,
            method_of_run.sampler,
            views,
            seed=train["seed"],
            sidecars=facts.sidecars,
            aligned=facts.aligned,
            target_columns=method_of_run.target_columns,
            **settings.arguments("data", ClipDataset),
        )

    arguments = settings.arguments("train", ClipLoader)
    training = dataset(manifest, own_method.views, own_method.aligned)
    loader = ClipLoader(training, rank=rank(), world_size=world_size(), **arguments)
    shorter = fit_warmup(settings, asked, loader.steps_per_epoch / train["accumulate"])
    if shorter is not None:
        layers.append(shorter)
        settings = replace(Settings.resolve(schema, layers), header=header)
    validation = None
    if held is not None:
        held, _ = long_enough(_labelled(held, own_method), min_frames(own_method.sampler))
        fixed = own_method.validation_views is not None and train["validation_draws"] == "fixed"
        views = own_method.validation_views if fixed else None
        validation = ValidationLoader(
            dataset(held, views if views is not None else own_method.views, ()),  # nothing is mixed there
            train["batch_size"],
            workers=train["workers"],
            timeout_s=train["timeout_s"],
            start_method=train["start_method"],
        )
    global_batch = train["batch_size"] * train["accumulate"]
    optimizer = build_optimizer(own_method, global_batch=global_batch, **settings["optimizer"])
    return Prepared(
        settings, manifest, source, len(found), own_method, loader, optimizer, short, told, validation, record
    )


def _named(layers: Sequence[Layer]) -> str | None:
    """The method that the last of these layers to name one names."""
    names = [layer.sections["method"]["name"] for layer in layers if "name" in layer.sections.get("method", {})]
    return str(names[-1]) if names else None


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
        f"{advice}; or set method.clip_frames to 1 and method.stride to 1"
    )


def _labelled(manifest: Manifest, method: Method) -> Manifest:
    """Without the rows that lack a label the method learns from."""
    for column in method.target_columns:
        manifest = manifest.subset(i for i, label in enumerate(manifest.labels(column)) if label)
    return manifest


# Settings of methods that decide how many frames a sampler needs, and which way they help.
_LENGTH_KNOBS = {"num_snippets": "fewer", "clip_frames": "shorter clips", "interval": "smaller", "stride": "smaller"}


def _check_enough_are_long(method: Method, kept: int, short: int, settings: Settings) -> None:
    batch_size = settings["train"]["batch_size"]
    if not short or kept >= batch_size:
        return
    knobs = [f"method.{name} ({way})" for name, way in _LENGTH_KNOBS.items() if name in settings.get("method", {})]
    raise DataError(
        f"shorter than the {counted(min_frames(method.sampler), 'frame')} that {method.sampler!r} needs: {short} of "
        f"{counted(kept + short, 'video')}; the {kept} left are fewer than one batch of {batch_size}. "
        f"Use longer videos, or change {', '.join([*knobs, 'train.batch_size (smaller)'])}"
    )
