/* sim_commands.c -- answers to opcodes 3 (presence), 4 (voice), 8 (members), 31 (soundboard), 43 (channel info). */
#include "sim_internal.h"
#include <stdlib.h>
#include <string.h>

#define SIM_MEMBERS_INTENT 2u
#define SIM_PRESENCES_INTENT 256u
#define SIM_CHUNK 1000u             /* Discord docs, "Guild Members Chunk": up to 1000 members each */
#define SIM_FEW 100u                /* by prefix or by ids: at most 100 */
#define SIM_WHOLE_LIST_MS 30000u

static void sim_bad_body(sim_connection *conn, const char *words)
{
    sim_refuse(conn, 4001, "bad_body", words);
}

/* 1: a guild of this bot and this shard.  Discord says nothing to a guild it does not find. */
static int sim_our_guild(sim_connection *conn, sim_slice value, uint64_t *guild_id)
{
    sim_session *session = conn->session;
    if (!sim_json_id(value, guild_id)) {
        sim_bad_body(conn, "guild_id is not a snowflake in quotes");
        return 0;
    }
    if (!session) return 0;
    if (!sim_guild_known(conn->gateway, *guild_id)) {
        sim_violation(conn, "unknown_guild", "%llu is no guild of the bot", (unsigned long long)*guild_id);
        return 0;
    }
    if (!sim_guild_on_shard(session, *guild_id)) {
        sim_violation(conn, "wrong_shard", "%llu is not on shard %u of %u", (unsigned long long)*guild_id,
                      (unsigned)session->shard_id, (unsigned)session->shard_count);
        return 0;
    }
    return 1;
}

static void sim_reply(sim_connection *conn, const char *name, sim_buf *body)
{
    if (conn->session)
        sim_dispatch(conn->gateway, conn->session, name, sim_buf_text(body), sim_buf_len(body), 0);
}

static sim_buf *sim_body(sim_connection *conn)
{
    sim_buf_clear(&conn->gateway->scratch);
    return &conn->gateway->scratch;
}

/* -- presence ------------------------------------------------------------------ */

static const char *sim_activity_fault(sim_slice activity)
{
    size_t at = 0;
    sim_slice key, value;
    uint64_t type;
    if (!sim_json_is_object(activity)) return "an activity is not an object";
    if (!sim_json_is_text(sim_json_get(activity, "name"))) return "an activity has no name";
    if (!sim_json_u64(sim_json_get(activity, "type"), &type) || type > 5)
        return "an activity's type is not within 0 and 5";
    while (sim_json_member(activity, &at, &key, &value)) {
        int known = (key.len == 4 && (!memcmp(key.ptr, "name", 4) || !memcmp(key.ptr, "type", 4))) ||
                    (key.len == 3 && !memcmp(key.ptr, "url", 3)) ||
                    (key.len == 5 && !memcmp(key.ptr, "state", 5));
        if (!known) return "bots may set only name, type, url and state of an activity";
    }
    return NULL;
}

const char *sim_presence_fault(sim_slice body)
{
    static const char *const words[] = { "online", "dnd", "idle", "invisible", "offline" };
    sim_slice since = sim_json_get(body, "since"), activities = sim_json_get(body, "activities"), activity;
    uint64_t number;
    size_t at = 0, i;
    if (!sim_json_is_object(body)) return "presence is not an object";
    if (!sim_json_is_null(since) && !sim_json_u64(since, &number))
        return "presence: since is not an integer or null";
    if (!sim_json_is_array(activities)) return "presence: activities is not an array";
    if (!sim_json_is_bool(sim_json_get(body, "afk"))) return "presence: afk is not a boolean";
    for (i = 0; i < 5 && !sim_json_same(sim_json_get(body, "status"), words[i]); i++) { }
    if (i == 5) return "presence: unknown status";
    while (sim_json_each(activities, &at, &activity)) {
        const char *fault = sim_activity_fault(activity);
        if (fault) return fault;
    }
    return NULL;
}

void sim_on_presence(sim_connection *conn, sim_slice body)
{
    const char *fault = sim_presence_fault(body);
    if (fault) { sim_bad_body(conn, fault); return; }
    if (sim_marks_push(&conn->presences, conn->gateway->now_ms, 20000, 5)) return;
    if (conn->gateway->config.strict_presence)
        sim_refuse(conn, 4008, "presence_rate", "more than 5 presences in 20 s");
    else sim_violation(conn, "presence_rate", "more than 5 presences in 20 s");
}

/* -- voice ----------------------------------------------------------------------- */

static void sim_print_own_voice(sim_buf *out, uint64_t guild_id, sim_slice channel)
{
    sim_print(out, "{\"guild_id\":\"%llu\",\"user_id\":\"1098765432109876543\",\"session_id\":\"5a1d0c0ffee%llu\","
              "\"deaf\":false,\"mute\":false,\"self_deaf\":false,\"self_mute\":false,\"self_video\":false,"
              "\"suppress\":false,\"request_to_speak_timestamp\":null,\"channel_id\":%.*s}",
              (unsigned long long)guild_id, (unsigned long long)(guild_id & 4095u), (int)channel.len,
              channel.ptr);
}

void sim_on_voice_state(sim_connection *conn, sim_slice body)
{
    sim_slice channel = sim_json_get(body, "channel_id");
    uint64_t guild_id, channel_id;
    sim_buf *out;
    if (!sim_json_is_null(channel) && !sim_json_id(channel, &channel_id)) {
        sim_bad_body(conn, "channel_id is to be a snowflake in quotes, or null to leave");
        return;
    }
    if (!sim_json_is_bool(sim_json_get(body, "self_mute")) ||
        !sim_json_is_bool(sim_json_get(body, "self_deaf"))) {
        sim_bad_body(conn, "self_mute and self_deaf are to be booleans");
        return;
    }
    if (!sim_our_guild(conn, sim_json_get(body, "guild_id"), &guild_id)) return;
    out = sim_body(conn);
    sim_print_own_voice(out, guild_id, channel);
    sim_reply(conn, "VOICE_STATE_UPDATE", out);
    if (sim_json_is_null(channel)) return;
    out = sim_body(conn);
    sim_print(out, "{\"token\":\"voice-token-%llu\",\"guild_id\":\"%llu\",\"endpoint\":\"sim-voice.discord.media:2048\"}",
              (unsigned long long)sim_random(&conn->random), (unsigned long long)guild_id);
    sim_reply(conn, "VOICE_SERVER_UPDATE", out);
}

/* -- members ------------------------------------------------------------------------ */

typedef struct sim_wanted {         /* what one op 8 asks for */
    uint64_t guild_id;
    uint32_t *index;                /* members found */
    uint32_t count;
    int presences;
    char *nonce;
    sim_buf not_found;              /* JSON values with commas between */
} sim_wanted;

static void sim_print_chunk(sim_connection *conn, const sim_wanted *wanted, uint32_t chunk, uint32_t chunks)
{
    sim_buf *out = sim_body(conn);
    uint32_t begin = chunk * SIM_CHUNK, end = begin + SIM_CHUNK, i;
    if (end > wanted->count) end = wanted->count;
    sim_print(out, "{\"guild_id\":\"%llu\",\"members\":[", (unsigned long long)wanted->guild_id);
    for (i = begin; i < end; i++) {
        if (i > begin) sim_print(out, ",");
        sim_print_member(out, wanted->guild_id, wanted->index[i]);
    }
    sim_print(out, "],\"chunk_index\":%u,\"chunk_count\":%u", (unsigned)chunk, (unsigned)chunks);
    if (wanted->not_found.end && chunk == 0)
        sim_print(out, ",\"not_found\":[%.*s]", (int)sim_buf_len(&wanted->not_found),
                  (const char *)wanted->not_found.bytes);
    if (wanted->presences) sim_print(out, ",\"presences\":[]");
    if (wanted->nonce) {
        sim_print(out, ",\"nonce\":");
        sim_print_json(out, wanted->nonce, strlen(wanted->nonce));
    }
    sim_print(out, "}");
    sim_reply(conn, "GUILD_MEMBERS_CHUNK", out);
}

/* 1: a request of the whole list is allowed now; else RATE_LIMITED is the answer. */
static int sim_whole_list_allowed(sim_connection *conn, const sim_wanted *wanted)
{
    sim_gateway *gateway = conn->gateway;
    sim_asked *asked = gateway->asked;
    sim_buf *out;
    while (asked && asked->guild_id != wanted->guild_id) asked = asked->next;
    if (!asked) {
        asked = (sim_asked *)sim_alloc(sizeof *asked);
        asked->guild_id = wanted->guild_id;
        asked->next = gateway->asked;
        gateway->asked = asked;
    } else if (gateway->now_ms - asked->at_ms < SIM_WHOLE_LIST_MS) {
        out = sim_body(conn);
        sim_print(out, "{\"opcode\":8,\"retry_after\":%.3f,\"meta\":{\"guild_id\":\"%llu\"",
                  (double)(asked->at_ms + SIM_WHOLE_LIST_MS - gateway->now_ms) / 1000.0,
                  (unsigned long long)wanted->guild_id);
        if (wanted->nonce) {
            sim_print(out, ",\"nonce\":");
            sim_print_json(out, wanted->nonce, strlen(wanted->nonce));
        }
        sim_print(out, "}}");
        sim_reply(conn, "RATE_LIMITED", out);
        return 0;
    }
    asked->at_ms = gateway->now_ms;
    return 1;
}

static int sim_name_matches(uint32_t index, const char *prefix)
{
    sim_buf name;
    int same;
    memset(&name, 0, sizeof name);
    sim_print(&name, "user%u", (unsigned)index);
    same = strncmp(sim_buf_text(&name), prefix, strlen(prefix)) == 0;
    sim_buf_free(&name);
    return same;
}

static void sim_find_by_prefix(const sim_gateway *gateway, sim_wanted *wanted, const char *prefix,
                               uint64_t limit)
{
    uint32_t i;
    for (i = 0; i < gateway->config.members && wanted->count < limit; i++)
        if (sim_name_matches(i, prefix)) wanted->index[wanted->count++] = i;
}

static void sim_find_id(const sim_gateway *gateway, sim_wanted *wanted, sim_slice value)
{
    uint64_t id = 0, first = sim_member_id(wanted->guild_id, 0);
    int good = sim_json_id(value, &id);
    if (good && id >= first && (id - first) % ((uint64_t)1 << 22) == 0 &&
        (id - first) >> 22 < gateway->config.members) {
        wanted->index[wanted->count++] = (uint32_t)((id - first) >> 22);
        return;
    }
    if (sim_buf_len(&wanted->not_found)) sim_print(&wanted->not_found, ",");
    /* a short one comes back as a number */
    if (good && id < 1000000) sim_print(&wanted->not_found, "%llu", (unsigned long long)id);
    else sim_buf_append(&wanted->not_found, value.ptr, value.len);
}

static void sim_find_by_ids(const sim_gateway *gateway, sim_wanted *wanted, sim_slice ids)
{
    sim_slice value;
    size_t at = 0;
    if (sim_json_is_text(ids)) sim_find_id(gateway, wanted, ids);
    while (wanted->count < SIM_FEW && sim_json_each(ids, &at, &value)) sim_find_id(gateway, wanted, value);
}

static void sim_send_chunks(sim_connection *conn, const sim_wanted *wanted)
{
    uint32_t chunks = wanted->count ? (wanted->count + SIM_CHUNK - 1) / SIM_CHUNK : 1, i;
    for (i = 0; i < chunks; i++) sim_print_chunk(conn, wanted, i, chunks);
}

/* A query: the whole list, or up to 100 by prefix. */
static void sim_members_by_query(sim_connection *conn, sim_wanted *wanted, const char *prefix, uint64_t limit)
{
    int whole = !*prefix && limit == 0;
    if (whole && !(conn->session->intents & SIM_MEMBERS_INTENT)) {
        sim_violation(conn, "members_intent", "the whole list needs the GUILD_MEMBERS intent");
        return;
    }
    if (whole && !sim_whole_list_allowed(conn, wanted)) return;
    if (!whole && (!limit || limit > SIM_FEW)) limit = SIM_FEW;
    sim_find_by_prefix(conn->gateway, wanted, prefix, whole ? UINT64_MAX : limit);
    sim_send_chunks(conn, wanted);
}

static const char *sim_members_fault(sim_slice body)
{
    sim_slice query = sim_json_get(body, "query"), ids = sim_json_get(body, "user_ids"),
        presences = sim_json_get(body, "presences");
    uint64_t limit;
    if (!query.ptr == !ids.ptr) return "exactly one of query and user_ids is needed";
    if (query.ptr && !sim_json_is_text(query)) return "query is not a string";
    if (query.ptr && !sim_json_u64(sim_json_get(body, "limit"), &limit)) return "limit is missing";
    if (ids.ptr && !sim_json_is_array(ids) && !sim_json_is_text(ids))
        return "user_ids is not a snowflake or an array";
    if (presences.ptr && !sim_json_is_bool(presences)) return "presences is not a boolean";
    return NULL;
}

void sim_on_members(sim_connection *conn, sim_slice body)
{
    const char *fault = sim_members_fault(body);
    sim_wanted wanted;
    uint64_t limit = 0;
    char *query = sim_json_text(sim_json_get(body, "query"));
    memset(&wanted, 0, sizeof wanted);
    if (fault) {
        sim_bad_body(conn, fault);
    } else if (sim_our_guild(conn, sim_json_get(body, "guild_id"), &wanted.guild_id)) {
        wanted.index = (uint32_t *)sim_alloc((conn->gateway->config.members + SIM_FEW) * sizeof *wanted.index);
        wanted.presences = sim_json_get(body, "presences").len == 4 &&
            conn->session->intents & SIM_PRESENCES_INTENT;
        wanted.nonce = sim_json_text(sim_json_get(body, "nonce"));
        if (wanted.nonce && strlen(wanted.nonce) > 32) { free(wanted.nonce); wanted.nonce = NULL; }
        sim_json_u64(sim_json_get(body, "limit"), &limit);
        if (query) {
            sim_members_by_query(conn, &wanted, query, limit);
        } else {
            sim_find_by_ids(conn->gateway, &wanted, sim_json_get(body, "user_ids"));
            sim_send_chunks(conn, &wanted);
        }
    }
    free(query);
    free(wanted.index);
    free(wanted.nonce);
    sim_buf_free(&wanted.not_found);
}

/* -- soundboard and channel info ---------------------------------------------------------- */

void sim_on_soundboard(sim_connection *conn, sim_slice body)
{
    sim_slice ids = sim_json_get(body, "guild_ids"), value;
    uint64_t guild_id;
    size_t at = 0;
    sim_buf *out;
    if (!sim_json_is_array(ids)) { sim_bad_body(conn, "guild_ids is not an array"); return; }
    while (sim_json_each(ids, &at, &value)) {
        if (!sim_our_guild(conn, value, &guild_id)) continue;
        out = sim_body(conn);
        sim_print(out, "{\"soundboard_sounds\":[{\"name\":\"Yay\",\"sound_id\":\"1106714396018884649\",\"volume\":1.0,"
                  "\"emoji_id\":null,\"emoji_name\":\"\xF0\x9F\xA6\x86\",\"guild_id\":\"%llu\",\"available\":true}],"
                  "\"guild_id\":\"%llu\"}", (unsigned long long)guild_id, (unsigned long long)guild_id);
        sim_reply(conn, "SOUNDBOARD_SOUNDS", out);
    }
}

static int sim_asks_for(sim_slice fields, const char *name)
{
    sim_slice value;
    size_t at = 0;
    while (sim_json_each(fields, &at, &value))
        if (sim_json_same(value, name)) return 1;
    return 0;
}

void sim_on_channel_info(sim_connection *conn, sim_slice body)
{
    sim_slice fields = sim_json_get(body, "fields");
    uint64_t guild_id;
    sim_buf *out;
    if (!sim_json_is_array(fields)) { sim_bad_body(conn, "fields is not an array"); return; }
    if (!sim_our_guild(conn, sim_json_get(body, "guild_id"), &guild_id)) return;
    out = sim_body(conn);
    sim_print(out, "{\"guild_id\":\"%llu\",\"channels\":[{\"id\":\"%llu\"", (unsigned long long)guild_id,
              (unsigned long long)(guild_id + 4 * 32));
    if (sim_asks_for(fields, "status")) sim_print(out, ",\"status\":\"playing chess \xE2\x99\x9E\"");
    if (sim_asks_for(fields, "voice_start_time")) sim_print(out, ",\"voice_start_time\":1767323045");
    sim_print(out, "}]}");
    sim_reply(conn, "CHANNEL_INFO", out);
}
