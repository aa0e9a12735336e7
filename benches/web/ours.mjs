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

/** @param {{ device: string }} how */
export async function generates({ device }) {
    const start = performance.now();
    const model = await open("/model.gguf", { device, context: 512, cache: false });
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
