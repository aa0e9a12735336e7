//! Meshes, the rounds of collectives, and machine files.

use proptest::prelude::*;
use warpweft::topology::collective::{ALGORITHMS, Algorithm, Collective, Kind, Round, all_to_all, does, part, sent};
use warpweft::topology::{self, Mesh, Precision};

fn refusal<T: std::fmt::Debug>(result: warpweft::base::Result<T>) -> String {
    result.expect_err("must be refused").to_string()
}

#[test]
fn a_mesh_reads_what_it_prints() {
    let mesh = Mesh::parse("pp=2, tp=3").unwrap();
    assert_eq!(mesh.to_string(), "pp=2,tp=3");
    assert_eq!(mesh.axes(), [("pp".to_string(), 2), ("tp".to_string(), 3)]);
    assert_eq!((mesh.ranks(), mesh.size("tp"), mesh.size("dp")), (6, 3, 1));
    assert_eq!(mesh.coordinates(4), [1, 1]);
    assert_eq!(mesh.groups("tp"), [vec![0, 1, 2], vec![3, 4, 5]]);
    assert_eq!(mesh.groups("pp"), [vec![0, 3], vec![1, 4], vec![2, 5]]);
    assert_eq!(mesh.groups("cp").len(), 6);
    assert_eq!(Mesh::parse("tp=8,dp=2,pp=4").unwrap().by_traffic().to_string(), "pp=4,dp=2,tp=8");
    assert_eq!(Mesh::parse("").unwrap(), Mesh::single());
}

#[test]
fn a_bad_mesh_is_refused_with_its_numbers() {
    let all = [
        "tp",
        "tp=",
        "tp=0",
        "tp=-2",
        "tp=2,tp=2",
        "xp=2",
        "cp=2,sp=2",
        "tp=2,,pp=2",
        "dp=99999999,tp=99999999",
        "tp=1e3",
    ];
    let told: Vec<String> = all.iter().map(|t| refusal(Mesh::parse(t))).collect();
    insta::assert_snapshot!(told.join("\n"), @r#"
    mesh "tp": "tp" is not AXIS=SIZE, such as tp=2
    mesh "tp=": axis tp needs a size from 1 up, "" is none
    mesh "tp=0": axis tp needs a size from 1 up, "0" is none
    mesh "tp=-2": axis tp needs a size from 1 up, "-2" is none
    mesh "tp=2,tp=2": axis tp is named twice
    mesh "xp=2": there is no axis "xp": axes are dp, pp, tp, cp, sp, ep
    mesh "cp=2,sp=2": cp and sp both split the sequence: name one of them
    mesh "tp=2,,pp=2": "" is not AXIS=SIZE, such as tp=2
    mesh "dp=99999999,tp=99999999": has more than 16777216 ranks
    mesh "tp=1e3": axis tp needs a size from 1 up, "1e3" is none
    "#);
    insta::assert_snapshot!(refusal(Mesh::parse("pp=2,tp=3").unwrap().fit(8)), @"mesh pp=2,tp=3 has 2 × 3 = 6 ranks, there are 8 devices: change an axis, or the number of devices");
}

proptest! {
    #[test]
    fn coordinates_and_ranks_are_inverse(sizes in proptest::collection::vec(1usize..5, 1..5)) {
        let names = ["pp", "dp", "cp", "tp"];
        let text: Vec<String> = sizes.iter().zip(names).map(|(n, a)| format!("{a}={n}")).collect();
        let mesh = Mesh::parse(&text.join(",")).unwrap();
        for rank in 0..mesh.ranks() {
            prop_assert_eq!(mesh.rank(&mesh.coordinates(rank)), rank);
        }
        for axis in names {
            let mut seen: Vec<usize> = mesh.groups(axis).concat();
            seen.sort();
            prop_assert_eq!(seen, (0..mesh.ranks()).collect::<Vec<_>>());
            prop_assert!(mesh.groups(axis).iter().all(|g| g.len() == mesh.size(axis)));
        }
    }
}

/// Runs rounds on plain vectors. All-to-all writes other buffers than it reads.
fn execute(rounds: &[Round], inputs: &[Vec<i64>], outputs: Option<Vec<Vec<i64>>>) -> Vec<Vec<i64>> {
    let apart = outputs.is_some();
    let mut to = outputs.unwrap_or(inputs.to_vec());
    for round in rounds {
        let from = if apart { inputs.to_vec() } else { to.clone() };
        for (i, m) in round.iter().enumerate() {
            assert!(!m.range.is_empty());
            // What a round writes at a rank, no other message of the round reads there.
            let writes = m.at..m.at + m.range.len();
            let clash = round.iter().enumerate().any(|(j, o)| {
                i != j && !apart && o.from == m.to && o.range.start < writes.end && writes.start < o.range.end
            });
            assert!(!clash, "a round reads what it writes: {round:?}");
            for (k, at) in m.range.clone().zip(m.at..) {
                to[m.to][at] = from[m.from][k] + if m.reduce { to[m.to][at] } else { 0 };
            }
        }
    }
    to
}

fn ranges(parts: &[usize]) -> Vec<std::ops::Range<usize>> {
    let mut start = 0;
    parts.iter().map(|n| (start..start + n, start += n).0).collect()
}

/// The collective's result equals the naive sum or concatenation, wherever its definition says something.
fn check(c: &Collective) {
    let (n, all) = (c.ranks(), c.elements());
    let value = |r: usize, k: usize| ((r * 1009 + k * 31 + r * k * 7) % 997) as i64 + 1;
    let mut buffers: Vec<Vec<i64>> = (0..n).map(|r| (0..all).map(|k| value(r, k)).collect()).collect();
    buffers.resize(c.participants(), vec![0; all]);
    let rounds = c.rounds().unwrap();
    let parts = ranges(&c.parts);
    let owner = |k: usize| parts.iter().position(|p| p.contains(&k)).unwrap();
    let sum = |k: usize| (0..n).map(|r| value(r, k)).sum::<i64>();
    if c.kind == Kind::AllToAll {
        let outputs = c.parts.iter().map(|p| vec![-1; p * n]).collect();
        let got = execute(&rounds, &buffers, Some(outputs));
        for (r, out) in got.iter().enumerate() {
            let want: Vec<i64> = (0..n).flat_map(|from| parts[r].clone().map(move |k| value(from, k))).collect();
            assert_eq!(*out, want, "{c:?}");
        }
        return;
    }
    let got = execute(&rounds, &buffers, None);
    for (r, k) in (0..n).flat_map(|r| (0..all).map(move |k| (r, k))) {
        let want = match c.kind {
            Kind::AllReduce => Some(sum(k)),
            Kind::AllGather => Some(value(owner(k), k)),
            Kind::ReduceScatter => (owner(k) == r).then(|| sum(k)),
            Kind::Broadcast { root } => Some(value(root, k)),
            Kind::SendRecv { from, to } => Some(value(if r == to { from } else { r }, k)),
            Kind::AllToAll => None,
        };
        assert!(want.is_none_or(|w| w == got[r][k]), "rank {r}, element {k}: {} for {want:?}, {c:?}", got[r][k]);
    }
}

fn kinds(n: usize) -> Vec<Kind> {
    vec![
        Kind::AllReduce,
        Kind::AllGather,
        Kind::ReduceScatter,
        Kind::AllToAll,
        Kind::Broadcast { root: n - 1 },
        Kind::Broadcast { root: n / 2 },
        Kind::SendRecv { from: 0, to: n - 1 },
    ]
}

#[test]
fn every_algorithm_equals_the_naive_result_on_1_to_9_ranks() {
    let mut tried = 0;
    for n in 1..=9 {
        for (kind, algorithm) in
            kinds(n).into_iter().flat_map(|k| ALGORITHMS.map(|a| (k, a))).filter(|(k, a)| does(*a, *k))
        {
            for elements in [0, 1, n - 1, n, 5 * n + 3, 64] {
                for pieces in [1, 3] {
                    check(&Collective { pieces, ..Collective::even(kind, algorithm, n, elements) });
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 2000);
}

proptest! {
    #[test]
    fn parts_and_nodes_may_be_uneven(parts in proptest::collection::vec(0usize..12, 1..9), nodes in proptest::collection::vec(0usize..3, 9)) {
        let n = parts.len();
        let nodes: Vec<usize> = nodes[..n].to_vec();
        for (kind, algorithm) in kinds(n).into_iter().flat_map(|k| ALGORITHMS.map(|a| (k, a))).filter(|(k, a)| does(*a, *k)) {
            let c = Collective { kind, algorithm, parts: parts.clone(), nodes: nodes.clone(), pieces: 2 };
            let even = |c: &Collective| {
                let count = |x: usize| c.nodes.iter().filter(|n| **n == x).count();
                c.nodes.iter().all(|x| count(*x) == count(c.nodes[0]))
            };
            let refused = algorithm == Algorithm::Hierarchical && matches!(kind, Kind::AllGather | Kind::ReduceScatter) && !even(&c);
            if refused { prop_assert!(c.rounds().is_err()) } else { check(&c) }
        }
    }

    #[test]
    fn all_to_all_takes_any_counts(counts in proptest::collection::vec(0usize..5, 16)) {
        let counts: Vec<Vec<usize>> = counts.chunks(4).map(<[usize]>::to_vec).collect();
        let inputs: Vec<Vec<i64>> = (0..4i64).map(|r| (0..counts[r as usize].iter().sum::<usize>() as i64).map(|k| r * 100 + k).collect()).collect();
        let outputs = (0..4).map(|to| vec![-1; counts.iter().map(|row| row[to]).sum()]).collect();
        let got = execute(&all_to_all(&counts), &inputs, Some(outputs));
        for (to, out) in got.iter().enumerate() {
            let want: Vec<i64> = (0..4).flat_map(|from| inputs[from][ranges(&counts[from])[to].clone()].to_vec()).collect();
            prop_assert_eq!(out, &want);
        }
    }
}

/// Elements on links against closed formulas. Ring all-reduce 2(n−1)/n · S, ring all-gather and reduce-scatter (n−1)/n · S,
/// broadcast S, all-to-all (n−1)/n · S: github NVIDIA/nccl-tests doc/PERFORMANCE.md. In-switch all-reduce (n+1)/n · S: the
/// same, and NCCL issue 2140. Halving-doubling 2(n−1)/n · S: Thakur, Rabenseifner, Gropp 2005. Rounds: 2(n−1), n−1, 2 log₂ n.
#[test]
fn bytes_on_links_equal_the_closed_formulas() {
    for n in 2usize..=9 {
        let s = 840 * n;
        let count = |kind, algorithm| {
            let rounds = Collective::even(kind, algorithm, n, s).rounds().unwrap();
            (rounds.len(), sent(&rounds, n + 1))
        };
        let each = |kind, algorithm, rounds: usize, elements: usize| {
            let (r, sent) = count(kind, algorithm);
            assert_eq!((r, &sent[..n]), (rounds, &vec![elements; n][..]), "{kind:?} {algorithm:?} on {n}");
        };
        each(Kind::AllReduce, Algorithm::Ring, 2 * (n - 1), 2 * (n - 1) * s / n);
        each(Kind::AllGather, Algorithm::Ring, n - 1, (n - 1) * s / n);
        each(Kind::ReduceScatter, Algorithm::Ring, n - 1, (n - 1) * s / n);
        each(Kind::AllReduce, Algorithm::Direct, 2, 2 * (n - 1) * s / n);
        each(Kind::AllToAll, Algorithm::Direct, n, (n - 1) * s / n);
        each(Kind::AllReduce, Algorithm::InSwitch, 4, (n + 1) * s / n);
        if n.is_power_of_two() {
            let log = n.trailing_zeros() as usize;
            each(Kind::AllReduce, Algorithm::HalvingDoubling, 2 * log, 2 * (n - 1) * s / n);
            each(Kind::AllGather, Algorithm::HalvingDoubling, log, (n - 1) * s / n);
            each(Kind::ReduceScatter, Algorithm::HalvingDoubling, log, (n - 1) * s / n);
        }
        // A tree has n − 1 edges, each carries every element up and down once: 2(n−1)/n · S on average.
        let (rounds, sent) = count(Kind::AllReduce, Algorithm::Tree);
        assert_eq!(sent.iter().sum::<usize>(), 2 * (n - 1) * s);
        assert!(
            sent.iter().all(|x| *x <= 2 * s) && rounds <= 2 * (n.ilog2() as usize + 1),
            "tree on {n}: {rounds} rounds, {sent:?}"
        );
        let chain = Collective::even(Kind::Broadcast { root: 0 }, Algorithm::Ring, n, s).rounds().unwrap();
        assert_eq!(
            (chain.len(), warpweft::topology::collective::sent(&chain, n)),
            (2 * n - 2, [vec![s; n - 1], vec![0]].concat())
        );
    }
}

/// 2(g−1)/g · S within nodes and 2(k−1)/k · S/g between them: github stas00/ml-engineering network/README.md.
#[test]
fn over_nodes_each_rank_sends_a_share_between_nodes() {
    for (g, k) in [(2usize, 2usize), (4, 2), (8, 4), (3, 5)] {
        let (n, s) = (g * k, 120 * g * k);
        let nodes: Vec<usize> = (0..n).map(|r| r / g).collect();
        let rounds =
            Collective { nodes: nodes.clone(), ..Collective::even(Kind::AllReduce, Algorithm::Hierarchical, n, s) }
                .rounds()
                .unwrap();
        let within = |near: bool| {
            let some: Vec<Round> = rounds
                .iter()
                .map(|r| r.iter().filter(|m| (nodes[m.from] == nodes[m.to]) == near).cloned().collect())
                .collect();
            sent(&some, n)
        };
        assert_eq!(within(true), vec![2 * (g - 1) * s / g; n]);
        assert_eq!(within(false), vec![2 * (k - 1) * (s / g) / k; n]);
    }
}

#[test]
fn parts_cover_and_differ_by_one_at_most() {
    for (elements, parts) in [(9, 2), (576, 5), (3, 7), (0, 3)] {
        let all: Vec<_> = (0..parts).map(|i| part(elements, parts, i)).collect();
        assert_eq!(all.iter().flat_map(|r| r.clone()).collect::<Vec<_>>(), (0..elements).collect::<Vec<_>>());
        assert!(all.iter().all(|r| r.len().abs_diff(elements / parts) <= 1));
    }
}

#[test]
fn a_collective_that_cannot_be_is_refused() {
    let told = [
        refusal(Collective::even(Kind::AllToAll, Algorithm::Ring, 4, 8).rounds()),
        refusal(Collective::even(Kind::AllGather, Algorithm::Tree, 4, 8).rounds()),
        refusal(Collective::even(Kind::AllReduce, Algorithm::Ring, 0, 8).rounds()),
        refusal(Collective::even(Kind::Broadcast { root: 4 }, Algorithm::Ring, 4, 8).rounds()),
        refusal(Collective::even(Kind::SendRecv { from: 1, to: 9 }, Algorithm::Direct, 4, 8).rounds()),
        refusal(Collective { nodes: vec![0, 1], ..Collective::even(Kind::AllReduce, Algorithm::Ring, 4, 8) }.rounds()),
        refusal(
            Collective { nodes: vec![0, 0, 1], ..Collective::even(Kind::AllGather, Algorithm::Hierarchical, 3, 8) }
                .rounds(),
        ),
        refusal("rings".parse::<Algorithm>()),
    ];
    insta::assert_snapshot!(told.join("\n"), @r#"
    all-to-all cannot be done by ring: algorithms for it are direct
    all-gather cannot be done by tree: algorithms for it are ring, halving-doubling, in-switch, hierarchical, direct
    all-reduce: there are no ranks
    broadcast: root 4 is no rank, there are 4
    send/recv: receiver 9 is no rank, there are 4
    all-reduce: nodes are given for 2 ranks, there are 4
    all-gather over nodes needs nodes of one size, here one has 2 ranks and one 1: take ring or direct
    there is no collective algorithm "rings": there are ring, halving-doubling, tree, in-switch, hierarchical, direct
    "#);
}

#[test]
fn shipped_machines_say_what_their_devices_see() {
    let mut told = vec![];
    for (name, _) in topology::SHIPPED {
        let one = topology::shipped(name).unwrap();
        let two = one.with_nodes(one.nodes * 2).unwrap();
        for level in two.levels() {
            let w = &level.way;
            told.push(format!(
                "{name}: {} devices, {}, {}, {}{}",
                level.devices,
                w.kind,
                w.bandwidth,
                w.latency,
                if w.reduction { ", sums" } else { "" }
            ));
        }
        assert!(one.device_groups().all(|(_, d)| !d.source.is_empty() && d.peak(Precision::Fp16).is_some()), "{name}");
    }
    insta::assert_snapshot!(told.join("\n"), @r#"
    dgx1-v100: 8 devices, NVLink 2, 150 GB/s, 600 ns
    dgx1-v100: 16 devices, PCIe 3 x16, 6 GB/s, 4.7 µs
    dgx-v100: 16 devices, NVLink 2, 150 GB/s, 600 ns
    dgx-v100: 32 devices, PCIe 3 x16, 6 GB/s, 4.7 µs
    dgx-a100: 8 devices, NVLink 3, 300 GB/s, 600 ns
    dgx-a100: 16 devices, InfiniBand HDR, 25 GB/s, 4.7 µs
    dgx-a100-40gb: 8 devices, NVLink 3, 300 GB/s, 600 ns
    dgx-a100-40gb: 16 devices, InfiniBand HDR, 25 GB/s, 4.7 µs
    dgx-h100: 8 devices, NVLink 4, 450 GB/s, 600 ns, sums
    dgx-h100: 16 devices, InfiniBand NDR, 50 GB/s, 4.7 µs
    h100-hbm2e: 8 devices, NVLink 4, 450 GB/s, 600 ns, sums
    h100-hbm2e: 16 devices, InfiniBand NDR, 50 GB/s, 4.7 µs
    dgx-h200: 8 devices, NVLink 4, 450 GB/s, 600 ns, sums
    dgx-h200: 16 devices, InfiniBand NDR, 50 GB/s, 4.7 µs
    h20-8: 8 devices, NVLink 4, 450 GB/s, 600 ns, sums
    h20-8: 16 devices, InfiniBand NDR, 50 GB/s, 4.7 µs
    gh200: 2 devices, InfiniBand NDR, 50 GB/s, 4.3 µs
    dgx-b200: 8 devices, NVLink 5, 900 GB/s, 600 ns, sums
    dgx-b200: 16 devices, InfiniBand NDR, 50 GB/s, 4.7 µs
    dgx-b300: 8 devices, NVLink 5, 900 GB/s, 600 ns, sums
    dgx-b300: 16 devices, InfiniBand XDR, 100 GB/s, 4.7 µs
    gb200-nvl72: 72 devices, NVLink 5, 900 GB/s, 600 ns, sums
    gb200-nvl72: 144 devices, InfiniBand NDR, 50 GB/s, 4.3 µs
    gb300-nvl72: 72 devices, NVLink 5, 900 GB/s, 600 ns, sums
    gb300-nvl72: 144 devices, InfiniBand XDR, 100 GB/s, 4.3 µs
    mi300x-8: 8 devices, XGMI, 448 GB/s, 600 ns
    mi300x-8: 16 devices, InfiniBand NDR, 50 GB/s, 4.7 µs
    mi355x-8: 8 devices, XGMI, 536 GB/s, 600 ns
    mi355x-8: 16 devices, InfiniBand NDR, 50 GB/s, 4.7 µs
    l40s-8: 8 devices, PCIe 4 x16, 31 GB/s, 2.5 µs
    l40s-8: 16 devices, Ethernet 100G, 1.56 GB/s, 6.7 µs
    rtx-pro-6000-8: 8 devices, PCIe 5 x16, 63 GB/s, 2.5 µs
    rtx-pro-6000-8: 16 devices, Ethernet 100G, 1.56 GB/s, 6.7 µs
    dgx-spark: 2 devices, Ethernet 200G, 25 GB/s, 11.6 µs
    pcie-8: 8 devices, PCIe 4 x16, 31 GB/s, 2.5 µs
    pcie-8: 16 devices, Ethernet 100G, 1.56 GB/s, 6.7 µs
    laptops-2: 4 devices, Ethernet 1G, 125 MB/s, 54 µs
    "#);
}

#[test]
fn direct_wires_count_only_where_they_lead() {
    let v100 = topology::shipped("dgx1-v100").unwrap();
    let gigabytes = |devices: &[usize]| v100.within(devices).unwrap().bandwidth.0 / 1e9;
    assert_eq!(
        [gigabytes(&[0, 1]), gigabytes(&[0, 3]), gigabytes(&[0, 1, 2, 3]), gigabytes(&[0, 1, 2, 3, 4, 5, 6, 7])],
        [25.0, 50.0, 100.0, 150.0]
    );
    // No wire between 0 and 7: over PCIe and the hosts, which do not meet in this machine.
    assert!(v100.within(&[0, 7]).is_none_or(|w| w.kind.starts_with("PCIe")));
    let a100 = topology::shipped("dgx-a100").unwrap();
    assert_eq!(a100.within(&[0, 1]).unwrap().bandwidth.0, 300e9);
    assert_eq!([1, 8, 9, 16, 1024].map(|n| a100.with_devices(n).unwrap().nodes), [1, 1, 2, 2, 128]);
}

#[test]
fn a_machine_is_drawn() {
    let t = topology::shipped("pcie-8").unwrap();
    insta::assert_snapshot!(t.to_text(), @r#"
    pcie-8: 8 A100 PCIe 80GB on two PCIe switches, one 100 Gb/s NIC
    1 node, 8 devices

    8 gpu a node: NVIDIA A100 PCIe 80GB
        memory    80 GiB at 1.94 TB/s
        peak      fp32 19.5 T, tf32 156 T, fp16 312 T, bf16 312 T, int8 624 T operations per second, dense
        power     45 W idle, limit 300 W
        source    github stas00/ml-engineering@744d01e18b79 compute/accelerator/README.md and network/README.md

    fabric (switch, all nodes')
    └─ Ethernet 100G, 12.5 GB/s ─ nic (NIC)
       └─ PCIe 4 x16, 31 GB/s ─ cpu × 2 (host)
          ├─ PCIe 4 x16, 31 GB/s ─ pcie × 2 (switch)
          │  └─ PCIe 4 x16, 31 GB/s ─ gpu × 8 (device)
          └─ UPI, 31 GB/s ─ among themselves

    among      8 devices    31 GB/s a device and direction,  2.5 µs, over PCIe 4 x16
    "#);
    for (name, _) in topology::SHIPPED {
        let t = topology::shipped(name).unwrap().with_nodes(3).unwrap();
        let svg = t.to_svg();
        assert!(
            svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"),
            "{name}"
        );
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert!(t.groups.iter().all(|g| svg.contains(&g.name)), "{name}: a part is missing");
    }
}

const SMALL: &str = r#"name = "small"
[devices.gpu]
count = 4
memory = "16GiB"
bandwidth = "1TB/s"
idle = "30W"
limit = "300W"
peak = { fp16 = "100TFLOP/s" }
[switches.hub]
[switches.top]
[[links]]
from = "gpu"
to = "hub"
kind = "NVLink"
bandwidth = "100GB/s"
latency = "1us"
[[links]]
from = "hub"
to = "top"
kind = "PCIe"
bandwidth = "10GB/s"
latency = "1us"
"#;

#[test]
fn a_bad_machine_file_is_refused_with_file_line_and_numbers() {
    assert!(topology::read("small.toml", SMALL).is_ok());
    let changes: &[(&str, &str)] = &[
        ("bandwidth = \"100GB/s\"", "bandwidth = \"0GB/s\""),
        ("bandwidth = \"100GB/s\"", "bandwidth = \"-3GB/s\""),
        ("bandwidth = \"100GB/s\"", "bandwidth = \"100GB\""),
        ("bandwidth = \"100GB/s\"", "bandwidth = \"100furlongs\""),
        ("bandwidth = \"100GB/s\"", "bandwidth = 100"),
        ("bandwidth = \"1TB/s\"", "bandwidth = \"0B/s\""),
        ("memory = \"16GiB\"", "memory = \"16GiB\"\nmemmory = \"1GiB\""),
        ("memory = \"16GiB\"\n", ""),
        ("memory = \"16GiB\"", "memory = \"16GiB\"\nmemory = \"1GiB\""),
        ("[switches.top]", "[switches.hub]"),
        ("[switches.top]", "[hosts.hub]"),
        ("from = \"gpu\"\nto = \"hub\"", "from = \"gpu\"\nto = \"hubb\""),
        ("from = \"gpu\"\nto = \"hub\"", "from = \"gpu0\"\nto = \"hub\""),
        ("from = \"hub\"\nto = \"top\"", "from = \"hub\"\nto = \"hub\""),
        ("from = \"hub\"\nto = \"top\"", "from = \"hub\"\nto = \"gpu\""),
        ("[switches.hub]", "[switches.hub]\ncount = 3"),
        (
            "[switches.top]",
            "[switches.top]\n[switches.mid]\n[[links]]\nfrom = \"mid\"\nto = \"top\"\nkind = \"x\"\nbandwidth = \"1GB/s\"\nlatency = \"1us\"\n[[links]]\nfrom = \"mid\"\nto = \"hub\"\nkind = \"x\"\nbandwidth = \"1GB/s\"\nlatency = \"1us\"",
        ),
        ("idle = \"30W\"", "idle = \"301W\""),
        ("count = 4", "count = 0"),
        ("count = 4", "count = 99999"),
        ("name = \"small\"", "name = \"small\"\nnodes = 0"),
        ("name = \"small\"", "name = \"small\"\nnodes = 2"),
        ("[switches.top]", "[switches.top]\nscope = \"rack\""),
        ("peak = { fp16 = \"100TFLOP/s\" }", "peak = { fp17 = \"100TFLOP/s\" }"),
        ("peak = { fp16 = \"100TFLOP/s\" }", "peak = {}"),
        ("name = \"small\"", "name = "),
    ];
    let mut told = vec![];
    for (from, to) in changes {
        let text = SMALL.replacen(from, to, 1);
        assert_ne!(text, SMALL, "{from}");
        told.push(topology::read("small.toml", &text).map_or_else(|e| e.to_string(), |_| format!("{to}: was taken")));
    }
    told.push(topology::read("none.toml", "name = \"none\"\n").unwrap_err().to_string());
    told.push(topology::shipped("dgx-z").unwrap_err().to_string());
    told.push(topology::shipped("dgx-a100").unwrap().with_nodes(0).unwrap_err().to_string());
    insta::assert_snapshot!(told.join("\n"), @r#"
    small.toml:11: link gpu – hub: bandwidth is 0 B/s, must be above zero
    small.toml:11: link gpu – hub: bandwidth is -3 GB/s, must be above zero
    small.toml:15: "100GB" is an amount of bytes; expected bytes per second, such as 3.35TB/s (units: B/s, kB/s, MB/s, GB/s, TB/s, MiB/s, GiB/s, b/s, kb/s, Mb/s, Gb/s, Tb/s)
    small.toml:15: "100furlongs" has the unknown unit furlongs; expected bytes per second, such as 3.35TB/s (units: B/s, kB/s, MB/s, GB/s, TB/s, MiB/s, GiB/s, b/s, kb/s, Mb/s, Gb/s, Tb/s)
    small.toml:15: invalid type: integer `100`, expected bytes per second as text with its unit, such as "3.35TB/s"
    small.toml:2: device gpu: bandwidth is 0 B/s, must be above zero
    small.toml:5: unknown field `memmory`, expected one of `count`, `title`, `peak`, `memory`, `bandwidth`, `idle`, `limit`, `price`, `constants`, `source`
    small.toml:2: missing field `memory`
    small.toml:5: duplicate key
    small.toml:10: duplicate key
    small.toml:10: there are two parts named "hub", the other is on line 9
    small.toml:11: link gpu – hubb: there is no part "hubb": there are gpu, hub, top
    small.toml:2: gpu1 cannot be reached from gpu0: no link leads there
    small.toml:17: link hub – hub: is a loop, hub is one part
    small.toml:17: link hub – gpu is given twice, first on line 11: say lanes instead
    small.toml:12: link gpu – hub: 4 gpu and 3 hub do not divide
    small.toml:30: a loop: hub and top are already connected through other switches
    small.toml:2: device gpu: idle is 301 W, must be from 0 to the limit of 300 W
    small.toml:2: gpu: count is 0, must be 1 to 256
    small.toml:2: gpu: count is 99999, must be 1 to 256
    small.toml:2: nodes is 0, must be 1 to 1000000
    small.toml:3: gpu0 of node 1 cannot be reached from gpu0 of node 0: no link leads there
    small.toml:10: top: scope is rack, but the machine has no nodes_per_rack
    small.toml:8: unknown field `fp17`, expected one of `fp64`, `fp32`, `tf32`, `fp16`, `bf16`, `fp8`, `int8`, `fp4`
    small.toml:2: device gpu: peak names no rate, such as fp16 = "312TFLOP/s"
    small.toml:1: string values must be quoted, expected literal string
    none.toml:1: machine "none" has no devices: it needs a [devices.NAME] section
    there is no machine "dgx-z": there are dgx1-v100, dgx-v100, dgx-a100, dgx-a100-40gb, dgx-h100, h100-hbm2e, dgx-h200, h20-8, gh200, dgx-b200, dgx-b300, gb200-nvl72, gb300-nvl72, mi300x-8, mi355x-8, l40s-8, rtx-pro-6000-8, dgx-spark, pcie-8, laptops-2, browser-tab, or give a .toml file
    dgx-a100: 0 nodes, must be 1 to 1000000
    "#);
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(cut in 0usize..SMALL.len(), put in "[ -~\\n]{0,12}") {
        let mut text = SMALL.to_string();
        text.insert_str(cut, &put);
        if let Ok(t) = topology::read("small.toml", &text) {
            prop_assert!(!t.to_svg().contains("NaN") && !t.to_text().is_empty());
        }
    }
}
