"""Files, folders and patterns on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdnkernels.train.data.image_files import find_images
from mdnkernels.train.errors import ConfigError


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    names = ["b.jpg", "a.PNG", "c.txt", ".hidden.jpg", "inner/d.jpg", "inner/deeper/e.jpg", "f[1].jpg", "g1.jpg"]
    for name in names:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "photos" / "folder.jpg").mkdir()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def found(*given: str) -> list[str]:
    return [str(path) for path in find_images([Path(one) for one in given])]


def test_a_folder_means_the_images_directly_in_it(photos: Path) -> None:
    assert found("photos") == ["photos/a.PNG", "photos/b.jpg", "photos/f[1].jpg", "photos/g1.jpg"]
    assert found("photos/") == found("photos")


def test_a_pattern_means_the_files_that_it_matches(photos: Path) -> None:
    assert found("photos/?.jpg") == ["photos/b.jpg"]
    assert found("photos/[bg]*.jpg") == ["photos/b.jpg", "photos/g1.jpg"]
    assert found("photos/**/[de].jpg") == ["photos/inner/d.jpg", "photos/inner/deeper/e.jpg"]
    assert found("photos/c.*") == ["photos/c.txt"]  # the user's own choice: read or reported


def test_a_file_is_taken_whatever_its_name(photos: Path) -> None:
    assert found("photos/c.txt", "absent.jpg") == ["photos/c.txt", "absent.jpg"]
    assert found("photos/f[1].jpg") == ["photos/f[1].jpg"]  # as a pattern it would mean f1.jpg


def test_each_file_is_taken_once_in_the_order_given(photos: Path) -> None:
    assert found("photos/g1.jpg", "photos", str(photos / "b.jpg"), "photos/g*") == [
        "photos/g1.jpg",
        "photos/a.PNG",
        "photos/b.jpg",
        "photos/f[1].jpg",
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "give at least one file"),
        (("photos/b.jpg", "photos/*.bmp"), r"the pattern 'photos/\*\.bmp' matches no file"),
        (("photos/inn*",), r"'photos/inn\*' matches no file, only folders, as photos/inner: name them"),
        (("empty",), "no image in the folder empty$"),
        (("photos/inner/deeper/..", "photos/folder.jpg"), r"no image in the folder photos/folder\.jpg"),
    ],
)
def test_what_means_no_image_is_named(photos: Path, given: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_images([Path(one) for one in given])


def test_a_folder_of_folders_says_how_to_name_what_is_in_them(photos: Path) -> None:
    (photos / "inner" / "d.jpg").unlink()
    with pytest.raises(ConfigError, match=r"for those in its folders give 'photos/inner/\*\*/\*\.jpg'"):
        find_images([Path("photos/inner")])
