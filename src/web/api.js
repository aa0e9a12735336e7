// The package as a page sees it.

import { WarpweftError } from "./errors.js";
import { Link } from "./link.js";
import { list, remove } from "./source.js";
import { Graph } from "./tensors.js";

export { WarpweftError } from "./errors.js";

/**
 * @typedef {object} Progress
 * @property {"download" | "read" | "compile"} stage  `read` is from the cache, a file or a buffer.
 * @property {number} loaded  Bytes, or kernels of `compile`.
 * @property {number} total  -1 where it is not known.
 */

/**
 * @typedef {object} OpenOptions
 * @property {(progress: Progress) => void} [onProgress]
 * @property {(text: string) => void} [onNotice]  Sentences for people: which device was taken and why, a device that was lost.
 * @property {"auto" | "webgpu" | "cpu"} [device]  `auto` is a real GPU, else the CPU in WebAssembly.
 * @property {boolean} [cache]  Whether a model from an address is kept in the origin's private files; it is, unless this is false.
 * @property {number} [threads]  Of the CPU, where no device computes and the page is cross-origin isolated; elsewhere there is one.
 *   Where not given: one for each core, up to 8, if a short trial finds that they help.
 * @property {number} [context]  Tokens of context; the model's own, up to 4,096, where not given.
 * @property {string} [mesh]  Axes such as `tp=3` or `pp=2,tp=2`: virtual devices on the adapter share the model. Each token
 *   then brings its `spans`, for which every rank waits to be timed: for looking, not for speed.
 * @property {AbortSignal} [signal]
 */

/**
 * @typedef {object} Info
 * @property {string} name
 * @property {string} family
 * @property {"generator" | "embedder"} kind
 * @property {number} layers
 * @property {number} width
 * @property {number} heads
 * @property {number} kvHeads
 * @property {number} vocabulary
 * @property {number} trainedContext  Tokens that the model was made for.
 * @property {number} context  Tokens that it was opened for.
 * @property {number} parameters
 * @property {number} weightBytes
 * @property {boolean} chat  Whether it brings a form for conversations.
 * @property {string} adapter
 * @property {"webgpu" | "cpu"} device
 * @property {number} threads  Of the CPU that compute; 0 on WebGPU.
 * @property {number} gpuBytes  Bytes of GPU buffers in use.
 * @property {number} peakBytes  The most that were, on the CPU of weights and values.
 * @property {number[]} rankBytes  Bytes of each rank of a mesh; none on one device.
 * @property {number} wasmBytes  Bytes of WebAssembly memory, of all threads together.
 */

/**
 * @typedef {object} GenerateOptions
 * @property {number} [maxTokens]  To the end of the context where not given.
 * @property {number} [temperature]  0, the likeliest token always, where not given.
 * @property {number} [topK]
 * @property {number} [topP]
 * @property {number} [minP]
 * @property {number} [repeatPenalty]
 * @property {number} [seed]
 * @property {AbortSignal} [signal]
 */

/** @typedef {{ role: "system" | "user" | "assistant", content: string }} Message */
/**
 * @typedef {object} Span  Something that took time, in microseconds from the step's begin.
 * @property {string} track  `rank 0`, `link 0→1`
 * @property {string} name
 * @property {number} start
 * @property {number} duration
 * @property {number} [bytes]  Of a message.
 */
/** @typedef {{ id: number, text: string, logprob: number, spans?: Span[] }} Token  `text` is what it completes. */

/**
 * @typedef {object} Figures
 * @property {"end" | "length" | "context" | "cancelled"} stop
 * @property {number} tokens
 * @property {number} promptTokens
 * @property {number} promptPerSecond
 * @property {number} tokensPerSecond
 * @property {number} firstTokenSeconds
 * @property {string} adapter
 * @property {number} peakBytes
 */

/** @typedef {string | URL | Blob | ArrayBuffer | ArrayBufferView<ArrayBuffer> | ReadableStream<Uint8Array>} File  One file of a model. */

/**
 * Opens a model: a .gguf from anywhere, or a folder with config.json, tokenizer.json and model.safetensors, or the files that
 * model.safetensors.index.json names (an address that ends with `/`, an array of Files, or an object of them by name).
 * @param {File | readonly globalThis.File[] | Record<string, File>} source
 * @param {OpenOptions} [options]
 * @returns {Promise<Model>}
 */
export async function open(source, options = {}) {
    const { device = "auto", context = 0, mesh = "", cache = true, threads } = options;
    if (threads !== undefined && !(Number.isInteger(threads) && threads > 0))
        throw new WarpweftError("usage", `threads is ${threads}, it must be a whole number from 1`);
    const { plain, ports } = put("model", source);
    const link = await Link.start();
    try {
        const heard = (/** @type {any} */ event) =>
            event.notice ? options.onNotice?.(event.notice) : options.onProgress?.(event);
        const ask = { plain, device, context, mesh: String(mesh), cache: cache !== false, threads };
        const info = await link.ask("open", ask, { signal: options.signal, heard, transfer: ports });
        return new Model(link, info, options.onNotice);
    } catch (e) {
        link.end("the model could not be opened");
        throw e;
    }
}

/**
 * A source in a form that can be posted, and what is handed over with it.
 * @param {string} name @param {any} source
 * @returns {{ plain: import("./source.js").Plain, ports: MessagePort[] }}
 */
function put(name, source) {
    if (typeof source === "string" || source instanceof URL) {
        const url = new URL(source, globalThis.location?.href);
        return {
            plain: {
                kind: "url",
                name: decodeURIComponent(url.pathname.split("/").filter(Boolean).pop() ?? name),
                url: url.href,
            },
            ports: [],
        };
    }
    if (source instanceof Blob)
        return { plain: { kind: "blob", name: /** @type {any} */ (source).name ?? name, blob: source }, ports: [] };
    if (source instanceof ArrayBuffer) return { plain: { kind: "buffer", name, buffer: source }, ports: [] };
    if (ArrayBuffer.isView(source)) {
        const bytes = new Uint8Array(source.buffer, source.byteOffset, source.byteLength).slice();
        return { plain: { kind: "buffer", name, buffer: bytes.buffer }, ports: [] };
    }
    if (source instanceof ReadableStream) {
        const { port1, port2 } = new MessageChannel();
        pump(source, port1);
        return { plain: { kind: "port", name, port: port2 }, ports: [port2] };
    }
    if (source && typeof source === "object") {
        const entries =
            Array.isArray(source) || source instanceof FileList
                ? [...source].map((f) => [f.name, f])
                : Object.entries(source);
        const files = entries.map(([n, f]) => [n, put(n, f)]);
        if (files.length > 0) {
            return {
                plain: { kind: "folder", name, files: Object.fromEntries(files.map(([n, f]) => [n, f.plain])) },
                ports: files.flatMap(([, f]) => f.ports),
            };
        }
    }
    throw new WarpweftError(
        "usage",
        "a model is an address, a File, an ArrayBuffer, a ReadableStream, or the files of a folder by name",
    );
}

/**
 * Gives the Worker a chunk whenever it asks for one.
 * @param {ReadableStream<Uint8Array>} stream @param {MessagePort} port
 */
function pump(stream, port) {
    const reader = stream.getReader();
    port.onmessage = async (e) => {
        if (e.data === "stop") {
            port.close();
            reader.cancel().catch(() => {});
            return;
        }
        try {
            port.postMessage(await reader.read());
        } catch (error) {
            port.postMessage({ error: `the stream failed: ${error instanceof Error ? error.message : error}` });
        }
    };
}

/** A model that is open in a Worker of its own. */
export class Model {
    #link;
    #info;
    #onNotice;

    /** @param {Link} link @param {Info} info @param {((text: string) => void) | undefined} onNotice */
    constructor(link, info, onNotice) {
        this.#link = link;
        this.#info = info;
        this.#onNotice = onNotice;
    }

    /** What the model is and where it runs, as it was when it was opened. @returns {Info} */
    info() {
        return this.#info;
    }

    /** The same now: memory changes. @returns {Promise<Info>} */
    async refresh() {
        this.#info = await this.#link.ask("info", {});
        return this.#info;
    }

    /**
     * Continues a text, token by token.
     * @param {string} prompt @param {GenerateOptions} [options] @returns {Answer}
     */
    generate(prompt, options = {}) {
        return new Answer(this.#link, { prompt: String(prompt) }, options, this.#onNotice);
    }

    /**
     * Answers a conversation in the model's own form, token by token. What an earlier answer had in common is not
     * computed anew.
     * @param {readonly Message[]} messages @param {GenerateOptions} [options] @returns {Answer}
     */
    chat(messages, options = {}) {
        return new Answer(
            this.#link,
            { messages: messages.map(({ role, content }) => ({ role, content })) },
            options,
            this.#onNotice,
        );
    }

    /**
     * A vector of length one for each text.
     * @param {string | readonly string[]} texts @param {{ signal?: AbortSignal }} [options] @returns {Promise<Float32Array[]>}
     */
    async embed(texts, options = {}) {
        const all = typeof texts === "string" ? [texts] : [...texts];
        const heard = (/** @type {any} */ event) => event.notice && this.#onNotice?.(event.notice);
        const flat = await this.#link.ask("embed", { texts: all }, { signal: options.signal, heard });
        const width = all.length ? flat.length / all.length : 0;
        return all.map((_, i) => flat.slice(i * width, (i + 1) * width));
    }

    /** Ids of a text. @param {string} text @returns {Promise<Uint32Array>} */
    async tokenize(text) {
        return this.#link.ask("tokenize", { text: String(text) });
    }

    /**
     * Frees the model's memory and ends its Worker. The promise gives the bytes of GPU memory that stayed in use: 0.
     * @returns {Promise<number>}
     */
    async close() {
        return this.#link.close();
    }
}

/**
 * An answer on its way: `for await (const token of answer)`. It begins at once; leaving the loop ends it.
 * @implements {AsyncIterable<Token>}
 */
export class Answer {
    /** @type {Token[]} */
    #ready = [];
    /** @type {(() => void) | undefined} */
    #wake;
    #ended = false;
    #stop = new AbortController();

    /** @param {Link} link @param {object} ask @param {GenerateOptions} options @param {((text: string) => void) | undefined} onNotice */
    constructor(link, ask, { signal, ...options }, onNotice) {
        const stop = () => this.#stop.abort();
        if (signal?.aborted) stop();
        signal?.addEventListener("abort", stop, { once: true });
        const heard = (/** @type {any} */ event) => {
            if (event.notice) onNotice?.(event.notice);
            if (event.token) this.#ready.push(event.token);
            this.#wake?.();
        };
        /**
         * The figures, once it has ended; an error where it failed or was cancelled.
         * @type {Promise<Figures>}
         */
        this.figures = link
            .ask("generate", { ...ask, ...options }, { signal: this.#stop.signal, heard })
            .finally(() => {
                signal?.removeEventListener("abort", stop);
                this.#ended = true;
                this.#wake?.();
            });
        // Whoever iterates sees the error there.
        this.figures.catch(() => {});
    }

    /** @returns {AsyncGenerator<Token, Figures, void>} */
    async *[Symbol.asyncIterator]() {
        try {
            for (;;) {
                while (this.#ready.length > 0) yield/** @type {Token} */ (this.#ready.shift());
                if (this.#ended) return await this.figures;
                await new Promise((resolve) => (this.#wake = () => resolve(undefined)));
            }
        } finally {
            this.#stop.abort();
        }
    }

    /** The whole text, once it has ended. @returns {Promise<string>} */
    async text() {
        let text = "";
        for await (const token of this) text += token.text;
        return text;
    }
}

/** A graph of tensors to build and compile. */
export function graph() {
    return new Graph();
}

/**
 * What the adapter can do at best, measured: FLOP a second, bytes a second, seconds of a submission and of a dispatch.
 * @param {{ device?: "auto" | "webgpu" }} [options]
 * @returns {Promise<{ adapter: string, flops: number, bandwidth: number, submit: number, dispatch: number }>}
 */
export async function probe({ device = "webgpu" } = {}) {
    const link = await Link.start();
    try {
        return await link.ask("probe", { device });
    } finally {
        link.end("the probe has ended");
    }
}

/** The models that this origin keeps. */
export const kept = {
    /** Addresses with sizes in bytes. */
    list,
    /** Deletes one address's files, or all. */
    remove,
};
