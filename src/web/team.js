// More than one core where the page is isolated: Workers with the same engine, each with memory of its own, which hold rows
// of the weights and multiply with them. Orders and answers go through one SharedArrayBuffer; src/reference/rows.rs says what
// they mean. The page starts and ends them (link.js): what a Worker starts itself, Chromium may leave behind when both end.

import { Member } from "./engine.js";
import { asError, WarpweftError } from "./errors.js";

// Each member's words of the control block.
const HEAD = 32;
/** The order's number, the number of the last that is done, what came of that. */
const [ORDER, DONE, STATE] = [0, 1, 2];
const [FINE, FAILED, ENDED] = [0, 1, 2];
/** Bytes that are shared, bytes of an error's text, pages of the member's memory, the order's words. */
const [BYTES, TEXT, PAGES, WORDS] = [3, 4, 5, 8];

/** Looks at a word before a thread goes to sleep: some tens of microseconds, what lies between two products. More would keep the
 * other thread waiting where both are on one core. */
const LOOKS = 4_000;
/** Milliseconds for an answer, beside a multiple of what the leader needed for its own part. */
const PATIENCE = 10_000;
const MULTIPLE = 20;
/** The most threads that are taken without being asked for, and with. */
const USUAL = 8;
const MOST = 32;

/**
 * How many threads may compute: what was asked for, else one for each core; one where the page shares no memory.
 * @param {number | undefined} asked
 */
export function allowed(asked) {
    if (!globalThis.crossOriginIsolated || typeof SharedArrayBuffer === "undefined") return 1;
    return Math.min(asked ?? Math.min(navigator.hardwareConcurrency || 1, USUAL), MOST);
}

/** The buffer's parts. @param {SharedArrayBuffer} buffer @param {{ members: number, shared: number, made: number }} sizes */
function parts(buffer, { members, shared, made }) {
    const control = new Int32Array(buffer, 0, members * HEAD);
    const data = new Uint8Array(buffer, control.byteLength, shared);
    const answer = (/** @type {number} */ i) =>
        new Float32Array(buffer, control.byteLength + shared + i * made, made / 4);
    return { control, data, answers: Array.from({ length: members }, (_, i) => answer(i)) };
}

/** The leader's side. */
export class Team {
    #parts;
    #members;
    /** When each member got its order. */
    #since;

    /** @param {number} members @param {number} shared Bytes that are shown at once. @param {number} made Bytes of an answer. */
    constructor(members, shared, made) {
        /** What members are started with. */
        this.sizes = { members, shared, made };
        this.buffer = new SharedArrayBuffer(members * (HEAD * 4 + made) + shared);
        this.#parts = parts(this.buffer, this.sizes);
        this.#members = members;
        this.#since = new Float64Array(members);
    }

    get threads() {
        return this.#members + 1;
    }
    /** Bytes of WebAssembly memory of all members. */
    get bytes() {
        let pages = 0;
        for (let i = 0; i < this.#members; i++) pages += Atomics.load(this.#parts.control, i * HEAD + PAGES);
        return pages * 65536;
    }

    /** @param {Uint8Array} bytes */
    share(bytes) {
        const { control, data } = this.#parts;
        data.set(bytes);
        for (let i = 0; i < this.#members; i++) control[i * HEAD + BYTES] = bytes.length;
    }

    /** @param {number} member From 1 on. @param {Uint32Array} words */
    order(member, words) {
        const { control } = this.#parts;
        const at = (member - 1) * HEAD;
        if (Atomics.load(control, at + STATE) === ENDED) throw this.#lost(member, "has ended");
        control.set(words, at + WORDS);
        this.#since[member - 1] = performance.now();
        Atomics.add(control, at + ORDER, 1);
        Atomics.notify(control, at + ORDER);
    }

    /** @param {number} member From 1 on. @param {Float32Array} made Takes the answer. */
    done(member, made) {
        const { control, answers } = this.#parts;
        const at = (member - 1) * HEAD;
        const wanted = Atomics.load(control, at + ORDER);
        const asked = performance.now();
        const patience = PATIENCE + MULTIPLE * (asked - this.#since[member - 1]);
        for (let looks = 0; ; looks++) {
            const is = Atomics.load(control, at + DONE);
            if (is === wanted) break;
            if (looks < LOOKS) continue;
            const left = patience - (performance.now() - asked);
            if (left <= 0) throw this.#lost(member, `has not answered for ${Math.round(patience / 1000)} s`);
            Atomics.wait(control, at + DONE, is, left);
        }
        if (Atomics.load(control, at + STATE) !== FINE) throw this.#failed(member);
        made.set(answers[member - 1].subarray(0, made.length));
    }

    /** What a member has written of its error. @param {number} member */
    #failed(member) {
        const { control, answers } = this.#parts;
        const text = new Uint8Array(answers[member - 1].slice().buffer, 0, control[(member - 1) * HEAD + TEXT]);
        const { code, message } = JSON.parse(new TextDecoder().decode(text));
        return code === "out-of-memory" ? new WarpweftError(code, message) : this.#lost(member, `stopped (${message})`);
    }

    /** @param {number} member @param {string} what */
    #lost(member, what) {
        return new WarpweftError("device-lost", `thread ${member + 1} of ${this.threads} ${what}`);
    }
}

/**
 * Lets all members of a team go: a Worker that sleeps here is otherwise ended by force only, after some seconds.
 * @param {SharedArrayBuffer} buffer @param {{ members: number }} sizes
 */
export function dismiss(buffer, { members }) {
    const control = new Int32Array(buffer, 0, members * HEAD);
    for (let at = 0; at < control.length; at += HEAD) {
        control[at + WORDS] = 0;
        Atomics.add(control, at + ORDER, 1);
        Atomics.notify(control, at + ORDER);
    }
}

/**
 * A member's whole life after its engine has started: waits for orders and does them, without ever going back to the loop of
 * events.
 * @param {{ buffer: SharedArrayBuffer, sizes: { members: number, shared: number, made: number }, index: number }} said
 * @param {WebAssembly.Memory} memory
 */
export function obey({ buffer, sizes, index }, memory) {
    const { control, data, answers } = parts(buffer, sizes);
    const [at, room, member] = [index * HEAD, answers[index], new Member()];
    for (let seen = 0; ; seen++) {
        for (let looks = 0; looks < LOOKS && Atomics.load(control, at + ORDER) === seen; looks++);
        while (Atomics.load(control, at + ORDER) === seen) Atomics.wait(control, at + ORDER, seen);
        const words = Uint32Array.from(control.subarray(at + WORDS, at + WORDS + 5));
        if (words[0] === 0) return;
        let state = FINE;
        try {
            member.obey(words, data.subarray(0, control[at + BYTES]), room);
        } catch (thrown) {
            const { code, message } = asError(thrown);
            const text = new TextEncoder().encode(JSON.stringify({ code, message: message.slice(0, 500) }));
            new Uint8Array(room.buffer, room.byteOffset, text.length).set(text);
            control[at + TEXT] = text.length;
            // After a trap nothing of this instance can be trusted.
            state = thrown instanceof WebAssembly.RuntimeError || thrown instanceof RangeError ? ENDED : FAILED;
        }
        Atomics.store(control, at + PAGES, memory.buffer.byteLength / 65536);
        Atomics.store(control, at + STATE, state);
        Atomics.store(control, at + DONE, seen + 1);
        Atomics.notify(control, at + DONE);
        if (state === ENDED) return;
    }
}
