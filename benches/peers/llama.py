"""Times warpweft's CPU back end in turn with llama.cpp's on the same files; scripts/bench-llama.sh builds both and calls this.

For each file and number of threads: decode behind 128 and 2,048 tokens, and a prompt of 512. Each round takes one measurement of
either, in turn, so that what else the machine does meets both; medians and their ratio are printed. A floor is the bytes
of weights over what the machine reads, or multiply-adds over what it multiplies, by a probe in the same run.
"""

import argparse
import json
import os
import re
import statistics
import struct
import subprocess
import sys

# Plain words that most vocabularies have as one token each.
WORDS = "the man who came to the house on the hill said that it was a very good day for all of us and we went home ".split()


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)[:200]} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def prompt(words):
    return " ".join(WORDS[i % len(WORDS)] for i in range(words))


def ours(args, file, threads, tokens, generate):
    """Prompt tokens, their rate, and the rate of generated tokens."""
    command = [args.warpweft, "run", file, "--device", "cpu", "--precision", "int8", "--threads", str(threads), "--raw", "--ctx", str(tokens + generate + 64)]
    command += ["-n", str(generate), "-p", prompt(tokens - 1)] + args.extra.split()
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = re.search(r"prompt (\d+) tokens, ([\d.]+) tokens/s; generated (\d+) tokens, ([\d.]+) tokens/s", said)
    if not found or (generate > 1 and int(found[3]) < generate // 2):
        sys.exit(f"{file} ended too early: {said[-200:]}")
    return int(found[1]), float(found[2]), float(found[4])


def theirs(args, file, threads, what):
    command = [args.llama, "-m", file, "-t", str(threads), "-r", "1", "-o", "json", *what]
    return json.loads(run(command))[0]["avg_ts"]


def parameters(file):
    """Elements of the matrices that every token of a prompt is multiplied with: all but those of the vocabulary."""
    sizes = {0: 4, 1: 2, 2: 2, 3: 4, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    with open(file, "rb") as f:
        read = lambda form: struct.unpack("<" + form, f.read(struct.calcsize("<" + form)))[0]
        text = lambda: f.read(read("Q"))

        def value(kind):
            if kind == 8:
                text()
            elif kind == 9:
                inner, n = read("I"), read("Q")
                for _ in range(n):
                    value(inner)
            else:
                f.read(sizes[kind])

        f.read(8)
        tensors, pairs = read("Q"), read("Q")
        for _ in range(pairs):
            text()
            value(read("I"))
        total = 0
        for _ in range(tensors):
            name = text()
            axes = [read("Q") for _ in range(read("I"))]
            read("I"), read("Q")
            if len(axes) == 2 and name not in (b"token_embd.weight", b"output.weight"):
                total += axes[0] * axes[1]
        return total


def main():
    parse = argparse.ArgumentParser()
    parse.add_argument("--warpweft", required=True)
    parse.add_argument("--llama", required=True)
    parse.add_argument("--probe", required=True)
    parse.add_argument("--rounds", type=int, default=3)
    parse.add_argument("--threads", default="1,2")
    parse.add_argument("--generate", type=int, default=32)
    parse.add_argument("--extra", default="")
    parse.add_argument("files", nargs="+")
    args = parse.parse_args()
    print("| model, threads | | ours | llama.cpp | ratio | floor | share of it |\n|---|---|---|---|---|---|---|")
    for file in args.files:
        macs, size = parameters(file), os.path.getsize(file)
        for threads in map(int, args.threads.split(",")):
            probes, rows = [], {"decode at 128": [], "decode at 2,048": [], "prompt of 512": []}
            for _ in range(args.rounds):
                probes.append(json.loads(run([args.probe, str(threads)])))
                for tokens in (128, 2048):
                    mine = ours(args, file, threads, tokens, args.generate)[2]
                    other = theirs(args, file, threads, ["-p", "0", "-n", str(args.generate), "-d", str(tokens)])
                    rows[f"decode at {tokens:,}"].append((mine, other))
                mine = ours(args, file, threads, 512, 1)[1]
                rows["prompt of 512"].append((mine, theirs(args, file, threads, ["-p", "512", "-n", "0"])))
            most = lambda key: max(p[key] for p in probes)
            for what, pairs in rows.items():
                mine, other = (statistics.median(p[i] for p in pairs) for i in (0, 1))
                ratio = statistics.median(a / b for a, b in pairs)
                floor = most("bytes_per_s") / size if what.startswith("decode") else most("int8_macs_per_s") / macs
                name = f"{os.path.basename(file)}, {threads}"
                print(f"| {name} | {what} | {mine:.1f} | {other:.1f} | {ratio:.2f} | {floor:.0f} | {mine / floor:.0%} |", flush=True)


main()
