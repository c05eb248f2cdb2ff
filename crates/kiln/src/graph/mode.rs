//! Modes of files as `--chmod` and chmod(1) write them: an octal number, or changes such as `u=rwX,go=rX`.
//!
//! ```text
//! mode   = clause *( "," clause )
//! clause = *( "u" / "g" / "o" / "a" ) 1*( op *perm )        op   = "+" / "-" / "="
//!                                                           perm = "r" / "w" / "x" / "X" / "s" / "t" / "u" / "g" / "o"
//! ```
//!
//! The meaning is that of BSD's setmode(3), which BuildKit has too, with a umask of zero: a clause that names nobody means
//! everybody. Its odd corners are kept, because a Dockerfile has to give the same modes everywhere.

use std::fmt;

const SET_USER: u32 = 0o4000;
const SET_GROUP: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const EXECUTE: u32 = 0o111;
/// What `a` stands for: everything but the sticky bit, which has to be named.
const ALL: u32 = 0o6777;

/// What `--chmod` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// This mode, whatever a file had.
    Octal(u32),
    /// Changes to the mode that a file has.
    Symbolic(Changes),
}

/// Changes to a mode, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    text: String,
    steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Clear(u32),
    Set(u32),
    /// Set for directories, and for files that somebody could execute before.
    SetIfExecutable(u32),
    /// Gives `to` what the class at bit `from` has now.
    Copy {
        from: u32,
        to: Classes,
        op: Op,
    },
}

/// The classes of users whose bits a clause changes; the bits are those of `r`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Classes(u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    Remove,
    Assign,
}

impl Mode {
    /// Reads a mode.
    ///
    /// # Errors
    /// When it is neither a number up to 7777 nor changes to a mode; the text says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o7777 => Ok(Self::Octal(mode)),
                _ => Err("it is no octal number up to 7777".to_owned()),
            };
        }
        let mut steps = Vec::new();
        for clause in text.split(',') {
            self::clause(clause, &mut steps)?;
        }
        Ok(Self::Symbolic(Changes { text: text.to_owned(), steps }))
    }

    /// Returns the mode of an entry that had `mode`.
    #[must_use]
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Octal(new) => *new,
            Self::Symbolic(changes) => changes.apply(mode, is_directory),
        }
    }

    /// Returns the mode of a directory that is made because something has to lie in it.
    ///
    /// It has no mode to change, so only a number counts; and making a directory gives no special bits.
    #[must_use]
    pub fn of_made_directory(&self) -> u32 {
        match self {
            Self::Octal(mode) => mode & 0o777,
            Self::Symbolic(_) => 0o755,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Octal(mode) => write!(f, "{mode:o}"),
            Self::Symbolic(changes) => f.write_str(&changes.text),
        }
    }
}

/// Reads one clause and adds what it does.
fn clause(text: &str, steps: &mut Vec<Step>) -> Result<(), String> {
    let people = text.trim_start_matches(['u', 'g', 'o', 'a']);
    let named = &text[..text.len() - people.len()];
    let mut who = 0;
    for class in named.chars() {
        who |= match class {
            'u' => SET_USER | 0o700,
            'g' => SET_GROUP | 0o070,
            'o' => 0o007,
            _ => ALL,
        };
    }
    let mut rest = people;
    loop {
        let op = match rest.chars().next() {
            Some('+') => Op::Add,
            Some('-') => Op::Remove,
            Some('=') => Op::Assign,
            Some(other) => return Err(format!("`{other}` stands where `+`, `-` or `=` is expected")),
            None => return Err("it has no `+`, `-` or `=`".to_owned()),
        };
        let after = &rest[1..];
        rest = after.trim_start_matches(['r', 'w', 'x', 'X', 's', 't', 'u', 'g', 'o']);
        who = permissions(op, who & !STICKY, &after[..after.len() - rest.len()], steps);
        if rest.is_empty() {
            return Ok(());
        }
    }
}

/// Adds what `op` with the letters of `permissions` does; returns `who`, which `t` widens.
fn permissions(op: Op, mut who: u32, permissions: &str, steps: &mut Vec<Step>) -> u32 {
    let (mut bits, mut if_executable) = (0, 0);
    // `u=` clears and `u=g` copies, but `u=gr` copies, clears and sets: so says setmode(3).
    let mut assigned = false;
    let only_others = who != 0 && who & !0o007 == 0;
    for permission in permissions.chars() {
        match permission {
            'r' => bits |= 0o444,
            'w' => bits |= 0o222,
            'x' => bits |= EXECUTE,
            'X' if op == Op::Remove => bits |= EXECUTE,
            'X' => if_executable = EXECUTE,
            's' if !only_others => bits |= SET_USER | SET_GROUP,
            't' if !only_others => {
                who |= STICKY;
                bits |= STICKY;
            }
            's' | 't' => {}
            class => {
                if bits != 0 {
                    change(op, who, std::mem::take(&mut bits), steps);
                }
                assigned |= op == Op::Assign;
                set_if_executable(who, std::mem::take(&mut if_executable), steps);
                let from = match class {
                    'u' => 6,
                    'g' => 3,
                    _ => 0,
                };
                let to = Classes(if who == 0 { 0o444 } else { who & 0o444 });
                steps.push(Step::Copy { from, to, op });
            }
        }
    }
    if bits != 0 || (op == Op::Assign && !assigned) {
        change(op, who, bits, steps);
    }
    set_if_executable(who, if_executable, steps);
    who
}

fn change(op: Op, who: u32, bits: u32, steps: &mut Vec<Step>) {
    let changed = if who == 0 { bits } else { who & bits };
    match op {
        Op::Remove => steps.push(Step::Clear(changed)),
        Op::Add => steps.push(Step::Set(changed)),
        Op::Assign => {
            steps.push(Step::Clear(if who == 0 { ALL } else { who }));
            steps.push(Step::Set(changed));
        }
    }
}

fn set_if_executable(who: u32, bits: u32, steps: &mut Vec<Step>) {
    if bits != 0 {
        steps.push(Step::SetIfExecutable(if who == 0 { bits } else { who & bits }));
    }
}

impl Changes {
    fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let executable = is_directory || mode & EXECUTE != 0;
        self.steps.iter().fold(mode & 0o7777, |now, step| match *step {
            Step::Clear(bits) => now & !bits,
            Step::Set(bits) => now | bits,
            Step::SetIfExecutable(bits) => {
                if executable {
                    now | bits
                } else {
                    now
                }
            }
            Step::Copy { from, to, op } => {
                let given = to.spread(now >> from & 7);
                match op {
                    Op::Add => now | given,
                    Op::Remove => now & !given,
                    Op::Assign => now & !to.spread(7) | given,
                }
            }
        })
    }
}

impl Classes {
    /// Returns the three bits of a class for each of these classes.
    fn spread(self, bits: u32) -> u32 {
        [6, 3, 0].into_iter().filter(|shift| self.0 & (4 << shift) != 0).map(|shift| bits << shift).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, mode: u32, is_directory: bool, expect: u32) {
        let found = Mode::parse(text).unwrap().apply(mode, is_directory);
        assert_eq!(found, expect, "{text} on {mode:o}: {found:o}, expected {expect:o}");
    }

    #[test]
    fn changes_to_files() {
        for (text, mode, expect) in [
            ("+x", 0o644, 0o755),
            ("a+x", 0o644, 0o755),
            ("a-w", 0o666, 0o444),
            ("-w", 0o777, 0o555),
            ("u=rwX,go=rX", 0o600, 0o644),
            ("u=rwX,go=rX", 0o700, 0o755),
            ("u=rwX,go=rX", 0o610, 0o755),
            ("u+x,g-r,o=", 0o644, 0o700),
            ("o=u", 0o750, 0o757),
            ("g=u", 0o740, 0o770),
            ("g+u", 0o741, 0o771),
            ("u-g", 0o750, 0o250),
            ("go=u-w", 0o700, 0o755),
            ("=r", 0o4777, 0o444),
            ("=", 0o6777, 0),
            ("=", 0o1777, 0o1000),
            ("u=", 0o4755, 0o055),
            ("u+s", 0o755, 0o4755),
            ("g+s", 0o755, 0o2755),
            ("+s", 0o755, 0o6755),
            ("o+s", 0o755, 0o755),
            ("+t", 0o755, 0o1755),
            ("a+t", 0o755, 0o1755),
            ("o+t", 0o755, 0o755),
            ("-t", 0o1777, 0o777),
            ("a-x,+X", 0o755, 0o755),
            ("-X", 0o755, 0o644),
            ("u=gw", 0o750, 0o250),
            ("u+rw-x", 0o100, 0o600),
            ("", 0o755, 0),
        ] {
            if text.is_empty() {
                continue;
            }
            check(text, mode, false, expect);
        }
    }

    #[test]
    fn directories_count_as_executable() {
        check("u=rwX,go=rX", 0o600, true, 0o755);
        check("+X", 0o600, true, 0o711);
        check("+X", 0o600, false, 0o600);
        check("a=rX", 0o000, true, 0o555);
    }

    #[test]
    fn numbers_replace_the_mode() {
        check("755", 0o4600, false, 0o755);
        check("4755", 0o600, true, 0o4755);
        check("0", 0o777, false, 0);
        assert_eq!(Mode::parse("4750").unwrap().of_made_directory(), 0o750);
        assert_eq!(Mode::parse("go-rwx").unwrap().of_made_directory(), 0o755);
    }

    #[test]
    fn what_is_no_mode() {
        for text in [
            "", ",", "u", "u+x,", "+x,,", "x", "u+q", "rwx", "u+755", "-755", "9", "10000", "0x7", "a b",
            "u +x", "ü=r",
        ] {
            assert!(Mode::parse(text).is_err(), "{text}");
        }
    }
}
