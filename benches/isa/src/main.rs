//! What a GPU's compiler makes of kernels: registers, spills, occupancy, the hot block, widths of loads, and the share of the
//! peak that a model of the GPU allows (src/model.rs).
//!
//! usage: isa [--check] FOLDER…    every .wgsl file of the folders. `RADV_FORCE_FAMILY` says which GPU is compiled for.
//! A first line `// isa: weights=128 bytes=72` gives what a lane of a memory-bound kernel reads in a turn of its loop.
//! `--check` fails where an aim is missed (see `aims`).

mod compiler;
mod model;

use compiler::{Compiled, Compiler};
use model::{Block, Counts, Cycles};

/// A kernel and what became of it.
struct Row {
    name: String,
    compiled: Compiled,
    hot: Block,
    steady: Counts,
    whole: Counts,
    share: f64,
    /// Weights that a lane multiplies in a turn, where it says so.
    weights: f64,
}

fn number(source: &str, key: &str) -> f64 {
    let line = source.lines().next().unwrap_or_default();
    let Some(rest) = line.strip_prefix("// isa:") else { return 0.0 };
    let found = rest.split_whitespace().find_map(|part| part.strip_prefix(key)?.strip_prefix('='));
    found.and_then(|n| n.parse().ok()).unwrap_or(0.0)
}

fn row(compiler: &Compiler, name: String, source: &str) -> Result<Row, String> {
    let compiled = compiler.compile(source)?;
    let blocks = model::blocks(&compiled.assembly);
    let steady = model::steady(&blocks);
    let work = |b: &Block| b.counts.compute() * 16f64.powi(b.depth as i32);
    let hot = blocks.iter().max_by(|a, b| work(a).total_cmp(&work(b))).cloned().unwrap_or_default();
    let rdna3 = !compiler.name.contains("NAVI2");
    let share = Cycles::of(&steady, rdna3, number(source, "bytes")).share();
    Ok(Row { name, compiled, hot, steady, whole: model::whole(&blocks), share, weights: number(source, "weights") })
}

impl Row {
    fn print(&self) {
        let (c, h, s) = (&self.compiled, &self.hot.counts, &self.steady);
        let ratio = |n: f64, d: f64| if d > 0.0 { format!("{:.1}", n / d) } else { "-".into() };
        println!(
            "{:<44} {:>4} {:>4} {:>4} {:>4}  {:>5.0} {:>4.0}%  {:>6}  {:>4.0}/{:<4.0} {:>4.0}/{:<4.0} {:>6} {:>5.0}%",
            self.name,
            c.registers,
            c.spilled,
            c.scratch,
            c.waves,
            h.all,
            100.0 * h.compute() / h.all.max(1.0),
            ratio(h.fma, h.shared_loads),
            h.shared_loads_wide,
            h.shared_loads,
            self.whole.loads_wide,
            self.whole.loads,
            ratio(self.steady.all, self.weights),
            100.0 * self.share,
        );
    }

    /// Aims that are missed, by the beginnings of names.
    fn misses(&self) -> Vec<String> {
        let (c, h) = (&self.compiled, &self.hot.counts);
        let mut out = vec![];
        let mut aim = |holds: bool, what: String| {
            if !holds {
                out.push(format!("{}: {what}", self.name));
            }
        };
        aim(c.spilled == 0 && c.scratch == 0 && self.steady.scratch == 0.0, "spills or uses scratch memory".into());
        if self.name.starts_with("matmul-tiled-128x128") {
            let share = h.compute() / h.all.max(1.0);
            aim(share >= 0.85, format!("{:.0} % compute in the hot block", share * 100.0));
            aim(h.fma >= 16.0 * h.shared_loads, format!("{} multiply-adds, {} reads", h.fma, h.shared_loads));
            aim(self.share >= 0.7, format!("{:.0} % of the peak predicted", self.share * 100.0));
            if self.name.ends_with("-f32") {
                aim(self.whole.loads == self.whole.loads_wide, "storage is read by less than sixteen bytes".into());
            }
        }
        if self.name.contains("-int8-") {
            aim(self.whole.dot > 0.0 && h.dot > 0.0, "no packed dot product in the hot block".into());
        }
        if self.name.starts_with("attention-prefill") && !self.name.ends_with("merge") {
            let share = h.compute() / h.all.max(1.0);
            aim(share >= 0.5, format!("{:.0} % compute in the hot block", share * 100.0));
        }
        if self.name.starts_with("row-") && !self.name.contains("-max-") && !self.name.contains("-sum-") {
            aim(self.whole.loads == self.whole.loads_wide, "storage is read by less than sixteen bytes".into());
        }
        if self.weights > 0.0 {
            // Formats of many scales take more; they are let through as long as memory stays what takes the time.
            let few = h.all <= 4.0 * self.weights || (self.share > 0.99 && h.all <= 7.0 * self.weights);
            aim(few, format!("{:.1} instructions a weight", h.all / self.weights));
            aim(h.loads_wide >= 4.0, format!("{} wide loads in flight", h.loads_wide));
        }
        out
    }
}

fn files(folders: &[String]) -> Vec<std::path::PathBuf> {
    let mut all: Vec<_> = folders
        .iter()
        .flat_map(|f| std::fs::read_dir(f).into_iter().flatten().flatten().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "wgsl"))
        .collect();
    all.sort();
    all
}

fn main() -> std::process::ExitCode {
    let (flags, folders): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|a| a.starts_with("--"));
    let compiler = match Compiler::open() {
        Ok(compiler) => compiler,
        Err(e) => {
            eprintln!("isa: {e}");
            return std::process::ExitCode::FAILURE;
        }
    };
    println!("# {}", compiler.name);
    println!(
        "{:<44} {:>4} {:>4} {:>4} {:>4}  {:>5} {:>5}  {:>6}  {:>9} {:>9} {:>6} {:>6}",
        "kernel", "VGPR", "spil", "scra", "wave", "hot", "comp", "fma/rd", "wide rd", "wide ld", "in/wt", "peak"
    );
    let mut misses = vec![];
    for path in files(&folders) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let source = std::fs::read_to_string(&path).unwrap_or_default();
        match row(&compiler, name.clone(), &source) {
            Ok(row) => {
                row.print();
                // Aims are for our own.
                if !name.starts_with("ggml-") {
                    misses.extend(row.misses());
                }
            }
            Err(e) => misses.push(format!("{name}: {e}")),
        }
    }
    misses.iter().for_each(|m| println!("missed: {m}"));
    if flags.iter().any(|f| f == "--check") && !misses.is_empty() {
        return std::process::ExitCode::FAILURE;
    }
    std::process::ExitCode::SUCCESS
}
