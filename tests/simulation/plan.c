/* plan.c -- what a seed draws: the bot, the wire, the caller, what goes wrong; and the configs made of it. */
#include "simulation.h"
#include <stdlib.h>
#include <string.h>

static uint32_t some(run *r, uint64_t n, uint64_t from, uint64_t to)    /* 0, or one time in n a number */
{
    return one_in(&r->chance_plan, n) ? (uint32_t)about(&r->chance_plan, from, to) : 0;
}

static void plan_bot(run *r, plan *p)
{
    uint64_t *c = &r->chance_plan;
    p->shards = one_in(c, 2) ? 1 : (uint32_t)between(c, 1, RUN_SHARDS_MAX);
    p->total = p->shards;
    p->sharded = p->shards > 1 || one_in(c, 3);
    p->concurrency = one_in(c, 3) ? (uint32_t)between(c, 2, 4) : 1;
    p->asks_api = (uint32_t)one_in(c, 3);
    p->intents = one_in(c, 4) ? (uint32_t)GW_INTENT_GUILD_MESSAGES : (uint32_t)GW_INTENTS_ALL;
    p->budget = some(r, 15, 3, 30);
    p->budget_by_config = p->budget && !p->asks_api;
    p->ack_by_hand = (uint32_t)one_in(c, 4);
    p->fixed_memory = (uint32_t)one_in(c, 6);
    p->max_payload = some(r, 2, 4000, 100000);
    if (p->fixed_memory && !p->max_payload) p->max_payload = 65536;
    p->max_queued = some(r, 3, 1, 20);
    p->turn_bytes = some(r, 4, 100, 10000);
    p->turn_us = some(r, 6, 50, 2000);
    p->tick_us = some(r, 4, 1, 90);
    p->gate = (uint32_t)one_in(c, 8);
    p->clockless = (uint32_t)one_in(c, 10);
    p->interval_ms = one_in(c, 3) ? about(c, 1000, 60000) : 41250;
    p->rate = one_in(c, 6) ? 0 : (double)about(c, 10, 8000) / 1000.0 / (p->shards > 3 ? 3.0 : 1.0);
}

static void plan_wire(run *r, plan *p)
{
    uint64_t *c = &r->chance_plan;
    p->calm_wire = (uint32_t)one_in(c, 4);
    if (!p->calm_wire) {
        p->up_delay_us = some(r, 2, 100, 3000000);
        p->down_delay_us = some(r, 2, 100, 3000000);
        p->write_most = some(r, 5, 1, 200);
        p->wire_faults = !one_in(c, 5);
        p->corrupt = !p->tls && one_in(c, 8);
    }
    if (p->tls) p->up_delay_us = p->write_most = 0;    /* eyes.c reads behind TLS, where the client's bytes arrive */
    p->read_most = some(r, 5, 1, 500);
    p->split = (uint32_t)one_in(c, 2);
}

static void plan_caller(run *r, plan *p)
{
    uint64_t *c = &r->chance_plan;
    p->late_us = some(r, 2, 100, 5000000);
    if (one_in(c, 8)) p->frame_us = (uint32_t)about(c, 16000, 300000);
    if (one_in(c, 4)) {
        p->stall_of = (uint32_t)about(c, 100, 3000);
        p->stall_ms = (uint32_t)about(c, 1000, 150000);
    }
    p->caller_faults = !one_in(c, 5);
    p->restarts = (uint32_t)one_in(c, 2);
    p->suspends = (uint32_t)one_in(c, 4);
}

/* Chance of its own: what a seed was before there were shards by hand, the others still are. */
static void plan_hand(run *r, plan *p)
{
    uint64_t *c = &r->chance_hand;
    if (!one_in(c, 3)) return;
    p->by_hand = p->sharded = 1;
    if (one_in(c, 2)) p->shards = p->total = (uint32_t)between(c, 1, RUN_SHARDS_MAX);
    if (p->shards > 3 && p->rate > 3) p->rate /= 3.0;
    /* a fixed block is as large as the range, but of all shards where none runs from the beginning */
    if (one_in(c, 2) && !p->fixed_memory) p->first_shards = (uint32_t)between(c, 1, p->shards);
    p->hand_every_us = about(c, 300, 60000) * 1000u;
}

static void plan_reshard(run *r, plan *p)
{
    uint64_t *c = &r->chance_hand;
    uint32_t most = p->tls ? 3 : RUN_SHARDS_MAX;
    if (!one_in(c, 6) || p->corrupt || p->budget) return;
    p->new_total = (uint32_t)between(c, 1, most);
    p->reshard_in_us = below(c, p->storm_us);
    p->sharded = 1;
    p->gate = 1;
    p->suspends = 0;
    if (p->rate > 3) p->rate /= 3.0;
    if (p->turn_us && p->tick_us > p->turn_us / (8 + 4 * most)) p->tick_us = p->turn_us / (8 + 4 * most);
}

void plan_draw(run *r, int tls)
{
    plan *p = &r->plan;
    uint64_t *c = &r->chance_plan;
    memset(p, 0, sizeof *p);
    p->tls = tls != 0;
    plan_bot(r, p);
    plan_wire(r, p);
    plan_caller(r, p);
    plan_hand(r, p);
    /* of 120 payloads 110 are the caller's, however fast the heart beats: below 7 s he can starve it, as designed */
    if (p->caller_faults && p->interval_ms < 7000) p->interval_ms += 6000;
    /* an answer that takes longer than an interval is a dead connection, by the rules */
    if (p->interval_ms < 1000 + (p->up_delay_us + p->down_delay_us) / 300u)
        p->interval_ms = 1000 + (p->up_delay_us + p->down_delay_us) / 300u;
    if (p->frame_us || p->late_us > 100000) {       /* who polls rarely must be able to read all the same */
        if (p->read_most && p->read_most < 300) p->read_most = 300;
        if (p->turn_bytes && p->turn_bytes < 4000) p->turn_bytes = 4000;
        p->tick_us /= 10;
    }
    if (p->read_most && p->read_most < 20) p->tick_us /= 20;    /* a payload of 2 MB comes to its end one day */
    /* A turn that is over after its first step never comes to the end of several streams without a descriptor, which it
     * tries at each: the busy loop is the config's. */
    if (p->turn_us && p->shards > 1 && p->tick_us > p->turn_us / (8 + 4 * p->shards))
        p->tick_us = p->turn_us / (8 + 4 * p->shards);
    p->gateway_faults = !one_in(c, 6);
    p->storm_us = about(c, 30, 3600) * RUN_SECOND;
    p->fault_every_us = about(c, 1000, 120000) * 1000u;
    if (p->read_most || p->frame_us || p->write_most) p->storm_us = p->storm_us / 4 + RUN_SECOND;
    if (p->tls) {               /* a handshake costs 2 ms of real time, and a record of one byte 30 on the wire */
        p->storm_us = p->storm_us / 4 + RUN_SECOND;
        if (p->read_most) p->read_most += 100;
        if (p->shards > 3) p->shards = p->total = 3;
        if (p->first_shards > p->shards) p->first_shards = p->shards;
        p->clockless = 0;       /* without a clock no certificate is valid */
    }
    p->storm_of_closes = !p->tls && one_in(c, 400);
    plan_reshard(r, p);
    if (one_in(&r->chance_hand, 8) && !p->fixed_memory)
        p->memory_limit = p->shards * (p->tls ? 60000u : 10000u) + (uint32_t)about(&r->chance_hand, 1000, 300000);
    if (p->storm_of_closes) {
        p->memory_limit = p->new_total = p->by_hand = p->restarts = p->wire_faults = p->gateway_faults = p->budget = p->asks_api = p->corrupt = p->frame_us = 0;
        p->rate = 0;
        p->calm_wire = 1;
        p->stall_of = p->late_us = p->up_delay_us = p->down_delay_us = p->write_most = p->read_most = 0;
        p->storm_us = 30 * 3600 * RUN_SECOND;
    }
}

/* ---- configs ---- */
static size_t plan_ceiling(const run *r)
{
    size_t shards = r->plan.shards, payload = r->plan.max_payload ? r->plan.max_payload : 4u << 20;
    /* a shard: read-ahead of 32 KiB, TLS, the queue; its payload while a buffer grows, and the one in hand; the tokens
     * of an event, 20 bytes for two of JSON at worst */
    size_t per_shard = 40000 + (r->plan.tls ? 60000u : 0u) +
        (r->plan.max_queued ? r->plan.max_queued : 64u) * 4200u + 3 * payload;
    return sizeof(gw_config) + 100000 + shards * per_shard + 3 * payload + 10 * payload;
}

static void plan_gateway(run *r)
{
    sim_config *sim = &r->sim;
    const plan *p = &r->plan;
    sim_config_init(sim);
    sim->seed = chance(&r->chance_plan);
    sim->token = RUN_TOKEN;
    sim->url = p->tls ? "wss://localhost" : "ws://127.0.0.1";
    sim->resume_url = p->tls ? "wss://localhost:8443/resume" : "ws://127.0.0.1:8080/resume";
    sim->interval_ms = p->interval_ms;
    sim->event_rate = p->rate;
    sim->guilds = p->shards + (uint32_t)below(&r->chance_plan, 4);
    sim->members = 5;
    sim->shards = p->total;
    sim->max_concurrency = p->concurrency;
    sim->session_ttl_ms = about(&r->chance_plan, 20000, 600000);
    sim->expired_4009 = (uint32_t)one_in(&r->chance_plan, 3);
    if (p->budget) {    /* remaining below total: else the model's day begins with the first Identify, not now */
        sim->remaining = p->budget;
        sim->total = p->asks_api ? p->budget + 1 : 1000;
        sim->reset_after_ms = about(&r->chance_plan, 60000, 7200000);
    }
    /* where the way delays, the model's clock is no judge of rates: eyes.c is */
    if (!p->calm_wire) sim->payloads_per_minute = 0;
    sim->user = r;
}

void plan_config(run *r)
{
    gw_config *cfg = &r->cfg;
    const plan *p = &r->plan;
    plan_gateway(r);
    memset(cfg, 0, sizeof *cfg);
    cfg->token = RUN_TOKEN;
    cfg->intents = p->intents;
    if (p->sharded) {
        cfg->shard_count = (int32_t)(p->by_hand ? p->first_shards : p->shards);
        cfg->shard_total = (int32_t)p->total;
    }
    if (!p->asks_api) {
        cfg->url = r->sim.url;
        cfg->max_concurrency = p->concurrency;
        cfg->identify_remaining = p->budget;
        cfg->identify_reset_ms = p->budget ? (uint32_t)r->sim.reset_after_ms : 0;
    }
    cfg->ack_by_hand = p->ack_by_hand;
    cfg->max_payload = p->max_payload;
    cfg->max_queued = p->max_queued;
    cfg->turn_bytes = p->turn_bytes;
    cfg->turn_us = p->turn_us;
    cfg->ca_pem = p->tls ? wire_tls_ca() : NULL;
    r->ceiling_bytes = plan_ceiling(r);
    client_api_url = p->tls ? "https://localhost" : "http://127.0.0.1";
}
