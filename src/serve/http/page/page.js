// The page of the server: a chat over its own interface, and what it is doing.

const $ = (id) => document.getElementById(id);
const SECONDS = 120;

let talk = [];
let running = null;

function headers() {
    const key = $("key").value.trim();
    return { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
}

function problem(text) {
    $("problem").textContent = text;
    $("problem").hidden = !text;
}

/** The answer, or an error with the server's own words. */
async function ask(path, options = {}) {
    const answer = await fetch(path, { ...options, headers: headers() });
    if (answer.status === 401) $("key-label").hidden = false;
    if (!answer.ok) {
        const told = await answer.json().catch(() => null);
        throw new Error(told?.error?.message ?? `${path}: ${answer.status}`);
    }
    return answer;
}

function bubble(role, text) {
    const article = document.createElement("article");
    article.className = role;
    const head = document.createElement("h2");
    head.textContent = role === "user" ? "You" : $("model").value;
    const words = document.createElement("div");
    words.className = "words";
    words.textContent = text;
    article.append(head, words);
    $("talk").append(article);
    article.scrollIntoView({ block: "end" });
    return { article, words };
}

/** Data of a stream's events, one by one. */
async function* events(answer) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        text += value;
        const parts = text.split("\n\n");
        text = parts.pop();
        for (const part of parts) {
            const data = part
                .split("\n")
                .find((l) => l.startsWith("data: "))
                ?.slice(6);
            if (data && data !== "[DONE]") yield JSON.parse(data);
        }
    }
}

async function send() {
    const text = $("text").value.trim();
    if (!text || running) return;
    problem("");
    $("text").value = "";
    talk.push({ role: "user", content: text });
    const asked = bubble("user", text);
    const told = bubble("assistant", "");
    told.article.setAttribute("aria-busy", "true");
    running = new AbortController();
    $("send").disabled = true;
    $("stop").hidden = false;
    try {
        const body = {
            model: $("model").value,
            messages: talk,
            stream: true,
            temperature: Number($("temperature").value),
            max_tokens: Number($("most").value),
        };
        const answer = await ask("v1/chat/completions", {
            method: "POST",
            body: JSON.stringify(body),
            signal: running.signal,
        });
        for await (const event of events(answer)) {
            if (event.error) throw new Error(event.error.message);
            told.words.textContent += event.choices[0]?.delta?.content ?? "";
            told.article.scrollIntoView({ block: "nearest" });
        }
    } catch (e) {
        if (e.name !== "AbortError") problem(e.message);
    }
    if (told.words.textContent) {
        talk.push({ role: "assistant", content: told.words.textContent });
    } else {
        // What was not answered is not part of the conversation.
        talk.pop();
        told.article.remove();
        asked.article.remove();
        $("text").value = text;
    }
    told.article.removeAttribute("aria-busy");
    running = null;
    $("send").disabled = false;
    $("stop").hidden = true;
    $("text").focus();
}

/** Values by name, summed over models. */
function read(text) {
    const sums = {};
    for (const line of text.split("\n")) {
        const found = /^(\w+)(?:\{[^}]*\})? (\S+)$/.exec(line);
        if (found && !found[1].endsWith("_bucket")) sums[found[1]] = (sums[found[1]] ?? 0) + Number(found[2]);
    }
    return (name) => sums[`warpweft_${name}`] ?? 0;
}

const seen = [];
let before = null;

function draw() {
    const most = Math.max(1, ...seen.map((s) => s.rate));
    const mostQueue = Math.max(4, ...seen.map((s) => s.queue));
    const x = (i) => ((SECONDS - seen.length + i) / SECONDS) * 600;
    $("line").setAttribute("points", seen.map((s, i) => `${x(i) + 2.5},${118 - (s.rate / most) * 112}`).join(" "));
    $("bars").replaceChildren(
        ...seen.flatMap((s, i) => {
            if (!s.queue) return [];
            const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
            const height = (s.queue / mostQueue) * 120;
            for (const [k, v] of Object.entries({ x: x(i), y: 120 - height, width: 5, height }))
                rect.setAttribute(k, v);
            return [rect];
        }),
    );
    $("top").textContent = most.toFixed(0);
    $("queue-top").textContent = mostQueue;
}

async function look() {
    try {
        const value = read(await (await ask("metrics")).text());
        const now = performance.now();
        const made = value("generated_tokens_total");
        const rate = before ? Math.max(0, ((made - before.made) * 1000) / (now - before.now)) : 0;
        before = { now, made };
        const prompt = value("prompt_tokens_total");
        $("running").textContent = value("requests_running");
        $("waiting").textContent = value("requests_waiting");
        $("rate").textContent = rate.toFixed(1);
        $("cached").textContent = prompt ? `${((100 * value("cached_tokens_total")) / prompt).toFixed(0)} %` : "–";
        $("finished").textContent = value("requests_finished_total");
        $("connections").textContent = value("connections");
        seen.push({ rate, queue: value("requests_running") + value("requests_waiting") });
        if (seen.length > SECONDS) seen.shift();
        draw();
    } catch {
        $("running").textContent = $("waiting").textContent = $("rate").textContent = "–";
    }
    setTimeout(look, 1000);
}

async function models() {
    try {
        const health = await (await fetch("health")).json();
        $("about").textContent = health.models
            .map((m) => `${m.name}: ${m.state}${m.detail ? `, ${m.detail}` : ""}`)
            .join("; ");
        if (health.models.some((m) => m.state === "loading")) setTimeout(models, 1000);
        const list = await (await ask("v1/models")).json();
        const chosen = $("model").value;
        $("model").replaceChildren(...list.data.map((m) => new Option(m.id, m.id)));
        if (chosen) $("model").value = chosen;
    } catch (e) {
        problem(e.message);
    }
}

$("ask").addEventListener("submit", (e) => {
    e.preventDefault();
    send();
});
$("text").addEventListener("keydown", (e) => {
    if (e.key === "Enter" && !e.shiftKey && !e.isComposing) {
        e.preventDefault();
        send();
    }
});
$("stop").addEventListener("click", () => running?.abort());
$("anew").addEventListener("click", () => {
    running?.abort();
    talk = [];
    $("talk").replaceChildren();
    problem("");
});
$("choose").addEventListener("submit", (e) => e.preventDefault());
$("key").addEventListener("change", () => {
    problem("");
    models();
});
models();
look();
