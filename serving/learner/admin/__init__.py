"""What the learner shows and takes over HTTP: admin API, console and metrics."""
