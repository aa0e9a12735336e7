// Every filled kernel through Tint, which is what Chrome reads WGSL with. tests/translate.rs writes them.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { require, root } from "./lib.mjs";

const folder = path.join(root, "target/tmp/wgsl");

// Dawn for Node goes down when its instance is collected while it is in use.
const gpu = require("webgpu").create(["backend=null"]);
/** @type {any[]} */
const kept = [gpu];

/** A device of Dawn, without hardware, with the limits that every browser has, and the extensions that kernels name which use them. */
async function dawn() {
    const adapter = await gpu.requestAdapter();
    assert.ok(adapter, "Dawn gives its null adapter");
    const requiredFeatures = ["subgroups", "shader-f16"];
    for (const name of requiredFeatures) assert.ok(adapter.features.has(name), `Dawn's null adapter has ${name}`);
    const device = await adapter.requestDevice({ requiredFeatures });
    kept.push(adapter, device);
    return device;
}

/** What Tint says against a text: its messages, and the pipeline's. @param {any} device @param {string} code */
async function refusal(device, code) {
    device.pushErrorScope("validation");
    const module = device.createShaderModule({ code });
    const { messages } = await module.getCompilationInfo();
    const errors = messages
        .filter((/** @type {any} */ m) => m.type === "error")
        .map((/** @type {any} */ m) => `line ${m.lineNum}: ${m.message}`);
    if (errors.length === 0) device.createComputePipeline({ layout: "auto", compute: { module, entryPoint: "main" } });
    const invalid = await device.popErrorScope();
    return errors.length > 0 ? errors.join("; ") : (invalid?.message ?? "");
}

test("every filled kernel passes Tint", async () => {
    const device = await dawn();
    const all = readdirSync(folder).filter((f) => f.endsWith(".wgsl"));
    assert.ok(all.length > 100, `only ${all.length} kernels were written`);
    const refused = [];
    for (const name of all) {
        const why = await refusal(device, readFileSync(path.join(folder, name), "utf8"));
        if (why) refused.push(`${name}: ${why}`);
    }
    assert.deepEqual(refused, []);
    console.log(`# ${all.length} kernels`);
});

test("Tint does refuse what is wrong", async () => {
    const device = await dawn();
    const right = readFileSync(path.join(folder, readdirSync(folder)[0]), "utf8");
    assert.equal(await refusal(device, right), "");
    assert.match(await refusal(device, right.replace("@compute", "@compute @compute")), /./);
    // naga lets a barrier in flow that is not uniform pass; Tint does not.
    const barrier = `@group(0) @binding(0) var<storage, read_write> y: array<u32>;
        var<workgroup> w: u32;
        @compute @workgroup_size(64) fn main(@builtin(local_invocation_id) id: vec3<u32>) {
            if (id.x == 0u) { workgroupBarrier(); } w = 1u; y[id.x] = w;
        }`;
    assert.match(await refusal(device, barrier), /uniform/);
});
