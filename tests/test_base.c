/* The rooms platform, memory and log: clocks, random bytes, files, the poller, the fixed block, buffers, UTF-8, sentences. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "check.h"
#include <poll.h>
#include <pthread.h>
#include <sys/time.h>

static int is_slow(void) { return getenv("GW_TEST_SLOW_MACHINE") != NULL; }

static uint64_t seed = 42;

static uint32_t chance(uint32_t below)          /* splitmix64 */
{
    uint64_t z = seed += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return (uint32_t)((z ^ (z >> 31)) % below);
}

/* ---- platform: clocks, random bytes ---- */
TEST(sys_clocks_move_and_never_back)
{
    uint64_t boot = gw__sys_boot_us(), began = gw__sys_monotonic_us(), last = began, now = began;
    CHECK(began > 0);
    while (now < began + 2000) {
        now = gw__sys_monotonic_us();
        if (now < last) { CHECK(now >= last); return; }
        last = now;
    }
    CHECK(gw__sys_boot_us() >= boot + 2000);
    CHECK(gw__sys_boot_us() + 1000 >= gw__sys_monotonic_us());      /* it counts sleep as well */
}

TEST(sys_unix_time_is_later_than_this_test_was_written)
{
    CHECK(gw__sys_unix_time() > UINT64_C(1700000000));
    CHECK(gw__sys_unix_time() <= (uint64_t)time(NULL));
}

TEST(sys_random_bytes_differ_and_fill_all)
{
    uint8_t a[1000], b[1000];
    size_t i, zero_runs = 0;
    memset(a, 0, sizeof a);
    memset(b, 0, sizeof b);
    CHECK_EQ(gw__sys_random(a, sizeof a), 1);
    CHECK_EQ(gw__sys_random(b, sizeof b), 1);
    CHECK(memcmp(a, b, sizeof a) != 0);
    for (i = 0; i + 8 <= sizeof a; i += 8) zero_runs += memcmp(a + i, "\0\0\0\0\0\0\0\0", 8) == 0;
    CHECK_EQ(zero_runs, 0);
    CHECK_EQ(gw__sys_random(a, 0), 1);
}

TEST(sys_random_gives_more_than_one_call_of_the_system)
{
    size_t len = 300000;
    uint8_t *bytes = (uint8_t *)calloc(1, len);
    CHECK_EQ(gw__sys_random(bytes, len), 1);
    CHECK(memcmp(bytes + len - 16, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16) != 0);
    free(bytes);
}

TEST(sys_names_the_system)
{
    CHECK(gw__sys_name()[0] != 0);
#ifdef __linux__
    CHECK_TEXT(gw__sys_name(), "linux");
#endif
}

TEST(version_in_numbers_is_the_version_in_words)
{
    char words[32];
    CHECK_U64(gw_version(), GW_VERSION);
    snprintf(words, sizeof words, "%u.%u.%u", (unsigned)(gw_version() >> 16), (unsigned)(gw_version() >> 8 & 255u),
             (unsigned)(gw_version() & 255u));
    CHECK_TEXT(words, GW_VERSION_TEXT);
}

/* ---- platform: files ---- */
static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "wb");
    if (!CHECK(file)) exit(1);
    fputs(text, file);
    fclose(file);
}

TEST(sys_file_stamp_changes_with_the_file)
{
    char path[] = "/tmp/gw_test_base_XXXXXX", other[64];
    uint64_t a[2], b[2], c[2];
    int fd = mkstemp(path);
    if (!CHECK(fd >= 0)) return;
    close(fd);
    write_file(path, "one");
    CHECK_EQ(gw__sys_file_stamp(path, a), 1);
    CHECK_EQ(gw__sys_file_stamp(path, b), 1);
    CHECK_BYTES((char *)a, sizeof a, (char *)b, sizeof b);
    write_file(path, "longer");
    CHECK_EQ(gw__sys_file_stamp(path, b), 1);
    CHECK(memcmp(a, b, sizeof a) != 0);
    snprintf(other, sizeof other, "%s.new", path);         /* as package managers do it: another file of the same size */
    write_file(other, "LONGER");
    CHECK_EQ(rename(other, path), 0);
    CHECK_EQ(gw__sys_file_stamp(path, c), 1);
    CHECK(memcmp(b, c, sizeof b) != 0);
    unlink(path);
    CHECK_EQ(gw__sys_file_stamp(path, a), 0);
    CHECK_EQ(gw__sys_file_stamp("/tmp", a), 0);
    CHECK_EQ(gw__sys_file_stamp("", a), 0);
}

TEST(sys_file_read_reads_pieces_until_the_end)
{
    char path[] = "/tmp/gw_test_base_XXXXXX", got[8];
    int fd = mkstemp(path);
    if (!CHECK(fd >= 0)) return;
    close(fd);
    write_file(path, "0123456789");
    CHECK_EQ(gw__sys_file_read(path, 0, got, 4), 4);
    CHECK_BYTES(got, 4, "0123", 4);
    CHECK_EQ(gw__sys_file_read(path, 8, got, sizeof got), 2);
    CHECK_BYTES(got, 2, "89", 2);
    CHECK_EQ(gw__sys_file_read(path, 10, got, sizeof got), 0);
    CHECK_EQ(gw__sys_file_read(path, 1000, got, sizeof got), 0);
    unlink(path);
    CHECK_EQ(gw__sys_file_read(path, 0, got, sizeof got), 0);
    CHECK_EQ(gw__sys_file_read("/tmp", 0, got, sizeof got), 0);
}

TEST(sys_ca_path_begins_with_the_environment_and_ends)
{
    const char *before = getenv("SSL_CERT_FILE");
    char kept[512] = "";
    uint32_t number = 1;
    if (before) snprintf(kept, sizeof kept, "%s", before);
    setenv("SSL_CERT_FILE", "/somewhere/ca.pem", 1);
    CHECK_TEXT(gw__sys_ca_path(0), "/somewhere/ca.pem");
    unsetenv("SSL_CERT_FILE");
    CHECK_TEXT(gw__sys_ca_path(0), "");
    while (gw__sys_ca_path(number) && number < 100) {
        CHECK_EQ(gw__sys_ca_path(number)[0], '/');
        number++;
    }
    CHECK(number > 3 && number < 100);
    CHECK(gw__sys_ca_path(UINT32_MAX) == NULL);
    if (kept[0]) setenv("SSL_CERT_FILE", kept, 1);
}

/* ---- platform: addresses, sentences ---- */
static void address_round_trip(const char *text, uint32_t is_v6)
{
    gw__address address;
    char back[64];
    CHECK_EQ(gw__sys_address_parse(text, 443, &address), 1);
    CHECK_EQ(address.is_v6, is_v6);
    CHECK_EQ(address.port, 443);
    gw__sys_address_text(&address, back, sizeof back);
    CHECK_TEXT(back, text);
}

TEST(sys_address_reads_both_families)
{
    gw__address address;
    struct sockaddr_storage raw;
    address_round_trip("127.0.0.1", 0);
    address_round_trip("255.255.255.255", 0);
    address_round_trip("::1", 1);
    address_round_trip("2001:db8::ff00:42:8329", 1);
    CHECK_EQ(gw__sys_address_parse("localhost", 1, &address), 0);
    CHECK_EQ(gw__sys_address_parse("", 1, &address), 0);
    CHECK_EQ(gw__sys_address_parse("1.2.3", 1, &address), 0);
    CHECK_EQ(gw__sys_address_parse("1.2.3.4.5", 1, &address), 0);
    CHECK_EQ(gw__sys_address_parse("::1%lo", 1, &address), 0);
    CHECK_EQ(gw__sys_address_parse("::1", 1, &address), 1);
    address.scope = 7;
    CHECK_EQ(gw__sys_address_fill(&address, &raw), sizeof(struct sockaddr_in6));
    CHECK_EQ(((struct sockaddr_in6 *)(void *)&raw)->sin6_scope_id, 7);
    CHECK_EQ(ntohs(((struct sockaddr_in6 *)(void *)&raw)->sin6_port), 1);
}

TEST(sys_error_texts_are_for_people)
{
    CHECK_HAS(gw__sys_error_text(ECONNREFUSED), "nothing listens");
    CHECK_HAS(gw__sys_error_text(ETIMEDOUT), "timed out");
    CHECK_HAS(gw__sys_error_text(ENETUNREACH), "online");
    CHECK_HAS(gw__sys_error_text(ECONNRESET), "reset by the peer");
    CHECK_HAS(gw__sys_error_text(EPIPE), "no longer reads");
    CHECK_HAS(gw__sys_error_text(EHOSTUNREACH), "no route");
    CHECK_HAS(gw__sys_error_text(ENETDOWN), "network is down");
    CHECK_HAS(gw__sys_error_text(EADDRNOTAVAIL), "no local address");
    CHECK_HAS(gw__sys_error_text(EAFNOSUPPORT), "address family");
    CHECK_HAS(gw__sys_error_text(EMFILE), "ulimit");
    CHECK_HAS(gw__sys_error_text(ENFILE), "ulimit");
    CHECK_HAS(gw__sys_error_text(ENOBUFS), "out of memory");
    CHECK_HAS(gw__sys_error_text(EPERM), "forbids it");
    CHECK_HAS(gw__sys_error_text(EACCES), "forbids it");
    CHECK(gw__sys_error_text(0)[0] != 0);
    CHECK(gw__sys_error_text(99999)[0] != 0);
    CHECK_HAS(gw__sys_resolve_text(EAI_NONAME), "no such host");
    CHECK_HAS(gw__sys_resolve_text(EAI_AGAIN), "online");
    CHECK_HAS(gw__sys_resolve_text(EAI_FAIL), "name server failed");
    CHECK_HAS(gw__sys_resolve_text(EAI_MEMORY), "no memory");
    CHECK(gw__sys_resolve_text(12345)[0] != 0);
}

/* ---- platform: the poller ---- */
typedef struct pipe_pair { int read_end, write_end; } pipe_pair;

static pipe_pair pair_new(void)
{
    pipe_pair p;
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0) exit(1);
    gw__sys_nonblocking(fds[0]);
    gw__sys_nonblocking(fds[1]);
    p.read_end = fds[0];
    p.write_end = fds[1];
    return p;
}

static void pair_free(pipe_pair *p)
{
    close(p->read_end);
    if (p->write_end >= 0) close(p->write_end);
}

typedef struct poller_run {
    gw__poller poller;
    gw__ready seen[32];
    void *watches;
} poller_run;

static poller_run *poller_new(uint32_t cap)
{
    poller_run *r = (poller_run *)calloc(1, sizeof *r);
    CHECK_EQ(gw__sys_poller_open(&r->poller), 1);
    r->watches = calloc(cap + 1, GW__WATCH_BYTES ? GW__WATCH_BYTES : 1);       /* and its own to wake it */
    gw__sys_poller_lend(&r->poller, r->watches, cap + 1);
    return r;
}

static void poller_free(poller_run *r)
{
    gw__sys_poller_close(&r->poller);
    gw__sys_poller_close(&r->poller);           /* twice is fine */
    free(r->watches);
    free(r);
}

/* What was seen of this tag, NULL: nothing. */
static const gw__ready *poller_look(poller_run *r, uint64_t tag, int32_t timeout_ms)
{
    uint32_t i, count = gw__sys_poller_wait(&r->poller, timeout_ms, r->seen, GW__COUNT(r->seen));
    for (i = 0; i < count; i++) if (r->seen[i].tag == tag) return &r->seen[i];
    return NULL;
}

TEST(poller_sees_nothing_where_nothing_is)
{
    poller_run *r = poller_new(2);
    CHECK_EQ(gw__sys_poller_wait(&r->poller, 0, r->seen, 32), 0);
    CHECK_EQ(gw__sys_poller_unwake(&r->poller), 0);
    CHECK_EQ(gw__sys_poller_wait(&r->poller, 5, r->seen, 32), 0);
    poller_free(r);
}

TEST(poller_sees_what_it_was_asked_for_and_no_more)
{
    poller_run *r = poller_new(2);
    pipe_pair p = pair_new();
    const gw__ready *seen;
    CHECK_EQ(gw__sys_poller_want(&r->poller, p.read_end, 77, 0, GW__WANT_READ), 1);
    CHECK(!poller_look(r, 77, 0));
    CHECK_EQ(send(p.write_end, "x", 1, MSG_NOSIGNAL), 1);
    seen = poller_look(r, 77, 1000);
    if (CHECK(seen)) CHECK_EQ(seen->readable, 1);
    if (seen) CHECK_EQ(seen->writable, 0);
    CHECK(poller_look(r, 77, 0));               /* it is told as long as it is so */
    CHECK_EQ(gw__sys_poller_want(&r->poller, p.read_end, 78, GW__WANT_READ, GW__WANT_WRITE), 1);
    seen = poller_look(r, 78, 1000);
    if (CHECK(seen)) CHECK_EQ(seen->readable, 0);
    if (seen) CHECK_EQ(seen->writable, 1);
    CHECK_EQ(gw__sys_poller_want(&r->poller, p.read_end, 79, GW__WANT_WRITE, GW__WANT_READ | GW__WANT_WRITE), 1);
    seen = poller_look(r, 79, 1000);
    if (CHECK(seen)) CHECK_EQ(seen->readable + seen->writable, 2);
    CHECK_EQ(gw__sys_poller_want(&r->poller, p.read_end, 79, GW__WANT_READ | GW__WANT_WRITE, 0), 1);
    CHECK_EQ(gw__sys_poller_wait(&r->poller, 0, r->seen, 32), 0);
    CHECK_EQ(gw__sys_poller_want(&r->poller, p.read_end, 80, 0, GW__WANT_READ), 1);
    CHECK(poller_look(r, 80, 1000));
    CHECK_EQ(gw__sys_poller_want(&r->poller, p.read_end, 80, GW__WANT_READ, 0), 1);
    pair_free(&p);
    poller_free(r);
}

TEST(poller_reports_a_hang_up_as_readable)
{
    poller_run *r = poller_new(2);
    pipe_pair p = pair_new();
    const gw__ready *seen;
    gw__sys_poller_want(&r->poller, p.read_end, 5, 0, GW__WANT_READ);
    close(p.write_end);
    p.write_end = -1;
    seen = poller_look(r, 5, 1000);
    if (CHECK(seen)) CHECK_EQ(seen->readable, 1);
    gw__sys_poller_want(&r->poller, p.read_end, 5, GW__WANT_READ, 0);
    pair_free(&p);
    poller_free(r);
}

TEST(poller_does_not_spin_on_a_hang_up_that_nobody_asked_for)
{
    poller_run *r = poller_new(2);
    pipe_pair p = pair_new();
    uint64_t began;
    gw__sys_poller_want(&r->poller, p.read_end, 5, 0, GW__WANT_READ);
    gw__sys_poller_want(&r->poller, p.read_end, 5, GW__WANT_READ, 0);
    close(p.write_end);
    p.write_end = -1;
    began = gw__sys_monotonic_us();
    CHECK_EQ(gw__sys_poller_wait(&r->poller, 20, r->seen, 32), 0);
    CHECK(gw__sys_monotonic_us() - began >= 19000);
    pair_free(&p);
    poller_free(r);
}

TEST(poller_tells_who_woke_it)
{
    poller_run *r = poller_new(1);
    const gw__ready *seen;
    errno = 4711;
    gw__sys_wake(gw__sys_poller_wake_end(&r->poller), GW__WOKEN_BY_CALLER);
    CHECK_EQ(errno, 4711);
    seen = poller_look(r, GW__TAG_WAKE, 1000);
    if (CHECK(seen)) CHECK_EQ(seen->readable, 1);
    CHECK_EQ(gw__sys_poller_unwake(&r->poller), GW__WOKEN_BY_CALLER);
    CHECK_EQ(gw__sys_poller_wait(&r->poller, 0, r->seen, 32), 0);
    gw__sys_wake(gw__sys_poller_wake_end(&r->poller), GW__WOKEN_BY_HELPER);
    CHECK_EQ(gw__sys_poller_unwake(&r->poller), GW__WOKEN_BY_HELPER);
    gw__sys_wake(gw__sys_poller_wake_end(&r->poller), GW__WOKEN_BY_HELPER);
    gw__sys_wake(gw__sys_poller_wake_end(&r->poller), GW__WOKEN_BY_CALLER);
    CHECK_EQ(gw__sys_poller_unwake(&r->poller), GW__WOKEN_BY_CALLER | GW__WOKEN_BY_HELPER);
    CHECK_EQ(gw__sys_poller_unwake(&r->poller), 0);
    poller_free(r);
}

TEST(poller_is_woken_any_number_of_times_without_blocking)
{
    poller_run *r = poller_new(1);
    uint32_t i;
    for (i = 0; i < 100000; i++) {              /* a pipe would be full long before */
        errno = 0;
        gw__sys_wake(gw__sys_poller_wake_end(&r->poller), i & 1 ? GW__WOKEN_BY_CALLER : GW__WOKEN_BY_HELPER);
        if (errno) { CHECK_EQ(errno, 0); break; }
    }
    CHECK_EQ(gw__sys_poller_unwake(&r->poller), GW__WOKEN_BY_CALLER | GW__WOKEN_BY_HELPER);
    CHECK_EQ(gw__sys_poller_unwake(&r->poller), 0);
    CHECK_EQ(gw__sys_poller_wait(&r->poller, 0, r->seen, 32), 0);
    poller_free(r);
}

static intptr_t wake_end_of_handler;

static void wake_by_signal(int number)
{
    (void)number;
    gw__sys_wake(wake_end_of_handler, GW__WOKEN_BY_CALLER);
}

TEST(poller_is_woken_from_a_signal_handler)
{
    poller_run *r = poller_new(1);
    struct sigaction how, before;
    memset(&how, 0, sizeof how);
    how.sa_handler = wake_by_signal;
    sigaction(SIGUSR1, &how, &before);
    wake_end_of_handler = gw__sys_poller_wake_end(&r->poller);
    raise(SIGUSR1);
    CHECK(poller_look(r, GW__TAG_WAKE, 1000));
    CHECK_EQ(gw__sys_poller_unwake(&r->poller), GW__WOKEN_BY_CALLER);
    sigaction(SIGUSR1, &before, NULL);
    poller_free(r);
}

static void *wake_by_thread(void *argument)
{
    usleep(5000);
    gw__sys_wake(gw__sys_poller_wake_end((const gw__poller *)argument), GW__WOKEN_BY_CALLER);
    return NULL;
}

TEST(poller_is_woken_out_of_its_sleep_from_another_thread)
{
    poller_run *r = poller_new(1);
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, wake_by_thread, &r->poller), 0);
    CHECK(poller_look(r, GW__TAG_WAKE, 20000));
    pthread_join(thread, NULL);
    CHECK_EQ(gw__sys_poller_unwake(&r->poller), GW__WOKEN_BY_CALLER);
    poller_free(r);
}

static void do_nothing(int number) { (void)number; }

TEST(poller_comes_back_from_an_interrupted_sleep)
{
    poller_run *r = poller_new(1);
    struct sigaction how, before;
    struct itimerval soon;
    uint64_t began = gw__sys_monotonic_us();
    memset(&how, 0, sizeof how);
    how.sa_handler = do_nothing;
    sigaction(SIGALRM, &how, &before);
    memset(&soon, 0, sizeof soon);
    soon.it_value.tv_usec = soon.it_interval.tv_usec = 5000;        /* again and again: the first may come before the sleep */
    setitimer(ITIMER_REAL, &soon, NULL);
    CHECK_EQ(gw__sys_poller_wait(&r->poller, 20000, r->seen, 32), 0);
    CHECK(gw__sys_monotonic_us() - began < 15000000);
    memset(&soon, 0, sizeof soon);
    setitimer(ITIMER_REAL, &soon, NULL);
    sigaction(SIGALRM, &before, NULL);
    poller_free(r);
}

TEST(poller_answers_no_more_than_there_is_room_for)
{
    poller_run *r = poller_new(10);
    pipe_pair p[10];
    uint32_t i, round, all = 0;
    for (i = 0; i < 10; i++) {
        p[i] = pair_new();
        gw__sys_poller_want(&r->poller, p[i].read_end, i, 0, GW__WANT_READ);
        CHECK_EQ(send(p[i].write_end, "x", 1, MSG_NOSIGNAL), 1);
    }
    for (round = 0; round < 10 && all < 10; round++) {
        char byte;
        uint32_t n, count = gw__sys_poller_wait(&r->poller, 1000, r->seen, 3);
        CHECK(count > 0 && count <= 3);
        for (n = 0; n < count; n++) {           /* served ones make room for the others */
            if (r->seen[n].tag >= 10) continue;
            if (recv(p[r->seen[n].tag].read_end, &byte, 1, 0) == 1) all++;
        }
    }
    for (i = 0; i < 10; i++) {
        gw__sys_poller_want(&r->poller, p[i].read_end, i, GW__WANT_READ, 0);
        pair_free(&p[i]);
    }
    CHECK_EQ(all, 10);
    poller_free(r);
}

TEST(poller_watches_a_hundred_connections)
{
    enum { COUNT = 100 };
    poller_run *r = poller_new(COUNT);
    pipe_pair p[COUNT];
    uint32_t i, at[4] = { 0, 62, 63, COUNT - 1 };
    uint64_t began;
    for (i = 0; i < COUNT; i++) {
        p[i] = pair_new();
        CHECK_EQ(gw__sys_poller_want(&r->poller, p[i].read_end, i, 0, GW__WANT_READ), 1);
    }
    for (i = 0; i < 4; i++) {
        CHECK_EQ(send(p[at[i]].write_end, "x", 1, MSG_NOSIGNAL), 1);
        CHECK(poller_look(r, at[i], 1000));
        gw__sys_poller_want(&r->poller, p[at[i]].read_end, at[i], GW__WANT_READ, 0);
    }
    began = gw__sys_monotonic_us();             /* and sleeps as well: a gw_wait() that spins would eat the CPU */
    CHECK_EQ(gw__sys_poller_wait(&r->poller, 20, r->seen, 32), 0);
    CHECK(gw__sys_monotonic_us() - began >= 19000);
    for (i = 0; i < COUNT; i++) {
        gw__sys_poller_want(&r->poller, p[i].read_end, i, GW__WANT_READ, 0);
        pair_free(&p[i]);
    }
    poller_free(r);
}

#ifdef GW__EPOLL
static int fd_is_readable(intptr_t fd, int timeout_ms)
{
    struct pollfd one;
    one.fd = (int)fd;
    one.events = POLLIN;
    one.revents = 0;
    return poll(&one, 1, timeout_ms) == 1 && (one.revents & POLLIN);
}

TEST(poller_timer_makes_the_descriptor_readable_when_due)
{
    poller_run *r = poller_new(1);
    intptr_t fd = gw__sys_poller_fd(&r->poller);
    uint64_t now_us = gw__sys_monotonic_us();
    CHECK(!fd_is_readable(fd, 0));
    gw__sys_poller_arm(&r->poller, now_us + 10000, now_us);
    CHECK(!fd_is_readable(fd, 0));
    CHECK(fd_is_readable(fd, 10000));
    CHECK(gw__sys_monotonic_us() >= now_us + 10000);
    CHECK(fd_is_readable(fd, 0));               /* until it is armed for another time */
    now_us = gw__sys_monotonic_us();
    gw__sys_poller_arm(&r->poller, now_us + 60000000, now_us);
    CHECK(!fd_is_readable(fd, 0));
    gw__sys_poller_arm(&r->poller, 0, now_us);  /* there is work */
    CHECK(fd_is_readable(fd, 1000));
    gw__sys_poller_arm(&r->poller, 0, now_us);
    CHECK(fd_is_readable(fd, 1000));
    gw__sys_poller_arm(&r->poller, GW__NEVER, now_us);
    CHECK(!fd_is_readable(fd, 5));
    gw__sys_poller_arm(&r->poller, now_us - 5, now_us);     /* overdue */
    CHECK(fd_is_readable(fd, 1000));
    gw__sys_poller_arm(&r->poller, GW__NEVER, now_us);
    gw__sys_poller_arm(&r->poller, UINT64_MAX - 1, now_us);     /* in half a million years */
    CHECK(!fd_is_readable(fd, 5));
    poller_free(r);
}

TEST(poller_descriptor_is_readable_when_woken)
{
    poller_run *r = poller_new(1);
    intptr_t fd = gw__sys_poller_fd(&r->poller);
    gw__sys_wake(gw__sys_poller_wake_end(&r->poller), GW__WOKEN_BY_HELPER);
    CHECK(fd_is_readable(fd, 1000));
    gw__sys_poller_unwake(&r->poller);
    CHECK(!fd_is_readable(fd, 0));
    poller_free(r);
}
#else
TEST(poller_has_no_descriptor_with_poll)
{
    poller_run *r = poller_new(1);
    pipe_pair p = pair_new(), q = pair_new();
    CHECK_EQ(gw__sys_poller_fd(&r->poller), -1);
    CHECK(gw__sys_poller_wake_fd(&r->poller) >= 0);
    CHECK_EQ(gw__sys_poller_want(&r->poller, p.read_end, 1, 0, GW__WANT_READ), 1);
    CHECK_EQ(gw__sys_poller_want(&r->poller, q.read_end, 2, 0, GW__WANT_READ), 0);     /* no more room than was lent */
    CHECK_EQ(gw__sys_poller_want(&r->poller, p.read_end, 1, GW__WANT_READ, 0), 1);
    CHECK_EQ(gw__sys_poller_want(&r->poller, q.read_end, 2, 0, GW__WANT_READ), 1);
    pair_free(&p);
    pair_free(&q);
    poller_free(r);
}
#endif

TEST(poller_opens_and_closes_without_leaking_descriptors)
{
    poller_run *r = poller_new(1);
    int before, after, i;
    poller_free(r);
    before = dup(0);
    close(before);
    for (i = 0; i < 50; i++) {
        r = poller_new(1);
        poller_free(r);
    }
    after = dup(0);
    close(after);
    CHECK_EQ(after, before);
}

#ifndef GW_NO_THREADS
static gw__mutex thread_lock;
static int thread_ran, thread_mask_full;

static void *thread_body(void *argument)
{
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    gw__sys_mutex_lock(&thread_lock);
    thread_ran = *(int *)argument;
    thread_mask_full = sigismember(&mask, SIGTERM) == 1 && sigismember(&mask, SIGINT) == 1;
    gw__sys_mutex_unlock(&thread_lock);
    return NULL;
}

TEST(sys_thread_runs_and_takes_no_signal_of_the_program)
{
    static int argument = 17;
    int ran = 0, tries;
    sigset_t mask;
    gw__sys_mutex_init(&thread_lock);
    CHECK_EQ(gw__sys_thread(thread_body, &argument), 1);
    for (tries = 0; tries < 10000 && !ran; tries++) {
        gw__sys_mutex_lock(&thread_lock);
        ran = thread_ran;
        gw__sys_mutex_unlock(&thread_lock);
        if (!ran) usleep(1000);
    }
    CHECK_EQ(ran, 17);
    CHECK_EQ(thread_mask_full, 1);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    CHECK_EQ(sigismember(&mask, SIGTERM), 0);   /* and the caller's own mask is as it was */
    usleep(2000);                               /* it is detached: let it leave before the program ends */
}
#endif

/* ---- memory: the hook ---- */
typedef struct counted { size_t now, calls, fail_from; uint32_t wrong_size; gw__mem *mem; uint32_t not_marked; } counted;

static void *counted_alloc(void *user, void *old, size_t old_bytes, size_t new_bytes)
{
    counted *c = (counted *)user;
    size_t *block = old ? (size_t *)old - 2 : NULL;
    if (c->mem && !c->mem->in_hook) c->not_marked++;
    if (old && block[0] != old_bytes) c->wrong_size++;
    if (!new_bytes) {
        c->now -= old_bytes;
        free(block);
        return NULL;
    }
    if (++c->calls >= c->fail_from && c->fail_from) return NULL;
    block = (size_t *)realloc(block, new_bytes + 2 * sizeof *block);
    block[0] = new_bytes;
    c->now += new_bytes - (old ? old_bytes : 0);
    return block + 2;
}

TEST(mem_asks_the_hook_and_counts)
{
    counted c;
    gw__mem mem;
    uint8_t *a, *b;
    memset(&c, 0, sizeof c);
    gw__mem_init(&mem, counted_alloc, &c);
    c.mem = &mem;
    a = (uint8_t *)gw__mem_new(&mem, 100);
    CHECK_EQ(a[0] + a[99], 0);
    b = (uint8_t *)gw__mem_new(&mem, 50);
    CHECK_U64(mem.now_bytes, 150);
    a = (uint8_t *)gw__mem_resize(&mem, a, 100, 300);
    CHECK_U64(mem.now_bytes, 350);
    CHECK_U64(mem.now_bytes, c.now);
    c.fail_from = 1;
    CHECK(gw__mem_resize(&mem, b, 50, 500) == NULL);
    CHECK(gw__mem_new(&mem, 1) == NULL);
    CHECK_U64(mem.now_bytes, 350);
    gw__mem_free(&mem, a, 300);
    gw__mem_free(&mem, b, 50);
    gw__mem_free(&mem, NULL, 50);
    CHECK_U64(mem.now_bytes, 0);
    CHECK_U64(mem.peak_bytes, 350);
    CHECK_U64(c.now, 0);
    CHECK_U64(c.wrong_size, 0);
    CHECK_U64(c.not_marked, 0);
    CHECK_EQ(mem.in_hook, 0);
}

TEST(mem_uses_the_heap_without_a_hook)
{
    gw__mem mem;
    void *a;
    gw__mem_init(&mem, NULL, NULL);
    a = gw__mem_new(&mem, 1000);
    CHECK(a);
    a = gw__mem_resize(&mem, a, 1000, 10);
    CHECK(a);
    gw__mem_free(&mem, a, 10);
    CHECK(gw__mem_resize(&mem, NULL, 0, 0) == NULL);
    CHECK_U64(mem.now_bytes, 0);
}

TEST(mem_wipe_overwrites)
{
    char secret[10] = "secret123";
    gw__mem_wipe(secret, sizeof secret);
    CHECK_BYTES(secret, sizeof secret, "\0\0\0\0\0\0\0\0\0\0", 10);
    gw__mem_wipe(secret, 0);
}

/* ---- memory: the fixed block ---- */
typedef struct block_run { uint8_t *raw; gw__mem mem; size_t bytes; } block_run;

static block_run *block_new(size_t bytes, size_t offset)
{
    block_run *r = (block_run *)calloc(1, sizeof *r);
    r->raw = (uint8_t *)malloc(bytes + offset);     /* exactly so much: a sanitizer sees the byte behind it */
    memset(r->raw, 0xEE, bytes + offset);
    r->bytes = bytes;
    CHECK_EQ(gw__mem_init_block(&r->mem, r->raw + offset, bytes), 1);
    return r;
}

/* Walks the cells: they must cover the block exactly. Bytes of those in use, heads included. */
static size_t block_walk(const gw__mem *mem)
{
    size_t at = 0, used = 0;
    while (at < mem->block_bytes) {
        const gw__cell *cell = (const gw__cell *)(const void *)(mem->block + at);
        if (cell->bytes < 2 * GW__CELL_ALIGN && !CHECK(cell->bytes >= GW__CELL_ALIGN)) return used;
        if (cell->bytes % GW__CELL_ALIGN || cell->used > 1) {
            CHECK_EQ(cell->bytes % GW__CELL_ALIGN, 0);
            CHECK(cell->used <= 1);
            return used;
        }
        if (cell->used) used += cell->bytes;
        at += cell->bytes;
    }
    CHECK_EQ(at, mem->block_bytes);
    return used;
}

static void block_free(block_run *r)
{
    CHECK_EQ(block_walk(&r->mem), 0);
    CHECK_U64(r->mem.now_bytes, 0);
    free(r->raw);
    free(r);
}

TEST(block_gives_aligned_memory_from_a_crooked_beginning)
{
    size_t offset;
    for (offset = 0; offset < 17; offset++) {
        block_run *r = block_new(1000, offset);
        void *a = gw__mem_new(&r->mem, 1), *b = gw__mem_new(&r->mem, 33);
        CHECK(a && b);
        CHECK_EQ((uintptr_t)a % 16, 0);
        CHECK_EQ((uintptr_t)b % 16, 0);
        CHECK((uint8_t *)a >= r->raw + offset && (uint8_t *)b + 33 <= r->raw + offset + 1000);
        gw__mem_free(&r->mem, b, 33);
        gw__mem_free(&r->mem, a, 1);
        block_free(r);
    }
}

TEST(block_refuses_to_begin_with_too_little)
{
    uint8_t raw[128];
    gw__mem mem;
    size_t bytes;
    CHECK_EQ(gw__mem_init_block(&mem, raw, 0), 0);
    CHECK_EQ(gw__mem_init_block(&mem, raw, 15), 0);
    for (bytes = 0; bytes < 128; bytes++)
        if (gw__mem_init_block(&mem, raw, bytes)) {
            void *a = gw__mem_new(&mem, 8);
            CHECK(a != NULL);
            gw__mem_free(&mem, a, 8);
        }
    CHECK_EQ(gw__mem_init_block(&mem, raw, 128), 1);
}

TEST(block_can_be_used_up_to_its_last_byte)
{
    block_run *r = block_new(1024, 0);
    size_t most = r->mem.block_bytes - GW__CELL_ALIGN;
    uint8_t *a = (uint8_t *)gw__mem_new(&r->mem, most);
    if (CHECK(a)) {
        memset(a, 1, most);
        CHECK(gw__mem_new(&r->mem, 1) == NULL);
        gw__mem_free(&r->mem, a, most);
    }
    CHECK(gw__mem_new(&r->mem, most + 1) == NULL);
    CHECK(gw__mem_new(&r->mem, SIZE_MAX) == NULL);
    CHECK(gw__mem_new(&r->mem, SIZE_MAX - 8) == NULL);
    a = (uint8_t *)gw__mem_new(&r->mem, most);
    CHECK(a);
    gw__mem_free(&r->mem, a, most);
    block_free(r);
}

TEST(block_splits_and_joins_what_is_free)
{
    block_run *r = block_new(1024, 0);
    void *a = gw__mem_new(&r->mem, 100), *b = gw__mem_new(&r->mem, 100), *c = gw__mem_new(&r->mem, 100), *d;
    CHECK(a && b && c && a != b && b != c);
    gw__mem_free(&r->mem, b, 100);
    d = gw__mem_new(&r->mem, 90);               /* first fit: the hole */
    CHECK(d == b);
    gw__mem_free(&r->mem, d, 90);
    gw__mem_free(&r->mem, a, 100);
    d = gw__mem_new(&r->mem, 200);              /* needs both holes as one */
    CHECK(d == a);
    gw__mem_free(&r->mem, c, 100);
    gw__mem_free(&r->mem, d, 200);
    block_free(r);
}

TEST(block_grows_in_place_into_a_free_neighbour)
{
    block_run *r = block_new(1024, 0);
    char *a = (char *)gw__mem_new(&r->mem, 16), *b = (char *)gw__mem_new(&r->mem, 16), *grown;
    strcpy(a, "content");
    gw__mem_free(&r->mem, b, 16);
    grown = (char *)gw__mem_resize(&r->mem, a, 16, 500);
    CHECK(grown == a);
    CHECK_TEXT(grown, "content");
    CHECK(gw__mem_resize(&r->mem, grown, 500, 8) == a);     /* and gives back */
    b = (char *)gw__mem_new(&r->mem, 900);
    CHECK(b != NULL);
    gw__mem_free(&r->mem, b, 900);
    gw__mem_free(&r->mem, a, 8);
    block_free(r);
}

TEST(block_moves_what_cannot_grow_in_place)
{
    block_run *r = block_new(1024, 0);
    char *a = (char *)gw__mem_new(&r->mem, 16), *b = (char *)gw__mem_new(&r->mem, 16), *moved;
    strcpy(a, "content");
    moved = (char *)gw__mem_resize(&r->mem, a, 16, 200);
    CHECK(moved && moved != a);
    if (moved) CHECK_TEXT(moved, "content");
    gw__mem_free(&r->mem, moved, 200);
    gw__mem_free(&r->mem, b, 16);
    block_free(r);
}

TEST(block_leaves_all_as_it_was_when_it_cannot_grow)
{
    block_run *r = block_new(1024, 0);
    char *a = (char *)gw__mem_new(&r->mem, 100), *hole = (char *)gw__mem_new(&r->mem, 100), *b = (char *)gw__mem_new(&r->mem, 100);
    strcpy(a, "content");
    strcpy(b, "other");
    gw__mem_free(&r->mem, hole, 100);
    CHECK(gw__mem_resize(&r->mem, a, 100, 900) == NULL);
    CHECK(gw__mem_resize(&r->mem, a, 100, 100000) == NULL);
    CHECK_TEXT(a, "content");
    CHECK_TEXT(b, "other");
    CHECK_U64(r->mem.now_bytes, 200);
    CHECK_EQ(block_walk(&r->mem), 2 * 128);     /* the hole was not swallowed */
    CHECK(gw__mem_new(&r->mem, 100) == hole);
    gw__mem_free(&r->mem, hole, 100);
    gw__mem_free(&r->mem, a, 100);
    gw__mem_free(&r->mem, b, 100);
    block_free(r);
}

TEST(block_keeps_what_lives_through_random_use)
{
    enum { SLOTS = 40 };
    block_run *r = block_new(16384, 3);
    uint8_t *slot[SLOTS];
    size_t size[SLOTS], live = 0, i;
    uint32_t round, rounds = is_slow() ? 5000 : 100000, refused = 0;
    memset(slot, 0, sizeof slot);
    memset(size, 0, sizeof size);
    for (round = 0; round < rounds; round++) {
        uint32_t n = chance(SLOTS);
        size_t want = chance(8) == 0 ? chance(4000) : chance(300);
        uint8_t *fresh = (uint8_t *)gw__mem_resize(&r->mem, slot[n], size[n], want);
        if (want && !fresh) {
            refused++;                          /* then the old one must be there still */
        } else {
            for (i = 0; fresh && i < (size[n] < want ? size[n] : want); i++)
                if (fresh[i] != (uint8_t)(n + 1)) { CHECK_EQ(fresh[i], n + 1); round = rounds; break; }
            live += want - size[n];
            slot[n] = fresh;
            size[n] = want;
            if (fresh) memset(fresh, (int)n + 1, want);
        }
        if (round % 64 == 0) {
            size_t used = block_walk(&r->mem);
            if (used < live) { CHECK(used >= live); break; }
            if (r->mem.now_bytes != live) { CHECK_U64(r->mem.now_bytes, live); break; }
        }
    }
    CHECK(refused > 0);                         /* it was full at times */
    for (i = 0; i < SLOTS; i++) {
        size_t k;
        for (k = 0; k < size[i]; k++) if (slot[i][k] != (uint8_t)(i + 1)) { CHECK_EQ(slot[i][k], i + 1); break; }
        gw__mem_free(&r->mem, slot[i], size[i]);
    }
    block_free(r);
}

/* ---- buffers ---- */
TEST(buf_appends_consumes_and_keeps_the_order)
{
    gw__mem mem;
    gw__buf buf;
    uint32_t round, in = 0, out = 0, wrong = 0;
    gw__mem_init(&mem, NULL, NULL);
    gw__buf_init(&buf, &mem, 4096);
    CHECK(gw__buf_data(&buf) == NULL);
    for (round = 0; round < 5000; round++) {
        uint8_t bytes[64];
        size_t len = chance(64), i;
        if (len <= buf.max - gw__buf_len(&buf)) {
            for (i = 0; i < len; i++) bytes[i] = (uint8_t)in++;
            if (!CHECK_EQ(gw__buf_append(&buf, bytes, len), 1)) break;
        }
        len = chance(70);
        if (len > gw__buf_len(&buf)) len = gw__buf_len(&buf);
        for (i = 0; i < len; i++) wrong += gw__buf_data(&buf)[i] != (uint8_t)out++;
        gw__buf_consume(&buf, len);
        CHECK(buf.cap <= buf.max);
    }
    CHECK_U64(wrong, 0);
    CHECK(in > 100000 || is_slow());
    gw__buf_free(&buf);
    CHECK_U64(mem.now_bytes, 0);
}

TEST(buf_never_grows_above_its_maximum)
{
    gw__mem mem;
    gw__buf buf;
    size_t max, len;
    uint8_t bytes[700];
    memset(bytes, 7, sizeof bytes);
    gw__mem_init(&mem, NULL, NULL);
    for (max = 0; max < 600; max += 13) {
        gw__buf_init(&buf, &mem, max);
        for (len = 0; len < sizeof bytes; len += 7) {
            gw__buf_clear(&buf);
            CHECK_EQ(gw__buf_append(&buf, bytes, len), len <= max);
            CHECK_EQ(gw__buf_len(&buf), len <= max ? len : 0);
            CHECK(buf.cap <= max);
        }
        CHECK_EQ(gw__buf_reserve(&buf, SIZE_MAX), 0);
        gw__buf_free(&buf);
    }
    gw__buf_init(&buf, &mem, 10);
    CHECK_EQ(gw__buf_append(&buf, bytes, 6), 1);
    CHECK_EQ(gw__buf_append(&buf, bytes, 5), 0);    /* all or nothing */
    CHECK_EQ(gw__buf_len(&buf), 6);
    gw__buf_consume(&buf, 1);
    CHECK_EQ(gw__buf_append(&buf, bytes, 5), 1);    /* what was consumed makes room */
    CHECK_EQ(gw__buf_len(&buf), 10);
    CHECK_EQ(gw__buf_append(&buf, bytes, 0), 1);
    gw__buf_free(&buf);
    CHECK_U64(mem.now_bytes, 0);
}

TEST(buf_takes_what_it_needs_where_a_block_has_no_room_to_double)
{
    block_run *r = block_new(1024, 0);
    gw__buf buf;
    uint8_t bytes[600];
    memset(bytes, 9, sizeof bytes);
    gw__buf_init(&buf, &r->mem, 100000);
    CHECK_EQ(gw__buf_append(&buf, bytes, 400), 1);
    CHECK_EQ(gw__buf_append(&buf, bytes, 500), 1);
    CHECK_EQ(gw__buf_append(&buf, bytes, 200), 0);
    CHECK_EQ(gw__buf_len(&buf), 900);
    gw__buf_free(&buf);
    block_free(r);
}

TEST(buf_shrinks_only_when_the_content_fits)
{
    gw__mem mem;
    gw__buf buf;
    uint8_t bytes[3000];
    memset(bytes, 'b', sizeof bytes);
    gw__mem_init(&mem, NULL, NULL);
    gw__buf_init(&buf, &mem, 100000);
    gw__buf_append(&buf, bytes, sizeof bytes);
    gw__buf_shrink(&buf, 1000);
    CHECK(buf.cap >= sizeof bytes);
    gw__buf_consume(&buf, sizeof bytes - 900);
    gw__buf_shrink(&buf, 1000);
    CHECK_EQ(buf.cap, 1000);
    CHECK_BYTES((char *)gw__buf_data(&buf), gw__buf_len(&buf), (char *)bytes, 900);
    gw__buf_shrink(&buf, 5000);
    CHECK_EQ(buf.cap, 1000);
    gw__buf_consume(&buf, 900);
    gw__buf_shrink(&buf, 0);
    CHECK(buf.bytes == NULL);
    CHECK_U64(mem.now_bytes, 0);
    gw__buf_shrink(&buf, 0);
    gw__buf_free(&buf);
}

TEST(buf_stays_as_it_was_when_there_is_no_memory)
{
    counted c;
    gw__mem mem;
    gw__buf buf;
    uint8_t bytes[300];
    memset(bytes, 3, sizeof bytes);
    memset(&c, 0, sizeof c);
    gw__mem_init(&mem, counted_alloc, &c);
    gw__buf_init(&buf, &mem, 100000);
    CHECK_EQ(gw__buf_append(&buf, bytes, 200), 1);
    c.fail_from = 1;
    CHECK_EQ(gw__buf_append(&buf, bytes, 300), 0);
    CHECK_EQ(gw__buf_len(&buf), 200);
    CHECK_EQ(gw__buf_append(&buf, bytes, 50), 1);       /* into what it has already */
    gw__buf_shrink(&buf, 250);
    CHECK_EQ(gw__buf_len(&buf), 250);
    gw__buf_free(&buf);
    CHECK_U64(c.now + c.wrong_size, 0);
}

TEST(buf_believes_a_promise_as_far_as_it_is_kept)
{
    counted c;
    gw__mem mem;
    gw__buf buf;
    static uint8_t bytes[70000];
    memset(bytes, 4, sizeof bytes);
    memset(&c, 0, sizeof c);
    gw__mem_init(&mem, counted_alloc, &c);
    gw__buf_init(&buf, &mem, 5000000);
    gw__buf_expect(&buf, 4000000);                      /* nothing of it is there */
    CHECK_U64(buf.cap, 0);
    CHECK_EQ(gw__buf_append(&buf, bytes, 40000), 1);
    CHECK_U64(buf.cap, 65536);
    gw__buf_expect(&buf, 25000);                        /* small: as ever */
    CHECK_U64(buf.cap, 65536);
    gw__buf_expect(&buf, 40000 * 16);                   /* more than 16 times as much in all */
    gw__buf_expect(&buf, 5000000);                      /* above the maximum */
    gw__buf_expect(&buf, UINT64_MAX);
    CHECK_U64(buf.cap, 65536);
    c.fail_from = 1;
    gw__buf_expect(&buf, 40000 * 15);
    CHECK_U64(buf.cap, 65536);
    c.fail_from = 0;
    gw__buf_expect(&buf, 40000 * 15);
    CHECK_U64(buf.cap, 640000);
    CHECK_EQ(gw__buf_len(&buf), 40000);
    CHECK_EQ(gw__buf_append(&buf, bytes, 70000), 1);
    CHECK_U64(buf.cap, 640000);
    CHECK(gw__buf_data(&buf)[0] == 4 && gw__buf_data(&buf)[109999] == 4);
    gw__buf_clear(&buf);
    gw__buf_expect(&buf, 2000000);                      /* what it held before is no word kept */
    CHECK_U64(buf.cap, 640000);
    gw__buf_free(&buf);
    CHECK_U64(c.now + c.wrong_size, 0);
}

/* ---- UTF-8 ---- */

/* The same thing said in another way: by code points, RFC 3629 section 3. */
static size_t utf8_encode(uint32_t code, uint8_t out[4])
{
    if (code < 0x80) { out[0] = (uint8_t)code; return 1; }
    if (code < 0x800) { out[0] = (uint8_t)(0xC0 | code >> 6); out[1] = (uint8_t)(0x80 | (code & 63)); return 2; }
    if (code < 0x10000) {
        out[0] = (uint8_t)(0xE0 | code >> 12);
        out[1] = (uint8_t)(0x80 | (code >> 6 & 63));
        out[2] = (uint8_t)(0x80 | (code & 63));
        return 3;
    }
    out[0] = (uint8_t)(0xF0 | code >> 18);
    out[1] = (uint8_t)(0x80 | (code >> 12 & 63));
    out[2] = (uint8_t)(0x80 | (code >> 6 & 63));
    out[3] = (uint8_t)(0x80 | (code & 63));
    return 4;
}

TEST(utf8_takes_every_code_point_but_the_surrogates)
{
    uint32_t code, step = is_slow() ? 97 : 1, wrong = 0;
    for (code = 0; code <= 0x110FFF; code += step) {
        uint8_t bytes[4];
        size_t len = utf8_encode(code, bytes);
        int good = code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF);
        wrong += gw__utf8_is((const char *)bytes, len) != good;
    }
    CHECK_U64(wrong, 0);
}

TEST(utf8_refuses_every_two_bytes_that_are_none)
{
    uint32_t a, b, wrong = 0;
    for (a = 0; a < 256; a++)
        for (b = 0; b < 256; b++) {
            uint8_t bytes[2];
            int good = (a < 0x80 && b < 0x80) || (a >= 0xC2 && a <= 0xDF && b >= 0x80 && b <= 0xBF);
            bytes[0] = (uint8_t)a;
            bytes[1] = (uint8_t)b;
            wrong += gw__utf8_is((const char *)bytes, 2) != good;
        }
    CHECK_U64(wrong, 0);
}

TEST(utf8_refuses_overlong_forms_and_what_is_too_high)
{
    CHECK(!gw__utf8_is("\xC0\x80", 2));
    CHECK(!gw__utf8_is("\xC1\xBF", 2));
    CHECK(!gw__utf8_is("\xE0\x9F\xBF", 3));
    CHECK(!gw__utf8_is("\xF0\x8F\xBF\xBF", 4));
    CHECK(!gw__utf8_is("\xED\xA0\x80", 3));
    CHECK(!gw__utf8_is("\xF4\x90\x80\x80", 4));
    CHECK(!gw__utf8_is("\xF5\x80\x80\x80", 4));
    CHECK(!gw__utf8_is("\xFF", 1));
    CHECK(!gw__utf8_is("\x80", 1));
    CHECK(gw__utf8_is("", 0));
    CHECK(gw__utf8_is("\0", 1));
}

TEST(utf8_says_the_same_at_every_cut_and_every_length)
{
    static const char text[] = "plain ASCII of some length \xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80 and more\xF4\x8F\xBF\xBF.";
    size_t len, cut, total = sizeof text - 1, wrong = 0;
    for (len = 0; len <= total; len++) {
        gw__utf8 whole;
        memset(&whole, 0, sizeof whole);
        CHECK_EQ(gw__utf8_push(&whole, (const uint8_t *)text, len), 1);
        for (cut = 0; cut <= len; cut++) {
            gw__utf8 state;
            memset(&state, 0, sizeof state);
            wrong += !gw__utf8_push(&state, (const uint8_t *)text, cut) ||
                     !gw__utf8_push(&state, (const uint8_t *)text + cut, len - cut) ||
                     gw__utf8_whole(&state) != gw__utf8_whole(&whole);
        }
    }
    CHECK_U64(wrong, 0);
}

TEST(utf8_finds_a_bad_byte_wherever_it_is)
{
    uint8_t bytes[40];
    size_t at;
    for (at = 0; at < sizeof bytes; at++) {
        memset(bytes, 'a', sizeof bytes);
        bytes[at] = 0xFE;
        CHECK(!gw__utf8_is((const char *)bytes, sizeof bytes));
        bytes[at] = 0xC3;                       /* a lead byte before an 'a', or at the end */
        CHECK(!gw__utf8_is((const char *)bytes, sizeof bytes));
    }
}

/* ---- text ---- */
TEST(text_cut_never_ends_inside_a_character)
{
    static const char text[] = "a\xC3\xA9z\xE2\x82\xAC\xE2\x82\xAC\xF0\x9F\x98\x80\xF0\x9F\x98\x80z";
    size_t len, total = sizeof text - 1;
    for (len = 0; len <= total; len++) {
        size_t cut = gw__text_cut(text, len);
        CHECK(cut <= len && len - cut <= 3);
        CHECK(gw__utf8_is(text, cut));
        CHECK(cut == len || !gw__utf8_is(text, len));       /* no more is cut than needed */
    }
    CHECK_EQ(gw__text_cut("\x80\x80\x80\x80", 4), 4);       /* no UTF-8 anyway: nothing to be saved */
}

TEST(text_format_terminates_and_cuts_between_characters)
{
    char out[16];
    size_t cap;
    CHECK_EQ(gw__text_format(out, sizeof out, "%s %d", "ab", 7), 4);
    CHECK_TEXT(out, "ab 7");
    for (cap = 1; cap <= sizeof out; cap++) {
        size_t len;
        memset(out, 'x', sizeof out);
        len = gw__text_format(out, cap, "%s", "\xE2\x82\xAC\xE2\x82\xAC\xF0\x9F\x98\x80\xC3\xA9.");
        CHECK(len < cap);
        CHECK_EQ(out[len], 0);
        CHECK_EQ(strlen(out), len);
        CHECK(gw__utf8_is(out, len));
        if (cap < sizeof out) CHECK_EQ(out[cap], 'x');
    }
    CHECK_EQ(gw__text_format(out, 0, "%s", "abc"), 0);
    CHECK_EQ(gw__text_format(out, 4, "%s", "abc"), 3);      /* an exact fit is not cut */
    CHECK_TEXT(out, "abc");
}

TEST(text_to_u64_takes_digits_that_fit)
{
    uint64_t value = 1;
    CHECK_EQ(gw__text_to_u64("0", 1, &value), 1);
    CHECK_U64(value, 0);
    CHECK_EQ(gw__text_to_u64("18446744073709551615", 20, &value), 1);
    CHECK_U64(value, UINT64_MAX);
    CHECK_EQ(gw__text_to_u64("00000000000000000000000042", 26, &value), 1);
    CHECK_U64(value, 42);
    CHECK_EQ(gw__text_to_u64("18446744073709551616", 20, &value), 0);
    CHECK_EQ(gw__text_to_u64("99999999999999999999", 20, &value), 0);
    CHECK_EQ(gw__text_to_u64("184467440737095516150", 21, &value), 0);
    CHECK_EQ(gw__text_to_u64("", 0, &value), 0);
    CHECK_EQ(gw__text_to_u64("-1", 2, &value), 0);
    CHECK_EQ(gw__text_to_u64("1.5", 3, &value), 0);
    CHECK_EQ(gw__text_to_u64(" 1", 2, &value), 0);
    CHECK_EQ(gw__text_to_u64("1:", 2, &value), 0);
    CHECK_EQ(gw__text_to_u64("1/", 2, &value), 0);
    CHECK_EQ(gw__text_to_u64("12x", 2, &value), 1);
    CHECK_U64(value, 12);
}

TEST(text_same_nocase_compares_ascii_only_and_whole_words)
{
    CHECK_EQ(gw__text_same_nocase("WebSocket", 9, "websocket"), 1);
    CHECK_EQ(gw__text_same_nocase("", 0, ""), 1);
    CHECK_EQ(gw__text_same_nocase("web", 3, "websocket"), 0);
    CHECK_EQ(gw__text_same_nocase("websocket", 9, "web"), 0);
    CHECK_EQ(gw__text_same_nocase("[", 1, "{"), 0);
    CHECK_EQ(gw__text_same_nocase("@", 1, "`"), 0);
    CHECK_EQ(gw__text_same_nocase("web\0", 4, "web"), 0);
}

TEST(text_printable_shows_no_control_bytes)
{
    char out[16];
    CHECK_EQ(gw__text_printable(out, sizeof out, "a\x1B[31m\r\n\x7F", 9), 9);
    CHECK_TEXT(out, "a?[31m\?\?\?");
    CHECK_EQ(gw__text_printable(out, sizeof out, "\xC3\xA9", 2), 2);
    CHECK_TEXT(out, "\xC3\xA9");
    CHECK_EQ(gw__text_printable(out, sizeof out, "\xFFz", 2), 2);
    CHECK_TEXT(out, "?z");
    CHECK_EQ(gw__text_printable(out, 4, "abcdef", 6), 3);
    CHECK_EQ(gw__text_printable(out, 1, "abcdef", 6), 0);
    CHECK_EQ(gw__text_printable(out, 0, "abcdef", 6), 0);
    CHECK_EQ(gw__text_printable(out, sizeof out, "a\0b", 3), 3);
    CHECK_TEXT(out, "a?b");
    CHECK_EQ(gw__text_printable(out, 4, "\xE2\x82\xAC\xE2\x82\xAC", 6), 3);
    CHECK_TEXT(out, "\xE2\x82\xAC");
    CHECK_EQ(gw__text_printable(out, 3, "\xE2\x82\xAC", 3), 0);
}

static void base64(const char *plain, const char *encoded)
{
    char out[32];
    size_t want = strlen(encoded), cap;
    CHECK_EQ(gw__text_base64(out, sizeof out, (const uint8_t *)plain, strlen(plain)), want);
    CHECK_TEXT(out, encoded);
    for (cap = 1; cap <= want; cap++) CHECK_EQ(gw__text_base64(out, cap, (const uint8_t *)plain, strlen(plain)), 0);
    CHECK_EQ(gw__text_base64(out, want + 1, (const uint8_t *)plain, strlen(plain)), want);
}

TEST(text_base64_as_in_rfc_4648_section_10)
{
    static const uint8_t high[3] = { 0xFB, 0xFF, 0xBF };
    char out[8];
    base64("", "");
    base64("f", "Zg==");
    base64("fo", "Zm8=");
    base64("foo", "Zm9v");
    base64("foob", "Zm9vYg==");
    base64("fooba", "Zm9vYmE=");
    base64("foobar", "Zm9vYmFy");
    CHECK_EQ(gw__text_base64(out, sizeof out, high, 3), 4);
    CHECK_TEXT(out, "+/+/");
}

/* ---- log, tables ---- */
TEST(redaction_leaves_no_token)
{
    char text[128] = "Bot abcdefgh, abcdefghabcdefgh and abcdefg";
    gw__text_redact(text, "abcdefgh");
    CHECK_TEXT(text, "Bot ********, **************** and abcdefg");
    gw__text_redact(text, NULL);
    gw__text_redact(text, "");
    gw__text_redact(text, "and");               /* too short to be a secret, and texts would be unreadable */
    CHECK_HAS(text, " and ");
}

typedef struct log_seen { char text[1024]; uint32_t level, count; int32_t shard; gw__logger *logger; uint32_t not_marked; } log_seen;

static void log_keep(void *user, uint32_t level, int32_t shard, const char *text)
{
    log_seen *seen = (log_seen *)user;
    snprintf(seen->text, sizeof seen->text, "%s", text);
    seen->level = level;
    seen->shard = shard;
    seen->count++;
    if (!seen->logger->in_hook) seen->not_marked++;
}

TEST(log_tells_what_is_wanted_without_the_token)
{
    gw__logger logger;
    log_seen seen;
    char long_text[700];
    memset(&logger, 0, sizeof logger);
    memset(&seen, 0, sizeof seen);
    gw__log(&logger, GW_LOG_ERROR, 3, "nobody hears");
    logger.hook = log_keep;
    logger.user = &seen;
    logger.level = GW_LOG_INFO;
    logger.secret = "topsecret";
    seen.logger = &logger;
    gw__log(&logger, GW_LOG_DEBUG, 3, "too detailed");
    CHECK_U64(seen.count, 0);
    gw__log(&logger, GW_LOG_INFO, 3, "token %s here", "topsecret");
    CHECK_U64(seen.count, 1);
    CHECK_U64(seen.level, GW_LOG_INFO);
    CHECK_EQ(seen.shard, 3);
    CHECK_TEXT(seen.text, "token ********* here");
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    gw__log(&logger, GW_LOG_ERROR, 3, "%s", long_text);
    CHECK_EQ(strlen(seen.text), 511);
    CHECK_U64(seen.not_marked, 0);
    CHECK_EQ(logger.in_hook, 0);
}

TEST(log_leaves_no_piece_of_a_token_that_is_cut_at_its_end)
{
    gw__logger logger;
    log_seen seen;
    char text[600];
    size_t at;
    memset(&logger, 0, sizeof logger);
    memset(&seen, 0, sizeof seen);
    logger.hook = log_keep;
    logger.user = &seen;
    logger.level = GW_LOG_INFO;
    logger.secret = "topsecrettopsecret";
    seen.logger = &logger;
    for (at = 480; at < 530; at++) {
        memset(text, 'x', sizeof text);
        snprintf(text + at, sizeof text - at, "%s", logger.secret);
        gw__log(&logger, GW_LOG_INFO, 0, "%s", text);
        if (!CHECK(strstr(seen.text, "topsecret") == NULL)) break;
    }
}

TEST(fault_keeps_the_first)
{
    gw__fault fault;
    memset(&fault, 0, sizeof fault);
    gw__fault_set(&fault, GW_REASON_CONNECT, 7, "first %d", 1);
    gw__fault_set(&fault, GW_REASON_LOST, 8, "second");
    CHECK_U64(fault.reason, GW_REASON_CONNECT);
    CHECK_EQ(fault.code, 7);
    CHECK_TEXT(fault.text, "first 1");
}

TEST(fault_text_is_cut_not_overrun)
{
    gw__fault fault;
    char long_text[1000];
    memset(&fault, 0, sizeof fault);
    memset(long_text, 'y', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    gw__fault_set(&fault, GW_REASON_HTTP, 500, "%s", long_text);
    CHECK_EQ(strlen(fault.text), GW__FAULT_TEXT_MAX - 1);
}

TEST(names_are_79_and_each_is_found)
{
    gw__names names;
    uint32_t type, used = 0, i;
    char longer[80];
    gw__names_init(&names);
    CHECK_EQ(GW_DISPATCH_END_ - 1, 79);
    CHECK_EQ(GW__COUNT(gw__dispatch_names), 80);
    for (type = 1; type < GW_DISPATCH_END_; type++) {
        const char *name = gw_name_of(type);
        CHECK(name[0] != 0);
        CHECK_EQ(gw__names_find(&names, name, strlen(name)), type);
        CHECK_EQ(gw__names_find(&names, name, strlen(name) - 1), GW_UNKNOWN_DISPATCH);
        snprintf(longer, sizeof longer, "%sS", name);
        CHECK_EQ(gw__names_find(&names, longer, strlen(longer)), GW_UNKNOWN_DISPATCH);
    }
    for (i = 0; i < 256; i++) used += names.slot[i] != 0;
    CHECK_EQ(used, 79);
    CHECK_EQ(gw__names_find(&names, "", 0), GW_UNKNOWN_DISPATCH);
    CHECK_EQ(gw__names_find(&names, "message_create", 14), GW_UNKNOWN_DISPATCH);
    CHECK_EQ(gw__names_find(&names, "NOT_OF_THIS_VERSION", 19), GW_UNKNOWN_DISPATCH);
    CHECK_EQ(gw__names_find(&names, "DISCONNECTED", 12), GW_UNKNOWN_DISPATCH);
    CHECK_EQ(gw_name_of(GW_READY)[0], 'R');
}

/* t comes from the peer, decoded: "\u0000" in it is a zero byte. */
TEST(names_with_a_zero_byte_are_unknown_and_read_nothing_beyond)
{
    gw__names names;
    uint32_t type, tail, wrong = 0;
    gw__names_init(&names);
    for (type = 1; type < GW_DISPATCH_END_; type++)
        for (tail = 0; tail < (is_slow() ? 300u : 3000u); tail++) {
            char name[GW__NAME_MAX];
            size_t len = strlen(gw_name_of(type));
            memset(name, 0, sizeof name);
            memcpy(name, gw_name_of(type), len + 1);
            snprintf(name + len + 1, sizeof name - len - 1, "%u", (unsigned)tail);
            len += 1 + strlen(name + len + 1) + tail % 40;
            wrong += gw__names_find(&names, name, len) != GW_UNKNOWN_DISPATCH;
        }
    CHECK_U64(wrong, 0);
}

TEST(names_of_notices_and_of_what_is_none)
{
    CHECK_TEXT(gw_name_of(GW_GATEWAY_INFO), "GATEWAY_INFO");
    CHECK_TEXT(gw_name_of(GW_OPENED), "OPENED");
    CHECK_TEXT(gw_name_of(GW_CLOSED), "CLOSED");
    CHECK_TEXT(gw_name_of(GW_UNKNOWN_DISPATCH), "");
    CHECK_TEXT(gw_name_of(GW_DISPATCH_END_), "");
    CHECK_TEXT(gw_name_of(1000), "");
    CHECK_TEXT(gw_name_of(GW_NOTICE_END_), "");
    CHECK_TEXT(gw_name_of(UINT32_MAX), "");
}

TEST(numbers_of_events_are_for_ever)
{
    CHECK_EQ(GW_READY, 1);
    CHECK_EQ(GW_RESUMED, 2);
    CHECK_EQ(GW_GUILD_CREATE, 23);
    CHECK_EQ(GW_MESSAGE_CREATE, 55);
    CHECK_EQ(GW_MESSAGE_POLL_VOTE_REMOVE, 79);
    CHECK_EQ(GW_GATEWAY_INFO, 1001);
    CHECK_EQ(GW_OPENED, 1014);
}

TEST(reasons_and_results_have_words)
{
#define REASON_TEXT(name, value, text) text,
    static const char *const reasons[] = { GW_REASONS(REASON_TEXT) };
    uint32_t reason;
    int32_t result;
    CHECK_EQ(sizeof reasons / sizeof *reasons, GW_REASON_END_ - 1);
    for (reason = 0; reason < GW_REASON_END_ - 1; reason++) CHECK(reasons[reason][0] != 0);
    for (result = 0; result >= GW_RESULT_LAST_; result--) CHECK(gw__result_text(result)[0] != 0);
    CHECK_TEXT(gw__result_text(GW_RESULT_LAST_ - 1), "");
    CHECK_TEXT(gw__result_text(1), "");
}

CHECK_MAIN()
