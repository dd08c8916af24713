/* library.c -- the library's rows. The implementation is compiled here, with the flags that the
 * Makefile hands in; rows use the public calls only. */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE
#endif
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "bench.h"
#include "library.h"
#include <poll.h>
#include <sys/resource.h>

enum mode { UNREAD, THREE, PICK, THREE_ALL, EVERY, TENTH, GUILD_READ, GUILD_FILTERED, GUILD_OVER };

#define SINK_MAX 4096

/* What a reader would do with what it read: a sum that the compiler cannot leave out. */
static volatile uint64_t sink;

/* ---- a client ---- */
gw_client *library_open(const bench_world *world, gw_config *cfg)
{
    static char url[64], ca_file[1024];
    gw_client *gw;
    snprintf(url, sizeof url, "wss://localhost:%d", world->port);
    snprintf(ca_file, sizeof ca_file, "%s/ca.pem", world->certs);
    cfg->token = BENCH_TOKEN;
    cfg->intents = GW_INTENTS_ALL;
    cfg->url = url;
    cfg->ca_file = ca_file;
    gw = gw_open(cfg);
    if (!gw) bench_fail("gw_open has no memory", NULL);
    return gw;
}

/* The next event of this type; ends the program where it does not come. */
const gw_event *library_wait(gw_client *gw, uint32_t type)
{
    uint64_t until_ns = bench_now_ns() + UINT64_C(60000000000);
    const gw_event *ev = NULL;
    while (bench_now_ns() < until_ns) {
        ev = gw_wait(gw, 1000);
        if (ev && ev->type == GW_FATAL) bench_fail("the library says FATAL", ev->message);
        if (ev && ev->type == type) return ev;
    }
    bench_fail("this event does not come", gw_name_of(type));
    return NULL;
}

bench_answer library_prepare(const bench_world *world, const bench_row *row)
{
    bench_order order;
    memset(&order, 0, sizeof order);
    order.verb = BENCH_PREPARE;
    order.play = row->play;
    order.record_an_event = row->record_an_event;
    return bench_ask(world, &order);
}

/* Until bytes are there: the clock starts with them, as the bare loop's does. */
static void wait_for_bytes(gw_client *gw)
{
    gw_pollfd ours[4];
    struct pollfd theirs[4];
    uint32_t i, count = gw_pollfds(gw, ours, 4);
    if (count > 4) count = 4;
    for (i = 0; i < count; i++) {
        theirs[i].fd = (int)ours[i].fd;
        theirs[i].events = POLLIN;
    }
    poll(theirs, count, 10000);
}

/* ---- what a bot does with an event ---- */
static void read_three(const gw_event *ev)
{
    char text[SINK_MAX];
    sink += gw_u64(&ev->d, "channel_id") + gw_u64(&ev->d, "author.id");
    sink += gw_text(&ev->d, "content", text, sizeof text);
}

static void pick_three(const gw_event *ev)
{
    static const char *const paths[] = { "channel_id", "author.id", "content" };
    char text[SINK_MAX];
    gw_json found[3];
    gw_pick(&ev->d, paths, 3, found);
    sink += gw_u64(&found[0], NULL) + gw_u64(&found[1], NULL);
    sink += gw_text(&found[2], NULL, text, sizeof text);
}

static uint64_t visit(const gw_json *container)
{
    gw_json key, value = { 0 };
    uint64_t sum = 0;
    while (gw_next(container, &key, &value)) {
        sum += value.len + key.len;
        if (*value.ptr == '{' || *value.ptr == '[') sum += visit(&value);
    }
    return sum;
}

/* Its own fields, and the id of each member. */
static void read_guild(const gw_event *ev)
{
    gw_json members, member = { 0 };
    sink += gw_u64(&ev->d, "id") + gw_u64(&ev->d, "owner_id") + gw_u64(&ev->d, "member_count");
    gw_get(&ev->d, "members", &members);
    while (gw_next(&members, NULL, &member)) sink += gw_u64(&member, "user.id");
}

static void handle(const gw_event *ev, uint32_t mode)
{
    switch ((enum mode)mode) {
    case THREE:     if (ev->type == GW_MESSAGE_CREATE) read_three(ev); break;
    case PICK:      if (ev->type == GW_MESSAGE_CREATE) pick_three(ev); break;
    case THREE_ALL: read_three(ev); break;
    case EVERY:     sink += visit(&ev->d); break;
    case GUILD_READ: if (ev->type == GW_GUILD_CREATE) read_guild(ev); break;
    case UNREAD: case TENTH: case GUILD_FILTERED: case GUILD_OVER: sink += ev->type; break;
    }
}

static void want(gw_client *gw, uint32_t mode)
{
    uint32_t type;
    if (mode == GUILD_FILTERED) gw_want(gw, GW_GUILD_CREATE, 0);
    if (mode != TENTH) return;
    for (type = GW_READY; type < GW_DISPATCH_END_; type++)
        if (type != GW_MESSAGE_REACTION_ADD && type != GW_MESSAGE_UPDATE &&
            type != GW_GUILD_MEMBER_UPDATE && type != GW_WEBHOOKS_UPDATE)
            gw_want(gw, type, 0);
}

/* ---- a stream: until the event that the server plays last ---- */
typedef struct timed { double wall_s, cpu_s; uint64_t events, skipped; } timed;

static timed take_all(const bench_world *world, gw_client *gw, uint32_t mode)
{
    uint64_t began_ns = bench_now_ns(), cpu_ns = bench_cpu_ns();
    const gw_event *ev;
    timed took = { 0, 0, 0, 0 };
    while ((ev = gw_wait(gw, GW_FOREVER)) != NULL && ev->type != GW_WEBHOOKS_UPDATE) {
        took.events++;
        if (ev->type == GW_SKIPPED) took.skipped++;
        if (ev->type == GW_FATAL || ev->type == GW_DISCONNECTED)
            bench_fail("the stream broke", ev->message);
        handle(ev, mode);
        if (world->slow_ns) bench_burn(world->slow_ns);
    }
    took.cpu_s = (double)(bench_cpu_ns() - cpu_ns) / 1e9;
    took.wall_s = (double)(bench_now_ns() - began_ns) / 1e9;
    return took;
}

/* A row that took less than was played would be a good figure of nothing. */
static void check(const timed *took, const bench_answer *made, uint32_t mode)
{
    uint64_t expected = made->events;
    if (mode == TENTH) expected = made->events / 10;
    if (mode == GUILD_FILTERED) expected = 0;
    if (took->events != expected) bench_fail("not all events came", NULL);
    if (mode == GUILD_OVER && took->skipped != expected) bench_fail("nothing was skipped", NULL);
}

static void put_stream(const timed *took, const bench_answer *made, bench_figures *out)
{
    bench_put(out, "events", (double)made->events);
    bench_put(out, "bytes", (double)made->json_bytes);
    bench_put(out, "wall_s", took->wall_s);
    bench_put(out, "cpu_s", took->cpu_s);
}

static void put_memory(gw_client *gw, uint64_t resident_before, bench_figures *out)
{
    gw_stats stats;
    uint64_t peak = bench_status_bytes("VmHWM:");
    gw_stats_read(gw, GW_ALL, &stats);
    bench_put(out, "resident_growth", (double)peak - (double)resident_before);
    bench_put(out, "memory_peak", (double)stats.memory_peak);
}

static void run_stream(const bench_world *world, const bench_row *row, bench_figures *out)
{
    gw_config cfg = GW_INIT;
    bench_answer made;
    gw_client *gw;
    timed took;
    uint64_t resident;
    cfg.max_payload = row->mode == GUILD_OVER ? 1000000u : 256000000u;
    gw = library_open(world, &cfg);
    want(gw, row->mode);
    library_wait(gw, GW_READY);
    made = library_prepare(world, row);
    resident = bench_status_bytes("VmRSS:");
    bench_reset_peak();
    bench_tell(world, BENCH_GO);
    wait_for_bytes(gw);
    took = take_all(world, gw, row->mode);
    check(&took, &made, row->mode);
    put_stream(&took, &made, out);
    put_memory(gw, resident, out);
    bench_put(out, "server_cpu_s", bench_tell(world, BENCH_REPORT).cpu_s);
    gw_close(gw);
}

/* ---- idle shards ---- */
static double cpu_of_idling(gw_client *gw, double seconds)
{
    uint64_t until_ns = bench_now_ns() + (uint64_t)(seconds * 1e9), now_ns, cpu_ns = bench_cpu_ns();
    while ((now_ns = bench_now_ns()) < until_ns)
        gw_wait(gw, (int32_t)((until_ns - now_ns) / 1000000u + 1));
    return (double)(bench_cpu_ns() - cpu_ns) / 1e6 / seconds;
}

/* mode: how many */
static void run_idle(const bench_world *world, const bench_row *row, bench_figures *out)
{
    gw_config cfg = GW_INIT;
    gw_stats stats;
    gw_client *gw;
    uint64_t before = bench_private_bytes(), began_ns = bench_now_ns(), cpu_ns = bench_cpu_ns();
    double seconds = world->quick ? 2 : row->mode >= 1000 ? 20 : 5;
    cfg.shard_count = cfg.shard_total = (int32_t)row->mode;
    cfg.max_concurrency = row->mode;
    cfg.identify_remaining = 2 * row->mode;
    gw = library_open(world, &cfg);
    while (!gw_shard_live(gw, GW_ALL)) library_wait(gw, GW_READY);
    bench_put(out, "live_s", (double)(bench_now_ns() - began_ns) / 1e9);
    bench_put(out, "live_cpu_s", (double)(bench_cpu_ns() - cpu_ns) / 1e9);
    while (gw_wait(gw, 300)) { }
    gw_stats_read(gw, GW_ALL, &stats);
    bench_put(out, "private_bytes", (double)(bench_private_bytes() - before) / row->mode);
    bench_put(out, "own_bytes", (double)stats.memory_now / row->mode);
    bench_put(out, "own_peak_bytes", (double)stats.memory_peak / row->mode);
    bench_put(out, "idle_ms_per_s", cpu_of_idling(gw, seconds));
    gw_close(gw);
}

/* ---- handshakes: reconnects, timed from CONNECTING to OPENED ---- */
#define RECONNECTS 3            /* of one client: from the fourth in a row on the library waits */

static void reconnect(const bench_world *world, gw_client *gw, timed *sum)
{
    uint64_t began_ns, cpu_ns;
    bench_tell(world, BENCH_RECONNECT);
    library_wait(gw, GW_CONNECTING);
    began_ns = bench_now_ns();
    cpu_ns = bench_cpu_ns();
    library_wait(gw, GW_OPENED);
    sum->wall_s += (double)(bench_now_ns() - began_ns) / 1e9;
    sum->cpu_s += (double)(bench_cpu_ns() - cpu_ns) / 1e9;
    sum->events++;
    library_wait(gw, GW_RESUMED);
}

static void set_cache(const bench_world *world, int is_on)
{
    bench_order setup;
    memset(&setup, 0, sizeof setup);
    setup.verb = BENCH_SETUP;
    setup.no_cache = !is_on;
    bench_ask(world, &setup);
}

/* mode: 1 with the server's session cache */
static void run_handshake(const bench_world *world, const bench_row *row, bench_figures *out)
{
    int i, count = RECONNECTS * (world->quick ? 2 : 7);
    gw_client *gw = NULL;
    timed sum = { 0, 0, 0, 0 };
    set_cache(world, (int)row->mode);
    for (i = 0; i < count; i++) {
        gw_config cfg = GW_INIT;
        if (i % RECONNECTS == 0) {
            gw_close(gw);
            gw = library_open(world, &cfg);
            library_wait(gw, GW_READY);
        }
        reconnect(world, gw, &sum);
    }
    gw_close(gw);
    set_cache(world, 1);
    bench_put(out, "wall_s", sum.wall_s / (double)sum.events);
    bench_put(out, "cpu_s", sum.cpu_s / (double)sum.events);
}

void library_start(const bench_world *world)
{
    gw_config cfg = GW_INIT;
    library_wait(library_open(world, &cfg), GW_READY);
    printf("%llu\n", (unsigned long long)bench_now_ns());
}

/* ---- gw_poll with nothing to do ---- */
static void run_idle_poll(const bench_world *world, const bench_row *row, bench_figures *out)
{
    gw_config cfg = GW_INIT;
    uint32_t i, count = world->quick ? 50000 : 500000;
    uint64_t began_ns;
    gw_client *gw = library_open(world, &cfg);
    (void)row;
    library_wait(gw, GW_READY);
    while (gw_wait(gw, 200)) { }
    began_ns = bench_thread_cpu_ns();
    for (i = 0; i < count; i++) sink += gw_poll(gw) != NULL;
    bench_put(out, "ns", (double)(bench_thread_cpu_ns() - began_ns) / count);
    gw_close(gw);
}

/* ---- a burst, met by a game's loop of 60 Hz ---- */
typedef struct calls { double *wall_us, *cpu_us; uint32_t count, cap; double turn_us; } calls;

static int one_frame(gw_client *gw, calls *to)
{
    uint64_t frame_ns = bench_now_ns();
    const gw_event *ev;
    int goes_on = 1;
    do {
        uint64_t cpu_ns = bench_thread_cpu_ns(), began_ns = bench_now_ns();
        ev = gw_poll(gw);
        if (to->count < to->cap) {
            to->wall_us[to->count] = (double)(bench_now_ns() - began_ns) / 1e3;
            to->cpu_us[to->count++] = (double)(bench_thread_cpu_ns() - cpu_ns) / 1e3;
        }
        if (ev && ev->type == GW_WEBHOOKS_UPDATE) goes_on = 0;
    } while (ev);
    frame_ns = bench_now_ns() - frame_ns;
    if ((double)frame_ns / 1e3 > to->turn_us) to->turn_us = (double)frame_ns / 1e3;
    return goes_on;
}

static int compare(const void *a, const void *b)
{
    double one = *(const double *)a, two = *(const double *)b;
    return (one > two) - (one < two);
}

static void put_calls(calls *from, bench_figures *out)
{
    uint32_t at = from->count - 1 - from->count / 1000;
    qsort(from->wall_us, from->count, sizeof(double), compare);
    qsort(from->cpu_us, from->count, sizeof(double), compare);
    bench_put(out, "calls", from->count);
    bench_put(out, "longest_us", from->wall_us[from->count - 1]);
    bench_put(out, "p999_us", from->wall_us[at]);
    bench_put(out, "longest_cpu_us", from->cpu_us[from->count - 1]);
    bench_put(out, "p999_cpu_us", from->cpu_us[at]);
    bench_put(out, "longest_frame_us", from->turn_us);
}

static void run_burst(const bench_world *world, const bench_row *row, bench_figures *out)
{
    gw_config cfg = GW_INIT;
    gw_client *gw = library_open(world, &cfg);
    calls all;
    uint32_t frames = 0;
    struct timespec frame = { 0, 16666667 };
    memset(&all, 0, sizeof all);
    all.cap = 200000;
    all.wall_us = (double *)bench_new(all.cap * sizeof(double));
    all.cpu_us = (double *)bench_new(all.cap * sizeof(double));
    library_wait(gw, GW_READY);
    library_prepare(world, row);
    bench_tell(world, BENCH_GO);
    while (one_frame(gw, &all) && ++frames < 3600) nanosleep(&frame, NULL);
    if (frames == 3600) bench_fail("the burst took a minute", NULL);
    put_calls(&all, out);
    bench_put(out, "frames", frames + 1);
    gw_close(gw);
}

/* ---- memory by part: what is allocated, step by step ---- */
typedef struct ledger { uint64_t large, small; } ledger;        /* large: buffers, from 8 KiB on */

static void *count_bytes(void *user, void *old, size_t old_bytes, size_t new_bytes)
{
    ledger *to = (ledger *)user;
    if (old) *(old_bytes >= 8192 ? &to->large : &to->small) -= old_bytes;
    *(new_bytes >= 8192 ? &to->large : &to->small) += new_bytes;
    if (new_bytes) return realloc(old, new_bytes);
    free(old);
    return NULL;
}

static uint64_t now_bytes(gw_client *gw)
{
    gw_stats stats;
    gw_stats_read(gw, GW_ALL, &stats);
    return stats.memory_now;
}

static void look_often(const gw_event *ev)
{
    int i;
    for (i = 0; i < 64; i++) sink += gw_u64(&ev->d, "guild_id");
}

static void run_ram(const bench_world *world, const bench_row *row, bench_figures *out)
{
    gw_config cfg = GW_INIT;
    ledger sizes = { 0, 0 };
    gw_client *gw;
    gw_stats stats;
    cfg.alloc = count_bytes;
    cfg.user = &sizes;
    gw = library_open(world, &cfg);
    bench_put(out, "opened", (double)now_bytes(gw));
    library_wait(gw, GW_READY);
    while (gw_wait(gw, 200)) { }
    gw_stats_read(gw, GW_ALL, &stats);
    bench_put(out, "handshake_peak", (double)stats.memory_peak);
    bench_put(out, "idle", (double)now_bytes(gw));
    bench_put(out, "idle_buffers", (double)sizes.large);
    bench_put(out, "idle_small", (double)sizes.small);
    library_prepare(world, row);
    bench_tell(world, BENCH_GO);
    library_wait(gw, GW_PRESENCE_UPDATE);
    bench_put(out, "streaming", (double)now_bytes(gw));
    look_often(library_wait(gw, GW_MESSAGE_CREATE));
    bench_put(out, "with_tokens", (double)now_bytes(gw));
    library_wait(gw, GW_WEBHOOKS_UPDATE);
    while (gw_wait(gw, 200)) { }
    bench_put(out, "idle_again", (double)now_bytes(gw));
    gw_close(gw);
}

/* ---- for profilers and tracers: a stream, or idle polls, between two calls of getppid() ---- */
void library_trace_stream(const bench_world *world, const bench_row *row)
{
    gw_config cfg = GW_INIT;
    gw_client *gw = library_open(world, &cfg);
    library_wait(gw, GW_READY);
    library_prepare(world, row);
    bench_tell(world, BENCH_GO);
    wait_for_bytes(gw);
    getppid();
    take_all(world, gw, UNREAD);
    getppid();
}

void library_trace_idle(const bench_world *world, uint32_t polls)
{
    gw_config cfg = GW_INIT;
    gw_client *gw = library_open(world, &cfg);
    library_wait(gw, GW_READY);
    while (gw_wait(gw, 200)) { }
    getppid();
    while (polls--) gw_poll(gw);
    getppid();
}

#define MIX { CORPUS_MIX, 100000, 0, 1, 0 }
#define BURST { CORPUS_MIX, 12350, 0, 1, 0 }
#define GUILDS(count, bytes) { CORPUS_GUILDS, count, bytes, 1, 0 }
#define NONE { 0, 0, 0, 0, 0 }
const bench_row library_rows[] = {
    { "unread", run_stream, UNREAD, MIX, 0, 1 },
    { "three", run_stream, THREE, MIX, 0, 1 },
    { "three_pick", run_stream, PICK, MIX, 0, 0 },
    { "three_of_all", run_stream, THREE_ALL, MIX, 0, 0 },
    { "every", run_stream, EVERY, MIX, 0, 1 },
    { "filtered", run_stream, TENTH, MIX, 0, 1 },
    { "record", run_stream, UNREAD, MIX, 1, 1 },
    { "10mb_unread", run_stream, UNREAD, GUILDS(8, 10000000), 0, 1 },
    { "10mb_read", run_stream, GUILD_READ, GUILDS(8, 10000000), 0, 0 },
    { "10mb_every", run_stream, EVERY, GUILDS(8, 10000000), 0, 0 },
    { "10mb_filtered", run_stream, GUILD_FILTERED, GUILDS(8, 10000000), 0, 1 },
    { "10mb_over", run_stream, GUILD_OVER, GUILDS(8, 10000000), 0, 1 },
    { "size_10k", run_stream, UNREAD, GUILDS(8000, 10000), 0, 0 },
    { "size_100k", run_stream, UNREAD, GUILDS(800, 100000), 0, 0 },
    { "size_1m", run_stream, UNREAD, GUILDS(80, 1000000), 0, 0 },
    { "size_10m", run_stream, UNREAD, GUILDS(8, 10000000), 0, 0 },
    { "size_100m", run_stream, UNREAD, GUILDS(1, 100000000), 0, 0 },
    { "idle_1", run_idle, 1, NONE, 0, 0 },
    { "idle_10", run_idle, 10, NONE, 0, 0 },
    { "idle_100", run_idle, 100, NONE, 0, 1 },
    { "idle_1000", run_idle, 1000, NONE, 0, 0 },
    { "handshake", run_handshake, 0, NONE, 0, 1 },
    { "handshake_resumed", run_handshake, 1, NONE, 0, 1 },
    { "idle_poll", run_idle_poll, 0, NONE, 0, 1 },
    { "burst", run_burst, 0, BURST, 0, 0 },
    { "burst_one", run_burst, 0, GUILDS(1, 10000000), 0, 0 },
    { "ram", run_ram, 0, { CORPUS_MIX, 1000, 0, 1, 0 }, 0, 1 },
    { NULL, NULL, 0, NONE, 0, 0 }
};
