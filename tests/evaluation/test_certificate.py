"""Certificates hold when computed again, break when touched, and their reports stand alone."""

import json
import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest

from evaluation import certificate as certificates
from evaluation.certificate import certificate, initial_certificate, verify_certificate
from evaluation.checks import Check
from evaluation.diagnostics import lift_by_segment
from evaluation.gate import RULES_VERSION, GateRules, judge
from evaluation.history import render_history
from evaluation.lift import clustered_mean, paired_lift
from evaluation.placebo import placebo, redraws
from evaluation.report import edition, page_differences, render_report
from evaluation.scored import ScoredRows
from evaluation.sequential import AlphaLedger
from evaluation.svg import histograms
from tests.evaluation.worlds import make_world

ABOUT = {"id": "e1", "experiment": "news", "created_at": "2026-01-08T10:00:00Z"}


def evaluated(n: int = 3000) -> tuple[ScoredRows, dict]:
    rows = make_world(31, lift=0.05).log(np.random.default_rng(1), n)
    rows = replace(
        rows,
        decided_at=np.datetime64("2026-01-01", "us") + np.arange(n) * np.timedelta64(60, "s"),
        event_id=[f"e{i}" for i in range(n)],
        offers=[("<b>one</b>", "two", "three", "four", "five")],
        offer=np.zeros(n, np.int32),
    )
    rules = GateRules()
    checks = [Check("replay", "alarm", "pass", 0.0, 0.0, "All 50 replayed decisions gave the logged probabilities.")]
    ledger = judge(rows.slice(0, n // 2), rules).ledger
    verdict = judge(rows, rules, ledger=ledger, checks=checks)
    return rows, certificate(rows, verdict, rules, ledger=ledger, about=ABOUT, checks=checks)


def test_a_certificate_holds_on_its_rows_after_a_trip_through_json() -> None:
    rows, cert = evaluated()
    assert verify_certificate(json.loads(json.dumps(cert)), rows) == []


def test_a_certificate_holds_on_rows_that_went_through_a_table() -> None:
    rows, cert = evaluated()
    assert verify_certificate(cert, ScoredRows.from_frame(rows.to_frame())) == []


def test_a_changed_number_and_a_changed_row_are_both_named() -> None:
    rows, cert = evaluated()
    forged = json.loads(json.dumps(cert))
    forged["lift"]["value"] += 0.01
    lines = verify_certificate(forged, rows)
    assert any("sealed" in line for line in lines)
    assert any(line.startswith("lift.value") for line in lines)
    reward = rows.reward.copy()
    reward[7] = 1 - reward[7]
    assert any("scored rows" in line for line in verify_certificate(cert, replace(rows, reward=reward)))


def test_a_certificate_of_rule_version_6_which_took_a_forecast_for_the_rows_needed_still_has_its_page() -> None:
    rows, cert = evaluated()
    old = json.loads(json.dumps(dict(cert, rules_version=6)))
    old["verdict"] |= {"outcome": "insufficient", "rows_needed": 565_279}
    old["verdict"]["reason"] = "Not enough evidence. About 565,279 more rows are needed."
    del old["verdict"]["rows_to_show"]
    old["digest"] = certificates._digest(old)
    other = f"made by rule version 6, this is version {RULES_VERSION}"
    assert [other in line for line in verify_certificate(old, rows)] == [True]
    assert "<h1>Too early to tell</h1>" in render_report(old)


def test_a_certificate_that_put_the_same_numbers_into_other_words_holds() -> None:
    rows = make_world(31, lift=0.03).log(np.random.default_rng(1), 600)
    centre = judge(rows, GateRules()).totals.estimate("dr", "champion").value
    rows, rules = replace(rows, reward=rows.reward - centre, q=rows.q - centre), GateRules(detectable_lift=1e-6)
    cert = certificate(rows, judge(rows, rules), rules)
    assert " per decision on 600 rows" in cert["verdict"]["reason"]
    page = render_report(cert)
    assert "the champion&#39;s value, which may be 0" in page and "%</div>" not in page
    older = json.loads(json.dumps(cert))
    reason = older["verdict"]["reason"].replace("per decision", "per decision (-197.4%)")
    older["verdict"]["reason"] = reason.replace("more than a billion", "about 1,000,000,000")
    older["digest"] = certificates._digest(older)
    assert older["verdict"]["reason"].count("000,000,000") == 1
    assert verify_certificate(older, rows) == []
    older["verdict"]["reason"] = reason.replace("600 rows", "601 rows")
    older["digest"] = certificates._digest(older)
    [line] = verify_certificate(older, rows)
    assert line.startswith("verdict.reason: ")


def test_a_certificate_made_by_other_rules_says_so_and_is_still_checked_for_tampering() -> None:
    rows, cert = evaluated()
    old = dict(cert, rules_version=1)
    old["digest"] = certificates._digest(old)
    other = f"made by rule version 1, this is version {RULES_VERSION}"
    found = verify_certificate(old, rows)
    assert len(found) == 1 and other in found[0]
    forged = json.loads(json.dumps(old))
    forged["estimators"]["dr"]["candidate"]["value"] += 0.1
    found = verify_certificate(forged, rows)
    assert "changed after it was sealed" in found[0]
    assert found[1].startswith("estimators.dr.candidate.value")
    assert other in found[-1]


def test_a_certificate_from_before_errors_counted_subjects_is_checked_as_it_was_made() -> None:
    plain, of_rows = evaluated()
    rows = replace(plain, cluster=[f"u{i // 5}" for i in range(len(plain))])
    new = certificate(rows, judge(rows, GateRules()), GateRules())
    assert verify_certificate(new, rows) == []
    old = new | {"rules_version": 4} | {name: of_rows[name] for name in ("estimators", "logged", "diagnostics")}
    assert old["logged"]["se"] != new["logged"]["se"]
    assert old["diagnostics"]["curve"] != new["diagnostics"]["curve"]
    old["digest"] = certificates._digest(old)
    (line,) = verify_certificate(old, rows)
    assert "made by rule version 4" in line


def test_the_pictures_of_one_subject_have_no_intervals() -> None:
    world = make_world(35, lift=0.1)
    log = world.log(np.random.default_rng(3), 600)
    times = np.datetime64("2026-01-01", "us") + np.arange(600) * np.timedelta64(300, "s")
    names = ["phone" if i % 3 else "tablet" for i in range(600)]
    rows = replace(log, cluster=["ann"] * 400 + [f"u{i // 4}" for i in range(200)], decided_at=times, segment=names)
    cert = certificate(rows, judge(rows, GateRules()), GateRules())
    assert verify_certificate(cert, rows) == []
    assert [day["se"] is None for day in cert["diagnostics"]["days"]] == [True, False, False]
    page = render_report(cert)
    assert page.count("What one subject alone says has no interval.") == 1
    assert not re.search(r"\b(nan|None)\b", page)
    alone = certificate(replace(rows, cluster=["ann"] * 600), judge(rows, GateRules()), GateRules())
    page = render_report(alone)
    assert page.count("What one subject alone says has no interval.") == 3 and "Lift over time" not in page


def test_the_first_model_s_errors_count_subjects() -> None:
    plain, _ = evaluated(400)
    rows = replace(plain, cluster=[f"u{i // 5}" for i in range(400)])
    cert = initial_certificate(rows)
    assert cert["logged"]["se"] == pytest.approx(clustered_mean(rows.reward, rows.cluster).se)
    alone = initial_certificate(replace(rows, cluster=["ann"] * 400))
    assert alone["logged"]["se"] is None and "nan" not in alone["verdict"]["reason"]


def test_own_keys_cannot_be_set_from_outside() -> None:
    rows = make_world(32).log(np.random.default_rng(1), 300)
    with pytest.raises(ValueError, match="verdict"):
        certificate(rows, judge(rows, GateRules()), GateRules(), about={"verdict": "promote"})


def test_the_first_model_has_a_certificate_that_says_so() -> None:
    rows = make_world(33).log(np.random.default_rng(1), 400)
    cert = initial_certificate(rows, {"id": "e0"})
    assert cert["verdict"]["outcome"] == "initial"
    assert "no champion to beat" in cert["verdict"]["reason"]
    assert verify_certificate(cert, rows) == []
    assert "nothing to beat" in render_report(cert)


def test_no_rows_at_all_still_make_a_certificate_and_a_report() -> None:
    rows = ScoredRows.empty()
    cert = certificate(rows, judge(rows, GateRules()), GateRules())
    assert verify_certificate(cert, rows) == []
    assert "Not enough data" in render_report(cert)
    assert render_report(initial_certificate(rows))


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict]] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.seen.append((tag, dict(attrs)))


def test_the_report_is_one_file_without_script_and_escapes_names() -> None:
    _, cert = evaluated()
    html = render_report(cert)
    reader = _Reader()
    reader.feed(html)
    tags = [tag for tag, _ in reader.seen]
    assert not {"script", "img", "iframe"} & set(tags)
    assert all(attrs["href"] == "data:," for tag, attrs in reader.seen if tag == "link")
    assert not re.search(r"(href|src|url\()\s*=?\s*[\"']?https?:", html)
    assert "<b>one</b>" not in html and "&lt;b&gt;one" in html
    assert tags.count("svg") >= 5
    assert html.count("n = 3,000 rows") >= 5
    assert any(attrs.get("name") == "viewport" for tag, attrs in reader.seen if tag == "meta")
    assert "@media print" in html


def test_a_report_of_ten_thousand_rows_renders_in_a_tenth_of_a_second() -> None:
    _, cert = evaluated(10_000)
    render_report(cert)
    best = min(_seconds(cert) for _ in range(5))
    assert best < 0.1


def _seconds(cert: dict) -> float:
    start = time.process_time()
    render_report(cert)
    return time.process_time() - start


def test_a_placebo_promotes_about_alpha_and_a_point_estimate_half() -> None:
    rows = make_world(34).log(np.random.default_rng(1), 1500)
    found = placebo(rows, alpha=0.05, runs=300, seed=1)
    assert found is not None
    assert found.promoted / 300 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    assert 0.4 < found.higher / 300 < 0.6
    assert placebo(replace(rows, pmf=None), alpha=0.05, runs=3, seed=1) is None


def test_a_placebo_redraws_from_the_logged_distribution() -> None:
    world = make_world(35, k=3, types=4)
    rows = world.log(np.random.default_rng(1), 40_000)
    (at,), (rewards,) = redraws(rows, np.random.default_rng(2), 1)
    assert np.array_equal(np.sort(rewards), np.sort(rows.reward))
    expected = rows.pmf.reshape(-1, 3).mean(axis=0)
    assert np.bincount(at - rows.offsets[:-1], minlength=3) / 40_000 == pytest.approx(expected, abs=0.012)


def test_history_shows_each_evaluation() -> None:
    entries = [
        {
            "id": f"e{i}",
            "created_at": f"2026-01-0{i + 1}T10:00:00Z",
            "outcome": outcome,
            "n": 500,
            "lift": 0.01 * i,
            "lower": -0.1,
            "upper": 0.2,
        }
        for i, outcome in enumerate(["initial", "hold", "insufficient", "promote"])
    ]
    page = render_history(entries, "a <b> c")
    assert page.count("<circle") == 4
    assert page.count(">n = 500<") == 4
    assert ">2026-01-03<" in page
    assert '<b class="hold">1 hold</b>' in page
    assert "<b>" not in page
    assert "No evaluation" in render_history([], "x")


def test_a_ledger_in_a_certificate_reads_back() -> None:
    _, cert = evaluated()
    assert AlphaLedger.from_dict(cert["ledger_before"]).taken == 1


def test_the_lift_of_each_declared_segment_is_in_certificate_and_report() -> None:
    world = make_world(35, lift=0.1)
    log = world.log(np.random.default_rng(3), 3000)
    names = ["tablet" if i % 10 == 0 else "phone" if i % 3 else "" for i in range(3000)]
    rows = replace(log, segment=names, slot=[str(1 + i % 2) for i in range(3000)])
    assert rows.digest() != log.digest()
    cert = certificate(rows, judge(rows, GateRules()), GateRules())
    assert verify_certificate(cert, rows) == []
    segments = cert["diagnostics"]["segments"]
    assert [(part["segment"], part["n"]) for part in segments] == [("phone", 1800), ("", 900), ("tablet", 300)]
    assert [(part["segment"], part["n"]) for part in cert["diagnostics"]["slots"]] == [("1", 1500), ("2", 1500)]
    phones = paired_lift(log.where(np.array(names) == "phone"))
    assert segments[0]["lift"] == pytest.approx(phones.value, abs=1e-12)
    assert segments[0]["se"] == pytest.approx(phones.se, rel=1e-9)
    html = render_report(cert)
    assert html.count("Lift by segment") == 2
    assert html.count("Lift by slot") == 1
    assert "(none)" in html
    assert "Lift by segment" not in render_report(certificate(log, judge(log, GateRules()), GateRules()))


def test_more_segments_than_are_kept_apart_are_one() -> None:
    lifts = np.arange(3000.0)
    table = lift_by_segment(lifts, [str(i % 1500) for i in range(3000)])
    assert table[0] == {"segment": "(others)", "n": 1000, "lift": pytest.approx(table[0]["lift"]), "se": table[0]["se"]}
    assert len(table) == 50


def test_the_lift_that_decides_comes_first_with_the_gates_own_bound() -> None:
    _, cert = evaluated()
    html = render_report(cert)
    first = html.partition("<figure>")[2].partition("</figure>")[0]
    assert "Paired lift with its interval" in first
    assert 'class="dot gate"' in first
    assert html.index("The lift that decides") < html.index("What both policies are worth")
    rules = GateRules(margin=0.02)
    rows = make_world(31, lift=0.05).log(np.random.default_rng(1), 1000)
    assert "to be passed: +0.0200" in render_report(certificate(rows, judge(rows, rules), rules))
    loose = GateRules(margin=0.1, mode="noninferiority")
    assert "to be passed: −0.0" in render_report(certificate(rows, judge(rows, loose), loose))


def test_every_badge_can_be_read_on_its_colour() -> None:
    """The colours of the checks' marks belong to table cells: on a badge of the same colour they hid its text."""
    page = render_report(certificate(ScoredRows.empty(), judge(ScoredRows.empty(), GateRules()), GateRules()))
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert not re.search(r"(?<![\w.])\.(pass|fail|insufficient)\s*\{[^}]*\bcolor:", style)
    assert re.search(r"td\.insufficient\s*\{[^}]*\bcolor:", style)


def test_labels_of_a_picture_never_overlap_and_long_names_are_clipped() -> None:
    edges = [2.0**power for power in range(-10, 4)]
    drawn = histograms([("candidate", edges, [5] * 13, 40)], title="w", unit="u")
    below = max(float(y) for y in re.findall(r'class="small" x="[\d.]+" y="([\d.]+)" text-anchor="middle"', drawn))
    at = [
        (float(x), label)
        for x, y, label in re.findall(r'class="small" x="([\d.]+)" y="([\d.]+)" text-anchor="middle">([^<]+)', drawn)
        if float(y) == below
    ]
    assert len(at) >= 5
    for (x, label), (following, other) in pairwise(sorted(at)):
        assert following - x > 6 * (len(label) + len(other)) / 2
    world = make_world(35, lift=0.1).log(np.random.default_rng(3), 600)
    rows = replace(world, segment=["a very long name of a segment", "b"] * 300)
    html = render_report(certificate(rows, judge(rows, GateRules()), GateRules()))
    assert ">a very long…<" in html
    assert "<td>a very long name of a segment</td>" in html


def test_damage_of_any_kind_is_a_difference_and_never_a_crash() -> None:
    rows, cert = evaluated()
    for path in (("rows",), ("verdict",), ("ledger_before", "looks"), ("rules", "alpha"), ("kind",), ("hyper", "clip")):
        damaged = json.loads(json.dumps(cert))
        at = damaged
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = "x"
        assert "changed after it was sealed" in verify_certificate(damaged, rows)[0]
        del at[path[-1]]
        assert "changed after it was sealed" in verify_certificate(damaged, rows)[0]
    far = rows.reward.copy()
    far[0] = 1e300
    with np.errstate(over="ignore", invalid="ignore"):
        assert "scored rows" in verify_certificate(cert, replace(rows, reward=far))[0]


def test_a_page_that_was_changed_is_named_and_one_of_another_edition_is_left_alone() -> None:
    _, cert = evaluated()
    page = render_report(json.loads(json.dumps(cert)))
    assert page_differences(cert, page) == []
    assert page_differences(cert, page.replace("+0.0", "+0.1", 1)) == [
        "report.html is not the page that the certificate gives"
    ]
    assert page_differences(cert, "") != []
    assert page_differences(cert, page.replace(edition(), "rewardloop report 0123456789ab")) is None
