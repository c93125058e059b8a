"""The evaluation's report with what only publication knows: where the version came from."""

from __future__ import annotations

from collections.abc import Mapping

END = "</main>"
SECTION = """<section aria-labelledby="lineage"><h2 id="lineage">Lineage</h2>
<p>What this version was made from, as recorded on its run; <code>kintsugi audit</code> checks it anew.</p>
<table class="facts"><tbody>
{% for key, value in rows %}
<tr><th scope="row">{{ key }}</th><td><code>{{ value }}</code></td></tr>
{% endfor %}
</tbody></table></section>
"""


def with_lineage(page: str, lineage: Mapping[str, str]) -> str:
    """The page with a section of names and values, both escaped, at the end of its main part."""
    from jinja2 import Environment

    section = Environment(autoescape=True, trim_blocks=True).from_string(SECTION).render(rows=sorted(lineage.items()))
    before, end, after = page.rpartition(END)
    return f"{before}{section}{end}{after}"
