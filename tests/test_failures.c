/* Everything fails once, and from there on: each allocation and each call of the system that the
 * client makes, in a run through connect, READY, a large payload, a cut, resume and close. Real
 * sockets of this machine, with and without TLS; calls of the system go through functions of ours;
 * the clock skips what nobody needs to wait for. After each failure the client lives again, or has
 * ended with FATAL, or was not opened; nothing leaks, no text is missing, nothing hangs.
 *     The payload is a GUILD_CREATE of 10 MB where an allocation fails (the n-th alone, and all from
 * the n-th on, for every n; with TLS the latter has 300 KB), and where what carries it fails at
 * growing n (recv, the poller); 300 KB where other calls fail, since what is larger only repeats
 * recv. Builds that are not optimised, or have sanitizers, take 1 MB in place of 10.
 *     CHECK_SCALE=small    300 KB always, and fewer places, for slow machines and tools */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/timerfd.h>
#include <linux/sockios.h>
#endif

/* ---- what fails: which call, as its how-manieth, how often, with which errno ---- */
enum {                                  /* in place of an errno */
    THE_END = -1001, ONE_BYTE = -1002, NEVER_BEGUN = -1003, OTHER_FAMILY = -1004
};

/* All that the platform room calls and that can fail, and the resolver's calloc(). alloc is
 * config.alloc; so_error is what getsockopt() finds of a connect, boot_clock is CLOCK_BOOTTIME,
 * urandom the opening of the device and urandom_read reading it. */
#define CALLS(X) \
    X(alloc, ENOMEM) \
    X(calloc, ENOMEM) \
    X(socket, EMFILE, ENFILE, ENOBUFS, ENOMEM, EACCES, EPERM, EAFNOSUPPORT, EPROTONOSUPPORT) \
    X(setsockopt, ENOMEM, EINVAL, ENOPROTOOPT) \
    X(fcntl, EAGAIN, ENOMEM, EPERM) \
    X(connect, ECONNREFUSED, ENETUNREACH, EHOSTUNREACH, ETIMEDOUT, EADDRNOTAVAIL, EPERM, EACCES, \
      EAGAIN, ENETDOWN, EAFNOSUPPORT, EINTR, NEVER_BEGUN) \
    X(getsockopt, ENOBUFS, EINVAL) \
    X(so_error, ECONNREFUSED, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, ECONNRESET) \
    X(getpeername, ENOTCONN, ENOBUFS, EINVAL) \
    X(send, EAGAIN, EINTR, EPIPE, ECONNRESET, ETIMEDOUT, ENOBUFS, ENOMEM, ENETDOWN, EHOSTUNREACH, \
      EPERM, ONE_BYTE) \
    X(recv, EAGAIN, EINTR, ECONNRESET, ETIMEDOUT, ECONNREFUSED, EHOSTUNREACH, ENOBUFS, ENOMEM, \
      THE_END, ONE_BYTE) \
    X(close, EINTR, EIO) \
    X(epoll_create1, EMFILE, ENFILE, ENOMEM, ENOSYS) \
    X(epoll_ctl, ENOSPC, ENOMEM, EPERM, EEXIST, ENOENT) \
    X(epoll_wait, EINTR) \
    X(eventfd, EMFILE, ENFILE, ENODEV, ENOMEM, ENOSYS) \
    X(timerfd_create, EINVAL, EMFILE, ENFILE, ENODEV, ENOMEM, ENOSYS, EPERM) \
    X(timerfd_settime, ECANCELED, EINVAL) \
    X(poll, EINTR, EAGAIN, ENOMEM, EINVAL) \
    X(pipe, EMFILE, ENFILE) \
    X(read, EINTR, EAGAIN) \
    X(write, EINTR, EAGAIN) \
    X(getaddrinfo, EAI_AGAIN, EAI_NONAME, EAI_FAIL, EAI_FAMILY, EAI_SERVICE, EAI_MEMORY, \
      EAI_SYSTEM, OTHER_FAMILY) \
    X(pthread_attr_init, ENOMEM) \
    X(pthread_attr_setstacksize, EINVAL) \
    X(pthread_create, EAGAIN, ENOMEM, EPERM) \
    X(getrandom, ENOSYS, EINTR, EAGAIN, EPERM, ONE_BYTE) \
    X(open, ENOENT, EACCES, EMFILE, ENFILE, ENOMEM, EIO, EINTR) \
    X(urandom, ENOENT, EACCES, EMFILE, ENFILE) \
    X(urandom_read, EIO, EINTR, EAGAIN, THE_END, ONE_BYTE) \
    X(pread, EIO, EINTR, EISDIR, THE_END, ONE_BYTE) \
    X(stat, ENOENT, ENOTDIR, EACCES, ENOMEM, EIO) \
    X(clock_gettime, EINVAL) \
    X(boot_clock, EINVAL) \
    X(time, EOVERFLOW)
#define CALL_ID(name, ...) CALL_##name,
#define CALL_ROW(name, ...) { #name, { __VA_ARGS__, 0 } },
enum { CALLS(CALL_ID) CALL_COUNT };
static const struct { const char *name; int errors[14]; } calls[] = { CALLS(CALL_ROW) };

static struct {
    pthread_mutex_t lock;               /* the resolver's thread comes here too */
    int call, also, error;              /* call -1: none fails; also: another one that does */
    int never;                          /* always ENOSYS, while `call` is one; -1: none */
    uint64_t first, count;              /* ... from its first-th time on, so often */
    uint64_t made[CALL_COUNT], hits;
    long open_fds;
    int random_fd;                      /* /dev/urandom; -1: is not open */
} faults = { PTHREAD_MUTEX_INITIALIZER, -1, -1, 0, -1, 0, 0, { 0 }, 0, 0, -1 };

/* 0: this call is made; else how it fails. */
static int fault(int call)
{
    int error = 0;
    pthread_mutex_lock(&faults.lock);
    faults.made[call]++;
    if (faults.call >= 0 && (call == faults.call || call == faults.also) &&
        faults.made[call] >= faults.first && faults.made[call] - faults.first < faults.count) {
        error = faults.error;
        faults.hits++;
    } else if (faults.call >= 0 && call == faults.never) error = ENOSYS;
    pthread_mutex_unlock(&faults.lock);
    if (error > 0) errno = error;
    return error;
}

/* Some of these serve one build of the header only: with or without epoll, or threads. */
#define AT_TIMES __attribute__((unused)) static

/* A descriptor that came, or went. */
static int fault_fd(int fd, int more)
{
    pthread_mutex_lock(&faults.lock);
    if (fd >= 0) faults.open_fds += more;
    pthread_mutex_unlock(&faults.lock);
    return fd;
}

/* It is closed all the same, as on Linux. */
static int fault_close(int fd)
{
    int error = errno;
    fault_fd(fd, -1);
    if (fd == faults.random_fd) faults.random_fd = -1;
    close(fd);
    errno = error;
    return fault(CALL_close) ? -1 : 0;
}

AT_TIMES void *fault_calloc(size_t count, size_t bytes)
{
    return fault(CALL_calloc) ? NULL : calloc(count, bytes);
}

static int fault_socket(int domain, int type, int protocol)
{
    return fault(CALL_socket) ? -1 : fault_fd(socket(domain, type, protocol), 1);
}

static int fault_setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    return fault(CALL_setsockopt) ? -1 : setsockopt(fd, level, name, value, len);
}

static int fault_fcntl(int fd, int command, int value)
{
    return fault(CALL_fcntl) ? -1 : fcntl(fd, command, value);
}

/* EINTR: it goes on all the same. NEVER_BEGUN: it seems to go on, and never gets anywhere. */
static int fault_connect(int fd, const struct sockaddr *to, socklen_t len)
{
    int error = fault(CALL_connect);
    if (error == NEVER_BEGUN) { errno = EINPROGRESS; return -1; }
    if (error == EINTR) { connect(fd, to, len); errno = EINTR; return -1; }
    return error ? -1 : connect(fd, to, len);
}

static int fault_getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
    int error = fault(CALL_getsockopt) ? -1 : getsockopt(fd, level, name, value, len);
    if (error == 0 && name == SO_ERROR && (error = fault(CALL_so_error)) != 0) {
        memcpy(value, &error, sizeof error);
        return 0;
    }
    return error;
}

static int fault_getpeername(int fd, struct sockaddr *peer, socklen_t *len)
{
    return fault(CALL_getpeername) ? -1 : getpeername(fd, peer, len);
}

static ssize_t fault_send(int fd, const void *bytes, size_t len, int flags)
{
    int error = fault(CALL_send);
    if (error == ONE_BYTE) len = len ? 1 : 0;
    return error && error != ONE_BYTE ? -1 : send(fd, bytes, len, flags);
}

static ssize_t fault_recv(int fd, void *bytes, size_t cap, int flags)
{
    int error = fault(CALL_recv);
    if (error == THE_END) return 0;
    if (error == ONE_BYTE) cap = cap ? 1 : 0;
    return error && error != ONE_BYTE ? -1 : recv(fd, bytes, cap, flags);
}

static ssize_t fault_read(int fd, void *bytes, size_t cap)
{
    int error = fault(fd == faults.random_fd ? CALL_urandom_read : CALL_read);
    if (error == THE_END) return 0;
    if (error == ONE_BYTE) cap = cap ? 1 : 0;
    return error && error != ONE_BYTE ? -1 : read(fd, bytes, cap);
}

static ssize_t fault_write(int fd, const void *bytes, size_t len)
{
    return fault(CALL_write) ? -1 : write(fd, bytes, len);
}

AT_TIMES int fault_poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
    return fault(CALL_poll) ? -1 : poll(fds, count, timeout_ms);
}

AT_TIMES int fault_pipe(int fds[2])
{
    if (fault(CALL_pipe) || pipe(fds) != 0) return -1;
    fault_fd(fds[0], 1);
    fault_fd(fds[1], 1);
    return 0;
}

/* All names lead to this machine; OTHER_FAMILY: to addresses that are no IP's. */
AT_TIMES int fault_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                             struct addrinfo **list)
{
    int error = fault(CALL_getaddrinfo);
    struct addrinfo *entry;
    (void)host;
    if (error && error != OTHER_FAMILY) return error;
    if (getaddrinfo("127.0.0.1", service, hints, list) != 0) return EAI_FAIL;
    for (entry = *list; error && entry; entry = entry->ai_next) entry->ai_family = AF_UNIX;
    return 0;
}

AT_TIMES int fault_pthread_attr_init(pthread_attr_t *how)
{
    int error = fault(CALL_pthread_attr_init);
    return error ? error : pthread_attr_init(how);
}

AT_TIMES int fault_pthread_attr_setstacksize(pthread_attr_t *how, size_t bytes)
{
    int error = fault(CALL_pthread_attr_setstacksize);
    return error ? error : pthread_attr_setstacksize(how, bytes);
}

AT_TIMES int fault_pthread_create(pthread_t *thread, const pthread_attr_t *how,
                                void *(*run)(void *), void *argument)
{
    int error = fault(CALL_pthread_create);
    return error ? error : pthread_create(thread, how, run, argument);
}

static int fault_open(const char *path, int flags)
{
    int is_random = strcmp(path, "/dev/urandom") == 0, fd;
    if (fault(is_random ? CALL_urandom : CALL_open)) return -1;
    fd = fault_fd(open(path, flags), 1);
    if (is_random) faults.random_fd = fd;
    return fd;
}

static ssize_t fault_pread(int fd, void *bytes, size_t cap, off_t offset)
{
    int error = fault(CALL_pread);
    if (error == THE_END) return 0;
    if (error == ONE_BYTE) cap = cap ? 1 : 0;
    return error && error != ONE_BYTE ? -1 : pread(fd, bytes, cap, offset);
}

static int fault_stat(const char *path, struct stat *facts)
{
    return fault(CALL_stat) ? -1 : stat(path, facts);
}

static uint64_t fault_now_us(void);     /* the clock that skips */

AT_TIMES int fault_clock_gettime(clockid_t clock, struct timespec *now)
{
    uint64_t now_us = fault_now_us();
    int call = CALL_clock_gettime;
#ifdef CLOCK_BOOTTIME
    if (clock == CLOCK_BOOTTIME) call = CALL_boot_clock;
#endif
    (void)clock;
    if (fault(call)) return -1;
    now->tv_sec = (time_t)(now_us / 1000000u);
    now->tv_nsec = (long)(now_us % 1000000u * 1000u);
    return 0;
}

static time_t fault_time(time_t *out)
{
    (void)out;
    if (fault(CALL_time)) return (time_t)-1;
    return (time_t)(1790000000u + fault_now_us() / 1000000u);
}

#ifdef __linux__
AT_TIMES ssize_t fault_getrandom(void *bytes, size_t len, unsigned flags)
{
    int error = fault(CALL_getrandom);
    if (error == ONE_BYTE) len = len ? 1 : 0;
    return error && error != ONE_BYTE ? -1 : getrandom(bytes, len, flags);
}

AT_TIMES int fault_epoll_create1(int flags)
{
    return fault(CALL_epoll_create1) ? -1 : fault_fd(epoll_create1(flags), 1);
}

AT_TIMES int fault_epoll_ctl(int poller, int what, int fd, struct epoll_event *event)
{
    return fault(CALL_epoll_ctl) ? -1 : epoll_ctl(poller, what, fd, event);
}

AT_TIMES int fault_epoll_wait(int poller, struct epoll_event *events, int cap, int timeout_ms)
{
    return fault(CALL_epoll_wait) ? -1 : epoll_wait(poller, events, cap, timeout_ms);
}

AT_TIMES int fault_eventfd(unsigned value, int flags)
{
    return fault(CALL_eventfd) ? -1 : fault_fd(eventfd(value, flags), 1);
}

AT_TIMES int fault_timerfd_create(clockid_t clock, int flags)
{
    return fault(CALL_timerfd_create) ? -1 : fault_fd(timerfd_create(clock, flags), 1);
}

AT_TIMES int fault_timerfd_settime(int fd, int flags, const struct itimerspec *when,
                                 struct itimerspec *before)
{
    return fault(CALL_timerfd_settime) ? -1 : timerfd_settime(fd, flags, when, before);
}
#endif

#define close fault_close
#define calloc fault_calloc
#define socket fault_socket
#define setsockopt fault_setsockopt
#define fcntl fault_fcntl
#define connect fault_connect
#define getsockopt fault_getsockopt
#define getpeername fault_getpeername
#define send fault_send
#define recv fault_recv
#define read fault_read
#define write fault_write
#define poll fault_poll
#define pipe fault_pipe
#define getaddrinfo fault_getaddrinfo
#define pthread_attr_init fault_pthread_attr_init
#define pthread_attr_setstacksize fault_pthread_attr_setstacksize
#define pthread_create fault_pthread_create
#define open fault_open
#define pread fault_pread
#define stat(path, facts) fault_stat(path, facts)
#define clock_gettime fault_clock_gettime
#define time(out) fault_time(out)
#define getrandom fault_getrandom
#define epoll_create1 fault_epoll_create1
#define epoll_ctl fault_epoll_ctl
#define epoll_wait fault_epoll_wait
#define eventfd fault_eventfd
#define timerfd_create fault_timerfd_create
#define timerfd_settime fault_timerfd_settime
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#undef close
#undef calloc
#undef socket
#undef setsockopt
#undef fcntl
#undef connect
#undef getsockopt
#undef getpeername
#undef send
#undef recv
#undef read
#undef write
#undef poll
#undef pipe
#undef getaddrinfo
#undef pthread_attr_init
#undef pthread_attr_setstacksize
#undef pthread_create
#undef open
#undef pread
#undef stat
#undef clock_gettime
#undef time
#undef getrandom
#undef epoll_create1
#undef epoll_ctl
#undef epoll_wait
#undef eventfd
#undef timerfd_create
#undef timerfd_settime
#include "check.h"
#include "loopback.h"

#define TOKEN "MTA5ODc2NTQzMjEwOTg3NjU0Mw.GabcDE.thisTokenMustNeverBeSeenInAnyText"

#if defined __SANITIZE_ADDRESS__ || !defined __OPTIMIZE__
#define BIG_BYTES 1000000
#else
#define BIG_BYTES 10000000
#endif
#define SMALL_BYTES 300000
static uint64_t big_bytes = SMALL_BYTES;            /* of the GUILD_CREATE in a life */

static uint64_t fault_now_us(void) { return lb_now_us(); }

/* ---- a client, its gateway, one life ---- */
typedef struct life {
    lb_sim sim;
    gw_config cfg;
    gw_client *gw;
    uint32_t seen[GW_NOTICE_END_];
    uint32_t idle_turns;
    uint32_t empty_messages, token_seen, bad_sizes, queued;
    int32_t close_code;                 /* of FATAL */
    uint64_t big, moved, before;
    uint64_t live_blocks, live_bytes;
} life;

static void *life_alloc(void *user, void *old, size_t old_bytes, size_t new_bytes)
{
    life *l = (life *)user;
    uint64_t *head = old ? (uint64_t *)old - 2 : NULL;
    if ((head && head[0] != old_bytes) || (!head && old_bytes)) l->bad_sizes++;
    if (!new_bytes) {
        if (!head) return NULL;
        l->live_blocks--;
        l->live_bytes -= old_bytes;
        free(head);
        return NULL;
    }
    if (fault(CALL_alloc)) return NULL;
    head = (uint64_t *)realloc(head, new_bytes + 16);
    if (!head) return NULL;
    head[0] = new_bytes;
    l->live_blocks += old ? 0 : 1;
    l->live_bytes += new_bytes - old_bytes;
    return head + 2;
}

static void life_look(life *l, const char *text)
{
    if (!strstr(text, "thisTokenMustNeverBeSeen")) return;
    l->token_seen++;
    fprintf(stderr, "the token is in: %s\n", text);
}

static void life_log(void *user, uint32_t level, int32_t shard, const char *text)
{
    (void)level; (void)shard;
    life_look((life *)user, text);
}

static life *life_new(int secure)
{
    life *l = (life *)lb_new(sizeof *l);
    lb_sim_init(&l->sim);
    l->sim.config.identify_window_ms = 5000;
    l->sim.host = secure ? "a.gateway.test" : "127.0.0.1";      /* a name to be resolved */
    l->sim.chain = "wildcard.pem";
    lb_sim_begin(&l->sim, secure, NULL);
    l->cfg.token = TOKEN;
    l->cfg.intents = GW_INTENTS_ALL;
    l->cfg.url = l->sim.url;
    l->cfg.ca_file = lb_cert_path("ca.pem");
    l->cfg.user = l;
    l->cfg.alloc = life_alloc;
    l->cfg.log = life_log;
    l->cfg.log_level = GW_LOG_TRACE;
    return l;
}

static void life_take(life *l, const gw_event *event)
{
    if (event->type < GW_NOTICE_END_) l->seen[event->type]++;
    life_look(l, event->message);
    life_look(l, event->name);
    life_look(l, gw_why(l->gw));
    if (event->type >= GW_GATEWAY_INFO && !event->message[0]) l->empty_messages++;
    if (event->bytes > big_bytes) l->big++;
    if (event->type == GW_FATAL) l->close_code = event->close_code;
    gw_u64(&event->d, "user.id");
    l->moved++;
}

/* 1: what was sent has not reached the other end: on a busy machine the kernel takes its time. */
static int life_is_on_its_way(int fd)
{
#ifdef SIOCOUTQ
    int bytes;
    return ioctl(fd, SIOCOUTQ, &bytes) == 0 && bytes > 0;
#else
    (void)fd;
    return 0;
#endif
}

/* 1: a descriptor stirs, or will, so that the client has work that it does not know of yet. */
static int life_stirs(life *l)
{
    gw_pollfd fds[3];
    struct pollfd one;
    const lb_stream *stream;
    gw__link_state state = l->gw->shards[0]->link.state;
    uint32_t i, count = gw_pollfds(l->gw, fds, 3);
    int waits = state == GW__LINK_RESOLVING || state == GW__LINK_CONNECTING;    /* a thread, or the kernel */
    for (stream = l->sim.streams; stream; stream = stream->next) waits |= life_is_on_its_way(stream->fd);
    for (i = 0; i < count && i < 3; i++) {
        one.fd = (int)fds[i].fd;
        one.events = (short)((fds[i].readable ? POLLIN : 0) | (fds[i].writable ? POLLOUT : 0));
        one.revents = 0;
        if (poll(&one, 1, 0) == 1) return 1;
        waits |= life_is_on_its_way(one.fd);
    }
    if (waits) usleep(100);
    return waits;
}

/* Nothing moves: the clock skips to what is due. */
static void life_skip(const life *l, int32_t timeout_ms)
{
    uint64_t now_ms = lb_now_ms(), due_ms = sim_next_ms(l->sim.gateway);
    if (timeout_ms >= 0 && now_ms + (uint64_t)timeout_ms < due_ms)
        due_ms = now_ms + (uint64_t)timeout_ms;
    if (due_ms > now_ms + 1000) due_ms = now_ms + 1000;
    lb_skipped_us += due_ms > now_ms ? (due_ms - now_ms) * 1000u : 1000u;
}

/* Both sides, once. */
static void life_turn(life *l)
{
    const gw_event *event;
    const lb_stream *stream;
    gw_stats stats;
    uint64_t before = l->before;
    int32_t timeout_ms;
    lb_sim_turn(&l->sim, 0);
    while ((event = gw_poll(l->gw)) != NULL) life_take(l, event);
    gw_stats_read(l->gw, GW_ALL, &stats);
    l->before = l->moved + stats.wire_bytes_in + stats.wire_bytes_out + stats.connects;
    for (stream = l->sim.streams; stream; stream = stream->next) l->before += stream->moved;
    l->idle_turns = l->before == before ? l->idle_turns + 1 : 0;
    timeout_ms = gw_timeout_ms(l->gw);
    if (l->idle_turns < 3) return;                  /* the kernel may be at it */
    if (l->idle_turns < 50 && (timeout_ms == 0 || life_stirs(l))) return;
    life_skip(l, timeout_ms);
}

/* Until there was one (more) event of this type, for so many (skipped) seconds at most. */
static int life_until(life *l, uint32_t type, uint32_t seconds)
{
    uint64_t until_us = lb_now_us() + seconds * UINT64_C(1000000);
    uint32_t before = l->seen[type];
    while (l->seen[type] == before && !l->seen[GW_CLOSED] && lb_now_us() < until_us) life_turn(l);
    return l->seen[type] != before;
}

static int life_until_live(life *l, uint32_t seconds)
{
    uint64_t until_us = lb_now_us() + seconds * UINT64_C(1000000);
    while (!gw_shard_live(l->gw, 0) && !l->seen[GW_CLOSED] && lb_now_us() < until_us) life_turn(l);
    return gw_shard_live(l->gw, 0);
}

static void life_story(life *l)
{
    static const char presence[] =
        "{\"since\":null,\"activities\":[],\"status\":\"dnd\",\"afk\":false}";
    char command[40];
    gw_fd(l->gw);
    l->queued += gw_send_raw(l->gw, 0, 3, presence, strlen(presence)) > 0;
    if (!life_until_live(l, 400)) return;
    snprintf(command, sizeof command, "big %lu", (unsigned long)big_bytes);
    lb_sim_do(&l->sim, command);
    life_until(l, GW_GUILD_CREATE, 10);
    gw_wake(l->gw);
    l->queued += gw_send_raw(l->gw, 0, 3, presence, strlen(presence)) > 0;
    lb_sim_do(&l->sim, "cut");
    life_until(l, GW_DISCONNECTED, 1);
    life_until_live(l, 100);
    life_until(l, GW_SKIPPED, 1);
}

static uint32_t last_seen[GW_NOTICE_END_];          /* of the last life */
static uint64_t last_big;

/* A whole life in which that fails. 1: it did fail at least once. */
static int live_through(int secure, int call, int error, uint64_t first, uint64_t count)
{
    life *l = life_new(secure);
    int failed = check_failures, hits;
    memset(faults.made, 0, sizeof faults.made);
    faults.hits = 0;
    faults.open_fds = 0;
    faults.error = error;
    faults.first = first;
    faults.count = count;
    faults.call = call;
    l->gw = gw_open(&l->cfg);
    if (l->gw) {
        life_story(l);
        faults.call = -1;                           /* all works again: then so does the client */
        if (!l->seen[GW_CLOSED]) {
            CHECK(life_until_live(l, 600));
            CHECK_EQ(gw_stop(l->gw, GW_END), GW_OK);
            CHECK(life_until(l, GW_CLOSED, 10));
        } else CHECK_U64(l->seen[GW_FATAL], 1);
        CHECK_U64(l->empty_messages, 0);
        CHECK(l->seen[GW_COMMAND_DROPPED] <= l->queued);
    }
    faults.call = -1;
    gw_close(l->gw);
    CHECK_EQ(faults.open_fds, 0);
    CHECK_U64(l->live_blocks, 0);
    CHECK_U64(l->live_bytes, 0);
    CHECK_U64(l->bad_sizes, 0);
    CHECK_U64(l->token_seen, 0);
    hits = faults.hits != 0;
    memcpy(last_seen, l->seen, sizeof last_seen);
    last_big = l->big;
    lb_sim_end(&l->sim, sim_get_stats(l->sim.gateway)->violations);
    if (check_failures != failed)
        fprintf(stderr, "  %s: %s, error %d, from call %lu on, %s\n", secure ? "TLS" : "plain",
                call >= 0 ? calls[call].name : "nothing", error, (unsigned long)first,
                count == 1 ? "once" : "for a while");
    free(l);
    return hits;
}

static int is_small(void)
{
    const char *scale = getenv("CHECK_SCALE");
    return scale && strcmp(scale, "small") == 0;
}

static uint64_t step_of(uint64_t n, uint64_t most) { return n < most ? 1 : 1 + n / 4; }

/* At every place; `most` places are looked at one by one, those behind in growing steps. Once; and
 * from there on: at each of `most_on` places, those behind doubled. */
static void fail_everywhere(int secure, int call, uint64_t most, uint64_t most_on)
{
    const int *error;
    uint64_t n;
    if (is_small()) most = most_on = 2;
    for (error = calls[call].errors; *error; error++) {
        for (n = 1; live_through(secure, call, *error, n, 1); n += step_of(n, most)) { }
        if (secure) big_bytes = SMALL_BYTES;
        for (n = 1; live_through(secure, call, *error, n, *error == EINTR ? 100 : UINT64_MAX);
             n += n < most_on ? 1 : is_small() ? 7 * n : n) { }
        if (is_small()) break;
    }
}

/* With the largest payload: at every place where memory fails, else at the 16th, 64th, 256th ... */
static void fail_in_a_large_payload(int secure, int call)
{
    const int *error;
    uint64_t n;
    big_bytes = is_small() ? SMALL_BYTES : BIG_BYTES;
    if (call == CALL_alloc) fail_everywhere(secure, call, UINT64_MAX, UINT64_MAX);
    else for (error = calls[call].errors; *error; error++) {
        for (n = 16; live_through(secure, call, *error, n, 1); n *= 4) { }
        if (is_small()) break;
    }
    big_bytes = SMALL_BYTES;
}

#define FAILS(name, most) \
    TEST(failures_of_##name##_are_survived) { fail_everywhere(0, CALL_##name, most, 1); }
#define FAILS_TLS(name, most) \
    TEST(failures_of_##name##_with_tls_are_survived) { fail_everywhere(1, CALL_##name, most, 1); }
#define FAILS_LARGE(name) \
    TEST(failures_of_##name##_in_a_large_payload_are_survived) \
    { \
        fail_in_a_large_payload(0, CALL_##name); \
    }

TEST(failures_none_and_all_is_well)
{
    int secure;
    for (secure = 0; secure < 2; secure++) {
        CHECK_EQ(live_through(secure, -1, 0, 1, 1), 0);
        CHECK_U64(last_seen[GW_READY], 1);
        CHECK_U64(last_big, 1);
        /* the cut, and the end; one more where the clock skipped while the gateway's thread had to wait */
        CHECK(last_seen[GW_DISCONNECTED] == 2 || last_seen[GW_DISCONNECTED] == 3);
        CHECK_U64(last_seen[GW_RESUMED], last_seen[GW_DISCONNECTED] - 1);
        CHECK_U64(last_seen[GW_CLOSED], 1);
        CHECK(faults.made[CALL_alloc] > 30);
        CHECK(faults.made[CALL_send] > 5 && faults.made[CALL_recv] > 5);
    }
}

/* Neither getrandom() nor /dev/urandom. */
TEST(failures_of_all_random_bytes_are_survived)
{
    int secure;
    faults.also = CALL_urandom;
    for (secure = 0; secure < 2; secure++) {
        CHECK_EQ(live_through(secure, CALL_getrandom, ENOSYS, 1, UINT64_MAX), 1);
        CHECK_U64(last_seen[GW_READY], 1);
        CHECK(last_seen[GW_DISCONNECTED] > 2);
        CHECK_U64(last_seen[GW_FATAL], 0);
    }
    faults.also = -1;
}

/* The gateway closes with 4014 and resets at once: the write fails first, and the word is heard. */
static void close_and_reset(int secure)
{
    static const char d[] = "{\"guild_ids\":[]}";
    life *l = life_new(secure);
    memset(faults.made, 0, sizeof faults.made);
    l->gw = gw_open(&l->cfg);
    if (CHECK(l->gw) && CHECK(life_until_live(l, 100))) {
        lb_sim_do(&l->sim, "close 4014");
        lb_sim_turn(&l->sim, 0);
        lb_stream_drop(l->sim.streams, 1);
        CHECK(gw_send_raw(l->gw, 0, 31, d, strlen(d)) > 0);
        CHECK(life_until(l, GW_FATAL, 10));
        CHECK_EQ(l->close_code, 4014);
        life_until(l, GW_CLOSED, 10);
        CHECK_U64(l->seen[GW_CLOSED], 1);
        CHECK_U64(sim_get_stats(l->sim.gateway)->connections, 1);
    }
    gw_close(l->gw);
    CHECK_U64(l->live_blocks, 0);
    lb_sim_end(&l->sim, 0);
    free(l);
}

TEST(failures_a_close_code_before_a_reset_is_heard)             { close_and_reset(0); }
TEST(failures_a_close_code_before_a_reset_is_heard_with_tls)    { close_and_reset(1); }

/* /dev/urandom serves where getrandom() is not there; and may fail as well. */
static void fail_the_device(int secure, int call)
{
    faults.never = CALL_getrandom;
    fail_everywhere(secure, call, 10, 1);
    faults.never = -1;
}

TEST(failures_of_the_random_device_are_survived)      { fail_the_device(0, CALL_urandom); }
TEST(failures_of_random_bytes_are_survived)           { fail_the_device(0, CALL_urandom_read); }
TEST(failures_of_random_bytes_with_tls_are_survived)  { fail_the_device(1, CALL_urandom_read); }

TEST(failures_of_alloc_in_a_large_payload_with_tls_are_survived)
{
    fail_in_a_large_payload(1, CALL_alloc);
}

FAILS_LARGE(alloc)
FAILS_LARGE(recv)
FAILS_LARGE(epoll_wait)
FAILS_LARGE(poll)
FAILS(socket, 10)
FAILS(setsockopt, 10)
FAILS(fcntl, 10)
FAILS(connect, 10)
FAILS(getsockopt, 10)
FAILS(so_error, 10)
FAILS(getpeername, 10)
FAILS(send, 20)
FAILS(recv, 20)
FAILS(close, 10)
FAILS(epoll_create1, 2)
FAILS(epoll_ctl, 20)
FAILS(epoll_wait, 20)
FAILS(eventfd, 2)
FAILS(timerfd_create, 2)
FAILS(timerfd_settime, 10)
FAILS(poll, 20)
FAILS(pipe, 2)
FAILS(read, 10)
FAILS(write, 10)
FAILS(getrandom, 10)
FAILS(clock_gettime, 10)
FAILS(boot_clock, 10)
FAILS(time, 10)
FAILS_TLS(calloc, 10)
FAILS_TLS(send, 6)
FAILS_TLS(recv, 6)
FAILS_TLS(getaddrinfo, 10)
FAILS_TLS(pthread_attr_init, 10)
FAILS_TLS(pthread_attr_setstacksize, 10)
FAILS_TLS(pthread_create, 10)
FAILS_TLS(getrandom, 10)
FAILS_TLS(open, 6)
FAILS_TLS(pread, 6)
FAILS_TLS(stat, 6)
FAILS_TLS(time, 6)

CHECK_MAIN()
