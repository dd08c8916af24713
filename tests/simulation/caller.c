/* caller.c -- the program that uses the library, as programs are: it polls late, forgets to, works long on an event,
 * sends what it likes, holds and filters. */
#include "simulation.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
        r->stop_us += pause_us;         /* no time of gw_stop()'s */
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

static void caller_by_hand(run *r, const gw_event *event)
{
    uint64_t before = hash_event(event);
    hand_act(r);
    if (hash_event(event) != before)
        law_broken(r, LAW_hand_stays, "%s changed when shards started or stopped", event->name);
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
    gate_on_event(r, event);
    hand_on_event(r, event);
    ledger_on_event(r, event);
    if (event->type < GW_DISPATCH_END_) {
        r->hand_shard = (uint32_t)event->shard % RUN_SHARDS_MAX;
        r->hand_session = event->session;
        r->hand_seq = event->seq;
        r->hand_of = r->books[r->hand_shard].session;
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
    if (r->plan.by_hand && one_in(&r->chance_hand, 50)) caller_by_hand(r, event);
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

/* When the client asks for a turn. */
static uint64_t caller_wanted_us(run *r)
{
    uint64_t now_us = run_mono_us(r);
    int32_t timeout_ms = gw_timeout_ms(r->gw);
    run_note(r, "caller: gw_timeout_ms() is %d", (int)timeout_ms);
    if (timeout_ms == 0) return now_us;
    return timeout_ms < 0 ? RUN_NEVER / 2 : (now_us / 1000u + (uint64_t)timeout_ms) * 1000u;
}

/* The next turn: when the client asked for it, or something can be read; and then some. */
void caller_plan_poll(run *r)
{
    uint64_t now_us = run_mono_us(r), readable_us = wire_readable_us(r);
    if (!r->gw) return;
    r->wanted_us = caller_wanted_us(r);
    if (readable_us != RUN_NEVER && readable_us - r->slept_us < r->wanted_us) r->wanted_us = readable_us - r->slept_us;
    if (r->wanted_us < now_us) r->wanted_us = now_us;
    r->poll_at_us = r->wanted_us + r->slept_us + caller_delay(r);
    if (r->plan.frame_us && r->poll_at_us > r->now_us + r->plan.frame_us && r->wanted_us + r->slept_us > r->now_us)
        r->poll_at_us = r->now_us + r->plan.frame_us;
}

/* The turn is wanted earlier than was planned. */
static void caller_hurry(run *r, uint64_t wanted_us)
{
    if (wanted_us >= r->wanted_us) return;
    r->poll_at_us -= r->wanted_us - wanted_us < r->poll_at_us ? r->wanted_us - wanted_us : r->poll_at_us;
    if (r->poll_at_us < wanted_us + r->slept_us) r->poll_at_us = wanted_us + r->slept_us;
    r->wanted_us = wanted_us;
}

/* Something can be read earlier than was known. */
void caller_wake(run *r)
{
    uint64_t readable_us;
    if (!r->gw || r->in_turn) return;
    readable_us = wire_readable_us(r);
    if (readable_us == RUN_NEVER) return;
    if (readable_us < r->now_us) readable_us = r->now_us;
    caller_hurry(r, readable_us - r->slept_us);
}

/* A call between two turns has given the client something to do. */
void caller_called(run *r)
{
    caller_hurry(r, caller_wanted_us(r));
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
