"""The site's links that need an address: to edit a page, and a menu of versions.

They appear when a person fills in `project_urls` in `setup.cfg` (`docs/release.md`); until then the site has neither.
"""

import configparser
from pathlib import Path

HERE = Path(__file__).parent
VERSIONS = HERE / "_static" / "versions.json"  # the theme's list of versions, which a person writes with the addresses
MADE = "gallery/", "reference/generated/"  # pages without a file in the repository


def read(path=HERE.parent / "setup.cfg"):
    """Return the addresses by name."""
    setup = configparser.ConfigParser()
    setup.read(path)
    lines = setup.get("metadata", "project_urls", fallback="").strip().splitlines()
    return {name.strip(): url.strip().rstrip("/") for name, _, url in (line.partition("=") for line in lines)}


def options(urls, version, versions=VERSIONS):
    """Return the address of the site, what its pages are told, and options of the theme."""
    base, context, theme = urls.get("Documentation", ""), {}, {}
    if "Source" in urls:
        context["edit_page_url_template"] = f"{urls['Source']}/edit/main/docs/{{{{ file_name }}}}"
        theme["use_edit_page_button"] = True
    if base and versions.exists():
        theme["switcher"] = {"json_url": f"{base}/_static/{versions.name}", "version_match": version}
        theme["check_switcher"] = False  # a build needs no network
        theme["navbar_end"] = ["version-switcher", "theme-switcher", "navbar-icon-links"]
        theme["header_links_before_dropdown"] = 4  # which leaves room for the menu
    return base, context, theme
