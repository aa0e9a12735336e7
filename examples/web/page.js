// Tabs, and what they share.

import { bench } from "./bench.js";
import { chat } from "./chat.js";
import { mesh } from "./mesh.js";

/** @param {string} id */
export const $ = (id) => /** @type {any} */ (document.getElementById(id));

/** @param {number} n */
export function bytes(n) {
    const units = ["B", "KiB", "MiB", "GiB"];
    let i = 0;
    while (n >= 1024 && i < units.length - 1) [n, i] = [n / 1024, i + 1];
    return `${n < 10 && i > 0 ? n.toFixed(1) : Math.round(n)} ${units[i]}`;
}

/** A row of a table, its first cell the row's name. @param {string[]} cells */
export function row(cells) {
    const tr = document.createElement("tr");
    cells.forEach((text, i) => {
        const cell = document.createElement(i === 0 ? "th" : "td");
        if (i === 0) cell.setAttribute("scope", "row");
        cell.textContent = text;
        tr.append(cell);
    });
    return tr;
}

function tabs() {
    const all = /** @type {HTMLElement[]} */ ([...document.querySelectorAll('[role="tab"]')]);
    const show = (/** @type {HTMLElement} */ tab) => {
        for (const t of all) {
            const on = t === tab;
            t.setAttribute("aria-selected", String(on));
            t.tabIndex = on ? 0 : -1;
            $(t.getAttribute("aria-controls") ?? "").hidden = !on;
        }
        history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
    };
    for (const [i, tab] of all.entries()) {
        tab.addEventListener("click", () => show(tab));
        tab.addEventListener("keydown", (e) => {
            const step = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
            const to =
                e.key === "Home" ? 0 : e.key === "End" ? all.length - 1 : step && (i + step + all.length) % all.length;
            if (to === undefined) return;
            e.preventDefault();
            all[to].focus();
            show(all[to]);
        });
    }
    const wanted = all.find((t) => `#${t.getAttribute("aria-controls")}` === location.hash);
    if (wanted) show(wanted);
}

/** What this browser gives, in a sentence. */
async function state() {
    const say = (/** @type {string} */ text) => ($("gpu-state").textContent = text);
    const how =
        "Chrome and Edge have WebGPU from 113, Safari from 26, Firefox from 141 on Windows; the page must come by https or from localhost; Chrome on Linux has it behind chrome://flags/#enable-unsafe-webgpu.";
    if (!("gpu" in navigator)) return say(`No WebGPU here: models run on the CPU. ${how}`);
    const adapter = await /** @type {any} */ (navigator).gpu.requestAdapter().catch(() => null);
    if (!adapter) return say(`WebGPU is here, but it gives no adapter: models run on the CPU. ${how}`);
    const { vendor, architecture, description } = adapter.info;
    const name = description || [vendor, architecture].filter(Boolean).join(" ") || "an adapter without a name";
    say(
        `WebGPU: ${name}${adapter.info.isFallbackAdapter ? ", a software adapter: shaders run on the CPU, and the automatic choice is the CPU itself" : ""}.`,
    );
}

tabs();
state();
const talk = chat();
bench(talk);
mesh(talk);
