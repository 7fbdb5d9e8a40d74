"""Check that each link within the built site has a target: Sphinx's own checks pass where an id gets lost.

python docs/anchors.py docs/_build/html
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The ids of a page, and its links."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links = {""}, set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id", ""))
        if tag == "a" and attributes.get("href"):
            self.links.add(attributes["href"])


def main():
    site = Path(sys.argv[1]).resolve()
    pages = {path.resolve(): Page(path.read_text()) for path in site.rglob("*.html")}
    lost = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if parts.scheme or target.suffix not in ("", ".html") or target == path and not parts.fragment:
                continue
            if target not in pages or unquote(parts.fragment) not in pages[target].ids:
                lost.append(f"{path.relative_to(site)}: {link}")
    if lost:
        raise SystemExit("\n".join(sorted(lost)))
    print(f"anchors: the links of {len(pages)} pages have their targets")


if __name__ == "__main__":
    main()
