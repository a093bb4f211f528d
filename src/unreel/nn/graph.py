"""Small dense graphs in batches: their edges, their corruption, and two layers that pass messages along them.

A graph of N nodes is its adjacency A (N, N): row = target, column = source, so that A[t, s] counts the edges from s to
t. Any number of leading dimensions are graphs of a batch. Nothing here knows of video (docs/methods/tcgl.md, Graphs).
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from unreel.core.errors import UsageError

GraphLayer: TypeAlias = Literal["gcn", "gat"]

# Slope of the leaky ReLU before attention's softmax (Veličković et al. 2018, §2.1).
_GAT_SLOPE = 0.2


# --- edges ------------------------------------------------------------------------------------------------------


def chain(num_nodes: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """(N, N): node i joined with i + 1, both ways (docs/methods/tcgl.md, Graphs)."""
    return order_graph(torch.arange(num_nodes, device=device), dtype=dtype)


def full(num_nodes: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """(N, N): every node joined with every other one."""
    return 1 - torch.eye(num_nodes, device=device, dtype=dtype)


def edgeless(num_nodes: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """(N, N) of zeros: a graph convolution then treats every node by itself."""
    return torch.zeros(num_nodes, num_nodes, device=device, dtype=dtype)


def order_graph(order: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """The path through the nodes in the order given (docs/methods/tcgl.md, Graphs).

    With pos(a) the position p at which order[p] = a, the edges are {pos(a), pos(a + 1)}, both ways: nodes p and q are
    joined where order[p] and order[q] differ by one. An order and its reversal have the same graph.

    Args:
        order: (..., N) integers, each row a permutation of 0, …, N − 1.
    Returns: (..., N, N), of torch's default floating-point type unless ``dtype`` is given.
    """
    joined = (order[..., :, None] - order[..., None, :]).abs() == 1
    return joined.to(torch.get_default_dtype() if dtype is None else dtype)


def random_path(draws: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """A path through the nodes in a random order: as many edges as a chain, none of them meaning anything.

    Args:
        draws: (..., N) uniforms on [0, 1), such as ``unreel.core.keys.uniforms`` gives per sample.
    Returns: (..., N, N).
    """
    return order_graph(draws.argsort(dim=-1, stable=True), dtype=dtype)


# --- corruption -------------------------------------------------------------------------------------------------


def drop_edges(adjacency: Tensor, draws: Tensor, p: float, *, directed: bool = True) -> Tensor:
    """Remove edges with probability ``p``: A ∘ R with R ~ Bernoulli(1 − p) (GRACE; docs/methods/tcgl.md, Graphs).

    Args:
        adjacency: (..., N, N); not changed.
        draws: uniforms on [0, 1), one per directed edge, of a shape that broadcasts with ``adjacency``.
        p: probability of removal; 0 keeps every edge.
        directed: each direction of an edge by itself; False removes both together.
    """
    if not directed:
        upper = draws.triu()
        draws = upper + upper.transpose(-1, -2).tril(-1)
    return adjacency * (draws >= p).to(adjacency.dtype)


def mask_features(x: Tensor, draws: Tensor, p: float) -> Tensor:
    """Zero feature dimensions with probability ``p``, in all nodes of a graph alike; the rest is not rescaled.

    Args:
        x: nodes, (..., N, F); not changed.
        draws: uniforms on [0, 1), (..., F): one per graph and dimension.
        p: probability that a dimension is zeroed (docs/methods/tcgl.md, Graphs: 0.1).
    """
    return x * (draws >= p).to(x.dtype).unsqueeze(-2)


# --- layers -----------------------------------------------------------------------------------------------------


def normalized_adjacency(adjacency: Tensor, *, self_loops: bool = True) -> Tensor:
    """S = D^−½ (A + I) D^−½ (Kipf & Welling 2017, eq. 2), for directed graphs as well (docs/methods/tcgl.md, Graphs).

    D is the in-degree with the self-loop, the row sum of A + I, for both factors. An edge that is there twice counts
    twice.

    Args:
        adjacency: (..., N, N), row = target, column = source; an integer or boolean one becomes floating-point.
        self_loops: add I; False takes A as it is, and the rows and columns of nodes without incoming edges are zero.
    Returns: (..., N, N).
    Raises: UsageError for a shape that is not square.
    """
    if adjacency.ndim < 2 or adjacency.shape[-1] != adjacency.shape[-2]:
        raise UsageError(f"an adjacency is (..., N, N), got shape {tuple(adjacency.shape)}")
    a = adjacency if adjacency.is_floating_point() else adjacency.to(torch.get_default_dtype())
    if self_loops:
        a = a + torch.eye(a.shape[-1], device=a.device, dtype=a.dtype)
    degree = a.sum(-1)
    scale = torch.where(degree > 0, degree.clamp(min=torch.finfo(a.dtype).tiny).rsqrt(), 0)
    return scale.unsqueeze(-1) * a * scale.unsqueeze(-2)


class GraphConv(nn.Module):
    """One graph convolution, H = S X Wᵀ + b, for many small graphs at once (Kipf & Welling 2017).

    The weight is Glorot-uniform, the bias zero; there is no activation (docs/methods/tcgl.md, Graphs).
    """

    #: further parameters of (1, out), one name each
    vectors: tuple[str, ...] = ()

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        for name in self.vectors:
            self.register_parameter(name, nn.Parameter(torch.empty(1, out_features)))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew; the bias becomes zero."""
        for parameter in self.parameters():
            (nn.init.xavier_uniform_ if parameter.ndim == 2 else nn.init.zeros_)(parameter)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """Nodes x (..., N, in) along s = normalized_adjacency(a), (..., N, N) or one (N, N) for all: (..., N, out)."""
        return functional.linear(s.to(x.dtype) @ x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class GraphAttention(GraphConv):
    """One head of graph attention (Veličković et al. 2018, eq. 1–4), called as ``GraphConv`` is.

    A target t weighs its sources s by softmax of LeakyReLU(a_t · W x_t + a_s · W x_s). The graph says only who may be
    seen: the values of the normalised adjacency do not matter where they are not zero.
    """

    target: Tensor
    source: Tensor
    vectors = ("target", "source")

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """Nodes x (..., N, in) along s = normalized_adjacency(a), (..., N, N) or one (N, N) for all: (..., N, out)."""
        h = functional.linear(x, self.weight)
        score = functional.linear(h, self.target) + functional.linear(h, self.source).transpose(-1, -2)
        score = functional.leaky_relu(score, _GAT_SLOPE).masked_fill(s == 0, -math.inf)
        out = score.softmax(-1) @ h
        return out if self.bias is None else out + self.bias
