"""What people do with models: list, look, compare, promote by hand, roll back.

Every change of champion made here is written to history with its reason; one without a `promote` verdict needs an
explicit override and is recorded as such.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bandit.encoder import FeatureEncoder
from bandit.errors import Conflict, CorruptModel, NotFound, Refused
from bandit.registry import REMADE, UNSET, Manifest
from serving.learner.asked_with import asked_with
from serving.learner.challengers.former import watch_former
from serving.learner.challengers.store import FORMER, ChallengerStore
from serving.learner.training.trainer import Trainer
from serving.learner.verdicts.promotion import move_pointer, passed_over
from serving.learner.workspace import Workspace


def listing(workspace: Workspace) -> dict[str, Any]:
    """All models, newest first, with the champion marked; `problem` says why it is not known."""
    registry = workspace.registry
    current, former, problem = None, set(), None
    try:
        champion = registry.champion()
        current = champion.model_id if champion else None
        former = {entry.model_id for entry in registry.champions()}
    except CorruptModel as error:
        problem = str(error)
    rows = []
    for manifest in reversed(registry.manifests()):
        role = "champion" if manifest.model_id == current else "former champion" if manifest.model_id in former else ""
        rows.append({**_brief(manifest), "role": role})
    return {"champion": current, "problem": problem, "models": rows}


def show(workspace: Workspace, model_id: str) -> dict[str, Any]:
    """The manifest of one model, how it encodes each feature, and its part in history.

    Raises `NotFound` or `CorruptModel`.
    """
    stored = workspace.registry.load(model_id)
    manifest = stored.manifest
    encoder = stored.files.get("encoder.json")
    encoding = [] if encoder is None else FeatureEncoder.from_json(encoder).explain()
    related = [
        entry
        for entry in workspace.registry.history.entries()
        if model_id in (entry.get("model_id"), entry.get("previous"))
    ]
    return {**msgspec.to_builtins(manifest), "encoding": encoding, "history": related}


def diff(workspace: Workspace, trainer: Trainer, model_id: str, other: str) -> dict[str, Any]:
    """How two models differ: options, data, and the probabilities that both give to the canaries of either.

    Raises `NotFound` or `CorruptModel`.
    """
    left, right = workspace.registry.load(model_id).manifest, workspace.registry.load(other).manifest
    return {
        "models": [model_id, other],
        "parent": left.model_id == right.parent or right.model_id == left.parent,
        "options": _differences(left.options, right.options),
        "data": {"left": left.data, "right": right.data},
        "settings_version": [left.settings_version, right.settings_version],
        "vw_version": [left.vw_version, right.vw_version],
        "identical": left.files == right.files,
        "choices": compare_choices(workspace, trainer, left, right),
    }


def compare_choices(workspace: Workspace, trainer: Trainer, left: Manifest, right: Manifest) -> list[dict[str, Any]]:
    """Each question among the canaries of either model: the pmfs of both and their total variation distance."""
    canaries = list({_question(canary): canary for canary in [*left.canaries, *right.canaries]}.values())
    if not canaries:
        return []
    root = workspace.experiment.paths.root
    pmfs = (trainer.run("answer", root, model.model_id, canaries) for model in (left, right))
    return [
        {
            "context": canary["context"],
            "actions": [action["id"] for action in canary["actions"]],
            "left": of_left,
            "right": of_right,
            "distance": sum(abs(a - b) for a, b in zip(of_left, of_right, strict=True)) / 2,
        }
        for canary, of_left, of_right in zip(canaries, *pmfs, strict=True)
    ]


def promote_by_hand(
    workspace: Workspace, store: ChallengerStore, trainer: Trainer, model_id: str, *, override: bool
) -> dict[str, Any]:
    """Make a model champion because somebody says so; raises `Refused` without a verdict or `override`.

    A pointer that is lost or cannot be read is made anew by history first, which may be all there is to do.
    """
    registry = workspace.registry
    try:
        champion = registry.champion()
    except CorruptModel:
        registry.load(model_id)
        champion = registry.remake_pointer(now=workspace.clock())
        if champion is not None and champion.model_id == model_id:
            return {"champion": model_id, "previous": None, "generation": champion.generation, "recorded": REMADE}
    _refuse_while_pinned(workspace)
    if champion is not None and champion.model_id == model_id:
        raise Conflict("this model is the champion already")
    registry.load(model_id)
    passed = any(
        entry.get("model_id") == model_id
        for kind in ("promotion", "initial")
        for entry in registry.history.entries(kind)
    )
    if not passed and not override:
        raise Refused(
            "this model has no promote verdict; wait for one, or insist with override (on the command line: --override)"
        )
    return _set_champion(
        workspace, store, trainer, model_id, kind="override" if not passed else "promotion_by_hand", reason="by hand"
    )


def pin(workspace: Workspace) -> dict[str, Any]:
    """Pin the champion: nothing takes its place, or has a share in its decisions, by itself until `unpin`.

    Raises `Refused` when there is none.
    """
    with workspace.lock:  # no run may set another one between the look and the pin
        champion = workspace.registry.champion()
        if champion is None:
            raise Refused("there is no champion to pin yet")
        workspace.pin(champion.model_id, reason="by hand")
    return {"pinned": champion.model_id}


def unpin(workspace: Workspace) -> dict[str, Any]:
    """Let the gate promote again; raises `Refused` when nothing is pinned."""
    with workspace.lock:
        if workspace.pinned is None:
            raise Refused("no model is pinned")
        workspace.pin(None, reason="by hand")
    return {"pinned": None}


def roll_back(workspace: Workspace, store: ChallengerStore, trainer: Trainer) -> dict[str, Any]:
    """Bring back the champion before the present one; once more goes one further back.

    One that is damaged is passed over, as serving does. Raises `Refused` when there is none.
    """
    _refuse_while_pinned(workspace)
    registry = workspace.registry
    champion = registry.champion()
    if champion is None:
        raise Refused("there is no champion yet")
    order = [entry.model_id for entry in reversed(registry.champions())]
    # before its *first* tenure: a champion that itself came back by rollback leads on to its own predecessor
    first = order.index(champion.model_id) if champion.model_id in order else len(order)
    if first == 0:
        raise Refused("there is no earlier champion to go back to")
    damaged: list[str] = []
    for model_id in dict.fromkeys(reversed(order[:first])):
        try:
            trainer.run("verify", workspace.experiment.paths.root, model_id)
        except (CorruptModel, NotFound):
            damaged.append(model_id)
            continue
        reason = f"rolled back by hand{passed_over(damaged)}"
        return _set_champion(workspace, store, trainer, model_id, kind="rollback", reason=reason)
    raise Refused(f"every earlier champion is damaged ({', '.join(damaged)}); promote another model with override=true")


def unset(workspace: Workspace, store: ChallengerStore) -> dict[str, Any]:
    """Let go of the champion: the cold start serves, and the next run learns the log from its beginning.

    For a champion that cannot be read any more, such as one of another release. Raises `Refused` when there is none.
    """
    with workspace.lock:  # nobody may pin it between the look and the change
        _refuse_while_pinned(workspace)
        champion = workspace.registry.champion()
        if champion is None:
            raise Refused("there is no champion")
        workspace.registry.clear_trial()
        workspace.registry.unset(expected=champion.model_id)
        store.drop(FORMER)
        workspace.registry.history.record(
            UNSET, now=workspace.clock(), model_id=None, previous=champion.model_id, **asked_with()
        )
    return {"champion": None, "previous": champion.model_id, "recorded": UNSET}


def _refuse_while_pinned(workspace: Workspace) -> None:
    if workspace.pinned is not None:
        raise Refused(f"the champion {workspace.pinned} is pinned; unpin it first")


def _set_champion(
    workspace: Workspace, store: ChallengerStore, trainer: Trainer, model_id: str, *, kind: str, reason: str
) -> dict[str, Any]:
    champion = workspace.registry.champion()
    previous = champion.model_id if champion else None
    trainer.run("verify", workspace.experiment.paths.root, model_id)
    back = kind == "rollback"
    with workspace.lock:  # a run that starts now must not miss the entry, and write one of its own
        swapped = move_pointer(workspace, model_id, expected=previous, reason=reason, restored=back)
        if back:
            store.drop(FORMER)
        else:
            watch_former(workspace, store, swapped, previous)
        workspace.registry.history.record(
            kind, now=workspace.clock(), model_id=model_id, previous=previous, reason=reason, **asked_with()
        )
    return {"champion": swapped.model_id, "previous": previous, "generation": swapped.generation, "recorded": kind}


def _question(canary: dict[str, Any]) -> bytes:
    return msgspec.json.encode((canary["context"], canary["actions"]), order="deterministic")


def _brief(manifest: Manifest) -> dict[str, Any]:
    return {
        "model_id": manifest.model_id,
        "created_at": manifest.created_at,
        "kind": manifest.kind,
        "parent": manifest.parent,
        "rows": manifest.data.get("rows"),
        "settings_version": manifest.settings_version,
        "bytes_digest": manifest.digest[:12],
        "note": manifest.note,
    }


def _differences(left: dict[str, Any], right: dict[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in sorted(left.keys() | right.keys()):
        here = f"{path}{key}"
        a, b = left.get(key), right.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= _differences(a, b, here + ".")
        elif a != b:
            found[here] = [a, b]
    return found
