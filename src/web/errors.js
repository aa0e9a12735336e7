// Errors with a code, which survive the way between a page and a Worker.

/**
 * What every failure of this package is: a sentence for people in `message`, a word for programs in `code`.
 *
 * Codes: `usage`, `op`, `file`, `model`, `network`, `cache`, `cancelled`, `closed`, `device-unavailable`, `device-lost`,
 * `device-limit`, `device-pipeline`, `device-validation`, `out-of-memory`, `not-finite`, `internal`.
 */
export class WarpweftError extends Error {
    /**
     * @param {string} code
     * @param {string} message
     */
    constructor(code, message) {
        super(message);
        /** @type {string} */
        this.code = code;
        // What `fetch` and its like throw when a signal aborts them.
        this.name = code === "cancelled" ? "AbortError" : "WarpweftError";
    }
}

/**
 * Whatever was thrown, as an error of this package.
 * @param {unknown} thrown
 * @returns {WarpweftError}
 */
export function asError(thrown) {
    if (thrown instanceof WarpweftError) return thrown;
    if (thrown instanceof WebAssembly.RuntimeError || thrown instanceof RangeError) {
        const memory = /memory|allocation/i.test(thrown.message);
        return new WarpweftError(memory ? "out-of-memory" : "internal", `the engine stopped: ${thrown.message}`);
    }
    if (thrown instanceof Error) {
        const { code } = /** @type {{ code?: unknown }} */ (thrown);
        if (typeof code === "string") return new WarpweftError(code, thrown.message);
        if (thrown.name === "AbortError") return new WarpweftError("cancelled", "cancelled");
        return new WarpweftError("internal", `${thrown.name}: ${thrown.message}`);
    }
    return new WarpweftError("internal", String(thrown));
}
