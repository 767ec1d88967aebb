"""The errors a client can be sent: one tree, one JSON shape (OpenAI's), no transport.

ApiError
├── BadRequest          400  the client's command or body is wrong
├── Unauthorized        401  no credential, or a bad one
├── Forbidden           403  a foreign Origin or Host, a missing scope
├── NotFound            404  no such stream, route or feature
├── MethodNotAllowed    405  the path is there, the method is not
├── Gone                410  the stream was there and is no longer retained
├── TooLarge            413  a body above body_size_limit
├── UnsupportedCoding   415  a body compressed in a way that is not read here
├── ExpectationFailed   417  an Expect that is none of HTTP's
├── Unprocessable       422  an Idempotency-Key of another question
├── UpgradeRequired     426  a plain request where a WebSocket is spoken
├── TooMany             429  a rate limit
├── Unavailable         503  a limit of the whole server, or draining
└── UpstreamError      the upstream's own status, or 502
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class ApiError(Exception):
    """An error that a client is sent.

    Attributes:
        message: a sentence for a person that says what to do.
        code: a stable word for programs, e.g. ``stream_not_found``.
        param: the offending field, where there is one.
        retry_after: seconds after which trying again makes sense (HTTP ``Retry-After``).
    """

    status: int = 500
    type: ClassVar[str] = "server_error"

    def __init__(
        self, message: str, code: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after

    @property
    def error_type(self) -> str:
        """OpenAI's ``error.type``."""
        return self.type

    def body(self) -> dict[str, object]:
        """Return OpenAI's error object: ``{type, code, message, param}``."""
        return {
            "type": self.error_type,
            "code": self.code,
            "message": self.message,
            "param": self.param,
        }


class BadRequest(ApiError):
    """The command or body is wrong."""

    status = 400
    type = "invalid_request_error"


class Unauthorized(ApiError):
    """No credential, or a bad one."""

    status = 401
    type = "authentication_error"


class Forbidden(ApiError):
    """A foreign Origin or Host, or a missing scope."""

    status = 403
    type = "permission_error"


class NotFound(ApiError):
    """No such stream, route or feature."""

    status = 404
    type = "not_found_error"


class MethodNotAllowed(ApiError):
    """The path is there, this method is not.

    Attributes:
        allowed: the methods that are allowed, as ``Allow`` lists them (RFC 9110 section 10.2.1).
    """

    status = 405
    type = "invalid_request_error"

    def __init__(self, message: str, *, allowed: str) -> None:
        super().__init__(message, "method_not_allowed")
        self.allowed = allowed


class Gone(ApiError):
    """The stream was there and is no longer retained."""

    status = 410
    type = "not_found_error"


class TooLarge(ApiError):
    """More than ``body_size_limit`` bytes."""

    status = 413
    type = "invalid_request_error"


class UnsupportedCoding(ApiError):
    """A ``Content-Encoding`` that is not read here."""

    status = 415
    type = "invalid_request_error"


class ExpectationFailed(ApiError):
    """An ``Expect`` other than ``100-continue``."""

    status = 417
    type = "invalid_request_error"


class Unprocessable(ApiError):
    """An Idempotency-Key that stands for another question."""

    status = 422
    type = "invalid_request_error"


class UpgradeRequired(ApiError):
    """A plain request where a WebSocket is spoken."""

    status = 426
    type = "invalid_request_error"


class TooMany(ApiError):
    """A rate limit is exceeded."""

    status = 429
    type = "rate_limit_error"


class Unavailable(ApiError):
    """A limit of the whole server is reached, or it is draining."""

    status = 503
    type = "overloaded_error"


class UpstreamError(ApiError):
    """The upstream answered with an error of its own, or could not be reached."""

    type = "upstream_error"

    def __init__(
        self,
        message: str,
        code: str,
        *,
        status: int | None = None,
        error_type: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        fields: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message, code, param=param, retry_after=retry_after)
        self.status = status or 502
        self._error_type = error_type
        self._fields = fields or {}

    def body(self) -> dict[str, object]:
        """Return OpenAI's error object; what the upstream put into its own stays as it was."""
        body = super().body()
        if not self._fields:
            return body
        own = {**body, "code": None, "param": None, **self._fields}
        return {**own, "message": self.message, "type": own["type"] or self.error_type}

    @property
    def error_type(self) -> str:
        """The upstream's own type, if it gave one."""
        return self._error_type or self.type
