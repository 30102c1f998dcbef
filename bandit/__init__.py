"""Deciding and learning: vocabulary, settings, feature encoding, policies, the event log and the models.

This package imports none of the others. It is rewardloop's; an unrelated linter on the package index
shares its import name, and the command line refuses to start on that one.
"""

__version__ = "0.1.0"
