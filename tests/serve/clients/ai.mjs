// The `ai` package with @ai-sdk/openai-compatible against the server.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [base, model, embedModel, folder] = process.argv.slice(2);
// The packages lie in the user's cache, not beside this file.
const require = createRequire(pathToFileURL(`${folder}/package.json`));
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { embed, generateText, streamText, tool } = await load("ai");
const { createOpenAICompatible } = await load("@ai-sdk/openai-compatible");
const { z } = await load("zod");

const provider = createOpenAICompatible({ name: "warpweft", baseURL: `${base}/v1`, includeUsage: true });
const ask = { model: provider(model), prompt: "What is the capital of France?", temperature: 0, maxOutputTokens: 30, maxRetries: 0 };
const PARIS = "The capital of France is Paris.";

const whole = await generateText(ask);
assert.equal(whole.text, PARIS);
assert.equal(whole.finishReason, "stop");
assert.equal(whole.usage.outputTokens, 8);

const stream = streamText(ask);
let text = "";
for await (const part of stream.textStream) text += part;
assert.equal(text, PARIS);
assert.equal((await stream.usage).outputTokens, 8);

const weather = tool({ description: "The weather of a city.", inputSchema: z.object({ city: z.enum(["Paris", "Berlin"]) }) });
const called = await generateText({ ...ask, maxOutputTokens: 120, tools: { weather }, toolChoice: { type: "tool", toolName: "weather" } });
assert.equal(called.toolCalls[0].toolName, "weather");
assert.ok(["Paris", "Berlin"].includes(called.toolCalls[0].input.city));

const { embedding } = await embed({ model: provider.textEmbeddingModel(embedModel), value: "a hen", maxRetries: 0 });
assert.equal(embedding.length, 384);
console.log("ai, @ai-sdk/openai-compatible: generateText, streamText, tools, embed");
