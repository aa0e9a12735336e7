//! Collectives over nodes: links within a node are fast, links between nodes are shared.

use super::{Kind, Round, part, ring, send, side_by_side, tree};
use crate::base::{Error, Result};
use std::ops::Range;

/// Reduce-scatter within nodes, all-reduce of each shard between nodes, all-gather within nodes (rings). There are as many
/// shards as the smallest node has ranks; ranks beyond that fold into a neighbour first and are told at the end.
pub fn all_reduce(nodes: &[Vec<usize>], elements: usize) -> Vec<Round> {
    let shards = nodes.iter().map(Vec::len).min().unwrap_or(0);
    let all = 0..elements;
    // An owner minds as many spare ranks as it must, one a round.
    let spare = |into: bool| -> Vec<Round> {
        let of_node = |node: &Vec<usize>| {
            let pairs = node[shards..]
                .chunks(shards)
                .map(|some| some.iter().zip(node).map(|(r, owner)| (*r, *owner)).collect::<Vec<_>>());
            let message = |(r, owner)| if into { send(r, owner, &all, true) } else { send(owner, r, &all, false) };
            pairs.map(|round| round.into_iter().filter_map(message).collect()).collect()
        };
        side_by_side(nodes.iter().map(of_node).collect())
    };
    let owners: Vec<&[usize]> = nodes.iter().map(|n| &n[..shards]).collect();
    let bundles: Vec<Vec<Range<usize>>> = (0..shards).map(|s| vec![part(elements, shards, s)]).collect();
    let between = (0..shards).map(|s| {
        let (group, shard) = (owners.iter().map(|o| o[s]).collect::<Vec<_>>(), &bundles[s][0]);
        let within = |k: usize| part(shard.len(), nodes.len(), k);
        let pieces: Vec<Vec<Range<usize>>> =
            (0..nodes.len()).map(|k| vec![shard.start + within(k).start..shard.start + within(k).end]).collect();
        [ring::reduce_scatter(&group, &pieces), ring::all_gather(&group, &pieces)].concat()
    });
    let each = |f: fn(&[usize], &[Vec<Range<usize>>]) -> Vec<Round>| {
        side_by_side(owners.iter().map(|o| f(o, &bundles)).collect())
    };
    [spare(true), each(ring::reduce_scatter), side_by_side(between.collect()), each(ring::all_gather), spare(false)]
        .concat()
}

/// All-gather: first between ranks of the same place in their nodes, then within nodes; reduce-scatter the other way round.
/// Only for nodes of one size.
pub fn scattered(kind: Kind, nodes: &[Vec<usize>], ranges: &[Range<usize>]) -> Result<Vec<Round>> {
    let size = nodes.first().map_or(0, Vec::len);
    if let Some(other) = nodes.iter().find(|n| n.len() != size) {
        return Err(Error::usage(format!(
            "{} over nodes needs nodes of one size, here one has {size} ranks and one {}: take ring or direct",
            kind.name(),
            other.len()
        )));
    }
    let place = |i: usize| nodes.iter().map(|n| n[i]).collect::<Vec<_>>();
    let bundles: Vec<Vec<Range<usize>>> =
        (0..size).map(|i| place(i).iter().map(|r| ranges[*r].clone()).collect()).collect();
    let alone = |i: usize| bundles[i].iter().map(|r| vec![r.clone()]).collect::<Vec<_>>();
    let between = |f: fn(&[usize], &[Vec<Range<usize>>]) -> Vec<Round>| {
        side_by_side((0..size).map(|i| f(&place(i), &alone(i))).collect())
    };
    let within = |f: fn(&[usize], &[Vec<Range<usize>>]) -> Vec<Round>| {
        side_by_side(nodes.iter().map(|n| f(n, &bundles)).collect())
    };
    Ok(match kind {
        Kind::ReduceScatter => [within(ring::reduce_scatter), between(ring::reduce_scatter)].concat(),
        _ => [between(ring::all_gather), within(ring::all_gather)].concat(),
    })
}

/// To one rank of each node, then within nodes, as binomial trees.
pub fn broadcast(nodes: &[Vec<usize>], root: usize, range: &Range<usize>) -> Vec<Round> {
    let mut nodes: Vec<Vec<usize>> = nodes.to_vec();
    for node in &mut nodes {
        if let Some(at) = node.iter().position(|r| *r == root) {
            node.swap(0, at);
        }
    }
    nodes.sort_by_key(|n| n[0] != root);
    let leaders: Vec<usize> = nodes.iter().map(|n| n[0]).collect();
    [tree::binomial(&leaders, range), side_by_side(nodes.iter().map(|n| tree::binomial(n, range)).collect())].concat()
}
