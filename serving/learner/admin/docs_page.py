"""The page at `/docs`: every address of the admin API with what it is for, out of `/openapi.json`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Response

from serving.learner.admin.console import page


def add_docs(app: FastAPI) -> None:
    """Put the page into the admin app, whose addresses are all there by now."""
    addresses = [
        {"method": method.upper(), "path": path, "purpose": operation["description"], "asks": _asks(operation)}
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
    ]

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        return page("docs.html", title="Admin API", addresses=addresses)


def _asks(operation: dict[str, Any]) -> str:
    """The parameters that an address takes after its `?`."""
    return ", ".join(entry["name"] for entry in operation.get("parameters", ()) if entry["in"] == "query")
