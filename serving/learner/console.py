"""The admin console at `/`: pages made on the server, without scripts and without anything from elsewhere.

It shows what `status` says, the runs as a picture of lifts with their intervals, models, evaluations and workers, and
offers the few things one does by hand. Forms post back to the same origin (the doorkeeper checks) and lead to the
page they came from, with one line that says what came of it.
"""

from __future__ import annotations

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
from serving.learner.certificates import evaluations
from serving.learner.cycle import Cycle
from serving.learner.hosting import LearnerService
from serving.learner.run_picture import run_picture
from serving.learner.status import experiment_status

RUNS_SHOWN = 20
RUNS_PICTURED = 100
MODELS_SHOWN = 20
EVALUATIONS_SHOWN = 20

_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "pages"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _number(value: float | None, form: str = "{:,}") -> str:
    return "–" if value is None else form.format(value)


def _moment(value: Any) -> str:
    return "–" if value is None else str(value)[:19].replace("T", " ")


_environment.filters |= {"number": _number, "moment": _moment}


def add_console(app: FastAPI, service: LearnerService) -> None:
    """Put the console's pages and forms into the admin app."""

    @app.get("/", include_in_schema=False)
    def overview() -> Response:
        rows = [experiment_status(cycle) for _, cycle in sorted(service.cycles.items())]
        return _page("overview.html", title="Experiments", experiments=rows, failures=dict(service.failures))

    @app.get("/experiments/{name}", include_in_schema=False)
    def experiment(name: str, said: str | None = None) -> Response:
        return _page("experiment.html", title=name, said=said, **_shown(service.cycle(name)))

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


def _shown(cycle: Cycle) -> dict[str, Any]:
    workspace = cycle.workspace
    runs = workspace.registry.history("run")
    return {
        "state": experiment_status(cycle),
        "runs": list(reversed(runs[-RUNS_SHOWN:])),
        "picture": run_picture(runs[-RUNS_PICTURED:]),
        "models": models.listing(workspace)["models"][:MODELS_SHOWN],
        "evaluations": evaluations(workspace.experiment.paths)[:EVALUATIONS_SHOWN],
    }


def _page(template: str, **values: Any) -> Response:
    page = _environment.get_template(template).render(**values)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; frame-ancestors 'none'"
    return HTMLResponse(page, headers={"content-security-policy": policy, "cache-control": "no-store"})
