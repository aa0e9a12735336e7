// Models in several files, and files above 4 GiB: what does not fit a number of 32 bits, nor the memory of a page.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { chromium, expected, host, models, open, seeded, server } from "./lib.mjs";

host({ checkpoints: true });

const { prompt } = expected;
const { first } = expected.models;
const count = first.ids.length;

/** Opens and answers: tokens, what the model says of itself, the last progress, the time. @param {any} page @param {string} url @param {object} options */
function answered(page, url, options) {
    return page.evaluate(
        async (/** @type {any} */ { url, options, prompt, count }) => {
            const { open } = /** @type {any} */ (globalThis).warpweft;
            let progress;
            const start = performance.now();
            const model = await open(url, {
                ...options,
                onProgress: (/** @type {any} */ p) => {
                    if (p.stage !== "compile") progress = p;
                },
            });
            const seconds = (performance.now() - start) / 1000;
            const ids = [];
            for await (const token of model.generate(prompt, { maxTokens: count })) ids.push(token.id);
            const info = await model.refresh();
            await model.close();
            return { ids, info, progress, seconds };
        },
        { url, options, prompt, count },
    );
}

for (const [name, at, device] of [
    ["a .gguf", "hollow.gguf", "webgpu"],
    ["a folder of two files", "hollow/", "cpu"],
]) {
    test(`${name} above 4 GiB opens on ${device} in little memory and says what the small one says`, {
        timeout: 600_000,
    }, async () => {
        const { page, context } = await open(chromium, server.url);
        page.setDefaultTimeout(0);
        const got = await answered(page, models.url + at, { device, cache: false });
        console.log(
            `# ${(got.progress.total / 2 ** 30).toFixed(2)} GiB in ${got.seconds.toFixed(0)} s, ${(got.info.wasmBytes / 2 ** 20).toFixed(0)} MiB of WebAssembly memory`,
        );
        assert.ok(
            got.progress.total > 2 ** 32 && got.progress.loaded === got.progress.total,
            JSON.stringify(got.progress),
        );
        assert.deepEqual(got.ids, first.ids);
        assert.ok(got.info.wasmBytes < 100 * 2 ** 20, `${got.info.wasmBytes} bytes of WebAssembly memory`);
        await context.close();
    });
}

test("a model in two files opens from an address, from files, and once more from what is kept", async () => {
    const { page, context } = await open(chromium, server.url);
    const url = `${models.url}two/`;
    for (const [options, from] of [
        [{ device: "cpu" }, "download"],
        [{ device: "webgpu" }, "read"],
        [{ device: "cpu", cache: false }, "download"],
    ]) {
        const got = await answered(page, url, options);
        assert.deepEqual(got.ids, first.ids, JSON.stringify(options));
        assert.equal(got.progress.stage, from);
        assert.equal(got.progress.loaded, got.progress.total);
    }
    const names = [
        "config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    const bytes = Object.fromEntries(
        names.map((n) => [n, readFileSync(path.join(seeded, "two", n)).toString("base64")]),
    );
    const got = await page.evaluate(
        async (/** @type {any} */ { bytes, prompt, count }) => {
            const { open } = /** @type {any} */ (globalThis).warpweft;
            const blobs = Object.entries(bytes).map(
                ([n, b]) =>
                    /** @type {[string, Blob]} */ ([n, new Blob([Uint8Array.from(atob(b), (c) => c.charCodeAt(0))])]),
            );
            const files = blobs.map(([n, b]) => new File([b], n));
            const streams = Object.fromEntries(blobs.map(([n, b]) => [n, b.stream()]));
            const out = [];
            for (const source of [files, streams]) {
                const model = await open(source, { device: "cpu" });
                const ids = [];
                for await (const token of model.generate(prompt, { maxTokens: count })) ids.push(token.id);
                await model.close();
                out.push(ids);
            }
            // What lies, or is not there.
            const index = JSON.parse(atob(bytes["model.safetensors.index.json"]));
            const [a, b] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
            const changed = (/** @type {(name: string, file: string) => string} */ f) => ({
                weight_map: Object.fromEntries(
                    Object.entries(index.weight_map).map(([n, file]) => [n, f(n, /** @type {string} */ (file))]),
                ),
            });
            const lies = {
                swapped: changed((_, f) => (f === a ? b : a)),
                missing: changed((_, f) => f.replace("00002-of", "00003-of")),
                outside: changed(() => "../secret.safetensors"),
                map: {},
            };
            const said = /** @type {Record<string, any>} */ ({});
            for (const [what, lie] of Object.entries(lies)) {
                const all = {
                    ...Object.fromEntries(blobs),
                    "model.safetensors.index.json": new Blob([JSON.stringify(lie)]),
                };
                said[what] = await open(all, { device: "cpu" }).then(
                    () => ({ code: "opened" }),
                    (/** @type {any} */ e) => ({ code: e.code, message: e.message }),
                );
            }
            const short = {
                ...Object.fromEntries(blobs),
                [a]: /** @type {Blob} */ (Object.fromEntries(blobs)[a]).slice(0, -4),
            };
            said.short = await open(short, { device: "cpu" }).then(
                () => ({ code: "opened" }),
                (/** @type {any} */ e) => ({ code: e.code, message: e.message }),
            );
            return { out, said };
        },
        { bytes, prompt, count },
    );
    assert.deepEqual(got.out, [first.ids, first.ids]);
    for (const [what, e] of Object.entries(got.said))
        assert.ok(e.code === "file" && !/\n|\[object|undefined/.test(e.message), `${what}: ${JSON.stringify(e)}`);
    assert.match(got.said.swapped.message, /index\.json: says that tensor .* is in model-0000/);
    assert.match(got.said.missing.message, /lacks model-00003-of-00002\.safetensors/);
    assert.match(got.said.outside.message, /outside of its folder/);
    assert.match(got.said.map.message, /weight_map/);
    assert.match(got.said.short.message, /model-00001-of-00002.*download it again/);
    await context.close();
});
