//! Fetching one commit: its objects as a pack on disk, without its history where the server can do that.

use std::num::NonZeroU32;
use std::path::Path;

use gix_hash::ObjectId;
use gix_protocol::fetch::negotiate::{Action, Round, one_round};
use gix_protocol::fetch::{Arguments, Context, Negotiate, Options, Response, Shallow, Tags};
use gix_utils::progress::Discard;

use crate::error::{Error, Kind, Result};
use crate::objects::Objects;
use crate::references::agent;
use crate::remote::Remote;

/// Asks for objects, and says that there are none here.
struct Wants(Vec<ObjectId>);

impl Negotiate for Wants {
    fn mark_complete_and_common_ref(&mut self) -> gix_error::Result<Action> {
        Ok(Action::MustNegotiate { remote_ref_target_known: vec![false; self.0.len()] })
    }

    fn add_wants(&mut self, arguments: &mut Arguments, _: &[bool]) -> bool {
        for id in &self.0 {
            arguments.want(id);
        }
        !self.0.is_empty()
    }

    fn one_round(
        &mut self,
        _: &mut one_round::State,
        _: &mut Arguments,
        _: Option<&Response>,
    ) -> gix_error::Result<(Round, bool)> {
        let round = Round {
            haves_sent: 0,
            in_vain: 0,
            haves_to_send: 0,
            previous_response_had_at_least_one_in_common: false,
        };
        Ok((round, true))
    }
}

impl Remote {
    /// Brings `commit`, which `object` (itself, or an annotated tag) leads to, into the directory `into`.
    ///
    /// A single object larger than `limit` bytes is refused.
    ///
    /// # Errors
    /// When the server cannot be reached, or does not have the commit or does not give it away.
    pub fn fetch(&self, object: ObjectId, commit: ObjectId, into: &Path, limit: usize) -> Result<Objects> {
        let one = Shallow::DepthAtRemote(NonZeroU32::MIN);
        let first = match self.pack(vec![object], &one, into, limit) {
            Ok(objects) if objects.has(commit) => return Ok(objects),
            Ok(_) => None,
            Err(error) if matches!(error.kind, Kind::Unauthorized | Kind::Machine) => return Err(error),
            Err(error) => Some(error),
        };
        // Some servers give away only what a reference names, and some know no shallow fetches. What every server
        // can do is to send everything. One that cannot be reached says so here.
        let mut tips: Vec<ObjectId> =
            self.references(&["refs/heads/", "refs/tags/"])?.into_iter().map(|r| r.object).collect();
        tips.sort_unstable();
        tips.dedup();
        // Apart from what the first attempt left: a server is told of nothing that would make it send less.
        let all = into.join("all");
        std::fs::create_dir(&all).map_err(|e| Error::disk("create", &all, e))?;
        match (self.pack(tips, &Shallow::NoChange, &all, limit), first) {
            (Ok(objects), _) if objects.has(commit) => Ok(objects),
            (Err(_), Some(first)) => Err(first),
            _ => Err(Error::content(format!("`{}` has no commit {commit}, or gives it to nobody", self.url))),
        }
    }

    fn pack(&self, wants: Vec<ObjectId>, shallow: &Shallow, into: &Path, limit: usize) -> Result<Objects> {
        let mut connected = self.connect()?;
        let mut handshake = self.handshake(&mut connected)?;
        let mut written = None;
        let context = Context {
            handshake: &mut handshake,
            transport: &mut connected.transport,
            user_agent: agent(),
            trace_packetlines: false,
        };
        let options = Options {
            shallow_file: into.join("shallow"),
            shallow,
            tags: Tags::None,
            reject_shallow_remote: false,
        };
        let write = gix_pack::bundle::write::Options {
            thread_limit: Some(2),
            alloc_limit_bytes: Some(limit),
            ..gix_pack::bundle::write::Options::default()
        };
        let fetched = gix_protocol::fetch(
            &mut Wants(wants),
            |reader, progress, stop| {
                let none: Option<gix_object::find::Never> = None;
                let outcome = gix_pack::Bundle::write_to_directory(
                    reader,
                    Some(into),
                    progress,
                    stop,
                    none,
                    gix_hash::Kind::Sha1,
                    write,
                )?;
                written = Some(outcome);
                Ok(true)
            },
            Discard,
            &self.stop,
            context,
            options,
        );
        fetched.map_err(|e| self.failed(&connected, e))?;
        let outcome = written.ok_or_else(|| Error::content(format!("`{}` sent no objects", self.url)))?;
        let bundle = outcome
            .to_bundle()
            .ok_or_else(|| Error::content(format!("`{}` sent an empty pack", self.url)))?
            .map_err(|e| Error::library("cannot read the objects that were sent", e))?;
        Ok(Objects::new(bundle))
    }
}
