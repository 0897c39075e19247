"""What a model can do, as far as its template tells."""

from __future__ import annotations

from bridge_engine.templates.prompt import Template
from bridge_engine.templates.thinking import infer_tags


def of_template(template: Template) -> tuple[str, ...]:
    """Those of `tools`, `insert` and `thinking` that the template is written for, in that order."""
    found = []
    if "tools" in template.variables:
        found.append("tools")
    if "suffix" in template.variables:
        found.append("insert")
    if infer_tags(template) is not None:
        found.append("thinking")
    return tuple(found)
