// More than one thread for the CPU, where the page shares memory: the same tokens, the same errors, and nothing left behind.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import path from "node:path";
import { test } from "node:test";
import { chromium, expected, host, instrumentedFolder, memory, models, open, server } from "./lib.mjs";

host({ checkpoints: true });

const { prompt } = expected;
const { first, second } = expected.models;
const count = first.ids.length;

/**
 * Opens and answers in a page: tokens with the bits of their probabilities, what it says of itself, what it told.
 * @param {any} page @param {string} url @param {object} options
 */
function answered(page, url, options) {
    return page.evaluate(
        async (/** @type {any} */ { url, options, prompt, count }) => {
            const { open } = /** @type {any} */ (globalThis).warpweft;
            const notices = /** @type {string[]} */ ([]);
            const start = performance.now();
            let model;
            try {
                model = await open(url, {
                    device: "cpu",
                    cache: false,
                    onNotice: (/** @type {string} */ n) => notices.push(n),
                    ...options,
                });
                const [ids, bits] = [[], []];
                for await (const token of model.generate(prompt, { maxTokens: count })) {
                    ids.push(token.id);
                    bits.push(token.logprob);
                }
                return { ids, bits, info: await model.refresh(), notices, seconds: (performance.now() - start) / 1000 };
            } catch (e) {
                const { code, message } = /** @type {any} */ (e);
                return { code, message, notices, seconds: (performance.now() - start) / 1000 };
            } finally {
                await model?.close();
            }
        },
        { url, options, prompt, count },
    );
}

test("every thread more gives the same tokens with the same probabilities, and shares the memory", async () => {
    const { page, context, complaints } = await open(chromium, server.url);
    assert.ok(await page.evaluate(() => globalThis.crossOriginIsolated), "the server isolates the page");
    for (const model of [first, second]) {
        const url = models.url + model.file;
        const alone = await answered(page, url, { threads: 1 });
        assert.deepEqual(alone.ids, model.ids);
        assert.deepEqual([alone.info.threads, alone.info.adapter], [1, "CPU fallback (1 threads)"]);
        for (const threads of [2, 3, 5]) {
            const got = await answered(page, url, { threads });
            assert.deepEqual([got.ids, got.bits], [alone.ids, alone.bits], `${model.file} with ${threads} threads`);
            assert.deepEqual([got.info.threads, got.info.device, got.notices], [threads, "cpu", alone.notices]);
            assert.ok(got.info.wasmBytes > alone.info.wasmBytes, "all threads' memory is told");
        }
    }
    const usual = await answered(page, models.url + first.file, {});
    const most = Math.min(8, await page.evaluate(() => navigator.hardwareConcurrency));
    // A trial decides whether they help: on a busy machine they may not.
    assert.ok([1, most].includes(usual.info.threads), `${usual.info.threads} threads`);
    assert.deepEqual(usual.ids, first.ids);
    const wrong = await answered(page, models.url + first.file, { threads: 1.5 });
    assert.equal(wrong.code, "usage");
    assert.deepEqual(complaints, []);
    await context.close();
});

test("a page that is not isolated has one thread", async () => {
    const folder = instrumentedFolder;
    const plain = createServer(async (request, response) => {
        const name = path.basename(new URL(request.url ?? "/", "http://localhost").pathname);
        const bytes = name && (await readFile(path.join(folder, name)).catch(() => undefined));
        const type = name.endsWith(".wasm")
            ? "application/wasm"
            : name.endsWith(".js")
              ? "text/javascript"
              : "text/html";
        response.writeHead(200, { "content-type": type }).end(bytes || "<!doctype html><title>plain</title>");
    });
    await new Promise((resolve) => plain.listen(0, "127.0.0.1", () => resolve(undefined)));
    const { port } = /** @type {import("node:net").AddressInfo} */ (plain.address());
    const { page, context } = await open(chromium, `http://127.0.0.1:${port}/`);
    assert.equal(await page.evaluate(() => globalThis.crossOriginIsolated), false);
    const got = await answered(page, models.url + first.file, { threads: 4 });
    assert.deepEqual([got.ids, got.info.threads], [first.ids, 1]);
    await context.close();
    plain.close();
});

test("a thread that traps is told of, and the answer goes on with the same tokens on one", async () => {
    const { page, context } = await open(chromium, server.url, "?trap=60");
    const got = await answered(page, models.url + first.file, { threads: 2 });
    assert.deepEqual(got.ids, first.ids, JSON.stringify(got));
    assert.equal(got.info.threads, 1);
    assert.match(got.notices.join("\n"), /thread 2 of 2 stopped.*loading the model anew/);
    const early = await open(chromium, server.url, "?trap=3");
    const opened = await answered(early.page, models.url + first.file, { threads: 2 });
    assert.equal(opened.code, "device-lost", JSON.stringify(opened));
    await early.context.close();
    await context.close();
});

test("a thread that says nothing any more is given up", async () => {
    const { page, context } = await open(chromium, server.url, "?mute=60");
    const got = await answered(page, models.url + first.file, { threads: 2 });
    assert.deepEqual(got.ids, first.ids, JSON.stringify(got));
    assert.match(got.notices.join("\n"), /thread 2 of 2 has not answered for \d+ s/);
    assert.ok(got.seconds < 40, `it took ${got.seconds} s`);
    await context.close();
});

test("a cancel is heard, and ten rounds with threads leave no memory behind", async () => {
    const { page, context } = await open(chromium, server.url);
    const url = models.url + first.file;
    const stopped = await page.evaluate(
        async (/** @type {any} */ { url, prompt }) => {
            const { open } = /** @type {any} */ (globalThis).warpweft;
            const model = await open(url, { device: "cpu", threads: 2 });
            const stop = new AbortController();
            const answer = model.generate(prompt.repeat(2), { maxTokens: 40, signal: stop.signal });
            setTimeout(() => stop.abort(), 0);
            const code = await answer.figures.then(
                (/** @type {any} */ f) => f.stop,
                (/** @type {any} */ e) => e.code,
            );
            // And it can be asked again.
            const ids = [];
            for await (const token of model.generate(prompt, { maxTokens: 3 })) ids.push(token.id);
            await model.close();
            return { code, ids };
        },
        { url, prompt },
    );
    assert.equal(stopped.code, "cancelled");
    assert.deepEqual(stopped.ids, first.ids.slice(0, 3));
    const used = [];
    for (let round = 0; round < 10; round++) {
        const got = await answered(page, url, { threads: 3 });
        assert.deepEqual(got.ids, first.ids);
        await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 300)));
        used.push(memory(process.pid));
    }
    console.log(`# memory after each round: ${used.map((b) => (b / 2 ** 20).toFixed(0)).join(" ")} MiB`);
    const [early, late] = [Math.min(...used.slice(1, 5)), Math.min(...used.slice(6))];
    assert.ok(late < early + 24 * 2 ** 20, `${early} bytes, then ${late}`);
    for (let i = 0; i < 50 && page.workers().length > 0; i++) await new Promise((resolve) => setTimeout(resolve, 100));
    assert.equal(page.workers().length, 0, "no Worker is left");
    await context.close();
});
