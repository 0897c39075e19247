from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class PublishBeat(_message.Message):
    __slots__ = ("tier", "model", "done", "alone")
    TIER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    ALONE_FIELD_NUMBER: _ClassVar[int]
    tier: str
    model: str
    done: bool
    alone: bool
    def __init__(self, tier: _Optional[str] = ..., model: _Optional[str] = ..., done: _Optional[bool] = ..., alone: _Optional[bool] = ...) -> None: ...

class PublishHold(_message.Message):
    __slots__ = ("token", "valid_ms", "alone")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    VALID_MS_FIELD_NUMBER: _ClassVar[int]
    ALONE_FIELD_NUMBER: _ClassVar[int]
    token: int
    valid_ms: int
    alone: bool
    def __init__(self, token: _Optional[int] = ..., valid_ms: _Optional[int] = ..., alone: _Optional[bool] = ...) -> None: ...
