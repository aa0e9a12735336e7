// Put in front of the package by the tests, never shipped. In the Worker it lets an adapter offer no more than WebGPU's floor
// (`?floor`), hides WebGPU (`?nogpu`), and does what a message on the channel "instruments" says: destroys the devices.
(() => {
    const here = globalThis;
    if (!(here.WorkerGlobalScope && here instanceof here.WorkerGlobalScope)) return;
    const asked = new URL(import.meta.url).searchParams;
    if (asked.has("nogpu")) Object.defineProperty(here.navigator, "gpu", { value: undefined });
    if (!here.GPUAdapter) return;
    // https://www.w3.org/TR/webgpu/#limits
    const FLOOR = {
        maxStorageBuffersPerShaderStage: 8, maxStorageBufferBindingSize: 2 ** 27, maxBufferSize: 2 ** 28, maxComputeWorkgroupStorageSize: 16384,
        maxComputeInvocationsPerWorkgroup: 256, maxComputeWorkgroupSizeX: 256, maxComputeWorkgroupSizeY: 256, maxComputeWorkgroupSizeZ: 64,
        maxComputeWorkgroupsPerDimension: 65535, minStorageBufferOffsetAlignment: 256, minUniformBufferOffsetAlignment: 256,
    };
    const channel = new BroadcastChannel("instruments");
    if (asked.has("floor")) {
        const limits = Object.getOwnPropertyDescriptor(here.GPUAdapter.prototype, "limits").get;
        const within = (real) => new Proxy(real, { get: (of, key) => (key in FLOOR ? FLOOR[key] : Reflect.get(of, key, of)) });
        Object.defineProperty(here.GPUAdapter.prototype, "limits", { get() { return within(limits.call(this)); } });
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
    channel.onmessage = (e) => {
        if (e.data === "destroy") devices.splice(0).forEach((d) => d.destroy());
    };
})();
