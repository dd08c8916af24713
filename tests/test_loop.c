/* The client in other people's loops, over real sockets of this machine and with the time of the day, against the
 * simulator: gw_fd(), gw_pollfds(), gw_wait(), gw_wake(), TLS end to end, the fixed block. What the calls cost is counted
 * in calls of the system, by functions of ours in front of them. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE
#endif
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/epoll.h>
#include <sys/timerfd.h>
#endif

static unsigned long system_calls;
#define poll(...) (system_calls++, poll(__VA_ARGS__))
#define recv(...) (system_calls++, recv(__VA_ARGS__))
#define send(...) (system_calls++, send(__VA_ARGS__))
#define epoll_wait(...) (system_calls++, epoll_wait(__VA_ARGS__))
#define epoll_ctl(...) (system_calls++, epoll_ctl(__VA_ARGS__))
#define timerfd_settime(...) (system_calls++, timerfd_settime(__VA_ARGS__))
static char api_url[100];
#define GW_API_URL api_url
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#undef poll
#undef recv
#undef send
#undef epoll_wait
#undef epoll_ctl
#undef timerfd_settime
#include "check.h"
#include "loopback.h"

#define TOKEN "MTA5ODc2NTQzMjEwOTg3NjU0Mw.GabcDE.thisTokenMustNeverBeSeenInAnyText"

#define DND "{\"since\":null,\"activities\":[],\"status\":\"dnd\",\"afk\":false}"

/* ---- a client, its gateway, and what came ---- */
typedef struct stage {
    lb_sim sim;
    gw_config cfg;
    gw_client *gw;
    uint32_t seen[GW_NOTICE_END_];      /* events by type */
    uint64_t last_seq, out_of_order, dispatches, skipped_bytes;
    char message[800];                  /* of the last notice */
    uint32_t turns;
    uint64_t stop_ms;
} stage;

static stage *stage_new(void)
{
    stage *s = (stage *)lb_new(sizeof *s);
    lb_sim_init(&s->sim);
    s->cfg.token = TOKEN;
    s->cfg.intents = GW_INTENTS_ALL;
    s->cfg.user = s;
    return s;
}

/* The gateway begins, and the client that is to find it. threaded: nobody needs to call lb_sim_turn(). */
static void stage_begin(stage *s, int secure, int threaded, const char *script)
{
    lb_sim_begin(&s->sim, secure, script);
    if (threaded) lb_sim_start(&s->sim);
    if (secure && !s->cfg.ca_pem && !s->cfg.ca_file) s->cfg.ca_file = lb_cert_path("ca.pem");
    s->cfg.url = s->sim.url;
    s->gw = gw_open(&s->cfg);
    if (!CHECK(s->gw)) exit(1);
    s->stop_ms = lb_now_ms() + lb_patience_ms();
}

static void stage_end(stage *s, uint64_t violations)
{
    gw_close(s->gw);
    lb_sim_end(&s->sim, violations);
    CHECK_U64(s->out_of_order, 0);
    free(s);
}

static void stage_take(stage *s, const gw_event *ev)
{
    if (ev->type < GW_NOTICE_END_) s->seen[ev->type]++;
    if (ev->type >= GW_GATEWAY_INFO) {
        snprintf(s->message, sizeof s->message, "%s: %s", ev->name, ev->message);
        if (ev->type == GW_SKIPPED) s->skipped_bytes = ev->bytes;
        if (ev->type == GW_SKIPPED) s->last_seq = ev->seq;
        return;
    }
    s->dispatches++;
    if (ev->type == GW_READY) s->last_seq = 0;
    if (ev->seq != s->last_seq + 1) s->out_of_order++;
    s->last_seq = ev->seq;
}

static int stage_in_time(const stage *s) { return lb_now_ms() < s->stop_ms; }

static int readable(intptr_t fd, int timeout_ms)
{
    struct pollfd one;
    memset(&one, 0, sizeof one);
    one.fd = (int)fd;
    one.events = POLLIN;
    return poll(&one, 1, timeout_ms) == 1;
}

/* Sleeps as a program would that has only poll(): until a descriptor stirs, or by the time the client names. */
static void stage_sleep_by_pollfds(stage *s, int most_ms)
{
    gw_pollfd fds[4];
    struct pollfd list[4];
    uint32_t i, n = gw_pollfds(s->gw, fds, 4);
    int timeout_ms = gw_timeout_ms(s->gw);
    memset(list, 0, sizeof list);
    if (!CHECK(n >= 1 && n <= 4)) exit(1);
    for (i = 0; i < n; i++) {
        list[i].fd = (int)fds[i].fd;
        list[i].events = (short)((fds[i].readable ? POLLIN : 0) | (fds[i].writable ? POLLOUT : 0));
    }
    poll(list, (nfds_t)n, timeout_ms >= 0 && timeout_ms < most_ms ? timeout_ms : most_ms);
}

enum how { BY_FD, BY_POLLFDS, BY_WAIT, BY_FRAMES };

/* One round of somebody's loop. The gateway needs its thread, or this one (most_ms small). */
static void stage_turn(stage *s, enum how how)
{
    const gw_event *ev;
    int most_ms = s->sim.threaded ? 1000 : 1;
    s->turns++;
    if (!s->sim.threaded) lb_sim_turn(&s->sim, 0);
    switch (how) {
    case BY_FD:                                 /* only when it is readable: what is not told there never happens */
        if (!readable(gw_fd(s->gw), most_ms)) return;
        break;
    case BY_POLLFDS: stage_sleep_by_pollfds(s, most_ms); break;
    case BY_WAIT:
        if ((ev = gw_wait(s->gw, most_ms)) != NULL) stage_take(s, ev);
        return;
    case BY_FRAMES: usleep(4000); break;
    }
    while ((ev = gw_poll(s->gw)) != NULL) stage_take(s, ev);
}

#define STAGE_UNTIL(s, how, condition)                                                              \
    do {                                                                                            \
        while (!(condition) && stage_in_time(s)) stage_turn(s, how);                                \
        if (!CHECK(condition)) fprintf(stderr, "    last: %s\n", (s)->message);                     \
    } while (0)

/* ---- a whole session in each kind of loop ---- */
static void whole_session(enum how how, int secure, int threaded)
{
    stage *s = stage_new();
    s->sim.config.interval_ms = 1000;
    s->sim.config.event_rate = 500;
    stage_begin(s, secure, threaded, NULL);
    STAGE_UNTIL(s, how, s->seen[GW_READY] == 1);
    STAGE_UNTIL(s, how, s->dispatches > 20);
    lb_sim_do(&s->sim, "op7");
    STAGE_UNTIL(s, how, s->seen[GW_RESUMED] == 1);
    lb_sim_do(&s->sim, "cut");
    STAGE_UNTIL(s, how, s->seen[GW_RESUMED] == 2);
    STAGE_UNTIL(s, how, s->dispatches > 60);
    if (!secure && (how == BY_FD || how == BY_POLLFDS)) {   /* heartbeats leave without an event to remind of them */
        gw_stats stats;
        memset(&stats, 0, sizeof stats);
        lb_sim_do(&s->sim, "rate 0");
        do stage_turn(s, how);
        while (stage_in_time(s) && gw_stats_read(s->gw, GW_ALL, &stats) == GW_OK && stats.acks < 1);
        CHECK(stats.acks >= 1);
    }
    CHECK_EQ(gw_stop(s->gw, GW_END), GW_OK);
    STAGE_UNTIL(s, how, s->seen[GW_CLOSED] == 1);
    CHECK_U64(s->seen[GW_SESSION_LOST] + s->seen[GW_POLLED_LATE] * (uint32_t)!lb_is_slow() + s->seen[GW_FATAL], 0);
    CHECK_U64(s->seen[GW_READY], 1);
    stage_end(s, 0);
}

#ifdef GW__EPOLL
TEST(loop_by_gw_fd_alone_lives_a_whole_session)            { whole_session(BY_FD, 0, 0); }
TEST(loop_by_gw_fd_alone_lives_a_whole_session_over_tls)   { whole_session(BY_FD, 1, 1); }
#endif
TEST(loop_by_gw_pollfds_lives_a_whole_session)             { whole_session(BY_POLLFDS, 0, 1); }
TEST(loop_by_gw_pollfds_lives_a_whole_session_over_tls)    { whole_session(BY_POLLFDS, 1, 0); }
TEST(loop_by_gw_wait_lives_a_whole_session)                { whole_session(BY_WAIT, 0, 0); }
TEST(loop_by_gw_wait_lives_a_whole_session_over_tls)       { whole_session(BY_WAIT, 1, 1); }
TEST(loop_of_frames_lives_a_whole_session)                 { whole_session(BY_FRAMES, 0, 0); }
TEST(loop_of_frames_lives_a_whole_session_over_tls)        { whole_session(BY_FRAMES, 1, 1); }

/* ---- gw_fd() ---- */
#ifdef GW__EPOLL
TEST(fd_is_readable_before_the_first_poll)
{
    stage *s = stage_new();
    intptr_t fd;
    stage_begin(s, 0, 0, NULL);
    fd = gw_fd(s->gw);
    CHECK(fd >= 0);
    CHECK(readable(fd, 1000));
    CHECK_EQ(gw_fd(s->gw), fd);
    stage_end(s, 0);
}

TEST(fd_is_readable_while_a_fatal_config_waits_to_be_told)
{
    gw_config cfg = GW_INIT;
    gw_client *gw = gw_open(&cfg);
    const gw_event *ev;
    intptr_t fd = gw_fd(gw);
    CHECK(readable(fd, 1000));
    ev = gw_poll(gw);
    if (CHECK(ev)) CHECK_U64(ev->type, GW_FATAL);
    CHECK(readable(fd, 1000));
    ev = gw_poll(gw);
    if (CHECK(ev)) CHECK_U64(ev->type, GW_CLOSED);
    CHECK(!readable(fd, 5));
    CHECK_EQ(gw_timeout_ms(gw), -1);
    gw_close(gw);
}

TEST(fd_is_quiet_when_all_is_drained)
{
    int secure;
    for (secure = 0; secure < 2; secure++) {
        stage *s = stage_new();
        uint32_t before;
        uint64_t until;
        stage_begin(s, secure, 0, NULL);
        STAGE_UNTIL(s, BY_FD, s->seen[GW_GUILD_CREATE] == 2);
        until = lb_now_ms() + 20;
        while (lb_now_ms() < until) stage_turn(s, BY_FD);
        CHECK(!readable(gw_fd(s->gw), 10));
        CHECK(gw_timeout_ms(s->gw) > 10 || gw_timeout_ms(s->gw) < 0);
        before = s->seen[GW_TYPING_START];
        lb_sim_do(&s->sim, "event TYPING_START {\"user_id\":\"1\"}");
        while (s->seen[GW_TYPING_START] == before && stage_in_time(s)) stage_turn(s, BY_FD);
        CHECK_U64(s->seen[GW_TYPING_START], before + 1);
        while (gw_timeout_ms(s->gw) == 0 && stage_in_time(s)) while (gw_poll(s->gw)) { }    /* a slow machine: the turn was over */
        CHECK(!readable(gw_fd(s->gw), 5));      /* at once after the last event was taken */
        stage_end(s, 0);
    }
}

TEST(fd_is_readable_while_bytes_are_buffered_and_the_turn_is_over)
{
    int secure;
    for (secure = 0; secure < 2; secure++) {
        stage *s = stage_new();
        uint32_t i, over = 0, began;
        s->cfg.turn_bytes = 300;
        stage_begin(s, secure, 0, NULL);
        STAGE_UNTIL(s, BY_FD, s->seen[GW_GUILD_CREATE] == 2);
        began = s->seen[GW_TYPING_START];
        for (i = 0; i < 50; i++) lb_sim_do(&s->sim, "event TYPING_START {\"user_id\":\"1\",\"pad\":\"012345678901234567890123456789\"}");
        for (i = 0; i < 20; i++) lb_sim_turn(&s->sim, 0);
        while (s->seen[GW_TYPING_START] < began + 50 && stage_in_time(s)) {
            const gw_event *ev;
            uint32_t in_turn = 0;
            if (!readable(gw_fd(s->gw), 0)) { lb_sim_turn(&s->sim, 1); continue; }
            while ((ev = gw_poll(s->gw)) != NULL) { stage_take(s, ev); in_turn++; }
            CHECK(in_turn <= 4);
            if (s->seen[GW_TYPING_START] < began + 40 && in_turn) {
                over++;
                CHECK_EQ(gw_timeout_ms(s->gw), 0);
                if (!CHECK(readable(gw_fd(s->gw), 0))) break;
            }
        }
        CHECK_U64(s->seen[GW_TYPING_START], began + 50);
        CHECK(over > 5);
        stage_end(s, 0);
    }
}

TEST(fd_is_readable_when_a_timer_is_due_and_not_before)
{
    stage *s = stage_new();
    uint32_t i;
    s->sim.config.interval_ms = 1000;
    stage_begin(s, 0, 0, NULL);
    STAGE_UNTIL(s, BY_FD, s->seen[GW_GUILD_CREATE] == 2);
    for (i = 0; i < 1; i++) {
        uint64_t began, due;
        uint64_t until = lb_now_ms() + 10;
        while (lb_now_ms() < until) stage_turn(s, BY_FD);
        if (gw_timeout_ms(s->gw) <= 0) continue;
        began = lb_now_us();
        due = began + (uint64_t)gw_timeout_ms(s->gw) * 1000u;
        CHECK(readable(gw_fd(s->gw), 5000));    /* nobody serves the gateway meanwhile: it is the timer */
        CHECK(lb_now_us() + 2000 >= due);
        CHECK(lb_is_slow() || lb_now_us() < due + 500000);
    }
    stage_end(s, 0);
}

TEST(fd_is_readable_after_gw_wake_until_woken_was_taken)
{
    stage *s = stage_new();
    uint64_t until;
    stage_begin(s, 0, 0, NULL);
    STAGE_UNTIL(s, BY_FD, s->seen[GW_GUILD_CREATE] == 2);
    until = lb_now_ms() + 20;
    while (lb_now_ms() < until) stage_turn(s, BY_FD);
    CHECK(!readable(gw_fd(s->gw), 0));
    gw_wake(s->gw);
    gw_wake(s->gw);
    CHECK(readable(gw_fd(s->gw), 1000));
    STAGE_UNTIL(s, BY_FD, s->seen[GW_WOKEN] == 1);
    CHECK(!readable(gw_fd(s->gw), 5));
    CHECK_U64(s->seen[GW_WOKEN], 1);
    stage_end(s, 0);
}

TEST(fd_is_readable_after_a_command_and_after_gw_stop)
{
    stage *s = stage_new();
    uint64_t until;
    stage_begin(s, 0, 0, NULL);
    STAGE_UNTIL(s, BY_FD, s->seen[GW_GUILD_CREATE] == 2);
    until = lb_now_ms() + 20;
    while (lb_now_ms() < until) stage_turn(s, BY_FD);
    CHECK(gw_send_raw(s->gw, 0, 3, DND, sizeof DND - 1) > 0);
    CHECK(readable(gw_fd(s->gw), 1000));
    until = lb_now_ms() + 20;
    while (lb_now_ms() < until) stage_turn(s, BY_FD);
    CHECK(!readable(gw_fd(s->gw), 5));
    CHECK(strstr(s->sim.journal, "\"dnd\"") || sim_get_stats(s->sim.gateway)->payloads >= 2);
    CHECK_EQ(gw_stop(s->gw, GW_KEEP), GW_OK);
    STAGE_UNTIL(s, BY_FD, s->seen[GW_CLOSED] == 1);
    CHECK(!readable(gw_fd(s->gw), 5));
    stage_end(s, 0);
}

TEST(fd_is_quiet_while_held_though_events_wait)
{
    int secure;
    for (secure = 0; secure < 2; secure++) {
        stage *s = stage_new();
        uint32_t i, before, spurious = 0;
        uint64_t until;
        stage_begin(s, secure, 0, NULL);
        STAGE_UNTIL(s, BY_FD, s->seen[GW_GUILD_CREATE] == 2);
        CHECK_EQ(gw_hold(s->gw, GW_ALL, 1), GW_OK);
        until = lb_now_ms() + 20;
        while (lb_now_ms() < until) stage_turn(s, BY_FD);
        before = s->seen[GW_TYPING_START];
        for (i = 0; i < 30; i++) lb_sim_do(&s->sim, "event TYPING_START {\"user_id\":\"1\"}");
        for (i = 0; i < 20; i++) {
            lb_sim_turn(&s->sim, 1);
            if (!readable(gw_fd(s->gw), 0)) continue;
            spurious++;
            while (gw_poll(s->gw)) { }
        }
        CHECK(spurious <= 1);
        CHECK_U64(s->seen[GW_TYPING_START], before);
        CHECK_EQ(gw_hold(s->gw, GW_ALL, 0), GW_OK);
        STAGE_UNTIL(s, BY_FD, s->seen[GW_TYPING_START] == before + 30);
        stage_end(s, 0);
    }
}

TEST(fd_stays_the_same_over_reconnects)
{
    stage *s = stage_new();
    intptr_t fd;
    stage_begin(s, 0, 0, NULL);
    fd = gw_fd(s->gw);
    STAGE_UNTIL(s, BY_FD, s->seen[GW_READY] == 1);
    lb_sim_do(&s->sim, "reset");
    STAGE_UNTIL(s, BY_FD, s->seen[GW_RESUMED] == 1);
    CHECK_EQ(gw_fd(s->gw), fd);
    stage_end(s, 0);
}
#else
TEST(fd_is_none_with_poll)
{
    stage *s = stage_new();
    stage_begin(s, 0, 0, NULL);
    CHECK_EQ(gw_fd(s->gw), -1);
    stage_end(s, 0);
}
#endif

/* ---- gw_pollfds(), gw_timeout_ms() ---- */
TEST(pollfds_tells_how_many_there_are_whatever_the_room)
{
    stage *s = stage_new();
    gw_pollfd fds[4];
    uint32_t n;
    stage_begin(s, 0, 0, NULL);
    CHECK_U64(gw_pollfds(s->gw, NULL, 0), 1);
    STAGE_UNTIL(s, BY_POLLFDS, s->seen[GW_READY] == 1);
    n = gw_pollfds(s->gw, NULL, 0);
    CHECK_U64(n, 2);
    memset(fds, 0xEE, sizeof fds);
    CHECK_U64(gw_pollfds(s->gw, fds, 1), 2);
    CHECK(fds[0].fd >= 0 && fds[0].readable == 1 && fds[0].writable == 0);
    CHECK_U64(fds[1].readable, 0xEEEEEEEE);
    CHECK_U64(gw_pollfds(s->gw, fds, 4), 2);
    CHECK(fds[1].fd >= 0 && fds[1].readable == 1 && fds[1].writable == 0);
    CHECK_EQ(gw_hold(s->gw, GW_ALL, 1), GW_OK);
    CHECK_U64(gw_pollfds(s->gw, fds, 4), 1);    /* held: its descriptor would only wake you for nothing */
    CHECK_U64(gw_pollfds(NULL, fds, 4), 0);
    CHECK_EQ(gw_timeout_ms(NULL), -1);
    stage_end(s, 0);
}

/* ---- gw_wait() ---- */
TEST(wait_is_over_when_the_time_is)
{
    stage *s = stage_new();
    uint64_t began;
    stage_begin(s, 0, 1, NULL);
    STAGE_UNTIL(s, BY_WAIT, s->seen[GW_GUILD_CREATE] == 2);
    while (gw_wait(s->gw, 20)) { }
    began = lb_now_us();
    CHECK(gw_wait(s->gw, 40) == NULL);
    CHECK(lb_now_us() - began >= 40000);
    CHECK(lb_is_slow() || lb_now_us() - began < 400000);
    began = lb_now_us();
    CHECK(gw_wait(s->gw, 0) == NULL);
    CHECK(lb_is_slow() || lb_now_us() - began < 20000);
    CHECK_EQ(gw_alive(s->gw), 1);
    stage_end(s, 0);
}

static void do_nothing(int number) { (void)number; }

static void every_ms(int ms)
{
    struct itimerval when;
    memset(&when, 0, sizeof when);
    when.it_value.tv_usec = ms * 1000;
    when.it_interval.tv_usec = ms * 1000;
    setitimer(ITIMER_REAL, &when, NULL);
}

TEST(wait_goes_on_after_a_signal)
{
    stage *s = stage_new();
    struct sigaction how;
    uint64_t began;
    memset(&how, 0, sizeof how);
    how.sa_handler = do_nothing;
    sigaction(SIGALRM, &how, NULL);
    stage_begin(s, 1, 1, NULL);
    every_ms(3);                                /* from the first byte on */
    STAGE_UNTIL(s, BY_WAIT, s->seen[GW_GUILD_CREATE] == 2);
    while (gw_wait(s->gw, 20)) { }
    began = lb_now_us();
    CHECK(gw_wait(s->gw, 50) == NULL);
    CHECK(lb_now_us() - began >= 50000);
    every_ms(0);
    signal(SIGALRM, SIG_IGN);                   /* one may be on its way yet, to any thread */
    stage_end(s, 0);
}

TEST(wait_for_ever_ends_with_the_client)
{
    stage *s = stage_new();
    const gw_event *ev;
    stage_begin(s, 0, 1, NULL);
    STAGE_UNTIL(s, BY_WAIT, s->seen[GW_READY] == 1);
    CHECK_EQ(gw_stop(s->gw, GW_END), GW_OK);
    while ((ev = gw_wait(s->gw, GW_FOREVER)) != NULL) stage_take(s, ev);
    CHECK_U64(s->seen[GW_CLOSED], 1);
    CHECK_EQ(gw_alive(s->gw), 0);
    CHECK(gw_wait(s->gw, GW_FOREVER) == NULL);
    CHECK(gw_wait(NULL, GW_FOREVER) == NULL);
    stage_end(s, 0);
}

/* ---- gw_wake() ---- */
static void *wake_soon(void *argument)
{
    usleep(10000);
    gw_wake((gw_client *)argument);
    return NULL;
}

TEST(wake_from_a_thread_ends_the_sleep)
{
    stage *s = stage_new();
    pthread_t thread;
    const gw_event *ev;
    stage_begin(s, 0, 1, NULL);
    STAGE_UNTIL(s, BY_WAIT, s->seen[GW_GUILD_CREATE] == 2);
    while (gw_wait(s->gw, 20)) { }
    CHECK_EQ(pthread_create(&thread, NULL, wake_soon, s->gw), 0);
    ev = gw_wait(s->gw, 20000);
    if (CHECK(ev)) CHECK_U64(ev->type, GW_WOKEN);
    pthread_join(thread, NULL);
    gw_wake(NULL);
    stage_end(s, 0);
}

static gw_client *client_of_handler;
static void wake_by_signal(int number) { (void)number; gw_wake(client_of_handler); }

TEST(wake_from_a_signal_handler_ends_the_sleep)
{
    stage *s = stage_new();
    struct sigaction how;
    struct itimerval when;
    const gw_event *ev;
    stage_begin(s, 0, 1, NULL);
    STAGE_UNTIL(s, BY_WAIT, s->seen[GW_GUILD_CREATE] == 2);
    while (gw_wait(s->gw, 20)) { }
    client_of_handler = s->gw;
    memset(&how, 0, sizeof how);
    how.sa_handler = wake_by_signal;
    sigaction(SIGALRM, &how, NULL);
    memset(&when, 0, sizeof when);
    when.it_value.tv_usec = 10000;
    setitimer(ITIMER_REAL, &when, NULL);
    ev = gw_wait(s->gw, 20000);                 /* a signal before the sleep counts as well: the wake stays */
    if (CHECK(ev)) CHECK_U64(ev->type, GW_WOKEN);
    signal(SIGALRM, SIG_IGN);                   /* one may be on its way yet, to any thread */
    stage_end(s, 0);
}

static void *wake_often(void *argument)
{
    int i;
    for (i = 0; i < 20000; i++) gw_wake((gw_client *)argument);
    return NULL;
}

TEST(wake_in_a_storm_loses_no_event)
{
    stage *s = stage_new();
    pthread_t threads[2];
    s->sim.config.event_rate = 2000;
    stage_begin(s, 0, 1, NULL);
    STAGE_UNTIL(s, BY_WAIT, s->seen[GW_READY] == 1);
    CHECK_EQ(pthread_create(&threads[0], NULL, wake_often, s->gw), 0);
    CHECK_EQ(pthread_create(&threads[1], NULL, wake_often, s->gw), 0);
    STAGE_UNTIL(s, BY_WAIT, s->dispatches > 200);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    CHECK(s->seen[GW_WOKEN] > 0);
    stage_end(s, 0);
}

/* ---- what it costs ---- */
TEST(idle_poll_costs_one_call_of_the_system_at_most)
{
    int secure, asked;
    for (secure = 0; secure < 2; secure++)
        for (asked = 0; asked < 2; asked++) {
            stage *s = stage_new();
            unsigned long before;
            uint32_t i, busy = 0;
            stage_begin(s, secure, 0, NULL);
            STAGE_UNTIL(s, BY_POLLFDS, s->seen[GW_GUILD_CREATE] == 2);
            for (i = 0; i < 50; i++) stage_turn(s, BY_POLLFDS);
            if (asked) gw_fd(s->gw);
            if (asked) while (gw_poll(s->gw)) { }
            for (i = 0; i < 100; i++) {
                before = system_calls;
                CHECK(gw_poll(s->gw) == NULL);
                busy += system_calls - before > 1;
            }
            CHECK_U64(busy, 0);
            stage_end(s, 0);
        }
}

TEST(idle_wait_sleeps_and_does_not_spin)
{
    int secure;
    for (secure = 0; secure < 2; secure++) {
        stage *s = stage_new();
        unsigned long before;
        stage_begin(s, secure, 1, NULL);
        STAGE_UNTIL(s, BY_WAIT, s->seen[GW_GUILD_CREATE] == 2);
        while (gw_wait(s->gw, 20)) { }
        before = system_calls;
        CHECK(gw_wait(s->gw, 100) == NULL);
        CHECK(system_calls - before <= 10);
        CHECK_EQ(gw_hold(s->gw, GW_ALL, 1), GW_OK);     /* held, and the gateway goes on, and then goes away */
        lb_sim_do(&s->sim, "rate 500");
        while (gw_wait(s->gw, 50)) { }
        before = system_calls;
        CHECK(gw_wait(s->gw, 50) == NULL);
        CHECK(system_calls - before <= 10);
        lb_sim_do(&s->sim, "reset");
        while (gw_wait(s->gw, 20)) { }
        before = system_calls;
        CHECK(gw_wait(s->gw, 100) == NULL);
        CHECK(system_calls - before <= 10);
        CHECK_EQ(gw_hold(s->gw, GW_ALL, 0), GW_OK);
        STAGE_UNTIL(s, BY_WAIT, s->seen[GW_RESUMED] == 1);
        stage_end(s, 0);
    }
}

TEST(waiting_for_a_gateway_that_is_not_there_does_not_spin)
{
    stage *s = stage_new();
    unsigned long before;
    uint64_t until;
    stage_begin(s, 0, 0, NULL);
    close(s->sim.listener);
    s->sim.port = 0;
    s->sim.listener = lb_listen(1, &s->sim.port, 4);    /* elsewhere */
    until = lb_now_ms() + 300;
    before = system_calls;
    while (lb_now_ms() < until) {
        const gw_event *ev = gw_wait(s->gw, 300);
        if (ev) stage_take(s, ev);
    }
    CHECK(s->seen[GW_DISCONNECTED] >= 1);
    CHECK(system_calls - before < 200);
    stage_end(s, 0);
}

/* ---- a slow caller ---- */
/* Their handshakes come in side by side; the buffers for them are shared by those that work at what they have. */
static void many_shards(int secure)
{
    enum { SHARDS = 12 };
    stage *s = stage_new();
    uint64_t idle_bytes, buffer_bytes = GW__READ_AHEAD_BYTES + GW__TLS_IN_BYTES;
    gw_stats stats;
    memset(&stats, 0, sizeof stats);
    s->cfg.shard_count = s->cfg.shard_total = SHARDS;
    s->cfg.max_concurrency = SHARDS;
    s->sim.config.max_concurrency = SHARDS;
    s->sim.config.event_rate = 0;
    stage_begin(s, secure, 1, "");
    while (s->seen[GW_READY] < SHARDS && stage_in_time(s)) {
        const gw_event *ev = gw_wait(s->gw, 1000);
        if (ev) s->seen[ev->type < GW_NOTICE_END_ ? ev->type : 0]++;
    }
    CHECK_EQ(s->seen[GW_READY], SHARDS);
    CHECK_EQ(gw_shard_live(s->gw, GW_ALL), 1);
    while (gw_wait(s->gw, 100)) { }
    CHECK_EQ(gw_stats_read(s->gw, GW_ALL, &stats), GW_OK);
    idle_bytes = SHARDS * (sizeof(gw__shard) + (secure ? sizeof(gw__tls) : 0u) + 2048u);
    CHECK(stats.memory_now < idle_bytes + 4 * buffer_bytes + 100000u);
    CHECK(stats.memory_peak < idle_bytes + 6 * buffer_bytes + 100000u);
    CHECK_U64(s->seen[GW_DISCONNECTED], 0);
    stage_end(s, 0);
}

TEST(many_shards_share_their_buffers)                   { many_shards(0); }
TEST(many_shards_share_their_buffers_over_tls)          { many_shards(1); }

TEST(slow_caller_gets_every_event_in_order)
{
    stage *s = stage_new();
    uint64_t until;
    s->sim.config.event_rate = 3000;
    stage_begin(s, 1, 1, NULL);
    STAGE_UNTIL(s, BY_WAIT, s->seen[GW_READY] == 1);
    until = lb_now_ms() + 600;
    while (lb_now_ms() < until) {               /* a frame in a hundred ms, one event a frame's poll or all of them */
        const gw_event *ev;
        usleep(100000);
        while ((ev = gw_poll(s->gw)) != NULL) stage_take(s, ev);
    }
    STAGE_UNTIL(s, BY_FRAMES, s->dispatches > 500);
    CHECK_U64(s->seen[GW_DISCONNECTED], 0);
    stage_end(s, 0);
}

TEST(slow_handler_may_keep_its_event_while_it_tends)
{
    stage *s = stage_new();
    const gw_event *ev = NULL;
    char kept[300];
    gw_stats stats;
    uint64_t beats = 0, acks = 0;
    s->sim.config.interval_ms = 1000;
    stage_begin(s, 1, 1, NULL);
    while (stage_in_time(s) && s->seen[GW_GUILD_CREATE] < 2)
        if ((ev = gw_wait(s->gw, 1000)) != NULL) stage_take(s, ev);
    if (CHECK(ev)) {                            /* the last guild is in hand */
        size_t len = ev->d.len < sizeof kept ? ev->d.len : sizeof kept;
        memcpy(kept, ev->d.ptr, len);
        lb_sim_do(&s->sim, "op1");
        while (stage_in_time(s) && acks < 2) {
            usleep(2000);
            gw_tend(s->gw);
            gw_stats_read(s->gw, GW_ALL, &stats);
            beats = stats.heartbeats;
            acks = stats.acks;
        }
        CHECK(beats >= 2 && acks >= 2);         /* the one asked for, and the first of the regular ones */
        CHECK_BYTES(ev->d.ptr, len, kept, len);
        CHECK_EQ(gw_kind_of(&ev->d, NULL), GW_OBJECT);
    }
    stage_end(s, 0);
}

/* ---- two clients ---- */
TEST(two_clients_in_one_loop_do_not_know_of_each_other)
{
    stage *a = stage_new(), *b = stage_new();
    a->sim.config.event_rate = b->sim.config.event_rate = 500;
    stage_begin(a, 0, 1, NULL);
    stage_begin(b, 1, 1, NULL);
    while (stage_in_time(a) && (a->dispatches < 30 || b->dispatches < 30)) {
        stage_sleep_by_pollfds(a, 2);
        stage_turn(a, BY_POLLFDS);
        stage_sleep_by_pollfds(b, 2);
        stage_turn(b, BY_POLLFDS);
    }
    CHECK(a->dispatches >= 30 && b->dispatches >= 30);
    gw_wake(a->gw);
    STAGE_UNTIL(a, BY_WAIT, a->seen[GW_WOKEN] == 1);
    stage_end(a, 0);
    CHECK_U64(b->seen[GW_WOKEN], 0);
    lb_sim_do(&b->sim, "op7");
    STAGE_UNTIL(b, BY_WAIT, b->seen[GW_RESUMED] == 1);
    CHECK_U64(b->seen[GW_READY], 1);
    stage_end(b, 0);
}

/* ---- TLS end to end ---- */
TEST(tls_session_is_resumed_at_a_reconnect)
{
    stage *s = stage_new();
    stage_begin(s, 1, 0, NULL);
    STAGE_UNTIL(s, BY_POLLFDS, s->seen[GW_READY] == 1);
    CHECK_U64(s->sim.secret->cache.resumed, 0);
    lb_sim_do(&s->sim, "op7");
    STAGE_UNTIL(s, BY_POLLFDS, s->seen[GW_RESUMED] == 1);
    CHECK_U64(s->sim.secret->cache.resumed, 1);
    lb_sim_do(&s->sim, "reset");
    STAGE_UNTIL(s, BY_POLLFDS, s->seen[GW_RESUMED] == 2);
    CHECK_U64(s->sim.secret->cache.resumed, 2);
    CHECK_U64(s->sim.secret->cache.saved, 1);   /* one full handshake in all */
    stage_end(s, 0);
}

TEST(tls_trusts_the_system_where_nothing_is_given)
{
    stage *s = stage_new();
    const char *before = getenv("SSL_CERT_FILE");
    char kept[512] = "", *none = (char *)calloc(1, 1);
    if (before) snprintf(kept, sizeof kept, "%s", before);
    setenv("SSL_CERT_FILE", lb_cert_path("ca.pem"), 1);
    s->cfg.ca_file = none;
    stage_begin(s, 1, 0, NULL);
    gw_close(s->gw);
    s->cfg.ca_file = NULL;
    s->gw = gw_open(&s->cfg);
    STAGE_UNTIL(s, BY_POLLFDS, s->seen[GW_READY] == 1);
    if (kept[0]) setenv("SSL_CERT_FILE", kept, 1);
    else unsetenv("SSL_CERT_FILE");
    free(none);
    stage_end(s, 0);
}

TEST(tls_unknown_ca_is_told_again_and_again_but_never_passed)
{
    stage *s = stage_new();
    s->cfg.ca_file = lb_cert_path("other-ca.pem");
    stage_begin(s, 1, 0, NULL);
    STAGE_UNTIL(s, BY_POLLFDS, s->seen[GW_DISCONNECTED] >= 2 || s->seen[GW_FATAL]);
    CHECK_U64(s->seen[GW_OPENED], 0);
    CHECK_U64(sim_get_stats(s->sim.gateway)->upgrades, 0);
    stage_end(s, 0);
}

/* ---- the fixed block ---- */
static void *no_alloc(void *user, void *old, size_t old_bytes, size_t new_bytes)
{
    (void)user; (void)old; (void)old_bytes; (void)new_bytes;
    check_failed(__FILE__, __LINE__);
    fprintf(stderr, "the allocator was called\n");
    return NULL;
}

static void whole_session_in_a_block(int discover)
{
    stage *s = stage_new();
    gw_stats stats;
    char *pem = lb_cert_text("ca.pem"), command[100];
    uint32_t max_payload = 65536, i, before;
    uint64_t seq;
    s->cfg.max_payload = max_payload;
    s->cfg.ca_pem = pem;
    s->cfg.alloc = no_alloc;
    s->cfg.max_queued = 8;
    s->cfg.memory_bytes = gw_memory_needed(&s->cfg);
    s->cfg.memory = malloc(s->cfg.memory_bytes);        /* exactly: a sanitizer sees the byte behind it */
    lb_sim_begin(&s->sim, 1, NULL);
    snprintf(api_url, sizeof api_url, "https://127.0.0.1:%u", (unsigned)s->sim.port);
    s->cfg.url = discover ? NULL : s->sim.url;
    s->gw = gw_open(&s->cfg);
    if (!CHECK(s->gw)) exit(1);
    s->stop_ms = lb_now_ms() + lb_patience_ms();
    STAGE_UNTIL(s, BY_POLLFDS, s->seen[GW_GUILD_CREATE] == 2);
    CHECK_U64(s->seen[GW_GATEWAY_INFO], (uint32_t)discover);
    snprintf(command, sizeof command, "big %u", (unsigned)(max_payload - 4000));
    before = s->seen[GW_GUILD_CREATE];
    for (i = 0; i < 3; i++) lb_sim_do(&s->sim, command);        /* one after the other: one in hand, one on its way */
    STAGE_UNTIL(s, BY_POLLFDS, s->seen[GW_GUILD_CREATE] + s->seen[GW_SKIPPED] >= before + 3);
    CHECK_U64(s->seen[GW_SKIPPED], 0);                  /* what max_payload allows fits into what gw_memory_needed() said */
    s->seen[GW_SKIPPED] = 0;
    seq = s->last_seq;
    lb_sim_do(&s->sim, "big 300000");
    STAGE_UNTIL(s, BY_POLLFDS, s->seen[GW_SKIPPED] == 1);
    CHECK(s->skipped_bytes >= 300000);
    CHECK_U64(s->last_seq, seq + 1);                    /* its number counts */
    lb_sim_do(&s->sim, "op7");
    STAGE_UNTIL(s, BY_POLLFDS, s->seen[GW_RESUMED] == 1);
    lb_sim_do(&s->sim, "cut");
    STAGE_UNTIL(s, BY_POLLFDS, s->seen[GW_RESUMED] == 2);
    CHECK_U64(s->seen[GW_READY], 1);
    for (i = 0; i < 8; i++)
        CHECK(gw_send_raw(s->gw, 0, 3, DND, sizeof DND - 1) > 0);
    CHECK_EQ(gw_stats_read(s->gw, GW_ALL, &stats), GW_OK);
    CHECK(stats.memory_peak <= s->cfg.memory_bytes);
    gw_stop(s->gw, GW_END);
    STAGE_UNTIL(s, BY_POLLFDS, s->seen[GW_CLOSED] == 1);
    gw_close(s->gw);
    s->gw = NULL;
    free(s->cfg.memory);
    free(pem);
    stage_end(s, sim_get_stats(s->sim.gateway)->violations);    /* eight presences at once are too many, and that is not the point */
}

TEST(block_of_gw_memory_needed_holds_a_whole_session_over_tls)             { whole_session_in_a_block(0); }
TEST(block_of_gw_memory_needed_holds_discovery_and_a_session_over_tls)     { whole_session_in_a_block(1); }

TEST(block_that_is_too_small_is_told_and_harms_nobody)
{
    size_t bytes;
    char *pem = lb_cert_text("ca.pem");
    for (bytes = 0; bytes < 60000; bytes += lb_is_slow() ? 9973 : 1499) {
        stage *s = stage_new();
        uint32_t i;
        s->cfg.max_payload = 4096;
        s->cfg.ca_pem = pem;
        s->cfg.memory = malloc(bytes + 1);
        s->cfg.memory_bytes = bytes;
        lb_sim_begin(&s->sim, 1, NULL);
        s->cfg.url = s->sim.url;
        s->gw = gw_open(&s->cfg);
        s->stop_ms = lb_now_ms() + 1000;
        for (i = 0; s->gw && i < 200 && !s->seen[GW_FATAL] && !s->seen[GW_DISCONNECTED] && !s->seen[GW_READY] && stage_in_time(s); i++)
            stage_turn(s, BY_POLLFDS);
        if (s->gw) CHECK(s->seen[GW_FATAL] + s->seen[GW_DISCONNECTED] + s->seen[GW_READY] + s->seen[GW_CONNECTING] > 0);
        gw_close(s->gw);
        s->gw = NULL;
        free(s->cfg.memory);
        stage_end(s, sim_get_stats(s->sim.gateway)->violations);
    }
    free(pem);
}

/* ---- the end ---- */
TEST(close_in_any_state_leaks_no_descriptor)
{
    int before, after;
    uint32_t turns;
    before = dup(0);
    close(before);
    for (turns = 0; turns < 40; turns++) {
        stage *s = stage_new();
        uint32_t i;
        stage_begin(s, (int)turns & 1, 0, NULL);
        for (i = 0; i < turns; i++) stage_turn(s, BY_POLLFDS);
        stage_end(s, 0);
    }
    after = dup(0);
    close(after);
    CHECK_EQ(after, before);
}

TEST(close_keeps_the_session_and_stop_ends_it)
{
    stage *s = stage_new();
    char text[GW_SESSION_MAX];
    size_t len;
    stage_begin(s, 1, 0, NULL);
    STAGE_UNTIL(s, BY_POLLFDS, s->seen[GW_GUILD_CREATE] == 2);
    while (gw_poll(s->gw)) { }
    len = gw_session_save(s->gw, GW_ALL, text, sizeof text);
    CHECK(len > 0 && len < sizeof text);
    gw_close(s->gw);                            /* as at a crash or a hot reload */
    s->cfg.session = text;
    s->cfg.session_len = len;
    s->gw = gw_open(&s->cfg);
    STAGE_UNTIL(s, BY_POLLFDS, s->seen[GW_RESUMED] == 1);
    CHECK_U64(s->seen[GW_READY], 1);
    CHECK_EQ(gw_stop(s->gw, GW_END), GW_OK);
    STAGE_UNTIL(s, BY_POLLFDS, s->seen[GW_CLOSED] == 1);
    CHECK(gw_poll(s->gw) == NULL);
    stage_end(s, 0);
}

/* ---- what has come counts, however late it is read ---- */
static uint64_t on_late_clock(void *user) { (void)user; return lb_now_us(); }

static lb_sim *log_blocks;              /* the next line about TYPING_START takes 45 s */

static void on_slow_log(void *user, uint32_t level, int32_t shard, const char *text)
{
    int i;
    (void)user; (void)level; (void)shard;
    if (!log_blocks || !strstr(text, "TYPING_START")) return;
    for (i = 0; i < 20; i++) lb_sim_turn(log_blocks, 1);        /* the answer to our heartbeat comes */
    lb_skipped_us += 45000000u;
    log_blocks = NULL;
}

TEST(loop_with_a_hook_that_blocks_in_tend_still_hears_the_ack)
{
    stage *s = stage_new();
    const gw_event *event = NULL;
    lb_stream *one;
    int i, lost = 0, come = 0;
    s->cfg.monotonic_us = on_late_clock;
    s->cfg.log = on_slow_log;
    s->cfg.log_level = GW_LOG_TRACE;
    stage_begin(s, 0, 0, NULL);
    gw_want(s->gw, GW_TYPING_START, 0);
    for (i = 0; i < 5000 && come < 3; i++) {
        lb_sim_turn(&s->sim, 1);
        while ((event = gw_poll(s->gw)) != NULL) come += event->type == GW_READY || event->type == GW_GUILD_CREATE;
    }
    CHECK_EQ(come, 3);
    lb_skipped_us += 42000000u;                         /* past the first heartbeat, which is answered */
    for (i = 0; i < 20; i++) { while (gw_poll(s->gw)) { } lb_sim_turn(&s->sim, 1); }
    while (gw_poll(s->gw)) { }
    lb_sim_do(&s->sim, "event MESSAGE_CREATE {\"id\":\"1\"}");
    for (i = 0; i < 200 && (event = gw_poll(s->gw)) == NULL; i++) lb_sim_turn(&s->sim, 1);
    if (!CHECK(event && event->type == GW_MESSAGE_CREATE)) { stage_end(s, 0); return; }
    lb_skipped_us += 41300000u;                         /* the next is due, with an event in hand */
    lb_sim_do(&s->sim, "event TYPING_START {\"user_id\":\"1\"}");
    for (one = s->sim.streams; one; one = one->next) lb_sim_carry(one);
    log_blocks = &s->sim;
    gw_tend(s->gw);
    CHECK(log_blocks == NULL);
    for (i = 0; i < 50; i++) {
        lb_sim_turn(&s->sim, 1);
        while ((event = gw_poll(s->gw)) != NULL) lost += event->type == GW_DISCONNECTED;
    }
    CHECK_EQ(lost, 0);
    stage_end(s, sim_get_stats(s->sim.gateway)->violations);
}

TEST(loop_that_stalls_with_a_hundred_shards_loses_none)
{
    enum { SHARDS = 100 };
    stage *s = stage_new();
    const gw_event *event;
    int i, ready = 0, lost = 0;
    s->cfg.monotonic_us = on_late_clock;
    s->cfg.shard_count = s->cfg.shard_total = SHARDS;
    s->cfg.max_concurrency = s->sim.config.max_concurrency = SHARDS;
    s->sim.config.guilds = 0;
    stage_begin(s, 0, 0, NULL);
    for (i = 0; i < 20000 && ready < SHARDS; i++) {
        lb_sim_turn(&s->sim, 0);
        while ((event = gw_poll(s->gw)) != NULL) ready += event->type == GW_READY;
        if (i % 20 == 19) lb_skipped_us += 100000u;
    }
    CHECK_EQ(ready, SHARDS);
    lb_skipped_us += 41260000u;
    for (i = 0; i < 4; i++) while (gw_poll(s->gw)) { }  /* each sends its heartbeat */
    for (i = 0; i < 60; i++) lb_sim_turn(&s->sim, 0);   /* all answers come, and lie there */
    lb_skipped_us += 41260000u;
    for (i = 0; i < 60; i++)
        while ((event = gw_poll(s->gw)) != NULL) lost += event->type == GW_DISCONNECTED;
    CHECK_EQ(lost, 0);
    stage_end(s, sim_get_stats(s->sim.gateway)->violations);
}

CHECK_MAIN()
