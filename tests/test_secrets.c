/* Where the token is not: in no log line, event, reason, number or session text that the library
 * ever writes, not even a piece of it, whatever the peer says; and in no memory that it gave back.
 * Where it is: in Identify, Resume and the one header. */
static char api_url[100] = "https://127.0.0.1:9000";
#define GW_API_URL api_url
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "hostile.h"

#define PIECE 10u                       /* so much of the token in a row is a piece of it */
static const char secret[] = "thisTokenMustNeverBeSeenInAnyText";

/* f.mode: where the peer says the token. QUIET: nowhere, as what it says is in our memory too. */
enum { QUIET, CLOSE_REASON, ANSWERS, URL, SESSION_ID, RESUME_URL, GATEWAY_URL };

static foe f;
static uint32_t pieces_seen, blocks_unwiped, blocks_freed, blocks_that_held_it;
static uint64_t text_bytes;

/* ---- texts ---- */
static void look_at(const char *text, size_t len, const char *where)
{
    char piece[PIECE + 1];
    size_t i;
    text_bytes += len;
    for (i = 0; i + PIECE < sizeof secret; i++) {
        memcpy(piece, secret + i, PIECE);
        piece[PIECE] = 0;
        if (!strstr(text, piece)) continue;
        pieces_seen++;
        fprintf(stderr, "a piece of the token is in %s: %.300s\n", where, text);
        return;
    }
}

static void look_at_log(void *user, uint32_t level, int32_t shard, const char *text)
{
    (void)user; (void)level; (void)shard;
    look_at(text, strlen(text), "the log");
}

static void look_at_numbers(void)
{
    static char text[20000];
    look_at(text, gw_stats_text(f.gw, text, sizeof text), "the stats");
    look_at(text, gw_session_save(f.gw, GW_ALL, text, sizeof text), "the session text");
    look_at(gw_why(f.gw), strlen(gw_why(f.gw)), "gw_why()");
}

static void look_at_event(foe *any, const gw_event *event)
{
    (void)any;
    look_at(event->message, strlen(event->message), "a message");
    look_at(event->name, strlen(event->name), "a name");
    if (event->type >= GW_GATEWAY_INFO && event->d.ptr)
        look_at(event->d.ptr, event->d.len, "a notice");
    look_at_numbers();
}

/* ---- memory ---- */

/* The token's secret part as it is, or masked as in a frame: RFC 6455 section 5.3. */
static int holds_the_token(const uint8_t *bytes, size_t len)
{
    size_t i, j, want = sizeof secret - 1;
    for (i = 0; i + want <= len; i++) {
        for (j = 0; j + 4 < want && (uint8_t)(bytes[i + j] ^ bytes[i + j + 4]) ==
             (uint8_t)(secret[j] ^ secret[j + 4]); j++) { }
        if (j + 4 == want) return 1;
    }
    return 0;
}

/* Under valgrind nobody looks: it minds that bytes are looked at which nobody set. */
static int may_look(void) { return !lb_is_slow(); }

/* Never in place, so that what is left behind is seen. */
static void *look_at_memory(void *user, void *old, size_t old_bytes, size_t new_bytes)
{
    void *fresh;
    if (old) blocks_freed++;
    if (old && may_look() && holds_the_token((const uint8_t *)old, old_bytes)) {
        blocks_unwiped++;
        if (f.mode == QUIET)
            fprintf(stderr, "a block of %lu bytes that becomes %lu still holds the token\n",
                    (unsigned long)old_bytes, (unsigned long)new_bytes);
    }
    if (!new_bytes) return foe_on_alloc(user, old, old_bytes, 0);
    fresh = foe_on_alloc(user, NULL, 0, new_bytes);
    if (fresh) memset(fresh, 0xa5, new_bytes);      /* the peer's own memory was there before */
    if (!fresh || !old) return fresh;
    memcpy(fresh, old, old_bytes < new_bytes ? old_bytes : new_bytes);
    foe_on_alloc(user, old, old_bytes, 0);
    return fresh;
}

/* ---- a peer that says the token wherever it can ---- */
static void serve(foe_stream *s, int op, const char *text)
{
    char body[300], most_of_it[61];             /* the whole token would be known at once */
    snprintf(most_of_it, sizeof most_of_it, "%.60s", FOE_TOKEN);
    if (op == 2 || op == 6) { CHECK_HAS(text, FOE_TOKEN); blocks_that_held_it++; }
    else CHECK(!strstr(text, FOE_SECRET));
    if (op == 1) foe_send(s, "{\"op\":11}");
    if (op == 6) foe_send(s, "{\"t\":\"RESUMED\",\"s\":9,\"op\":0,\"d\":{}}");
    if (op != 2) return;
    snprintf(body, sizeof body, "%s", s->tls ? "wss://127.0.0.1:8080" : FOE_RESUME_URL);
    if (f.mode == RESUME_URL) snprintf(body, sizeof body, "%s/?t=%s", FOE_RESUME_URL, most_of_it);
    foe_send(s, FOE_READY, f.mode == SESSION_ID ? most_of_it : "abc", body);
    if (f.mode == QUIET || f.mode >= SESSION_ID) return;
    foe_send(s, "{\"t\":\"%s\",\"s\":2,\"op\":0,\"d\":{}}", FOE_TOKEN);
    foe_send(s, "{\"t\":\"MESSAGE_CREATE\",\"s\":3,\"op\":0,\"d\":{\"content\":\"%s\"}}",
             FOE_TOKEN);
    foe_send(s, "{\"op\":77,\"d\":\"%s\"}", FOE_TOKEN);
    if (f.mode != CLOSE_REASON) return;
    memset(body, 'x', sizeof body);
    snprintf(body + 2, sizeof body - 2, "%s", FOE_TOKEN);
    body[0] = (char)(4000 >> 8);
    body[1] = (char)(4000 & 255);
    foe_frame(s, 0x88, body, 2 + strlen(FOE_TOKEN));
    s->ended = 1;
}

static void say_hello(foe_stream *s) { foe_send(s, FOE_HELLO); }

/* Each time another answer; the token at every distance from where a text may be cut. */
static int answer_with_the_token(foe_stream *s, const char *request)
{
    static uint32_t turn;
    char body[1200];
    int is_api = strstr(request, "gateway/bot") != NULL;
    if (f.mode < RESUME_URL) CHECK_EQ(strstr(request, FOE_SECRET) != NULL, is_api);
    if (is_api) CHECK_HAS(request, "Authorization: Bot " FOE_TOKEN "\r\n");
    if (!is_api && f.mode != ANSWERS) return 0;
    turn++;
    memset(body, '-', sizeof body);
    snprintf(body + turn * 7 % 700, 400, "%s", FOE_TOKEN);
    switch (f.mode == QUIET || f.mode >= SESSION_ID ? 4 : turn % 5) {
    case 0: foe_answer(s, "403 " FOE_TOKEN, body); return 1;
    case 1: foe_answer(s, "503 x", FOE_TOKEN); return 1;
    case 2: foe_answer(s, "429 x", "{\"message\":\"" FOE_TOKEN "\",\"retry_after\":1}"); return 1;
    case 3: foe_answer(s, "301 x\r\nLocation: https://" FOE_TOKEN "/", ""); return 1;
    default: break;
    }
    if (!is_api) return 0;
    if (f.mode == URL) foe_answer(s, "200 OK", "{\"url\":\"wss://" FOE_TOKEN "/\",\"shards\":1}");
    else if (f.mode == GATEWAY_URL)
        foe_answer(s, "200 OK", "{\"url\":\"ws://127.0.0.1:8080/?t=" FOE_TOKEN "\",\"shards\":1}");
    else foe_answer_info(s, 1, 1000, 86400000, 1);
    return 1;
}

static void begin(int secure, int discover, uint32_t mode)
{
    foe_init(&f);
    f.secure = (uint32_t)secure;
    f.mode = mode;
    f.on_open = say_hello;
    f.on_payload = serve;
    f.on_request = answer_with_the_token;
    f.on_event = look_at_event;
    f.cfg.log = look_at_log;
    f.cfg.alloc = look_at_memory;
    if (discover) f.cfg.url = NULL;
    pieces_seen = blocks_unwiped = blocks_freed = blocks_that_held_it = 0;
    text_bytes = 0;
    snprintf(api_url, sizeof api_url, "%s://127.0.0.1:9000", secure ? "https" : "http");
}

static void live(uint32_t minutes)
{
    static const char presence[] =
        "{\"since\":null,\"activities\":[],\"status\":\"dnd\",\"afk\":false}";
    static const char refused[] = "{\"token\":\"" FOE_TOKEN "\"}";
    foe_stream *s;
    uint32_t i;
    if (!foe_begin(&f)) return;
    for (i = 0; i < minutes && gw_alive(f.gw); i++) {
        gw_send_raw(f.gw, 0, 3, presence, strlen(presence));
        gw_send_raw(f.gw, 0, 2, refused, strlen(refused));
        look_at_numbers();
        foe_run(&f, 60000);
        if (i % 3 == 2) for (s = f.streams; s; s = s->next) s->ended = 1;
    }
}

static void end(void)
{
    look_at_numbers();
    foe_end(&f);
    CHECK_U64(pieces_seen, 0);
    if (f.mode == QUIET) CHECK_U64(blocks_unwiped, 0);
    CHECK(text_bytes > 1000);
    CHECK(blocks_freed > 5);
}

static void live_and_look(int secure, int discover, uint32_t mode)
{
    begin(secure, discover, mode);
    live(20);
    end();
}

TEST(secrets_a_usual_life)                      { live_and_look(0, 0, QUIET); }
TEST(secrets_a_usual_life_with_tls)             { live_and_look(1, 0, QUIET); }
TEST(secrets_gateway_bot)                       { live_and_look(0, 1, QUIET); }
TEST(secrets_gateway_bot_with_tls)              { live_and_look(1, 1, QUIET); }
TEST(secrets_close_reason_that_is_the_token)    { live_and_look(0, 0, CLOSE_REASON); }
TEST(secrets_close_reason_with_tls)             { live_and_look(1, 0, CLOSE_REASON); }
TEST(secrets_answers_that_hold_the_token)       { live_and_look(0, 1, ANSWERS); }
TEST(secrets_answers_with_tls)                  { live_and_look(1, 1, ANSWERS); }
TEST(secrets_url_that_is_the_token)             { live_and_look(0, 1, URL); }

/* What a server says of itself is kept, and must not be saved with the token in it. */
TEST(secrets_session_id_that_is_most_of_the_token) { live_and_look(0, 0, SESSION_ID); }
TEST(secrets_resume_url_with_most_of_the_token)    { live_and_look(0, 0, RESUME_URL); }
TEST(secrets_gateway_url_with_the_token)           { live_and_look(0, 1, GATEWAY_URL); }

TEST(secrets_when_memory_fails)
{
    uint64_t n;
    for (n = 1; n < 120; n += 1) {
        begin(n % 2 != 0, n % 3 == 0, QUIET);
        f.fail_at = n;
        f.fail_count = n % 5 ? 1 : 20;
        f.cfg.ca_file = n % 2 ? lb_cert_path("ca.pem") : NULL;
        f.secret = n % 2 ? lb_secret_new("server.pem", "server.key") : NULL;
        if (f.cfg.url && n % 2) f.cfg.url = "wss://127.0.0.1/";
        f.gw = gw_open(&f.cfg);
        if (f.gw) foe_run(&f, 100000);
        foe_end(&f);
        CHECK_U64(pieces_seen, 0);
        if (!CHECK_U64(blocks_unwiped, 0)) fprintf(stderr, "allocation %u\n", (unsigned)n);
    }
}

TEST(secrets_a_life_cut_short_at_every_step)
{
    uint32_t polls;
    for (polls = 0; polls < 60; polls++) {
        begin(polls % 2 != 0, 0, QUIET);
        if (!foe_begin(&f)) return;
        f.write_full = polls % 3 == 0;              /* what it wants to send stays with it */
        while (f.polls < polls / 2) foe_poll(&f);
        foe_end(&f);
        CHECK_U64(blocks_unwiped, 0);
    }
}

TEST(secrets_the_fixed_block_is_clean_afterwards)
{
    size_t bytes;
    uint8_t *block;
    begin(0, 1, QUIET);
    f.cfg.max_payload = 20000;
    bytes = gw_memory_needed(&f.cfg);
    f.cfg.memory = block = (uint8_t *)lb_new(bytes);
    f.cfg.memory_bytes = bytes;
    live(20);
    if (may_look()) CHECK(holds_the_token(block, bytes));
    gw_close(f.gw);
    f.gw = NULL;
    if (may_look()) CHECK(!holds_the_token(block, bytes));
    CHECK_U64(pieces_seen, 0);
    free(block);
}

TEST(secrets_the_search_finds_what_it_looks_for)
{
    uint8_t bytes[200], key[4] = { 1, 200, 77, 9 };
    size_t i;
    memset(bytes, 'a', sizeof bytes);
    CHECK(!holds_the_token(bytes, sizeof bytes));
    memcpy(bytes + 33, FOE_TOKEN, strlen(FOE_TOKEN));
    CHECK(holds_the_token(bytes, sizeof bytes));
    for (i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(bytes[i] ^ key[i % 4]);
    CHECK(holds_the_token(bytes, sizeof bytes));
    pieces_seen = 0;
    fprintf(stderr, "(one piece is shown on purpose:) ");
    look_at("tail of a token: MustNeverBeS", 28, "this test");
    CHECK_U64(pieces_seen, 1);
}

CHECK_MAIN()
