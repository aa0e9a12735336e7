// Runs the test files named, one after another: the flags of `node --test` differ between versions of Node.

import path from "node:path";
import { run } from "node:test";
import { spec as Spec } from "node:test/reporters";

const files = process.argv.slice(2).map((file) => path.resolve(file));
const tests = run({ files, concurrency: 1, timeout: 900_000 });
tests.on("test:fail", () => (process.exitCode = 1));
tests.compose(new Spec()).pipe(process.stdout);
