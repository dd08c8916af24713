/* What a hostile gateway costs: CPU and memory of a client under each attack, as a table. The peer
 * is in this process (hostile.h); what it takes to make its bytes is not counted.
 *     make figures                       prints the table
 *     build/hostile_figures brackets     the rows whose name holds that
 * A row that costs more than its limits has failed, and then the exit code is 1. FIGURES_NARROW=cpu,
 * poll or peak: a thousandth of that limit. */
static char api_url[] = "http://127.0.0.1:9000";
#define GW_API_URL api_url
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "hostile.h"

#define MB UINT64_C(1048576)

static foe f;
static uint64_t cpu_us, poll_us_most;
static const char *end_text;

/* ---- what the peer says: a head once, then a piece over and over, then an end ---- */
static struct {
    const char *head, *piece, *tail;
    size_t head_len, piece_len, tail_len;
    uint64_t pieces;
    int in_answer;                          /* 1: answers the upgrade; 2: /gateway/bot */
    uint64_t left;
    int began, ended;
} script;

static void feed(foe_stream *s)
{
    if (!script.began) foe_wire(s, script.head, script.head_len);
    script.began = 1;
    for (; script.left && lb_len(&s->out) < 300000; script.left--)
        foe_wire(s, script.piece, script.piece_len);
    if (script.left || script.ended) return;
    foe_wire(s, script.tail, script.tail_len);
    script.ended = 1;
}

static void feed_all(foe *any)
{
    if (any->streams && any->streams->step == 1) feed(any->streams);
}

static void say_hello(foe_stream *s) { foe_send(s, FOE_HELLO); }

static void serve(foe_stream *s, int op, const char *text)
{
    (void)text;
    if (op == 1) foe_send(s, "{\"op\":11}");
    if (op == 6) foe_send(s, "{\"t\":\"RESUMED\",\"s\":9,\"op\":0,\"d\":{}}");
    if (op != 2) return;
    foe_send(s, FOE_READY, "abc", FOE_RESUME_URL);
    s->step = 1;
}

static int answer(foe_stream *s, const char *request)
{
    int is_api = strstr(request, "gateway/bot") != NULL;
    if (!script.in_answer || script.ended || (script.in_answer == 2) != is_api) return 0;
    s->step = 1;
    return 1;
}

/* ---- measuring ---- */
static uint64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static void turn(void)
{
    const gw_event *event;
    uint64_t began_us, took_us;
    feed_all(&f);
    do {
        began_us = now_us();
        event = foe_poll(&f);
        took_us = now_us() - began_us;
        cpu_us += took_us;
        if (took_us > poll_us_most) poll_us_most = took_us;
        if (event) foe_take(&f, event);
    } while (event);
}

static void read_payload(foe *any, const gw_event *event)
{
    (void)any;
    if (event->type >= GW_GATEWAY_INFO) return;
    gw_u64(&event->d, "author.id");
    gw_get(&event->d, "0.0.0.0.0.0.0.0", NULL);
}

static void begin(void)
{
    foe_init(&f);
    f.cfg.log = NULL;
    f.on_open = say_hello;
    f.on_payload = serve;
    f.on_request = answer;
    f.on_event = read_payload;
    cpu_us = poll_us_most = 0;
    end_text = NULL;
    script.left = script.pieces;
    script.began = script.ended = 0;
    if (script.in_answer == 2) f.cfg.url = NULL;
    f.gw = gw_open(&f.cfg);
    if (!f.gw) exit(1);
}

/* ---- what an attack may cost: some times what it does cost, for slower machines ---- */
#define CPU_MS_LEAST 100u
#define CPU_MS_PER_MB 100u
#define POLL_MS_MOST 250u
#define PEAK_KIB_LEAST 256u
#define PEAK_KIB_MOST (65536u + PEAK_KIB_LEAST)     /* config.max_payload, and all else */

static uint64_t payload_bytes;          /* of the largest that the row sends: it is kept whole, in a block that doubles */
static uint32_t rows_passed, rows_failed;

static double limit(const char *name, double most)
{
    const char *narrow = getenv("FIGURES_NARROW");
    return narrow && strcmp(narrow, name) == 0 ? most / 1000 : most;
}

static void judge_row(void)
{
    double cpu_ms = limit("cpu", CPU_MS_LEAST + CPU_MS_PER_MB * (double)f.read_bytes / 1e6);
    double poll_ms = limit("poll", POLL_MS_MOST);
    double peak_kib = limit("peak", (double)GW__MIN(PEAK_KIB_LEAST + 2 * payload_bytes / 1024, PEAK_KIB_MOST));
    if ((double)cpu_us / 1e3 <= cpu_ms && (double)poll_us_most / 1e3 <= poll_ms &&
        (double)f.peak_bytes / 1024 <= peak_kib) { rows_passed++; return; }
    rows_failed++;
    printf("  above the limits: CPU %.1f ms, a poll %.1f ms, peak %.0f KiB\n", cpu_ms, poll_ms, peak_kib);
}

static void print_row(const char *name)
{
    char figures[80];
    snprintf(figures, sizeof figures, "%9.1f %9.1f %9.2f %10lu", (double)f.read_bytes / 1e6,
             (double)cpu_us / 1e3, (double)poll_us_most / 1e3,
             (unsigned long)(f.peak_bytes / 1024));
    printf("%-40s %s  %.72s\n", name, figures, end_text);
    judge_row();
    fflush(stdout);
    f.gw->closed = 0;
    gw_close(f.gw);
    f.gw = NULL;
    if (f.live_blocks || f.bad_sizes || f.token_seen) { printf("  that is wrong\n"); exit(1); }
    free(f.secret);
}

static const char *only;

/* Runs until all was said and read, or the connection is over; at most two virtual minutes. */
static void attack(const char *name)
{
    uint64_t until_us;
    if (only && !strstr(name, only)) return;
    begin();
    until_us = f.now_us + 120000000u;
    while (f.now_us < until_us) {
        turn();
        if (f.seen[GW_DISCONNECTED] || f.seen[GW_FATAL]) break;
        if (script.ended && f.streams && f.gw->shards[0]->state == GW__LIVE &&
            !lb_len(&f.streams->out) &&
            !gw__link_has_work(&f.gw->shards[0]->link)) break;
        f.now_us += script.ended || lb_len(&f.streams->out) == 0 ? 20000 : 20;
    }
    end_text = f.seen[GW_DISCONNECTED] || f.seen[GW_FATAL] ? f.last_message
             : f.seen[GW_SKIPPED] ? "SKIPPED, lives" : "lives";
    print_row(name);
}

static char room[20], filling[4097];
static size_t room_len;

/* The head of an unmasked frame. */
static void room_frame(int first, uint64_t len)
{
    int i, bytes = len < 126 ? 0 : len < 65536 ? 2 : 8;
    room[0] = (char)first;
    room[1] = (char)(bytes == 0 ? (int)len : bytes == 2 ? 126 : 127);
    for (i = 0; i < bytes; i++) room[2 + i] = (char)(len >> (8 * (bytes - 1 - i)));
    room_len = 2u + (size_t)bytes;
}

static void set_script(const char *head, size_t head_len, const char *piece, size_t piece_len,
                       uint64_t pieces)
{
    memset(&script, 0, sizeof script);
    script.head = head;
    script.head_len = head_len;
    script.piece = piece;
    script.piece_len = piece_len;
    script.pieces = pieces;
    script.tail = "";
}

/* A frame whose head promises `len`, then its text again and again. */
static void attack_with_frame(const char *name, uint64_t len, uint64_t pieces)
{
    room_frame(0x81, len);
    set_script(room, room_len, filling, sizeof filling - 1, pieces);
    attack(name);
}

/* A payload: text, pieces, text. */
static void attack_with_payload(const char *name, const char *head, const char *piece,
                                uint64_t pieces, const char *tail)
{
    size_t piece_len = strlen(piece), head_len = strlen(head), tail_len = strlen(tail);
    char whole_head[200];
    room_frame(0x81, head_len + pieces * piece_len + tail_len);
    memcpy(whole_head, room, room_len);
    memcpy(whole_head + room_len, head, head_len);
    set_script(whole_head, room_len + head_len, piece, piece_len, pieces);
    script.tail = tail;
    script.tail_len = tail_len;
    payload_bytes = head_len + pieces * piece_len + tail_len;
    attack(name);
    payload_bytes = 0;
}

static void attack_with_answer(const char *name, int of_discover, const char *head,
                               const char *piece, uint64_t pieces)
{
    set_script(head, strlen(head), piece, strlen(piece), pieces);
    script.in_answer = of_discover ? 2 : 1;
    attack(name);
}

/* 100 MB of dispatches; for a minute the caller holds, or only tends. To compare, it takes them. */
enum { HOLD, TEND, TAKE };

static void attack_the_idle(const char *name, int how)
{
    static char frame[1200];
    uint64_t i;
    int len;
    memset(frame, 'x', sizeof frame);
    len = snprintf(frame + 4, 200,
                   "{\"t\":\"MESSAGE_CREATE\",\"s\":5,\"op\":0,\"d\":{\"content\":\"");
    frame[4 + len] = 'x';
    memcpy(frame + sizeof frame - 3, "\"}}", 3);
    frame[0] = (char)0x81;
    frame[1] = 126;
    frame[2] = (char)((sizeof frame - 4) >> 8);
    frame[3] = (char)((sizeof frame - 4) & 255);
    set_script("", 0, frame, sizeof frame, 100 * MB / sizeof frame);
    if (how == TAKE) { attack(name); return; }
    if (only && !strstr(name, only)) return;
    begin();
    for (i = 0; i < 100 && !f.seen[GW_READY]; i++) { turn(); f.now_us += 1000; }
    if (how == HOLD) gw_hold(f.gw, 0, 1);
    for (i = 0; i < 60000; i += 20) {
        uint64_t began_us = now_us();
        feed_all(&f);
        if (how == HOLD) while (gw_poll(f.gw)) { }
        else gw_tend(f.gw);
        cpu_us += now_us() - began_us;
        f.now_us += 20000;
    }
    end_text = f.seen[GW_DISCONNECTED] ? f.last_message : "lives; TCP holds the rest";
    print_row(name);
}

/* READY with a resume URL that leads elsewhere; then a cut: where does the token go? */
static const char *resume_url;
static char resumed_at[100];

static void serve_elsewhere(foe_stream *s, int op, const char *text)
{
    (void)text;
    if (op == 1) foe_send(s, "{\"op\":11}");
    if (op == 6)
        snprintf(resumed_at, sizeof resumed_at, "resumed at %s port %u", s->host,
                 (unsigned)s->port);
    if (op == 6) foe_send(s, "{\"t\":\"RESUMED\",\"s\":9,\"op\":0,\"d\":{}}");
    if (op == 2) foe_send(s, FOE_READY, "abc", resume_url);
}

static void attack_with_resume_url(const char *url)
{
    char name[80];
    uint32_t i;
    snprintf(name, sizeof name, "resume URL %.40s", url);
    if (only && !strstr(name, only)) return;
    set_script("", 0, "", 0, 0);
    resume_url = url;
    resumed_at[0] = 0;
    begin();
    f.on_payload = serve_elsewhere;
    f.cfg.url = NULL;
    for (i = 0; i < 3000; i++) {
        turn();
        if (i == 100 && f.streams) f.streams->ended = 1;
        f.now_us += 10000;
    }
    end_text = resumed_at;
    print_row(name);
}

static void attack_with_frames(void)
{
    attack_with_frame("a frame of 2^63 bytes", UINT64_C(1) << 63, 1000);
    attack_with_frame("a frame of 2^63 - 1 bytes, 1 GB of it", (UINT64_C(1) << 63) - 1, 262144);
    attack_with_frame("a frame that says 100, and is 4,096", 100, 1);
    set_script("\x01\x00", 2, "\x00\x01x", 3, 30000000);
    attack("fragments of 1 byte, 30 million");
    set_script("\x01\x00", 2, "\x00\x00", 2, 30000000);
    attack("empty fragments, 30 million");
    set_script("", 0, "\x8a\x00", 2, 30000000);
    attack("empty pongs, 30 million");
    set_script("", 0, "\x89\x04ping", 6, 1000000);
    attack("pings that want an answer, 1 million");
    set_script("", 0, "\x81\x0b{\"op\":11  }", 13, 10000000);
    attack("ACKs that nobody asked for, 10 million");
    set_script("", 0, "\x81\x0a{\"op\":1  }", 12, 1000000);
    attack("heartbeats asked for, 1 million");
}

#define OPEN "{\"t\":\"B\",\"s\":2,\"op\":0,\"d\":"
static void attack_with_payloads(void)
{
    char *closing = (char *)lb_new(10000002);
    memset(closing, ']', 10000000);
    closing[10000000] = '}';
    attack_with_payload("10 million nested brackets", OPEN, "[", 10000000, closing);
    attack_with_payload("10 million brackets, one closed", OPEN, "[", 10000000, "}");
    attack_with_payload("10 million times [], no comma", OPEN, "[]", 10000000, "}");
    attack_with_payload("1 million tokens in 2 MB", OPEN "[0", ",0", 1000000, "]}");
    attack_with_payload("10 million tokens in 20 MB", OPEN "[0", ",0", 10000000, "]}");
    attack_with_payload("1 million equal keys", OPEN "{\"k\":1", ",\"k\":1", 1000000, "}}");
    attack_with_payload("1 million keys d", "{", "\"d\":{\"a\":1},", 1000000,
                        "\"t\":\"B\",\"s\":2,\"op\":0}");
    attack_with_payload("a name t of 10 MB", "{\"t\":\"", "T", 10000000,
                        "\",\"s\":2,\"op\":0,\"d\":{}}");
    attack_with_payload("a string of 5 million backslashes", OPEN "\"", "\\\\", 5000000, "\"}");
    attack_with_payload("a payload of 200 MB", OPEN "\"", filling, 51200, "\"}");
    attack_the_idle("100 MB of dispatches, taken", TAKE);
    attack_the_idle("100 MB of dispatches, the caller holds", HOLD);
    attack_the_idle("100 MB of dispatches, the caller tends", TEND);
    free(closing);
}

#define LENGTH(text) "HTTP/1.1 200 OK\r\nContent-Length: " text "\r\n\r\n"
static void attack_with_answers(void)
{
    attack_with_answer("headers without end", 0, "HTTP/1.1 101 x\r\n",
                       "X-More: and more of this\r\n", 10000000);
    attack_with_answer("a header line without end", 0, "HTTP/1.1 101 x\r\nX-Long: ", filling,
                       25000);
    attack_with_answer("1xx answers without end", 0, "", "HTTP/1.1 102 x\r\n\r\n", 10000000);
    attack_with_answer("a redirect", 0,
                       "HTTP/1.1 301 x\r\nLocation: https://evil.example/\r\n"
                       "Content-Length: 0\r\n\r\n", "", 0);
    attack_with_answer("Content-Length: -1", 1, LENGTH("-1"), filling, 25000);
    attack_with_answer("Content-Length: 1e18", 1, LENGTH("1000000000000000000"), filling, 25000);
    attack_with_answer("a body without a length or end", 1, "HTTP/1.1 200 OK\r\n\r\n", filling,
                       25000);
    attack_with_answer("chunks without end", 1,
                       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                       "1\r\nx\r\n", 10000000);
}

int main(int argc, char **argv)
{
    (void)check_last;                       /* no tests here */
    only = argc > 1 ? argv[1] : NULL;
    memset(filling, 'x', sizeof filling - 1);
    printf("%-40s %9s %9s %9s %10s  %s\n", "attack", "MB read", "CPU ms", "worst ms", "peak KiB",
           "end");
    attack_with_frames();
    attack_with_payloads();
    attack_with_answers();
    attack_with_resume_url("ws://evil.example");
    attack_with_resume_url("wss://evil.example");
    attack_with_resume_url("http://127.0.0.1:1");
    attack_with_resume_url("wss://u:p@127.0.0.1:2");
    attack_with_resume_url("ws://127.0.0.1:99999");
    attack_with_resume_url("ws://127.0.0.1:3/");
    printf("hostile_figures: %u passed, %u failed\n", (unsigned)rows_passed, (unsigned)rows_failed);
    return rows_failed > 0 || !rows_passed;
}
