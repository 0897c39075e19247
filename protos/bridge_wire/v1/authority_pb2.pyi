from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AuthorityInfo(_message.Message):
    __slots__ = ("pin", "subject", "kind", "expires_unix", "state", "nodes", "trusted_by", "key_here")
    PIN_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_UNIX_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    TRUSTED_BY_FIELD_NUMBER: _ClassVar[int]
    KEY_HERE_FIELD_NUMBER: _ClassVar[int]
    pin: str
    subject: str
    kind: str
    expires_unix: int
    state: str
    nodes: int
    trusted_by: int
    key_here: bool
    def __init__(self, pin: _Optional[str] = ..., subject: _Optional[str] = ..., kind: _Optional[str] = ..., expires_unix: _Optional[int] = ..., state: _Optional[str] = ..., nodes: _Optional[int] = ..., trusted_by: _Optional[int] = ..., key_here: _Optional[bool] = ...) -> None: ...

class GetAuthoritiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetAuthoritiesResponse(_message.Message):
    __slots__ = ("authorities", "next")
    AUTHORITIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    authorities: _containers.RepeatedCompositeFieldContainer[AuthorityInfo]
    next: str
    def __init__(self, authorities: _Optional[_Iterable[_Union[AuthorityInfo, _Mapping]]] = ..., next: _Optional[str] = ...) -> None: ...

class RotateAuthorityRequest(_message.Message):
    __slots__ = ("step", "certificate_chain_pem", "key_pem", "new_root", "force")
    STEP_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_CHAIN_PEM_FIELD_NUMBER: _ClassVar[int]
    KEY_PEM_FIELD_NUMBER: _ClassVar[int]
    NEW_ROOT_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    step: str
    certificate_chain_pem: bytes
    key_pem: bytes
    new_root: bool
    force: bool
    def __init__(self, step: _Optional[str] = ..., certificate_chain_pem: _Optional[bytes] = ..., key_pem: _Optional[bytes] = ..., new_root: _Optional[bool] = ..., force: _Optional[bool] = ...) -> None: ...
