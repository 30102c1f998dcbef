"""Step through the loop by hand: import, train, evaluate, deploy, decide, reward, join, and again.

`ExperimentManager` speaks the admin API; each of its steps blocks (with what is going on told on stderr, if wanted)
or, with `wait=False`, returns a `Handle`. The first step pauses the schedule; `resume_schedule()` gives the loop back
to itself. The same experiment name goes on where it stood, whoever worked on it before.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, NoReturn, TypeVar, overload
from urllib.parse import quote

import httpx

from rewardloop_client.arguments import check_address
from rewardloop_client.client import Client
from rewardloop_client.errors import Refused, Unavailable, UnexpectedAnswer, rejection
from rewardloop_client.forks import begins_anew_when_forked
from rewardloop_client.types import Offer
from rewardloop_client.wire import encode

_T = TypeVar("_T")
Rows = Iterable[Mapping[str, Any]]

PROGRESS_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class EvalScore:
    """Estimated mean reward of a model as it would be served, with its 95% interval and rows; higher is better.

    Scores cannot be ordered with `<` or `>`: two intervals that overlap say little about two policies on the same
    rows, and a look that counts must be paid for. `verdict(model_id)` is the comparison.
    """

    value: float
    lower: float
    upper: float
    n: int

    def _unordered(self, other: object) -> NoReturn:
        raise TypeError(
            "scores have no order of their own: ask verdict(model_id), which compares both on the same rows"
        )

    __lt__ = __le__ = __gt__ = __ge__ = _unordered


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says about a model: `promote`, `hold` or `insufficient`, why, and the lift it rests on.

    The bounds belong to `weighed`, the lift as weighed by what each stretch of the log tells.

    `best` is the model to deploy, None where none passed: this one, or one of a declared challenger that was judged
    beside it and has more behind it.
    """

    model_id: str
    outcome: str
    reason: str
    lift: float | None
    lower: float | None
    upper: float | None
    rows: int
    evaluation_id: str | None
    score: EvalScore | None
    best: str | None = None
    weighed: float | None = None


@dataclass(frozen=True, slots=True)
class ManagerStatus:
    """Where the loop stands.

    `state` is idle, training, evaluating, deploying or reading the log; `last_model` the one deployed last (the
    champion), `next_model` the trained candidate that is not deployed; `next` and `why` are sentences.
    """

    state: str
    last_model: str | None
    next_model: str | None
    last_verdict: str | None
    schedule_paused: bool
    interactions: int
    imported: int
    waiting: int
    new_interactions: int
    runs: int
    next: str
    why: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision: show `action`, report its reward under `event_id`."""

    action: str
    event_id: str
    model_id: str
    probability: float


class Handle(Generic[_T]):
    """A step under way; `result()` waits for it and raises what it raised."""

    def __init__(self, work: Callable[[], _T]) -> None:
        self._outcome: list[_T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], _T]) -> None:
        try:
            self._outcome.append(work())
        except BaseException as error:  # handed to whoever asks for the result
            self._error = error

    def done(self) -> bool:
        """Whether the step has ended, well or not."""
        return not self._thread.is_alive()

    def result(self, timeout: float | None = None) -> _T:
        """What the step gave; raises TimeoutError when it takes longer than `timeout` seconds."""
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError("the step is still under way")
        if self._error is not None:
            raise self._error
        return self._outcome[0]


class Predictor:
    """Asks the decision API for actions and reports rewards, in the manager's experiment."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def get_action(self, context: Mapping[str, Any], actions: Sequence[Offer] | None = None) -> Choice:
        """A durable decision for `context`; `actions` may be left out where the experiment has a catalogue."""
        answer = self._client.recommend(context, actions)
        return Choice(answer.action, answer.event_id, answer.model_id, answer.probability)


class ExperimentManager:
    """One experiment, step by step. `url` is the decision API, `admin_url` the learner's admin API.

    Makes the experiment with `settings` when there is none of that name. With `api_key` the key needs the scope
    admin. `progress` tells on stderr what the service is doing while a step blocks. Use it as a context manager.
    Raises ValueError where one of both is no address.
    """

    def __init__(
        self,
        experiment: str = "default",
        *,
        url: str = "http://127.0.0.1:8000",
        admin_url: str = "http://127.0.0.1:8001",
        api_key: str | None = None,
        settings: Mapping[str, Any] | None = None,
        timeout_s: float = 1800.0,
        progress: bool = False,
    ) -> None:
        self.experiment = experiment
        self.progress = progress
        for address, name in ((url, "url"), (admin_url, "admin_url")):
            check_address(address, name)
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._connect = partial(httpx.Client, base_url=admin_url, headers=headers, timeout=timeout_s, trust_env=False)
        self._admin: httpx.Client | None = self._connect()
        begins_anew_when_forked(self)
        self._client = Client(url, experiment, api_key=api_key)
        self._path = f"/v1/experiments/{quote(experiment, safe='')}"
        self.predictor = Predictor(self._client)
        try:
            self._open(settings)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ExperimentManager:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the service goes on."""
        self._client.close()
        if self._admin is not None:
            self._admin.close()

    def begin_anew(self) -> None:
        """In a forked process: leave the parent's connections alone and open others when they are needed."""
        self._admin = None

    # -- the steps ---------------------------------------------------------------------------------------

    @overload
    def initialize_first_model(self, data: Rows | str | Path, *, wait: Literal[True] = True) -> str: ...

    @overload
    def initialize_first_model(self, data: Rows | str | Path, *, wait: Literal[False]) -> Handle[str]: ...

    def initialize_first_model(self, data: Rows | str | Path, *, wait: bool = True) -> str | Handle[str]:
        """Import logged history and make the first model of it; gives the model's id.

        `data` are rows `{"context", "action", "probability", "reward", "actions"?, …}`, or the path of an NDJSON file
        of them. There is nothing to beat yet, so this model is deployed at once, outside the gate. Raises `Refused`
        when there is a model already, and (409) when fewer than 20 rows have been imported, which stay; `NotEncodable`
        for a row that JSON cannot say.
        """
        lines = Path(data).read_bytes() if isinstance(data, (str, Path)) else b"\n".join(map(encode, data))

        def work() -> str:
            if self._status()["champion"] is not None:  # asked first: what is imported stays
                raise Refused(403, "Refused", "there is a champion already; the first model can be made once")
            if not lines.strip():
                raise Refused(422, "Nothing was imported", "there are no rows")
            self.pause_schedule()  # else a poll between the two steps may make the first model itself
            report = self._call("POST", "/import", content=lines)
            if not report["imported"] and not self._status()["counts"]["imported"]:
                raise Refused(422, "Nothing was imported", f"all rows were refused: {report.get('refused')}")
            return str(self._call("POST", "/steps/initialize")["model_id"])

        return self._do(work, wait)

    @overload
    def deploy_model(self, model_id: str, override: bool = ..., *, wait: Literal[True] = True) -> str: ...

    @overload
    def deploy_model(self, model_id: str, override: bool = ..., *, wait: Literal[False]) -> Handle[str]: ...

    def deploy_model(self, model_id: str, override: bool = False, *, wait: bool = True) -> str | Handle[str]:
        """Make a model the champion, and wait until every worker serves it; gives its id.

        Raises `Refused` unless its verdict against the present champion is promote; `override=True` deploys all the
        same, and history says so.
        """

        def work() -> str:
            self._call("POST", "/steps/deploy", json={"model_id": model_id, "override": override})
            self._until(lambda state: all(w["model_id"] == model_id for w in state["workers"] if w["kind"] == "worker"))
            return model_id

        return self._do(work, wait)

    def ingest_rewards(self, rewards: Iterable[Mapping[str, Any] | tuple[str, float]]) -> int:
        """Report rewards: `{"event_id", "reward"}` or pairs of the two; gives how many are on disk."""
        items = [
            dict(reward) if isinstance(reward, Mapping) else {"event_id": reward[0], "reward": reward[1]}
            for reward in rewards
        ]
        return self._client.rewards(items) if items else 0

    @overload
    def join(self, window: str | None = ..., *, wait: Literal[True] = True) -> dict[str, Any]: ...

    @overload
    def join(self, window: str | None = ..., *, wait: Literal[False]) -> Handle[dict[str, Any]]: ...

    def join(self, window: str | None = None, *, wait: bool = True) -> dict[str, Any] | Handle[dict[str, Any]]:
        """Wait until the log is complete up to now, join decisions with rewards, and give the summary.

        `window` restricts the summary, such as `"72h"` (default: everything).
        """
        body = {} if window is None else {"last": window}
        return self._do(lambda: self._call("POST", "/join", json=body), wait)

    def wait_until_matured(self, interactions: int, *, timeout_s: float = 120.0) -> int:
        """Wait until so many live interactions have matured and joined; gives how many there are."""
        state = self._until(lambda found: found["counts"]["interactions"] >= interactions, timeout_s)
        return int(state["counts"]["interactions"])

    @overload
    def train_next_model(self, *, wait: Literal[True] = True) -> str: ...

    @overload
    def train_next_model(self, *, wait: Literal[False]) -> Handle[str]: ...

    def train_next_model(self, *, wait: bool = True) -> str | Handle[str]:
        """Learn what has matured and store the result as a candidate; gives its id. It serves nothing yet.

        Raises `Refused` while nothing has matured since the champion was made; see `wait_until_matured`.
        """
        return self._do(lambda: str(self._call("POST", "/steps/train")["model_id"]), wait)

    @overload
    def evaluate_model(self, model_id: str, *, wait: Literal[True] = True) -> Verdict: ...

    @overload
    def evaluate_model(self, model_id: str, *, wait: Literal[False]) -> Handle[Verdict]: ...

    def evaluate_model(self, model_id: str, *, wait: bool = True) -> Verdict | Handle[Verdict]:
        """Ask the gate about a model against the champion, on rows that neither has learnt from.

        The declared challengers are judged beside the newest candidate, as in a scheduled run: what that would promote
        is the verdict's `best`.
        """
        return self._do(lambda: _verdict(self._call("POST", "/steps/evaluate", json={"model_id": model_id})), wait)

    def withdraw_model(self, model_id: str) -> None:
        """Take a model that `evaluate_model` brought into the field out of it, without a verdict.

        Any model but the newest candidate is judged as it is, run after run, until its verdict; at most 4 may be.
        Raises `NotFound` when the model is not in the field.
        """
        self._call("DELETE", f"/models/{quote(model_id, safe='')}/offer")

    # -- looking -----------------------------------------------------------------------------------------

    def get_eval_score(self, model_id: str) -> EvalScore:
        """The last score of a model; raises `NotFound` when it was never evaluated."""
        verdict = self.verdict(model_id)
        if verdict.score is None:
            raise UnexpectedAnswer("the certificate of this model's evaluation is gone")
        return verdict.score

    def verdict(self, model_id: str) -> Verdict:
        """The gate's last verdict on a model; raises `NotFound` when there is none."""
        return _verdict(self._call("GET", f"/models/{quote(model_id, safe='')}/verdict"))

    def status(self) -> ManagerStatus:
        """Where the loop stands."""
        state = self._status()
        running = state["running"]
        doing = {"train": "training", "evaluate": "evaluating", "promote": "deploying"}
        standing: dict[str, Any] = next((c for c in state["challengers"] if c["name"] == "standing"), {})
        last = state["last_verdict"] or {}
        return ManagerStatus(
            state="idle" if running is None else doing.get(running, "reading the log"),
            last_model=state["champion"],
            next_model=standing.get("candidate"),
            last_verdict=last.get("outcome"),
            schedule_paused=state["paused"],
            interactions=state["counts"]["interactions"],
            imported=state["counts"]["imported"],
            waiting=state["waiting"],
            new_interactions=state["new_interactions"],
            runs=state["runs"],
            next=state["next"],
            why=state["why"],
        )

    def pause_schedule(self) -> None:
        """Let nothing run by itself; every step does this too."""
        self._call("POST", "/pause")

    def resume_schedule(self) -> None:
        """Give the loop back to its schedule."""
        self._call("POST", "/resume")

    # -- inside ------------------------------------------------------------------------------------------

    def _open(self, settings: Mapping[str, Any] | None) -> None:
        answer = self._request("GET", self._path)
        if answer.status_code == 404:
            body = {"name": self.experiment, "settings": dict(settings or {})}
            answer = self._request("POST", "/v1/experiments", json=body)
            if answer.status_code == 409:  # somebody else has just made it
                answer = self._request("GET", self._path)
        _checked(answer)
        # a decision worker notices a new experiment within a second
        self._until(lambda state: any(worker["kind"] == "worker" for worker in state["workers"]), 30.0)

    def _status(self) -> dict[str, Any]:
        return self._call("GET", "/status")

    def _until(self, condition: Callable[[dict[str, Any]], bool], timeout_s: float = 30.0) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while True:
            state = self._status()
            if condition(state):
                return state
            if time.monotonic() > deadline:
                raise Unavailable(f"the service did not get there within {timeout_s:g} s: {state['next']}")
            time.sleep(0.1)

    def _do(self, work: Callable[[], _T], wait: bool) -> _T | Handle[_T]:
        if not wait:
            return Handle(work)
        if not self.progress:
            return work()
        handle, started, told = Handle(work), time.monotonic(), ""
        while not handle.done():
            time.sleep(PROGRESS_EVERY_S)
            doing = self.status().state
            if doing != told:
                told = doing
                sys.stderr.write(f"{time.monotonic() - started:6.1f} s  {doing}\n")
        return handle.result()

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        return _checked(self._request(method, self._path + path, **options))

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        if "content" in options:
            options["headers"] = {"content-type": "application/x-ndjson"}
        try:
            admin = self._admin = self._admin or self._connect()
            return admin.request(method, path, **options)
        except httpx.HTTPError as error:
            raise Unavailable(f"the admin API does not answer ({type(error).__name__})") from error


def _checked(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not answer.is_success:
        if answer.status_code in (403, 409) and isinstance(body, dict) and body.get("title") == "Refused":
            raise Refused(answer.status_code, "Refused", str(body.get("detail")))
        if answer.status_code == 503 and isinstance(body, dict):
            raise Unavailable(f"{body.get('title')}: {body.get('detail')}")
        raise rejection(answer.status_code, body)
    if not isinstance(body, dict):
        raise UnexpectedAnswer("what answers is not the learner's admin API")
    return body


def _verdict(body: Mapping[str, Any]) -> Verdict:
    score = body.get("score")
    return Verdict(
        model_id=str(body["model_id"]),
        outcome=str(body["outcome"]),
        reason=str(body["reason"]),
        lift=body.get("lift"),
        lower=body.get("lower"),
        upper=body.get("upper"),
        rows=int(body.get("rows") or 0),
        evaluation_id=body.get("evaluation_id"),
        score=EvalScore(score["value"], score["lower"], score["upper"], score["n"]) if score else None,
        best=body.get("best"),
        weighed=body.get("weighed"),
    )
