//! The system calls that neither std nor rustix offers, each as a safe function on plain types.
#![expect(unsafe_code, reason = "these calls exist only behind the C interface")]

pub(crate) mod inspect;
pub(crate) mod landlock;
pub(crate) mod notify;
pub(crate) mod raw;
mod signals;

use std::convert::Infallible;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_long, c_ulong};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::Pid;

pub(crate) use signals::{Event, Signals, default_signals, die_of};

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

fn check(answer: c_long) -> Result<c_long, Errno> {
    if answer < 0 { Err(last_errno()) } else { Ok(answer) }
}

/// Returns the magic link of a descriptor.
pub(crate) fn proc_fd(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

/// The namespaces that a new process may start in, as flags of clone(2).
pub(crate) const NEW_MOUNT: c_int = libc::CLONE_NEWNS;
pub(crate) const NEW_USER: c_int = libc::CLONE_NEWUSER;
pub(crate) const NEW_SANDBOX: c_int =
    libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
pub(crate) const NEW_NETWORK: c_int = libc::CLONE_NEWNET;

/// Forks into new namespaces; `None` is returned in the child.
///
/// `clone` and not `clone3`, because the profiles of container engines answer ENOSYS to the latter, and never `unshare`,
/// because CRI-O removes it. The caller must be single-threaded, as helpers are: a lock that another thread
/// holds would stay locked in the child.
pub(crate) fn clone(namespaces: c_int) -> Result<Option<Pid>, Errno> {
    let flags = c_ulong::from((namespaces | libc::SIGCHLD).cast_unsigned());
    let none: c_ulong = 0;
    // SAFETY: without CLONE_VM and with no new stack this is fork: the child goes on with a copy of everything.
    // The order of the last arguments differs between architectures, but all are zero.
    let answer = unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) };
    let pid = check(answer)?;
    Ok(Pid::from_raw(i32::try_from(pid).unwrap_or_default()))
}

/// Ends this process at once, running no destructor or exit handler: in a forked child they belong to the parent.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor from 3 on. Only for a helper that has just started and owns none of them yet.
pub(crate) fn close_inherited() {
    // SAFETY: nothing in this process has opened a descriptor yet, so none is used after.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    if answer < 0 {
        for fd in 3..1024 {
            // SAFETY: as above.
            unsafe { libc::close(fd) };
        }
    }
}

/// Makes every descriptor from 3 on close at exec.
pub(crate) fn close_at_exec() {
    /// `CLOSE_RANGE_CLOEXEC`, which libc does not have everywhere.
    const CLOEXEC: u32 = 4;
    // SAFETY: only a flag of descriptors changes. Failure is harmless: all of ours are opened with that flag.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, CLOEXEC) };
}

/// Takes standard input away as a descriptor of its own and puts `/dev/null` in its place.
pub(crate) fn take_stdin(null: &impl AsFd) -> Result<OwnedFd, Errno> {
    // SAFETY: descriptor 0 is open, or the call fails.
    let fd = check(unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3) }.into())?;
    // SAFETY: replaces descriptor 0, which std treats as always there and owned by nobody.
    check(unsafe { libc::dup2(null.as_fd().as_raw_fd(), 0) }.into())?;
    let fd = c_int::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: the descriptor was made by F_DUPFD_CLOEXEC just now.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes over a descriptor that the parent process left open under this number.
pub(crate) fn adopt_fd(number: c_int) -> Option<OwnedFd> {
    if number < 3 {
        return None;
    }
    // SAFETY: asks for flags; an unused number answers EBADF.
    check(unsafe { libc::fcntl(number, libc::F_GETFD) }.into()).ok()?;
    // SAFETY: it is open, above the standard ones, and this process has just started: nobody else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Removes a variable from the environment; only before the first thread starts.
pub(crate) fn remove_variable(name: &str) {
    // SAFETY: the caller is single-threaded, so nobody reads the environment meanwhile.
    unsafe { std::env::remove_var(name) };
}

/// Sets attributes of a mount and, if asked, of those below it.
pub(crate) fn mount_setattr(
    mount: impl AsFd,
    recursive: bool,
    attributes: MountAttributes,
) -> Result<(), Errno> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    /// `AT_RECURSIVE`, the same on every architecture.
    const RECURSIVE: c_int = 0x8000;
    let userns_fd = attributes.userns.map_or(0, |fd| u64::from(fd.as_raw_fd().cast_unsigned()));
    let attr = MountAttr { set: attributes.set, clear: 0, propagation: 0, userns_fd };
    let flags = libc::AT_EMPTY_PATH | if recursive { RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string and the structure outlives the call; its size is passed along.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    check(answer).map(drop)
}

/// What [`mount_setattr`] sets.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MountAttributes<'fd> {
    set: u64,
    userns: Option<BorrowedFd<'fd>>,
}

impl<'fd> MountAttributes<'fd> {
    pub(crate) const READ_ONLY: Self = Self { set: 0x1, userns: None };
    pub(crate) const INERT: Self = Self { set: 0x2 | 0x4, userns: None };
    pub(crate) const NO_EXEC: Self = Self { set: 0x8, userns: None };

    /// Shifts owners by the map of a user namespace.
    pub(crate) fn idmap(userns: BorrowedFd<'fd>) -> Self {
        Self { set: 0x0010_0000, userns: Some(userns) }
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self { set: self.set | other.set, userns: self.userns.or(other.userns) }
    }
}

/// Brings up the loopback interface of a new network namespace.
pub(crate) fn loopback_up() -> Result<(), Errno> {
    #[repr(C)]
    struct InterfaceRequest {
        name: [u8; 16],
        flags: i16,
        rest: [u8; 22],
    }
    let mut request = InterfaceRequest { name: [0; 16], flags: 0, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    request.flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or_default();
    // SAFETY: no pointers are passed.
    let fd = check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into())?;
    let fd = c_int::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: the socket was made just now.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the structure has the size and layout of `struct ifreq` with its flags filled in.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }.into())
        .map(drop)
}

/// Joins a new session keyring, so that keys of kiln's session stay out of reach.
pub(crate) fn new_session_keyring() -> Result<(), Errno> {
    /// `KEYCTL_JOIN_SESSION_KEYRING`.
    const JOIN: c_ulong = 1;
    let anonymous: c_ulong = 0;
    // SAFETY: a null name asks for an anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN, anonymous) }).map(drop)
}

/// Installs a system call filter for this process and its descendants.
pub(crate) fn install_filter(program: &[libc::sock_filter]) -> Result<(), Errno> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::TOOBIG)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    let (mode, flags): (c_ulong, c_ulong) = (libc::SECCOMP_SET_MODE_FILTER.into(), 0);
    // SAFETY: the program has as many instructions as its length says; the kernel only reads it.
    check(unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) }).map(drop)
}

/// Replaces this process; returns only on failure.
pub(crate) fn execve(path: &CStr, args: &[CString], env: &[CString]) -> Errno {
    let args = pointers(args);
    let env = pointers(env);
    // SAFETY: path and both lists are C strings, the lists end with a null, and all outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    last_errno()
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Changes permission bits without following a symlink; since Linux 6.6.
pub(crate) fn fchmodat2_nofollow(parent: BorrowedFd<'_>, name: &OsStr, mode: Mode) -> Result<(), Errno> {
    /// The same on every architecture; libc lacks it for some.
    const FCHMODAT2: c_long = 452;
    let name = CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?;
    let (parent, mode) = (parent.as_raw_fd(), mode.as_raw_mode());
    // SAFETY: the name is a valid C string for the whole call, and the descriptor is open.
    let answer = unsafe { libc::syscall(FCHMODAT2, parent, name.as_ptr(), mode, libc::AT_SYMLINK_NOFOLLOW) };
    check(answer).map(drop)
}

/// Runs the body of a forked child and ends it, whatever happens: a panic must not unwind into the parent's code.
pub(crate) fn in_child(body: impl FnOnce() -> Infallible) -> ! {
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
    match outcome {
        Ok(never) => match never {},
        Err(_) => exit_now(70),
    }
}
