/* sim_session.c -- opcodes and rules of one connection: Hello, Identify, Resume, heartbeats, limits, closes. */
#include "sim_internal.h"
#include <stdlib.h>
#include <string.h>

#define SIM_ALL_INTENTS 53608447u           /* Discord docs, "List of Intents" */
#define SIM_REPLY_OPS(X) X(3, sim_on_presence) X(4, sim_on_voice_state) X(8, sim_on_members) \
                         X(31, sim_on_soundboard) X(43, sim_on_channel_info)

/* -- out ------------------------------------------------------------------- */

/* One of the four keys of an envelope; absent: a null that is left out. */
static void sim_print_key(sim_buf *out, int key, int *comma, uint32_t op, const char *name, uint64_t seq,
                          const char *body, size_t body_len)
{
    if (*comma) sim_buf_append(out, ",", 1);
    *comma = 1;
    if (key == 0 && name) sim_print(out, "\"t\":\"%s\"", name);
    if (key == 0 && !name) sim_buf_append(out, "\"t\":null", 8);
    if (key == 1 && name) sim_print(out, "\"s\":%llu", (unsigned long long)seq);
    if (key == 1 && !name) sim_buf_append(out, "\"s\":null", 8);
    if (key == 2) sim_print(out, "\"op\":%u", (unsigned)op);
    if (key == 3) {
        sim_buf_append(out, "\"d\":", 4);
        sim_buf_append(out, body, body_len);
    }
}

/* Discord's own order is t, s, op, d; the fault key_order takes any, and leaves nulls out at times. */
void sim_payload_out(sim_connection *conn, uint32_t op, const char *name, uint64_t seq,
                     const char *body, size_t body_len)
{
    int order[4] = { 0, 1, 2, 3 }, comma = 0, i;
    sim_buf *out = &conn->gateway->payload;
    for (i = 3; conn->faults.key_order && i > 0; i--) {
        int other = (int)sim_below(&conn->random, (uint64_t)i + 1), keep = order[i];
        order[i] = order[other];
        order[other] = keep;
    }
    sim_buf_clear(out);
    sim_buf_append(out, "{", 1);
    for (i = 0; i < 4; i++) {
        if (conn->faults.key_order && order[i] < 2 && !name && sim_below(&conn->random, 2)) continue;
        sim_print_key(out, order[i], &comma, op, name, seq, body, body_len);
    }
    sim_buf_append(out, "}", 1);
    sim_ws_send(conn, SIM_TEXT, out->bytes + out->begin, sim_buf_len(out));
}

void sim_refuse(sim_connection *conn, uint16_t code, const char *rule, const char *words)
{
    sim_session *session = conn->session;
    int ends = code == 4003 || code == 4004 || code == 4006 || code == 4007 || code >= 4009;
    if (conn->close_sent) return;
    sim_violation(conn, rule, "%s", words);
    sim_ws_close(conn, code, words);
    if (session && ends && !session->dead) sim_session_end(conn->gateway, session, rule, code == 4009);
}

void sim_send_hello(sim_connection *conn)
{
    sim_buf *body = &conn->gateway->scratch;
    sim_buf_clear(body);
    sim_print(body, "{\"heartbeat_interval\":%llu,\"_trace\":[\"sim\"]}",
              (unsigned long long)conn->interval_ms);
    conn->beat_ms = conn->gateway->now_ms;
    conn->hello_sent = 1;
    sim_payload_out(conn, 10, NULL, 0, sim_buf_text(body), sim_buf_len(body));
    sim_happened(conn, "hello");
}

void sim_greet(sim_connection *conn)
{
    sim_happened(conn, "open");
    if (conn->stage == SIM_STAGE_FRESH && !conn->faults.no_hello) sim_send_hello(conn);
}

void sim_send_ack(sim_connection *conn) { sim_payload_out(conn, 11, NULL, 0, "null", 4); }

void sim_reconnect(sim_connection *conn)
{
    sim_payload_out(conn, 7, NULL, 0, "null", 4);
    sim_deadline(conn, conn->gateway->config.leave_grace_ms, "ignored_op7");
}

void sim_invalidate(sim_connection *conn, int resumable)
{
    sim_session *session = conn->session;
    const char *body = resumable ? "true" : "false";
    sim_payload_out(conn, 9, NULL, 0, body, strlen(body));
    sim_session_detach(conn);
    if (session && !resumable) sim_session_end(conn->gateway, session, "op 9 false", 0);
    if (conn->stage == SIM_STAGE_OVER || conn->stage == SIM_STAGE_CLOSING) return;
    conn->stage = SIM_STAGE_LEAVE;
    sim_deadline(conn, conn->gateway->config.leave_grace_ms, "ignored_op9");
}

/* -- heartbeat ---------------------------------------------------------------- */

static void sim_judge_beat(sim_connection *conn, int is_null, uint64_t seq)
{
    if (is_null && conn->has_beat_seq)
        sim_violation(conn, "heartbeat_null", "null after a number was known");
    if (is_null) return;
    if (conn->has_beat_seq && seq < conn->beat_seq)
        sim_violation(conn, "heartbeat_backwards", "%llu after %llu", (unsigned long long)seq,
                      (unsigned long long)conn->beat_seq);
    if (seq == 0)
        sim_violation(conn, "heartbeat_zero", "0 is no sequence; before the first event it is null");
    if (conn->stage != SIM_STAGE_FRESH && conn->stage != SIM_STAGE_LEAVE && seq > conn->cursor)
        sim_violation(conn, "heartbeat_seq", "%llu, but only %llu was sent", (unsigned long long)seq,
                      (unsigned long long)conn->cursor);
}

static void sim_on_heartbeat(sim_connection *conn, sim_slice body)
{
    sim_gateway *gateway = conn->gateway;
    uint64_t seq = 0, since_ms = gateway->now_ms - conn->beat_ms;
    int is_null = sim_json_is_null(body);
    sim_buf *line;
    if (!is_null && !sim_json_u64(body, &seq)) {
        sim_refuse(conn, 4001, "bad_heartbeat", "a heartbeat's d is a number or null");
        return;
    }
    gateway->stats.heartbeats++;
    line = sim_log_begin(gateway, conn, "heartbeat");
    sim_print(line, ",\"d\":%.*s,\"since_ms\":%llu,\"asked\":%s", (int)body.len, body.ptr,
              (unsigned long long)since_ms,
              conn->beat_asked ? "true" : "false");
    sim_log_end(gateway);
    sim_judge_beat(conn, is_null, seq);
    if (!is_null) { conn->beat_seq = seq; conn->has_beat_seq = 1; }
    conn->beat_ms = gateway->now_ms;
    conn->beat_asked = 0;
    sim_happened(conn, "heartbeat");
    if (conn->faults.no_ack) return;
    if (conn->faults.late_ack_ms)
        sim_later(gateway, conn->id, gateway->now_ms + conn->faults.late_ack_ms, 0, "ack");
    else sim_send_ack(conn);
}

/* -- the answer to Identify and Resume ------------------------------------------ */

static int sim_still_fresh(const sim_connection *conn)
{
    return conn->stage == SIM_STAGE_FRESH && (conn->state == SIM_OPEN || conn->state == SIM_FROZEN);
}

static void sim_answer_resume(sim_connection *conn)
{
    static const char body[] = "{\"_trace\":[\"sim\"]}";
    sim_dispatch(conn->gateway, conn->session, "RESUMED", body, sizeof body - 1, conn->id);
    sim_pump(conn);
}

void sim_answer_held(sim_connection *conn)
{
    if (conn->stage != SIM_STAGE_HELD || !conn->session) return;
    conn->stage = SIM_STAGE_LIVE;
    if (conn->session->ready) sim_answer_resume(conn);
    else sim_begin_session(conn);
}

static void sim_attach(sim_connection *conn, sim_session *session)
{
    session->conn = conn;
    conn->session = session;
    conn->stage = SIM_STAGE_HELD;
    if (conn->faults.no_ready) return;
    if (conn->faults.late_ready_ms)
        sim_later(conn->gateway, conn->id, conn->gateway->now_ms + conn->faults.late_ready_ms, 0, "answer");
    else
        sim_answer_held(conn);
}

/* -- Identify --------------------------------------------------------------------- */

static int sim_token_good(const sim_gateway *gateway, sim_slice token)
{
    char *text = sim_json_text(token);
    int good = text && *text && strncmp(text, "Bot ", 4) != 0 && !gateway->token_was_reset &&
               (!gateway->token || strcmp(text, gateway->token) == 0);
    free(text);
    return good;
}

static int sim_properties_good(sim_slice properties)
{
    static const char *const keys[] = { "os", "browser", "device" };
    size_t i;
    for (i = 0; i < 3; i++)
        if (sim_json_get(properties, keys[i]).len < 3 || !sim_json_is_text(sim_json_get(properties, keys[i])))
            return 0;
    return 1;
}

/* A wrong key goes unnoticed by Discord ("shards" for "shard"), so it is named here. */
static void sim_judge_keys(sim_connection *conn, sim_slice body, const char *known, const char *rule)
{
    size_t at = 0;
    sim_slice key, value;
    while (sim_json_member(body, &at, &key, &value)) {
        char word[40];
        if (key.len + 3 > sizeof word) continue;
        word[0] = word[key.len + 1] = ' ';
        memcpy(word + 1, key.ptr, key.len);
        word[key.len + 2] = 0;
        if (!strstr(known, word)) sim_violation(conn, rule, "unknown key%.*s", (int)key.len + 1, word);
    }
}

static const char *sim_identify_fault(sim_slice body)
{
    sim_slice compress = sim_json_get(body, "compress"), large = sim_json_get(body, "large_threshold");
    sim_slice presence = sim_json_get(body, "presence"), shard = sim_json_get(body, "shard");
    uint64_t number = 50;
    if (!sim_json_is_object(body)) return "d is not an object";
    if (!sim_json_is_text(sim_json_get(body, "token"))) return "token is missing";
    if (!sim_properties_good(sim_json_get(body, "properties")))
        return "properties need os, browser and device";
    if (!sim_json_get(body, "intents").ptr) return "intents is missing";
    if (compress.ptr && !sim_json_is_bool(compress)) return "compress is not a boolean";
    if (large.ptr && !sim_json_u64(large, &number)) return "large_threshold is not an integer";
    if (number < 50 || number > 250) return "large_threshold is not within 50 and 250";
    if (shard.ptr && !sim_json_is_array(shard)) return "shard is not an array";
    if (presence.ptr) return sim_presence_fault(presence);
    return NULL;
}

/* 1: absent or good; numbers go into the session. */
static int sim_read_shard(sim_slice body, sim_session *session)
{
    sim_slice shard = sim_json_get(body, "shard"), id, count, more;
    uint64_t id_number, count_number;
    size_t at = 0;
    session->shard_count = 1;
    if (!shard.ptr) return 1;
    if (!sim_json_each(shard, &at, &id) || !sim_json_each(shard, &at, &count) ||
        sim_json_each(shard, &at, &more))
        return 0;
    if (!sim_json_u64(id, &id_number) || !sim_json_u64(count, &count_number)) return 0;
    if (count_number > 1000000 || id_number >= count_number) return 0;
    session->shard_id = (uint32_t)id_number;
    session->shard_count = (uint32_t)count_number;
    session->has_shard = 1;
    return 1;
}

static void sim_log_identify(sim_connection *conn, sim_slice body)
{
    sim_gateway *gateway = conn->gateway;
    sim_buf *line = sim_log_begin(gateway, conn, "identify");
    sim_slice shard = sim_json_get(body, "shard"), intents = sim_json_get(body, "intents");
    if (shard.ptr) sim_print(line, ",\"shard\":%.*s", (int)shard.len, shard.ptr);
    if (intents.ptr) sim_print(line, ",\"intents\":%.*s", (int)intents.len, intents.ptr);
    sim_print(line, ",\"presence\":%s,\"compress\":%s,\"remaining\":%u",
              sim_json_get(body, "presence").ptr ? "true" : "false",
              sim_json_get(body, "compress").ptr ? "true" : "false",
              (unsigned)gateway->remaining);
    sim_log_end(gateway);
}

/* Fills the session from an Identify, or refuses with the documented code.  1: good. */
static int sim_check_identify(sim_connection *conn, sim_slice body, sim_session *session)
{
    const sim_config *config = &conn->gateway->config;
    const char *fault = sim_identify_fault(body);
    uint64_t intents = 0;
    if (fault) { sim_refuse(conn, 4002, "bad_identify", fault); return 0; }
    sim_judge_keys(conn, body, " token properties intents compress large_threshold shard presence ",
                   "identify_key");
    if (!sim_token_good(conn->gateway, sim_json_get(body, "token"))) {
        sim_refuse(conn, 4004, "wrong_token", "Authentication failed.");
    } else if (!sim_json_u64(sim_json_get(body, "intents"), &intents) ||
               intents & ~(uint64_t)SIM_ALL_INTENTS) {
        sim_refuse(conn, 4013, "invalid_intents", "Invalid intent(s).");
    } else if (intents & config->denied_intents) {
        sim_refuse(conn, 4014, "disallowed_intents", "Disallowed intent(s).");
    } else if (!sim_read_shard(body, session)) {
        sim_refuse(conn, 4010, "invalid_shard", "Invalid shard.");
    } else if (session->shard_count < config->required_shards) {
        sim_refuse(conn, 4011, "sharding_required", "Sharding required.");
    } else {
        session->intents = (uint32_t)intents;
        return 1;
    }
    return 0;
}

void sim_refill_budget(sim_gateway *gateway)
{
    if (gateway->now_ms - gateway->budget_since_ms < gateway->config.reset_after_ms) return;
    gateway->remaining = gateway->config.total;
    gateway->budget_since_ms = gateway->now_ms;
}

/* Discord docs, "Identify": on hitting the limit all sessions are terminated and the token is reset. */
static void sim_reset_token(sim_connection *conn)
{
    sim_gateway *gateway = conn->gateway;
    sim_connection *each;
    sim_session *session;
    sim_violation(conn, "over_budget", "Identify without any left");
    gateway->token_was_reset = 1;
    sim_log_begin(gateway, conn, "token_reset");
    sim_log_end(gateway);
    for (session = gateway->sessions; session; session = session->next)
        if (!session->dead) sim_session_end(gateway, session, "the token was reset", 0);
    for (each = gateway->connections; each; each = each->next)
        sim_ws_close(each, 4004, "Authentication failed.");
}

static int sim_take_budget(sim_connection *conn)
{
    sim_gateway *gateway = conn->gateway;
    sim_refill_budget(gateway);
    if (gateway->remaining == 0) { sim_reset_token(conn); return 0; }
    if (gateway->remaining == gateway->config.total) gateway->budget_since_ms = gateway->now_ms;
    gateway->remaining--;
    return 1;
}

/* Discord docs, "Rate Limit Key": shard_id % max_concurrency, one Identify per 5 seconds. */
static int sim_take_bucket(sim_connection *conn, uint32_t shard_id)
{
    sim_gateway *gateway = conn->gateway;
    uint64_t *bucket = &gateway->bucket_ms[shard_id % gateway->config.max_concurrency];
    uint64_t free_ms = *bucket ? *bucket - 1 + gateway->config.identify_window_ms : 0;
    if (gateway->now_ms < free_ms) {
        sim_violation(conn, "identify_too_fast", "%llu ms too early",
                      (unsigned long long)(free_ms - gateway->now_ms));
        sim_invalidate(conn, 0);
        return 0;
    }
    *bucket = gateway->now_ms + 1;
    return 1;
}

static void sim_start_session(sim_connection *conn, sim_slice body, const sim_session *wanted)
{
    sim_gateway *gateway = conn->gateway;
    sim_session *session = sim_session_new(gateway);
    const char *foreign = conn->faults.resume_url ? conn->faults.resume_url : gateway->foreign_url;
    const char *resume_url = foreign ? foreign : gateway->resume_url;
    session->shard_id = wanted->shard_id;
    session->shard_count = wanted->shard_count;
    session->has_shard = wanted->has_shard;
    session->intents = wanted->intents;
    session->token = sim_json_text(sim_json_get(body, "token"));
    session->query = sim_copy(conn->query, strlen(conn->query));
    session->resume_url = sim_copy(resume_url, strlen(resume_url));
    session->any_url = foreign != NULL;
    if (conn->squeeze == SIM_SQUEEZE_NONE && sim_json_get(body, "compress").len == 4)
        conn->squeeze = SIM_SQUEEZE_PAYLOAD;
    conn->cursor = 0;
    sim_attach(conn, session);
}

static void sim_on_identify(sim_connection *conn, sim_slice body)
{
    sim_session wanted;
    memset(&wanted, 0, sizeof wanted);
    sim_log_identify(conn, body);
    conn->gateway->stats.identifies++;
    if (conn->stage == SIM_STAGE_HELD || conn->stage == SIM_STAGE_LIVE) {
        sim_refuse(conn, 4005, "identify_twice", "Already authenticated.");
        return;
    }
    if (conn->has_beat_seq)
        sim_violation(conn, "stale_heartbeat", "a heartbeat had a seq, and then came Identify");
    conn->has_beat_seq = 0;
    if (!sim_check_identify(conn, body, &wanted) || !sim_take_budget(conn) ||
        !sim_take_bucket(conn, wanted.shard_id))
        return;
    sim_happened(conn, "identify");
    if (sim_still_fresh(conn)) sim_start_session(conn, body, &wanted);
}

/* -- Resume ----------------------------------------------------------------------- */

/* "wss://host:443/path?x" -> host (without a default port) and path are those of this connection? */
static int sim_url_matches(const sim_connection *conn, const char *url)
{
    const char *host = strstr(url, "://");
    size_t len, path_len, have = strlen(conn->host);
    const char *path;
    if (!host) return 0;
    host += 3;
    len = strcspn(host, "/?");
    path = host[len] == '/' ? host + len : "/";
    path_len = strcspn(path, "?");
    if (len > 4 && memcmp(host + len - 4, ":443", 4) == 0) len -= 4;
    if (have > 4 && memcmp(conn->host + have - 4, ":443", 4) == 0) have -= 4;
    return have == len && memcmp(conn->host, host, len) == 0 && strlen(conn->path) == path_len &&
           memcmp(conn->path, path, path_len) == 0;
}

static void sim_log_resume(sim_connection *conn, const sim_session *session, uint64_t seq)
{
    sim_gateway *gateway = conn->gateway;
    sim_buf *line = sim_log_begin(gateway, conn, "resume");
    sim_print(line, ",\"session\":%llu,\"seq\":%llu,\"host\":",
              session ? (unsigned long long)session->number : 0ULL,
              (unsigned long long)seq);
    sim_print_json(line, conn->host, strlen(conn->host));
    sim_print(line, ",\"path\":");
    sim_print_json(line, conn->path, strlen(conn->path));
    sim_log_end(gateway);
}

static void sim_refuse_resume(sim_connection *conn, const char *why)
{
    sim_buf *line = sim_log_begin(conn->gateway, conn, "resume_refused");
    sim_print(line, ",\"why\":\"%s\"", why);
    sim_log_end(conn->gateway);
    sim_invalidate(conn, 0);
}

/* 1: this connection is at the session's own address. */
static int sim_judge_address(sim_connection *conn, const sim_session *session)
{
    int good = 1;
    if (!session->any_url && !sim_url_matches(conn, session->resume_url)) {
        sim_violation(conn, "resume_on_wrong_url", "%s%s is not %s", conn->host, conn->path,
                      session->resume_url);
        good = 0;
    }
    if (strcmp(conn->query, session->query) != 0) {
        sim_violation(conn, "resume_query_differs", "?%s is not ?%s", conn->query, session->query);
        good = 0;
    }
    return good;
}

static void sim_take_over(sim_connection *conn, sim_session *session)
{
    sim_connection *old = session->conn;
    sim_buf *line;
    if (!old) return;
    line = sim_log_begin(conn->gateway, conn, "takeover");
    sim_print(line, ",\"from\":%llu", (unsigned long long)old->id);
    sim_log_end(conn->gateway);
    sim_end(old, SIM_WANTS_CUT);
}

static void sim_resume_session(sim_connection *conn, sim_session *session, uint64_t seq)
{
    const sim_config *config = &conn->gateway->config;
    if (!session || (session->dead && !session->expired)) {
        sim_refuse_resume(conn, session ? "the session has ended" : "no such session");
    } else if (session->expired && config->expired_4009) {
        sim_ws_close(conn, 4009, "Session timed out.");
    } else if (session->dead) {
        sim_refuse_resume(conn, "the session has expired");
    } else if (seq > session->sent_seq) {
        sim_session_end(conn->gateway, session, "invalid seq", 0);
        sim_refuse(conn, 4007, "invalid_seq", "Invalid seq.");
    } else if (seq < session->lost_seq) {
        sim_session_end(conn->gateway, session, "replay buffer overflow", 0);
        sim_refuse_resume(conn, "the replay buffer does not reach back that far");
    } else if (!sim_judge_address(conn, session) && config->strict_resume_url) {
        sim_session_end(conn->gateway, session, "resumed at a wrong address", 0);
        sim_refuse_resume(conn, "the address is not that of the session");
    } else {
        sim_take_over(conn, session);
        conn->cursor = conn->beat_seq = seq;
        conn->has_beat_seq = 1;
        sim_attach(conn, session);
    }
}

static void sim_on_resume(sim_connection *conn, sim_slice body)
{
    char *id = sim_json_text(sim_json_get(body, "session_id"));
    sim_slice token = sim_json_get(body, "token");
    sim_session *session = id ? sim_session_find(conn->gateway, id) : NULL;
    uint64_t seq = 0;
    int good = id && sim_json_is_text(token) && sim_json_u64(sim_json_get(body, "seq"), &seq);
    free(id);
    conn->gateway->stats.resumes++;
    sim_log_resume(conn, session, seq);
    sim_judge_keys(conn, body, " token session_id seq ", "resume_key");
    if (conn->stage == SIM_STAGE_HELD || conn->stage == SIM_STAGE_LIVE) {
        sim_refuse(conn, 4005, "resume_twice", "Already authenticated.");
    } else if (!good) {
        sim_refuse(conn, 4001, "bad_resume", "Resume needs token, session_id and a number seq");
    } else if (!sim_token_good(conn->gateway, token) || (session && !sim_json_same(token, session->token))) {
        sim_refuse(conn, 4004, "wrong_token", "Authentication failed.");
    } else {
        sim_happened(conn, "resume");
        if (sim_still_fresh(conn)) sim_resume_session(conn, session, seq);
    }
}

/* -- in -------------------------------------------------------------------------- */

static void sim_log_send(sim_connection *conn, uint64_t op, sim_slice body)
{
    sim_gateway *gateway = conn->gateway;
    sim_buf *line = sim_log_begin(gateway, conn, "send");
    size_t i;
    sim_print(line, ",\"op\":%llu,\"d\":", (unsigned long long)op);
    /* white space between tokens may hold line ends; inside strings it cannot */
    for (i = 0; i < body.len; i++)
        sim_buf_append(line, (uint8_t)body.ptr[i] < 0x20 ? " " : &body.ptr[i], 1);
    if (!body.len) sim_buf_append(line, "null", 4);
    sim_log_end(gateway);
}

/* An opcode that only an identified client may send. */
static void sim_on_command(sim_connection *conn, uint64_t op, sim_slice body)
{
    sim_log_send(conn, op, body);
    if (conn->stage == SIM_STAGE_HELD)
        sim_violation(conn, "send_before_ready", "opcode %u before READY or RESUMED", (unsigned)op);
    switch (op) {
#define SIM_CASE(number, handler) case number: handler(conn, body); break;
    SIM_REPLY_OPS(SIM_CASE)
#undef SIM_CASE
    default: break;
    }
    sim_pump(conn);
}

static int sim_is_command(uint64_t op)
{
#define SIM_OR(number, handler) || op == number
    return 0 SIM_REPLY_OPS(SIM_OR);
#undef SIM_OR
}

static void sim_on_op(sim_connection *conn, uint64_t op, sim_slice body)
{
    int known = op == 1 || op == 2 || op == 6 || sim_is_command(op);
    if (!known)
        sim_refuse(conn, 4001, "unknown_opcode", "Unknown opcode.");
    else if (op == 1)
        sim_on_heartbeat(conn, body);
    else if (conn->stage == SIM_STAGE_LEAVE)
        sim_refuse(conn, 4003, "payload_after_op9", "Not authenticated.");
    else if (op == 2)
        sim_on_identify(conn, body);
    else if (op == 6)
        sim_on_resume(conn, body);
    else if (conn->stage == SIM_STAGE_FRESH)
        sim_refuse(conn, 4003, "not_identified", "Not authenticated.");
    else
        sim_on_command(conn, op, body);
}

void sim_payload_in(sim_connection *conn, const char *text, size_t len)
{
    const sim_config *config = &conn->gateway->config;
    sim_slice payload;
    uint64_t op;
    payload.ptr = text;
    payload.len = len;
    conn->gateway->stats.payloads++;
    if (!sim_marks_push(&conn->payloads, conn->gateway->now_ms, config->payload_window_ms,
                        config->payloads_per_minute)) {
        sim_refuse(conn, 4008, "rate_limited", "Rate limited.");
        return;
    }
    while (payload.len && strchr(" \t\r\n", *payload.ptr) && *payload.ptr) { payload.ptr++; payload.len--; }
    if (!sim_json_valid(text, len) || !sim_json_is_object(payload)) {
        sim_refuse(conn, 4002, "invalid_json", "Error while decoding payload.");
    } else if (!sim_json_u64(sim_json_get(payload, "op"), &op)) {
        sim_refuse(conn, 4001, "unknown_opcode", "op is missing or no number");
    } else {
        sim_judge_keys(conn, payload, " op d s t ", "envelope_key");
        sim_on_op(conn, op, sim_json_get(payload, "d"));
    }
}

void sim_client_closed(sim_connection *conn, uint32_t code)
{
    sim_session *session = conn->session;
    sim_session_detach(conn);
    if (session && (code == 1000 || code == 1001))
        sim_session_end(conn->gateway, session, "the client closed with 1000 or 1001", 0);
}
