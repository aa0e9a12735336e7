import * as ort from "/npm/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs";
import { median, numbers } from "./common.mjs";

/** @param {Record<string, number[]>} models */
export async function operations(models) {
    ort.env.wasm.wasmPaths = "/npm/onnxruntime-web/dist/";
    const shapes = {
        matmul: { a: [512, 512], b: [512, 512] }, softmax: { x: [1024, 1024] },
        "layer-norm": { x: [1024, 1024], w: [1024], b: [1024] },
    };
    const out = {};
    for (const [name, bytes] of Object.entries(models)) {
        const session = await ort.InferenceSession.create(Uint8Array.from(bytes), { executionProviders: ["webgpu"], preferredOutputLocation: "gpu-buffer" });
        const device = await ort.env.webgpu.device;
        const feeds = {};
        for (const [input, dims] of Object.entries(shapes[name])) {
            const data = numbers(dims.reduce((a, b) => a * b));
            const buffer = device.createBuffer({ size: data.byteLength, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC });
            device.queue.writeBuffer(buffer, 0, data);
            feeds[input] = ort.Tensor.fromGpuBuffer(buffer, { dataType: "float32", dims });
        }
        const seconds = await median(async () => {
            const { y } = await session.run(feeds);
            await device.queue.onSubmittedWorkDone();
            y.dispose();
        });
        const { y } = await session.run(feeds);
        out[name] = { seconds, check: (await y.getData())[777] };
        y.dispose();
        await session.release();
    }
    return out;
}
