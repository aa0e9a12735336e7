import { graph, open } from "/warpweft/warpweft.js";
import { PROMPT, TOKENS, numbers } from "./common.mjs";

/** @param {any} g @param {any} y @param {Record<string, Float32Array>} inputs */
async function measure(g, y, inputs) {
    const program = await g.compile({ y }, { device: "webgpu" });
    const seconds = await program.seconds(inputs, 1);
    const made = await program.run(inputs);
    await program.close();
    return { seconds, check: made.y.data[777] };
}

export async function operations() {
    const out = {};
    const [m, s, n] = [graph(), graph(), graph()];
    out.matmul = await measure(m, m.input("a", [512, 512]).matmul(m.input("b", [512, 512])), { a: numbers(512 * 512), b: numbers(512 * 512) });
    const x = numbers(1024 * 1024);
    out.softmax = await measure(s, s.input("x", [1024, 1024]).softmax(), { x });
    out["layer-norm"] = await measure(n, n.input("x", [1024, 1024]).layerNorm(n.input("w", [1024]), n.input("b", [1024])), { x, w: numbers(1024), b: numbers(1024) });
    return out;
}

/** @param {{ device: string, threads?: number }} how */
export async function generates({ device, threads }) {
    const start = performance.now();
    const model = await open("/model.gguf", { device, threads, context: 512, cache: false });
    const opened = (performance.now() - start) / 1000;
    const rounds = [];
    // The first answer compiles; the second is the one that users meet from then on.
    for (let i = 0; i < 2; i++) {
        const answer = model.chat([{ role: "user", content: i === 0 ? "Hello" : PROMPT }], { maxTokens: i === 0 ? 2 : device === "cpu" ? TOKENS : 6 });
        const text = await answer.text();
        rounds.push({ text, ...(await answer.figures) });
    }
    const { text, promptTokens, promptPerSecond, tokensPerSecond, firstTokenSeconds, adapter } = rounds[1];
    await model.close();
    return { opened, adapter, promptTokens, prompt: promptPerSecond, decode: tokensPerSecond, first: firstTokenSeconds, text };
}

/** The CPU with each number of threads, in turn: prompt and answer in tokens a second. @param {{ counts: number[], rounds: number }} how */
export async function threads({ counts, rounds }) {
    const models = [];
    for (const n of counts) models.push(await open("/model.gguf", { device: "cpu", threads: n, context: 512, cache: false }));
    const made = counts.map((n, i) => ({ threads: n, wasmBytes: models[i].info().wasmBytes, prompt: [], decode: [], text: "" }));
    for (let round = -1; round < rounds; round++) {
        for (const [i, model] of models.entries()) {
            // Nothing of the prompt is left from the round before.
            for await (const _ of model.generate(".", { maxTokens: 1 }));
            const answer = model.chat([{ role: "user", content: PROMPT }], { maxTokens: TOKENS });
            made[i].text = await answer.text();
            const { promptPerSecond, tokensPerSecond } = await answer.figures;
            if (round < 0) continue;
            made[i].prompt.push(promptPerSecond);
            made[i].decode.push(tokensPerSecond);
        }
    }
    for (const model of models) await model.close();
    return made;
}
