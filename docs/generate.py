"""Write the parts of docs/ that follow from the code: settings.md whole, the stage graph in architecture.md.

`make docs` runs it; tests/unit/test_docs.py fails when what it would write is not what is there.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.settings import CHOICES, FEATURES, SECTIONS, read_yaml

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
BEGIN, END = "<!-- stage graph: written by `make docs` -->", "<!-- end of the stage graph -->"
ABSENT = ""

HEAD = """# Settings

Written by `make docs` from the dataclasses that read `settings/`; do not edit this page.

Every value stands in one file, `settings/<name>.yaml`; `params.yaml` names the file in force (`settings:`),
the seed, the categories, and under `overrides:` what one category has otherwise. An unknown name is an error
that offers the nearest valid one. Where a category has `latent: features`, the section `features` of the file
comes before `overrides`: what it changes is told beside each value. A changed value reruns the stages that
depend on it and no others: `kintsugi status` shows which.

```yaml
# params.yaml
settings: standard
seed: 0
categories:
  - bottle
overrides:
  bottle:
    vqvae: {steps: 3000}
```
"""

PLANT = """# The plant around the model

`settings/plant.yaml`. No stage depends on these; `categories` there holds what one category has otherwise.
"""


def field_comments(source: str) -> dict[str, dict[str, str]]:
    """Class name -> field name -> the comment at the end of the field's line ("" without one)."""
    comments = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    return {
        node.name: {
            field.target.id: comments.get(field.lineno, "")
            for field in node.body
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        }
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef)
    }


def settings_page(root: Path = ROOT) -> str:
    """docs/settings.md: a table for each section, a column for each settings file."""
    everything = {path.stem: read_yaml(path) for path in sorted((root / "settings").glob("*.yaml"))}
    method = {name: values for name, values in everything.items() if set(values) >= set(SECTIONS)}
    method = {"standard": method["standard"], **method}  # the default is the first column
    classes = {section: cls.__name__ for section, cls in SECTIONS.items()}
    parts = [HEAD, *_sections(root / "components" / "settings.py", classes, method)]
    if "plant" in everything:
        classes = {section: section.capitalize() for section in everything["plant"] if section != "categories"}
        parts += [PLANT, *_sections(root / "flows" / "plant.py", classes, {"plant": everything["plant"]})]
    return "\n".join(parts)


def _sections(source: Path, classes: dict[str, str], files: dict[str, dict[str, Any]]) -> Iterator[str]:
    """For each section its heading, its class's docstring and the table of its fields."""
    text = source.read_text(encoding="utf-8")
    comments = field_comments(text)
    nodes = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    for section, cls in classes.items():
        rows = [["setting", *files, "what it is"]]
        for field, comment in comments[cls].items():
            values = [_cell(values, section, field) for values in files.values()]
            rows.append([f"`{field}`", *values, _described(section, field, comment)])
        told = " ".join((ast.get_docstring(nodes[cls]) or "").split())
        yield f"## {section}\n\n{told}\n\n{_table(rows)}"


def stage_graph(root: Path = ROOT) -> str:
    """The stages of dvc.yaml as a mermaid flowchart; an arrow is an output that the next stage reads."""
    stages = read_yaml(root / "dvc.yaml")["stages"]
    made = {out: name for name, stage in stages.items() for out in stage["outs"]}
    lines = ["```mermaid", "flowchart LR", '  data[("data/CATEGORY")]']
    for name, stage in stages.items():
        sources = [made.get(dep) or ("data" if dep.startswith("data/") else "") for dep in stage["deps"]]
        lines += [f"  {source} --> {name}" for source in sources if source]
    return "\n".join([*lines, "```"])


def architecture_page(page: str, root: Path = ROOT) -> str:
    """`page` with the stage graph between its two markers; ValueError without them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/architecture.md lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n{stage_graph(root)}\n{END}{after}"


def _described(section: str, field: str, comment: str) -> str:
    choices = CHOICES.get((section, field), ())
    unsaid = [choice for choice in choices if choice not in comment]
    return "; ".join(part for part in (comment, f"one of {', '.join(choices)}" if unsaid else "") if part)


def _cell(values: dict[str, Any], section: str, field: str) -> str:
    """The value of a settings file, and the one that `latent: features` puts in its place, if there is one."""
    own = _value((values.get(section) or {}).get(field, ABSENT))
    other = ((values.get(FEATURES) or {}).get(section) or {}).get(field, ABSENT)
    return own if other == ABSENT else f"{own}; {_value(other)} over features"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return format(value, "g") if isinstance(value, float) else str(value)


def _table(rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def main() -> None:
    """Write both pages."""
    (DOCS / "settings.md").write_text(settings_page(), encoding="utf-8")
    page = DOCS / "architecture.md"
    page.write_text(architecture_page(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
