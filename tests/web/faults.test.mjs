// What can go wrong in a browser, and what is said and done then.

import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { before, test } from "node:test";
import { browser, chromium, expected, host, models, open, seeded, server } from "./lib.mjs";

host({ checkpoints: true });
before(async () => {
    await writeFile(
        path.join(seeded, "noise.gguf"),
        Uint8Array.from({ length: 200_000 }, (_, i) => (i * 7919) % 251),
    );
});

const { prompt } = expected;
const { first } = expected.models;
const count = first.ids.length;

for (const query of ["?", "?floor"]) {
    test(`a device that is destroyed is told of, built anew, and the answer goes on with the same tokens (${query})`, async () => {
        const { page, context } = await open(chromium, server.url, query);
        const got = await page.evaluate(
            async (/** @type {any} */ { url, prompt, count }) => {
                const { open } = /** @type {any} */ (globalThis).warpweft;
                const notices = /** @type {string[]} */ ([]);
                const channel = new BroadcastChannel("instruments");
                const model = await open(url, {
                    device: "webgpu",
                    onNotice: (/** @type {string} */ n) => notices.push(n),
                });
                const ids = [];
                for await (const token of model.generate(prompt, { maxTokens: count })) {
                    ids.push(token.id);
                    if (ids.length === 4 || ids.length === 11) channel.postMessage("destroy");
                }
                const during = notices.length;
                // And once between two answers.
                channel.postMessage("destroy");
                const after = [];
                for await (const token of model.generate(prompt, { maxTokens: count })) after.push(token.id);
                return { ids, after, during, notices, info: await model.refresh(), left: await model.close() };
            },
            { url: `${models.url}first.gguf`, prompt, count },
        );
        assert.deepEqual(got.ids, first.ids);
        assert.deepEqual(got.after, first.ids);
        assert.equal(got.during, 2, got.notices.join("\n"));
        assert.equal(got.notices.length, 3);
        for (const n of got.notices) assert.match(n, /lost.*loading the model anew/);
        assert.equal(got.info.device, "webgpu");
        assert.equal(got.left, 0);
        await context.close();
    });
}

test("a device that is lost under a model from a stream is an error that says what to do", async () => {
    const { page, context } = await open(chromium, server.url);
    const got = await page.evaluate(
        async (/** @type {any} */ { url, prompt }) => {
            const { open } = /** @type {any} */ (globalThis).warpweft;
            const model = await open((await fetch(url)).body, { device: "webgpu" });
            const channel = new BroadcastChannel("instruments");
            try {
                let n = 0;
                for await (const _ of model.generate(prompt, { maxTokens: 20 }))
                    if (++n === 3) channel.postMessage("destroy");
            } catch (e) {
                return { code: /** @type {any} */ (e).code, message: /** @type {any} */ (e).message };
            } finally {
                await model.close();
            }
        },
        { url: `${models.url}first.gguf`, prompt },
    );
    assert.equal(got.code, "device-lost");
    assert.match(got.message, /open it anew/);
    await context.close();
});

test("files that are none, cut short, missing or closed to this origin are refused in one sentence", async () => {
    const { page, context } = await open(chromium, server.url);
    const asks = {
        noise: `${models.url}noise.gguf`,
        cut: `${models.url}first.gguf?cut`,
        missing: `${models.url}nothing.gguf`,
        closed: `${models.url}first.gguf?closed`,
        page: `${server.url}page.css`,
        folder: `${models.url}nowhere/`,
    };
    const said = await page.evaluate(async (/** @type {Record<string, string>} */ asks) => {
        const { open, kept, WarpweftError } = /** @type {any} */ (globalThis).warpweft;
        const out = /** @type {Record<string, any>} */ ({});
        const refused = (/** @type {any} */ source, options = {}) =>
            open(source, { device: "cpu", ...options }).then(
                () => ({ code: "opened" }),
                (/** @type {any} */ e) => ({ code: e.code, message: e.message, ours: e instanceof WarpweftError }),
            );
        for (const [name, url] of Object.entries(asks)) out[name] = await refused(url);
        out.empty = await refused(new ArrayBuffer(0));
        out.number = await refused(42);
        out.stream = await refused(new ReadableStream({ pull: (c) => c.error(new Error("the tap is dry")) }));
        out.context = await refused(asks.cut.replace("?cut", ""), { context: 1000 });
        out.device = await refused(asks.cut.replace("?cut", ""), { device: "abacus" });
        out.kept = await kept.list();
        return out;
    }, asks);
    const { kept, ...errors } = said;
    for (const [name, e] of Object.entries(errors)) {
        assert.ok(e.ours, `${name}: ${JSON.stringify(e)}`);
        assert.ok(
            !/\[object|undefined|unreachable|panicked/.test(e.message) && !e.message.includes("\n"),
            `${name}: ${e.message}`,
        );
    }
    const codes = Object.fromEntries(Object.entries(errors).map(([name, e]) => [name, e.code]));
    assert.deepEqual(codes, {
        noise: "file",
        cut: "network",
        missing: "network",
        closed: "network",
        page: "file",
        folder: "network",
        empty: "file",
        number: "usage",
        stream: "file",
        context: "usage",
        device: "usage",
    });
    assert.match(errors.closed.message, /CORS/);
    assert.match(errors.missing.message, /404/);
    assert.ok(
        kept.every((/** @type {any} */ e) => !e.url.includes("cut")),
        "what was cut short is not kept",
    );
    await context.close();
});

/** Opens with device "auto" and answers. @param {any} page */
function automatic(page) {
    return page.evaluate(
        async (/** @type {any} */ { url, prompt, count }) => {
            const { open } = /** @type {any} */ (globalThis).warpweft;
            const notices = /** @type {string[]} */ ([]);
            const model = await open(url, { onNotice: (/** @type {string} */ n) => notices.push(n) });
            const ids = [];
            for await (const token of model.generate(prompt, { maxTokens: count })) ids.push(token.id);
            const { device } = model.info();
            await model.close();
            const refused = await open(url, { device: "webgpu" }).then(
                (/** @type {any} */ m) => m.close().then(() => "opened"),
                (/** @type {any} */ e) => `${e.code}: ${e.message}`,
            );
            return { notices, ids, device, refused };
        },
        { url: `${models.url}first.gguf`, prompt, count },
    );
}

test("a browser without WebGPU uses the CPU, says so and how to get WebGPU", async () => {
    const without = await browser({ webgpu: false });
    const { page, context, complaints } = await open(without, server.url);
    const got = await automatic(page);
    assert.equal(got.device, "cpu");
    assert.deepEqual(got.ids, first.ids);
    assert.match(
        got.notices.join("\n"),
        /no WebGPU adapter: running on the CPU fallback; for a GPU use a browser with WebGPU/,
    );
    assert.match(got.refused, /^device-unavailable: /);
    await page.waitForFunction(() => document.querySelector("#gpu-state")?.textContent);
    assert.match(await page.textContent("#gpu-state"), /WebGPU.*CPU.*https/s);
    assert.deepEqual(complaints, []);
    await context.close();
    await without.close();
});

test("WebGPU that a Worker does not have is no WebGPU", async () => {
    const { page, context } = await open(chromium, server.url, "?nogpu");
    const got = await automatic(page);
    assert.equal(got.device, "cpu");
    assert.deepEqual(got.ids, first.ids);
    assert.match(got.refused, /^device-unavailable: /);
    await context.close();
});

test("a software adapter is left for the CPU, which is faster, and that is said", async () => {
    const { page, context } = await open(chromium, server.url);
    const got = await automatic(page);
    assert.equal(got.device, "cpu");
    assert.deepEqual(got.ids, first.ids);
    assert.match(got.notices.join("\n"), /only a software adapter.*running on the CPU/);
    assert.equal(got.refused, "opened");
    await context.close();
});
