"""A verdict has the same colour on the console and in its report, and its name can be read on it."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

from evaluation.history import render_history

ROOT = Path(__file__).parent.parent.parent
CONSOLE, REPORT = ROOT / "serving/learner/admin/pages/base.html", ROOT / "evaluation/report.html.j2"
BADGE = re.compile(r"([^{}]*)\{ color:(#\w+); background:(#\w+) \}")
RED = "#b42318"


def badges(page: Path, name: str) -> dict[str, tuple[str, str]]:
    """Text and ground of each verdict's badge, whose class is `name`."""
    found = {}
    for rule, text, ground in BADGE.findall(page.read_text("utf-8")):
        for verdict in re.findall(rf"\.{name}\.(\w+)", rule):
            found[verdict] = (text, ground)
    return found


def light(colour: str) -> float:
    """Relative luminance (WCAG 2)."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_console_and_report_colour_a_verdict_alike() -> None:
    console, report = badges(CONSOLE, "outcome"), badges(REPORT, "badge")
    assert set(report) == {"promote", "hold", "insufficient", "initial"}
    assert report == {verdict: console[verdict] for verdict in report}


def test_red_is_for_what_failed_or_was_taken_back_alone() -> None:
    console = badges(CONSOLE, "outcome")
    assert {verdict for verdict, (_, ground) in console.items() if ground == RED} == {"failed", "rollback"}
    assert light(console["insufficient"][1]) > light(console["hold"][1])


def test_an_interval_has_the_colour_of_its_verdict_and_is_red_for_no_other() -> None:
    page = CONSOLE.read_text("utf-8")
    red = re.findall(r"([^{}]*)\{ stroke:var\(--bad\) \}", page)
    assert {verdict for rule in red for verdict in re.findall(r"\.verdicts \.(\w+)", rule)} == {"failed", "rollback"}
    assert re.search(r"\.verdicts \.insufficient \.dot \{ opacity", page)
    assert '<li class="{{ run.outcome }}">' in (CONSOLE.parent / "experiment.html").read_text("utf-8")
    over_time = render_history([], "test")
    assert RED not in over_time and ".hold{stroke:#4b6384" in over_time


def test_every_badge_can_be_read() -> None:
    for page, name in ((CONSOLE, "outcome"), (REPORT, "badge")):
        for text, ground in badges(page, name).values():
            assert contrast(text, ground) >= 4.5


def test_words_can_be_read_on_every_ground_in_light_dark_and_print() -> None:
    for page in (CONSOLE, REPORT):
        schemes = re.findall(r":root \{([^}]*)\}", page.read_text("utf-8"))
        assert len(schemes) == 3
        for scheme in schemes:
            colours = dict(re.findall(r"--(\w+):(#\w+);", scheme))
            for word, ground in product(("ink", "soft", "good", "bad", "wait"), ("paper", "page")):
                assert contrast(colours[word], colours[ground]) >= 4.5, (page.name, word, ground)
