"""Model templates: Go's text/template as Ollama uses it, and what a model writes by them."""

from bridge_engine.templates.capabilities import of_template
from bridge_engine.templates.fault import TemplateFault, TemplateLimit
from bridge_engine.templates.functions import Dates
from bridge_engine.templates.known import FALLBACK, KNOWN, KnownTemplate
from bridge_engine.templates.pick import pick
from bridge_engine.templates.prompt import Template, Values
from bridge_engine.templates.thinking import Tags, ThinkingParser, infer_tags
from bridge_engine.templates.tool_calls import ToolCall, ToolCallParser, infer_prefix

__all__ = [
    "FALLBACK",
    "KNOWN",
    "Dates",
    "KnownTemplate",
    "Tags",
    "Template",
    "TemplateFault",
    "TemplateLimit",
    "ThinkingParser",
    "ToolCall",
    "ToolCallParser",
    "Values",
    "infer_prefix",
    "infer_tags",
    "of_template",
    "pick",
]
