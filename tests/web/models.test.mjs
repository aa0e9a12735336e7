// Models in Chromium: the native engine's greedy tokens, however the model came, wherever it runs.

import assert from "node:assert/strict";
import { test } from "node:test";
import { chromium, expected, host, memory, models, open, server } from "./lib.mjs";

host({ checkpoints: true });

const { prompt } = expected;
const { first, second } = expected.models;
const count = first.ids.length;

/** Opens, generates, closes: tokens, text, events, notices, figures. @param {any} page @param {string} url @param {object} options */
function answer(page, url, options) {
    return page.evaluate(
        async (/** @type {any} */ { url, options, prompt, count }) => {
            const { open } = /** @type {any} */ (globalThis).warpweft;
            const [events, notices] = [/** @type {any[]} */ ([]), /** @type {string[]} */ ([])];
            const model = await open(url, {
                ...options,
                onProgress: (/** @type {any} */ e) => events.push(e),
                onNotice: (/** @type {string} */ n) => notices.push(n),
            });
            const [info, ids] = [model.info(), /** @type {number[]} */ ([])];
            let text = "";
            const made = model.generate(prompt, { maxTokens: count, temperature: 0 });
            for await (const token of made) {
                ids.push(token.id);
                text += token.text;
            }
            const figures = await made.figures;
            return { info, ids, text, events, notices, figures, left: await model.close() };
        },
        { url, options, prompt, count },
    );
}

for (const [name, query, device] of [
    ["the adapter's limits", "", "webgpu"],
    ["the floor", "?floor", "webgpu"],
    ["the CPU", "", "cpu"],
]) {
    test(`the native tokens stream within ${name}, while progress is told`, async () => {
        const { page, context, complaints } = await open(chromium, server.url, query);
        for (const want of [first, second]) {
            const got = await answer(page, models.url + want.file, { device });
            assert.deepEqual(got.ids, want.ids, want.file);
            assert.equal(got.text, want.text);
            assert.equal(got.info.device, device);
            assert.equal(got.info.gpuBytes > 0, device === "webgpu");
            assert.equal(got.left, 0, "close gives all GPU memory back");
            assert.deepEqual([got.figures.stop, got.figures.tokens], ["length", count]);
            assert.ok(got.figures.firstTokenSeconds > 0 && got.figures.tokensPerSecond > 0);
            const loaded = got.events
                .filter((/** @type {any} */ e) => e.stage === "download")
                .map((/** @type {any} */ e) => e.loaded);
            assert.equal(loaded.at(-1), got.events.find((/** @type {any} */ e) => e.stage === "download").total);
            assert.deepEqual(
                loaded,
                [...loaded].sort((a, b) => a - b),
            );
        }
        assert.deepEqual(complaints, []);
        await context.close();
    });
}

test("a File, an ArrayBuffer, a stream and a folder give the same tokens", async () => {
    const { page, context } = await open(chromium, server.url);
    const got = await page.evaluate(
        async (/** @type {any} */ { base, prompt, count }) => {
            const { open } = /** @type {any} */ (globalThis).warpweft;
            const bytes = await (await fetch(`${base}first.gguf`)).arrayBuffer();
            const names = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];
            const folder = await Promise.all(
                names.map(async (name) => new File([await (await fetch(`${base}first/${name}`)).blob()], name)),
            );
            const sources = {
                file: new File([bytes], "first.gguf"),
                buffer: bytes,
                view: new Uint8Array(bytes),
                stream: new Blob([bytes]).stream(),
                files: folder,
                url: `${base}first/`,
            };
            const out = /** @type {Record<string, number[]>} */ ({});
            for (const [name, source] of Object.entries(sources)) {
                const model = await open(source, { device: "webgpu", cache: false });
                out[name] = [];
                for await (const token of model.generate(prompt, { maxTokens: count })) out[name].push(token.id);
                await model.close();
            }
            return out;
        },
        { base: models.url, prompt, count },
    );
    for (const [name, ids] of Object.entries(got)) assert.deepEqual(ids, first.ids, name);
    assert.equal(Object.keys(got).length, 6);
    await context.close();
});

test("a model is kept, read again without the network, told with its size, replaced when stale, and deleted", async () => {
    const { page, context } = await open(chromium, server.url);
    const kept = (/** @type {any} */ f) => page.evaluate(f);
    const list = () => kept(() => /** @type {any} */ (globalThis).warpweft.kept.list());
    const gets = () => models.asked.get("GET /second.gguf") ?? 0;
    const url = `${models.url}second.gguf?versioned`;
    const before = gets();
    assert.ok(
        (await answer(page, url, { device: "cpu" })).events.some((/** @type {any} */ e) => e.stage === "download"),
    );
    const again = await answer(page, url, { device: "cpu" });
    assert.ok(
        again.events.every((/** @type {any} */ e) => e.stage !== "download"),
        "the second time it comes from the private files",
    );
    assert.deepEqual(again.ids, second.ids);
    assert.equal(gets(), before + 1);
    const all = await list();
    assert.deepEqual(
        all.map((/** @type {any} */ e) => e.url),
        [url],
    );
    assert.equal(all[0].size, again.events.find((/** @type {any} */ e) => e.stage === "read").total);
    await kept(() => /** @type {any} */ (globalThis).warpweft.kept.remove());
    assert.deepEqual(await list(), []);
    // Another version at the same address.
    for (const [version, downloads] of /** @type {[string, boolean][]} */ ([
        ["a", true],
        ["a", false],
        ["b", true],
    ])) {
        models.state.version = version;
        const got = await answer(page, url, { device: "cpu" });
        assert.equal(
            got.events.some((/** @type {any} */ e) => e.stage === "download"),
            downloads,
            `version ${version}`,
        );
        assert.deepEqual(got.ids, second.ids);
    }
    await context.close();
});

test("a cancel is heard while answering and while downloading, and nothing is left behind", async () => {
    const { page, context } = await open(chromium, server.url);
    const got = await page.evaluate(
        async (/** @type {any} */ { base, prompt, count }) => {
            const { open, kept } = /** @type {any} */ (globalThis).warpweft;
            const model = await open(`${base}first.gguf`, { device: "webgpu", cache: false });
            const stop = new AbortController();
            const made = model.generate(prompt, { maxTokens: 100, signal: stop.signal });
            const ids = [];
            let waited = 0;
            for await (const token of made) {
                ids.push(token.id);
                if (ids.length === 3) {
                    waited = performance.now();
                    stop.abort();
                }
            }
            waited = performance.now() - waited;
            const figures = await made.figures;
            // Leaving the loop ends an answer, too; and what comes next is not touched by it.
            for await (const _ of model.generate(prompt, { maxTokens: 100 })) break;
            const after = [];
            for await (const token of model.generate(prompt, { maxTokens: count })) after.push(token.id);
            await model.close();

            const loading = new AbortController();
            const start = performance.now();
            const error = await open(`${base}first.gguf?slow`, {
                signal: loading.signal,
                onProgress: () => loading.abort(),
            }).catch((/** @type {any} */ e) => e);
            return {
                ids,
                stop: figures.stop,
                waited,
                after,
                error: [error.code, error.name],
                took: performance.now() - start,
                kept: await kept.list(),
            };
        },
        { base: models.url, prompt, count },
    );
    assert.ok(got.ids.length >= 3 && got.ids.length < 20, `${got.ids.length} tokens came`);
    assert.deepEqual(got.ids, first.ids.slice(0, got.ids.length));
    assert.equal(got.stop, "cancelled");
    assert.ok(got.waited < 1000, `it took ${got.waited} ms`);
    assert.deepEqual(got.after, first.ids);
    assert.deepEqual(got.error, ["cancelled", "AbortError"]);
    assert.ok(got.took < 5000);
    assert.deepEqual(got.kept, [], "half a model is not kept");
    await context.close();
});

test("two models in one page answer at the same time, and so do two tabs", async () => {
    const pages = [await open(chromium, server.url), await open(chromium, server.url)];
    const got = await Promise.all(
        pages.map(({ page }) =>
            page.evaluate(
                async (/** @type {any} */ { base, prompt, count }) => {
                    const { open } = /** @type {any} */ (globalThis).warpweft;
                    const [a, b] = await Promise.all([
                        open(`${base}first.gguf`, { device: "webgpu" }),
                        open(`${base}second.gguf`, { device: "webgpu" }),
                    ]);
                    const all = async (/** @type {any} */ model) => {
                        const ids = [];
                        for await (const token of model.generate(prompt, { maxTokens: count })) ids.push(token.id);
                        return ids;
                    };
                    const ids = await Promise.all([all(a), all(b)]);
                    // The second goes on after the first was closed.
                    const left = await a.close();
                    return { ids, left, after: await all(b), closed: await b.close() };
                },
                { base: models.url, prompt, count },
            ),
        ),
    );
    for (const { ids, left, after, closed } of got) {
        assert.deepEqual(ids, [first.ids, second.ids]);
        assert.deepEqual(after, second.ids);
        assert.deepEqual([left, closed], [0, 0]);
    }
    for (const { context } of pages) await context.close();
});

test("ten rounds of open and close leave memory flat", async () => {
    // Chromium's processes are below this one.
    const own = process.pid;
    const { page, context } = await open(chromium, server.url);
    const round = () =>
        page.evaluate(
            async (/** @type {any} */ { base, prompt }) => {
                const { open, graph } = /** @type {any} */ (globalThis).warpweft;
                const model = await open(`${base}first.gguf`, { device: "webgpu", cache: false });
                for await (const _ of model.generate(prompt, { maxTokens: 2 }));
                const g = graph();
                const x = g.input("x", [1, 4096]);
                const program = await g.compile(
                    { y: x.matmul(g.constant(new Float32Array(4096 * 4096).fill(0.5), [4096, 4096])) },
                    { device: "webgpu" },
                );
                const held = program.gpuBytes;
                await program.run({ x: new Float32Array(4096).fill(1) });
                const left = (await model.close()) + (await program.close());
                return { held, left };
            },
            { base: models.url, prompt },
        );
    const sizes = [];
    for (let i = 0; i < 10; i++) {
        const { held, left } = await round();
        assert.ok(held >= 64 << 20, `a round holds 64 MiB of weights, it says ${held}`);
        assert.equal(left, 0);
        const cdp = await context.newCDPSession(page);
        await cdp.send("HeapProfiler.collectGarbage");
        await cdp.detach();
        sizes.push(memory(own));
    }
    const [early, late] = [Math.max(...sizes.slice(1, 4)), Math.min(...sizes.slice(7))];
    const mib = sizes.map((n) => Math.round(n / 2 ** 20)).join(" ");
    console.log(`# MiB after each round: ${mib}`);
    // A leak of one round in two would be 192 MiB by then.
    assert.ok(late - early < 100 << 20, `memory grows: ${mib} MiB`);
    await context.close();
});
