"""What can go wrong, as the client sees it: RFC 9457 problems, each with a stable `code`.

    Problem
    ├── BadRequest            400  bad_request
    ├── Unauthorized          401  token_missing | token_expired | token_invalid
    ├── Forbidden             403  forbidden
    ├── NotFound              404  not_found
    ├── Conflict              409  conflict | quota_exceeded
    ├── ContentTooLarge       413  content_too_large
    ├── UnsupportedMediaType  415  unsupported_media_type
    ├── Invalid               422  invalid
    ├── TooManyRequests       429  rate_limited
    ├── UpstreamFailed        502  upstream_failed
    └── Unavailable           503  unavailable

Raise one where the fact is known, with a sentence the user can act on; pass `code` to be more exact than the kind.
The detail goes to strangers: never put an exception's own text or an address into it.
"""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

PROBLEM_JSON = "application/problem+json"


class Problem(Exception):  # noqa: N818  # RFC 9457's word, and what the client receives
    """A failure with a status, a stable code and a sentence for the client."""

    status: ClassVar[int] = 500
    code: str = "internal_error"
    title: ClassVar[str] = "Something went wrong"

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        **members: object,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        self.headers = dict(headers or {})
        self.members = members

    def body(self, request_id: str) -> dict[str, object]:
        """Return the problem document."""
        return {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
            **self.members,
        }


class BadRequest(Problem):
    """The request cannot be understood."""

    status, code, title = 400, "bad_request", "Bad request"


class Unauthorized(Problem):
    """The caller has not shown who they are; `code` says whether to sign in or to refresh."""

    status, code, title = 401, "token_invalid", "Sign-in needed"


class Forbidden(Problem):
    """The caller is known and may not do this."""

    status, code, title = 403, "forbidden", "Not allowed"


class NotFound(Problem):
    """Nothing of that name that the caller may see; another person's row looks the same as none."""

    status, code, title = 404, "not_found", "Not found"


class Conflict(Problem):
    """The request does not fit the present state."""

    status, code, title = 409, "conflict", "Conflict"


class ContentTooLarge(Problem):
    """More bytes than we take."""

    status, code, title = 413, "content_too_large", "Too large"


class UnsupportedMediaType(Problem):
    """A kind of file that we cannot read."""

    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class Invalid(Problem):
    """The request is well formed and its values are not usable; `errors` says where."""

    status, code, title = 422, "invalid", "Invalid request"


class TooManyRequests(Problem):
    """The caller's allowance is used up; `Retry-After` says for how long."""

    status, code, title = 429, "rate_limited", "Too many requests"


class UpstreamFailed(Problem):
    """A service that we asked answered with something unusable."""

    status, code, title = 502, "upstream_failed", "A service behind this one failed"


class Unavailable(Problem):
    """A service that we need is out of reach; trying again later may help."""

    status, code, title = 503, "unavailable", "Temporarily unavailable"

    def __init__(
        self, detail: str, *, code: str | None = None, retry_after_seconds: int = 5, **members: object
    ) -> None:
        super().__init__(detail, code=code, headers={"Retry-After": str(retry_after_seconds)}, **members)


class FieldError(BaseModel):
    """One unusable value of a request."""

    pointer: str = Field(description="JSON Pointer (RFC 6901) into the body, or the parameter's place and name.")
    detail: str


class ProblemDocument(BaseModel):
    """An error, as `application/problem+json` (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable: safe to branch on.", examples=["not_found"])
    request_id: str = Field(description="Quote it when you report the error.")
    errors: list[FieldError] | None = None
