/* process.c -- the life of the program that uses the library: its hooks and memory; it opens, saves, stops, is closed,
 * crashes, and is started again from what it saved, or from nothing. */
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

/* There is a limit while the storm goes on, and for a client that is open. */
static int caller_is_poor(run *r, size_t more_bytes)
{
    if (!r->plan.memory_limit || r->phase != PHASE_STORM || !r->gw) return 0;
    if (r->live_bytes + more_bytes <= r->plan.memory_limit) return 0;
    run_count_fault(r, "no_memory");
    r->poor_us = run_mono_us(r);
    return 1;
}

/* Blocks remember their sizes, so that a wrong old_bytes is seen; one that grows always moves. */
static void *on_alloc(void *user, void *old, size_t old_bytes, size_t new_bytes)
{
    run *r = (run *)user;
    uint64_t *head = old ? (uint64_t *)old - 2 : NULL, *fresh;
    if ((head && head[0] != old_bytes) || (!head && old_bytes)) r->bad_sizes++;
    if (new_bytes > old_bytes && caller_is_poor(r, new_bytes - old_bytes)) return NULL;
    if (old) look_into_freed(r, "memory that was given back", (uint8_t *)old, old_bytes < 8192 ? old_bytes : 8192);
    r->live_bytes += new_bytes - (old ? old_bytes : 0);
    if (r->live_bytes > r->peak_bytes) r->peak_bytes = r->live_bytes;
    if (r->memory) law_broken(r, LAW_memory, "config.memory is given, and the allocator was called");
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
    int32_t wait_ms = 0;
    if (r->permits) wait_ms = gate_ask(r, shard, bucket);
    else if (r->phase == PHASE_STORM && one_in(&r->chance_caller, 3))
        wait_ms = (int32_t)between(&r->chance_caller, 1, 20000);
    if (!wait_ms) r->gate_go[(uint32_t)shard % RUN_SHARDS_MAX] = 1;
    return wait_ms;
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
    memset(r->gate_go, 0, sizeof r->gate_go);
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
    hand_open(r);
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
    gate_let_go(r);
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
void caller_save(run *r)
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
void caller_restart(run *r)
{
    uint64_t *c = &r->chance_caller;
    static const char *const names[] = { "restart_stop_keep", "restart_close", "restart_crash", "restart_forgets",
                                         "restart_stop_end" };
    uint64_t kind = below(c, 100);
    if (!r->gw || r->stopping || r->other) return;
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

void caller_on_closed(run *r)
{
    caller_save(r);
    caller_close(r);
}
