"""The decision API: recommend and rewards over HTTP, acknowledged only once they are on disk."""
