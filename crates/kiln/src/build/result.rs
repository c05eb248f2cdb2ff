//! From layers to an image, in the form that was asked for.

use std::sync::Arc;

use kiln_oci::{Digest, MAX_LAYERS};

use crate::cache::InlineCache;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::graph::{ImageSpec, Op, Plan, VertexId};
use crate::image::{Image, Parts, assemble};
use crate::progress::Event;
use crate::request::{BuildRequest, CompressionChoice};
use crate::rootfs::{Layer, Origin, Rootfs};
use crate::solve::Solved;

/// The most layers that Docker accepts: `maxLayerDepth` in moby's `layer/layer_store.go`, 127 that the overlay of some
/// storage drivers takes without two for the container. Older versions of Podman and CRI-O stop at 127.
const DOCKER_LAYERS: usize = 125;

/// Warns of an image that can be built and pushed, and then not be pulled or run; refuses one that nothing can read.
pub(super) fn count_layers(engine: &Engine, plan: &Plan, chain: &[VertexId]) -> Result<()> {
    let layers = chain.iter().map(|id| match &plan.vertices[*id].op {
        Op::Image(image) => image.layers.len(),
        Op::Exec(_) | Op::File(_) => 1,
        Op::Scratch => 0,
    });
    let layers: usize = layers.sum();
    let remedy =
        "join RUN instructions, copy more with each COPY, or copy the result of this stage into another";
    if layers > MAX_LAYERS {
        let place = chain.last().and_then(|id| plan.vertices[*id].meta.place.clone());
        return Err(Error::input(format!(
            "the image would have {layers} layers, and no more than {MAX_LAYERS} can be read back"
        ))
        .hint(remedy)
        .at(place));
    }
    if layers > DOCKER_LAYERS {
        let text = format!(
            "the image will have {layers} layers, and Docker pulls and runs none of more than {DOCKER_LAYERS} (`max depth \
             exceeded`): {remedy}"
        );
        engine.sink.event(Event::Warning { text, place: None });
    }
    Ok(())
}

/// Assembles the image, with its layers in the compression that was asked for.
pub(super) fn image(
    engine: &Engine,
    request: &BuildRequest,
    spec: &ImageSpec,
    rootfs: &Rootfs,
    solved: &Solved,
    inline: Option<&InlineCache>,
) -> Result<Image> {
    let mut layers = Vec::new();
    for layer in &rootfs.layers {
        let packed = layer.packed.wait()?;
        let force = request.force_compression;
        let converted = match request.compression {
            CompressionChoice::Estargz(level)
                if force || solved.layers.values().any(|new| Arc::ptr_eq(new, layer)) =>
            {
                engine.estargz(layer, level)?
            }
            CompressionChoice::Estargz(_) => packed.clone(),
            _ if force => engine.recompressed(layer, engine.compression)?,
            _ => packed.clone(),
        };
        let layer = match converted == packed {
            true => Arc::clone(layer),
            false => Arc::new(Layer::existing(Origin::Store, converted.clone())),
        };
        layers.push((layer, converted));
    }
    let digests: Vec<Digest> = layers.iter().map(|(_, packed)| packed.descriptor.digest.clone()).collect();
    assemble(Parts {
        config: spec.config.clone(),
        layers,
        history: spec.history.iter().map(|(text, vertex)| (text.clone(), vertex.is_some())).collect(),
        annotations: request.annotations.clone(),
        platform: spec.platform.clone(),
        epoch: engine.epoch,
        cache: inline.map(|cache| cache.value(&digests)).transpose()?,
    })
}
