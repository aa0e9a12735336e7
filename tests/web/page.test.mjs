// The demo page as people use it: by mouse, by keyboard, on a phone, in the dark. A picture is taken of every tab.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { before, test } from "node:test";
import { chromium, expected, host, root, seeded, server, shots } from "./lib.mjs";

host({ folder: path.join(root, "target/web/package") });
before(async () => {
    await mkdir(shots, { recursive: true });
});

const { first } = expected.models;
const FORMS = [
    { name: "light", size: { width: 1000, height: 800 }, colorScheme: "light" },
    { name: "dark", size: { width: 1000, height: 800 }, colorScheme: "dark" },
    { name: "phone", size: { width: 360, height: 740 }, colorScheme: "light" },
];

/** A fresh page, whatever it complains of kept. */
async function fresh() {
    const context = await chromium.newContext({ viewport: FORMS[0].size });
    const page = await context.newPage();
    page.setDefaultTimeout(60_000);
    /** @type {string[]} */
    const complaints = [];
    page.on("pageerror", (/** @type {Error} */ e) => complaints.push(String(e)));
    page.on("console", (/** @type {any} */ m) => m.type() === "error" && complaints.push(m.text()));
    await page.goto(server.url);
    return { page, context, complaints };
}

/** Opens a local file on a device. @param {any} page @param {string} device @param {string} file */
async function load(page, device, file) {
    await page.selectOption("#device", device);
    await page.setInputFiles("#file", path.join(seeded, file));
    await page.waitForSelector("#ask:not([hidden])");
}

/** Nothing reaches over the side. @param {any} page @param {string} what */
async function fits(page, what) {
    const [inner, width] = await page.evaluate(() => [
        document.documentElement.scrollWidth,
        document.documentElement.clientWidth,
    ]);
    assert.ok(inner <= width, `${what} is ${inner} wide on ${width}`);
}

/** Words and controls stand out from what is behind them as WCAG AA asks: 4.5 to 1. @param {any} page @param {string} what */
async function legible(page, what) {
    const faint = await page.evaluate(() => {
        const parse = (/** @type {string} */ c) => (c.match(/[\d.]+/g) ?? []).map(Number);
        const light = (/** @type {number[]} */ [r, g, b]) => {
            const f = (/** @type {number} */ byte) => {
                const v = byte / 255;
                return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
            };
            return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b);
        };
        const behind = (/** @type {Element | null} */ e) => {
            for (; e; e = e.parentElement) {
                const c = parse(getComputedStyle(e).backgroundColor);
                if (c.length === 3 || c[3] === 1) return c;
            }
            return [255, 255, 255];
        };
        const out = [];
        for (const e of document.querySelectorAll("body *")) {
            const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent?.trim());
            if (!own || !(/** @type {any} */ (e).checkVisibility()) || e.closest(":disabled")) continue;
            const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
            if ((a + 0.05) / (b + 0.05) < 4.5)
                out.push(`${e.tagName} ${e.textContent?.trim().slice(0, 30)}: ${((a + 0.05) / (b + 0.05)).toFixed(2)}`);
        }
        return out;
    });
    assert.deepEqual(faint, [], what);
}

/** Every control has a name for those who cannot see it. @param {any} page */
async function named(page) {
    const nameless = await page.evaluate(() => {
        const name = (/** @type {any} */ e) =>
            e.getAttribute("aria-label") ?? [...(e.labels ?? [])].map((l) => l.textContent).join(" ") + e.textContent;
        return [
            ...document.querySelectorAll(
                "button, input:not([hidden]), select, textarea, progress, [tabindex='0'], [role='img']",
            ),
        ]
            .filter((e) => !e.closest("[hidden]") && name(e).trim() === "")
            .map((e) => e.outerHTML.slice(0, 90));
    });
    assert.deepEqual(nameless, []);
}

test("every tab does its work, in the light, in the dark and on a phone", async () => {
    const { page, context, complaints } = await fresh();
    await page.waitForFunction(() => /** @type {any} */ (document.querySelector("#model"))?.options.length > 0);
    await load(page, "webgpu", "first.gguf");
    await page.fill("#most", "24");
    await page.fill("#text", expected.prompt);
    await page.press("#text", "Enter");
    await page.waitForSelector("#talk article.assistant[aria-busy='false']");
    assert.equal(await page.textContent("#talk article.assistant .words"), first.chat);
    assert.match(await page.textContent("#speed"), /tokens\/s/);
    assert.match(await page.textContent("#adapter"), /WebGPU/);
    assert.match(await page.textContent("#memory"), /GPU.*WebAssembly/);
    await looks("chat", page);

    await page.click("#tab-bench");
    await page.click("#run");
    await page.waitForFunction(() => document.querySelector("#bench-state")?.textContent === "Done", null, {
        timeout: 90_000,
    });
    assert.equal(await page.locator("#table tbody tr").count(), 9, "four probes, four operations, the open model");
    await looks("bench", page);

    await page.click("#tab-mesh");
    await page.fill("#mesh-prompt", expected.prompt);
    await page.fill("#mesh-most", String(first.ids.length));
    await page.click("#mesh-run");
    await page.waitForFunction(
        () =>
            document.querySelector("#mesh-state")?.textContent?.startsWith("Done") ||
            document.querySelector("#mesh-problem")?.textContent,
        null,
        { timeout: 90_000 },
    );
    assert.equal(await page.textContent("#mesh-problem"), "");
    assert.equal(await page.textContent("#mesh-text"), first.text, "the mesh says what one device says");
    const lanes = await page.locator("#mesh-lanes .lane").allTextContents();
    for (const track of ["rank 0", "rank 1", "link 0→1", "link 1→0"])
        assert.ok(lanes.includes(track), `${track} is drawn: ${lanes}`);
    const spans = await page.evaluate(() =>
        [...document.querySelectorAll("#mesh-lanes .span")].reduce(
            (n, p) => n + (p.getAttribute("d")?.match(/M/g)?.length ?? 0),
            0,
        ),
    );
    assert.ok(spans > 50, `${spans} spans are drawn`);
    assert.equal(await page.locator("#mesh-table tbody tr").count(), 4);
    await looks("mesh", page);
    assert.deepEqual(complaints, []);
    await context.close();
});

/** A picture in every form, which must fit and be legible. @param {string} tab @param {any} page */
async function looks(tab, page) {
    await named(page);
    for (const { name, size, colorScheme } of FORMS) {
        await page.emulateMedia({ colorScheme });
        await page.setViewportSize(size);
        await page.screenshot({ path: path.join(shots, `${tab}-${name}.png`), fullPage: true });
        await fits(page, `${tab} (${name})`);
        await legible(page, `${tab} (${name})`);
    }
    await page.emulateMedia({ colorScheme: "light" });
    await page.setViewportSize(FORMS[0].size);
}

test("the keyboard alone reaches and does everything", async () => {
    const { page, context } = await fresh();
    await page.waitForFunction(() => /** @type {any} */ (document.querySelector("#model"))?.options.length > 0);
    const focused = () => page.evaluate(() => document.activeElement?.id);
    await page.keyboard.press("Tab");
    assert.equal(await focused(), "tab-chat");
    for (const [key, tab] of [
        ["ArrowRight", "bench"],
        ["ArrowRight", "mesh"],
        ["ArrowRight", "chat"],
        ["End", "mesh"],
        ["Home", "chat"],
    ]) {
        await page.keyboard.press(key);
        assert.equal(await focused(), `tab-${tab}`);
        assert.equal(await page.locator(`#${tab}`).isVisible(), true);
        assert.equal(await page.locator('[role="tabpanel"]:visible').count(), 1);
    }
    const reached = new Set();
    for (let i = 0; i < 12; i++) {
        await page.keyboard.press("Tab");
        reached.add(await focused());
    }
    for (const id of ["model", "device", "open", "pick"]) assert.ok(reached.has(id), `Tab reaches ${id}`);
    await load(page, "cpu", "second.gguf");
    assert.equal(await focused(), "text", "an opened model is ready to be talked to");
    await page.keyboard.type("over and under");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#talk article.assistant[aria-busy='false']");
    await context.close();
});

test("a file that is none is told on the page, and a file can be dropped", async () => {
    const { page, context } = await fresh();
    await page.setInputFiles("#file", {
        name: "letter.gguf",
        mimeType: "application/octet-stream",
        buffer: Buffer.from("Dear reader, this is no model.".repeat(40)),
    });
    await page.waitForSelector("#problem:not([hidden])");
    assert.match(await page.textContent("#problem"), /letter\.gguf/);
    const bytes = [...(await import("node:fs")).readFileSync(path.join(seeded, "second.gguf"))];
    await page.selectOption("#device", "cpu");
    await page.evaluate((/** @type {number[]} */ bytes) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "second.gguf"));
        document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
    }, bytes);
    await page.waitForSelector("#ask:not([hidden])");
    assert.equal(await page.locator("#problem").isVisible(), false);
    await page.click("#close");
    await page.waitForSelector("#ask", { state: "hidden" });
    await context.close();
});
