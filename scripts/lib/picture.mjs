// A picture of the server's page after two questions: node picture.mjs FILE.png

import { spawn } from "node:child_process";
import { browser } from "../../tests/web/lib.mjs";

const server = spawn("target/release/warpweft", ["serve", "smollm2-135m", "--port", "0"], {
    stdio: ["ignore", "pipe", "inherit"],
});
const url = await new Promise((resolve, reject) => {
    server.stdout.on("data", (text) => resolve(/http:\S+/.exec(String(text))?.[0]));
    server.on("exit", (code) => reject(new Error(`warpweft serve ended with ${code}`)));
});
const chromium = await browser({ webgpu: false });
try {
    const page = await chromium.newPage({ viewport: { width: 860, height: 880 } });
    for (let i = 0; i < 120 && !(await fetch(new URL("health", url))).ok; i++)
        await new Promise((r) => setTimeout(r, 500));
    await page.goto(url);
    await page.fill("#temperature", "0");
    await page.fill("#most", "60");
    for (const text of ["What is the capital of France?", "Write two sentences about the sea."]) {
        await page.fill("#text", text);
        await page.click("#send");
        await page.waitForSelector("#stop", { state: "visible" });
        await page.waitForSelector("#stop", { state: "hidden", timeout: 120_000 });
    }
    // The figures are read once per second.
    await page.waitForTimeout(2500);
    await page.screenshot({ path: process.argv[2] });
} finally {
    await chromium.close();
    server.kill();
}
