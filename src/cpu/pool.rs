//! A pool of worker threads for work in phases, each of which is a number of tasks.
//!
//! A phase ends when its tasks are done, not when all workers have come: a worker that the system has put aside without a
//! task keeps nobody waiting. Whoever ends the last task of a phase goes on to the next ([`Work::next`]) alone, so what lies
//! between two phases costs no barrier of its own. Who has nothing to do spins for some microseconds, then sleeps, the caller
//! too: a core that falls idle is where the system moves a worker that waits behind another process, task in hand. No more
//! workers are woken than cores are there, however many there are.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;
use web_time::Instant;

/// The most tasks of a phase.
pub const MOST_TASKS: usize = u16::MAX as usize - 64;

/// What a pool does.
pub trait Work: Send + Sync + 'static {
    /// Does one task of the phase at hand.
    ///
    /// # Safety
    /// Called once for each task of a phase, by `worker`, which has one call at a time.
    unsafe fn task(&self, task: usize, worker: usize);
    /// Ends the phase at hand and makes the next: its number of tasks, 2 to [`MOST_TASKS`]; 0 to stop.
    ///
    /// # Safety
    /// Called by one thread while no task is under way.
    unsafe fn next(&self, worker: usize) -> usize;
}

/// How long to look for work before sleeping.
const PATIENCE: Duration = Duration::from_micros(60);

/// What the threads share. Fields that many threads write have cache lines of their own.
struct Shared {
    ticket: Apart<AtomicU64>,
    done: Apart<AtomicU32>,
    /// Workers that sleep, without the caller.
    sleepers: Apart<AtomicUsize>,
    caller_sleeps: AtomicBool,
    leave: AtomicBool,
    failed: AtomicBool,
    sleep: Mutex<()>,
    wake: Condvar,
    wake_caller: Condvar,
    threads: AtomicUsize,
    /// How many threads may run at once.
    cores: usize,
}

#[repr(align(128))]
struct Apart<T>(T);

/// A phase's number, the next task, and how many there are: 32, 16 and 16 bits.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ticket(u64);

impl Ticket {
    fn new(phase: u32, tasks: usize) -> Ticket {
        Ticket((phase as u64) << 32 | tasks as u64)
    }
    fn phase(self) -> u32 {
        (self.0 >> 32) as u32
    }
    fn next(self) -> usize {
        (self.0 >> 16 & 0xffff) as usize
    }
    fn tasks(self) -> usize {
        (self.0 & 0xffff) as usize
    }
}

/// Threads that do one [`Work`] together with whoever calls [`Pool::drive`].
pub struct Pool<W: Work> {
    shared: Arc<Shared>,
    work: Arc<W>,
    threads: usize,
    #[cfg(not(target_arch = "wasm32"))]
    handles: Vec<std::thread::JoinHandle<()>>,
}

/// How many threads this process may run at once: its affinity and its container's share.
pub fn available() -> usize {
    #[cfg(target_arch = "wasm32")]
    return 1;
    #[cfg(not(target_arch = "wasm32"))]
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

impl<W: Work> Pool<W> {
    /// `threads` with the caller's own. Where the system gives fewer, there are fewer.
    #[cfg_attr(target_arch = "wasm32", expect(unused_variables, reason = "the caller's thread is the only one there"))]
    pub fn new(threads: usize, work: Arc<W>) -> Pool<W> {
        let shared = Arc::new(Shared {
            ticket: Apart(AtomicU64::new(0)),
            done: Apart(AtomicU32::new(0)),
            sleepers: Apart(AtomicUsize::new(0)),
            caller_sleeps: AtomicBool::new(false),
            leave: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            wake_caller: Condvar::new(),
            threads: AtomicUsize::new(1),
            cores: available(),
        });
        #[cfg(not(target_arch = "wasm32"))]
        {
            let start = |worker: usize| {
                let (shared, work) = (shared.clone(), work.clone());
                let builder = std::thread::Builder::new().name(format!("warpweft cpu {worker}"));
                builder.spawn(move || shared.serve(&*work, worker))
            };
            let handles: Vec<_> = (1..threads).map_while(|worker| start(worker).ok()).collect();
            shared.threads.store(handles.len() + 1, Ordering::SeqCst);
            Pool { threads: handles.len() + 1, shared, work, handles }
        }
        #[cfg(target_arch = "wasm32")]
        Pool { threads: 1, shared, work }
    }

    pub fn threads(&self) -> usize {
        self.threads
    }
    /// How many threads may run at once.
    pub fn cores(&self) -> usize {
        self.shared.cores
    }
    pub fn work(&self) -> &W {
        &self.work
    }

    /// Does phases until [`Work::next`] stops; false where a task has panicked.
    ///
    /// # Safety
    /// The work must be ready: its conditions are those of [`Work`].
    pub unsafe fn drive(&mut self) -> bool {
        let phase = Ticket(self.shared.ticket.0.load(Ordering::Acquire)).phase();
        // SAFETY: no task is under way: the last phase had none, or has ended.
        let tasks = unsafe { self.work.next(0) };
        self.shared.publish(phase, tasks);
        self.shared.work(&*self.work);
        !self.shared.failed.swap(false, Ordering::AcqRel)
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl<W: Work> Drop for Pool<W> {
    fn drop(&mut self) {
        self.shared.leave.store(true, Ordering::Release);
        {
            let _lock = self.shared.lock();
            self.shared.wake.notify_all();
        }
        self.handles.drain(..).for_each(|h| drop(h.join()));
    }
}

impl Shared {
    /// Shows the phase after `phase`, and wakes whoever is needed for it.
    fn publish(&self, phase: u32, tasks: usize) {
        debug_assert!(tasks <= MOST_TASKS);
        self.done.0.store(0, Ordering::Relaxed);
        self.ticket.0.store(Ticket::new(phase.wrapping_add(1), tasks.min(MOST_TASKS)).0, Ordering::SeqCst);
        let caller = self.caller_sleeps.load(Ordering::SeqCst);
        let sleepers = self.sleepers.0.load(Ordering::SeqCst);
        let awake = self.threads.load(Ordering::SeqCst).saturating_sub(sleepers + caller as usize);
        let wanted = tasks.min(self.cores).saturating_sub(awake).min(sleepers);
        if caller || wanted > 0 {
            let _lock = self.lock();
            if caller {
                self.wake_caller.notify_one();
            }
            (0..wanted).for_each(|_| self.wake.notify_one());
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.sleep.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes a task of the phase at hand.
    fn claim(&self) -> Result<(Ticket, usize), Ticket> {
        let mut seen = self.ticket.0.load(Ordering::Acquire);
        loop {
            let ticket = Ticket(seen);
            if ticket.next() >= ticket.tasks() {
                return Err(ticket);
            }
            match self.ticket.0.compare_exchange_weak(seen, seen + (1 << 16), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok((ticket, ticket.next())),
                Err(now) => seen = now,
            }
        }
    }

    fn do_task<W: Work>(&self, work: &W, ticket: Ticket, task: usize, worker: usize) {
        let run = || {
            // SAFETY: the task was claimed once, of a phase that cannot end before it is counted below.
            unsafe { work.task(task, worker) };
            if self.done.0.fetch_add(1, Ordering::AcqRel) + 1 == ticket.tasks() as u32 {
                // SAFETY: all tasks are done and nobody can claim another until the next ticket is shown.
                let tasks = unsafe { work.next(worker) };
                self.publish(ticket.phase(), tasks);
            }
        };
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
            // The step is over: its results are not looked at.
            self.failed.store(true, Ordering::Release);
            self.publish(ticket.phase(), 0);
        }
    }

    /// The caller's part: tasks until there is no phase.
    fn work<W: Work>(&self, work: &W) {
        loop {
            match self.claim() {
                Ok((ticket, task)) => self.do_task(work, ticket, task, 0),
                Err(ticket) if ticket.tasks() == 0 => return,
                Err(seen) if self.is_over(seen) => {}
                Err(seen) => self.sleep_until_news(seen),
            }
        }
    }

    /// Waits a moment for the end of a phase without free tasks; whether it came.
    fn is_over(&self, seen: Ticket) -> bool {
        let start = Instant::now();
        loop {
            for _ in 0..32 {
                let now = Ticket(self.ticket.0.load(Ordering::Acquire));
                if now.phase() != seen.phase() || self.leave.load(Ordering::Relaxed) {
                    return true;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() > PATIENCE {
                return false;
            }
        }
    }

    /// A worker's life.
    #[cfg(not(target_arch = "wasm32"))]
    fn serve<W: Work>(&self, work: &W, worker: usize) {
        while !self.leave.load(Ordering::Acquire) {
            match self.claim() {
                Ok((ticket, task)) => self.do_task(work, ticket, task, worker),
                Err(seen) if self.is_over(seen) => {}
                Err(_) => self.sleep_until_work(),
            }
        }
    }

    /// The caller sleeps until the phase that it has seen is over.
    fn sleep_until_news(&self, seen: Ticket) {
        let mut lock = self.lock();
        self.caller_sleeps.store(true, Ordering::SeqCst);
        while Ticket(self.ticket.0.load(Ordering::SeqCst)).phase() == seen.phase() {
            lock = self.wake_caller.wait(lock).unwrap_or_else(|e| e.into_inner());
        }
        self.caller_sleeps.store(false, Ordering::SeqCst);
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn sleep_until_work(&self) {
        let mut lock = self.lock();
        self.sleepers.0.fetch_add(1, Ordering::SeqCst);
        loop {
            let ticket = Ticket(self.ticket.0.load(Ordering::SeqCst));
            if ticket.next() < ticket.tasks() || self.leave.load(Ordering::Acquire) {
                break;
            }
            lock = self.wake.wait(lock).unwrap_or_else(|e| e.into_inner());
        }
        self.sleepers.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    struct Count {
        phase: AtomicUsize,
        sum: AtomicUsize,
        phases: usize,
        fail: bool,
        /// Some tasks take longer than anyone's patience.
        slow: bool,
    }
    impl Work for Count {
        unsafe fn task(&self, task: usize, _: usize) {
            assert!(!self.fail || task != 3, "on purpose");
            if self.slow && (task + self.phase.load(Ordering::Relaxed)).is_multiple_of(3) {
                std::thread::sleep(PATIENCE * 4);
            }
            self.sum.fetch_add(task + 1, Ordering::Relaxed);
        }
        unsafe fn next(&self, _: usize) -> usize {
            let phase = self.phase.fetch_add(1, Ordering::Relaxed);
            if phase < self.phases { phase % 7 + 2 } else { 0 }
        }
    }

    fn pool(threads: usize, phases: usize, fail: bool, slow: bool) -> Pool<Count> {
        let (phase, sum) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Pool::new(threads, Arc::new(Count { phase, sum, phases, fail, slow }))
    }

    fn drives(pool: &mut Pool<Count>, times: usize) {
        let want: usize = (0..pool.work().phases).map(|p| (1..=p % 7 + 2).sum::<usize>()).sum();
        for _ in 0..times {
            pool.work().phase.store(0, Ordering::Relaxed);
            pool.work().sum.store(0, Ordering::Relaxed);
            assert!(unsafe { pool.drive() });
            assert_eq!(pool.work().sum.load(Ordering::Relaxed), want);
        }
    }

    #[test]
    fn every_task_of_every_phase_is_done_once() {
        for threads in [1, 2, 3, 64] {
            drives(&mut pool(threads, 200, false, false), 5);
        }
    }

    #[test]
    fn who_waits_for_long_sleeps_and_is_woken() {
        for threads in [1, 2, 3, 64] {
            let mut pool = pool(threads, 40, false, true);
            drives(&mut pool, 2);
            // Between steps workers sleep, too.
            std::thread::sleep(PATIENCE * 20);
            drives(&mut pool, 1);
        }
    }

    #[test]
    fn a_task_that_panics_ends_the_step() {
        for threads in [1, 3] {
            assert!(!unsafe { pool(threads, 200, true, false).drive() });
        }
    }
}
