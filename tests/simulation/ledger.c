/* ledger.c -- what the model sent, from its log; what of it the caller got; and that nothing lies between. An event
 * may be missing where its sequence number was SKIPPED, where gw_want() had its type off at any time between its first
 * way onto the wire and now, or where it is a RESUMED, which is for one connection alone. */
#include "simulation.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the model's log ---- */
static uint64_t line_number(const char *line, const char *key)
{
    const char *at = strstr(line, key);
    return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

/* The text behind "key":" up to its quote. */
static const char *line_text(const char *line, const char *key, size_t *len)
{
    const char *at = strstr(line, key);
    *len = 0;
    if (!at) return "";
    at += strlen(key);
    *len = strcspn(at, "\"");
    return at;
}

static int line_is(const char *line, const char *ev)
{
    size_t len = strlen(ev);
    return strncmp(line + 7, ev, len) == 0 && line[7 + len] == '"';     /* {"ev":"... */
}

uint32_t dispatch_type(const char *name, size_t len)
{
    uint32_t type;
    for (type = GW_READY; type < GW_DISPATCH_END_; type++)
        if (strlen(gw_name_of(type)) == len && memcmp(gw_name_of(type), name, len) == 0) return type;
    return GW_UNKNOWN_DISPATCH;
}

static ledger_session *ledger_has(const run *r, uint64_t number)
{
    ledger_session *session = r->sessions;
    while (session && session->number != number) session = session->next;
    return session;
}

static ledger_session *ledger_number(run *r, uint64_t number)
{
    ledger_session *session = ledger_has(r, number);
    if (session || !number) return session;
    session = (ledger_session *)calloc(1, sizeof *session);
    if (!session) abort();
    session->number = number;
    session->next = r->sessions;
    r->sessions = session;
    return session;
}

/* The model's ids end with the session's number in hexadecimal. */
ledger_session *ledger_find(run *r, const char *id, size_t len)
{
    char text[17];
    ledger_session *session = r->sessions;
    uint64_t number;
    if (len != 32) return NULL;
    memcpy(text, id + 16, 16);
    text[16] = 0;
    number = strtoull(text, NULL, 16);
    while (session && session->number != number) session = session->next;
    return session;
}

/* The place of the first event with a number above seq. */
static size_t ledger_after(const ledger_session *session, uint64_t seq)
{
    size_t low = 0, high = session->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (session->events[middle].seq > seq) high = middle;
        else low = middle + 1;
    }
    return low;
}

static ledger_event *ledger_event_of(ledger_session *session, uint64_t seq)
{
    size_t at = seq ? ledger_after(session, seq - 1) : 0;
    return seq && at < session->count && session->events[at].seq == seq ? &session->events[at] : NULL;
}

static void ledger_add(run *r, ledger_session *session, uint64_t seq, const char *name, size_t len, uint64_t bytes)
{
    ledger_event *event;
    if (session->count && session->events[session->count - 1].seq >= seq) return;      /* a replay */
    if (session->count == session->cap) {
        session->cap = (session->cap + 32) * 2;
        session->events = (ledger_event *)realloc(session->events, session->cap * sizeof *session->events);
        if (!session->events) abort();
    }
    event = &session->events[session->count++];
    memset(event, 0, sizeof *event);
    event->seq = seq;
    event->sent_us = r->now_us;
    event->type = dispatch_type(name, len);
    event->bytes = (uint32_t)bytes;
    event->resumed = event->type == GW_RESUMED;
}

static void ledger_on_dispatch(run *r, const char *line)
{
    size_t len;
    const char *name = line_text(line, "\"t\":\"", &len);
    ledger_session *session = ledger_number(r, line_number(line, "\"session\":"));
    stream *s = wire_of(r, line_number(line, "\"conn\":"));
    if (!session) return;
    ledger_add(r, session, line_number(line, "\"s\":"), name, len, line_number(line, "\"bytes\":"));
    if (s && s->shard >= 0) session->shard = (uint32_t)s->shard;
    if (s && (strncmp(name, "READY\"", 6) == 0 || strncmp(name, "RESUMED\"", 8) == 0)) s->ready = 1;
}

/* The gateway tells a shard that its session is over, whatever the model thinks of it. Before Identify or Resume nobody
 * knows whose connection it is. */
static void ledger_told_lost(run *r, const stream *s)
{
    uint32_t i;
    for (i = 0; i < RUN_SHARDS_MAX; i++)
        if (!s || s->shard < 0 || s->shard == (int32_t)i) r->books[i].told_lost_us = r->now_us;
}

static void ledger_on_command(run *r, const char *line)
{
    size_t len;
    const char *text = line_text(line, "\"text\":\"", &len);
    stream *s = wire_of(r, line_number(line, "\"conn\":"));
    if (strncmp(text, "ack\"", 4) == 0 && s) s->ack_on_its_way = 1;
    if (strncmp(text, "freeze\"", 7) == 0 && s) s->disturbed = 1;
    if (strncmp(text, "op9 false\"", 10) == 0) ledger_told_lost(r, s);
}

/* protocol.md 3: the codes after which one identifies. */
static void ledger_on_close_sent(run *r, const char *line)
{
    uint64_t code = line_number(line, "\"code\":");
    if (code == 4003 || code == 4006 || code == 4007 || code == 4009)
        ledger_told_lost(r, wire_of(r, line_number(line, "\"conn\":")));
}

static void ledger_on_heartbeat(run *r, const char *line)
{
    stream *s = wire_of(r, line_number(line, "\"conn\":"));
    if (s && s->conn && !s->conn->faults.no_ack && !s->conn->faults.late_ack_ms) s->ack_on_its_way = 1;
}

static void ledger_on_violation(run *r, const char *line)
{
    size_t len;
    char rule[40];
    const char *text = line_text(line, "\"rule\":\"", &len);
    snprintf(rule, sizeof rule, "%.*s", (int)len, text);
    laws_on_violation(r, line_number(line, "\"conn\":"), rule, line);
}

/* Of two clients, whose connection or session it is. */
run *ledger_owner(run *r, const char *line)
{
    uint64_t conn = line_number(line, "\"conn\":"), session = line_number(line, "\"session\":");
    if (!r->other || (conn && wire_of(r, conn))) return r;
    if (conn && wire_of(r->other, conn)) return r->other;
    return session && !ledger_has(r, session) && ledger_has(r->other, session) ? r->other : r;
}

void ledger_on_line(run *r, const char *line)
{
    ledger_session *session;
    run_note(r, "gateway: %s", line);
    if (line_is(line, "dispatch")) ledger_on_dispatch(r, line);
    else if (line_is(line, "heartbeat")) ledger_on_heartbeat(r, line);
    else if (line_is(line, "command")) ledger_on_command(r, line);
    else if (line_is(line, "close_sent")) ledger_on_close_sent(r, line);
    else if (line_is(line, "violation")) ledger_on_violation(r, line);
    else if (line_is(line, "resume")) r->own.resumes++;
    else if (line_is(line, "identify")) r->own.identifies++;
    else if (line_is(line, "session_end")) {
        session = ledger_number(r, line_number(line, "\"session\":"));
        if (session) session->dead = 1;
    }
}

/* ---- what the caller gets ---- */
static int ledger_may_lack(const run *r, const ledger_event *event)
{
    if (event->resumed || event->skipped) return 1;
    if (r->is_off[event->type]) return 1;
    return r->off_us[event->type] && r->off_us[event->type] >= event->sent_us;
}

/* The caller has seq; all before it, behind the last one, must be accounted for. */
static void ledger_advance(run *r, shard_book *book, uint32_t shard, uint64_t seq)
{
    size_t at = ledger_after(book->session, book->last_seq);
    const ledger_session *session = book->session;
    for (; at < session->count && session->events[at].seq < seq; at++)
        if (!ledger_may_lack(r, &session->events[at]))
            law_broken(r, LAW_delivered, "shard %u: %s with s %llu of session %llu was never handed out; now comes s %llu",
                       (unsigned)shard, gw_name_of(session->events[at].type),
                       (unsigned long long)session->events[at].seq, (unsigned long long)session->number,
                       (unsigned long long)seq);
    book->last_seq = seq;
}

static void ledger_begin_session(run *r, shard_book *book, const gw_event *event)
{
    char id[64];
    size_t len = gw_text(&event->d, "session_id", id, sizeof id);
    uint64_t told_lost_us = book->told_lost_us;         /* may have been told before this was taken */
    memset(book, 0, sizeof *book);
    book->told_lost_us = told_lost_us;
    book->session = ledger_find(r, id, len);
    book->number = event->session;
    book->began_us = r->now_us;
    book->last_seq = event->seq ? event->seq - 1 : 0;  /* a gateway that speaks before READY: of no session yet */
    if (!book->session && !r->plan.corrupt)
        law_broken(r, LAW_invented, "READY of a session that the gateway does not know: %s", id);
}

/* Resumes that were written before this one was answered do not count any more. */
static void ledger_on_resumed(run *r, shard_book *book, uint64_t received_ms)
{
    uint64_t received_us = received_ms * 1000u + 999u + r->slept_us;
    uint32_t i, left = 0;
    for (i = 0; i < book->resume_count; i++)
        if (book->resumes[i] > received_us) book->resumes[left++] = book->resumes[i];
    book->resume_count = left;
}

static void ledger_look_at_name(run *r, ledger_session *session, const gw_event *event)
{
    ledger_session **named = &r->named[event->shard % (int32_t)RUN_SHARDS_MAX][event->session % NAMES_MAX];
    if (!*named) *named = session;
    if (*named != session)
        law_broken(r, LAW_named, "shard %d: session %u is the gateway's %llu, and was its %llu", (int)event->shard,
                   (unsigned)event->session, (unsigned long long)session->number, (unsigned long long)(*named)->number);
}

static void ledger_on_dispatched(run *r, const gw_event *event)
{
    shard_book *book = &r->books[event->shard % (int32_t)RUN_SHARDS_MAX];
    ledger_event *sent;
    if (event->type == GW_READY) ledger_begin_session(r, book, event);
    if (book->identified) return;
    if (event->type == GW_RESUMED) ledger_on_resumed(r, book, event->received_ms);
    if (r->plan.corrupt || !book->session || event->seq == 0) return;   /* seq_zero: of no session */
    if (!book->number) book->number = event->session;
    ledger_look_at_name(r, book->session, event);
    if (event->session != book->number) {
        law_broken(r, LAW_invented, "shard %d: %s of session %u, but READY said %u", (int)event->shard, event->name,
                   (unsigned)event->session, (unsigned)book->number);
        return;
    }
    sent = ledger_event_of(book->session, event->seq);
    if (!sent || (sent->type != event->type)) {
        law_broken(r, LAW_invented, "shard %d: %s with s %llu, which the gateway %s", (int)event->shard, event->name,
                   (unsigned long long)event->seq, sent ? "sent by another name" : "never sent");
        return;
    }
    if (event->seq <= book->last_seq)
        law_broken(r, LAW_in_order, "shard %d: %s with s %llu after s %llu", (int)event->shard, event->name,
                   (unsigned long long)event->seq, (unsigned long long)book->last_seq);
    if (r->is_off[event->type] && r->off_since_us[event->type] < sent->sent_us)
        law_broken(r, LAW_filtered, "shard %d: %s with s %llu is not wanted", (int)event->shard, event->name,
                   (unsigned long long)event->seq);
    ledger_advance(r, book, (uint32_t)event->shard, event->seq);
    if (book->session->top_seq < event->seq) book->session->top_seq = event->seq;
    sent->handled = 1;
}

static void ledger_on_skipped(run *r, const gw_event *event)
{
    shard_book *book = &r->books[event->shard % (int32_t)RUN_SHARDS_MAX];
    ledger_event *sent;
    if (!book->session || book->identified || r->plan.corrupt) return;
    sent = ledger_event_of(book->session, event->seq);
    /* of the fault broken_json there was no memory for the rest, so that nobody saw it to be broken */
    if (!sent && r->poor_us && event->seq == 7) return;
    if (!sent) {
        law_broken(r, LAW_invented, "shard %d: SKIPPED %s with s %llu, which was never sent", (int)event->shard,
                   event->name, (unsigned long long)event->seq);
        return;
    }
    if (!r->plan.fixed_memory && !r->plan.memory_limit && sent->bytes <= r->plan.max_payload && r->plan.max_payload)
        law_broken(r, LAW_delivered, "shard %d: s %llu of %u bytes was SKIPPED, max_payload is %u", (int)event->shard,
                   (unsigned long long)event->seq, (unsigned)sent->bytes, (unsigned)r->plan.max_payload);
    sent->skipped = 1;
}

void ledger_on_event(run *r, const gw_event *event)
{
    if (event->type < GW_DISPATCH_END_) ledger_on_dispatched(r, event);
    if (event->type == GW_SKIPPED) ledger_on_skipped(r, event);
}

/* ---- restarts ---- */
void ledger_let_go(run *r)
{
    shard_book *book = &r->books[r->hand_shard];
    if (r->hand_seq && book->session == r->hand_of && book->number == r->hand_session && book->done_seq < r->hand_seq)
        book->done_seq = r->hand_seq;
    r->hand_seq = 0;
}

int ledger_line(const char *text, size_t nth, saved_line *out)
{
    const char *at = text ? strchr(text, '\n') : NULL;
    unsigned long long shard, total, number, seq;
    while (at && strncmp(at + 1, "end ", 4) != 0) {
        if (sscanf(at + 1, "%llu %llu %llu %llu %127s", &shard, &total, &number, &seq, out->id) == 5 && nth-- == 0) {
            out->shard = shard;
            out->total = total;
            out->number = number;
            out->seq = seq;
            return 1;
        }
        at = strchr(at + 1, '\n');
    }
    return 0;
}

static void ledger_take_line(run *r, shard_book *book, const saved_line *line)
{
    book->session = ledger_find(r, line->id, strlen(line->id));
    book->number = (uint32_t)line->number;
    book->last_seq = book->done_seq = book->acked_seq = line->seq;
    book->began_us = r->now_us;
}

void ledger_restart(run *r, int with_text)
{
    saved_line line;
    size_t i;
    memset(r->books, 0, sizeof r->books);
    memset(r->named, 0, sizeof r->named);
    r->hand_seq = 0;
    for (i = 0; with_text && ledger_line(r->text, i, &line); i++)       /* of others the client does not hear */
        if (line.shard < hand_first(r)) ledger_take_line(r, &r->books[line.shard % RUN_SHARDS_MAX], &line);
}

/* Of the shard the client knows what the text says, and no more. But it goes on counting its sessions, those too whose
 * READY was never handed out: the first event tells the number. */
void ledger_start(run *r, uint32_t shard, const char *text)
{
    shard_book *book = &r->books[shard];
    uint64_t told_lost_us = book->told_lost_us;
    saved_line line;
    size_t i;
    memset(book, 0, sizeof *book);
    book->told_lost_us = told_lost_us;
    for (i = 0; ledger_line(text, i, &line); i++) if (line.shard == shard) ledger_take_line(r, book, &line);
    book->number = 0;
}

void ledger_stop(run *r, uint32_t shard, uint32_t how)
{
    if (how == GW_END) r->books[shard].session = NULL;
}

/* What a crash after this save would lose: events up to its number that the caller has not done with. */
void ledger_check_save(run *r)
{
    saved_line line;
    size_t i, at;
    for (i = 0; ledger_line(r->text, i, &line); i++) {
        shard_book *book = &r->books[line.shard % RUN_SHARDS_MAX];
        ledger_session *session = ledger_find(r, line.id, strlen(line.id));
        uint64_t done = r->plan.ack_by_hand ? book->acked_seq : book->done_seq;
        if (!session || session != book->session || r->plan.corrupt) continue;
        if (line.seq < done)
            law_broken(r, LAW_save_is_true, "shard %llu: the text names s %llu, but %llu was taken",
                       (unsigned long long)line.shard, (unsigned long long)line.seq, (unsigned long long)done);
        for (at = ledger_after(session, done); at < session->count && session->events[at].seq <= line.seq; at++) {
            /* One that is too large counts as taken when it has come; its SKIPPED may still wait to be handed out. */
            if (r->plan.memory_limit || (r->plan.max_payload && session->events[at].bytes > r->plan.max_payload / 2)) continue;
            if (!ledger_may_lack(r, &session->events[at]) ||
                (session->events[at].seq == r->hand_seq && line.shard == r->hand_shard))
                law_broken(r, LAW_save_is_true, "shard %llu: the text names s %llu, but s %llu was not taken",
                           (unsigned long long)line.shard, (unsigned long long)line.seq,
                           (unsigned long long)session->events[at].seq);
        }
    }
}

/* A large payload on a slow wire takes its time: the gateway has not said all of it. */
static int ledger_is_on_its_way(const run *r, uint32_t shard)
{
    const stream *s;
    for (s = r->streams; s; s = s->next)
        if (!s->client_gone && s->conn && s->shard == (int32_t)shard && sim_pending(s->conn)) return 1;
    return 0;
}

/* All that was sent long ago in the sessions that live must have come. */
void ledger_check_all(run *r, uint64_t older_than_us)
{
    uint32_t i;
    for (i = 0; i < RUN_SHARDS_MAX; i++) {
        shard_book *book = &r->books[i];
        ledger_session *session = book->session;
        size_t at;
        if (!session || session->dead || r->plan.corrupt || !r->hands[i].runs) continue;
        if (ledger_is_on_its_way(r, i)) continue;
        for (at = ledger_after(session, book->last_seq); at < session->count; at++)
            if (session->events[at].sent_us < older_than_us && !ledger_may_lack(r, &session->events[at]))
                law_broken(r, LAW_delivered, "shard %u: %s with s %llu of session %llu was sent %llu s ago and has not come",
                           (unsigned)i, gw_name_of(session->events[at].type),
                           (unsigned long long)session->events[at].seq, (unsigned long long)session->number,
                           (unsigned long long)((r->now_us - session->events[at].sent_us) / RUN_SECOND));
    }
}

void ledger_free(run *r)
{
    while (r->sessions) {
        ledger_session *session = r->sessions;
        r->sessions = session->next;
        free(session->events);
        free(session);
    }
}
