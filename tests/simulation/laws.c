/* laws.c -- the invariants. They look at what the client writes (eyes.c), at what the model says of its rules, and at
 * the state of every shard after each turn. What is exempt says so where it is.
 *   Time: what the client owes is measured in its own monotonic time, which stands still while the machine is suspended;
 *   what the gateway counts is measured in real time. */
#include "simulation.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLACK_US 6000u              /* whole milliseconds, and looks at the clock */
#define BEAT_SLACK_US 16000u        /* ... and a turn of eight shards on a slow machine: beats leave between turns */

const char *law_name(law which)
{
#define LAW(name, text) #name,
    static const char *const names[] = { LAWS(LAW) "" };
#undef LAW
    return names[which];
}

/* Only the first one counts: what follows is a consequence. */
void law_broken(run *r, law which, const char *format, ...)
{
    va_list list;
    char why[sizeof r->why];
    va_start(list, format);
    vsnprintf(why, sizeof why, format, list);
    va_end(list);
    run_note(r, "BROKEN %s: %s", law_name(which), why);
    if (r->broken >= 0) return;
    r->broken = (int)which;
    memcpy(r->why, why, sizeof why);
}

void laws_on_text(run *r, const char *where, const char *text)
{
    if (text && strstr(text, RUN_TOKEN_PART)) law_broken(r, LAW_token, "in %s: %.300s", where, text);
}

/* ---- what the client writes ---- */
static void law_rate(stream *s)
{
    run *r = s->run;
    eyes *e = &s->eyes;
    size_t i, in_window = 1, by_its_clock = 1;
    uint64_t mono_us = run_mono_us(r);
    for (i = e->payload_count; i-- > 0 && e->payload_us[i] + 60 * RUN_SECOND > r->now_us + SLACK_US; ) in_window++;
    if (in_window > 120)
        law_broken(r, LAW_payload_rate, "connection %llu: %u payloads in 60 s", (unsigned long long)s->id,
                   (unsigned)in_window);
    /* the client's clock stands still while the machine sleeps */
    for (i = e->payload_count; i-- > 0 && e->payload_mono_us[i] + 60 * RUN_SECOND > mono_us; ) by_its_clock++;
    s->payloads_full = (s->payloads_full << 1 | (by_its_clock >= 118)) & 3u;    /* now, or at the last one */
    if (e->payload_count == e->payload_cap) {
        e->payload_cap = (e->payload_cap + 64) * 2;
        e->payload_us = (uint64_t *)realloc(e->payload_us, e->payload_cap * sizeof *e->payload_us);
        e->payload_mono_us = (uint64_t *)realloc(e->payload_mono_us, e->payload_cap * sizeof *e->payload_mono_us);
        if (!e->payload_us || !e->payload_mono_us) abort();
    }
    e->payload_mono_us[e->payload_count] = mono_us;
    e->payload_us[e->payload_count++] = r->now_us;
}

static void law_presence(stream *s)
{
    run *r = s->run;
    eyes *e = &s->eyes;
    uint64_t *slot = &e->presence_us[e->presence_count % 5u];
    if (e->presence_count >= 5 && *slot + 20 * RUN_SECOND > r->now_us + SLACK_US)
        law_broken(r, LAW_payload_rate, "connection %llu: six presences in 20 s", (unsigned long long)s->id);
    *slot = r->now_us;
    e->presence_count++;
}

/* Behind TLS a beat is seen where it arrives: not at all, or late, where the wire was disturbed. One for which there was
 * no memory is made up for within a second. */
static int law_sees_beats(const stream *s)
{
    if (s->run->poor_us && run_mono_us(s->run) < s->run->poor_us + 2 * RUN_SECOND + s->run->late_us) return 0;
    return s->hello_us && !s->payloads_full && !s->dead && !(s->tls && (s->disturbed || s->ended));
}

static void law_beat(stream *s)
{
    run *r = s->run;
    uint64_t now_us = run_mono_us(r), gap_us = now_us - s->beat_us;
    s->beats++;
    if (law_sees_beats(s) && gap_us > s->interval_us + r->late_us + BEAT_SLACK_US)
        law_broken(r, LAW_heartbeat_late, "connection %llu: %llu ms after the last one; the interval is %llu ms, the "
                   "caller was %llu ms late", (unsigned long long)s->id, (unsigned long long)(gap_us / 1000u),
                   (unsigned long long)(s->interval_us / 1000u), (unsigned long long)(r->late_us / 1000u));
    s->beat_us = now_us;
}

/* Identify or Resume is written: Hello has just been read. */
static void law_shaken(stream *s)
{
    uint64_t interval_ms = s->conn ? s->conn->interval_ms : s->run->plan.interval_ms;
    if (interval_ms < 1000) interval_ms = 1000;         /* the client's own bounds */
    if (interval_ms > 600000) interval_ms = 600000;
    s->interval_us = interval_ms * 1000u;
    s->hello_us = s->ack_us = s->beat_us = run_mono_us(s->run);
}

/* A session that lives is given up only when the gateway said so, or after three Resumes without an answer. */
static void law_session_kept(run *r, uint32_t shard)
{
    const shard_book *book = &r->books[shard];
    const ledger_session *session = book->session;
    sim_session *model;
    char id[40];
    if (!session || session->dead || r->plan.corrupt || book->resume_count >= 3) return;
    if (session->count && book->told_lost_us >= session->events[0].sent_us) return;
    for (model = r->gateway->sessions; model && model->number != session->number; ) model = model->next;
    if (!model || model->dead || model->expired) return;
    snprintf(id, sizeof id, "%s", model->id);
    law_broken(r, LAW_session_kept, "shard %u identifies, but its session %llu lives; %u Resumes were not answered",
               (unsigned)shard, (unsigned long long)session->number, (unsigned)book->resume_count);
}

static void law_identify(stream *s, const char *text, size_t len)
{
    run *r = s->run;
    sim_slice payload, pair, id;
    uint64_t shard = 0, bucket, *last;
    size_t at = 0, i, today = 1;
    payload.ptr = text;
    payload.len = len;
    pair = sim_json_get(sim_json_get(payload, "d"), "shard");
    if (pair.ptr && sim_json_each(pair, &at, &id)) sim_json_u64(id, &shard);
    s->shard = (int32_t)(shard % RUN_SHARDS_MAX);
    bucket = shard % r->plan.concurrency;
    last = &r->identify_us[bucket];
    if (*last && r->now_us - *last < r->sim.identify_window_ms * 1000u)
        law_broken(r, r->hands[s->shard].begun_us < *last ? LAW_identify_pace : LAW_hand_pace,
                   "shard %llu: %llu ms after the last Identify of its bucket", (unsigned long long)shard,
                   (unsigned long long)((r->now_us - *last) / 1000u));
    if (r->cfg.identify_gate && !r->gate_go[s->shard])
        law_broken(r, LAW_gate, "shard %llu identifies, and was not let in", (unsigned long long)shard);
    r->gate_go[s->shard] = 0;
    s->identify_before_us = *last;
    s->identify_end = s->eyes.offered;
    *last = r->now_us;
    if (r->other) r->other->identify_us[bucket] = r->now_us;
    for (i = r->identify_count; i-- > 0 && r->identifies[i] + 86400 * RUN_SECOND > r->now_us + SLACK_US; ) today++;
    if (today > 1000) law_broken(r, LAW_identify_day, "%u Identifies in a day", (unsigned)today);
    if (r->identify_count == r->identify_cap) {
        r->identify_cap = (r->identify_cap + 64) * 2;
        r->identifies = (uint64_t *)realloc(r->identifies, r->identify_cap * sizeof *r->identifies);
        if (!r->identifies) abort();
    }
    r->identifies[r->identify_count++] = r->now_us;
    r->identify_total++;
    law_session_kept(r, (uint32_t)s->shard);
    r->books[s->shard].identified = 1;
}

/* The wire is cut. An Identify of which it did not take the last byte was none: its permit may be used again. */
void laws_on_cut(stream *s)
{
    run *r = s->run;
    if (!s->identify_end || s->eyes.taken >= s->identify_end || !r->identify_count) return;
    r->identify_us[(uint32_t)s->shard % r->plan.concurrency] = s->identify_before_us;
    if (r->other) r->other->identify_us[(uint32_t)s->shard % r->plan.concurrency] = s->identify_before_us;
    r->identify_count--;
    r->identify_total--;
    s->identify_end = 0;
}

static void law_resume(stream *s, const char *text, size_t len)
{
    run *r = s->run;
    sim_slice payload, id;
    ledger_session *session;
    shard_book *book;
    payload.ptr = text;
    payload.len = len;
    id = sim_json_get(sim_json_get(payload, "d"), "session_id");
    if (id.len < 2) return;
    session = ledger_find(r, id.ptr + 1, id.len - 2);
    if (!session) return;
    s->shard = (int32_t)session->shard;
    book = &r->books[session->shard];
    if (book->resume_count < 16) book->resumes[book->resume_count++] = r->now_us;
}

void laws_on_payload(stream *s, uint32_t op, const char *text, size_t len)
{
    run *r = s->run;
    run_note(r, "client: connection %llu sends op %u, %u bytes", (unsigned long long)s->id, (unsigned)op, (unsigned)len);
    if (len > 4096) law_broken(r, LAW_payload_size, "%u bytes, op %u", (unsigned)len, (unsigned)op);
    law_rate(s);
    if (op == 2 || op == 6) law_shaken(s);
    if (op == 1) law_beat(s);
    else if (op == 2) law_identify(s, text, len);
    else if (op == 6) law_resume(s, text, len);
    else if (!s->ready && !r->plan.corrupt)
        law_broken(r, LAW_payload_time, "op %u on connection %llu before READY or RESUMED", (unsigned)op,
                   (unsigned long long)s->id);
    if (op == 3) law_presence(s);
}

void laws_on_close(stream *s, uint32_t code)
{
    run *r = s->run;
    run_note(r, "client: connection %llu closes with %u", (unsigned long long)s->id, (unsigned)code);
    if ((code == 1000 || code == 1001) && !r->ended_by_caller && !(code == 1000 && s->may_end))
        law_broken(r, LAW_close_code, "connection %llu closes with %u", (unsigned long long)s->id, (unsigned)code);
}

/* ---- the gateway's rules ----
 * Never counted: what the fallback to the cached URL must break (resume_on_wrong_url), a command that crosses an op 9,
 * a client whose caller holds it (slow_client). What the model times by its own clock is counted only where the way to
 * it delays nothing and the caller was never late; the laws above time the same at the client's end, always. Where
 * bytes are damaged without TLS, the model may read anything. */
static const struct { const char *rule; int law; uint32_t by_clock; } rules[] = {
    { "resume_on_wrong_url", -1, 0 }, { "payload_after_op9", -1, 0 }, { "slow_client", -1, 0 },
    { "heartbeat_zero", -1, 0 },        /* the fault seq_zero sent that 0 */
    { "heartbeat_missed", LAW_heartbeat_late, 1 }, { "ignored_op7", LAW_model_rules, 1 },
    { "ignored_op9", LAW_model_rules, 1 }, { "no_close_answer", LAW_model_rules, 1 },
    { "rate_limited", LAW_payload_rate, 1 }, { "presence_rate", LAW_payload_rate, 1 },
    { "identify_too_fast", LAW_identify_pace, 1 }, { "over_budget", LAW_identify_day, 0 },
    { "payload_too_large", LAW_payload_size, 0 }, { "not_identified", LAW_payload_time, 0 },
    { "send_before_ready", LAW_payload_time, 0 }
};

static int law_clock_is_strict(const run *r, const stream *s)
{
    uint64_t now_us = run_mono_us(r);
    if (r->suspended_us && r->now_us < r->suspended_us + 120 * RUN_SECOND) return 0;
    if (r->poor_us && now_us < r->poor_us + 120 * RUN_SECOND) return 0;
    if (r->gw && now_us > r->wanted_us + 500000) return 0;      /* he has not polled yet */
    if (r->held || now_us < r->unheld_us + RUN_SECOND) return 0;        /* nothing is read, by his wish */
    if (s && stream_readable_us(s) <= r->now_us) return 0;      /* he polls, and has not come so far */
    if (s && s->payloads_full) return 0;    /* probes and answers to op 1 have used up the window, a beat too has to wait */
    return r->plan.calm_wire && r->worst_late_us < 500000 && r->plan.tick_us < 100 && !r->forgot && (!s || !s->disturbed);
}

void laws_on_violation(run *r, uint64_t conn, const char *rule, const char *line)
{
    size_t i;
    int which = LAW_model_rules;
    uint32_t by_clock = 0;
    if (r->plan.corrupt) return;
    for (i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (strcmp(rules[i].rule, rule) != 0) continue;
        which = rules[i].law;
        by_clock = rules[i].by_clock;
    }
    if (which < 0 || (by_clock && !law_clock_is_strict(r, wire_of(r, conn)))) return;
    law_broken(r, (law)which, "%s", line);
}

/* ---- after each turn ---- */
static void law_stream(stream *s, int has_work)
{
    run *r = s->run;
    uint64_t now_us = run_mono_us(r), late_us = r->worst_late_us;
    if (s->client_gone || s->is_api || r->stopping) return;
    if (!s->hello_us) {
        uint64_t most_us = (r->plan.tls ? 57 : 37) * RUN_SECOND + 4 * late_us + s->unread_us;
        if (has_work || stream_readable_us(s) <= r->now_us) s->unread_us += now_us - r->last_turn_us;
        if (now_us - s->opened_us > most_us)
            law_broken(r, LAW_wait_ends, "connection %llu: no Hello after %llu s", (unsigned long long)s->id,
                       (unsigned long long)((now_us - s->opened_us) / RUN_SECOND));
        return;
    }
    if (law_sees_beats(s) && now_us - s->beat_us > s->interval_us + BEAT_SLACK_US)
        law_broken(r, LAW_heartbeat_late, "connection %llu: a turn ended, and the beat of %llu ms ago has no successor",
                   (unsigned long long)s->id, (unsigned long long)((now_us - s->beat_us) / 1000u));
    /* What has come and is not read yet may be the ACK: a caller who is slower than the bytes is to blame himself. */
    if (has_work || (stream_readable_us(s) <= r->now_us && !s->dead && !s->ended)) s->ack_us = now_us;
    if (!r->held) {
        uint64_t since_us = s->ack_us > r->unheld_us ? s->ack_us : r->unheld_us;
        if (now_us - since_us > 3 * s->interval_us + 10 * RUN_SECOND + 4 * late_us)
            law_broken(r, LAW_dead_is_left, "connection %llu: no ACK for %llu s", (unsigned long long)s->id,
                       (unsigned long long)((now_us - since_us) / RUN_SECOND));
    }
}

/* States without a connection, and CLOSING. GATED waits for the day's budget or the caller's gate: live_again sees it. */
static void law_state(run *r, uint32_t index)
{
    client_window shard;
    uint64_t now_us = run_mono_us(r), age_us, most_us = RUN_NEVER;
    client_look(r->gw, index, &shard);
    if (shard.state_number != r->state_was[index]) {
        r->state_was[index] = shard.state_number;
        r->state_since_us[index] = now_us;
    }
    age_us = now_us - r->state_since_us[index];
    if (shard.waits) most_us = 62 * RUN_SECOND;
    if (shard.waits && r->server_wait_until_us > r->now_us) most_us = RUN_NEVER;
    if (shard.closing) most_us = 4 * RUN_SECOND + SLACK_US;
    if (most_us != RUN_NEVER && age_us > most_us + 2 * r->worst_late_us)
        law_broken(r, LAW_wait_ends, "shard %d is %s for %llu ms", (int)shard.id, shard.state,
                   (unsigned long long)(age_us / 1000u));
}

void laws_after_turn(run *r)
{
    stream *s;
    uint32_t i;
    int has_work = gw_timeout_ms(r->gw) == 0;   /* the turn's budget has ended it */
    for (s = r->streams; s; s = s->next) law_stream(s, has_work);
    r->last_turn_us = run_mono_us(r);
    if (r->gw) hand_after_turn(r, has_work);
    for (i = 0; r->gw && i < client_shards(r->gw) && i < RUN_SHARDS_MAX; i++) law_state(r, i);
    if (r->live_bytes > r->ceiling_bytes)
        law_broken(r, LAW_memory, "%lu bytes are in use, the ceiling is %lu", (unsigned long)r->live_bytes,
                   (unsigned long)r->ceiling_bytes);
    if (r->bad_sizes) law_broken(r, LAW_memory, "the allocator was told a wrong size");
}
