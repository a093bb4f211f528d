"""One training step of TCGL on one core: how much of it is the encoder, and what batching the rest is worth.

    python benchmarks/tcgl_step.py                                       # writes docs/results/tcgl_step.{json,md}
    python benchmarks/tcgl_step.py --batch 2 --size 32 --width 8 --out step.json
    python benchmarks/tcgl_step.py --render                              # the page again, from the JSON

Forward and backward of one batch of videos, 3 snippets and 12 frame-sets each, without decoding, augmentation and
optimiser. Variants take turns within each round, every round starting with another; ratios are medians of per-round
ratios. Times are the processor's (one thread), so that what else the machine does disturbs them little; the wall's are
kept beside them. Before anything is timed, step and loop are compared in double precision.

``step``    ``unreel.methods.TCGL``, as trained.
``loop``    the same loss written out: fifteen encoder calls, then video by video and graph by graph in Python.
``calls``   the fifteen encoder calls by themselves, on prepared clips.
``passes``  the two encoder passes that the step makes instead, by themselves, on prepared clips.
``rest``    the step with the encoder's passes taken out: preparation, graphs, heads, losses.

The share of a step outside the encoder is rest / step.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, arguments, fill, load, save
from torch import Tensor
from torch.nn import functional

from unreel.core.keys import Key, uniforms
from unreel.core.memory import keep_freed_memory
from unreel.data.batch import Batch, View
from unreel.data.snippets import permutation_class
from unreel.methods import TCGL, create_method
from unreel.nn import create_encoder
from unreel.nn.norm import separate_calls

RESULT = RESULTS / "tcgl_step.json"
#: the most that may lie outside the encoder
FLOOR = 0.05


def make_method(args: argparse.Namespace) -> Any:
    encoder = create_encoder(args.encoder, layers=tuple(args.layers), width=args.width, seed=0)
    return create_method(
        "tcgl", encoder, clip_frames=args.frames, size=args.size, head_graph=args.head_graph, dropout=0.5
    )


def make_batch(method: TCGL, args: argparse.Namespace, dtype: torch.dtype = torch.float32) -> Batch:
    generator = torch.Generator().manual_seed(0)
    n, shape = method.num_snippets, (args.batch, 3, args.frames, args.size, args.size)
    views = tuple(
        View(torch.rand(shape, generator=generator, dtype=dtype), torch.zeros(args.batch, args.frames))
        for _ in range(n)
    )
    order = torch.stack([torch.randperm(n, generator=generator) for _ in range(args.batch)])
    ids = torch.arange(args.batch) + 1
    targets = {"order": order, "order_class": torch.tensor([permutation_class(row) for row in order])}
    return Batch(views, targets, ids, ids, ids, key=Key("benchmark"))


# --- the same loss, written out -----------------------------------------------------------------------------------


def path_edges(order: Sequence[int]) -> list[tuple[int, int]]:
    """Directed edges (target, source) of the path through nodes whose times are ``order``."""
    position = {time_: place for place, time_ in enumerate(order)}
    pairs = [(position[a], position[a + 1]) for a in range(len(order) - 1)]
    return [edge for i, j in pairs for edge in ((i, j), (j, i))]


def convolve(layer: Any, x: Tensor, edges: Sequence[tuple[int, int]]) -> Tensor:
    """One graph convolution of the nodes (N, F) of one graph, node by node."""
    degree = [1.0] * len(x)
    for target, _ in edges:
        degree[target] += 1
    nodes = []
    for i in range(len(x)):
        total = x[i] / degree[i]
        for target, source in edges:
            if target == i:
                total = total + x[source] / (degree[i] * degree[source]) ** 0.5
        nodes.append(functional.linear(total, layer.weight, layer.bias))
    return torch.stack(nodes)


def node_contrast(u: Tensor, v: Tensor, temperature: float) -> Tensor:
    losses = []
    for a, b in ((u, v), (v, u)):
        for i in range(len(a)):
            terms = [functional.cosine_similarity(a[i], other, dim=0) / temperature for other in b]
            terms += [functional.cosine_similarity(a[i], a[k], dim=0) / temperature for k in range(len(a)) if k != i]
            losses.append(-(terms[i] - torch.stack(terms).logsumexp(0)))
    return torch.stack(losses).mean()


def graph_loss(
    method: TCGL, layer: Any, x: Tensor, edges: list[tuple[int, int]], edge_draws: Tensor, feature_draws: Tensor
) -> Tensor:
    kept = [(i, j) for i, j in edges if float(edge_draws[i, j]) >= method.corruption.p_edge]
    masked = x * (feature_draws >= method.corruption.p_feat).to(x.dtype)
    u, v = (method.projector(convolve(layer, *view)) for view in ((x, edges), (masked, kept)))
    return node_contrast(u, v, method.temperature)


def written_out(method: TCGL, batch: Batch) -> Tensor:
    """The loss of ``method(batch)`` for the settings that this script gives it."""
    encoder, n, sets = method.encoder, method.num_snippets, method.num_frame_sets
    snippets, frame_sets = [], []
    for view in batch.views:
        snippets.append(encoder(encoder.prepare(view.data)))
        frame_sets.append([encoder(encoder.prepare(part)) for part in view.data.chunk(sets, 2)])
    intra_key, inter_key = (batch.key.child(name).child("second") for name in ("intra", "inter"))
    shared = uniforms(intra_key.child("edges"), batch.sample_id.new_zeros(1), n, sets, sets)[0]
    assert method.order_head is not None
    intra, inter, orders = [], [], []
    for b in range(len(batch)):
        one = batch.sample_id[b : b + 1]
        features = uniforms(intra_key.child("features"), one, n, snippets[0].shape[1])[0]
        for p in range(n):
            nodes = torch.stack([frame_sets[p][j][b] for j in range(sets)])
            intra.append(
                graph_loss(method, method.gcn_intra[p], nodes, path_edges(range(sets)), shared[p], features[p])
            )
        nodes = torch.stack([snippets[p][b] for p in range(n)])
        edges = path_edges(batch.targets["order"][b].tolist())
        draws = uniforms(inter_key.child("edges"), one, 1, n, n)[0, 0]
        features = uniforms(inter_key.child("features"), one, 1, nodes.shape[1])[0, 0]
        inter.append(graph_loss(method, method.gcn_inter[0], nodes, edges, draws, features))
        seen = edges if method.graph.head_graph == "order" else path_edges(range(n))
        h = convolve(method.gcn_inter[0], nodes, seen)
        logits = method.order_head(h[None], batch.key.child("dropout"), one)
        orders.append(functional.cross_entropy(logits, batch.targets["order_class"][b : b + 1]))
    return torch.stack([torch.stack(part).mean() for part in (intra, inter, orders)]).sum()


def backward(output: Tensor, slope: Tensor | None = None) -> None:
    torch.autograd.backward(output, slope)


def greatest_difference(args: argparse.Namespace) -> float:
    """Between step and loop: the loss and every gradient, relative, in double precision, on small clips."""
    small = argparse.Namespace(**{**vars(args), "batch": 3, "size": 16, "width": 4})
    methods = [make_method(small).double() for _ in range(2)]
    methods[1].load_state_dict(methods[0].state_dict())
    losses = [methods[0](make_batch(methods[0], small, torch.float64)).loss]
    losses.append(written_out(methods[1], make_batch(methods[1], small, torch.float64)))
    found = []
    for method, loss in zip(methods, losses, strict=True):
        backward(loss)
        found.append([loss.detach(), *(p.grad for p in method.parameters()), *method.buffers()])
    return max(
        float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) for a, b in zip(*found, strict=True) if a.numel()
    )


# --- timing -------------------------------------------------------------------------------------------------------


def variants(method: TCGL, batch: Batch) -> dict[str, Callable[[], None]]:
    encoder, n, sets = method.encoder, method.num_snippets, method.num_frame_sets
    whole = [encoder.prepare(view.data) for view in batch.views]
    parts = [encoder.prepare(part) for view in batch.views for part in view.data.chunk(sets, 2)]
    all_whole, all_parts = torch.cat(whole), torch.cat(parts)
    of_whole = tuple(range(0, n * (1 + sets), 1 + sets))
    of_parts = tuple(call for call in range(n * (1 + sets)) if call not in of_whole)
    width = encoder.num_features
    generator = torch.Generator().manual_seed(1)
    slope = torch.randn(n * (1 + sets) * len(batch), width, generator=generator)
    features = {len(x): torch.randn(len(x), width, generator=generator) for x in (all_whole, all_parts)}

    def step() -> None:
        backward(method(batch).loss)

    def loop() -> None:
        backward(written_out(method, batch))

    def calls() -> None:
        outputs = []
        for p in range(n):
            outputs.append(encoder(whole[p]))
            outputs += [encoder(part) for part in parts[p * sets : (p + 1) * sets]]
        backward(torch.cat(outputs), slope)

    def passes() -> None:
        with separate_calls(encoder, of_whole, n * (1 + sets)):
            one = encoder(all_whole)
        with separate_calls(encoder, of_parts, n * (1 + sets)):
            two = encoder(all_parts)
        backward(torch.cat([one, two]), slope)

    def rest() -> None:
        vars(encoder)["forward"] = lambda clips: features[len(clips)].clone().requires_grad_()
        try:
            backward(method(batch).loss)
        finally:
            del vars(encoder)["forward"]

    return {"step": step, "loop": loop, "calls": calls, "passes": passes, "rest": rest}


def measure(jobs: Mapping[str, Callable[[], None]], method: TCGL, rounds: int) -> list[dict[str, dict[str, float]]]:
    names, found = list(jobs), []
    for r in range(rounds + 1):
        times = {}
        for name in names[r % len(names) :] + names[: r % len(names)]:
            method.zero_grad(set_to_none=True)
            wall, cpu = time.perf_counter(), time.process_time()
            jobs[name]()
            times[name] = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}
            print(f"round {r} {name:7s} {times[name]['cpu_s']:8.3f} s", "" if r else "(not counted)", flush=True)
        if r:  # the first brings allocations and code paths
            found.append({name: times[name] for name in names})
    return found


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.processor() or platform.machine()])[0]


def summary(rounds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    def ratio(over: str, under: str, clock: str = "cpu_s") -> dict[str, float]:
        values = [r[over][clock] / r[under][clock] for r in rounds]
        return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}

    return {
        "seconds": {name: statistics.median(r[name]["cpu_s"] for r in rounds) for name in rounds[0]},
        "loop_over_step": ratio("loop", "step"),
        "calls_over_step": ratio("calls", "step"),
        "calls_over_passes": ratio("calls", "passes"),
        "passes_over_step": ratio("passes", "step"),
        "outside_encoder": ratio("rest", "step"),
        "loop_over_step_wall": ratio("loop", "step", "wall_s"),
    }


def render(found: Mapping[str, Any]) -> str:
    """The page, every number from the JSON beside it."""
    return fill("tcgl_step", globals(), found=found)


def main() -> None:
    parser = arguments(__doc__, rounds=5, out=False)
    parser.add_argument("--batch", type=int, default=8, help="videos")
    parser.add_argument("--frames", type=int, default=16, help="of a snippet")
    parser.add_argument("--size", type=int, default=112, help="pixels of a side")
    parser.add_argument("--encoder", default="r3d_18", choices=["r3d_18", "r2plus1d_18"])
    parser.add_argument("--layers", type=int, nargs=4, default=[1, 1, 1, 1])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--head-graph", default="order", choices=["order", "position_chain"])
    parser.add_argument("--out", type=Path, default=RESULT, help="the JSON; the page is written beside it")
    parser.add_argument("--render", action="store_true", help="write the page from the JSON, measure nothing")
    args = parser.parse_args()
    if not args.render:
        torch.set_num_threads(1)
        keep_freed_memory()  # as training does on a CPU
        load_before = os.getloadavg()[0]
        difference = greatest_difference(args)
        print(f"step against loop, greatest relative difference: {difference:.1e}")
        if difference > 1e-8:
            raise SystemExit("step and loop are not the same computation: nothing is timed")
        method = make_method(args).train()
        rounds = measure(variants(method, make_batch(method, args)), method, args.rounds)
        found = {
            "settings": {k: v for k, v in vars(args).items() if k not in ("out", "render", "rounds")},
            "machine": {
                "processor": processor(),
                "torch": torch.__version__,
                "python": platform.python_version(),
                "load_before": load_before,
                "load_after": os.getloadavg()[0],
            },
            "greatest_difference": difference,
            "summary": summary(rounds),
            "rounds": rounds,
        }
        save(args.out, found)
    page = args.out.with_suffix(".md")
    page.write_text(render(load(args.out)))
    print(page)


if __name__ == "__main__":
    main()
