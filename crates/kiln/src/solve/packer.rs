//! Packing a layer on a thread of its own, while later steps run.

use std::sync::Arc;

use kiln_oci::Digest;
use kiln_oci::layer::LayerWriter;

use super::Prepared;
use super::schedule::Shared;
use crate::cache;
use crate::cancel::Stoppable;
use crate::error::{Error, Result};
use crate::graph::VertexId;
use crate::key::Key;
use crate::progress::{Event, Work, span};
use crate::rootfs::{Failure, Layer, Packed, Rootfs};
use crate::store::{BlobWriter, StepLock};

/// Where a layer is written to.
pub(super) type Output<'a> = Stoppable<&'a mut BlobWriter>;

/// The root file systems that a step works on, in the order of its key.
pub(super) type Inputs = Vec<Arc<Rootfs>>;

/// What a packing thread takes along.
pub(super) struct Packer<'scope, 'env> {
    prepared: &'env Prepared<'env>,
    shared: &'scope Shared,
    id: VertexId,
    inputs: Inputs,
    /// Held until the result is in the cache.
    _lock: StepLock,
}

impl<'scope, 'env> Packer<'scope, 'env> {
    /// Returns the packer of step `id`, which works on `inputs`.
    pub(super) fn new(
        prepared: &'env Prepared<'env>,
        shared: &'scope Shared,
        id: VertexId,
        inputs: Inputs,
        lock: StepLock,
    ) -> Self {
        Self { prepared, shared, id, inputs, _lock: lock }
    }

    /// Writes a layer with `fill`, tells whoever waits for it, and then the cache.
    pub(super) fn pack(
        &self,
        layer: &Arc<Layer>,
        mut blob: BlobWriter,
        snapshot: Option<String>,
        fill: impl FnOnce(&mut LayerWriter<Output<'_>>) -> Result<()>,
    ) {
        let number = self.prepared.step(self.id);
        let sink = &self.prepared.engine.sink;
        // A build of hundreds of small steps would otherwise pack them all at once, each with its own buffers. A packer
        // waits for no other before it has written its layer, so some of them always go on.
        let turn = self.shared.packers.turn();
        let written = span(sink, Work::Pack, "pack", Some(number), || self.write(&mut blob, fill));
        drop(turn);
        let packed = match written {
            Ok(packed) => blob.finish(&packed.descriptor).map(|()| packed),
            Err(error) => {
                // Before readers of the blob learn of it, so that their failure is never taken for the first.
                self.failed(&error);
                blob.fail(&error.message);
                return layer.packed.settle(&Err(error));
            }
        };
        // The key by content waits for the layers of the inputs, and nobody shall wait for that.
        layer.packed.settle(&packed);
        if let Err(error) = packed.and_then(|packed| self.record(layer, &packed, snapshot.as_deref())) {
            self.failed(&error);
        }
    }

    fn failed(&self, error: &Error) {
        let place = self.prepared.plan.vertices[self.id].meta.place.clone();
        let failure = Failure::of(error).error().at(place);
        let id = self.prepared.step(self.id);
        self.prepared.engine.sink.event(Event::Failed { id, message: error.message.clone() });
        if self.shared.fail(failure) {
            self.prepared.engine.cancel.cancel();
        }
    }

    fn write(
        &self,
        blob: &mut BlobWriter,
        fill: impl FnOnce(&mut LayerWriter<Output<'_>>) -> Result<()>,
    ) -> Result<Packed> {
        let engine = self.prepared.engine;
        let failed = |e| Error::layer("cannot write the layer", e);
        let blob = engine.cancel.writer(blob);
        let mut writer = LayerWriter::new(blob, engine.compression, engine.workers).map_err(failed)?;
        fill(&mut writer)?;
        let finished = writer.finish().map_err(failed)?;
        Ok(Packed { descriptor: finished.descriptor, diff_id: finished.diff_id })
    }

    fn record(&self, layer: &Arc<Layer>, packed: &Packed, snapshot: Option<&str>) -> Result<()> {
        let Packed { descriptor, diff_id } = packed.clone();
        let id = self.prepared.step(self.id);
        self.prepared.engine.sink.event(Event::Layer { id, layer: descriptor, diff_id });
        let by_content = by_content(&self.prepared.keys.steps[self.id], &self.inputs)?;
        self.prepared.remember_files(self.id);
        let made = cache::now().as_secs();
        self.prepared.put(self.id, (Some(&by_content), Some(made)), layer, packed, snapshot)
    }
}

/// Returns the key of a step by what its inputs hold, as soon as they are packed.
pub(super) fn by_content(key: &Key, inputs: &[Arc<Rootfs>]) -> Result<Digest> {
    let diff_ids = |rootfs: &Arc<Rootfs>| {
        rootfs.layers.iter().map(|l| l.packed.wait().map(|packed| packed.diff_id)).collect()
    };
    let inputs = inputs.iter().map(diff_ids).collect::<Result<Vec<Vec<Digest>>>>()?;
    Ok(key.by_content(inputs.iter().map(Vec::as_slice)))
}
