"""The yardstick: FastAPI's hello world, answering a POST on the same server with the same options."""

from __future__ import annotations

import argparse
import os

import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.post("/hello")
async def hello() -> dict[str, str]:
    """What the tutorial does."""
    return {"message": "hello world"}


def main() -> None:
    """Serve it on one core."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--core", type=int)
    chosen = parser.parse_args()
    if chosen.core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {chosen.core})
    uvicorn.run(app, port=chosen.port, loop="uvloop", http="httptools", access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
