// One file is both sides: what a page imports, and the Worker that it starts from the same address.

import { serve, serveMember } from "./worker.js";

export { Answer, graph, kept, Model, open, probe, WarpweftError } from "./api.js";
export { Graph, Program, Tensor } from "./tensors.js";

const here = /** @type {any} */ (globalThis);
if (here.WorkerGlobalScope && here instanceof here.WorkerGlobalScope) {
    if (here.name === "warpweft") serve();
    if (here.name === "warpweft member") serveMember();
}
