//! Supervision of system calls: a filter with a listener, what the listener hears, and what it may answer.
//!
//! ```text
//! command     listen(program) ── listener, by SCM_RIGHTS ──> supervisor
//!   │                                                          │ receive()       what is called, by whom
//!   │ a call that the program answers with NOTIFY, stopped     │ Tracee::read()  what its pointers point to
//!   │                                                          │ is_alive()      whether that was still the caller
//!   └ goes on                            <── answer() ─────────┘
//! ```
//!
//! What is read from the caller's memory may be changed by another of its threads before the kernel reads it. So an
//! answer of [`Answer::Continue`] must be right whatever the memory holds by then: it is a convenience for the
//! command and no wall. See seccomp_unotify(2).

use std::ffi::{c_int, c_long, c_ulong};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;

use libc::sock_filter;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::check;

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
const NEW_LISTENER: c_ulong = 1 << 3;
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, since Linux 5.19: once the supervisor has heard of a call, only a
/// deadly signal takes it back. Without it, programs that use signals much (Go) may repeat a call that was done.
const WAIT_KILLABLE: c_ulong = 1 << 5;

/// Requests of ioctl(2) on a listener: `_IOWR('!', 0, struct seccomp_notif)` and so on.
const RECEIVE: u32 = 0xC050_2100;
const SEND: u32 = 0xC018_2101;
const ID_VALID: u32 = 0x4008_2102;
const ADD_FD: u32 = 0x4018_2103;
const SET_FLAGS: u32 = 0x4008_2104;

/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
const CONTINUE: u32 = 1;
/// `SECCOMP_ADDFD_FLAG_SEND`, since Linux 5.14.
const ADD_FD_AND_SEND: u32 = 1 << 1;
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`, since Linux 6.6.
const SYNC_WAKE_UP: u64 = 1;

/// The end of a filter where calls are heard and answered. Poll it for reading; it hangs up when no process is left below the filter.
#[derive(Debug)]
pub(crate) struct Listener(OwnedFd);

/// A call that waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Notification {
    /// Names the call towards the kernel.
    pub(crate) id: u64,
    /// The calling thread, as this process numbers it; 0 when it is outside of this process's pid namespace.
    pub(crate) tracee: Tracee,
    /// Number of the call.
    pub(crate) call: c_long,
    /// `AUDIT_ARCH_*` of the caller.
    pub(crate) architecture: u32,
    /// Arguments as they were passed, 64 bits each; an `int` may have anything in its upper half.
    pub(crate) arguments: [u64; 6],
}

/// What a call is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It succeeded with this value.
    Value(i64),
    /// It failed.
    Fail(Errno),
    /// The kernel shall do it as if nobody had asked.
    Continue,
}

impl Notification {
    /// Returns an argument that is an `int` or `unsigned`.
    #[expect(clippy::cast_possible_truncation, reason = "the upper half of such an argument means nothing")]
    pub(crate) fn word(&self, index: usize) -> u32 {
        self.arguments.get(index).copied().unwrap_or_default() as u32
    }

    /// Returns an argument that is a pointer or a `size_t`.
    pub(crate) fn long(&self, index: usize) -> u64 {
        self.arguments.get(index).copied().unwrap_or_default()
    }
}

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Default)]
struct Request {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    architecture: u32,
    instruction: u64,
    arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// `struct seccomp_notif_addfd`.
#[repr(C)]
struct AddFd {
    id: u64,
    flags: u32,
    source: u32,
    target: u32,
    target_flags: u32,
}

/// Installs a filter for this thread and its descendants, and returns the end where its calls are heard.
///
/// Needs CAP_SYS_ADMIN or no_new_privs. EBUSY means that a filter with a listener is there already: a process can have one.
pub(crate) fn listen(program: &[sock_filter]) -> Result<Listener, Errno> {
    match install(program, NEW_LISTENER | WAIT_KILLABLE) {
        Err(Errno::INVAL) => install(program, NEW_LISTENER),
        answer => answer,
    }
}

fn install(program: &[sock_filter], flags: c_ulong) -> Result<Listener, Errno> {
    let length = u16::try_from(program.len()).map_err(|_| Errno::TOOBIG)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    let mode: c_ulong = libc::SECCOMP_SET_MODE_FILTER.into();
    // SAFETY: the program has as many instructions as its length says; the kernel only reads it.
    let fd = check(unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) })?;
    let fd = c_int::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel made the descriptor just now, with close-on-exec.
    Ok(Listener(unsafe { OwnedFd::from_raw_fd(fd) }))
}

impl Listener {
    /// Takes a listener that came from another process.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Makes caller and supervisor change places on one processor, which halves the time of an answer. Does nothing on kernels
    /// before 6.6.
    pub(crate) fn wake_synchronously(&self) {
        // SAFETY: the kernel takes the flags by value, and refuses a request that it does not know.
        let _ = unsafe { libc::ioctl(self.0.as_raw_fd(), SET_FLAGS as _, SYNC_WAKE_UP) };
    }

    /// Returns the next call; `None` when the caller was killed meanwhile. Blocks when there is none.
    pub(crate) fn receive(&self) -> Result<Option<Notification>, Errno> {
        // The kernel insists on zeroes.
        let mut request = Request::default();
        // SAFETY: the structure has the size and layout that the request's number says.
        let answer = unsafe { libc::ioctl(self.0.as_raw_fd(), RECEIVE as _, &raw mut request) };
        match check(answer.into()) {
            Ok(_) => {}
            Err(Errno::NOENT | Errno::INTR) => return Ok(None),
            Err(errno) => return Err(errno),
        }
        Ok(Some(Notification {
            id: request.id,
            tracee: Tracee(i32::try_from(request.pid).unwrap_or_default()),
            call: request.number.into(),
            architecture: request.architecture,
            arguments: request.arguments,
        }))
    }

    /// Tells whether the caller still waits: only then was what its process id led to really its own.
    pub(crate) fn is_alive(&self, id: u64) -> bool {
        // SAFETY: the kernel reads eight bytes.
        unsafe { libc::ioctl(self.0.as_raw_fd(), ID_VALID as _, &raw const id) == 0 }
    }

    /// Answers a call. ENOENT means that the caller was killed.
    pub(crate) fn answer(&self, id: u64, answer: Answer) -> Result<(), Errno> {
        let response = match answer {
            Answer::Value(value) => Response { id, value, error: 0, flags: 0 },
            Answer::Fail(errno) => Response { id, value: 0, error: -errno.raw_os_error(), flags: 0 },
            Answer::Continue => Response { id, value: 0, error: 0, flags: CONTINUE },
        };
        // SAFETY: the structure has the size and layout that the request's number says; the kernel reads it.
        let answer = unsafe { libc::ioctl(self.0.as_raw_fd(), SEND as _, &raw const response) };
        check(answer.into()).map(drop)
    }

    /// Answers a call with a copy of `fd`: its number in the caller is the value. Done in one step since Linux 5.14;
    /// before, EINVAL, and the call still waits.
    pub(crate) fn answer_with_fd(&self, id: u64, fd: impl AsFd, close_on_exec: bool) -> Result<(), Errno> {
        let target_flags = if close_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 };
        let source = fd.as_fd().as_raw_fd().cast_unsigned();
        let add = AddFd { id, flags: ADD_FD_AND_SEND, source, target: 0, target_flags };
        // SAFETY: the structure has the size and layout that the request's number says; the descriptor is open.
        let answer = unsafe { libc::ioctl(self.0.as_raw_fd(), ADD_FD as _, &raw const add) };
        check(answer.into()).map(drop)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A thread below a filter, and its memory.
///
/// Reading and writing needs the rights of ptrace(2): to be root of the user namespace around the thread's own will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tracee(i32);

/// No page is smaller; reads that end at a page's end fail as a whole or not at all.
const PAGE: u64 = 4096;

impl Tracee {
    /// Returns its number in this process's pid namespace, as in `/proc/NUMBER`.
    pub(crate) fn number(self) -> i32 {
        self.0
    }

    /// Fills `into` from the memory at `address`. EFAULT when not all of it is there.
    pub(crate) fn read(self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        let length = self.read_some(address, into)?;
        if length == into.len() { Ok(()) } else { Err(Errno::FAULT) }
    }

    fn read_some(self, address: u64, into: &mut [u8]) -> Result<usize, Errno> {
        let (local, remote) = (vector(into.as_mut_ptr(), into.len()), remote(address, into.len())?);
        // SAFETY: the local vector is the slice, which nobody else uses; the remote one is checked by the kernel.
        let answer = unsafe { libc::process_vm_readv(self.0, &raw const local, 1, &raw const remote, 1, 0) };
        match check(answer as c_long) {
            Err(Errno::PERM) => self.memory(|file| file.read_at(into, address)),
            answer => answer.map(|length| usize::try_from(length).unwrap_or_default()),
        }
    }

    /// Reaches the memory as a file: profiles of container engines (Docker 20.10) forbid the calls that are made for it.
    fn memory(self, act: impl FnOnce(&std::fs::File) -> std::io::Result<usize>) -> Result<usize, Errno> {
        let path = format!("/proc/{}/mem", self.0);
        let file = std::fs::File::options().read(true).write(true).open(path).map_err(|_| Errno::PERM)?;
        act(&file).map_err(|_| Errno::FAULT)
    }

    /// Writes `bytes` to the memory at `address`. EFAULT when it cannot be written there.
    pub(crate) fn write(self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let (local, remote) = (vector(bytes.as_ptr().cast_mut(), bytes.len()), remote(address, bytes.len())?);
        // SAFETY: the kernel only reads the local vector, which is the slice; the remote one is checked by the kernel.
        let answer = unsafe { libc::process_vm_writev(self.0, &raw const local, 1, &raw const remote, 1, 0) };
        let length = match check(answer as c_long) {
            Err(Errno::PERM) => self.memory(|file| file.write_at(bytes, address))?,
            answer => usize::try_from(answer?).unwrap_or_default(),
        };
        if length == bytes.len() { Ok(()) } else { Err(Errno::FAULT) }
    }

    /// Reads a string that ends with a zero byte, without it, as the kernel reads a path: ENAMETOOLONG when it is not
    /// shorter than `most` bytes.
    pub(crate) fn read_string(self, address: u64, most: usize) -> Result<Vec<u8>, Errno> {
        let mut text = Vec::new();
        let mut chunk = [0; 256];
        while text.len() < most {
            let at = address.checked_add(text.len() as u64).ok_or(Errno::FAULT)?;
            // The page behind the string's end need not exist.
            let in_page = usize::try_from(PAGE - at % PAGE).unwrap_or(1);
            let room = in_page.min(chunk.len()).min(most - text.len());
            let part = chunk.get_mut(..room).ok_or(Errno::FAULT)?;
            self.read(at, part)?;
            if let Some(end) = part.iter().position(|&byte| byte == 0) {
                text.extend_from_slice(&part[..end]);
                return Ok(text);
            }
            text.extend_from_slice(part);
        }
        Err(Errno::NAMETOOLONG)
    }
}

fn vector(start: *mut u8, length: usize) -> libc::iovec {
    libc::iovec { iov_base: start.cast(), iov_len: length }
}

fn remote(address: u64, length: usize) -> Result<libc::iovec, Errno> {
    let address = usize::try_from(address).map_err(|_| Errno::FAULT)?;
    Ok(vector(std::ptr::without_provenance_mut(address), length))
}

/// Passes a descriptor to the process at the other end of a socket.
pub(crate) fn send_fd(socket: &UnixStream, fd: impl AsFd) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let byte = [IoSlice::new(b"f")];
    rustix::io::retry_on_intr(|| sendmsg(socket, &byte, &mut ancillary, SendFlags::NOSIGNAL)).map(drop)
}

/// Waits for a descriptor; `None` when the other end closed, or sent none.
pub(crate) fn receive_fd(socket: &UnixStream) -> Result<Option<OwnedFd>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let mut into = [IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| recvmsg(socket, &mut into, &mut ancillary, flags))?;
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::{ALLOW, LOAD, NOTIFY, NUMBER, RETURN, for_call, statement};
    use rustix::fs::{CWD, Mode, OFlags};

    /// Runs `calls` on a thread below a filter that asks about `watched`, and `supervise` on what it asks.
    fn supervised<T: Send + 'static>(
        watched: &[c_long],
        calls: impl FnOnce() -> T + Send + 'static,
        mut supervise: impl FnMut(&Listener, Notification),
    ) -> T {
        let mut program = vec![statement(LOAD, NUMBER)];
        for &call in watched {
            for_call(&mut program, call, vec![statement(RETURN, NOTIFY)]);
        }
        program.push(statement(RETURN, ALLOW));
        let (ours, theirs) = UnixStream::pair().unwrap();
        let thread = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            let listener = listen(&program).unwrap();
            send_fd(&theirs, &listener).unwrap();
            drop((listener, theirs));
            calls()
        });
        let listener = Listener::new(receive_fd(&ours).unwrap().unwrap());
        assert_eq!(receive_fd(&ours).unwrap().map(drop), None);
        listener.wake_synchronously();
        while !thread.is_finished() {
            let mut fds = [rustix::event::PollFd::new(&listener, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, None).unwrap();
            if fds[0].revents().contains(rustix::event::PollFlags::HUP) {
                break;
            }
            if let Some(notification) = listener.receive().unwrap() {
                assert!(listener.is_alive(notification.id));
                supervise(&listener, notification);
            }
        }
        thread.join().unwrap()
    }

    #[test]
    fn calls_are_heard_and_answered() {
        let calls = || {
            let failed = rustix::fs::mkdirat(CWD, "/no/such/place", Mode::from_raw_mode(0o750));
            let group = rustix::process::getpgid(None).unwrap().as_raw_nonzero().get();
            (failed, group)
        };
        let mut asked = Vec::new();
        let (failed, group) = supervised(&[libc::SYS_mkdirat, libc::SYS_getpgid], calls, |listener, call| {
            let answer = if call.call == libc::SYS_mkdirat {
                asked.push((call.tracee.read_string(call.long(1), 4096).unwrap(), call.word(2)));
                Answer::Fail(Errno::DQUOT)
            } else {
                Answer::Value(4711)
            };
            listener.answer(call.id, answer).unwrap();
            assert!(!listener.is_alive(call.id));
        });
        assert_eq!((failed, group), (Err(Errno::DQUOT), 4711));
        assert_eq!(asked, [(b"/no/such/place".to_vec(), 0o750)]);
    }

    #[test]
    fn a_call_goes_on_and_another_gets_a_file() {
        let calls = || {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let null = rustix::fs::openat(CWD, "/dev/null", flags, Mode::empty()).unwrap();
            let other = rustix::fs::openat(CWD, "/no/such/file", flags, Mode::empty()).unwrap();
            let mut bytes = [1; 3];
            let zeroes = rustix::io::read(&other, &mut bytes).unwrap();
            (rustix::io::read(&null, &mut [0; 3]).unwrap(), zeroes, bytes)
        };
        let seen = supervised(&[libc::SYS_openat], calls, |listener, call| {
            if call.tracee.read_string(call.long(1), 4096).unwrap() == b"/no/such/file" {
                let zero = std::fs::File::open("/dev/zero").unwrap();
                listener.answer_with_fd(call.id, &zero, true).unwrap();
            } else {
                listener.answer(call.id, Answer::Continue).unwrap();
            }
        });
        assert_eq!(seen, (0, 3, [0; 3]));
    }

    #[test]
    fn memory_is_read_up_to_its_end_and_written() {
        let me = Tracee(rustix::process::getpid().as_raw_nonzero().get());
        let mut text = *b"a path\0behind";
        let address = text.as_mut_ptr().expose_provenance() as u64;
        assert_eq!(me.read_string(address, 4096).unwrap(), b"a path");
        assert_eq!(me.read_string(address, 6), Err(Errno::NAMETOOLONG));
        me.write(address, b"A").unwrap();
        assert_eq!(me.read_string(address, 4096).unwrap(), b"A path");
        assert_eq!(me.read_string(0, 4096), Err(Errno::FAULT));
        assert_eq!(me.write(0, b"x"), Err(Errno::FAULT));
        assert_eq!(text[0], b'A');
    }
}
