// Models of one operation, written in ONNX's protobuf by hand: what onnxruntime-web is measured with.

/** @param {number} n */
function varint(n) {
    const out = [];
    for (; n > 127; n = Math.floor(n / 128)) out.push((n % 128) | 128);
    return [...out, n];
}
/** A field of bytes. @param {number} field @param {Iterable<number>} bytes */
const bytes = (field, bytes) => {
    const all = [...bytes];
    return [...varint(field * 8 + 2), ...varint(all.length), ...all];
};
/** @param {number} field @param {string} s */
const text = (field, s) => bytes(field, new TextEncoder().encode(s));
/** @param {number} field @param {number} n */
const number = (field, n) => [...varint(field * 8), ...varint(n)];

/** A value's name, f32 and shape. @param {number} field @param {string} name @param {number[]} shape */
function value(field, name, shape) {
    const dims = shape.flatMap((d) => bytes(1, number(1, d)));
    return bytes(field, [...text(1, name), ...bytes(2, bytes(1, [...number(1, 1), ...bytes(2, dims)]))]);
}

/** @param {string} op @param {[string, number[]][]} inputs @param {number[]} shape Of the output, "y". */
function model(op, inputs, shape) {
    const node = [...inputs.flatMap(([name]) => text(1, name)), ...text(2, "y"), ...text(4, op)];
    const graph = [...bytes(1, node), ...text(2, "g"), ...inputs.flatMap(([name, s]) => value(11, name, s)), ...value(12, "y", shape)];
    return Uint8Array.from([...number(1, 8), ...bytes(7, graph), ...bytes(8, number(2, 17))]);
}

/** @param {number} m @param {number} k @param {number} n */
export const matmul = (m, k, n) => model("MatMul", [["a", [m, k]], ["b", [k, n]]], [m, n]);
/** @param {number} rows @param {number} width */
export const softmax = (rows, width) => model("Softmax", [["x", [rows, width]]], [rows, width]);
/** @param {number} rows @param {number} width */
export const norm = (rows, width) => model("LayerNormalization", [["x", [rows, width]], ["w", [width]], ["b", [width]]], [rows, width]);
