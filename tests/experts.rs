//! Expert parallel: a mixture of experts written in ordinary ops, its experts spread over ranks, its tokens sent to them and
//! back by all-to-alls. The layer is the Switch Transformer's (Fedus et al., 2021): the best expert a token, each with room
//! for so many tokens of a group; what does not fit is dropped.

mod common;

use common::{Found, device};
use pollster::block_on;
use std::collections::HashMap;
use warpweft::base::{Array, Bindings, DType, MeshAxis, Placement, Result};
use warpweft::device::cluster::{RankPlan, Watch};
use warpweft::device::{Cluster, Nobody, Store};
use warpweft::graph::{Graph, GraphBuilder, Source, Tensor};
use warpweft::plan::shard::{Sharded, shard};
use warpweft::plan::{Options, Policy, plan};
use warpweft::reference::sample::Random;
use warpweft::reference::{Interpreter, Ranks};

/// Groups of tokens, tokens of a group, experts, tokens that an expert takes of a group, width and inner width.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    groups: usize,
    tokens: usize,
    experts: usize,
    room: usize,
    width: usize,
    inner: usize,
}

const SIZES: Sizes = Sizes { groups: 4, tokens: 7, experts: 5, room: 2, width: 16, inner: 24 };

/// Ones where a token of `[groups, tokens]` goes to a place of an expert: `[groups, tokens, experts, room]`.
fn dispatch<'a>(g: &'a GraphBuilder, expert: Tensor<'a>, s: Sizes) -> Tensor<'a> {
    let chosen =
        g.iota(DType::U32, [1, 1, s.experts], 2, 0).eq(expert.reshape([s.groups, s.tokens, 1])).cast(DType::F32);
    // How many earlier tokens of the group chose the same expert.
    let earlier = g
        .iota(DType::I32, [s.tokens, s.tokens], 1, 0)
        .lt(g.iota(DType::I32, [s.tokens, s.tokens], 0, 0))
        .cast(DType::F32);
    let before = earlier.reshape([1, s.tokens, s.tokens]).matmul(chosen);
    let place = g.iota(DType::F32, [1, 1, 1, s.room], 3, 0);
    let at = before.reshape([s.groups, s.tokens, s.experts, 1]).eq(place).cast(DType::F32);
    chosen.reshape([s.groups, s.tokens, s.experts, 1]).mul(at)
}

/// Tokens `[groups, tokens, width]` through the experts, groups and experts spread over the ranks of `ep`.
fn mixture(s: Sizes) -> Result<Graph> {
    let g = GraphBuilder::new();
    let split = |axis| Placement::Split(axis);
    let x = g.input("x", DType::F32, [s.groups, s.tokens, s.width]).place(MeshAxis::Expert, split(0));
    let router = g.weight("router", DType::F32, [s.width, s.experts]);
    let up = g.weight("up", DType::F32, [s.experts, s.width, s.inner]).place(MeshAxis::Expert, split(0));
    let down = g.weight("down", DType::F32, [s.experts, s.inner, s.width]).place(MeshAxis::Expert, split(0));
    let share = x.matmul(router).softmax();
    let send = dispatch(&g, share.argmax(2), s);
    let (places, all) = (s.experts * s.room, s.groups * s.room);
    let sent = send.reshape([s.groups, s.tokens, places]).transpose(&[0, 2, 1]).matmul(x);
    // From groups to experts, and back.
    let to =
        sent.reshape([s.groups, s.experts, s.room, s.width]).transpose(&[1, 0, 2, 3]).place(MeshAxis::Expert, split(0));
    let y = to.reshape([s.experts, all, s.width]).matmul(up).relu().matmul(down);
    let back = y.reshape([s.experts, s.groups, s.room, s.width]).place(MeshAxis::Expert, split(1));
    let back = back.transpose(&[1, 0, 2, 3]).reshape([s.groups, places, s.width]);
    let combine = send.mul(share.reshape([s.groups, s.tokens, s.experts, 1])).reshape([s.groups, s.tokens, places]);
    g.output("y", combine.matmul(back));
    g.finish()
}

fn random(r: &mut Random, shape: &[usize]) -> Array {
    let n: usize = shape.iter().product();
    Array::f32(shape, &(0..n).map(|_| r.normal() as f32).collect::<Vec<_>>())
}

fn weights(s: Sizes) -> HashMap<String, Array> {
    let mut r = Random::new(11);
    let all = [
        ("router", vec![s.width, s.experts]),
        ("up", vec![s.experts, s.width, s.inner]),
        ("down", vec![s.experts, s.inner, s.width]),
    ];
    all.into_iter().map(|(name, shape)| (name.to_string(), random(&mut r, &shape))).collect()
}

/// The same by loops over tokens, in f64.
fn by_hand(s: Sizes, x: &[f32], w: &HashMap<String, Array>) -> Vec<f64> {
    let of = |name: &str| w[name].to_f32().into_iter().map(f64::from).collect::<Vec<_>>();
    let (router, up, down) = (of("router"), of("up"), of("down"));
    let mut out = vec![0.0; x.len()];
    for group in 0..s.groups {
        let mut taken = vec![0; s.experts];
        for t in 0..s.tokens {
            let at = (group * s.tokens + t) * s.width;
            let token: Vec<f64> = x[at..at + s.width].iter().map(|v| *v as f64).collect();
            let score: Vec<f64> =
                (0..s.experts).map(|e| (0..s.width).map(|i| token[i] * router[i * s.experts + e]).sum()).collect();
            let e = (0..s.experts).fold(0, |best, e| if score[e] > score[best] { e } else { best });
            taken[e] += 1;
            if taken[e] > s.room {
                continue;
            }
            let share = 1.0 / score.iter().map(|v| (v - score[e]).exp()).sum::<f64>();
            for j in 0..s.inner {
                let h: f64 = (0..s.width).map(|i| token[i] * up[(e * s.width + i) * s.inner + j]).sum();
                (0..s.width).for_each(|i| out[at + i] += share * h.max(0.0) * down[(e * s.inner + j) * s.width + i]);
            }
        }
    }
    out
}

fn close(got: &[f64], want: &[f64], bound: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= bound * (1.0 + w.abs()), "{what}: element {i} is {g}, {w} is right");
    }
}

fn parts<'a>(sharded: &Sharded, x: &Array) -> Vec<Option<(Bindings, Vec<(&'a str, Array)>)>> {
    let none = Bindings::new();
    let one = |r| Some((sharded.bindings(r, &none).unwrap(), sharded.inputs(r, &none, &[("x", x.clone())]).unwrap()));
    (0..sharded.ranks()).map(one).collect()
}

/// Elements of all weights of a rank.
fn held(graph: &Graph) -> u64 {
    let weights = graph.nodes.iter().filter(|n| matches!(n.source, Source::Weight { .. }));
    weights.map(|n| n.ty.shape.count().bound()).sum()
}

#[test]
fn experts_on_ranks_of_their_own_answer_as_all_on_one() {
    let graph = mixture(SIZES).unwrap();
    let weights = weights(SIZES);
    let x = random(&mut Random::new(5), &[SIZES.groups, SIZES.tokens, SIZES.width]);
    let whole = Interpreter::<f64>::new(&graph, &weights)
        .unwrap()
        .step_values(&Bindings::new(), &[("x", x.clone())])
        .unwrap()
        .remove(0)
        .1;
    close(&whole, &by_hand(SIZES, &x.to_f32(), &weights), 1e-9, "whole against loops");
    for n in [2, 3, 4] {
        let sharded = shard(&graph, &[(MeshAxis::Expert, n)]).unwrap();
        let explained = sharded.explain();
        assert_eq!(explained.matches("all_to_all over ep").count(), 2, "there and back\n{explained}");
        // Each rank holds the router and its own experts.
        for rank in 0..n {
            let mine = SIZES.experts / n + usize::from(rank < SIZES.experts % n);
            assert_eq!(
                held(&sharded.class(rank).graph),
                (SIZES.width * SIZES.experts + mine * 2 * SIZES.width * SIZES.inner) as u64,
                "rank {rank} of {n}"
            );
        }
        let graphs: Vec<&Graph> = (0..n).map(|r| &sharded.class(r).graph).collect();
        let mut ranks = Ranks::<f64>::new(&graphs, &sharded.seats, &weights).unwrap();
        for outputs in ranks.step_values(&parts(&sharded, &x)).unwrap() {
            close(&outputs[0].1, &whole, 1e-12, &format!("reference, ep={n}"));
        }
    }
}

#[test]
fn experts_on_virtual_devices_answer_as_the_reference_does() {
    let Found::Device(gpu) = device(None) else { return };
    let graph = mixture(SIZES).unwrap();
    let weights = weights(SIZES);
    let x = random(&mut Random::new(5), &[SIZES.groups, SIZES.tokens, SIZES.width]);
    let want = by_hand(SIZES, &x.to_f32(), &weights);
    for n in [2, 3, 4] {
        let sharded = shard(&graph, &[(MeshAxis::Expert, n)]).unwrap();
        let options = Options::for_caps(gpu.caps());
        let plans = (0..n).map(|rank| RankPlan {
            rank,
            plan: plan(&sharded.class(rank).graph, gpu.caps(), &options).unwrap(),
            largest: Bindings::new(),
        });
        let mut stores: Vec<Store> = sharded.seats.iter().map(|s| Store::at(gpu.clone(), s.clone())).collect();
        let mut cluster = block_on(Cluster::load(
            sharded.seats.clone(),
            plans.collect(),
            &mut stores,
            &weights,
            Policy::default(),
            &mut |_, _| {},
        ))
        .unwrap();
        let readers: Vec<usize> = (0..n).collect();
        let got = block_on(cluster.step(&parts(&sharded, &x), (&readers, &["y"]), &mut Nobody, &mut Watch::counting()))
            .unwrap();
        for outputs in got {
            let y: Vec<f64> = outputs[0].to_f32().into_iter().map(f64::from).collect();
            close(&y, &want, 1e-4, &format!("virtual devices, ep={n}"));
        }
    }
}
