/* caller.c -- the program that uses the library, as programs are: it polls late, forgets to, works long on an event,
 * sends what it likes, holds, filters, saves, and is started again from what it saved, or from nothing. */
#include "simulation.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- hooks ---- */
static uint64_t on_monotonic(void *user)
{
    run *r = (run *)user;
    if (r->in_turn) r->now_us += r->plan.tick_us;
    return run_mono_us(r);
}

static uint64_t on_boot(void *user) { return ((run *)user)->now_us; }

static uint64_t on_unix(void *user)
{
    const run *r = (const run *)user;
    return r->plan.clockless ? 0 : UINT64_C(1790000000) + r->now_us / RUN_SECOND;
}

static int32_t on_random(void *user, void *bytes, size_t len)
{
    run *r = (run *)user;
    uint8_t *at = (uint8_t *)bytes;
    while (len--) *at++ = (uint8_t)(chance(&r->chance_client) >> 24);
    return 1;
}

static void on_log(void *user, uint32_t level, int32_t shard, const char *text)
{
    run *r = (run *)user;
    laws_on_text(r, "the log", text);
    if (level <= GW_LOG_DEBUG) run_note(r, "client: [%d] %s", (int)shard, text);
}

/* The token must not stay in memory that is given back. */
static void look_into_freed(run *r, const char *where, const uint8_t *bytes, size_t len)
{
    const uint8_t *at = bytes, *end = bytes + len;
    size_t part = sizeof RUN_TOKEN_PART - 1;
    while ((at = (const uint8_t *)memchr(at, RUN_TOKEN_PART[0], (size_t)(end - at))) != NULL) {
        if ((size_t)(end - at) < part) return;
        if (memcmp(at++, RUN_TOKEN_PART, part) == 0) law_broken(r, LAW_token, "it still stands in %s", where);
    }
}

/* Blocks remember their sizes, so that a wrong old_bytes is seen; one that grows always moves. */
static void *on_alloc(void *user, void *old, size_t old_bytes, size_t new_bytes)
{
    run *r = (run *)user;
    uint64_t *head = old ? (uint64_t *)old - 2 : NULL, *fresh;
    if ((head && head[0] != old_bytes) || (!head && old_bytes)) r->bad_sizes++;
    r->live_bytes += new_bytes - (old ? old_bytes : 0);
    if (r->live_bytes > r->peak_bytes) r->peak_bytes = r->live_bytes;
    if (r->memory) law_broken(r, LAW_memory, "config.memory is given, and the allocator was called");
    if (old) look_into_freed(r, "memory that was given back", (uint8_t *)old, old_bytes < 8192 ? old_bytes : 8192);
    if (!new_bytes) {
        if (head) r->live_blocks--;
        free(head);
        return NULL;
    }
    if (!head) r->live_blocks++;
    fresh = (uint64_t *)malloc(new_bytes + 16);
    if (!fresh) abort();
    memset(fresh + 2, 0xA5, new_bytes);         /* what the model left there is not the client's */
    if (head) memcpy(fresh + 2, head + 2, old_bytes < new_bytes ? old_bytes : new_bytes);
    free(head);
    fresh[0] = new_bytes;
    return fresh + 2;
}

static int32_t on_gate(void *user, int32_t shard, uint32_t bucket)
{
    run *r = (run *)user;
    (void)shard;
    (void)bucket;
    if (r->phase != PHASE_STORM || !one_in(&r->chance_caller, 3)) return 0;
    return (int32_t)between(&r->chance_caller, 1, 20000);
}

/* ---- life ---- */
#define CANARY 64u

static void *caller_memory(run *r)
{
    r->memory_bytes = gw_memory_needed(&r->cfg);
    r->memory = malloc(r->memory_bytes + CANARY);
    if (!r->memory) abort();
    memset(r->memory, 0xA5, r->memory_bytes);           /* what stood there before is not the client's */
    memset((char *)r->memory + r->memory_bytes, 0x5A, CANARY);
    return r->memory;
}

/* Who gives config.url asks /gateway/bot himself, and does not start a bot that has none left. 0: later. */
static int caller_budget(run *r)
{
    uint64_t since_ms = run_ms(r) - r->gateway->budget_since_ms, left_ms;
    if (!r->plan.budget_by_config || !r->opened_us) return 1;
    r->gateway->now_ms = run_ms(r);
    sim_refill_budget(r->gateway);
    left_ms = since_ms < r->sim.reset_after_ms ? r->sim.reset_after_ms - since_ms : 1;
    r->cfg.identify_remaining = r->gateway->remaining;
    r->cfg.identify_reset_ms = (uint32_t)left_ms;
    if (r->gateway->remaining) return 1;
    r->restart_at_us = r->now_us + left_ms * 1000u;
    return 0;
}

void caller_open(run *r, int with_text)
{
    gw_config *cfg = &r->cfg;
    uint32_t i;
    r->restart_at_us = 0;
    if (!caller_budget(r)) return;
    cfg->user = r;
    cfg->log = on_log;
    cfg->log_level = GW_LOG_TRACE;
    cfg->alloc = on_alloc;
    cfg->monotonic_us = on_monotonic;
    cfg->boot_us = on_boot;
    cfg->unix_time = on_unix;
    cfg->random = on_random;
    cfg->identify_gate = r->plan.gate ? on_gate : NULL;
    r->transport = wire_hooks;
    cfg->transport = &r->transport;
    if (r->plan.fixed_memory) {
        cfg->memory = caller_memory(r);
        cfg->memory_bytes = r->memory_bytes;
    }
    cfg->session = with_text ? r->text : NULL;
    cfg->session_len = with_text ? r->text_len : 0;
    r->opened_us = r->now_us;
    r->stopping = r->ended_by_caller = r->held = 0;
    memset(r->state_was, 0xFF, sizeof r->state_was);
    for (i = 0; i < GW_DISPATCH_END_; i++) {
        if (r->is_off[i]) r->off_us[i] = r->now_us;
        r->is_off[i] = 0;
    }
    ledger_restart(r, with_text);
    /* What is known of the last Identifies: all that were written before the text was, and nothing without a clock. */
    if (!with_text || r->plan.clockless || r->text_identifies < r->identify_total) {
        memset(r->identify_us, 0, sizeof r->identify_us);
        if (r->identify_count) r->forgot = 1;
        r->identify_count = 0;
    }
    r->gw = gw_open(cfg);
    if (!r->gw) {
        law_broken(r, LAW_memory, "gw_open is NULL");
        return;
    }
    r->in_turn = 0;
    r->wanted_us = run_mono_us(r);
    r->poll_at_us = r->now_us;
}

static void caller_look_at_memory(run *r)
{
    size_t i;
    if (r->live_bytes || r->live_blocks)
        law_broken(r, LAW_memory, "%lu bytes in %lu blocks did not come back", (unsigned long)r->live_bytes,
                   (unsigned long)r->live_blocks);
    for (i = 0; r->memory && i < CANARY; i++)
        if (((uint8_t *)r->memory)[r->memory_bytes + i] != 0x5A)
            law_broken(r, LAW_memory, "a byte behind config.memory was written");
    if (r->memory) look_into_freed(r, "config.memory after gw_close()", (uint8_t *)r->memory, r->memory_bytes);
    free(r->memory);
    r->memory = NULL;
    r->live_bytes = r->live_blocks = 0;
}

void caller_close(run *r)
{
    if (!r->gw) return;
    gw_close(r->gw);
    r->gw = NULL;
    r->hand = NULL;
    r->hand_seq = 0;
    caller_look_at_memory(r);
}

void caller_stop(run *r, uint32_t how)
{
    if (!r->gw || r->stopping) return;
    run_note(r, "caller: gw_stop(%s)", how == GW_END ? "GW_END" : "GW_KEEP");
    r->stopping = how;
    r->ended_by_caller = how == GW_END;
    r->stop_us = run_mono_us(r);
    if (gw_stop(r->gw, how) != GW_OK) law_broken(r, LAW_closes, "gw_stop: %s", gw_why(r->gw));
    if (r->poll_at_us > r->now_us) r->poll_at_us = r->now_us;
}

/* ---- saves ---- */
static void caller_save(run *r)
{
    char text[GW_SESSION_MAX * (RUN_SHARDS_MAX + 1)];
    size_t len = gw_session_save(r->gw, GW_ALL, text, sizeof text);
    if (len >= sizeof text || len == 0) {
        law_broken(r, LAW_save_is_true, "gw_session_save: %lu bytes", (unsigned long)len);
        return;
    }
    laws_on_text(r, "the session text", text);
    free(r->text);
    r->text = (char *)malloc(len + 1);
    if (!r->text) abort();
    memcpy(r->text, text, len + 1);
    r->text_len = len;
    r->text_identifies = r->identify_total;
    run_note(r, "caller: saves %s", r->text);
    ledger_check_save(r);
}

/* ---- restarts ---- */
static void caller_restart(run *r)
{
    uint64_t *c = &r->chance_caller;
    static const char *const names[] = { "restart_stop_keep", "restart_close", "restart_crash", "restart_forgets",
                                         "restart_stop_end" };
    uint64_t kind = below(c, 100);
    kind = kind < 30 ? 0 : kind < 55 ? 1 : kind < 85 ? 2 : kind < 93 ? 3 : 4;
    /* over its budget a bot is not started without a memory; GW_END may spend what is left */
    if (r->plan.budget && kind >= 3) kind = 0;
    run_count_fault(r, names[kind]);
    run_note(r, "caller: %s", names[kind]);
    r->own.restarts++;
    r->restart_at_us = r->now_us + (one_in(c, 2) ? below(c, 3 * RUN_SECOND) : about(c, RUN_SECOND / 100, 200 * RUN_SECOND));
    if (kind == 0 || kind == 4) {
        caller_stop(r, kind == 0 ? GW_KEEP : GW_END);
        return;
    }
    if (kind == 1) caller_save(r);
    if (kind == 3) {
        free(r->text);
        r->text = NULL;
        r->text_len = 0;
    }
    caller_close(r);
}

static void caller_on_closed(run *r)
{
    caller_save(r);
    caller_close(r);
}

/* ---- commands ---- */
static uint64_t a_guild(run *r)
{
    return sim_guild_id((uint32_t)below(&r->chance_caller, r->sim.guilds));
}

static void send_presence(run *r)
{
    static const char *const words[] = { "online", "idle", "dnd", "invisible" };
    gw_activity activity;
    gw_presence presence;
    memset(&activity, 0, sizeof activity);
    memset(&presence, 0, sizeof presence);
    activity.name = "chess \"\xC3\xA9\"";
    activity.type = (uint32_t)below(&r->chance_caller, 6);
    presence.status = words[below(&r->chance_caller, 4)];
    presence.activities = &activity;
    presence.activity_count = (uint32_t)below(&r->chance_caller, 2);
    gw_set_presence(r->gw, one_in(&r->chance_caller, 2) ? GW_ALL : (int32_t)below(&r->chance_caller, r->plan.shards), &presence);
}

static void send_members(run *r)
{
    gw_members request;
    uint64_t ids[3] = { 1, 2, 3 };
    memset(&request, 0, sizeof request);
    request.guild_id = a_guild(r);
    request.retry = (uint32_t)one_in(&r->chance_caller, 2);
    request.nonce = one_in(&r->chance_caller, 2) ? "n1" : NULL;
    if (one_in(&r->chance_caller, 2)) request.query = one_in(&r->chance_caller, 2) && r->plan.intents & 2u ? "" : "us";
    else request.user_ids = ids, request.user_id_count = 3;
    gw_request_members(r->gw, &request);
}

static void send_raw(run *r)
{
    char d[5000];
    size_t fill = one_in(&r->chance_caller, 3) ? (size_t)between(&r->chance_caller, 3900, 4300) : 20;
    int len = snprintf(d, sizeof d, "{\"guild_ids\":[\"%llu\"]%*s}", (unsigned long long)sim_guild_id(0), (int)fill, "");
    if (r->plan.shards > 1) return;         /* guild 0 is on one shard only */
    gw_send_raw(r->gw, GW_ALL, 31, d, (size_t)len);
}

static void caller_send(run *r)
{
    uint64_t *c = &r->chance_caller, guild = a_guild(r), n = one_in(c, 20) ? between(c, 20, 150) : 1;
    uint64_t kind = below(c, 6);
    for (; n && r->gw; n--) {
        switch (kind) {
        case 0: send_presence(r); break;
        case 1: gw_set_voice(r->gw, guild, one_in(c, 3) ? 0 : guild + 128, 0, 1); break;
        case 2: send_members(r); break;
        case 3: gw_request_sounds(r->gw, &guild, 1); break;
        case 4: gw_request_channel_info(r->gw, guild, 1, (int32_t)below(c, 2)); break;
        default: send_raw(r); break;
        }
        laws_on_text(r, "gw_why", gw_why(r->gw));
    }
}

/* ---- what else it does ---- */
static void caller_want(run *r)
{
    uint32_t type = (uint32_t)between(&r->chance_caller, GW_RATE_LIMITED, GW_DISPATCH_END_ - 1);
    if (one_in(&r->chance_caller, 2)) type = one_in(&r->chance_caller, 2) ? GW_MESSAGE_CREATE : GW_TYPING_START;
    if (one_in(&r->chance_caller, 10)) type = GW_UNKNOWN_DISPATCH;
    if (gw_want(r->gw, type, r->is_off[type] != 0) != GW_OK) return;
    r->is_off[type] ^= 1u;
    if (r->is_off[type]) r->off_since_us[type] = r->now_us;
    else r->off_us[type] = r->now_us;
    run_note(r, "caller: %s is %s", gw_name_of(type), r->is_off[type] ? "unwanted" : "wanted");
}

static void caller_hold(run *r, int on)
{
    if (r->held == (uint32_t)on) return;
    run_note(r, "caller: gw_hold %d", on);
    gw_hold(r->gw, GW_ALL, on);
    r->held = (uint32_t)on;
    r->unheld_us = run_mono_us(r);
}

static void caller_stats(run *r)
{
    static char text[65536];
    gw_stats stats;
    gw_stats_text(r->gw, text, sizeof text);
    laws_on_text(r, "gw_stats_text", text);
    gw_stats_read(r->gw, GW_ALL, &stats);
}

static void caller_whim(run *r)
{
    uint64_t *c = &r->chance_caller;
    if (r->stopping || !r->gw) return;
    switch (below(c, 12)) {
    case 0: caller_want(r); break;
    case 1: caller_hold(r, one_in(c, 3)); break;
    case 2: gw_recheck(r->gw); run_count_fault(r, "recheck"); break;
    case 3: caller_stats(r); break;
    case 4: case 5: caller_save(r); break;
    case 6: gw_wake(r->gw); break;
    case 7: gw_tend(r->gw); break;
    default: caller_send(r); break;
    }
}

/* ---- an event in hand ---- */
static uint64_t hash_of(uint64_t hash, const void *bytes, size_t len)
{
    const uint8_t *at = (const uint8_t *)bytes;
    while (len--) hash = (hash ^ *at++) * UINT64_C(0x100000001B3);
    return hash;
}

static uint64_t hash_event(const gw_event *event)
{
    uint64_t hash = hash_of(1, event->name, strlen(event->name));
    hash = hash_of(hash, event->message, strlen(event->message));
    hash = hash_of(hash, &event->seq, sizeof event->seq);
    return event->d.ptr ? hash_of(hash, event->d.ptr, event->d.len) : hash;
}

/* Long work, with gw_tend() now and then: the event must stay what it is. */
static void caller_work(run *r, const gw_event *event)
{
    uint64_t before = hash_event(event), *c = &r->chance_caller;
    uint64_t steps = between(c, 1, 5), pause_us = about(c, 100, 3 * RUN_SECOND);
    run_count_fault(r, "slow_handler");
    for (; steps; steps--) {
        r->now_us += pause_us;
        r->late_us += pause_us;
        if (r->worst_late_us < r->late_us) r->worst_late_us = r->late_us, r->worst_late_at_us = r->now_us;
        wire_step(r);
        if (!one_in(c, 4)) {
            gw_tend(r->gw);
            r->late_us = 0;
        }
        if (hash_event(event) != before)
            law_broken(r, LAW_hand_stays, "%s changed while gw_tend() was called", event->name);
    }
}

static void caller_ack(run *r, const gw_event *event)
{
    shard_book *book = &r->books[event->shard % (int32_t)RUN_SHARDS_MAX];
    if (r->phase == PHASE_STORM && !one_in(&r->chance_caller, 3)) return;
    if (gw_ack(r->gw, event->shard, event->session, event->seq) != GW_OK) {
        law_broken(r, LAW_save_is_true, "gw_ack of an event that was handed out: %s", gw_why(r->gw));
        return;
    }
    if (book->number != event->session) return;
    if (book->acked_seq < event->seq) book->acked_seq = event->seq;
    if (book->done_seq < event->seq) book->done_seq = event->seq;
    if (r->hand_seq == event->seq) r->hand_seq = 0;     /* acknowledged: a save may name it */
}

static void caller_look(run *r, const gw_event *event)
{
    char out[200];
    laws_on_text(r, "an event's name", event->name);
    laws_on_text(r, "an event's message", event->message);
    if (event->type >= GW_GATEWAY_INFO && event->d.ptr) {
        snprintf(out, sizeof out, "%.*s", (int)(event->d.len < 199 ? event->d.len : 199), event->d.ptr);
        laws_on_text(r, "an event's d", out);
    }
    if (event->type < GW_DISPATCH_END_ && one_in(&r->chance_caller, 4)) {
        gw_u64(&event->d, "author.id");
        gw_text(&event->d, "content", out, sizeof out);
    }
}

static void caller_on_event(run *r, const gw_event *event)
{
    run_note(r, "event: %s shard %d session %u s %llu%s reason %u code %d will %u in %u %s", event->name,
             (int)event->shard, (unsigned)event->session, (unsigned long long)event->seq,
             event->replayed ? " replayed" : "", (unsigned)event->reason, (int)event->close_code, (unsigned)event->will,
             (unsigned)event->in_ms, event->message);
    r->own.events += event->type < GW_DISPATCH_END_;
    r->moved++;
    r->hand = event;
    ledger_on_event(r, event);
    if (event->type < GW_DISPATCH_END_) {
        r->hand_shard = (uint32_t)event->shard % RUN_SHARDS_MAX;
        r->hand_session = event->session;
        r->hand_seq = event->seq;
    }
    caller_look(r, event);
    if (event->type == GW_IDENTIFY_HELD && r->plan.budget) r->budget_out_us = r->now_us;
    if (event->type == GW_DISCONNECTED && event->in_ms > 60000)
        r->server_wait_until_us = r->now_us + (event->in_ms + 2000) * UINT64_C(1000);
    if (event->type == GW_FATAL && !r->plan.corrupt)
        law_broken(r, LAW_no_fatal, "%s", event->message);
    if (event->type < GW_DISPATCH_END_ && r->plan.ack_by_hand) caller_ack(r, event);
    if (r->phase != PHASE_STORM || !r->plan.caller_faults) return;
    if (one_in(&r->chance_caller, 60)) caller_work(r, event);
    if (one_in(&r->chance_caller, 20)) caller_whim(r);
}

/* ---- a turn ---- */
static void caller_is_late(run *r)
{
    uint64_t now_us = run_mono_us(r);
    r->late_us = now_us > r->wanted_us ? now_us - r->wanted_us : 0;
    if (r->now_us - r->worst_late_at_us > 900 * RUN_SECOND) r->worst_late_us = 0;
    if (r->late_us < r->worst_late_us) return;
    r->worst_late_us = r->late_us;
    r->worst_late_at_us = r->now_us;
}

/* 300 polls in a row that did nothing while gw_timeout_ms() said 0, or ten thousand in a second. */
static void caller_look_at_spin(run *r, uint64_t moved, int32_t timeout_ms)
{
    if (r->moved != moved || timeout_ms != 0) r->spin_polls = 0;
    else if (++r->spin_polls > 300)
        law_broken(r, LAW_no_spin, "gw_timeout_ms() is 0, and 300 polls brought nothing");
    if (r->now_us - r->spin_window_us > RUN_SECOND) {
        r->spin_window_us = r->now_us;
        r->poll_count = 0;
    }
    if (r->moved != moved) r->poll_count = 0;
    if (++r->poll_count > 10000) law_broken(r, LAW_no_spin, "10,000 polls in a second brought nothing");
}

static uint64_t caller_delay(run *r)
{
    uint64_t *c = &r->chance_caller;
    const plan *p = &r->plan;
    if (r->phase != PHASE_STORM) return p->frame_us;
    if (one_in(c, p->stall_of)) {
        run_count_fault(r, "stall");
        return p->stall_ms * UINT64_C(1000);
    }
    return p->late_us ? below(c, p->late_us) : 0;
}

/* The next turn: when the client asked for it, or something can be read; and then some. */
void caller_plan_poll(run *r)
{
    int32_t timeout_ms;
    uint64_t now_us = run_mono_us(r), readable_us = wire_readable_us(r);
    if (!r->gw) return;
    timeout_ms = gw_timeout_ms(r->gw);
    r->wanted_us = timeout_ms < 0 ? RUN_NEVER / 2 : (now_us / 1000u + (uint64_t)timeout_ms) * 1000u;
    if (timeout_ms == 0) r->wanted_us = now_us;
    if (readable_us != RUN_NEVER && readable_us - r->slept_us < r->wanted_us) r->wanted_us = readable_us - r->slept_us;
    if (r->wanted_us < now_us) r->wanted_us = now_us;
    r->poll_at_us = r->wanted_us + r->slept_us + caller_delay(r);
    if (r->plan.frame_us && r->poll_at_us > r->now_us + r->plan.frame_us && r->wanted_us + r->slept_us > r->now_us)
        r->poll_at_us = r->now_us + r->plan.frame_us;
}

/* Something can be read earlier than was known. */
void caller_wake(run *r)
{
    uint64_t readable_us, wanted_us;
    if (!r->gw || r->in_turn) return;
    readable_us = wire_readable_us(r);
    if (readable_us == RUN_NEVER) return;
    if (readable_us < r->now_us) readable_us = r->now_us;
    wanted_us = readable_us - r->slept_us;
    if (wanted_us >= r->wanted_us) return;
    r->poll_at_us -= r->wanted_us - wanted_us < r->poll_at_us ? r->wanted_us - wanted_us : r->poll_at_us;
    if (r->poll_at_us < readable_us) r->poll_at_us = readable_us;
    r->wanted_us = wanted_us;
}

void caller_turn(run *r)
{
    const gw_event *event;
    uint64_t moved = r->moved;
    uint32_t most = 20000, closed = 0;
    caller_is_late(r);
    if (r->late_us) run_note(r, "caller: polls %llu us late", (unsigned long long)r->late_us);
    r->in_turn = 1;
    r->own.polls++;
    while (r->gw && !closed) {
        ledger_let_go(r);
        event = gw_poll(r->gw);
        if (!event) break;
        closed = event->type == GW_CLOSED;
        caller_on_event(r, event);
        if (--most == 0) {
            law_broken(r, LAW_no_spin, "no end of events at one moment: %s", event->name);
            break;
        }
    }
    r->hand = NULL;
    r->in_turn = 0;
    if (closed && r->gw) {
        if (!r->stopping && !r->plan.corrupt) law_broken(r, LAW_no_fatal, "CLOSED came by itself");
        if (!r->stopping) r->phase = PHASE_OVER;
        caller_on_closed(r);
    }
    if (!r->gw) return;
    laws_after_turn(r);
    caller_look_at_spin(r, moved, gw_timeout_ms(r->gw));
    if (r->stopping && run_mono_us(r) - r->stop_us > 5 * RUN_SECOND + 2 * r->worst_late_us)
        law_broken(r, LAW_closes, "gw_stop() was %llu ms ago",
                   (unsigned long long)((run_mono_us(r) - r->stop_us) / 1000u));
    if (r->phase == PHASE_STORM && r->plan.caller_faults && one_in(&r->chance_caller, 25)) caller_whim(r);
    if (r->gw && r->phase != PHASE_STORM && r->held) caller_hold(r, 0);
    caller_plan_poll(r);
}

/* Called by faults.c. */
void caller_fault_restart(run *r);
void caller_fault_restart(run *r)
{
    if (r->gw && !r->stopping) caller_restart(r);
}
