//! FROM: its variables, its platform, its image.

use super::graph::{Base, from_vars};
use super::{Linter, Pinning};
use crate::diagnostic::{Diagnostic, Fix, quote};
use crate::expand::{Expanded, expand_word};
use crate::parser::Stage;
use crate::source::{Span, Spanned};

pub(super) fn check(linter: &mut Linter<'_>) {
    let tree = linter.file.tree;
    for (index, stage) in tree.stages.iter().enumerate() {
        let from = &stage.from.instruction;
        undefined(linter, &from.image);
        if let Some(platform) = &from.platform {
            undefined(linter, platform);
            self::platform(linter, stage, platform);
        }
        if linter.graph.is_needed(index) {
            base(linter, index, stage);
        }
    }
    default_values(linter);
}

fn undefined(linter: &mut Linter<'_>, word: &Spanned<String>) {
    let Some(found) = linter.graph.expand(linter.file.tree, word) else { return };
    for name in found.undefined.iter().filter(|name| !linter.graph.declared.contains(*name)) {
        let (graph, input) = (linter.graph, linter.input);
        let known = graph.declared.iter().chain(input.globals.keys());
        let message = format!("`${name}` is not declared above the first FROM, so it is empty");
        let help = match linter.suggest(name, known) {
            Some(near) => format!("did you mean `${near}`?"),
            None => format!("add `ARG {name}=<default>` above the first FROM"),
        };
        linter.warn("UndefinedArgInFrom", word.span, message, help);
    }
}

fn platform(linter: &mut Linter<'_>, stage: &Stage, word: &Spanned<String>) {
    let Some(found) = linter.graph.expand(linter.file.tree, word) else { return };
    if found.used.is_empty() && found.undefined.is_empty() {
        return constant(linter, stage, word, &found);
    }
    let only = found.undefined.is_empty() && found.used.iter().eq(["TARGETPLATFORM"]);
    if only && linter.graph.from_vars.get("TARGETPLATFORM") == Some(&found.text) {
        let message = format!("`--platform={}` is what FROM does without it", word.value);
        let finding = Diagnostic::warning("RedundantTargetPlatform", word.span, message);
        let fix = flag_span(linter.file.source, word.span).map(|span| Fix::replace(span, ""));
        linter.report(finding.with_help("leave the flag out").with_fix(fix));
    }
}

/// A stage whose name says for which platform it is has a reason to fix it.
fn constant(linter: &mut Linter<'_>, stage: &Stage, word: &Spanned<String>, found: &Expanded) {
    let Some(platform) = (linter.input.grammar.platform)(&found.text) else { return };
    let name = stage.name.as_ref().map_or("", |name| name.value.as_str());
    if name.contains(&platform.os) || name.contains(&platform.architecture) {
        return;
    }
    let message = format!("the stage is always for {}, whatever platform is built for", quote(&found.text));
    let help = "use `$BUILDPLATFORM` or `$TARGETPLATFORM`, or name the stage after the platform";
    linter.warn("FromPlatformFlagConstDisallowed", word.span, message, help);
}

/// The whole flag with the blanks after it.
fn flag_span(source: &str, value: Span) -> Option<Span> {
    const FLAG: &str = "--platform=";
    let before = source.get(..value.start)?;
    let start = before.strip_suffix(FLAG)?.len();
    let after = source.get(value.end..)?;
    let blanks = after.len() - after.trim_start_matches([' ', '\t']).len();
    (blanks > 0).then(|| Span::new(start, value.end + blanks))
}

/// Facts about the base image, and whether it is pinned.
fn base(linter: &mut Linter<'_>, index: usize, stage: &Stage) {
    let Some(Base::Image { name, .. }) = linter.graph.bases.get(index) else { return };
    if linter.input.contexts.contains(&name.to_ascii_lowercase()) {
        return;
    }
    let span = stage.from.instruction.image.span;
    if linter.input.pinning == Pinning::Digest && !name.contains('@') {
        let message = format!("{} names no digest, so it can be another image tomorrow", quote(name));
        let help = "write `<image>:<tag>@sha256:…`; the digest is what the registry calls it now";
        linter.warn("UnpinnedBase", span, message, help);
    }
    let Some(facts) = linter.input.bases.get(&index) else {
        return linter.unchecked("InvalidBaseImagePlatform", name, span);
    };
    let Some(found) = facts.platform.as_ref().filter(|found| **found != facts.wanted) else { return };
    let message = format!(
        "{} is for {}/{}, and {}/{} is built for",
        quote(name),
        found.os,
        found.architecture,
        facts.wanted.os,
        facts.wanted.architecture
    );
    let help = "take an image that is there for the platform, or fix it with `--platform`";
    linter.warn("InvalidBaseImagePlatform", span, message, help);
}

/// What FROM gives with the defaults of ARG alone must be possible: it is what people build first.
fn default_values(linter: &mut Linter<'_>) {
    let tree = linter.file.tree;
    let vars = from_vars(tree, linter.input, None);
    let lookup = |name: &str| vars.get(name).cloned();
    for stage in &tree.stages {
        let image = &stage.from.instruction.image;
        if !image.value.contains('$') {
            continue;
        }
        let Ok(found) = expand_word(&image.value, tree.directives.escape(), &lookup) else { continue };
        if (linter.input.grammar.reference)(&found.text) {
            continue;
        }
        let message = match found.text.as_str() {
            "" => format!("without build arguments, {} is empty", quote(&image.value)),
            text => format!("without build arguments, {} is {}", quote(&image.value), quote(text)),
        };
        let help = "give the ARG above the first FROM a default that makes a valid image name";
        linter.warn("InvalidDefaultArgInFrom", image.span, message, help);
    }
}
