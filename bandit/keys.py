"""API keys: who may ask what, kept as hashes in one small file that every process reads again when it changes.

A key is `rl_<id>_<secret>`: the id finds the record, the SHA-256 of the whole is compared in constant time. The
secret has 256 random bits, so a slow password hash would only cost the hot path. Once a key was ever made the
service stays closed: revoking the last one does not open it again.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from bandit.decoding import decode
from bandit.errors import Conflict, InvalidInput, InvalidSettings, NotFound, one_of
from bandit.files import locked, write_atomically
from bandit.settings import check_experiment_name

SCOPES = ("recommend", "reward", "read", "admin")
ADMIN = "admin"
LIVE_PER_NAME_MAX = 2
SECRET_LENGTH_MAX = 256

_NAME = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,62}$")
_SECRET = re.compile(r"^rl_([0-9a-f]{12})_[A-Za-z0-9_-]{43}$")
_NOBODY = hashlib.sha256(b"").digest()


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One key as stored: never its secret. `experiments` None means all, also those made later."""

    id: str
    name: str
    sha256: str
    scopes: list[str]
    experiments: list[str] | None
    created_at: datetime
    revoked_at: datetime | None = None


class _KeyFile(msgspec.Struct):
    keys: list[KeyRecord]


@dataclass(frozen=True, slots=True)
class Key:
    """A live key that was shown: what it may do, and where (None: in every experiment)."""

    id: str
    name: str
    scopes: frozenset[str]
    experiments: frozenset[str] | None

    def allows(self, scope: str, experiment: str | None = None) -> bool:
        """Whether the key may do `scope` in `experiment` (None: something that concerns no single one).

        The scope `admin` includes the others. A key bound to experiments may do nothing that concerns all.
        """
        if scope not in self.scopes and ADMIN not in self.scopes:
            return False
        return self.experiments is None or (experiment is not None and experiment in self.experiments)


def keys_path(data_dir: Path) -> Path:
    """Where a data directory keeps its keys."""
    return data_dir / "keys.json"


class KeyRing:
    """The keys of a data directory, for checking requests; `refresh` once a second makes revocations hold.

    `empty`: no key was ever made, and only then may a loopback port be open. `trouble` says why the file cannot be
    read at present: the keys that were known go on, and where there are none nobody is let in until it can be.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = keys_path(data_dir)
        self._seen: tuple[int, int, int] | None = None
        self._ever = False
        self._live: dict[str, tuple[bytes, Key]] = {}
        self.trouble: str | None = None
        self.empty = False
        self.refresh()

    @property
    def blind(self) -> bool:
        """Whether no key is known because the file cannot be read."""
        return self.trouble is not None and not self._live

    def refresh(self) -> bool:
        """Read the file again if it changed, and say whether it did; never raises.

        A file that cannot be read is told in `trouble`, and tried again each time; one that vanished revokes all.
        """
        before = self._seen
        try:
            self._read_changes()
            self.trouble = None
        except FileNotFoundError:
            self._live = {}
            self._seen = None
            self.trouble = None
        except (InvalidSettings, OSError) as error:
            self.trouble = str(error)
        self.empty = not self._ever and self.trouble is None
        return self._seen != before

    def _read_changes(self) -> None:
        stat = self._path.stat()
        seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if seen == self._seen:
            return
        self._ever = True
        self._live = {
            record.id: (
                bytes.fromhex(record.sha256),
                Key(
                    record.id,
                    record.name,
                    frozenset(record.scopes),
                    None if record.experiments is None else frozenset(record.experiments),
                ),
            )
            for record in _read(self._path)
            if record.revoked_at is None
        }
        self._seen = seen

    def find(self, secret: str) -> Key | None:
        """The live key that `secret` is, else None; the comparison takes as long whatever differs."""
        if len(secret) > SECRET_LENGTH_MAX:
            return None
        found = _SECRET.fullmatch(secret)
        expected, key = self._live.get(found[1] if found else "", (_NOBODY, None))
        shown = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        return key if hmac.compare_digest(expected, shown) else None


def list_keys(data_dir: Path) -> list[KeyRecord]:
    """All keys ever made, oldest first; raises `InvalidSettings` when the file cannot be read."""
    try:
        return _read(keys_path(data_dir))
    except FileNotFoundError:
        return []


def create_key(
    data_dir: Path,
    *,
    name: str,
    scopes: Iterable[str],
    experiments: Sequence[str] | None = None,
    now: datetime,
) -> tuple[KeyRecord, str]:
    """Make a key and give its secret, which is shown this once and stored nowhere.

    Two keys of one name may live at once, so that a client can be moved from one to the next. Raises
    `InvalidInput` for a bad name, scope or experiment, `Conflict` for a third live key of the name.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput("name", "is not a valid name", _NAME.pattern)
    chosen = sorted(set(scopes), key=lambda scope: SCOPES.index(scope) if scope in SCOPES else -1)
    if not chosen or any(scope not in SCOPES for scope in chosen):
        raise InvalidInput("scopes", "must be one or more known scopes", one_of(SCOPES))
    if experiments is not None:
        if not experiments:
            raise InvalidInput("experiments", "must name at least one, or be left out for all")
        for experiment in experiments:
            check_experiment_name(experiment)
    with locked(_lock_path(data_dir)):
        records = list_keys(data_dir)
        live = [record for record in records if record.name == name and record.revoked_at is None]
        if len(live) >= LIVE_PER_NAME_MAX:
            raise Conflict(
                f"two keys named {name} live already ({', '.join(record.id for record in live)}); "
                "revoke the older one first"
            )
        key_id = secrets.token_hex(6)
        secret = f"rl_{key_id}_{secrets.token_urlsafe(32)}"
        record = KeyRecord(
            id=key_id,
            name=name,
            sha256=hashlib.sha256(secret.encode()).hexdigest(),
            scopes=chosen,
            experiments=None if experiments is None else sorted(set(experiments)),
            created_at=now,
        )
        _write(data_dir, [*records, record])
    return record, secret


def revoke_key(data_dir: Path, key_id: str, *, now: datetime) -> KeyRecord:
    """End a key's life; every process refuses it at its next refresh. Raises `NotFound`, or `Conflict` if dead."""
    with locked(_lock_path(data_dir)):
        records = list_keys(data_dir)
        for index, record in enumerate(records):
            if record.id == key_id:
                if record.revoked_at is not None:
                    raise Conflict(f"key {key_id} was revoked before")
                records[index] = msgspec.structs.replace(record, revoked_at=now)
                _write(data_dir, records)
                return records[index]
    raise NotFound("there is no key of that id; `rewardloop keys list` shows them")


def _lock_path(data_dir: Path) -> Path:
    return data_dir / ".keys.lock"


def _read(path: Path) -> list[KeyRecord]:
    try:
        records = decode(path.read_bytes(), _KeyFile).keys
        for record in records:
            bytes.fromhex(record.sha256)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidSettings("keys.json", f"cannot be read ({error.strerror}); make it a file that can be") from None
    except ValueError:  # no JSON, or no digest
        raise InvalidSettings("keys.json", "cannot be read; restore it from a backup") from None
    return records


def _write(data_dir: Path, records: list[KeyRecord]) -> None:
    content = msgspec.json.format(msgspec.json.encode(_KeyFile(records)), indent=1)
    write_atomically(keys_path(data_dir), content, mode=0o600)
