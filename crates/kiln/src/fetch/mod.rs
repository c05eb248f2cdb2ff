//! What comes from web servers and git repositories, brought into the store.
//!
//! Names are resolved early ([`http::file`], [`git::resolve`]): after that, a build knows by digest or commit what it
//! will get. Trees of commits are fetched late ([`git::tree`]), when a step that is not in the cache reads them.

mod auth;
pub(crate) mod git;
pub(crate) mod http;

use auth::authorization;
pub(crate) use auth::host;

use crate::address::{GitTimes, Url};
use crate::context::Fetched;
use crate::engine::Engine;
use crate::error::{Error, FileContext as _, Result};
use crate::request::{BuildRequest, ContextSource};

/// Build argument that keeps `.git` of a build context, as in BuildKit.
const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// What a server is asked for: the two have secrets of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A file: `HTTP_AUTH_HEADER_host` and `HTTP_AUTH_TOKEN_host` in BuildKit.
    File,
    /// A repository: `GIT_AUTH_HEADER` and `GIT_AUTH_TOKEN` in BuildKit.
    #[cfg_attr(not(feature = "git"), allow(dead_code, reason = "without git nobody asks for one"))]
    Repository,
}

/// Brings a build context that lies elsewhere; `None` when it does not.
///
/// # Errors
/// When it cannot be had.
pub(crate) fn context(engine: &Engine, request: &BuildRequest) -> Result<Option<Fetched>> {
    let within = |what: &dyn std::fmt::Display| format!("cannot use `{what}` as a build context");
    match &request.context {
        ContextSource::Git(address) => {
            let kept = request
                .build_args
                .get(KEEP_GIT_DIR)
                .is_some_and(|v| matches!(v.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"));
            let keep = kept || address.keep_git_dir == Some(true);
            let found = git::resolve(engine, address, keep)
                .and_then(|commit| Ok((git::tree(engine, &commit)?, commit)));
            let (tree, commit) = found.map_err(|e| e.within(within(address)))?;
            Ok(Some(Fetched::Directory {
                dir: tree.dir,
                name: format!("{address} ({})", commit.commit.get(..12).unwrap_or(&commit.commit)),
                time: Some(tree.time),
                // As in BuildKit: who asks for a time of the image wants that of the commit, not of the checkout.
                stamped: address.times == GitTimes::Commit || request.source_date_epoch.is_some(),
            }))
        }
        ContextSource::Http(url) => {
            let file = http::file(engine, url, None).map_err(|e| e.within(within(url)))?;
            let path = engine.store.blob_path(&file.digest)?;
            let open = std::fs::File::open(&path).on("open", &path)?;
            Ok(Some(Fetched::File { file: open, name: url.to_string(), time: file.last_modified }))
        }
        _ => Ok(None),
    }
}

/// Wraps a failure of the network in the words of a build.
fn failed(url: &Url, error: kiln_remote::Error) -> Error {
    Error::from(error).within(format!("cannot fetch `{url}`"))
}
