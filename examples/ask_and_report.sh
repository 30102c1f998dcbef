#!/bin/sh
# Ask which action to show and report what came of it, with nothing but curl.
# Start a service (`rewardloop up --quick`) and run `sh examples/ask_and_report.sh`.
set -eu
base="${1:-http://127.0.0.1:8000}/v1/experiments/default"

answer=$(curl -sS --fail-with-body --max-time 2 "$base/recommend" -H 'content-type: application/json' \
  -d '{"context": {"hour": 20, "device": "phone"}, "actions": [{"id": "news"}, {"id": "sport"}]}')
echo "$answer"

event_id=$(printf '%s' "$answer" | sed 's/.*"event_id": *"\([^"]*\)".*/\1/')
curl -sS --fail-with-body --max-time 2 "$base/rewards" -H 'content-type: application/json' \
  -d "{\"event_id\": \"$event_id\", \"reward\": 1}"
echo
