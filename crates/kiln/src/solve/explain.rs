//! Why a step is not in the cache: its key compared, part by part, with that of the same step in an earlier build.
//!
//! The earlier build is the last one of the same thing on this machine or, where none is known, the one that wrote the shared
//! cache; of that, only fingerprints of values are known. Steps are found again by stage and instruction or,
//! where the instruction itself changed, by their place in the stage. What changed is said in the words of the
//! Dockerfile: this variable, that file, another base. A step that only lies on top of a change names the step where
//! the change is.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use kiln_dockerfile::lint::looks_secret;

use super::{Prepared, makes_layer};
use crate::cache::Answer;
use crate::graph::{Op, VertexId};
use crate::key::{BELOW, Earlier, FILES, FROM, Part, VARIABLE};

/// Changes that are told one by one; of more only the number is said.
const TOLD: usize = 5;

/// Compares the files of a context that an earlier step took with those of today, and tells what differs.
pub(super) type Files<'a> = dyn Fn(VertexId, &Earlier, &Part) -> Vec<String> + 'a;

/// The explanations of all steps that the cache does not have.
pub(super) struct Explainer<'a> {
    prepared: &'a Prepared<'a>,
    earlier: &'a [Earlier],
    counterparts: BTreeMap<VertexId, usize>,
    files: &'a Files<'a>,
}

impl<'a> Explainer<'a> {
    /// Finds the needed steps again in an earlier build, which may be empty.
    pub(super) fn new(prepared: &'a Prepared<'a>, earlier: &'a [Earlier], files: &'a Files<'a>) -> Self {
        let title = |id: VertexId| prepared.plan.vertices[id].meta.title.as_str();
        let old: Vec<&str> = earlier.iter().map(|e| e.title.as_str()).collect();
        let new: Vec<(VertexId, &str)> = prepared.needed.iter().map(|id| (*id, title(*id))).collect();
        Self { prepared, earlier, counterparts: counterparts(&new, &old), files }
    }

    /// Returns the reasons of all steps that have to run.
    pub(super) fn reasons(&self) -> BTreeMap<VertexId, String> {
        let needed = self.prepared.needed.iter().copied();
        let runs = |id: &VertexId| {
            makes_layer(&self.prepared.plan.vertices[*id].op) && self.prepared.hit(*id).is_none()
        };
        needed.filter(runs).filter_map(|id| Some((id, self.reason(id)?))).collect()
    }

    /// Returns why step `id` is not taken from the cache, in one sentence without a period; nothing is known of a
    /// step without an earlier build.
    fn reason(&self, id: VertexId) -> Option<String> {
        if self.prepared.anew[id] {
            let asked = self.prepared.plan.vertices[id].fresh;
            let reason = if asked { "done anew as asked" } else { "built from what is done anew as asked" };
            return Some(reason.to_owned());
        }
        match self.prepared.answers.get(&id) {
            Some(Answer::Gone) => return Some("its layer was deleted from the cache".to_owned()),
            Some(Answer::Expired(age)) => return Some(format!("its result is {} old", shown_age(*age))),
            Some(Answer::Hit(_) | Answer::Absent) | None => {}
        }
        if self.earlier.is_empty() {
            return None;
        }
        let Some(old) = self.counterparts.get(&id).map(|at| &self.earlier[*at]) else {
            return Some("the step is new".to_owned());
        };
        let changes = self.changes(id, old);
        if changes.is_empty() {
            return Some("its result was deleted from the cache".to_owned());
        }
        let told = changes.len().min(TOLD);
        let more = match changes.len() - told {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        Some(changes[..told].join("; ") + &more)
    }

    /// Returns what of the key of `id` is not as it was.
    fn changes(&self, id: VertexId, old: &Earlier) -> Vec<String> {
        let new = &self.parts(id, old)[..];
        // A fingerprint says nothing to a reader.
        let shown = |value: &'_ str| old.is_exact.then(|| value.to_owned());
        let mut changes = Vec::new();
        for (part, was) in differences(&old.parts, new) {
            let name = part.name.as_str();
            if name == "instruction" || name == "image" {
                continue;
            }
            if name == BELOW {
                changes.extend(self.prepared.plan.vertices[id].parent.map(|parent| self.cause(parent)));
            } else if let Some(title) = name.strip_prefix(FROM).map(str::trim_start) {
                let source = self.prepared.plan.inputs(id).into_iter();
                let titled = |id: &VertexId| self.prepared.plan.vertices[*id].meta.title == title;
                changes.extend(source.clone().find(titled).map(|source| self.cause(source)));
            } else if let (Some(path), Some(_)) = (name.strip_prefix(FILES), was) {
                let files = (self.files)(id, old, part);
                if files.is_empty() {
                    changes.push(format!("files of `{}` changed", path.trim_start()));
                }
                changes.extend(files);
            } else {
                changes.push(match (was, shown(&part.value)) {
                    (was, Some(is)) => sentence(name, was, Some(&is)),
                    (Some(_), None) => format!("{} changed", quoted(name)),
                    (None, None) => format!("{} is new", quoted(name)),
                });
            }
        }
        let gone = |old: &&Part| !new.iter().any(|part| part.name == old.name);
        let skip = |old: &&Part| old.name != BELOW && !old.name.starts_with(FROM);
        changes.extend(
            old.parts
                .iter()
                .filter(gone)
                .filter(skip)
                .map(|part| sentence(&part.name, Some(&part.value), None)),
        );
        changes.dedup();
        changes
    }

    /// Returns what the key of `id` is made from, in the form in which the parts of `old` are.
    fn parts(&self, id: VertexId, old: &Earlier) -> Cow<'a, [Part]> {
        let parts = &self.prepared.keys.steps[id].parts;
        if old.is_exact {
            return Cow::Borrowed(parts);
        }
        Cow::Owned(parts.iter().map(Part::fingerprint).collect())
    }

    /// Returns where a change below comes from: the lowest step whose own parts changed.
    fn cause(&self, id: VertexId) -> String {
        let vertex = &self.prepared.plan.vertices[id];
        let title = &vertex.meta.title;
        let old = self.counterparts.get(&id).map(|at| &self.earlier[*at]);
        if let Op::Image(image) = &vertex.op {
            let was = old.and_then(|old| old.parts.iter().find(|part| part.name == "image"));
            return match was.and_then(|was| was.value.rsplit_once('@')) {
                Some((name, digest)) if name == image.name && digest != image.digest.as_str() => {
                    format!("base image `{name}` moved from {digest} to {}", image.digest)
                }
                Some((name, _)) if name != image.name => {
                    format!("base image is `{}`, was `{name}`", image.name)
                }
                _ => format!("base image `{}` changed", image.name),
            };
        }
        let lower = |name: &str| name == BELOW || name.starts_with(FROM);
        let own = old.is_none_or(|old| {
            differences(&old.parts, &self.parts(id, old)).any(|(part, _)| !lower(&part.name))
        });
        match vertex.parent.filter(|_| !own) {
            Some(parent) if old.is_some_and(|old| changed(old, &self.parts(id, old), BELOW)) => {
                self.cause(parent)
            }
            _ => format!("changed below, at `{title}`"),
        }
    }
}

/// Returns parts of `new` that are not in `old` as they are, with the value that they had.
fn differences<'a>(old: &'a [Part], new: &'a [Part]) -> impl Iterator<Item = (&'a Part, Option<&'a str>)> {
    // Names may repeat, as of several paths: the n-th of a name is compared with the n-th.
    let nth = |parts: &'a [Part], name: &str, n: usize| parts.iter().filter(|p| p.name == name).nth(n);
    new.iter().enumerate().filter_map(move |(at, part)| {
        let n = new[..at].iter().filter(|p| p.name == part.name).count();
        let was = nth(old, &part.name, n).map(|part| part.value.as_str());
        (was != Some(part.value.as_str())).then_some((part, was))
    })
}

fn changed(old: &Earlier, new: &[Part], name: &str) -> bool {
    differences(&old.parts, new).any(|(part, _)| part.name == name)
}

/// Says how a part changed; absent is that it is not there.
fn sentence(name: &str, was: Option<&str>, is: Option<&str>) -> String {
    let name = quoted(name);
    // A digest says nothing to a reader.
    let plain = |value: &str| !value.starts_with("sha256:");
    match (was, is) {
        (Some(was), Some(is)) if name == "kiln" => {
            format!("kiln writes layers in another way: {was}, now {is}")
        }
        (Some(was), Some(is)) if plain(was) && plain(is) && !hidden(&name) => {
            format!("{name} was `{was}`, is `{is}`")
        }
        (None, Some(is)) if plain(is) && !hidden(&name) => format!("{name} is new: `{is}`"),
        (None, _) => format!("{name} is new"),
        (Some(_), None) => format!("{name} is gone"),
        (Some(_), Some(_)) => format!("{name} changed"),
    }
}

/// Puts the name of a variable into quotes.
fn quoted(name: &str) -> String {
    match name.strip_prefix(VARIABLE) {
        Some(variable) => format!("{VARIABLE} `{}`", variable.trim_start()),
        None => name.to_owned(),
    }
}

/// Tells whether only a fingerprint is known of a part's value.
fn hidden(name: &str) -> bool {
    let variable = name.strip_prefix(VARIABLE).map(|name| name.trim_matches([' ', '`']));
    name.starts_with("secret") || variable.is_some_and(looks_secret)
}

/// Finds every new step in the old ones: by stage and instruction, else by stage and number.
fn counterparts(new: &[(VertexId, &str)], old: &[&str]) -> BTreeMap<VertexId, usize> {
    let mut found = BTreeMap::new();
    let mut taken = vec![false; old.len()];
    for by_instruction in [true, false] {
        let name = |title: &str| match Title::of(title) {
            Some(title) if by_instruction => format!("{}] {}", title.stage, title.instruction),
            Some(title) => format!("{} {}", title.stage, title.number),
            // `FROM name (digest)`: a base that moved has another digest.
            None if by_instruction => title.split(" (").next().unwrap_or(title).to_owned(),
            None => title.split(' ').next().unwrap_or(title).to_owned(),
        };
        let mut places: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, title) in old.iter().enumerate().rev().filter(|(at, _)| !taken[*at]) {
            places.entry(name(title)).or_default().push(at);
        }
        for (id, title) in new {
            if found.contains_key(id) {
                continue;
            }
            if let Some(at) = places.get_mut(&name(title)).and_then(Vec::pop) {
                taken[at] = true;
                found.insert(*id, at);
            }
        }
    }
    found
}

/// `[stage 2/5] RUN make`, taken apart; the stage may be absent.
struct Title<'a> {
    stage: &'a str,
    number: &'a str,
    instruction: &'a str,
}

impl<'a> Title<'a> {
    fn of(title: &'a str) -> Option<Self> {
        let (head, instruction) = title.strip_prefix('[')?.split_once("] ")?;
        let (stage, count) = head.rsplit_once(' ').unwrap_or(("", head));
        Some(Self { stage, number: count.split('/').next()?, instruction })
    }
}

fn shown_age(age: Duration) -> String {
    let hours = age.as_secs() / 3600;
    match hours {
        0 => format!("{} min", age.as_secs() / 60),
        1..48 => format!("{hours} h"),
        _ => format!("{} days", hours / 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_found_by_instruction_and_then_by_place() {
        let old = ["FROM a (0123)", "[build 2/4] RUN x", "[build 3/4] RUN y", "[2/2] RUN x"];
        let new = [
            (0, "FROM a (4567)"),
            (1, "[build 2/5] COPY . ."),
            (2, "[build 3/5] RUN x"),
            (3, "[build 4/5] RUN y"),
            (4, "[2/2] RUN z"),
        ];
        let found = counterparts(&new, &old);
        assert_eq!(found, BTreeMap::from([(0, 0), (2, 1), (3, 2), (4, 3)]));
    }

    #[test]
    fn changes_are_told_in_words() {
        let digest = kiln_oci::Digest::sha256(b"x").to_string();
        let table: [(&str, Option<&str>, Option<&str>, &str); 8] = [
            ("variable V", Some("1"), Some("2"), "variable `V` was `1`, is `2`"),
            ("variable V", None, Some("2"), "variable `V` is new: `2`"),
            ("variable V", Some("1"), None, "variable `V` is gone"),
            ("user", Some(""), Some("app"), "user was ``, is `app`"),
            ("script /x", Some(&digest), Some(&digest), "script /x changed"),
            ("variable API_TOKEN", Some("abc"), Some("abd"), "variable `API_TOKEN` changed"),
            ("variable API_TOKEN", None, Some("abd"), "variable `API_TOKEN` is new"),
            ("secret a", Some("abc"), Some("abd"), "secret a changed"),
        ];
        for (name, was, is, expect) in table {
            assert_eq!(sentence(name, was, is), expect);
        }
    }

    #[test]
    fn parts_of_one_name_are_compared_in_order() {
        let part = |name: &str, value: &str| Part { name: name.to_owned(), value: value.to_owned() };
        let old = [part("path", "/a"), part("path", "/b")];
        let new = [part("path", "/a"), part("path", "/c"), part("path", "/d")];
        let found: Vec<_> = differences(&old, &new).map(|(p, was)| (p.value.clone(), was)).collect();
        assert_eq!(found, [("/c".to_owned(), Some("/b")), ("/d".to_owned(), None)]);
    }
}
