// Azure Personalizer's published JavaScript client, used as its README shows; prints what it saw as JSON.
const { PersonalizerClient } = require("@azure/cognitiveservices-personalizer");
const { ApiKeyCredentials, RestError } = require("@azure/ms-rest-js");

async function main(endpoint, key) {
  const credentials = new ApiKeyCredentials({ inHeader: { "Ocp-Apim-Subscription-Key": key } });
  const client = new PersonalizerClient(credentials, endpoint, { noRetryPolicy: true });
  const request = {
    eventId: "js-1",
    deferActivation: true,
    contextFeatures: [{ timeOfDay: "morning" }, { device: { mobile: true } }],
    actions: [
      { id: "pasta", features: [{ taste: "salty" }, { nutrition: { calories: 400 } }] },
      { id: "juice", features: [{ taste: "sweet" }] },
      { id: "soup", features: [{ taste: "salty" }] },
    ],
    excludedActions: ["juice"],
  };
  const seen = {};
  const ranked = await client.rank(request);
  seen.status = ranked._response.status;
  seen.eventId = ranked.eventId;
  seen.rewardActionId = ranked.rewardActionId;
  seen.ranking = ranked.ranking;
  seen.activated = (await client.events.activate("js-1"))._response.status;
  seen.rewarded = (await client.events.reward("js-1", { value: 0.5 }))._response.status;
  try {
    await client.rank({ actions: request.actions, excludedActions: ["pasta", "juice", "soup"] });
  } catch (error) {
    seen.error = { isRestError: error instanceof RestError, status: error.statusCode, body: error.body };
  }
  try {
    await client.events.reward("js-1", { value: 9 });
  } catch (error) {
    seen.rewardError = { isRestError: error instanceof RestError, status: error.statusCode };
  }
  process.stdout.write(JSON.stringify(seen));
}

main(process.argv[2], process.argv[3]).catch((error) => {
  process.stderr.write(String(error.stack || error));
  process.exit(1);
});
