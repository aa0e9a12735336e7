//! What a kernel's machine code should reach, by a plain model of an RDNA compute unit.
//!
//! A compute unit has two SIMDs; all numbers are cycles of one SIMD for a wave of 64 lanes while its neighbour does the same.
//!
//! | what | cycles |
//! |---|---|
//! | f32 multiply-add | 1 on RDNA 3 (both halves of a wave at once, which is what its peak counts), 2 on RDNA 2 |
//! | packed f16 operation, dot product | 2 |
//! | 16 × 16 × 16 matrix operation | 32 |
//! | other vector instruction | 2 |
//! | workgroup memory, 4 bytes a lane | 4: 128 bytes a cycle and compute unit |
//! | load or store, 4 bytes a lane | 8: 64 bytes a cycle and compute unit, from the nearest cache |
//! | weights from memory | 2.2 bytes a cycle (960 GB/s over 192 SIMDs at 2.3 GHz) |
//!
//! Waves hide each other's waiting, so the slowest of the four (vector instructions, workgroup memory, caches, memory) is what a
//! loop takes. An inner loop runs four times for each turn of the one around it, as in a tile of sixteen steps; what stands
//! outside of all loops is not counted.

/// Instructions of a block, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counts {
    pub all: f64,
    pub fma: f64,
    pub packed: f64,
    pub dot: f64,
    pub matrix: f64,
    /// Other vector instructions.
    pub vector: f64,
    pub shared_loads: f64,
    pub shared_loads_wide: f64,
    /// Words of workgroup memory, read and written.
    pub shared_words: f64,
    pub loads: f64,
    pub loads_wide: f64,
    pub memory_words: f64,
    pub scratch: f64,
}

impl Counts {
    pub fn compute(&self) -> f64 {
        self.fma + self.packed + self.dot + self.matrix
    }
    fn add(&mut self, other: &Counts, times: f64) {
        macro_rules! fields { ($($name:ident)*) => { $(self.$name += other.$name * times;)* } }
        fields!(all fma packed dot matrix vector shared_loads shared_loads_wide shared_words loads loads_wide memory_words scratch);
    }
}

/// A straight piece of machine code.
#[derive(Debug, Clone, Default)]
pub struct Block {
    pub name: String,
    pub counts: Counts,
    /// Blocks that it may branch to.
    targets: Vec<String>,
    /// Loops around it.
    pub depth: u32,
}

/// Words that an instruction moves a lane: what its mnemonic ends in.
fn words(mnemonic: &str) -> f64 {
    let wide = [("_b128", 4.0), ("x4", 4.0), ("_b96", 3.0), ("x3", 3.0), ("_b64", 2.0), ("x2", 2.0)];
    let one = wide.iter().find(|(end, _)| mnemonic.ends_with(end)).map_or(1.0, |w| w.1);
    // Two addresses in one instruction.
    if mnemonic.contains("load_2addr") || mnemonic.contains("store_2addr") || mnemonic.contains("read2") || mnemonic.contains("write2") {
        one * 2.0
    } else {
        one
    }
}

fn count(counts: &mut Counts, mnemonic: &str) {
    let starts = |all: &[&str]| all.iter().any(|s| mnemonic.starts_with(s));
    counts.all += 1.0;
    if starts(&["v_dual_fma"]) {
        counts.fma += 2.0;
    } else if starts(&["v_fma", "v_mac", "v_mad_f32"]) {
        counts.fma += 1.0;
    } else if starts(&["v_pk_"]) {
        counts.packed += 1.0;
    } else if starts(&["v_dot"]) {
        counts.dot += 1.0;
    } else if starts(&["v_wmma"]) {
        counts.matrix += 1.0;
    } else if starts(&["ds_load", "ds_read", "ds_store", "ds_write"]) {
        let read = starts(&["ds_load", "ds_read"]);
        counts.shared_words += words(mnemonic);
        counts.shared_loads += read as u8 as f64;
        counts.shared_loads_wide += (read && words(mnemonic) >= 4.0) as u8 as f64;
    } else if starts(&["buffer_", "global_", "image_"]) {
        let read = mnemonic.contains("load") || starts(&["image_"]);
        let wide = words(mnemonic) >= 4.0 || starts(&["image_"]);
        counts.memory_words += if starts(&["image_"]) { 4.0 } else { words(mnemonic) };
        counts.loads += read as u8 as f64;
        counts.loads_wide += (read && wide) as u8 as f64;
    } else if starts(&["scratch_"]) {
        counts.scratch += 1.0;
    } else if starts(&["v_"]) {
        counts.vector += 1.0;
    }
}

/// The blocks of a listing, with the loops around each.
pub fn blocks(assembly: &str) -> Vec<Block> {
    let mut out: Vec<Block> = vec![];
    for line in assembly.lines() {
        let mut parts = line.split_whitespace();
        let Some(first) = parts.next() else { continue };
        if line.starts_with("BB") {
            out.push(Block { name: first.trim_end_matches(':').to_string(), ..Block::default() });
        } else if let (Some(block), true) = (out.last_mut(), line.starts_with(['\t', ' '])) {
            count(&mut block.counts, first);
            if first.starts_with("s_branch") || first.starts_with("s_cbranch") {
                block.targets.extend(parts.next().map(str::to_string));
            }
        }
    }
    let place = |name: &str| out.iter().position(|b| b.name == name);
    let loops: std::collections::BTreeSet<(usize, usize)> = (0..out.len())
        .flat_map(|i| out[i].targets.iter().filter_map(|t| place(t)).filter(|t| *t <= i).map(|t| (t, i)).collect::<Vec<_>>())
        .collect();
    // Several ways back to one place are one loop.
    let heads: std::collections::BTreeMap<usize, usize> =
        loops.iter().fold(Default::default(), |mut all: std::collections::BTreeMap<usize, usize>, (head, end)| {
            let known = all.entry(*head).or_insert(*end);
            *known = (*known).max(*end);
            all
        });
    for (i, block) in out.iter_mut().enumerate() {
        block.depth = heads.iter().filter(|(head, end)| **head <= i && i <= **end).count() as u32;
    }
    out
}

/// The steady state of a kernel: its loops, inner ones four times.
pub fn steady(blocks: &[Block]) -> Counts {
    let mut sum = Counts::default();
    for b in blocks.iter().filter(|b| b.depth > 0) {
        sum.add(&b.counts, 4f64.powi(b.depth as i32 - 1));
    }
    sum
}

/// All of a kernel, once.
pub fn whole(blocks: &[Block]) -> Counts {
    let mut sum = Counts::default();
    blocks.iter().for_each(|b| sum.add(&b.counts, 1.0));
    sum
}

/// Cycles that each part of a compute unit is busy for.
pub struct Cycles {
    pub compute: f64,
    pub vector: f64,
    pub shared: f64,
    pub caches: f64,
    pub memory: f64,
}

impl Cycles {
    /// `bytes`: of weights that come from memory, a lane and turn.
    pub fn of(c: &Counts, rdna3: bool, bytes: f64) -> Cycles {
        let compute = c.fma * if rdna3 { 1.0 } else { 2.0 } + (c.packed + c.dot) * 2.0 + c.matrix * 32.0;
        Cycles {
            compute,
            vector: compute + c.vector * 2.0,
            shared: c.shared_words * 4.0,
            caches: c.memory_words * 8.0,
            memory: bytes * 64.0 / 2.2,
        }
    }
    fn slowest(&self) -> f64 {
        self.vector.max(self.shared).max(self.caches).max(self.memory).max(1.0)
    }
    /// Of the peak of arithmetic, or of memory where weights come from there.
    pub fn share(&self) -> f64 {
        if self.memory > 0.0 { self.memory / self.slowest() } else { self.compute / self.slowest() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_and_widths_are_read() {
        let text = "BB0:\n\ts_mov_b32 s0, 0\nBB1:\n\tbuffer_load_b128 v[0:3], v4\nBB2:\n\tds_load_b128 v[0:3], v4\n\tv_fma_f32 v0, v1, v2\n\ts_cbranch_scc1 BB2\nBB3:\n\ts_branch BB1\nBB4:\n\ts_endpgm\n";
        let all = blocks(text);
        assert_eq!(all.iter().map(|b| b.depth).collect::<Vec<_>>(), [0, 1, 2, 1, 0]);
        let sum = steady(&all);
        assert_eq!((sum.fma, sum.loads_wide, sum.shared_words), (4.0, 1.0, 16.0));
    }
}
