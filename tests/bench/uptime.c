/* uptime.c -- memory never grows with uptime: mixed load, a large guild and a reconnect each
 * minute, for an hour. A minute may be shortened: the library's clock then runs faster, by
 * config.monotonic_us. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE
#endif
#include "discord_gateway.h"
#include "bench.h"
#include "library.h"
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define BUFFER_BYTES 65536u     /* within one buffer: the one that the library reads ahead into */
#define MINUTE_MS 60000u

typedef struct fast_clock { uint64_t began_ns; uint32_t minute_ms; } fast_clock;

static uint64_t fast_us(void *user)
{
    const fast_clock *clock = (const fast_clock *)user;
    uint64_t real_us = (bench_now_ns() - clock->began_ns) / 1000u;
    return 1000000u + real_us * MINUTE_MS / clock->minute_ms;
}

/* gw_wait() would sleep by the real clock. */
static const gw_event *next_event(gw_client *gw, uint64_t until_ns)
{
    const gw_event *ev = NULL;
    while (!(ev = gw_poll(gw)) && bench_now_ns() < until_ns) {
        struct pollfd fds[4];
        gw_pollfd ours[4];
        uint32_t i, count = gw_pollfds(gw, ours, 4);
        if (count > 4) count = 4;
        for (i = 0; i < count; i++) {
            fds[i].fd = (int)ours[i].fd;
            fds[i].events = (short)((ours[i].readable ? POLLIN : 0) |
                                    (ours[i].writable ? POLLOUT : 0));
        }
        poll(fds, count, gw_timeout_ms(gw) == 0 ? 0 : 1);
    }
    return ev;
}

static uint64_t visit(const gw_json *container)
{
    gw_json key, value = { NULL, 0, NULL };
    uint64_t count = 0;
    while (gw_next(container, &key, &value)) count += 1 + visit(&value);
    return count;
}

/* Until it is there, or the time is up. */
static int await(gw_client *gw, uint32_t type, uint32_t other, uint64_t until_ns)
{
    const gw_event *ev;
    while ((ev = next_event(gw, until_ns)) != NULL) {
        if (ev->type == GW_FATAL) bench_fail("the library says FATAL", ev->message);
        if (ev->type == type || ev->type == other) return 1;
        if (ev->type < GW_GATEWAY_INFO && visit(&ev->d) > 100000000u) return 0;
    }
    return 0;
}

/* 2,000 events, then a guild of 2 MB, each until its last event. */
static void play(const bench_world *world, gw_client *gw, uint32_t minute, uint64_t until_ns)
{
    bench_row row;
    int guild;
    memset(&row, 0, sizeof row);
    for (guild = 0; guild < 2; guild++) {
        row.play.kind = guild ? CORPUS_GUILDS : CORPUS_MIX;
        row.play.count = guild ? 1 : 2000;
        row.play.guild_bytes = 2000000;
        row.play.seed = minute;
        library_prepare(world, &row);
        bench_tell(world, BENCH_GO);
        if (!await(gw, GW_WEBHOOKS_UPDATE, GW_WEBHOOKS_UPDATE, until_ns))
            bench_fail("a minute's load was not through in a minute", NULL);
    }
}

static const char *reconnect(const bench_world *world, uint32_t minute)
{
    static const struct { uint32_t verb; const char *name; } ways[] = {
        { BENCH_RECONNECT, "op 7" }, { BENCH_DROP, "lost" }, { BENCH_INVALIDATE, "op 9" }
    };
    bench_tell(world, ways[minute % 3].verb);
    return ways[minute % 3].name;
}

/* A minute of its own: load, a reconnect in its middle, idle to its end. */
static void one_minute(const bench_world *world, gw_client *gw, uint32_t minute,
                       const fast_clock *clock)
{
    uint64_t minute_ns = (uint64_t)clock->minute_ms * 1000000u;
    uint64_t end_ns = clock->began_ns + minute_ns * (minute + 1), give_up_ns = end_ns + minute_ns;
    const char *how;
    if (world->leak_bytes) memset(bench_new(world->leak_bytes), 1, world->leak_bytes);
    play(world, gw, minute, give_up_ns);
    how = reconnect(world, minute);
    if (!await(gw, GW_RESUMED, GW_READY, give_up_ns)) bench_fail("no reconnect after", how);
    while (await(gw, GW_NOTICE_END_, GW_NOTICE_END_, end_ns)) { }
}

/* glibc raises its thresholds with the first large block that it frees, and keeps up to twice its
 * size from then on: that is no growth of ours, so the thresholds are fixed. */
static void keep_thresholds(void)
{
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 128 * 1024);
    mallopt(M_TRIM_THRESHOLD, 128 * 1024);
#endif
}

typedef struct memory { uint64_t resident, own; } memory;

static memory look(gw_client *gw, uint32_t minute, int say)
{
    memory now;
    gw_stats stats;
    gw_stats_read(gw, GW_ALL, &stats);
    now.resident = bench_status_bytes("VmRSS:");
    now.own = stats.memory_now;
    if (say)
        printf("minute %3u: resident %llu KiB, the library's own %llu bytes; events %llu, "
               "connections %llu, resumes %llu, identifies %llu\n", (unsigned)minute + 1,
               (unsigned long long)now.resident / 1024, (unsigned long long)now.own,
               (unsigned long long)stats.events, (unsigned long long)stats.connects,
               (unsigned long long)stats.resumes, (unsigned long long)stats.identifies);
    fflush(stdout);
    return now;
}

int uptime_run(const bench_world *world, uint32_t minutes, uint32_t minute_ms)
{
    gw_config cfg = GW_INIT;
    fast_clock clock;
    gw_client *gw;
    memory first = { 0, 0 }, last = { 0, 0 };
    uint32_t minute;
    int grew;
    keep_thresholds();
    clock.minute_ms = minute_ms;
    clock.began_ns = bench_now_ns();
    cfg.user = &clock;
    cfg.monotonic_us = fast_us;
    bench_pin(world->client_core);
    gw = library_open(world, &cfg);
    if (!await(gw, GW_READY, GW_READY, bench_now_ns() + UINT64_C(10000000000)))
        bench_fail("READY does not come", NULL);
    for (minute = 0; minute < minutes; minute++) {
        one_minute(world, gw, minute, &clock);
        last = look(gw, minute, minute == 0 || minute % 10 == 9 || minute + 1 == minutes);
        if (minute == 0) first = last;
    }
    gw_close(gw);
    grew = last.resident > first.resident + BUFFER_BYTES || last.own > first.own + BUFFER_BYTES;
    printf("uptime: %d passed, %d failed\n", !grew, grew);
    return !grew;
}
