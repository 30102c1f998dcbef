"""API keys: only the one who was given the secret gets in, and only where and how long it was meant."""

from __future__ import annotations

import stat
import string
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.errors import Conflict, InvalidInput, InvalidSettings, NotFound
from bandit.keys import SCOPES, Key, KeyRing, create_key, keys_path, list_keys, revoke_key
from tests.bandit.eventlog_support import START


def test_a_fresh_directory_has_no_keys_and_finds_none(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    assert ring.empty
    assert ring.find("rl_" + "0" * 12 + "_" + "a" * 43) is None
    assert list_keys(tmp_path) == []


def test_a_created_key_is_found_by_its_secret_alone(tmp_path: Path) -> None:
    record, secret = create_key(tmp_path, name="shop", scopes=["reward", "recommend"], now=START)
    ring = KeyRing(tmp_path)
    assert not ring.empty
    assert ring.find(secret) == Key(record.id, "shop", frozenset({"recommend", "reward"}), None)
    for wrong in (secret[:-1], secret + "x", secret.upper(), record.id, record.sha256, "", "é\ud800", "x" * 10_000):
        assert ring.find(wrong) is None


@given(st.integers(min_value=16, max_value=58), st.sampled_from(string.ascii_letters + string.digits + "-_"))
def test_a_secret_with_any_one_letter_changed_is_refused(position: int, letter: str) -> None:
    ring = _ring_of_one()
    changed = _SECRET_OF_ONE[0][:position] + letter + _SECRET_OF_ONE[0][position + 1 :]
    assert (ring.find(changed) is not None) == (changed == _SECRET_OF_ONE[0])


_SECRET_OF_ONE: list[str] = []
_RING_OF_ONE: list[KeyRing] = []


def _ring_of_one() -> KeyRing:
    return _RING_OF_ONE[0]


@pytest.fixture(autouse=True, scope="module")
def _one_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("keys")
    _SECRET_OF_ONE.append(create_key(folder, name="one", scopes=["read"], now=START)[1])
    _RING_OF_ONE.append(KeyRing(folder))


def test_the_secret_is_stored_nowhere_and_the_file_is_private(tmp_path: Path) -> None:
    _, secret = create_key(tmp_path, name="shop", scopes=["read"], now=START)
    for path in tmp_path.rglob("*"):
        assert secret[16:].encode() not in path.read_bytes()
    assert stat.S_IMODE(keys_path(tmp_path).stat().st_mode) == 0o600


def test_a_key_allows_its_scopes_in_its_experiments_only() -> None:
    key = Key("1", "shop", frozenset({"recommend"}), frozenset({"home"}))
    assert key.allows("recommend", "home")
    assert not key.allows("recommend", "other")
    assert not key.allows("reward", "home")
    assert not key.allows("recommend", None)
    anywhere = Key("2", "ops", frozenset({"admin"}), None)
    assert all(anywhere.allows(scope, experiment) for scope in SCOPES for experiment in ("home", None))


def test_two_keys_of_a_name_live_side_by_side_and_a_third_is_refused(tmp_path: Path) -> None:
    first, first_secret = create_key(tmp_path, name="shop", scopes=["recommend"], now=START)
    _, second_secret = create_key(tmp_path, name="shop", scopes=["recommend"], now=START)
    ring = KeyRing(tmp_path)
    assert ring.find(first_secret) and ring.find(second_secret)
    with pytest.raises(Conflict, match=first.id):
        create_key(tmp_path, name="shop", scopes=["recommend"], now=START)
    revoke_key(tmp_path, first.id, now=START)
    create_key(tmp_path, name="shop", scopes=["recommend"], now=START)


def test_a_revoked_key_is_refused_after_a_refresh_and_the_last_one_does_not_open_the_door(tmp_path: Path) -> None:
    record, secret = create_key(tmp_path, name="shop", scopes=["recommend"], now=START)
    ring = KeyRing(tmp_path)
    assert ring.refresh() is False
    revoked = revoke_key(tmp_path, record.id, now=START + timedelta(hours=1))
    assert ring.refresh() is True
    assert ring.find(secret) is None
    assert not ring.empty
    assert not KeyRing(tmp_path).empty
    assert list_keys(tmp_path) == [revoked]
    with pytest.raises(Conflict):
        revoke_key(tmp_path, record.id, now=START)
    with pytest.raises(NotFound):
        revoke_key(tmp_path, "000000000000", now=START)


def test_a_key_file_that_vanishes_or_breaks_opens_nothing(tmp_path: Path) -> None:
    _, secret = create_key(tmp_path, name="shop", scopes=["recommend"], now=START)
    ring = KeyRing(tmp_path)
    content = keys_path(tmp_path).read_bytes()
    keys_path(tmp_path).write_bytes(content[:-5])
    for _ in range(2):
        assert ring.refresh() is False
        assert ring.trouble is not None and "restore it" in ring.trouble
    assert ring.find(secret) and not ring.blind
    keys_path(tmp_path).unlink()
    assert ring.refresh() is True
    assert (ring.find(secret), ring.empty, ring.trouble) == (None, False, None)
    keys_path(tmp_path).write_bytes(content)
    assert ring.refresh() is True
    assert ring.find(secret)


def test_a_ring_that_starts_on_an_unreadable_file_is_closed_until_it_can_be_read(tmp_path: Path) -> None:
    record, secret = create_key(tmp_path, name="shop", scopes=["recommend"], now=START)
    content = keys_path(tmp_path).read_bytes()
    damaged = content.replace(record.sha256.encode(), b"z" * 64)
    for unreadable in (content[:-5], damaged, b"[" * 100_000, b"", None):
        keys_path(tmp_path).unlink()
        if unreadable is None:
            keys_path(tmp_path).mkdir()
        else:
            keys_path(tmp_path).write_bytes(unreadable)
        ring = KeyRing(tmp_path)
        assert (ring.blind, ring.empty, ring.find(secret)) == (True, False, None)
        with pytest.raises(InvalidSettings):
            list_keys(tmp_path)
    keys_path(tmp_path).rmdir()
    keys_path(tmp_path).write_bytes(content)
    assert ring.refresh() is True
    assert (ring.blind, ring.trouble) == (False, None)
    assert ring.find(secret)


def test_bad_names_scopes_and_experiments_are_refused_by_field(tmp_path: Path) -> None:
    for field, arguments in {
        "name": {"name": "../x", "scopes": ["read"]},
        "scopes": {"name": "x", "scopes": ["write"]},
        "experiments": {"name": "x", "scopes": ["read"], "experiments": []},
        "experiment": {"name": "x", "scopes": ["read"], "experiments": ["../x"]},
    }.items():
        with pytest.raises(InvalidInput) as refused:
            create_key(tmp_path, now=START, **arguments)  # type: ignore[arg-type]
        assert refused.value.problems[0].field == field
    with pytest.raises(InvalidInput):
        create_key(tmp_path, name="x", scopes=[], now=START)
    with pytest.raises(InvalidInput):
        create_key(tmp_path, name="shop\n", scopes=["read"], now=START)
    assert list_keys(tmp_path) == []
