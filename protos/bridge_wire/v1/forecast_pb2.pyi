from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ForecastRequest(_message.Message):
    __slots__ = ("node", "all")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    node: str
    all: bool
    def __init__(self, node: _Optional[str] = ..., all: _Optional[bool] = ...) -> None: ...

class SeriesForecast(_message.Message):
    __slots__ = ("figure", "node", "instance", "of", "value", "limit", "hourly", "hour_low", "hour_likely", "hour_high", "earliest_seconds", "likely_seconds", "latest_seconds", "raised", "watched_seconds", "seasonal", "says")
    FIGURE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    HOURLY_FIELD_NUMBER: _ClassVar[int]
    HOUR_LOW_FIELD_NUMBER: _ClassVar[int]
    HOUR_LIKELY_FIELD_NUMBER: _ClassVar[int]
    HOUR_HIGH_FIELD_NUMBER: _ClassVar[int]
    EARLIEST_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LIKELY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LATEST_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RAISED_FIELD_NUMBER: _ClassVar[int]
    WATCHED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SEASONAL_FIELD_NUMBER: _ClassVar[int]
    SAYS_FIELD_NUMBER: _ClassVar[int]
    figure: str
    node: str
    instance: str
    of: str
    value: float
    limit: float
    hourly: float
    hour_low: float
    hour_likely: float
    hour_high: float
    earliest_seconds: float
    likely_seconds: float
    latest_seconds: float
    raised: bool
    watched_seconds: float
    seasonal: bool
    says: str
    def __init__(self, figure: _Optional[str] = ..., node: _Optional[str] = ..., instance: _Optional[str] = ..., of: _Optional[str] = ..., value: _Optional[float] = ..., limit: _Optional[float] = ..., hourly: _Optional[float] = ..., hour_low: _Optional[float] = ..., hour_likely: _Optional[float] = ..., hour_high: _Optional[float] = ..., earliest_seconds: _Optional[float] = ..., likely_seconds: _Optional[float] = ..., latest_seconds: _Optional[float] = ..., raised: _Optional[bool] = ..., watched_seconds: _Optional[float] = ..., seasonal: _Optional[bool] = ..., says: _Optional[str] = ...) -> None: ...

class ForecastResponse(_message.Message):
    __slots__ = ("series", "watched")
    SERIES_FIELD_NUMBER: _ClassVar[int]
    WATCHED_FIELD_NUMBER: _ClassVar[int]
    series: _containers.RepeatedCompositeFieldContainer[SeriesForecast]
    watched: int
    def __init__(self, series: _Optional[_Iterable[_Union[SeriesForecast, _Mapping]]] = ..., watched: _Optional[int] = ...) -> None: ...
