"""Check that the site's search finds the right page first for the terms that users type.

    python -m sphinx -E -a docs docs/_build/html    # a full build: others lose the index entries of unchanged pages
    python docs/search.py docs/_build/html

The terms and their pages are in `search_terms.csv`; conf.py makes an index entry of each. This program reads the built
`searchindex.js` and ranks results as Sphinx's `searchtools.js` does for a query of one or more words. It checks that
listings of code are not searched, too.
"""

import csv
import json
import re
import sys
from pathlib import Path

from sphinx.search.en import SearchEnglish

TERMS = Path(__file__).with_name("search_terms.csv")
OF_LISTINGS = "loglog", "argpars", "suptitl"  # what examples call of other libraries, as stems
OBJECT, OBJECT_PART, TITLE, PART_OF_TITLE, WORD, PART_OF_WORD = 11, 6, 15, 7, 5, 2


def terms():
    """Return the pages that must be found, by term."""
    with TERMS.open() as file:
        return dict(csv.reader(file))


def read(site):
    """Return the index that the browser loads."""
    text = (site / "searchindex.js").read_text()
    return json.loads(text[text.index("(") + 1 : text.rindex(")")])


def titles_and_entries(index, query):
    """Yield page and score of titles and main index entries that contain the query."""
    for title, places in index["alltitles"].items():
        if query in title.lower() and len(query) >= len(title) / 2:
            for page, _ in places:
                yield page, round(TITLE * len(query) / len(title)) + (index["titles"][page] == title)
    for entry, places in index["indexentries"].items():
        if query in entry and len(query) >= len(entry) / 2:
            for page, _, main in places:
                if main:
                    yield page, round(100 * len(query) / len(entry))


def objects(index, query):
    """Yield page and score of documented names that contain the query, if it is one word."""
    for prefix, entries in index["objects"].items():
        for page, _kind, priority, _, name in entries:
            full = f"{prefix}.{name}".lower()
            if " " not in query and query in full:
                last = full.rpartition(".")[2]
                score = OBJECT if query in (full, last) else OBJECT_PART if query in last else 0
                yield page, score + {0: 15, 1: 5, 2: -5}.get(priority, 0)


def words(index, query):
    """Yield page and score of texts that contain all words of the query."""
    english, scores = SearchEnglish({}), []
    for word in re.findall(r"\w+", query):
        if word in english.stopwords or word.isdigit():
            continue
        stem, found = english.stem(word), {}
        for key, whole, part in [("terms", WORD, PART_OF_WORD), ("titleterms", TITLE, PART_OF_TITLE)]:
            known = index[key]
            near = {} if stem in known or len(stem) < 3 else {term: part for term in known if stem in term}
            for term, score in ({stem: whole} if stem in known else near).items():
                pages = known[term] if isinstance(known[term], list) else [known[term]]
                found.update(dict.fromkeys(pages, score))
        scores.append(found)
    for page in set.intersection(*map(set, scores)) if scores else ():
        yield page, max(found[page] for found in scores)


def search(index, query):
    """Return the pages that are found, the best one first."""
    query = query.lower()
    best = {}
    for found in (titles_and_entries, objects, words):
        for page, score in found(index, query):
            best[page] = max(score, best.get(page, -1))
    order = sorted(best, key=lambda page: (-best[page], index["titles"][page]))
    return [index["docnames"][page] for page in order]


def main():
    index, wrong = read(Path(sys.argv[1])), []
    listed = [word for word in OF_LISTINGS if index["terms"].get(word, []) != []]
    wrong += [f"{word!r}, a word of listings, is in the index" for word in listed]
    for term, page in terms().items():
        found = search(index, term)
        if found[:1] != [page]:
            wrong.append(f"{term!r} finds {found[:3]}, not {page}")
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(f"search: {len(terms())} terms find their page first")


if __name__ == "__main__":
    main()
