"""What pictures of all kinds share: boxes in their components' colours, labels that avoid one another, a legend."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from mdnkernels.train.drawing.colours import component_colour

WHITE, BLACK = (255, 255, 255), (0, 0, 0)

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


class Canvas:
    """An enlarged picture to draw boxes on, and what is drawn of each: its pixels, its component's colour, its label.

    picture, draw: what is drawn on, and with what. enlarge: by how much it is larger than the image. line_width: of its
    lines. count: of the boxes. rectangles, colours: by its number, of each box that `show` has chosen.
    """

    def __init__(
        self,
        image: Image.Image,
        boxes: ArrayLike,
        scores: ArrayLike | None,
        components: ArrayLike | None,
        min_side: int,
    ) -> None:
        """boxes: (N, 4) x1 y1 x2 y2 in pixels of `image`. scores, components: (N,), or None for none.

        min_side: the longer side, in pixels, that a smaller picture is enlarged to. Raises ValueError for other shapes.
        """
        self._boxes, self._scores, self._components = _check_boxes(boxes, scores, components)
        self._scored = scores is not None
        self.count = len(self._boxes)
        self.picture, self.enlarge = _enlarged(image, min_side)
        self.draw = ImageDraw.Draw(self.picture)
        self.line_width = max(2, round(max(self.picture.size) / 200))
        self.rectangles: dict[int, Rectangle] = {}
        self.colours: dict[int, str] = {}

    def show(self, keep: NDArray[np.bool_], min_score: float) -> None:
        """Choose the boxes to show, best score first: of those to keep (N,), with at least this score if they have any.

        A box that is not finite, or has nothing inside the picture, is left out.
        """
        keep = keep & self.reaches(min_score)
        self.rectangles = _visible_rectangles(self._boxes * self.enlarge, keep, self._scores, self.picture.size)
        self.colours = {i: component_colour(int(self._components[i])) for i in self.rectangles}

    def reaches(self, score: float) -> NDArray[np.bool_]:
        """Return (N,) which boxes have at least this score: all of them where they have none."""
        return self._scores >= score if self._scored else np.ones(self.count, dtype=bool)

    def finish(
        self, names: Mapping[int, str], num_components: int | None, legend: bool, notes: Sequence[str] = ()
    ) -> Image.Image:
        """Draw the labels, and return the picture, with a legend below where one is wanted and there are components.

        names: what a box's label says before its score and component, where it says more. num_components: that the
        legend lists; None for the largest one shown. notes: what else the legend says.
        """
        font = font_for(max(self.picture.size))
        texts = {i: " ".join([*([names[i]] if i in names else []), *self._numbers(i)]) for i in self.rectangles}
        texts = {i: text for i, text in texts.items() if text}
        _draw_labels(self.draw, texts, self.rectangles, self.colours, font, self.picture.size)
        if num_components is None:
            num_components = max((int(self._components[i]) + 1 for i in self.rectangles), default=0)
        return with_legend(self.picture, num_components, font, notes) if legend else self.picture

    def _numbers(self, i: int) -> list[str]:
        """Return what a label says of the score, where there is one, and of the component, where there is one."""
        words = [f"{self._scores[i]:.2f}"] if self._scored else []
        return words if self._components[i] < 0 else [*words, f"c{self._components[i]}"]


def draw_legend(num_components: int, width: int, font_size: float = 15, notes: Sequence[str] = ()) -> Image.Image:
    """Draw a white strip with each component's colour and name, then the notes, in as many rows as it takes.

    width: of the strip in pixels.
    """
    font = ImageFont.load_default(size=font_size)
    line = line_height(font)
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
    strip = Image.new("RGB", (width, y + line + gap), WHITE)
    draw = ImageDraw.Draw(strip)
    for (text, colour), (x, y) in zip(entries, places, strict=True):
        right = x + round(font.getlength(text)) + line // 2
        draw.rectangle((x, y, right - 1, y + line - 1), fill=colour)
        draw.text(((x + right) / 2, y + line / 2), text, fill=_ink(colour), font=font, anchor="mm")
    return strip


def with_legend(
    picture: Image.Image, num_components: int, font: ImageFont.FreeTypeFont, notes: Sequence[str] = ()
) -> Image.Image:
    """Return the picture with a legend below it; as it is where there are no components."""
    if num_components <= 0:
        return picture
    return _stack([picture, draw_legend(num_components, picture.width, font.size, notes)])


def font_for(side: int) -> ImageFont.FreeTypeFont:
    """Return the font for a picture whose longer side is `side` pixels."""
    font = ImageFont.load_default(size=max(12, round(side / 42)))
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ImportError("this Pillow was built without FreeType: install a Pillow wheel to draw labels of any size")
    return font


def line_height(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    top, bottom = font.getbbox("Ag")[1::2]
    return round(1.35 * (bottom - top))


def shortened(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Return the text, or as much of its start as fits in `width` pixels, then three dots."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def draw_box(draw: ImageDraw.ImageDraw, box: Rectangle, colour: str, thickness: int) -> None:
    """Draw a frame in `colour` between a black and a white line, so that it shows on any background."""
    x1, y1, x2, y2 = box.x1, box.y1, box.x2 - 1, box.y2 - 1
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=BLACK)
    draw.rectangle((x1, y1, x2, y2), outline=WHITE, width=thickness + 1)
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=thickness)


def _check_boxes(
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


def _enlarged(image: Image.Image, min_side: int) -> tuple[Image.Image, float]:
    """Return a copy in RGB whose longer side is at least `min_side`, and by how much it was enlarged."""
    factor = max(1.0, min_side / max(image.size))
    size = (round(image.width * factor), round(image.height * factor))
    picture = image.convert("RGB")
    if size != image.size:
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return picture, factor


def _visible_rectangles(
    box: NDArray[np.float64], keep: NDArray[np.bool_], score: NDArray[np.float64], size: tuple[int, int]
) -> dict[int, Rectangle]:
    """Return the pixels of each box (N, 4) to keep (N,) that is finite and partly in the picture, best score first.

    Equal scores stay in order, so that the picture is the same each time.
    """
    edges = np.round(np.sort(box.reshape(-1, 2, 2), axis=1).reshape(-1, 4))
    keep = keep & np.isfinite(edges).all(1)
    keep &= (edges[:, 0] < size[0]) & (edges[:, 1] < size[1]) & (edges[:, 2] > 0) & (edges[:, 3] > 0)
    return {int(i): _inside(edges[i], size) for i in np.argsort(-score, kind="stable") if keep[i]}


def _inside(edges: NDArray[np.float64], size: tuple[int, int]) -> Rectangle:
    """Return the whole pixels of a box that lie in the picture: at least one, since some of the box does."""
    x1, y1 = (int(np.clip(edges[k], 0, size[k] - 1)) for k in range(2))
    x2, y2 = (int(np.clip(edges[k + 2], low + 1, size[k])) for k, low in enumerate((x1, y1)))
    return Rectangle(x1, y1, x2, y2)


def _draw_labels(
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
        text = shortened(text, font, size[0] - line_height(font))
        others = [rectangles[j] for j in rectangles if j != i]
        tags[i] = _label_place(text, font, rectangles[i], [tag[0] for tag in tags.values()], others, size), text
    # Where labels must share a place, the best score's is on top.
    for i, (place, text) in reversed(tags.items()):
        draw.rectangle((place.x1, place.y1, place.x2 - 1, place.y2 - 1), fill=colours[i], outline=BLACK)
        middle = ((place.x1 + place.x2) / 2, (place.y1 + place.y2) / 2)
        draw.text(middle, text, fill=_ink(colours[i]), font=font, anchor="mm")


def _ink(colour: str) -> _Colour:
    """Return black or white, whichever is easier to read on `colour`."""
    red, green, blue = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
    luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
    # Where the contrast ratios (L + 0.05) / (0.05) with black and 1.05 / (L + 0.05) with white are equal.
    return BLACK if luminance > 0.179 else WHITE


def _label_place(
    text: str,
    font: ImageFont.FreeTypeFont,
    box: Rectangle,
    taken: Sequence[Rectangle],
    others: Sequence[Rectangle],
    size: tuple[int, int],
) -> Rectangle:
    """Return the place for a box's label that covers least of the labels there, then of other boxes, then its own."""
    line = line_height(font)

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


def _stack(images: Sequence[Image.Image]) -> Image.Image:
    """Put pictures of one width one below the other."""
    whole = Image.new("RGB", (images[0].width, sum(image.height for image in images)), WHITE)
    y = 0
    for image in images:
        whole.paste(image, (0, y))
        y += image.height
    return whole
