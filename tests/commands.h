/* What the tests of the typed commands share: a world `w`, commands in short, and what the gateway
 * saw of them, from its journal. Include discord_gateway.h with its implementation first. */
#ifndef COMMANDS_H
#define COMMANDS_H
#include "world.h"

static world w;

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define GUILD UINT64_C(838860800000000000)      /* the world's first guild */
#define STRANGER UINT64_C(4194304005)   /* none of its guilds: no answer ever comes */

/* The world's guilds; of two shards those with an even index are shard 0's. */
static inline uint64_t guild(uint32_t index)
{
    return (UINT64_C(200000000000) + index * UINT64_C(7919)) << 22 | (index & 4095u);
}

static inline void begin(const char *script)
{
    w.keep_log = 1;
    world_begin(&w, script);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
}

static inline void begin_live(const char *script)
{
    world_init(&w);
    begin(script);
}

/* Two shards that may identify together; change w.cfg and w.sim between. */
static inline void init_two(void)
{
    world_init(&w);
    w.cfg.shard_count = w.cfg.shard_total = 2;
    w.cfg.max_concurrency = w.sim.max_concurrency = 2;
}

static inline void begin_two(void)
{
    begin(NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
}

/* ---- what the gateway saw ---- */
static char saw[8192];

static inline const char *mark_of(unsigned op)
{
    static char mark[40];
    snprintf(mark, sizeof mark, "\"op\":%u,\"d\":", op);
    return mark;
}

static inline size_t sent(unsigned op) { return world_count(&w, WORLD_EV("send"), mark_of(op)); }
static inline size_t sent_in_all(void) { return world_count(&w, WORLD_EV("send"), NULL); }

/* d of the nth payload with this opcode; "": there is none. */
static inline const char *sent_d(unsigned op, size_t nth)
{
    const char *mark = mark_of(op);
    char *d, *end;
    if (!world_line(&w, WORLD_EV("send"), mark, nth, saw, sizeof saw)) return "";
    d = strstr(saw, mark) + strlen(mark);
    end = strrchr(d, '}');
    if (end) *end = 0;                          /* the bracket that ends the line */
    return d;
}

/* When, by the gateway's clock; UINT64_MAX: it was not. */
static inline uint64_t sent_ms(unsigned op, size_t nth)
{
    const char *at;
    if (!world_line(&w, WORLD_EV("send"), mark_of(op), nth, saw, sizeof saw)) return UINT64_MAX;
    at = strstr(saw, "\"ts_ms\":");
    return at ? strtoull(at + 8, NULL, 10) : UINT64_MAX;
}

/* The nth Identify, from the client's trace; "": there is none. */
static inline const char *identify(size_t nth)
{
    const char *at = w.log ? w.log : "", *end;
    for (; (at = strstr(at, "> {\"op\":2,")) != NULL; at++) {
        if (nth-- != 0) continue;
        end = strchr(at, '\n');
        snprintf(saw, sizeof saw, "%.*s", end ? (int)(end - at) : 0, at);
        return saw;
    }
    return "";
}

/* ---- commands in short ---- */
static inline gw_activity activity_of(const char *name, uint32_t type)
{
    gw_activity activity;
    memset(&activity, 0, sizeof activity);
    activity.name = name;
    activity.type = type;
    return activity;
}

static inline gw_presence presence_of(const gw_activity *activities, uint32_t count)
{
    gw_presence presence;
    memset(&presence, 0, sizeof presence);
    presence.activities = activities;
    presence.activity_count = count;
    return presence;
}

static inline gw_ticket show(int32_t shard, const char *name)
{
    gw_activity activity = activity_of(name, 0);
    gw_presence presence = presence_of(&activity, 1);
    return gw_set_presence(w.gw, shard, &presence);
}

static inline gw_ticket leave_voice(uint64_t guild_id)
{
    return gw_set_voice(w.gw, guild_id, 0, 0, 0);
}

static inline gw_members members_of(uint64_t guild_id, const char *query)
{
    gw_members request;
    memset(&request, 0, sizeof request);
    request.guild_id = guild_id;
    request.query = query;
    return request;
}

static inline gw_ticket ask(uint64_t guild_id, const char *query)
{
    gw_members request = members_of(guild_id, query);
    return gw_request_members(w.gw, &request);
}

static inline uint64_t stats_queue(void)
{
    gw_stats stats;
    gw_stats_read(w.gw, GW_ALL, &stats);
    return stats.send_queue;
}

/* ---- what was dropped ---- */
static inline size_t dropped(void) { return world_count_events(&w, GW_COMMAND_DROPPED); }

/* The next COMMAND_DROPPED is of this command, for this reason, with a sentence. */
static inline void expect_drop(gw_ticket ticket, uint32_t reason, uint64_t max_ms,
                               const char *file, int line)
{
    const world_event *event = world_until(&w, GW_COMMAND_DROPPED, max_ms);
    if (event && event->ticket == ticket && event->reason == reason && event->message[0]) return;
    check_failed(file, line);
    if (!event) fprintf(stderr, "no COMMAND_DROPPED of %d; what came:\n", (int)ticket);
    else fprintf(stderr, "COMMAND_DROPPED of %d, reason %u, not of %d, reason %u; what came:\n",
                 (int)event->ticket, (unsigned)event->reason, (int)ticket, (unsigned)reason);
    world_print_events(&w);
}
#define EXPECT_DROP(ticket, reason, max_ms) \
    expect_drop(ticket, reason, max_ms, __FILE__, __LINE__)
#endif
