/* gateway_sim.c -- life of the gateway and of its connections, time, and the log. */
#include "sim_internal.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- log ------------------------------------------------------------------------ */

sim_buf *sim_log_begin(sim_gateway *gateway, const sim_connection *conn, const char *ev)
{
    sim_buf *line = &gateway->line;
    sim_buf_clear(line);
    sim_print(line, "{\"ev\":\"%s\",\"ts_ms\":%llu", ev, (unsigned long long)gateway->now_ms);
    if (conn) sim_print(line, ",\"conn\":%llu", (unsigned long long)conn->id);
    return line;
}

void sim_log_end(sim_gateway *gateway)
{
    if (!gateway->config.log) return;
    sim_print(&gateway->line, "}");
    gateway->config.log(gateway->config.user, sim_buf_text(&gateway->line));
}

void sim_violation(sim_connection *conn, const char *rule, const char *format, ...)
{
    sim_gateway *gateway = conn->gateway;
    char words[256];
    va_list list;
    sim_buf *line;
    va_start(list, format);
    vsnprintf(words, sizeof words, format, list);
    va_end(list);
    gateway->stats.violations++;
    line = sim_log_begin(gateway, conn, "violation");
    sim_print(line, ",\"rule\":\"%s\",\"why\":", rule);
    sim_print_json(line, words, strlen(words));
    sim_log_end(gateway);
}

uint64_t sim_now_us(sim_gateway *gateway)
{
    return gateway->config.now_us ? gateway->config.now_us(gateway->config.user) : gateway->now_ms * 1000;
}

/* -- gateway ---------------------------------------------------------------------- */

void sim_config_init(sim_config *config)
{
    memset(config, 0, sizeof *config);
    config->seed = 1;
    config->url = "wss://gateway.sim";
    config->interval_ms = 41250;
    config->heartbeat_grace_ms = 5000;
    config->guilds = 3;
    config->members = 1500;
    config->session_ttl_ms = 180000;
    config->replay_events = 100000;
    config->replay_bytes = 64u * 1024u * 1024u;
    config->shards = config->required_shards = config->max_concurrency = 1;
    config->identify_window_ms = 5000;
    config->total = config->remaining = 1000;
    config->reset_after_ms = 86400000;
    config->payloads_per_minute = 120;
    config->payload_window_ms = 60000;
    config->leave_grace_ms = 10000;
    config->close_linger_ms = 3000;
    config->high_water = 256u * 1024u;
}

sim_gateway *sim_new(const sim_config *config, uint64_t now_ms)
{
    sim_gateway *gateway = (sim_gateway *)sim_alloc(sizeof *gateway);
    size_t url_len = strlen(config->url);
    gateway->config = *config;
    if (!gateway->config.max_concurrency) gateway->config.max_concurrency = 1;
    gateway->now_ms = gateway->budget_since_ms = now_ms;
    gateway->random = config->seed;
    gateway->remaining = config->remaining;
    gateway->url = sim_copy(config->url, url_len);
    if (config->token) gateway->token = sim_copy(config->token, strlen(config->token));
    if (config->resume_url) {
        gateway->resume_url = sim_copy(config->resume_url, strlen(config->resume_url));
    } else {
        gateway->resume_url = (char *)sim_alloc(url_len + 8);
        memcpy(gateway->resume_url, config->url, url_len);
        if (url_len && gateway->resume_url[url_len - 1] == '/') url_len--;
        memcpy(gateway->resume_url + url_len, "/resume", 8);
    }
    gateway->bucket_ms = (uint64_t *)sim_alloc(gateway->config.max_concurrency * sizeof *gateway->bucket_ms);
    return gateway;
}

static void sim_free_connection(sim_connection *conn)
{
    sim_buf_free(&conn->in);
    sim_buf_free(&conn->out);
    sim_buf_free(&conn->message);
    sim_faults_clear(&conn->faults);
    free(conn->path);
    free(conn->query);
    free(conn->host);
    free(conn->payloads.at_ms);
    free(conn->presences.at_ms);
    free(conn);
}

static void sim_free_lists(sim_gateway *gateway)
{
    while (gateway->timers) {
        sim_timer *timer = gateway->timers;
        gateway->timers = timer->next;
        free(timer->text);
        free(timer);
    }
    while (gateway->triggers) {
        sim_trigger *trigger = gateway->triggers;
        gateway->triggers = trigger->next;
        free(trigger->text);
        free(trigger);
    }
    while (gateway->asked) {
        sim_asked *asked = gateway->asked;
        gateway->asked = asked->next;
        free(asked);
    }
}

void sim_free(sim_gateway *gateway)
{
    if (!gateway) return;
    while (gateway->connections) {
        sim_connection *conn = gateway->connections;
        gateway->connections = conn->next;
        sim_free_connection(conn);
    }
    while (gateway->sessions) {
        sim_session *session = gateway->sessions;
        gateway->sessions = session->next;
        sim_session_free(session);
    }
    sim_free_lists(gateway);
    sim_buf_free(&gateway->line);
    sim_buf_free(&gateway->scratch);
    sim_buf_free(&gateway->payload);
    sim_buf_free(&gateway->frame);
    free(gateway->token);
    free(gateway->url);
    free(gateway->resume_url);
    free(gateway->foreign_url);
    free(gateway->bucket_ms);
    free(gateway);
}

const sim_stats *sim_get_stats(const sim_gateway *gateway) { return &gateway->stats; }

/* -- connections --------------------------------------------------------------------- */

sim_connection *sim_accept(sim_gateway *gateway, uint64_t now_ms)
{
    sim_connection *conn = (sim_connection *)sim_alloc(sizeof *conn), **at = &gateway->connections;
    gateway->now_ms = now_ms;
    gateway->stats.connections++;
    conn->gateway = gateway;
    conn->id = ++gateway->connection_count;
    conn->random = sim_random(&gateway->random);
    conn->interval_ms = gateway->config.interval_ms;
    conn->deadline_ms = SIM_NEVER;
    while (*at) at = &(*at)->next;
    *at = conn;
    sim_log_begin(gateway, conn, "accept");
    sim_log_end(gateway);
    sim_happened(conn, "accept");
    return conn;
}

void sim_receive(sim_connection *conn, const uint8_t *bytes, size_t len, uint64_t now_ms)
{
    conn->gateway->now_ms = now_ms;
    sim_buf_append(&conn->in, bytes, len);
    if (conn->state == SIM_OPEN && conn->stage == SIM_STAGE_HTTP && sim_buf_len(&conn->in))
        sim_http_work(conn);
    if (conn->state == SIM_OPEN && conn->stage != SIM_STAGE_HTTP && sim_buf_len(&conn->in)) sim_ws_work(conn);
    if (conn->state != SIM_OPEN && conn->state != SIM_FROZEN) sim_buf_clear(&conn->in);
}

size_t sim_pending(const sim_connection *conn)
{
    if (conn->state == SIM_FROZEN || conn->state == SIM_WANTS_RESET) return 0;
    return sim_buf_len(&conn->out);
}

const uint8_t *sim_output(sim_connection *conn, size_t *len)
{
    *len = sim_pending(conn);
    if (*len > 1 && conn->faults.one_byte) *len = 1;
    return conn->out.bytes ? conn->out.bytes + conn->out.begin : NULL;
}

void sim_output_taken(sim_connection *conn, size_t len)
{
    sim_buf_consume(&conn->out, len);
    if (sim_buf_len(&conn->out) < conn->gateway->config.high_water / 2) sim_pump(conn);
}

sim_state sim_connection_state(const sim_connection *conn) { return conn->state; }
uint64_t sim_connection_id(const sim_connection *conn) { return conn->id; }

sim_connection *sim_next_connection(sim_gateway *gateway, sim_connection *after)
{
    return after ? after->next : gateway->connections;
}

sim_connection *sim_find_connection(sim_gateway *gateway, uint64_t id)
{
    sim_connection *conn = gateway->connections;
    while (conn && conn->id != id) conn = conn->next;
    return conn;
}

void sim_end(sim_connection *conn, sim_state state)
{
    if (conn->state != SIM_OPEN && conn->state != SIM_FROZEN) return;
    sim_session_detach(conn);
    conn->state = state;
    conn->stage = SIM_STAGE_OVER;
    conn->deadline_ms = SIM_NEVER;
}

void sim_deadline(sim_connection *conn, uint64_t after_ms, const char *rule)
{
    conn->deadline_ms = conn->gateway->now_ms + after_ms;
    conn->deadline_rule = rule;
}

void sim_hangup(sim_connection *conn, uint64_t now_ms)
{
    sim_gateway *gateway = conn->gateway;
    sim_connection **at = &gateway->connections;
    sim_buf *line;
    gateway->now_ms = now_ms;
    line = sim_log_begin(gateway, conn, "hangup");
    sim_print(line, ",\"by\":\"%s\"", conn->state == SIM_OPEN || conn->state == SIM_FROZEN ? "client" : "us");
    sim_log_end(gateway);
    sim_session_detach(conn);
    while (*at != conn) at = &(*at)->next;
    *at = conn->next;
    sim_free_connection(conn);
}

/* A window over the last `limit` times, as a ring. */
int sim_marks_push(sim_marks *marks, uint64_t now_ms, uint64_t window_ms, uint32_t limit)
{
    uint64_t *oldest;
    if (!limit) return 1;
    if (!marks->at_ms) {
        marks->at_ms = (uint64_t *)sim_alloc(limit * sizeof *marks->at_ms);
        marks->cap = limit;
    }
    oldest = &marks->at_ms[marks->count % marks->cap];
    if (marks->count >= marks->cap && *oldest + window_ms > now_ms) return 0;
    *oldest = now_ms;
    marks->count++;
    return 1;
}

/* -- time ------------------------------------------------------------------------------ */

/* Discord docs, "Sustaining Connection": half an interval late, and then some for the way. */
static uint64_t sim_beat_deadline_ms(const sim_connection *conn)
{
    if (!conn->hello_sent || conn->state != SIM_OPEN || conn->close_sent) return SIM_NEVER;
    if (conn->stage < SIM_STAGE_FRESH || conn->stage > SIM_STAGE_LEAVE) return SIM_NEVER;
    return conn->beat_ms + conn->interval_ms + conn->interval_ms / 2 + conn->gateway->config.heartbeat_grace_ms;
}

/* A frozen connection is judged after it has thawed. */
static uint64_t sim_deadline_ms(const sim_connection *conn)
{
    return conn->state == SIM_OPEN ? conn->deadline_ms : SIM_NEVER;
}

static void sim_tick_connection(sim_connection *conn)
{
    uint64_t now_ms = conn->gateway->now_ms;
    if (now_ms >= sim_beat_deadline_ms(conn)) sim_refuse(conn, 4000, "heartbeat_missed", "no heartbeat came");
    if (now_ms >= sim_deadline_ms(conn)) {
        conn->deadline_ms = SIM_NEVER;
        sim_violation(conn, conn->deadline_rule, "%s",
                      conn->stage == SIM_STAGE_CLOSING ? "our close frame was not answered" :
                      "the client was told to leave and did not");
        if (conn->stage == SIM_STAGE_CLOSING) sim_end(conn, SIM_WANTS_CLOSE);
        else sim_ws_close(conn, 4000, "told to leave");
    }
    sim_pump(conn);
}

static void sim_tick_session(sim_gateway *gateway, sim_session *session)
{
    if (!session->dead && !session->conn &&
        gateway->now_ms - session->away_since_ms >= gateway->config.session_ttl_ms)
        sim_session_end(gateway, session, "expired", 1);
    sim_stream(gateway, session);
}

void sim_tick(sim_gateway *gateway, uint64_t now_ms)
{
    sim_session *session;
    sim_connection *conn;
    gateway->now_ms = now_ms;
    sim_run_timers(gateway);
    for (session = gateway->sessions; session; session = session->next) sim_tick_session(gateway, session);
    for (conn = gateway->connections; conn; conn = conn->next) sim_tick_connection(conn);
}

static uint64_t sim_earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }

uint64_t sim_next_ms(const sim_gateway *gateway)
{
    uint64_t next = SIM_NEVER;
    const sim_timer *timer;
    const sim_session *session;
    const sim_connection *conn;
    for (timer = gateway->timers; timer; timer = timer->next) next = sim_earlier(next, timer->due_ms);
    for (session = gateway->sessions; session; session = session->next) {
        if (session->dead) continue;
        if (!session->conn) next = sim_earlier(next, session->away_since_ms + gateway->config.session_ttl_ms);
        next = sim_earlier(next, sim_stream_next_ms(gateway, session));
    }
    for (conn = gateway->connections; conn; conn = conn->next) {
        next = sim_earlier(next, sim_beat_deadline_ms(conn));
        next = sim_earlier(next, sim_deadline_ms(conn));
    }
    return next;
}
