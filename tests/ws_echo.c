/* ws_echo -- the WebSocket room without the Gateway: sends every message back, for foreign test suites.
 * Build:  make        or: cc -I. -Itests tests/ws_echo.c -o build/ws_echo -lbearssl -lpthread
 * Run:    build/ws_echo "ws://127.0.0.1:9001/runCase?case=1&agent=gw"
 * Exit code 0: the connection ended by a clean closing handshake; 1: it did not, and stderr says why.
 * GW_CA_FILE: a PEM file of trusted authorities, in place of the system's. */
#include "probe.h"

enum {
    PATIENCE_MS = 60000,                /* between bytes, in or out */
    MESSAGE_MAX = 32 * 1024 * 1024,
    BACKLOG_MAX = 24 * 1024 * 1024      /* so much unsent: first the peer must read. With a message, it fits the link's buffer */
};

typedef struct echo {
    probe base;
    gw__ws ws;
    gw__buf message;                    /* as far as it has come */
    uint64_t moved;                     /* bytes over the wire when patience was last renewed */
} echo;

/* 0: the conversation is over, base.fault says why. */
static int echo_on_piece(echo *e, const gw__ws_piece *piece)
{
    int kept = gw__buf_append(&e->message, piece->bytes, piece->len);
    if (kept && !piece->ends_message) return 1;
    kept = kept && probe_write(&e->base, piece->opcode, gw__buf_data(&e->message), gw__buf_len(&e->message));
    gw__buf_clear(&e->message);
    if (!kept)
        gw__fault_set(&e->base.fault, GW_REASON_MEMORY, 1009, "a message of more than %u MiB, or no memory for it",
                      (unsigned)(MESSAGE_MAX >> 20));
    return kept;
}

/* A Close is answered with its own code: RFC 6455 section 5.5.1. */
static int echo_on_control(echo *e, const gw__ws_piece *piece)
{
    if (piece->opcode == GW__WS_CLOSE)
        gw__fault_set(&e->base.fault, GW_REASON_CLOSE_CODE, piece->close_code, "closed by the server");
    else if (piece->opcode == GW__WS_PING)
        probe_write(&e->base, GW__WS_PONG, piece->bytes, piece->len);
    return piece->opcode != GW__WS_CLOSE;
}

/* One thing of what is there; 0: over. The piece lies in the link's buffer, so the bytes are taken after it was used. */
static int echo_on_bytes(echo *e, const uint8_t *bytes, size_t len)
{
    gw__ws_piece piece;
    size_t used = 0;
    int goes_on = 1;
    switch (gw__ws_next(&e->ws, bytes, len, &used, &piece)) {
    case GW__WS_NEED_MORE: break;
    case GW__WS_DATA:      goes_on = echo_on_piece(e, &piece); break;
    case GW__WS_CONTROL:   goes_on = echo_on_control(e, &piece); break;
    case GW__WS_BROKEN:    goes_on = probe_fail_ws(&e->base, &e->ws); break;
    }
    gw__link_take(&e->base.link, used);
    e->base.link.held = gw__buf_len(&e->base.link.out) > BACKLOG_MAX;
    return goes_on;
}

static int echo_wait(echo *e)
{
    probe *p = &e->base;
    if (p->link.bytes_in + p->link.bytes_out != e->moved) {
        e->moved = p->link.bytes_in + p->link.bytes_out;
        probe_be_patient(p, PATIENCE_MS);
    }
    if (!probe_wait(p)) return probe_expire(p, &p->link, "nothing more was sent or taken");
    p->link.held = gw__buf_len(&p->link.out) > BACKLOG_MAX;
    return 1;
}

static void echo_converse(echo *e)
{
    const uint8_t *bytes;
    size_t len;
    for (;;) {
        if ((bytes = gw__link_peek(&e->base.link, &len, probe_now_ms())) != NULL) {
            if (!echo_on_bytes(e, bytes, len)) return;
        } else if (e->base.link.state == GW__LINK_ENDED) {
            probe_fail_link(&e->base);
            return;
        } else if (!echo_wait(e)) {
            return;
        }
    }
}

static int echo_end(echo *e)
{
    probe *p = &e->base;
    int is_clean = p->fault.reason == GW_REASON_CLOSE_CODE;
    uint16_t code = p->fault.reason == GW_REASON_TIMEOUT ? 1001 : (uint16_t)p->fault.code;
    if (p->is_websocket) {
        probe_be_patient(p, PATIENCE_MS);
        probe_goodbye(p, code, is_clean ? "" : p->fault.text, PROBE_LINGER_MS);
    }
    if (!is_clean) fprintf(stderr, "ws_echo: %s\n", p->fault.text);
    gw__buf_free(&e->message);
    probe_close(p);
    return is_clean ? PROBE_OK : PROBE_FAILED;
}

int main(int argc, char **argv)
{
    static echo e;
    int is_open = probe_open(&e.base);
    gw__ws_begin(&e.ws);
    gw__buf_init(&e.message, &e.base.mem, MESSAGE_MAX);
    probe_be_patient(&e.base, PATIENCE_MS);
    if (argc != 2)
        gw__fault_set(&e.base.fault, GW_REASON_CONFIG, 0, "one URL is wanted: ws_echo ws://127.0.0.1:9001/path?query");
    if (is_open && argc == 2 && probe_open_websocket(&e.base, argv[1])) echo_converse(&e);
    return echo_end(&e);
}
