// Where a model's bytes come from: addresses, files, buffers, streams; and the origin's private file system between them.

import { WarpweftError } from "./errors.js";

/** The largest piece that is handed to the engine at once. */
const PIECE = 4 << 20;

/** The longest head of a .safetensors file. */
const MOST_HEAD = 100 << 20;

const SINGLE = "model.safetensors";
const INDEX = "model.safetensors.index.json";

/** Small files of a model folder; the first two must be there. */
const SIDE_FILES = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "1_Pooling/config.json",
    "modules.json",
    "sentence_bert_config.json",
];
const NEEDED = 2;

/**
 * @typedef {object} Plain  What `open` was given, in a form that can be posted to a Worker.
 * @property {string} kind  `url`, `blob`, `buffer`, `port` or `folder`
 * @property {string} name
 * @property {string} [url]
 * @property {Blob} [blob]
 * @property {ArrayBuffer} [buffer]
 * @property {MessagePort} [port]
 * @property {Record<string, Plain>} [files]
 */

/**
 * @typedef {object} Bytes  A file's bytes, in order.
 * @property {string} name
 * @property {number} size  -1 where it is not known
 * @property {boolean} again  Whether the same source can be read a second time.
 * @property {string} from  `network`, `cache` or `memory`
 * @property {string | null} [etag]  What the server calls this version of the file.
 * @property {AsyncIterable<Uint8Array>} pieces
 */

/**
 * @typedef {object} How
 * @property {boolean | "look"} cache  Whether a file is kept; `look` reads what is kept, and keeps nothing.
 * @property {AbortSignal} signal
 * @property {(text: string) => void} notice
 */

/**
 * The files with the weights, and the small files beside them. Of several files each has its head.
 * @param {Plain} plain
 * @param {How} how
 * @returns {Promise<{ files: (Bytes & { head?: Uint8Array })[], side: [string, Uint8Array][] }>}
 */
export async function read(plain, how) {
    if (plain.kind !== "folder" && !(plain.kind === "url" && plain.url?.endsWith("/"))) {
        return { files: [await file(plain, how)], side: [] };
    }
    const given = plain.files ?? {};
    /** @param {string} name @returns {Plain | undefined} */
    const at = (name) => (plain.url ? { kind: "url", name, url: plain.url + name } : given[name]);
    const several = !plain.url && given[INDEX] && !given[SINGLE];
    const weights = plain.url
        ? SINGLE
        : Object.keys(given).find((n) => n.endsWith(".safetensors") || n.endsWith(".gguf"));
    const main = weights && at(weights);
    if (!main) throw new WarpweftError("file", `the folder ${plain.name} lacks ${SINGLE}`);
    /** @type {[string, Uint8Array][]} */
    const side = [];
    if (!main.name.endsWith(".gguf")) {
        for (const [i, name] of SIDE_FILES.entries()) {
            const beside = at(name);
            const bytes = beside && (await whole(beside, how, i >= NEEDED));
            if (bytes) side.push([name, bytes]);
            else if (i < NEEDED) throw new WarpweftError("file", `the folder ${plain.name} lacks ${name}`);
        }
    }
    if (several) return shards(plain, at, side, how);
    try {
        return { files: [await file(main, how)], side };
    } catch (e) {
        // A server may have the model in several files instead.
        if (plain.url && e instanceof WarpweftError && e.code === "network") return shards(plain, at, side, how, e);
        throw e;
    }
}

/**
 * The files that an index names, with their heads: only then is it known what the model needs.
 * @param {Plain} plain @param {(name: string) => Plain | undefined} at @param {[string, Uint8Array][]} side @param {How} how
 * @param {WarpweftError} [instead] What to say where there is no index either.
 */
async function shards(plain, at, side, how, instead) {
    const index = /** @type {Plain} */ (at(INDEX));
    const bytes = await whole(index, how, instead !== undefined);
    if (!bytes) throw instead;
    const names = filesOf(bytes);
    const files = [];
    for (const name of [...new Set(names)].sort()) {
        if (typeof name !== "string" || /[/\\]|^\.|^$/.test(name))
            throw new WarpweftError("file", `${INDEX}: names the file "${name}" outside of its folder`);
        const one = at(name);
        if (!one) throw new WarpweftError("file", `the folder ${plain.name} lacks ${name}, which ${INDEX} names`);
        files.push(await headed(one, how));
    }
    return { files, side: [...side, /** @type {[string, Uint8Array]} */ ([INDEX, bytes])] };
}

/** The files that an index gives to tensors. @param {Uint8Array} bytes @returns {unknown[]} */
function filesOf(bytes) {
    let json;
    try {
        json = JSON.parse(new TextDecoder().decode(bytes));
    } catch (e) {
        throw new WarpweftError("file", `${INDEX}: is not valid JSON: ${e instanceof Error ? e.message : e}`);
    }
    const map = json?.weight_map;
    if (!map || typeof map !== "object") throw new WarpweftError("file", `${INDEX}: lacks weight_map`);
    return Object.values(map);
}

/**
 * A file of which the head is read before its turn comes; then it is read anew, or, where that cannot be, goes on.
 * @param {Plain} plain @param {How} how @returns {Promise<Bytes & { head: Uint8Array }>}
 */
async function headed(plain, how) {
    const first = await file(plain, { ...how, cache: how.cache && "look" });
    const pieces = first.pieces[Symbol.asyncIterator]();
    /** @type {Uint8Array[]} */
    const had = [];
    let [got, wanted] = [0, 8];
    while (got < wanted) {
        const { done, value } = await pieces.next();
        if (done) break;
        // The buffer may be the engine's to take: a head is kept.
        had.push(value.slice());
        got += value.length;
        if (wanted === 8 && got >= 8) {
            const start = joined(had, 8);
            wanted = 8 + Number(new DataView(start.buffer).getBigUint64(0, true));
            if (wanted > MOST_HEAD) wanted = 8;
        }
    }
    const head = joined(had, wanted);
    if (!first.again) {
        const rest = (async function* () {
            yield* had;
            for (let next = await pieces.next(); !next.done; next = await pieces.next()) yield next.value;
        })();
        return { ...first, head, pieces: rest };
    }
    await pieces.return?.(undefined);
    const anew = (async function* () {
        yield* (await file(plain, how)).pieces;
    })();
    return { ...first, head, pieces: anew };
}

/** The first bytes of some pieces. @param {Uint8Array[]} pieces @param {number} most */
function joined(pieces, most) {
    const all = new Uint8Array(
        Math.min(
            most,
            pieces.reduce((n, p) => n + p.length, 0),
        ),
    );
    let at = 0;
    for (const piece of pieces) {
        const part = piece.subarray(0, all.length - at);
        all.set(part, at);
        at += part.length;
    }
    return all;
}

/**
 * A small file; nothing where it may be missing and is.
 * @param {Plain} plain @param {How} how @param {boolean} optional
 * @returns {Promise<Uint8Array | undefined>}
 */
async function whole(plain, how, optional) {
    try {
        const parts = [];
        for await (const piece of (await file(plain, how)).pieces) parts.push(new Uint8Array(piece));
        return new Uint8Array(await new Blob(parts).arrayBuffer());
    } catch (e) {
        if (optional && e instanceof WarpweftError && e.code === "network") return undefined;
        throw e;
    }
}

/** @param {Plain} plain @param {How} how @returns {Promise<Bytes>} */
async function file(plain, how) {
    const { name, url, blob, buffer, port } = plain;
    if (blob) return { name, size: blob.size, again: true, from: "memory", pieces: cut(chunks(blob.stream())) };
    if (buffer)
        return { name, size: buffer.byteLength, again: true, from: "memory", pieces: cut([new Uint8Array(buffer)]) };
    if (port) return { name, size: -1, again: false, from: "memory", pieces: cut(pumped(port)) };
    if (url) return how.cache ? cached(name, url, how) : fetched(name, url, how);
    throw new WarpweftError(
        "usage",
        "a model is an address, a File, an ArrayBuffer, a ReadableStream, or the files of a folder by name",
    );
}

/**
 * No piece larger than the engine should hold at once.
 * @param {Iterable<Uint8Array> | AsyncIterable<Uint8Array>} pieces
 */
async function* cut(pieces) {
    for await (const piece of pieces) {
        for (let at = 0; at < piece.length; at += PIECE) yield piece.subarray(at, at + PIECE);
    }
}

/** @param {ReadableStream<Uint8Array>} stream */
async function* chunks(stream) {
    const reader = stream.getReader();
    try {
        for (;;) {
            const { done, value } = await reader.read();
            if (done) return;
            if (!(value instanceof Uint8Array))
                throw new WarpweftError("usage", "the stream gives something else than Uint8Arrays");
            yield value;
        }
    } finally {
        await reader.cancel().catch(() => {});
    }
}

/**
 * The page reads its stream and posts each chunk when asked for it: streams cannot be posted everywhere.
 * @param {MessagePort} port
 */
async function* pumped(port) {
    try {
        for (;;) {
            const said = await new Promise((resolve) => {
                port.onmessage = (e) => resolve(e.data);
                port.postMessage("more");
            });
            if (said.error) throw new WarpweftError("file", said.error);
            if (said.done) return;
            yield said.value;
        }
    } finally {
        port.postMessage("stop");
        port.close();
    }
}

/** @param {string} name @param {string} url @param {How} how @returns {Promise<Bytes>} */
async function fetched(name, url, how) {
    const response = await ask(url, { signal: how.signal });
    if (!response.body) throw new WarpweftError("network", `${url} came without a body`);
    // The length of a compressed body is not that of the file.
    const plain = !response.headers.get("content-encoding");
    const length = Number(response.headers.get("content-length") ?? NaN);
    const size = plain && Number.isFinite(length) ? length : -1;
    const etag = response.headers.get("etag");
    return { name, size, again: true, from: "network", etag, pieces: cut(named(url, chunks(response.body))) };
}

/** @param {string} url @param {RequestInit} how */
async function ask(url, how) {
    let response;
    try {
        response = await fetch(url, how);
    } catch (e) {
        if (how.signal?.aborted) throw new WarpweftError("cancelled", "cancelled");
        const why = e instanceof Error ? e.message : String(e);
        throw new WarpweftError(
            "network",
            `${url} cannot be fetched (${why}): see that it exists, and that it allows this page's origin (CORS)`,
        );
    }
    if (!response.ok)
        throw new WarpweftError("network", `${url} answered ${response.status} ${response.statusText}`.trimEnd());
    return response;
}

/** @param {string} url @param {AsyncIterable<Uint8Array>} pieces */
async function* named(url, pieces) {
    try {
        yield* pieces;
    } catch (e) {
        if (e instanceof WarpweftError) throw e;
        if (e instanceof Error && e.name === "AbortError") throw new WarpweftError("cancelled", "cancelled");
        throw new WarpweftError("network", `${url} broke off (${e instanceof Error ? e.message : e}): try again`);
    }
}

// ---- the cache: for each address a file with its bytes and, once those are whole, one that describes them.

/** @typedef {{ url: string, size: number, etag: string | null, saved: string }} Entry */

const FOLDER = "warpweft";

async function folder() {
    const root = await navigator.storage.getDirectory();
    return root.getDirectoryHandle(FOLDER, { create: true });
}

/** @param {string} url */
async function key(url) {
    const sum = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(url)));
    return [...sum.subarray(0, 16)].map((b) => b.toString(16).padStart(2, "0")).join("");
}

/**
 * The cached file of an address, if it is whole.
 * @param {FileSystemDirectoryHandle} dir @param {string} id
 * @returns {Promise<{ entry: Entry, file: File } | undefined>}
 */
async function look(dir, id) {
    try {
        const entry = JSON.parse(await (await (await dir.getFileHandle(`${id}.json`)).getFile()).text());
        const file = await (await dir.getFileHandle(`${id}.bin`)).getFile();
        return file.size === entry.size ? { entry, file } : undefined;
    } catch {
        return undefined;
    }
}

/** Whether the server says that it has another file by now; a server that does not answer is no reason to doubt.
 * @param {Entry} entry @param {AbortSignal} signal */
async function stale(entry, signal) {
    try {
        const head = await fetch(entry.url, { method: "HEAD", cache: "no-cache", signal });
        const [etag, length] = [head.headers.get("etag"), head.headers.get("content-length")];
        if (!head.ok || head.headers.get("content-encoding")) return false;
        return (
            (etag !== null && entry.etag !== null && etag !== entry.etag) ||
            (length !== null && Number(length) !== entry.size)
        );
    } catch {
        return false;
    }
}

/** @param {string} name @param {string} url @param {How} how @returns {Promise<Bytes>} */
async function cached(name, url, how) {
    let dir;
    try {
        dir = await folder();
    } catch {
        how.notice("this browser gives the page no private files: the model is not kept");
        return fetched(name, url, how);
    }
    const id = await key(url);
    const known = await look(dir, id);
    if (known && !(await stale(known.entry, how.signal))) {
        return { name, size: known.file.size, again: true, from: "cache", pieces: cut(chunks(known.file.stream())) };
    }
    const fresh = await fetched(name, url, how);
    if (how.cache === "look") return fresh;
    const sink = await keep(dir, id, how);
    return sink ? { ...fresh, pieces: kept(fresh, url, sink, how) } : fresh;
}

/**
 * A file to write to. Another tab may be at it: then this one only reads the network.
 * @param {FileSystemDirectoryHandle} dir @param {string} id @param {How} how
 */
async function keep(dir, id, how) {
    try {
        await dir.removeEntry(`${id}.json`).catch(() => {});
        const handle = await dir.getFileHandle(`${id}.bin`, { create: true });
        const access = await /** @type {any} */ (handle).createSyncAccessHandle();
        access.truncate(0);
        return { dir, id, access };
    } catch {
        how.notice("the model is not kept: another tab is fetching it, or this browser cannot write private files");
        return undefined;
    }
}

/**
 * Passes pieces on while it writes them down.
 * @param {Bytes} fresh @param {string} url @param {NonNullable<Awaited<ReturnType<typeof keep>>>} sink @param {How} how
 */
async function* kept(fresh, url, { dir, id, access }, how) {
    let [at, whole, open] = [0, false, true];
    const drop = async () => {
        if (open) access.close();
        open = false;
        if (!whole) await dir.removeEntry(`${id}.bin`).catch(() => {});
    };
    try {
        for await (const piece of fresh.pieces) {
            if (open) {
                try {
                    if (access.write(piece, { at }) !== piece.length) throw new Error("the disk is full");
                } catch (e) {
                    how.notice(`the model is not kept: ${e instanceof Error ? e.message : e}`);
                    await drop();
                }
            }
            at += piece.length;
            yield piece;
        }
        if (open && (fresh.size < 0 || fresh.size === at)) {
            access.flush();
            await describe(dir, id, { url, size: at, etag: fresh.etag ?? null, saved: new Date().toISOString() });
            whole = true;
        }
    } finally {
        await drop();
    }
}

/** @param {FileSystemDirectoryHandle} dir @param {string} id @param {Entry} entry */
async function describe(dir, id, entry) {
    const handle = await dir.getFileHandle(`${id}.json`, { create: true });
    const access = await /** @type {any} */ (handle).createSyncAccessHandle();
    access.truncate(0);
    access.write(new TextEncoder().encode(JSON.stringify(entry)), { at: 0 });
    access.flush();
    access.close();
}

/**
 * What is kept, with sizes in bytes.
 * @returns {Promise<{ url: string, size: number, saved: string }[]>}
 */
export async function list() {
    const out = [];
    const dir = await folder();
    for await (const name of /** @type {any} */ (dir).keys()) {
        const known = name.endsWith(".json") && (await look(dir, name.slice(0, -5)));
        if (known) out.push({ url: known.entry.url, size: known.entry.size, saved: known.entry.saved });
    }
    return out.sort((a, b) => a.url.localeCompare(b.url));
}

/**
 * Deletes the files of one address, or of all.
 * @param {string} [url]
 */
export async function remove(url) {
    const dir = await folder();
    const ids = url === undefined ? null : await key(url);
    const names = [];
    for await (const name of /** @type {any} */ (dir).keys()) names.push(name);
    for (const name of names.filter((n) => ids === null || n.startsWith(ids))) {
        try {
            await dir.removeEntry(name);
        } catch (e) {
            throw new WarpweftError(
                "cache",
                `${url ?? name} cannot be deleted now (${e instanceof Error ? e.message : e}): a tab is fetching it`,
            );
        }
    }
}
