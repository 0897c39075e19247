"""How a model's prompts are made and its answers read, decided from its manifest and weights. Pure.

Rules:
1. A renderer in the manifest's configuration stands for the model's own Jinja template, which the weights
   carry and the runner executes. It goes before a Go template, as in Ollama.
2. Else the manifest's Go template decides; without one, the Jinja template of the weights, if any.
3. A parser in the configuration says how answers are read; without one that is inferred from the template.
4. Tools and thinking are on offer only where the template writes them into the prompt and the answer can
   be read: what a prompt would leave out in silence is refused before.
5. What decides the prompt and is not understood (renderer, parser, layer, another host) is a refusal
   that names it. Raw prompts need none of this.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from bridge_engine.templates.call_styles import FUNCTIONS, GEMMA, PAIRS, SEPARATED, CallStyle
from bridge_engine.templates.capabilities import of_template
from bridge_engine.templates.fault import TemplateFault
from bridge_engine.templates.known import FALLBACK
from bridge_engine.templates.prompt import Template
from bridge_engine.templates.thinking import Tags, infer_tags
from bridge_engine.templates.tool_calls import infer_prefix

KINDS: Final = frozenset(
    ["model", "adapter", "projector", "template", "prompt", "system", "params", "messages", "license"]
) | {"draft"}  # speeds generation up where there is a runner for it; the prompt is the same
"""Layers that are understood."""

_RENDERERS: Final = ("qwen", "deepseek", "glm", "gemma")
"""Families of renderers, by the beginnings of their names."""

_HARMONY_FAMILIES: Final = ("gptoss", "gpt-oss")
_HARMONY_MARKS: Final = ("<|start|>", "<|end|>")
_THINK: Final = Tags("<think>", "</think>")
_CHANNEL: Final = Tags("<|channel>thought", "<channel|>")
_JSON: Final = "<tool_call>"
_BARE: Final = "{"


class Reading(NamedTuple):
    """How answers are read.

    Attributes:
        tags: What stands around thinking; None: there is none.
        calls: A style of calls, or the prefix of calls in JSON; empty: none are looked for.
    """

    tags: Tags | None = None
    calls: CallStyle | str = ""

    @property
    def marks(self) -> tuple[str, ...]:
        """Marks that the runner must leave in the text, though they may be control tokens to it."""
        calls = self.calls.marks if isinstance(self.calls, CallStyle) else (self.calls,)
        around = (*(self.tags or ()), *calls)
        tokens = (before + bracket for before, bracket, _ in (mark.partition(">") for mark in around))
        return tuple(dict.fromkeys(token for token in tokens if token.strip(" {[")))


_PARSERS: Final = {
    "passthrough": Reading(),
    "qwen3": Reading(None, _JSON),
    "qwen3-thinking": Reading(_THINK, _JSON),
    "qwen3-vl-instruct": Reading(None, _JSON),
    "qwen3-vl-thinking": Reading(_THINK, _JSON),
    "qwen3-coder": Reading(None, FUNCTIONS),
    "qwen3.5": Reading(_THINK, FUNCTIONS),
    "deepseek3": Reading(_THINK, SEPARATED),
    "deepseek3.1": Reading(_THINK, SEPARATED),
    "glm-4.6": Reading(_THINK, PAIRS),
    "glm46": Reading(_THINK, PAIRS),
    "glm-4.7": Reading(_THINK, PAIRS),
    "gemma4": Reading(_CHANNEL, GEMMA),
    "gemma4-no-thinking": Reading(None, GEMMA),
}
_JINJA_CALLS: Final = (
    ("<function=", FUNCTIONS),
    ("<arg_key>", PAIRS),
    ("<｜tool▁call▁begin｜>", SEPARATED),
    ("<|tool_call>", GEMMA),
    ("<tool_call>", _JSON),
)


class PromptPlan(NamedTuple):
    """How a model's prompts are made.

    Attributes:
        jinja: By the Jinja template of the weights; else by a Go template.
        reading: How the answers are read.
        capabilities: Those of `tools`, `insert` and `thinking` that it has, in that order.
        refusal: Why no prompt can be made; empty where one can.
    """

    jinja: bool = False
    reading: Reading = Reading()
    capabilities: tuple[str, ...] = ()
    refusal: str = ""


class Manifested(NamedTuple):
    """What of a manifest, and of the weights, decides.

    Attributes:
        template: The Go template's text; empty where no layer has one.
        jinja: The Jinja template of the weights; empty where they carry none.
        renderer: As the configuration says.
        parser: As the configuration says.
        remote: Where the configuration says that the model runs instead; empty: here.
        family: As the configuration says.
        kinds: Of all layers.
    """

    template: str = ""
    jinja: str = ""
    renderer: str = ""
    parser: str = ""
    remote: str = ""
    family: str = ""
    kinds: tuple[str, ...] = ()


@lru_cache(maxsize=256)
def plan_prompts(model: Manifested) -> PromptPlan:
    """Decides by the rules above."""
    refusal = _refusal(model)
    by_jinja = bool(model.renderer) or (not model.template and bool(model.jinja))
    if refusal:
        return PromptPlan(jinja=False, refusal=refusal)
    if by_jinja:
        reading = _PARSERS[model.parser] if model.parser else reading_of_jinja(model.jinja)
        return PromptPlan(jinja=True, reading=reading, capabilities=tuple(_of_jinja(model.jinja, reading)))
    try:
        template = Template(model.template or FALLBACK)
    except TemplateFault:  # said when it is used
        return PromptPlan()
    reading = (
        _PARSERS[model.parser] if model.parser else Reading(infer_tags(template), infer_prefix(template))
    )
    found = of_template(template)
    if model.parser:
        thinks = reading.tags is not None and bool(template.variables & {"think", "thinking"})
        found = (*(name for name in found if name != "thinking"), *(("thinking",) if thinks else ()))
    return PromptPlan(reading=reading, capabilities=found)


def _refusal(model: Manifested) -> str:
    if model.remote:
        return f'it runs on another host ("{model.remote}"), not here'
    strange = sorted(set(model.kinds) - KINDS)
    if strange:
        return f'its manifest has a layer "{strange[0]}", which this engine does not know'
    if model.family in _HARMONY_FAMILIES and all(mark in model.template for mark in _HARMONY_MARKS):
        return 'its template has it answer in the format "harmony", which this engine does not read'
    if model.renderer and not model.renderer.lower().startswith(_RENDERERS):
        return f'its manifest asks for the renderer "{model.renderer}", which this engine does not know'
    if model.renderer and not model.jinja:
        return (
            f'its manifest asks for the renderer "{model.renderer}", for which this engine needs the chat '
            "template in the weights (tokenizer.chat_template), and they have none"
        )
    if model.parser and model.parser not in _PARSERS:
        return f'its manifest asks for the parser "{model.parser}", which this engine does not know'
    return ""


def reading_of_jinja(jinja: str) -> Reading:
    """How answers are read, as far as the Jinja template tells."""
    tags = _THINK if _THINK.opening in jinja or _THINK.closing in jinja else None
    if "<|channel>" in jinja:
        tags = _CHANNEL
    return Reading(tags, next((style for mark, style in _JINJA_CALLS if mark in jinja), _BARE))


def _of_jinja(jinja: str, reading: Reading) -> Iterable[str]:
    if reading.calls and "tools" in jinja:
        yield "tools"
    if reading.tags and ("think" in jinja or "<|channel>" in jinja):
        yield "thinking"
