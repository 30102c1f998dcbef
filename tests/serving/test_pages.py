"""The pages as a browser shows them: no complaint, nothing from elsewhere, and no scrolling sideways on a phone."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from bandit.keys import create_key
from serving.cli import cli
from serving.cli.common import now
from tests.browser import Browser, Visit
from tests.serving.learner_support import BEST, history
from tests.serving.service_support import Service, served

pytestmark = pytest.mark.external

PHONE, DESK = 390, 1200
SMALL = (
    *("--env", "linear", "--algorithm", "egreedy", "--encoder", "zscore", "--seeds", "0", "--jobs", "1"),
    *("--interactions", "100", "--batch", "50", "--warm-start", "40"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A loop with a first model, a verdict on its challenger, and decisions that still wait."""
    with served(tmp_path_factory.mktemp("pages")) as running:
        past = history(120, random.Random(0), lambda sky, action: float(BEST[sky] == action))
        rows = "\n".join(json.dumps(row) for row in past)
        running.admin.post("/import", content=rows, headers={"content-type": "application/x-ndjson"}).raise_for_status()
        running.wait("the first model", lambda: running.status()["champion"])
        running.play(200)
        running.wait("a verdict", lambda: running.status()["runs"] >= 2)
        yield running


def look(browser: Browser, url: str, *, stay_s: float = 0.3) -> Visit:
    """The page at desk width, after making sure that it is sound there and on a phone."""
    for width in (PHONE, DESK):
        seen = browser.visit(url, width=width, stay_s=stay_s)
        assert seen.complaints == [], url
        assert {urlsplit(asked).hostname for asked in seen.requests} <= {urlsplit(url).hostname, None}, seen.requests
        assert seen.needed_width <= width, f"{url} is {seen.needed_width} wide on {width}"
    return seen


def test_the_description_of_the_admin_api_is_read_on_a_phone_too(browser: Browser, service: Service) -> None:
    assert "Keep the champion, whatever the gate says." in look(browser, f"{service.learner.url}/docs", stay_s=3.5).text


def test_the_console_shows_the_loop_and_keeps_itself_fresh(browser: Browser, service: Service) -> None:
    url = service.learner.url + "/"
    page = look(browser, url)
    state = service.status()
    for shown in ("generation ", "Reward", "Verdicts", "Health of the loop", state["why"].split(": ")[-1]):
        assert shown in page.text
    assert page.requests[0] == url
    before = service.status()["counts"]["decisions"]
    service.play(5)
    service.wait("they are joined", lambda: service.status()["counts"]["decisions"] == before + 5)
    fresh = browser.visit(url, width=DESK, stay_s=4.0)
    assert fresh.requests.count(url) == 2
    assert f"{before + 5:,}\nlive decisions" in fresh.text


def test_the_console_stays_fresh_at_an_address_that_holds_the_key(browser: Browser, tmp_path: Path) -> None:
    with served(tmp_path) as running:
        _, secret = create_key(tmp_path, name="ops", scopes=["read"], now=now())
        running.wait("the key is noticed", lambda: running.admin.get("/status").status_code == 401)
        url = running.learner.url + "/"
        ask = "[document.body.classList.contains('silent'), performance.getEntriesByType('resource').length]"
        page = browser.visit(url.replace("://", f"://x:{secret}@"), width=DESK, stay_s=4.0, ask=ask)
    assert "Health of the loop" in page.text
    assert page.answer == [False, 1]


def test_every_table_of_the_console_can_be_read_on_a_phone_without_scrolling_sideways(
    browser: Browser, service: Service
) -> None:
    page = browser.visit(service.learner.url + "/", width=PHONE)
    assert page.cut_off == []
    for shown in (service.status()["workers"][0]["writer_id"], "Models", "All evaluations"):
        assert shown in page.text


def test_an_evaluation_report_is_whole_by_itself(browser: Browser, service: Service) -> None:
    found = service.admin.get("/evaluations").json()["evaluations"]
    for evaluation in found:
        url = f"{service.learner.url}/v1/experiments/test/evaluations/{evaluation['id']}?format=html"
        assert evaluation["verdict"]["reason"] in look(browser, url).text
        assert browser.visit(url, width=PHONE).cut_off == []


def test_a_report_leads_back_to_the_console_that_shows_it_and_as_a_file_to_nowhere(
    browser: Browser, service: Service
) -> None:
    found = service.admin.get("/evaluations").json()["evaluations"][0]
    links = "[...document.querySelectorAll('a')].map((link) => link.href)"
    url = f"{service.learner.url}/v1/experiments/test/evaluations/{found['id']}?format=html"
    assert browser.visit(url, width=DESK, ask=links).answer == [f"{service.learner.url}/experiments/test"]
    stored = service.data_dir / "experiments/test/evaluations" / found["id"] / "report.html"
    assert browser.visit(stored.as_uri(), width=DESK, ask=links).answer == []


class Faltering(BaseHTTPRequestHandler):
    """Gives one page, says 500 from the second time on, and the page again from the third."""

    page, headers_too, asked, falters = b"", [("content-type", "text/html")], 0, 1

    def do_GET(self) -> None:
        kind = type(self)
        kind.asked += 1
        silent = 1 < kind.asked <= 1 + kind.falters
        self.send_response(500 if silent else 200)
        for name, value in self.headers_too:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"" if silent else kind.page)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(("stay_s", "silent"), [(4.5, True), (7.5, False)])
def test_the_forms_of_the_console_are_disabled_while_the_learner_is_silent(
    browser: Browser, service: Service, stay_s: float, silent: bool
) -> None:
    answer = service.admin.get(service.learner.url + "/")
    policy = answer.headers["content-security-policy"]
    headers = [("content-type", "text/html"), ("content-security-policy", policy)]
    kind = type("Once", (Faltering,), {"page": answer.content, "headers_too": headers, "asked": 0})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        ask = "[...document.querySelectorAll('form button')].map((button) => button.disabled)"
        page = browser.visit(f"http://127.0.0.1:{server.server_port}/", width=DESK, stay_s=stay_s, ask=ask)
        server.shutdown()
    assert len(page.answer) >= 3 and set(page.answer) == {silent}
    assert ("The learner does not answer" in page.text) is silent


def test_the_console_is_printed_dark_on_light_without_its_forms(browser: Browser, service: Service) -> None:
    ask = "[getComputedStyle(document.body).backgroundColor, document.querySelector('form').checkVisibility()]"
    dark = {"prefers-color-scheme": "dark"}
    url = service.learner.url + "/"
    assert browser.visit(url, width=DESK, media=dark, ask=ask).answer == ["rgb(18, 22, 30)", True]
    assert browser.visit(url, width=DESK, media=dark | {"type": "print"}, ask=ask).answer == [
        "rgb(255, 255, 255)",
        False,
    ]


def test_the_docs_page_of_the_decision_api_needs_no_network(browser: Browser, service: Service) -> None:
    page = look(browser, f"{service.api.base_url}/docs")
    assert "/v1/experiments/{experiment}/recommend" in page.text


def test_the_pages_of_simulate_and_compare_are_single_files(browser: Browser, tmp_path: Path) -> None:
    for command in ("simulate", "compare"):
        folder = tmp_path / command
        arguments = [command, *SMALL, "--data-dir", str(folder)]
        assert CliRunner().invoke(cli, arguments, standalone_mode=False).exception is None
        (file,) = folder.glob("*.html")
        page = look(browser, file.as_uri())
        assert "linear" in page.text
