"""The method contract on every method. A new method adds a class of five lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, cast

from tests.contracts.method_suite import MethodSuite
from tests.methods import siamese_clips
from tests.methods.clips import random_batch, tiny_cvrl
from tests.methods.numbered import batch_of, tiny
from tests.methods.tcgl_clips import snippet_batch, tiny_tcgl
from tests.methods.test_supervised import labelled_batch, tiny_supervised
from unreel.data.batch import Batch
from unreel.methods import Method, list_methods


class TestCVRL(MethodSuite):
    def make_method(self) -> Method:
        return tiny_cvrl()

    def make_batch(self, seed: int = 0) -> Batch:
        return random_batch(seed=seed)


class TestCVRLRelease(TestCVRL):
    def make_method(self) -> Method:
        return tiny_cvrl(preset="release", reduction="sum_of_views", swap=False, hidden_layers=0)


class TestTCGL(MethodSuite):
    def make_method(self) -> Method:
        return tiny_tcgl()

    def make_batch(self, seed: int = 0) -> Batch:
        return snippet_batch(seed=seed)


class TestTCGLPaper(TestTCGL):
    def make_method(self) -> Method:
        return tiny_tcgl(head_graph="order", gcn_layers=2, which="both", edge_mask_scope="sample", gnn="gat")


class TestVCOP(MethodSuite):
    name = "vcop"
    options: ClassVar[dict[str, Any]] = {}

    def make_method(self) -> Method:
        return tiny(self.name, **self.options)

    def make_batch(self, seed: int = 0) -> Batch:
        return batch_of(self.make_method(), 8, seed=seed)


class TestOPN(TestVCOP):
    name = "opn"


class TestShuffleLearn(TestVCOP):
    name = "shuffle_learn"


class TestArrowOfTime(TestVCOP):
    name = "arrow_of_time"


class TestPace(TestVCOP):
    name = "pace"


class TestPaceContrast(TestVCOP):
    name = "pace"
    options: ClassVar[dict[str, Any]] = {"contrast_weight": 0.1, "num_clips": 2, "out_dim": 4}


class TestRotation(TestVCOP):
    name = "rotation"


class TestVCP(TestVCOP):
    name = "vcp"


class TestSupervised(MethodSuite):
    def make_method(self) -> Method:
        return tiny_supervised()

    def make_batch(self, seed: int = 0) -> Batch:
        return labelled_batch(seed=seed)


class TestSimCLR(MethodSuite):
    name = "simclr"
    options: ClassVar[dict[str, Any]] = {}
    views = 2

    def make_method(self) -> Method:
        return cast(Method, siamese_clips.tiny(self.name, **self.options))

    def make_batch(self, seed: int = 0) -> Batch:
        return siamese_clips.views_batch(self.views, seed=seed)


class TestMoCo(TestSimCLR):
    name = "moco"


class TestMoCoOfFourClips(TestMoCo):
    options: ClassVar[dict[str, Any]] = {"rho": 4, "version": "occon", "symmetric": True, "queue_size": 7}
    views = 4


class TestBYOL(TestSimCLR):
    name = "byol"


class TestBYOLOfficial(TestBYOL):
    options: ClassVar[dict[str, Any]] = {"rho": 4, "variant": "official", "momentum_schedule": "cosine"}
    views = 4


class TestSwAV(TestSimCLR):
    name = "swav"

    def make_batch(self, seed: int = 0) -> Batch:
        return siamese_clips.batch_of_views(self.make_method(), seed=seed)


class TestPIRL(TestSwAV):
    name = "pirl"


class TestPIRLOfTwoClips(TestPIRL):
    options: ClassVar[dict[str, Any]] = {"rho": 2, "loss": "info_nce", "num_negatives": 5}


def test_every_registered_method_has_a_case() -> None:
    """Here by its class's name, or in the method's own test."""
    own = Path(__file__).parents[1] / "methods"
    here = {name.removeprefix("Test").lower() for name in globals() if name.startswith("Test")}
    for name in list_methods():
        test = own / f"test_{name}.py"
        told = test.is_file() and "(MethodSuite)" in test.read_text(encoding="utf-8")
        assert told or any(name.replace("_", "") in case for case in here), f"add a class for {name}, here or in {test}"
