"""Who is let in, what is given out, and how every answer is fenced in."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from edgepack.serve.subjects import Served
from tests.serve.page import Counter, Page


def test_the_address_opens_once_and_leaves_no_token_in_it(counter: Counter) -> None:
    token = counter.entrance.token
    first = Page(counter.port).get(f"/open/{token}")
    assert (first.status, first.headers["Location"]) == (303, "/")
    assert {"HttpOnly", "SameSite=Lax"} <= {part.strip() for part in first.headers["Set-Cookie"].split(";")}
    assert Page(counter.port).get(f"/open/{token}").status == 403
    assert counter.renewed == [counter.entrance.token] and counter.renewed != [token]


def test_the_browser_that_came_in_may_open_its_address_again(counter: Counter) -> None:
    token = counter.entrance.token
    page = counter.opened()
    assert page.get(f"/open/{token}").status == 303
    assert len(counter.renewed) == 1


@pytest.mark.parametrize("path", ["/", "/plan.json", "/page.css", "/js/main.js", "/open/", "/open/guess", "/inputs/0/0"])
def test_without_the_token_nothing_is_told(counter: Counter, path: str) -> None:
    answer = Page(counter.port, "edgepack=guess").get(path)
    assert answer.status == 403 and b"digits" not in answer.body


def test_every_answer_isolates_the_page_and_allows_no_foreign_or_inline_script(counter: Counter, page: Page) -> None:
    for answer in (page.get("/"), page.get("/js/main.js"), page.get("/nothing"), Page(counter.port).get("/")):
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'" and policy["script-src"] == "'self' 'wasm-unsafe-eval'"
        assert "unsafe-inline" not in str(policy) and "'unsafe-eval'" not in str(policy) and policy["frame-ancestors"] == "'none'"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert (answer.headers["X-Content-Type-Options"], answer.headers["Referrer-Policy"]) == ("nosniff", "no-referrer")
        assert answer.headers["Cache-Control"] == "no-store"


def test_the_page_has_no_inline_script_style_or_foreign_address(page: Page) -> None:
    html = page.get("/").body.decode()
    assert "<style" not in html and "style=" not in html and " on" + "click" not in html and "//" not in html.replace("<!doctype", "")
    assert html.count("<script") == 1 and 'src="/js/main.js"' in html


def test_an_artifact_is_given_out_by_its_digest_and_whole(page: Page, held: Served, pack: Path) -> None:
    for subject in held.subjects:
        answer = page.get(f"/artifacts/{subject.artifact.file.sha256}")
        assert answer.status == 200 and hashlib.sha256(answer.body).hexdigest() == subject.artifact.file.sha256


def test_a_corrupted_artifact_is_refused_and_named(page: Page, held: Served, pack: Path) -> None:
    record = held.subjects[0].artifact.file
    content = bytearray((pack / record.path).read_bytes())
    content[len(content) // 2] ^= 1
    (pack / record.path).write_bytes(content)
    answer = page.get(f"/artifacts/{record.sha256}")
    assert answer.status == 409 and record.path in answer.data["refused"] and bytes(content) not in answer.body


@pytest.mark.parametrize(
    "path",
    [
        "/pack.json",
        "/golden/inputs.npz",
        "/artifacts/../pack.json",
        "/../pack.json",
        "/..%2fpack.json",
        "/js/../../pack.json",
        "//etc/passwd",
        "/runtimes/../../../../etc/passwd",
        "/inputs/0/9",
        "/inputs/-1/0",
        "/artifacts/raspberry-pi-5/fp32/model.onnx",
        "/measurements/",
    ],
)
def test_only_the_page_and_the_artifacts_of_the_manifest_are_there(page: Page, path: str) -> None:
    assert page.get(path).status == 404


def test_a_name_that_somebody_else_could_turn_to_this_machine_is_refused(counter: Counter, page: Page) -> None:
    assert Page(counter.port, page.cookie, host="attacker.example").get("/").status == 421
    assert Page(counter.port, page.cookie, host=f"localhost:{counter.port}").get("/").status == 200


@pytest.mark.parametrize("headers", [{"Origin": "http://attacker.example"}, {"Origin": "null"}, {"Content_Type": "text/plain"}])
def test_posts_come_from_the_page_itself(page: Page, headers: dict[str, str]) -> None:
    message = {"browser": {"user_agent": "x"}, "threads": 1}
    assert page.post("/visits", message, **headers).status == 403
    assert page.post("/visits", message).status == 200


@pytest.mark.parametrize("length", ["", "x", "-1", "20000", "9" * 40])
def test_a_post_says_how_long_it_is_and_is_not_too_long(page: Page, length: str) -> None:
    origin = f"http://127.0.0.1:{page.port}"
    answer = page.ask("POST", "/visits", b"{}", Content_Type="application/json", Origin=origin, Content_Length=length)
    assert answer.status == 413


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"])
def test_there_is_nothing_but_get_and_post(page: Page, method: str) -> None:
    assert page.ask(method, "/").status == 501
