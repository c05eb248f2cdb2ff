//! Sources of ADD that lie elsewhere: which operands they are, and what they become.

use kiln_dockerfile::instruction::Add;
use kiln_oci::Digest;

use super::lower::Lowering;
use super::stage::StageState;
use super::words::Words;
use super::{Ask, Pin, Wanted};
use crate::address::{self, GitAddress, Short, Url};
use crate::error::{Error, Place, Result};
use crate::graph::{CopyAction, CopyFrom, CopySource, FileAction};

/// What an operand of ADD is.
enum Operand {
    /// A path in the build context.
    Path,
    /// A file of a web server.
    Http(Url),
    /// A commit.
    Git(Box<GitAddress>),
}

fn operand(source: &CopySource) -> Result<Operand> {
    match GitAddress::parse(&source.path, Short::Path) {
        Some(Ok(address)) => Ok(Operand::Git(Box::new(address))),
        Some(Err(why)) => {
            let shown = address::mask(&source.path);
            Err(Error::input(format!("`{shown}` is no address of a commit: {why}")).at(source.place.clone()))
        }
        None if address::is_http(&source.path) => Ok(Operand::Http(Url::new(source.path.clone()))),
        None => Ok(Operand::Path),
    }
}

/// Refuses addresses in a COPY, which only ADD takes.
pub(super) fn refuse(actions: &[FileAction]) -> Result<()> {
    for action in actions {
        let FileAction::Copy(copy) = action else { continue };
        for source in &copy.sources {
            if !matches!(operand(source)?, Operand::Path) {
                let shown = address::mask(&source.path);
                return Err(Error::input(format!(
                    "COPY cannot take `{shown}`: it is not in the build context"
                ))
                .at(source.place.clone())
                .hint("write ADD, which takes web addresses and repositories"));
            }
        }
    }
    Ok(())
}

/// Turns the operands of `actions` that lie elsewhere into sources of their own, in the order of the operands.
pub(super) fn resolve(
    lowering: &mut Lowering<'_>,
    state: &StageState,
    add: &Add,
    actions: Vec<FileAction>,
) -> Result<Vec<FileAction>> {
    let checksum = checksum(lowering, state, add)?;
    let mut out = Vec::new();
    let mut used = false;
    for action in actions {
        let FileAction::Copy(copy) = action else {
            out.push(action);
            continue;
        };
        let template = CopyAction { sources: Vec::new(), ..copy.clone() };
        for source in copy.sources {
            let Some(action) = one(lowering, add, &template, &source, checksum.as_ref())? else {
                let last = match out.last_mut() {
                    Some(FileAction::Copy(last)) if last.from == template.from => Some(last),
                    _ => None,
                };
                match last {
                    Some(last) => last.sources.push(source),
                    None => {
                        out.push(FileAction::Copy(CopyAction { sources: vec![source], ..template.clone() }));
                    }
                }
                continue;
            };
            used = true;
            out.push(FileAction::Copy(action));
        }
    }
    match &checksum {
        Some((_, place)) if add.sources.len() != 1 => {
            Err(Error::input("`--checksum` is for one source, and there are several").at(Some(place.clone())))
        }
        Some((_, place)) if !used => {
            Err(Error::input("`--checksum` is for a web address or a repository, and this source is a path")
                .at(Some(place.clone())))
        }
        _ => Ok(out),
    }
}

fn checksum(lowering: &Lowering<'_>, state: &StageState, add: &Add) -> Result<Option<(String, Place)>> {
    let Some(written) = &add.checksum else { return Ok(None) };
    let text = Words::new(lowering, state).word(written)?;
    Ok(Some((text, lowering.source.place(written.span))))
}

/// Returns the copy of one operand; `None` for a path in the context.
fn one(
    lowering: &mut Lowering<'_>,
    add: &Add,
    template: &CopyAction,
    source: &CopySource,
    checksum: Option<&(String, Place)>,
) -> Result<Option<CopyAction>> {
    let place = source.place.clone();
    let mut unpack = false;
    let (ask, path) = match operand(source)? {
        Operand::Path => return Ok(None),
        Operand::Http(url) => {
            // An archive from elsewhere is unpacked only if that is said.
            unpack = add.unpack.as_ref().is_some_and(|unpack| unpack.value);
            (Ask::Http(url.clone(), digest(checksum)?), name(&url, template, source)?)
        }
        Operand::Git(address) => {
            let (address, keep) = commit(*address, lowering, add, checksum, source)?;
            (Ask::Git(Box::new(address), keep), "/".to_owned())
        }
    };
    let from = match lowering.pins.get(&ask.key()) {
        Some(Pin::Http(file)) => CopyFrom::Http(file.clone()),
        Some(Pin::Git(commit)) => CopyFrom::Git(commit.clone()),
        // The rest is lowered meanwhile, so that everything is asked for at once; the plan is made again then.
        _ => {
            lowering.want_elsewhere(ask, address::mask(&source.path), place.clone());
            template.from.clone()
        }
    };
    let source = CopySource { instruction: source.instruction, path, place };
    Ok(Some(CopyAction { from, sources: vec![source], unpack, ..template.clone() }))
}

/// Returns the digest that `--checksum` wants a file to have.
fn digest(checksum: Option<&(String, Place)>) -> Result<Option<Digest>> {
    let Some((text, place)) = checksum else { return Ok(None) };
    let bad = |why: &str| {
        Error::input(format!("`{text}` is not a checksum: {why}"))
            .at(Some(place.clone()))
            .hint("write `sha256:` and the 64 digits that `sha256sum` prints")
    };
    let digest: Digest = text.parse().map_err(|_| bad("it is no digest"))?;
    if digest.algorithm() != "sha256" {
        return Err(bad("only sha256 is supported"));
    }
    Ok(Some(digest))
}

/// Returns the name of a file in the image.
fn name(url: &Url, template: &CopyAction, source: &CopySource) -> Result<String> {
    // A name that reads as a pattern for other names is none that a COPY could ask for.
    match address::file_name(url.reveal()).filter(|name| !name.contains(['[', '\\'])) {
        Some(name) => Ok(name),
        None if template.dest.ends_with('/') => {
            Err(Error::input(format!("`{url}` does not say how the file is to be called"))
                .at(source.place.clone())
                .hint(format!("name it in the destination: `{}NAME`", template.dest)))
        }
        None => Ok("__unnamed__".to_owned()),
    }
}

/// Puts together what address and options say about a commit.
fn commit(
    mut address: GitAddress,
    lowering: &Lowering<'_>,
    add: &Add,
    checksum: Option<&(String, Place)>,
    source: &CopySource,
) -> Result<(GitAddress, bool)> {
    if let Some((text, place)) = checksum {
        address.require(text).map_err(|why| Error::input(why).at(Some(place.clone())))?;
    }
    let keep = match (&add.keep_git_dir, address.keep_git_dir) {
        (Some(option), Some(said)) if option.value != said => {
            let place = lowering.source.place(option.span);
            return Err(Error::input("`--keep-git-dir` and the address say different things").at(Some(place)));
        }
        (Some(option), _) => option.value,
        (None, said) => said == Some(true),
    };
    if address.fetch_by_commit && address.checksum.is_none() {
        return Err(Error::input("`fetch-by-commit` needs `checksum`").at(source.place.clone()));
    }
    Ok((address, keep))
}

impl Lowering<'_> {
    fn want_elsewhere(&mut self, ask: Ask, name: String, place: Option<Place>) {
        let key = ask.key();
        if !self.wanted.iter().any(|wanted| wanted.key() == key) {
            self.wanted.push(Wanted {
                name,
                ask,
                platform: self.request.target_platform(),
                place,
                similar: None,
            });
        }
    }
}
