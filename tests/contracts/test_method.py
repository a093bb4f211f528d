"""The method contract on every method. A new method adds a class of five lines."""

from __future__ import annotations

from tests.contracts.method_suite import MethodSuite
from tests.methods.clips import random_batch, tiny_cvrl
from tests.methods.tcgl_clips import snippet_batch, tiny_tcgl
from unreel.data.batch import Batch
from unreel.methods import Method, list_methods


class TestCVRL(MethodSuite):
    def make_method(self) -> Method:
        return tiny_cvrl()

    def make_batch(self, seed: int = 0) -> Batch:
        return random_batch(seed=seed)


class TestCVRLRelease(TestCVRL):
    def make_method(self) -> Method:
        return tiny_cvrl(views="release", reduction="sum_of_views", swap=False, hidden_layers=0)


class TestTCGL(MethodSuite):
    def make_method(self) -> Method:
        return tiny_tcgl()

    def make_batch(self, seed: int = 0) -> Batch:
        return snippet_batch(seed=seed)


class TestTCGLPaper(TestTCGL):
    def make_method(self) -> Method:
        return tiny_tcgl(head_graph="order", gcn_layers=2, corrupt="both", edge_mask_scope="sample", gnn="gat")


def test_every_registered_method_has_a_case() -> None:
    cases = {"cvrl", "tcgl"}
    assert set(list_methods()) <= cases, "add a class here for the new method"
