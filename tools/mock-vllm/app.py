"""A mock vLLM: the OpenAI endpoints the router talks to, answering with an echo of what it was asked.

Owns: the echo and its usage figures, the record of the requests that reached it (`/_requests`), and the failures
a test may order through request headers (`Switches`).
Never: contacts another host, or answers a request differently because of an earlier one.
Rules: OpenAI chat completions, and vLLM's streaming form of it; https://platform.openai.com/docs/api-reference/chat.
"""

import asyncio
import gzip
import json
import math
import re
import time
from collections import deque
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field, ValidationError

MODEL_ID = "openai/gpt-oss-20b"
COMPLETION_ID = "cmpl-mock-123"
RECORDED_REQUESTS_MAX = 128

app = FastAPI(title="mock-vllm", docs_url=None, redoc_url=None, openapi_url=None)
recorded_requests: deque[dict[str, Any]] = deque(maxlen=RECORDED_REQUESTS_MAX)


class TextPart(BaseModel):
    """One part of a multi-part content. Other part types (images, audio) have no text and echo as nothing."""

    type: str
    text: str = ""


class Message(BaseModel):
    role: str
    content: str | list[TextPart] | None = None

    def text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content if part.type == "text")
        return self.content or ""


class StreamOptions(BaseModel):
    include_usage: bool = True


class ChatRequest(BaseModel):
    """The fields that shape the answer. Unknown ones are accepted here and kept in the record, as vLLM accepts them."""

    model: str
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None


class Switches(BaseModel):
    """Failures ordered by the request headers `x-mock-<field>`; they pass through a proxy like any other header."""

    status: int | None = Field(None, ge=400, le=599)
    """Answer with this HTTP status and an OpenAI-style error."""
    delay_seconds: float = Field(0, ge=0, le=600)
    """Wait before the first byte of the answer."""
    gzip: bool = False
    """Compress the body whether or not the client accepts it."""
    truncate: bool = False
    """Send half of the announced body, then close the connection."""

    @classmethod
    def from_headers(cls, request: Request) -> "Switches":
        given = {name: request.headers.get(f"x-mock-{name.replace('_', '-')}") for name in cls.model_fields}
        return cls.model_validate({name: value for name, value in given.items() if value is not None})


class TruncatedResponse(Response):
    """Announces its whole body and sends the first half; the server then closes the connection."""

    async def __call__(self, scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body[: len(self.body) // 2], "more_body": True})


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/v1/models")
def models() -> dict[str, Any]:
    model = {"id": MODEL_ID, "object": "model", "created": int(time.time()), "owned_by": "mock-vllm"}
    return {"object": "list", "data": [model]}


@app.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    body = await request.body()
    record(request, body)
    try:
        switches = Switches.from_headers(request)
        chat = ChatRequest.model_validate_json(body)
    except ValidationError as invalid:
        first = invalid.errors(include_url=False)[0]
        return error_response(400, f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}")
    await asyncio.sleep(switches.delay_seconds)
    if switches.status is not None:
        return error_response(switches.status, f"the request ordered status {switches.status}")
    if chat.stream:
        return response(sse(chat), "text/event-stream", switches)
    return response(json_bytes(completion(chat)), "application/json", switches)


@app.get("/_requests")
def list_requests() -> list[dict[str, Any]]:
    """The last `RECORDED_REQUESTS_MAX` requests, oldest first: {method, path, headers, body, raw}.

    `body` is the parsed JSON (null where it is none); `raw` is the body as it came, so that numbers can be compared
    digit by digit.
    """
    return list(recorded_requests)


@app.delete("/_requests", status_code=204)
def forget_requests() -> None:
    recorded_requests.clear()


def record(request: Request, body: bytes) -> None:
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    raw = body.decode("utf-8", "replace")
    try:
        parsed = json.loads(raw)
    except ValueError:
        parsed = None
    recorded_requests.append(
        {"method": request.method, "path": request.url.path, "headers": headers, "body": parsed, "raw": raw}
    )


def echo(chat: ChatRequest) -> str:
    last_user_text = next((message.text() for message in reversed(chat.messages) if message.role == "user"), "")
    return f"[mock-{chat.model}] You said: {last_user_text}"


def usage(chat: ChatRequest) -> dict[str, int]:
    """Tokens estimated as ceil(characters / 4) of all contents joined by newlines, and of the answer."""
    prompt = math.ceil(len("\n".join(message.text() for message in chat.messages)) / 4)
    answer = math.ceil(len(echo(chat)) / 4)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def completion(chat: ChatRequest) -> dict[str, Any]:
    message = {"role": "assistant", "content": echo(chat)}
    return {
        **envelope(chat, "chat.completion"),
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": usage(chat),
    }


def sse(chat: ChatRequest) -> bytes:
    """One event for the role, one a word, one for the finish reason, one for the usage, then `[DONE]`."""
    words = re.findall(r"\s*\S+\s*$|\s*\S+", echo(chat))
    deltas = [
        ({"role": "assistant", "content": ""}, None),
        *(({"content": word}, None) for word in words),
        ({}, "stop"),
    ]
    chunks = [
        {
            **envelope(chat, "chat.completion.chunk"),
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
        }
        for delta, finish_reason in deltas
    ]
    if chat.stream_options is None or chat.stream_options.include_usage:
        chunks.append({**envelope(chat, "chat.completion.chunk"), "choices": [], "usage": usage(chat)})
    events = [json_bytes(chunk) for chunk in chunks] + [b"[DONE]"]
    return b"".join(b"data: %b\n\n" % event for event in events)


def envelope(chat: ChatRequest, kind: Literal["chat.completion", "chat.completion.chunk"]) -> dict[str, Any]:
    return {"id": COMPLETION_ID, "object": kind, "created": int(time.time()), "model": chat.model}


def response(body: bytes, media_type: str, switches: Switches) -> Response:
    headers = {}
    if switches.gzip:
        body, headers = gzip.compress(body), {"content-encoding": "gzip"}
    return (TruncatedResponse if switches.truncate else Response)(body, media_type=media_type, headers=headers)


def error_response(status: int, message: str) -> Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": status}
    return Response(json_bytes({"error": error}), status, media_type="application/json")


def json_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
