/* run.c -- one run, from its seed to its end: a storm of faults, the calm after it in which all must come back, the
 * stop. Time leaps from one thing that is due to the next. */
#include "simulation.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIVE_WITHIN (900 * RUN_SECOND)      /* after the last fault: three dead intervals, the longest backoff, eight shards */
#define LIVE_FOR (45 * RUN_SECOND)          /* ... and then so long, for what was missed to come */

/* ---- chance: splitmix64 ---- */
uint64_t chance(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

uint64_t below(uint64_t *state, uint64_t limit) { return limit ? chance(state) % limit : 0; }
uint64_t between(uint64_t *state, uint64_t from, uint64_t to) { return from + below(state, to - from + 1); }
int one_in(uint64_t *state, uint64_t n) { return n && below(state, n) == 0; }

uint64_t about(uint64_t *state, uint64_t from, uint64_t to)
{
    uint64_t low = from, high;
    uint32_t doublings = 0;
    for (high = from; high < to / 2; high *= 2) doublings++;
    for (doublings = (uint32_t)below(state, (uint64_t)doublings + 1); doublings; doublings--) low *= 2;
    return between(state, low, low * 2 < to ? low * 2 : to);
}

/* ---- time, trace ---- */
uint64_t run_ms(const run *r) { return r->now_us / 1000u; }
uint64_t run_mono_us(const run *r) { return r->now_us - r->slept_us; }

void run_note(run *r, const char *format, ...)
{
    char text[1200];
    const char *at = text;
    va_list list;
    if (r->verbose <= 0) return;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    for (; *at; at++) r->hash = (r->hash ^ (uint8_t)*at) * UINT64_C(0x100000001B3);
    r->hash = (r->hash ^ r->now_us) * UINT64_C(0x100000001B3);
    if (r->verbose > 1) printf("%11.6f %s%s\n", (double)r->now_us / 1e6, r->is_second ? "second " : "", text);
}

void run_count_fault(run *r, const char *name)
{
    figures *f = r->figures;
    uint32_t i;
    f->faults++;
    for (i = 0; i < f->kind_count; i++) if (strncmp(f->kinds[i].name, name, sizeof f->kinds[i].name - 1) == 0) break;
    if (i == FAULT_KINDS_MAX) return;
    if (i == f->kind_count) snprintf(f->kinds[f->kind_count++].name, sizeof f->kinds[i].name, "%.31s", name);
    f->kinds[i].count++;
}

/* The clock of the client that does not move stands a little behind: it is of no session that has news. */
static void on_gateway_line(void *user, const char *line)
{
    run *r = ledger_owner((run *)user, line), *other = r->other;
    if (other && r->now_us < other->now_us) r->now_us = other->now_us;
    ledger_on_line(r, line);
}

/* ---- life ---- */
static void run_begin(run *r, run *second, uint64_t seed, int tls, int verbose, figures *f)
{
    static permit permits[PERMITS];
    uint64_t state = seed * UINT64_C(0x9E3779B97F4A7C15) + (tls ? 77u : 0u);
    memset(r, 0, sizeof *r);
    r->seed = seed;
    r->verbose = verbose;
    r->figures = f;
    r->broken = -1;
    r->hash = UINT64_C(0xCBF29CE484222325);
    r->chance_plan = chance(&state);
    r->chance_wire = chance(&state);
    r->chance_caller = chance(&state);
    r->chance_fault = chance(&state);
    r->chance_client = chance(&state);
    r->chance_tls = chance(&state);
    r->chance_hand = chance(&state);
    r->now_us = 1000 * RUN_SECOND + below(&r->chance_plan, RUN_SECOND);
    plan_draw(r, tls);
    plan_config(r);
    r->sim.log = on_gateway_line;
    if (r->plan.new_total) {
        memset(permits, 0, sizeof permits);
        r->second = second;
        r->permits = permits;
        r->reshard_at_us = r->now_us + r->plan.reshard_in_us;
    }
    r->gateway = sim_new(&r->sim, run_ms(r));
    r->storm_ends_us = r->now_us + r->plan.storm_us;
    r->next_fault_us = r->now_us + below(&r->chance_fault, 2 * r->plan.fault_every_us);
    run_note(r, "plan: %u shards of %u, by hand %u after the first %u, then %u, tls %u, concurrency %u, api %u, "
             "budget %u, ack by hand %u, fixed %u, max_payload %u, queued %u, turn %u bytes %u us, tick %u us, "
             "interval %llu ms, corrupt %u, calm %u, up %u us, down %u us, write %u, read %u, late %u us, stall %u ms, frame %u us", (unsigned)r->plan.shards, (unsigned)r->plan.total,
             (unsigned)r->plan.by_hand, (unsigned)r->plan.first_shards, (unsigned)r->plan.new_total,
             (unsigned)r->plan.tls, (unsigned)r->plan.concurrency, (unsigned)r->plan.asks_api, (unsigned)r->plan.budget,
             (unsigned)r->plan.ack_by_hand, (unsigned)r->plan.fixed_memory, (unsigned)r->plan.max_payload,
             (unsigned)r->plan.max_queued, (unsigned)r->plan.turn_bytes, (unsigned)r->plan.turn_us,
             (unsigned)r->plan.tick_us, (unsigned long long)r->plan.interval_ms, (unsigned)r->plan.corrupt,
             (unsigned)r->plan.calm_wire, (unsigned)r->plan.up_delay_us, (unsigned)r->plan.down_delay_us,
             (unsigned)r->plan.write_most, (unsigned)r->plan.read_most, (unsigned)r->plan.late_us,
             (unsigned)(r->plan.stall_of ? r->plan.stall_ms : 0), (unsigned)r->plan.frame_us);
    caller_open(r, 0);
}

static void run_end(run *r)
{
    caller_close(r);
    wire_free(r);
    ledger_free(r);
    hand_free(r);
    free(r->text);
    free(r->identifies);
}

/* ---- phases ---- */
static int run_is_well(const run *r)
{
    const stream *s;
    if (!r->gw || r->stopping || r->held || r->suspend_until_us || !hand_all_live(r)) return 0;
    for (s = r->streams; s; s = s->next)
        if (!s->client_gone && (s->dead || s->ended || !s->conn || r->now_us < s->frozen_until_us ||
                                r->now_us >= s->mute_up_from_us || s->down.left != RUN_NEVER || s->up.left != RUN_NEVER))
            return 0;
    return 1;
}

static void run_look_at_calm(run *r)
{
    int well = run_is_well(r);
    uint64_t calm_us = r->calm_us > r->server_wait_until_us ? r->calm_us : r->server_wait_until_us;
    if (!well) r->live_us = 0;
    else if (!r->live_us) r->live_us = r->now_us;
    if (well && r->now_us - r->live_us >= LIVE_FOR && gw_timeout_ms(r->gw) != 0 && wire_readable_us(r) > r->now_us) {
        ledger_check_all(r, r->now_us - 30 * RUN_SECOND);
        r->phase = PHASE_LIVE;
        caller_stop(r, one_in(&r->chance_caller, 2) ? GW_END : GW_KEEP);
        return;
    }
    if (r->now_us < calm_us + LIVE_WITHIN + 4 * r->plan.interval_ms * 1000u) return;
    r->phase = PHASE_OVER;          /* a small budget of the day may be spent: that is no fault */
    if (!r->plan.budget && !r->plan.storm_of_closes)
        law_broken(r, LAW_live_again, "%llu s after the last fault %s",
                   (unsigned long long)((r->now_us - r->calm_us) / RUN_SECOND),
                   !r->gw ? "there is no client" : r->stopping ? "it is stopping" :
                   hand_all_live(r) ? "a dead connection counts as LIVE" : "not all shards are LIVE");
}

/* The machine has slept whole milliseconds: both clocks have the same fractions, and a time that the gateway tells in
 * milliseconds is not over one too early. */
static void run_wake(run *r)
{
    uint64_t rest_us = (1000u - r->slept_us % 1000u) % 1000u;
    r->now_us += rest_us;
    r->slept_us += rest_us;
    r->suspend_until_us = 0;
}

static void run_look_at_phase(run *r)
{
    switch (r->phase) {
    case PHASE_STORM:
        if (r->now_us < r->storm_ends_us) return;
        run_note(r, "the storm is over");
        r->phase = PHASE_CALM;
        r->calm_us = r->now_us;
        if (r->suspend_until_us) run_wake(r);
        faults_calm(r);
        r->poll_at_us = r->now_us;      /* a turn, in which the caller lets go of what he holds */
        return;
    case PHASE_CALM: run_look_at_calm(r); return;
    case PHASE_LIVE: if (!r->gw) r->phase = PHASE_OVER; return;
    case PHASE_OVER: return;
    }
}

/* ---- time passes ---- */
static uint64_t earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }

static uint64_t run_next_us(const run *r)
{
    uint64_t next_us = wire_next_us(r), sim_ms = sim_next_ms(r->gateway), sim_us;
    if (r->phase == PHASE_STORM && r->second && !r->other && r->reshard_at_us > r->now_us)
        next_us = earlier(next_us, r->reshard_at_us);
    if (sim_ms != SIM_NEVER) {
        sim_us = sim_ms * 1000u;
        next_us = earlier(next_us, sim_us > r->now_us ? sim_us : r->now_us + 1000u);
    }
    if (r->gw && !r->suspend_until_us) next_us = earlier(next_us, r->poll_at_us);
    if (r->suspend_until_us) next_us = earlier(next_us, r->suspend_until_us);
    if (!r->gw && r->restart_at_us) next_us = earlier(next_us, r->restart_at_us);
    if (r->phase == PHASE_STORM) next_us = earlier(next_us, earlier(r->next_fault_us, r->storm_ends_us));
    if (r->phase == PHASE_STORM && r->plan.by_hand) next_us = earlier(next_us, r->next_hand_us);
    if (r->phase == PHASE_CALM) next_us = earlier(next_us, r->now_us + RUN_SECOND);
    return next_us;
}

/* What is due of a client. */
static void run_move(run *r)
{
    wire_step(r);
    caller_wake(r);
    faults_step(r);
    hand_step(r);
    if (r->gw && !r->suspend_until_us && r->now_us >= r->poll_at_us) caller_turn(r);
    wire_step(r);
    caller_wake(r);
    if (r->gw || r->phase > PHASE_CALM || r->is_retired) return;
    if (!r->restart_at_us) r->restart_at_us = r->now_us + RUN_SECOND;
    else if (r->now_us >= r->restart_at_us) caller_open(r, r->text != NULL);
}

static void run_other(run *r)
{
    if (!r->other) return;
    if (r->other->now_us < r->now_us) r->other->now_us = r->now_us;
    run_move(r->other);
    if (r->now_us < r->other->now_us) r->now_us = r->other->now_us;
}

/* The run that counts afterwards. */
static run *run_step(run *r)
{
    uint64_t next_us = run_next_us(r), before_us = r->now_us;
    if (r->other) next_us = earlier(next_us, run_next_us(r->other));
    r->idle_steps = next_us > r->now_us || r->stepped_us != r->now_us ? 0 : r->idle_steps + 1;
    r->stepped_us = r->now_us;
    if (r->idle_steps > 100000) {
        fprintf(stderr, "simulation: seed %llu: the simulation itself stands still\n", (unsigned long long)r->seed);
        abort();
    }
    if (next_us > r->now_us) r->now_us = next_us;
    if (r->suspend_until_us) {      /* monotonic time stands still */
        r->slept_us += r->now_us - before_us;
        r->poll_at_us += r->now_us - before_us;
        r->suspended_us = r->now_us;
        if (r->now_us >= r->suspend_until_us) run_wake(r);
    }
    run_move(r);
    run_other(r);
    r = reshard_step(r);
    run_look_at_phase(r);
    return r;
}

static void run_report(const run *r)
{
    const char *tls = r->plan.tls ? "--tls " : "";
    if (r->verbose < 0) return;
    if (r->broken >= 0)
        printf("seed %llu BROKEN %s: %s\n    again: build/simulation %s%llu -v\n", (unsigned long long)r->seed,
               law_name((law)r->broken), r->why, tls, (unsigned long long)r->seed);
    else if (r->verbose)
        printf("seed %llu holds: %.0f s of virtual time, %llu events, %llu connections, %llu resumes, %llu identifies, "
               "%llu polls, trace %016llx\n", (unsigned long long)r->seed, (double)r->own.virtual_us / 1e6,
               (unsigned long long)r->own.events, (unsigned long long)r->own.connections,
               (unsigned long long)r->own.resumes, (unsigned long long)r->own.identifies,
               (unsigned long long)r->own.polls, (unsigned long long)r->hash);
    fflush(stdout);
}

/* What the second client did, and what it broke. */
static void run_add(run *r, const run *other)
{
    r->own.events += other->own.events;
    r->own.connections += other->own.connections;
    r->own.resumes += other->own.resumes;
    r->own.identifies += other->own.identifies;
    r->own.restarts += other->own.restarts;
    r->own.polls += other->own.polls;
    r->hash ^= other->hash;
    if (other->broken < 0 || r->broken >= 0) return;
    r->broken = other->broken;
    memcpy(r->why, other->why, sizeof r->why);
}

void run_seed(uint64_t seed, int tls, int verbose, figures *f, int *broken)
{
    static run first, second;
    run *r = &first;
    uint64_t began_us;
    run_begin(r, &second, seed, tls, verbose, f);
    began_us = r->now_us;
    while (r->phase != PHASE_OVER && r->broken < 0 && (!r->other || r->other->broken < 0)) r = run_step(r);
    first.own.virtual_us = r->now_us - began_us;
    if (first.other) {
        run_end(&second);
        run_add(&first, &second);
    }
    r = &first;
    run_end(r);
    sim_free(r->gateway);
    run_report(r);
    f->seeds++;
    f->virtual_us += r->own.virtual_us;
    f->events += r->own.events;
    f->connections += r->own.connections;
    f->resumes += r->own.resumes;
    f->identifies += r->own.identifies;
    f->restarts += r->own.restarts;
    f->polls += r->own.polls;
    f->violations += r->broken >= 0;
    *broken = r->broken;
}
