#!/usr/bin/env python3
"""Compares grokd with its peers on one GGUF file, in runs that alternate in random order, and prints medians and ratios.

    tests/bench/peers.py MODEL.gguf [--threads 2] [--prefill 512] [--decode 16] [--repeat 3]
                         [--batch 8,16,32] [--busy N] [--settle SECONDS] [--isa NAME] [--node DIR] [--ik DIR]
                         [--ik-options WORDS] [--ik-repacked] [--build DIR]

--build: where grokd's bench is; otherwise the build beside this script's sources.
--node: a folder where `npm install node-llama-cpp` was run (llama.cpp's CPU build comes with it).
--ik: a folder that holds a natively built ik_llama.cpp's llama-bench and llama-batched-bench.
--ik-options: more options for both of these, as one word: --ik-options='-ctk q8_0 -ctv q8_0'.
--ik-repacked: ik_llama.cpp a second time, with weights that it repacks while it loads them, which it then doesn't map.
--prefill '': don't measure prompts.
--batch: sequences that decode together. ik_llama.cpp's program gives all of them the same tokens, so that the same
experts serve them all: beside it grokd does so too ("batch"), and then with other tokens in each ("apart").
--isa: grokd's instruction set where it isn't the CPU's best; peers have theirs from how they were built.
--busy: endless loops of other programs beside all that is measured, which take CPUs from it.
--settle: seconds of rest after each program and the measurement after it (8). Of a virtual machine the host may take
back what a program has freed, for six seconds after one that had repacked 6 GB, and take CPUs meanwhile, some 30 ms at
a time.
The speed of memory can change within seconds where a machine is shared. It is measured before and after each run, and
where it differed, decode is also shown for slow and for fast memory. Runs are short enough for that with --prefill ''
and without --batch.
A peer that is not given is left out. OPENBLAS_CORETYPE is unset, because it misleads every program.
"""
import argparse
import contextlib
import functools
import json
import os
import pathlib
import random
import shlex
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
IK_PROMPT = 16  # tokens before a batch decodes
LLAMA_PROMPT = 8  # as many as llama-cpp.mjs takes before it decodes
STEADY = 1.15  # so much the bandwidth before a run and after it may differ for the run to count as of that bandwidth
UNEVEN = 1.2  # so large a gap between such runs parts slow memory from fast
BUSY_LOOP = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): pass"  # ends with us, however we end


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def fail(message):
    sys.exit(f"peers.py: {message}")


def whole_number(text):
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number above 0")
    return int(text)


def seconds(text):
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number of seconds")
    return int(text)


def whole_numbers(text):
    return [whole_number(word) for word in text.split(",")]


def whole_number_or_none(text):
    return whole_number(text) if text else None


def joined(numbers):
    return ",".join(map(str, numbers))


def last_line(text):
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"


def run(command, cwd=None, both=False):
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    try:
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, errors="replace")
    except OSError as error:
        fail(f"can't run {command[0]}: {error.strerror}")
    if done.returncode != 0:
        fail(f"{command[0]} ended with status {done.returncode}: {last_line(done.stderr)}")
    return done.stdout + done.stderr if both else done.stdout


def grokd_bench(a, *options):
    isa = ["--isa", a.isa] if a.isa else []
    return json.loads(run([f"{a.build}/bench", "--model", a.model, "--threads", str(a.threads), *isa, "--repeat", "1",
                           *options, "--json"]))


def of_one_sequence(a):
    return ["prefill", "decode"] if a.prefill else ["decode"]


def machine(a):
    """What memory gives, in GB/s, and how much of the file is mapped in huge pages, by which it is read faster."""
    out = grokd_bench(a, "--prefill", "", "--decode", "0")
    return {"read": out["roofs"]["read_bytes_per_second"] / 1e9,
            "huge": out["memory"]["file_huge_page_bytes"] / out["memory"]["file_bytes"]}


def grokd(a):
    decode, batch = ["--decode", str(a.decode)], ["--batch", joined(a.batch)] if a.batch else []
    out = grokd_bench(a, "--prefill", str(a.prefill or ""), *decode, *batch, "--same-tokens")
    rows = {key: out[key][0] for key in of_one_sequence(a)}
    rows |= {f"batch {row['sequences']}": row for row in out["batch"]}
    if a.batch:
        apart = grokd_bench(a, "--prefill", "1", *decode, *batch)["batch"]
        rows |= {f"apart {row['sequences']}": row for row in apart}
    shares = {f"{key}_share": row["share_of_roof"] for key, row in rows.items()}
    return {key: row["tokens_per_second"] for key, row in rows.items()} | shares


def llama_cpp(a):
    script = str(HERE / "llama-cpp.mjs")
    n_prompt = a.prefill or LLAMA_PROMPT
    out = run(["node", script, os.path.abspath(a.model), str(a.threads), str(n_prompt), str(a.decode)], cwd=a.node)
    speed = json.loads(out.strip().splitlines()[-1])
    return {key: speed[key] for key in of_one_sequence(a)}


def ik_llama_cpp(a, repacked=False):
    out = json.loads(run([f"{a.ik}/llama-bench", "-m", a.model, "-t", str(a.threads), "-p", str(a.prefill or 0), "-n",
                          str(a.decode), "-r", "1", "-fa", "1", *(["-rtr", "1"] if repacked else []), *a.ik_options, "-o",
                          "json"]))
    speed = {"prefill" if row["n_prompt"] else "decode": row["avg_ts"] for row in out}
    return {key: speed[key] for key in of_one_sequence(a)} | (ik_batched(a, repacked) if a.batch else {})


def ik_batched(a, repacked):
    """Its table goes to standard error: columns PP, TG, B, N_KV, T_PP, S_PP, T_TG, S_TG, …"""
    time.sleep(a.settle)
    n_positions = max(4096, max(a.batch) * (IK_PROMPT + a.decode))
    table = run([f"{a.ik}/llama-batched-bench", "-m", a.model, "-t", str(a.threads), "-tb", str(a.threads),
                 "-c", str(n_positions), "-b", "2048", "-ub", "512", "-npp", str(IK_PROMPT), "-ntg", str(a.decode),
                 "-npl", joined(a.batch), "-fa", "1", *(["-rtr"] if repacked else []), *a.ik_options], both=True)
    rows = [line.split("|") for line in table.splitlines() if line.startswith("|")]
    rates = {int(row[3]): float(row[8]) for row in rows if row[3].strip().isdigit()}
    return {f"batch {n}": rates[n] for n in a.batch}


def measure(name, program, a):
    try:
        return program(a)
    except (ValueError, LookupError, TypeError) as error:
        fail(f"what {name} printed can't be read: {error!r}")


@contextlib.contextmanager
def busy_programs(n):
    loops = [subprocess.Popen([sys.executable, "-c", BUSY_LOOP, str(os.getpid())]) for _ in range(n)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def check_programs(p, a):
    """Before the first of them has measured for minutes."""
    if a.ik_repacked and not a.ik:
        p.error("argument --ik-repacked: --ik isn't given")
    programs = [("--build", a.build, "bench")]
    if a.ik:
        programs.append(("--ik", a.ik, "llama-bench"))
        if a.batch:
            programs.append(("--ik", a.ik, "llama-batched-bench"))
    for option, folder, name in programs:
        path = os.path.join(folder, name)
        if not (os.path.isfile(path) and os.access(path, os.X_OK)):
            p.error(f"argument {option}: there is no program {path}")
    if a.node:
        folder = pathlib.Path(a.node).resolve()
        if not any((f / "node_modules" / "node-llama-cpp").is_dir() for f in [folder, *folder.parents]):
            p.error(f"argument --node: node-llama-cpp isn't installed in {a.node}")
        if not shutil.which("node"):
            p.error("argument --node: there is no program node")
    if not os.path.isfile(a.model):
        p.error(f"argument model: there is no file {a.model}")


def parse_arguments():
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    for name, default in [("threads", 2), ("decode", 16), ("repeat", 3)]:
        p.add_argument(f"--{name}", type=whole_number, default=default)
    p.add_argument("--prefill", type=whole_number_or_none, default=512)
    p.add_argument("--batch", type=whole_numbers, default=[])
    p.add_argument("--busy", type=whole_number, default=0)
    p.add_argument("--settle", type=seconds, default=8)
    p.add_argument("--isa")
    p.add_argument("--node")
    p.add_argument("--ik")
    p.add_argument("--ik-repacked", action="store_true")
    p.add_argument("--ik-options", type=shlex.split, default=[])
    p.add_argument("--build", default=str(HERE.parent.parent / "build"))
    a = p.parse_args()
    check_programs(p, a)
    return a


def medians_by_memory(seen, beside):
    """Medians of decode, of the runs that met slow memory and of those that met fast memory; a run in which it changed is
    left out. Nothing where no gap parts them."""
    steady = sorted((statistics.mean(pair), name, run["decode"]) for name, runs in seen.items()
                    for run, pair in zip(runs, beside[name]) if max(pair) <= STEADY * min(pair))
    gaps = [after[0] / before[0] for before, after in zip(steady, steady[1:])]
    if not gaps or max(gaps) < UNEVEN:
        return {name: {} for name in seen}
    at = gaps.index(max(gaps)) + 1
    groups = {f"at {group[0][0]:.3g}-{group[-1][0]:.3g}": group for group in (steady[:at], steady[at:])}
    return {name: {key: statistics.median(rate for _, n, rate in group if n == name) for key, group in groups.items()
                   if any(n == name for _, n, _ in group)} for name in seen}


def print_medians(a, seen, beside):
    by_memory = medians_by_memory(seen, beside)
    median = {name: {k: statistics.median(run[k] for run in runs) for k in runs[0]} | by_memory[name]
              for name, runs in seen.items()}
    ours = median["grokd"]
    columns = [key for key in ours if not key.endswith("share")]
    print(f"{'':14}" + "".join(f" {key:>12} {'ratio':>6}  " for key in columns))
    for name, m in median.items():
        print(f"{name:14}" + "".join(f" {m[key]:12.2f} {ours[key] / m[key]:6.2f}  " if key in m else f" {'-':>12} {'-':>6}  "
                                     for key in columns))
    if by_memory["grokd"]:
        print("at N-M: decode, of those runs before and after which memory gave so many GB/s")
    for name, m in median.items():
        shares = [f"{key} {ours[key + '_share'] * m[key] / ours[key]:.0%}" for key in m if key + "_share" in ours]
        print(f"{name}'s share of the roof: {', '.join(shares)}")


def main():
    a = parse_arguments()
    programs = {"grokd": grokd}
    if a.node:
        programs["llama.cpp"] = llama_cpp
    if a.ik:
        programs["ik_llama.cpp"] = ik_llama_cpp
        if a.ik_repacked:
            programs["ik, repacked"] = functools.partial(ik_llama_cpp, repacked=True)
    seen, beside = {name: [] for name in programs}, {name: [] for name in programs}
    with busy_programs(a.busy):
        for i in range(a.repeat):
            # In no order: what a program leaves behind, in caches and in memory, is not for the same one each time.
            for name, program in random.sample(list(programs.items()), len(programs)):
                before = measure("bench", machine, a)
                seen[name].append(measure(name, program, a))
                after = measure("bench", machine, a)
                beside[name].append((before["read"], after["read"]))
                print(f"# run {i + 1}, {name}: {seen[name][-1]}; memory {before['read']:.1f}, {after['read']:.1f} GB/s",
                      file=sys.stderr, flush=True)
                time.sleep(a.settle)
    print_medians(a, seen, beside)
    print(f"the model file as grokd maps it: {after['huge']:.0%} in huge pages")
    if a.busy:
        print(f"busy programs beside all of this, the roof's measurement too: {a.busy}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("peers.py: interrupted", file=sys.stderr)
        sys.exit(130)
