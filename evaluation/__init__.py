"""Offline evaluation and the gate: numpy arrays in; estimates, verdicts, certificates and reports out."""
