"""An engine that says the same words for the same prompt, and dies on demand."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from bridge_core.dialects import Stamp, translate
from bridge_core.http1 import Exchange
from tests.fakes.recorded_engine import DIED, Fault, RecordedEngine

WORDS = ["Once", " upon", " a", " tïme", " 😀", "\n\n", '"error"', " data:", " the", " end", "."]
TEXT = "".join(WORDS)
RENDERED = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
PROMPT = 9


@dataclass
class TalkingEngine(RecordedEngine):
    """Renders every prompt to RENDERED and says its words after it, from wherever a raw prompt ends.

    `pause_s` passes between words. `words_said` counts over all requests. Two more kinds of fault are
    silent until `thaw` is set: after a "freeze" the words go on as if nothing had been, a "doomed"
    stream is cut then.
    """

    words: list[str] = field(default_factory=lambda: WORDS)
    pause_s: float = 0.0
    words_said: int = 0
    thaw: asyncio.Event = field(default_factory=asyncio.Event)

    async def _infer(self, exchange: Exchange, path: str, body: bytes) -> None:
        asked = json.loads(body)
        model = asked["model"]
        if not self._has(model):
            self._json(exchange, {"error": f"model '{model}' not found"}, 404)
            return
        if asked.get("_debug_render_only"):
            self._json(exchange, {"model": model, "_debug_info": {"rendered_template": RENDERED}})
            return
        if path.startswith("/v1/"):
            other = translate(path, body, Stamp(1_700_000_000, "ab" * 30))
            asked = other.native
            write, path = other.stream().feed, other.path
            kind = b"text/event-stream"
        else:
            kind, write = b"application/x-ndjson", _line
        if not asked.get("stream", True):
            await self._whole(exchange, model)
            return
        await self._talk(exchange, asked, kind, write, chat=path == "/api/chat")

    async def _whole(self, exchange: Exchange, model: str) -> None:
        fault = self._fault()
        if fault is not None:
            await asyncio.sleep(0)
            exchange.abort()
            return
        self._json(exchange, {"model": model, "response": TEXT, "done": True})

    async def _talk(
        self, exchange: Exchange, asked: dict[str, Any], kind: bytes, write: Any, chat: bool
    ) -> None:
        fault = self._fault()
        if fault is not None and fault.kind in ("busy", "died", "close"):
            await self._play(exchange, kind, [], True)
            return
        delivered = asked["prompt"].removeprefix(RENDERED) if asked.get("raw") else ""
        known = next((n for n in range(len(self.words) + 1) if "".join(self.words[:n]) == delivered), 0)
        limit = (asked.get("options") or {}).get("num_predict", -1)
        words = self.words[known:] if limit < 0 else self.words[known:][:limit]
        exchange.start(200, [(b"content-type", kind)])

        def record(text: str, **more: Any) -> bytes:
            said = {"message": {"role": "assistant", "content": text}} if chat else {"response": text}
            return write({"model": asked["model"], "created_at": "t", **said, **more})

        for number, word in enumerate(words):
            if fault is not None and number == fault.after:
                if fault.kind in ("freeze", "doomed"):
                    await self.thaw.wait()
                if fault.kind == "freeze":
                    fault = None
                else:
                    await self._die(exchange, fault, record)
                    return
            exchange.write(record(word, done=False))
            self.words_said += 1
            await exchange.drain()
            await asyncio.sleep(self.pause_s)
        reason = "length" if 0 <= limit < len(self.words) - known else "stop"
        counts = {"eval_count": len(words), "prompt_eval_count": PROMPT + known, "total_duration": 5}
        exchange.finish(record("", done=True, done_reason=reason, **counts))

    async def _die(self, exchange: Exchange, fault: Fault, record: Any) -> None:
        if fault.kind == "torn":
            exchange.write(record("never seen", done=False)[:25])
            exchange.finish()
        elif fault.kind == "error":
            exchange.finish(json.dumps({"error": DIED}).encode() + b"\n")
        else:
            await self._end(exchange, Fault("cut") if fault.kind == "doomed" else fault)


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"
