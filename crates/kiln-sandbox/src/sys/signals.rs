//! Signals as events on a descriptor, for processes that only wait.

use std::ffi::c_int;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd};

use rustix::io::Errno;

/// What the waiting processes of this crate listen to.
const WATCHED: [c_int; 8] = [
    libc::SIGCHLD,
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
];

/// A signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its number.
    pub(crate) signal: c_int,
    /// Whether a process sent it; otherwise the kernel did, as for ^C, which the whole terminal group has got.
    pub(crate) by_process: bool,
}

/// The watched signals, blocked and readable from a descriptor until this is dropped.
#[derive(Debug)]
pub(crate) struct Signals(OwnedFd);

impl Signals {
    /// Blocks the watched signals in this process and in children that do not undo it.
    pub(crate) fn watch() -> Result<Self, Errno> {
        let set = set_of(&WATCHED);
        // SAFETY: the set is initialised and the old mask is not asked for.
        let answer = unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        super::check(answer.into())?;
        // SAFETY: the set is initialised; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC) };
        super::check(fd.into())?;
        // SAFETY: the descriptor was made just now.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Waits for the next signal.
    pub(crate) fn next(&self) -> Result<Event, Errno> {
        // `struct signalfd_siginfo`: 128 bytes, number at 0, code at 8.
        let mut record = [0; 128];
        loop {
            match rustix::io::read(&self.0, &mut record) {
                Ok(128) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        let word =
            |at: usize| i32::from_ne_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
        // SI_USER is 0 and the other codes of processes are negative; those of the kernel are positive.
        Ok(Event { signal: word(0), by_process: word(8) <= 0 })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let set = set_of(&WATCHED);
        // SAFETY: the set is initialised and the old mask is not asked for.
        unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Gives every signal its default action and blocks none, as a fresh login would.
pub(crate) fn default_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is always valid; signals that cannot be changed answer EINVAL.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let none = set_of(&[]);
    // SAFETY: the set is initialised and the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
}

/// Ends this process by a signal, so that its parent sees the truth; falls back to the shell's number for it.
pub(crate) fn die_of(signal: c_int) -> ! {
    default_signals();
    // The child has dumped core already if it had to.
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    // SAFETY: raise has no preconditions.
    unsafe { libc::raise(signal) };
    super::exit_now(128 + signal)
}

fn set_of(signals: &[c_int]) -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for &signal in signals {
        // SAFETY: the set is initialised and the signal number is valid.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: initialised above.
    unsafe { set.assume_init() }
}
