"""Which tensors of a checkpoint fit which tensors of an encoder, and why the rest does not."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unreel.core.text import first_few

# What frameworks put before a backbone's names (docs/methods/tcgl.md, Where we differ). The
# first of equally good ones wins, so
# the query encoder stands before the key encoder.
PREFIXES: dict[str, tuple[str, ...]] = {
    "unreel": ("", "encoder."),
    "torchvision": ("",),
    "timm": ("",),
    "moco": ("module.encoder_q.", "encoder_q.", "module.base_encoder.", "base_encoder."),
    "swav": ("module.", ""),
    "simsiam": ("module.encoder.", "encoder."),
    "vissl": ("_feature_blocks.", "trunk._feature_blocks.", "trunk."),
    "virb": ("model.",),
    "vcop": ("module.base_network.", "base_network.", "module."),
    "tcgl": ("module.base_network.", "base_network.", "module."),
}
_MORE_PREFIXES = (
    "module.",
    "model.",
    "backbone.",
    "encoder.",
    "module.backbone.",
    "module.encoder.",
    "module.momentum_encoder.",
    "student.",
    "teacher.",
    "0.",
)

# Top-level names of what sits on a backbone while it is trained; never part of an encoder.
_HEADS = re.compile(r"(fc|heads?|classifier|(last_)?linear|projector|projection(_head)?|prototypes|predictor)(\.|$)")

_COUNTER = "num_batches_tracked"


class Misshaped(NamedTuple):
    """A tensor under the right name with another shape."""

    name: str
    found: tuple[int, ...]
    expected: tuple[int, ...]


@dataclass(frozen=True)
class MatchReport:
    """What of a checkpoint went where.

    ``matched``, ``missing`` and ``misshaped`` are names of the encoder's, ``unexpected`` and ``dropped`` of the
    checkpoint's (translated, where its source names the same layers otherwise). ``dropped`` are heads and whatever lies
    outside the stripped prefix. Batch norms' integer counters are optional and in none of the lists. ``digest`` is the
    SHA-256 of the matched tensors.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[Misshaped, ...]
    dropped: tuple[str, ...] = ()
    source: str = "auto"
    prefix: str = ""
    digest: str = ""

    @property
    def total(self) -> int:
        return len(self.matched) + len(self.missing) + len(self.misshaped)

    @property
    def coverage(self) -> float:
        """Share of the encoder's tensors that match, in [0, 1]."""
        return len(self.matched) / self.total if self.total else 0.0

    def __str__(self) -> str:
        stripped = f" (prefix {self.prefix!r} stripped)" if self.prefix else ""
        parts = [f"{len(self.matched)} of {self.total} tensors match{stripped}"]
        shapes = [f"{m.name} {list(m.found)} instead of {list(m.expected)}" for m in self.misshaped]
        kinds = (("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", shapes))
        for kind, names in (*kinds, *([("dropped", self.dropped)] if self.dropped else [])):
            parts.append(f"{len(names)} {kind}" + (f": {first_few(names, 3)}" if names else ""))
        return "; ".join(parts)


def best_prefix(names: Iterable[str], expected: Iterable[str], source: str) -> str:
    """The prefix whose removal makes most of ``names`` appear in ``expected``; the source's own come first."""
    names, wanted = set(names), set(expected)
    if source == "auto":
        listed = [p for prefixes in PREFIXES.values() for p in prefixes] + list(_MORE_PREFIXES)
        # Wrappers that are in no list: whatever stands before a name that the encoder has.
        probe = next(iter(sorted(wanted, key=len, reverse=True)), "")
        listed += sorted(n[: -len(probe)] for n in names if probe and n.endswith("." + probe))
    else:
        listed = list(PREFIXES[source])
    candidates = list(dict.fromkeys(["", *listed]))
    counts = [sum(p + n in names for n in wanted) for p in candidates]
    return candidates[counts.index(max(counts))]


# The residual nets of VCOP's and TCGL's public code: a stage's first block is ``block1`` and the others ``blocks.i``,
# and a convolution is a module around ``temporal_spatial_conv``, or around a spatial and a temporal one. Their C3D
# has our names.
_VCOP_STAGE = re.compile(r"^conv([2-5])\.(?:block1|blocks\.(\d+))\.(.+)$")
_VCOP_LAYERS = {"conv1": "conv1.0", "bn1": "conv1.1", "conv2": "conv2.0", "bn2": "conv2.1"} | {
    "downsampleconv": "downsample.0",
    "downsamplebn": "downsample.1",
}
_VCOP_HALVES = {"spatial_conv": "0", "bn": "1", "temporal_conv": "3"}


def _vcop_name(name: str, factored: bool) -> str:
    """A name of VCOP's residual nets, without prefix, under torchvision's names; other names stay."""
    stage = _VCOP_STAGE.match(name)
    if stage:
        block = 0 if stage[2] is None else int(stage[2]) + 1
        layer, rest = stage[3].split(".", 1)
        start = f"layer{int(stage[1]) - 1}.{block}.{_VCOP_LAYERS.get(layer, layer)}"
    else:
        layer, _, rest = name.partition(".")
        if layer == "conv1":
            start = "stem" if factored else "stem.0"
        elif layer == "bn1":
            start = "stem.4" if factored else "stem.1"
        else:
            return name
    inner, _, leaf = rest.partition(".")
    if inner == "temporal_spatial_conv":
        rest = leaf
    elif inner in _VCOP_HALVES and leaf:
        rest = f"{_VCOP_HALVES[inner]}.{leaf}"
    return f"{start}.{rest}"


def vcop_names(names: Iterable[str]) -> dict[str, str]:
    """Names of VCOP's and TCGL's residual nets → the same under torchvision's names; {} where ``names`` has none."""
    names = list(names)
    prefixes = {n[: n.index("conv2.block1.")] for n in names if "conv2.block1." in n}
    renamed: dict[str, str] = {}
    for prefix in prefixes:
        factored = any(n.startswith(f"{prefix}conv1.spatial_conv.") for n in names)
        for name in names:
            if name.startswith(prefix):
                renamed[name] = prefix + _vcop_name(name.removeprefix(prefix), factored)
    return renamed


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def match_state(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str = "auto"
) -> tuple[dict[str, Tensor], MatchReport]:
    """The tensors of ``state`` that fit ``expected``, under the encoder's names, and the report."""
    if source in ("auto", "vcop", "tcgl") and not any("conv2.block1." in n for n in expected):
        translated = vcop_names(state)
        state = {translated.get(n, n): t for n, t in state.items()}
    prefix = best_prefix(state, expected, source)
    inside = {n.removeprefix(prefix): n for n in state if n.startswith(prefix)}
    fitting = {n: state[inside[n]] for n, t in expected.items() if n in inside and state[inside[n]].shape == t.shape}
    misshaped = [
        Misshaped(n, tuple(state[inside[n]].shape), tuple(t.shape))
        for n, t in expected.items()
        if n in inside and n not in fitting
    ]
    matched = [n for n in fitting if not n.endswith(_COUNTER)]
    foreign = [n for n in inside if n not in expected and not n.endswith(_COUNTER)]
    report = MatchReport(
        matched=tuple(matched),
        missing=tuple(n for n in expected if n not in inside and not n.endswith(_COUNTER)),
        unexpected=tuple(inside[n] for n in foreign if not _HEADS.match(n)),
        misshaped=tuple(misshaped),
        dropped=(*(n for n in state if not n.startswith(prefix)), *(inside[n] for n in foreign if _HEADS.match(n))),
        source=source,
        prefix=prefix,
        digest=tensors_digest({n: fitting[n] for n in matched}),
    )
    return fitting, report


def _blocks(names: Iterable[str]) -> list[str]:
    """The distinct blocks (such as ``layer1.2``) that names belong to, in order; [] for names without a number."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        for i, part in enumerate(parts[:-1]):
            if part.isdigit() and i:
                found[".".join(parts[: i + 1])] = None
                break
    return list(found)


def depths(names: Iterable[str]) -> tuple[int, ...]:
    """Blocks of each stage, as ``layers`` of a ResNet counts them, from its parameters' names; () for other nets."""
    blocks: dict[int, set[str]] = {}
    for name in names:
        if found := re.match(r"(?:layer|res)(\d+)\.(\d+)\.", name):
            blocks.setdefault(int(found[1]), set()).add(found[2])
    return tuple(len(blocks[stage]) for stage in sorted(blocks))


def foreign_parts(report: MatchReport, expected: Iterable[str]) -> list[str]:
    """Unexpected names that lie inside parts the encoder has: a sign of another depth or kind, not of a head."""
    parts = {n.split(".")[0] for n in expected}
    names = [n.removeprefix(report.prefix) for n in report.unexpected]
    return [n for n in names if n.split(".")[0] in parts]


def explain(report: MatchReport, expected: Iterable[str]) -> str:
    """The likeliest reason for a poor match, as advice; empty when none stands out."""
    expected = list(expected)
    have = set(_blocks(expected))
    foreign = foreign_parts(report, expected)
    found = depths([*report.matched, *(m.name for m in report.misshaped), *foreign])
    layers = f" (the checkpoint holds layers {found}, the encoder has {depths(expected)})" if found else ""
    deeper = [b for b in _blocks(foreign) if b not in have]
    if deeper:
        has = first_few(deeper, 3)
        return f"the checkpoint is deeper: it has {has}, the encoder does not{layers}; build it with that depth"
    matched = set(_blocks(report.matched)) | set(_blocks(m.name for m in report.misshaped))
    shallower = [b for b in _blocks(report.missing) if b not in matched]
    if shallower and matched:
        lacks = first_few(shallower, 3)
        return f"the checkpoint is shallower: it lacks {lacks}{layers}; build the encoder with that depth"
    if report.misshaped and not report.missing:
        shape, wanted = report.misshaped[0].found, report.misshaped[0].expected
        if len(shape) == 4 and len(wanted) == 5:
            return "these are kernels of a 2-D net: pass inflate='mean' or inflate='center'"
        if len(shape) == len(wanted) and len(shape) >= 4 and shape[1] != wanted[1] and shape[2:] == wanted[2:]:
            return f"the checkpoint takes {shape[1]} channels there, the encoder {wanted[1]}: see in_channels and width"
        if len(shape) == len(wanted) == 5 and shape[2] != wanted[2]:
            return (
                f"its kernels span {shape[2]} frames, the encoder's {wanted[2]}: build it with those temporal kernels"
            )
        return "the checkpoint has other widths or kernels: build the encoder with its arguments"
    if not report.matched:
        return "no name matches: the checkpoint is of another architecture, or source= names the wrong kind"
    return ""
