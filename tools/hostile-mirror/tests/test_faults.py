"""Every fault, met by a plain HTTP client; the proxy and the CDN that faults lead to; the cache of registries."""

import base64
import hashlib
import http.client
import json
import shutil
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from rig import LoopbackTest

# isort: split
# rig says where these are.
import faults
from answers import FileBody
from faults import CDN_HOST, PROXY_HOST
from upstream import Cache, UpstreamError

CONTENT = LoopbackTest.CONTENT
CRATE = LoopbackTest.CRATE_PATH


class LoopbackFaults(LoopbackTest):
    def fetch(self, **keywords):
        return self.get("rsproxy.cn", CRATE, **keywords)

    def last_fault(self):
        entry = self.mirror.log_entries()[-1]
        return entry["fault"], entry["status"]

    def test_a_fault_hits_its_host_and_path_only(self):
        self.serve("rsproxy.cn/*/download=html")
        self.assertNotEqual(self.fetch()[2], CONTENT)
        self.assertIn(b'"dl"', self.get("rsproxy.cn", "/index/config.json")[2])
        self.assertEqual(self.get("mirrors.aliyun.com", f"/crates{CRATE}")[2], CONTENT)

    def test_dead(self):
        self.serve("rsproxy.cn=dead")
        with self.assertRaises(ConnectionRefusedError):
            self.fetch()
        self.assertEqual(self.get("goproxy.cn", "/example.org/m/@v/list")[0], 200)

    def test_blackhole(self):
        self.serve("rsproxy.cn=blackhole")
        with self.assertRaises(TimeoutError):
            socket.create_connection(("127.0.0.1", int(self.mirror.url("rsproxy.cn", "http").rpartition(":")[2])), 0.5)
        self.assertEqual(self.get("goproxy.cn", "/example.org/m/@v/list")[0], 200)

    def test_tls(self):
        mirror = self.serve("rsproxy.cn=tls")
        context = ssl.create_default_context(cafile=mirror.authority.bundle)
        with self.assertRaises(urllib.error.URLError) as caught:
            urllib.request.urlopen(mirror.url("rsproxy.cn", "https"), context=context, timeout=10)
        self.assertIn("self-signed", str(caught.exception).replace("self signed", "self-signed"))
        self.await_condition(mirror.log_entries, "a log line for the failed handshake")
        self.assertEqual(self.last_fault(), ("tls", 0))

    def test_silent(self):
        self.serve("rsproxy.cn/*=silent")
        with self.assertRaises(TimeoutError):
            self.fetch(timeout=0.5)
        self.assertEqual(self.last_fault(), ("silent", 0))

    def test_drip(self):
        self.serve("rsproxy.cn/*=drip")
        connection = http.client.HTTPConnection(
            self.mirror.url("rsproxy.cn", "http").removeprefix("http://"), timeout=10
        )
        self.addCleanup(connection.close)
        connection.request("GET", CRATE)
        response = connection.getresponse()
        self.assertEqual((response.status, response.length), (200, len(CONTENT)))
        response.read(1)
        started = time.monotonic()
        response.read(2)
        self.assertGreater(time.monotonic() - started, 1.5)
        connection.close()
        response.close()
        self.await_condition(self.mirror.log_entries, "a log line once the client hung up")
        self.assertEqual(self.last_fault(), ("drip", 200))
        self.assertLess(self.mirror.log_entries()[-1]["bytes"], 10)

    def test_html(self):
        self.serve("rsproxy.cn/*=html")
        status, headers, body = self.fetch()
        self.assertEqual((status, headers["Content-Type"]), (200, "text/html; charset=utf-8"))
        self.assertTrue(body.startswith(b"<!doctype html>"))

    def test_trunc(self):
        self.serve("rsproxy.cn/*=trunc")
        with self.assertRaises(http.client.IncompleteRead) as caught:
            self.fetch()
        self.assertEqual(caught.exception.partial, CONTENT[: len(CONTENT) // 2])

    def test_429_ends_when_its_retry_after_has_passed(self):
        self.serve("rsproxy.cn/*=429:1", "goproxy.cn/*=429:3600")
        started = time.monotonic()
        status, headers, _ = self.fetch()
        self.assertEqual((status, headers["Retry-After"]), (429, "1"))
        self.assertEqual(self.fetch()[0], 429)
        self.await_condition(lambda: self.fetch()[0] == 200, "200 after the time of Retry-After")
        self.assertGreater(time.monotonic() - started, 0.9)
        self.assertEqual(self.get("goproxy.cn", "/example.org/m/@v/list")[1]["Retry-After"], "3600")

    def test_5xx_then_fine_counts_by_path(self):
        self.serve("rsproxy.cn/*=5xx-then-fine:2")
        self.assertEqual([self.fetch()[0] for _ in range(4)], [502, 502, 200, 200])
        self.assertEqual(self.last_fault(), (None, 200))
        self.assertEqual(self.get("rsproxy.cn", "/index/config.json")[0], 502)

    def test_flip_changes_one_byte_whether_ranged_or_whole_and_keeps_the_etag(self):
        self.serve("rsproxy.cn/*=flip")
        _, headers, body = self.fetch()
        differing = [index for index, (got, sent) in enumerate(zip(body, CONTENT, strict=True)) if got != sent]
        self.assertEqual((len(body), len(differing)), (len(CONTENT), 1))
        self.assertEqual(headers["ETag"], f'"{hashlib.sha256(CONTENT).hexdigest()[:32]}"')
        position = differing[0]
        ranged = self.fetch(headers={"Range": f"bytes={position}-{position}"})[2]
        self.assertEqual(ranged, body[position : position + 1])

    def test_redirect(self):
        self.serve("rsproxy.cn/*=redirect:https://goproxy.cn", "goproxy.io/*=redirect:https://leak.invalid/cdn/")
        self.assertEqual(self.fetch()[1]["Location"], self.mirror.url("goproxy.cn", "http") + CRATE)
        self.assertEqual(self.get("goproxy.io", "/x")[1]["Location"], "https://leak.invalid/cdn/x")

    def test_norange(self):
        self.serve("rsproxy.cn/*=norange")
        status, headers, body = self.fetch(headers={"Range": "bytes=10-19"})
        self.assertEqual((status, headers["Accept-Ranges"], body), (200, None, CONTENT))

    def test_stale_hides_one_version_in_every_ecosystem(self):
        self.serve("rsproxy.cn/*=stale:1.0.7", "goproxy.cn/*=stale:1.1.0", "mirrors.aliyun.com/*=stale:2.0")
        self.assertEqual(self.get("rsproxy.cn", "/index/fn/v/fnv")[2], b'{"name":"fnv","vers":"1.0.6"}\n')
        self.assertEqual(self.fetch()[0], 404)
        self.assertEqual(self.get("goproxy.cn", "/example.org/m/@v/list")[2], b"v1.0.0\n")
        self.assertEqual(self.get("goproxy.cn", "/example.org/m/@v/v1.1.0.zip")[0], 404)
        for headers in ({}, {"Accept": "application/vnd.pypi.simple.v1+json"}):
            page = self.get("mirrors.aliyun.com", "/pypi/simple/some-pkg/", headers)[2]
            self.assertIn(b"Some_Pkg-1.0-py3", page)
            self.assertNotIn(b"some_pkg-2.0-py3", page)
        self.assertEqual(self.get("mirrors.aliyun.com", "/pypi/packages/some_pkg-2.0-py3-none-any.whl")[0], 404)

    def test_every_fault_has_a_test(self):
        tested = " ".join(name.removeprefix("test_") for name in dir(self) if name.startswith("test_"))
        names = {*faults.DEFAULT_ARGUMENTS, *faults.NEEDS_ARGUMENT}
        self.assertEqual({name for name in names if name.replace("-", "_") not in tested}, set())

    def test_stale_registries_lose_a_tag_and_a_revision(self):
        self.serve("docker.m.daocloud.io/*=stale:1.0", "hf-mirror.com/*=stale:old")
        self.assertEqual(self.get("docker.m.daocloud.io", "/v2/library/x/manifests/1.0")[2], b"not found\n")
        self.assertEqual(self.get("hf-mirror.com", "/org/repo/resolve/old/model.safetensors")[0], 404)
        self.assertEqual(self.get("hf-mirror.com", "/org/repo/resolve/main/model.safetensors")[2], CONTENT)

    def test_leak_leads_to_a_cdn_that_has_the_file_and_counts(self):
        mirror = self.serve("rsproxy.cn/*=leak")
        location = self.fetch()[1]["Location"]
        self.assertEqual(location, f"{mirror.url(CDN_HOST, 'http')}/rsproxy.cn{CRATE}")
        with urllib.request.urlopen(location, timeout=10) as response:
            self.assertEqual(response.read(), CONTENT)
        hits = [(it["ecosystem"], it["status"]) for it in mirror.log_entries() if it["host"] == CDN_HOST]
        self.assertEqual(hits, [("crates", 200)])

    def test_own_hosts_are_hit_by_their_own_name_only(self):
        mirror = self.serve("*=dead", f"{CDN_HOST}/*=html")
        with self.assertRaises(ConnectionRefusedError):
            self.fetch()
        self.assertIn(b"<html>", self.get(CDN_HOST, f"/rsproxy.cn{CRATE}")[2])
        with self.assertRaisesRegex(OSError, "502"):
            self.through_proxy(mirror, mirror.url("rsproxy.cn", "http") + CRATE)

    def test_slow_delays_the_first_byte_only(self):
        self.serve("rsproxy.cn/*=slow:300")
        started = time.monotonic()
        self.assertEqual(self.fetch()[2], CONTENT)
        self.assertTrue(0.3 <= time.monotonic() - started < 10)

    def test_rate_limits_every_answer(self):
        self.serve(f"rsproxy.cn/*=rate:{2 * len(CONTENT)}")
        started = time.monotonic()
        self.assertEqual(self.fetch()[2], CONTENT)
        self.assertTrue(0.4 <= time.monotonic() - started < 10)

    def test_link_takes_its_journeys_and_is_shared(self):
        mirror = self.serve(f"*=link:200:{2 * len(CONTENT)}")
        started = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            for answer in [pool.submit(self.fetch), pool.submit(self.fetch)]:
                self.assertEqual(answer.result()[2], CONTENT)
        # Connecting and asking, and both bodies one after the other.
        self.assertTrue(1.4 <= time.monotonic() - started < 10)
        connection = http.client.HTTPConnection("127.0.0.1", int(mirror.url("rsproxy.cn", "http").rpartition(":")[2]))
        waits = []
        for _ in range(2):
            started = time.monotonic()
            connection.request("HEAD", CRATE)
            connection.getresponse().read()
            waits.append(time.monotonic() - started)
        connection.close()
        self.assertTrue(0.4 <= waits[0] and 0.2 <= waits[1] < waits[0], waits)

    def test_reset_delivers_its_bytes_each_time_so_that_ranges_come_to_an_end(self):
        step = 30_000
        for scheme in ("http", "https"):
            with self.subTest(scheme):
                mirror = self.serve(f"rsproxy.cn/*=reset:{step}")
                got, cuts = b"", 0
                while len(got) < len(CONTENT):
                    piece, cut = self.read_until_reset(mirror, scheme, len(got))
                    self.assertEqual(len(piece), min(step, len(CONTENT) - len(got)))
                    got, cuts = got + piece, cuts + cut
                self.assertEqual(hashlib.sha256(got).digest(), hashlib.sha256(CONTENT).digest())
                if scheme == "http":  # Older TLS clients of Python take a reset for the end.
                    self.assertEqual(cuts, len(CONTENT) // step)
                self.assertEqual([it["bytes"] for it in mirror.log_entries()][:2], [step, step])

    def read_until_reset(self, mirror, scheme: str, start: int) -> tuple[bytes, bool]:
        """What arrives of the crate from there on, and whether the connection was reset."""
        port = int(mirror.url("rsproxy.cn", scheme).rpartition(":")[2])
        if scheme == "https":
            context = ssl.create_default_context(cafile=mirror.authority.bundle)
            connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", CRATE, headers={"Range": f"bytes={start}-"})
        response, got = connection.getresponse(), b""
        try:
            while piece := response.read1(8192):
                got += piece
            return got, False
        except ConnectionResetError:
            return got, True
        finally:
            connection.close()

    def test_reset_waits_for_a_slow_reader(self):
        large, cut = self.root / "fixtures/hub/org/repo/large.bin", 4 * 1024 * 1024
        with open(large, "wb") as file:
            file.truncate(2 * cut)
        mirror = self.serve(f"hf-mirror.com/*=reset:{cut}")
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            connection.connect(("127.0.0.1", int(mirror.url("hf-mirror.com", "http").rpartition(":")[2])))
            connection.sendall(b"GET /org/repo/resolve/main/large.bin HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.3)
            with connection.makefile("rb") as stream, self.assertRaises(ConnectionResetError):
                while stream.readline() != b"\r\n":
                    pass
                got = 0
                while got < 2 * cut:
                    got += len(stream.read1(65536))
        self.assertEqual(got, cut)

    def test_norange_and_reset_together(self):
        self.serve("rsproxy.cn/*=norange", "rsproxy.cn/*=reset:1000")
        connection = http.client.HTTPConnection(self.mirror.url("rsproxy.cn", "http")[7:], timeout=10)
        self.addCleanup(connection.close)
        connection.request("GET", CRATE, headers={"Range": "bytes=10-"})
        response = connection.getresponse()
        self.assertEqual((response.status, response.length), (200, len(CONTENT)))
        response.close()
        self.assertEqual(self.last_fault(), ("norange+reset", 200))

    def test_proxy_required_is_content_with_the_proxy(self):
        mirror = self.serve("rsproxy.cn/*=proxy-required", "goproxy.cn/*=proxy-required:403")
        status, headers, _ = self.fetch()
        self.assertEqual((status, headers["Proxy-Authenticate"][:5]), (407, "Basic"))
        self.assertEqual(self.get("goproxy.cn", "/example.org/m/@v/list")[0], 403)
        with self.through_proxy(mirror, mirror.url("rsproxy.cn", "http") + CRATE) as response:
            self.assertEqual(response.read(), CONTENT)
        self.assertEqual([it["proxied"] for it in mirror.log_entries()], [False, False, True])

    def through_proxy(self, mirror, url: str, user: str = ""):
        proxy = mirror.url(PROXY_HOST, "http").replace("://", f"://{user}")
        context = ssl.create_default_context(cafile=mirror.authority.bundle)
        handlers = urllib.request.ProxyHandler({"http": proxy, "https": proxy})
        opener = urllib.request.build_opener(handlers, urllib.request.HTTPSHandler(context=context))
        return opener.open(url, timeout=10)


class Proxy(LoopbackTest):
    through_proxy = LoopbackFaults.through_proxy

    def test_forwards_and_tunnels_with_its_password_only_and_logs_what_passes(self):
        mirror = self.serve("rsproxy.cn/*=proxy-required", proxy_user="me:secret")
        for scheme in ("http", "https"):
            url = mirror.url("rsproxy.cn", scheme) + CRATE
            with self.subTest(scheme), self.through_proxy(mirror, url, "me:secret@") as response:
                self.assertEqual(response.read(), CONTENT)
            for user in ("", "me:wrong@"):
                with self.subTest(scheme, user=user), self.assertRaisesRegex(OSError, "407"):
                    self.through_proxy(mirror, url, user)
        passed = [(it["host"], it["method"], it["status"], it["credentials"]) for it in mirror.log_entries()]
        wanted = ["proxy-authorization"]
        self.assertEqual(
            passed,
            [
                ("rsproxy.cn", "GET", 200, wanted),
                (PROXY_HOST, "GET", 407, []),
                (PROXY_HOST, "GET", 407, wanted),
                (PROXY_HOST, "CONNECT", 200, wanted),
                ("rsproxy.cn", "GET", 200, []),
                (PROXY_HOST, "CONNECT", 407, []),
                (PROXY_HOST, "CONNECT", 407, wanted),
            ],
        )
        self.assertNotIn(base64.b64encode(b"me:secret").decode(), mirror.log_path.read_text())

    def test_leads_to_other_hosts_only_if_it_is_open(self):
        with socket.create_server(("127.0.0.1", 0)) as outside:

            def answer_once():
                connection, _ = outside.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\noutside")

            url = f"http://127.0.0.1:{outside.getsockname()[1]}/x"
            with self.assertRaisesRegex(OSError, "403"):
                self.through_proxy(self.serve(), url)
            self.assertEqual(self.mirror.log_entries()[0]["path"], url)
            threading.Thread(target=answer_once, daemon=True).start()
            with self.through_proxy(self.serve(proxy_open=True), url) as response:
                self.assertEqual(response.read(), b"outside")

    def test_says_what_it_cannot_reach(self):
        mirror = self.serve("rsproxy.cn=dead", "goproxy.cn=blackhole")
        for host, status in (("rsproxy.cn", "502"), ("goproxy.cn", "504")):
            for scheme in ("http", "https"):
                with self.subTest(host, scheme=scheme), self.assertRaisesRegex(OSError, status):
                    self.through_proxy(mirror, mirror.url(host, scheme) + "/")

    def test_what_writes_is_refused_and_the_connection_stays_usable(self):
        mirror = self.serve()
        connection = http.client.HTTPConnection(mirror.url("registry.npmmirror.com", "http")[7:], timeout=10)
        self.addCleanup(connection.close)
        for method in ("POST", "PUT"):
            connection.request(method, "/-/npm/v1/security/advisories/bulk", body=b"x" * 100_000)
            response = connection.getresponse()
            self.assertEqual((response.status, response.read()), (405, b"mirrors are read only\n"))
        self.assertEqual([it["method"] for it in mirror.log_entries()], ["POST", "PUT"])


class Forwarding(LoopbackTest):
    """The cache, with a second mirror as its registry."""

    def setUp(self):
        super().setUp()
        self.files = [self.root / "fixtures/hub/org/repo" / f"{index}.bin" for index in range(4)]
        for index, file in enumerate(self.files):
            file.write_bytes(bytes([index]) * (3 * 1024 * 1024 + index))

    def url(self, file) -> str:
        return f"{self.mirror.url('hf-mirror.com', 'http')}/org/repo/resolve/main/{file.name}"

    def test_parallel_requests_get_whole_right_bytes_and_ask_once(self):
        mirror = self.serve("hf-mirror.com/*=slow:100")
        # Two of them, as two processes would have.
        caches = [Cache(self.root / "forwarded") for _ in range(2)]
        wanted = [(caches[turn % 2], file) for turn in range(16) for file in self.files]

        def right(cache_and_file) -> bool:
            cache, file = cache_and_file
            return bytes(cache.get(self.url(file), lasting=True).body) == file.read_bytes()

        with ThreadPoolExecutor(len(wanted)) as pool:
            self.assertTrue(all(pool.map(right, wanted)))
        asked = [it["path"] for it in mirror.log_entries()]
        self.assertLessEqual(max(asked.count(path) for path in asked), len(caches))
        self.assertEqual(list((self.root / "forwarded/v2").glob("part-*")), [])

    def test_a_cut_body_is_an_error_and_leaves_nothing(self):
        self.serve("hf-mirror.com/*=trunc")
        with self.assertRaisesRegex(UpstreamError, "of 3145728 bytes"):
            Cache(self.root / "forwarded").get(self.url(self.files[0]))
        self.assertEqual([path for path in (self.root / "forwarded").rglob("*") if path.is_file()], [])

    def test_a_damaged_body_is_fetched_again(self):
        self.serve()
        body = Cache(self.root / "forwarded").get(self.url(self.files[1]), lasting=True).body
        body.path.write_bytes(b"damaged")
        again = Cache(self.root / "forwarded").get(self.url(self.files[1]), lasting=True).body
        self.assertEqual(bytes(again), self.files[1].read_bytes())

    def test_what_may_change_is_asked_again_after_its_time_and_kept_while_nobody_answers(self):
        self.serve()
        cache, (file, *_) = Cache(self.root / "forwarded"), self.files
        url = self.url(file)
        cache.get(url)
        lasting = cache.get(self.url(self.files[1]), lasting=True).body
        for path in (self.root / "forwarded/v2/answers").rglob("*.json"):
            facts = json.loads(path.read_text())
            path.write_text(json.dumps({**facts, "time": facts["time"] - 2 * 3600}))
        for changed in (file, self.files[1]):
            changed.write_bytes(b"changed")
        self.assertEqual(bytes(cache.get(url).body), b"changed")
        self.assertEqual(cache.get(self.url(self.files[1]), lasting=True).body, lasting)
        for path in (self.root / "forwarded/v2/answers").rglob("*.json"):
            path.write_text(json.dumps({**json.loads(path.read_text()), "time": 0}))
        shutil.rmtree(self.root / "fixtures/hub")
        self.mirror.plan = faults.FaultPlan([faults.Fault.parse("hf-mirror.com/*=trunc")])
        self.assertEqual(bytes(cache.get(url).body), b"changed")

    def test_a_flipped_byte_is_flipped_in_whatever_part_holds_it(self):
        path = self.files[2]
        body = FileBody(path, 0, path.stat().st_size, flipped=1000)
        parts = bytes(body[:1000]) + bytes(body[1000:1001]) + bytes(body[1001:])
        self.assertEqual(parts, bytes(body))
        self.assertEqual([index for index, byte in enumerate(bytes(body)) if byte != 2], [1000])
