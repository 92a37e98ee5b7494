"""Articulated figures seen from the front or from the back: joints, the outlines of the limbs, colours.

A figure is made of its two sides *in the image*, 0 the left one and 1 the right one, alike in colour and in the
distribution of their angles. The view only decides which side is the figure's own left, and which cues are drawn: from
the front a face and something on the chest, from the back hair and a backpack. Every random number is drawn whatever
the view, so that without its cues a figure has the same pixels from the front and from the back.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from mdnkernels.models.skeleton import COCO_PERSON
from mdnkernels.train.synthetic.scenery import FINE, Floats, Mask, colour, surface

Points = NDArray[np.float64]

PAINTS = ("nothing", "shirt", "trousers", "skin", "shoes", "hair", "hood", "dark", "badge", "pack")

# Lengths are fractions of the height of a figure that stands upright.
_RIM = 0.009
_RADIUS = {"upper_arm": 0.034, "forearm": 0.028, "hand": 0.03, "thigh": 0.048, "shin": 0.038, "shoe": 0.032}
_LENGTH = {"upper_arm": 0.155, "forearm": 0.14, "hand": 0.03, "thigh": 0.22, "shin": 0.22, "shoe": 0.045}
_ARM, _LEG = ("upper_arm", "forearm", "hand"), ("thigh", "shin", "shoe")
_SIDES = np.array([[-1.0], [1.0]])
_DIRECTIONS = np.stack([f(np.arange(48) * (2 * np.pi / 48)) for f in (np.cos, np.sin)], 1)

# What of the figure shows a keypoint: where another part of it is in front, the figure itself hides the keypoint.
_SHOWN_BY = {
    "nose": ("head",),
    "eye": ("head",),
    "ear": ("head",),
    "shoulder": ("torso", "upper_arm"),
    "elbow": ("upper_arm", "forearm"),
    "wrist": ("forearm", "hand"),
    "hip": ("torso", "thigh"),
    "knee": ("thigh", "shin"),
    "ankle": ("shin", "shoe"),
}


class Look(NamedTuple):
    """What tells the front of a figure from its back."""

    front: bool
    featured: bool
    """The head has a face or hair; else it is in a hood, the same from both sides."""
    marked: bool
    """There is something on the chest, or a backpack."""


class Figure(NamedTuple):
    """A figure before it has a place, in a window of whole pixels around it; K keypoints as in COCO_PERSON."""

    front: bool
    parts: NDArray[np.uint8]
    """(h * FINE, w * FINE) index into PAINTS of what is seen; 0 where the figure is not."""
    rim: Mask
    """(h * FINE, w * FINE) outlines of the parts."""
    cue: Mask
    """(h * FINE, w * FINE) where a cue of the view would be seen; alike for front and back."""
    keypoints: Points
    """(K, 2) x y in pixels of the window."""
    shown: Mask
    """(K,) no other part of the figure is in front of the keypoint. Never a nose or an eye without a face."""
    placed: Mask
    """(K,) an annotator would place the keypoint at all: not a nose or an eye from the back."""
    head: tuple[float, float, float, float]
    """x1 y1 x2 y2 of the head in pixels of the window."""


class _Piece(NamedTuple):
    """The hull of some discs, drawn over the pieces before it."""

    owner: str
    paint: str  # "nothing" leaves the picture as it is: only `cue` counts
    centres: Points  # (N, 2)
    radii: Points  # (N,)
    cue: bool | None = False  # what the piece makes of the cue's region: part of it, not part of it, or no change


def draw_figure(rng: np.random.Generator, longer: float, look: Look, spread: float = 1.0) -> Figure:
    """Draw a figure of random pose whose longer side is `longer` pixels, at a random phase to the pixel grid.

    spread: how far it may turn and bend, as a share of the whole range; 0 stands straight with hanging arms.
    """
    joints = _joints(rng, spread)
    pieces = _pieces(rng, joints, look)
    corners = [_hull(piece.centres, piece.radii) for piece in pieces]
    low, high = (f(np.concatenate(corners), axis=0) for f in (np.min, np.max))
    scale = longer / (high - low).max()
    phase = rng.random(2)
    width, height = np.ceil((high - low) * scale + phase).astype(int)

    def to_window(points: Points) -> Points:
        return (points - low) * scale + phase

    owners, parts, rim, cue = _draw_layers(pieces, to_window, int(width) * FINE, int(height) * FINE)
    keypoints = to_window(_keypoints(joints, look.front))
    columns, rows = np.floor(keypoints * FINE).astype(int).T
    top = [pieces[i].owner for i in owners[rows, columns].tolist()]
    shown = [owner in names for owner, names in zip(top, _owners_of_keypoints(look.front), strict=True)]
    face = np.array(["nose" in name or "eye" in name for name in COCO_PERSON.names])
    heads = np.concatenate([c for c, piece in zip(corners, pieces, strict=True) if piece.owner == "head"])
    x1, y1, x2, y2 = np.concatenate([to_window(heads.min(0)), to_window(heads.max(0))]).tolist()
    return Figure(
        front=look.front,
        parts=parts,
        rim=rim.view(bool),
        cue=cue.view(bool),
        keypoints=keypoints,
        shown=np.array(shown) & ~(face & (not (look.front and look.featured))),
        placed=~face | look.front,
        head=(x1, y1, x2, y2),
    )


def paint_figure(rng: np.random.Generator, height: int, width: int, under: Floats) -> list[Floats]:
    """Draw a figure's textures (3, height, width), one for each of PAINTS; its shirt is unlike `under` (3,)."""
    flat = np.zeros((height, width), dtype=np.float32)
    across, down = (np.linspace(0.14, -0.14, side, dtype=np.float32) for side in (width, height))
    shade = 1 + across + down[:, None]
    tone = rng.uniform(0.4, 1.0)
    skin = tone * np.array([1.0, rng.uniform(0.72, 0.8), rng.uniform(0.52, 0.64)])
    hair = rng.uniform(0.05, 0.3) * np.array([1.0, rng.uniform(0.6, 1.0), rng.uniform(0.3, 0.9)])
    colours: dict[str, NDArray[np.floating]] = {
        "nothing": np.zeros(3),
        "skin": skin,
        "shoes": colour(rng, (0.0, 0.6), (0.1, 0.5)),
        "hair": hair,
        "hood": colour(rng, (0.4, 0.95), (0.5, 1.0)),  # unlike hair, not to be taken for it
        "dark": np.full(3, 0.06),
        "badge": colour(rng, (0.6, 1.0), (0.85, 1.0)),
        "pack": colour(rng, (0.3, 0.9), (0.25, 0.7)),
    }
    plain = {name: value.astype(np.float32).reshape(3, 1, 1) * shade for name, value in colours.items()}
    shirt, trousers = (surface(rng, flat, under) for _ in range(2))
    paints = plain | {"shirt": shirt, "trousers": 0.75 * trousers}
    return [paints[name] for name in PAINTS]


def _draw_layers(
    pieces: list[_Piece], to_window: Callable[[Points], Points], width: int, height: int
) -> list[NDArray[np.uint8]]:
    """Return maps (height, width) of the fine grid: index of the seen piece, index into PAINTS, outlines, cues."""
    layers = [Image.new("L", (width, height)) for _ in range(4)]
    to_owners, to_parts, to_rim, to_cue = (ImageDraw.Draw(layer).polygon for layer in layers)
    for i, piece in enumerate(pieces):
        whole = _on_fine_grid(to_window(_hull(piece.centres, piece.radii)))
        if piece.cue is not None:
            to_cue(whole, fill=int(piece.cue))
        if piece.paint != "nothing":
            to_owners(whole, fill=i)
            to_parts(whole, fill=PAINTS.index(piece.paint))
            to_rim(whole, fill=1)
            core = _hull(piece.centres, np.maximum(piece.radii - _RIM, 0.3 * piece.radii))
            to_rim(_on_fine_grid(to_window(core)), fill=0)
    return [np.asarray(layer) for layer in layers]


def _turned(points: ArrayLike, angle: float) -> Points:
    """Turn points (..., 2) about the origin, clockwise in the image."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.asarray(points, dtype=np.float64) @ np.array([[cos, sin], [-sin, cos]])


def _joints(rng: np.random.Generator, spread: float) -> dict[str, Points]:
    """Draw the joints of a random pose: (2, 2) each, side and x y, or (2,) for the nose. x goes right, y down.

    Limbs are shortened at random as if they came out of the image's plane. Most figures stand; some are bent or lie.
    """
    degrees = spread * math.pi / 180
    joints: dict[str, Points] = {}
    lean = rng.normal(0, 7) * degrees
    turn = rng.uniform(0.6, 1.0)
    spine = 0.27 * rng.uniform(0.8, 1.0)
    joints["hip"] = _SIDES * [0.068 * turn, 0.0]
    chest = _turned([0.0, -spine], lean)
    joints["shoulder"] = chest + _turned(_SIDES * [0.1 * turn, 0.0], lean)
    limbs = (
        ("shoulder", ("elbow", "wrist", "fingers"), _ARM, (-20, 110), (-110, 110), lean),
        ("hip", ("knee", "ankle", "toes"), _LEG, (-10, 35), (-30, 15), 0.0),
    )
    for root, names, lengths, swing, bend, base in limbs:
        raised = rng.random(2) < 0.2
        angle = np.where(raised, rng.uniform(*swing, 2) * 1.5, rng.uniform(*swing, 2)) * degrees
        at = joints[root]
        for i, (name, length) in enumerate(zip(names, lengths, strict=True)):
            if i == 1:
                angle = angle + rng.uniform(*bend, 2) * degrees
            elif i == 2 and root == "hip":
                angle = angle + math.radians(40)
            step = np.stack([_SIDES[:, 0] * np.sin(angle), np.cos(angle)], 1)
            short = np.where(rng.random(2) < 0.25, rng.uniform(0.5, 1, 2), rng.uniform(0.85, 1, 2))
            at = at + _turned(step, base) * (_LENGTH[length] * short)[:, None]
            joints[name] = at

    tilt = lean + rng.normal(0, 9) * degrees
    aside = rng.uniform(-0.02, 0.02)
    middle = chest + _turned([0.0, -0.125], tilt)
    for name, points in (
        ("crown", [[0.0, -0.022], [0.0, 0.022]]),
        ("ear", _SIDES * [0.074, 0.0] + [0.0, 0.01]),
        ("eye", _SIDES * [0.028, 0.0] + [aside, 0.004]),
        ("nose", [1.3 * aside, 0.028]),
        ("mouth", _SIDES * [0.018, 0.0] + [aside, 0.054]),
        ("fringe", _SIDES * [0.02, 0.0] + [0.0, -0.047]),
    ):
        joints[name] = middle + _turned(points, tilt)
    whole = rng.uniform(-100, 100) if rng.random() < 0.15 else rng.normal(0, 9)
    return {name: _turned(points, whole * degrees) for name, points in joints.items()}


def _pieces(rng: np.random.Generator, joints: dict[str, Points], look: Look) -> list[_Piece]:
    """Return the figure from back to front; an arm is behind the body or in front of it, a leg behind the other one."""
    behind = rng.random(2) < 0.4
    first_leg = int(rng.integers(2))
    bare_arms, bare_legs = rng.random(2) < [0.6, 0.25]
    chest_kind = int(rng.integers(3))

    def limb(side: int, names: Iterable[str], chain: Iterable[str], paints: Iterable[str]) -> list[_Piece]:
        points = [joints[name][side] for name in chain]
        # The end of a limb is under what it hangs on: a sleeve lies over the hand's wrist.
        return [
            _Piece(f"{name}_{side}", paint, np.stack([points[i], points[i + 1]]), np.full(2, _RADIUS[name]))
            for i, (name, paint) in reversed(list(enumerate(zip(names, paints, strict=True))))
        ]

    sleeve, leg = "skin" if bare_arms else "shirt", "skin" if bare_legs else "trousers"
    arms = [limb(s, _ARM, ("shoulder", "elbow", "wrist", "fingers"), ("shirt", sleeve, "skin")) for s in range(2)]
    legs = [limb(s, _LEG, ("hip", "knee", "ankle", "toes"), ("trousers", leg, "shoes")) for s in range(2)]
    shoulders, hips = joints["shoulder"], joints["hip"]
    chest = shoulders.mean(0)
    # Index 0 is where the figure is not.
    pieces = [_Piece("nothing", "nothing", chest[None], np.zeros(1))]
    pieces += [piece for s in range(2) if behind[s] for piece in arms[s]]
    pieces += legs[first_leg] + legs[1 - first_leg]
    pieces.append(_Piece("hips", "trousers", hips, np.full(2, 0.047)))
    trunk = np.concatenate([shoulders * 0.94 + chest * 0.06, hips + 0.12 * (chest - hips.mean(0))])
    pieces.append(_Piece("torso", "shirt", trunk, np.array([0.036, 0.036, 0.045, 0.045])))
    pieces += _chest_pieces(joints, look, chest_kind)
    pieces.append(_Piece("neck", "skin", np.stack([chest, joints["crown"][1]]), np.full(2, 0.03)))
    pieces += _head_pieces(joints, look)
    return pieces + [piece for s in range(2) if not behind[s] for piece in arms[s]]


def _chest_pieces(joints: dict[str, Points], look: Look, kind: int) -> list[_Piece]:
    """Return a badge, a tie or buttons for the front, a backpack for the back. The cue's region is the backpack's."""
    if not look.marked:
        return []
    shoulders, hips = joints["shoulder"], joints["hip"]
    chest, pelvis = shoulders.mean(0), hips.mean(0)

    def at(across: float, down: float) -> Points:
        return chest + across * (shoulders[1] - chest) + down * (pelvis - chest)

    pack = np.stack([at(x, y) for x in (-0.55, 0.55) for y in (0.1, 0.65)])
    pieces = [_Piece("torso", "nothing", pack, np.full(4, 0.03), cue=True)]
    if not look.front:
        pocket = np.stack([at(x, y) for x in (-0.35, 0.35) for y in (0.5, 0.6)])
        pieces.append(_Piece("torso", "pack", pack, np.full(4, 0.03), cue=None))
        pieces.append(_Piece("torso", "pack", pocket, np.full(4, 0.025), cue=None))
    elif kind == 0:
        pieces.append(_Piece("torso", "badge", np.stack([at(0.0, 0.33)] * 2), np.full(2, 0.045), cue=None))
    elif kind == 1:
        tie = np.stack([at(0.0, y) for y in (0.1, 0.6)])
        pieces.append(_Piece("torso", "badge", tie, np.array([0.012, 0.026]), cue=None))
    else:
        dots = [np.stack([at(0.0, y)] * 2) for y in (0.12, 0.3, 0.48, 0.66)]
        pieces += [_Piece("torso", "dark", dot, np.full(2, 0.014), cue=None) for dot in dots]
    return pieces


def _head_pieces(joints: dict[str, Points], look: Look) -> list[_Piece]:
    """Return a head with ears. All features lie inside it, so that its outline does not give the view away."""
    ear = "skin" if look.featured else "hood"
    head = "hood" if not look.featured else "skin" if look.front else "hair"
    pieces = [_Piece("head", ear, at[None], np.full(1, 0.019), cue=look.featured) for at in joints["ear"]]
    pieces.append(_Piece("head", head, joints["crown"], np.full(2, 0.072), cue=look.featured))
    if look.featured and look.front:
        pieces.append(_Piece("head", "hair", joints["fringe"], np.full(2, 0.038), cue=None))
        pieces += [_Piece("head", "dark", at[None], np.full(1, 0.013), cue=None) for at in joints["eye"]]
        pieces.append(_Piece("head", "dark", joints["nose"][None], np.full(1, 0.008), cue=None))
        pieces.append(_Piece("head", "dark", joints["mouth"], np.full(2, 0.007), cue=None))
    return pieces


def _side(name: str, front: bool) -> int:
    """Return the image's side, 0 left and 1 right, of a keypoint that is the figure's own left or right."""
    return int(name.startswith("left") == front)


def _keypoints(joints: dict[str, Points], front: bool) -> Points:
    """Return the joints (K, 2) in the order of COCO_PERSON."""
    return np.stack([joints[n] if n == "nose" else joints[n.split("_")[1]][_side(n, front)] for n in COCO_PERSON.names])


def _owners_of_keypoints(front: bool) -> list[set[str]]:
    """Return, for each keypoint, the owners of the pieces that show it."""
    sets = []
    for name in COCO_PERSON.names:
        owners = _SHOWN_BY[name.split("_")[-1]]
        sets.append({o if o in ("head", "torso") else f"{o}_{_side(name, front)}" for o in owners})
    return sets


def _hull(centres: Points, radii: Points) -> Points:
    """Return the corners (48, 2) of discs' convex hull: in each direction, of the disc that reaches farthest."""
    farthest = (centres @ _DIRECTIONS.T + radii[:, None]).argmax(0)
    return centres[farthest] + radii[farthest, None] * _DIRECTIONS


def _on_fine_grid(points: Points) -> list[tuple[float, float]]:
    """Return corners in pixels as ImageDraw takes them: whole numbers are the middles of the fine grid's cells."""
    return [(x, y) for x, y in (points * FINE - 0.5).tolist()]
