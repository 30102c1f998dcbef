"""The running processes: decision API, learner, supervisor, command line, and the in-process transport."""
