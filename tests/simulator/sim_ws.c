/* sim_ws.c -- RFC 6455 frames.  In: masked, text only, whole rules.  Out: as wrong as the faults ask for. */
#include "sim_internal.h"
#include <string.h>

#define SIM_FRAME_MAX (1024u * 1024u)       /* a longer client frame is not waited for */
#define SIM_PAYLOAD_MAX 4096u               /* Discord docs, "Sending Events" */

int sim_close_code_valid(uint32_t code)     /* RFC 6455 section 7.4, and the registry behind it */
{
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
}

/* -- out ------------------------------------------------------------------- */

void sim_ws_header(sim_buf *out, uint8_t first, uint64_t len, int masked)
{
    uint8_t head[10], mask_bit = masked ? 0x80 : 0;
    size_t size = len < 126 ? 2 : len < 65536 ? 4 : 10, i;
    head[0] = first;
    head[1] = (uint8_t)(mask_bit | (size == 2 ? (uint8_t)len : size == 4 ? 126 : 127));
    for (i = size; i > 2; i--, len >>= 8) head[i - 1] = (uint8_t)(len & 0xFF);
    sim_buf_append(out, head, size);
}

static void sim_ws_frame(sim_buf *out, int fin, uint32_t opcode, const uint8_t *payload, size_t len)
{
    sim_ws_header(out, (uint8_t)((fin ? 0x80u : 0u) | opcode), len, 0);
    sim_buf_append(out, payload, len);
}

static void sim_ws_message(sim_connection *conn, uint32_t opcode, const uint8_t *payload, size_t len)
{
    uint32_t pieces = opcode < SIM_CLOSE && conn->faults.fragments > 1 ? conn->faults.fragments : 1, i;
    size_t step = len / pieces;
    for (i = 0; i < pieces; i++) {
        size_t size = i + 1 < pieces ? step : len - step * i;
        if (i) sim_ws_frame(&conn->out, 1, SIM_PING, (const uint8_t *)"between", 7);
        sim_ws_frame(&conn->out, i + 1 == pieces, i ? 0 : opcode, payload + step * i, size);
    }
}

static int sim_ws_may_send(const sim_connection *conn)
{
    return (conn->state == SIM_OPEN || conn->state == SIM_FROZEN) && conn->stage != SIM_STAGE_HTTP &&
           conn->stage != SIM_STAGE_OVER && !conn->close_sent;
}

/* The frame is out; the fault in `cut` says how much of it may leave. */
static void sim_ws_cut(sim_connection *conn, size_t before)
{
    size_t frame = sim_buf_len(&conn->out) - before;
    if (conn->faults.cut == SIM_CUT_NONE) return;
    if (conn->faults.cut == SIM_CUT_BEFORE) conn->out.end -= frame;
    if (conn->faults.cut == SIM_CUT_INSIDE) conn->out.end -= frame / 2;
    conn->faults.cut = SIM_CUT_NONE;
    sim_end(conn, SIM_WANTS_CUT);
}

void sim_ws_send(sim_connection *conn, uint32_t opcode, const void *payload, size_t len)
{
    size_t before = sim_buf_len(&conn->out);
    if (!sim_ws_may_send(conn)) return;
    if (opcode == SIM_TEXT && conn->squeeze != SIM_SQUEEZE_NONE) {
        sim_buf *frame = &conn->gateway->frame;
        sim_buf_clear(frame);
        sim_squeeze(conn, frame, payload, len);
        sim_ws_message(conn, SIM_BINARY, frame->bytes + frame->begin, sim_buf_len(frame));
    } else {
        sim_ws_message(conn, opcode, (const uint8_t *)payload, len);
    }
    sim_ws_cut(conn, before);
}

void sim_ws_raw(sim_connection *conn, const void *bytes, size_t len)
{
    if (sim_ws_may_send(conn)) sim_buf_append(&conn->out, bytes, len);
}

void sim_ws_close(sim_connection *conn, uint16_t code, const char *reason)
{
    uint8_t payload[125];
    size_t len = strlen(reason) > 123 ? 123 : strlen(reason);
    sim_buf *line;
    if (!sim_ws_may_send(conn)) return;
    payload[0] = (uint8_t)(code >> 8);
    payload[1] = (uint8_t)(code & 0xFF);
    memcpy(payload + 2, reason, len);
    line = sim_log_begin(conn->gateway, conn, "close_sent");
    sim_print(line, ",\"code\":%u,\"reason\":", (unsigned)code);
    sim_print_json(line, reason, len);
    sim_log_end(conn->gateway);
    sim_ws_send(conn, SIM_CLOSE, payload, code ? len + 2 : 0);
    conn->close_sent = 1;
    sim_session_detach(conn);
    if (conn->state != SIM_OPEN && conn->state != SIM_FROZEN) return;
    conn->stage = SIM_STAGE_CLOSING;
    sim_deadline(conn, conn->gateway->config.close_linger_ms, "no_close_answer");
    if (conn->close_received) sim_end(conn, SIM_WANTS_CLOSE);
}

/* -- in -------------------------------------------------------------------- */

typedef struct sim_frame {
    uint32_t fin, rsv, opcode, masked;
    uint8_t mask[4];
    uint64_t len;
    size_t head, length_bytes;      /* bytes of the header; of its extended length */
    uint8_t *payload;
} sim_frame;

static void sim_ws_refuse(sim_connection *conn, uint16_t code, const char *rule, const char *words)
{
    if (conn->stage == SIM_STAGE_CLOSING) { sim_end(conn, SIM_WANTS_CLOSE); return; }
    sim_violation(conn, rule, "%s", words);
    sim_buf_clear(&conn->in);
    sim_ws_close(conn, code, words);
}

/* 1: the header is whole. */
static int sim_ws_read_header(sim_buf *in, sim_frame *frame)
{
    const uint8_t *at = in->bytes + in->begin;
    size_t have = sim_buf_len(in), i;
    memset(frame, 0, sizeof *frame);
    if (have < 2) return 0;
    frame->fin = at[0] >> 7;
    frame->rsv = (at[0] >> 4) & 7u;
    frame->opcode = at[0] & 15u;
    frame->masked = at[1] >> 7;
    frame->len = at[1] & 127u;
    frame->length_bytes = frame->len == 126 ? 2 : frame->len == 127 ? 8 : 0;
    frame->head = 2 + frame->length_bytes + (frame->masked ? 4u : 0u);
    if (have < frame->head) return 0;
    if (frame->length_bytes) frame->len = 0;
    for (i = 0; i < frame->length_bytes; i++) frame->len = frame->len << 8 | at[2 + i];
    if (frame->masked) memcpy(frame->mask, at + 2 + frame->length_bytes, 4);
    frame->payload = in->bytes + in->begin + frame->head;
    return 1;
}

/* The rules that a header alone can break.  RFC 6455 sections 5.1 to 5.5. */
static const char *sim_ws_header_fault(const sim_connection *conn, const sim_frame *frame)
{
    int control = frame->opcode >= SIM_CLOSE;
    if (frame->rsv) return "rsv_bits";
    if (!frame->masked) return "unmasked_frame";
    if ((frame->opcode > SIM_BINARY && !control) || frame->opcode > SIM_PONG) return "reserved_opcode";
    if (control && !frame->fin) return "fragmented_control";
    if (control && frame->len > 125) return "long_control";
    if (frame->length_bytes == 2 && frame->len < 126) return "long_length";
    if (frame->length_bytes == 8 && (frame->len < 65536 || frame->len >> 63)) return "long_length";
    if (frame->opcode == SIM_CONTINUATION && !conn->message_open) return "continuation_of_nothing";
    if (!control && frame->opcode != SIM_CONTINUATION && conn->message_open) return "message_inside_message";
    return NULL;
}

/* RFC 6455 section 5.3: a fresh mask, from a strong source, for every frame. */
static void sim_ws_judge_mask(sim_connection *conn, const sim_frame *frame)
{
    static const uint8_t zero[4] = { 0, 0, 0, 0 };
    if (memcmp(frame->mask, zero, 4) == 0)
        sim_violation(conn, "mask_zero", "the mask of a frame is zero");
    else if (conn->has_mask && memcmp(frame->mask, conn->last_mask, 4) == 0)
        sim_violation(conn, "mask_reused", "two frames in a row have the same mask");
    memcpy(conn->last_mask, frame->mask, 4);
    conn->has_mask = 1;
}

static void sim_ws_on_close(sim_connection *conn, const sim_frame *frame)
{
    sim_gateway *gateway = conn->gateway;
    uint32_t code = frame->len >= 2 ? (uint32_t)frame->payload[0] << 8 | frame->payload[1] : 0;
    const char *reason = frame->len > 2 ? (const char *)frame->payload + 2 : "";
    size_t reason_len = frame->len > 2 ? (size_t)frame->len - 2 : 0;
    sim_buf *line = sim_log_begin(gateway, conn, "close_received");
    sim_print(line, ",\"code\":%u,\"answer\":%s,\"reason\":", code, conn->close_sent ? "true" : "false");
    sim_print_json(line, reason, reason_len);
    sim_log_end(gateway);
    conn->close_received = 1;
    if (frame->len == 1 || (code && !sim_close_code_valid(code))) {
        sim_ws_refuse(conn, 1002, "bad_close_code", "that close code may not be sent");
    } else if (!sim_utf8_valid((const uint8_t *)reason, reason_len)) {
        sim_ws_refuse(conn, 1007, "bad_utf8", "the close reason is not UTF-8");
    } else {
        if (!conn->close_sent) sim_client_closed(conn, code);
        sim_ws_close(conn, (uint16_t)code, "");     /* nothing happens if ours was first */
    }
    sim_end(conn, SIM_WANTS_CLOSE);
}

static void sim_ws_on_ping(sim_connection *conn, const sim_frame *frame)
{
    sim_log_begin(conn->gateway, conn, "ping");
    sim_log_end(conn->gateway);
    sim_ws_send(conn, SIM_PONG, frame->payload, (size_t)frame->len);
}

static void sim_ws_on_pong(sim_connection *conn, const sim_frame *frame)
{
    sim_buf *line = sim_log_begin(conn->gateway, conn, "pong");
    sim_print(line, ",\"payload\":");
    sim_print_json(line, (const char *)frame->payload, (size_t)frame->len);
    sim_log_end(conn->gateway);
}

static void sim_ws_on_message(sim_connection *conn)
{
    sim_buf *message = &conn->message;
    const uint8_t *bytes = message->bytes + message->begin;
    size_t len = sim_buf_len(message);
    if (len > SIM_PAYLOAD_MAX)
        sim_refuse(conn, 4002, "payload_too_large", "a payload may have 4096 bytes");
    else if (!sim_utf8_valid(bytes, len))
        sim_ws_refuse(conn, 1007, "bad_utf8", "text that is not UTF-8");
    else
        sim_payload_in(conn, (const char *)bytes, len);
    sim_buf_clear(message);
}

static void sim_ws_on_data(sim_connection *conn, const sim_frame *frame)
{
    if (frame->opcode == SIM_BINARY) {
        sim_ws_refuse(conn, 1003, "binary_frame", "binary data; encoding=json is text");
        return;
    }
    if (conn->stage == SIM_STAGE_CLOSING) return;
    sim_buf_reserve(&conn->message, 1);
    sim_buf_append(&conn->message, frame->payload, (size_t)frame->len);
    conn->message_open = !frame->fin;
    if (frame->fin) sim_ws_on_message(conn);
}

static void sim_ws_on_frame(sim_connection *conn, const sim_frame *frame)
{
    uint64_t i;
    sim_ws_judge_mask(conn, frame);
    for (i = 0; i < frame->len; i++) frame->payload[i] = (uint8_t)(frame->payload[i] ^ frame->mask[i & 3]);
    switch (frame->opcode) {
    case SIM_CLOSE: sim_ws_on_close(conn, frame); break;
    case SIM_PING:  sim_ws_on_ping(conn, frame); break;
    case SIM_PONG:  sim_ws_on_pong(conn, frame); break;
    default:        sim_ws_on_data(conn, frame); break;
    }
}

static int sim_ws_step(sim_connection *conn)
{
    sim_frame frame;
    const char *fault;
    if (!sim_ws_read_header(&conn->in, &frame)) return 0;
    fault = sim_ws_header_fault(conn, &frame);
    if (fault) { sim_ws_refuse(conn, 1002, fault, fault); return 0; }
    if (frame.len > SIM_FRAME_MAX) {
        sim_ws_refuse(conn, 4002, "payload_too_large", "a payload may have 4096 bytes");
        return 0;
    }
    if (sim_buf_len(&conn->in) < frame.head + frame.len) return 0;
    sim_ws_on_frame(conn, &frame);
    if (sim_buf_len(&conn->in)) sim_buf_consume(&conn->in, frame.head + (size_t)frame.len);
    return 1;
}

void sim_ws_work(sim_connection *conn)
{
    while (conn->state == SIM_OPEN && conn->stage != SIM_STAGE_OVER && sim_ws_step(conn)) { }
    if (conn->stage == SIM_STAGE_OVER) sim_buf_clear(&conn->in);
}
