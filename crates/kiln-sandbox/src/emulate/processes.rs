//! Who each process is.
//!
//! Sets of credentials are numbered, and the number of a process's set is its soft limit `RLIMIT_LOCKS`. Linux has not
//! used that limit since 2.4, copies it at fork in one step with everything else, keeps it over exec, and lets the
//! supervisor read and write it by process id. So there is no race at fork and nothing to forget when a process ends.
//! Like all limits it belongs to the process: threads with users of their own are not told apart.

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::credentials::Credentials;
use crate::sys::inspect;
use crate::sys::notify::Tracee;

/// The sets of credentials, by number.
#[derive(Debug)]
pub(super) struct Processes {
    sets: Vec<Credentials>,
    numbers: BTreeMap<Credentials, u64>,
}

impl Processes {
    /// Starts with the user of the step, whom every process is that has an unlimited limit.
    pub(super) fn new(initial: Credentials) -> Self {
        Self { numbers: BTreeMap::from([(initial.clone(), 0)]), sets: vec![initial] }
    }

    /// Returns who this process is.
    pub(super) fn of(&self, tracee: Tracee) -> Result<&Credentials, Errno> {
        let number = if self.sets.len() == 1 { 0 } else { inspect::locks_limit(tracee.number())? };
        let set = usize::try_from(number).ok().and_then(|number| self.sets.get(number));
        set.or_else(|| self.sets.first()).ok_or(Errno::SRCH)
    }

    /// Makes this process somebody else.
    pub(super) fn set(&mut self, tracee: Tracee, new: Credentials) -> Result<(), Errno> {
        let next = self.sets.len() as u64;
        let number = match self.numbers.get(&new) {
            Some(number) => *number,
            None => {
                self.numbers.insert(new.clone(), next);
                self.sets.push(new);
                next
            }
        };
        inspect::set_locks_limit(tracee.number(), (number > 0).then_some(number))
    }
}
