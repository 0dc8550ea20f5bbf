"""Hooks of MkDocs: files outside docs/ as pages, links between all of them, and the pages of the reference."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference import commands_page, params_page

ROOT = Path(__file__).resolve().parents[2]

# Files outside docs/ that the site has, and the page that each becomes.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
# Files that a link may name, and the page that has their content.
CONTENT = PAGES | {"params.yaml": "params.md"}
_LINK = re.compile(r"(\]\()([^()\s#]+)(#[^()\s]*)?(\))")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are not in docs/, and the pictures that they show."""
    texts = {source: (ROOT / source).read_text(encoding="utf-8") for source in PAGES}
    for source, uri in PAGES.items():
        files.append(File.generated(config, uri, content=texts[source]))
    texts |= {f"docs/{page.name}": page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))}
    for source, text in texts.items():
        for name in linked_files(text, source):
            if files.get_file_from_path(name) is None and (ROOT / name).is_file() and name not in CONTENT:
                files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    files.append(File.generated(config, "params.md", content=params_page()))
    files.append(File.generated(config, "commands.md", content=commands_page()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turns links between files of the repository into links between pages."""
    uri = page.file.src_uri
    source = next((name for name, target in PAGES.items() if target == uri), f"docs/{uri}")
    return relink(markdown, source, uri)


def linked_files(text: str, source: str) -> list[str]:
    """Returns the files outside docs/ that a text links to.

    Args:
        text: Markdown.
        source: its file relative to the repository.
    """
    names = (repository_path(match[2], source) for match in _LINK.finditer(text))
    return [name for name in names if name and not name.startswith("docs/")]


def relink(text: str, source: str, uri: str) -> str:
    """Returns Markdown whose links name pages of the site.

    Args:
        text: Markdown with links relative to its file in the repository.
        source: that file, relative to the repository.
        uri: the page that it becomes, relative to the site.

    >>> relink("[a](docs/members.md#x), [b](params.yaml), [c](https://dvc.org)", "README.md", "index.md")
    '[a](members.md#x), [b](params.md), [c](https://dvc.org)'
    >>> relink("[a](../benchmarks/README.md), [b](members.md)", "docs/results.md", "results.md")
    '[a](benchmarks.md), [b](members.md)'
    """

    def replace(match: re.Match[str]) -> str:
        name = repository_path(match[2], source)
        if name is None:
            return match[0]
        target = CONTENT.get(name, name.removeprefix("docs/"))
        return f"{match[1]}{posixpath.relpath(target, posixpath.dirname(uri) or '.')}{match[3] or ''}{match[4]}"

    return _LINK.sub(replace, text)


def repository_path(link: str, source: str) -> str | None:
    """Returns the file of the repository that a link names; None for an address elsewhere."""
    if ":" in link or link.startswith("/"):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
