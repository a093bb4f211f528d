"""The node contrast (docs/methods/tcgl.md, Contrast): worked values, an oracle, invariances."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unreel.core.errors import UsageError
from unreel.losses import node_info_nce


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow(u: Tensor, v: Tensor, temperature: float) -> tuple[list[float], list[float]]:
    """l(u_i, v_i) and l(v_i, u_i) of one graph, term by term."""

    def sim(a: Tensor, b: Tensor) -> float:
        return math.exp(float(a @ b / (a.norm() * b.norm())) / temperature)

    def terms(x: Tensor, y: Tensor) -> list[float]:
        nodes = range(len(x))
        return [
            -math.log(
                sim(x[i], y[i]) / (sum(sim(x[i], y[k]) for k in nodes) + sum(sim(x[i], x[k]) for k in nodes if k != i))
            )
            for i in nodes
        ]

    return terms(u, v), terms(v, u)


CASES = {
    "a": ([[1, 0], [0, 1]], [[1, 0], [0, 1]], [0.239545] * 2, [0.239545] * 2, 0.239545),
    "b": (
        [[1, 0], [0, 1], [-1, 0]],
        [[1, 1], [0, 2], [-3, 0]],
        [0.439569, 0.674308, 0.279061],
        [1.137260, 0.674308, 0.279061],
        0.580594,
    ),
    "c": (
        [[1, 2], [3, -1], [0, 1], [-2, -2]],
        [[1, 1], [2, 0], [-1, 2], [-1, -3]],
        [1.099959, 0.638264, 1.101673, 0.251619],
        [1.074353, 0.837698, 0.745739, 0.316766],
        0.758259,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_check_5_worked_values(case: str) -> None:
    u, v, from_u, from_v, mean = CASES[case]
    a, b = torch.tensor(u, dtype=torch.float64), torch.tensor(v, dtype=torch.float64)
    assert slow(a, b, 0.5)[0] == pytest.approx(from_u, abs=1e-6)
    assert slow(a, b, 0.5)[1] == pytest.approx(from_v, abs=1e-6)
    assert float(node_info_nce(a, b)) == pytest.approx(mean, abs=1e-6)
    assert float(node_info_nce(a.float(), b.float())) == pytest.approx(mean, abs=1e-5)


def test_check_5_another_temperature() -> None:
    u, v = (torch.tensor(x, dtype=torch.float64) for x in CASES["c"][:2])
    assert float(node_info_nce(u, v, temperature=0.1)) == pytest.approx(0.196679, abs=1e-6)


def test_check_5_invariances() -> None:
    u, v = rand(6, 4, 5), rand(6, 4, 5, seed=1)
    loss = node_info_nce(u, v)
    scales = rand(6, 4, 1, seed=2).exp()
    torch.testing.assert_close(node_info_nce(u * scales, v / scales), loss)
    torch.testing.assert_close(node_info_nce(v, u), loss)
    nodes, graphs = torch.tensor([2, 0, 3, 1]), torch.tensor([5, 1, 0, 3, 2, 4])
    torch.testing.assert_close(node_info_nce(u[:, nodes], v[:, nodes]), loss)
    torch.testing.assert_close(node_info_nce(u[graphs], v[graphs]), loss)
    assert abs(float(node_info_nce(u, v[:, nodes]) - loss)) > 1e-2


def test_check_5_one_node_gives_exactly_zero_and_no_gradient() -> None:
    for dtype in (torch.float32, torch.float64):
        u = rand(8, 1, 5).to(dtype).requires_grad_()
        loss = node_info_nce(u, rand(8, 1, 5, seed=1).to(dtype))
        assert float(loss) == 0.0
        loss.backward()
        assert u.grad is not None
        assert torch.equal(u.grad, torch.zeros_like(u))
    assert float(node_info_nce(rand(1, 5), rand(1, 5, seed=1))) == 0.0


@pytest.mark.parametrize(
    ("n", "collapsed", "orthogonal", "simplex"),
    [
        (4, 1.945910, 0.594438, 0.348472),
        (3, 1.609438, 0.432653, 0.181612),
    ],
)
def test_values_to_expect(n: int, collapsed: float, orthogonal: float, simplex: float) -> None:
    """log(2N − 1) when all nodes coincide, the value of orthogonal nodes, the floor of the simplex."""
    same = torch.ones(2, n, 3, dtype=torch.float64)
    eye = torch.eye(n, dtype=torch.float64)
    corners = eye - 1 / n
    for nodes, value in ((same, collapsed), (eye, orthogonal), (corners, simplex)):
        assert float(node_info_nce(nodes, nodes)) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("graphs", "nodes", "temperature"), [(1, 2, 0.5), (5, 4, 0.5), (3, 3, 0.1), (2, 7, 1.0)])
def test_equals_a_loop_over_graphs_nodes_and_directions(graphs: int, nodes: int, temperature: float) -> None:
    u, v = rand(graphs, nodes, 6), rand(graphs, nodes, 6, seed=1)
    terms = [term for a, b in zip(u, v, strict=True) for side in slow(a, b, temperature) for term in side]
    found = node_info_nce(u, v, temperature)
    assert float(found) == pytest.approx(sum(terms) / len(terms), rel=1e-12)
    apart = torch.stack([node_info_nce(a, b, temperature) for a, b in zip(u, v, strict=True)]).mean()
    torch.testing.assert_close(found, apart)


def test_gradient() -> None:
    u, v = rand(2, 3, 4).requires_grad_(), rand(2, 3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(node_info_nce, (u, v))


def test_types() -> None:
    u, v = rand(3, 4, 8), rand(3, 4, 8, seed=1)
    whole = node_info_nce(u, v)
    assert whole.dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):  # products stay float32
        narrow = node_info_nce(u.float(), v.float())
    assert narrow.dtype == torch.float32
    assert float(narrow) == pytest.approx(float(whole), abs=1e-6)
    assert node_info_nce(u.bfloat16(), v.bfloat16()).dtype == torch.float32
    assert torch.isfinite(node_info_nce(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)))


@pytest.mark.parametrize(
    ("u", "v", "temperature", "message"),
    [
        (rand(3, 4), rand(4, 4), 0.5, "equal shapes"),
        (rand(4), rand(4), 0.5, "equal shapes"),
        (rand(0, 4), rand(0, 4), 0.5, "at least one node"),
        (rand(3, 4), rand(3, 4), 0.0, "temperature must be > 0"),
    ],
)
def test_wrong_calls(u: Tensor, v: Tensor, temperature: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        node_info_nce(u, v, temperature)
