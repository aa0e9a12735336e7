// What every engine is measured with.

/** Numbers that are the same every time. @param {number} n */
export function numbers(n) {
    const out = new Float32Array(n);
    for (let i = 0; i < n; i++) out[i] = ((i * 37) % 101) / 101 - 0.5;
    return out;
}

/** Median seconds of seven runs after a first one. @param {() => Promise<unknown>} run */
export async function median(run) {
    await run();
    const times = [];
    for (let i = 0; i < 7; i++) {
        const start = performance.now();
        await run();
        times.push((performance.now() - start) / 1000);
    }
    return times.sort((a, b) => a - b)[3];
}

export const PROMPT = "What is the capital of France?";
export const TOKENS = 32;
