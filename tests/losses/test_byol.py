"""BYOL's loss (docs/methods/byol.md, Heads and loss)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unreel.core.errors import UsageError
from unreel.losses import byol_loss
from unreel.losses.byol import cosines, spread


def random(seed: int, rows: int = 4) -> Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_check_C13_identical_and_orthogonal_outputs() -> None:
    p = random(0)
    assert float(byol_loss(p, p) + byol_loss(p, p)) == pytest.approx(-4, abs=1e-12)
    a, b = torch.eye(4, dtype=torch.float64).chunk(2)
    assert float(byol_loss(a, b) + byol_loss(b, a)) == 0
    assert float(byol_loss(p, -p)) == pytest.approx(2, abs=1e-12)


def test_is_the_squared_distance_of_unit_rows_minus_two_and_scale_free() -> None:
    p, y = random(0), random(1)
    unit = [x / x.norm(dim=1, keepdim=True) for x in (p, y)]
    assert float(byol_loss(p, y)) == pytest.approx(float((unit[0] - unit[1]).square().sum(1).mean()) - 2, abs=1e-12)
    torch.testing.assert_close(byol_loss(3 * p, 0.1 * y), byol_loss(p, y))
    torch.testing.assert_close(cosines(p, y), torch.cosine_similarity(p, y))


def test_dtype_and_gradient() -> None:
    p, y = random(0).requires_grad_(), random(1).requires_grad_()
    loss = byol_loss(p, y)
    loss.backward()
    assert loss.dtype == torch.float64
    assert p.grad is not None
    assert y.grad is None
    assert float((p.grad * p.detach()).sum(1).abs().max()) < 1e-12  # the length of a prediction does not matter
    assert byol_loss(p.bfloat16(), y.bfloat16()).dtype == torch.float32


def test_spread_tells_a_collapse() -> None:
    assert float(spread(random(0)[:1].expand(8, -1))) == pytest.approx(0, abs=1e-12)
    assert float(spread(torch.cat([torch.eye(4), -torch.eye(4)]))) == 1


def test_refuses_other_shapes() -> None:
    with pytest.raises(UsageError, match="equal shapes"):
        byol_loss(random(0), random(1, rows=3))
