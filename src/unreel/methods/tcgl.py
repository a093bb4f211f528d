"""TCGL: temporal contrastive graph learning (Liu et al., IEEE TIP 2022, arXiv 2112.03587; first as arXiv 2101.00820).

From one video take three snippets and shuffle them; cut each into four frame-sets; take the mean over time away from
all of them; encode all with one network. Frame-sets are the nodes of a graph per snippet, snippets the nodes of a graph
per video. Nodes agree with themselves in a corrupted copy of their graph (contrast), and the snippets tell in which
order they were filmed (adaptive snippet order prediction). The graphs and heads are thrown away afterwards
(docs/methods/tcgl.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from unreel.core.checks import Range, checked
from unreel.core.errors import UsageError
from unreel.core.keys import Key, uniforms
from unreel.core.modules import wide
from unreel.data.batch import Batch
from unreel.data.contracts import SupportsViews
from unreel.data.snippets import SnippetSampler, up_to_reversal
from unreel.losses.graph import node_info_nce
from unreel.methods.debiasing import OBJECTS, ViewParts
from unreel.methods.method import LossOutput, Method
from unreel.methods.parts import Part
from unreel.methods.pretext import BNGrouping
from unreel.methods.registry import register_method
from unreel.nn.encoder import Encoder
from unreel.nn.graph import (
    GraphAttention,
    GraphConv,
    GraphLayer,
    chain,
    drop_edges,
    edgeless,
    full,
    mask_features,
    normalized_adjacency,
    order_graph,
    random_path,
)
from unreel.nn.heads import keyed_dropout
from unreel.nn.norm import separate_calls, still_statistics
from unreel.views.plan import ViewPlan
from unreel.views.presets import snippet_views

Activation: TypeAlias = Literal["none", "relu", "elu"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"none": nn.Identity, "relu": nn.ReLU, "elu": nn.ELU}


class SnippetGate(nn.Module):
    """Every snippet's features, weighed in the light of all snippets: f_k = σ(W_k2 ReLU(W_k1 z)) ∘ h_k.

    z is the concatenation of all h; the weights are separate for each position k, and kept together in one tensor.
    """

    def __init__(self, num_snippets: int, features: int, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(num_snippets * features, num_snippets * hidden)  # W_k1 of all k, one below the other
        self.weight = nn.Parameter(torch.empty(num_snippets, features, hidden))  # W_k2
        self.bias = nn.Parameter(torch.empty(num_snippets, features))
        bound = hidden**-0.5  # as nn.Linear draws it, for each k
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, h: Tensor) -> Tensor:
        squeezed = self.squeeze(h.flatten(1)).relu().unflatten(1, (len(self.weight), -1))
        return (torch.einsum("bkr,kfr->bkf", squeezed, self.weight) + self.bias).sigmoid() * h


@checked
@dataclass(frozen=True)
class OrderSettings:
    """The order head, which is as wide as the graphs.

    Args:
        adaptive: False leaves the gate out. gate_hidden: the gate's inner width, 256.
        dropout: before the last layer.
    """

    adaptive: bool = True
    gate_hidden: Annotated[int, Range(ge=1)] = 256
    dropout: Annotated[float, Range(ge=0, lt=1)] = 0.5


class OrderHead(nn.Module):
    """Adaptive snippet order prediction: gate, concatenate, two linear layers, one logit per order.

    Args:
        num_snippets: n; there are n! orders, numbered as ``unreel.data.snippets.permutations``.
        features: width of a snippet, and of the layer between.
        settings: what else can be chosen.
    """

    def __init__(self, num_snippets: int, features: int, settings: OrderSettings) -> None:
        super().__init__()
        adaptive, hidden = settings.adaptive, settings.gate_hidden
        self.gate = SnippetGate(num_snippets, features, hidden) if adaptive else nn.Identity()
        self.fc = nn.Linear(num_snippets * features, features)
        self.classifier = nn.Linear(features, math.factorial(num_snippets))
        self.dropout = settings.dropout

    def forward(self, h: Tensor, key: Key, ids: Tensor) -> Tensor:
        """Snippets (B, n, F) by position to logits (B, n!); ``key`` and ``ids`` (B,) address the dropout's draw."""
        q = self.fc(self.gate(h).flatten(1)).relu()
        q = keyed_dropout(q, key, ids, self.dropout if self.training else 0.0)
        return self.classifier(q)  # type: ignore[no-any-return]


@checked
@dataclass(frozen=True)
class GraphSettings:
    """The graphs, what convolves them, and the projection of their nodes.

    Args:
        intra_edges: edges of a snippet's graph: "chain", "full", or "random" (a path in random order, drawn per graph).
        inter_edges: edges of the snippets' graph in the contrast: "order" joins neighbours in time (the paper),
            "position_chain" neighbours in the shuffled tuple, "full", or "random".
        head_graph: the snippets' graph before the order head: "order" is the paper's and leaks; "position_chain"
            and "full" do not; "none" convolves each snippet by itself.
        gnn: "gcn", or "gat" for graph attention.
        gcn_layers: 2 gives the head a second layer; the contrast stays at the first.
        share_intra_gcn: one graph convolution for the snippets at all positions; False has one for each.
        gcn_act: after each graph convolution: "none" (the code), "relu" or "elu".
        hidden: width of graph convolutions, projection and head, whatever the encoder's.
        proj: activation inside the projection MLP that all graphs share, or "none" for no projection.
    Raises: UsageError for an unknown name.
    """

    intra_edges: Literal["chain", "full", "random"] = "chain"
    inter_edges: Literal["order", "position_chain", "full", "random"] = "order"
    head_graph: Literal["order", "position_chain", "full", "none"] = "position_chain"
    gnn: GraphLayer = "gcn"
    gcn_layers: Literal[1, 2] = 1
    share_intra_gcn: bool = False
    gcn_act: Activation = "none"
    hidden: Annotated[int, Range(ge=1)] = 512
    proj: Activation = "elu"


@checked
@dataclass(frozen=True)
class Corruption:
    """How a graph's other view is made.

    Args:
        p_edge, p_feat: probabilities that an edge is removed, and that a feature dimension is set to 0.
        which: which views of a graph are corrupted: "second" (the code) or "both" (GRACE).
        kind: "both" edges and features, only "edges", only "nodes" (the features), or "noise": Gaussian noise on the
            features and nothing else. noise_std: its standard deviation, 1.
        edge_drop: "directed" removes each direction of an edge by itself, "undirected" both together.
        edge_mask_scope: of the snippets' own graphs: "batch" draws one set of edges per position for the whole batch
            (the code), "sample" one per graph. The snippets' graph, another for each order, has always its own.
    Raises: UsageError for an unknown name.
    """

    p_edge: Annotated[float, Range(ge=0, lt=1)] = 0.2
    p_feat: Annotated[float, Range(ge=0, lt=1)] = 0.1
    which: Literal["second", "both"] = "second"
    kind: Literal["both", "edges", "nodes", "noise"] = "both"
    noise_std: Annotated[float, Range(ge=0)] = 1.0
    edge_drop: Literal["directed", "undirected"] = "directed"
    edge_mask_scope: Literal["batch", "sample"] = "batch"


@register_method("tcgl")
class TCGL(Method):
    """Nodes agree across views of their graph, and snippets tell their order. Defaults are the paper's but for one.

    **The leak.** In the paper and its code the graph of the snippets is built from their order and then given to the
    head that predicts the order, so a large part of the answer can be read off the graph: features without any content
    reach 1/2 (``examples/tcgl_leak.py``). Here the head gets a graph that knows nothing of the order, unless
    ``head_graph="order"`` asks for the paper's. The contrast keeps the paper's graph; the head then has a pass of its
    own through the same graph convolution.

    Logged: the parts of the loss; ``order_accuracy``, whose chance level is 1/n! (1/6 for three snippets); and
    ``order_accuracy_up_to_reversal``, which takes the snippets counted from the end (i → n − 1 − i) for right as well,
    chance 2/n! (1/3). With ``head_graph="order"`` chance is 1/2 and 1: only an order and its reversal share a graph.

    Args:
        encoder: trained in place; its ``input_spec`` is set to the clips this method is given.
        clips: 2, 3 or 4 snippets: 3 of 16 consecutive frames, 8 apart, span 64.
        views: of 112 pixels, see ``snippet_views``. In validation the crop is the centre, and nothing else is drawn.
        objects: object-aware views; off.
        graph, corruption, head: the graphs, their other views, and the order head.
        num_frame_sets: parts of a snippet, the nodes of its graph: 4. With 1 there is nothing to contrast: the intra
            loss is 0 and its passes are left out.
        dct_highpass: temporal frequencies taken away from every snippet, and from every frame-set over its own frames:
            1, the mean over time, is STKD as released; 0 is the earlier preprint.
        bn_grouping: whose statistics a batch norm sees. "per_call": the released code encodes each snippet of the
            tuple and each of its frame-sets in a call of its own; "joint": all snippets together and all frame-sets
            together.
        bn_statistics: whose statistics are kept for evaluation. "all" (the code): also those of the frame-sets, which
            are most of the calls and whose differences from their mean are smaller, although only snippets are encoded
            once training is over; "snippets": theirs alone.
        temperature: the node contrast divides similarities by it.
        w_intra, w_inter, w_order: weights of the losses. A loss of weight 0 is not computed, nor are the parts made
            that only it needs.

    Raises: UsageError for values that cannot be, such as frame-sets of no more frames than ``dct_highpass``.
    """

    parts: ClassVar = {
        "clips": Part(SnippetSampler),
        "views": Part(snippet_views),
        "objects": OBJECTS,
        "graph": Part(GraphSettings),
        "corruption": Part(Corruption),
        "head": Part(OrderSettings),
    }
    sampler: SnippetSampler
    graph: GraphSettings
    corruption: Corruption
    head: OrderSettings

    def __init__(
        self,
        encoder: Encoder,
        *,
        graph: GraphSettings | None = None,
        corruption: Corruption | None = None,
        head: OrderSettings | None = None,
        num_frame_sets: Literal[1, 2, 4, 8] = 4,
        dct_highpass: Annotated[int, Range(ge=0)] = 1,
        bn_grouping: BNGrouping = "per_call",
        bn_statistics: Literal["all", "snippets"] = "all",
        temperature: Annotated[float, Range(gt=0)] = 0.5,
        w_intra: Annotated[float, Range(ge=0)] = 1.0,
        w_inter: Annotated[float, Range(ge=0)] = 1.0,
        w_order: Annotated[float, Range(ge=0)] = 1.0,
        **parts: Unpack[ViewParts],
    ) -> None:
        super().__init__(encoder, **parts, graph=graph, corruption=corruption, head=head)
        if self.sampler.num_snippets not in (2, 3, 4):
            raise UsageError(f"tcgl takes 2, 3 or 4 snippets, got {self.sampler.num_snippets}")
        self.w_intra, self.w_inter, self.w_order = 0.0 if num_frame_sets == 1 else w_intra, w_inter, w_order
        self.num_snippets, self.num_frame_sets = self.sampler.num_snippets, num_frame_sets
        self.per_call, self.keep_all = bn_grouping == "per_call", bn_statistics == "all"
        self.temperature = temperature
        self._check_frames(dct_highpass)
        encoder.input_spec = replace(encoder.input_spec, dct_highpass=dct_highpass)
        self._make_graphs(encoder.num_features)

    def views_of_validation(self, views: Any) -> SupportsViews | None:
        """The centre, and nothing drawn."""
        drawn = ("flip", "jitter", "gray", "channel")
        return views.steady(drawn) if isinstance(views, ViewPlan) else None

    def _check_frames(self, dct_highpass: int) -> None:
        """Raise UsageError where nothing is learned, or nothing is left of what is encoded."""
        frames, sets, spec = self.sampler.clip_frames, self.num_frame_sets, self.encoder.input_spec
        if not (self.w_intra or self.w_inter or self.w_order):
            raise UsageError(
                "there is nothing to learn: w_inter and w_order are 0, and so is w_intra, or the one frame-set of a "
                "snippet has no other to be told from"
            )
        if self.w_intra and frames % sets:
            raise UsageError(f"{frames} frames cannot be cut into {sets} equal frame-sets")
        shortest = frames // sets if self.w_intra else frames
        if shortest <= dct_highpass:
            raise UsageError(
                f"{'frame-sets' if self.w_intra else 'snippets'} of {shortest} frames have nothing left once their "
                f"{dct_highpass} lowest temporal frequencies are taken away; lower dct_highpass or num_frame_sets, or "
                "raise clip_frames"
            )
        if spec.dct_highpass not in (0, dct_highpass):
            raise UsageError(
                f"the encoder was built with dct_highpass={spec.dct_highpass}, the method with {dct_highpass}; set it "
                "in one place only"
            )

    def _make_graphs(self, width: int) -> None:
        """The modules that the losses of weight above 0 need."""
        graph, hidden = self.graph, self.graph.hidden
        # Attention without edges has nothing to weigh: it is a convolution, without idle parameters.
        attends, joined = graph.gnn == "gat", graph.head_graph != "none"

        def layers(count: int, features: int, attend: bool) -> nn.ModuleList:
            return nn.ModuleList((GraphAttention if attend else GraphConv)(features, hidden) for _ in range(count))

        per_position = 1 if graph.share_intra_gcn else self.num_snippets
        self.gcn_intra = layers(per_position if self.w_intra else 0, width, attends)
        self.gcn_inter = layers(bool(self.w_inter or self.w_order), width, attends and (self.w_inter > 0 or joined))
        self.gcn_second = layers(graph.gcn_layers - 1 if self.w_order else 0, hidden, attends and joined)
        self.gcn_act = _ACTIVATIONS[graph.gcn_act]()
        self.projector: nn.Module = nn.Identity()
        if graph.proj != "none" and (self.w_intra or self.w_inter):
            middle = _ACTIVATIONS[graph.proj]()
            self.projector = nn.Sequential(nn.Linear(hidden, hidden), middle, nn.Linear(hidden, hidden))
        self.order_head = OrderHead(self.num_snippets, hidden, self.head) if self.w_order else None

    @classmethod
    def chance(cls, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        """One of the n! orders; where the head is given the paper's graph, only a reversal is left to tell."""
        told = 2 if settings["graph"]["head_graph"] == "order" else math.factorial(settings["clips"]["num_snippets"])
        return {"order_accuracy": 1 / told, "order_accuracy_up_to_reversal": 2 / told}

    def forward(self, batch: Batch) -> LossOutput:
        """Loss of B videos; the n views are the snippets by position, the targets those of ``SnippetSampler``."""
        snippets, frame_sets = self.encode(batch)
        parts: dict[str, Tensor] = {}
        if frame_sets is not None:
            each = self.corruption.edge_mask_scope == "sample"
            scope = batch.sample_id if each else batch.sample_id.new_zeros(1)
            parts["intra_loss"] = self.contrast(
                "intra", frame_sets, self.graph.intra_edges, self.gcn_intra, batch, scope
            )
        if self.w_inter:
            parts["inter_loss"] = self.contrast(
                "inter", snippets, self.graph.inter_edges, self.gcn_inter, batch, batch.sample_id
            )
        logs: dict[str, Tensor] = {}
        if self.w_order:
            truth = batch.targets["order_class"]
            logits = wide(self.order_logits(snippets, batch))
            parts["order_loss"] = functional.cross_entropy(logits, truth)
            predicted = logits.detach().argmax(1)
            logs["order_accuracy"] = (predicted == truth).float().mean()
            pairs = (up_to_reversal(classes, self.num_snippets) for classes in (predicted, truth))
            logs["order_accuracy_up_to_reversal"] = torch.eq(*pairs).float().mean()
        weights = {"intra_loss": self.w_intra, "inter_loss": self.w_inter, "order_loss": self.w_order}
        loss = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        return LossOutput(loss, {**{name: part.detach() for name, part in parts.items()}, **logs})

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Nodes: snippets (B, 1, n, D), one graph of n per video; frame-sets (B, n, K, D), or None where unused.

        Frame-sets are cut before ``prepare``, so that each loses the mean over its own frames.
        """
        n, sets = self.num_snippets, self.num_frame_sets if self.w_intra else 0
        # In the code: snippet p, then its frame-sets, for each p; what keeps no statistics is a round by itself.
        every = 1 + sets if self.keep_all else 1
        calls = range(n * every)
        whole = torch.cat([view.data for view in batch.views])
        snippets = self._run(whole, calls[::every], len(calls))
        snippets = snippets.reshape(n, len(batch), -1).transpose(0, 1).unsqueeze(1)
        if not sets:
            return snippets, None
        cut = torch.cat([part for view in batch.views for part in view.data.chunk(sets, 2)])
        if self.keep_all:
            found = self._run(cut, [call for call in calls if call % every], len(calls))
        else:
            with still_statistics(self.encoder):
                found = self._run(cut, range(n * sets), n * sets)
        return snippets, found.reshape(n, sets, len(batch), -1).permute(2, 0, 1, 3)

    def _run(self, clips: Tensor, calls: Sequence[int], num_calls: int) -> Tensor:
        """Clips of ``len(calls)`` calls, one after the other, to embeddings (…, D)."""
        prepared = self.encoder.prepare(clips)
        with separate_calls(self.encoder, calls, num_calls) if self.per_call else nullcontext():
            return self.encoder(prepared)  # type: ignore[no-any-return]

    def edges(self, kind: str, nodes: Tensor, batch: Batch, key: Key) -> Tensor:
        """The adjacency of graphs with these nodes (B, G, N, …): (N, N), the same for all, or (B, G or 1, N, N)."""
        groups, count = nodes.shape[1:3]
        dtype = torch.promote_types(nodes.dtype, torch.float32)
        if kind == "order":
            return order_graph(batch.targets["order"], dtype=dtype).unsqueeze(1)
        if kind == "random":
            return random_path(uniforms(key, batch.sample_id, groups, count), dtype=dtype)
        build = {"chain": chain, "position_chain": chain, "full": full, "none": edgeless}[kind]
        return build(count, device=nodes.device, dtype=dtype)

    def convolve(self, layers: nn.ModuleList, x: Tensor, adjacency: Tensor) -> Tensor:
        """Nodes (B, G, N, D) to (B, G, N, F): by one layer, or by a layer for each of the G graphs."""
        s = normalized_adjacency(adjacency)
        if len(layers) == 1:
            h = layers[0](x, s)
        else:
            s = s.expand(*x.shape[:2], *s.shape[-2:])
            h = torch.stack([layer(x[:, g], s[:, g]) for g, layer in enumerate(layers)], 1)
        return self.gcn_act(h)  # type: ignore[no-any-return]

    def contrast(
        self, name: str, nodes: Tensor, kind: str, layers: nn.ModuleList, batch: Batch, edge_ids: Tensor
    ) -> Tensor:
        """The node contrast of graphs (B, G, N, D) with their corrupted selves; ``name`` is of their draws."""
        adjacency, key = self.edges(kind, nodes, batch, batch.key.child(f"{name} graph")), batch.key.child(name)
        second = self.corrupted(nodes, adjacency, key.child("second"), batch.sample_id, edge_ids)
        first = nodes, adjacency
        if self.corruption.which == "both":
            first = self.corrupted(nodes, adjacency, key.child("first"), batch.sample_id, edge_ids)
        u, v = (self.projector(self.convolve(layers, *view)).flatten(0, 1) for view in (first, second))
        return node_info_nce(u, v, self.temperature)

    def corrupted(self, x: Tensor, adjacency: Tensor, key: Key, ids: Tensor, edge_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes and edges of another view. In evaluation too, as in the code: only the losses see it.

        ``ids`` (B,) address the draws of features, ``edge_ids`` (B,), or (1,) for the whole batch, those of edges.
        """
        groups, count, width = x.shape[1:]
        how = self.corruption
        if how.kind in ("both", "edges"):
            draws = uniforms(key.child("edges"), edge_ids, groups, count, count)
            adjacency = drop_edges(adjacency, draws, how.p_edge, directed=how.edge_drop == "directed")
        if how.kind in ("both", "nodes"):
            x = mask_features(x, uniforms(key.child("features"), ids, groups, width), how.p_feat)
        if how.kind == "noise":
            # Box and Muller: 1 − u is never 0.
            radius, angle = uniforms(key.child("noise"), ids, 2, groups, count, width).unbind(1)
            normal = (-2 * (1 - radius).log()).sqrt() * (2 * math.pi * angle).cos()
            x = x + how.noise_std * normal.to(x.dtype)
        return x, adjacency

    def order_logits(self, snippets: Tensor, batch: Batch) -> Tensor:
        """Snippets (B, 1, n, D), never corrupted, to logits over the n! orders (B, n!)."""
        assert self.order_head is not None
        adjacency = self.edges(self.graph.head_graph, snippets, batch, batch.key.child("head graph"))
        h = self.convolve(self.gcn_inter, snippets, adjacency)
        if len(self.gcn_second):
            h = self.convolve(self.gcn_second, h, adjacency)
        logits: Tensor = self.order_head(h.squeeze(1), batch.key.child("dropout"), batch.sample_id)
        return logits
