"""Turns a report's Markdown into one page of HTML that needs no other file and no network."""

import base64
import html
import itertools
import pathlib
import re
from collections.abc import Mapping
from typing import Any

# Letters that are read from right to left: a number behind such a name would jump before it.
LEFTWARD = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]+(?: +[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]+)*")
LARGEST = 400_000  # bytes; a larger SVG is replaced by its PNG
STYLE = """
:root { color-scheme: light; --line: #d9dde3; --soft: #f5f7f9; --ink: #1c2733; --mark: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem 1.25rem 4rem; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .6rem 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.4rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--mark); }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: .5rem 0; font-size: .92rem; }
code { background: var(--soft); padding: .1em .3em; border-radius: 3px; font-size: .9em; }
.wide { overflow-x: auto; margin: .6rem 0 1rem; -webkit-overflow-scrolling: touch; }
.wide.long { max-height: 80vh; overflow-y: auto; }
table { border-collapse: separate; border-spacing: 0; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; max-width: 20rem;
  overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
thead th { position: sticky; top: 0; background: var(--soft); z-index: 1; padding: 0; }
thead th:first-child { background: var(--soft); z-index: 2; }
tbody tr:hover td { background: var(--soft); }
th button { all: unset; cursor: pointer; display: block; width: 100%; padding: .4rem .7rem; font-weight: 600;
  box-sizing: border-box; }
th button:focus-visible { outline: 2px solid var(--mark); outline-offset: -2px; }
th button::after { content: "\\2195"; opacity: .35; margin-left: .35em; }
th[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; }
figure { margin: 1rem 0; }
figure svg, figure img { display: block; height: auto; width: 100%; max-width: var(--own, 100%); }
figcaption { font-size: .88rem; color: #55606b; }
@media (max-width: 40rem) {
  body { padding: .6rem .8rem 3rem; }
  th:first-child, td:first-child { max-width: 9rem; }
  figure svg { min-width: min(var(--own), max(34rem, calc(.62 * var(--own)))); }
  figure img { min-width: 34rem; }
}
@media print { nav { display: none; } .wide.long { max-height: none; } }
"""
# Cells such as "90.3 ± 1.8" or "+1.3 [+0.0, +2.5] (n=3)" are sorted by their first number; cells without one come last.
SCRIPT = """
"use strict";
function value(row, column) {
  const text = row.cells[column].textContent.trim();
  const found = text.match(/^\\[?[+-]?\\d+(\\.\\d+)?(e[+-]?\\d+)?/i);
  return { text, number: found ? parseFloat(found[0].replace("[", "")) : null };
}
for (const table of document.querySelectorAll("table")) {
  const heads = table.tHead ? [...table.tHead.rows[0].cells] : [];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "none" || !head.hasAttribute("aria-sort")
        ? column > 0 : head.getAttribute("aria-sort") === "ascending";
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => ({ row, ...value(row, column) }));
      const known = rows.filter((one) => !/^[\\u2013-]?$/.test(one.text));
      const numbers = known.length > 0 && known.every((one) => one.number !== null);
      const turn = down ? -1 : 1;
      rows.sort((a, b) => {
        if (!numbers) return turn * a.text.localeCompare(b.text, undefined, { numeric: true });
        if (a.number === null || b.number === null) return (a.number === null) - (b.number === null);
        return turn * (a.number - b.number);
      });
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...rows.map((one) => one.row));
    });
  });
}
"""


def page(markdown: str, drawn: Mapping[str, bytes], folder: pathlib.Path) -> str:
    """Returns the page.

    Args:
      markdown: the report, in the Markdown that `cbjax.report` writes.
      drawn: name of a picture -> its SVG. A picture without one, or with a very large one, is shown as its PNG.
      folder: where the PNGs are.
    """
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    reader.add_render_rule("image", lambda _, tokens, place, *__: _picture(tokens[place], drawn, folder))
    reader.add_render_rule("text", lambda _, tokens, place, *__: _isolated(tokens[place].content))
    tokens = reader.parse(markdown)
    title = "Report"
    links: list[str] = []
    for opening, inline in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            text = "".join(part.content for part in inline.children or ())
            if opening.tag == "h1":
                title = text
            elif opening.tag == "h2":
                opening.attrSet("id", f"section-{len(links) + 1}")
                links.append(f'<a href="#section-{len(links) + 1}">{html.escape(text)}</a>')
    body = reader.renderer.render(tokens, reader.options, {})
    body = re.sub(r"<p>(<figure.*?</figure>)</p>", r"\1", body, flags=re.DOTALL)
    body = re.sub(r"<table>.*?</table>", _scrolling, body, flags=re.DOTALL)
    body = body.replace("</h1>", f"</h1>\n<nav>{''.join(links)}</nav>", 1)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'; img-src data:">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<main>
{body}</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _isolated(text: str) -> str:
    # A cell may take several lines, but a figure and its deviation stay in one.
    return LEFTWARD.sub(r"<bdi>\g<0></bdi>", html.escape(text).replace(" ± ", "\u00a0±\u00a0"))


def _scrolling(table: re.Match[str]) -> str:
    # A table that is wider or longer than the window scrolls by itself; its header and first column stay.
    long = " long" if table[0].count("<tr>") > 40 else ""
    return f'<div class="wide{long}" tabindex="0">{table[0]}</div>'


def _picture(token: Any, drawn: Mapping[str, bytes], folder: pathlib.Path) -> str:
    name, caption = str(token.attrs["src"]), html.escape(token.content)
    if (svg := drawn.get(name)) is not None and len(small := _inline(svg, caption)) <= LARGEST:
        shown = small
    else:
        png = base64.b64encode((folder / name).read_bytes()).decode()
        shown = f'<img alt="{caption}" src="data:image/png;base64,{png}">'
    return f'<figure><div class="wide">{shown}</div><figcaption>{caption}</figcaption></figure>'


def _inline(svg: bytes, caption: str) -> str:
    """Returns an SVG as a part of a page: without its header, its size, and the names of its groups."""
    text = svg.decode()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]).replace("\n", ""), text)
    head, rest = text.split(">", 1)
    width = float(re.search(r'width="([\d.]+)pt"', head)[1]) * 4 / 3  # type: ignore[index]  # matplotlib writes it
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{caption}" style="--own: {width:.0f}px">{rest}'
