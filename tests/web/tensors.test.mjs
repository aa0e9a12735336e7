// The tensor level in Chromium, against the definitions in double precision, on the adapter, at the floor, and on the CPU.

import assert from "node:assert/strict";
import { test } from "node:test";
import { chromium, host, open, server } from "./lib.mjs";

host();

/** Numbers in -2 … 2, the same every time. @param {number} n @param {number} seed */
function numbers(n, seed) {
    const out = new Float32Array(n);
    let state = seed >>> 0;
    for (let i = 0; i < n; i++) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        out[i] = (state / 2 ** 32) * 4 - 2;
    }
    return out;
}

/** @param {Float32Array} a @param {Float32Array} b @param {number} m @param {number} k @param {number} n */
function matmul(a, b, m, k, n) {
    const out = new Float64Array(m * n);
    for (let i = 0; i < m; i++)
        for (let p = 0; p < k; p++) for (let j = 0; j < n; j++) out[i * n + j] += a[i * k + p] * b[p * n + j];
    return out;
}
/** @param {ArrayLike<number>} x @param {number} width @param {(row: Float64Array) => Float64Array} f */
function rows(x, width, f) {
    const out = new Float64Array(x.length);
    for (let at = 0; at < x.length; at += width)
        out.set(f(Float64Array.from({ length: width }, (_, i) => x[at + i])), at);
    return out;
}
/** @param {Float64Array} row */
const softmax = (row) => {
    const most = row.reduce((a, b) => Math.max(a, b));
    const e = row.map((v) => Math.exp(v - most));
    const sum = e.reduce((a, b) => a + b);
    return e.map((v) => v / sum);
};
/** @param {Float32Array} w @param {Float32Array} b */
const layerNorm = (w, b) => (/** @type {Float64Array} */ row) => {
    const mean = row.reduce((p, v) => p + v) / row.length;
    const variance = row.reduce((p, v) => p + (v - mean) ** 2, 0) / row.length;
    return row.map((v, i) => ((v - mean) / Math.sqrt(variance + 1e-5)) * w[i] + b[i]);
};

/** @param {string} what @param {number[]} got @param {Float64Array} want @param {number} within Of the largest value. */
function close(what, got, want, within) {
    assert.equal(got.length, want.length, what);
    const scale = want.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
    for (let i = 0; i < want.length; i++) {
        assert.ok(
            Math.abs(got[i] - want[i]) <= within * scale,
            `${what}: element ${i} is ${got[i]}, ${want[i]} is right`,
        );
    }
}

// Odd sizes, sizes of one, and one that fills several tiles of every kernel.
const SIZES = [
    [37, 53, 29],
    [1, 200, 65],
    [130, 64, 96],
    [1, 1, 1],
];

for (const [name, query, device] of [
    ["the adapter's limits", "", "webgpu"],
    ["the floor", "?floor", "webgpu"],
    ["the CPU", "", "cpu"],
]) {
    test(`matmul, softmax and layer-norm within ${name}`, async () => {
        const { page, context, complaints } = await open(chromium, server.url, query);
        for (const [m, k, n] of SIZES) {
            const [a, b, w, c] = [numbers(m * k, 1), numbers(k * n, 2), numbers(n, 3), numbers(n, 4)];
            const got = await page.evaluate(
                async (/** @type {any} */ { device, m, k, n, a, b, w, c }) => {
                    const { graph } = /** @type {any} */ (globalThis).warpweft;
                    const g = graph();
                    const x = g.input("a", [m, k]);
                    const y = x.matmul(g.constant(b, [k, n]));
                    const outputs = {
                        matmul: y,
                        softmax: y.softmax(),
                        layerNorm: y.layerNorm(g.constant(w, [n]), g.constant(c, [n])),
                    };
                    const program = await g.compile(outputs, { device });
                    const made = await program.run({ a: new Float32Array(a) });
                    const left = await program.close();
                    return {
                        left,
                        shape: made.matmul.shape,
                        ...Object.fromEntries(
                            Object.entries(made).map(([name, v]) => [name, [.../** @type {any} */ (v).data]]),
                        ),
                    };
                },
                { device, m, k, n, a: [...a], b: [...b], w: [...w], c: [...c] },
            );
            assert.deepEqual(got.shape, [m, n]);
            assert.equal(got.left, 0, "close gives all memory back");
            const y = matmul(a, b, m, k, n);
            close(`matmul ${m}×${k}×${n}`, got.matmul, y, 1e-5);
            close(`softmax ${m}×${n}`, got.softmax, rows(y, n, softmax), 1e-4);
            if (n > 1) close(`layer-norm ${m}×${n}`, got.layerNorm, rows(y, n, layerNorm(w, c)), 1e-4);
        }
        assert.deepEqual(complaints, []);
        await context.close();
    });
}

test("a device within the floor is asked for no more, and a weight above its binding limit is split", async () => {
    const { page, context } = await open(chromium, server.url, "?floor");
    // 144 MiB of weights, where a binding may have 128.
    const [rowsOf, k] = [36864, 1024];
    const got = await page.evaluate(
        async (/** @type {any} */ { rowsOf, k }) => {
            const seen = new Promise(
                (resolve) => (new BroadcastChannel("instruments").onmessage = (e) => resolve(e.data.device)),
            );
            const { graph } = /** @type {any} */ (globalThis).warpweft;
            const w = new Float32Array(rowsOf * k);
            for (let i = 0; i < w.length; i++) w[i] = ((i * 37) % 101) / 101 - 0.5;
            const x = Float32Array.from({ length: k }, (_, i) => ((i * 13) % 17) / 17 - 0.5);
            const g = graph();
            const program = await g.compile(
                { y: g.input("x", [1, k]).matmul(g.constant(w, [rowsOf, k]), { transposeB: true }) },
                { device: "webgpu" },
            );
            const { y } = await program.run({ x });
            await program.close();
            let worst = 0;
            for (let r = 0; r < rowsOf; r++) {
                let sum = 0;
                for (let i = 0; i < k; i++) sum += w[r * k + i] * x[i];
                worst = Math.max(worst, Math.abs(sum - y.data[r]));
            }
            return { worst, device: await seen };
        },
        { rowsOf, k },
    );
    assert.ok(got.worst < 1e-3, `a row is off by ${got.worst}`);
    assert.equal(got.device.limits.maxStorageBufferBindingSize, 2 ** 27);
    assert.equal(got.device.limits.maxBufferSize, 2 ** 28);
    assert.equal(got.device.limits.maxStorageBuffersPerShaderStage, 8);
    await context.close();
});

test("what is wrong is said in a sentence, with a code", async () => {
    const { page, context } = await open(chromium, server.url, "?floor");
    const said = await page.evaluate(async () => {
        const { graph, WarpweftError } = /** @type {any} */ (globalThis).warpweft;
        const caught = async (/** @type {() => Promise<any>} */ f) => {
            try {
                return { value: String(await f()) };
            } catch (e) {
                const { code, message, name } = /** @type {any} */ (e);
                return { code, message, name, ours: e instanceof WarpweftError };
            }
        };
        const two = () => {
            const g = graph();
            return { g, x: g.input("x", [2, 3]) };
        };
        return {
            shapes: await caught(async () => {
                const { g, x } = two();
                return g.compile({ y: x.matmul(g.constant([1, 2, 3, 4], [2, 2])) });
            }),
            op: await caught(async () => {
                const { g, x } = two();
                return g.compile({ y: g.apply("frobnicate", [x]) });
            }),
            elements: await caught(async () => {
                const { g, x } = two();
                const program = await g.compile({ y: x.exp() }, { device: "cpu" });
                return program.run({ x: [1, 2] }).finally(() => program.close());
            }),
            limit: await caught(async () => {
                const g = graph();
                // 160 MiB in one buffer, of which a binding takes 128.
                return g.compile({ y: g.input("x", [40, 1 << 20]).exp() }, { device: "webgpu" });
            }),
            closed: await caught(async () => {
                const { g, x } = two();
                const program = await g.compile({ y: x.exp() }, { device: "cpu" });
                await program.close();
                return program.run({ x: [1, 2, 3, 4, 5, 6] });
            }),
            device: await caught(async () => {
                const { g, x } = two();
                return g.compile({ y: x.exp() }, { device: "abacus" });
            }),
        };
    });
    for (const [name, e] of Object.entries(said)) {
        assert.ok(e.ours, `${name}: ${JSON.stringify(e)}`);
        assert.ok(!/\[object|undefined|unreachable/.test(e.message), `${name}: ${e.message}`);
    }
    assert.deepEqual(
        [said.shapes.code, said.op.code, said.elements.code, said.limit.code, said.closed.code, said.device.code],
        ["op", "op", "usage", "device-limit", "closed", "usage"],
    );
    assert.match(said.shapes.message, /matmul.*inner dimensions differ.*3.*2/);
    assert.match(said.limit.message, /binding|128|134217728/);
    await context.close();
});
