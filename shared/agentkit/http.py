"""The HTTP side that every function shares: problems, request ids, CORS, the `/v1` prefix, the Lambda handler.

    app = create_app("search")          routes below it live at /v1/...
    handler = lambda_handler(app)       what AWS Lambda calls

CORS is answered by the function URL in Lambda and by the app elsewhere, never by both: two
`Access-Control-Allow-Origin` headers make a browser refuse the answer.
"""

import asyncio
import os
import re
import time
import uuid
from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from mangum import Mangum
from pydantic import AfterValidator, BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentkit import telemetry
from agentkit.errors import PROBLEM_JSON, Invalid, Problem, ProblemDocument
from agentkit.settings import HttpSettings, load

VERSION = "v1"
# What we accept as a request id from outside: it is echoed in a header and written to logs.
REQUEST_ID = re.compile(r"[A-Za-z0-9._:=-]{8,128}")
# What leaves Lambda as text; anything else is base64, a third larger.
TEXT_TYPES = ["text/", "application/json", PROBLEM_JSON]
# A client mends a few and asks again; a million of them would not fit into an answer of Lambda's (6 MB).
MOST_ERRORS = 20
# Where a request's scope holds what `add_headers` was given.
ADDED_HEADERS = "agentkit.headers"
# What an answer gets even when its deadline has all but passed.
SHORTEST_SECONDS = 1.0
EXPOSED_HEADERS = ["X-Request-Id", "RateLimit", "RateLimit-Policy", "Retry-After", "WWW-Authenticate"]

log = telemetry.logger(__name__)


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("must not contain half of a surrogate pair")
    return text


Text = Annotated[str, AfterValidator(_storable)]
"""A string that Postgres and UTF-8 can carry: no NUL, no lone surrogate (JSON's escapes can write both)."""

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=128,
        pattern=r"^[\x21-\x7e]+$",
        description="Makes the request safe to repeat: visible ASCII.",
    ),
]
"""Ask for it by type, with None as its default."""


class Body(BaseModel):
    """A request body: unknown members are refused, so a misspelt one is an error and not a surprise."""

    model_config = ConfigDict(extra="forbid")


class RequestContext:
    """ASGI middleware: an id for each request, and a problem for whatever nobody caught."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; an exception before the first byte becomes a 500 problem, a later one is raised on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        identity = _request_id(scope)
        began = time.perf_counter()
        status: int | None = None
        added: dict[str, str] = scope.setdefault(ADDED_HEADERS, {})

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                ours = {**added, "X-Request-Id": identity}
                message["headers"] = [
                    *message.get("headers", []),
                    *((name.lower().encode(), value.encode()) for name, value in ours.items()),
                ]
            await send(message)

        token = telemetry.request_id.set(identity)
        request = {"method": scope["method"], "path": scope["path"]}
        with telemetry.counting_round_trips() as round_trips:
            try:
                await self.app(scope, receive, send_with_id)
            except Exception as error:
                log.error("request.failed", exc_info=error, **request, status=status)
                if status is not None:
                    raise
                response = _problem_response(Problem("It failed on our side; quote the request id if it stays."))
                await response(scope, receive, send_with_id)
            finally:
                seconds = round(time.perf_counter() - began, 4)
                log.info("request.answered", **request, status=status, seconds=seconds, round_trips=dict(round_trips))
                telemetry.request_id.reset(token)


def add_headers(request: Request, headers: Mapping[str, str]) -> None:
    """Put headers on the request's answer, whatever it becomes: a value, a stream or a problem.

    FastAPI's own way, a dependency's `response.headers`, reaches an answer only when the endpoint returns a value.
    """
    request.scope.setdefault(ADDED_HEADERS, {}).update(headers)


def seconds_left(request: Request, *, ending_seconds: float, otherwise: float) -> float:
    """Return how long an answer may take, so that Lambda's deadline never cuts it off.

    ending_seconds: what its end needs of the invocation's time.
    otherwise: the answer where no platform sets a deadline.
    """
    context = request.scope.get("aws.context")
    if context is None:
        return otherwise
    remaining: int = context.get_remaining_time_in_millis()
    return max(SHORTEST_SECONDS, remaining / 1000 - ending_seconds)


def create_app(name: str) -> FastAPI:
    """Return the FastAPI app of that function: routes under `/v1`, errors as problems, its OpenAPI beside them."""
    telemetry.configure_logging()
    app = FastAPI(
        title=f"AgentKit {name}",
        version=VERSION,
        openapi_url=f"/{VERSION}/{name}/openapi.json",
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        strict_content_type=False,
        # A redirect would name this function's own host, which is not where a call through a proxy came from.
        redirect_slashes=False,
    )
    app.router.prefix = f"/{VERSION}"
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_middleware(RequestContext)
    if load(HttpSettings).netlify_signing_secret:
        from agentkit.auth import netlify_signature

        app.router.dependencies.append(Depends(netlify_signature))
    origins = load(HttpSettings).allowed_origins
    if origins and not _in_lambda():
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
            max_age=86_400,
        )
    _document_problems(app)
    return app


def lambda_handler(app: FastAPI) -> Mangum:
    """Return what Lambda calls. The lifespan stays off: Mangum would run it around every single invocation."""
    asyncio.set_event_loop(_process_loop())
    return Mangum(app, lifespan="off", text_mime_types=TEXT_TYPES)


@cache
def _process_loop() -> asyncio.AbstractEventLoop:
    """Return the process's one event loop: Mangum runs every invocation on the current one, and would make its own."""
    return asyncio.new_event_loop()


def _in_lambda() -> bool:
    return "AWS_LAMBDA_FUNCTION_NAME" in os.environ and "AGENTKIT_LOCAL" not in os.environ


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value.decode("latin-1")):
            return str(value.decode("latin-1"))
    context = scope.get("aws.context")
    return getattr(context, "aws_request_id", None) or str(uuid.uuid4())


def _problem_response(problem: Problem) -> Response:
    return JSONResponse(
        problem.body(telemetry.request_id.get()),
        status_code=problem.status,
        headers=problem.headers,
        media_type=PROBLEM_JSON,
    )


async def _on_problem(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)  # noqa: S101  # Starlette calls a handler only for its own class
    log.info("request.refused", status=problem.status, code=problem.code)
    return _problem_response(problem)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  # Starlette calls a handler only for its own class
    # The offending value stays out: it may be a secret, or text that JSON cannot carry.
    errors = [{"pointer": _pointer(fault["loc"]), "detail": fault["msg"]} for fault in error.errors()[:MOST_ERRORS]]
    return await _on_problem(request, Invalid("Some values of the request cannot be used.", errors=errors))


def _pointer(location: tuple[str | int, ...]) -> str:
    place, *rest = location
    path = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in rest)
    return path if place == "body" else f"{place}{path}"


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # Starlette calls a handler only for its own class
    status = HTTPStatus(error.status_code)

    class Framework(Problem):
        """What the framework itself refuses: an unknown path, a method that is not there."""

        title = status.phrase

    Framework.status = status
    code = status.phrase.lower().replace(" ", "_")
    return await _on_problem(request, Framework(error.detail or status.phrase, code=code, headers=error.headers))


def _document_problems(app: FastAPI) -> None:
    """Make the OpenAPI document say what is: every error is a problem, 422 included."""
    written_by_fastapi = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = written_by_fastapi()
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            schemas.pop("HTTPValidationError", None)
            schemas.pop("ValidationError", None)
            problem = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(problem.pop("$defs", {}))
            schemas["ProblemDocument"] = problem
            content = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
            for operations in document["paths"].values():
                for operation in operations.values():
                    responses = operation["responses"]
                    responses.pop("422", None)
                    responses["4XX"] = {"description": "The request was refused.", "content": content}
                    responses["5XX"] = {"description": "It failed on our side.", "content": content}
        return app.openapi_schema or document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI documents this as the way to extend it
