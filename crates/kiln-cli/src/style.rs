//! Colour: on a terminal that wants it, nowhere else.

/// Whether words are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Text only.
    Plain,
    /// Colour by ANSI sequences.
    Coloured,
}

const BOLD_RED: &str = "1;31";
const BOLD_YELLOW: &str = "1;33";
const BOLD_CYAN: &str = "1;36";
const BOLD: &str = "1";
const GREEN: &str = "32";
const DIM: &str = "2";

impl Style {
    /// Tells whether words are coloured.
    pub(crate) fn is_coloured(self) -> bool {
        self == Self::Coloured
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Coloured => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        }
    }

    /// Paints the word `error` and what failed.
    pub(crate) fn error(self, text: &str) -> String {
        self.paint(BOLD_RED, text)
    }

    /// Paints the word `warning`.
    pub(crate) fn warning(self, text: &str) -> String {
        self.paint(BOLD_YELLOW, text)
    }

    /// Paints the words before a cause.
    pub(crate) fn cause(self, text: &str) -> String {
        self.paint(BOLD, text)
    }

    /// Paints the word `hint`.
    pub(crate) fn hint(self, text: &str) -> String {
        self.paint(BOLD_CYAN, text)
    }

    /// Paints what went well.
    pub(crate) fn good(self, text: &str) -> String {
        self.paint(GREEN, text)
    }

    /// Paints what matters less.
    pub(crate) fn dim(self, text: &str) -> String {
        self.paint(DIM, text)
    }
}
