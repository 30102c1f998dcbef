"""The decision API: what client applications talk to, over HTTP or inside one process."""
