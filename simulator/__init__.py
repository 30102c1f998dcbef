"""Worlds with known answers, and the client app that lives in them."""
