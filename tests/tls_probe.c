/* tls_probe -- one connection up to its first messages, no retry: says in one word what stands in its way.
 * Build:  make        or: cc -I. -Itests tests/tls_probe.c -o build/tls_probe -lbearssl -lpthread
 * Run:    GW_CA_FILE=ca.pem build/tls_probe wss://localhost:8443/
 * Exit code 0: GW_MSGS text messages (1) came within GW_TIMEOUT seconds (6). 1: they did not, and the last line on stdout is
 * {"class":"...","msg":"..."}. 2: not one URL, or a GW_TIMEOUT or GW_MSGS that is none. */
#include "probe.h"

/* 1: a text message has ended. 0: more is to come. -1: over, p->fault says why. */
static int on_bytes(probe *p, gw__ws *ws, const uint8_t *bytes, size_t len)
{
    gw__ws_piece piece;
    char reason[124];
    size_t used = 0;
    int found = 0;
    switch (gw__ws_next(ws, bytes, len, &used, &piece)) {
    case GW__WS_NEED_MORE: break;
    case GW__WS_DATA:      found = piece.opcode == GW__WS_TEXT && piece.ends_message; break;
    case GW__WS_BROKEN:    found = probe_fail_ws(p, ws) - 1; break;
    case GW__WS_CONTROL:
        if (piece.opcode == GW__WS_PING) probe_write(p, GW__WS_PONG, piece.bytes, piece.len);
        if (piece.opcode != GW__WS_CLOSE) break;
        gw__text_printable(reason, sizeof reason, piece.bytes, piece.len);
        gw__fault_set(&p->fault, GW_REASON_CLOSE_CODE, piece.close_code, "closed by the server with %u%s%s%s",
                      (unsigned)piece.close_code, reason[0] ? " (" : "", reason, reason[0] ? ")" : "");
        found = -1;
        break;
    }
    gw__link_take(&p->link, used);
    return found;
}

static int read_messages(probe *p, uint32_t wanted)
{
    gw__ws ws;
    const uint8_t *bytes;
    size_t len;
    int found;
    gw__ws_begin(&ws);
    while (wanted) {
        if ((bytes = gw__link_peek(&p->link, &len, probe_now_ms())) != NULL) {
            found = on_bytes(p, &ws, bytes, len);
            if (found < 0) return 0;
            wanted -= (uint32_t)found;
        } else if (p->link.state == GW__LINK_ENDED) {
            return probe_fail_link(p);
        }
        if (wanted && !probe_wait(p)) return probe_expire(p, &p->link, "the message that is waited for did not come");
    }
    return 1;
}

int main(int argc, char **argv)
{
    static probe p;
    double messages = 1, timeout_s = 6;
    int exit_code = PROBE_OK;
    uint16_t close_code;
    if (argc != 2 || argv[1][0] == '-') {
        fprintf(stderr, "one URL is wanted: tls_probe wss://host:port/path\n");
        return PROBE_USAGE;
    }
    if (!probe_setting("GW_MSGS", 0, 1e9, &messages) || !probe_setting("GW_TIMEOUT", 0.001, 86400, &timeout_s)) return PROBE_USAGE;
    if (probe_open(&p)) {
        probe_be_patient(&p, (uint32_t)(timeout_s * 1000));
        if (probe_open_websocket(&p, argv[1])) read_messages(&p, (uint32_t)messages);
    }
    if (p.fault.reason) exit_code = probe_tell(&p, probe_class(&p));
    fflush(stdout);
    close_code = p.fault.code >= 1000 && p.fault.code <= 4999 ? (uint16_t)p.fault.code : 1000;
    if (p.is_websocket) probe_goodbye(&p, close_code, "", 500);
    probe_close(&p);
    return exit_code;
}
