"""Pictures with boxes coloured by the mixture component that made them, and contact sheets of any pictures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from mdnkernels.train.drawing.canvas import (
    BLACK,
    WHITE,
    Canvas,
    draw_box,
    font_for,
    line_height,
    shortened,
    with_legend,
)


def draw_detections(
    image: Image.Image,
    boxes: ArrayLike,
    labels: ArrayLike,
    scores: ArrayLike | None,
    components: ArrayLike | None,
    category_names: Sequence[str],
    *,
    min_score: float = 0.3,
    num_components: int | None = None,
    min_side: int = 640,
    legend: bool = True,
) -> Image.Image:
    """Draw detections over a copy of a picture.

    Each box has its component's colour and a label `category score cK`, K the component. A small picture is enlarged
    first, so that labels can be read; lines and letters grow with a large one. Labels stay inside the picture, and are
    put where they cover no other label if such a place exists, the best scores choosing first.

    Args:
        image: the picture, any mode.
        boxes: (N, 4) x1 y1 x2 y2 in pixels of `image`. What lies outside is cut off; a box that is not finite, or has
            nothing inside the picture, is left out.
        labels: (N,) class indices into `category_names`; -1 is padding and is left out.
        scores: (N,) in [0, 1]; those below `min_score` are left out. None draws every box and no score: the truth.
        components: (N,) component indices, -1 for a box of no component, which is drawn in a neutral colour; None for
            all -1.
        category_names: name of each class index. The built-in font has the Latin-1 letters.
        min_score: smallest score drawn.
        num_components: how many components the legend lists; None for the largest one drawn.
        min_side: the longer side, in pixels, that a smaller picture is enlarged to; 0 never enlarges.
        legend: add a strip below the picture that names the components; never added when there are none.

    Returns:
        An RGB picture: `image` enlarged or not, with the legend's strip below.

    Raises:
        ValueError: the arrays' shapes do not fit, or a label has no name.
    """
    canvas = Canvas(image, boxes, scores, components, min_side)
    label = np.asarray(labels, dtype=np.int64)
    if label.shape != (canvas.count,):
        raise ValueError(f"labels has shape {label.shape}: need ({canvas.count},), one for each box")
    if len(label) and label.max() >= len(category_names):
        raise ValueError(f"labels holds {label.max()}, but category_names has {len(category_names)} names")
    canvas.show(label >= 0, min_score)
    for i in reversed(canvas.rectangles):
        draw_box(canvas.draw, canvas.rectangles[i], canvas.colours[i], canvas.line_width)
    return canvas.finish({i: category_names[label[i]] for i in canvas.rectangles}, num_components, legend)


def grid(
    images: Sequence[Image.Image],
    columns: int,
    *,
    captions: Sequence[str] | None = None,
    num_components: int = 0,
    cell: int | None = None,
    gap: int = 8,
) -> Image.Image:
    """Draw a contact sheet: pictures in rows from left to right, each with its caption above, and one legend below all.

    Args:
        images: at least one picture; those of other widths are scaled to the cell's.
        columns: pictures in a row, at least 1.
        captions: one a picture; None for none.
        num_components: components in the legend; 0 for no legend. Draw the pictures with `legend=False` then.
        cell: width of a picture in pixels; None for the widest one's.
        gap: white pixels between pictures.

    Returns:
        An RGB picture.

    Raises:
        ValueError: no picture, a column count below 1, or captions that do not match.
    """
    if not images:
        raise ValueError("images is empty: a contact sheet needs at least one picture")
    if columns < 1:
        raise ValueError(f"columns is {columns}: need at least 1")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"captions has {len(captions)} entries for {len(images)} images: need one each")
    width = cell or max(image.width for image in images)
    columns = min(columns, len(images))
    font = font_for(width)
    head = line_height(font) + gap // 2 if captions else 0
    scaled = [_to_width(image.convert("RGB"), width) for image in images]
    rows = [range(start, min(start + columns, len(images))) for start in range(0, len(images), columns)]
    heights = [max(scaled[i].height for i in row) + head for row in rows]
    sheet = Image.new("RGB", (columns * (width + gap) + gap, sum(heights) + gap * (len(rows) + 1)), WHITE)
    draw = ImageDraw.Draw(sheet)
    y = gap
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            x = gap + column * (width + gap)
            if captions:
                draw.text((x, y + head / 2), shortened(captions[i], font, width), fill=BLACK, font=font, anchor="lm")
            sheet.paste(scaled[i], (x, y + head))
        y += height + gap
    return with_legend(sheet, num_components, font)


def _to_width(image: Image.Image, width: int) -> Image.Image:
    if image.width == width:
        return image
    return image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)
