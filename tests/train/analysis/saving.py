"""Figures saved as their users save them."""

import warnings
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image


def saved_pixels(figure: Figure, folder: Path) -> np.ndarray:
    """Return the pixels of a figure that was saved without a warning; they are of more than a few colours."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(folder / "figure.png", dpi=60)
    with Image.open(folder / "figure.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    return pixels
