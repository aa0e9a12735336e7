//! A plan's step in virtual time: the dispatches and messages that devices would run, one after the other, each at its
//! price. What is counted here is what a run counts ([`Traffic`]); tests hold the two equal, for steps
//! that answer and for steps that train.

mod adapter;
mod machine;
mod page;
mod report;
mod trace;

pub use adapter::Adapter;
pub use machine::Machine;
pub use page::page;
pub use report::{costs, json, text};
pub use trace::{dispatches, segments};

use super::report::Prices;
use crate::base::{Bindings, Error, MeshAxis, Result, Seat};
use crate::plan::{Dispatch, Exchange, Plan, Policy, Rounds, Traffic, Transfer};
use std::collections::HashMap;

/// A rank: its place in the mesh, what it runs, and the step's numbers as it sees them.
pub struct Rank<'a> {
    pub seat: Seat,
    pub plan: &'a Plan,
    pub bindings: Bindings,
}

/// Seconds that things take. Ranks are numbered as devices.
pub trait Rates {
    /// One dispatch.
    fn dispatch(&self, plan: &Plan, dispatch: &Dispatch, bindings: &Bindings) -> Result<f64>;
    /// Each round of a collective over a group; its ranks wait for each other in every round.
    fn rounds(&self, exchange: Exchange, group: &[usize], rounds: &Rounds) -> Result<Vec<f64>>;
    /// One message between stages.
    fn send(&self, from: usize, to: usize, bytes: u64) -> Result<f64>;
    /// Before the first dispatch of a step and after its last, on every rank.
    fn submit(&self) -> f64;
}

/// A dispatch that was run in virtual time; seconds from the step's start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ran {
    pub rank: usize,
    /// Index into the rank's plan.
    pub dispatch: usize,
    pub start: f64,
    pub end: f64,
}

/// A message, or a rank's wait for one.
#[derive(Debug, Clone, PartialEq)]
pub struct Moved {
    pub exchange: Exchange,
    pub label: String,
    /// Nothing for a wait, which has a rank only.
    pub algorithm: Option<&'static str>,
    pub from: usize,
    pub to: usize,
    pub bytes: u64,
    pub start: f64,
    pub end: f64,
}

/// A step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    pub seconds: f64,
    pub traffic: Traffic,
    pub ran: Vec<Ran>,
    pub messages: Vec<Moved>,
    pub waits: Vec<Moved>,
}

struct Clock<'a, 'b> {
    ranks: &'b [Rank<'a>],
    policy: &'b Policy,
    rates: &'b dyn Rates,
    seats: HashMap<Seat, usize>,
    /// By rank: the transfer that it is at, and now.
    at: Vec<usize>,
    now: Vec<f64>,
    /// When a link is free again.
    links: HashMap<(usize, usize), f64>,
    /// When what a rank receives by a transfer is there.
    arrived: HashMap<(usize, usize), f64>,
    out: Outcome,
}

/// Runs one step of these ranks. Every rank whose seat the ranks' groups name must be among them.
///
/// # Errors
/// Those of the rates; ranks that wait for ranks that never come.
pub fn run(ranks: &[Rank], policy: &Policy, rates: &dyn Rates) -> Result<Outcome> {
    let seats = ranks.iter().enumerate().map(|(i, r)| (r.seat.clone(), i)).collect();
    let now = vec![rates.submit(); ranks.len()];
    let mut clock = Clock {
        ranks,
        policy,
        rates,
        seats,
        at: vec![0; ranks.len()],
        now,
        links: HashMap::new(),
        arrived: HashMap::new(),
        out: Outcome::default(),
    };
    for rank in 0..ranks.len() {
        clock.go_on(rank)?;
    }
    let mut moved = true;
    while moved {
        moved = false;
        for rank in 0..ranks.len() {
            while clock.transfer(rank)? {
                moved = true;
            }
        }
    }
    if let Some((rank, t)) = (0..ranks.len()).find_map(|r| Some((r, clock.current(r)?))) {
        return Err(Error::op("simulate", &t.label, format!("rank {rank} waits for ranks that never come")));
    }
    clock.out.seconds = clock.now.iter().copied().fold(0.0, f64::max);
    Ok(clock.out)
}

impl<'a> Clock<'a, '_> {
    fn current(&self, rank: usize) -> Option<&'a Transfer> {
        self.ranks[rank].plan.transfers.get(self.at[rank])
    }

    /// Dispatches up to the rank's next transfer, or to its end.
    fn go_on(&mut self, rank: usize) -> Result<()> {
        let Rank { plan, bindings, .. } = &self.ranks[rank];
        let from = self.at[rank].checked_sub(1).map_or(0, |t| plan.transfers[t].before);
        let to = self.current(rank).map_or(plan.dispatches.len(), |t| t.before);
        for (i, d) in plan.dispatches.iter().enumerate().take(to).skip(from) {
            let work = d.work(bindings)?;
            self.out.traffic.ran(rank, work);
            if work.dispatches > 0 {
                let start = self.now[rank];
                self.now[rank] += self.rates.dispatch(plan, d, bindings)?;
                self.out.ran.push(Ran { rank, dispatch: i, start, end: self.now[rank] });
            }
        }
        Ok(())
    }

    /// Ranks that differ from this one only along `axis`, in order.
    fn group(&self, rank: usize, axis: MeshAxis, label: &str) -> Result<Vec<usize>> {
        let seat = &self.ranks[rank].seat;
        let place = |i: usize| self.seats.get(&seat.moved(axis, i)).copied();
        (0..seat.ways(axis))
            .map(place)
            .collect::<Option<_>>()
            .ok_or_else(|| Error::op("simulate", label, format!("rank {rank} lacks peers along {axis}")))
    }

    /// Does a rank's transfer if everybody is there. True if something happened.
    fn transfer(&mut self, rank: usize) -> Result<bool> {
        let Some(t) = self.current(rank) else { return Ok(false) };
        match t.exchange {
            Exchange::Send => self.send(rank, t)?,
            Exchange::Receive => {
                let Some(at) = self.arrived.remove(&(rank, self.at[rank])) else { return Ok(false) };
                self.wait(rank, t, at);
            }
            _ => {
                let group = self.group(rank, t.how.over, &t.label)?;
                if !group.iter().all(|r| self.current(*r).is_some_and(|x| x.how.tag == t.how.tag)) {
                    return Ok(false);
                }
                self.exchange(rank, t, &group)?;
                for r in group {
                    self.at[r] += 1;
                    self.go_on(r)?;
                }
                return Ok(true);
            }
        }
        self.at[rank] += 1;
        self.go_on(rank)?;
        Ok(true)
    }

    fn wait(&mut self, rank: usize, t: &Transfer, until: f64) {
        let start = self.now[rank];
        if until > start {
            self.out.waits.push(Moved {
                exchange: t.exchange,
                label: t.label.clone(),
                algorithm: None,
                from: rank,
                to: rank,
                bytes: 0,
                start,
                end: until,
            });
            self.now[rank] = until;
        }
    }

    /// The sender goes on at once; the link is busy.
    fn send(&mut self, rank: usize, t: &Transfer) -> Result<()> {
        let bytes = t.rounds(&self.ranks[rank].bindings, self.policy)?.elements as u64 * 4;
        let group = self.group(rank, t.how.over, &t.label)?;
        let to = *group.get(t.how.peer).ok_or_else(|| Error::op("send", &t.label, "has no receiver"))?;
        let slot = self.ranks[to]
            .plan
            .transfers
            .iter()
            .position(|x| x.exchange == Exchange::Receive && x.how.tag == t.how.tag);
        let slot = slot.ok_or_else(|| Error::op("send", &t.label, format!("rank {to} does not receive it")))?;
        let free = self.links.entry((rank, to)).or_default();
        let start = free.max(self.now[rank]);
        *free = start + self.rates.send(rank, to, bytes)?;
        let end = *free;
        self.arrived.insert((to, slot), end);
        self.out.traffic.begins(t.exchange);
        self.message(t, (rank, to), bytes, None, (start, end));
        Ok(())
    }

    fn exchange(&mut self, rank: usize, t: &Transfer, group: &[usize]) -> Result<()> {
        let rounds = t.rounds(&self.ranks[rank].bindings, self.policy)?;
        let mut now = group.iter().map(|r| self.now[*r]).fold(0.0, f64::max);
        self.out.traffic.begins(t.exchange);
        // A switch that takes part comes after all ranks.
        let place = |i: usize| group.get(i).copied().unwrap_or(self.ranks.len());
        for (round, seconds) in rounds.rounds.iter().zip(self.rates.rounds(t.exchange, group, &rounds)?) {
            for m in round {
                self.message(
                    t,
                    (place(m.from), place(m.to)),
                    m.range.len() as u64 * 4,
                    Some(rounds.algorithm.name()),
                    (now, now + seconds),
                );
                if m.reduce {
                    self.out.traffic.flops += m.range.len() as u64;
                }
            }
            now += seconds;
        }
        group.iter().for_each(|r| self.wait(*r, t, now));
        Ok(())
    }

    fn message(
        &mut self,
        t: &Transfer,
        (from, to): (usize, usize),
        bytes: u64,
        algorithm: Option<&'static str>,
        (start, end): (f64, f64),
    ) {
        if self.out.traffic.sent(t.exchange, (from, to), bytes) {
            self.out.messages.push(Moved {
                exchange: t.exchange,
                label: t.label.clone(),
                algorithm,
                from,
                to,
                bytes,
                start,
                end,
            });
        }
    }
}

/// What a step is of, for reports.
pub struct Told<'a> {
    pub model: &'a str,
    pub on: &'a str,
    pub mesh: String,
    /// Tokens that the step takes.
    pub tokens: f64,
    pub of: &'a Of,
    pub prices: Prices,
}

/// What a step does with its tokens.
#[derive(Debug, Clone, PartialEq)]
pub enum Of {
    /// Reads them and answers; so many are in the cache after it.
    Answer { total: usize },
    /// Trains on them. Names of the states that are parameters; the others are the optimiser's.
    Training { parameters: Vec<String> },
}

impl Of {
    /// For people, behind the number of tokens.
    fn words(&self, tokens: f64) -> String {
        match self {
            Of::Answer { total } => format!("the plan of a step of {tokens} tokens, {total} in the cache after it"),
            Of::Training { .. } => {
                format!("the plan of a step that trains on {tokens} tokens: forward, loss, gradients, update")
            }
        }
    }
}
