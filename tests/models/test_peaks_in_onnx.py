"""The peaks of an exported graph are those of topk_peaks, though it finds them by other operations."""

from __future__ import annotations

import pytest
import torch

from mdnkernels import topk_peaks
from mdnkernels.models.decode import peaks_in_onnx


@pytest.mark.parametrize("k", [1, 7, 400])
@pytest.mark.parametrize("logits", [True, False])
def test_peaks_are_those_of_topk_peaks(k: int, logits: bool) -> None:
    heatmap = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    found, expected = peaks_in_onnx(heatmap, k, logits=logits), topk_peaks(heatmap, k, logits=logits)
    for name, values in expected._asdict().items():
        torch.testing.assert_close(getattr(found, name), values, msg=name)


def test_a_map_without_finite_values_has_no_peak() -> None:
    found = peaks_in_onnx(torch.full((1, 2, 4, 4), -torch.inf), 3, logits=True)
    assert found.label.tolist() == [[-1, -1, -1]]
    assert found.index.tolist() == [[-1, -1, -1]]
    assert not found.score.any()
