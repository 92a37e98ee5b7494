"""A network for use without this code, as torch.export or ONNX: what `predict` does, or the maps.

`python -m models.export` writes a published network, `python -m train export` one that was trained here.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from mdnkernels import command_line, use_backend
from mdnkernels.models import ARCHITECTURES, TASKS, build_model, load_published
from mdnkernels.models.decode import Detections
from mdnkernels.models.detector import Detector
from mdnkernels.models.files import write_atomically
from mdnkernels.models.folding import fold_batch_norms
from mdnkernels.models.pose import PoseEstimator, Poses
from mdnkernels.models.regression import Flip

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
    """Trace the whole of `model.predict` as one graph: backbone, peaks, sparse heads, decoding.

    model: in eval mode, else ValueError. images: (B, 3, H, W), an example: the graph takes any batch of this height and
    width, on this device, and gives a dict of `predict`'s fields. A component is chosen by its weight. The graph calls
    the ops of mdnkernels, and DLA-34's that of torchvision: import these packages before `torch.export.load`.
    """
    _check(model, images)
    # An example of one image would make its batch a constant.
    example = images.expand(2, -1, -1, -1) if len(images) == 1 else images
    with torch.no_grad():
        return torch.export.export(_Inference(model, k, flip).eval(), (example,), dynamic_shapes=_any_batch())


def export_onnx(
    model: Detector | PoseEstimator,
    path: str | Path,
    size: tuple[int, int],
    *,
    maps: bool = False,
    k: int = 100,
    flip: Flip | None = None,
    description: str | None = None,
) -> list[str]:
    """Write the whole of `model.predict` as an ONNX file; return the names of its outputs.

    model: in eval mode, else ValueError. size: height and width of the images in pixels, multiples of `model.divisor`.
    The input is "images" (B, 3, *size), B free; the outputs are `predict`'s fields, of the k best objects. A component
    is chosen by its weight. All is of ONNX's own operations. DLA-34 needs a runtime with opset 19's DeformConv, which
    onnxruntime got in 2026. maps: give the last stack's maps instead, under the names of `model.forward`;
    `model.decode` decodes them. description: a text that goes into the file's metadata as "mdnkernels". Raises
    ImportError where the packages of the extra `export` are missing.
    """
    weight = next(model.parameters())
    images = torch.zeros(2, 3, *size, dtype=weight.dtype, device=weight.device)
    _check(model, images)
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError("ONNX export needs onnx and onnxscript: pip install 'mdnkernels[export]'") from error
    fields = Poses._fields if isinstance(model, PoseEstimator) else Detections._fields
    names = list(model.head_groups[-1].heads if maps else fields)
    # ONNX knows no op of mdnkernels: eager says them in PyTorch's.
    with torch.no_grad(), use_backend("eager"):
        program = torch.onnx.export(
            (_Maps(model) if maps else _Inference(model, k, flip)).eval(),
            (images,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=names,
            dynamic_shapes=_any_batch(),
            verbose=False,
        )
    assert program is not None  # as dynamo says
    if description is not None:
        program.model.metadata_props["mdnkernels"] = description
    program.save(path)
    return names


def write_graph(
    model: Detector | PoseEstimator,
    path: Path,
    size: tuple[int, int],
    *,
    k: int = 100,
    flip: Flip | None = None,
    maps: bool = False,
    description: str | None = None,
) -> str:
    """Write a network as the file's name says, and return what is in it, in words.

    path: NAME.pt2 for `export_inference`, NAME.onnx for `export_onnx`; nothing may be there yet. model: in eval mode;
    its batch norms are folded, in place. size: height and width of the images in pixels. k, flip: of `predict`. maps:
    of `export_onnx`. description: a text that goes along, in ONNX as the metadata "mdnkernels", in .pt2 as the extra
    file "mdnkernels.json". Raises ValueError that names what is wrong, and ImportError as `export_onnx` does.
    """
    if path.suffix not in (".pt2", ".onnx"):
        raise ValueError(f"{path}: must end in .pt2 (torch.export) or .onnx (ONNX)")
    check_output(path)
    if maps and (path.suffix != ".onnx" or flip is not None or k != 100):
        raise ValueError(f"{path}: maps are of ONNX files, and are before peaks and flips; leave their options out")
    fold_batch_norms(model)
    what = f"the {k} best of each image"
    if path.suffix == ".onnx":
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder) / path.name
            names = export_onnx(model, draft, size, maps=maps, k=k, flip=flip, description=description)
            what = f"{'maps' if maps else what + ':'} {', '.join(names)}"
            write_atomically(path, lambda file: file.write(draft.read_bytes()))
    else:
        weight = next(model.parameters())
        images = torch.zeros(2, 3, *size, dtype=weight.dtype, device=weight.device)
        program = export_inference(model, images, k=k, flip=flip)
        extra = {} if description is None else {"mdnkernels.json": description}
        write_atomically(path, lambda file: torch.export.save(program, file, extra_files=extra))
        what += ", a dict of tensors"
    return f"images (B, 3, {size[0]}, {size[1]}) to {what}"


def check_output(path: Path) -> None:
    """Raise ValueError where no new file can be written."""
    if not path.parent.is_dir():
        raise ValueError(f"{path}: the folder is not there")
    if path.exists():
        raise ValueError(f"{path}: is there already: give another name, or remove it")


def _any_batch() -> dict[str, dict[int, torch.export.Dim]]:
    return {"images": {0: torch.export.Dim("batch", min=1)}}


def _check(model: Detector | PoseEstimator, images: Tensor) -> None:
    # The exporters would wrap these errors in their own.
    model.check_images(images)
    if model.training:
        raise ValueError("the model is in training mode, where batch norm reads the batch: call model.eval() first")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line. Exits, with help or a message, as argparse does."""
    parser = argparse.ArgumentParser(
        prog=command_line.program_of_models("models.export"),
        description="Write a network with published weights as a graph that needs none of this code: NAME.pt2 for "
        "torch.export, NAME.onnx for ONNX, both from images to detections or poses. Batch norms are folded. Of a "
        f"network trained here: {command_line.program()} export RUN.",
    )
    parser.add_argument("arch", choices=ARCHITECTURES, help="backbone")
    parser.add_argument("task", choices=TASKS, help="what its heads predict")
    parser.add_argument("weights", type=Path, help="published checkpoint, as load_published reads it")
    parser.add_argument("output", type=Path, help="file to write: NAME.pt2 or NAME.onnx")
    parser.add_argument("--classes", type=int, help="classes to detect (default: 80; pose has one, the person)")
    parser.add_argument("--components", type=int, default=3, help="of the mixture; 0 is the single-mode base (3)")
    parser.add_argument("--min-scale", type=float, help="one less than the run's least sigma (1; pose: 9)")
    parser.add_argument("--colours", choices=("BGR", "RGB"), default="BGR", help="order of the images' channels (BGR)")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(512, 512), metavar=("H", "W"), help="of the images, in pixels (512 512)"
    )
    parser.add_argument("--peaks", type=int, default=100, help="objects per image that are given (100)")
    parser.add_argument("--flip", choices=get_args(Flip), help="look at the mirror image too")
    parser.add_argument("--maps", action="store_true", help=".onnx: give the maps, before peaks are looked for")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the graph. Returns the exit status: 0, or 2 after a mistake that the message on stderr names."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    detection = options.task == "detection"
    classes = options.classes if options.classes is not None else 80 if detection else 1
    min_scale = options.min_scale if options.min_scale is not None else 1.0 if detection else 9.0
    try:
        model = build_model(
            options.arch, task=options.task, num_classes=classes, components=options.components, min_scale=min_scale
        )
        load_published(model, options.weights, colours=options.colours)
        what = write_graph(
            model.eval(),
            options.output,
            tuple(options.size),
            k=options.peaks,
            flip=options.flip,
            maps=options.maps,
        )
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}: {what}; {options.colours}, normalised as for the published network")
    return 0


if __name__ == "__main__":
    sys.exit(main())
