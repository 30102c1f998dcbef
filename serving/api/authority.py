"""Whether a request may be answered: by its Host header while no key exists, by its key from then on.

Without keys the port is bound to loopback and open; a key sent anyway is ignored. Once a key was made, every
request but those about the process's health needs one with the right scope for the right experiment. A port that
other machines reach stays closed even if the keys vanish, unless it was opened by `--insecure`. While the file cannot
be read the keys that were known go on; a worker that starts then lets nobody in until it can be.
"""

from __future__ import annotations

import logging
from pathlib import Path

from bandit.keys import Key, KeyRing
from serving.api.access import Headers, check_host
from serving.api.problems import ApiProblem

log = logging.getLogger("rewardloop.api")

_CHALLENGE = ((b"www-authenticate", b'Bearer realm="rewardloop"'),)


class Authority:
    """The keys of a data directory and, where none exists, the hosts that may be asked for (None: any)."""

    def __init__(self, data_dir: Path, allowed_hosts: frozenset[str] | None, *, closed: bool = False) -> None:
        """`closed`: nobody may ask while no key exists, because other machines can connect."""
        self.closed = closed
        self.ring = KeyRing(data_dir)
        self.allowed_hosts = allowed_hosts
        self._told: str | None = None
        self._tell()

    def refresh(self) -> None:
        """Look for made and revoked keys; an unreadable file keeps the keys that were known."""
        self.ring.refresh()
        self._tell()

    def check(self, headers: Headers, scope: str | None, experiment: str | None) -> Key | None:
        """The key that lets this request in, None where none is needed; raises `ApiProblem` (401, 403, 421, 503).

        `scope` None is what anybody may ask. `experiment` None is what concerns all of them: the key must do for
        one, and `visible` says which of them the answer may tell about.
        """
        if self.ring.empty and not self.closed:
            check_host(headers, self.allowed_hosts)
            return None
        if scope is None:
            return None
        shown = shown_key(headers)
        key = self.ring.find(shown) if shown is not None else None
        if key is None:
            raise self._stranger(shown)
        if not key.allows(scope, experiment if experiment is not None else _any_of(key)):
            if key.allows(scope, _any_of(key)):
                raise ApiProblem("forbidden", "This API key is made for other experiments.", field="authorization")
            raise ApiProblem(
                "forbidden",
                f"This API key does not allow that here: it needs the scope {scope}.",
                field="authorization",
                limit=f"scope {scope}",
            )
        return key

    def _stranger(self, shown: str | None) -> ApiProblem:
        """The refusal of whoever showed no key that is known."""
        if self.ring.blind:
            return ApiProblem("keys-unreadable", "Nobody is let in until keys.json can be read; the log says why.")
        detail = "This API key is unknown or revoked."
        if shown is None:
            detail = "Send an API key as `Authorization: Bearer …`; `rewardloop keys create` makes one."
        return ApiProblem("unauthorized", detail, field="authorization", headers=_CHALLENGE)

    def _tell(self) -> None:
        """Log once that the keys cannot be read, and once that they can again."""
        trouble = self.ring.trouble
        if trouble != self._told:
            self._told = trouble
            if trouble is None:
                log.warning("the API keys can be read again")
            else:
                log.error("the API keys cannot be read, those known go on: %s", trouble)

    def visible(self, headers: Headers, scope: str) -> frozenset[str] | None:
        """The experiments that an answer about all may tell about, None for all; raises as `check` does."""
        key = self.check(headers, scope, None)
        return key.experiments if key is not None else None


def shown_key(headers: Headers) -> str | None:
    """The secret that a request shows: its Authorization header's, or else the one in Personalizer's header."""
    if headers.authorization is None:
        return headers.subscription_key
    scheme, _, credentials = headers.authorization.partition(" ")
    return credentials.strip() if scheme.lower() == "bearer" else None


def _any_of(key: Key) -> str | None:
    """One of the experiments that a key is made for, None where it is made for all."""
    return next(iter(key.experiments), None) if key.experiments is not None else None
