"""Do exported graphs give the numbers of their modules? Every encoder of ``unreel models``, as ONNX and torch.export.

    python benchmarks/exports.py                # 6 minutes; writes docs/results/exports.json and exports.md
    python benchmarks/exports.py --render       # the page again, from the JSON

Ten clips of noise go through each; what is kept is the largest difference of any number, or why there is no graph.
The nets are as they are built by default, their input cut to 64 pixels, which changes no weight.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, arguments, fill, load, save

from unreel.core.errors import UnreelError
from unreel.nn import create_encoder, list_encoders
from unreel.protocols.portable import SUFFIXES, TOLERANCE, GraphFormat, export_graph

SIZE_PX = 64


def measure(name: str, format: GraphFormat) -> dict[str, Any]:
    encoder = create_encoder(name, seed=0).eval()
    encoder.input_spec = replace(encoder.input_spec, size_px=min(encoder.input_spec.size_px, SIZE_PX))
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"net{SUFFIXES[format]}"
        try:
            found: dict[str, Any] = {"difference": export_graph(encoder, target, format=format)}
            found["mib"] = round(target.stat().st_size / 2**20, 1)
        except UnreelError as error:
            found = {"refused": str(error)}
    return {"encoder": name, "format": format, **found, "seconds": round(time.monotonic() - start, 1)}


def render(found: Mapping[str, Any]) -> str:
    """The page, every number from the JSON beside it."""
    return fill("exports", globals(), found=found)


def main() -> None:
    parser = arguments(__doc__, out=False)
    parser.add_argument("--out", type=Path, default=RESULTS / "exports.json", help="the JSON; the page lies beside it")
    parser.add_argument("--render", action="store_true", help="write the page from the JSON, measure nothing")
    options = parser.parse_args()
    if not options.render:
        rows = []
        formats: tuple[GraphFormat, ...] = ("onnx", "torch")
        for name in list_encoders():
            for format in formats:
                rows.append(measure(name, format))
                print(rows[-1], flush=True)
        about = {"tolerance": TOLERANCE, "clips": 10, "size_px": SIZE_PX, "torch": torch.__version__}
        save(options.out, {**about, "rows": rows})
    options.out.with_suffix(".md").write_text(render(load(options.out)), encoding="utf-8")


if __name__ == "__main__":
    main()
