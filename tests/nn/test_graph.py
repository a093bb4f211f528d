"""Graphs (docs/methods/tcgl.md, Graphs): edges, normalised adjacency, corruption, batched layers."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from unreel.core.keys import Key, uniforms
from unreel.nn import graph
from unreel.nn.graph import GraphAttention, GraphConv, chain, drop_edges, full, mask_features, normalized_adjacency

# Class → (order, edges); docs/methods/tcgl.md, Graphs.
ORDER_EDGES = [
    ((0, 1, 2), {(0, 1), (1, 2)}),
    ((0, 2, 1), {(0, 2), (1, 2)}),
    ((1, 0, 2), {(0, 1), (0, 2)}),
    ((1, 2, 0), {(0, 2), (0, 1)}),
    ((2, 0, 1), {(1, 2), (0, 2)}),
    ((2, 1, 0), {(0, 1), (1, 2)}),
]


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def undirected(adjacency: Tensor) -> set[tuple[int, int]]:
    assert torch.equal(adjacency, adjacency.mT)
    assert not adjacency.diagonal().any()
    return {(int(i), int(j)) for i, j in adjacency.triu().nonzero()}


def test_check_3_edges_of_the_six_orders() -> None:
    orders = torch.tensor([order for order, _ in ORDER_EDGES])
    assert [tuple(o) for o in orders.tolist()] == list(itertools.permutations(range(3)))
    graphs = graph.order_graph(orders)
    assert [undirected(g) for g in graphs] == [edges for _, edges in ORDER_EDGES]


@pytest.mark.parametrize(("n", "distinct"), [(2, 1), (3, 3), (4, 12)])
def test_check_3_an_order_graph_is_a_path_and_the_same_for_the_reversed_order(n: int, distinct: int) -> None:
    orders = torch.tensor(list(itertools.permutations(range(n))))
    graphs = graph.order_graph(orders)
    assert torch.equal(graphs, graph.order_graph(n - 1 - orders))
    assert len({tuple(g.flatten().tolist()) for g in graphs}) == distinct
    for order, adjacency in zip(orders.tolist(), graphs, strict=True):
        edges = undirected(adjacency)
        place = [order.index(a) for a in range(n)]  # pos(a)
        assert edges == {tuple(sorted(pair)) for pair in itertools.pairwise(place)}
        assert sorted(adjacency.sum(0).tolist()) == sorted([1] * 2 + [2] * (n - 2))
    assert torch.equal(graphs[0], chain(n))


def test_check_3_the_release_s_slip_is_not_repeated() -> None:
    """P5: the order (1, 3, 2, 0) has an edge between positions 0 and 2, both ways."""
    adjacency = graph.order_graph(torch.tensor([1, 3, 2, 0]))
    assert adjacency[0, 2] == adjacency[2, 0] == 1
    assert undirected(adjacency) == {(0, 2), (0, 3), (1, 2)}


def test_builders() -> None:
    assert undirected(chain(4)) == {(0, 1), (1, 2), (2, 3)}
    assert undirected(full(4)) == set(itertools.combinations(range(4), 2))
    assert not graph.edgeless(3).any()
    assert chain(1).tolist() == full(1).tolist() == [[0.0]]
    assert chain(3).dtype == torch.get_default_dtype()
    for build in (chain, full, graph.edgeless):
        assert build(3, dtype=torch.float64).dtype == torch.float64


def test_random_paths_are_paths_and_all_equally_likely() -> None:
    graphs = graph.random_path(rand(3000, 3))
    counts = torch.tensor(
        [
            int((graphs == g).all((1, 2)).sum())
            for g in graph.order_graph(torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2]]))
        ]
    )
    assert counts.sum() == 3000
    assert (counts - 1000).abs().max() < 100  # 4 standard deviations


# --- adjacency --------------------------------------------------------------------------------------------------

CHAIN_3 = [[0.5, 0.408248, 0], [0.408248, 0.333333, 0.408248], [0, 0.408248, 0.5]]


def close(found: Tensor, expected: object) -> None:
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)


def test_check_4_normalised_adjacency() -> None:
    s = normalized_adjacency(chain(4))
    close(
        s,
        [
            [0.5, 0.408248, 0, 0],
            [0.408248, 0.333333, 0.333333, 0],
            [0, 0.333333, 0.333333, 0.408248],
            [0, 0, 0.408248, 0.5],
        ],
    )
    close(normalized_adjacency(chain(3)), CHAIN_3)
    for order in ((1, 0, 2), (1, 2, 0)):  # classes 2 and 3: the centre is at position 0
        close(
            normalized_adjacency(graph.order_graph(torch.tensor(order))),
            [[0.333333, 0.408248, 0.408248], [0.408248, 0.5, 0], [0.408248, 0, 0.5]],
        )
    one_way = chain(3)
    one_way[0, 1] = 0  # row = target: the edge 1 → 0
    close(normalized_adjacency(one_way), [[1, 0, 0], [0.57735, 0.333333, 0.408248], [0, 0.408248, 0.5]])
    x = torch.tensor([[1.0, 0], [0, 1], [2, 2], [-1, 3]])
    close(s @ x, [[0.5, 0.408248], [1.074915, 1], [0.258418, 2.224745], [0.316497, 2.316497]])


def slow_s(adjacency: Tensor) -> Tensor:
    """Edge by edge, as a message-passing library does it."""
    n = len(adjacency)
    edges = [(s, t) for t in range(n) for s in range(n) for _ in range(int(adjacency[t, s]))] + [
        (i, i) for i in range(n)
    ]
    degree = [sum(t == i for _, t in edges) for i in range(n)]
    out = torch.zeros(n, n, dtype=torch.float64)
    for s, t in edges:
        out[t, s] += (degree[s] * degree[t]) ** -0.5
    return out


def test_normalised_adjacency_of_directed_multigraphs_and_batches() -> None:
    adjacency = (rand(5, 3, 4, 4) * 3).floor() * (1 - torch.eye(4, dtype=torch.float64))
    assert (adjacency == 2).any()
    s = normalized_adjacency(adjacency)
    for i, j in itertools.product(range(5), range(3)):
        torch.testing.assert_close(s[i, j], slow_s(adjacency[i, j]))
    assert s.dtype == torch.float64
    assert normalized_adjacency(adjacency.long()).dtype == torch.float32
    assert normalized_adjacency(torch.zeros(1, 1)).tolist() == [[1.0]]
    bare = normalized_adjacency(torch.tensor([[0.0, 0], [1, 0]]), self_loops=False)
    assert not bare.any()  # node 0 has no incoming edge
    with pytest.raises(ValueError, match=r"\(\.\.\., N, N\), got shape \(2, 3\)"):
        normalized_adjacency(torch.zeros(2, 3))


# --- corruption -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "average"), [(4, 4.8), (3, 3.2)])
def test_check_10_kept_edges(n: int, average: float) -> None:
    adjacency = chain(n)
    before = adjacency.clone()
    draws = uniforms(Key("edges", n), torch.arange(10_000), n, n)
    kept = drop_edges(adjacency, draws, 0.2)
    assert torch.equal(adjacency, before)
    edges = int(adjacency.sum())
    deviation = (edges * 0.2 * 0.8 / 10_000) ** 0.5
    assert float(kept.sum((1, 2)).mean()) == pytest.approx(average, abs=4 * deviation)
    whole = float((kept == adjacency).all(-1).all(-1).float().mean())
    assert whole == pytest.approx(0.8**edges, abs=0.02)  # 0.4096 for the four edges of three snippets
    assert (kept != kept.mT).any()
    assert not (kept > adjacency).any()
    both = drop_edges(adjacency, draws, 0.2, directed=False)
    assert torch.equal(both, both.mT)
    assert float(both.sum((1, 2)).mean()) == pytest.approx(average, abs=8 * deviation)
    assert torch.equal(drop_edges(adjacency, draws, 0.0), adjacency.expand_as(draws))


def test_check_10_masked_features() -> None:
    x = 1 + rand(200, 4, 512)
    before = x.clone()
    out = mask_features(x, uniforms(Key("features"), torch.arange(200), 512), 0.1)
    assert torch.equal(x, before)
    zero = out == 0
    assert torch.equal(zero.any(1), zero.all(1))  # a masked dimension is masked in all nodes of its graph
    assert float(zero[:, 0].sum(1).double().mean()) == pytest.approx(51.2, abs=4 * (512 * 0.09 / 200) ** 0.5)
    assert torch.equal(out[~zero], x[~zero])  # not rescaled
    assert len({tuple(row.tolist()) for row in zero[:20, 0]}) == 20  # each graph has a mask of its own
    assert torch.equal(mask_features(x, torch.zeros(200, 512), 0.0), x)


# --- layers -----------------------------------------------------------------------------------------------------


def seeded(layer: type[GraphConv] | type[GraphAttention], *sizes: int) -> GraphConv | GraphAttention:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return layer(*sizes).double()


def slow_attention(layer: GraphAttention, x: Tensor, s: Tensor) -> Tensor:
    assert layer.bias is not None
    h = [layer.weight @ row for row in x]
    out = []
    for t in range(len(x)):
        sources = [i for i in range(len(x)) if s[t, i] != 0]
        scores = torch.stack([layer.target @ h[t] + layer.source @ h[i] for i in sources]).flatten()
        weights = torch.where(scores > 0, scores, 0.2 * scores).softmax(0)
        out.append(sum((w * h[i] for w, i in zip(weights, sources, strict=True)), layer.bias))
    return torch.stack(out)


@pytest.mark.parametrize("kind", [GraphConv, GraphAttention])
def test_check_18_batched_layer_equals_a_loop_over_graphs(kind: type[GraphConv] | type[GraphAttention]) -> None:
    layer = seeded(kind, 6, 5)
    with torch.no_grad():
        layer.bias.add_(rand(5, seed=4))  # type: ignore[union-attr]
    x = rand(7, 2, 4, 6, seed=2) - 0.5
    s = normalized_adjacency((rand(7, 2, 4, 4, seed=3) > 0.6).double())
    out = layer(x, s)
    assert out.shape == (7, 2, 4, 5)
    for i, j in itertools.product(range(7), range(2)):
        if kind is GraphConv:
            expected = s[i, j] @ x[i, j] @ layer.weight.T + layer.bias
        else:
            expected = slow_attention(layer, x[i, j], s[i, j])
        torch.testing.assert_close(out[i, j], expected)
    shared = layer(x, s[0, 0])  # one graph for all
    torch.testing.assert_close(shared[3, 1], layer(x[3, 1], s[0, 0]))


@pytest.mark.parametrize("kind", [GraphConv, GraphAttention])
def test_a_layer_follows_a_renumbering_of_the_nodes(kind: type[GraphConv] | type[GraphAttention]) -> None:
    layer, x, a = seeded(kind, 3, 4), rand(4, 3), (rand(4, 4, seed=5) > 0.5).double()
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        layer(x[order], normalized_adjacency(a[order][:, order])), layer(x, normalized_adjacency(a))[order]
    )


def test_a_message_flows_from_column_to_row() -> None:
    adjacency = torch.zeros(3, 3)
    adjacency[2, 0] = 1  # 0 → 2
    for kind in (GraphConv, GraphAttention):
        layer = kind(2, 2)
        x = torch.rand(3, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
        (to_two,) = torch.autograd.grad(layer(x, normalized_adjacency(adjacency))[2].sum(), x)
        assert to_two.any(1).tolist() == [True, False, True]
        (to_zero,) = torch.autograd.grad(layer(x, normalized_adjacency(adjacency))[0].sum(), x)
        assert to_zero.any(1).tolist() == [True, False, False]


def test_layers_start_glorot_uniform_with_zero_bias_and_count_as_the_paper_s() -> None:
    layer = GraphConv(512, 512)
    assert sum(p.numel() for p in layer.parameters()) == 262_656
    bound = (6 / 1024) ** 0.5
    assert 0.99 * bound < float(layer.weight.detach().abs().max()) <= bound * (1 + 1e-6)
    assert float(layer.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.01)
    assert not layer.bias.any()  # type: ignore[union-attr]
    assert GraphConv(3, 4, bias=False).bias is None
    assert GraphAttention(3, 4, bias=False).bias is None
    assert not GraphAttention(3, 4).bias.any()  # type: ignore[union-attr]
    assert str(layer) == "GraphConv(512, 512, bias=True)"


def test_without_edges_a_convolution_is_a_linear_layer() -> None:
    layer, x = seeded(GraphConv, 3, 4), rand(5, 4, 3)
    s = normalized_adjacency(graph.edgeless(4, dtype=torch.float64))
    torch.testing.assert_close(layer(x, s), x @ layer.weight.T)
