"""The leak in TCGL's order head, in one figure (docs/methods/tcgl.md, Where we differ, P1).

Features without any content, nearly equal between a video's snippets, go through TCGL's own graph convolution and order
head. What to see: with the paper's graph (``head_graph="order"``) the head finds the order of three snippets half of
the time, and always up to reversal, because the graph was built from the order; with any other graph both curves stay
at chance, 1/6 and 1/3. So an order accuracy of 50% says nothing about an encoder that was trained with the paper's
graph.

Usage: python examples/tcgl_leak.py [FIGURE.svg | FIGURE.png]      (about ten seconds on one core)
"""

from __future__ import annotations

import sys
from typing import NamedTuple, get_args

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from unreel.core.keys import Key
from unreel.data.batch import Batch
from unreel.data.snippets import permutations
from unreel.methods import TCGL
from unreel.methods.tcgl import GraphSettings, HeadGraph, OrderSettings
from unreel.nn import create_encoder

STEPS, VIDEOS, WINDOW = 500, 128, 25


class Curve(NamedTuple):
    """Accuracy at each step, (STEPS,): of the order, and of the order up to reversal."""

    exact: Tensor
    up_to_reversal: Tensor


def train(head_graph: HeadGraph, *, steps: int = STEPS, seed: int = 0) -> Curve:
    """Train graph convolution and order head on noise; every step has new videos, so accuracy is held-out."""
    torch.manual_seed(seed)
    method = TCGL(
        create_encoder("r3d_tiny"),
        graph=GraphSettings(head_graph=head_graph, hidden=64),
        head=OrderSettings(gate_hidden=32, dropout=0.1),
        w_intra=0,
        w_inter=0,
    )
    heads = [p for name, p in method.named_parameters() if not name.startswith("encoder.")]
    optimizer = torch.optim.AdamW(heads, lr=3e-3)
    orders = permutations(3)
    generator = torch.Generator().manual_seed(seed + 1)
    ids, width = torch.arange(VIDEOS), method.encoder.num_features
    exact, up_to_reversal = torch.zeros(steps), torch.zeros(steps)
    for step in range(steps):
        truth = torch.randint(len(orders), (VIDEOS,), generator=generator)
        of_video = torch.randn(VIDEOS, 1, 1, width, generator=generator)
        of_snippet = torch.randn(VIDEOS, 1, 3, width, generator=generator)
        batch = Batch((), {"order": orders[truth], "order_class": truth}, ids, ids, ids, key=Key(seed, step))
        logits = method.order_logits(of_video + 0.1 * of_snippet, batch)
        loss = functional.cross_entropy(logits, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found = logits.argmax(1)
        hit = found == truth
        exact[step] = hit.float().mean()
        up_to_reversal[step] = (hit | (len(orders) - 1 - found == truth)).float().mean()
    return Curve(exact, up_to_reversal)


def smooth(values: Tensor) -> Tensor:
    """Means over WINDOW steps."""
    return values.unfold(0, WINDOW, WINDOW).mean(1)


def draw(curves: dict[str, Curve]) -> Figure:
    """One panel for the order, one for the order up to reversal."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    titles = ("order of three snippets, 6 classes", "the same, up to reversal")
    for panel, title, field, lines in zip(panels, titles, Curve._fields, ((1 / 6, 1 / 2), (1 / 3, 1)), strict=True):
        for line in lines:
            panel.axhline(line, color="0.7", linewidth=0.8, linestyle=":")
        for name, curve in curves.items():
            values = smooth(getattr(curve, field))
            steps = (torch.arange(len(values)) + 0.5) * WINDOW
            panel.plot(steps.tolist(), values.tolist(), label=name, linewidth=2 if name == "order" else 1.2)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("training steps, features without content")
        panel.set_yticks([1 / 6, 1 / 3, 1 / 2, 1], ["1/6", "1/3", "1/2", "1"])
        panel.set_ylim(0, 1.05)
    panels[0].set_ylabel("accuracy")
    panels[1].legend(title="head_graph", frameon=False, fontsize=8, loc="center right")
    return figure


def main(path: str = "tcgl_leak.svg") -> None:
    curves = {graph: train(graph) for graph in get_args(HeadGraph)}
    print(f"mean over the last {4 * WINDOW} of {STEPS} steps")
    print("head_graph       6-way   up to reversal     (chance 0.167, 0.333)")
    for name, curve in curves.items():
        exact, up_to_reversal = (float(values[-4 * WINDOW :].mean()) for values in curve)
        print(f"{name:<15}  {exact:.3f}   {up_to_reversal:.3f}")
    draw(curves).savefig(path)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
