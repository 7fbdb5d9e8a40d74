/* Suggest a word where the search finds nothing: for each word of the query that no page has, the nearest one of the
   index's entries, titles and documented names. Sphinx's search, whose page and index this uses, has no such thing. */
"use strict";

const distance = (a, b) => {
  /* The fewest letters to insert, remove, replace or exchange with the next. */
  const rows = [...a, ""].map(() => []);
  for (let i = 0; i <= a.length; i++)
    for (let j = 0; j <= b.length; j++) {
      if (!i || !j) {
        rows[i][j] = i + j;
        continue;
      }
      const differ = a[i - 1] !== b[j - 1];
      rows[i][j] = Math.min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + differ);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        rows[i][j] = Math.min(rows[i][j], rows[i - 2][j - 2] + 1);
    }
  return rows[a.length][b.length];
};

const vocabulary = (index) => {
  const names = Object.values(index.objects).flatMap((entries) => entries.map((entry) => entry[4]));
  const texts = [...Object.keys(index.indexentries), ...Object.keys(index.alltitles), ...names];
  return new Set(texts.join(" ").toLowerCase().match(/[\p{L}_][\p{L}\d_]{2,}/gu));
};

const corrected = (query, index) => {
  const known = vocabulary(index), stemmer = new Stemmer();
  return query.toLowerCase().replace(/[\p{L}_][\p{L}\d_]{2,}/gu, (word) => {
    const stem = stemmer.stemWord(word);
    if (known.has(word) || stem in index.terms || stem in index.titleterms) return word;
    const near = [...known]
      .filter((other) => Math.abs(other.length - word.length) <= word.length / 3)
      .map((other) => [distance(word, other), other])
      .filter(([letters]) => letters <= word.length / 3)
      .sort(([a, first], [b, second]) => a - b || (first < second ? -1 : 1));
    return near.length ? near[0][1] : word;
  });
};

const perform = Search._performSearch;
Search._performSearch = (query, ...others) => {
  const results = perform(query, ...others);
  const other = results.length ? query : corrected(query, Search._index);
  if (other !== query.toLowerCase() && !results.length) {
    const link = document.createElement("a");
    link.href = `?q=${encodeURIComponent(other)}`;
    link.textContent = other;
    const line = document.createElement("p");
    line.append("Did you mean ", link, "?");
    Search.status.after(line);
  }
  return results;
};
