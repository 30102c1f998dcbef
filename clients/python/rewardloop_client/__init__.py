"""Client of the rewardloop decision API."""
