"""Which API key the request under way was let in with, so that history can name it; the key itself goes nowhere."""

from __future__ import annotations

from contextvars import ContextVar

KEY_NAME: ContextVar[str | None] = ContextVar("key_name", default=None)


def asked_with() -> dict[str, str]:
    """The field `key` of an entry in history, with the key's name; no field where no key was shown."""
    name = KEY_NAME.get()
    return {} if name is None else {"key": name}
