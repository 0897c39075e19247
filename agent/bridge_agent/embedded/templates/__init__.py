"""Model templates: Go's text/template as Ollama uses it, and what a model writes by them."""

from bridge_agent.embedded.templates.capabilities import of_template
from bridge_agent.embedded.templates.fault import TemplateFault
from bridge_agent.embedded.templates.functions import Dates
from bridge_agent.embedded.templates.known import FALLBACK, KNOWN, KnownTemplate
from bridge_agent.embedded.templates.pick import pick
from bridge_agent.embedded.templates.prompt import Template, Values
from bridge_agent.embedded.templates.thinking import Tags, ThinkingParser, infer_tags
from bridge_agent.embedded.templates.tool_calls import ToolCall, ToolCallParser, infer_prefix

__all__ = [
    "FALLBACK",
    "KNOWN",
    "Dates",
    "KnownTemplate",
    "Tags",
    "Template",
    "TemplateFault",
    "ThinkingParser",
    "ToolCall",
    "ToolCallParser",
    "Values",
    "infer_prefix",
    "infer_tags",
    "of_template",
    "pick",
]
