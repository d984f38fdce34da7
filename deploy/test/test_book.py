#!/usr/bin/env python3
"""The book and the README: every link leads to something that is there, every page is in the summary."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def links(page):
    return LINK.findall(CODE.sub("", page.read_text()))


def anchors(page):
    """The fragments that mdBook and code hosts make of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9_ -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken(page):
    for target in links(page):
        if "://" in target:
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            yield f"{page.relative_to(ROOT)}: {target} leads nowhere"
        elif fragment and fragment not in anchors(file):
            yield f"{page.relative_to(ROOT)}: {target}: that page has no such heading"


def main():
    source = ROOT / "docs" / "src"
    summary = source / "SUMMARY.md"
    pages = sorted(source.rglob("*.md"))
    listed = {(source / target).resolve() for target in links(summary)}
    faults = [fault for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *pages] for fault in broken(page)]
    faults += [f"{page.relative_to(ROOT)}: not in SUMMARY.md" for page in pages if page != summary and page not in listed]
    print("\n".join(faults) or f"book: {len(pages)} pages, every link leads somewhere")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
