// The Vercel `ai` package with its three providers that speak to an address of one's own. Run by test_neighbours.py.

import assert from "node:assert/strict";
import { createMistral } from "@ai-sdk/mistral";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, streamText } from "ai";

const baseURL = process.env.GALERNE_URL + "/v1";
const apiKey = process.env.GALERNE_API_KEY;
const name = process.env.GALERNE_MODEL;
const ask = { prompt: "Name one wind of the Mediterranean.", maxOutputTokens: 8, maxRetries: 0 };
const compatible = createOpenAICompatible({ name: "galerne", baseURL, apiKey, includeUsage: true });

const tests = {
  "an answer through openai-compatible": async () => {
    const answer = await generateText({ model: compatible(name), ...ask });
    assert.ok(answer.text.trim());
    assert.ok(answer.usage.outputTokens > 0 && answer.usage.outputTokens <= 8);
  },
  "a stream with its usage": async () => {
    const stream = streamText({ model: compatible(name), ...ask });
    let text = "";
    for await (const part of stream.textStream) text += part;
    assert.ok(text.trim());
    assert.ok((await stream.usage).outputTokens > 0);
  },
  "an answer through openai": async () => {
    const answer = await generateText({ model: createOpenAI({ baseURL, apiKey }).chat(name), ...ask });
    assert.ok(answer.text.trim());
  },
  "an answer through mistral": async () => {
    const answer = await generateText({ model: createMistral({ baseURL, apiKey })(name), ...ask });
    assert.ok(answer.text.trim());
    assert.ok(answer.usage.outputTokens > 0);
  },
  "an unknown model is an error with our words": async () => {
    await assert.rejects(generateText({ model: compatible("nothing-like-it"), ...ask }), (error) => {
      assert.ok(APICallError.isInstance(error));
      assert.equal(error.statusCode, 404);
      assert.match(error.message, /nearest/);
      return true;
    });
  },
};

let passed = 0;
for (const [title, run] of Object.entries(tests)) {
  try {
    await run();
    passed += 1;
  } catch (error) {
    console.error(`${title}:`, error);
  }
}
console.log(`${passed} passed`);
process.exit(passed === Object.keys(tests).length ? 0 : 1);
