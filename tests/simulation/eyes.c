/* eyes.c -- reads what the client writes, in the moment in which it wants to write it, and independently of the model:
 * requests are passed over, frames unmasked, payloads and close codes handed to the laws. */
#include "simulation.h"
#include <stdlib.h>
#include <string.h>

static void eyes_keep(eyes *e, const uint8_t *bytes, size_t len)
{
    if (e->len + len > e->cap) {
        e->cap = (e->len + len) * 2;
        e->bytes = (uint8_t *)realloc(e->bytes, e->cap);
        if (!e->bytes) abort();
    }
    memcpy(e->bytes + e->len, bytes, len);
    e->len += len;
}

static void eyes_drop(eyes *e, size_t len)
{
    e->len -= len;
    memmove(e->bytes, e->bytes + len, e->len);
}

/* The end of a request's head; 0: not there yet. */
static size_t eyes_head(const eyes *e)
{
    size_t i;
    for (i = 0; i + 4 <= e->len; i++) if (memcmp(e->bytes + i, "\r\n\r\n", 4) == 0) return i + 4;
    return 0;
}

static void eyes_on_frame(stream *s, uint32_t opcode, uint8_t *payload, size_t len)
{
    uint64_t op = 99;
    sim_slice text;
    text.ptr = (const char *)payload;
    text.len = len;
    if (opcode == SIM_CLOSE) laws_on_close(s, len >= 2 ? (uint32_t)payload[0] << 8 | payload[1] : 0);
    if (opcode != SIM_TEXT) return;
    sim_json_u64(sim_json_get(text, "op"), &op);
    laws_on_payload(s, (uint32_t)op, text.ptr, text.len);
}

/* One frame; 0: it is not whole yet. */
static int eyes_frame(stream *s)
{
    eyes *e = &s->eyes;
    size_t head = 2, i;
    uint64_t len;
    uint8_t mask[4], *payload;
    if (e->len < 2) return 0;
    len = e->bytes[1] & 127u;
    if (len == 126) head = 4;
    if (len == 127) head = 10;
    if (e->len < head + 4) return 0;
    if (head > 2) for (len = 0, i = 2; i < head; i++) len = len << 8 | e->bytes[i];
    if (e->len < head + 4 + len) return 0;
    memcpy(mask, e->bytes + head, 4);
    payload = e->bytes + head + 4;
    for (i = 0; i < len; i++) payload[i] = (uint8_t)(payload[i] ^ mask[i & 3u]);
    eyes_on_frame(s, e->bytes[0] & 15u, payload, (size_t)len);
    eyes_drop(e, head + 4 + (size_t)len);
    return 1;
}

void eyes_read(stream *s, const uint8_t *bytes, size_t len)
{
    eyes *e = &s->eyes;
    size_t head;
    if (e->blind) return;
    eyes_keep(e, bytes, len);
    if (!e->in_frames) {
        head = eyes_head(e);
        if (!head) return;
        s->is_api = head >= 8 && memcmp(e->bytes, "GET /api", 8) == 0;
        eyes_drop(e, head);
        e->in_frames = 1;
        e->blind = s->is_api;
    }
    while (!e->blind && eyes_frame(s)) { }
}

/* The wire may take less than is offered; what was not taken is offered again. */
void eyes_see(stream *s, const uint8_t *bytes, size_t len)
{
    eyes *e = &s->eyes;
    uint64_t known = e->offered - e->taken;
    if (len <= known) return;
    e->offered = e->taken + len;
    eyes_read(s, bytes + known, len - (size_t)known);
}

void eyes_free(eyes *e)
{
    free(e->bytes);
    free(e->payload_us);
    free(e->payload_mono_us);
}
