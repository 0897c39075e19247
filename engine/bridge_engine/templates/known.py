# ruff: noqa: E501 - templates are easier to compare unbroken
"""Go templates for widespread chat formats, each with the Jinja form that models carry it in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType


@dataclasses.dataclass(frozen=True, slots=True)
class KnownTemplate:
    """A chat format.

    Attributes:
        name: As `ollama create` reports it.
        text: Its Go template.
        stop: What ends a turn, for the model's parameters.
        jinja: The Jinja templates that models of this format usually carry.
    """

    name: str
    text: str
    stop: tuple[str, ...]
    jinja: tuple[str, ...]


_LOOP = "{% for message in messages %}"
_END = "{% endfor %}"
_IF_PROMPT = "{% if add_generation_prompt %}"
_ENDIF = "{% endif %}"

CHATML_JINJA = (
    _LOOP + "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}" + _END
    + _IF_PROMPT + "{{ '<|im_start|>assistant\\n' }}" + _ENDIF
)  # fmt: skip
"""ChatML as Jinja."""


def _chat(  # noqa: PLR0917 - the pieces of a turn in their order
    name: str, before: str, between: str, after: str, answer: str, stop: tuple[str, ...], *jinja: str
) -> KnownTemplate:
    """A format in which every message looks alike: role and content between fixed marks."""
    turn = f"{before}{{{{ .Role }}}}{between}{{{{ .Content }}}}{after}"
    return KnownTemplate(name, f"{{{{- range .Messages }}}}{turn}{{{{ end }}}}{answer}", stop, jinja)


def _format(name: str, text: str, stop: tuple[str, ...], *jinja: str) -> KnownTemplate:
    return KnownTemplate(name, text, stop, jinja)


_FORMATS = (
    _chat(
        "chatml", "<|im_start|>", "\n", "<|im_end|>\n", "<|im_start|>assistant\n", ("<|im_start|>", "<|im_end|>"),
        CHATML_JINJA,
        _LOOP + "{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}{% endif %}"
        + CHATML_JINJA.removeprefix(_LOOP),
    ),
    _chat(
        "llama3-instruct", "<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "{% set loop_messages = messages %}{% for message in loop_messages %}"
        "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
        "+ message['content'] | trim + '<|eot_id|>' %}"
        "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}" + _END
        + _IF_PROMPT + "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}" + _ENDIF,
    ),
    _chat(
        "phi-3", "<|", "|>\n", "<|end|>\n", "<|assistant|>\n", ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
        _LOOP + "{{'<|' + message['role'] + '|>' + '\\n' + message['content'] + '<|end|>\\n' }}" + _END
        + _IF_PROMPT + "{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}" + _ENDIF,
    ),
    _chat(
        "zephyr", "<|", "|>\n", "</s>\n", "<|assistant|>\n", ("<|system|>", "</s>", "<|user|>", "<|assistant|>"),
        _LOOP + "\n{% if message['role'] == 'user' %}\n{{ '<|user|>\\n' + message['content'] + eos_token }}"
        "\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\\n' + message['content'] + eos_token }}"
        "\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\\n'  + message['content'] + eos_token }}"
        "\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n" + _END,
    ),
    _format(
        "mistral-instruct",
        "[INST] {{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }}[/INST] {{ .Response }}</s>",
        ("[INST]", "[/INST]"),
        "{{ bos_token }}" + _LOOP + "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
        "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}" + _END,
    ),
    _format(
        "llama2-chat",
        "[INST] {{ if .System }}<<SYS>>\n{{ .System }}\n<</SYS>>\n\n{{ end }}{{ .Prompt }} [/INST] {{ .Response }}</s><s>",
        ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
        "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if loop.index0 == 0 and system_message != false %}"
        "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}" + _END,
    ),
    _format(
        "gemma-instruct",
        '{{- range .Messages }}<start_of_turn>{{ if eq .Role "assistant" }}model{{ else }}user{{ end }}\n'
        "{{ .Content }}<end_of_turn>\n{{ end }}<start_of_turn>model\n",
        ("<start_of_turn>", "<end_of_turn>"),
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}" + _LOOP
        + "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
        "{% else %}{% set role = message['role'] %}{% endif %}"
        "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}" + _END
        + _IF_PROMPT + "{{'<start_of_turn>model\\n'}}" + _ENDIF,
    ),
    _format(
        "vicuna",
        "{{ if .System }}{{ .System }}\n\n{{ end }}{{ if .Prompt }}USER: {{ .Prompt }}\n{{ end }}"
        "ASSISTANT: {{ .Response }}\n",
        ("USER:", "ASSISTANT:"),
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\\n\\n' }}{% endif %}" + _LOOP
        + "{% if message['role'] == 'user' %}{{ 'USER: ' + message['content'] + '\\n' }}"
        "{% elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' + message['content'] + eos_token + '\\n' }}"
        "{% endif %}" + _END + _IF_PROMPT + "{{ 'ASSISTANT:' }}" + _ENDIF,
    ),
    _format(
        "alpaca",
        "{{ if .System }}{{ .System }}\n\n{{ end }}{{ if .Prompt }}### Instruction:\n{{ .Prompt }}\n\n{{ end }}"
        "### Response:\n{{ .Response }}\n\n",
        ("### Instruction:", "### Response:"),
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\\n\\n' }}{% endif %}" + _LOOP
        + "{% if message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
        "{% elif message['role'] == 'assistant' %}{{ '### Response:\\n' + message['content'] + '\\n\\n' }}"
        "{% endif %}" + _END + _IF_PROMPT + "{{ '### Response:\\n' }}" + _ENDIF,
    ),
    _format(
        "deepseek-llm-chat",
        "{{ if .System }}{{ .System }}\n\n{{ end }}{{ if .Prompt }}User: {{ .Prompt }}\n\n{{ end }}"
        "Assistant:{{ .Response }}<｜end▁of▁sentence｜>",
        ("User:", "<｜end▁of▁sentence｜>"),
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
        "{{ bos_token }}" + _LOOP + "{% if message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n\\n' }}"
        "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token }}"
        "{% elif message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}{% endif %}" + _END
        + _IF_PROMPT + "{{ 'Assistant:' }}" + _ENDIF,
    ),
    _format(
        "command-r",
        '{{- range .Messages }}<|START_OF_TURN_TOKEN|>{{ if eq .Role "system" }}<|SYSTEM_TOKEN|>'
        '{{ else if eq .Role "assistant" }}<|CHATBOT_TOKEN|>{{ else }}<|USER_TOKEN|>{{ end }}'
        "{{ .Content }}<|END_OF_TURN_TOKEN|>{{ end }}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        "{{ bos_token }}" + _LOOP
        + "{% if message['role'] == 'system' %}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + message['content']"
        " + '<|END_OF_TURN_TOKEN|>' }}{% elif message['role'] == 'user' %}"
        "{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + message['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}"
        "{% elif message['role'] == 'assistant' %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'"
        "  + message['content'].strip() + '<|END_OF_TURN_TOKEN|>' }}{% endif %}" + _END
        + _IF_PROMPT + "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}" + _ENDIF,
    ),
)  # fmt: skip

KNOWN: Mapping[str, KnownTemplate] = MappingProxyType({known.name: known for known in _FORMATS})
"""The formats by name."""

FALLBACK = "{{ .Prompt }}"
"""The template of a model that brings none and resembles none."""
