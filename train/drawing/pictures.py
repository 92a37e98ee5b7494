"""Drawing detections on photographs: boxes coloured by the mixture component that made them, and contact sheets."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

# Okabe and Ito's colours, told apart with any of the common colour-vision deficiencies; the first three differ most.
# The one palette, of pictures and plots.
COMPONENT_COLOURS: tuple[str, ...] = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")

# For boxes without a component: the single-mode base, and the truth.
NEUTRAL_COLOUR = "#E8E8E8"

_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)

_Colour = tuple[int, int, int]


class Rectangle(NamedTuple):
    """Pixels from (x1, y1) up to, not including, (x2, y2)."""

    x1: int
    y1: int
    x2: int
    y2: int

    def overlap(self, other: "Rectangle") -> int:
        """Return the area shared with another rectangle."""
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        return max(0, width) * max(0, height)


def component_colour(component: int) -> str:
    """Return the colour of a mixture component as "#RRGGBB"; neutral for -1. The palette repeats after its seven."""
    return NEUTRAL_COLOUR if component < 0 else COMPONENT_COLOURS[component % len(COMPONENT_COLOURS)]


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
    box, score, component = check_boxes(boxes, scores, components)
    label = np.asarray(labels, dtype=np.int64)
    if label.shape != (len(box),):
        raise ValueError(f"labels has shape {label.shape}: need ({len(box)},), one for each box")
    if len(label) and label.max() >= len(category_names):
        raise ValueError(f"labels holds {label.max()}, but category_names has {len(category_names)} names")
    picture, enlarge = enlarged(image, min_side)
    keep = label >= 0
    if scores is not None:
        keep &= score >= min_score
    rectangles = visible_rectangles(box * enlarge, keep, score, picture.size)
    colours = {i: component_colour(int(component[i])) for i in rectangles}

    draw = ImageDraw.Draw(picture)
    for i in reversed(rectangles):
        draw_box(draw, rectangles[i], colours[i], line_width(picture))
    font = font_for(max(picture.size))
    texts = {
        i: " ".join([category_names[label[i]], *label_words(score[i] if scores is not None else None, component[i])])
        for i in rectangles
    }
    draw_labels(draw, texts, rectangles, colours, font, picture.size)
    if num_components is None:
        num_components = max((int(component[i]) + 1 for i in rectangles), default=0)
    return with_legend(picture, num_components, font) if legend else picture


def draw_legend(num_components: int, width: int, font_size: float = 15, notes: Sequence[str] = ()) -> Image.Image:
    """Draw a white strip with each component's colour and name, then the notes, in as many rows as it takes.

    width: of the strip in pixels.
    """
    font = ImageFont.load_default(size=font_size)
    line = _line_height(font)
    gap = line // 2
    entries = [("mixture component", "#FFFFFF")] + [(f"c{k}", component_colour(k)) for k in range(num_components)]
    entries += [(note, "#FFFFFF") for note in notes]
    places: list[tuple[int, int]] = []
    x, y = gap, gap
    for text, _ in entries:
        needed = round(font.getlength(text)) + line // 2
        if x > gap and x + needed + gap > width:
            x, y = gap, y + line + gap
        places.append((x, y))
        x += needed + gap
    strip = Image.new("RGB", (width, y + line + gap), _WHITE)
    draw = ImageDraw.Draw(strip)
    for (text, colour), (x, y) in zip(entries, places, strict=True):
        right = x + round(font.getlength(text)) + line // 2
        draw.rectangle((x, y, right - 1, y + line - 1), fill=colour)
        draw.text(((x + right) / 2, y + line / 2), text, fill=_ink(colour), font=font, anchor="mm")
    return strip


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
    head = _line_height(font) + gap // 2 if captions else 0
    scaled = [_to_width(image.convert("RGB"), width) for image in images]
    rows = [range(start, min(start + columns, len(images))) for start in range(0, len(images), columns)]
    heights = [max(scaled[i].height for i in row) + head for row in rows]
    sheet = Image.new("RGB", (columns * (width + gap) + gap, sum(heights) + gap * (len(rows) + 1)), _WHITE)
    draw = ImageDraw.Draw(sheet)
    y = gap
    for row, height in zip(rows, heights, strict=True):
        for column, i in enumerate(row):
            x = gap + column * (width + gap)
            if captions:
                draw.text((x, y + head / 2), _shortened(captions[i], font, width), fill=_BLACK, font=font, anchor="lm")
            sheet.paste(scaled[i], (x, y + head))
        y += height + gap
    return with_legend(sheet, num_components, font)


def check_boxes(
    boxes: ArrayLike, scores: ArrayLike | None, components: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return boxes (N, 4), scores (N,) and components (N,) of these shapes; None gives scores 1, components -1."""
    box = np.asarray(boxes, dtype=np.float64)
    if box.size == 0:
        box = box.reshape(0, 4)
    if box.ndim != 2 or box.shape[1] != 4:
        raise ValueError(f"boxes has shape {box.shape}: need (N, 4), x1 y1 x2 y2")
    count = len(box)
    score = np.ones(count) if scores is None else np.asarray(scores, dtype=np.float64)
    component = np.full(count, -1) if components is None else np.asarray(components, dtype=np.int64)
    for name, array in (("scores", score), ("components", component)):
        if array.shape != (count,):
            raise ValueError(f"{name} has shape {array.shape}: need ({count},), one for each box")
    return box, score, component


def enlarged(image: Image.Image, min_side: int) -> tuple[Image.Image, float]:
    """Return a copy in RGB whose longer side is at least `min_side`, and by how much it was enlarged."""
    factor = max(1.0, min_side / max(image.size))
    size = (round(image.width * factor), round(image.height * factor))
    picture = image.convert("RGB")
    if size != image.size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return picture, factor


def line_width(picture: Image.Image) -> int:
    """Return the width of the lines drawn on a picture."""
    return max(2, round(max(picture.size) / 200))


def visible_rectangles(
    box: NDArray[np.float64], keep: NDArray[np.bool_], score: NDArray[np.float64], size: tuple[int, int]
) -> dict[int, Rectangle]:
    """Return the pixels of each box (N, 4) to keep (N,) that is finite and partly in the picture, best score first.

    Equal scores stay in order, so that the picture is the same each time.
    """
    edges = np.round(np.sort(box.reshape(-1, 2, 2), axis=1).reshape(-1, 4))
    keep = keep & np.isfinite(edges).all(1)
    keep &= (edges[:, 0] < size[0]) & (edges[:, 1] < size[1]) & (edges[:, 2] > 0) & (edges[:, 3] > 0)
    return {int(i): _inside(edges[i], size) for i in np.argsort(-score, kind="stable") if keep[i]}


def label_words(score: float | None, component: int) -> list[str]:
    """Return what a label says of the score, where there is one, and of the component, where there is one."""
    words = [] if score is None else [f"{score:.2f}"]
    return words if component < 0 else [*words, f"c{component}"]


def draw_labels(
    draw: ImageDraw.ImageDraw,
    texts: Mapping[int, str],
    rectangles: Mapping[int, Rectangle],
    colours: Mapping[int, str],
    font: ImageFont.FreeTypeFont,
    size: tuple[int, int],
) -> None:
    """Draw each box's label near it in its colour, so that labels avoid each other; the first ones choose first."""
    tags: dict[int, tuple[Rectangle, str]] = {}
    for i, text in texts.items():
        text = _shortened(text, font, size[0] - _line_height(font))
        others = [rectangles[j] for j in rectangles if j != i]
        tags[i] = _label_place(text, font, rectangles[i], [tag[0] for tag in tags.values()], others, size), text
    # Where labels must share a place, the best score's is on top.
    for i, (place, text) in reversed(tags.items()):
        draw.rectangle((place.x1, place.y1, place.x2 - 1, place.y2 - 1), fill=colours[i], outline=_BLACK)
        middle = ((place.x1 + place.x2) / 2, (place.y1 + place.y2) / 2)
        draw.text(middle, text, fill=_ink(colours[i]), font=font, anchor="mm")


def with_legend(
    picture: Image.Image, num_components: int, font: ImageFont.FreeTypeFont, notes: Sequence[str] = ()
) -> Image.Image:
    """Return the picture with a legend below it; as it is where there are no components."""
    if num_components <= 0:
        return picture
    return _stack([picture, draw_legend(num_components, picture.width, font.size, notes)])


def _inside(edges: NDArray[np.float64], size: tuple[int, int]) -> Rectangle:
    """Return the whole pixels of a box that lie in the picture: at least one, since some of the box does."""
    x1, y1 = (int(np.clip(edges[k], 0, size[k] - 1)) for k in range(2))
    x2, y2 = (int(np.clip(edges[k + 2], low + 1, size[k])) for k, low in enumerate((x1, y1)))
    return Rectangle(x1, y1, x2, y2)


def font_for(side: int) -> ImageFont.FreeTypeFont:
    """Return the font for a picture whose longer side is `side` pixels."""
    font = ImageFont.load_default(size=max(12, round(side / 42)))
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ImportError("this Pillow was built without FreeType: install a Pillow wheel to draw labels of any size")
    return font


def _line_height(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    top, bottom = font.getbbox("Ag")[1::2]
    return round(1.35 * (bottom - top))


def _ink(colour: str) -> _Colour:
    """Return black or white, whichever is easier to read on `colour`."""
    red, green, blue = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
    luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    # Where the contrast ratios (L + 0.05) / (0.05) with black and 1.05 / (L + 0.05) with white are equal.
    return _BLACK if luminance > 0.179 else _WHITE


def draw_box(draw: ImageDraw.ImageDraw, box: Rectangle, colour: str, thickness: int) -> None:
    """Draw a frame in `colour` between a black and a white line, so that it shows on any background."""
    x1, y1, x2, y2 = box.x1, box.y1, box.x2 - 1, box.y2 - 1
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=_BLACK)
    draw.rectangle((x1, y1, x2, y2), outline=_WHITE, width=thickness + 1)
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=thickness)


def _label_place(
    text: str,
    font: ImageFont.FreeTypeFont,
    box: Rectangle,
    taken: Sequence[Rectangle],
    others: Sequence[Rectangle],
    size: tuple[int, int],
) -> Rectangle:
    """Return the place for a box's label that covers least of the labels there, then of other boxes, then its own."""
    line = _line_height(font)

    def cost(place: Rectangle) -> tuple[int, int, int]:
        on_labels = sum(place.overlap(label) for label in taken)
        return on_labels, sum(place.overlap(other) for other in others), place.overlap(box)

    # `min` keeps the first of equals, and so the customary place, above the box, where nothing speaks against it.
    return min(_places(box, round(font.getlength(text)) + line // 2, line, size), key=cost)


def _places(box: Rectangle, width: int, height: int, size: tuple[int, int]) -> Iterator[Rectangle]:
    """Give places for a label, the customary ones first; each is moved into the picture if it sticks out."""
    beside_x = (box.x1, box.x2 - width, (box.x1 + box.x2 - width) // 2)
    beside_y = (box.y1, box.y2 - height, (box.y1 + box.y2 - height) // 2)
    corners: Iterable[tuple[int, int]] = (
        *((x, y) for y in (box.y1 - height, box.y2, box.y1, box.y2 - height) for x in beside_x),
        *((x, y) for x in (box.x2, box.x1 - width) for y in beside_y),
        *((x, y) for y in (box.y1 - 2 * height, box.y2 + height) for x in beside_x),
    )
    for x, y in corners:
        x, y = max(0, min(x, size[0] - width)), max(0, min(y, size[1] - height))
        yield Rectangle(x, y, x + width, y + height)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Return the text, or as much of its start as fits in `width` pixels, then three dots."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _to_width(image: Image.Image, width: int) -> Image.Image:
    if image.width == width:
        return image
    return image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)


def _stack(images: Sequence[Image.Image]) -> Image.Image:
    """Put pictures of one width one below the other."""
    whole = Image.new("RGB", (images[0].width, sum(image.height for image in images)), _WHITE)
    y = 0
    for image in images:
        whole.paste(image, (0, y))
        y += image.height
    return whole
