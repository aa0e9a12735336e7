import { median, numbers } from "./common.mjs";

/** @param {string} src */
const script = (src) =>
    new Promise((resolve, reject) => {
        const e = Object.assign(document.createElement("script"), { src, onload: resolve, onerror: () => reject(new Error(`${src} is missing`)) });
        document.head.append(e);
    });

export async function operations() {
    await script("/npm/@tensorflow/tfjs-core/dist/tf-core.min.js");
    await script("/npm/@tensorflow/tfjs-backend-webgpu/dist/tf-backend-webgpu.min.js");
    const { tf } = globalThis;
    await tf.setBackend("webgpu");
    await tf.ready();
    const { device } = tf.backend();
    const out = {};
    const [a, x] = [tf.tensor2d(numbers(512 * 512), [512, 512]), tf.tensor2d(numbers(1024 * 1024), [1024, 1024])];
    const [w, b] = [tf.tensor1d(numbers(1024)), tf.tensor1d(numbers(1024))];
    // tfjs has no layer-norm: this is how its own layers compute it.
    const norm = () => {
        const { mean, variance } = tf.moments(x, 1, true);
        return tf.add(tf.mul(tf.div(tf.sub(x, mean), tf.sqrt(tf.add(variance, 1e-5))), w), b);
    };
    const runs = { matmul: () => tf.matMul(a, a), softmax: () => tf.softmax(x), "layer-norm": norm };
    for (const [name, run] of Object.entries(runs)) {
        const seconds = await median(async () => {
            const y = tf.tidy(run);
            // What its own reads do before they wait.
            tf.backend().endComputePassEncoder();
            tf.backend().submitQueue();
            await device.queue.onSubmittedWorkDone();
            y.dispose();
        });
        const y = tf.tidy(run);
        out[name] = { seconds, check: (await y.data())[777] };
        y.dispose();
    }
    return out;
}
