/* faults.c -- what goes wrong, by name: at the gateway (commands of tests/simulator), on the wire, to the process and
 * to the machine. All of it is drawn from the seed; all of it ends when the storm does. */
#include "simulation.h"
#include <stdio.h>
#include <string.h>

/* How often against the others; the command; 1: only for the next connection, as it has no meaning later. */
static const struct { uint32_t weight; const char *command; uint32_t next; } gateway_faults[] = {
    { 10, "op7", 0 }, { 4, "op9 true", 0 }, { 3, "op9 false", 0 }, { 4, "op1", 0 }, { 6, "cut", 0 }, { 4, "reset", 0 },
    { 3, "cut_before_frame", 0 }, { 4, "cut_inside_frame", 0 }, { 3, "cut_after_frame", 0 },
    { 4, "freeze", 0 }, { 4, "thaw", 0 }, { 4, "close 4000", 0 }, { 1, "close 4001", 0 }, { 1, "close 4002", 0 },
    { 2, "close 4003", 0 }, { 1, "close 4005", 0 }, { 1, "close 4006", 0 }, { 2, "close 4007", 0 },
    { 2, "close 4008", 0 }, { 2, "close 4009 Session timed out.", 0 }, { 2, "close 1000", 0 }, { 2, "close 1001", 0 },
    { 1, "close 1006", 0 }, { 1, "close 1012 restart", 0 }, { 1, "close 4999 what", 0 }, { 1, "close_empty", 0 },
    { 1, "close_one_byte", 0 }, { 2, "unknown_op", 0 }, { 3, "unknown_event", 0 }, { 3, "seq_huge", 0 },
    { 2, "seq_zero", 0 }, { 3, "broken_json", 0 }, { 2, "no_op", 0 }, { 3, "ping hello", 0 }, { 2, "pong", 0 },
    { 1, "bad_utf8", 0 }, { 2, "length_lie", 0 }, { 1, "length_lie 100000", 0 }, { 1, "masked_frame", 0 },
    { 1, "rsv", 0 }, { 1, "binary_frame", 0 }, { 1, "reserved_opcode", 0 }, { 1, "fragmented_ping", 0 },
    { 1, "long_ping", 0 }, { 1, "lone_continuation", 0 }, { 2, "garbage", 0 }, { 3, "one_byte", 0 },
    { 3, "fragments 3", 0 }, { 3, "key_order", 0 }, { 4, "no_ack", 0 }, { 3, "late_ack 2000", 0 },
    { 2, "late_ack 50000", 0 }, { 3, "calm", 0 }, { 3, "hello", 0 }, { 4, "big 9000", 0 }, { 4, "big 60000", 0 },
    { 2, "big 300000", 0 }, { 1, "big 2000000", 0 }, { 1, "event RESUMED {}", 0 },
    { 4, "no_hello", 1 }, { 4, "no_ready", 1 }, { 4, "late_ready 5000", 1 }, { 2, "late_ready 90000", 1 },
    { 4, "key_order", 1 }, { 3, "fragments 2", 1 }, { 3, "one_byte", 1 }, { 4, "http 503", 1 }, { 3, "http 429 header 3", 1 },
    { 3, "http 429 body 2.5", 1 }, { 2, "http 500", 1 }, { 2, "http_endless", 1 }, { 3, "stall_http", 1 },
    { 2, "wrong_accept", 1 }, { 2, "no_upgrade", 1 }, { 2, "garbage", 1 }, { 2, "reset", 1 }, { 2, "cut", 1 },
    { 2, "http_body chunked", 1 }, { 1, "http_body until_close", 1 }, { 2, "foreign_resume_url wss://evil.example/", 1 },
    { 2, "no_ack", 1 }, { 3, "expire_sessions", 0 }
};
#define GATEWAY_FAULTS (sizeof gateway_faults / sizeof gateway_faults[0])

/* After one of these happenings. */
static const char *const moments[] = { "hello", "identify", "resume", "ready", "resumed", "heartbeat", "open" };
static const char *const momentary[] = { "cut", "reset", "op7", "op9 false", "close 4000", "close 4009", "freeze",
                                         "cut_inside_frame", "op1", "garbage", "op9 true", "close 4003" };

static sim_connection *a_connection(run *r)
{
    sim_connection *conn = NULL;
    uint64_t count = 0, nth;
    while ((conn = sim_next_connection(r->gateway, conn)) != NULL) count++;
    if (!count) return NULL;
    for (nth = below(&r->chance_fault, count), conn = sim_next_connection(r->gateway, NULL); nth; nth--)
        conn = sim_next_connection(r->gateway, conn);
    return conn;
}

static void obey(run *r, sim_connection *conn, const char *text)
{
    char why[200] = "";
    /* Its s is 7, whatever was sent before. Where MESSAGE_CREATE is unwanted, it is passed over, as designed: the client
     * looks at no byte behind s, and takes the 7 for true. */
    if (strcmp(text, "broken_json") == 0 && r->plan.caller_faults) text = "raw {\"t\":null,\"op\":0,\"d\":{\"a\":[1,2}";
    run_note(r, "fault: %s on %llu", text, conn ? (unsigned long long)sim_connection_id(conn) : 0ULL);
    if (!sim_command(r->gateway, conn, text, run_ms(r), why, sizeof why))
        law_broken(r, LAW_model_rules, "the simulation's own command is refused: %s", why);
    r->moved++;
}

static void fault_of_gateway(run *r)
{
    uint64_t sum = 0, mark;
    size_t i;
    char text[120];
    sim_connection *conn = a_connection(r);
    for (i = 0; i < GATEWAY_FAULTS; i++) sum += gateway_faults[i].weight;
    mark = below(&r->chance_fault, sum);
    for (i = 0; mark >= gateway_faults[i].weight; i++) mark -= gateway_faults[i].weight;
    run_count_fault(r, gateway_faults[i].command);
    if (gateway_faults[i].next) {
        snprintf(text, sizeof text, "next %u %s", (unsigned)between(&r->chance_fault, 1, 3), gateway_faults[i].command);
        obey(r, NULL, text);
    } else if (conn || strcmp(gateway_faults[i].command, "expire_sessions") == 0) {
        obey(r, one_in(&r->chance_fault, 8) ? NULL : conn, gateway_faults[i].command);
    }
}

static void fault_at_a_moment(run *r)
{
    char text[120];
    const char *what = momentary[below(&r->chance_fault, sizeof momentary / sizeof momentary[0])];
    snprintf(text, sizeof text, "on %s x1 %s", moments[below(&r->chance_fault, sizeof moments / sizeof moments[0])], what);
    run_count_fault(r, "at_a_moment");
    obey(r, NULL, text);
}

/* ---- the wire ---- */
static stream *a_stream(run *r)
{
    stream *s;
    uint64_t count = 0, nth;
    for (s = r->streams; s; s = s->next) count += !s->client_gone;
    if (!count) return NULL;
    nth = below(&r->chance_fault, count);
    for (s = r->streams; s->client_gone || nth--; ) s = s->next;
    return s;
}

static void fault_of_wire(run *r)
{
    uint64_t *c = &r->chance_fault;
    stream *s = a_stream(r);
    static const char *const names[] = { "wire_cut", "wire_cut_down_in", "wire_cut_up_in", "wire_freeze", "wire_silent",
                                         "wire_write_full", "wire_mute_up", "wire_half_close", "wire_damage_down",
                                         "wire_damage_up" };
    uint64_t kind = below(c, 10);
    int may_damage = r->plan.corrupt || r->plan.tls;
    if (!s || (kind >= 8 && !may_damage)) return;
    run_note(r, "fault: %s on %llu", names[kind], (unsigned long long)s->id);
    run_count_fault(r, names[kind]);
    s->disturbed = 1;
    switch (kind) {
    case 0: wire_kill(s); break;
    case 1: s->down.left = about(c, 1, 20000); break;
    case 2: s->up.left = about(c, 1, 3000); break;
    case 3: s->frozen_until_us = r->now_us + about(c, RUN_SECOND / 10, 150 * RUN_SECOND); break;
    case 4: s->frozen_until_us = RUN_NEVER; break;
    case 5: if (!r->plan.tls) s->write_full_until_us = r->now_us + about(c, RUN_SECOND / 10, 100 * RUN_SECOND); break;
    case 6: s->mute_up_from_us = r->now_us; break;
    case 7: s->ended = 1; if (s->conn) sim_hangup(s->conn, run_ms(r)); s->conn = NULL; break;
    case 8: s->down.corrupt_in = about(c, 1, 5000); break;
    default: s->up.corrupt_in = about(c, 1, 500); break;
    }
    caller_wake(r);
}

/* ---- the machine ---- */
static void fault_of_machine(run *r)
{
    uint64_t sleep_us = about(&r->chance_fault, RUN_SECOND / 10, 1000 * RUN_SECOND);
    if (r->suspend_until_us) return;
    run_note(r, "fault: suspend for %llu ms", (unsigned long long)(sleep_us / 1000u));
    run_count_fault(r, "suspend");
    r->suspend_until_us = r->now_us + sleep_us;
}

/* A server that lets everybody in and throws everybody out: Identify after Identify, for more than a day. */
static void fault_storm(run *r)
{
    sim_connection *conn = a_connection(r);
    run_count_fault(r, "storm_of_closes");
    if (conn) obey(r, conn, one_in(&r->chance_fault, 2) ? "op9 false" : "close 4009");
}

static void fault_once(run *r)
{
    const plan *p = &r->plan;
    uint64_t kind = below(&r->chance_fault, 100);
    if (p->storm_of_closes) fault_storm(r);
    else if (kind < 45) { if (p->gateway_faults) fault_of_gateway(r); }
    else if (kind < 55) { if (p->gateway_faults) fault_at_a_moment(r); }
    else if (kind < 85) { if (p->wire_faults) fault_of_wire(r); }
    else if (kind < 95) { if (p->restarts) caller_restart(r); }
    else if (p->suspends) fault_of_machine(r);
}

void faults_step(run *r)
{
    if (r->phase != PHASE_STORM || r->now_us < r->next_fault_us) return;
    fault_once(r);
    r->next_fault_us = r->now_us + 1000 + below(&r->chance_fault, 2 * r->plan.fault_every_us);
}

/* The last fault was: the sun shines. What is frozen stays dead, or goes on; nothing new goes wrong. */
void faults_calm(run *r)
{
    stream *s;
    sim_trigger *trigger;
    for (trigger = r->gateway->triggers; trigger; trigger = trigger->next) trigger->left = 0;
    obey(r, NULL, "calm");
    obey(r, NULL, "answer");        /* a READY that is withheld is waited for, as long as it takes */
    obey(r, NULL, "thaw");
    for (s = r->streams; s; s = s->next) {
        s->down.corrupt_in = s->up.corrupt_in = s->down.left = s->up.left = RUN_NEVER;
        if (s->frozen_until_us != RUN_NEVER && s->frozen_until_us > r->now_us + RUN_SECOND) s->frozen_until_us = r->now_us;
        s->write_full_until_us = 0;
    }
    r->plan.write_most = 0;
    hand_calm(r);
    caller_wake(r);
}
