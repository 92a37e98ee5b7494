"""What mkdocs is told beyond mkdocs.yml: pages and pictures from outside of docs/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PICTURES = "examples/pictures"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the changelog as a page, and the examples' pictures."""
    files.append(
        File.generated(config, "changelog.md", abs_src_path=str(ROOT / "CHANGELOG.md"))
    )
    for path in sorted((ROOT / PICTURES).glob("*.png")):
        files.append(
            File.generated(config, f"{PICTURES}/{path.name}", abs_src_path=str(path))
        )
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to the examples' pictures lead to where the site has them."""
    return markdown.replace(f"../{PICTURES}/", f"{PICTURES}/")
