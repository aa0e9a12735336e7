// Figures in a browser beside peers from npm, all in one Chromium on one adapter: scripts/web-bench.sh runs it.
// Which parts: operations models threads (all where none is named).

import { createReadStream, existsSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { homedir } from "node:os";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { readFileSync } from "node:fs";
import { browser, require, root } from "../../tests/web/lib.mjs";
import { matmul, norm, softmax } from "./onnx.mjs";

const modules = path.dirname(path.dirname(require.resolve("playwright-core/package.json")));
const cache = process.env.WARPWEFT_CACHE ?? path.join(process.env.XDG_CACHE_HOME ?? path.join(homedir(), ".cache"), "warpweft");
const model = path.join(cache, "models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf");
const packaged = path.join(root, "target/web/package");
const MOUNTS = { "/npm/": modules, "/warpweft/": packaged, "/page/": path.join(root, "benches/web") };
const TYPES = { ".js": "text/javascript", ".mjs": "text/javascript", ".html": "text/html", ".wasm": "application/wasm" };

/** Files of the package, the peers and the model, isolated so that peers may use threads. */
const server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? "/", "http://localhost");
    response.setHeader("cross-origin-opener-policy", "same-origin");
    response.setHeader("cross-origin-embedder-policy", "require-corp");
    response.setHeader("cross-origin-resource-policy", "same-origin");
    const [mount, folder] = Object.entries(MOUNTS).find(([m]) => pathname.startsWith(m)) ?? [];
    const file = pathname === "/model.gguf" ? model : mount && path.join(/** @type {string} */ (folder), path.normalize(pathname.slice(mount.length)));
    if (!file || !existsSync(file) || !statSync(file).isFile()) return response.writeHead(pathname === "/" ? 200 : 404, { "content-type": "text/html" }).end("<!doctype html><title>bench</title>");
    response.writeHead(200, { "content-type": TYPES[/** @type {keyof typeof TYPES} */ (path.extname(file))] ?? "application/octet-stream", "content-length": statSync(file).size });
    createReadStream(file).pipe(response);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
const url = `http://127.0.0.1:${/** @type {any} */ (server.address()).port}/`;

const chromium = await browser();
/** A page of its own for each engine. @template T @param {(page: any) => Promise<T>} f @returns {Promise<T | string>} */
async function fresh(f) {
    const page = await (await chromium.newContext()).newPage();
    page.setDefaultTimeout(0);
    page.on("pageerror", (/** @type {Error} */ e) => console.error(`page: ${e.message}`));
    page.on("console", (/** @type {any} */ m) => m.type() !== "info" && process.env.VERBOSE && console.error(`page: ${m.text()}`));
    await page.goto(url);
    try {
        return await f(page);
    } catch (e) {
        return `failed: ${String(e).split("\n")[0].slice(0, 160)}`;
    } finally {
        await page.context().close();
    }
}

/** Median seconds of an operation and one number of its result, by engine. @param {string} engine @param {any} page @param {any} [given] */
const operations = (engine, page, given) => page.evaluate(async (/** @type {any} */ { engine, given }) => (await import(`/page/${engine}.mjs`)).operations(given), { engine, given });

const wanted = process.argv.slice(2);
const all = wanted.length === 0;
const gz = (/** @type {string} */ f) => gzipSync(readFileSync(path.join(packaged, f)), { level: 9 }).length;
console.log(`package: ${gz("warpweft.wasm") + gz("warpweft.js")} bytes gzipped (.wasm ${gz("warpweft.wasm")}, .js ${gz("warpweft.js")})`);

if (all || wanted.includes("operations")) {
    const onnx = Object.fromEntries(Object.entries({ matmul: matmul(512, 512, 512), softmax: softmax(1024, 1024), "layer-norm": norm(1024, 1024) }).map(([k, v]) => [k, [...v]]));
    // Ours first and last: what drifts between is the machine.
    for (const [engine, given] of [["ours", undefined], ["onnxruntime", onnx], ["tfjs", undefined], ["ours", undefined]]) {
        const made = await fresh((page) => operations(/** @type {string} */ (engine), page, given));
        console.log(engine, typeof made === "string" ? made : "");
        if (typeof made === "string") continue;
        for (const [name, { seconds, check }] of Object.entries(made)) {
            const rate = name === "matmul" ? `${((2 * 512 ** 3) / seconds / 1e9).toFixed(2)} GFLOP/s` : `${((8 * 1024 ** 2) / seconds / 1e9).toFixed(2)} GB/s`;
            console.log(`  ${name}: ${(seconds * 1e3).toFixed(2)} ms, ${rate}, element 777 is ${check.toPrecision(6)}`);
        }
    }
    const p = await fresh((page) => page.evaluate(async () => (await import(/** @type {any} */ ("/warpweft/warpweft.js"))).probe()));
    console.log("probe", JSON.stringify(p));
}

if (all || wanted.includes("models")) {
    for (const [engine, how] of [["ours", { device: "cpu", threads: 1 }], ["ours", { device: "cpu", threads: 2 }], ["wllama", { threads: 1 }], ["wllama", { threads: 2 }], ["wllama", { threads: 2, gpu: true }], ["ours", { device: "webgpu" }]]) {
        const made = await fresh((page) => page.evaluate(async (/** @type {any} */ { engine, how }) => (await import(`/page/${engine}.mjs`)).generates(how), { engine, how }));
        console.log(engine, JSON.stringify(how), JSON.stringify(made, (_, v) => (typeof v === "number" ? Number(v.toPrecision(4)) : v)));
    }
}
if (all || wanted.includes("threads")) {
    const made = await fresh((page) => page.evaluate(async () => (await import(/** @type {any} */ ("/page/ours.mjs"))).threads({ counts: [1, 2], rounds: 7 })));
    const middle = (/** @type {number[]} */ x) => [...x].sort((a, b) => a - b)[x.length >> 1].toFixed(1);
    const spread = (/** @type {number[]} */ x) => `${middle(x)} (${Math.min(...x).toFixed(1)} to ${Math.max(...x).toFixed(1)})`;
    if (typeof made === "string") console.log(made);
    else for (const m of made) console.log(`${m.threads} threads: prompt ${spread(m.prompt)}, answer ${spread(m.decode)} tokens/s, ${(m.wasmBytes / 2 ** 20).toFixed(0)} MiB; ${m.text.slice(0, 40)}`);
}
await chromium.close();
server.close();
