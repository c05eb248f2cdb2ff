//! Extended attributes: records are kiln's, so a command neither sees them in lists nor sets them.
//!
//! A command that copies files with all attributes would otherwise copy records, and owners with them.

use rustix::io::Errno;

use super::paths::{Last, Named};
use super::records::PRIVATE;
use super::supervisor::{AT_CWD, CONTINUE, Handled, NO_FOLLOW, Reply, Stop, Supervisor, or_kernel};
use crate::sys;
use crate::sys::notify::{Answer, Notification};

/// No list of names is longer on Linux.
const LONGEST: usize = 64 << 10;
/// No name is longer: `XATTR_NAME_MAX` and a null.
const LONGEST_NAME: usize = 256;

impl Supervisor {
    /// listxattr(2), llistxattr(2).
    pub(super) fn list_attributes(&self, call: &Notification, last: Last) -> Handled {
        let flags = if last == Last::Keep { NO_FOLLOW } else { 0 };
        let file = self.find(call, AT_CWD, call.long(0), flags)?;
        self.answer_list(call, &sys::proc_fd(&file), [1, 2])
    }

    pub(super) fn list_attributes_fd(&self, call: &Notification) -> Handled {
        self.answer_list(call, &Named::descriptor(call.tracee, call.word(0)), [1, 2])
    }

    pub(super) fn list_attributes_at(&self, call: &Notification) -> Handled {
        let file = self.find(call, call.word(0), call.long(1), call.word(2))?;
        self.answer_list(call, &sys::proc_fd(&file), [3, 4])
    }

    fn answer_list(&self, call: &Notification, through_proc: &str, [list, size]: [usize; 2]) -> Handled {
        let mut names = vec![0; LONGEST];
        let length = or_kernel(rustix::fs::listxattr(through_proc, &mut names))?;
        names.truncate(length);
        let Some(names) = without_private(&names) else { return Ok(CONTINUE) };
        let room = call.long(size);
        if room > 0 {
            if names.len() as u64 > room {
                return Err(Stop::Fail(Errno::RANGE));
            }
            self.still_there(call)?;
            call.tracee.write(call.long(list), &names)?;
        }
        Ok(Reply::Answer(Answer::Value(i64::try_from(names.len()).unwrap_or_default())))
    }

    /// Refuses to set or remove a record; `name` is the place of the pointer to the name.
    pub(super) fn change_attribute(call: &Notification, name: usize) -> Handled {
        let name = or_kernel(call.tracee.read_string(call.long(name), LONGEST_NAME))?;
        if name.starts_with(PRIVATE) { Err(Stop::Fail(Errno::PERM)) } else { Ok(CONTINUE) }
    }
}

/// Takes records out of a list of names; `None` when there are none.
fn without_private(names: &[u8]) -> Option<Vec<u8>> {
    let mut all = names.split_inclusive(|&byte| byte == 0);
    if !all.clone().any(|name| name.starts_with(PRIVATE)) {
        return None;
    }
    Some(all.by_ref().filter(|name| !name.starts_with(PRIVATE)).flatten().copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_not_listed() {
        assert_eq!(without_private(b"user.a\0security.capability\0"), None);
        let seen = without_private(b"user.a\0user.kiln.owner\0security.capability\0");
        assert_eq!(seen.as_deref(), Some(&b"user.a\0security.capability\0"[..]));
        assert_eq!(without_private(b"user.kiln.owner\0").as_deref(), Some(&b""[..]));
    }
}
