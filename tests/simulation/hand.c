/* hand.c -- shards by hand: a caller who starts shards when he likes, stops them, and starts them again from their own
 * text, from an old one, from a broken one or from none, between polls and with an event in hand. And what the client
 * owes him for it: the laws `stopped` and `started`. */
#include "simulation.h"
#include <stdlib.h>
#include <string.h>

static int hand_runs(const run *r, uint32_t shard) { return r->hands[shard].runs != 0; }

/* Of those that run, or do not, one; RUN_SHARDS_MAX: there is none. */
static uint32_t a_shard(run *r, int runs)
{
    uint32_t i, count = 0, nth;
    for (i = 0; i < r->plan.total; i++) count += hand_runs(r, i) == runs;
    if (!count) return RUN_SHARDS_MAX;
    nth = (uint32_t)below(&r->chance_hand, count);
    for (i = 0; hand_runs(r, i) != runs || nth--; ) i++;
    return i;
}

/* What may be seen of that shard; 0: the client has never had it. */
static int hand_look(const run *r, uint32_t shard, client_window *out)
{
    uint32_t i;
    for (i = 0; i < client_shards(r->gw); i++) {
        client_look(r->gw, i, out);
        if (out->id == (int32_t)shard) return 1;
    }
    memset(out, 0, sizeof *out);
    return 0;
}

static void hand_expect(run *r, int32_t result, int32_t expected, const char *call, uint32_t shard)
{
    laws_on_text(r, "gw_why", gw_why(r->gw));
    if (result != expected && !r->plan.corrupt)
        law_broken(r, LAW_started, "%s of shard %u is %d instead of %d: %s", call, (unsigned)shard, (int)result,
                   (int)expected, gw_why(r->gw));
}

/* ---- start ---- */
typedef enum source { FROM_NOTHING, FROM_ITS_OWN, FROM_ALL, FROM_RUINS } source;

static void hand_start(run *r, uint32_t shard, source from)
{
    hand *h = &r->hands[shard];
    char ruins[GW_SESSION_MAX * (RUN_SHARDS_MAX + 1)] = "gw1 of another bot";
    const char *text = NULL;
    size_t len = 0;
    int32_t result;
    if (from == FROM_ITS_OWN) text = h->text, len = h->text_len;
    if (from == FROM_ALL) text = r->text, len = r->text_len;
    if (from == FROM_RUINS) {
        if (r->text && r->text_len < sizeof ruins) {
            memcpy(ruins, r->text, r->text_len + 1);
            ruins[below(&r->chance_hand, r->text_len)] ^= 1;
        }
        text = ruins;
        len = strlen(ruins);
    }
    run_note(r, "caller: gw_shard_start(%u) from %s", (unsigned)shard, !text ? "nothing" : from == FROM_ITS_OWN ?
             "its own text" : from == FROM_ALL ? "the last text" : "ruins");
    run_count_fault(r, "shard_start");
    result = gw_shard_start(r->gw, (int32_t)shard, text, len);
    if (r->plan.memory_limit && result == GW_ERROR_NO_MEMORY) return;
    hand_expect(r, result, from == FROM_RUINS ? (int32_t)GW_ERROR_SESSION_TEXT : (int32_t)GW_OK, "gw_shard_start", shard);
    ledger_start(r, shard, from == FROM_RUINS ? NULL : text);
    h->runs = 1;
    h->begun_us = r->now_us;
    if (r->held) gw_hold(r->gw, (int32_t)shard, 1);     /* who holds all holds this one too */
}

static source a_source(run *r, uint32_t shard)
{
    uint64_t kind = below(&r->chance_hand, 100);
    if (kind < 50 && r->hands[shard].text) return FROM_ITS_OWN;
    if (kind < 80 && r->text) return FROM_ALL;
    return kind < 90 ? FROM_NOTHING : FROM_RUINS;
}

/* ---- stop ---- */
static int hand_line(run *r, uint32_t shard, saved_line *line)
{
    char text[GW_SESSION_MAX * 2];
    size_t len = gw_session_save(r->gw, (int32_t)shard, text, sizeof text);
    if (len >= sizeof text)
        law_broken(r, LAW_save_is_true, "gw_session_save of one shard: %lu bytes", (unsigned long)len);
    laws_on_text(r, "the session text", text);
    return ledger_line(text, 0, line);
}

static void hand_keep_text(run *r, uint32_t shard)
{
    hand *h = &r->hands[shard];
    char text[GW_SESSION_MAX * 2];
    size_t len = gw_session_save(r->gw, (int32_t)shard, text, sizeof text);
    free(h->text);
    h->text = (char *)malloc(len + 1);
    if (!h->text) abort();
    memcpy(h->text, text, len + 1);
    h->text_len = len;
}

static void hand_stop(run *r, uint32_t shard, uint32_t how)
{
    hand *h = &r->hands[shard];
    saved_line before, after;
    client_window window;
    stream *s = hand_look(r, shard, &window) ? (stream *)window.stream : NULL;
    int had = hand_line(r, shard, &before), has;
    run_note(r, "caller: gw_shard_stop(%u, %s) while %s", (unsigned)shard, how == GW_END ? "GW_END" : "GW_KEEP",
             window.state);
    run_count_fault(r, "shard_stop");
    if (s && how == GW_END) s->may_end = 1;
    hand_expect(r, gw_shard_stop(r->gw, (int32_t)shard, how), GW_OK, "gw_shard_stop", shard);
    if (s && !s->client_gone)
        law_broken(r, LAW_stopped, "shard %u: gw_shard_stop() has returned, and its connection %llu is there",
                   (unsigned)shard, (unsigned long long)s->id);
    has = hand_line(r, shard, &after);
    if (how == GW_END && has)
        law_broken(r, LAW_stopped, "shard %u: GW_END, and the text has a session", (unsigned)shard);
    if (how == GW_KEEP && (has != had || (has && (before.seq != after.seq || strcmp(before.id, after.id) != 0))))
        law_broken(r, LAW_stopped, "shard %u: GW_KEEP, and the text names another event than before", (unsigned)shard);
    if (how == GW_KEEP) hand_keep_text(r, shard);
    ledger_stop(r, shard, how);
    h->runs = 0;
    h->owes = 1;
    h->stops++;
}

/* ---- what a caller does wrong ---- */
static void hand_mistake(run *r)
{
    uint32_t running = a_shard(r, 1), stopped = a_shard(r, 0), total = r->plan.total;
    hand_expect(r, gw_shard_start(r->gw, (int32_t)total, NULL, 0), GW_ERROR_ARGUMENT, "gw_shard_start", total);
    if (running < RUN_SHARDS_MAX) {
        hand_expect(r, gw_shard_start(r->gw, (int32_t)running, NULL, 0), GW_ERROR_ARGUMENT, "a second start", running);
        hand_expect(r, gw_shard_stop(r->gw, (int32_t)running, 0), GW_ERROR_ARGUMENT, "a stop without how", running);
    }
    if (stopped < RUN_SHARDS_MAX)
        hand_expect(r, gw_shard_stop(r->gw, (int32_t)stopped, GW_KEEP), GW_ERROR_NOT_OUR_SHARD, "a second stop", stopped);
}

/* ---- when ----
 * Who starts from nothing again and again spends the day's 1,000 Identifies, and then has to wait: that is no fault. */
#define FRUGAL_FROM 700u

void hand_act(run *r)
{
    uint64_t *c = &r->chance_hand, kind = below(c, 100);
    uint32_t running = a_shard(r, 1), stopped = a_shard(r, 0);
    if (!r->gw || r->stopping || !gw_alive(r->gw) || r->identify_total > FRUGAL_FROM) return;
    if (kind < 10) hand_mistake(r);
    else if (kind < 50 && stopped < RUN_SHARDS_MAX) hand_start(r, stopped, a_source(r, stopped));
    else if (running < RUN_SHARDS_MAX) {
        hand_stop(r, running, one_in(c, 3) ? GW_END : GW_KEEP);
        if (one_in(c, 3)) hand_start(r, running, a_source(r, running));         /* in one go */
    }
}

void hand_step(run *r)
{
    if (!r->plan.by_hand || r->phase != PHASE_STORM || r->now_us < r->next_hand_us) return;
    r->next_hand_us = r->now_us + 1000 + below(&r->chance_hand, 2 * r->plan.hand_every_us);
    if (!r->gw || r->suspend_until_us) return;
    hand_act(r);
    caller_called(r);
}

/* After the last fault some more begin, one at least must run. */
void hand_calm(run *r)
{
    uint32_t i, first;
    if (!r->plan.by_hand || !r->gw || r->stopping) return;
    first = a_shard(r, 1) < RUN_SHARDS_MAX ? RUN_SHARDS_MAX : (uint32_t)below(&r->chance_hand, r->plan.total);
    for (i = 0; i < r->plan.total; i++)
        if (!hand_runs(r, i) && (i == first || one_in(&r->chance_hand, 2)))
            hand_start(r, i, r->hands[i].text ? FROM_ITS_OWN : FROM_NOTHING);
    caller_called(r);
}

uint32_t hand_first(const run *r) { return r->plan.by_hand ? r->plan.first_shards : r->plan.shards; }

/* The client is open: those of the config run, and the caller may start others before the first poll. */
void hand_open(run *r)
{
    uint32_t i;
    for (i = 0; i < RUN_SHARDS_MAX; i++) {
        r->hands[i].runs = i < hand_first(r);
        r->hands[i].owes = r->hands[i].stops = 0;
    }
    if (!r->plan.by_hand) return;
    if (r->phase == PHASE_STORM && one_in(&r->chance_hand, 2)) {
        for (i = 0; i < r->plan.total; i++)
            if (!hand_runs(r, i) && one_in(&r->chance_hand, 2)) hand_start(r, i, r->text ? FROM_ALL : FROM_NOTHING);
    }
    if (r->phase == PHASE_STORM) r->next_hand_us = r->now_us + below(&r->chance_hand, 2 * r->plan.hand_every_us);
    else hand_calm(r);
}

int hand_all_live(const run *r)
{
    uint32_t i, live = 0;
    for (i = 0; i < RUN_SHARDS_MAX; i++) {
        if (!hand_runs(r, i)) continue;
        if (!gw_shard_live(r->gw, (int32_t)i)) return 0;
        live++;
    }
    return live && gw_shard_live(r->gw, GW_ALL);
}

/* ---- what the client owes ----
 * Notices that lay in the queue when it was stopped come before its SHARD_STOPPED; its dispatches do not come at all,
 * nor do those of its next run before that. Two stops in one go may be told once. */
void hand_on_event(run *r, const gw_event *event)
{
    hand *h;
    if (event->shard < 0 || event->shard >= (int32_t)RUN_SHARDS_MAX || r->stopping) return;
    h = &r->hands[event->shard];
    if (event->type == GW_SHARD_STOPPED) {
        if (!h->stops && !r->plan.corrupt)
            law_broken(r, LAW_stopped, "shard %d: SHARD_STOPPED, and nobody has stopped it", (int)event->shard);
        if (event->reason != GW_REASON_BY_CALLER) h->runs = 0;
        h->owes = 0;
        if (h->stops) h->stops--;
        return;
    }
    if (event->type < GW_DISPATCH_END_ ? h->owes || !h->runs : !h->runs && !h->stops)
        law_broken(r, LAW_stopped, "shard %d was stopped; %s comes %s SHARD_STOPPED, it runs again: %u",
                   (int)event->shard, event->name, h->owes ? "before" : "behind", (unsigned)h->runs);
}

static int hand_is_owner(const run *r, const stream *s)
{
    client_window window;
    uint32_t i;
    if (client_api_stream(r->gw) == s) return 1;
    for (i = 0; i < client_shards(r->gw); i++) {
        client_look(r->gw, i, &window);
        if (window.stream == s) return !window.stopped;
    }
    return 0;
}

void hand_after_turn(run *r, int has_work)
{
    client_window window;
    const stream *s;
    uint32_t i;
    if (r->stopping || r->plan.corrupt) return;
    for (i = 0; i < RUN_SHARDS_MAX; i++) {
        int runs = hand_look(r, i, &window) && !window.stopped;
        if (runs != hand_runs(r, i))
            law_broken(r, LAW_started, "shard %u %s", (unsigned)i, runs ? "runs, and was not started" :
                       "was started, and does not run");
        if (r->hands[i].owes && !has_work)
            law_broken(r, LAW_stopped, "shard %u was stopped, and SHARD_STOPPED has not come", (unsigned)i);
        if (!has_work) r->hands[i].stops = 0;
    }
    for (s = r->streams; s; s = s->next)
        if (!s->client_gone && !hand_is_owner(r, s))
            law_broken(r, LAW_stopped, "connection %llu is of no shard that runs", (unsigned long long)s->id);
}

void hand_free(run *r)
{
    uint32_t i;
    for (i = 0; i < RUN_SHARDS_MAX; i++) free(r->hands[i].text);
}
