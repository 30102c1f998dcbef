// Ask which action to show and report what came of it, with nothing but fetch.
// Start a service (`rewardloop up --quick`) and run `node examples/ask_and_report.mjs`.

const base = `${process.argv[2] ?? "http://127.0.0.1:8000"}/v1/experiments/default`;

async function post(path, body, timeout) {
  const answer = await fetch(base + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(timeout),
  });
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer.json();
}

let choice;
try {
  const question = { context: { hour: 20, device: "phone" }, actions: [{ id: "news" }, { id: "sport" }] };
  choice = await post("/recommend", question, 250);
} catch {
  choice = { action: "news" }; // the page goes on with its default, of which the service knows nothing
}
console.log(choice.action, choice.event_id ? "learnable" : "the default");

if (choice.event_id) {
  const taken = await post("/rewards", { event_id: choice.event_id, reward: 1 }, 2000);
  console.log(`${taken.accepted} reward on disk`);
}
