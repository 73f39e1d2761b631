"""Links that lead out of ``docs/``: what they point at becomes a part of the site, under ``source/``."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LINK = re.compile(r"\[([^\[\]]*)\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what any page points at outside: programs as pages of code, all else as it is."""
    root = Path(config.config_file_path).parent
    for page in list(files.documentation_pages()):
        for _, target, _ in LINK.findall(page.content_string):
            outside = _outside(page.src_uri, target)
            path = root / (outside or "")
            if outside is None or not path.is_file() or f"source/{outside}" in files.src_uris:
                continue
            if path.suffix == ".py":
                code = path.read_text(encoding="utf-8")
                text = f"---\nsearch:\n  exclude: true\nhide: [toc]\n---\n# {outside}\n\n`````python\n{code}`````\n"
                if f"source/{outside}.md" not in files.src_uris:
                    files.append(File.generated(config, f"source/{outside}.md", content=text))
            else:
                files.append(File.generated(config, f"source/{outside}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point such links into the site; of a folder only the name is left, for it has no page."""

    def moved(link: re.Match[str]) -> str:
        text, target, _ = link.groups()
        outside = _outside(page.file.src_uri, target)
        if outside is None:
            return link[0]
        for found in (f"source/{outside}.md", f"source/{outside}"):
            if found in files.src_uris:
                return f"[{text}]({posixpath.relpath(found, posixpath.dirname(page.file.src_uri) or '.')})"
        return text

    return LINK.sub(moved, markdown)


def _outside(page: str, target: str) -> str | None:
    """The path from the root of the repository, or None for what lies in ``docs/``."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.startswith("docs/") else path
