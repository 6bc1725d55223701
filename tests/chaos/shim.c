/* A disk that can forget, fail and dawdle, between a process and libc (LD_PRELOAD).
 *
 * For every file under CHAOS_DIR the shim keeps an undo journal in CHAOS_JOURNAL, a file named
 * by the inode: what stood where something is about to be written, and the size before. A
 * successful fsync or fdatasync covers what had been written when it began. After kill -9 the
 * test plays back some or all of the rest, and the disk shows what it would after a loss of
 * power (see shim.py). sync_file_range promises nothing and is left alone. Not seen: mmap,
 * stdio (RocksDB's own LOG), and names: a rename or removal is durable at once.
 *
 * Journal: covered u64 (bytes of it that a sync has covered), turn u64 (rises when it is
 * emptied), then records: offset u64, length u64 (of the write), kept u64 (old bytes that
 * follow), size u64 (of the file, before), old bytes.
 *
 * The file CHAOS_CONTROL, if there, holds one fault, looked at on every sync:
 *   fail TEXT   the next sync of a file whose path holds TEXT fails with EIO, once; whoever
 *               removes the file decides, the shim (it fails) or the test (it does not)
 *   slow MS     every sync takes that long, and adds a byte to CHAOS_SLOWED
 *
 * While the file CHAOS_FULL is there, there is no room: what would make a file larger, or
 * reserve room, fails with ENOSPC, and statvfs finds nothing free. What a file has already may
 * be written over.
 *
 * CHAOS_DIAL is "FIRST COUNT OFFSET": whoever dials one of COUNT ports of 127.0.0.1 from FIRST on
 * reaches the one that is OFFSET higher, where a proxy may listen; whatever address it was told.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS 65536
enum { UNKNOWN = 0, FOREIGN = 1, OURS = 2 };

static unsigned char kind_of[FDS];
static pthread_mutex_t journals = PTHREAD_MUTEX_INITIALIZER;
static const char *directory, *journal, *control, *slowed, *full;
static int dial_first, dial_count, dial_offset;

#define REAL(type, name) ((type)real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

typedef ssize_t (*pwrite_t)(int, const void *, size_t, off_t);
typedef ssize_t (*write_t)(int, const void *, size_t);
typedef ssize_t (*writev_t)(int, const struct iovec *, int);
typedef ssize_t (*pwritev_t)(int, const struct iovec *, int, off_t);
typedef ssize_t (*pwritev2_t)(int, const struct iovec *, int, off_t, int);
typedef int (*fd_t)(int);
typedef int (*open_t)(const char *, int, ...);
typedef int (*openat_t)(int, const char *, int, ...);
typedef int (*truncate_t)(int, off_t);
typedef int (*allocate_t)(int, off_t, off_t);
typedef int (*fallocate_t)(int, int, off_t, off_t);
typedef int (*connect_t)(int, const struct sockaddr *, socklen_t);

static pwrite_t real_pwrite;
static write_t real_write;
static fd_t real_close;
static open_t real_open;

__attribute__((constructor)) static void begin(void) {
    directory = getenv("CHAOS_DIR");
    journal = getenv("CHAOS_JOURNAL");
    control = getenv("CHAOS_CONTROL");
    slowed = getenv("CHAOS_SLOWED");
    full = getenv("CHAOS_FULL");
    const char *dial = getenv("CHAOS_DIAL");
    if (dial && sscanf(dial, "%d %d %d", &dial_first, &dial_count, &dial_offset) != 3) abort();
    real_pwrite = REAL(pwrite_t, pwrite);
    real_write = REAL(write_t, write);
    real_close = REAL(fd_t, close);
    real_open = REAL(open_t, open);
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

/* Whether a path without links is that of the directory, or of something in it. */
static int is_inside(const char *path) {
    size_t length = directory ? strlen(directory) : 0;
    return length && !strncmp(path, directory, length) &&
           (path[length] == '/' || !path[length]);
}

static int is_ours(int fd) {
    if (fd < 0 || fd >= FDS || !directory || !journal) return 0;
    if (kind_of[fd] == UNKNOWN) {
        char path[PATH_MAX];
        struct stat stat;
        int ours = path_of(fd, path) && is_inside(path) && !fstat(fd, &stat) &&
                   S_ISREG(stat.st_mode);
        kind_of[fd] = ours ? OURS : FOREIGN;
    }
    return kind_of[fd] == OURS;
}

static void journal_path(const struct stat *stat, char *path) {
    snprintf(path, PATH_MAX, "%s/%lu", journal, (unsigned long)stat->st_ino);
}

static int open_journal(const struct stat *stat, int flags) {
    char path[PATH_MAX];
    journal_path(stat, path);
    return real_open(path, flags | O_CLOEXEC, 0600);
}

static void must_write(int fd, const void *data, size_t size) {
    if (real_write(fd, data, size) != (ssize_t)size) abort();
}

static void append_record(const struct stat *stat, const uint64_t *record, size_t size) {
    static const uint64_t header[2] = {16, 0};
    struct stat now;
    pthread_mutex_lock(&journals);
    int to = open_journal(stat, O_WRONLY | O_APPEND | O_CREAT);
    if (to < 0 || fstat(to, &now)) abort();
    if (!now.st_size) must_write(to, header, sizeof header);
    must_write(to, record, size);
    real_close(to);
    pthread_mutex_unlock(&journals);
}

/* Remember how to undo a change of [offset, offset + length) and of the size. */
static void remember(int fd, off_t offset, size_t length) {
    int saved = errno;
    struct stat stat;
    if (fstat(fd, &stat)) return;
    size_t old = offset >= stat.st_size ? 0 : (size_t)(stat.st_size - offset);
    if (old > length) old = length;
    uint64_t *record = malloc(32 + old);
    if (!record) abort();
    int reader = fd;
    char path[PATH_MAX];
    if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY && path_of(fd, path))
        reader = real_open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = old ? pread(reader, record + 4, old, offset) : 0;
    if (reader != fd && reader >= 0) real_close(reader);
    if (got < 0) got = 0; /* removed meanwhile: nobody will read it again */
    record[0] = (uint64_t)offset;
    record[1] = (uint64_t)length;
    record[2] = (uint64_t)got;
    record[3] = (uint64_t)stat.st_size;
    append_record(&stat, record, 32 + (size_t)got);
    free(record);
    errno = saved;
}

/* What a sync that begins now will cover; 0 if nothing. */
static uint64_t journal_state(const struct stat *stat, uint64_t *turn) {
    struct stat now;
    uint64_t header[2] = {0, 0};
    pthread_mutex_lock(&journals);
    int from = open_journal(stat, O_RDONLY);
    int known = from >= 0 && !fstat(from, &now) && pread(from, header, 16, 0) == 16;
    if (from >= 0) real_close(from);
    pthread_mutex_unlock(&journals);
    *turn = header[1];
    return known ? (uint64_t)now.st_size : 0;
}

static void cover(const struct stat *stat, uint64_t until, uint64_t turn) {
    struct stat now;
    uint64_t header[2];
    pthread_mutex_lock(&journals);
    int to = open_journal(stat, O_RDWR);
    if (to >= 0 && !fstat(to, &now) && pread(to, header, 16, 0) == 16 && header[1] == turn) {
        if ((uint64_t)now.st_size == until) {
            header[0] = 16;
            header[1] = turn + 1;
            if (ftruncate(to, 16)) abort();
        } else if (until > header[0]) {
            header[0] = until;
        }
        if (real_pwrite(to, header, 16, 0) != 16) abort();
    }
    if (to >= 0) real_close(to);
    pthread_mutex_unlock(&journals);
}

static int is_full(void) {
    int saved = errno;
    int found = full && !access(full, F_OK);
    errno = saved;
    return found;
}

/* Get ready for a write to one of our files; 0, and ENOSPC, if there is no room for it. */
static int prepare(int fd, off_t offset, size_t length) {
    struct stat stat;
    if (is_full() && !fstat(fd, &stat) && offset + (off_t)length > stat.st_size) {
        errno = ENOSPC;
        return 0;
    }
    remember(fd, offset, length);
    return 1;
}

static int may_truncate(int flags) {
    return flags & O_TRUNC && (flags & O_ACCMODE) != O_RDONLY && directory && journal;
}

/* An open file is known anew: its number may have been another's, whose close was not seen.
 * What is emptied by O_TRUNC is remembered first; what is new has no history, though its inode
 * may have had one. */
static int opened(int fd, int flags, int is_new) {
    if (fd < 0) return fd;
    int saved = errno;
    struct stat stat;
    if (fd < FDS) kind_of[fd] = UNKNOWN;
    if (is_new && is_ours(fd) && !fstat(fd, &stat)) {
        char path[PATH_MAX];
        journal_path(&stat, path);
        unlink(path);
    }
    if (!is_new && may_truncate(flags) && !fstat(fd, &stat) && S_ISREG(stat.st_mode) &&
        stat.st_size && ftruncate(fd, 0))
        abort();
    errno = saved;
    return fd;
}

#define OPEN(name, type, parameters, at, call)                                             \
    int name parameters {                                                                  \
        va_list rest;                                                                      \
        va_start(rest, flags);                                                             \
        int mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, int) : 0;                \
        va_end(rest);                                                                      \
        struct stat stat = {0};                                                            \
        int is_missing = flags & (O_CREAT | O_TRUNC) && fstatat(at, path, &stat, 0);       \
        int is_new = flags & O_CREAT && is_missing;                                        \
        int fd = REAL(type, name) call;                                                    \
        return opened(fd, flags, is_new);                                                  \
    }
/* The file is emptied by opened(), once it is known whose it is. */
#define KEPT (may_truncate(flags) && !is_missing && S_ISREG(stat.st_mode) ? flags & ~O_TRUNC : flags)
OPEN(open, open_t, (const char *path, int flags, ...), AT_FDCWD, (path, KEPT, mode))
OPEN(open64, open_t, (const char *path, int flags, ...), AT_FDCWD, (path, KEPT, mode))
OPEN(openat, openat_t, (int at, const char *path, int flags, ...), at, (at, path, KEPT, mode))
OPEN(openat64, openat_t, (int at, const char *path, int flags, ...), at, (at, path, KEPT, mode))

static size_t total(const struct iovec *pieces, int count) {
    size_t size = 0;
    for (int i = 0; i < count; i++) size += pieces[i].iov_len;
    return size;
}

static off_t position(int fd) {
    struct stat stat;
    if (fcntl(fd, F_GETFL) & O_APPEND) return fstat(fd, &stat) ? 0 : stat.st_size;
    return lseek(fd, 0, SEEK_CUR);
}

ssize_t write(int fd, const void *data, size_t size) {
    if (is_ours(fd) && !prepare(fd, position(fd), size)) return -1;
    return (real_write ? real_write : REAL(write_t, write))(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
    if (is_ours(fd) && !prepare(fd, position(fd), total(pieces, count))) return -1;
    return REAL(writev_t, writev)(fd, pieces, count);
}

#define PWRITE(name)                                                        \
    ssize_t name(int fd, const void *data, size_t size, off_t offset) {     \
        if (is_ours(fd) && !prepare(fd, offset, size)) return -1;           \
        return real_pwrite(fd, data, size, offset);                         \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

#define PWRITEV(name)                                                               \
    ssize_t name(int fd, const struct iovec *pieces, int count, off_t offset) {     \
        if (is_ours(fd) && !prepare(fd, offset, total(pieces, count))) return -1;   \
        return REAL(pwritev_t, name)(fd, pieces, count, offset);                    \
    }
PWRITEV(pwritev)
PWRITEV(pwritev64)

#define PWRITEV2(name)                                                                        \
    ssize_t name(int fd, const struct iovec *pieces, int count, off_t offset, int flags) {    \
        off_t at = offset < 0 ? position(fd) : offset;                                        \
        if (is_ours(fd) && !prepare(fd, at, total(pieces, count))) return -1;                 \
        return REAL(pwritev2_t, name)(fd, pieces, count, offset, flags);                      \
    }
PWRITEV2(pwritev2)
PWRITEV2(pwritev64v2)

#define TRUNCATE(name)                                                       \
    int name(int fd, off_t size) {                                           \
        struct stat stat;                                                    \
        if (is_ours(fd) && !fstat(fd, &stat))                                \
            remember(fd, size, stat.st_size > size ? stat.st_size - size : 0); \
        return REAL(truncate_t, name)(fd, size);                             \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

/* The error is its result, not errno. */
#define ALLOCATE(name)                                   \
    int name(int fd, off_t offset, off_t size) {         \
        if (is_ours(fd) && is_full()) return ENOSPC;     \
        if (is_ours(fd)) remember(fd, offset, 0);        \
        return REAL(allocate_t, name)(fd, offset, size); \
    }
ALLOCATE(posix_fallocate)
ALLOCATE(posix_fallocate64)

#define FALLOCATE(name)                                         \
    int name(int fd, int mode, off_t offset, off_t size) {      \
        if (is_ours(fd) && !(mode & FALLOC_FL_PUNCH_HOLE) && is_full()) { \
            errno = ENOSPC;                                     \
            return -1;                                          \
        }                                                       \
        if (is_ours(fd)) remember(fd, offset, 0);               \
        return REAL(fallocate_t, name)(fd, mode, offset, size); \
    }
FALLOCATE(fallocate)
FALLOCATE(fallocate64)

#define STATVFS(name)                                                                 \
    int name(const char *path, struct name *space) {                                  \
        char whole[PATH_MAX];                                                         \
        int result = ((int (*)(const char *, struct name *))real(#name))(path, space); \
        if (!result && realpath(path, whole) && is_inside(whole) && is_full())        \
            space->f_bavail = space->f_bfree = 0;                                     \
        return result;                                                                \
    }
STATVFS(statvfs)
STATVFS(statvfs64)

#define FSTATVFS(name, type)                                                  \
    int name(int fd, struct type *space) {                                    \
        char path[PATH_MAX];                                                  \
        int result = ((int (*)(int, struct type *))real(#name))(fd, space);   \
        if (!result && path_of(fd, path) && is_inside(path) && is_full())     \
            space->f_bavail = space->f_bfree = 0;                             \
        return result;                                                        \
    }
FSTATVFS(fstatvfs, statvfs)
FSTATVFS(fstatvfs64, statvfs64)

static void delay(int ms) {
    usleep((useconds_t)ms * 1000);
    int to = slowed ? real_open(slowed, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (to < 0) return;
    must_write(to, "", 1);
    real_close(to);
}

/* Do to a sync of this file what CHAOS_CONTROL says; 1 if it is to fail. */
static int fails(int fd) {
    char fault[256], path[PATH_MAX];
    int from = control ? real_open(control, O_RDONLY | O_CLOEXEC) : -1;
    if (from < 0) return 0;
    ssize_t length = read(from, fault, sizeof fault - 1);
    real_close(from);
    if (length <= 0) return 0;
    fault[length] = 0;
    fault[strcspn(fault, "\n")] = 0;
    if (!strncmp(fault, "slow ", 5)) delay(atoi(fault + 5));
    if (strncmp(fault, "fail ", 5) || !path_of(fd, path) || !strstr(path, fault + 5)) return 0;
    return !unlink(control);
}

static int synced(int fd, const char *name) {
    struct stat stat;
    uint64_t turn = 0;
    if (!is_ours(fd) || fstat(fd, &stat)) return ((fd_t)real(name))(fd);
    uint64_t until = journal_state(&stat, &turn);
    if (fails(fd)) {
        errno = EIO;
        return -1;
    }
    int result = ((fd_t)real(name))(fd);
    if (!result && until) cover(&stat, until, turn);
    return result;
}

int fsync(int fd) { return synced(fd, "fsync"); }
int fdatasync(int fd) { return synced(fd, "fdatasync"); }

int connect(int fd, const struct sockaddr *to, socklen_t size) {
    connect_t dial = REAL(connect_t, connect);
    struct sockaddr_in proxy;
    if (!dial_count || to->sa_family != AF_INET || size < sizeof proxy) return dial(fd, to, size);
    memcpy(&proxy, to, sizeof proxy);
    int place = ntohs(proxy.sin_port) - dial_first;
    if (ntohl(proxy.sin_addr.s_addr) != INADDR_LOOPBACK || place < 0 || place >= dial_count)
        return dial(fd, to, size);
    proxy.sin_port = htons((uint16_t)(dial_first + place + dial_offset));
    return dial(fd, (const struct sockaddr *)&proxy, sizeof proxy);
}

int close(int fd) {
    if (fd >= 0 && fd < FDS) kind_of[fd] = UNKNOWN;
    return (real_close ? real_close : REAL(fd_t, close))(fd);
}
