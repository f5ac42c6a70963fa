/* Preloaded into a process: writes down, in order, what the process asks of files below a folder.
 *
 * Owns the journal. Invariant: records are in the order in which the calls took effect; a sync covers
 * what was written before it began. Nothing is really synced: the reader of the journal
 * (src/power_loss/journal.rs, which has the format) decides what a power loss leaves.
 *
 * JOURNAL_ROOT     the folder, absolute, without a slash at its end
 * JOURNAL_FILE     the journal, outside of it; it is appended to
 * JOURNAL_SYNC_US  a sync takes up to so many microseconds
 *
 * Calls that nobody makes here are not watched: mmap, fallocate, copy_file_range, link, io_uring.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define PATH_BYTES 4096
#define FILES_MAX 65536

struct __attribute__((packed)) record {
    uint8_t kind;
    uint64_t file;
    uint64_t value;
    uint32_t bytes;
};

enum kind {
    CREATE = 'c', /* file, path */
    OPEN = 'o',   /* file, path */
    WRITE = 'w',  /* file, value = offset, what was written */
    RESIZE = 't', /* file, value = length */
    SYNC = 's',   /* file, value = token */
    SYNC_DIR = 'd', /* value = token, path */
    SYNCED = 'e', /* value = token */
    RENAME = 'r', /* from, 0, to */
    REMOVE = 'u', /* path */
    MAKE_DIR = 'm', /* path */
};

/* One call at a time: the order of the records is the order of the calls. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static const char *root;
static size_t root_bytes;
static int journal = -1;
static unsigned sync_us;
static uint64_t next_token = 1;
static unsigned seed;
static ino_t files[FILES_MAX];
static size_t file_count;

static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_pwrite)(int, const void *, size_t, off64_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off64_t);
static int (*real_ftruncate)(int, off64_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_sync_file_range)(int, off64_t, off64_t, unsigned);
static int (*real_rename)(const char *, const char *);
static int (*real_unlink)(const char *);
static int (*real_mkdir)(const char *, mode_t);

static void give_up(const char *why) {
    dprintf(2, "journal: %s: %s\n", why, strerror(errno));
    _exit(97);
}

static void *find(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) give_up(name);
    return found;
}

static void begin(void) {
    real_open = find("open64");
    real_openat = find("openat64");
    real_write = find("write");
    real_pwrite = find("pwrite64");
    real_writev = find("writev");
    real_pwritev = find("pwritev64");
    real_ftruncate = find("ftruncate64");
    real_fsync = find("fsync");
    real_fdatasync = find("fdatasync");
    real_sync_file_range = find("sync_file_range");
    real_rename = find("rename");
    real_unlink = find("unlink");
    real_mkdir = find("mkdir");
    const char *folder = getenv("JOURNAL_ROOT"), *path = getenv("JOURNAL_FILE");
    const char *us = getenv("JOURNAL_SYNC_US");
    if (!folder || !path) return;
    journal = real_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (journal < 0) give_up(path);
    root = folder;
    root_bytes = strlen(folder);
    sync_us = us ? (unsigned)atol(us) : 0;
    seed = (unsigned)getpid();
}

static void init(void) { pthread_once(&once, begin); }

static int is_below(const char *path) {
    return root && !strncmp(path, root, root_bytes) &&
           (path[root_bytes] == '/' || path[root_bytes] == 0);
}

static void append(enum kind kind, uint64_t file, uint64_t value, const struct iovec *data, int n) {
    struct iovec all[8];
    struct record record = {(uint8_t)kind, file, value, 0};
    if (n > 7) give_up("too many parts");
    all[0] = (struct iovec){&record, sizeof record};
    size_t bytes = 0;
    for (int i = 0; i < n; i++) {
        all[i + 1] = data[i];
        bytes += data[i].iov_len;
    }
    record.bytes = (uint32_t)bytes;
    if (real_writev(journal, all, n + 1) != (ssize_t)(sizeof record + bytes))
        give_up("cannot write the journal");
}

static void append_path(enum kind kind, uint64_t file, uint64_t value, const char *path) {
    struct iovec data = {(void *)path, strlen(path)};
    append(kind, file, value, &data, 1);
}

static int is_known(ino_t file) {
    for (size_t i = 0; i < file_count; i++)
        if (files[i] == file) return 1;
    return 0;
}

static void learn(ino_t file) {
    if (is_known(file)) return;
    if (file_count == FILES_MAX) give_up("too many files");
    files[file_count++] = file;
}

/* The file of a descriptor, when it is watched. */
static int watched(int fd, ino_t *file) {
    struct stat stat;
    if (!root || fstat(fd, &stat) || !S_ISREG(stat.st_mode) || !is_known(stat.st_ino)) return 0;
    *file = stat.st_ino;
    return 1;
}

static int opened(int fd, const char *path, int flags, int was_there) {
    struct stat stat;
    if (fd < 0 || fstat(fd, &stat) || !S_ISREG(stat.st_mode)) return fd;
    learn(stat.st_ino);
    append_path(was_there ? OPEN : CREATE, stat.st_ino, 0, path);
    if (was_there && (flags & O_TRUNC)) append(RESIZE, stat.st_ino, 0, NULL, 0);
    return fd;
}

static int open_watched(const char *path, int flags, mode_t mode) {
    init();
    if (!is_below(path)) return real_open(path, flags, mode);
    pthread_mutex_lock(&lock);
    int was_there = !access(path, F_OK);
    int fd = opened(real_open(path, flags, mode), path, flags, was_there);
    int error = errno;
    pthread_mutex_unlock(&lock);
    errno = error;
    return fd;
}

#define MODE_OF(flags, mode)                  \
    mode_t mode = 0;                          \
    if ((flags) & (O_CREAT | O_TMPFILE)) {    \
        va_list rest;                         \
        va_start(rest, flags);                \
        mode = va_arg(rest, mode_t);          \
        va_end(rest);                         \
    }

int open64(const char *path, int flags, ...) {
    MODE_OF(flags, mode)
    return open_watched(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    MODE_OF(flags, mode)
    return open_watched(path, flags, mode);
}

int openat64(int dir, const char *path, int flags, ...) {
    MODE_OF(flags, mode)
    init();
    return path[0] == '/' ? open_watched(path, flags, mode) : real_openat(dir, path, flags, mode);
}

int openat(int dir, const char *path, int flags, ...) {
    MODE_OF(flags, mode)
    init();
    return path[0] == '/' ? open_watched(path, flags, mode) : real_openat(dir, path, flags, mode);
}

/* What was written of the parts, at an offset. */
static void written(ino_t file, off64_t offset, ssize_t done, const struct iovec *parts, int n) {
    size_t left = (size_t)done;
    for (int i = 0; i < n && left > 0; i++) {
        struct iovec part = parts[i];
        if (part.iov_len > left) part.iov_len = left;
        append(WRITE, file, (uint64_t)offset, &part, 1);
        offset += (off64_t)part.iov_len;
        left -= part.iov_len;
    }
}

/* `offset` is negative for a write where the descriptor stands. */
static ssize_t write_watched(int fd, const struct iovec *parts, int n, off64_t offset) {
    ino_t file;
    init();
    pthread_mutex_lock(&lock);
    int is_watched = watched(fd, &file);
    if (!is_watched) pthread_mutex_unlock(&lock);
    ssize_t done = offset < 0 ? real_writev(fd, parts, n) : real_pwritev(fd, parts, n, offset);
    int error = errno;
    if (is_watched) {
        if (done > 0) {
            if (offset < 0) offset = lseek64(fd, 0, SEEK_CUR) - done;
            written(file, offset, done, parts, n);
        }
        pthread_mutex_unlock(&lock);
    }
    errno = error;
    return done;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    init();
    if (!root) return real_write(fd, bytes, count);
    struct iovec part = {(void *)bytes, count};
    return write_watched(fd, &part, 1, -1);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    init();
    if (!root) return real_pwrite(fd, bytes, count, offset);
    struct iovec part = {(void *)bytes, count};
    return write_watched(fd, &part, 1, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    return pwrite64(fd, bytes, count, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    return write_watched(fd, parts, n, -1);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int n, off64_t offset) {
    return write_watched(fd, parts, n, offset);
}

ssize_t pwritev(int fd, const struct iovec *parts, int n, off_t offset) {
    return write_watched(fd, parts, n, offset);
}

int ftruncate64(int fd, off64_t length) {
    ino_t file;
    init();
    pthread_mutex_lock(&lock);
    int done = real_ftruncate(fd, length), error = errno;
    if (!done && watched(fd, &file)) append(RESIZE, file, (uint64_t)length, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

/* Whether it was a sync of what is watched, which has then been done. */
static int sync_watched(int fd) {
    ino_t file;
    struct stat stat;
    char link[64], path[PATH_BYTES];
    init();
    if (!root || fstat(fd, &stat)) return 0;
    pthread_mutex_lock(&lock);
    uint64_t token = next_token++;
    int is_watched = 1;
    if (S_ISDIR(stat.st_mode)) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        path[length > 0 ? length : 0] = 0;
        is_watched = is_below(path);
        if (is_watched) append_path(SYNC_DIR, 0, token, path);
    } else {
        is_watched = watched(fd, &file);
        if (is_watched) append(SYNC, file, token, NULL, 0);
    }
    unsigned pause = sync_us ? (unsigned)rand_r(&seed) % sync_us : 0;
    pthread_mutex_unlock(&lock);
    if (!is_watched) return 0;
    /* What is written meanwhile is not covered. */
    if (pause) usleep(pause);
    pthread_mutex_lock(&lock);
    append(SYNCED, 0, token, NULL, 0);
    pthread_mutex_unlock(&lock);
    return 1;
}

int fsync(int fd) {
    init();
    return sync_watched(fd) ? 0 : real_fsync(fd);
}

int fdatasync(int fd) {
    init();
    return sync_watched(fd) ? 0 : real_fdatasync(fd);
}

/* By its manual page it makes nothing durable. */
int sync_file_range(int fd, off64_t from, off64_t bytes, unsigned flags) {
    ino_t file;
    init();
    pthread_mutex_lock(&lock);
    int is_watched = watched(fd, &file);
    pthread_mutex_unlock(&lock);
    return is_watched ? 0 : real_sync_file_range(fd, from, bytes, flags);
}

int rename(const char *from, const char *to) {
    init();
    if (!is_below(from) && !is_below(to)) return real_rename(from, to);
    pthread_mutex_lock(&lock);
    int done = real_rename(from, to), error = errno;
    struct iovec paths[2] = {{(void *)from, strlen(from) + 1}, {(void *)to, strlen(to)}};
    if (!done) append(RENAME, 0, 0, paths, 2);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

int unlink(const char *path) {
    init();
    if (!is_below(path)) return real_unlink(path);
    pthread_mutex_lock(&lock);
    int done = real_unlink(path), error = errno;
    if (!done) append_path(REMOVE, 0, 0, path);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

int mkdir(const char *path, mode_t mode) {
    init();
    if (!is_below(path)) return real_mkdir(path, mode);
    pthread_mutex_lock(&lock);
    int done = real_mkdir(path, mode), error = errno;
    if (!done) append_path(MAKE_DIR, 0, 0, path);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}
