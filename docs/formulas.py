"""Check that no formula of the built site begins left of its box, where nobody can scroll to: on a phone and a desktop.
Check that a desktop shows 88 characters of code beside both sidebars.

python docs/formulas.py docs/_build/html

Chromium draws the pages, if it is installed. It does without a network and without a profile.
"""

import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BROWSERS = "chromium", "chromium-browser", "google-chrome"
WIDTHS = 390, 1280  # pixels
COLUMNS = 88  # characters of code, the most that the examples of a page have
CODE = "index.html"  # a page with both sidebars
FOUND = re.compile(r'<pre id="found">(.*?)</pre>', re.DOTALL)
BELOW = re.compile(r'<mo stretchy="false">\S</mo>\s*</munderover>')

# All pages stand in frames of one, whose load event waits for them. Of each box: by how much its formula begins left;
# of a line of code: by how much it is wider than its box.
MEASURE = """
window.onload = () => {
  const found = [], code = [];
  for (const frame of document.querySelectorAll("iframe")) {
    const listing = frame.dataset.page == "CODE" && frame.contentDocument.querySelector(".bd-article pre");
    if (listing) {
      listing.textContent = "0".repeat(COLUMNS);
      code.push([frame.width, listing.scrollWidth - listing.clientWidth]);
    }
    for (const box of frame.contentDocument.querySelectorAll(".math")) {
      const parts = [...box.querySelectorAll("math, math *")].map(part => part.getBoundingClientRect());
      const first = Math.min(...parts.filter(part => part.width).map(part => part.left));
      found.push([frame.dataset.page, frame.width, box.innerText, box.getBoundingClientRect().left - first]);
    }
  }
  const place = document.body.appendChild(document.createElement("pre"));
  place.id = "found";
  place.textContent = JSON.stringify([found, code]);
};
""".replace("CODE", CODE).replace("COLUMNS", str(COLUMNS))


def measured(browser, site, pages):
    """Return ``(page, width, text, pixels)`` of every formula: how far it begins left of its box.

    Return ``(width, pixels)`` of a line of code, too: how far it goes past its box.
    """
    frames = [
        f'<iframe data-page="{page}" width="{width}" height="900" src="{(site / page).as_uri()}"></iframe>'
        for page in pages
        for width in WIDTHS
    ]
    with tempfile.TemporaryDirectory() as folder:
        wrapper = Path(folder) / "all.html"
        wrapper.write_text("\n".join(["<!doctype html><meta charset='utf-8'>", f"<script>{MEASURE}</script>", *frames]))
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
            f"--user-data-dir={folder}/profile", "--dump-dom", wrapper.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = FOUND.search(done.stdout)
    if found is None:
        raise SystemExit(f"formulas: {browser} did not draw the pages:\n{done.stderr[-2000:]}")
    return json.loads(html.unescape(found[1]))


def main():
    site = Path(sys.argv[1]).resolve()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"formulas: not looked at, as none of {', '.join(BROWSERS)} is on the PATH")
        return
    pages = [path for path in sorted(site.rglob("*.html")) if '<div class="math">' in path.read_text()]
    found, code = measured(browser, site, [CODE, *(path.relative_to(site).as_posix() for path in pages)])
    if not pages or {width for _, width, _, _ in found} != {*map(str, WIDTHS)}:
        raise SystemExit("formulas: none was found")
    left = [
        f"{page} at {width} px: begins {pixels:.0f} px left of its box: {' '.join(text.split())}"
        for page, width, text, pixels in found
        if pixels > 1
    ]
    left += [
        f"{path.relative_to(site)}: an index stands below its letter, as the accent does above"
        for path in pages
        if BELOW.search(path.read_text())
    ]
    (cut,) = (pixels for width, pixels in code if width == str(max(WIDTHS)))
    left += [f"{CODE} at {max(WIDTHS)} px: {COLUMNS} characters of code are cut by {cut} px"] * (cut > 0)
    if left:
        raise SystemExit("\n".join(left))
    print(f"formulas: {len(found)} on {len(pages)} pages begin in their boxes at {' and '.join(map(str, WIDTHS))} px")
    print(f"code: {COLUMNS} characters fit at {max(WIDTHS)} px")


if __name__ == "__main__":
    main()
