// What the browser tests share: Chromium, the `warpweft web` server, and a server of files that can misbehave.

import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { copyFile, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import path from "node:path";
import { after, before } from "node:test";
import { fileURLToPath } from "node:url";

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
const tools =
    process.env.WARPWEFT_TOOLS ??
    path.join(process.env.XDG_CACHE_HOME ?? path.join(process.env.HOME ?? "/root", ".cache"), "warpweft/tools");
export const require = createRequire(path.join(tools, "npm/"));

/** What tests/web.rs has written: seeded checkpoints with the native engine's answers. */
export const seeded = path.join(root, "target/tmp/web");
const answers = path.join(seeded, "expected.json");
/** @type {any} */
export const expected = existsSync(answers) ? JSON.parse(readFileSync(answers, "utf8")) : { prompt: "", models: {} };
export const shots = path.join(root, "target/web/shots");

const ALWAYS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];
const SOFTWARE = [
    "--enable-unsafe-webgpu",
    "--enable-features=Vulkan",
    "--use-vulkan=swiftshader",
    "--use-angle=swiftshader",
];

/**
 * A headless Chromium, with WebGPU on its software adapter or without any.
 * @param {{ webgpu?: boolean }} [how]
 */
export async function browser({ webgpu = true } = {}) {
    const { chromium } = require("playwright-core");
    const args = [...ALWAYS, ...(webgpu ? SOFTWARE : ["--disable-gpu", "--disable-features=WebGPU"])];
    return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args });
}

/**
 * `warpweft web` on a free port.
 * @param {string} folder The package.
 * @returns {Promise<{ url: string, stop: () => void }>}
 */
export async function serve(folder) {
    const server = spawn(path.join(root, "target/release/warpweft"), ["web", "--port", "0", "--package", folder], {
        stdio: ["ignore", "pipe", "inherit"],
    });
    const url = await new Promise((resolve, reject) => {
        server.stdout.on("data", (text) => resolve(String(text).trim()));
        server.on("exit", (code) => reject(new Error(`warpweft web ended with ${code}`)));
    });
    return { url, stop: () => server.kill() };
}

export const instrumentedFolder = path.join(root, "target/tmp/web-instrumented");

/** The package with instruments.js in front of it: another folder, the same engine. */
export async function instrumented() {
    const [from, to] = [path.join(root, "target/web/package"), instrumentedFolder];
    await rm(to, { recursive: true, force: true });
    await mkdir(to, { recursive: true });
    await copyFile(path.join(from, "warpweft.wasm"), path.join(to, "warpweft.wasm"));
    const parts = [path.join(root, "tests/web/instruments.js"), path.join(from, "warpweft.js")].map((f) =>
        readFileSync(f, "utf8"),
    );
    await writeFile(path.join(to, "warpweft.js"), parts.join("\n"));
    return to;
}

/**
 * Files of a folder from another origin. `?slow` sends a few KB a moment, `?cut` breaks off in the middle, `?versioned`
 * names the version that `state` has, `?closed` forgets what lets another origin read it. `asked` counts requests by path.
 * @param {string} folder
 */
export async function files(folder) {
    /** @type {Map<string, number>} */
    const asked = new Map();
    const state = { version: "1" };
    const server = createServer(async (request, response) => {
        const url = new URL(request.url ?? "/", "http://localhost");
        const key = `${request.method} ${url.pathname}`;
        asked.set(key, (asked.get(key) ?? 0) + 1);
        /** @type {Record<string, string | number>} */
        const headers = url.searchParams.has("closed")
            ? {}
            : {
                  "access-control-allow-origin": "*",
                  "cross-origin-resource-policy": "cross-origin",
                  "access-control-expose-headers": "etag, content-length",
              };
        const bytes = await readFile(path.join(folder, path.normalize(url.pathname))).catch(() => undefined);
        if (!bytes) return response.writeHead(404, headers).end();
        const zeros = expected.hollow?.find((/** @type {any} */ h) => h.path === url.pathname);
        headers["content-length"] = bytes.length + (zeros?.zeros ?? 0);
        if (url.searchParams.has("versioned")) headers.etag = `"${state.version}"`;
        response.writeHead(200, headers);
        if (request.method === "HEAD") return response.end();
        if (zeros) return filled(response, bytes, zeros);
        if (url.searchParams.has("cut"))
            return response.write(bytes.subarray(0, bytes.length / 2), () => response.destroy());
        if (!url.searchParams.has("slow")) return response.end(bytes);
        for (let at = 0; at < bytes.length && !response.destroyed; at += 65536) {
            response.write(bytes.subarray(at, at + 65536));
            await new Promise((resolve) => setTimeout(resolve, 150));
        }
        response.end();
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
    const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
    return { url: `http://127.0.0.1:${port}/`, asked, state, stop: () => server.close() };
}

/**
 * Sends a file with zeros where they were left out, as fast as they are taken.
 * @param {import("node:http").ServerResponse} response @param {Buffer} bytes @param {{ at: number, zeros: number }} hollow
 */
async function filled(response, bytes, { at, zeros }) {
    const block = Buffer.alloc(4 << 20);
    response.write(bytes.subarray(0, at));
    for (let left = zeros; left > 0 && !response.destroyed; left -= block.length) {
        const more = response.write(left < block.length ? block.subarray(0, left) : block);
        if (!more)
            await new Promise((resolve) => {
                response.once("drain", () => resolve(undefined));
                response.once("close", () => resolve(undefined));
            });
        response.removeAllListeners("drain");
        response.removeAllListeners("close");
    }
    response.end(bytes.subarray(at));
}

/** What `host` has started, live for whoever imports it. @type {any} */
export let chromium;
/** @type {{ url: string, stop: () => void }} */
export let server;
/** @type {Awaited<ReturnType<typeof files>>} */
export let models;

/**
 * Chromium and the server, from before a file's first test until after its last.
 * @param {{ folder?: string, checkpoints?: boolean }} [what] The package, instrumented where not given; whether seeded checkpoints are served, too.
 */
export function host({ folder, checkpoints = false } = {}) {
    before(async () => {
        server = await serve(folder ?? (await instrumented()));
        if (checkpoints) models = await files(seeded);
        chromium = await browser();
    });
    after(async () => {
        await chromium?.close();
        server?.stop();
        models?.stop();
    });
}

/**
 * A page of the server with the package imported as `globalThis.warpweft`; whatever the page complains of is kept.
 * @param {any} chromium @param {string} url @param {string} [query] What instruments.js reads.
 */
export async function open(chromium, url, query = "") {
    const context = await chromium.newContext();
    const page = await context.newPage();
    page.setDefaultTimeout(120_000);
    /** @type {string[]} */
    const complaints = [];
    page.on("pageerror", (/** @type {Error} */ e) => complaints.push(String(e)));
    page.on("console", (/** @type {any} */ m) => m.type() === "error" && complaints.push(m.text()));
    await page.goto(url);
    await page.evaluate(async (/** @type {string} */ at) => {
        /** @type {any} */ (globalThis).warpweft = await import(at);
    }, `${url}warpweft/warpweft.js${query}`);
    return { page, context, complaints };
}

/** Bytes of physical memory that all processes below one hold, shared pages counted in part. @param {number} pid */
export function memory(pid) {
    const parents = new Map(
        readdirSync("/proc")
            .filter((n) => /^\d+$/.test(n))
            .flatMap((n) => {
                try {
                    return [
                        [
                            Number(n),
                            Number(
                                readFileSync(`/proc/${n}/stat`, "utf8")
                                    .replace(/^.*\) /, "")
                                    .split(" ")[1],
                            ),
                        ],
                    ];
                } catch {
                    return [];
                }
            }),
    );
    const below = (/** @type {number} */ n) => {
        for (let at = n, steps = 0; at > 1 && steps < 20; at = parents.get(at) ?? 0, steps++)
            if (at === pid) return true;
        return false;
    };
    let sum = 0;
    for (const n of [...parents.keys()].filter((n) => n !== pid && below(n))) {
        try {
            sum += 1024 * Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${n}/smaps_rollup`, "utf8"))?.[1] ?? 0);
        } catch {
            // It ended meanwhile.
        }
    }
    return sum;
}
