//! Which step runs when: each as soon as its inputs exist, no more than `jobs` at once, and none after a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::step::{self, Outcome};
use super::{Prepared, Solved, makes_layer};
use crate::error::{Error, Result};
use crate::graph::VertexId;
use crate::rootfs::{Layer, Rootfs};

/// The state that the workers share.
struct Board {
    /// Needed vertices that have not started, with the number of inputs that are still missing.
    waiting: BTreeMap<VertexId, usize>,
    /// Those of them that miss nothing.
    ready: BTreeSet<VertexId>,
    states: BTreeMap<VertexId, Arc<Rootfs>>,
    layers: BTreeMap<VertexId, Arc<Layer>>,
    running: usize,
    /// The first failure; later ones are mostly its consequences.
    failed: Option<Error>,
}

/// Shared between workers and packers.
pub(super) struct Shared {
    board: Mutex<Board>,
    changed: Condvar,
    /// Steps that a cache had.
    pub(super) cached: AtomicU32,
    /// Who may pack.
    pub(super) packers: Turns,
}

/// A number of turns that threads share.
pub(super) struct Turns {
    free: Mutex<usize>,
    given_back: Condvar,
}

/// A turn, given back when it is dropped.
pub(super) struct Turn<'a>(&'a Turns);

impl Turns {
    fn new(count: usize) -> Self {
        Self { free: Mutex::new(count), given_back: Condvar::new() }
    }

    /// Waits for a turn.
    pub(super) fn turn(&self) -> Turn<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.given_back.wait_while(free, |free| *free == 0);
        *waited.unwrap_or_else(PoisonError::into_inner) -= 1;
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.given_back.notify_one();
    }
}

impl Shared {
    fn with<T>(&self, f: impl FnOnce(&mut Board) -> T) -> T {
        f(&mut self.board.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes a failure, unless one is known already; tells whether it was the first.
    pub(super) fn fail(&self, error: Error) -> bool {
        let first = self.with(|b| {
            let first = b.failed.is_none();
            b.failed.get_or_insert(error);
            first
        });
        self.changed.notify_all();
        first
    }

    fn next(&self, prepared: &Prepared<'_>) -> Option<(VertexId, BTreeMap<VertexId, Arc<Rootfs>>)> {
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if board.failed.is_some() || board.waiting.is_empty() {
                return None;
            }
            match board.ready.pop_first() {
                Some(id) => {
                    board.waiting.remove(&id);
                    board.running += 1;
                    let inputs = needs(prepared, id).into_iter();
                    let inputs = inputs.filter_map(|n| board.states.get(&n).map(|s| (n, Arc::clone(s))));
                    return Some((id, inputs.collect()));
                }
                None if board.running == 0 => {
                    board.failed = Some(Error::internal("the plan has steps that wait for each other"));
                }
                None => board = self.changed.wait(board).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl Board {
    fn new(prepared: &Prepared<'_>) -> Self {
        let missing = |id: &VertexId| (*id, needs(prepared, *id).len());
        let waiting: BTreeMap<_, _> = prepared.needed.iter().map(missing).collect();
        let ready = waiting.iter().filter(|(_, missing)| **missing == 0).map(|(id, _)| *id).collect();
        Self { waiting, ready, states: BTreeMap::new(), layers: BTreeMap::new(), running: 0, failed: None }
    }

    /// Notes that `id` is done; `users` wait for it, perhaps among others.
    fn done(&mut self, id: VertexId, outcome: Outcome, users: &[VertexId]) {
        self.running -= 1;
        self.states.insert(id, outcome.rootfs);
        self.layers.extend(outcome.layer.map(|layer| (id, layer)));
        for user in users {
            let Some(missing) = self.waiting.get_mut(user) else { continue };
            *missing -= 1;
            if *missing == 0 {
                self.ready.insert(*user);
            }
        }
    }
}

/// Returns what has to be done before `id`; a step that the cache has needs no more than what it stands on.
fn needs(prepared: &Prepared<'_>, id: VertexId) -> BTreeSet<VertexId> {
    let inputs = if prepared.hit(id).is_some() { Vec::new() } else { prepared.plan.inputs(id) };
    prepared.plan.vertices[id].parent.into_iter().chain(inputs).collect()
}

/// Returns the vertices that wait for each.
fn users(prepared: &Prepared<'_>) -> BTreeMap<VertexId, Vec<VertexId>> {
    let mut users: BTreeMap<VertexId, Vec<VertexId>> = BTreeMap::new();
    for id in &prepared.needed {
        for needed in needs(prepared, *id) {
            users.entry(needed).or_default().push(*id);
        }
    }
    users
}

/// Runs everything that `prepared` needs.
pub(super) fn run(
    prepared: &Prepared<'_>,
    jobs: usize,
    publish: &(dyn Fn(VertexId, &Arc<Layer>) + Sync),
) -> Result<Solved> {
    let board = Board::new(prepared);
    let users = users(prepared);
    let shared = Shared {
        board: Mutex::new(board),
        changed: Condvar::new(),
        cached: AtomicU32::new(0),
        packers: Turns::new(prepared.engine.workers + 1),
    };
    let workers = jobs.clamp(1, prepared.needed.len().max(1));
    // Packers run in the same scope: the scope ends when the last layer is packed.
    std::thread::scope(|scope| {
        let work = || {
            while let Some((id, inputs)) = shared.next(prepared) {
                let outcome = prepared
                    .engine
                    .cancel
                    .check()
                    .and_then(|()| step::run(prepared, &shared, scope, id, &inputs));
                match outcome {
                    Ok(outcome) => {
                        if let Some(layer) = &outcome.layer {
                            publish(id, layer);
                        }
                        shared.with(|b| b.done(id, outcome, users.get(&id).map_or(&[], Vec::as_slice)));
                        shared.changed.notify_all();
                    }
                    Err(error) => {
                        shared.with(|b| b.running -= 1);
                        if shared.fail(error) {
                            prepared.engine.cancel.cancel();
                        }
                    }
                }
            }
        };
        for _ in 1..workers {
            scope.spawn(work);
        }
        work();
    });
    let board = shared.board.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = board.failed {
        return Err(error);
    }
    let steps = prepared.needed.iter().filter(|id| makes_layer(&prepared.plan.vertices[**id].op));
    Ok(Solved {
        rootfs: board.states,
        layers: board.layers,
        steps: u32::try_from(steps.count()).unwrap_or(u32::MAX),
        cached: shared.cached.into_inner(),
    })
}
