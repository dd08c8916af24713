/* wire.c -- the transport in memory. Two pipes a connection, each with its own delays, so that what happens on two
 * connections reaches the other side in any order: a hangup of the old one after the Resume on the new one. It is cut
 * after so many bytes, goes silent in one direction or both, ends in one direction, damages a byte, or is refused. */
#include "simulation.h"
#include <stdlib.h>
#include <string.h>

#define WIRE_ROOM 65536u            /* a socket's buffer, each way */

/* ---- a pipe ---- */
size_t wire_waiting(const wire_pipe *pipe) { return pipe->end - pipe->begin; }

static void *wire_grow(void *old, size_t bytes)
{
    void *grown = realloc(old, bytes);
    if (!grown) abort();
    return grown;
}

static void wire_damage(wire_pipe *pipe, uint8_t *bytes, size_t len)
{
    while (pipe->corrupt_in != RUN_NEVER && pipe->corrupt_in < len) {
        bytes[pipe->corrupt_in] ^= (uint8_t)(1u << (pipe->corrupt_in & 7u));
        pipe->corrupt_in = RUN_NEVER;
    }
    if (pipe->corrupt_in != RUN_NEVER) pipe->corrupt_in -= len;
}

void wire_put(wire_pipe *pipe, const uint8_t *bytes, size_t len, uint64_t due_us)
{
    if (pipe->begin == pipe->end) pipe->begin = pipe->end = 0;
    if (pipe->first == pipe->last) pipe->first = pipe->last = 0;
    if (pipe->end + len > pipe->cap) {
        pipe->cap = (pipe->end + len) * 2;
        pipe->bytes = (uint8_t *)wire_grow(pipe->bytes, pipe->cap);
    }
    memcpy(pipe->bytes + pipe->end, bytes, len);
    wire_damage(pipe, pipe->bytes + pipe->end, len);
    pipe->end += len;
    if (pipe->last == pipe->piece_cap) {
        pipe->piece_cap = (pipe->piece_cap + 4) * 2;
        pipe->pieces = (wire_piece *)wire_grow(pipe->pieces, pipe->piece_cap * sizeof *pipe->pieces);
    }
    if (due_us < pipe->last_due_us) due_us = pipe->last_due_us;        /* TCP keeps the order */
    if (pipe->joins && pipe->first < pipe->last && pipe->pieces[pipe->last - 1].due_us == due_us) {
        pipe->pieces[pipe->last - 1].len += len;
        return;
    }
    pipe->last_due_us = due_us;
    pipe->pieces[pipe->last].due_us = due_us;
    pipe->pieces[pipe->last++].len = len;
}

/* When its next bytes are there. */
static uint64_t wire_due_us(const wire_pipe *pipe)
{
    return pipe->first < pipe->last ? pipe->pieces[pipe->first].due_us : RUN_NEVER;
}

/* The bytes that are there now, at most cap. */
static size_t wire_take(wire_pipe *pipe, uint64_t now_us, const uint8_t **bytes, size_t cap)
{
    wire_piece *piece = &pipe->pieces[pipe->first];
    size_t len;
    if (pipe->first == pipe->last || piece->due_us > now_us) return 0;
    len = piece->len < cap ? piece->len : cap;
    if (len > pipe->left) len = (size_t)pipe->left;
    *bytes = pipe->bytes + pipe->begin;
    pipe->begin += len;
    if (pipe->left != RUN_NEVER) pipe->left -= len;
    if ((piece->len -= len) == 0) pipe->first++;
    return len;
}

static void wire_empty(wire_pipe *pipe)
{
    pipe->begin = pipe->end = 0;
    pipe->first = pipe->last = 0;
}

/* ---- a connection ---- */
static uint64_t wire_delay(run *r, uint32_t most_us)
{
    return most_us ? below(&r->chance_wire, (uint64_t)most_us + 1) : 0;
}

static void wire_hang_up(stream *s)
{
    if (s->conn) sim_hangup(s->conn, run_ms(s->run));
    s->conn = NULL;
}

void wire_kill(stream *s)
{
    if (s->dead) return;
    s->dead = 1;
    s->disturbed = 1;
    if (!s->tls) laws_on_cut(s);
    wire_empty(&s->down);
    wire_empty(&s->up);
    wire_hang_up(s);
    caller_wake(s->run);
    s->run->moved++;
}

static int wire_is_frozen(const stream *s) { return s->run->now_us < s->frozen_until_us; }

/* One piece of what the gateway says; 0: there is none, or no room. */
static int wire_carry_plain(stream *s)
{
    run *r = s->run;
    size_t len;
    const uint8_t *bytes = sim_output(s->conn, &len);
    if (!len) return 0;
    if (len > WIRE_ROOM) len = WIRE_ROOM;
    if (r->plan.split && one_in(&r->chance_wire, 3)) len = (size_t)between(&r->chance_wire, 1, len);
    wire_put(&s->down, bytes, len, r->now_us + wire_delay(r, r->plan.down_delay_us));
    sim_output_taken(s->conn, len);
    return 1;
}

static int wire_is_flushed(stream *s)
{
    return s->tls ? wire_tls_flushed(s) : sim_pending(s->conn) == 0;
}

static void wire_settle(stream *s)
{
    switch (sim_connection_state(s->conn)) {
    case SIM_WANTS_RESET: wire_kill(s); break;
    case SIM_WANTS_CUT: case SIM_WANTS_CLOSE:
        if (!wire_is_flushed(s)) break;
        if (s->tls && sim_connection_state(s->conn) == SIM_WANTS_CLOSE) wire_tls_close(s);
        s->ended = 1;
        wire_hang_up(s);
        if (!wire_waiting(&s->down)) caller_wake(s->run);
        s->run->moved++;
        break;
    case SIM_OPEN: case SIM_FROZEN: break;
    }
}

/* What the gateway has to say is put on the wire, as far as the wire holds. */
static void wire_carry(stream *s)
{
    if (s->dead || !s->conn) return;
    while (wire_waiting(&s->down) < WIRE_ROOM && (s->tls ? wire_tls_send(s) : wire_carry_plain(s)))
        if (s->client_gone) wire_empty(&s->down);
    wire_settle(s);
}

/* What the client has said arrives. */
static void wire_arrive(stream *s)
{
    run *r = s->run;
    const uint8_t *bytes;
    size_t len;
    if (s->client_gone && r->now_us >= s->hangup_due_us && wire_is_frozen(s)) {
        wire_empty(&s->up);             /* the gateway's own TCP has given up */
        wire_hang_up(s);
    }
    if (wire_is_frozen(s)) return;
    while (!s->dead && (len = wire_take(&s->up, r->now_us, &bytes, SIZE_MAX)) != 0) {
        r->moved += len;
        if (r->now_us >= s->mute_up_from_us) { }
        else if (s->tls) wire_tls_received(s, bytes, len);
        else if (s->conn) sim_receive(s->conn, bytes, len, run_ms(r));
        if (s->up.left == 0) wire_kill(s);
    }
    if (s->client_gone && r->now_us >= s->hangup_due_us && !wire_waiting(&s->up)) wire_hang_up(s);
}

static void wire_drop(stream *s)
{
    stream **at = &s->run->streams;
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    wire_hang_up(s);
    wire_tls_free(s->tls);
    eyes_free(&s->eyes);
    free(s->down.bytes);
    free(s->down.pieces);
    free(s->up.bytes);
    free(s->up.pieces);
    free(s);
}

void wire_step(run *r)
{
    stream *s, *next;
    sim_tick(r->gateway, run_ms(r));
    for (s = r->streams; s; s = s->next) {
        wire_arrive(s);
        wire_carry(s);
    }
    for (s = r->streams; s; s = next) {
        next = s->next;
        if (s->client_gone && !s->conn) wire_drop(s);
    }
}

stream *wire_of(run *r, uint64_t conn_id)
{
    stream *s = r->streams;
    while (s && s->id != conn_id) s = s->next;
    return s;
}

/* ---- time ---- */
static uint64_t earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint64_t later(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* When the wire has something to do of itself. */
uint64_t wire_next_us(const run *r)
{
    uint64_t next_us = RUN_NEVER;
    const stream *s;
    for (s = r->streams; s; s = s->next) {
        uint64_t up_us = wire_due_us(&s->up);
        if (up_us != RUN_NEVER && s->frozen_until_us != RUN_NEVER)
            next_us = earlier(next_us, later(up_us, s->frozen_until_us));
        if (s->client_gone) next_us = earlier(next_us, s->hangup_due_us);
    }
    return next_us;
}

uint64_t stream_readable_us(const stream *s)
{
    if (s->client_gone) return RUN_NEVER;
    if (s->dead) return s->run->now_us;
    if (wire_waiting(&s->down)) return later(wire_due_us(&s->down), s->frozen_until_us);
    return s->ended ? later(s->run->now_us, s->frozen_until_us) : RUN_NEVER;
}

uint64_t wire_readable_us(const run *r)
{
    uint64_t next_us = RUN_NEVER;
    const stream *s;
    for (s = r->streams; s; s = s->next) {
        if (!r->held || !s->hello_us) next_us = earlier(next_us, stream_readable_us(s));    /* held: nobody looks */
        if (!s->client_gone && s->write_full_until_us > r->now_us)
            next_us = earlier(next_us, s->write_full_until_us);
    }
    return next_us;
}

/* ---- hooks ---- */
static void *wire_on_open(void *user, const char *host, uint16_t port)
{
    run *r = (run *)user;
    stream *s;
    r->moved++;
    r->own.connections++;
    if (r->phase == PHASE_STORM && r->plan.wire_faults && one_in(&r->chance_wire, 12)) {
        run_note(r, "wire: %s:%u refused", host, (unsigned)port);
        run_count_fault(r, "refuse");
        return NULL;
    }
    s = (stream *)calloc(1, sizeof *s);
    if (!s) abort();
    s->run = r;
    s->shard = -1;
    s->opened_us = run_mono_us(r);
    s->mute_up_from_us = s->hangup_due_us = RUN_NEVER;
    s->down.left = s->up.left = s->down.corrupt_in = s->up.corrupt_in = RUN_NEVER;
    s->down.joins = (uint32_t)one_in(&r->chance_wire, 2);
    s->next = r->streams;
    r->streams = s;
    s->conn = sim_accept(r->gateway, run_ms(r));
    s->id = sim_connection_id(s->conn);
    if (r->plan.tls) s->tls = wire_tls_new(r);
    run_note(r, "wire: %s:%u is connection %llu", host, (unsigned)port, (unsigned long long)s->id);
    if (r->phase == PHASE_STORM && r->plan.wire_faults && one_in(&r->chance_wire, 25)) {
        s->frozen_until_us = RUN_NEVER;
        s->disturbed = 1;
        run_count_fault(r, "black_hole");
    }
    return s;
}

static int32_t wire_on_read(void *user, void *handle, void *bytes, uint32_t len)
{
    run *r = (run *)user;
    stream *s = (stream *)handle;
    const uint8_t *from;
    size_t part = len;
    if (s->dead) return -1;
    if (wire_is_frozen(s)) return 0;
    wire_carry(s);
    if (s->dead) return -1;
    if (!wire_waiting(&s->down)) return s->ended ? -1 : 0;
    if (r->plan.read_most && part > r->plan.read_most) part = r->plan.read_most;
    part = wire_take(&s->down, r->now_us, &from, part);
    if (!part) {
        if (s->down.left) return 0;
        wire_kill(s);
        return -1;
    }
    memcpy(bytes, from, part);
    r->moved += part;
    if (s->ack_on_its_way) {
        s->ack_us = run_mono_us(r);
        s->ack_on_its_way = 0;
    }
    return (int32_t)part;
}

static int32_t wire_on_write(void *user, void *handle, const void *bytes, uint32_t len)
{
    run *r = (run *)user;
    stream *s = (stream *)handle;
    size_t part = len;
    if (s->dead) return -1;
    if (!s->tls) eyes_see(s, (const uint8_t *)bytes, len);
    if (r->now_us < s->write_full_until_us || wire_waiting(&s->up) >= WIRE_ROOM) return 0;
    if (r->plan.write_most && part > r->plan.write_most) part = r->plan.write_most;
    s->eyes.taken += part;
    r->moved += part;
    if (s->ended && !s->conn) return (int32_t)part;     /* nobody is there any more */
    wire_put(&s->up, (const uint8_t *)bytes, part, r->now_us + wire_delay(r, r->plan.up_delay_us));
    wire_arrive(s);
    return (int32_t)part;
}

static intptr_t wire_on_fd(void *user, void *handle)
{
    (void)user;
    (void)handle;
    return -1;
}

static void wire_on_close(void *user, void *handle)
{
    run *r = (run *)user;
    stream *s = (stream *)handle;
    run_note(r, "wire: connection %llu left by the client", (unsigned long long)s->id);
    s->client_gone = 1;
    s->hangup_due_us = later(s->up.last_due_us, r->now_us) + wire_delay(r, r->plan.up_delay_us);
    if (wire_is_frozen(s)) s->hangup_due_us += below(&r->chance_wire, 300 * RUN_SECOND);
    wire_empty(&s->down);
    r->moved++;
    wire_arrive(s);     /* it stays in the list until the next step: others may hold it */
}

const gw_transport wire_hooks = { wire_on_open, wire_on_read, wire_on_write, wire_on_fd, wire_on_close };

void wire_free(run *r)
{
    while (r->streams) wire_drop(r->streams);
}
