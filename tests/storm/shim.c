/* A disk that fails once, under a real process: it is put in front of libc by LD_PRELOAD.
 *
 *   STORM_DISK   the path whose calls are counted
 *   STORM_FAULT  KIND HOW NUMBER AGAIN: the NUMBERth call of a kind (write, submit, zero, flush, read) ends so: eio, enospc, eintr,
 *                short, slow, drop, flip; with AGAIN 1 so do all after it
 *   STORM_ENDS   bytes of the disk: only calls in its first and last MiB count; 0: all
 *   STORM_HIT    is made when it happens
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MIB (1024 * 1024)
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static atomic_int seen;

static int is_the_disk(int fd) {
    char link[64], path[4096];
    const char *disk = getenv("STORM_DISK");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (disk == NULL || length < 0) return 0;
    path[length] = 0;
    return strcmp(path, disk) == 0;
}

/* What is to become of this call; empty: nothing. */
static const char *strike(const char *kind, int fd, off_t offset) {
    static char how[16];
    char wanted[16];
    int number, again;
    const char *fault = getenv("STORM_FAULT"), *ends = getenv("STORM_ENDS"), *hit = getenv("STORM_HIT");
    if (fault == NULL || sscanf(fault, "%15s %15s %d %d", wanted, how, &number, &again) != 4) return "";
    if (strcmp(kind, wanted) != 0 || !is_the_disk(fd)) return "";
    off_t size = ends == NULL ? 0 : atoll(ends);
    if (size > 0 && offset >= MIB && offset < size - MIB) return "";
    int count = atomic_fetch_add(&seen, 1);
    if (count != number && !(again && count > number)) return "";
    if (hit != NULL) close(open(hit, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    if (strcmp(how, "slow") == 0) usleep(300 * 1000);
    return how;
}

/* Whether the call fails in this way; errno is set then. */
static int fails(const char *how) {
    if (strcmp(how, "eio") == 0) errno = EIO;
    else if (strcmp(how, "enospc") == 0) errno = ENOSPC;
    else if (strcmp(how, "eintr") == 0) errno = EINTR;
    else return 0;
    return 1;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset) {
    const char *how = strike("write", fd, offset);
    if (fails(how)) return -1;
    if (strcmp(how, "drop") == 0) return length;
    if (strcmp(how, "short") == 0 && length > 512) length = length / 2 / 512 * 512;
    if (strcmp(how, "flip") == 0) {
        char *changed = aligned_alloc(4096, (length + 4095) / 4096 * 4096);
        memcpy(changed, data, length);
        changed[length / 2] ^= 1;
        ssize_t written = REAL(pwrite64)(fd, changed, length, offset);
        free(changed);
        return written;
    }
    return REAL(pwrite64)(fd, data, length, offset);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite64(fd, data, length, offset); }

ssize_t pread64(int fd, void *data, size_t length, off_t offset) {
    const char *how = strike("read", fd, offset);
    if (fails(how)) return -1;
    if (strcmp(how, "short") == 0 && length > 512) length = length / 2 / 512 * 512;
    return REAL(pread64)(fd, data, length, offset);
}

ssize_t pread(int fd, void *data, size_t length, off_t offset) { return pread64(fd, data, length, offset); }

int fallocate64(int fd, int mode, off_t offset, off_t length) {
    const char *how = strike("zero", fd, offset);
    if (fails(how)) return -1;
    return strcmp(how, "drop") == 0 ? 0 : REAL(fallocate64)(fd, mode, offset, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length) { return fallocate64(fd, mode, offset, length); }

int fsync(int fd) {
    const char *how = strike("flush", fd, 0);
    return fails(how) ? -1 : REAL(fsync)(fd);
}

/* Linux AIO, of which libc has no function: the descriptor stands in the first block. */
long syscall(long number, ...) {
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_io_submit && a[1] > 0) {
        int fd = *(int *)((*(char ***)&a[2])[0] + 20);
        const char *how = strike("submit", fd, 0);
        if (fails(how)) return -1;
        if (strcmp(how, "short") == 0 && a[1] > 1) a[1] /= 2;
    }
    return REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
