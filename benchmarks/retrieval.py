"""Exact top-k search: unreel's blocked torch search against faiss's flat index, and plain torch.

Variants take turns within each round, so that what else the machine does hits all alike; ratios are medians of
per-round ratios. Peers that are not installed are left out:

    pip install -r benchmarks/requirements.txt
    python benchmarks/retrieval.py --out retrieval.json

``search`` is what one call costs with the gallery as it lies in memory (for faiss: with its index built before the
clock starts); ``once`` includes building faiss's index, as a one-off evaluation would. ``recall`` is the share of
faiss's neighbours found (of torch's where faiss is not installed).
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable

import numpy as np
import torch
from common import arguments, ratio, save, take_turns

from unreel.core.keys import Key
from unreel.metrics.retrieval import nearest


def plain(queries: torch.Tensor, gallery: torch.Tensor, k: int) -> np.ndarray:
    return (queries @ gallery.T).topk(k, dim=1).indices.numpy()


def main() -> None:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--gallery", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    generator = Key("benchmark", "retrieval").torch()
    gallery = torch.randn(options.gallery, options.features, generator=generator)
    gallery /= gallery.norm(dim=1, keepdim=True)
    queries = torch.randn(options.queries, options.features, generator=generator)
    queries /= queries.norm(dim=1, keepdim=True)
    k = options.k

    variants: dict[str, Callable[[], np.ndarray]] = {
        "unreel search": lambda: nearest(queries, gallery, k=k, similarity="dot").indices,
        "torch matmul + topk": lambda: plain(queries, gallery, k),
    }
    try:
        import faiss
    except ImportError:
        faiss = None
    versions = {"torch": torch.__version__, "faiss": faiss.__version__ if faiss is not None else None}
    if faiss is not None:
        faiss.omp_set_num_threads(options.threads)
        index = faiss.IndexFlatIP(options.features)
        index.add(gallery.numpy())

        def once() -> np.ndarray:
            fresh = faiss.IndexFlatIP(options.features)
            fresh.add(gallery.numpy())
            return fresh.search(queries.numpy(), k)[1]

        variants["faiss search"] = lambda: index.search(queries.numpy(), k)[1]
        variants["faiss once"] = once

    answers = {name: run() for name, run in variants.items()}  # also warms everything up
    seconds = take_turns(variants, options.rounds)
    reference = "faiss search" if faiss is not None else "torch matmul + topk"
    truth = answers[reference]
    rows = {}
    for name, times in seconds.items():
        found = answers[name]
        recall = np.mean([len(set(a) & set(b)) / k for a, b in zip(found, truth, strict=True)])
        rows[name] = {
            "queries_per_s": options.queries / statistics.median(times),
            "seconds_median": statistics.median(times),
            "seconds_best": min(times),
            "speed_to_reference": ratio(seconds[reference], times),
            "recall": float(recall),
        }
        print(
            f"{name:22s} {rows[name]['queries_per_s']:8.0f} queries/s  "
            f"{rows[name]['speed_to_reference']:5.2f} × {reference}  recall@{k} {recall:.4f}"
        )
    result = {
        "setting": {key: value for key, value in vars(options).items() if key != "out"},
        "reference": reference,
        "versions": versions,
        "machine": platform.processor() or platform.machine(),
        "variants": rows,
    }
    save(options.out, result)


if __name__ == "__main__":
    main()
