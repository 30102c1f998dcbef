"""The learner: ingest, join, train, evaluate, promote; its scheduler, admin API and console."""
