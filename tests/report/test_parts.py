"""Parts of a page that are to be copied, and numbers that JSON does not have."""

from __future__ import annotations

import json
import re

import numpy as np

from episome.report import Code, Page, Text


def test_lines_to_copy_are_text_in_both_forms():
    page = Page("T", data={"x": np.float32("nan"), "y": [np.int64(3), "</script>"]})
    page.add("Again", Code("episome annotate '<a>.h5ad'", "In a terminal:"), Text("then"))

    html, text = page.html(), page.markdown()

    assert "<pre><code>episome annotate &#39;&lt;a&gt;.h5ad&#39;</code></pre>" in html
    assert "In a terminal:\n\n```\nepisome annotate '<a>.h5ad'\n```" in text
    held = re.search(r'id="episome-data">(.*?)</script>', html, re.S).group(1)
    assert json.loads(held) == {"x": None, "y": [3, "</script>"]}
    assert "<nav" not in html


def test_a_long_page_lists_its_sections():
    page = Page("T")
    for name in ("One", "Two", "Three", "Four <4>"):
        page.add(name, Text("x"))

    html = page.html()

    assert '<a href="#s4">Four &lt;4&gt;</a>' in html
    assert '<h2 id="s4">Four &lt;4&gt;</h2>' in html
