//! What a step finds below it, without asking the whole chain again at every step.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::makes_layer;
use crate::error::{Error, Result};
use crate::files::{LayerIndex, LayerIndexes};
use crate::graph::{Op, Plan, VertexId};
use crate::rootfs::Layer;

/// What the chains of a plan share.
pub(super) struct Below {
    /// Of every vertex, the first of its chain.
    bases: Vec<VertexId>,
    /// Of every vertex, whether it or something below it is a command.
    executes: Vec<bool>,
    /// Of every vertex, how many have it as their parent.
    children: Vec<usize>,
    /// Entries of the layers that were made up to a vertex and including it.
    indexes: Mutex<BTreeMap<VertexId, LayerIndexes>>,
}

impl Below {
    /// Looks at all chains once; a parent always comes before its children.
    pub(super) fn new(plan: &Plan) -> Self {
        let count = plan.vertices.len();
        let (mut bases, mut executes) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let mut children = vec![0; count];
        for (id, vertex) in plan.vertices.iter().enumerate() {
            bases.push(vertex.parent.map_or(id, |parent| bases[parent]));
            let below = vertex.parent.is_some_and(|parent| executes[parent]);
            executes.push(below || matches!(vertex.op, Op::Exec(_)));
            if let Some(parent) = vertex.parent {
                children[parent] += 1;
            }
        }
        Self { bases, executes, children, indexes: Mutex::default() }
    }

    /// Returns the first vertex of the chain of `id`.
    pub(super) fn base(&self, id: VertexId) -> VertexId {
        self.bases[id]
    }

    /// Tells whether `id` or something below it is a command.
    pub(super) fn executes(&self, id: VertexId) -> bool {
        self.executes[id]
    }

    /// Returns the entries of the layers that the chain of `id` made below `id`; `layers` are all layers there,
    /// and `read` reads one that is new.
    pub(super) fn indexes(
        &self,
        plan: &Plan,
        id: VertexId,
        layers: &[Arc<Layer>],
        read: &dyn Fn(&Layer) -> Result<LayerIndex>,
    ) -> Result<LayerIndexes> {
        let mut known = LayerIndexes::default();
        let mut new = Vec::new();
        let mut layers = layers.iter().rev();
        let mut at = plan.vertices[id].parent;
        while let Some(below) = at.filter(|below| makes_layer(&plan.vertices[*below].op)) {
            if let Some(found) = self.find(below) {
                known = found;
                break;
            }
            let layer =
                layers.next().ok_or_else(|| Error::internal("a step has fewer layers than steps below"))?;
            new.push((below, layer));
            at = plan.vertices[below].parent;
        }
        for (_, layer) in new.iter().rev() {
            known = known.with(read(layer)?);
        }
        if let Some((top, _)) = new.first() {
            self.lock().insert(*top, known.clone());
        }
        Ok(known)
    }

    /// Returns what is known at `id`, and forgets it where nobody else will ask.
    fn find(&self, id: VertexId) -> Option<LayerIndexes> {
        let mut indexes = self.lock();
        if self.children[id] > 1 { indexes.get(&id).cloned() } else { indexes.remove(&id) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<VertexId, LayerIndexes>> {
        self.indexes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
