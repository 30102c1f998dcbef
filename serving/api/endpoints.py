"""What each address of the decision API does: a request in, a `Reply` out, refusals raised as errors.

These functions know nothing of routing. The hot ones are called straight from the ASGI entry (`app.py`), the
others by FastAPI, which also describes them all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any, NamedTuple

import msgspec

from bandit.errors import InvalidInput, InvalidRequest, Problem, RewardloopError
from bandit.events import RewardEvent
from bandit.features import check_event_id
from serving.api import metrics, personalizer
from serving.api.access import Headers, check_content_type
from serving.api.answers import Answer, RewardsAnswer, decode_answer
from serving.api.authority import Authority, shown_key
from serving.api.durability import Commit
from serving.api.hosting import Hosted, Hosting, Started, readiness
from serving.api.http import ClientGone, Receive, Reply, problem_reply, read_body, too_large
from serving.api.problems import PROBLEM_TYPE, ApiProblem, ProblemBody, item_problem, kind_of, problem, problem_of
from serving.api.requests import parse_reward, split_batch, split_lines, split_list

log = logging.getLogger("rewardloop.api")

DEFAULT_EXPERIMENT = "default"
BATCH_SLICE = 16
"""Questions of a batch that are decided before other requests get their turn."""

NDJSON_TYPE = b"application/x-ndjson"
_encoder = msgspec.json.Encoder()
_NO_CONTENT = Reply(204, b"")
_ACCEPTED_ONE = _encoder.encode(RewardsAnswer(1))


class Route(NamedTuple):
    """What is the same for every request to one address: its name in the metrics, who may ask, how it says no."""

    name: str
    scope: str | None
    refuse: Callable[[ProblemBody, tuple[tuple[bytes, bytes], ...]], Reply] = problem_reply


class Begun(NamedTuple):
    """A request that waits for its commit; `finish` then gives the reply, or raises the commit's error."""

    commit: Commit | None
    finish: Callable[[], Reply]

    def __await__(self) -> Generator[Any, None, Reply]:
        """Wait, and finish."""
        if self.commit is not None:
            yield from self.commit.__await__()
        return self.finish()


RECOMMEND = Route("recommend", "recommend")
BATCH = Route("batch", "recommend")
REWARDS = Route("rewards", "reward")
ACTIVATE = Route("activate", "recommend")
RANK = Route("rank", "recommend", personalizer.error_reply)
RANK_REWARD = Route("rank-reward", "reward", personalizer.error_reply)
RANK_ACTIVATE = Route("rank-activate", "recommend", personalizer.error_reply)
HEALTH = Route("health", None)
METRICS = Route("metrics", "read")


class Api:
    """The endpoints over one worker's experiments."""

    def __init__(self, hosting: Hosting, authority: Authority, *, default_experiment: str | None = None) -> None:
        self.hosting = hosting
        self.authority = authority
        self.default_experiment = default_experiment

    # -- around every endpoint ---------------------------------------------------------------------------

    async def run(
        self, route: Route, experiment: str | None, headers: Headers, endpoint: Callable[[], Awaitable[Reply]]
    ) -> Reply:
        """Check access, answer, time and count; every error becomes a reply. Raises `ClientGone` only."""
        started = time.perf_counter()
        try:
            self.authority.check(headers, route.scope, experiment)
            reply = await endpoint()
        except ClientGone:
            raise
        except Exception as error:  # refused by its kind; one that nobody expected is logged and counted there
            reply = self.refusal(route, experiment, error)
        self.observe(route, experiment, started)
        return reply

    def refusal(self, route: Route, experiment: str | None, error: Exception) -> Reply:
        """The reply that tells a client about `error`, which is counted; one that nobody expected is logged."""
        if isinstance(error, RewardloopError):
            body = problem_of(error)
        else:
            log.error("an unexpected error on %s", route.name, exc_info=error)
            body = problem("internal", "The server failed to answer; its log says why.")
        hosted = self.hosting.hosted.get(experiment) if experiment is not None else None
        if hosted is not None:
            hosted.server.counters.refuse(kind_of(body))
        return route.refuse(body, error.headers if isinstance(error, ApiProblem) else ())

    def observe(self, route: Route, experiment: str | None, started_s: float) -> None:
        """Put an answered request into the latency histogram; `started_s` is of `time.perf_counter`."""
        hosted = self.hosting.hosted.get(experiment) if experiment is not None else None
        if hosted is not None:
            hosted.server.counters.observe(route.name, time.perf_counter() - started_s)

    def personalizer_experiment(self, headers: Headers) -> str:
        """The experiment that Personalizer's routes mean: the key's only one, else the declared or obvious one."""
        shown = shown_key(headers)
        key = self.authority.ring.find(shown) if shown is not None and not self.authority.ring.empty else None
        if key is not None and key.experiments is not None and len(key.experiments) == 1:
            return next(iter(key.experiments))
        names = self.hosting.hosted
        if self.default_experiment is not None:
            return self.default_experiment
        return next(iter(names)) if len(names) == 1 else DEFAULT_EXPERIMENT

    # -- deciding ----------------------------------------------------------------------------------------

    async def recommend(self, experiment: str, headers: Headers, receive: Receive) -> Reply:
        """One question; answered once its decision is on disk."""
        limits = self.hosting.get(experiment).server.limits
        check_content_type(headers)
        body = await read_body(receive, headers, limits.body_bytes_max, "limits.body_bytes_max")
        return await self.begin_recommend(experiment, headers, body)

    def begin_recommend(self, experiment: str, headers: Headers, body: bytes) -> Begun:
        """The same with the whole body at hand and without waiting: decided, and on its way to the disk."""
        hosted = self.hosting.get(experiment)
        check_content_type(headers)
        limits = hosted.server.limits
        if len(body) > limits.body_bytes_max:
            raise too_large(limits.body_bytes_max, "limits.body_bytes_max")
        started = hosted.begin(hosted.server.parse(body))
        return Begun(started.commit, lambda: Reply(200, hosted.finish(started)))

    async def recommend_batch(self, experiment: str, headers: Headers, receive: Receive) -> Reply:
        """Many questions, judged one by one, with one wait for the disk."""
        hosted = self.hosting.get(experiment)
        ndjson = check_content_type(headers, ndjson=True)
        limits = hosted.server.limits
        body = await read_body(receive, headers, limits.batch_bytes_max, "limits.batch_bytes_max")
        items = split_lines(body, limits) if ndjson else split_batch(body, limits)
        outcomes: list[Started | bytes] = []
        for number, item in enumerate(items, start=1):
            if number % BATCH_SLICE == 0:
                await asyncio.sleep(0)  # others get their turn: a batch may hold a thousand questions
            try:
                if len(item) > limits.body_bytes_max:
                    raise InvalidRequest("body", "is too large", f"limits.body_bytes_max = {limits.body_bytes_max}")
                outcomes.append(hosted.begin(hosted.server.parse(item)))
            except RewardloopError as error:
                outcomes.append(_refused(hosted, error))
        results = [await _result(hosted, outcome) for outcome in outcomes]
        if ndjson:
            return Reply(200, b"".join([result + b"\n" for result in results]), NDJSON_TYPE)
        return Reply(200, b'{"results":[' + b",".join(results) + b"]}")

    # -- rewards and activations -------------------------------------------------------------------------

    async def rewards(self, experiment: str, headers: Headers, receive: Receive) -> Reply:
        """One reward, a list of them, or NDJSON; those that are good are kept whatever the others are."""
        limits = self.hosting.get(experiment).server.limits
        check_content_type(headers, ndjson=True)
        body = await read_body(receive, headers, limits.batch_bytes_max, "limits.batch_bytes_max")
        return await self.begin_rewards(experiment, headers, body)

    def begin_rewards(self, experiment: str, headers: Headers, body: bytes) -> Begun:
        """The same with the whole body at hand and without waiting."""
        hosted = self.hosting.get(experiment)
        ndjson = check_content_type(headers, ndjson=True)
        limits = hosted.server.limits
        if len(body) > limits.batch_bytes_max:
            raise too_large(limits.batch_bytes_max, "limits.batch_bytes_max")
        if ndjson:
            return _begin_many_rewards(hosted, split_lines(body, limits))
        if body.lstrip()[:1] == b"[":
            return _begin_many_rewards(hosted, split_list(body, limits))
        if len(body) > limits.body_bytes_max:
            raise InvalidRequest("body", "is too large", f"limits.body_bytes_max = {limits.body_bytes_max}")
        events = hosted.server.reward_events([parse_reward(body, limits)])
        return _begin_rewards(hosted, events, _ACCEPTED_ONE)

    async def activate(self, experiment: str, event_id: str, headers: Headers, receive: Receive) -> Reply:
        """A deferred decision was shown after all; any body is ignored, and none is needed."""
        hosted = self.hosting.get(experiment)
        limits = hosted.server.limits
        body = await read_body(receive, headers, limits.body_bytes_max, "limits.body_bytes_max")
        if body:
            check_content_type(headers)
        await hosted.submit([hosted.server.activation_event(event_id)])
        hosted.server.counters.add("activations")
        return Reply(200, _encoder.encode({"event_id": event_id}))

    # -- Personalizer's addresses ------------------------------------------------------------------------

    async def rank(self, experiment: str, headers: Headers, receive: Receive) -> Reply:
        """A rank call: one decision, in Personalizer's terms."""
        hosted = self.hosting.get(experiment)
        check_content_type(headers)
        limits = hosted.server.limits
        body = await read_body(receive, headers, limits.body_bytes_max, "limits.body_bytes_max")
        request = personalizer.parse_rank(body, limits)
        with personalizer.in_their_terms():
            answer = decode_answer(await hosted.decide(request))
        assert isinstance(answer, Answer)
        return personalizer.rank_reply(request, answer)

    async def rank_reward(self, experiment: str, event_id: str, headers: Headers, receive: Receive) -> Reply:
        """A reward call of Personalizer."""
        hosted = self.hosting.get(experiment)
        check_content_type(headers)
        limits = hosted.server.limits
        check_event_id(event_id, "eventId", limits)
        body = await read_body(receive, headers, limits.body_bytes_max, "limits.body_bytes_max")
        item = personalizer.parse_rank_reward(body, event_id)
        with personalizer.in_their_terms():
            await hosted.submit(hosted.server.reward_events([item]))
        hosted.server.counters.add("rewards")
        return _NO_CONTENT

    async def rank_activate(self, experiment: str, event_id: str, headers: Headers, receive: Receive) -> Reply:
        """An activate call of Personalizer."""
        with personalizer.in_their_terms():
            await self.activate(experiment, event_id, headers, receive)
        return _NO_CONTENT

    # -- looking after the process -----------------------------------------------------------------------

    async def livez(self) -> Reply:
        """The process answers."""
        return Reply(200, b'{"live":true}')

    async def readyz(self) -> Reply:
        """Every experiment can answer durably, and somebody may ask; says what each one serves, and why."""
        ready, body = readiness(self.hosting)
        if self.authority.ring.blind:
            ready = False
            body |= {"ready": False, "reason": "the API keys cannot be read; nobody is let in until they can be"}
        return Reply(200 if ready else 503, _encoder.encode(body))

    async def metrics(self, headers: Headers) -> Reply:
        """The counters of all workers, for the experiments that the key is made for."""
        visible = self.authority.visible(headers, "read")
        heartbeats = await self.hosting.heartbeats()
        if visible is not None:
            heartbeats = {name: beats for name, beats in heartbeats.items() if name in visible}
        return Reply(200, metrics.render(heartbeats, self.hosting.clock()), metrics.CONTENT_TYPE)


def _refused(hosted: Hosted, error: RewardloopError) -> bytes:
    body = problem_of(error)
    hosted.server.counters.refuse(kind_of(body))
    return _encoder.encode({"error": body})


async def _result(hosted: Hosted, outcome: Started | bytes) -> bytes:
    if isinstance(outcome, bytes):
        return outcome
    try:
        if outcome.commit is not None:
            await outcome.commit
        return hosted.finish(outcome)
    except RewardloopError as error:
        return _refused(hosted, error)


def _begin_many_rewards(hosted: Hosted, items: list[Any]) -> Begun:
    server = hosted.server
    events: list[RewardEvent] = []
    errors: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for index, item in enumerate(items):
        try:
            events += server.reward_events([parse_reward(item, server.limits)])
        except InvalidInput as error:
            server.counters.refuse(kind_of(problem_of(error)))
            errors.append(item_problem(index, error))
            problems.extend(error.problems)
    if not events:
        detail = f"Every item was refused; see errors, of which the first is {problems[0]}"
        body = msgspec.to_builtins(problem("invalid-request", detail, problems))
        body |= {"accepted": 0, "errors": errors}
        return Begun(None, lambda: Reply(422, _encoder.encode(body), PROBLEM_TYPE))
    return _begin_rewards(hosted, events, _encoder.encode(RewardsAnswer(len(events), errors)))


def _begin_rewards(hosted: Hosted, events: list[RewardEvent], answer: bytes) -> Begun:
    commit = hosted.submit(events)

    def finish() -> Reply:
        if commit.error is not None:
            raise commit.error
        hosted.server.counters.add("rewards", len(events))
        return Reply(200, answer)

    return Begun(commit, finish)
