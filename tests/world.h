/* The tests' world: a client whose transport leads into the gateway simulator in the same process. No sockets, no TLS,
 * no real clock: time is moved by hand, chance comes from a seed, so a failure repeats exactly.
 *
 *   world w;
 *   world_init(&w);                    defaults; change w.cfg (the client's) and w.sim (the gateway's) now
 *   world_begin(&w, "on ready op7");   gateway and client begin; the script is the simulator's
 *   world_until(&w, GW_RESUMED, 5000)  virtual time passes until the client hands that event out, or so many ms
 *   world_advance(&w, 60000)           ... whatever happens
 *   world_end(&w)                      frees all, and CHECKs what must hold in every test (see there)
 *
 * Time moves from one deadline to the next: to what gw_timeout_ms() and sim_next_ms() ask for, so a client that asks
 * for too late a time is late here as well. w.frame_ms != 0: polled like a game instead, each so many ms.
 * Include discord_gateway.h with DISCORD_GATEWAY_IMPLEMENTATION first. Links with tests/simulator/'s core. */
#ifndef WORLD_H
#define WORLD_H
#include "check.h"
#include "simulator/gateway_sim.h"

#define WORLD_TOKEN "MTA5ODc2NTQzMjEwOTg3NjU0Mw.GabcDE.thisTokenMustNeverBeSeenInAnyText"
#define WORLD_UNIX UINT64_C(1767323045)
#define WORLD_KEEP 2048u            /* bytes of an event's d that are kept */
#define WORLD_FOREVER (UINT64_MAX / 4)

typedef struct world_event {        /* a copy of what the client handed out */
    uint32_t type, session, replayed, reason, will, in_ms;
    int32_t shard, close_code;
    gw_ticket ticket;
    uint64_t seq, bytes, at_ms;
    char name[64];
    char message[640];
    char *d;                        /* 0-terminated, at most WORLD_KEEP bytes; "" if absent */
    size_t d_len;
} world_event;

typedef struct world_mark { uint64_t due_us; size_t len; } world_mark;

typedef struct world_stream {       /* one connection */
    struct world_stream *next;
    struct world *w;
    sim_connection *conn;           /* NULL: the gateway's side is gone */
    uint8_t *bytes;                 /* on their way to the client */
    size_t begin, end, cap;
    world_mark *marks;              /* which of them arrive when */
    size_t mark_begin, mark_end, mark_cap;
    uint64_t down_left, up_left;    /* bytes until the wire is cut; UINT64_MAX: never */
    uint32_t ended;                 /* the gateway sends no more: after the bytes, the end */
    uint32_t dead;                  /* cut or reset: nothing more either way */
    uint16_t port;
} world_stream;

typedef struct world {
    gw_config cfg;
    sim_config sim;
    gw_client *gw;
    sim_gateway *gateway;
    gw_transport transport;
    uint64_t now_us, slept_us;      /* monotonic; what boot time and the gateway count beyond it */
    uint64_t unix_base;
    uint64_t random;
    uint32_t frame_ms;              /* 0: from deadline to deadline */
    uint32_t clock_tick_us;         /* each look at the clock costs so much */
    uint32_t latency_ms;            /* from the gateway to the client */
    uint32_t read_most;             /* bytes one read gives at most; 0: all */
    uint32_t write_most;
    uint32_t write_full;            /* 1: the socket takes nothing */
    uint32_t mute;                  /* 1: half-open: nothing arrives, either way */
    uint32_t refuse;                /* connections to be refused; UINT32_MAX: all */
    uint16_t refuse_port;           /* only to this port; 0: any */
    uint64_t next_down, next_up;    /* the next connection is cut after so many bytes; 0: not */
    world_stream *streams;
    world_event *events;
    size_t event_count, event_cap, cursor;
    char *journal;                  /* the gateway's log, a line each */
    size_t journal_len, journal_cap;
    char *log;                      /* the client's */
    size_t log_len, log_cap;
    uint32_t keep_log;
    void (*on_event)(struct world *w, const gw_event *event);  /* while it is in hand */
    void (*in_hook)(struct world *w, const char *hook);         /* called inside each hook */
    uint64_t moved;                 /* grows with every byte, event and connection */
    uint64_t opens, refused, polls;
    uint32_t idle_spins;            /* gw_timeout_ms() was 0 and a hundred polls brought nothing */
    uint32_t token_seen;            /* the token was in a text */
    uint32_t violations_expected;   /* of the gateway's rules */
    uint32_t any_violations;
    uint64_t allocations, live_bytes, live_blocks, fail_after;  /* fail_after: allocations that succeed; 0: all */
    uint64_t largest_bytes;         /* of a block asked for so far */
    uint32_t bad_sizes;             /* the allocator was told a wrong old size */
    uint32_t no_random;             /* there are no random bytes */
    uint32_t own_memory;            /* cfg.memory: the allocator must not be called at all */
} world;

/* ---- hooks ---- */
static inline void world_hook(world *w, const char *name)
{
    if (w->in_hook) w->in_hook(w, name);
}

static inline uint64_t world_ms(const world *w) { return w->now_us / 1000u; }
static inline uint64_t world_sim_ms(const world *w) { return (w->now_us + w->slept_us) / 1000u; }

static inline uint64_t world_mix(uint64_t *state)      /* splitmix64 */
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

static inline uint64_t world_on_monotonic(void *user)
{
    world *w = (world *)user;
    world_hook(w, "monotonic_us");
    w->now_us += w->clock_tick_us;
    return w->now_us;
}

static inline uint64_t world_on_boot(void *user)
{
    world *w = (world *)user;
    world_hook(w, "boot_us");
    return w->now_us + w->slept_us;
}

static inline uint64_t world_on_unix(void *user)
{
    world *w = (world *)user;
    world_hook(w, "unix_time");
    return w->unix_base ? w->unix_base + world_sim_ms(w) / 1000u : 0;
}

static inline int32_t world_on_random(void *user, void *bytes, size_t len)
{
    world *w = (world *)user;
    uint8_t *at = (uint8_t *)bytes;
    world_hook(w, "random");
    if (w->no_random) return -1;
    while (len--) *at++ = (uint8_t)(world_mix(&w->random) >> 24);
    return 1;
}

/* Each block remembers its size, so that a wrong old_bytes is seen. */
static inline void *world_on_alloc(void *user, void *old, size_t old_bytes, size_t new_bytes)
{
    world *w = (world *)user;
    uint64_t *head = old ? (uint64_t *)old - 2 : NULL;
    world_hook(w, "alloc");
    if (head && (head[0] != old_bytes || head[1] != UINT64_C(0x600DB10C))) w->bad_sizes++;
    if (!head && old_bytes) w->bad_sizes++;
    if (new_bytes == 0) {
        if (head) { w->live_bytes -= old_bytes; w->live_blocks--; head[1] = 0; free(head); }
        return NULL;
    }
    w->allocations++;
    if (new_bytes > w->largest_bytes) w->largest_bytes = new_bytes;
    if (w->fail_after && w->allocations > w->fail_after) return NULL;
    head = (uint64_t *)realloc(head, new_bytes + 16);
    if (!head) return NULL;
    head[0] = new_bytes;
    head[1] = UINT64_C(0x600DB10C);
    w->live_bytes += new_bytes - (old ? old_bytes : 0);
    w->live_blocks += old ? 0 : 1;
    return head + 2;
}

static inline void world_look_for_token(world *w, const char *text)
{
    const char *at = w->cfg.token ? strstr(text, "thisTokenMustNeverBeSeen") : NULL;
    if (!at) return;
    w->token_seen++;
    fprintf(stderr, "the token is in: %.*s...\n", (int)(at - text), text);      /* no output of ours shows it: secrets_check.sh */
}

static inline void world_add_line(char **text, size_t *len, size_t *cap, const char *line)
{
    size_t more = strlen(line) + 2;
    if (*len + more > *cap) {
        *cap = (*cap + more) * 2;
        *text = (char *)realloc(*text, *cap);
    }
    memcpy(*text + *len, line, more - 2);
    *len += more - 1;
    (*text)[*len - 1] = '\n';
    (*text)[*len] = 0;
}

static inline void world_on_log(void *user, uint32_t level, int32_t shard, const char *text)
{
    world *w = (world *)user;
    (void)level; (void)shard;
    world_hook(w, "log");
    world_look_for_token(w, text);
    if (w->keep_log) world_add_line(&w->log, &w->log_len, &w->log_cap, text);
}

static inline void world_on_journal(void *user, const char *line)
{
    world *w = (world *)user;
    world_add_line(&w->journal, &w->journal_len, &w->journal_cap, line);
}

/* ---- the wire ---- */
static inline void world_hang_up(world_stream *stream)
{
    if (stream->conn) sim_hangup(stream->conn, world_sim_ms(stream->w));
    stream->conn = NULL;
}

static inline void world_kill(world_stream *stream)
{
    stream->dead = 1;
    stream->begin = stream->end = stream->mark_begin = stream->mark_end = 0;
    world_hang_up(stream);
    stream->w->moved++;
}

static inline void world_carry_bytes(world_stream *stream, const uint8_t *bytes, size_t len)
{
    if (stream->begin == stream->end) stream->begin = stream->end = 0;
    if (stream->mark_begin == stream->mark_end) stream->mark_begin = stream->mark_end = 0;
    if (stream->end + len > stream->cap) {
        stream->cap = (stream->end + len) * 2;
        stream->bytes = (uint8_t *)realloc(stream->bytes, stream->cap);
    }
    memcpy(stream->bytes + stream->end, bytes, len);
    stream->end += len;
    if (stream->mark_end == stream->mark_cap) {
        stream->mark_cap = (stream->mark_cap + 4) * 2;
        stream->marks = (world_mark *)realloc(stream->marks, stream->mark_cap * sizeof *stream->marks);
    }
    stream->marks[stream->mark_end].due_us = stream->w->now_us + stream->w->latency_ms * UINT64_C(1000);
    stream->marks[stream->mark_end++].len = len;
}

/* What the gateway has to say is put on the wire, as far as the wire holds (64 KiB, like a socket). */
static inline void world_carry(world_stream *stream)
{
    size_t len;
    const uint8_t *bytes;
    while (stream->conn && !stream->dead && stream->end - stream->begin < 65536 &&
           (bytes = sim_output(stream->conn, &len), len != 0)) {
        if (len > 65536) len = 65536;
        world_carry_bytes(stream, bytes, len);
        sim_output_taken(stream->conn, len);
    }
    if (!stream->conn) return;
    switch (sim_connection_state(stream->conn)) {
    case SIM_WANTS_RESET: world_kill(stream); break;
    case SIM_WANTS_CUT: case SIM_WANTS_CLOSE:
        if (sim_pending(stream->conn)) break;
        stream->ended = 1;
        world_hang_up(stream);
        stream->w->moved++;
        break;
    case SIM_OPEN: case SIM_FROZEN: break;
    }
}

static inline void *world_on_open(void *user, const char *host, uint16_t port)
{
    world *w = (world *)user;
    world_stream *stream;
    (void)host;
    world_hook(w, "open");
    w->opens++;
    w->moved++;
    if (w->refuse && (!w->refuse_port || w->refuse_port == port)) {
        if (w->refuse != UINT32_MAX) w->refuse--;
        w->refused++;
        return NULL;
    }
    stream = (world_stream *)calloc(1, sizeof *stream);
    stream->w = w;
    stream->port = port;
    stream->down_left = w->next_down ? w->next_down : UINT64_MAX;
    stream->up_left = w->next_up ? w->next_up : UINT64_MAX;
    w->next_down = w->next_up = 0;
    stream->conn = sim_accept(w->gateway, world_sim_ms(w));
    stream->next = w->streams;
    w->streams = stream;
    return stream;
}

static inline int32_t world_on_read(void *user, void *handle, void *bytes, uint32_t len)
{
    world *w = (world *)user;
    world_stream *stream = (world_stream *)handle;
    world_mark *mark;
    size_t part;
    world_hook(w, "read");
    if (stream->dead) return -1;
    if (w->mute) return 0;
    if (stream->begin == stream->end) return stream->ended ? -1 : 0;
    mark = &stream->marks[stream->mark_begin];
    if (mark->due_us > w->now_us) return 0;
    part = mark->len < len ? mark->len : len;
    if (w->read_most && part > w->read_most) part = w->read_most;
    if (part > stream->down_left) part = (size_t)stream->down_left;
    if (part == 0) { world_kill(stream); return -1; }
    memcpy(bytes, stream->bytes + stream->begin, part);
    stream->begin += part;
    if (stream->down_left != UINT64_MAX) stream->down_left -= part;
    if ((mark->len -= part) == 0) stream->mark_begin++;
    w->moved += part;
    return (int32_t)part;
}

static inline int32_t world_on_write(void *user, void *handle, const void *bytes, uint32_t len)
{
    world *w = (world *)user;
    world_stream *stream = (world_stream *)handle;
    size_t part = len;
    world_hook(w, "write");
    if (stream->dead) return -1;
    if (w->mute) return (int32_t)len;               /* into the kernel's buffer, and nowhere */
    if (w->write_full) return 0;
    if (w->write_most && part > w->write_most) part = w->write_most;
    if (part > stream->up_left) part = (size_t)stream->up_left;
    if (part == 0) { world_kill(stream); return -1; }
    if (stream->up_left != UINT64_MAX) stream->up_left -= part;
    if (stream->conn) sim_receive(stream->conn, (const uint8_t *)bytes, part, world_sim_ms(w));
    w->moved += part;
    return (int32_t)part;
}

static inline intptr_t world_on_fd(void *user, void *handle)
{
    (void)handle;
    world_hook((world *)user, "fd");
    return -1;
}

static inline void world_on_close(void *user, void *handle)
{
    world *w = (world *)user;
    world_stream *stream = (world_stream *)handle, **at = &w->streams;
    world_hook(w, "close");
    world_hang_up(stream);
    while (*at != stream) at = &(*at)->next;
    *at = stream->next;
    free(stream->bytes);
    free(stream->marks);
    free(stream);
    w->moved++;
}

/* ---- life ---- */
static inline void world_init(world *w)
{
    memset(w, 0, sizeof *w);
    w->now_us = 1000000000u;
    w->unix_base = WORLD_UNIX;
    w->random = 1;
    w->transport.open = world_on_open;
    w->transport.read = world_on_read;
    w->transport.write = world_on_write;
    w->transport.fd = world_on_fd;
    w->transport.close = world_on_close;
    sim_config_init(&w->sim);
    w->sim.token = WORLD_TOKEN;
    w->sim.url = "ws://127.0.0.1";
    w->sim.resume_url = "ws://127.0.0.1:8080/resume";
    w->sim.members = 2;
    w->sim.guilds = 2;
    w->sim.log = world_on_journal;
    w->sim.user = w;
    w->cfg.token = WORLD_TOKEN;
    w->cfg.intents = GW_INTENTS_ALL;
    w->cfg.url = "ws://127.0.0.1/";
    w->cfg.user = w;
    w->cfg.alloc = world_on_alloc;
    w->cfg.log = world_on_log;
    w->cfg.log_level = GW_LOG_TRACE;
    w->cfg.monotonic_us = world_on_monotonic;
    w->cfg.boot_us = world_on_boot;
    w->cfg.unix_time = world_on_unix;
    w->cfg.random = world_on_random;
    w->cfg.transport = &w->transport;
}

static inline void world_script(world *w, const char *script)
{
    char why[200] = "";
    if (!script) return;
    if (!CHECK_EQ(sim_script(w->gateway, script, world_sim_ms(w), why, sizeof why), 0)) fprintf(stderr, "%s\n", why);
    w->moved++;
}

/* The simulator's command, now, to all connections. */
static inline void world_do(world *w, const char *command)
{
    char why[200] = "";
    if (!CHECK(sim_command(w->gateway, NULL, command, world_sim_ms(w), why, sizeof why))) fprintf(stderr, "%s\n", why);
    w->moved++;
}

static inline int world_open_client(world *w)
{
    w->gw = gw_open(&w->cfg);
    return CHECK(w->gw != NULL);
}

static inline void world_begin(world *w, const char *script)
{
    w->gateway = sim_new(&w->sim, world_sim_ms(w));
    world_script(w, script);
    world_open_client(w);
}

static inline void world_close_client(world *w)
{
    gw_close(w->gw);
    w->gw = NULL;
}

static inline void world_free_events(world *w)
{
    size_t i;
    for (i = 0; i < w->event_count; i++) free(w->events[i].d);
    w->event_count = w->cursor = 0;
}

/* What holds in every test: the token was nowhere, no rule of the gateway was broken, all memory came back with the
 * sizes it was asked for, and nobody was told to poll for nothing. */
static inline void world_end(world *w)
{
    if (w->gw) world_close_client(w);
    if (w->gateway) {
        if (!w->any_violations && !CHECK_U64(sim_get_stats(w->gateway)->violations,
            w->violations_expected) && w->journal) {
            char *at = w->journal, *end;
            for (; (end = strchr(at, '\n')) != NULL; at = end + 1) {
                *end = 0;
                if (strstr(at, "\"violation\"")) fprintf(stderr, "    %s\n", at);
            }
        }
        CHECK(w->streams == NULL);
        sim_free(w->gateway);
    }
    CHECK_U64(w->token_seen, 0);
    CHECK_U64(w->live_blocks, 0);
    CHECK_U64(w->live_bytes, 0);
    CHECK_U64(w->bad_sizes, 0);
    CHECK_U64(w->idle_spins, 0);
    if (w->own_memory) CHECK_U64(w->allocations, 0);
    world_free_events(w);
    free(w->events);
    free(w->journal);
    free(w->log);
    w->events = NULL;
    w->journal = w->log = NULL;
}

/* ---- events ---- */
static inline void world_take(world *w, const gw_event *event)
{
    world_event *copy;
    if (w->event_count == w->event_cap) {
        w->event_cap = (w->event_cap + 16) * 2;
        w->events = (world_event *)realloc(w->events, w->event_cap * sizeof *w->events);
    }
    copy = &w->events[w->event_count++];
    memset(copy, 0, sizeof *copy);
    copy->type = event->type;
    copy->session = event->session;
    copy->replayed = event->replayed;
    copy->reason = event->reason;
    copy->will = event->will;
    copy->in_ms = event->in_ms;
    copy->shard = event->shard;
    copy->close_code = event->close_code;
    copy->ticket = event->ticket;
    copy->seq = event->seq;
    copy->bytes = event->bytes;
    copy->at_ms = world_ms(w);
    CHECK(event->name != NULL);
    CHECK(event->message != NULL);
    snprintf(copy->name, sizeof copy->name, "%s", event->name ? event->name : "(null)");
    snprintf(copy->message, sizeof copy->message, "%s", event->message ? event->message : "(null)");
    copy->d_len = event->d.ptr ? event->d.len : 0;
    copy->d = (char *)calloc(1, (copy->d_len < WORLD_KEEP ? copy->d_len : WORLD_KEEP) + 1);
    if (copy->d_len) memcpy(copy->d, event->d.ptr, copy->d_len < WORLD_KEEP ? copy->d_len : WORLD_KEEP);
    world_look_for_token(w, copy->message);
    world_look_for_token(w, copy->d);
    if (event->type >= GW_GATEWAY_INFO) CHECK(copy->message[0] != 0 || w->own_memory || w->fail_after);
    else CHECK_TEXT(copy->message, "");
    w->moved++;
    if (w->on_event) w->on_event(w, event);
}

/* Everything that can happen without time passing; of a flood as much as a few hundred turns hold. */
static inline void world_settle(world *w)
{
    uint32_t idle = 0, rounds = 0;
    uint64_t before;
    uint32_t most = 200000;             /* a client in a hot loop must not fill all memory */
    const gw_event *event;
    do {
        world_stream *stream;
        before = w->moved;
        sim_tick(w->gateway, world_sim_ms(w));
        for (stream = w->streams; stream; stream = stream->next) world_carry(stream);
        w->polls++;
        while (w->gw && most && (event = gw_poll(w->gw)) != NULL) {
            world_take(w, event);
            if (--most == 0) CHECK_TEXT(event->name, "no end of events at one moment");
        }
        for (stream = w->streams; stream; stream = stream->next) world_carry(stream);
        idle = w->moved == before ? idle + 1 : 0;
    } while (++rounds < 500 && (idle == 0 || (idle < 100 && w->gw && gw_timeout_ms(w->gw) == 0)));
    if (idle >= 100) w->idle_spins++;
}

static inline uint64_t world_next_us(const world *w, uint64_t until_us)
{
    uint64_t next_us = until_us, sim_us;
    int32_t timeout_ms = w->gw ? gw_timeout_ms(w->gw) : -1;
    const world_stream *stream;
    if (w->frame_ms) return w->now_us + w->frame_ms * UINT64_C(1000) < until_us ? w->now_us + w->frame_ms * UINT64_C(1000) : until_us;
    if (timeout_ms >= 0) {
        uint64_t client_us = (w->now_us / 1000u + (uint64_t)timeout_ms) * 1000u;
        if (client_us < next_us) next_us = client_us;
    }
    sim_us = sim_next_ms(w->gateway);
    if (sim_us != SIM_NEVER) {
        sim_us *= 1000u;
        sim_us = sim_us > w->slept_us ? sim_us - w->slept_us : 0;
        if (sim_us < next_us) next_us = sim_us;
    }
    for (stream = w->streams; stream; stream = stream->next)
        if (stream->mark_begin < stream->mark_end && stream->marks[stream->mark_begin].due_us > w->now_us &&
            stream->marks[stream->mark_begin].due_us < next_us) next_us = stream->marks[stream->mark_begin].due_us;
    return next_us > w->now_us ? next_us : w->now_us + 1000u;
}

/* The next event of this type that was not found before; time passes until it is there. */
static inline const world_event *world_until(world *w, uint32_t type, uint64_t max_ms)
{
    uint64_t until_us = w->now_us + max_ms * 1000u;
    for (;;) {
        world_settle(w);
        for (; w->cursor < w->event_count; w->cursor++)
            if (w->events[w->cursor].type == type) return &w->events[w->cursor++];
        if (w->now_us >= until_us) return NULL;
        w->now_us = world_next_us(w, until_us);
    }
}

static inline void world_advance(world *w, uint64_t ms)
{
    uint64_t until_us = w->now_us + ms * 1000u;
    world_settle(w);
    while (w->now_us < until_us) {
        w->now_us = world_next_us(w, until_us);
        world_settle(w);
    }
}

/* Nobody polls while time and gateway go on. */
static inline void world_stall(world *w, uint64_t ms)
{
    uint64_t until_us = w->now_us + ms * 1000u;
    gw_client *gw = w->gw;
    w->gw = NULL;
    while (w->now_us < until_us) {
        world_stream *stream;
        w->now_us = world_next_us(w, until_us);
        sim_tick(w->gateway, world_sim_ms(w));
        for (stream = w->streams; stream; stream = stream->next) world_carry(stream);
    }
    w->gw = gw;
}

static inline size_t world_count_events(const world *w, uint32_t type)
{
    size_t i, count = 0;
    for (i = 0; i < w->event_count; i++) count += w->events[i].type == type;
    return count;
}

/* In place of an event that did not come, so that a failed test goes on to its end. */
static inline const world_event *world_no_event(void)
{
    static char empty[1] = "";
    static world_event none;
    none.d = empty;
    return &none;
}

static inline const world_event *world_last(const world *w, uint32_t type)
{
    size_t i;
    for (i = w->event_count; i-- > 0; ) if (w->events[i].type == type) return &w->events[i];
    return world_no_event();
}

static inline void world_print_events(const world *w)
{
    size_t i;
    for (i = 0; i < w->event_count; i++) {
        const world_event *e = &w->events[i];
        fprintf(stderr, "  %8llu %s s=%llu session=%u reason=%u code=%d will=%u in=%u %s\n", (unsigned long long)e->at_ms,
            e->name,
                (unsigned long long)e->seq, (unsigned)e->session, (unsigned)e->reason, (int)e->close_code,
                    (unsigned)e->will,
                (unsigned)e->in_ms, e->message);
    }
}

/* ---- the gateway's log ---- */

/* Copies the nth line (0: the first) that contains both texts. 0: there is none. */
static inline int world_line(const world *w, const char *part, const char *also, size_t nth, char *out, size_t cap)
{
    const char *at = w->journal ? w->journal : "", *end;
    for (; (end = strchr(at, '\n')) != NULL; at = end + 1) {
        size_t len = (size_t)(end - at) < cap - 1 ? (size_t)(end - at) : cap - 1;
        memcpy(out, at, len);
        out[len] = 0;
        if (strstr(out, part) && (!also || strstr(out, also)) && nth-- == 0) return 1;
    }
    out[0] = 0;
    return 0;
}

static inline size_t world_count(const world *w, const char *part, const char *also)
{
    char line[1024];
    const char *at = w->journal ? w->journal : "", *end;
    size_t count = 0;
    for (; (end = strchr(at, '\n')) != NULL; at = end + 1) {
        size_t len = (size_t)(end - at) < sizeof line - 1 ? (size_t)(end - at) : sizeof line - 1;
        memcpy(line, at, len);
        line[len] = 0;
        count += strstr(line, part) && (!also || strstr(line, also));
    }
    return count;
}

#define WORLD_EV(name) "\"ev\":\"" name "\""

/* The number behind "key": in the nth line with the text; UINT64_MAX: not there. */
static inline uint64_t world_number(const world *w, const char *part, size_t nth, const char *key)
{
    char line[1024], quoted[64];
    const char *at;
    if (!world_line(w, part, NULL, nth, line, sizeof line)) return UINT64_MAX;
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    at = strstr(line, quoted);
    if (!at || at[strlen(quoted)] < '0' || at[strlen(quoted)] > '9') return UINT64_MAX;
    return strtoull(at + strlen(quoted), NULL, 10);
}

/* The moments when lines with this text were written, gateway's clock. */
static inline uint64_t world_time(const world *w, const char *part, size_t nth) { return world_number(w, part, nth,
    "ts_ms"); }

/* Everything that the gateway dispatched in its newest session, but RESUMED, was handed out exactly once, in order. */
static inline void world_check_delivery(const world *w, uint32_t session)
{
    char line[1024], mark[40];
    uint8_t *sent;
    uint64_t top = 0, s, last = 0;
    uint32_t lost = 0, doubled = 0, disordered = 0;
    const char *at, *end;
    size_t i;
    snprintf(mark, sizeof mark, "\"session\":%u,\"s\":", (unsigned)session);
    for (i = 0; i < w->event_count; i++)
        if (w->events[i].type < GW_GATEWAY_INFO && w->events[i].session == session && w->events[i].seq > top) top = w->events[i].seq;
    top += 100000;
    sent = (uint8_t *)calloc(1, (size_t)top + 1);
    for (at = w->journal; (end = strchr(at, '\n')) != NULL; at = end + 1) {
        size_t len = (size_t)(end - at) < sizeof line - 1 ? (size_t)(end - at) : sizeof line - 1;
        memcpy(line, at, len);
        line[len] = 0;
        if (!strstr(line, WORLD_EV("dispatch")) || !strstr(line, mark) || strstr(line, "\"t\":\"RESUMED\"")) continue;
        s = strtoull(strstr(line, mark) + strlen(mark), NULL, 10);
        if (s <= top) sent[s] = 1;
    }
    for (i = 0; i < w->event_count; i++) {
        const world_event *e = &w->events[i];
        if (e->type >= GW_GATEWAY_INFO || e->session != session || e->type == GW_RESUMED) continue;
        if (e->seq <= last) disordered++;
        last = e->seq;
        if (sent[e->seq] != 1) doubled++;
        sent[e->seq] = 2;
    }
    for (s = 0; s <= top; s++) lost += sent[s] == 1;
    free(sent);
    CHECK_U64(lost, 0);
    CHECK_U64(doubled, 0);
    CHECK_U64(disordered, 0);
}

static inline int world_is_slow(void) { return getenv("GW_TEST_SLOW_MACHINE") != NULL; }

static inline const world_event *world_expect_(world *w, uint32_t type, uint64_t max_ms, const char *file, int line)
{
    const world_event *event = world_until(w, type, max_ms);
    if (event) return event;
    check_failed(file, line);
    fprintf(stderr, "%s did not come within %llu ms; what came:\n", gw_name_of(type), (unsigned long long)max_ms);
    world_print_events(w);
    return world_no_event();
}

/* As world_until(), but a failure where it does not come, and never NULL. */
#define WORLD_EXPECT(w, type, max_ms) world_expect_(w, type, max_ms, __FILE__, __LINE__)
#endif
