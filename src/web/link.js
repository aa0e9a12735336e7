// A Worker and the requests to it.

import { asError, WarpweftError } from "./errors.js";
import { dismiss } from "./team.js";

/** @type {Promise<WebAssembly.Module> | undefined} */
let compiled;

/** The engine, compiled once for all Workers of a page. */
function engine() {
    const url = new URL("./warpweft.wasm", import.meta.url);
    compiled ??= compile(url).catch((e) => {
        compiled = undefined;
        throw new WarpweftError(
            "network",
            `the engine (${url}) could not be loaded: ${e instanceof Error ? e.message : e}`,
        );
    });
    return compiled;
}

/** @param {URL} url */
async function compile(url) {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    const streams = response.headers.get("content-type")?.startsWith("application/wasm");
    return streams ? WebAssembly.compileStreaming(response) : WebAssembly.compile(await response.arrayBuffer());
}

/**
 * A Worker from this very file; from another origin it takes a detour, which browsers ask for.
 * @param {string} name What it is to be: see index.js.
 */
export function start(name) {
    const url = import.meta.url;
    if (new URL(url).origin === globalThis.location?.origin) return new Worker(url, { type: "module", name });
    const detour = URL.createObjectURL(new Blob([`import ${JSON.stringify(url)};`], { type: "text/javascript" }));
    return new Worker(detour, { type: "module", name });
}

/** Starts a member's engine. @param {Worker} worker @param {object} first @returns {Promise<void>} */
function ready(worker, first) {
    return new Promise((resolve, reject) => {
        const late = setTimeout(() => reject(new WarpweftError("internal", "they do not start")), START);
        const failed = (/** @type {string} */ why) => reject(new WarpweftError("internal", why));
        worker.onmessage = (e) => {
            clearTimeout(late);
            if (e.data === "ready") resolve();
            else failed(String(e.data));
        };
        worker.onerror = (e) => {
            e.preventDefault?.();
            clearTimeout(late);
            failed(e.message || "their script cannot be loaded");
        };
        worker.postMessage(first);
    });
}

/**
 * @typedef {object} How
 * @property {AbortSignal} [signal]
 * @property {(event: any) => void} [heard]
 * @property {Transferable[]} [transfer]
 */

/** Milliseconds for a team to start. */
const START = 20_000;

/** Requests to one Worker. */
export class Link {
    /** @type {Map<number, { resolve: (value: any) => void, reject: (e: Error) => void, heard?: (event: any) => void }>} */
    #open = new Map();
    #next = 1;
    #worker;
    /** The Worker's team, if it has one. @type {Worker[]} */
    #members = [];
    /** What lets them go. */
    #dismiss = () => {};
    /** Why nothing can be asked any more. @type {WarpweftError | undefined} */
    #over;

    /** @param {Worker} worker */
    constructor(worker) {
        this.#worker = worker;
        worker.onmessage = (e) => this.#hear(e.data);
        worker.onerror = (e) => {
            e.preventDefault?.();
            this.end(`the Worker stopped: ${e.message ?? "its script could not be loaded"}`, "internal");
        };
    }

    static async start() {
        const module = await engine();
        const worker = start("warpweft");
        worker.postMessage({ module });
        return new Link(worker);
    }

    /** @param {any} said */
    #hear(said) {
        if (said.team) return void this.#gather(said.team);
        if (said.disband) return this.#disband();
        const open = this.#open.get(said.id);
        if (said.event) {
            try {
                open?.heard?.(said.event);
            } catch (e) {
                // A listener's error is the page's: it must not stop the answer.
                globalThis.reportError?.(e);
            }
            return;
        }
        this.#open.delete(said.id);
        if (said.error) open?.reject(new WarpweftError(said.error.code, said.error.message));
        else open?.resolve(said.value);
        if (said.broken) this.end(said.error.message, "internal");
    }

    /**
     * Starts a team for the Worker, and tells it what stood in the way, if anything did.
     * @param {{ buffer: SharedArrayBuffer, sizes: { members: number } }} team
     */
    async #gather({ buffer, sizes }) {
        let problem = "";
        try {
            const module = await engine();
            this.#dismiss = () => dismiss(buffer, sizes);
            this.#members = Array.from({ length: sizes.members }, () => start("warpweft member"));
            await Promise.all(this.#members.map((worker, index) => ready(worker, { module, buffer, sizes, index })));
        } catch (e) {
            this.#disband();
            problem = asError(e).message;
        }
        this.#worker.postMessage({ team: problem });
        if (this.#over) this.#disband();
    }

    #disband() {
        this.#dismiss();
        for (const worker of this.#members.splice(0)) worker.terminate();
    }

    /**
     * @param {string} op @param {any} ask @param {How} [how]
     * @returns {Promise<any>}
     */
    ask(op, ask, { signal, heard, transfer = [] } = {}) {
        if (this.#over) return Promise.reject(this.#over);
        if (signal?.aborted) return Promise.reject(new WarpweftError("cancelled", "cancelled"));
        const id = this.#next++;
        const cancel = () => this.#worker.postMessage({ cancel: id });
        signal?.addEventListener("abort", cancel, { once: true });
        const answer = new Promise((resolve, reject) => {
            this.#open.set(id, { resolve, reject, heard });
            try {
                this.#worker.postMessage({ id, op, ask }, transfer);
            } catch (e) {
                this.#open.delete(id);
                reject(new WarpweftError("usage", `this cannot be given to a Worker: ${asError(e).message}`));
            }
        });
        return answer.finally(() => signal?.removeEventListener("abort", cancel));
    }

    /** Closes what runs there, then ends the Worker; the bytes that stayed in use. @returns {Promise<number>} */
    async close() {
        if (this.#over) return 0;
        for (const id of this.#open.keys()) this.#worker.postMessage({ cancel: id });
        const left = await this.ask("close", {});
        this.end("it is closed");
        return left;
    }

    /** @param {string} why @param {string} [code] */
    end(why, code = "closed") {
        this.#over ??= new WarpweftError(code, why);
        this.#worker.terminate();
        this.#disband();
        for (const { reject } of this.#open.values()) reject(this.#over);
        this.#open.clear();
    }
}
