"""Decides which links of a raw folder are followed: those inside the folder, into DVC's cache, or anywhere."""

from dataclasses import dataclass
from pathlib import Path

from tumorboard.base.data_params import Links
from tumorboard.base.dvc_cache import dvc_cache_folders
from tumorboard.base.errors import ImageError

ALLOWED_BY = "data.links: anywhere in params.yaml allows it"  # end of the message about an outward link


@dataclass(frozen=True)
class LinkRule:
    """Which targets the links of one folder may have."""

    raw: Path  # the folder
    root: Path  # the folder, resolved
    links: Links  # as `data.links`

    def allows(self, target: Path) -> bool:
        """Returns whether a link of the folder may lead to a resolved path.

        A file in DVC's cache is the tracked file itself, which DVC has replaced by a link (`cache.type symlink`).
        """
        return (
            self.links == "anywhere"
            or target.is_relative_to(self.root)
            or any(target.is_relative_to(cache) for cache in dvc_cache_folders(self.raw))
        )


def link_rule(raw: Path, links: Links = "inside") -> LinkRule:
    """Returns the rule for the links of a folder."""
    return LinkRule(raw, raw.resolve(), links)


def resolve_link(link: Path, rule: LinkRule) -> Path:
    """Returns the file that a link of a raw folder leads to.

    Raises:
        ImageError: there is none, or the rule does not allow it.
    """
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a circle of links, before Python 3.13
        end = link.readlink()
        cached = any(end.is_relative_to(cache) for cache in dvc_cache_folders(rule.raw))
        cure = ": DVC's cache lacks the file, run `dvc pull` or `dvc checkout`" if cached else ""
        raise ImageError("broken or outward link", f"leads to '{end}', which does not exist{cure}") from None
    if not rule.allows(target):
        raise ImageError("broken or outward link", f"leads out of data.raw, to '{target}'; {ALLOWED_BY}")
    return target
