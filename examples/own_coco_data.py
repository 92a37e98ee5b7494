"""Your own data in COCO's format, start to end from Python: check it, train on it, score it, predict.

Without `--data DIR`, a folder in COCO's layout (train2017, val2017, annotations), coloured shapes in three sizes are
drawn. A mixture gives each size a component, and every box says which one it is of. The commands that do the same are
printed.

    python examples/own_coco_data.py

The picture: boxes found in pictures that were not trained on, coloured by component.
"""

import argparse
import tempfile
from pathlib import Path

from matplotlib import pyplot as plt

from mdnkernels.train import (
    AugmentConfig,
    DataConfig,
    EvaluateConfig,
    FitConfig,
    ModelConfig,
    OptimizerConfig,
    Predictor,
    evaluate,
    fit,
)
from mdnkernels.train.config.commands import CheckDataConfig
from mdnkernels.train.data.check import check_data
from mdnkernels.train.synthetic.coloured import COLOURED

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", type=Path)
parser.add_argument("--steps", type=int, default=600)
parser.add_argument("--output", default="examples/pictures/own_coco_data.png")
options = parser.parse_args()
folder, size, batch = Path(tempfile.mkdtemp(prefix="own_coco_data-")), 96, 8

if options.data is None:
    images, annotations, val_images, val_annotations = COLOURED.write(
        folder, train=min(batch * options.steps, 800), val=24, image_size=size
    )
else:
    images, val_images = (options.data / f"{split}2017" for split in ("train", "val"))
    annotations, val_annotations = (
        options.data / "annotations" / f"instances_{split}2017.json" for split in ("train", "val")
    )

print(f"$ mdnkernels check-data --images {images} --annotations {annotations}")
report = check_data(CheckDataConfig(images, annotations, output=folder / "check", input_size=size))
print(f"{report['images']} images, {report['objects']} objects, {len(report['bad_annotations'])} of them bad")

epochs = -(-options.steps * batch // report["images"])
print(f"$ mdnkernels fit --run {folder}/run --train-images {images} --train-annotations {annotations} ...")
run = fit(
    FitConfig(
        folder / "run",
        data=DataConfig(None, images, annotations, val_images, val_annotations, input_size=size, workers=0),
        augment=AugmentConfig(crop_scales=(0.9, 1.0, 1.1)),
        model=ModelConfig(arch="hourglass_tiny", components=3),
        optimizer=OptimizerConfig(epochs=epochs, batch=batch, lr=1e-3),
    )
)

print(f"$ mdnkernels evaluate {run}")
metrics = evaluate(EvaluateConfig(run, workers=0), say=lambda words: None)
shares = ", ".join(f"{100 * (one['share'] or 0):.0f} %" for one in metrics["components"])
print(f"AP {100 * metrics['AP']:.1f}, shares of the components {shares}")

print(f"$ mdnkernels predict --run {run} {val_images}")
found = Predictor.from_run(run)(sorted(val_images.glob("*.jpg"))[:4])
print(found[0])
figure, panels = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
for axes, prediction in zip(panels, found, strict=True):
    axes.imshow(prediction.draw())
    axes.axis("off")
figure.savefig(options.output, dpi=80)
