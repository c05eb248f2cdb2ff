//! Operands with their variables replaced, by the variables of a stage.

use kiln_dockerfile::expand::{ExpandError, Expanded, expand_heredoc, expand_word, expand_words};
use kiln_dockerfile::instruction::Pair;
use kiln_dockerfile::{Heredoc, Span, Spanned};

use super::lower::Lowering;
use super::stage::StageState;
use super::vars::Vars;
use crate::error::Result;

/// Expands words of one instruction, all with the variables as they were before it.
pub(super) struct Words<'a, 'b> {
    lowering: &'a Lowering<'b>,
    vars: &'a Vars,
}

impl<'a, 'b> Words<'a, 'b> {
    pub(super) fn new(lowering: &'a Lowering<'b>, state: &'a StageState) -> Self {
        Self { lowering, vars: &state.vars }
    }

    fn result(&self, result: std::result::Result<Expanded, ExpandError>, span: Span) -> Result<String> {
        result.map(|e| e.text).map_err(|e| {
            let error = self.lowering.source.error(e.at(span));
            match e.missing.filter(|name| self.lowering.global(name).is_some()) {
                Some(name) => error.hint(format!(
                    "`{name}` has a value above the first FROM; `ARG {name}` in this stage makes it visible here"
                )),
                None => error,
            }
        })
    }

    fn lookup(&self, name: &str) -> Option<String> {
        self.vars.get(name).map(str::to_owned)
    }

    pub(super) fn word(&self, word: &Spanned<String>) -> Result<String> {
        let escape = self.lowering.source.tree.directives.escape();
        self.result(expand_word(&word.value, escape, &|n| self.lookup(n)), word.span)
    }

    pub(super) fn list(&self, word: &Spanned<String>) -> Result<Vec<String>> {
        let escape = self.lowering.source.tree.directives.escape();
        expand_words(&word.value, escape, &|n| self.lookup(n))
            .map(|e| e.words)
            .map_err(|e| self.lowering.source.error(e.at(word.span)))
    }

    pub(super) fn pairs(&self, pairs: &[Pair]) -> Result<Vec<(String, String)>> {
        pairs.iter().map(|pair| Ok((self.word(&pair.key)?, self.word(&pair.value)?))).collect()
    }

    pub(super) fn optional(&self, word: Option<&Spanned<String>>) -> Result<Option<String>> {
        word.map(|w| self.word(w)).transpose()
    }

    pub(super) fn heredoc(&self, heredoc: &Heredoc) -> Result<Vec<u8>> {
        let content = heredoc.content();
        if !heredoc.expand {
            return Ok(content.into_owned().into_bytes());
        }
        let expanded = expand_heredoc(&content, &|n| self.lookup(n));
        self.result(expanded, heredoc.body.span).map(String::into_bytes)
    }
}
