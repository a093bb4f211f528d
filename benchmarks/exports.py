"""Do exported graphs give the numbers of their modules? Every encoder of ``unreel models``, as ONNX and torch.export.

    python benchmarks/exports.py [NAME ...]     # writes docs/results/exports.json

Ten clips of noise go through each; what is kept is the largest difference of any number, or why there is no graph.
The nets are as they are built by default, their input cut to 64 pixels, which changes no weight.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from unreel.core.errors import UnreelError
from unreel.nn import create_encoder, list_encoders
from unreel.protocols.portable import SUFFIXES, TOLERANCE, export_graph

OUT = Path(__file__).parent.parent / "docs" / "results" / "exports.json"
SIZE_PX = 64


def measure(name: str, format: str) -> dict[str, object]:
    encoder = create_encoder(name, seed=0).eval()
    spec = encoder.input_spec
    encoder.input_spec = replace(spec, size_px=min(spec.size_px, SIZE_PX))
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"net{SUFFIXES[format]}"
        try:
            found: dict[str, object] = {"difference": export_graph(encoder, target, format=format)}
            found["mib"] = round(target.stat().st_size / 2**20, 1)
        except UnreelError as error:
            found = {"refused": str(error)}
    return {"encoder": name, "format": format, **found, "seconds": round(time.monotonic() - start, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list_encoders())
    rows = []
    for name in parser.parse_args().names:
        for format in SUFFIXES:
            rows.append(measure(name, format))
            print(json.dumps(rows[-1]), flush=True)
    if {row["encoder"] for row in rows} == set(list_encoders()):
        about = {"tolerance": TOLERANCE, "clips": 10, "size_px": SIZE_PX, "torch": torch.__version__}
        OUT.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    wrong = [row for row in rows if "difference" not in row]
    raise SystemExit(f"{len(wrong)} of {len(rows)} graphs were refused" if wrong else None)


if __name__ == "__main__":
    main()
