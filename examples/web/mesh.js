// The mesh: the chat's model over virtual devices, and what each of them and each link between them does, token by token.

import { $, bytes, row } from "./page.js";
import { open } from "./warpweft/warpweft.js";

/** @typedef {import("./warpweft/types/index.js").Model} Model */
/** @typedef {{ track: string, name: string, start: number, duration: number, bytes?: number }} Span */

/** Steps that the picture shows at once. */
const SHOWN = 3;
const SVG = "http://www.w3.org/2000/svg";

/** @param {Span} s */
function kind(s) {
    return s.track.startsWith("link") ? "sends" : s.name.startsWith("wait ") ? "waits" : "computes";
}

/** @param {string} tag @param {Record<string, string | number>} attributes @param {string} [text] */
function draw(tag, attributes, text) {
    const e = document.createElementNS(SVG, tag);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, String(v));
    if (text !== undefined) e.textContent = text;
    return e;
}

/** Ranks before links, each in order. @param {Span[][]} steps */
function tracks(steps) {
    const all = [...new Set(steps.flat().map((s) => s.track))];
    return all.sort(
        (a, b) =>
            Number(a.startsWith("link")) - Number(b.startsWith("link")) || a.localeCompare(b, "en", { numeric: true }),
    );
}

/** @param {Span[]} step */
const length = (step) => step.reduce((end, s) => Math.max(end, s.start + s.duration), 0);

/**
 * The steps one after another, a lane a track, a path a lane and kind: thousands of spans stay quick.
 * @param {Span[][]} steps @param {number} number Of the first.
 */
function picture(steps, number) {
    const lanes = tracks(steps);
    const [left, width, lane, top] = [90, 900, 22, 18];
    const total = steps.reduce((t, s) => t + length(s), 0) || 1;
    const scale = (width - left) / total;
    const height = top + lanes.length * lane + 20;
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
    lanes.forEach((track, i) => {
        svg.append(draw("text", { x: 0, y: top + i * lane + 14, class: "lane" }, track));
    });
    let from = 0;
    /** @type {Map<string, string>} */
    const paths = new Map();
    steps.forEach((step, n) => {
        const x = left + from * scale;
        svg.append(
            draw("line", { x1: x, x2: x, y1: 0, y2: height - 16, class: "step" }),
            draw("text", { x: x + 3, y: 11, class: "lane" }, `token ${number + n}`),
        );
        for (const s of step) {
            const key = `${lanes.indexOf(s.track)} ${kind(s)}`;
            const [at, wide] = [left + (from + s.start) * scale, Math.max(s.duration * scale, 0.6)];
            const y = top + lanes.indexOf(s.track) * lane + 3;
            paths.set(
                key,
                `${paths.get(key) ?? ""}M${at.toFixed(1)} ${y}h${wide.toFixed(1)}v${lane - 6}h-${wide.toFixed(1)}z`,
            );
        }
        from += length(step);
    });
    for (const [key, d] of paths) svg.append(draw("path", { d, class: `span ${key.split(" ")[1]}` }));
    svg.append(
        draw("text", { x: left, y: height - 3, class: "lane" }, "0 ms"),
        draw(
            "text",
            { x: width, y: height - 3, class: "lane", "text-anchor": "end" },
            `${(total / 1000).toFixed(1)} ms`,
        ),
    );
    return svg;
}

/** What each track did over all steps: the picture in numbers. @param {Map<string, { time: number, bytes: number, count: number }>} sums @param {number} total */
function table(sums, total) {
    const names = tracks([[...sums.keys()].map((k) => ({ track: k.split("|")[0], name: "", start: 0, duration: 0 }))]);
    return names.map((track) => {
        const of = (/** @type {string} */ k) => sums.get(`${track}|${k}`) ?? { time: 0, bytes: 0, count: 0 };
        const share = (/** @type {number} */ t) => `${((100 * t) / total).toFixed(0)} %`;
        if (track.startsWith("link"))
            return row([
                track,
                "–",
                "–",
                share(of("sends").time),
                `${of("sends").count} messages, ${bytes(of("sends").bytes)}`,
            ]);
        return row([track, share(of("computes").time), share(of("waits").time), "–", ""]);
    });
}

/** @param {{ source: () => { source: any, name: string } | undefined }} talk */
export function mesh(talk) {
    /** @type {{ source: any, name: string } | undefined} */
    let own;
    /** @type {AbortController | undefined} */
    let running;

    const chosen = () => own ?? talk.source();
    const name = () =>
        ($("mesh-model").textContent = chosen()?.name ?? "none yet: open one in the chat, or a file here");
    const say = (/** @type {string} */ text) => ($("mesh-state").textContent = text);

    /** @param {Model} model @param {AbortSignal} signal */
    async function run(model, signal) {
        const steps = /** @type {Span[][]} */ ([]);
        const sums = new Map();
        let [count, total] = [0, 0];
        const most = Number($("mesh-most").value) || 16;
        for await (const token of model.generate($("mesh-prompt").value, { maxTokens: most, signal })) {
            count += 1;
            $("mesh-text").textContent += token.text;
            const spans = token.spans ?? [];
            if (spans.length === 0) continue;
            steps.push(spans);
            if (steps.length > SHOWN) steps.shift();
            total += length(spans);
            for (const s of spans) {
                const key = `${s.track}|${kind(s)}`;
                const sum = sums.get(key) ?? { time: 0, bytes: 0, count: 0 };
                sums.set(key, { time: sum.time + s.duration, bytes: sum.bytes + (s.bytes ?? 0), count: sum.count + 1 });
            }
            $("mesh-lanes").replaceChildren(picture(steps, count - steps.length + 1));
            $("mesh-table").tBodies[0].replaceChildren(...table(sums, total));
            say(`Token ${count} of at most ${most}, ${(total / count / 1000).toFixed(1)} ms each`);
        }
        const figures = `${count} tokens, ${(total / Math.max(count, 1) / 1000).toFixed(1)} ms each; ${model.info().adapter}`;
        say(`${signal.aborted ? "Stopped" : "Done"}: ${figures}`);
    }

    async function start() {
        const from = chosen();
        $("mesh-problem").hidden = true;
        if (!from) return problem("open a model in the chat first, or a file here");
        running = new AbortController();
        $("mesh-run").hidden = true;
        $("mesh-stop").hidden = false;
        $("mesh-text").textContent = "";
        $("mesh-lanes").replaceChildren();
        $("mesh-figure").hidden = $("mesh-says").hidden = false;
        /** @type {Model | undefined} */
        let model;
        try {
            const onProgress = (/** @type {any} */ p) =>
                say(
                    p.stage === "compile"
                        ? `Compiling: rank ${p.loaded + 1} of ${p.total}`
                        : `Reading: ${bytes(p.loaded)}`,
                );
            model = await open(from.source, {
                device: "webgpu",
                mesh: $("mesh-axes").value,
                onProgress,
                signal: running.signal,
            });
            const ranks = model.info().rankBytes;
            $("mesh-ranks").textContent = ranks.map((n, i) => `rank ${i}: ${bytes(n)}`).join(", ");
            await run(model, running.signal);
        } catch (e) {
            const error = /** @type {Error & { code?: string }} */ (e);
            if (error.code === "cancelled") say("Stopped");
            else problem(error.message ?? String(e));
        }
        await model?.close().catch(() => {});
        running = undefined;
        $("mesh-run").hidden = false;
        $("mesh-stop").hidden = true;
    }

    /** @param {string} text */
    function problem(text) {
        say("");
        $("mesh-problem").hidden = false;
        $("mesh-problem").textContent = text;
    }

    $("mesh-form").addEventListener("submit", (/** @type {Event} */ e) => {
        e.preventDefault();
        if (!running) start();
    });
    $("mesh-stop").addEventListener("click", () => running?.abort());
    $("mesh-pick").addEventListener("click", () => $("mesh-file").click());
    $("mesh-file").addEventListener("change", () => {
        const list = [...$("mesh-file").files];
        if (list.length > 0)
            own = {
                source: list.length === 1 ? list[0] : list,
                name: list.length === 1 ? list[0].name : `${list.length} files`,
            };
        name();
    });
    $("tab-mesh").addEventListener("click", name);
    $("tab-mesh").addEventListener("focus", name);
    name();
}
