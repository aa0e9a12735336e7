//! A sharded plan on several devices at once: virtual ones on one adapter, several adapters, several processes.
//!
//! Each rank has its own buffers and program. Between the dispatches of a plan lie transfers; a rank goes on until it
//! meets one, and the transfer happens when all its ranks are there: messages by rounds ([`Rounds`]), copied on the
//! device where both ranks share one, through the host where they do not, through a [`Transport`] to other processes.

mod member;
mod record;
mod watch;

pub use crate::plan::Traffic;
pub use member::kernels;
pub use watch::Watch;

use super::{Executed, Gpu, Post, Store, Transport};
use crate::base::{Array, Bindings, Error, MeshAxis, Result, Seat, Weights};
use crate::plan::Exchange;
use crate::plan::{Plan, Policy, Rounds, Transfer, Work};
use crate::topology::collective::Algorithm;
use member::{Landing, Member, all_rounds, landings};
use record::{Encoders, record};
use std::collections::HashMap;
use std::sync::Arc;

/// One rank's part of a step: its bindings and its pieces of the inputs.
pub type Part<'a> = (Bindings, Vec<(&'a str, Array)>);

/// What a rank of this process is loaded from.
pub struct RankPlan {
    pub rank: usize,
    pub plan: Plan,
    /// The rank's bindings of the largest step.
    pub largest: Bindings,
}

/// Ranks of one mesh, those of this process loaded.
pub struct Cluster {
    seats: Vec<Seat>,
    members: Vec<Member>,
    policy: Policy,
}

/// What ranks of a step have in common while it runs.
struct Step {
    bindings: Vec<Option<Bindings>>,
    /// By member and transfer.
    rounds: Vec<Vec<Arc<Rounds>>>,
    /// The transfer that each member is at, and since when it waits there.
    at: Vec<usize>,
    since: Vec<f64>,
    encoders: Encoders,
    /// Receives that a local sender has served: (member, transfer).
    arrived: Vec<(usize, usize)>,
}

impl Cluster {
    /// Loads this process' ranks, each into its store (one a rank, in the order of `plans`).
    ///
    /// # Errors
    /// Those of [`super::Program::load`]; a mesh whose ranks do not fit together.
    pub async fn load(
        seats: Vec<Seat>,
        plans: Vec<RankPlan>,
        stores: &mut [Store],
        weights: &dyn Weights,
        policy: Policy,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Cluster> {
        let of = plans.len();
        let mut members = vec![];
        for (i, (p, store)) in plans.into_iter().zip(stores).enumerate() {
            progress(i, of);
            let rounds = all_rounds(&p.plan, &p.largest, &policy)?;
            if let Some((_, t)) = rounds.iter().zip(&p.plan.transfers).find(|(r, _)| r.algorithm == Algorithm::InSwitch)
            {
                let what = "in-switch reduction is priced, not run: no switch here adds; choose ring, halving-doubling, tree or direct";
                return Err(Error::op("cluster", &t.label, what));
            }
            let place: Vec<usize> = p.plan.transfers.iter().map(|t| seats[p.rank].index(t.how.over)).collect();
            members.push(Member::load(p.rank, p.plan, store, weights, &rounds, &place).await?);
        }
        Ok(Cluster { seats, members, policy })
    }

    /// Bytes of each rank of this process beside its store's.
    pub fn own_bytes(&self) -> Vec<u64> {
        self.members.iter().map(Member::own_bytes).collect()
    }
    /// Sets the contents of a member's piece of a state; false where it has none of that name.
    pub fn set_state(&self, member: usize, name: &str, piece: &Array) -> Result<bool> {
        self.members[member].program.set_state(name, piece)
    }
    pub fn plan(&self, member: usize) -> &Plan {
        self.members[member].program.plan()
    }

    /// Runs one step of the ranks that have a part (in the order of this process' ranks) and reads `outputs` of the
    /// members in `readers`.
    ///
    /// # Errors
    /// Those of [`super::Program::step`]; a peer that does not answer; ranks that wait for each other.
    pub async fn step(
        &mut self,
        parts: &[Option<Part<'_>>],
        (readers, outputs): (&[usize], &[&str]),
        transport: &mut dyn Transport,
        watch: &mut Watch,
    ) -> Result<Vec<Vec<Array>>> {
        let mut step = self.begin(parts)?;
        let mut moved = true;
        for m in 0..self.members.len() {
            self.go_on(&mut step, m, watch).await?;
        }
        while moved {
            moved = false;
            for m in 0..self.members.len() {
                moved |= self.try_transfer(&mut step, m, transport, watch).await?;
            }
        }
        if let Some(m) = (0..self.members.len()).find(|m| self.current(&step, *m).is_some()) {
            let label = self.current(&step, m).map_or(String::new(), |t| t.label.clone());
            return Err(Error::op(
                "cluster",
                &label,
                format!("rank {} waits for ranks that never come", self.members[m].rank),
            ));
        }
        let mut readings = vec![];
        for m in readers {
            let (Some(bindings), member) = (&step.bindings[*m], &self.members[*m]) else { continue };
            let reading = member.program.stage(step.encoders.of(member.gpu()), bindings, outputs)?;
            readings.push((*m, reading));
        }
        step.encoders.flush_all();
        transport.finish()?;
        let mut out = vec![];
        for (m, reading) in readings {
            let bindings = step.bindings[m].clone().unwrap_or_default();
            out.push(self.members[m].program.collect(reading, &bindings).await?);
        }
        if out.is_empty() {
            self.members.iter().try_for_each(|m| m.gpu().check())?;
        }
        Ok(out)
    }

    fn begin(&mut self, parts: &[Option<Part<'_>>]) -> Result<Step> {
        let mut step = Step {
            bindings: vec![],
            rounds: vec![],
            at: vec![0; self.members.len()],
            since: vec![0.0; self.members.len()],
            encoders: Encoders::default(),
            arrived: vec![],
        };
        let mut known: HashMap<(u32, Seat), Arc<Rounds>> = HashMap::new();
        for (member, part) in self.members.iter_mut().zip(parts) {
            let Some((bindings, inputs)) = part else {
                step.bindings.push(None);
                step.rounds.push(vec![]);
                continue;
            };
            let transfers = &member.program.plan().transfers;
            let mut rounds = vec![];
            for t in transfers {
                // The same on all ranks of a group.
                let key = (t.how.tag, self.seats[member.rank].moved(t.how.over, 0));
                let r = match known.get(&key) {
                    Some(r) => r.clone(),
                    None => Arc::new(t.rounds(bindings, &self.policy)?),
                };
                known.insert(key, r.clone());
                rounds.push(r);
            }
            let place: Vec<usize> = transfers.iter().map(|t| self.seats[member.rank].index(t.how.over)).collect();
            member.program.upload(bindings, inputs)?;
            member.upload_additions(&rounds, &place);
            step.bindings.push(Some(bindings.clone()));
            step.rounds.push(rounds);
        }
        Ok(step)
    }

    /// The transfer that a member waits at.
    fn current(&self, step: &Step, m: usize) -> Option<&Transfer> {
        step.bindings[m].as_ref()?;
        self.members[m].program.plan().transfers.get(step.at[m])
    }

    /// Records a member's dispatches up to its next transfer, or to its end.
    async fn go_on(&mut self, step: &mut Step, m: usize, watch: &mut Watch) -> Result<()> {
        let Some(bindings) = step.bindings[m].clone() else { return Ok(()) };
        let plan = self.members[m].program.plan();
        let from = step.at[m].checked_sub(1).map_or(0, |t| plan.transfers[t].before);
        let to = plan.transfers.get(step.at[m]).map_or(plan.dispatches.len(), |t| t.before);
        let label = plan.dispatches.get(from).map_or(String::new(), |d| d.label.clone());
        let member = &self.members[m];
        let gpu = member.gpu().clone();
        let span = watch.start();
        let executed = record(&mut step.encoders, &gpu, &member.program, &bindings, from..to).await?;
        if watch.work {
            let mut work = Work::default();
            plan.dispatches[from..to].iter().try_for_each(|d| d.work(&bindings).map(|w| work.add(w)))?;
            watch.traffic.ran(member.rank, Work { dispatches: executed.dispatches, ..work });
            watch.told(member.rank, executed);
        }
        if watch.is_on() && from < to {
            step.encoders.flush(&gpu);
            gpu.done().await?;
            watch.compute(member.rank, &label, to - from, span);
        }
        step.since[m] = watch.start();
        Ok(())
    }

    /// Does a member's transfer if all its local ranks are there. True if something happened.
    async fn try_transfer(
        &mut self,
        step: &mut Step,
        m: usize,
        transport: &mut dyn Transport,
        watch: &mut Watch,
    ) -> Result<bool> {
        let Some(t) = self.current(step, m).cloned() else { return Ok(false) };
        match t.exchange {
            Exchange::Send => {
                self.send(step, m, &t, transport, watch).await?;
                self.done(step, m, watch).await?;
            }
            Exchange::Receive => {
                if !self.receive(step, m, &t, transport, watch).await? {
                    return Ok(false);
                }
                self.done(step, m, watch).await?;
            }
            _ => {
                let group = self.group(m, t.how.over);
                let there = |r: &usize| {
                    self.member_of(*r).is_none_or(|o| self.current(step, o).is_some_and(|x| x.how.tag == t.how.tag))
                };
                if !group.iter().all(there) {
                    return Ok(false);
                }
                self.exchange(step, m, &t, &group, transport, watch).await?;
                for r in group {
                    if let Some(o) = self.member_of(r) {
                        self.done(step, o, watch).await?;
                    }
                }
            }
        }
        Ok(true)
    }

    async fn done(&mut self, step: &mut Step, m: usize, watch: &mut Watch) -> Result<()> {
        step.at[m] += 1;
        self.go_on(step, m, watch).await
    }

    /// Ranks that differ from a member's only along `axis`, in order.
    fn group(&self, m: usize, axis: MeshAxis) -> Vec<usize> {
        let seat = &self.seats[self.members[m].rank];
        (0..seat.ways(axis)).filter_map(|i| self.seats.iter().position(|s| *s == seat.moved(axis, i))).collect()
    }
    fn member_of(&self, rank: usize) -> Option<usize> {
        self.members.iter().position(|m| m.rank == rank)
    }

    /// A value to a later stage: into its mail where it is local.
    async fn send(
        &mut self,
        step: &mut Step,
        m: usize,
        t: &Transfer,
        transport: &mut dyn Transport,
        watch: &mut Watch,
    ) -> Result<()> {
        let bytes = step.rounds[m][step.at[m]].elements as u64 * 4;
        let to = self.group(m, t.how.over)[t.how.peer];
        let bindings = step.bindings[m].clone().unwrap_or_default();
        let Some((buffer, offset)) = &t.from else { return Err(Error::op("send", &t.label, "has no operand")) };
        let offset = offset.eval(&bindings)?.max(0) as u64 * 4;
        let source = self.members[m].program.buffer(*buffer)?.clone();
        let gpu = self.members[m].gpu().clone();
        let span = watch.start();
        match self.member_of(to) {
            Some(o) => {
                let matches = |x: &Transfer| x.exchange == Exchange::Receive && x.how.tag == t.how.tag;
                let slot = self.members[o].program.plan().transfers.iter().position(matches);
                let missing = || Error::op("send", &t.label, format!("rank {to} does not receive it"));
                let slot = slot.ok_or_else(missing)?;
                let mail = self.members[o].mail(slot).ok_or_else(missing)?.clone();
                let far = self.members[o].gpu().clone();
                let moved = move_bytes(step, (&gpu, &source, offset), (&far, &mail, 0), bytes).await?;
                watch.told(self.members[m].rank, Executed::message(moved));
                step.arrived.push((o, slot));
            }
            None => {
                let data = read(step, &gpu, &source, offset, bytes).await?;
                transport.send(Post { from: self.members[m].rank, to, tag: t.how.tag, bytes: bytes as usize }, data)?;
            }
        }
        self.settle(step, watch, &[gpu]).await?;
        watch.traffic.begins(t.exchange);
        watch.message(t, None, self.members[m].rank, to, bytes, span);
        Ok(())
    }

    /// A value from an earlier stage; false where a local sender has not come yet.
    async fn receive(
        &mut self,
        step: &mut Step,
        m: usize,
        t: &Transfer,
        transport: &mut dyn Transport,
        watch: &mut Watch,
    ) -> Result<bool> {
        let bytes = step.rounds[m][step.at[m]].elements as u64 * 4;
        let from = self.group(m, t.how.over)[t.how.peer];
        let gpu = self.members[m].gpu().clone();
        let target = self.members[m].program.buffer(t.to)?.clone();
        if self.member_of(from).is_some() {
            let Some(at) = step.arrived.iter().position(|a| *a == (m, step.at[m])) else { return Ok(false) };
            step.arrived.swap_remove(at);
            watch.wait(self.members[m].rank, t, step.since[m]);
            let mail =
                self.members[m].mail(step.at[m]).ok_or_else(|| Error::op("receive", &t.label, "has no mail"))?.clone();
            if bytes > 0 {
                step.encoders.of(&gpu).copy_buffer_to_buffer(&mail, 0, &target, 0, bytes);
            }
            return Ok(true);
        }
        let data = transport.receive(Post { from, to: self.members[m].rank, tag: t.how.tag, bytes: bytes as usize })?;
        step.encoders.flush(&gpu);
        gpu.queue.write_buffer(&target, 0, &data);
        watch.wait(self.members[m].rank, t, step.since[m]);
        Ok(true)
    }

    /// A collective of a whole group.
    async fn exchange(
        &mut self,
        step: &mut Step,
        m: usize,
        t: &Transfer,
        group: &[usize],
        transport: &mut dyn Transport,
        watch: &mut Watch,
    ) -> Result<()> {
        let rounds = step.rounds[m][step.at[m]].clone();
        for o in group.iter().filter_map(|r| self.member_of(*r)) {
            watch.wait(self.members[o].rank, t, step.since[o]);
        }
        self.prepare(step, group, &rounds)?;
        watch.traffic.begins(t.exchange);
        for (n, round) in rounds.rounds.iter().enumerate() {
            let span = watch.start();
            let mut incoming = vec![];
            for (i, message) in round.iter().enumerate() {
                let (from, to) = (group[message.from], group[message.to]);
                let bytes = message.range.len() as u64 * 4;
                let (source, target) = (self.member_of(from), self.member_of(to));
                let landing = target.map(|o| self.place_of(step, o, group, &rounds, n, i)).transpose()?;
                match (source, target, landing) {
                    (Some(s), Some(d), Some((buffer, at))) => {
                        let (near, far) = (self.members[s].gpu().clone(), self.members[d].gpu().clone());
                        let (out, offset) = self.source(step, s, message.range.start as u64 * 4)?;
                        let moved = move_bytes(step, (&near, &out, offset), (&far, &buffer, at), bytes).await?;
                        // What stays on a rank is no message.
                        if s != d {
                            watch.told(from, Executed::message(moved));
                        }
                    }
                    (Some(s), None, _) => {
                        let near = self.members[s].gpu().clone();
                        let (out, offset) = self.source(step, s, message.range.start as u64 * 4)?;
                        let data = read(step, &near, &out, offset, bytes).await?;
                        transport.send(Post { from, to, tag: t.how.tag, bytes: bytes as usize }, data)?;
                    }
                    (None, Some(d), Some((buffer, at))) => incoming.push((d, from, to, bytes, buffer, at)),
                    _ => {}
                }
            }
            for (d, from, to, bytes, buffer, at) in incoming {
                let data = transport.receive(Post { from, to, tag: t.how.tag, bytes: bytes as usize })?;
                let gpu = self.members[d].gpu().clone();
                step.encoders.flush(&gpu);
                gpu.queue.write_buffer(&buffer, at, &data);
            }
            self.add(step, group, &rounds, n);
            let gpus: Vec<Arc<Gpu>> =
                group.iter().filter_map(|r| self.member_of(*r)).map(|o| self.members[o].gpu().clone()).collect();
            self.settle(step, watch, &gpus).await?;
            for message in round {
                watch.message(
                    t,
                    Some(&rounds),
                    group[message.from],
                    group[message.to],
                    message.range.len() as u64 * 4,
                    span,
                );
                if message.reduce {
                    watch.traffic.flops += message.range.len() as u64;
                }
            }
        }
        self.conclude(step, group, &rounds)
    }

    /// Submits and waits, where times are taken.
    async fn settle(&self, step: &mut Step, watch: &Watch, gpus: &[Arc<Gpu>]) -> Result<()> {
        if watch.is_on() {
            step.encoders.flush_all();
            for gpu in gpus {
                gpu.done().await?;
            }
        }
        Ok(())
    }

    /// Where a member's messages are read from: its working buffer, or its operand where nothing is worked on.
    fn source(&self, step: &Step, m: usize, offset: u64) -> Result<(wgpu::Buffer, u64)> {
        let member = &self.members[m];
        let t = &member.program.plan().transfers[step.at[m]];
        if matches!(t.exchange, Exchange::Permute | Exchange::AllToAll) {
            let bindings = step.bindings[m].clone().unwrap_or_default();
            let (buffer, start) = t.from.as_ref().ok_or_else(|| Error::op("cluster", &t.label, "has no operand"))?;
            return Ok((member.program.buffer(*buffer)?.clone(), offset + start.eval(&bindings)?.max(0) as u64 * 4));
        }
        Ok((member.program.buffer(t.work.unwrap_or(t.to))?.clone(), offset))
    }

    /// Where a message lands on a member: in the working buffer, or aside where it will be added.
    fn place_of(
        &self,
        step: &Step,
        m: usize,
        group: &[usize],
        rounds: &Rounds,
        round: usize,
        message: usize,
    ) -> Result<(wgpu::Buffer, u64)> {
        let member = &self.members[m];
        let t = &member.program.plan().transfers[step.at[m]];
        let what = &rounds.rounds[round][message];
        if !what.reduce {
            return Ok((member.program.buffer(t.work.unwrap_or(t.to))?.clone(), what.at as u64 * 4));
        }
        let place = group.iter().position(|r| *r == member.rank).unwrap_or(0);
        let found = landings(rounds, place).into_iter().find(|l| (l.round, l.message) == (round, message));
        let missing = || Error::op("cluster", &t.label, "has no room for a message");
        let landing: Landing = found.ok_or_else(missing)?;
        Ok((member.landing().ok_or_else(missing)?.clone(), landing.landing as u64 * 4))
    }

    /// Each rank's own contribution into its working buffer.
    fn prepare(&self, step: &mut Step, group: &[usize], rounds: &Rounds) -> Result<()> {
        for (place, r) in group.iter().enumerate() {
            let Some(o) = self.member_of(*r) else { continue };
            let member = &self.members[o];
            let t = &member.program.plan().transfers[step.at[o]];
            let Some((buffer, start)) = &t.from else { continue };
            let start = start.eval(step.bindings[o].as_ref().unwrap_or(&Bindings::new()))?.max(0) as u64 * 4;
            let (at, len) = match t.exchange {
                Exchange::AllReduce | Exchange::ReduceScatter | Exchange::Broadcast => (0, rounds.elements),
                Exchange::AllGather => (rounds.parts[..place].iter().sum(), rounds.parts[place]),
                _ => continue,
            };
            let work = member.program.buffer(t.work.unwrap_or(t.to))?.clone();
            if len > 0 {
                step.encoders.of(member.gpu()).copy_buffer_to_buffer(
                    member.program.buffer(*buffer)?,
                    start,
                    &work,
                    at as u64 * 4,
                    len as u64 * 4,
                );
            }
        }
        Ok(())
    }

    /// Adds what landed in this round.
    fn add(&self, step: &mut Step, group: &[usize], rounds: &Rounds, round: usize) {
        for (place, r) in group.iter().enumerate() {
            let Some(o) = self.member_of(*r) else { continue };
            let all = landings(rounds, place);
            let now: Vec<(usize, usize)> =
                all.iter().enumerate().filter(|(_, l)| l.round == round).map(|(k, l)| (k, l.len)).collect();
            let member = &self.members[o];
            member.add(step.encoders.of(member.gpu()), step.at[o], &now);
        }
    }

    /// A rank's own part out of the working buffer.
    fn conclude(&self, step: &mut Step, group: &[usize], rounds: &Rounds) -> Result<()> {
        for (place, r) in group.iter().enumerate() {
            let Some(o) = self.member_of(*r) else { continue };
            let member = &self.members[o];
            let t = &member.program.plan().transfers[step.at[o]];
            let (Some(work), len) = (t.work, rounds.parts.get(place).copied().unwrap_or(0) as u64 * 4) else {
                continue;
            };
            let start = rounds.parts[..place].iter().sum::<usize>() as u64 * 4;
            if len > 0 {
                let encoder = step.encoders.of(member.gpu());
                encoder.copy_buffer_to_buffer(
                    member.program.buffer(work)?,
                    start,
                    member.program.buffer(t.to)?,
                    0,
                    len,
                );
            }
        }
        Ok(())
    }
}

/// A buffer on a device, from a byte on.
type Place<'a> = (&'a Arc<Gpu>, &'a wgpu::Buffer, u64);

/// From one rank's buffer to another's: on the device where both are there, else through the host. The bytes that were copied.
async fn move_bytes(step: &mut Step, from: Place<'_>, to: Place<'_>, bytes: u64) -> Result<u64> {
    if bytes == 0 {
        return Ok(0);
    }
    if Arc::ptr_eq(from.0, to.0) {
        step.encoders.of(from.0).copy_buffer_to_buffer(from.1, from.2, to.1, to.2, bytes);
        return Ok(bytes);
    }
    let data = read(step, from.0, from.1, from.2, bytes).await?;
    // What is recorded for the receiver comes before what it is given now.
    step.encoders.flush(to.0);
    to.0.queue.write_buffer(to.1, to.2, &data);
    Ok(data.len() as u64)
}

/// Bytes of a device buffer, after all that is recorded.
async fn read(step: &mut Step, gpu: &Arc<Gpu>, from: &wgpu::Buffer, offset: u64, bytes: u64) -> Result<Vec<u8>> {
    if bytes == 0 {
        return Ok(vec![]);
    }
    let lent = gpu.lent("message", bytes, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST).await?;
    step.encoders.of(gpu).copy_buffer_to_buffer(from, offset, &lent.buffer, 0, bytes);
    step.encoders.flush(gpu);
    gpu.map_read(&lent.buffer, bytes).await
}
