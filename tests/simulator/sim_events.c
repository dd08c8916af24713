/* sim_events.c -- sessions and what they dispatch: READY, guilds, the generated stream, the replay buffer. */
#include "sim_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SIM_GUILDS = 1, SIM_MEMBERS = 1 << 1, SIM_VOICE = 1 << 7, SIM_PRESENCES = 1 << 8, SIM_MESSAGES = 1 << 9,
    SIM_REACTIONS = 1 << 10, SIM_TYPING = 1 << 11, SIM_DIRECT = 1 << 12, SIM_CONTENT = 1 << 15
};
#define SIM_BOT_ID UINT64_C(1098765432109876543)
#define SIM_APPLICATION_ID UINT64_C(1098765432109876544)

/* -- ids: guild i, its members and channels are always the same ------------------ */

uint64_t sim_guild_id(uint32_t index)
{
    return (UINT64_C(200000000000) + (uint64_t)index * 7919) << 22 | (index & 4095u);
}

uint64_t sim_member_id(uint64_t guild_id, uint32_t index)
{
    return ((guild_id >> 22) + UINT64_C(1000000) + index) << 22 | 7u;
}

static uint64_t sim_channel_id(uint64_t guild_id, uint32_t index) { return guild_id + (index + 1) * 32u; }

int sim_guild_on_shard(const sim_session *session, uint64_t guild_id)
{
    return (guild_id >> 22) % session->shard_count == session->shard_id;
}

int sim_guild_known(const sim_gateway *gateway, uint64_t guild_id)
{
    uint64_t index = ((guild_id >> 22) - UINT64_C(200000000000)) / 7919;
    return index < gateway->config.guilds && sim_guild_id((uint32_t)index) == guild_id;
}

static uint64_t sim_fresh_id(const sim_gateway *gateway, sim_session *session)
{
    return (UINT64_C(350000000000) + gateway->now_ms) << 22 | (session->number & 31u) << 17 |
        (session->event_number & 4095u);
}

/* -- the session ------------------------------------------------------------------- */

sim_session *sim_session_new(sim_gateway *gateway)
{
    sim_session *session = (sim_session *)sim_alloc(sizeof *session);
    session->random = sim_random(&gateway->random);
    session->number = ++gateway->session_count;
    snprintf(session->id, sizeof session->id, "%016llx%016llx",
             (unsigned long long)sim_random(&session->random),
             (unsigned long long)session->number);
    session->next = gateway->sessions;
    gateway->sessions = session;
    return session;
}

sim_session *sim_session_find(sim_gateway *gateway, const char *id)
{
    sim_session *session = gateway->sessions;
    while (session && strcmp(session->id, id) != 0) session = session->next;
    return session;
}

static void sim_forget_events(sim_session *session)
{
    for (; session->count; session->count--, session->first = (session->first + 1) % session->cap)
        free(session->events[session->first].body);
    free(session->events);
    session->events = NULL;
    session->cap = 0;
    session->kept_bytes = 0;
}

void sim_session_free(sim_session *session)
{
    sim_forget_events(session);
    free(session->token);
    free(session->query);
    free(session->resume_url);
    free(session);
}

/* It stays in the list without its events, so that a later Resume is told what became of it. */
void sim_session_end(sim_gateway *gateway, sim_session *session, const char *why, int expired)
{
    sim_buf *line;
    if (session->dead) return;
    session->dead = 1;
    session->expired = (uint32_t)expired;
    if (session->conn) session->conn->session = NULL;
    session->conn = NULL;
    sim_forget_events(session);
    line = sim_log_begin(gateway, NULL, "session_end");
    sim_print(line, ",\"session\":%llu,\"why\":\"%s\"", (unsigned long long)session->number, why);
    sim_log_end(gateway);
}

void sim_session_detach(sim_connection *conn)
{
    sim_session *session = conn->session;
    if (!session) return;
    conn->session = NULL;
    session->conn = NULL;
    session->away_since_ms = conn->gateway->now_ms;
    if (session->expired) sim_session_end(conn->gateway, session, "expired by command", 1);
}

/* -- the replay buffer ---------------------------------------------------------------- */

static sim_event *sim_event_at(const sim_session *session, uint32_t index)
{
    return &session->events[(session->first + index) % session->cap];
}

static void sim_grow_events(sim_session *session)
{
    uint32_t cap = session->cap ? session->cap * 2 : 64, i;
    sim_event *events = (sim_event *)sim_alloc(cap * sizeof *events);
    for (i = 0; i < session->count; i++) events[i] = *sim_event_at(session, i);
    free(session->events);
    session->events = events;
    session->first = 0;
    session->cap = cap;
}

/* What was not put out yet stays, whatever the limits say. */
static void sim_drop_old_events(const sim_gateway *gateway, sim_session *session)
{
    while (session->count > 1 &&
           (session->count > gateway->config.replay_events ||
            session->kept_bytes > gateway->config.replay_bytes)) {
        sim_event *event = sim_event_at(session, 0);
        if (session->conn && event->seq > session->conn->cursor) return;
        session->lost_seq = event->seq;
        session->kept_bytes -= event->body_len;
        free(event->body);
        session->first = (session->first + 1) % session->cap;
        session->count--;
    }
}

void sim_dispatch(sim_gateway *gateway, sim_session *session, const char *name, const char *body,
                  size_t len, uint64_t only_conn)
{
    sim_event *event;
    size_t name_size = strlen(name) + 1;
    if (session->dead) return;
    if (session->count == session->cap) sim_grow_events(session);
    event = sim_event_at(session, session->count++);
    event->seq = ++session->seq;
    event->only_conn = only_conn;
    event->body = (char *)sim_alloc(len + name_size);       /* one block: body, then name */
    memcpy(event->body, body, len);
    event->name = event->body + len;
    memcpy(event->name, name, name_size);
    event->body_len = len;
    session->kept_bytes += len;
    sim_drop_old_events(gateway, session);
}

/* The first event after the cursor; count: none. */
static uint32_t sim_first_after(const sim_session *session, uint64_t cursor)
{
    uint32_t low = 0, high = session->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (sim_event_at(session, middle)->seq > cursor) high = middle;
        else low = middle + 1;
    }
    return low;
}

static void sim_log_dispatch(sim_connection *conn, const sim_session *session, const sim_event *event)
{
    sim_gateway *gateway = conn->gateway;
    int landmark = strcmp(event->name, "READY") == 0 || strcmp(event->name, "RESUMED") == 0;
    sim_buf *line;
    if (gateway->config.quiet_dispatch && !landmark) return;
    line = sim_log_begin(gateway, conn, "dispatch");
    sim_print(line, ",\"session\":%llu,\"s\":%llu,\"t\":\"%s\",\"bytes\":%lu",
              (unsigned long long)session->number,
              (unsigned long long)event->seq, event->name, (unsigned long)event->body_len);
    sim_log_end(gateway);
}

static void sim_put_event(sim_connection *conn, sim_session *session, const sim_event *event)
{
    int ready = strcmp(event->name, "READY") == 0, resumed = strcmp(event->name, "RESUMED") == 0;
    sim_stats *stats = &conn->gateway->stats;
    conn->cursor = event->seq;
    if (event->only_conn && event->only_conn != conn->id) return;
    if (session->sent_seq < event->seq) session->sent_seq = event->seq;
    stats->dispatched++;
    stats->ready += (uint64_t)ready;
    stats->resumed += (uint64_t)resumed;
    sim_log_dispatch(conn, session, event);
    sim_payload_out(conn, 0, event->name, event->seq, event->body, event->body_len);
    if (ready) sim_happened(conn, "ready");         /* may change everything, so it comes last */
    if (resumed) sim_happened(conn, "resumed");
}

static void sim_generate(sim_gateway *gateway, sim_session *session);

static int sim_may_pump(const sim_connection *conn)
{
    return conn->stage == SIM_STAGE_LIVE && conn->session &&
        (conn->state == SIM_OPEN || conn->state == SIM_FROZEN) &&
           sim_buf_len(&conn->out) < conn->gateway->config.high_water;
}

void sim_pump(sim_connection *conn)
{
    int flood = conn->gateway->config.event_rate < 0;
    while (sim_may_pump(conn)) {
        sim_session *session = conn->session;
        uint32_t index = sim_first_after(session, conn->cursor);
        if (index < session->count) sim_put_event(conn, session, sim_event_at(session, index));
        else if (flood && session->ready) sim_generate(conn->gateway, session);
        else return;
    }
}

/* -- READY and guilds -------------------------------------------------------------------- */

void sim_print_user(sim_buf *out, uint64_t id, uint64_t number)
{
    sim_print(out, "{\"id\":\"%llu\",\"username\":\"user%llu\",\"global_name\":\"J\\u00fcrgen \\\"%llu\\\" \xE2\x98\x83\","
              "\"discriminator\":\"0\",\"avatar\":null,\"public_flags\":0,\"bot\":false}",
              (unsigned long long)id, (unsigned long long)number, (unsigned long long)number);
}

static void sim_print_member_rest(sim_buf *out)
{
    sim_print(out, "\"nick\":null,\"roles\":[],\"joined_at\":\"2024-05-06T07:08:09.101000+00:00\",\"premium_since\":null,"
              "\"deaf\":false,\"mute\":false,\"flags\":0,\"pending\":false,\"communication_disabled_until\":null");
}

void sim_print_member(sim_buf *out, uint64_t guild_id, uint32_t index)
{
    sim_print(out, "{\"user\":");
    sim_print_user(out, sim_member_id(guild_id, index), index);
    sim_print(out, ",");
    sim_print_member_rest(out);
    sim_print(out, "}");
}

static void sim_print_channels(sim_buf *out, uint64_t guild_id)
{
    static const char *const names[] = { "general", "off-topic", "\\u0431\\u043e\\u0442", "voice", "stage" };
    static const int types[] = { 0, 0, 0, 2, 13 };
    uint32_t i;
    for (i = 0; i < 5; i++)
        sim_print(out, "%s{\"id\":\"%llu\",\"type\":%d,\"name\":\"%s\",\"position\":%u,\"permission_overwrites\":[],"
                  "\"nsfw\":false,\"parent_id\":null,\"flags\":0}", i ? "," : "",
              (unsigned long long)sim_channel_id(guild_id, i), types[i], names[i], (unsigned)i);
}

static void sim_print_guild(sim_gateway *gateway, sim_buf *out, uint64_t guild_id)
{
    uint32_t i, members = gateway->config.members < 5 ? gateway->config.members : 5;
    sim_print(out, "{\"id\":\"%llu\",\"name\":\"Guild \\\"%llu\\\" \\/ caf\xC3\xA9\",\"owner_id\":\"%llu\",\"member_count\":%u,"
              "\"large\":%s,\"unavailable\":false,\"joined_at\":\"2024-05-06T07:08:09.101000+00:00\",\"channels\":[",
              (unsigned long long)guild_id, (unsigned long long)(guild_id & 4095u),
              (unsigned long long)sim_member_id(guild_id, 0), (unsigned)gateway->config.members,
              gateway->config.members > 50 ? "true" : "false");
    sim_print_channels(out, guild_id);
    sim_print(out, "],\"roles\":[{\"id\":\"%llu\",\"name\":\"@everyone\",\"permissions\":\"2222085186637376\",\"position\":0}],"
              "\"members\":[", (unsigned long long)guild_id);
    for (i = 0; i < members; i++) {
        if (i) sim_print(out, ",");
        sim_print_member(out, guild_id, i);
    }
    sim_print(out, "],\"threads\":[],\"presences\":[],\"voice_states\":[],\"emojis\":[],\"stickers\":[],"
              "\"stage_instances\":[],\"guild_scheduled_events\":[],\"soundboard_sounds\":[],\"premium_tier\":0");
}

static void sim_dispatch_guild(sim_gateway *gateway, sim_session *session, uint64_t guild_id)
{
    sim_buf *body = &gateway->scratch;
    sim_buf_clear(body);
    sim_print_guild(gateway, body, guild_id);
    sim_print(body, "}");
    sim_dispatch(gateway, session, "GUILD_CREATE", sim_buf_text(body), sim_buf_len(body), 0);
}

void sim_big_guild(sim_gateway *gateway, sim_session *session, size_t bytes)
{
    sim_buf *body = &gateway->scratch;
    uint64_t guild_id = sim_guild_id(0);
    uint32_t i;
    sim_buf_clear(body);
    sim_print_guild(gateway, body, guild_id);
    sim_print(body, ",\"members_more\":[");
    for (i = 0; sim_buf_len(body) + 700 < bytes; i++) {
        if (i) sim_print(body, ",");
        sim_print_member(body, guild_id, i);
    }
    sim_print(body, "],\"filler\":\"");
    while (sim_buf_len(body) + 2 < bytes) sim_buf_append(body, "x", 1);
    sim_print(body, "\"}");
    sim_dispatch(gateway, session, "GUILD_CREATE", sim_buf_text(body), sim_buf_len(body), 0);
}

/* The slashes and the first letter of the id are escaped: both are texts to be unescaped before use. */
static void sim_print_ready(sim_gateway *gateway, const sim_session *session, sim_buf *body)
{
    const char *at;
    uint32_t i, comma = 0;
    sim_print(body, "{\"v\":10,\"user_settings\":{},\"user\":{\"id\":\"%llu\",\"username\":\"simbot\",\"discriminator\":\"0\","
              "\"global_name\":null,\"avatar\":null,\"bot\":true,\"verified\":true,\"mfa_enabled\":true,\"flags\":0,"
              "\"email\":null},\"session_type\":\"normal\",\"session_id\":\"\\u%04x%s\",\"resume_gateway_url\":\"",
              (unsigned long long)SIM_BOT_ID, (unsigned)(uint8_t)session->id[0], session->id + 1);
    for (at = session->resume_url; *at; at++) sim_print(body, *at == '/' ? "\\/" : "%c", *at);
    sim_print(body, "\",\"relationships\":[],\"private_channels\":[],\"presences\":[],\"guilds\":[");
    for (i = 0; i < gateway->config.guilds; i++) {
        if (!sim_guild_on_shard(session, sim_guild_id(i))) continue;
        sim_print(body, "%s{\"unavailable\":true,\"id\":\"%llu\"}", comma ? "," : "",
                  (unsigned long long)sim_guild_id(i));
        comma = 1;
    }
    sim_print(body, "]");
    if (session->has_shard)
        sim_print(body, ",\"shard\":[%u,%u]", (unsigned)session->shard_id, (unsigned)session->shard_count);
    sim_print(body, ",\"application\":{\"id\":\"%llu\",\"flags\":565248},\"_trace\":[\"[\\\"sim\\\",{\\\"micros\\\":0}]\"]}",
              (unsigned long long)SIM_APPLICATION_ID);
}

void sim_begin_session(sim_connection *conn)
{
    sim_gateway *gateway = conn->gateway;
    sim_session *session = conn->session;
    sim_buf *body = &gateway->scratch;
    uint32_t i;
    session->ready = 1;
    session->stream_begin_ms = gateway->now_ms;
    sim_buf_clear(body);
    sim_print_ready(gateway, session, body);
    sim_dispatch(gateway, session, "READY", sim_buf_text(body), sim_buf_len(body), 0);
    for (i = 0; i < gateway->config.guilds && session->intents & SIM_GUILDS; i++)
        if (sim_guild_on_shard(session, sim_guild_id(i)))
            sim_dispatch_guild(gateway, session, sim_guild_id(i));
    sim_pump(conn);
}

/* -- the generated stream: plausible events, each numbered and stamped ------------------------- */

typedef struct sim_scene {          /* one event in the making */
    sim_gateway *gateway;
    sim_session *session;
    sim_buf *body;
    uint64_t guild_id, user_id, number;
} sim_scene;

static const char *const sim_texts[] = {     /* as JSON: escapes and UTF-8 of every length */
    "!ping", "hello there", "line one\\nline two\\ttab", "quote \\\" and backslash \\\\ and \\/ slash",
    "na\xC3\xAFve caf\xC3\xA9", "\xD0\xBF\xD1\x80\xD0\xB8\xD0\xB2\xD0\xB5\xD1\x82",
    "\xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E",
    "\xF0\x9F\x8E\x89 party", "escaped \\ud83d\\ude00 pair", "\\u0000 zero and \\u001f control",
    "{\\\"not\\\":[\\\"json\\\"]}",
    "a \\u00e9 b \\u20ac c", "braces }{ ][ in text", ""
};

static uint64_t sim_pick(sim_scene *scene, uint64_t limit)
{
    return sim_below(&scene->session->random, limit);
}

static void sim_print_text_part(sim_scene *scene, int visible)
{
    uint64_t i, repeat = sim_pick(scene, 20) == 0 ? 1 + sim_pick(scene, 60) : 1;
    const char *text = sim_texts[sim_pick(scene, sizeof sim_texts / sizeof sim_texts[0])];
    sim_print(scene->body, ",\"content\":\"");
    for (i = 0; visible && i < repeat; i++) sim_print(scene->body, "%s%s", i ? " " : "", text);
    sim_print(scene->body, "\"");
}

static void sim_write_message(sim_scene *scene)
{
    sim_session *session = scene->session;
    uint64_t id = sim_fresh_id(scene->gateway, session);
    int direct = session->shard_id == 0 && session->intents & SIM_DIRECT &&
                 (!(session->intents & SIM_MESSAGES) || sim_pick(scene, 10) == 0);
    sim_print(scene->body, "{\"id\":\"%llu\",\"channel_id\":\"%llu\",\"type\":0,\"author\":",
              (unsigned long long)id,
              (unsigned long long)sim_channel_id(scene->guild_id, (uint32_t)sim_pick(scene, 3)));
    sim_print_user(scene->body, scene->user_id, scene->number % 1000);
    sim_print_text_part(scene, direct || session->intents & SIM_CONTENT);
    sim_print(scene->body, ",\"timestamp\":\"2026-01-02T03:04:05.678000+00:00\",\"edited_timestamp\":null,\"tts\":false,"
              "\"mention_everyone\":false,\"mentions\":[],\"mention_roles\":[],\"attachments\":[],\"embeds\":[],"
              "\"components\":[],\"pinned\":false,\"flags\":0,\"nonce\":\"%llu\"", (unsigned long long)id);
    if (direct) return;
    sim_print(scene->body, ",\"guild_id\":\"%llu\",\"member\":{", (unsigned long long)scene->guild_id);
    sim_print_member_rest(scene->body);
    sim_print(scene->body, "}");
}

static void sim_write_message_delete(sim_scene *scene)
{
    sim_print(scene->body, "{\"id\":\"%llu\",\"channel_id\":\"%llu\",\"guild_id\":\"%llu\"",
              (unsigned long long)sim_fresh_id(scene->gateway, scene->session),
              (unsigned long long)sim_channel_id(scene->guild_id, 0), (unsigned long long)scene->guild_id);
}

static void sim_write_typing(sim_scene *scene)
{
    sim_print(scene->body, "{\"channel_id\":\"%llu\",\"guild_id\":\"%llu\",\"user_id\":\"%llu\",\"timestamp\":%llu",
              (unsigned long long)sim_channel_id(scene->guild_id, 0), (unsigned long long)scene->guild_id,
              (unsigned long long)scene->user_id,
              (unsigned long long)(1767323045u + scene->gateway->now_ms / 1000));
}

static void sim_write_presence(sim_scene *scene)
{
    static const char *const words[] = { "online", "idle", "dnd", "offline" };
    sim_print(scene->body, "{\"user\":{\"id\":\"%llu\"},\"guild_id\":\"%llu\",\"status\":\"%s\",\"activities\":[],"
              "\"client_status\":{\"desktop\":\"online\"}", (unsigned long long)scene->user_id,
              (unsigned long long)scene->guild_id, words[sim_pick(scene, 4)]);
}

static void sim_write_voice(sim_scene *scene)
{
    sim_print(scene->body, "{\"guild_id\":\"%llu\",\"user_id\":\"%llu\",\"session_id\":\"voice%llu\",\"deaf\":false,"
              "\"mute\":false,\"self_deaf\":false,\"self_mute\":true,\"self_video\":false,\"suppress\":false,"
              "\"request_to_speak_timestamp\":null,\"channel_id\":", (unsigned long long)scene->guild_id,
              (unsigned long long)scene->user_id, (unsigned long long)scene->number);
    if (sim_pick(scene, 3) == 0) sim_print(scene->body, "null");
    else sim_print(scene->body, "\"%llu\"", (unsigned long long)sim_channel_id(scene->guild_id, 3));
}

static void sim_write_reaction(sim_scene *scene)
{
    sim_print(scene->body, "{\"user_id\":\"%llu\",\"channel_id\":\"%llu\",\"message_id\":\"%llu\",\"guild_id\":\"%llu\","
              "\"emoji\":{\"id\":null,\"name\":\"\xF0\x9F\x91\x8D\"},\"type\":0,\"burst\":false",
              (unsigned long long)scene->user_id, (unsigned long long)sim_channel_id(scene->guild_id, 0),
              (unsigned long long)sim_fresh_id(scene->gateway, scene->session),
              (unsigned long long)scene->guild_id);
}

static void sim_write_member_add(sim_scene *scene)
{
    sim_print(scene->body, "{\"guild_id\":\"%llu\",\"user\":", (unsigned long long)scene->guild_id);
    sim_print_user(scene->body, scene->user_id, scene->number % 1000);
    sim_print(scene->body, ",");
    sim_print_member_rest(scene->body);
}

static void sim_write_channel(sim_scene *scene)
{
    sim_print(scene->body, "{\"id\":\"%llu\",\"guild_id\":\"%llu\",\"type\":0,\"name\":\"topic-%llu\",\"topic\":null,"
              "\"application_id\":null,\"position\":1",
              (unsigned long long)sim_channel_id(scene->guild_id, 1),
              (unsigned long long)scene->guild_id, (unsigned long long)scene->number);
}

static void sim_write_interaction(sim_scene *scene)
{
    sim_print(scene->body, "{\"id\":\"%llu\",\"application_id\":\"%llu\",\"type\":2,\"token\":\"aW50ZXJhY3Rpb24%llu\","
              "\"version\":1,\"guild_id\":\"%llu\",\"data\":{\"id\":\"1\",\"name\":\"ping\",\"type\":1,\"options\":[]}",
              (unsigned long long)sim_fresh_id(scene->gateway, scene->session),
              (unsigned long long)SIM_APPLICATION_ID,
              (unsigned long long)scene->number, (unsigned long long)scene->guild_id);
}

/* name, one of these intents is needed (0: none), weight, writer */
#define SIM_STREAM(X)                                                                   \
    X("MESSAGE_CREATE", SIM_MESSAGES | SIM_DIRECT, 60, sim_write_message)               \
    X("MESSAGE_UPDATE", SIM_MESSAGES | SIM_DIRECT, 4, sim_write_message)                \
    X("MESSAGE_DELETE", SIM_MESSAGES, 3, sim_write_message_delete)                      \
    X("MESSAGE_REACTION_ADD", SIM_REACTIONS, 6, sim_write_reaction)                     \
    X("TYPING_START", SIM_TYPING, 12, sim_write_typing)                                 \
    X("PRESENCE_UPDATE", SIM_PRESENCES, 12, sim_write_presence)                         \
    X("VOICE_STATE_UPDATE", SIM_VOICE, 5, sim_write_voice)                              \
    X("GUILD_MEMBER_ADD", SIM_MEMBERS, 2, sim_write_member_add)                         \
    X("CHANNEL_UPDATE", SIM_GUILDS, 1, sim_write_channel)                               \
    X("INTERACTION_CREATE", 0, 1, sim_write_interaction)

typedef struct sim_kind {
    const char *name;
    uint32_t intents, weight;
    void (*write)(sim_scene *);
} sim_kind;

static const sim_kind sim_kinds[] = {
#define SIM_ROW(name, intents, weight, write) { name, intents, weight, write },
    SIM_STREAM(SIM_ROW)
#undef SIM_ROW
};
#define SIM_KINDS (sizeof sim_kinds / sizeof sim_kinds[0])

static int sim_kind_allowed(const sim_session *session, const sim_kind *kind)
{
    uint32_t intents = kind->intents;
    if (session->shard_id != 0) intents &= ~(uint32_t)SIM_DIRECT;   /* direct messages go to shard 0 */
    return !kind->intents || (intents & session->intents);
}

static const sim_kind *sim_choose_kind(sim_session *session)
{
    uint64_t sum = 0, mark;
    size_t i;
    for (i = 0; i < SIM_KINDS; i++)
        if (sim_kind_allowed(session, &sim_kinds[i])) sum += sim_kinds[i].weight;
    mark = sim_below(&session->random, sum);
    for (i = 0; i + 1 < SIM_KINDS; i++) {
        if (!sim_kind_allowed(session, &sim_kinds[i])) continue;
        if (mark < sim_kinds[i].weight) break;
        mark -= sim_kinds[i].weight;
    }
    return &sim_kinds[i];
}

/* A guild of this shard; where it has none, the first of all. */
static uint64_t sim_choose_guild(const sim_gateway *gateway, sim_session *session)
{
    uint32_t tries, index;
    for (tries = 0; tries < 64 && gateway->config.guilds; tries++) {
        index = (uint32_t)sim_below(&session->random, gateway->config.guilds);
        if (sim_guild_on_shard(session, sim_guild_id(index))) return sim_guild_id(index);
    }
    return sim_guild_id(0);
}

static void sim_generate(sim_gateway *gateway, sim_session *session)
{
    const sim_kind *kind = sim_choose_kind(session);
    sim_scene scene;
    scene.gateway = gateway;
    scene.session = session;
    scene.body = &gateway->scratch;
    scene.guild_id = sim_choose_guild(gateway, session);
    scene.user_id = sim_member_id(scene.guild_id,
                                  (uint32_t)sim_below(&session->random, gateway->config.members));
    scene.number = ++session->event_number;
    sim_buf_clear(scene.body);
    kind->write(&scene);
    sim_print(scene.body, ",\"sim\":{\"n\":%llu,\"sent_us\":%llu}}", (unsigned long long)scene.number,
              (unsigned long long)sim_now_us(gateway));
    sim_dispatch(gateway, session, kind->name, sim_buf_text(scene.body), sim_buf_len(scene.body), 0);
}

/* A client that does not read is dropped before it costs all memory. */
static int sim_too_slow(const sim_gateway *gateway, const sim_session *session)
{
    return session->conn && session->count > gateway->config.replay_events &&
           session->count - sim_first_after(session, session->conn->cursor) > gateway->config.replay_events;
}

void sim_stream(sim_gateway *gateway, sim_session *session)
{
    double rate = gateway->config.event_rate;
    uint64_t due;
    if (session->dead || !session->ready || rate <= 0) return;
    due = (uint64_t)((double)(gateway->now_ms - session->stream_begin_ms) * rate / 1000.0 + 1e-6);
    for (; session->stream_count < due; session->stream_count++) sim_generate(gateway, session);
    if (!sim_too_slow(gateway, session)) return;
    sim_violation(session->conn, "slow_client", "more events wait for it than are kept");
    sim_end(session->conn, SIM_WANTS_CUT);
}

uint64_t sim_stream_next_ms(const sim_gateway *gateway, const sim_session *session)
{
    double rate = gateway->config.event_rate, exact;
    uint64_t whole;
    if (session->dead || !session->ready || rate <= 0) return SIM_NEVER;
    exact = (double)(session->stream_count + 1) * 1000.0 / rate;
    whole = (uint64_t)exact;
    return session->stream_begin_ms + whole + ((double)whole < exact - 1e-6 ? 1 : 0);
}
