// The Worker: one model or one graph, and its device. Requests are done one after another; only a cancel overtakes.

import init, { Flag, How, Opening, Program, probe } from "./engine.js";
import { asError, WarpweftError } from "./errors.js";
import { read } from "./source.js";
import { allowed, obey, Team } from "./team.js";

/** @typedef {import("./engine.js").Model} Model */
/** @typedef {import("./source.js").Plain} Plain */
/** @typedef {{ plain: Plain, device: string, context: number, mesh: string, cache: boolean, threads?: number }} OpenAsk */

/** @type {any} */
const scope = globalThis;

/** What the last panic said, for the error that follows its trap. */
let panicked = "";
scope.warpweftPanic = (/** @type {string} */ what) => (panicked = what);

/** A promise that is kept after events that wait have had their turn. */
const turns = new MessageChannel();
/** @type {(() => void)[]} */
const waiting = [];
turns.port1.onmessage = () => waiting.shift()?.();
scope.warpweftBreathe = () =>
    new Promise((resolve) => {
        waiting.push(() => resolve(undefined));
        turns.port2.postMessage(0);
    });

/** Hears whether the page has started a team: what stood in the way, or nothing. @type {(problem: string) => void} */
let teamed = () => {};
/** Who shares the weights on the CPU. @type {Team | undefined} */
let team;
/** Asked for by the engine where a model turns out to run on the CPU. @type {(shared: number, made: number) => Promise<number>} */
let gather = async () => 1;
scope.warpweftTeam = {
    gather: (/** @type {number} */ shared, /** @type {number} */ made) => gather(shared, made),
    isAsked: () => opened?.threads !== undefined,
    disband: () => disband(),
    share: (/** @type {Uint8Array} */ bytes) => team?.share(bytes),
    order: (/** @type {number} */ member, /** @type {Uint32Array} */ words) => team?.order(member, words),
    done: (/** @type {number} */ member, /** @type {Float32Array} */ made) => team?.done(member, made),
};

function disband() {
    if (team) scope.postMessage({ disband: true });
    team = undefined;
}

/** @type {Model | undefined} */
let model;
/** @type {Program | undefined} */
let program;
/** What the model was opened with: the way to it once more. @type {OpenAsk | undefined} */
let opened;
let again = false;
/** @type {WebAssembly.Memory | undefined} */
let memory;

/** The request that runs, and those that were cancelled before their turn. */
let running = 0;
let flag = /** @type {Flag | undefined} */ (undefined);
let stopper = new AbortController();
/** @type {Set<number>} */
const cancelled = new Set();

/** @param {number} id @param {object} message @param {Transferable[]} [transfer] */
function post(id, message, transfer = []) {
    scope.postMessage({ id, ...message }, transfer);
}

/** @param {number} id @param {OpenAsk} ask */
async function load(id, ask) {
    const notice = (/** @type {string} */ text) => post(id, { event: { notice: text } });
    const { files, side } = await read(ask.plain, { cache: ask.cache, signal: stopper.signal, notice });
    gather = async (shared, made) => {
        const threads = allowed(ask.threads);
        if (threads < 2) return 1;
        team = new Team(threads - 1, shared, made);
        const answer = new Promise((resolve) => (teamed = resolve));
        scope.postMessage({ team: { buffer: team.buffer, sizes: team.sizes } });
        const problem = await answer;
        if (!problem) return threads;
        disband();
        notice(`the CPU runs on one thread, others could not be started: ${problem}`);
        return 1;
    };
    const tell = (/** @type {string} */ json) => post(id, { event: JSON.parse(json) });
    const how = new How(ask.device, ask.context, ask.mesh);
    const [main] = files;
    const total = files.every((f) => f.size >= 0) ? files.reduce((n, f) => n + f.size, 0) : -1;
    /** @type {Opening | undefined} */
    let opening;
    let [loaded, told] = [0, 0];
    try {
        if (main.head)
            opening = await Opening.of_files(
                ask.plain.name,
                files.map((f) => [f.name, f.head, f.size]),
                side,
                how,
                tell,
            );
        else opening = new Opening(main.name, main.size, side, how, tell);
        for (const file of files) {
            for await (const piece of file.pieces) {
                if (stopper.signal.aborted) throw new WarpweftError("cancelled", "cancelled");
                await opening.push(piece);
                loaded += piece.length;
                if (performance.now() - told > 50 || loaded === total) {
                    told = performance.now();
                    post(id, { event: { stage: file.from === "network" ? "download" : "read", loaded, total } });
                }
            }
            if (file.head) opening.file_ends(file.name);
        }
        again = files.every((f) => f.again);
    } catch (e) {
        opening?.free();
        disband();
        throw e;
    }
    try {
        return await opening.finish();
    } catch (e) {
        disband();
        throw e;
    }
}

/**
 * Runs `ask` on the model; where its device is lost, loads the model anew, once, and asks again.
 * @template T
 * @param {number} id @param {(model: Model) => Promise<T>} ask @returns {Promise<T>}
 */
async function lasting(id, ask) {
    if (!model || !opened) throw new WarpweftError("closed", "the model is closed");
    try {
        return await ask(model);
    } catch (e) {
        const error = asError(e);
        if (error.code !== "device-lost") throw error;
        if (!again)
            throw new WarpweftError(
                "device-lost",
                `${error.message}; the model came as a stream, which cannot be read again: open it anew`,
            );
        post(id, { event: { notice: `${error.message}: loading the model anew and going on` } });
        const passage = model.leave();
        model.close();
        model = undefined;
        // A thread that was lost may be lost again: one is enough to go on.
        if (team) opened = { ...opened, threads: 1 };
        disband();
        model = await load(id, opened);
        if (passage) model.enter(passage);
        return await ask(model);
    }
}

/** @param {[string, string, number, number, number | null]} s */
function span([track, name, start, duration, bytes]) {
    return { track, name, start, duration, ...(bytes === null ? {} : { bytes }) };
}

function info() {
    if (!model) throw new WarpweftError("closed", "the model is closed");
    return {
        ...JSON.parse(model.info()),
        rankBytes: [...model.ranks()],
        wasmBytes: (memory?.buffer.byteLength ?? 0) + (team?.bytes ?? 0),
    };
}

/** @type {Record<string, (id: number, ask: any) => Promise<unknown>>} */
const does = {
    async open(id, ask) {
        opened = ask;
        model = await load(id, ask);
        return info();
    },
    async info() {
        return info();
    },
    async generate(id, ask) {
        const current = /** @type {Flag} */ (flag);
        if (!model) throw new WarpweftError("closed", "the model is closed");
        const start = performance.now();
        let first = 0;
        model.begin(JSON.stringify(ask));
        for (;;) {
            const token = await lasting(id, (m) => m.next(current.share()));
            if (token === undefined) break;
            first ||= performance.now() - start;
            const spans = model.spans();
            post(id, {
                event: { token: { ...JSON.parse(token), ...(spans && { spans: JSON.parse(spans).map(span) }) } },
            });
        }
        return { ...JSON.parse(model.end()), firstTokenSeconds: first / 1000 };
    },
    async embed(id, { texts }) {
        const current = /** @type {Flag} */ (flag);
        return lasting(id, (m) => m.embed(texts, current.share()));
    },
    async tokenize(_, { text }) {
        if (!model) throw new WarpweftError("closed", "the model is closed");
        return model.tokenize(text);
    },
    async close() {
        const left = model?.close() ?? program?.close() ?? 0;
        model = program = undefined;
        disband();
        return left;
    },
    async compile(_, { json, data, device }) {
        program = await Program.compile(json, data, device);
        return { adapter: program.adapter(), gpuBytes: program.bytes() };
    },
    async run(_, { inputs }) {
        if (!program) throw new WarpweftError("closed", "the program is closed");
        return program.run(inputs, /** @type {Flag} */ (flag).share());
    },
    async seconds(_, { inputs, repeat }) {
        if (!program) throw new WarpweftError("closed", "the program is closed");
        return program.seconds(inputs, repeat);
    },
    async probe(_, { device }) {
        return JSON.parse(await probe(device));
    },
};

/** @param {{ id: number, op: string, ask: any }} request */
async function answer({ id, op, ask }) {
    running = id;
    stopper = new AbortController();
    flag?.free();
    flag = new Flag();
    try {
        if (cancelled.delete(id)) throw new WarpweftError("cancelled", "cancelled");
        post(id, { value: await does[op](id, ask) });
    } catch (thrown) {
        const error = asError(thrown);
        const { code, message } =
            panicked && error.code === "internal"
                ? { code: "internal", message: `a bug in the engine: ${panicked}` }
                : error;
        // After a trap, or a stack that overflowed, nothing of this instance can be trusted.
        const broken =
            thrown instanceof WebAssembly.RuntimeError ||
            thrown instanceof RangeError ||
            (thrown instanceof Error && thrown.name === "InternalError");
        post(id, { error: { code, message }, broken });
    }
    running = 0;
}

/** Makes this Worker answer. The first message brings the compiled engine. */
export function serve() {
    /** @type {Promise<unknown>} */
    let last = Promise.resolve();
    /** Why the engine did not start, if it did not. @type {WarpweftError | undefined} */
    let broken;
    scope.onmessage = (/** @type {MessageEvent} */ e) => {
        const request = e.data;
        if (request.module) {
            const failed = (/** @type {unknown} */ e) =>
                (broken = new WarpweftError("internal", `the engine does not start here: ${asError(e).message}`));
            last = init({ module_or_path: request.module }).then((exports) => (memory = exports.memory), failed);
        } else if (request.team !== undefined) {
            teamed(request.team);
        } else if (request.cancel) {
            if (request.cancel === running) {
                flag?.set(true);
                stopper.abort();
            } else if (request.cancel > running) cancelled.add(request.cancel);
        } else {
            const refuse = (/** @type {WarpweftError} */ { code, message }) =>
                post(request.id, { error: { code, message }, broken: true });
            last = last.then(() => (broken ? refuse(broken) : answer(request)));
        }
    };
}

/** Makes this Worker a member of another's team, which its first message brings. */
export function serveMember() {
    scope.onmessage = async (/** @type {MessageEvent} */ e) => {
        try {
            const { memory } = await init({ module_or_path: e.data.module });
            scope.postMessage("ready");
            obey(e.data, memory);
        } catch (thrown) {
            scope.postMessage(asError(thrown).message);
        }
        scope.close();
    };
}
