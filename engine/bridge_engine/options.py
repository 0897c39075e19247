"""A model's options: defaults, what a model file sets, what a request sets, and what needs a reload.

Pure. The defaults are Ollama's; a value of the wrong type is refused as Ollama refuses it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from bridge_core.dialects.errors import ApiError


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Every option that the engine knows; None where Ollama lets llama.cpp choose."""

    num_keep: int = 4
    seed: int = -1
    num_predict: int = -1
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    temperature: float = 0.8
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    num_ctx: int | None = None
    num_batch: int | None = None
    num_gpu: int = -1
    main_gpu: int | None = None
    use_mmap: bool | None = None
    num_thread: int = 0
    draft_num_predict: int = 4


class RunnerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says of the runner that it needs; None leaves the choice to the plan."""

    num_ctx: int | None
    num_batch: int | None
    use_mmap: bool | None
    num_gpu: int
    main_gpu: int | None
    num_thread: int
    shift: bool
    draft_num_predict: int = 4


_INTEGERS: Final = frozenset(
    [
        "num_keep",
        "seed",
        "num_predict",
        "top_k",
        "repeat_last_n",
        "num_ctx",
        "num_batch",
        "num_gpu",
        "main_gpu",
        "num_thread",
        "draft_num_predict",
    ]
)
_FLOATS: Final = frozenset(
    ["top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty"]
)

_LARGEST: Final = {"seed": 1 << 32, "num_thread": 1 << 10}
_LARGEST_FLOAT: Final = 3.4e38


def merge(base: Options, values: dict[str, Any]) -> Options:
    """Lays the options of a model file or a request over `base`; unknown ones are ignored.

    Raises:
        ApiError: 500 as Ollama answers; a value has the wrong type.
    """
    known = {}
    for name, value in values.items():
        if value is None or name not in Options.__struct_fields__:
            continue
        known[name] = _typed(name, value)
    return msgspec.structs.replace(base, **known)


def _typed(name: str, value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _INTEGERS:
        if number and abs(value) < _LARGEST.get(name, 1 << 31):
            return int(value)
        raise _wrong(name, "integer")
    if name in _FLOATS:
        if number and abs(value) < _LARGEST_FLOAT:
            return float(value)
        raise _wrong(name, "float32")
    if name == "use_mmap":
        if isinstance(value, bool):
            return value
        raise _wrong(name, "boolean")
    if not isinstance(value, list):
        raise _wrong(name, "array")
    if not all(isinstance(item, str) for item in value):
        raise ApiError(500, f'option "{name}" must be of an array of strings')
    return tuple(value)


def _wrong(name: str, kind: str) -> ApiError:
    return ApiError(500, f'option "{name}" must be of type {kind}')


def runner_options(options: Options, *, shift: bool) -> RunnerOptions:
    """The part of the options that a runner is started with."""
    return RunnerOptions(
        num_ctx=options.num_ctx,
        num_batch=options.num_batch,
        use_mmap=options.use_mmap,
        num_gpu=options.num_gpu,
        main_gpu=options.main_gpu,
        num_thread=options.num_thread,
        shift=shift,
        draft_num_predict=options.draft_num_predict,
    )


def prompt_limit(num_ctx: int, num_keep: int) -> int:
    """How many tokens of an over-long prompt are kept: `num_keep` and half of the rest."""
    keep = max(0, min(num_keep, num_ctx - 1))
    return num_ctx - max((num_ctx - keep) // 2, 1)


def truncated_prompt(tokens: list[int], num_ctx: int, num_keep: int, *, adds_bos: bool) -> list[int] | None:
    """Cuts an over-long prompt in its middle, keeping its first `num_keep` tokens and its end.

    Returns:
        None where the prompt fits and is to be used as it is.
    """
    if len(tokens) <= num_ctx - 1:
        return None
    keep = len(tokens) if num_keep < 0 else num_keep
    keep = min(keep + int(adds_bos), num_ctx - 1)
    limit = prompt_limit(num_ctx, keep)
    return tokens[:keep] + tokens[len(tokens) - (limit - keep) :]


def bounded_predict(num_predict: int, num_ctx: int) -> int:
    """`num_predict` for llama.cpp: open-ended generation ends after ten context windows."""
    limit = 10 * num_ctx
    return limit if num_predict <= 0 or num_predict > limit else num_predict
