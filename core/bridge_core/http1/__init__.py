"""HTTP/1.1 for the whole project: `asyncio.Protocol` on both sides, parsed by llhttp.

Servers (`serve`) and clients (`Pool`).
"""

from __future__ import annotations

from bridge_core.http1.client import ClientExchange, ResponseHead, ResponseSink
from bridge_core.http1.coroutine import Handler, coroutine_app
from bridge_core.http1.errors import (
    BadResponse,
    BodyTimeout,
    ConnectFailed,
    Disconnected,
    IncompleteResponse,
    PoolBusy,
    PoolClosed,
    ResponseTimeout,
    ResponseTooLarge,
    UpstreamError,
)
from bridge_core.http1.exchange import App, Exchange
from bridge_core.http1.headers import HOP_BY_HOP, Headers, Pair
from bridge_core.http1.heads import BadHeader, lines
from bridge_core.http1.http_exchange import HttpExchange
from bridge_core.http1.limits import HttpLimits, PoolLimits
from bridge_core.http1.listening import ErrorBody, Identify
from bridge_core.http1.pool import Address, Pool
from bridge_core.http1.request import BodyStream, Request
from bridge_core.http1.response import ClientResponse
from bridge_core.http1.server import Server, json_error, serve

__all__ = [
    "HOP_BY_HOP",
    "Address",
    "App",
    "BadHeader",
    "BadResponse",
    "BodyStream",
    "BodyTimeout",
    "ClientExchange",
    "ClientResponse",
    "ConnectFailed",
    "Disconnected",
    "ErrorBody",
    "Exchange",
    "Handler",
    "Headers",
    "HttpExchange",
    "HttpLimits",
    "Identify",
    "IncompleteResponse",
    "Pair",
    "Pool",
    "PoolBusy",
    "PoolClosed",
    "PoolLimits",
    "Request",
    "ResponseHead",
    "ResponseSink",
    "ResponseTimeout",
    "ResponseTooLarge",
    "Server",
    "UpstreamError",
    "coroutine_app",
    "json_error",
    "lines",
    "serve",
]
