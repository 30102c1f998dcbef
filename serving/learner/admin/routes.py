"""The admin API: look at the loop and steer it, one experiment at a time.

Handlers are plain functions that run in threads: they may wait for a run or a query without holding up the others. Of
those that wait for the same run only a few may, so that threads are left.
`…/operations/{name}` is how local commands reach the warehouse while the learner owns it, and needs the token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import anyio.to_thread
import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from starlette.background import BackgroundTask

from bandit.catalogue import catalogue_of, put_action, remove_action
from bandit.errors import InvalidInput, NotFound, one_of
from bandit.experiment import Experiment
from bandit.keys import KeyRing
from bandit.loopback import LOOPBACK_NAMES, is_loopback
from bandit.scratch import folder_in
from bandit.settings import ExperimentSettings, merge_settings, patch_settings, settings_to_dict
from evaluation.report import with_way_back
from joiner.history import import_history
from serving.learner import models, reports, steps
from serving.learner.admin.console import add_console
from serving.learner.admin.docs_page import add_docs
from serving.learner.admin.http import (
    Doorkeeper,
    JSONResponse,
    check_content_type,
    install,
    read_body,
    read_object,
    refuse_unknown,
)
from serving.learner.admin.metrics import CONTENT_TYPE, learner_metrics
from serving.learner.asked_with import asked_with
from serving.learner.challengers.offered import offer, withdraw
from serving.learner.cron import check_schedule
from serving.learner.hosting import LearnerService
from serving.learner.operations import run_operation
from serving.learner.settings_told import tell_settings
from serving.learner.status import experiment_status
from serving.learner.training.evaluator import ASKER
from serving.learner.verdicts.certificates import CERTIFICATE, REPORT, evaluation_folder, evaluations
from serving.learner.workspace import Workspace

RUN_WAIT_S = 1800.0
"""How long a run on demand waits for the one under way."""

GONE_S = 0.5
"""How often an evaluation that nobody waits for is looked for."""

EXPORT_TYPES = {
    "ndjson": "application/x-ndjson",
    "dsjson": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}

IMPORT_BYTES_MAX = 1024**3
PREFIX = "/v1/experiments/{name}"


def create_admin(service: LearnerService, *, host: str) -> Any:
    """The admin API as an ASGI app; `host` is the address it is bound to."""
    app = FastAPI(title="rewardloop admin API", docs_url=None, redoc_url=None, redirect_slashes=False)
    install(app)
    _about_the_service(app, service)
    _about_experiments(app, service)
    _about_models(app, service)
    _about_data(app, service)
    add_console(app, service)
    add_docs(app)
    keys = KeyRing(service.data_dir)
    return Doorkeeper(app, token=service.token, keys=keys, loopback=is_loopback(host), hosts=LOOPBACK_NAMES | {host})


def _about_the_service(app: FastAPI, service: LearnerService) -> None:
    # these two run in the loop and look at nothing but memory: neither a pool of threads that all wait nor a slow disk
    # keeps them from answering
    @app.get("/livez")
    async def livez() -> Response:
        """The process answers."""
        return JSONResponse({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> Response:
        """503 while an experiment cannot be opened or polled; says which, and why."""
        failures = {**service.late(), **service.failures}
        return JSONResponse({"ready": not failures, "failures": failures}, 503 if failures else 200)

    @app.get("/metrics")
    def metrics() -> Response:
        """Prometheus text: runs, values, lifts, health of joins."""
        return Response(learner_metrics(dict(service.cycles)), media_type=CONTENT_TYPE)


def _about_experiments(app: FastAPI, service: LearnerService) -> None:
    @app.get("/v1/experiments")
    def list_experiments() -> Response:
        """The experiments with their settings in force."""
        return JSONResponse({"experiments": [_shown(cycle.workspace.experiment) for cycle in service.cycles.values()]})

    @app.post("/v1/experiments", status_code=201)
    async def create_experiment(request: Request) -> Response:
        """Make an experiment: `name`, and `settings` that differ from the defaults."""
        body = await read_object(request)
        refuse_unknown(body, "name", "settings")
        name, settings = body.get("name"), body.get("settings", {})
        if not isinstance(name, str):
            raise InvalidInput("name", "must be the name of the new experiment")
        if not isinstance(settings, dict):
            raise InvalidInput("settings", "must be an object")
        merged = merge_settings(ExperimentSettings(), settings)
        check_schedule(merged)
        experiment = Experiment.create(service.data_dir, name, merged, now=service.clock())
        await anyio.to_thread.run_sync(service.discover)
        return JSONResponse(_shown(experiment), 201)

    @app.get(PREFIX)
    def show_experiment(name: str) -> Response:
        """The settings in force, with their version."""
        return JSONResponse(_shown(_fresh(service, name)))

    @app.patch(PREFIX)
    async def change_experiment(name: str, request: Request) -> Response:
        """Change settings: the body holds those that change, as a JSON merge patch (RFC 7396).

        Tables are merged, those of named events and challengers, too: `{"rewards": {"events": {"share": {"value":
        0.2}}}}` adds or changes that event and leaves the others, `{"rewards": {"events": {"share": null}}}` removes
        it. Lists are replaced whole.
        """
        body = await read_object(request)
        workspace = service.cycle(name).workspace

        def changed(settings: ExperimentSettings) -> ExperimentSettings:
            merged = patch_settings(settings, body)
            check_schedule(merged)
            return merged

        def change() -> None:
            workspace.experiment.update(changed, now=service.clock(), origin="api", **asked_with())
            tell_settings(workspace)

        await anyio.to_thread.run_sync(change)
        return JSONResponse(_shown(workspace.experiment))

    @app.get(PREFIX + "/actions")
    def list_actions(name: str) -> Response:
        """The declared catalogue, with its version."""
        return JSONResponse(catalogue_of(_fresh(service, name)))

    @app.put(PREFIX + "/actions/{action_id:path}")  # an id may hold slashes
    async def put_one_action(name: str, action_id: str, request: Request) -> Response:
        """Add an action to the catalogue, or give it other features: the body is the features themselves.

        `{"price": 4}`, without `id` and `features` around it, which is refused.
        """
        features = await read_object(request)
        workspace = service.cycle(name).workspace
        experiment = workspace.experiment

        def put() -> bool:
            added = put_action(experiment, action_id, features, now=service.clock(), origin="api", **asked_with())
            tell_settings(workspace)
            return added

        added = await anyio.to_thread.run_sync(put)
        return JSONResponse(catalogue_of(experiment), 201 if added else 200)

    @app.delete(PREFIX + "/actions/{action_id:path}")
    def remove_one_action(name: str, action_id: str) -> Response:
        """Take an action out of the catalogue."""
        workspace = service.cycle(name).workspace
        remove_action(workspace.experiment, action_id, now=service.clock(), origin="api", **asked_with())
        tell_settings(workspace)
        return JSONResponse(catalogue_of(workspace.experiment))

    @app.get(PREFIX + "/status")
    def status(name: str) -> Response:
        """Where the loop stands, what happens next, and why."""
        return JSONResponse(experiment_status(service.cycle(name)))

    @app.get(PREFIX + "/history")
    def history(name: str, kind: str | None = None) -> Response:
        """Runs, promotions and rollbacks, what was done by hand, changed settings; of one `kind` where it is given."""
        return JSONResponse({"history": service.cycle(name).workspace.registry.history.entries(kind)})

    @app.post(PREFIX + "/pause")
    def pause(name: str) -> Response:
        """Let nothing run by itself."""
        service.cycle(name).workspace.pause(True, reason="by hand")
        return JSONResponse({"paused": True})

    @app.post(PREFIX + "/resume")
    def resume(name: str) -> Response:
        """Give the loop back to its schedule."""
        service.cycle(name).workspace.pause(False, reason="by hand")
        return JSONResponse({"paused": False})


def _about_models(app: FastAPI, service: LearnerService) -> None:
    @app.get(PREFIX + "/models")
    def list_models(name: str) -> Response:
        """The stored models with their roles."""
        return JSONResponse(models.listing(service.cycle(name).workspace))

    @app.post(PREFIX + "/models/train")
    @app.post(PREFIX + "/retrain")
    def train(name: str) -> Response:
        """Run the loop now; answers the run's report."""
        return JSONResponse(reports.to_plain(service.cycle(name).run(force=True, wait_s=RUN_WAIT_S)))

    @app.post(PREFIX + "/steps/{step}")
    async def take_step(name: str, step: str, request: Request) -> Response:
        """One step by itself: initialize, train, evaluate or deploy; pauses the schedule."""
        body = await read_object(request)
        cycle = service.cycle(name)
        return JSONResponse(await anyio.to_thread.run_sync(lambda: steps.take(cycle, step, body, wait_s=RUN_WAIT_S)))

    @app.get(PREFIX + "/models/{model_id}")
    def show_model(name: str, model_id: str) -> Response:
        """What a model is made of, and what it has learnt, in words."""
        return JSONResponse(models.show(service.cycle(name).workspace, model_id))

    @app.get(PREFIX + "/models/{model_id}/verdict")
    def show_verdict(name: str, model_id: str) -> Response:
        """The gate's last word on a model, with its score."""
        return JSONResponse(steps.verdict(service.cycle(name), model_id))

    @app.get(PREFIX + "/models/{model_id}/diff/{other}")
    def diff_models(name: str, model_id: str, other: str) -> Response:
        """How two models answer the canaries of either."""
        cycle = service.cycle(name)
        return JSONResponse(models.diff(cycle.workspace, cycle.trainer, model_id, other))

    @app.post(PREFIX + "/models/{model_id}/promote")
    async def promote_model(name: str, model_id: str, request: Request) -> Response:
        """Make a model the champion by hand; without a verdict only with `override`."""
        body = await read_object(request)
        refuse_unknown(body, "override")
        override = body.get("override", False)
        if not isinstance(override, bool):
            raise InvalidInput("override", "must be true or false")
        cycle = service.cycle(name)
        return JSONResponse(
            await anyio.to_thread.run_sync(
                lambda: models.promote_by_hand(cycle.workspace, cycle.store, cycle.trainer, model_id, override=override)
            )
        )

    @app.post(PREFIX + "/models/{model_id}/offer")
    def offer_model(name: str, model_id: str) -> Response:
        """Let a model from outside join the field, gated like any other."""
        cycle = service.cycle(name)
        return JSONResponse(msgspec.to_builtins(offer(cycle.workspace, cycle.store, model_id)), 201)

    @app.delete(PREFIX + "/models/{model_id}/offer")
    def withdraw_model(name: str, model_id: str) -> Response:
        """Take an offered model out of the field."""
        cycle = service.cycle(name)
        with cycle.exclusive("withdrawal", wait_s=RUN_WAIT_S):
            withdraw(cycle.workspace, cycle.store, model_id)
        return JSONResponse({"withdrawn": model_id})

    @app.post(PREFIX + "/pin")
    def pin(name: str) -> Response:
        """Keep the champion, whatever the gate says."""
        return JSONResponse(models.pin(service.cycle(name).workspace))

    @app.post(PREFIX + "/unpin")
    @app.delete(PREFIX + "/pin")
    def unpin(name: str) -> Response:
        """Let the gate decide again."""
        return JSONResponse(models.unpin(service.cycle(name).workspace))

    @app.post(PREFIX + "/rollback")
    def roll_back(name: str) -> Response:
        """Bring the champion before the present one back."""
        cycle = service.cycle(name)
        return JSONResponse(models.roll_back(cycle.workspace, cycle.store, cycle.trainer))

    @app.post(PREFIX + "/unset")
    def unset(name: str) -> Response:
        """Let go of the champion: the cold start serves."""
        cycle = service.cycle(name)
        with cycle.exclusive("letting go of the champion", wait_s=RUN_WAIT_S):
            return JSONResponse(models.unset(cycle.workspace, cycle.store))


def _about_data(app: FastAPI, service: LearnerService) -> None:
    @app.post(PREFIX + "/import")
    async def import_rows(name: str, request: Request) -> Response:
        """Take in history, one JSON object a line."""
        check_content_type(request, "application/x-ndjson", "application/json")
        body = await read_body(request, IMPORT_BYTES_MAX)
        cycle = service.cycle(name)

        def work() -> dict[str, Any]:
            report = import_history(cycle.workspace.experiment, body.splitlines(), clock=service.clock)
            cycle.tick()
            return report.as_dict()

        return JSONResponse(await anyio.to_thread.run_sync(work))

    @app.get(PREFIX + "/events/{event_id:path}")  # an event_id may hold slashes
    def trace_event(name: str, event_id: str) -> Response:
        """Where one event is on its way through the loop."""
        return JSONResponse(run_operation(service.cycle(name).workspace, "events", {"event_id": event_id}))

    @app.post(PREFIX + "/join")
    async def join(name: str, request: Request) -> Response:
        """Join decisions with rewards, and give the summary."""
        arguments = await read_object(request)
        if "out" in arguments:
            raise InvalidInput("out", "is for the command line; here the summary is the answer")
        workspace = service.cycle(name).workspace
        return JSONResponse(await anyio.to_thread.run_sync(lambda: run_operation(workspace, "join", arguments)))

    @app.post(PREFIX + "/export")
    async def export(name: str, request: Request) -> Response:
        """Rows as a download: `what` and `format`."""
        body = await read_object(request)
        workspace = service.cycle(name).workspace
        return await anyio.to_thread.run_sync(lambda: _exported(workspace, body))

    @app.get(PREFIX + "/evaluations")
    def list_evaluations(name: str) -> Response:
        """The certificates, newest first."""
        return JSONResponse({"evaluations": evaluations(service.cycle(name).workspace.experiment.paths)})

    @app.post(PREFIX + "/evaluations")
    async def evaluate(name: str, request: Request) -> Response:
        """What if: estimate the worth of any `policies` on the log."""
        arguments = await read_object(request)
        workspace = service.cycle(name).workspace
        named = arguments.get("policies")
        if isinstance(named, list) and any(str(policy).startswith("table:") for policy in named):
            raise InvalidInput("policies", "table: reads a file of this machine, and is for the command line")
        return await _while_asked(service, request, lambda: run_operation(workspace, "evaluate", arguments))

    @app.get(PREFIX + "/evaluations/{evaluation_id}")
    def show_evaluation(name: str, evaluation_id: str, request: Request, format: str | None = None) -> Response:
        """A certificate; its report where HTML is asked for."""
        folder = evaluation_folder(service.cycle(name).workspace.experiment.paths, evaluation_id)
        if folder is None:
            raise NotFound(f"there is no evaluation {evaluation_id}")
        if format == "html" or (format is None and "text/html" in request.headers.get("accept", "")):
            try:
                page = (folder / REPORT).read_text(encoding="utf-8")
            except FileNotFoundError:
                gone = "it went with what was erased, or is lost; the certificate is there as JSON"
                raise NotFound(f"evaluation {evaluation_id} has no page: {gone}") from None
            return HTMLResponse(with_way_back(page, f"/experiments/{quote(name)}", f"Console of {name}"))
        return Response((folder / CERTIFICATE).read_bytes(), media_type="application/json")

    @app.post(PREFIX + "/operations/{operation}")
    async def operate(name: str, operation: str, request: Request) -> Response:
        """What local commands ask, with the learner's own token."""
        arguments = await read_object(request)
        workspace = service.cycle(name).workspace
        return await _while_asked(service, request, lambda: run_operation(workspace, operation, arguments))


async def _while_asked(service: LearnerService, request: Request, work: Callable[[], Any]) -> Response:
    """What `work` gives; the evaluation in it, if any, is ended when who asked goes away."""
    asker = object()
    ASKER.set(asker)

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        while True:  # it may not have begun yet
            await asyncio.to_thread(service.evaluator.give_up, asker)
            await asyncio.sleep(GONE_S)

    watching = asyncio.create_task(watch())
    try:
        return JSONResponse(await anyio.to_thread.run_sync(work))
    finally:
        watching.cancel()


def _exported(workspace: Workspace, body: dict[str, Any]) -> Response:
    """An export as a download; the file on this side lives as long as the answer takes."""
    refuse_unknown(body, "what", "format")
    form = body.get("format", "ndjson")
    if not isinstance(form, str) or form not in EXPORT_TYPES:
        raise InvalidInput("format", "is not known", one_of(EXPORT_TYPES))
    with ExitStack() as stack:
        path = stack.enter_context(folder_in(workspace.experiment.paths.challengers)) / "rows"
        arguments = {"what": body.get("what", "interactions"), "format": form, "out": str(path.resolve())}
        run_operation(workspace, "export", arguments)
        until_sent = stack.pop_all()
    return FileResponse(path, media_type=EXPORT_TYPES[form], background=BackgroundTask(until_sent.close))


def _fresh(service: LearnerService, name: str) -> Experiment:
    """The experiment with what another process has changed since the last poll; raises `NotFound`."""
    experiment = service.cycle(name).workspace.experiment
    experiment.refresh()
    return experiment


def _shown(experiment: Experiment) -> dict[str, Any]:
    in_force = experiment.in_force
    return {
        "name": experiment.name,
        "created_at": experiment.created_at,
        "settings_version": in_force.version,
        "catalogue_version": in_force.catalogue_version,
        "settings": settings_to_dict(in_force.settings),
    }
