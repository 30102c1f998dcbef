"""Worlds with known answers, the client app that lives in them, and the runner that plays them against a loop."""
