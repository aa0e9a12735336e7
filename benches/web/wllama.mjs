import { Wllama } from "/npm/@wllama/wllama/esm/index.js";
import { PROMPT, TOKENS } from "./common.mjs";

/** @param {{ threads: number, gpu?: boolean }} how */
export async function generates({ threads, gpu = false }) {
    const start = performance.now();
    const wllama = new Wllama({ default: "/npm/@wllama/wllama/esm/wasm/wllama.wasm" }, { suppressNativeLog: true });
    const blob = await (await fetch("/model.gguf")).blob();
    await wllama.loadModel([blob], { n_ctx: 512, n_threads: threads, n_gpu_layers: gpu ? 99 : 0 });
    const opened = (performance.now() - start) / 1000;
    const rounds = [];
    for (const [content, most] of [["Hello", 2], [PROMPT, gpu ? 6 : TOKENS]]) {
        let [count, first, text, usage] = [0, 0, "", undefined];
        const begin = performance.now();
        const stream = await wllama.createChatCompletion({ messages: [{ role: "user", content }], max_tokens: most, temperature: 0, stream: true, stream_options: { include_usage: true }, timings_per_token: true });
        let timings;
        for await (const chunk of stream) {
            const piece = chunk.choices?.[0]?.delta?.content;
            timings = chunk.timings ?? timings;
            usage = chunk.usage ?? usage;
            if (!piece) continue;
            count += 1;
            first ||= performance.now();
            text += piece;
        }
        rounds.push({ text, first: (first - begin) / 1000, decode: (count - 1) / ((performance.now() - first) / 1000), timings, usage });
    }
    const { text, first, decode, timings, usage } = rounds[1];
    await wllama.exit();
    return { opened, promptTokens: usage?.prompt_tokens ?? timings?.prompt_n, prompt: timings?.prompt_per_second, decode: timings?.predicted_per_second ?? decode, first, text };
}
