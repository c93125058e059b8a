"""The audit's result: links that were verified, are missing or differ, as data, JSON and one HTML page."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

VERIFIED, MISSING, DIFFERS = "verified", "missing", "differs"


@dataclass(frozen=True)
class Link:
    """One link of the chain from the serving version back to the images."""

    name: str
    expected: str
    found: str
    status: str  # verified | missing | differs
    detail: str = ""  # where it was verified, or which files it is that differ


def compared(name: str, expected: str, found: str | None, detail: str = "") -> Link:
    """A link that holds when both are the same; `found` is None where there is nothing to look at."""
    if not found or not expected:
        return Link(name, expected, found or "", MISSING, detail)
    return Link(name, expected, found, VERIFIED if expected == found else DIFFERS, detail)


@dataclass(frozen=True)
class AuditReport:
    """The trail of one version."""

    category: str
    version: str  # registered model and number
    links: tuple[Link, ...]
    lineage: dict[str, str]  # the version's tags
    images: list[dict[str, Any]]  # the image manifest: part, defect, number of images, megabytes
    stages: list[dict[str, str]]  # stage and the md5 of its output
    gates: list[dict[str, Any]]  # the rows of the gate table
    history: list[dict[str, str]]  # promotions, refusals, rollbacks
    served: list[dict[str, str]]  # what served when
    approver: dict[str, str]  # by, why and when of the promotion on record; empty for none
    settled: tuple[str, ...] = ()  # what an interrupted promotion needed before the audit

    @property
    def verified(self) -> bool:
        """Whether every link holds."""
        return all(link.status == VERIFIED for link in self.links)

    @property
    def broken(self) -> tuple[Link, ...]:
        """The links that do not."""
        return tuple(link for link in self.links if link.status != VERIFIED)

    def to_json(self) -> str:
        """The whole trail as JSON."""
        return json.dumps({"verified": self.verified} | asdict(self), indent=2, default=str)

    def to_html(self) -> str:
        """One self-contained page: no scripts, nothing loaded from elsewhere."""
        from jinja2 import Environment

        page = Environment(autoescape=True, trim_blocks=True).from_string(PAGE)
        return page.render(report=self, lineage=sorted(self.lineage.items()))


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Audit of {{ report.version }}</title>
<style>
  body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
         color: #222; background: #fff }
  table { border-collapse: collapse; width: 100%; margin: .4rem 0 1.6rem }
  th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top }
  td { overflow-wrap: anywhere } td:first-child, td.verified, td.missing, td.differs { overflow-wrap: normal }
  code { font-size: .85em }
  .verified, .pass { color: #176b2c } .missing, .skip { color: #8a5a00 } .differs, .fail { color: #b00020 }
  .verdict { font-size: 1.2rem; font-weight: 600 }
</style>
{% macro table(rows, columns) %}
{% if rows %}
<table><tr>{% for c in columns %}<th>{{ c.replace('_', ' ') }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr>{% for c in columns %}<td class="{{ row[c] if c in ('status', 'verdict') else '' }}">
{{- '' if row[c] is none else row[c] }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% else %}<p>none</p>{% endif %}
{% endmacro %}
<main>
<h1>Audit of {{ report.version }}</h1>
<p class="verdict {{ 'verified' if report.verified else 'differs' }}">
{% if report.verified %}Every link verified.{% else %}{{ report.broken | length }} of
{{ report.links | length }} links do not hold.{% endif %}</p>
{% for words in report.settled %}<p>Before the audit: {{ words }}.</p>{% endfor %}
<h2>Links</h2>{{ table(report.links, ['name', 'status', 'expected', 'found', 'detail']) }}
<h2>Image manifest</h2>{{ table(report.images, ['part', 'defect', 'images', 'megabytes']) }}
<h2>Data version</h2><p><code>{{ report.lineage.get('data.md5', '') }}</code></p>
<h2>Stages</h2>{{ table(report.stages, ['stage', 'md5']) }}
<h2>Run</h2><p>MLflow run <code>{{ report.lineage.get('run', '') }}</code>,
Prefect run <code>{{ report.lineage.get('prefect.run_id', '') }}</code></p>
<h2>Gate table</h2>{{ table(report.gates, ['name', 'value', 'limit', 'verdict', 'reason']) }}
<h2>Approver</h2><p>{% if report.approver %}{{ report.approver.by }}: {{ report.approver.why }}
({{ report.approver.when }}){% else %}nobody yet{% endif %}</p>
<h2>What served when</h2>{{ table(report.served, ['version', 'since', 'until', 'kind', 'by', 'why']) }}
<h2>Promotion record</h2>{{ table(report.history, ['when', 'kind', 'status', 'from_version', 'to_version',
'staging_version', 'judged', 'by', 'why', 'error']) }}
<h2>Lineage</h2>
<table>{% for key, value in lineage %}<tr><th>{{ key }}</th><td><code>{{ value }}</code></td></tr>{% endfor %}</table>
</main>
</html>
"""
