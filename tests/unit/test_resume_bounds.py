"""Continued streams at their limits: frozen rests, what trackers note, paces, what can be continued."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bridge_agent.routing.choose import Load
from bridge_agent.routing.resume.continuation import Continuation
from bridge_agent.routing.resume.openai_chunks import ChunkTracker
from bridge_agent.routing.resume.pace import Pace, Stalls
from bridge_agent.routing.resume.places import ContinuationPlace, better, crowded, places
from bridge_agent.routing.resume.plan import (
    NotResumable,
    ResumableRequest,
    check,
    check_ending,
    continuation_body,
    is_whole,
    render_body,
    rendered_prompt,
    request_of,
    tracker_for,
)
from bridge_agent.routing.resume.stops import StopGuard
from bridge_agent.routing.resume.tracker import Tracker
from bridge_agent.routing.view import Index
from bridge_core.names import canonical
from bridge_core.snapshot import Backend, Instance, MemberModel, Node, Route, Snapshot, Version, encode_entry

RESTS = json.loads((Path(__file__).parent / "vectors" / "resume_rests.json").read_text())
CHAT, GENERATE = "/api/chat", "/api/generate"
PATHS = (CHAT, GENERATE, "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses")


def tracked(path: str, *pieces: str | bytes) -> Tracker:
    tracker = tracker_for(path)
    assert tracker is not None
    for piece in pieces:
        tracker.feed(piece.encode() if isinstance(piece, str) else piece)
    tracker.settle()
    return tracker


@pytest.mark.parametrize("case", RESTS, ids=[case["name"] for case in RESTS])
def test_the_rest_of_a_stream_byte_for_byte(case: dict[str, Any]) -> None:
    tracker = tracked(case["path"], case["fed"])
    if "direct" in case:
        text, last = case["records"]
        assert [(tracker.more("lo", text) + tracker.end(last, 2)).decode()] == case["rest"]
        return
    path = CHAT if case["path"] == CHAT else GENERATE
    request = ResumableRequest(path, case["native"], case["usage"])
    rest = Continuation(request, tracker, resumed=2, spent_ns=1_500_000_000, decoded_ns=11)
    assert [rest.take(record).decode() for record in case["records"]] == case["rest"]
    assert rest.done
    assert rest.take(case["records"][0]) == b""


# -- what trackers note


def record(path: str, text: str | None = "a", **more: Any) -> str:
    """A record of a stream that brings text."""
    match path:
        case "/api/chat":
            message = {"role": "assistant", "content": text} | more
            return json.dumps({"model": "m", "message": message, "done": False}) + "\n"
        case "/api/generate":
            return json.dumps({"model": "m", "response": text, "done": False} | more) + "\n"
        case "/v1/chat/completions":
            choice = {"index": 0, "delta": {"content": text} | more}
            return f"data: {json.dumps({'choices': [choice]})}\n\n"
        case "/v1/completions":
            return f"data: {json.dumps({'choices': [{'text': text} | more]})}\n\n"
        case "/v1/messages":
            delta = {"type": "text_delta", "text": text}
            return f"event: x\ndata: {json.dumps({'type': 'content_block_delta', 'delta': delta})}\n\n"
        case _:
            return f"data: {json.dumps({'type': 'response.output_text.delta', 'delta': text})}\n\n"


def first_of(path: str) -> str:
    if path == "/v1/messages":
        return 'event: message_start\ndata: {"type":"message_start"}\n\n'
    return (
        'data: {"type":"response.created","response":{}}\n\n' if path == "/v1/responses" else record(path, "")
    )


def state(tracker: Tracker) -> tuple[object, ...]:
    return (
        tracker.text,
        tracker.tokens,
        tracker.begun,
        tracker.finished,
        tracker.thinking,
        tracker.tools,
        tracker.lost,
    )


@pytest.mark.parametrize("path", PATHS)
def test_nothing_has_begun_before_the_first_record(path: str) -> None:
    tracker = tracked(path)
    assert state(tracker) == ("", 0, False, False, False, False, False)
    assert tracker.fed == 0
    assert tracker.lead == b""
    begun = tracked(path, first_of(path))
    assert state(begun) == ("", 0, True, False, False, False, False)
    assert begun.fed == 1


@pytest.mark.parametrize("path", PATHS)
def test_each_record_that_brings_text_is_a_token(path: str) -> None:
    tracker = tracked(path, first_of(path), record(path, "é") + record(path, ""), record(path, "b"))
    assert state(tracker)[:3] == ("éb", 2, True)
    assert tracker.fed == 3
    odd = tracked(path, first_of(path) + record(path, None) + record(path, "b"))
    assert state(odd)[:3] == ("b", 1, True)


def in_batch(path: str, *records: str) -> tuple[object, ...]:
    """The state after records that are read at once, having begun; the same as one by one."""
    whole = tracked(path, first_of(path))
    whole.feed("".join(records).encode())
    whole.settle()
    single = tracked(path, first_of(path))
    for one in records:
        single.feed(one.encode())
        single.settle()
    assert state(whole) == state(single)
    assert whole.lead == single.lead
    return state(whole)


THINKS = {CHAT: {"thinking": "t"}, GENERATE: {"thinking": "t"}, "/v1/chat/completions": {"reasoning": "t"}}
CALLS = {"tool_calls": [{}]}


@pytest.mark.parametrize("path", PATHS[:3])
def test_thinking_and_calls_among_common_records_are_noted(path: str) -> None:
    common = record(path, "b")
    assert in_batch(path, common, common) == ("bb", 2, True, False, False, False, False)
    thinks = in_batch(path, common, record(path, "c", **THINKS[path]), common)
    assert thinks == ("bcb", 3, True, False, True, False, False)
    assert in_batch(path, common, record(path, "", **THINKS[path]))[4:] == (True, False, False)
    calls = in_batch(path, common, record(path, "c", **CALLS), common)
    assert calls == ("bcb", 3, True, False, False, True, False)
    assert in_batch(path, common, record(path, "", **CALLS), common)[4:] == (False, True, False)
    assert in_batch(path, common, record(path, ""), common)[:2] == ("bb", 2)


@pytest.mark.parametrize("path", PATHS[2:4])
def test_odd_chunks_among_common_ones_are_read_one_by_one(path: str) -> None:
    common = record(path, "b")
    ended = record(path, "c").replace('"choices": [{', '"choices": [{"finish_reason": "stop", ')
    assert in_batch(path, common, ended) == ("bc", 2, True, True, False, False, False)
    assert in_batch(path, common, 'data: {"choices": []}\n\n', common)[:2] == ("bb", 2)
    double = json.loads(common[6:])
    double["choices"] *= 2
    assert in_batch(path, common, f"data: {json.dumps(double)}\n\n")[:2] == ("bbb", 3)
    assert in_batch(path, common, ": a comment\n\n", common)[:2] == ("bb", 2)
    assert in_batch(path, common, "data: [DONE]\n\n")[:2] == ("b", 1)
    assert in_batch(path, "data: [DONE]\n\n", common)[:2] == ("b", 1)
    assert in_batch(path, common.replace("data: ", "data:"), common)[:2] == ("bb", 2)
    assert in_batch(path, "event: x\n" + common, common)[:2] == ("bb", 2)


def test_a_completions_text_may_stand_beside_an_empty_delta() -> None:
    both = 'data: {"choices":[{"text":"a","delta":{}}]}\n\n'
    assert tracked("/v1/completions", record("/v1/completions", ""), both).text == "a"


def test_a_chunk_that_gives_a_reason_ends_the_text_and_one_after_it_does_not_open_it_again() -> None:
    ended = 'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n'
    more = 'data: {"choices":[{"delta":{},"finish_reason":null}]}\n\n'
    assert tracked("/v1/chat/completions", ended).finished
    assert tracked("/v1/chat/completions", ended + more).finished
    assert not tracked("/v1/chat/completions", more).finished


@pytest.mark.parametrize(
    ("block", "noted"), [("thinking", (True, False)), ("tool_use", (False, True)), ("text", (False, False))]
)
def test_what_a_messages_blocks_are(block: str, noted: tuple[bool, bool]) -> None:
    def start(kind: str) -> str:
        return f'data: {{"type":"content_block_start","content_block":{{"type":"{kind}"}}}}\n\n'

    for events in (start(block), start(block) + start("text"), start("text") + start(block)):
        tracker = tracked("/v1/messages", events)
        assert (tracker.thinking, tracker.tools) == noted
        assert not tracker.finished
    assert tracked("/v1/messages", 'data: {"type":"content_block_start"}\n\n').tools is False
    assert tracked("/v1/messages", 'data: {"type":"content_block_delta"}\n\n').tokens == 0
    assert tracked("/v1/messages", 'data: {"type":"message_delta"}\n\n').finished
    assert tracked("/v1/messages", 'data: {"type":"content_block_stop"}\n\n').finished


@pytest.mark.parametrize(
    ("item", "noted"),
    [("reasoning", (True, False)), ("function_call", (False, True)), ("message", (False, False))],
)
def test_what_a_responses_items_are(item: str, noted: tuple[bool, bool]) -> None:
    def added(kind: str) -> str:
        return f'data: {{"type":"response.output_item.added","item":{{"type":"{kind}"}}}}\n\n'

    for events in (added(item), added(item) + added("message"), added("message") + added(item)):
        tracker = tracked("/v1/responses", events)
        assert (tracker.thinking, tracker.tools, tracker.finished) == (*noted, False)
    assert tracked("/v1/responses", 'data: {"type":"response.reasoning_text.delta"}\n\n').thinking


@pytest.mark.parametrize(
    ("kind", "finished"),
    [
        ("content_part.added", False),
        ("output_text.done", True),
        ("content_part.done", True),
        ("output_item.done", True),
    ],
)
def test_a_responses_text_is_whole_once_it_was_said_to_be(kind: str, finished: bool) -> None:
    assert tracked("/v1/responses", f'data: {{"type":"response.{kind}"}}\n\n').finished is finished


@pytest.mark.parametrize("path", PATHS)
def test_half_a_line_cannot_be_taken_back(path: str) -> None:
    assert tracked(path, first_of(path) + record(path)[:-3]).lost
    assert tracked(path, first_of(path) + "data: {\n").lost
    deep = "[" * 100_000
    assert tracked(path, f"data: {deep}\n" if path.startswith("/v1") else f"{deep}\n").lost


@pytest.mark.parametrize("path", PATHS[2:])
def test_an_event_whose_blank_line_did_not_come_is_ended_first(path: str) -> None:
    for pieces, lead in (
        ((record(path),), b""),
        ((record(path)[:-1],), b"\n"),
        ((record(path)[:-1], "\n"), b""),
        ((record(path), "event: x\n"), b""),
        ((record(path), "event: x\n", "data: {}\n"), b"\n"),
        ((record(path), ": a comment\n"), b"\n"),
        (("\n",), b"\n"),
    ):
        tracker = tracked(path, first_of(path)[:-1] if pieces == ("\n",) else first_of(path))
        for piece in pieces:
            if pieces != ("\n",):
                tracker.feed(piece.encode())
                tracker.settle()
        assert tracker.lead == lead, pieces
    # A blank line ends an event only where there was one.
    assert tracked(path, "\n").lead == b"\n"
    split = tracked(path, record(path)[:-1])
    split.feed(b"\n")
    split.settle()
    assert split.lead == b""


def test_records_are_read_once_they_are_more_than_4096_bytes() -> None:
    def unread(size: int) -> bool:
        tracker = tracker_for(GENERATE)
        assert tracker is not None
        one = record(GENERATE, "")
        tracker.feed((one[:-1] + " " * (size - len(one)) + "\n").encode())
        return not tracker.begun

    assert unread(4096)
    assert not unread(4097)
    in_pieces = tracker_for(GENERATE)
    assert in_pieces is not None
    one = record(GENERATE, "")
    for size in (2048, 2048):
        in_pieces.feed((one[:-1] + " " * (size - len(one)) + "\n").encode())
    assert not in_pieces.begun
    in_pieces.feed(b"\n")
    assert in_pieces.begun


@pytest.mark.parametrize(("size", "lost"), [(1 << 20, False), ((1 << 20) + 1, True)])
def test_a_mebibyte_of_text_is_the_most(size: int, lost: bool) -> None:
    half = record(GENERATE, "a" * (size // 2))
    tracker = tracked(GENERATE, record(GENERATE, ""), half, record(GENERATE, "a" * (size - size // 2)))
    assert tracker.lost is lost
    assert len(tracker.text) == (0 if lost else size)
    if lost:
        tracker.feed(half.encode())
        tracker.settle()
        assert tracker.lost
        assert tracker.tokens == 2, "what is lost is no longer read"


@pytest.mark.parametrize(("size", "lost"), [(1 << 20, False), ((1 << 20) + 1, True)])
def test_a_mebibyte_of_an_unfinished_line_is_the_most(size: int, lost: bool) -> None:
    tracker = tracker_for(GENERATE)
    assert tracker is not None
    tracker.feed(b" " * size)
    tracker.feed(b"")
    assert tracker.lost is lost
    tracker.feed(record(GENERATE).encode())
    tracker.settle()
    assert (tracker.lost, tracker.tokens) == (lost, 0 if lost else 1)


def test_a_response_without_any_text_is_ended_whole() -> None:
    created = 'data: {"type":"response.created","response":{"id":"resp_1"}}\n\n'
    rest = tracked("/v1/responses", created).end({}, 1)
    kinds = [line.rpartition(b".")[2] for line in rest.split(b"\n") if line.startswith(b"event: ")]
    assert kinds == [b"in_progress", b"added", b"added", b"done", b"done", b"done", b"completed"]


def test_a_block_without_an_index_is_the_first() -> None:
    begun = 'data: {"type":"content_block_start"}\n\n'
    assert b'{"type":"content_block_stop","index":0}' in tracked("/v1/messages", begun).end({}, 1)


def test_a_data_line_after_an_event_line_is_what_came_last() -> None:
    path = "/v1/completions"
    tracker = tracked(path, record(path))
    for piece, lead in (("event: x\n", b""), (record(path)[:-1], b"\n")):
        tracker.feed(piece.encode())
        tracker.settle()
        assert tracker.lead == lead


def test_usage_is_not_told_to_who_did_not_ask() -> None:
    tracker = ChunkTracker(chat=True)
    tracker.feed(record("/v1/chat/completions").encode())
    tracker.settle()
    assert b"usage" not in tracker.end({}, 1)
    tracker.wants_usage(True)
    assert b"usage" in tracker.end({}, 1)


# -- paces


def test_a_pace_is_four_times_the_pause_that_one_in_a_hundred_exceeds() -> None:
    def limit(*pauses: int, records: int = 100) -> int:
        pace = Pace()
        pace.moved(records - len(pauses), 0)
        for pause in pauses:
            pace.moved(1, pause)
        return pace.limit(floor=1, ceiling=10_000)

    assert limit() == 1
    assert limit(7) == 1, "one of a hundred"
    assert limit(7, 7) == 32
    assert limit(9, 7) == 32
    assert limit(9, 9, 7) == 40
    assert limit(9, 7, records=99) == 40
    assert limit(7, records=99) == 32
    assert limit(7, records=1) == 32


def test_a_pace_keeps_to_the_floor_and_the_ceiling() -> None:
    pace = Pace()
    assert pace.limit(floor=5, ceiling=9) == 5
    pace.moved(1, 1)
    assert [pace.limit(floor=at, ceiling=9) for at in (7, 8, 9)] == [8, 8, 9]
    assert pace.limit(floor=1, ceiling=6) == 6


def test_old_pauses_count_half_after_twenty_thousand() -> None:
    def learnt(records: int) -> Pace:
        pace = Pace()
        for _ in range(3):
            pace.moved(1, 50)
        pace.moved(1, 70)
        pace.moved(records - 5, 0)
        pace.moved(1, 0)
        return pace

    # 20,000: four pauses, of which more than 200 would have to be longer. 20,001: 10,000 and one.
    for records, more in ((20_000, 197), (20_001, 100)):
        pace = learnt(records)
        for _ in range(more - 1):
            pace.moved(0, 20)
        assert pace.limit(floor=1, ceiling=1000) == 1
        pace.moved(0, 20)
        assert pace.limit(floor=1, ceiling=1000) == 84


def test_each_length_of_old_pauses_counts_half() -> None:
    pace = Pace()
    for _ in range(250):
        pace.moved(1, 50)
    pace.moved(20_001 - 250, 0)
    assert pace.limit(floor=1, ceiling=1000) == 204, "125 of 10,000"
    pace.moved(0, 0)
    assert Pace().limit(floor=0, ceiling=9) == 0


def ticks(stalls: Stalls, fed: int, count: int) -> list[bool]:
    return [stalls.tick("s", "m", fed, waits=False) for _ in range(count)]


def test_a_stream_is_dead_after_so_many_silent_ticks_and_a_slow_client_begins_anew() -> None:
    stalls = Stalls(3, 100)
    assert stalls.limit("m") == 3
    stalls.open("s")
    assert ticks(stalls, 1, 4) == [False, False, False, True]
    stalls = Stalls(3, 100)
    stalls.open("s")
    assert ticks(stalls, 2, 3) == [False] * 3
    assert not stalls.tick("s", "m", 2, waits=True)
    assert ticks(stalls, 2, 3) == [False, False, True]
    assert not stalls.tick("unknown", "m", 1, waits=False)


def test_the_wait_for_a_first_record_teaches_nothing_and_a_pause_between_does() -> None:
    stalls = Stalls(3, 100)
    stalls.open("s")
    ticks(stalls, 0, 50)
    ticks(stalls, 1, 1)
    assert stalls.limit("m") == 3
    ticks(stalls, 1, 2)
    ticks(stalls, 2, 1)
    assert stalls.limit("m") == 12
    assert stalls.limit("other") == 3


# -- what can be continued


def asked(path: str = GENERATE, **native: Any) -> ResumableRequest:
    return ResumableRequest(path, native)


@pytest.mark.parametrize(
    ("options", "limit", "left"),
    [
        ({"num_predict": 2}, 2, 1),
        ({"num_predict": 1}, 1, 0),
        ({"num_predict": 0}, None, None),
        ({"num_predict": -1}, None, None),
        ({"num_predict": "2"}, None, None),
        ({}, None, None),
        (None, None, None),
        ([], None, None),
    ],
)
def test_how_many_tokens_are_left(options: Any, limit: int | None, left: int | None) -> None:
    request = asked(options=options)
    assert (request.limit, request.left(1)) == (limit, left)
    assert request.left(99) == (None if limit is None else 0)
    assert request.usage is False


@pytest.mark.parametrize(
    ("stop", "stops"),
    [("a", ["a"]), (["a", "", 5, "b"], ["a", "b"]), ("", []), (None, []), (5, []), ({"a": 1}, [])],
)
def test_which_stop_sequences_were_asked_for(stop: Any, stops: list[str]) -> None:
    assert list(asked(options={"stop": stop}).stops) == stops


@pytest.mark.parametrize(
    ("native", "piece", "fine"),
    [
        ({}, record(GENERATE), True),
        ({}, "nonsense\n", False),
        ({"tools": [{}]}, record(GENERATE), False),
        ({}, record(GENERATE, **CALLS), False),
        ({}, record(GENERATE, thinking="t"), False),
        ({"think": True}, record(GENERATE), True),
        ({"think": True}, record(GENERATE, ""), False),
        ({"think": False}, record(GENERATE, ""), True),
        ({"format": "json"}, record(GENERATE), False),
        ({"context": [1]}, record(GENERATE), False),
        ({"context": [], "format": "", "tools": []}, record(GENERATE), True),
        ({"images": ["x"]}, record(GENERATE), False),
        ({"width": 5}, record(GENERATE), False),
        ({"messages": [{"images": ["x"]}]}, record(GENERATE), False),
        ({"messages": [{"content": "x"}, {"images": ["x"]}]}, record(GENERATE), False),
        ({"messages": [{"content": "x"}, "odd"]}, record(GENERATE), True),
        ({"messages": "odd"}, record(GENERATE), True),
    ],
)
def test_what_the_text_alone_tells_can_be_continued(native: dict[str, Any], piece: str, fine: bool) -> None:
    request, tracker = asked(**native), tracked(GENERATE, record(GENERATE, ""), piece)
    if fine:
        check(request, tracker)
    else:
        with pytest.raises(NotResumable):
            check(request, tracker)


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("a" * 29, False),
        ("a" * 30, True),
        ("ab" * 29 + "a", False),
        ("x" * 24 * 30, True),
        (("y" * 23 + "z") * 29, False),
        ("q" + ("y" * 23 + "z") * 30, True),
        (("y" * 24 + "z") * 30, False),
        ("no" + ("y" * 23 + "z") * 30 + " " * 24, True),
        (("y" * 23 + "z") * 30 + " " * 25, False),  # so far back nobody looks
        ("a" * 30 + " \n", True),
        ("a" * 30 + "b", False),
        ("\n" * 30, True),
    ],
)
def test_an_answer_that_says_one_thing_thirty_times_ended_on_purpose(text: str, repeats: bool) -> None:
    tracker = tracked(GENERATE, record(GENERATE, text))
    if not repeats:
        check_ending(tracker)
        return
    with pytest.raises(NotResumable):
        check_ending(tracker)


def test_which_paths_are_continued_and_how() -> None:
    for path in PATHS:
        assert tracker_for(path) is not None
    assert tracker_for("/api/embed") is tracker_for("/v1/models") is None
    chat, plain = (tracked(path, record(path)) for path in PATHS[2:4])
    assert b'"delta":{"content":"b"}' in chat.more("b", {})
    assert b'"text":"b"' in plain.more("b", {})
    chat, plain = (tracked(path, record(path)) for path in PATHS[:2])
    assert b'"message":{"role":"assistant","content":"b"}' in chat.more("b", {})
    assert b'"response":"b"' in plain.more("b", {})


@pytest.mark.parametrize(
    ("path", "body", "usage"),
    [
        (CHAT, {"model": "m", "messages": []}, False),
        ("/v1/completions", {"model": "m", "prompt": "p"}, False),
        (
            "/v1/messages",
            {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]},
            False,
        ),
        (
            "/v1/chat/completions",
            {
                "model": "m",
                "stream": True,
                "messages": [{"role": "user", "content": "x"}],
                "stream_options": {"include_usage": True},
            },
            True,
        ),
    ],
)
def test_a_request_says_whether_it_wants_the_usage(path: str, body: Any, usage: bool) -> None:
    request = request_of(path, json.dumps(body).encode())
    assert request.usage is usage
    assert request.native["model"] == "m"
    for broken in (b"", b"[]", b"\xff", b"[" * 100_000):
        with pytest.raises(NotResumable):
            request_of(path, broken)


def test_only_a_prompt_that_is_not_raw_is_rendered() -> None:
    assert render_body(asked(GENERATE, raw=True)) is None
    assert render_body(asked(GENERATE, raw=False)) is not None
    assert render_body(asked(CHAT, raw=True)) is not None
    assert render_body(asked(CHAT)) == b'{"stream":false,"_debug_render_only":true}'


@pytest.mark.parametrize(
    ("answer", "prompt"),
    [
        (b'{"_debug_info":{"rendered_template":"p"}}', "p"),
        (b'{"_debug_info":{"rendered_template":5}}', None),
        (b'{"_debug_info":{}}', None),
        (b'{"_debug_info":null}', None),
        (b"nonsense", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
    ],
)
def test_the_prompt_in_an_answer(answer: bytes, prompt: str | None) -> None:
    assert rendered_prompt(answer) == prompt


@pytest.mark.parametrize(
    ("options", "fed", "predict"),
    [
        ({}, record(GENERATE), None),
        ({"num_predict": 5}, record(GENERATE), 4),
        ({"num_predict": 2}, record(GENERATE), 1),
        ({"num_predict": 1}, record(GENERATE), 1),
        ({"num_predict": 3}, record(GENERATE) * 3, 1),
        ({"num_predict": -1}, record(GENERATE), -1),
    ],
)
def test_the_rest_of_an_answer_may_have_what_is_left(options: Any, fed: str, predict: int | None) -> None:
    request = asked(model="m", prompt="p", options=options, keep_alive=5, system="not passed")
    tracker = tracked(GENERATE, fed)
    body = json.loads(continuation_body(request, "rendered ", tracker))
    assert body.pop("options").get("num_predict") == predict
    assert body == {
        "model": "m",
        "prompt": "rendered " + tracker.text,
        "raw": True,
        "stream": True,
        "think": False,
        "keep_alive": 5,
    }
    assert json.loads(continuation_body(request, None, tracker))["prompt"] == "p" + tracker.text
    assert is_whole(request, tracker) is (options.get("num_predict") in (1, 3))


@pytest.mark.parametrize(
    ("before", "pieces", "told", "stopped"),
    [
        ("x", ["a", "b"], ["a", "b", ""], False),
        ("EN", ["D", "x"], ["", "", ""], True),
        ("E", ["N", "D"], ["", "", ""], True),
        ("E", ["N", "X", "y"], ["", "NX", "y", ""], False),
        ("E", ["N"], ["", "N"], False),
        ("END", ["x"], ["x", ""], False),
        ("EN", ["Dx"], ["", ""], True),
    ],
)
def test_a_stop_sequence_that_began_before_the_cut(
    before: str, pieces: list[str], told: list[str], stopped: bool
) -> None:
    guard = StopGuard(before, ["END"])
    assert [*(guard.feed(piece) for piece in pieces), guard.finish()] == told
    assert guard.stopped is stopped
    assert guard.finish() == ""


# -- places


X = canonical("x")


def mesh(names: str, *routes: Route, **fields: Any) -> Index:
    entries = {f"node/{name}": encode_entry(Node(name, f"{name}:1")) for name in names}
    for name in names:
        one = Instance(f"{name}/0", name, models=(MemberModel("x", "d"),), **fields)
        entries[f"instance/{name}/0"] = encode_entry(one)
    entries |= {f"route/{route.name}": encode_entry(route) for route in routes}
    return Index("me", Snapshot(Version(1, 1), entries), ())


def order(index: Index, load: Load, **sought: Any) -> str:
    return "".join(one.node for one in places(index, ContinuationPlace(X, **sought), load))


def half(name: str) -> Any:
    """Half a second is left for this subject alone."""
    return lambda subject: 0.5 * (subject == name)


@pytest.mark.parametrize("subject", ["a", "a/0"])
def test_the_dead_come_last_and_the_ejected_before_them(subject: str) -> None:
    index = mesh("ab")
    assert order(index, Load({})) == "ab"
    assert order(index, Load({}, down=half(subject))) == "ba"
    assert order(index, Load({}, ejected=half(subject))) == "ba"
    assert order(index, Load({}, ejected=half("b"), down=half(subject))) == "ba"


def test_free_slots_domains_memory_and_work_decide_in_this_order() -> None:
    index = mesh("ab", slots=2)
    assert order(index, Load({"a/0": 1})) == "ba"
    assert order(index, Load({"a/0": 2, "b/0": 1})) == "ba"
    weightless = mesh("ab", weight=0, slots=9)
    assert order(weightless, Load({"a/0": 1})) == "ba"
    light = mesh("ab", weight=1)
    assert order(light, Load({"a/0": 3, "b/0": 2})) == "ba"
    apart = Instance("c/0", "c", models=(MemberModel("x", "d"),), failure_domain="g")
    entries = index.snapshot.entries | {
        "instance/c/0": encode_entry(apart),
        "node/c": encode_entry(Node("c", "c:1")),
    }
    both = Index("me", Snapshot(Version(1, 1), entries), ())
    assert order(both, Load({"a/0": 1}), domain="g") == "bac"
    assert order(both, Load({"a/0": 1}), domain="") == "cba" or order(both, Load({"a/0": 1})) == "bca"


@pytest.mark.parametrize(
    ("work", "load", "helps"),
    [
        ({"a/0": 2}, {}, True),
        ({"a/0": 1}, {}, False),  # it has its slot
        ({"a/0": 2, "b/0": 1}, {}, False),
        ({"a/0": 2}, {"down": half("b")}, False),
        ({"a/0": 2}, {"ejected": half("b/0")}, False),
        ({"a/0": 2}, {"ejected": half("b")}, False),
        ({"a/0": 2}, {"down": half("a")}, True),
    ],
)
def test_who_waits_goes_only_where_it_would_not_wait_and_all_is_well(
    work: dict[str, int], load: dict[str, Any], helps: bool
) -> None:
    index = mesh("ab")
    assert better(index, ContinuationPlace(X), Load(work, **load), "a/0") is helps
    assert not better(index, ContinuationPlace(X), Load(work, **load), "gone/0")
    assert not better(mesh("a"), ContinuationPlace(X), Load(work), "a/0")


def test_who_is_ill_is_no_better_place_even_as_the_only_one() -> None:
    index, waits = mesh("ab"), {"a/0": 2}
    for load, helps in ({}, True), ({"down": half("b")}, False), ({"ejected": half("b")}, False):
        assert better(index, ContinuationPlace(X), Load(waits, **load), "a/0", ("a/0",)) is helps


def test_of_two_alike_the_one_with_the_model_in_memory_comes_first() -> None:
    index = mesh("ab")
    for name in "ab":
        known = Instance(f"{name}/0", name, models=(MemberModel("x", "d"),), loaded=("x",))
        entries = index.snapshot.entries | {f"instance/{name}/0": encode_entry(known)}
        assert order(Index("me", Snapshot(Version(1, 1), entries), ()), Load({}))[0] == name


def test_work_is_told_by_what_an_instance_can_do() -> None:
    index = mesh("ab", weight=1)
    strong = Instance("b/0", "b", models=(MemberModel("x", "d"),), weight=2)
    entries = index.snapshot.entries | {"instance/b/0": encode_entry(strong)}
    both = Index("me", Snapshot(Version(1, 1), entries), ())
    assert order(both, Load({"a/0": 2, "b/0": 3})) == "ba"
    assert order(both, Load({"a/0": 1, "b/0": 3})) == "ab"


def test_an_instance_is_crowded_with_more_than_its_slots() -> None:
    target = mesh("a").targets["a/0"]
    assert [crowded(target, work) for work in ({}, {"a/0": 1}, {"a/0": 2})] == [False, False, True]


def test_a_digest_a_route_and_who_was_avoided_narrow_the_places() -> None:
    index = mesh("ab", Route("r", (Backend("x", instances=("b/0",)), Backend("other"))))
    assert order(index, Load({}), digest="d") == "ab"
    assert order(index, Load({}), digest="e") == ""
    assert order(index, Load({}), route="r") == "b"
    assert order(index, Load({}), route="gone") == "ab"
    assert [one.node for one in places(index, ContinuationPlace(X), Load({}), ("a/0",))] == ["b"]
    assert places(index, ContinuationPlace(canonical("y")), Load({})) == ()
    two = (Backend("x", name="one", instances=("b/0",)), Backend("x", name="two", instances=("a/0",)))
    index = mesh("ab", Route("r", two))
    assert order(index, Load({}), route="r", backend=two[1].key) == "ab"
    assert order(index, Load({}), route="r", backend=two[0].key) == "ba"
    circle = (Route("r", (Backend("y"),), fallback="s"), Route("s", two, fallback="r"))
    assert order(mesh("ab", *circle), Load({}), route="r", backend=two[0].key) == "ba"
