// The longer job (scripts/web-test.sh --long): SmolLM2 from the server's catalogue, with the tokens of tests/figures.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { browser, open, root, serve } from "./lib.mjs";

const { cases } = JSON.parse(readFileSync(path.join(root, "tests/figures/smollm2.json"), "utf8"));

/** @type {any} */ let chromium;
/** @type {{ url: string, stop: () => void }} */ let server;
before(async () => {
    server = await serve(path.join(root, "target/web/package"));
    chromium = await browser();
});
after(async () => {
    await chromium?.close();
    server?.stop();
});

for (const device of ["cpu", "webgpu"]) {
    test(`SmolLM2 says on ${device} what the figures say`, { timeout: 1_800_000 }, async () => {
        const { page, context } = await open(chromium, server.url);
        page.setDefaultTimeout(0);
        const [entry] = (await (await fetch(`${server.url}models`)).json()).filter((/** @type {any} */ m) => m.name === "smollm2-135m");
        for (const [i, wanted] of cases.entries()) {
            // Every figure on the CPU; on a software adapter the first, and its first tokens.
            if (device === "webgpu" && i > 0) break;
            const most = device === "webgpu" ? 10 : wanted.output_ids.length;
            const got = await page.evaluate(
                async (/** @type {any} */ { url, device, prompt, most }) => {
                    const { open } = /** @type {any} */ (globalThis).warpweft;
                    const start = performance.now();
                    const model = await open(url, { device, context: 256 });
                    const opened = (performance.now() - start) / 1000;
                    const ids = [];
                    const answer = model.generate(prompt, { maxTokens: most });
                    for await (const token of answer) ids.push(token.id);
                    return { ids, opened, figures: await answer.figures, info: model.info(), left: await model.close() };
                },
                { url: new URL(entry.url, server.url).href, device, prompt: wanted.prompt, most },
            );
            const { opened, figures, info } = got;
            console.log(`# ${wanted.name} on ${device}: opened in ${opened.toFixed(1)} s, first token ${figures.firstTokenSeconds.toFixed(2)} s, prompt ${figures.promptPerSecond.toFixed(1)} tokens/s, answer ${figures.tokensPerSecond.toFixed(2)} tokens/s; ${(info.wasmBytes / 2 ** 20).toFixed(0)} MiB WebAssembly, ${(info.gpuBytes / 2 ** 20).toFixed(0)} MiB GPU`);
            assert.equal(info.device, device);
            assert.equal(got.left, 0);
            const differs = got.ids.findIndex((/** @type {number} */ id, /** @type {number} */ at) => id !== wanted.output_ids[at]);
            // Where the reference's own two likeliest are that near, either is right.
            if (differs >= 0) assert.ok(wanted.step_margin[differs] <= 0.05, `${wanted.name}: token ${differs} is ${got.ids[differs]}, ${wanted.output_ids[differs]} is right`);
            else assert.ok(got.ids.length >= Math.min(most, wanted.output_ids.length));
            // Weights went to the GPU while they came: WebAssembly never held them.
            if (device === "webgpu") assert.ok(info.wasmBytes < info.weightBytes * 0.75, `${info.wasmBytes} bytes of WebAssembly for ${info.weightBytes} of weights`);
        }
        await context.close();
    });
}
