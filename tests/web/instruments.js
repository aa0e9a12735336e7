// Put in front of the package by the tests, never shipped. In the Worker it lets an adapter offer no more than WebGPU's floor
// (`?floor`), hides WebGPU (`?nogpu`), does what a message on the channel "instruments" says (destroys the devices), and tells
// there how long each submission kept its device. A member of a team traps (`?trap=N`) or falls silent (`?mute=N`) at its Nth
// order.
(() => {
    const here = globalThis;
    if (!(here.WorkerGlobalScope && here instanceof here.WorkerGlobalScope)) return;
    const asked = new URL(import.meta.url).searchParams;
    if (asked.has("nogpu")) Object.defineProperty(here.navigator, "gpu", { value: undefined });
    if (here.name === "warpweft member") {
        const [trap, mute] = ["trap", "mute"].map((name) => Number(asked.get(name) ?? 0));
        const subarray = here.Uint8Array.prototype.subarray;
        let orders = 0;
        // Of what the leader shares, a member takes a part once an order.
        here.Uint8Array.prototype.subarray = function (...range) {
            if (this.buffer instanceof SharedArrayBuffer) {
                orders++;
                if (orders === trap) throw new WebAssembly.RuntimeError("unreachable");
                if (orders === mute) for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
            }
            return subarray.apply(this, range);
        };
        return;
    }
    if (!here.GPUAdapter) return;
    // https://www.w3.org/TR/webgpu/#limits
    const FLOOR = {
        maxStorageBuffersPerShaderStage: 8,
        maxStorageBufferBindingSize: 2 ** 27,
        maxBufferSize: 2 ** 28,
        maxComputeWorkgroupStorageSize: 16384,
        maxComputeInvocationsPerWorkgroup: 256,
        maxComputeWorkgroupSizeX: 256,
        maxComputeWorkgroupSizeY: 256,
        maxComputeWorkgroupSizeZ: 64,
        maxComputeWorkgroupsPerDimension: 65535,
        minStorageBufferOffsetAlignment: 256,
        minUniformBufferOffsetAlignment: 256,
    };
    const channel = new BroadcastChannel("instruments");
    if (asked.has("floor")) {
        const limits = Object.getOwnPropertyDescriptor(here.GPUAdapter.prototype, "limits").get;
        const within = (real) =>
            new Proxy(real, { get: (of, key) => (key in FLOOR ? FLOOR[key] : Reflect.get(of, key, of)) });
        Object.defineProperty(here.GPUAdapter.prototype, "limits", {
            get() {
                return within(limits.call(this));
            },
        });
        Object.defineProperty(here.GPUAdapter.prototype, "features", { get: () => new Set() });
    }
    const devices = [];
    const request = here.GPUAdapter.prototype.requestDevice;
    here.GPUAdapter.prototype.requestDevice = async function (how) {
        const device = await request.call(this, how);
        devices.push(device);
        const given = Object.fromEntries(Object.keys(FLOOR).map((key) => [key, device.limits[key]]));
        channel.postMessage({ device: { limits: given, features: [...device.features] } });
        return device;
    };
    const submit = here.GPUQueue.prototype.submit;
    let before = 0;
    here.GPUQueue.prototype.submit = function (commands) {
        const start = performance.now();
        submit.call(this, commands);
        // One begins when the one before it has ended.
        this.onSubmittedWorkDone().then(() => {
            const now = performance.now();
            channel.postMessage({ submission: now - Math.max(start, before) });
            before = now;
        });
    };
    channel.onmessage = (e) => {
        if (e.data === "destroy") for (const d of devices.splice(0)) d.destroy();
    };
})();
