"""From the event log to training rows: ingest, the join of decisions with rewards, import and export."""
