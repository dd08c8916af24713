/* reshard -- goes from OLD shards to NEW ones without a gap: two clients in one loop, which share one identify gate.
 * Build:  make examples        or: cc -I. examples/reshard.c -o build/reshard -lbearssl -lpthread
 * You see the old set's events, both sets' while the new one comes up, then the new one's:  build/reshard 1 2 */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE 1       /* POSIX names under -std=c99 */
#endif
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BUCKETS = 64, IDENTIFY_EVERY_MS = 5500, OVERLAP_MS = 2000 };

typedef struct set {
    const char *name;
    int32_t total, failed;
    gw_client *gw;              /* NULL: not begun, or ended */
} set;

/* Discord lets one shard of a bucket identify in 5 s, whichever client it is of, and neither client knows of the other.
 * A permit is held from the hook's "go" until the Identify is out; the 5 s begin there. */
static struct permit { const set *holder; int32_t shard; int64_t free_ms; } permits[BUCKETS];
static volatile sig_atomic_t asked_to_end;

static void on_signal(int number) { (void)number; asked_to_end = 1; }

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int32_t ask_permit(void *user, int32_t shard, uint32_t bucket)
{
    struct permit *permit = &permits[bucket % BUCKETS];     /* buckets that share a place are only slower */
    int64_t wait_ms = permit->free_ms - now_ms();
    if (permit->holder) return 100;                         /* ask again so soon */
    if (wait_ms > 0) return (int32_t)wait_ms;
    permit->holder = (const set *)user;
    permit->shard = shard;
    return 0;
}

static void end_permit(const set *from, const gw_event *ev)
{
    int i, spent = ev->type == GW_IDENTIFYING;
    if (!spent && ev->type != GW_DISCONNECTED && ev->type != GW_SHARD_STOPPED) return;
    for (i = 0; i < BUCKETS; i++) {
        if (permits[i].holder != from || permits[i].shard != ev->shard) continue;
        permits[i].holder = NULL;
        if (spent) permits[i].free_ms = now_ms() + IDENTIFY_EVERY_MS;
    }
}

static int begin(set *s)
{
    gw_config cfg = GW_INIT;
    cfg.token = getenv("DISCORD_TOKEN");
    cfg.url = getenv("GW_URL");                             /* NULL: Discord is asked */
    cfg.ca_file = getenv("GW_CA_FILE");
    cfg.intents = GW_INTENTS_UNPRIVILEGED;
    cfg.shard_count = cfg.shard_total = s->total;
    cfg.identify_gate = ask_permit;
    cfg.user = s;
    s->gw = gw_open(&cfg);
    if (!s->gw) fprintf(stderr, "reshard: there is not enough memory\n");
    return s->gw != NULL;
}

/* All that is there of a set; a handler of your own would stand here. While both are live each event comes from both:
 * act on what the old set says until the new one is live, then on the new one's, and know by its id what came twice. */
static void take_events(set *s)
{
    const gw_event *ev;
    while (s->gw && (ev = gw_poll(s->gw)) != NULL) {
        end_permit(s, ev);
        printf("%s ", s->name);
        if (ev->shard == GW_ALL) printf("     %s", ev->name);
        else printf("%d/%d  %s", (int)ev->shard, (int)s->total, ev->name);
        if (ev->type >= GW_GATEWAY_INFO) printf("  %s\n", ev->message);
        else printf("  s %llu  id %llu\n", (unsigned long long)ev->seq,
                    (unsigned long long)gw_u64(&ev->d, "id"));
        s->failed |= ev->type == GW_FATAL || (ev->type == GW_SHARD_STOPPED && ev->reason != GW_REASON_BY_CALLER);
        if (ev->type == GW_FATAL) fprintf(stderr, "reshard: the %s set: %s\n", s->name, ev->message);
    }
    if (s->gw && !gw_alive(s->gw)) { gw_close(s->gw); s->gw = NULL; }
}

/* Sleeps until one has work: gw_fd() is readable then, timers included. Where it is -1 (no epoll) the 20 ms serve. */
static void wait_for_both(const set *a, const set *b)
{
    struct pollfd fds[2] = { { -1, POLLIN, 0 }, { -1, POLLIN, 0 } };
    if (a->gw) fds[0].fd = (int)gw_fd(a->gw);
    if (b->gw) fds[1].fd = (int)gw_fd(b->gw);
    poll(fds, 2, 20);
}

/* Up to the end of both; 1: the old set was replaced, and nothing went wrong. */
static int run(set *before, set *after)
{
    enum { OLD_STARTS, NEW_STARTS, OVERLAP, REPLACED, KEPT, ENDING } step = OLD_STARTS;
    int64_t until_ms = 0;
    int was_replaced = 0;
    if (!begin(before)) return 0;
    while (before->gw || after->gw) {
        wait_for_both(before, after);
        take_events(before);
        take_events(after);
        if (fflush(stdout) != 0) asked_to_end = 1;          /* nobody reads any more */
        if (step < ENDING && (asked_to_end || before->failed || (after->failed && was_replaced))) {
            step = ENDING;
            if (before->gw) gw_stop(before->gw, GW_END);
            if (after->gw) gw_stop(after->gw, GW_END);
        } else if (step < REPLACED && after->failed) {
            step = KEPT;
            printf("-- the new set failed; the old one goes on until Ctrl-C\n");
            if (after->gw) gw_stop(after->gw, GW_END);
        } else if (step == OLD_STARTS && gw_shard_live(before->gw, GW_ALL)) {
            step = NEW_STARTS;
            printf("-- the old set is live; the new one starts beside it\n");
            after->failed = !begin(after);
        } else if (step == NEW_STARTS && gw_shard_live(after->gw, GW_ALL)) {
            step = OVERLAP;
            until_ms = now_ms() + OVERLAP_MS;
            printf("-- the new set is live; the old one still brings what is on its way\n");
        } else if (step == OVERLAP && now_ms() >= until_ms) {
            step = REPLACED;
            was_replaced = 1;
            printf("-- the old set ends; the new one goes on until Ctrl-C\n");
            gw_stop(before->gw, GW_END);
        }
    }
    return was_replaced && !before->failed && !after->failed;
}

int main(int argc, char **argv)
{
    set before = { "old", 0, 0, NULL }, after = { "new", 0, 0, NULL };
    if (argc == 3) {
        before.total = atoi(argv[1]);
        after.total = atoi(argv[2]);
    }
    if (before.total < 1 || after.total < 1 || before.total > 16384 || after.total > 16384) {
        fprintf(stderr, "usage: DISCORD_TOKEN=... reshard OLD NEW     (how many shards run, how many are to run)\n");
        return 2;
    }
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    signal(SIGPIPE, SIG_IGN);
    return run(&before, &after) ? 0 : 1;
}
