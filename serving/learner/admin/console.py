"""The admin console at `/`: a page to leave open, made on the server, without anything from elsewhere.

It shows the board of each experiment (see `board`) and offers the few things one does by hand. The one
script fetches the page again and swaps the board; without it the page works as it is. Forms post back to the same
origin (the doorkeeper checks) and lead to the page they came from, with one line that says what came of it.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio.to_thread
import jinja2
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from bandit.errors import NotFound, RewardloopError
from serving.learner import models
from serving.learner.admin.board import board
from serving.learner.cycle import Cycle
from serving.learner.hosting import LearnerService
from serving.learner.verdicts.certificates import evaluations

MODELS_SHOWN = 20
EVALUATIONS_SHOWN = 20

_PAGES = Path(__file__).parent / "pages"
_SCRIPT = (_PAGES / "refresh.js").read_text("utf-8")
_POLICY = (
    f"default-src 'none'; script-src 'sha256-{b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()}'; "
    "connect-src 'self'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; frame-ancestors 'none'"
)
_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_PAGES),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _number(value: float | None, form: str = "{:,}") -> str:
    return "–" if value is None else form.format(value)


def _moment(value: Any) -> str:
    return "–" if value is None else str(value)[:19].replace("T", " ")


def _clock(value: Any) -> str:
    return _moment(value)[11:] or "–"


_environment.filters |= {"number": _number, "moment": _moment, "clock": _clock}


def add_console(app: FastAPI, service: LearnerService) -> None:
    """Put the console's pages and forms into the admin app."""

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:  # there is none; browsers ask for it on the reports' behalf, which are files without links
        return Response(status_code=204)

    @app.get("/", include_in_schema=False)
    def overview() -> Response:
        cycles = [cycle for _, cycle in sorted(service.cycles.items())]
        if len(cycles) == 1:
            return _experiment(service, cycles[0], None)
        boards = [board(cycle) for cycle in cycles]
        return page("overview.html", title="Experiments", boards=boards, failures=dict(service.failures))

    @app.get("/experiments/{name}", include_in_schema=False)
    def experiment(name: str, said: str | None = None) -> Response:
        return _experiment(service, service.cycle(name), said)

    @app.post("/experiments/{name}/{action}", include_in_schema=False)
    async def act(name: str, action: str, request: Request) -> Response:
        cycle = service.cycle(name)
        model_id = request.query_params.get("model_id", "")
        said = await anyio.to_thread.run_sync(lambda: _do(cycle, action, model_id))
        return RedirectResponse(f"/experiments/{quote(name)}?said={quote(said)}", status_code=303)


def _do(cycle: Cycle, action: str, model_id: str) -> str:
    """Do what a form asks, and say in a sentence what came of it; refusals are sentences too."""
    workspace, store, trainer = cycle.workspace, cycle.store, cycle.trainer
    actions: dict[str, Callable[[], str]] = {
        "run": lambda: _told(cycle.run(force=True, wait_s=600.0)),
        "pause": lambda: _pause(cycle, True),
        "resume": lambda: _pause(cycle, False),
        "pin": lambda: f"{models.pin(workspace)['pinned']} is pinned.",
        "unpin": lambda: "Nothing is pinned." if models.unpin(workspace)["pinned"] is None else "Still pinned.",
        "rollback": lambda: f"Champion is now {models.roll_back(workspace, store, trainer)['champion']}.",
        "promote": lambda: (
            "Champion is now "
            f"{models.promote_by_hand(workspace, store, trainer, model_id, override=True)['champion']}, by hand."
        ),
    }
    if action not in actions:
        raise NotFound("there is no such action")
    try:
        return actions[action]()
    except RewardloopError as error:
        return f"Not done: {error}"


def _told(report: Any) -> str:
    return f"Run finished ({report.outcome}): {report.reason}"


def _pause(cycle: Cycle, paused: bool) -> str:
    cycle.workspace.pause(paused, reason="by hand")
    return "The schedule is paused." if paused else "The schedule runs again."


def _experiment(service: LearnerService, cycle: Cycle, said: str | None) -> Response:
    workspace = cycle.workspace
    return page(
        "experiment.html",
        title=workspace.experiment.name,
        alone=len(service.cycles) == 1,
        said=said,
        failures=dict(service.failures),
        board=board(cycle),
        models=models.listing(workspace)["models"][:MODELS_SHOWN],
        evaluations=evaluations(workspace.experiment.paths, newest=EVALUATIONS_SHOWN),
    )


def page(template: str, **values: Any) -> Response:
    """One of the pages, made of a template."""
    text = _environment.get_template(template).render(script=_SCRIPT, **values)
    return HTMLResponse(text, headers={"content-security-policy": _POLICY, "cache-control": "no-store"})
