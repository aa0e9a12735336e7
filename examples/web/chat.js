// The chat: pick a model, open it, talk.

import { $, bytes } from "./page.js";
import { kept, open } from "./warpweft/warpweft.js";

/** @typedef {import("./warpweft/types/index.js").Model} Model */

export function chat() {
    /** @type {Model | undefined} */
    let model;
    /** @type {{ role: "user" | "assistant", content: string }[]} */
    let turns = [];
    /** @type {AbortController | undefined} */
    let loading;
    /** @type {AbortController | undefined} */
    let answering;
    /** What was opened last, for other tabs to open in their own way. @type {{ source: any, name: string } | undefined} */
    let last;

    // ---- opening

    /** @type {{ name: string, url: string, bytes: number, title: string, licence: string, cached: boolean }[]} */
    let catalogue = [];

    async function list() {
        try {
            catalogue = await (await fetch("models")).json();
        } catch {
            catalogue = [];
        }
        const options = catalogue.map((m) => new Option(`${m.title} (${bytes(m.bytes)}, ${m.licence})`, m.name));
        $("model").replaceChildren(...options);
        $("open").disabled = options.length === 0;
        if (options.length === 0) $("model").append(new Option("no catalogue: open a file", ""));
    }

    async function showKept() {
        const all = await kept.list().catch(() => []);
        const estimate = await navigator.storage?.estimate?.().catch(() => undefined);
        const rows = all.map((entry) => {
            const row = document.createElement("li");
            const name = document.createElement("span");
            const address = decodeURIComponent(new URL(entry.url).pathname.split("/").pop() ?? entry.url);
            name.textContent = `${address}, ${bytes(entry.size)}`;
            const button = document.createElement("button");
            button.textContent = "Delete";
            button.setAttribute("aria-label", `Delete ${address}`);
            button.addEventListener("click", async () => {
                await kept.remove(entry.url).catch(problem);
                await showKept();
            });
            row.append(name, button);
            return row;
        });
        if (rows.length === 0) {
            const none = document.createElement("li");
            none.textContent = "None so far.";
            rows.push(none);
        } else if (estimate?.quota) {
            const room = document.createElement("li");
            room.textContent = `${bytes(estimate.usage ?? 0)} of ${bytes(estimate.quota)} are in use.`;
            rows.push(room);
        }
        $("kept-list").replaceChildren(...rows);
    }

    /** @param {unknown} error */
    function problem(error) {
        const e = /** @type {Error & { code?: string }} */ (error);
        $("problem").hidden = e?.code === "cancelled";
        $("problem").textContent = e?.message ?? String(error);
    }

    /** @param {string} text */
    function notice(text) {
        const p = document.createElement("p");
        p.textContent = text;
        $("notices").append(p);
    }

    /** @param {{ stage: string, loaded: number, total: number }} p */
    function progress({ stage, loaded, total }) {
        const bar = $("progress");
        if (total > 0) {
            bar.max = total;
            bar.value = loaded;
        } else bar.removeAttribute("value");
        const share = total > 0 ? `, ${Math.floor((100 * loaded) / total)} %` : "";
        const of =
            stage === "compile" ? `${loaded} of ${total}` : `${bytes(loaded)}${total > 0 ? ` of ${bytes(total)}` : ""}`;
        $("stage").textContent =
            {
                download: `Downloading: ${of}${share}`,
                read: `Reading: ${of}${share}`,
                compile: `Compiling kernels: ${of}`,
            }[stage] ?? stage;
    }

    /** @param {any} source @param {string} name */
    async function load(source, name) {
        await close();
        $("problem").hidden = true;
        $("notices").replaceChildren();
        $("loading").hidden = false;
        $("stage").textContent = `Opening ${name}`;
        $("progress").removeAttribute("value");
        $("open").disabled = $("pick").disabled = true;
        loading = new AbortController();
        const watch = typeof source === "string" ? setInterval(() => waits(name), 1000) : undefined;
        try {
            const heard = (/** @type {any} */ p) => {
                clearInterval(watch);
                progress(p);
            };
            model = await open(source, {
                device: $("device").value,
                onProgress: heard,
                onNotice: notice,
                signal: loading.signal,
            });
            last = { source, name };
            opened(model);
        } catch (e) {
            problem(e);
        } finally {
            clearInterval(watch);
            loading = undefined;
            $("loading").hidden = true;
            $("open").disabled = catalogue.length === 0;
            $("pick").disabled = false;
            showKept();
        }
    }

    /** The server may have to fetch the model itself first. @param {string} name */
    async function waits(name) {
        const entry = (await (await fetch("models")).json().catch(() => [])).find(
            (/** @type {any} */ m) => m.name === name,
        );
        if (entry?.fetching && loading) {
            const { stage, done, of } = entry.fetching;
            $("progress").max = of;
            $("progress").value = done;
            $("stage").textContent = `The server fetches it first (${stage}): ${bytes(done)} of ${bytes(of)}`;
        }
    }

    /** @param {Model} m */
    function opened(m) {
        const info = m.info();
        $("ask").hidden = info.kind !== "generator";
        $("figures").hidden = false;
        $("close").hidden = false;
        $("hint").hidden = true;
        $("ask-label").textContent = info.chat ? "Your message" : "Text to continue";
        $("speed").textContent = $("first").textContent = "–";
        memory(info);
        if (info.kind !== "generator")
            notice(`${info.name} makes embeddings, it does not chat: see embed() in the package's README.`);
        else $("text").focus();
    }

    /** @param {ReturnType<Model["info"]>} info */
    function memory(info) {
        $("adapter").textContent = info.device === "webgpu" ? "WebGPU" : "CPU (WebAssembly)";
        const gpu = info.gpuBytes > 0 ? `${bytes(info.gpuBytes)} GPU, ` : "";
        $("memory").textContent = `${gpu}${bytes(info.wasmBytes)} WebAssembly`;
    }

    async function close() {
        answering?.abort();
        const old = model;
        model = undefined;
        turns = [];
        $("talk").replaceChildren();
        $("ask").hidden = $("figures").hidden = $("close").hidden = true;
        $("hint").hidden = false;
        await old?.close().catch(() => {});
    }

    // ---- talking

    /** @param {"user" | "assistant"} role @param {string} text */
    function turn(role, text) {
        const article = document.createElement("article");
        article.className = role;
        const who = document.createElement("h3");
        who.textContent = role === "user" ? "You" : "Model";
        const words = document.createElement("div");
        words.className = "words";
        words.textContent = text;
        article.append(who, words);
        $("talk").append(article);
        $("talk").scrollTop = $("talk").scrollHeight;
        return { article, words };
    }

    /** @param {string} text */
    async function ask(text) {
        if (!model || answering) return;
        const info = model.info();
        $("problem").hidden = true;
        turns.push({ role: "user", content: text });
        turn("user", text);
        const { article, words } = turn("assistant", "");
        // A screen reader hears the answer once it is whole.
        article.setAttribute("aria-busy", "true");
        answering = new AbortController();
        $("send").hidden = true;
        $("stop").hidden = false;
        let said = "";
        try {
            const options = {
                maxTokens: Number($("most").value) || 256,
                temperature: Number($("temperature").value) || 0,
                seed: Date.now() % 2 ** 31,
                signal: answering.signal,
            };
            const answer = info.chat ? model.chat(turns, options) : model.generate(text, options);
            const start = performance.now();
            let [count, first] = [0, 0];
            for await (const token of answer) {
                said += token.text;
                words.textContent = said;
                count += 1;
                first ||= performance.now();
                const pace = count > 1 ? ((count - 1) / (performance.now() - first)) * 1000 : 0;
                $("speed").textContent = pace > 0 ? `${pace.toFixed(1)} tokens/s` : "–";
                $("first").textContent = `${((first - start) / 1000).toFixed(2)} s`;
                $("talk").scrollTop = $("talk").scrollHeight;
            }
            const f = await answer.figures;
            $("speed").textContent = `${f.tokensPerSecond.toFixed(1)} tokens/s; prompt ${f.promptPerSecond.toFixed(1)}`;
        } catch (e) {
            problem(e);
            if (said === "") {
                turns.pop();
                article.remove();
            }
        }
        if (said !== "") turns.push({ role: "assistant", content: said });
        article.setAttribute("aria-busy", "false");
        answering = undefined;
        $("send").hidden = false;
        $("stop").hidden = true;
        if (model) memory(await model.refresh().catch(() => info));
    }

    // ---- wiring

    $("choose").addEventListener("submit", (/** @type {Event} */ e) => {
        e.preventDefault();
        const entry = catalogue.find((m) => m.name === $("model").value);
        if (entry) load(new URL(entry.url, location.href).href, entry.name);
    });
    $("pick").addEventListener("click", () => $("file").click());
    $("file").addEventListener("change", () => files($("file").files));
    $("close").addEventListener("click", close);
    $("stop-loading").addEventListener("click", () => loading?.abort());
    $("ask").addEventListener("submit", (/** @type {Event} */ e) => {
        e.preventDefault();
        const text = $("text").value;
        if (text.trim() === "" || answering) return;
        $("text").value = "";
        ask(text);
    });
    $("text").addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => {
        if (e.key === "Enter" && !e.shiftKey && !e.isComposing) {
            e.preventDefault();
            $("ask").requestSubmit();
        }
    });
    $("stop").addEventListener("click", () => answering?.abort());
    $("anew").addEventListener("click", () => {
        answering?.abort();
        turns = [];
        $("talk").replaceChildren();
        $("text").focus();
    });
    $("kept").addEventListener("toggle", showKept);

    /** @param {FileList | File[]} list */
    function files(list) {
        const all = [...list];
        if (all.length === 1) load(all[0], all[0].name);
        else if (all.length > 1) load(all, `${all.length} files`);
    }
    for (const type of ["dragover", "dragenter"]) {
        document.addEventListener(type, (e) => {
            e.preventDefault();
            document.body.classList.add("dropping");
        });
    }
    document.addEventListener("dragleave", (e) => {
        if (!e.relatedTarget) document.body.classList.remove("dropping");
    });
    document.addEventListener("drop", (e) => {
        e.preventDefault();
        document.body.classList.remove("dropping");
        if (e.dataTransfer) files(e.dataTransfer.files);
    });

    list();
    showKept();
    return { model: () => model, source: () => last };
}
