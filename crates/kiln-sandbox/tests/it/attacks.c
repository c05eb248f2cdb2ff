/* What a command could try against kiln and the machine, one attempt per name. Prints "refused" with the kernel's answer, or
 * "DONE" with what it got hold of. Compiled by the test that runs it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

static int tell(const char *what, long answer) {
    if (answer < 0) printf("refused %s: %s\n", what, strerrorname_np(errno));
    else printf("DONE %s\n", what);
    fflush(stdout);
    return answer < 0;
}

static void read_file(const char *what, const char *path) {
    char text[256] = {0};
    int fd = open(path, O_RDONLY);
    if (fd >= 0 && read(fd, text, sizeof text - 1) > 0) printf("DONE %s: %s\n", what, text);
    else printf("refused %s: %s\n", what, strerrorname_np(errno));
}

static void up_and_read(const char *secret) {
    char path[4096];
    for (int i = 0; i < 64; i++) if (chdir("..")) break;
    snprintf(path, sizeof path, ".%s", secret);
    read_file("read above", path);
    tell("write above", open("./kiln-attack", O_CREAT | O_WRONLY, 0600));
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "";
    const char *secret = argc > 2 ? argv[2] : "/";
    pid_t pid = argc > 3 ? atoi(argv[3]) : 0;
    uintptr_t address = argc > 4 ? strtoull(argv[4], 0, 0) : 0;
    char path[4096], bytes[64] = {0};

    if (!strcmp(name, "path")) {
        read_file("read", secret);
        tell("write", open(secret, O_WRONLY));
        tell("chmod", chmod(secret, 0777));
        tell("stat", access(secret, F_OK));
    } else if (!strcmp(name, "chroot-again")) {
        int root = open("/", O_RDONLY | O_DIRECTORY);
        mkdir("/inner", 0755);
        tell("chroot", chroot("/inner"));
        fchdir(root);
        up_and_read(secret);
    } else if (!strcmp(name, "dot-dot")) {
        int root = open("/tmp", O_RDONLY | O_DIRECTORY);
        rename("/tmp", "/moved");
        fchdir(root);
        up_and_read(secret);
        snprintf(path, sizeof path, "../../../../../../../..%s", secret);
        tell("openat", openat(root, path, O_RDONLY));
    } else if (!strcmp(name, "device")) {
        struct stat disk;
        tell("mknod of a disk", mknod("/disk", S_IFBLK | 0600, makedev(254, 0)));
        tell("open of a disk", open("/disk", O_RDONLY));
        tell("mknod of memory", mknod("/mem", S_IFCHR | 0600, makedev(1, 1)));
        if (stat("/image-disk", &disk) == 0 && S_ISBLK(disk.st_mode)) printf("DONE device of the image\n");
    } else if (!strcmp(name, "memory")) {
        struct iovec local = {bytes, sizeof bytes - 1}, remote = {(void *)address, sizeof bytes - 1};
        tell("process_vm_readv", process_vm_readv(pid, &local, 1, &remote, 1, 0));
        tell("process_vm_writev", process_vm_writev(pid, &local, 1, &remote, 1, 0));
        tell("ptrace", ptrace(PTRACE_SEIZE, pid, 0, 0));
        tell("ptrace of the parent", ptrace(PTRACE_SEIZE, getppid(), 0, 0));
        snprintf(path, sizeof path, "/proc/%d/mem", pid);
        tell("open of its memory", open(path, O_RDWR));
        snprintf(path, sizeof path, "/proc/%d/environ", pid);
        read_file("its environment", path);
        int fd = syscall(SYS_pidfd_open, pid, 0);
        tell("pidfd_getfd", syscall(SYS_pidfd_getfd, fd, 0, 0));
    } else if (!strcmp(name, "signal")) {
        int fd = syscall(SYS_pidfd_open, pid, 0);
        tell("kill", kill(pid, SIGKILL));
        tell("kill of the parent", kill(getppid(), SIGKILL));
        tell("tgkill", syscall(SYS_tgkill, pid, pid, SIGKILL));
        tell("pidfd_send_signal", syscall(SYS_pidfd_send_signal, fd, SIGKILL, 0, 0));
        signal(SIGTERM, SIG_IGN);
        kill(-1, SIGTERM);
        struct rlimit none = {1, 1};
        tell("prlimit", prlimit(pid, RLIMIT_CPU, &none, 0));
    } else if (!strcmp(name, "abstract")) {
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        strcpy(to.sun_path + 1, secret);
        tell("connect", connect(fd, (struct sockaddr *)&to, sizeof(sa_family_t) + 1 + strlen(secret)));
    } else if (!strcmp(name, "privilege")) {
        tell("mount", syscall(SYS_mount, "none", "/tmp", "tmpfs", 0, 0));
        tell("unshare", syscall(SYS_unshare, 0x10000000));
        tell("packet socket", socket(AF_PACKET, SOCK_RAW, 0));
        tell("open_by_handle_at", syscall(SYS_open_by_handle_at, AT_FDCWD, bytes, 0));
    } else if (!strcmp(name, "daemon")) {
        for (int i = 0; i < 3; i++) {
            if (fork()) continue;
            setsid();
            for (int number = 1; number < 32; number++) signal(number, SIG_IGN);
            if (fork()) _exit(0);
            if (i == 2) setuid(1000);
            printf("%d\n", getpid());
            fflush(stdout);
            close(1);
            close(2);
            for (;;) { if (i == 1 && fork() > 0) _exit(0); usleep(1000); }
        }
        usleep(100000);
    }
    return 0;
}
