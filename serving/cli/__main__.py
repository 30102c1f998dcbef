"""`python -m serving.cli` is the `rewardloop` command."""

from serving.cli import main

main()
