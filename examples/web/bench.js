// The bench: operations beside what the adapter can do at best.

import { $, row } from "./page.js";
import { graph, probe } from "./warpweft/warpweft.js";

/** Numbers that are the same every time. @param {number} n */
function numbers(n) {
    const out = new Float32Array(n);
    for (let i = 0; i < n; i++) out[i] = ((i * 37) % 101) / 101 - 0.5;
    return out;
}

/**
 * What is measured: a graph, its inputs, and what it computes and moves.
 * @type {{ name: string, flop: number, bytes: number, make: () => { g: any, y: any, inputs: Record<string, Float32Array> } }[]}
 */
const MEASURES = [
    {
        name: "matmul 512 × 512 × 512, f32",
        flop: 2 * 512 ** 3,
        bytes: 3 * 4 * 512 ** 2,
        make() {
            const g = graph();
            const [a, b] = [g.input("a", [512, 512]), g.constant(numbers(512 * 512), [512, 512])];
            return { g, y: a.matmul(b), inputs: { a: numbers(512 * 512) } };
        },
    },
    {
        name: "matrix · vector 2048 × 2048, f32",
        flop: 2 * 2048 ** 2,
        bytes: 4 * 2048 ** 2,
        make() {
            const g = graph();
            const [x, w] = [g.input("x", [1, 2048]), g.constant(numbers(2048 * 2048), [2048, 2048])];
            return { g, y: x.matmul(w, { transposeB: true }), inputs: { x: numbers(2048) } };
        },
    },
    {
        name: "softmax of 1024 rows of 1024",
        flop: 0,
        bytes: 2 * 4 * 1024 ** 2,
        make() {
            const g = graph();
            return { g, y: g.input("x", [1024, 1024]).softmax(), inputs: { x: numbers(1024 * 1024) } };
        },
    },
    {
        name: "layer-norm of 1024 rows of 1024",
        flop: 0,
        bytes: 2 * 4 * 1024 ** 2,
        make() {
            const g = graph();
            const [w, b] = [g.constant(numbers(1024), [1024]), g.constant(numbers(1024), [1024])];
            return { g, y: g.input("x", [1024, 1024]).layerNorm(w, b), inputs: { x: numbers(1024 * 1024) } };
        },
    },
];

/** @param {number} s */
function time(s) {
    return s >= 1 ? `${s.toFixed(2)} s` : s >= 1e-3 ? `${(s * 1e3).toFixed(2)} ms` : `${(s * 1e6).toFixed(1)} µs`;
}

/** @param {{ model: () => import("./warpweft/types/index.js").Model | undefined }} talk */
export function bench(talk) {
    const body = $("table").tBodies[0];
    const say = (/** @type {string} */ text) => ($("bench-state").textContent = text);

    /** @param {"webgpu" | "cpu"} device */
    async function measure(device) {
        body.replaceChildren();
        $("table").hidden = false;
        $("caption").textContent = device === "cpu" ? "On the CPU, in WebAssembly" : "On WebGPU";
        /** @type {{ flops: number, bandwidth: number } | undefined} */
        let best;
        if (device === "webgpu") {
            say("Measuring the adapter");
            const p = await probe();
            best = p;
            body.append(row(["probe: multiply-adds in registers", "", `${(p.flops / 1e9).toFixed(1)} GFLOP/s`, ""]));
            body.append(row(["probe: copy by a shader", "", `${(p.bandwidth / 1e9).toFixed(2)} GB/s`, ""]));
            body.append(row(["probe: submission and wait", time(p.submit), "", ""]));
            body.append(row(["probe: one more dispatch (a layer takes nine)", time(p.dispatch), "", ""]));
        }
        for (const m of MEASURES) {
            say(`Measuring ${m.name}`);
            const { g, y, inputs } = m.make();
            const program = await g.compile({ y }, { device });
            const seconds = await program.seconds(inputs, 1).finally(() => program.close());
            const [rate, unit, most] =
                m.flop > 4 * m.bytes
                    ? [m.flop / seconds, "GFLOP/s", best?.flops]
                    : [m.bytes / seconds, "GB/s", best?.bandwidth];
            body.append(
                row([
                    m.name,
                    time(seconds),
                    `${(rate / 1e9).toFixed(2)} ${unit}`,
                    most ? `${((100 * rate) / most).toFixed(0)} %` : "–",
                ]),
            );
        }
        await decode(best);
    }

    /** @param {{ bandwidth: number } | undefined} best */
    async function decode(best) {
        const model = talk.model();
        if (model?.info().kind !== "generator") return;
        say("Measuring the open model");
        const answer = model.generate("Once upon a time", { maxTokens: 16 });
        await answer.text();
        const f = await answer.figures;
        const info = model.info();
        const rate = f.tokensPerSecond * info.weightBytes;
        const share = best && info.device === "webgpu" ? `${((100 * rate) / best.bandwidth).toFixed(0)} %` : "–";
        body.append(
            row([
                `decode ${info.name} (${info.device})`,
                time(1 / f.tokensPerSecond),
                `${f.tokensPerSecond.toFixed(1)} tokens/s, ${(rate / 1e9).toFixed(2)} GB/s`,
                share,
            ]),
        );
    }

    $("measure").addEventListener("submit", async (/** @type {Event} */ e) => {
        e.preventDefault();
        $("bench-problem").hidden = true;
        $("run").disabled = true;
        try {
            await measure($("bench-device").value);
            say("Done");
        } catch (error) {
            say("");
            $("bench-problem").hidden = false;
            $("bench-problem").textContent = error instanceof Error ? error.message : String(error);
        }
        $("run").disabled = false;
    });
}
