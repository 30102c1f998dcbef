"""One self-contained HTML page per evaluation: the verdict in a sentence, then the evidence in pictures.

Rendered from the certificate alone (the rows it speaks of are summarised in it), so that a report can be made again
from a stored certificate. No script, no font, no image from elsewhere; made for a phone, a screen and paper.
"""

from __future__ import annotations

import hashlib
import html
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any, NamedTuple

import jinja2

from evaluation import svg
from evaluation.certificate import FLOORS_ALONE_SINCE, NAMED_SINCE, rules_version
from evaluation.gate import rows_in_words

ACTIONS_SHOWN, ACTIONS_LISTED = 12, 50
DAYS_SHOWN = 31
SEGMENTS_SHOWN = 20
LABEL_MAX = 12

_NAMES = {
    "dr": "DR",
    "snips": "SNIPS",
    "ips": "IPS",
    "dm": "DM",
    "sndr": "SNDR",
    "clipped_ips": "Clipped IPS",
    "switch_dr": "Switch-DR",
    "dros": "DRos",
}
_BADGES = {"promote": "Promote", "hold": "Hold", "insufficient": "Not enough data", "initial": "Initial model"}
_MARKS = {"pass": "✓ ok", "fail": "✗ no", "insufficient": "… open"}
_TITLES = {
    "rows": "Rows",
    "ess_candidate": "Effective rows, candidate",
    "ess_champion": "Effective rows, champion",
    "informative_rewards": "Informative rewards",
    "weight_tail": "Heaviest rows",
    "overlap": "Overlap with the log",
    "telling_draws": "Telling draws",
    "subjects": "Effective subjects",
    "estimators_agree": "Estimators agree",
    "pmf_sums_to_one": "Distributions sum to 1",
    "propensity_is_in_pmf": "Probability fits distribution",
    "action_counts": "Actions drawn as promised",
    "weights_candidate": "Mean weight, candidate",
    "weights_champion": "Mean weight, champion",
    "weights_uniform": "Mean weight, uniform",
    "replay": "Replayed decisions",
}


def render_report(cert: Mapping[str, Any]) -> str:
    """The HTML page of a certificate, which carries the numbers of the figures, too."""
    initial = cert["kind"] == "initial"
    diagnostics = cert.get("diagnostics") or {}
    placebo, named = cert.get("placebo"), diagnostics.get("named_actions")
    return _template().render(
        cert=cert,
        verdict=cert["verdict"],
        badge=_BADGES[cert["verdict"]["outcome"]],
        headline=_headline(cert),
        name=str(cert.get("experiment") or "Offline evaluation"),
        created=_time(cert["created_at"]) if cert.get("created_at") else "",
        models=_models(cert),
        champion_word="Uniform" if initial else "Champion",
        tiles=_tiles(cert, initial),
        figures=_figures(cert, diagnostics, initial),
        checks=[_check(check) for check in cert.get("checks", [])],
        table=[_row(name, cert["estimators"][key]) for key, name in _NAMES.items()],
        actions=[_action_row(entry) for entry in named["shares"][:ACTIONS_LISTED]] if named else [],
        placebo=placebo.get("text") if isinstance(placebo, Mapping) else None,
        parts=[
            _Part("Lift by day", "Day (UTC)", [_part(day, "day") for day in diagnostics.get("days", [])[-DAYS_SHOWN:]]),
            _Part("Lift by slot", "Slot", [_part(each, "segment") for each in diagnostics.get("slots", [])]),
            _Part(
                "Lift by segment",
                str(cert.get("segment_field") or "Segment"),
                [_part(each, "segment") for each in diagnostics.get("segments", [])],
            ),
        ],
        provenance=_provenance(cert),
        procedure=_tested(cert),
        edition=edition(),
    )


def page_differences(cert: Mapping[str, Any], page: str) -> list[str] | None:
    """One line when a stored page is not what its certificate gives, else none; None for a page of another edition."""
    made_by = re.search(r'<meta name="generator" content="(rewardloop report [0-9a-f]{12})">', page)
    if made_by and made_by[1] != edition():
        return None
    return [] if page == render_report(cert) else ["report.html is not the page that the certificate gives"]


def with_way_back(page: str, path: str, text: str) -> str:
    """A stored page as a server shows it, with a link to where it is listed; opened as a file it has none."""
    link = f'<nav><a href="{html.escape(path)}">‹ {html.escape(text)}</a></nav>'
    return page.replace("<main>", f"<main>{link}", 1)


@lru_cache(maxsize=1)
def edition() -> str:
    """Which edition of these pages this is: it changes with whatever could change a page."""
    sources = ("report.html.j2", "report.py", "svg.py")
    together = b"".join(resources.files("evaluation").joinpath(name).read_bytes() for name in sources)
    return "rewardloop report " + hashlib.sha256(together).hexdigest()[:12]


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    source = resources.files("evaluation").joinpath("report.html.j2").read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)


def _headline(cert: Mapping[str, Any]) -> str:
    outcome = cert["verdict"]["outcome"]
    if outcome == "initial":
        return "The first model: nothing to beat yet"
    if outcome == "promote":
        relative = _relative(cert)
        by = f" by {relative:.1%}" if relative is not None and relative > 0 else ""
        return f"The challenger beats the champion{by}" if by else "The challenger may replace the champion"
    if outcome == "insufficient":
        # before, it was the forecast for a small lift where that was more
        needed = cert["verdict"].get("rows_needed") if rules_version(cert) >= FLOORS_ALONE_SINCE else None
        return "Too early to tell" + (f": {rows_in_words(needed)} more rows are needed" if needed else "")
    if cert["verdict"].get("rejected"):
        alarmed = any(c["kind"] == "alarm" and c["status"] == "fail" for c in cert["checks"])
        return "The log cannot be trusted: promotion is blocked" if alarmed else "The challenger is worse"
    return "Not proven better: the champion stays"


def _relative(cert: Mapping[str, Any]) -> float | None:
    """The lift as a share of the champion's value; None where that cannot be told from 0: any lift is many percent."""
    value = cert["estimators"]["dr"]["champion"]
    lower, upper = value["lower"], value["upper"]
    relative: float | None = cert["lift"].get("relative")
    return relative if lower is not None and (lower > 0 or upper < 0) else None


def _models(cert: Mapping[str, Any]) -> str:
    names = [cert.get(role) for role in ("candidate", "champion")]
    ids = [name.get("model_id") if isinstance(name, Mapping) else name for name in names]
    candidate, champion = (str(i) if i else None for i in ids)
    if candidate and champion:
        return f"{candidate} against {champion}"
    return candidate or ""


def _tiles(cert: Mapping[str, Any], initial: bool) -> list[dict[str, str]]:
    lift, rows = cert["lift"], cert["rows"]
    relative = _relative(cert)
    against = "against uniform choice" if initial else "per decision, paired DR"
    tiles = [_tile("Lift", _signed(lift["value"]), against)]
    if not initial:
        weighed = (lift.get("weighed") or lift)["value"]
        around = f"upper {_signed(lift['bound_upper'])}, around {_signed(weighed)} weighed"
        tiles.append(_tile("Lower bound", _signed(lift["bound_lower"]), around))
        tiles.append(
            _tile(
                "Relative lift",
                "–" if relative is None else f"{relative:+.1%}".replace("-", "−"),
                "of the champion's value" + ("" if relative is not None else ", which may be 0"),
            )
        )
        rules = cert["rules"]
        tiles.append(_tile("α spent", f"{lift['alpha_spent']:.2g}", f"of {rules['alpha']:.3g}, epoch {lift['epoch']}"))
    else:
        value = cert["estimators"]["dr"]["candidate"]
        tiles.append(_tile("Value (DR)", _plain(value["value"]), f"± {_plain(value['se'])} per decision"))
        tiles.append(_tile("Logged mean", _plain(cert["logged"]["value"]), "reward of the logged decisions"))
    dropped = sum(rows["excluded"].values())
    tiles.append(_tile("Rows", f"{rows['n']:,}", f"{dropped:,} excluded" if dropped else "none excluded"))
    ess = cert["ess"]["candidate"]
    tiles.append(_tile("Effective rows", "–" if ess is None else f"{ess:,.0f}", "of the candidate's weights"))
    differing = (cert.get("diagnostics") or {}).get("differing")
    if differing is not None:
        tiles.append(_tile("Decide differently", f"{differing:.1%}", "of decisions"))
    return tiles


def _figures(cert: Mapping[str, Any], diagnostics: Mapping[str, Any], initial: bool) -> list[dict[str, Any]]:
    n = f"{cert['rows']['n']:,} rows"
    second = "uniform" if initial else "champion"
    keys = [("candidate", "candidate"), ("champion", second)]
    figures = [_deciding(cert, n, initial)] if cert["lift"]["value"] is not None else []
    groups = [_bars(name, cert["estimators"][key]) for key, name in _NAMES.items()]
    groups = [group for group in groups if group]
    if groups:
        logged = cert["logged"]["value"]
        picture = svg.forest(
            groups,
            reference=None if logged is None else (logged, "logged mean reward"),
            title="Value of both policies by estimator, 95% intervals",
        )
        note = "Value per decision by each estimator, 95% intervals. Estimators that disagree are information."
        figures.append(_figure("What both policies are worth", note, picture, n, keys))
    curve = diagnostics.get("curve") or []
    if len(curve) > 1:
        marks = _marks(cert, curve)
        picture = svg.band(curve, marks=marks, title="Running paired lift with 95% band", unit="rows")
        note = "Running mean of the paired DR lift with its 95% band"
        note += (
            "; triangles are lower bounds at the gate’s looks (at earlier ones, of the plain mean)." if marks else "."
        )
        figures.append(_figure("Lift over time", note, picture, n))
    weights = diagnostics.get("weights")
    if weights:
        series = [
            (role, weights[role]["edges"], weights[role]["counts"], weights[role]["zeros"])
            for role in ("candidate", "champion")
        ]
        picture = svg.histograms(series, title="Importance weights of both policies", unit="weight π/p")
        biggest = max(weights[role]["max"] for role in ("candidate", "champion"))
        note = f"How often each policy would have done what was logged, over the logged chance. Largest {biggest:,.1f}."
        if picture:
            figures.append(_figure("Importance weights", note, picture, n, keys))
    if diagnostics.get("actions"):
        figures.append(_choices(cert, diagnostics, n, keys))
    bins = diagnostics.get("calibration") or []
    if bins:
        points = [(entry["predicted"], entry["observed"], entry["se"] or 0.0) for entry in bins]
        picture = svg.scatter(points, title="Reward model", x_unit="predicted reward", y_unit="observed reward")
        note = "Predicted against observed reward of the logged actions; on the diagonal it is right on average."
        note += _alone(bins)
        figures.append(_figure("Is the reward model right?", note, picture, n))
    days = (diagnostics.get("days") or [])[-DAYS_SHOWN:]
    if len(days) > 1:
        picture = _lifts(days, "day", "Paired lift by day")
        note = "Paired DR lift of each UTC day, 95% intervals." + _alone(days)
        figures.append(_figure("Lift by day", note, picture, n))
    segments = (diagnostics.get("segments") or [])[:SEGMENTS_SHOWN]
    if len(segments) > 1:
        note = "Paired DR lift within each segment, 95% intervals, each by itself: among many some stand out by chance."
        note += _alone(segments)
        if cert.get("segment_field"):
            note += " Decisions made while another field was declared, or none, have no segment: (none)."
        figures.append(_figure("Lift by segment", note, _lifts(segments, "segment", "Paired lift by segment"), n))
    return figures


def _deciding(cert: Mapping[str, Any], n: str, initial: bool) -> dict[str, Any]:
    """The lift with its interval and, where a gate was asked, with the bounds that decide."""
    lift = cert["lift"]
    groups = [[svg.Bar("95%", lift["value"], _or(lift["lower"], lift), _or(lift["upper"], lift), "lift")]]
    note, line = "Paired DR lift over uniform choice, with its 95% interval.", (0.0, "no lift")
    if not initial:
        weighed, rules = lift["weighed"]["value"], cert["rules"]
        bounds = (_or(lift["bound_lower"], lift), _or(lift["bound_upper"], lift))
        groups.append([svg.Bar("Gate", weighed, *bounds, "gate")])
        note = (
            "Paired DR lift per decision: the 95% interval of this one look, and the gate’s bounds, which hold however "
        )
        note += (
            "often it looks, around the lift weighed by what each stretch of the log tells. Its lower one must pass "
            "the dashed line."
        )
        needed = rules["margin"] if rules["mode"] == "superiority" else None
        if rules["mode"] == "noninferiority":
            value = cert["estimators"]["dr"]["champion"]["value"]
            needed = None if value is None else -rules["margin"] * abs(value)
        if needed:
            line = (needed, f"to be passed: {_signed(needed)}")
    picture = svg.forest(groups, reference=line, title="Paired lift with its interval and the gate's bounds")
    return _figure("The lift that decides" if not initial else "Lift over uniform choice", note, picture, n)


def _or(end: float | None, lift: Mapping[str, Any]) -> float:
    """An end of an interval, or the lift itself where there is none."""
    return float(lift["value"] if end is None else end)


def _alone(entries: Sequence[Mapping[str, Any]]) -> str:
    """What a picture says where some of its points are one subject's, and so have no error."""
    if all(entry["se"] is not None for entry in entries):
        return ""
    return " What one subject alone says has no interval."


def _lifts(entries: Sequence[Mapping[str, Any]], name: str, title: str) -> str:
    groups = []
    for entry in entries:
        reach = 1.96 * (entry["se"] or 0.0)
        label = _clipped(str(entry[name]) or "(none)")
        groups.append([svg.Bar(label, entry["lift"], entry["lift"] - reach, entry["lift"] + reach, "lift")])
    return svg.forest(groups, reference=(0.0, "no lift"), title=title)


def _figure(title: str, note: str, picture: str, n: str, keys: Any = ()) -> dict[str, Any]:
    return {"title": title, "note": note, "svg": picture, "n": n, "legend": keys}


def _bars(name: str, roles: Mapping[str, Any]) -> list[svg.Bar]:
    return [
        svg.Bar(name, roles[role]["value"], roles[role]["lower"], roles[role]["upper"], role)
        for role in ("candidate", "champion")
        if roles[role]["value"] is not None and roles[role]["lower"] is not None
    ]


def _marks(cert: Mapping[str, Any], curve: list[list[float]]) -> list[tuple[float, float]]:
    """Lower bounds at the looks of this challenger: the gate's at this one; before, the running mean − z SE."""
    looks = [(look[0], look[3]) for look in (cert.get("ledger_before") or {}).get("looks", [])]
    marks = []
    if cert["verdict"]["looked"] and cert["lift"]["bound_lower"] is not None:
        marks.append((float(cert["rows"]["n"]), float(cert["lift"]["bound_lower"])))
    for rows, z in looks:
        nearest = min(curve, key=lambda point: abs(point[0] - rows))
        if nearest[0] >= curve[-1][0] * 0.04 and math.isfinite(z):
            marks.append((float(rows), nearest[1] - z * nearest[2]))
    return marks


def _choices(cert: Mapping[str, Any], diagnostics: Mapping[str, Any], n: str, keys: Sequence[Any]) -> dict[str, Any]:
    """Shares by the ids of actions; by position in certificates of older versions, which know nothing else."""
    title = "Which actions they choose"
    named = diagnostics.get("named_actions")
    if named is None and rules_version(cert) >= NAMED_SINCE:
        note = "These rows do not tell their actions by name: an earlier version scored some of them, or nearly each "
        note += "decision offered other actions. A place in a list that changes is no action, so nothing is shown."
        return _figure(title, note, "", n)
    if named is None:
        known = diagnostics["actions"]
        entries = [(f"position {int(entry['action'])}", entry) for entry in known]
        count = len(known)
    else:
        entries, count = [(str(entry["id"]), entry) for entry in named["shares"]], int(named["count"])
    picture = svg.shares(_share_rows(entries, count), title="Share of each action")
    note = "Mean probability of each action under both policies, and how often it was logged."
    return _figure(title, note, picture, n, [*keys, ("logged", "logged")])


def _share_rows(
    entries: Sequence[tuple[str, Mapping[str, Any]]], count: int
) -> list[tuple[str, list[tuple[str, float]]]]:
    """The first actions, and all others of `count` together."""
    roles = ("candidate", "champion", "logged")
    first = entries[:ACTIONS_SHOWN]
    shown = [(_clipped(label), [(role, float(entry[role])) for role in roles]) for label, entry in first]
    if count > len(first):
        rest = [(role, max(0.0, 1.0 - sum(float(entry[role]) for _, entry in first))) for role in roles]
        shown.append((f"{count - len(first)} others", rest))
    return shown


def _action_row(entry: Mapping[str, Any]) -> dict[str, str]:
    shares = {role: f"{entry[role]:.1%}" for role in ("candidate", "champion", "logged")}
    return {"name": str(entry["id"]), **shares, "draws": f"{entry['draws']:,}", "reward": _plain(entry["mean_reward"])}


def _clipped(label: str) -> str:
    """A label that fits beside a picture; tables have it whole."""
    return label if len(label) <= LABEL_MAX else label[: LABEL_MAX - 1] + "…"


def _check(check: Mapping[str, Any]) -> dict[str, str]:
    return {
        "status": check["status"],
        "mark": _MARKS[check["status"]],
        "title": _TITLES.get(check["name"], check["name"].replace("_", " ")),
        "text": check["text"],
        "value": _short(check["value"]),
        "limit": _short(check["limit"]),
    }


def _row(name: str, roles: Mapping[str, Any]) -> dict[str, Any]:
    shown = {role: {key: _plain(roles[role][key]) for key in ("value", "se")} for role in ("candidate", "champion")}
    return {"name": name, **shown}


class _Part(NamedTuple):
    title: str
    head: str
    rows: list[dict[str, str]]


def _part(entry: Mapping[str, Any], name: str) -> dict[str, str]:
    label = str(entry[name]) or "(none)"
    return {"name": label, "n": f"{entry['n']:,}", "lift": _signed(entry["lift"]), "se": _plain(entry["se"])}


def _provenance(cert: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = cert["rows"]
    lines = [("Evaluation", str(cert["id"]))] if cert.get("id") else []
    if rows["first"]:
        lines.append(("Decisions", f"{_time(rows['first'])} to {_time(rows['last'])}"))
    if cert.get("as_of"):
        lines.append(("As of", _time(cert["as_of"])))
    if rows.get("clusters"):
        lines.append(("Subjects", f"{rows['clusters']:,}"))
    for reason, count in rows["excluded"].items():
        lines.append((f"Excluded: {reason.replace('_', ' ')}", f"{count:,}"))
    if cert.get("rules"):
        rules = cert["rules"]
        lines.append(
            ("Gate", f"{rules['mode']}, α {rules['alpha']:.3g}, margin {rules['margin']:g}, {rules['looks']} looks")
        )
        taken = cert["ledger_before"]["taken"] + (1 if cert["verdict"]["looked"] else 0)
        lines.append(("Looks so far", f"{taken} in epoch {cert['lift']['epoch']} of {rules['horizon_rows']:,} rows"))
    lines.append(("Rows digest", rows["digest"]))
    lines.append(("Certificate digest", cert["digest"]))
    return lines


def _tested(cert: Mapping[str, Any]) -> str:
    if cert.get("tests") == "artefact":
        return "The frozen model was tested on rows decided after it was trained."
    return (
        "The learning procedure was tested: each row was scored before it was learnt, in the order of the log, "
        "and the model at its end is what ships."
    )


def _tile(label: str, value: str, note: str) -> dict[str, str]:
    return {"label": label, "value": value, "note": note}


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}".replace("-", "−")


def _plain(value: float | None) -> str:
    if value is None:
        return "–"
    text = f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:,.4f}"
    return text.replace("-", "−")


def _short(value: float | None) -> str:
    """Four figures are enough to compare a number with its limit."""
    if value is None or abs(value) >= 1000 or float(value).is_integer():
        return _plain(value)
    return f"{value:.4g}".replace("-", "−")


def _time(value: Any) -> str:
    """A time in UTC to the second, without the letters that machines need."""
    text = str(value)
    return f"{text[:10]} {text[11:19]} UTC" if len(text) >= 19 and text[10] in "T " else text
