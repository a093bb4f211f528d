"""Exported graphs give the numbers of embed and predict."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unreel.core.errors import DataError, UsageError
from unreel.nn import create_encoder
from unreel.protocols import portable
from unreel.protocols.calibration import fit_calibrated
from unreel.protocols.knn import KNN
from unreel.protocols.linear import LinearProbe, LinearSVM
from unreel.protocols.portable import ClipsToNumbers, export_graph
from unreel.protocols.samples import FeatureSet


@pytest.fixture(scope="module")
def encoder() -> Any:
    return create_encoder("resnet_18", width=4, stem="cifar", seed=1, normalization="imagenet").eval()


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (5, 3, 2, 16, 16, 3), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def features(encoder: Any, clips: torch.Tensor) -> FeatureSet:
    with torch.no_grad():
        vectors = torch.stack([encoder(encoder.prepare(video)) for video in clips]).numpy()
    generator = np.random.default_rng(5)
    many = np.concatenate([vectors + generator.normal(0, 0.1, vectors.shape).astype(np.float32) for _ in range(8)])
    return FeatureSet(many, np.array([*"abcab"] * 8))


@pytest.mark.parametrize("views", ["vectors", "probabilities", "logits"])
@pytest.mark.parametrize("calibrated", [True, False])
def test_a_graph_says_what_the_head_says(
    encoder: Any, clips: torch.Tensor, features: FeatureSet, views: Any, calibrated: bool
) -> None:
    probe = LinearProbe(c=1.0, views=views, l2_normalize=views != "vectors")
    head: Any = fit_calibrated(probe, features) if calibrated else probe.fit(features)
    assert (head.card.temperature is not None) == calibrated
    with torch.no_grad():
        vectors = torch.stack([encoder(encoder.prepare(video)) for video in clips])
        found_vectors, found = ClipsToNumbers(encoder, head)(clips)
    np.testing.assert_allclose(found_vectors, vectors.mean(1), atol=1e-5)
    said = head.predict(vectors.numpy()).calibrated().probabilities
    np.testing.assert_allclose(found, said, atol=1e-6)


def test_scores_of_a_head_without_probabilities(encoder: Any, clips: torch.Tensor, features: FeatureSet) -> None:
    head: Any = LinearSVM().fit(features)
    with torch.no_grad():
        vectors, found = ClipsToNumbers(encoder, head)(clips)
    np.testing.assert_allclose(found, head.predict(vectors.numpy()).scores, atol=1e-5)


@pytest.mark.slow
def test_torch_s_file_runs_again_for_any_number_of_videos_and_views(encoder: Any, tmp_path: Path) -> None:
    small = create_encoder("r3d_tiny", seed=1).eval()
    small.input_spec = type(small.input_spec)(num_frames=4, size_px=16)
    assert export_graph(small, tmp_path / "net.pt2", format="torch") <= 1e-4
    extra = {"unreel_card": ""}
    program = torch.export.load(tmp_path / "net.pt2", extra_files=extra).module()
    assert '"architecture": "r3d_tiny"' in extra["unreel_card"]
    clips = torch.randint(0, 256, (3, 1, 4, 16, 16, 3), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(program(clips)[0], small(small.prepare(clips[:, 0])), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_onnx_gives_the_numbers(encoder: Any, features: FeatureSet, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    head: Any = LinearProbe(c=1.0).fit(features)
    spec = encoder.input_spec
    encoder.input_spec = type(spec)(num_frames=1, size_px=16, mean=spec.mean, std=spec.std)
    try:
        assert export_graph(encoder, tmp_path / "net.onnx", format="onnx", head=head) <= 1e-4
        clips = np.random.default_rng(0).integers(0, 256, (3, 4, 1, 16, 16, 3), dtype=np.uint8)
        session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
        assert [out.name for out in session.get_outputs()] == ["embeddings", "probabilities"]
        card = json.loads(session.get_modelmeta().custom_metadata_map["unreel_card"])
        assert card["classes"] == list(head.card.classes)
        vectors, shares = session.run(None, {"clips": clips})
        with torch.no_grad():
            wanted = encoder(encoder.prepare(torch.from_numpy(clips).flatten(0, 1))).unflatten(0, (3, 4)).mean(1)
    finally:
        encoder.input_spec = spec
    np.testing.assert_allclose(vectors, wanted, atol=1e-5)
    np.testing.assert_allclose(shares, head.predict(wanted.numpy()).probabilities, atol=1e-5)


def test_what_cannot_be_written_is_said_and_leaves_no_file(
    encoder: Any, features: FeatureSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"ends in \.onnx"):
        export_graph(encoder, tmp_path / "net.pth", format="onnx")
    with pytest.raises(UsageError, match="compares with the training samples"):
        export_graph(encoder, tmp_path / "net.pt2", format="torch", head=KNN().fit(features))
    monkeypatch.setattr(portable, "TOLERANCE", -1.0)
    small = create_encoder("vit_tiny", seed=1).eval()
    with pytest.raises(DataError, match="other numbers"):
        export_graph(small, tmp_path / "net.pt2", format="torch")
    assert not list(tmp_path.iterdir())
