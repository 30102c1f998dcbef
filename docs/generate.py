"""Writes the reference pages that come out of the code: `python docs/generate.py` (a test compares them)."""

from __future__ import annotations

import json
from pathlib import Path

from bandit.settings_reference import settings_reference

HERE = Path(__file__).parent

INTRODUCTION = """# Settings of an experiment

Every setting, its default and its limit. In the TOML file they stand under `[experiments.<name>]`
(`rewardloop init` writes one with these comments); over the admin API they are the JSON object of the same shape.
A key that is not in this table is refused by name. This page is written by `python docs/generate.py`.

| setting | default | values | meaning |
|---|---|---|---|
"""


def settings_page() -> str:
    """The Markdown text of docs/settings.md."""
    rows = []
    for setting in settings_reference():
        default = "none" if setting.default is None else f"`{json.dumps(setting.default)}`"
        limit = f" {setting.limit}" if setting.limit else ""
        values = f"{setting.kind}{limit}".replace("|", "\\|")
        rows.append(f"| `{setting.key}` | {default} | {values} | {setting.meaning.replace('|', '&#124;')} |")
    return INTRODUCTION + "\n".join(rows) + "\n"


if __name__ == "__main__":
    (HERE / "settings.md").write_text(settings_page(), "utf-8")
