// The tensor level: a graph is written down here and computed in a Worker.

import { WarpweftError } from "./errors.js";
import { Link } from "./link.js";

/** @typedef {Float32Array | Uint32Array | readonly number[]} Elements */
/** @typedef {{ shape: number[], data: Float32Array | Uint32Array }} Value */
/** @typedef {{ op: string, args?: number[] } & Record<string, unknown>} Node */

/** Collects operations; `compile` turns them into a program. */
export class Graph {
    /** @type {Node[]} */
    #nodes = [];
    /** @type {Float32Array[]} */
    #data = [];

    /**
     * A value that is given at each run.
     * @param {string} name @param {readonly number[]} shape @param {"f32" | "u32"} [dtype]
     */
    input(name, shape, dtype = "f32") {
        return this.add({ op: "input", name: String(name), shape: sizes(shape), dtype });
    }

    /**
     * Elements that stay the same: weights.
     * @param {Elements} elements @param {readonly number[]} shape
     */
    constant(elements, shape) {
        const data = elements instanceof Float32Array ? elements : Float32Array.from(elements);
        const count = sizes(shape).reduce((n, d) => n * d, 1);
        if (count !== data.length) throw new WarpweftError("usage", `${data.length} elements do not fill [${shape}]`);
        this.#data.push(data);
        return this.add({ op: "data", shape: sizes(shape), start: this.#data.length - 1 });
    }

    /** One number. @param {number} value */
    number(value) {
        return this.add({ op: "number", value: Number(value) });
    }

    /** Tensors one after another along an axis. @param {readonly Tensor[]} tensors @param {number} axis */
    concat(tensors, axis) {
        return this.apply("concat", tensors, { axis });
    }

    /**
     * Any operation of the op table (docs/ops.md) by its name.
     * @param {string} op @param {readonly Tensor[]} operands @param {Record<string, unknown>} [attributes]
     */
    apply(op, operands, attributes = {}) {
        if (operands.some((t) => !(t instanceof Tensor) || t.graph !== this))
            throw new WarpweftError("usage", `${op} takes tensors of its own graph`);
        return this.add({ ...attributes, op, args: operands.map((t) => t.index) });
    }

    /** @param {Node} node */
    add(node) {
        this.#nodes.push(node);
        return new Tensor(this, this.#nodes.length - 1);
    }

    /**
     * Checks the graph, compiles its kernels and puts its constants onto the device. Errors name the operation, its place
     * and the sizes that do not fit.
     * @param {Record<string, Tensor>} outputs @param {{ device?: "auto" | "webgpu" | "cpu", signal?: AbortSignal }} [options]
     * @returns {Promise<Program>}
     */
    async compile(outputs, { device = "auto", signal } = {}) {
        const named = Object.entries(outputs).map(([name, t]) => {
            if (!(t instanceof Tensor) || t.graph !== this)
                throw new WarpweftError("usage", `output "${name}" is no tensor of this graph`);
            return [name, t.index];
        });
        const json = JSON.stringify({ nodes: this.#nodes, outputs: named });
        const link = await Link.start();
        try {
            return new Program(link, await link.ask("compile", { json, data: this.#data, device }, { signal }));
        } catch (e) {
            link.end("the graph could not be compiled");
            throw e;
        }
    }
}

/** @param {readonly number[]} shape */
function sizes(shape) {
    const out = [...shape].map(Number);
    if (!out.every((d) => Number.isInteger(d) && d >= 0 && d < 2 ** 31))
        throw new WarpweftError("usage", `[${shape}] is no shape: it must be whole numbers`);
    return out;
}

/** A value of a graph. Operands broadcast; numbers may stand for tensors. */
export class Tensor {
    /** @param {Graph} graph @param {number} index */
    constructor(graph, index) {
        this.graph = graph;
        this.index = index;
    }

    /** @param {string} op @param {readonly (Tensor | number)[]} [more] @param {Record<string, unknown>} [attributes] */
    #with(op, more = [], attributes = {}) {
        const operands = more.map((x) => (typeof x === "number" ? this.graph.number(x) : x));
        return this.graph.apply(op, [this, ...operands], attributes);
    }
    /** @param {string} op @param {number | readonly number[]} axes @param {boolean} keep */
    #reduce(op, axes, keep) {
        return this.#with(op, [], { axes: [axes].flat(), keep });
    }

    /** `this · y` over the last two axes; leading axes broadcast. @param {Tensor} y @param {{ transposeA?: boolean, transposeB?: boolean }} [how] */
    matmul(y, how = {}) {
        return this.#with("matmul", [y], { transposeA: how.transposeA ?? false, transposeB: how.transposeB ?? false });
    }
    /** Over the last axis. */
    softmax() {
        return this.#with("softmax");
    }
    logSoftmax() {
        return this.#with("log_softmax");
    }
    /** Over the last axis. @param {Tensor} weight @param {Tensor} bias @param {number} [eps] */
    layerNorm(weight, bias, eps = 1e-5) {
        return this.#with("layer_norm", [weight, bias], { eps });
    }
    /** Over the last axis. @param {Tensor} weight @param {number} [eps] */
    rmsNorm(weight, eps = 1e-5) {
        return this.#with("rms_norm", [weight], { eps });
    }
    /**
     * Scaled-dot-product attention of queries `this` [b, s, h, d] over `k`, `v` [b, t, g, d].
     * @param {Tensor} k @param {Tensor} v @param {{ causal?: boolean, scale?: number }} [how]
     */
    attention(k, v, { causal = false, scale } = {}) {
        return this.#with("attention", [k, v], { causal, ...(scale === undefined ? {} : { scale }) });
    }
    /** @param {Tensor | number} y */
    add(y) {
        return this.#with("add", [y]);
    }
    /** @param {Tensor | number} y */
    sub(y) {
        return this.#with("sub", [y]);
    }
    /** @param {Tensor | number} y */
    mul(y) {
        return this.#with("mul", [y]);
    }
    /** @param {Tensor | number} y */
    div(y) {
        return this.#with("div", [y]);
    }
    /** @param {Tensor | number} y */
    maximum(y) {
        return this.#with("maximum", [y]);
    }
    /** @param {Tensor | number} y */
    minimum(y) {
        return this.#with("minimum", [y]);
    }
    neg() {
        return this.#with("neg");
    }
    exp() {
        return this.#with("exp");
    }
    log() {
        return this.#with("log");
    }
    sqrt() {
        return this.#with("sqrt");
    }
    tanh() {
        return this.#with("tanh");
    }
    sigmoid() {
        return this.#with("sigmoid");
    }
    silu() {
        return this.#with("silu");
    }
    gelu() {
        return this.#with("gelu");
    }
    relu() {
        return this.#with("relu");
    }
    /** @param {number | readonly number[]} axes @param {{ keep?: boolean }} [how] */
    sum(axes, { keep = false } = {}) {
        return this.#reduce("sum", axes, keep);
    }
    /** @param {number | readonly number[]} axes @param {{ keep?: boolean }} [how] */
    mean(axes, { keep = false } = {}) {
        return this.#reduce("mean", axes, keep);
    }
    /** @param {number | readonly number[]} axes @param {{ keep?: boolean }} [how] */
    max(axes, { keep = false } = {}) {
        return this.#reduce("max", axes, keep);
    }
    /** @param {number | readonly number[]} axes @param {{ keep?: boolean }} [how] */
    min(axes, { keep = false } = {}) {
        return this.#reduce("min", axes, keep);
    }
    /** Index of the largest element along an axis. @param {number} axis */
    argmax(axis) {
        return this.#reduce("argmax", axis, false);
    }
    /** Rows of this table by index. @param {Tensor} indices */
    gather(indices) {
        return this.#with("gather", [indices]);
    }
    /** @param {readonly number[]} shape */
    reshape(shape) {
        return this.#with("reshape", [], { shape: sizes(shape) });
    }
    /** @param {readonly number[]} shape */
    broadcast(shape) {
        return this.#with("broadcast", [], { shape: sizes(shape) });
    }
    /** @param {readonly number[]} axes */
    transpose(axes) {
        return this.#with("transpose", [], { axes: sizes(axes) });
    }
    /** @param {number} axis @param {number} start @param {number} length */
    slice(axis, start, length) {
        return this.#with("slice", [], { axis, start, length });
    }
}

/** A compiled graph on a device, in a Worker of its own. */
export class Program {
    #link;

    /** @param {Link} link @param {{ adapter: string, gpuBytes: number }} about */
    constructor(link, about) {
        this.#link = link;
        this.adapter = about.adapter;
        this.gpuBytes = about.gpuBytes;
    }

    /**
     * Computes the outputs.
     * @param {Record<string, Elements>} [inputs] @param {{ signal?: AbortSignal }} [options]
     * @returns {Promise<Record<string, Value>>}
     */
    async run(inputs = {}, { signal } = {}) {
        const out = await this.#link.ask("run", { inputs: Object.entries(inputs) }, { signal });
        return Object.fromEntries(
            out.map((/** @type {[string, number[], Float32Array]} */ [name, shape, data]) => [name, { shape, data }]),
        );
    }

    /**
     * Median seconds of a run without the reading of its outputs; `repeat` runs are submitted together.
     * @param {Record<string, Elements>} [inputs] @param {number} [repeat]
     * @returns {Promise<number>}
     */
    async seconds(inputs = {}, repeat = 1) {
        return this.#link.ask("seconds", { inputs: Object.entries(inputs), repeat });
    }

    /** Frees its memory and ends its Worker; the bytes that stayed in use: 0. @returns {Promise<number>} */
    async close() {
        return this.#link.close();
    }
}
