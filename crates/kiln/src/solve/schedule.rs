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
    /// Needed vertices that have not started.
    waiting: BTreeSet<VertexId>,
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
            let needs = |id: VertexId| {
                let inputs = if prepared.hit(id).is_some() { Vec::new() } else { prepared.plan.inputs(id) };
                prepared.plan.vertices[id].parent.into_iter().chain(inputs)
            };
            let ready =
                board.waiting.iter().copied().find(|id| needs(*id).all(|n| board.states.contains_key(&n)));
            match ready {
                Some(id) => {
                    board.waiting.remove(&id);
                    board.running += 1;
                    let inputs =
                        needs(id).filter_map(|n| board.states.get(&n).map(|s| (n, Arc::clone(s)))).collect();
                    return Some((id, inputs));
                }
                None if board.running == 0 => {
                    board.failed = Some(Error::internal("the plan has steps that wait for each other"));
                }
                None => board = self.changed.wait(board).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// Runs everything that `prepared` needs.
pub(super) fn run(
    prepared: &Prepared<'_>,
    jobs: usize,
    publish: &(dyn Fn(VertexId, &Arc<Layer>) + Sync),
) -> Result<Solved> {
    let board = Board {
        waiting: prepared.needed.clone(),
        states: BTreeMap::new(),
        layers: BTreeMap::new(),
        running: 0,
        failed: None,
    };
    let shared = Shared { board: Mutex::new(board), changed: Condvar::new(), cached: AtomicU32::new(0) };
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
                    Ok(Outcome { rootfs, layer }) => {
                        if let Some(layer) = &layer {
                            publish(id, layer);
                        }
                        shared.with(|b| {
                            b.running -= 1;
                            b.states.insert(id, rootfs);
                            if let Some(layer) = layer {
                                b.layers.insert(id, layer);
                            }
                        });
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
