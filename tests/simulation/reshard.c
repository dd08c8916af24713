/* reshard.c -- from one number of shards to another while events flow: a second client of the bot beside the first, in
 * one loop, one gate before the Identifies of both (examples/reshard.c); then the first is stopped. Each client is a
 * run of its own with its own caller, wire and books; gateway and time are one. */
#include "simulation.h"
#include <string.h>

#define OVERLAP (2 * RUN_SECOND)
#define IDENTIFY_EVERY (5500 * UINT64_C(1000))

/* ---- the gate: a permit is held from "go" until IDENTIFYING was handed out; the 5 s begin there ---- */
int32_t gate_ask(run *r, int32_t shard, uint32_t bucket)
{
    permit *p = &r->permits[bucket % PERMITS];
    if (p->holder) return 100;
    if (p->free_us > r->now_us) return (int32_t)((p->free_us - r->now_us) / 1000u) + 1;
    p->holder = r;
    p->shard = shard;
    return 0;
}

void gate_on_event(run *r, const gw_event *event)
{
    uint32_t i;
    int spent = event->type == GW_IDENTIFYING;
    if (!spent && event->type != GW_DISCONNECTED && event->type != GW_SHARD_STOPPED) return;
    for (i = 0; r->permits && i < PERMITS; i++) {
        permit *p = &r->permits[i];
        if (p->holder != r || p->shard != event->shard) continue;
        p->holder = NULL;
        if (spent) p->free_us = r->now_us + IDENTIFY_EVERY;
    }
}

/* The client is gone, and may have identified just now. */
void gate_let_go(run *r)
{
    uint32_t i;
    for (i = 0; r->permits && i < PERMITS; i++) {
        if (r->permits[i].holder != r) continue;
        r->permits[i].holder = NULL;
        r->permits[i].free_us = r->now_us + IDENTIFY_EVERY;
    }
}

/* ---- the second client ---- */
static void reshard_begin(run *r)
{
    run *second = r->second;
    uint64_t *c = &r->chance_hand;
    memset(second, 0, sizeof *second);
    second->seed = r->seed;
    second->verbose = r->verbose;
    second->is_second = 1;
    second->figures = r->figures;
    second->broken = -1;
    second->hash = r->hash;
    second->chance_plan = chance(c);
    second->chance_wire = chance(c);
    second->chance_caller = chance(c);
    second->chance_client = chance(c);
    second->chance_tls = chance(c);
    second->chance_hand = chance(c);
    second->now_us = r->now_us;
    second->plan = r->plan;
    second->plan.by_hand = second->plan.first_shards = second->plan.new_total = 0;
    second->plan.shards = second->plan.total = r->plan.new_total;
    second->plan.sharded = 1;
    plan_config(second);
    second->sim = r->sim;
    second->gateway = r->gateway;
    second->permits = r->permits;
    second->next_fault_us = second->storm_ends_us = RUN_NEVER;
    second->other = r;
    r->other = second;
    r->reshard_at_us = RUN_NEVER;
    memcpy(second->identify_us, r->identify_us, sizeof r->identify_us);
    run_count_fault(r, "reshard");
    run_note(r, "caller: from %u shards to %u", (unsigned)r->plan.total, (unsigned)r->plan.new_total);
    caller_open(second, 0);
}

/* The second goes on alone, and what is left of the storm is its own. */
static run *reshard_end(run *r)
{
    run *second = r->other;
    second->chance_fault = r->chance_fault;
    second->next_fault_us = r->next_fault_us;
    second->storm_ends_us = r->storm_ends_us;
    r->phase = PHASE_CALM;
    r->is_retired = 1;
    r->restart_at_us = 0;
    caller_stop(r, one_in(&r->chance_hand, 4) ? GW_KEEP : GW_END);
    return second;
}

/* Which run is the one that counts. */
run *reshard_step(run *r)
{
    if (r->phase != PHASE_STORM || r->is_second) return r;
    if (!r->other) {
        if (r->second && r->now_us >= r->reshard_at_us && r->gw && !r->stopping) reshard_begin(r);
        return r;
    }
    if (!r->other->gw || !hand_all_live(r->other)) r->other->live_us = 0;
    else if (!r->other->live_us) r->other->live_us = r->now_us;
    if (r->now_us < r->storm_ends_us && (!r->other->live_us || r->now_us < r->other->live_us + OVERLAP)) return r;
    r->other->live_us = 0;
    return reshard_end(r);
}
