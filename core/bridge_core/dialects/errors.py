"""What the engine's API answers instead of a result."""

from __future__ import annotations

from bridge_core.errors import BridgeError, Reaction


class ApiError(BridgeError):
    """A request that ends in an error: the HTTP status and the sentence the client reads.

    Raised before the first record of an answer it becomes that status; later it becomes an error
    record in the protocol's own shape, because the status has been sent.

    Attributes:
        status: HTTP status for an answer that has not begun.
        late: The error came from the runner, after the request was accepted. Ollama names another
            content type in that case.
    """

    def __init__(self, status: int, message: str, *, late: bool = False) -> None:
        super().__init__(message, reaction=Reaction.REFUSE if status < 500 else Reaction.ELSEWHERE)
        self.status = status
        self.late = late


class RunnerFailed(ApiError):
    """The process that held the model died or stopped answering while it worked for us."""

    def __init__(self, detail: str) -> None:
        super().__init__(500, f"an error was encountered while running the model: {detail}", late=True)
        self.reaction = Reaction.ELSEWHERE
