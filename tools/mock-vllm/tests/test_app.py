"""The mock's answers, asked over HTTP of a uvicorn that really runs.

Needs the wheels of requirements.txt on PYTHONPATH; without them every test is skipped, or fails if XTASK_REQUIRE
names `python` or is `all`.
"""

import gzip
import http.client
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

APP_DIRECTORY = Path(__file__).resolve().parent.parent
START_TIMEOUT_SECONDS = 30
REQUIRED = {"python", "all"} & set(os.environ.get("XTASK_REQUIRE", "").split(","))


def setUpModule():
    missing = [name for name in ("fastapi", "pydantic", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        reason = f"skipped: {', '.join(missing)} not importable; put the wheels of requirements.txt on PYTHONPATH"
        if REQUIRED:
            raise RuntimeError(reason)
        print(reason, file=sys.stderr)
        raise unittest.SkipTest(reason)


class MockServer:
    """One uvicorn on a port the kernel chose, started with the flags that production uses."""

    def __init__(self):
        self.log = tempfile.TemporaryFile("w+")
        isolation = ["-S", "-P"] if sys.version_info >= (3, 11) else ["-S"]
        paths = [str(APP_DIRECTORY), *(path for path in sys.path if path)]
        self.process = subprocess.Popen(
            [sys.executable, *isolation, "-m", "uvicorn", "app:app", "--host", "127.0.0.1", "--port", "0"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=self.log,
            stderr=self.log,
            text=True,
        )
        self.port = self._announced_port()

    def _announced_port(self):
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            self.log.seek(0)
            for line in self.log:
                if "running on http://127.0.0.1:" in line:
                    return int(line.split("http://127.0.0.1:")[1].split()[0])
            time.sleep(0.02)
        self.log.seek(0)
        output = self.log.read()
        self.stop()
        raise RuntimeError(f"uvicorn did not come up within {START_TIMEOUT_SECONDS} s:\n{output}")

    def stop(self):
        self.process.terminate()
        self.process.wait(10)
        self.log.close()

    def request(self, method, path, body=None, headers=None):
        """Returns (status, headers, body as bytes); a dict body is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            encoded = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
            connection.request(method, path, encoded, {"content-type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()


class MockTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = MockServer()
        cls.addClassCleanup(cls.server.stop)

    def setUp(self):
        self.server.request("DELETE", "/_requests")

    def chat(self, messages, headers=None, **fields):
        body = {"model": "m", "messages": messages, **fields}
        return self.server.request("POST", "/v1/chat/completions", body, headers)

    def answer(self, messages, **fields):
        status, _, body = self.chat(messages, **fields)
        self.assertEqual(status, 200, body)
        return json.loads(body)

    def events(self, body):
        lines = [line for line in body.decode().split("\n\n") if line]
        self.assertTrue(all(line.startswith("data: ") for line in lines), lines)
        self.assertEqual(lines[-1], "data: [DONE]")
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


class Answers(MockTest):
    def test_health_and_models(self):
        self.assertEqual(json.loads(self.server.request("GET", "/health")[2]), {"status": "ok"})
        models = json.loads(self.server.request("GET", "/v1/models")[2])
        self.assertEqual([model["id"] for model in models["data"]], ["openai/gpt-oss-20b"])
        self.assertEqual((models["object"], models["data"][0]["object"]), ("list", "model"))

    def test_completion_has_the_openai_shape(self):
        answer = self.answer([{"role": "system", "content": "Be brief"}, {"role": "user", "content": "hello"}])
        self.assertIsInstance(answer.pop("created"), int)
        text = "[mock-m] You said: hello"
        self.assertEqual(
            answer,
            {
                "id": "cmpl-mock-123",
                "object": "chat.completion",
                "model": "m",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": text},
                        "logprobs": None,
                        "finish_reason": "stop",
                    }
                ],
                # "Be brief\nhello" is 14 characters, the answer 24.
                "usage": {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10},
            },
        )

    def test_content_forms_echo_the_last_user_text(self):
        parts = [
            {"type": "text", "text": "one"},
            {"type": "image_url", "image_url": {"url": "data:,"}},
            {"type": "text", "text": "two"},
        ]
        cases = {
            "last user turn, not the last message": (
                [
                    {"role": "user", "content": "first"},
                    {"role": "user", "content": "second"},
                    {"role": "assistant", "content": "reply"},
                ],
                "second",
            ),
            "parts": ([{"role": "user", "content": parts}], "one\ntwo"),
            "null": ([{"role": "user", "content": None}], ""),
            "no content": ([{"role": "user"}], ""),
            "no user": ([{"role": "system", "content": "s"}], ""),
            "not ASCII": ([{"role": "user", "content": "你好 café"}], "你好 café"),
        }
        for name, (messages, expected) in cases.items():
            with self.subTest(name):
                content = self.answer(messages)["choices"][0]["message"]["content"]
                self.assertEqual(content, f"[mock-m] You said: {expected}")

    def test_stream_spells_the_answer_and_ends_with_usage(self):
        messages = [{"role": "user", "content": "a  b\nc "}]
        status, headers, body = self.chat(messages, stream=True)
        self.assertEqual((status, headers["content-type"]), (200, "text/event-stream; charset=utf-8"))
        *deltas, usage = self.events(body)
        self.assertEqual({chunk["object"] for chunk in deltas}, {"chat.completion.chunk"})
        self.assertEqual(deltas[0]["choices"][0]["delta"]["role"], "assistant")
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in deltas)
        self.assertEqual(text, "[mock-m] You said: a  b\nc ")
        self.assertEqual([chunk["choices"][0]["finish_reason"] for chunk in deltas][-2:], [None, "stop"])
        self.assertEqual(usage["choices"], [])
        self.assertEqual(usage["usage"], self.answer(messages)["usage"])

    def test_stream_without_usage_when_declined(self):
        _, _, body = self.chat([{"role": "user", "content": "x"}], stream=True, stream_options={"include_usage": False})
        self.assertTrue(all("usage" not in chunk for chunk in self.events(body)))

    def test_invalid_requests_get_an_openai_error_naming_the_field(self):
        cases = {
            b"{not json": "body: ",
            b"{}": "model: ",
            b'{"model":"m","messages":[]}': "messages: ",
            b'{"model":"m","messages":[{"role":"user","content":7}]}': "messages.0.content",
        }
        for body, prefix in cases.items():
            with self.subTest(body=body):
                status, _, answer = self.server.request("POST", "/v1/chat/completions", body)
                error = json.loads(answer)["error"]
                self.assertEqual((status, error["type"], error["code"]), (400, "invalid_request_error", 400))
                self.assertTrue(error["message"].startswith(prefix), error["message"])


class Record(MockTest):
    def recorded(self):
        return json.loads(self.server.request("GET", "/_requests")[2])

    def test_bodies_and_headers_are_kept_as_they_came(self):
        raw = b'{"model":"m","messages":[{"role":"user","content":"x"}],"top_k":3,"seed":12345678901234567890,"t":1.0}'
        self.server.request("POST", "/v1/chat/completions", raw, {"X-Selected-Model": "m", "Authorization": "Bearer k"})
        (entry,) = self.recorded()
        self.assertEqual((entry["method"], entry["path"], entry["raw"]), ("POST", "/v1/chat/completions", raw.decode()))
        self.assertEqual((entry["body"]["seed"], entry["body"]["top_k"]), (12345678901234567890, 3))
        self.assertEqual((entry["headers"]["x-selected-model"], entry["headers"]["authorization"]), ("m", "Bearer k"))

    def test_repeated_headers_are_joined(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        self.addCleanup(connection.close)
        connection.putrequest("POST", "/v1/chat/completions")
        for name, value in (("x-twice", "a"), ("x-twice", "b"), ("content-length", "2")):
            connection.putheader(name, value)
        connection.endheaders(b"{}")
        connection.getresponse().read()
        self.assertEqual(self.recorded()[0]["headers"]["x-twice"], "a, b")

    def test_refused_bodies_are_recorded_too(self):
        self.server.request("POST", "/v1/chat/completions", b"{not json")
        (entry,) = self.recorded()
        self.assertEqual((entry["raw"], entry["body"]), ("{not json", None))

    def test_record_is_bounded_and_forgettable(self):
        for number in range(130):
            self.server.request("POST", "/v1/chat/completions", str(number).encode())
        raws = [entry["raw"] for entry in self.recorded()]
        self.assertEqual(raws, [str(number) for number in range(2, 130)])
        self.assertEqual(self.server.request("DELETE", "/_requests")[0], 204)
        self.assertEqual(self.recorded(), [])


class Failures(MockTest):
    MESSAGES = [{"role": "user", "content": "x" * 200}]

    def test_status(self):
        for status, kind in ((429, "invalid_request_error"), (503, "server_error")):
            with self.subTest(status):
                got, _, body = self.chat(self.MESSAGES, {"x-mock-status": str(status)})
                self.assertEqual((got, json.loads(body)["error"]["type"]), (status, kind))

    def test_delay(self):
        started = time.monotonic()
        self.chat(self.MESSAGES, {"x-mock-delay-seconds": "0.3"})
        self.assertGreaterEqual(time.monotonic() - started, 0.3)

    def test_gzip(self):
        for stream in (False, True):
            with self.subTest(stream=stream):
                status, headers, body = self.chat(self.MESSAGES, {"x-mock-gzip": "1"}, stream=stream)
                self.assertEqual((status, headers["content-encoding"]), (200, "gzip"))
                self.assertIn(b"[mock-m]", gzip.decompress(body))

    def test_truncate_announces_more_than_it_sends(self):
        for stream in (False, True):
            with self.subTest(stream=stream), self.assertRaises(http.client.IncompleteRead) as caught:
                self.chat(self.MESSAGES, {"x-mock-truncate": "1"}, stream=stream)
            self.assertGreater(len(caught.exception.partial), 0)
            self.assertGreater(caught.exception.expected, 0)

    def test_switches_with_wrong_values_are_refused(self):
        for name, value in (("status", "200"), ("status", "soon"), ("delay-seconds", "-1"), ("gzip", "perhaps")):
            with self.subTest(name, value=value):
                status, _, body = self.chat(self.MESSAGES, {f"x-mock-{name}": value})
                self.assertEqual(status, 400)
                self.assertTrue(json.loads(body)["error"]["message"].startswith(name.replace("-", "_")), body)


if __name__ == "__main__":
    unittest.main()
