// The models of the catalogue in Chromium, against figures from elsewhere (tests/figures, with their provenance).

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { chromium, host, open, root, server } from "./lib.mjs";

/** @param {string} name */
const figures = (name) => JSON.parse(readFileSync(path.join(root, `tests/figures/${name}.json`), "utf8")).cases;
const cases = figures("smollm2");

/** Where the server has a model. @param {string} name */
async function address(name) {
    const all = await (await fetch(`${server.url}models`)).json();
    return new URL(all.find((/** @type {any} */ m) => m.name === name).url, server.url).href;
}

host();

for (const device of ["cpu", "webgpu"]) {
    test(`SmolLM2 says on ${device} what the figures say`, { timeout: 1_800_000 }, async () => {
        const { page, context } = await open(chromium, server.url);
        page.setDefaultTimeout(0);
        const url = await address("smollm2-135m");
        for (const [i, wanted] of cases.entries()) {
            // Every figure on the CPU; on a software adapter the first, and its first tokens.
            if (device === "webgpu" && i > 0) break;
            const most = device === "webgpu" ? 10 : wanted.output_ids.length;
            const ask = () =>
                page.evaluate(
                    async (/** @type {any} */ { url, device, prompt, most }) => {
                        const { open } = /** @type {any} */ (globalThis).warpweft;
                        const submissions = /** @type {number[]} */ ([]);
                        new BroadcastChannel("instruments").onmessage = (e) =>
                            e.data.submission && submissions.push(e.data.submission);
                        const start = performance.now();
                        const model = await open(url, { device, context: 256 });
                        const opened = (performance.now() - start) / 1000;
                        const ids = [];
                        const answer = model.generate(prompt, { maxTokens: most });
                        for await (const token of answer) ids.push(token.id);
                        return {
                            ids,
                            opened,
                            figures: await answer.figures,
                            info: model.info(),
                            left: await model.close(),
                            submissions,
                        };
                    },
                    { url, device, prompt: wanted.prompt, most },
                );
            // Half a second is what a submission may take (src/device/pace.rs). A machine that does much else besides can stop one
            // for longer: of three whole rounds one has to keep to it throughout.
            let got = await ask();
            const longest = () => Math.max(...got.submissions);
            for (let round = 1; device === "webgpu" && round < 3 && longest() >= 500; round++) {
                console.log(`# a submission took ${longest().toFixed(0)} ms: once more`);
                got = await ask();
            }
            const { opened, figures, info } = got;
            console.log(
                `# ${wanted.name} on ${device}: opened in ${opened.toFixed(1)} s, first token ${figures.firstTokenSeconds.toFixed(2)} s, prompt ${figures.promptPerSecond.toFixed(1)} tokens/s, answer ${figures.tokensPerSecond.toFixed(2)} tokens/s; ${(info.wasmBytes / 2 ** 20).toFixed(0)} MiB WebAssembly, ${(info.gpuBytes / 2 ** 20).toFixed(0)} MiB GPU`,
            );
            if (device === "webgpu") {
                console.log(`# ${got.submissions.length} submissions, the longest of ${longest().toFixed(0)} ms`);
                assert.ok(longest() < 500, `a submission took ${longest()} ms`);
            }
            assert.equal(info.device, device);
            assert.equal(got.left, 0);
            const differs = got.ids.findIndex(
                (/** @type {number} */ id, /** @type {number} */ at) => id !== wanted.output_ids[at],
            );
            // Where the reference's own two likeliest are that near, either is right.
            if (differs >= 0)
                assert.ok(
                    wanted.step_margin[differs] <= 0.05,
                    `${wanted.name}: token ${differs} is ${got.ids[differs]}, ${wanted.output_ids[differs]} is right`,
                );
            else assert.ok(got.ids.length >= Math.min(most, wanted.output_ids.length));
            // Weights went to the GPU while they came: WebAssembly never held them.
            if (device === "webgpu")
                assert.ok(
                    info.wasmBytes < info.weightBytes * 0.5,
                    `${info.wasmBytes} bytes of WebAssembly for ${info.weightBytes} of weights`,
                );
        }
        await context.close();
    });
}

test("MiniLM's embeddings are those of the figures", async () => {
    const { page, context } = await open(chromium, server.url);
    const all = figures("minilm");
    for (const device of ["cpu", "webgpu"]) {
        const got = await page.evaluate(
            async (/** @type {any} */ { url, device, texts }) => {
                const { open } = /** @type {any} */ (globalThis).warpweft;
                const model = await open(url, { device });
                const made = (await model.embed(texts)).map((/** @type {Float32Array} */ v) => [...v]);
                const refused = await model.generate("a").figures.catch((/** @type {any} */ e) => e.code);
                return { made, refused, left: await model.close() };
            },
            { url: await address("minilm"), device, texts: all.map((/** @type {any} */ c) => c.text) },
        );
        assert.deepEqual([got.left, got.refused], [0, "model"]);
        all.forEach((/** @type {any} */ c, /** @type {number} */ i) => {
            const worst = Math.max(
                ...c.embedding.map((/** @type {number} */ v, /** @type {number} */ k) => Math.abs(v - got.made[i][k])),
            );
            assert.ok(worst < 1e-4, `"${c.text}" on ${device} is off by ${worst}`);
        });
    }
    await context.close();
});

test("the page fetches SmolLM2 with a progress bar, streams its answer on WebGPU without a stall, keeps it and deletes it", {
    timeout: 900_000,
}, async () => {
    const context = await chromium.newContext();
    const page = await context.newPage();
    page.setDefaultTimeout(600_000);
    await page.goto(server.url);
    await page.waitForFunction(() => /** @type {any} */ (document.querySelector("#model"))?.options.length > 0);
    // Each value of the bar and of the answer, as a user sees them; and every task that held the page up.
    await page.evaluate(() => {
        const seen = {
            bar: /** @type {any[]} */ ([]),
            said: /** @type {any[]} */ ([]),
            held: /** @type {any[]} */ ([]),
        };
        /** @type {any} */ (globalThis).seen = seen;
        const bar = /** @type {HTMLProgressElement} */ (document.querySelector("#progress"));
        new MutationObserver(() => bar.max > 1e6 && seen.bar.push(bar.value / bar.max)).observe(bar, {
            attributes: true,
        });
        new MutationObserver(() =>
            seen.said.push(document.querySelector(".assistant .words")?.textContent ?? ""),
        ).observe(/** @type {Element} */ (document.querySelector("#talk")), {
            childList: true,
            characterData: true,
            subtree: true,
        });
        new PerformanceObserver((list) => seen.held.push(...list.getEntries().map((e) => e.duration))).observe({
            type: "longtask",
            buffered: true,
        });
    });
    await page.selectOption("#model", "smollm2-135m");
    await page.selectOption("#device", "webgpu");
    await page.click("#open");
    await page.waitForSelector("#progress", { state: "visible" });
    await page.waitForSelector("#ask:not([hidden])");
    const wanted = cases.find((/** @type {any} */ c) => c.name === "chat_france").output_text;
    await page.fill("#most", "6");
    await page.fill("#text", "What is the capital of France?");
    await page.click("#send");
    await page.waitForSelector("#talk article.assistant[aria-busy='false']");
    const said = await page.textContent("#talk article.assistant .words");
    assert.ok(said.length > 5 && wanted.startsWith(said), `it says "${said}", the figures say "${wanted}"`);
    assert.match(await page.textContent("#adapter"), /WebGPU/);
    const seen = await page.evaluate(() => /** @type {any} */ (globalThis).seen);
    assert.ok(seen.bar.length > 3 && seen.bar.at(-1) === 1, `the bar had ${seen.bar.length} values`);
    assert.deepEqual(
        seen.bar,
        [...seen.bar].sort((a, b) => a - b),
    );
    assert.ok(new Set(seen.said).size >= 5, "the answer comes token by token");
    console.log(`# the page was held up at most ${Math.max(0, ...seen.held).toFixed(0)} ms`);
    assert.ok(Math.max(0, ...seen.held) < 400, `the page stood still for ${Math.max(...seen.held)} ms`);
    await page.click("#kept summary");
    await page.waitForSelector("#kept-list button");
    assert.match(await page.textContent("#kept-list"), /SmolLM2.*94 MiB/);
    await page.click("#kept-list button");
    await page.waitForFunction(() => document.querySelector("#kept-list")?.textContent?.includes("None so far"));
    await context.close();
});
