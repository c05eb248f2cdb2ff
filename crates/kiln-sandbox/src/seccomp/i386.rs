//! The deny-list in the numbers of i386 programs, which an x86-64 kernel executes beside its own.
//!
//! The numbers are those of `arch/x86/entry/syscalls/syscall_32.tbl`; no library for x86-64 has them. Two things are weaker
//! than for native programs: `socketcall` has its arguments in memory, where a filter cannot look, so its families are not
//! sorted out, and it cannot be refused because C libraries use it first.

use super::Table;

pub(super) const TABLE: Table = Table {
    denied: &[
        22,  // umount
        21,  // mount
        25,  // stime
        51,  // acct
        52,  // umount2
        62,  // ustat
        74,  // sethostname
        79,  // settimeofday
        86,  // uselib
        87,  // swapon
        88,  // reboot
        101, // ioperm
        103, // syslog
        110, // iopl
        111, // vhangup
        113, // vm86old
        115, // swapoff
        121, // setdomainname
        128, // init_module
        129, // delete_module
        131, // quotactl
        135, // sysfs
        149, // _sysctl
        166, // vm86
        169, // nfsservctl
        217, // pivot_root
        253, // lookup_dcookie
        264, // clock_settime
        274, // mbind
        275, // get_mempolicy
        276, // set_mempolicy
        283, // kexec_load
        286, // add_key
        287, // request_key
        288, // keyctl
        294, // migrate_pages
        310, // unshare
        317, // move_pages
        336, // perf_event_open
        338, // fanotify_init
        342, // open_by_handle_at
        346, // setns
        349, // kcmp
        350, // finit_module
        357, // bpf
        374, // userfaultfd
        404, // clock_settime64
        // From 424 on, calls have the same number everywhere.
        425, // io_uring_setup
        426, // io_uring_enter
        427, // io_uring_register
        428, // open_tree
        429, // move_mount
        430, // fsopen
        431, // fsconfig
        432, // fsmount
        433, // fspick
        438, // pidfd_getfd
        440, // process_madvise
        442, // mount_setattr
        443, // quotactl_fd
        super::OPEN_TREE_ATTR,
    ],
    clone: 120,
    clone3: 435,
    socket: 359,
    personality: 136,
};
