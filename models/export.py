"""A network for use without this code: torch.export of what `predict` does, ONNX of the maps."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from models.decode import Flip
from models.detector import Detector
from models.pose import PoseEstimator

# DeformConv came with 19; torch's exporter writes 18 unless told.
OPSET = 20


class _Inference(nn.Module):
    def __init__(self, model: Detector | PoseEstimator, k: int, flip: Flip | None) -> None:
        super().__init__()
        self.model = model
        self.k = k
        self.flip = flip

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.model.predict(images, k=self.k, flip=self.flip)._asdict()


class _Maps(nn.Module):
    def __init__(self, model: Detector | PoseEstimator) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model(images)[-1].values())


def export_inference(
    model: Detector | PoseEstimator, images: Tensor, *, k: int = 100, flip: Flip | None = None
) -> torch.export.ExportedProgram:
    """The whole of `model.predict` as one graph: backbone, peaks, sparse heads, decoding.

    model: in eval mode, else ValueError. images: (B, 3, H, W), an example: the graph takes any batch of this height and
    width, on this device, and gives a dict of `predict`'s fields. A component is chosen by its weight. The graph calls
    the ops of mdnkernels, and DLA-34's that of torchvision: import these packages before `torch.export.load`.
    """
    _check(model, images)
    # An example of one image would make its batch a constant.
    example = images.expand(2, -1, -1, -1) if len(images) == 1 else images
    with torch.no_grad():
        return torch.export.export(_Inference(model, k, flip).eval(), (example,), dynamic_shapes=_any_batch())


def export_onnx(model: Detector | PoseEstimator, path: str | Path, size: tuple[int, int]) -> list[str]:
    """Writes the network with dense heads as an ONNX file; gives the names of its outputs.

    model: in eval mode, else ValueError. size: height and width of the images in pixels, multiples of `model.divisor`.
    The input is "images" (B, 3, *size), B free; the outputs are the last stack's maps under the names of
    `model.forward`. Peaks and sparse heads are mdnkernels' ops, which ONNX does not have: decode the maps with
    `model.decode`. DLA-34 needs a runtime with opset 19's DeformConv, which onnxruntime got in 2026. Raises
    ImportError where the packages of the extra `export` are missing.
    """
    weight = next(model.parameters())
    images = torch.zeros(2, 3, *size, dtype=weight.dtype, device=weight.device)
    _check(model, images)
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError('ONNX export needs onnx and onnxscript: pip install ".[export]"') from error
    names = list(model.heads[-1].heads)
    with torch.no_grad():
        torch.onnx.export(
            _Maps(model).eval(),
            (images,),
            path,
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=names,
            dynamic_shapes=_any_batch(),
            external_data=False,
            verbose=False,
        )
    return names


def _any_batch() -> dict:
    return {"images": {0: torch.export.Dim("batch", min=1)}}


def _check(model: Detector | PoseEstimator, images: Tensor) -> None:
    # The exporters would wrap these errors in their own.
    model.check_images(images)
    if model.training:
        raise ValueError("the model is in training mode, where batch norm reads the batch: call model.eval() first")
