//! The plan verifier sees what it is there for: plans that were right, each made wrong in one place.

use warpweft::base::{AdapterKind, Caps, DType, Dim, Expr, Var};
use warpweft::graph::{Graph, GraphBuilder};
use warpweft::op::Attention;
use warpweft::plan::{Options, Param, Plan, plan, verify};

/// A decoder's layer in small, with a variable number of rows and keys.
fn layer() -> Graph {
    let (rows, total) = (Var::new("rows", 40), Var::new("total", 96));
    let past = Dim::from(total) - Dim::from(rows);
    let g = GraphBuilder::new();
    let x = g.input("x", DType::F32, vec![rows.into(), 64.into()]);
    let w = |name: &str, dtype, n: usize| g.weight(name, dtype, [n, 64]);
    let ones = g.data("ones", [64], vec![1.0; 64]);
    let h = x.rms_norm(ones, 1e-5);
    let cache =
        g.state("cache", DType::F32, [96, 64]).append(h.matmul_t(w("k", DType::Q8_0, 64)), past).slice(0, 0, total);
    let keys = cache.reshape(vec![1.into(), total.into(), 4.into(), 16.into()]);
    let q = h.matmul_t(w("q", DType::Q4_0, 64)).reshape(vec![1.into(), rows.into(), 4.into(), 16.into()]);
    let a = q.attention(keys, keys, None, Attention { causal: Some(past), ..Attention::scaled(0.25) });
    let y = a.reshape(vec![rows.into(), 64.into()]).matmul_t(w("o", DType::F32, 64)) + x;
    g.output("y", y.softmax());
    g.output("sum", y.sum(&[1]));
    g.finish().unwrap()
}

fn caps(kind: AdapterKind) -> Caps {
    Caps { kind, ..Caps::FLOOR }
}

fn made(kind: AdapterKind) -> Plan {
    plan(&layer(), &caps(kind), &Options::for_caps(&caps(kind))).unwrap()
}

/// Whether the verifier refuses the plan after this change, for each dispatch that it can be made to.
fn refused(kind: AdapterKind, change: impl Fn(&mut Plan, usize) -> bool) -> (usize, usize) {
    let (mut tried, mut seen) = (0, 0);
    for i in 0..made(kind).dispatches.len() {
        let mut plan = made(kind);
        if change(&mut plan, i) {
            tried += 1;
            seen += verify(&plan, &caps(kind)).is_err() as usize;
        }
    }
    (tried, seen)
}

#[test]
fn plans_as_they_are_hold() {
    for kind in [AdapterKind::Discrete, AdapterKind::Software] {
        verify(&made(kind), &caps(kind)).unwrap();
    }
}

#[test]
fn each_mistake_is_seen_wherever_it_is_made() {
    let kind = AdapterKind::Discrete;
    let all =
        |what: &str, (tried, seen): (usize, usize)| assert!(tried > 2 && tried == seen, "{what}: {seen} of {tried}");
    all(
        "an argument beyond its buffer",
        refused(kind, |p, i| {
            p.dispatches[i].args[0].bytes += 1 << 20;
            !p.buffer(p.dispatches[i].args[0].buffer).texels
        }),
    );
    all(
        "a binding at an odd place",
        refused(kind, |p, i| {
            let a = &mut p.dispatches[i].args[0];
            (a.offset, a.bytes) = (4, a.bytes.saturating_sub(4));
            true
        }),
    );
    all(
        "a result over an operand",
        refused(kind, |p, i| {
            let args = &mut p.dispatches[i].args;
            let to = args.iter().position(|a| a.write).unwrap();
            let from = args.iter().position(|a| !a.write).unwrap();
            args[to].buffer = args[from].buffer;
            (args[to].offset, args[to].bytes) = (args[from].offset, args[from].bytes);
            true
        }),
    );
    all(
        "too many workgroups",
        refused(kind, |p, i| {
            p.dispatches[i].grid[2].n = Expr::new(1 << 20);
            true
        }),
    );
}

#[test]
fn numbers_that_reach_too_far_are_seen() {
    let kind = AdapterKind::Discrete;
    let longer = |name: &'static str| {
        move |p: &mut Plan, i: usize| {
            let known = ["softmax", "rms_norm", "reduce", "attention_tiles", "attention_merge", "matmul_sum"];
            let kernel = p.kernels[p.dispatches[i].kernel].name();
            let Some((_, Param::U(e))) = p.dispatches[i].params.iter_mut().find(|q| q.0 == name) else { return false };
            *e = e.clone() + Expr::new(1000);
            known.contains(&kernel)
        }
    };
    for name in ["rows", "cols", "x0", "y0", "keys", "q0", "n", "count"] {
        let (tried, seen) = refused(kind, longer(name));
        assert!(tried == seen, "{name}: {seen} of {tried}");
    }
    let (tried, _) = refused(kind, longer("rows"));
    assert!(tried >= 2);
}

#[test]
fn loops_that_a_software_adapter_would_end_are_seen() {
    let grown = |p: &mut Plan, i: usize| {
        let mut any = false;
        for (name, param) in &mut p.dispatches[i].params {
            if let (true, Param::U(e)) = (["cols", "keys", "k", "len"].contains(&name.as_str()), param) {
                *e = Expr::new(10_000_000);
                any = true;
            }
        }
        any
    };
    let (tried, seen) = refused(AdapterKind::Software, grown);
    assert!(tried >= 4 && tried == seen, "{seen} of {tried}");
}
