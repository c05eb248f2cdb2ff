//! What the kernel answers where a sandbox is impossible, why, and the one change that helps: the table behind every such error.
//!
//! An errno alone says little: EPERM on a clone may be a seccomp profile, a chroot or a sysctl. Which of them it is
//! is looked up on this machine, so that the error names one cause. The whole table is for people who set machines up.

use rustix::io::Errno;
use serde::Serialize;

use crate::error::Error;

/// A kernel answer and what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// What was attempted.
    pub step: Step,
    /// The answer, by its name.
    pub errno: &'static str,
    /// Why it is given.
    pub cause: &'static str,
    /// The change that helps; empty where none does.
    pub remedy: &'static str,
    /// Tells whether this is the cause here, where one errno has several.
    #[serde(skip)]
    when: When,
}

/// What is attempted on the way to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// clone(2) with CLONE_NEWUSER.
    UserNamespace,
    /// The first mount in a new user namespace.
    Mount,
    /// mount(2) of an overlay.
    Overlay,
    /// mount_setattr(2) with an id map.
    IdMap,
    /// seccomp(2) with a listener.
    Supervise,
}

impl Step {
    /// Returns it in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::UserNamespace => "create a user namespace",
            Self::Mount => "mount in it",
            Self::Overlay => "mount an overlay",
            Self::IdMap => "shift owners of layers",
            Self::Supervise => "supervise system calls",
        }
    }
}

const fn answer(
    step: Step,
    errno: &'static str,
    cause: &'static str,
    remedy: &'static str,
    when: When,
) -> Answer {
    Answer { step, errno, cause, remedy, when }
}

/// Where a cause can be the one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    InChroot,
    UnderSeccomp,
}

impl When {
    fn is_now(self) -> bool {
        match self {
            Self::Always => true,
            Self::InChroot => in_chroot(),
            Self::UnderSeccomp => under_seccomp(),
        }
    }
}

/// Everything that is known, the more special causes first.
pub const ANSWERS: [Answer; 17] = [
    answer(
        Step::UserNamespace,
        "ENOSPC",
        "the limit `user.max_user_namespaces` of this machine is 0 or used up",
        "raise it: sysctl -w user.max_user_namespaces=28633",
        When::Always,
    ),
    answer(
        Step::UserNamespace,
        "EPERM",
        "the kernel refuses user namespaces inside a chroot",
        "start kiln outside of the chroot, or enter the directory with pivot_root instead",
        When::InChroot,
    ),
    answer(
        Step::UserNamespace,
        "EPERM",
        "a seccomp profile forbids it, as the default profile of Docker and containerd does",
        "give the container kiln's profile, which adds namespaces and mounts to the default one: in Kubernetes \
         `securityContext.seccompProfile: {type: Localhost, localhostProfile: kiln.json}`, in Docker \
         `--security-opt seccomp=kiln.json`; `kiln doctor --profile seccomp` prints it",
        When::UnderSeccomp,
    ),
    answer(
        Step::UserNamespace,
        "EPERM",
        "a policy of this machine forbids it to ordinary users",
        "allow it (sysctl kernel.unprivileged_userns_clone=1, or an AppArmor profile with `userns,` for kiln)",
        When::Always,
    ),
    answer(Step::UserNamespace, "EINVAL", "this kernel is built without user namespaces", "", When::Always),
    answer(Step::UserNamespace, "ENOSYS", "this kernel is built without user namespaces", "", When::Always),
    answer(Step::Mount, "EPERM", POWERLESS, ALLOW_MOUNTS, When::Always),
    answer(Step::Mount, "EACCES", POWERLESS, ALLOW_MOUNTS, When::Always),
    answer(
        Step::Overlay,
        "EINVAL",
        "its file system cannot be an overlay's upper layer, as when it is an overlay or NFS itself",
        "put kiln's store (--store) on ext4, xfs, btrfs or tmpfs: in a container, on a volume",
        When::Always,
    ),
    answer(Step::Overlay, "EPERM", NO_OVERLAY, "update the kernel, or allow mounts to kiln", When::Always),
    answer(Step::Overlay, "EACCES", NO_OVERLAY, "update the kernel, or allow mounts to kiln", When::Always),
    answer(
        Step::Overlay,
        "ENODEV",
        "this kernel has no overlay file system",
        "load it as root: modprobe overlay",
        When::Always,
    ),
    answer(Step::Overlay, "EOVERFLOW", "an owner of the layers is outside of the id map", "", When::Always),
    answer(
        Step::IdMap,
        "EINVAL",
        "its file system does not support idmapped mounts",
        "put kiln's store (--store) on ext4, xfs or btrfs, or start kiln as an ordinary user",
        When::Always,
    ),
    answer(Step::IdMap, "EPERM", "this root does not own the file system", "", When::Always),
    answer(
        Step::IdMap,
        "ENOSYS",
        "overlays over idmapped layers need Linux 5.19",
        "start kiln as an ordinary user",
        When::Always,
    ),
    answer(
        Step::Supervise,
        "EBUSY",
        "the system calls of this container are supervised already",
        "start kiln outside of that container: one supervisor is all that the kernel allows",
        When::Always,
    ),
];

const POWERLESS: &str =
    "the user namespace exists but is powerless: AppArmor, SELinux or seccomp denies mounts";
const ALLOW_MOUNTS: &str =
    "allow mounts to kiln: an AppArmor profile with `flags=(unconfined) { userns, }`, or run kiln with sudo";
const NO_OVERLAY: &str =
    "the kernel is older than 5.11, or a policy denies overlay mounts in user namespaces";

/// Adds cause and remedy to the error of a step, where they are known.
pub(crate) fn explain(step: Step, error: Error) -> Error {
    let name = match error.errno.map(Errno::from_raw_os_error) {
        Some(Errno::OPNOTSUPP) => "EINVAL",
        Some(errno) => name(errno),
        None => return error,
    };
    let found = ANSWERS.iter().find(|a| a.step == step && a.errno == name && a.when.is_now());
    match found {
        Some(answer) if answer.remedy.is_empty() => error.cause(answer.cause),
        Some(answer) => error.cause(answer.cause).hint(answer.remedy),
        None => error,
    }
}

fn name(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM => "EPERM",
        Errno::ACCESS => "EACCES",
        Errno::INVAL => "EINVAL",
        Errno::NOSPC => "ENOSPC",
        Errno::NOSYS => "ENOSYS",
        Errno::NODEV => "ENODEV",
        Errno::OVERFLOW => "EOVERFLOW",
        Errno::BUSY => "EBUSY",
        _ => "",
    }
}

fn under_seccomp() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Seccomp:") && line.ends_with('2')))
}

fn in_chroot() -> bool {
    // Inside a chroot the root of pid 1 is another directory, if it may be looked at; the mount table starting
    // elsewhere than at `/` is the sign that every user can read.
    std::fs::read_to_string("/proc/self/mountinfo")
        .is_ok_and(|table| !table.lines().any(|line| line.split(' ').nth(4) == Some("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_can_be_given() {
        // One that stands behind a more general one of the same step and errno would never be told.
        for (index, answer) in ANSWERS.iter().enumerate() {
            let hides = |earlier: &&Answer| {
                (earlier.step, earlier.errno) == (answer.step, answer.errno)
                    && (earlier.when == When::Always || earlier.when == answer.when)
            };
            assert_eq!(ANSWERS[..index].iter().find(hides), None, "{answer:?}");
        }
    }

    #[test]
    fn an_errno_gets_its_cause_and_its_remedy() {
        let error = explain(Step::UserNamespace, Error::new("x").errno(Errno::NOSPC));
        assert!(error.cause.unwrap().contains("max_user_namespaces"));
        assert!(error.hint.unwrap().contains("sysctl"));
        assert_eq!(explain(Step::Overlay, Error::new("x").errno(Errno::IO)).cause, None);
        assert_eq!(explain(Step::Overlay, Error::new("x").errno(Errno::OVERFLOW)).hint, None);
    }
}
