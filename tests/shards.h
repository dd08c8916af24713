/* What the tests of several shards in one client share: a world `w`, the text that carries sessions
 * over a restart, and what the gateway saw of each shard. Include discord_gateway.h with its
 * implementation first. */
#ifndef SHARDS_H
#define SHARDS_H
#include "world.h"

#define COUNT(a) (sizeof(a) / sizeof(a)[0])

static world w;
static char text[64 * GW_SESSION_MAX];
static size_t text_len;

static inline void init_shards(int32_t count, int32_t total)
{
    world_init(&w);
    w.cfg.shard_count = count;
    w.cfg.shard_total = total;
    w.cfg.max_concurrency = w.sim.max_concurrency = (uint32_t)total;    /* all at once */
}

static inline void expect_each(uint32_t type, uint32_t count)
{
    while (count--) WORLD_EXPECT(&w, type, 1000);
}

static inline void begin_live(int32_t total)
{
    init_shards(total, total);
    world_begin(&w, NULL);
    expect_each(GW_READY, (uint32_t)total);
    world_settle(&w);
}

static inline size_t identifies(void) { return world_count(&w, WORLD_EV("identify"), NULL); }

static inline size_t identifies_of(int32_t shard, int32_t total)
{
    char mark[40];
    snprintf(mark, sizeof mark, "\"shard\":[%d,%d]", (int)shard, (int)total);
    return world_count(&w, WORLD_EV("identify"), mark);
}

static inline size_t count_of(uint32_t type, int32_t shard)
{
    size_t i, count = 0;
    for (i = 0; i < w.event_count; i++)
        count += w.events[i].type == type && w.events[i].shard == shard;
    return count;
}

static inline void save(int32_t shard)
{
    text_len = gw_session_save(w.gw, shard, text, sizeof text);
    CHECK(text_len > 0 && text_len < sizeof text);
}

/* A line of the text in work, of that shard. */
static inline int text_has(int32_t shard, int32_t total)
{
    char mark[32];
    snprintf(mark, sizeof mark, "\n%d %d ", (int)shard, (int)total);
    return strstr(text, mark) != NULL;
}

static inline void restart(void)
{
    world_close_client(&w);
    w.cursor = w.event_count;
    w.cfg.session = text;
    w.cfg.session_len = text_len;
    world_open_client(&w);
}

static inline gw_ticket send_empty(int32_t shard)
{
    static const char d[] = "{\"guild_ids\":[]}";
    return gw_send_raw(w.gw, shard, 31, d, strlen(d));
}

/* What the gateway has to say reaches the wire, and nobody polls. */
static inline void carry_all(void)
{
    world_stream *stream;
    sim_tick(w.gateway, world_sim_ms(&w));
    for (stream = w.streams; stream; stream = stream->next) world_carry(stream);
}

#endif
