"""A page of text, tables and pictures, as one HTML file or as Markdown."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import jinja2
import numpy as np
import pandas as pd

from episome.io import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; ``badge`` is ``"good"``, ``"bad"`` or nothing."""

    text: str
    badge: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A table, sorted by a click on a column.

    Parameters
    ----------
    frame
        Values; the index is not shown.
    caption
        One line below it.
    digits
        Of numbers that are not whole.
    """

    frame: pd.DataFrame
    caption: str = ""
    digits: int = 3

    def cells(self) -> list[list[tuple[str, str]]]:
        """Return every cell as what is shown and what it is sorted by."""
        return [
            [(shown(v, self.digits), _sorted_by(v)) for v in row]
            for row in self.frame.itertuples(index=False)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """A picture with the words that stand for it.

    Parameters
    ----------
    drawing
        Of matplotlib.
    alternative
        What it shows, for readers who do not see it.
    """

    drawing: Drawing
    alternative: str

    def svg(self) -> str:
        """Return the picture as text of HTML."""
        out = io.StringIO()
        # What is drawn as points is a picture in the picture: at 110 dots an inch it stays small.
        # A layout that fits by itself is not fitted a second time, which takes as long as drawing.
        box = None if self.drawing.get_layout_engine() else "tight"
        self.drawing.savefig(out, format="svg", bbox_inches=box, metadata={"Date": None}, dpi=110)
        text = out.getvalue()
        return text[text.index("<svg") :]


@dataclass(frozen=True, slots=True)
class Code:
    """Lines to copy, such as a command.

    Parameters
    ----------
    text
        The lines.
    caption
        What they are, above them.
    """

    text: str
    caption: str = ""


Part: TypeAlias = Text | Table | Figure | Code


@dataclass(slots=True, eq=False)
class Page:
    """Sections under a title.

    Parameters
    ----------
    title
        Of the page.
    lead
        One paragraph below it.
    sections
        Heading -> parts.
    data
        Plain data that the HTML carries for programs.
    """

    title: str
    lead: str = ""
    sections: dict[str, list[Part]] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    def add(self, heading: str, *parts: Part) -> None:
        """Add parts to a section."""
        self.sections.setdefault(heading, []).extend(parts)

    def html(self) -> str:
        """Return the page as one text of HTML; it loads nothing from anywhere."""
        # A script ends at the first "</", whatever is around it.
        held = json.dumps(_strict(self.data), default=str, allow_nan=False).replace("<", "\\u003c")
        return _ENVIRONMENT.from_string(_HTML).render(
            page=self, kind=lambda p: type(p).__name__, held=held
        )

    def markdown(self) -> str:
        """Return the page as Markdown, with what they show in place of pictures."""
        lines = [f"# {self.title}", ""]
        lines += [self.lead, ""] if self.lead else []
        for heading, parts in self.sections.items():
            lines += [f"## {heading}", ""]
            for part in parts:
                if isinstance(part, Text):
                    lines += [part.text, ""]
                elif isinstance(part, Table):
                    lines += [*_markdown(part), ""]
                elif isinstance(part, Figure):
                    lines += [f"Picture, on the HTML page: {part.alternative.rstrip('.')}.", ""]
                elif isinstance(part, Code):
                    lines += [part.caption, "", "```", part.text, "```", ""]
        return "\n".join(lines)

    def write(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the page; ``.md`` writes Markdown, everything else HTML.

        Parameters
        ----------
        path
            The file.
        overwrite
            Replace an existing one.
        """
        place = Path(path)
        text = self.markdown() if place.suffix == ".md" else self.html()
        write_file(place, text.encode(), overwrite=overwrite)
        return place


def _strict(value: Any) -> Any:
    """Return plain data that every program reads: numbers that are none are null."""
    if isinstance(value, Mapping):
        return {str(k): _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    if hasattr(value, "tolist"):
        return _strict(value.tolist())
    return None if isinstance(value, float) and not np.isfinite(value) else value


def shown(value: Any, digits: int = 3) -> str:
    """Return a value as a reader wants it: few digits, nothing for what is not known."""
    if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA:
        return ""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        number = float(value)
        return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.{digits}f}"
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    return str(value)


def _sorted_by(value: Any) -> str:
    number = isinstance(value, int | float | np.integer | np.floating)
    return repr(float(value)) if number and not pd.isna(value) else ""


def _markdown(table: Table) -> list[str]:
    names = [str(c) for c in table.frame.columns]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in table.cells():
        lines.append("| " + " | ".join(_plain(text) for text, _ in row) + " |")
    return [*lines, "", table.caption] if table.caption else lines


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


_ENVIRONMENT = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
_HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline';
 script-src 'unsafe-inline'">
<title>{{ page.title }}</title>
<style>
:root { color-scheme: light dark; --line: #8884; --good: #00734d; --bad: #b03000; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem;
 padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; margin: .9rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
caption { caption-side: bottom; text-align: left; padding-top: .4rem; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: left;
 vertical-align: top; }
td.number { text-align: right; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid; }
.good::before { content: "\\2713  "; color: var(--good); font-weight: 700; }
.bad::before { content: "\\26A0  "; color: var(--bad); font-weight: 700; }
figure { margin: 1rem 0; background: #fff; padding: .5rem; } figure svg { max-width: 100%;
 height: auto; }
pre { border: 1px solid var(--line); padding: .6rem; white-space: pre-wrap;
 overflow-wrap: anywhere; font-size: .85rem; }
nav ul { columns: 3 14rem; padding-left: 1.2rem; }
@media print {
 :root { color-scheme: light; }
 body { margin: 0; max-width: none; padding: 0; font-size: 10pt; color: #000; background: #fff; }
 nav { display: none; }
 .wide { overflow: visible; } table { font-size: 8.5pt; } thead { display: table-header-group; }
 h2, figcaption { break-after: avoid; } figure, tr, pre { break-inside: avoid; }
 figure svg { max-height: 16cm; }
}
</style>
</head>
<body>
<main>
<h1>{{ page.title }}</h1>
{% if page.lead %}<p>{{ page.lead }}</p>{% endif %}
{% if page.sections | length > 3 %}
<nav aria-label="Sections"><ul>
{% for heading in page.sections %}<li><a href="#s{{ loop.index }}">{{ heading }}</a></li>
{% endfor %}</ul></nav>
{% endif %}
{% for heading, parts in page.sections.items() %}
<section aria-labelledby="s{{ loop.index }}">
<h2 id="s{{ loop.index }}">{{ heading }}</h2>
{% for part in parts %}
{% if kind(part) == "Text" %}
<p{% if part.badge %} class="{{ part.badge }}"{% endif %}>{{ part.text }}</p>
{% elif kind(part) == "Table" %}
<div class="wide"><table>
{% if part.caption %}<caption>{{ part.caption }}</caption>{% endif %}
<thead><tr>
{% for name in part.frame.columns %}
<th scope="col"><button type="button">{{ name }}</button></th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in part.cells() %}
<tr>{% for text, by in row %}
<td{% if by %} class="number" data-by="{{ by }}"{% endif %}>{{ text }}</td>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% elif kind(part) == "Code" %}
{% if part.caption %}<p>{{ part.caption }}</p>{% endif %}
<pre><code>{{ part.text }}</code></pre>
{% else %}
<figure role="img" aria-label="{{ part.alternative }}">{{ part.svg() | safe }}
<figcaption>{{ part.alternative }}</figcaption></figure>
{% endif %}
{% endfor %}
</section>
{% endfor %}
</main>
<script type="application/json" id="episome-data">{{ held | safe }}</script>
<script>
for (const table of document.querySelectorAll("table")) {
  table.querySelectorAll("th button").forEach((button, column) => {
    let up = false;
    button.addEventListener("click", () => {
      up = !up;
      const body = table.tBodies[0];
      const of = (row) => {
        const cell = row.cells[column];
        return cell.dataset.by === undefined ? cell.textContent : Number(cell.dataset.by);
      };
      const rows = [...body.rows].sort((a, b) => {
        const x = of(a), y = of(b);
        const order = typeof x === "number" && typeof y === "number"
          ? x - y : String(x).localeCompare(String(y));
        return up ? order : -order;
      });
      rows.forEach((row) => body.append(row));
      table.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
      button.parentElement.setAttribute("aria-sort", up ? "ascending" : "descending");
    });
  });
}
</script>
</body>
</html>
"""
