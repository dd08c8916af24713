/* The simulator's core on plain bytes: rules, close codes, replay, budget, HTTP, and that each fault does what it says.
 * Links with tests/simulator/gateway_sim.c and sim_*.c. */
#include "simulator/gateway_sim.h"
#include "check.h"

#define UPGRADE_HEADERS "Host: gateway.sim\r\nUser-Agent: DiscordBot (https://example.org, 1.0)\r\nUpgrade: websocket\r\n" \
    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
#define API_HEADERS "Host: gateway.sim\r\nUser-Agent: DiscordBot (https://example.org, 1.0)\r\n"
#define PROPERTIES "\"properties\":{\"os\":\"linux\",\"browser\":\"x\",\"device\":\"x\"}"
#define IDENTIFY "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":53608447," PROPERTIES "}}"
#define TARGET "/?v=10&encoding=json"
#define RESUME_TARGET "/resume?v=10&encoding=json"

/* -- a world: one gateway, its log, and the time -------------------------------------- */

static sim_config config;
static sim_gateway *gateway;
static uint64_t now;
static char *journal;               /* the log, lines with \n */
static size_t journal_len;

static void on_log(void *user, const char *line)
{
    size_t len = strlen(line);
    (void)user;
    journal = (char *)realloc(journal, journal_len + len + 2);
    memcpy(journal + journal_len, line, len);
    journal[journal_len + len] = '\n';
    journal_len += len + 1;
    journal[journal_len] = 0;
}

static void world_config(void)
{
    now = 0;
    journal_len = 0;
    journal = (char *)realloc(journal, 1);
    journal[0] = 0;
    sim_config_init(&config);
    config.log = on_log;
}

static void world_open(void) { gateway = sim_new(&config, now); }
static void world(void) { world_config(); world_open(); }
static void world_end(void) { sim_free(gateway); gateway = NULL; }
static void forget_journal(void) { journal_len = 0; journal[0] = 0; }

static void order(const char *text)
{
    char why[200] = "";
    if (!CHECK(sim_command(gateway, NULL, text, now, why, sizeof why))) fprintf(stderr, "%s\n", why);
}

static void script(const char *text)
{
    char why[200] = "";
    if (!CHECK_EQ(sim_script(gateway, text, now, why, sizeof why), 0)) fprintf(stderr, "%s\n", why);
}

/* Moves the clock, and stops wherever the gateway wants to be ticked. */
static void until(uint64_t time_ms)
{
    while (sim_next_ms(gateway) < time_ms) {
        now = sim_next_ms(gateway) > now ? sim_next_ms(gateway) : now + 1;
        sim_tick(gateway, now);
    }
    now = time_ms;
    sim_tick(gateway, now);
}

/* -- a client ----------------------------------------------------------------------------- */

typedef struct client {
    sim_connection *conn;
    uint8_t *bytes;
    size_t begin, end;
    uint32_t opcode, first;         /* of the frame read last; its first byte */
    char *text;
    size_t len;
} client;

static void collect(client *it)
{
    size_t len;
    const uint8_t *bytes;
    while ((bytes = sim_output(it->conn, &len), len)) {
        it->bytes = (uint8_t *)realloc(it->bytes, it->end + len + 1);
        memcpy(it->bytes + it->end, bytes, len);
        it->end += len;
        it->bytes[it->end] = 0;
        sim_output_taken(it->conn, len);
    }
}

static void give(client *it, const void *bytes, size_t len) { sim_receive(it->conn, (const uint8_t *)bytes, len, now); }
static void give_text(client *it, const char *text) { give(it, text, strlen(text)); }

static client connect_raw(void)
{
    client it;
    memset(&it, 0, sizeof it);
    it.conn = sim_accept(gateway, now);
    return it;
}

static void leave(client *it)
{
    if (it->conn) sim_hangup(it->conn, now);
    free(it->bytes);
    free(it->text);
    memset(it, 0, sizeof *it);
}

/* What is there so far, as text. */
static const char *all(client *it)
{
    collect(it);
    return it->end > it->begin ? (const char *)it->bytes + it->begin : "";
}

static client ask(const char *request)
{
    client it = connect_raw();
    give_text(&it, request);
    return it;
}

static void give_frame(client *it, uint8_t first, const char *payload, size_t len)
{
    static uint32_t mask_state = 1;
    uint8_t head[14], mask[4];
    size_t size = len < 126 ? 2 : len < 65536 ? 4 : 10, i;
    uint8_t *frame = (uint8_t *)malloc(len + 14);
    head[0] = first;
    head[1] = (uint8_t)(0x80 | (size == 2 ? len : size == 4 ? 126u : 127u));
    for (i = 0; i + 2 < size; i++) head[2 + i] = (uint8_t)((uint64_t)len >> (8 * (size - 3 - i)));
    mask_state = mask_state * 1103515245u + 12345u;
    for (i = 0; i < 4; i++) mask[i] = (uint8_t)(mask_state >> (8 * i) | 1);
    memcpy(frame, head, size);
    memcpy(frame + size, mask, 4);
    for (i = 0; i < len; i++) frame[size + 4 + i] = (uint8_t)((uint8_t)payload[i] ^ mask[i & 3]);
    give(it, frame, size + 4 + len);
    free(frame);
}

static void send_text(client *it, const char *text) { give_frame(it, 0x81, text, strlen(text)); }

/* 1: a frame was read; its payload is it->text. */
static int read_frame(client *it)
{
    size_t have, head = 2, i;
    uint64_t len;
    const uint8_t *at;
    collect(it);
    have = it->end - it->begin;
    at = it->bytes + it->begin;
    if (have < 2) return 0;
    len = at[1] & 127u;
    head += len == 126 ? 2 : len == 127 ? 8 : 0;
    if (have < head) return 0;
    for (i = 2, len = head > 2 ? 0 : len; i < head; i++) len = len << 8 | at[i];
    if (have - head < len) return 0;
    it->first = at[0];
    it->opcode = at[0] & 15u;
    it->text = (char *)realloc(it->text, (size_t)len + 1);
    memcpy(it->text, at + head, (size_t)len);
    it->text[len] = 0;
    it->len = (size_t)len;
    it->begin += head + (size_t)len;
    return 1;
}

/* Reads on until a text frame contains this. */
static int read_until(client *it, const char *part)
{
    while (read_frame(it))
        if (it->opcode == 1 && strstr(it->text, part)) return 1;
    return 0;
}

/* Reads on until the close frame; its code, 0 without one, -1 if none came. */
static int close_code(client *it)
{
    while (read_frame(it))
        if (it->opcode == 8) return it->len < 2 ? 0 : (int)(uint8_t)it->text[0] << 8 | (uint8_t)it->text[1];
    return -1;
}

static client connect_to(const char *target)
{
    client it = connect_raw();
    const char *end;
    give_text(&it, "GET ");
    give_text(&it, target);
    give_text(&it, " HTTP/1.1\r\n" UPGRADE_HEADERS);
    end = strstr(all(&it), "\r\n\r\n");
    if (end) it.begin += (size_t)(end + 4 - all(&it));
    return it;
}

static client connect_ready(void)
{
    client it = connect_to(TARGET);
    send_text(&it, IDENTIFY);
    return it;
}

static uint64_t number_after(const char *text, const char *key)
{
    const char *at = strstr(text, key);
    return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

/* The session id of READY: its first letter is escaped. */
static void read_session_id(const char *ready, char id[33])
{
    const char *at = strstr(ready, "\"session_id\":\"\\u00");
    memset(id, 0, 33);
    if (!CHECK(at != NULL)) return;
    at += strlen("\"session_id\":\"\\u00");
    memcpy(id, at, 2);
    id[0] = (char)strtoul(id, NULL, 16);
    memcpy(id + 1, at + 2, 31);
}

static void send_resume(client *it, const char *id, uint64_t seq)
{
    char text[200];
    snprintf(text, sizeof text, "{\"op\":6,\"d\":{\"token\":\"abc\",\"session_id\":\"%s\",\"seq\":%llu}}", id, (unsigned long long)seq);
    send_text(it, text);
}

/* -- http ------------------------------------------------------------------------------------- */

TEST(http_answers_the_address_of_the_gateway)
{
    client it;
    world();
    it = ask("GET /api/v10/gateway HTTP/1.1\r\n" API_HEADERS "\r\n");
    CHECK_HAS(all(&it), "HTTP/1.1 200 OK\r\n");
    CHECK_HAS(all(&it), "\r\n\r\n{\"url\":\"wss://gateway.sim\"}");
    CHECK_EQ(sim_connection_state(it.conn), SIM_WANTS_CLOSE);
    leave(&it);
    world_end();
}

TEST(http_tells_the_budget_as_it_stands)
{
    client it;
    world_config();
    config.shards = 4;
    world_open();
    it = ask("GET /api/v10/gateway/bot HTTP/1.1\r\n" API_HEADERS "Authorization: Bot abc\r\n\r\n");
    CHECK_HAS(all(&it), "\"shards\":4,\"session_start_limit\":{\"total\":1000,\"remaining\":1000,\"reset_after\":0,\"max_concurrency\":1}}");
    leave(&it);
    it = connect_ready();
    leave(&it);
    now = 1000;
    it = ask("GET /api/v10/gateway/bot HTTP/1.1\r\n" API_HEADERS "Authorization: Bot abc\r\n\r\n");
    CHECK_HAS(all(&it), "\"remaining\":999,\"reset_after\":86399000,");
    leave(&it);
    world_end();
}

TEST(http_refuses_what_discord_refuses)
{
    static const char *const cases[][2] = {
        { "GET /api/v10/gateway/bot HTTP/1.1\r\n" API_HEADERS "\r\n", "HTTP/1.1 401 " },
        { "GET /api/v10/gateway/bot HTTP/1.1\r\n" API_HEADERS "Authorization: abc\r\n\r\n", "HTTP/1.1 401 " },
        { "GET /api/v10/gateway/bot HTTP/1.1\r\n" API_HEADERS "Authorization: Bot Bot abc\r\n\r\n", "HTTP/1.1 401 " },
        { "GET /api/v10/gateway HTTP/1.1\r\nHost: a\r\nUser-Agent: curl/8\r\n\r\n", "HTTP/1.1 403 " },
        { "GET /api/v10/gateway HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 403 " },
        { "GET /api/v10/gateway HTTP/1.1\r\nUser-Agent: DiscordBot (https://a.b, 1)\r\n\r\n", "HTTP/1.1 400 " },
        { "GET /api/v6/gateway HTTP/1.1\r\n" API_HEADERS "\r\n", "HTTP/1.1 400 " },
        { "GET /other HTTP/1.1\r\n" API_HEADERS "\r\n", "HTTP/1.1 404 " },
        { "POST /api/v10/gateway HTTP/1.1\r\n" API_HEADERS "\r\n", "HTTP/1.1 405 " },
        { "HELLO\r\n\r\n", "HTTP/1.1 400 " },
        { "GET /?v=10&encoding=etf HTTP/1.1\r\n" UPGRADE_HEADERS, "HTTP/1.1 400 " },
        { "GET /?v=10&encoding=json&compress=lz4 HTTP/1.1\r\n" UPGRADE_HEADERS, "HTTP/1.1 400 " },
        { "GET /other?v=10&encoding=json HTTP/1.1\r\n" UPGRADE_HEADERS, "HTTP/1.1 404 " },
        { "GET " TARGET " HTTP/1.1\r\n" API_HEADERS "Upgrade: websocket\r\nConnection: Upgrade\r\n"
          "Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", "HTTP/1.1 426 " },
        { "GET " TARGET " HTTP/1.1\r\n" API_HEADERS "Upgrade: websocket\r\nConnection: Upgrade\r\n"
          "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n", "HTTP/1.1 400 " },
    };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        client it;
        world();
        it = ask(cases[i][0]);
        CHECK_HAS(all(&it), cases[i][1]);
        CHECK_U64(sim_get_stats(gateway)->violations, 1);
        leave(&it);
        world_end();
    }
}

/* Discord lets other clients in; the simulator does, and says what it thinks of it. */
TEST(http_upgrade_of_a_foreign_user_agent_is_logged_and_done)
{
    static const char *const agents[] = { "User-Agent: Python/3.11 websockets/10.4\r\n", "" };
    char request[400];
    size_t i;
    for (i = 0; i < 2; i++) {
        client it;
        world();
        snprintf(request, sizeof request, "GET " TARGET " HTTP/1.1\r\nHost: gateway.sim\r\n%s"
                 "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                 "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", agents[i]);
        it = ask(request);
        CHECK_HAS(all(&it), "HTTP/1.1 101 ");
        CHECK_U64(sim_get_stats(gateway)->violations, 1);
        CHECK_HAS(journal, "\"rule\":\"user_agent\"");
        leave(&it);
        world_end();
    }
}

TEST(http_answers_the_key_of_the_rfc)       /* RFC 6455 section 1.3 */
{
    client it;
    world();
    it = ask("GET " TARGET " HTTP/1.1\r\n" UPGRADE_HEADERS);
    CHECK_HAS(all(&it), "HTTP/1.1 101 Switching Protocols\r\n");
    CHECK_HAS(all(&it), "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n");
    leave(&it);
    world_end();
}

TEST(http_faults_do_what_they_say)
{
    static const char *const cases[][2] = {
        { "http 503", "HTTP/1.1 503 Service Unavailable\r\n" },
        { "http 429", "Retry-After: 2\r\n" },
        { "http 429 body 0.25", "\"retry_after\":0.250" },
        { "http 429 header 7", "Retry-After: 7\r\n" },
        { "redirect https://elsewhere.example/", "302 Found\r\nContent-Type: application/json\r\nConnection: close\r\nLocation: https://elsewhere.example/\r\n" },
        { "http_body chunked", "Transfer-Encoding: chunked\r\n\r\n7;sim=1\r\n{\"url\":\r\n" },
        { "http_body until_close", "Connection: close\r\n\r\n{\"url\":\"wss://gateway.sim\"}" },
        { "http_endless", "X-Endless-4095:" },
    };
    size_t i;
    client it;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        world();
        script("next 1 freeze\n");
        order("calm");
        it = connect_raw();                 /* frozen: the next one is meant */
        CHECK_EQ(sim_connection_state(it.conn), SIM_FROZEN);
        leave(&it);
        it = connect_raw();
        order(cases[i][0]);
        give_text(&it, "GET /api/v10/gateway HTTP/1.1\r\n" API_HEADERS "\r\n");
        CHECK_HAS(all(&it), cases[i][1]);
        leave(&it);
        world_end();
    }
    world();
    it = connect_raw();
    order("stall_http");
    give_text(&it, "GET /api/v10/gateway HTTP/1.1\r\n" API_HEADERS "\r\n");
    CHECK_TEXT(all(&it), "");
    CHECK_EQ(sim_connection_state(it.conn), SIM_OPEN);
    leave(&it);
    it = connect_raw();
    order("garbage");
    give_text(&it, "GET /api/v10/gateway HTTP/1.1\r\n" API_HEADERS "\r\n");
    collect(&it);
    CHECK_U64(it.end, 500);
    leave(&it);
    world_end();
}

TEST(http_upgrade_faults_do_what_they_say)
{
    client it;
    world();
    script("on upgrade x1 wrong_accept\non upgrade x2 +0 note late");
    it = ask("GET " TARGET " HTTP/1.1\r\n" UPGRADE_HEADERS);
    CHECK_HAS(all(&it), "101 Switching");
    CHECK(!strstr(all(&it), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    leave(&it);
    it = connect_raw();
    order("no_upgrade");
    give_text(&it, "GET " TARGET " HTTP/1.1\r\n" UPGRADE_HEADERS);
    CHECK_HAS(all(&it), "HTTP/1.1 200 OK");
    leave(&it);
    it = connect_raw();
    order("http 503");
    give_text(&it, "GET " TARGET " HTTP/1.1\r\n" UPGRADE_HEADERS);
    CHECK_HAS(all(&it), "HTTP/1.1 503");
    leave(&it);
    world_end();
}

/* -- identify ------------------------------------------------------------------------------------ */

TEST(identify_leads_to_ready_and_guilds)
{
    client it;
    world();
    it = connect_to(TARGET);
    CHECK(read_frame(&it));
    CHECK_TEXT(it.text, "{\"t\":null,\"s\":null,\"op\":10,\"d\":{\"heartbeat_interval\":41250,\"_trace\":[\"sim\"]}}");
    CHECK(!read_frame(&it));
    send_text(&it, IDENTIFY);
    CHECK(read_frame(&it));
    CHECK_HAS(it.text, "{\"t\":\"READY\",\"s\":1,\"op\":0,\"d\":{\"v\":10,");
    CHECK_HAS(it.text, "\"resume_gateway_url\":\"wss:\\/\\/gateway.sim\\/resume\"");
    CHECK_HAS(it.text, "\"application\":{\"id\":\"1098765432109876544\",\"flags\":565248}");
    CHECK(!strstr(it.text, "\"shard\":"));
    CHECK(read_until(&it, "{\"t\":\"GUILD_CREATE\",\"s\":4,"));
    CHECK(!read_frame(&it));
    CHECK_U64(sim_get_stats(gateway)->violations, 0);
    leave(&it);
    world_end();
}

TEST(identify_with_a_shard_sees_its_guilds_only)
{
    client it;
    uint64_t id;
    world_config();
    config.guilds = 10;
    world_open();
    it = connect_to(TARGET);
    send_text(&it, "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":1,\"shard\":[1,3]," PROPERTIES "}}");
    CHECK(read_until(&it, "\"shard\":[1,3]"));
    while (read_until(&it, "GUILD_CREATE")) {
        id = number_after(it.text, "\"d\":{\"id\":\"");
        CHECK_U64((id >> 22) % 3, 1);
    }
    leave(&it);
    world_end();
}

TEST(each_violation_has_its_close_code)
{
    static const struct { const char *payload; int code; const char *rule; } cases[] = {
        { "{\"op\":3,\"d\":{}}", 4003, "not_identified" },
        { "{\"op\":8,\"d\":{}}", 4003, "not_identified" },
        { "{\"op\":5,\"d\":{}}", 4001, "unknown_opcode" },
        { "{\"op\":10,\"d\":{}}", 4001, "unknown_opcode" },
        { "{\"d\":{}}", 4001, "unknown_opcode" },
        { "{\"op\":\"1\",\"d\":null}", 4001, "unknown_opcode" },
        { "{\"op\":1,\"d\":\"7\"}", 4001, "bad_heartbeat" },
        { "{\"op\":1}", 4001, "bad_heartbeat" },
        { "{\"op\":1,\"d\":null", 4002, "invalid_json" },
        { "{\"op\":1 \"d\":null}", 4002, "invalid_json" },
        { "{\"op\":01,\"d\":null}", 4002, "invalid_json" },
        { "{\"op\":1,\"d\":null,}", 4002, "invalid_json" },
        { "[1]", 4002, "invalid_json" },
        { "", 4002, "invalid_json" },
        { "{\"op\":2,\"d\":{\"intents\":0," PROPERTIES "}}", 4002, "bad_identify" },
        { "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":0}}", 4002, "bad_identify" },
        { "{\"op\":2,\"d\":{\"token\":\"abc\"," PROPERTIES "}}", 4002, "bad_identify" },
        { "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":0,\"large_threshold\":49," PROPERTIES "}}", 4002, "bad_identify" },
        { "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":0,\"presence\":{}," PROPERTIES "}}", 4002, "bad_identify" },
        { "{\"op\":2,\"d\":{\"token\":\"\",\"intents\":0," PROPERTIES "}}", 4004, "wrong_token" },
        { "{\"op\":2,\"d\":{\"token\":\"Bot abc\",\"intents\":0," PROPERTIES "}}", 4004, "wrong_token" },
        { "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":-1," PROPERTIES "}}", 4013, "invalid_intents" },
        { "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":131072," PROPERTIES "}}", 4013, "invalid_intents" },
        { "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":4294967296," PROPERTIES "}}", 4013, "invalid_intents" },
        { "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":32768," PROPERTIES "}}", 4014, "disallowed_intents" },
        { "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":0,\"shard\":[2,2]," PROPERTIES "}}", 4010, "invalid_shard" },
        { "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":0,\"shard\":[0]," PROPERTIES "}}", 4010, "invalid_shard" },
        { "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":0,\"shard\":[0,1]," PROPERTIES "}}", 4011, "sharding_required" },
        { "{\"op\":6,\"d\":{\"token\":\"abc\",\"session_id\":\"x\",\"seq\":null}}", 4001, "bad_resume" },
        { "{\"op\":6,\"d\":{\"token\":\"\",\"session_id\":\"x\",\"seq\":1}}", 4004, "wrong_token" },
    };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        client it;
        world_config();
        config.denied_intents = 32768;
        config.required_shards = 2;
        world_open();
        it = connect_to(TARGET);
        send_text(&it, cases[i].payload);
        if (!CHECK_EQ(close_code(&it), cases[i].code)) fprintf(stderr, "  for %s\n", cases[i].payload);
        CHECK_HAS(journal, cases[i].rule);
        leave(&it);
        world_end();
    }
}

TEST(violations_after_identify_have_their_close_codes)
{
    static const struct { const char *payload; int code; } cases[] = {
        { IDENTIFY, 4005 },
        { "{\"op\":6,\"d\":{\"token\":\"abc\",\"session_id\":\"x\",\"seq\":1}}", 4005 },
        { "{\"op\":3,\"d\":{\"since\":null,\"activities\":[],\"status\":\"away\",\"afk\":false}}", 4001 },
        { "{\"op\":3,\"d\":{\"activities\":[],\"status\":\"idle\",\"afk\":false}}", 4001 },
        { "{\"op\":3,\"d\":{\"since\":null,\"activities\":[{\"name\":\"a\",\"type\":0,\"details\":\"x\"}],\"status\":\"idle\",\"afk\":false}}", 4001 },
        { "{\"op\":4,\"d\":{\"guild_id\":\"1\",\"self_mute\":false,\"self_deaf\":false}}", 4001 },
        { "{\"op\":4,\"d\":{\"guild_id\":1,\"channel_id\":null,\"self_mute\":false,\"self_deaf\":false}}", 4001 },
        { "{\"op\":8,\"d\":{\"guild_id\":\"1\",\"query\":\"\"}}", 4001 },
        { "{\"op\":8,\"d\":{\"guild_id\":\"1\",\"limit\":0}}", 4001 },
        { "{\"op\":31,\"d\":{\"guild_ids\":\"1\"}}", 4001 },
        { "{\"op\":43,\"d\":{\"guild_id\":\"1\"}}", 4001 },
    };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        client it;
        world();
        it = connect_ready();
        CHECK(read_until(&it, "READY"));
        send_text(&it, cases[i].payload);
        if (!CHECK_EQ(close_code(&it), cases[i].code)) fprintf(stderr, "  for %s\n", cases[i].payload);
        leave(&it);
        world_end();
    }
}

TEST(wrong_api_version_is_closed_with_4012)
{
    client it;
    world();
    it = connect_to("/?v=9&encoding=json");
    CHECK_EQ(close_code(&it), 4012);
    leave(&it);
    world_end();
}

TEST(the_configured_token_is_the_only_one)
{
    client it;
    world_config();
    config.token = "right";
    world_open();
    it = connect_ready();
    CHECK_EQ(close_code(&it), 4004);
    leave(&it);
    it = connect_to(TARGET);
    send_text(&it, "{\"op\":2,\"d\":{\"token\":\"right\",\"intents\":0," PROPERTIES "}}");
    CHECK(read_until(&it, "READY"));
    leave(&it);
    world_end();
}

TEST(a_wrong_key_in_identify_is_named)
{
    client it;
    world();
    it = connect_to(TARGET);
    send_text(&it, "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":0,\"shards\":[0,1]," PROPERTIES "}}");
    CHECK_HAS(journal, "\"rule\":\"identify_key\",\"why\":\"unknown key shards\"");
    leave(&it);
    world_end();
}

/* -- limits ----------------------------------------------------------------------------------------- */

TEST(the_121st_payload_in_a_minute_is_closed_with_4008)
{
    client it;
    int i;
    world();
    it = connect_ready();
    for (i = 0; i < 119; i++) send_text(&it, "{\"op\":1,\"d\":1}");
    CHECK_EQ(close_code(&it), -1);
    send_text(&it, "{\"op\":1,\"d\":1}");
    CHECK_EQ(close_code(&it), 4008);
    leave(&it);
    world_end();
}

TEST(the_window_of_120_slides)
{
    client it;
    int i;
    world();
    it = connect_ready();
    now = 30000;
    for (i = 0; i < 119; i++) send_text(&it, "{\"op\":1,\"d\":1}");
    now = 60000;                            /* the Identify is a minute old */
    send_text(&it, "{\"op\":1,\"d\":1}");
    CHECK_EQ(close_code(&it), -1);
    send_text(&it, "{\"op\":1,\"d\":1}");
    CHECK_EQ(close_code(&it), 4008);
    leave(&it);
    world_end();
}

TEST(a_payload_has_4096_bytes_at_most)
{
    client it;
    char text[4098];
    world();
    memset(text, ' ', sizeof text);
    memcpy(text, "{\"op\":1,\"d\":null}", 17);
    it = connect_to(TARGET);
    give_frame(&it, 0x81, text, 4096);
    CHECK(read_until(&it, "\"op\":11"));
    give_frame(&it, 0x81, text, 4097);
    CHECK_EQ(close_code(&it), 4002);
    CHECK_HAS(journal, "payload_too_large");
    leave(&it);
    world_end();
}

TEST(six_presences_in_20_s_are_a_violation)
{
    client it;
    int i;
    world();
    it = connect_ready();
    for (i = 0; i < 5; i++) send_text(&it, "{\"op\":3,\"d\":{\"since\":null,\"activities\":[{\"name\":\"a\",\"type\":0}],\"status\":\"dnd\",\"afk\":false}}");
    CHECK_U64(sim_get_stats(gateway)->violations, 0);
    send_text(&it, "{\"op\":3,\"d\":{\"since\":null,\"activities\":[],\"status\":\"dnd\",\"afk\":false}}");
    CHECK_HAS(journal, "presence_rate");
    CHECK_EQ(close_code(&it), -1);
    leave(&it);
    world_end();
}

TEST(identify_is_paced_by_buckets)
{
    client a, b, c;
    world_config();
    config.max_concurrency = 2;
    world_open();
    a = connect_to(TARGET);
    send_text(&a, "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":0,\"shard\":[0,4]," PROPERTIES "}}");
    CHECK(read_until(&a, "READY"));
    b = connect_to(TARGET);
    send_text(&b, "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":0,\"shard\":[1,4]," PROPERTIES "}}");
    CHECK(read_until(&b, "READY"));
    now = 4999;
    c = connect_to(TARGET);
    send_text(&c, "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":0,\"shard\":[2,4]," PROPERTIES "}}");
    CHECK(read_until(&c, "\"op\":9,\"d\":false"));
    CHECK_HAS(journal, "identify_too_fast");
    send_text(&c, IDENTIFY);
    CHECK_EQ(close_code(&c), 4003);
    leave(&c);
    now = 5000;
    c = connect_to(TARGET);
    send_text(&c, "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":0,\"shard\":[2,4]," PROPERTIES "}}");
    CHECK(read_until(&c, "READY"));
    leave(&a);
    leave(&b);
    leave(&c);
    world_end();
}

TEST(identify_over_the_budget_resets_the_token)
{
    client a, b;
    world_config();
    config.remaining = 1;
    config.identify_window_ms = 0;
    world_open();
    a = connect_ready();
    CHECK(read_until(&a, "READY"));
    b = connect_ready();
    CHECK_EQ(close_code(&b), 4004);
    CHECK_EQ(close_code(&a), 4004);
    CHECK_HAS(journal, "token_reset");
    leave(&a);
    leave(&b);
    a = ask("GET /api/v10/gateway/bot HTTP/1.1\r\n" API_HEADERS "Authorization: Bot abc\r\n\r\n");
    CHECK_HAS(all(&a), "401");
    leave(&a);
    world_end();
}

TEST(the_budget_is_full_again_after_a_day)
{
    client it;
    world_config();
    config.remaining = 0;
    world_open();
    now = config.reset_after_ms;
    it = connect_ready();
    CHECK(read_until(&it, "READY"));
    leave(&it);
    world_end();
}

/* -- heartbeats ------------------------------------------------------------------------------------------ */

TEST(a_missed_heartbeat_is_closed_with_4000)
{
    client it;
    world();
    it = connect_ready();
    until(41250 + 41250 / 2 + 5000 - 1);
    CHECK_EQ(close_code(&it), -1);
    until(now + 1);
    CHECK_EQ(close_code(&it), 4000);
    CHECK_HAS(journal, "heartbeat_missed");
    leave(&it);
    world_end();
}

TEST(a_heartbeat_is_answered_and_judged)
{
    static const struct { const char *first, *second, *rule; } cases[] = {
        { "{\"op\":1,\"d\":null}", "{\"op\":1,\"d\":4}", "" },
        { "{\"op\":1,\"d\":4}", "{\"op\":1,\"d\":null}", "heartbeat_null" },
        { "{\"op\":1,\"d\":4}", "{\"op\":1,\"d\":3}", "heartbeat_backwards" },
        { "{\"op\":1,\"d\":4}", "{\"op\":1,\"d\":5}", "heartbeat_seq" },
        { "{\"op\":1,\"d\":null}", "{\"op\":1,\"d\":0}", "heartbeat_zero" },
    };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        client it;
        world();
        it = connect_ready();
        send_text(&it, cases[i].first);
        CHECK(read_until(&it, "{\"t\":null,\"s\":null,\"op\":11,\"d\":null}"));
        send_text(&it, cases[i].second);
        CHECK(read_until(&it, "\"op\":11"));
        CHECK_HAS(journal, cases[i].rule);
        CHECK_U64(sim_get_stats(gateway)->violations, *cases[i].rule ? 1 : 0);
        leave(&it);
        world_end();
    }
}

/* -- frames ------------------------------------------------------------------------------------------------ */

TEST(bad_client_frames_are_closed_with_their_codes)
{
    static const struct { const char *bytes; size_t len; int code; } cases[] = {
        { "\x81\x02{}", 4, 1002 },                              /* not masked */
        { "\xC1\x80\x01\x02\x03\x04", 6, 1002 },                /* a reserved bit */
        { "\x83\x80\x01\x02\x03\x04", 6, 1002 },                /* a reserved opcode */
        { "\x09\x80\x01\x02\x03\x04", 6, 1002 },                /* a fragmented ping */
        { "\x80\x80\x01\x02\x03\x04", 6, 1002 },                /* a continuation of nothing */
        { "\x81\xFE\x00\x01\x01\x02\x03\x04z", 9, 1002 },       /* a length that is longer than it need be */
        { "\x82\x80\x01\x02\x03\x04", 6, 1003 },                /* binary */
        { "\x81\x81\x01\x02\x03\x04\xFE", 7, 1007 },            /* not UTF-8 */
        { "\x88\x81\x01\x02\x03\x04z", 7, 1002 },               /* a close of one byte */
        { "\x88\x82\x01\x02\x03\x04\x02\xEF", 8, 1002 },        /* close 1005 */
    };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        client it;
        world();
        it = connect_to(TARGET);
        give(&it, cases[i].bytes, cases[i].len);
        if (!CHECK_EQ(close_code(&it), cases[i].code)) fprintf(stderr, "  in case %d\n", (int)i);
        leave(&it);
        world_end();
    }
}

TEST(fragments_with_a_ping_between_are_one_payload)
{
    client it;
    world();
    it = connect_to(TARGET);
    CHECK(read_frame(&it));
    give_frame(&it, 0x01, "{\"op\":1,", 8);
    give_frame(&it, 0x89, "hi", 2);
    give_frame(&it, 0x80, "\"d\":null}", 9);
    CHECK(read_frame(&it));
    CHECK_EQ(it.opcode, 10);
    CHECK_TEXT(it.text, "hi");
    CHECK(read_until(&it, "\"op\":11"));
    leave(&it);
    world_end();
}

TEST(a_client_close_is_answered_with_its_code)
{
    client it;
    world();
    it = connect_ready();
    give_frame(&it, 0x88, "\x0F\xA0zombie", 8);
    CHECK_EQ(close_code(&it), 4000);
    CHECK_EQ(sim_connection_state(it.conn), SIM_WANTS_CLOSE);
    CHECK_HAS(journal, "\"ev\":\"close_received\",\"ts_ms\":0,\"conn\":1,\"code\":4000,\"answer\":false,\"reason\":\"zombie\"");
    leave(&it);
    world_end();
}

TEST(our_close_waits_for_the_answer)
{
    client it;
    world();
    it = connect_ready();
    order("close 4009 too late");
    CHECK_EQ(close_code(&it), 4009);
    CHECK_TEXT(it.text + 2, "too late");
    CHECK_EQ(sim_connection_state(it.conn), SIM_OPEN);
    give_frame(&it, 0x88, "\x0F\xA9", 2);
    CHECK_EQ(sim_connection_state(it.conn), SIM_WANTS_CLOSE);
    leave(&it);
    it = connect_to(TARGET);
    order("close 1001");
    until(now + 3000);
    CHECK_HAS(journal, "no_close_answer");
    CHECK_EQ(sim_connection_state(it.conn), SIM_WANTS_CLOSE);
    leave(&it);
    world_end();
}

TEST(requests_and_frames_may_come_byte_by_byte)
{
    static const char request[] = "GET " TARGET " HTTP/1.1\r\n" UPGRADE_HEADERS;
    client it;
    size_t i;
    const uint8_t frame[] = { 0x81, 0x91, 0, 0, 0, 1, '{', '"', 'o', 'p' ^ 1, '"', ':', '1', ',' ^ 1, '"', 'd', '"', ':' ^ 1,
                              'n', 'u', 'l', 'l' ^ 1, '}' };
    world();
    it = connect_raw();
    for (i = 0; request[i]; i++) give(&it, &request[i], 1);
    CHECK_HAS(all(&it), "101 Switching");
    it.begin = it.end;
    for (i = 0; i < sizeof frame; i++) give(&it, &frame[i], 1);
    CHECK(read_until(&it, "\"op\":11"));
    leave(&it);
    world_end();
}

/* -- resume --------------------------------------------------------------------------------------------------- */

/* Reads all that is there; each generated event has the next number.  The last seq. */
static uint64_t read_events(client *it, uint64_t *number, uint64_t seq)
{
    while (read_frame(it)) {
        uint64_t n = number_after(it->text, "\"sim\":{\"n\":"), s = number_after(it->text, "\"s\":");
        if (n) { CHECK_U64(n, *number + 1); *number = n; }
        if (s) { CHECK_U64(s, seq + 1); seq = s; }
    }
    return seq;
}

TEST(resume_replays_exactly_what_was_missed)
{
    client it;
    char id[33];
    uint64_t number = 0, seq;
    world_config();
    config.event_rate = 10;
    world_open();
    it = connect_ready();
    CHECK(read_until(&it, "READY"));
    read_session_id(it.text, id);
    seq = read_events(&it, &number, 1);
    until(2000);
    seq = read_events(&it, &number, seq);
    CHECK_U64(number, 20);
    leave(&it);
    until(12000);
    it = connect_to(RESUME_TARGET);
    send_resume(&it, id, seq);
    CHECK(read_until(&it, "\"op\":10"));
    seq = read_events(&it, &number, seq);
    CHECK_U64(number, 120);
    CHECK_HAS(it.text, "{\"t\":\"RESUMED\",");
    until(13000);
    seq = read_events(&it, &number, seq);
    CHECK_U64(number, 130);
    CHECK_U64(sim_get_stats(gateway)->violations, 0);
    leave(&it);
    it = connect_to(RESUME_TARGET);         /* a RESUMED of an earlier connection is not replayed */
    send_resume(&it, id, 1);
    CHECK(read_until(&it, "RESUMED"));
    CHECK_U64(number_after(it.text, "\"s\":"), seq + 1);
    leave(&it);
    world_end();
}

static client session_in(char id[33])
{
    client it = connect_ready();
    CHECK(read_until(&it, "READY"));
    read_session_id(it.text, id);
    return it;
}

TEST(resume_with_a_seq_never_sent_is_closed_with_4007)
{
    client it;
    char id[33];
    world();
    it = session_in(id);
    leave(&it);
    it = connect_to(RESUME_TARGET);
    send_resume(&it, id, 5);
    CHECK_EQ(close_code(&it), 4007);
    leave(&it);
    it = connect_to(RESUME_TARGET);
    send_resume(&it, id, 1);
    CHECK(read_until(&it, "\"op\":9,\"d\":false"));
    leave(&it);
    world_end();
}

TEST(resume_of_an_expired_session_is_refused)
{
    int strict;
    for (strict = 0; strict < 2; strict++) {
        client it;
        char id[33];
        world_config();
        config.session_ttl_ms = 1000;
        config.expired_4009 = (uint32_t)strict;
        world_open();
        it = session_in(id);
        leave(&it);
        until(1000);
        CHECK_HAS(journal, "\"ev\":\"session_end\"");
        it = connect_to(RESUME_TARGET);
        send_resume(&it, id, 1);
        if (strict) CHECK_EQ(close_code(&it), 4009);
        else CHECK(read_until(&it, "\"op\":9,\"d\":false"));
        leave(&it);
        world_end();
    }
}

TEST(a_client_close_of_1000_or_1001_ends_the_session)
{
    static const char *const closes[] = { "\x03\xE8", "\x03\xE9", "\x0F\xA0" };
    int i;
    for (i = 0; i < 3; i++) {
        client it;
        char id[33];
        world();
        it = session_in(id);
        give_frame(&it, 0x88, closes[i], 2);
        leave(&it);
        it = connect_to(RESUME_TARGET);
        send_resume(&it, id, 1);
        CHECK(read_until(&it, i < 2 ? "\"op\":9,\"d\":false" : "RESUMED"));
        leave(&it);
        world_end();
    }
}

TEST(resume_beyond_the_replay_buffer_is_refused)
{
    client it;
    char id[33];
    world_config();
    config.replay_events = 50;
    config.event_rate = 10;
    world_open();
    it = session_in(id);
    leave(&it);
    until(10000);
    it = connect_to(RESUME_TARGET);
    send_resume(&it, id, 1);
    CHECK(read_until(&it, "\"op\":9,\"d\":false"));
    CHECK_HAS(journal, "replay buffer");
    leave(&it);
    world_end();
}

TEST(resume_at_a_wrong_address_is_a_violation)
{
    int strict;
    for (strict = 0; strict < 2; strict++) {
        client it;
        char id[33];
        world_config();
        config.strict_resume_url = (uint32_t)strict;
        world_open();
        it = session_in(id);
        leave(&it);
        it = connect_to(TARGET);
        send_resume(&it, id, 1);
        CHECK(read_until(&it, strict ? "\"op\":9,\"d\":false" : "RESUMED"));
        CHECK_HAS(journal, "resume_on_wrong_url");
        leave(&it);
        world_end();
    }
}

TEST(resume_with_another_query_is_a_violation)
{
    client it;
    char id[33];
    world();
    it = session_in(id);
    leave(&it);
    it = connect_to("/resume?encoding=json&v=10");
    send_resume(&it, id, 1);
    CHECK(read_until(&it, "RESUMED"));
    CHECK_HAS(journal, "resume_query_differs");
    leave(&it);
    world_end();
}

TEST(resume_takes_the_session_from_an_older_connection)
{
    client a, b;
    char id[33];
    world();
    a = session_in(id);
    b = connect_to(RESUME_TARGET);
    send_resume(&b, id, 1);
    CHECK(read_until(&b, "RESUMED"));
    CHECK_EQ(sim_connection_state(a.conn), SIM_WANTS_CUT);
    leave(&a);
    leave(&b);
    world_end();
}

/* -- commands --------------------------------------------------------------------------------------------------- */

static void send_with_guild(client *it, const char *format, uint64_t guild_id)
{
    char text[400];
    snprintf(text, sizeof text, format, (unsigned long long)guild_id);
    send_text(it, text);
}

static client with_guild(uint64_t *guild_id)
{
    client it = connect_ready();
    CHECK(read_until(&it, "READY"));
    *guild_id = number_after(it.text, "\"guilds\":[{\"unavailable\":true,\"id\":\"");
    return it;
}

TEST(members_come_in_chunks_once_in_30_s)
{
    client it;
    uint64_t guild;
    world();
    it = with_guild(&guild);
    send_with_guild(&it, "{\"op\":8,\"d\":{\"guild_id\":\"%llu\",\"query\":\"\",\"limit\":0,\"nonce\":\"n1\"}}", guild);
    CHECK(read_until(&it, "\"chunk_index\":0,\"chunk_count\":2,\"nonce\":\"n1\""));
    CHECK(read_until(&it, "\"chunk_index\":1,\"chunk_count\":2,\"nonce\":\"n1\""));
    now = 10000;
    send_with_guild(&it, "{\"op\":8,\"d\":{\"guild_id\":\"%llu\",\"query\":\"\",\"limit\":0,\"nonce\":\"n2\"}}", guild);
    CHECK(read_until(&it, "RATE_LIMITED"));
    CHECK_HAS(it.text, "\"opcode\":8,\"retry_after\":20.000,\"meta\":{\"guild_id\":\"");
    CHECK_HAS(it.text, "\"nonce\":\"n2\"");
    send_with_guild(&it, "{\"op\":8,\"d\":{\"guild_id\":\"%llu\",\"query\":\"user1499\",\"limit\":5}}", guild);
    CHECK(read_until(&it, "\"user1499\""));
    send_with_guild(&it, "{\"op\":8,\"d\":{\"guild_id\":\"%llu\",\"user_ids\":[\"42\",\"9999999999999999\"],\"presences\":true}}", guild);
    CHECK(read_until(&it, "\"not_found\":[42,\"9999999999999999\"],\"presences\":[]"));
    CHECK_U64(sim_get_stats(gateway)->violations, 0);
    send_text(&it, "{\"op\":8,\"d\":{\"guild_id\":\"12345\",\"query\":\"\",\"limit\":0}}");
    CHECK_HAS(journal, "unknown_guild");
    leave(&it);
    world_end();
}

TEST(other_commands_are_answered)
{
    client it;
    uint64_t guild;
    world();
    it = with_guild(&guild);
    send_with_guild(&it, "{\"op\":4,\"d\":{\"guild_id\":\"%llu\",\"channel_id\":\"77\",\"self_mute\":false,\"self_deaf\":true}}", guild);
    CHECK(read_until(&it, "VOICE_STATE_UPDATE"));
    CHECK_HAS(it.text, "\"channel_id\":\"77\"");
    CHECK(read_until(&it, "VOICE_SERVER_UPDATE"));
    send_with_guild(&it, "{\"op\":4,\"d\":{\"guild_id\":\"%llu\",\"channel_id\":null,\"self_mute\":false,\"self_deaf\":true}}", guild);
    CHECK(read_until(&it, "\"channel_id\":null"));
    send_with_guild(&it, "{\"op\":31,\"d\":{\"guild_ids\":[\"%llu\"]}}", guild);
    CHECK(read_until(&it, "SOUNDBOARD_SOUNDS"));
    send_with_guild(&it, "{\"op\":43,\"d\":{\"guild_id\":\"%llu\",\"fields\":[\"status\"]}}", guild);
    CHECK(read_until(&it, "CHANNEL_INFO"));
    CHECK_HAS(it.text, "\"status\":");
    CHECK(!strstr(it.text, "voice_start_time"));
    CHECK_U64(sim_get_stats(gateway)->violations, 0);
    CHECK_HAS(journal, "\"ev\":\"send\",\"ts_ms\":0,\"conn\":1,\"op\":43,\"d\":{");
    leave(&it);
    world_end();
}

/* -- the stream --------------------------------------------------------------------------------------------------- */

TEST(the_stream_keeps_to_the_intents)
{
    client it;
    int messages = 0;
    world_config();
    config.event_rate = 1000;
    world_open();
    it = connect_to(TARGET);
    send_text(&it, "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":2048," PROPERTIES "}}");
    CHECK(read_until(&it, "READY"));
    until(500);
    while (read_frame(&it)) {
        messages++;
        CHECK(strstr(it.text, "TYPING_START") || strstr(it.text, "INTERACTION_CREATE"));
    }
    CHECK_EQ(messages, 500);
    leave(&it);
    world_end();
}

TEST(without_message_content_the_content_is_empty)
{
    client it;
    world_config();
    config.event_rate = 1000;
    world_open();
    it = connect_to(TARGET);
    send_text(&it, "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":512," PROPERTIES "}}");
    until(300);
    while (read_until(&it, "MESSAGE_CREATE")) CHECK_HAS(it.text, "\"content\":\"\"");
    leave(&it);
    world_end();
}

TEST(a_flood_is_as_much_as_the_client_takes)
{
    client it;
    world_config();
    config.event_rate = SIM_RATE_FLOOD;
    config.high_water = 65536;
    config.quiet_dispatch = 1;
    world_open();
    it = connect_ready();
    CHECK(sim_pending(it.conn) >= 65536 && sim_pending(it.conn) < 131072);
    sim_output_taken(it.conn, sim_pending(it.conn));
    CHECK(sim_pending(it.conn) >= 65536);
    leave(&it);
    world_end();
}

TEST(the_same_seed_gives_the_same_bytes)
{
    client it[2];
    int i;
    for (i = 0; i < 2; i++) {
        world_config();
        config.event_rate = 100;
        config.seed = 77;
        world_open();
        it[i] = connect_ready();
        until(1000);
        collect(&it[i]);
        sim_hangup(it[i].conn, now);
        it[i].conn = NULL;
        world_end();
    }
    CHECK_BYTES(it[0].bytes, it[0].end, it[1].bytes, it[1].end);
    for (i = 0; i < 2; i++) leave(&it[i]);
}

/* -- faults ------------------------------------------------------------------------------------------------------- */

/* A live client with nothing left to read. */
static client quiet_client(void)
{
    client it = connect_ready();
    while (read_frame(&it)) { }
    forget_journal();
    return it;
}

TEST(faults_that_end_the_connection)
{
    static const struct { const char *name; sim_state state; } cases[] = {
        { "cut", SIM_WANTS_CUT }, { "reset", SIM_WANTS_RESET }, { "freeze", SIM_FROZEN }, { "close_one_byte", SIM_WANTS_CLOSE }
    };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        client it;
        world();
        it = quiet_client();
        order(cases[i].name);
        CHECK_EQ(sim_connection_state(it.conn), cases[i].state);
        leave(&it);
        world_end();
    }
}

TEST(cuts_around_a_frame)
{
    static const char *const names[] = { "cut_before_frame", "cut_inside_frame", "cut_after_frame" };
    static const size_t expected[] = { 0, 19, 38 };     /* a header of 2 and the ACK of 36 bytes */
    int i;
    for (i = 0; i < 3; i++) {
        client it;
        size_t before;
        world();
        it = quiet_client();
        before = it.end;
        order(names[i]);
        CHECK_EQ(sim_connection_state(it.conn), SIM_OPEN);
        order("ack");
        collect(&it);
        CHECK_U64(it.end - before, expected[i]);
        CHECK_EQ(sim_connection_state(it.conn), SIM_WANTS_CUT);
        leave(&it);
        world_end();
    }
}

TEST(freeze_holds_and_thaw_goes_on)
{
    client it;
    world();
    it = quiet_client();
    order("freeze");
    send_text(&it, "{\"op\":1,\"d\":4}");
    CHECK(!read_frame(&it));
    until(200000);
    CHECK_EQ(sim_connection_state(it.conn), SIM_FROZEN);
    order("thaw");
    CHECK(read_until(&it, "\"op\":11"));
    leave(&it);
    world_end();
}

TEST(op7_asks_to_leave_and_minds_if_not)
{
    client it;
    char id[33];
    world();
    it = session_in(id);
    order("op7");
    CHECK(read_until(&it, "{\"t\":null,\"s\":null,\"op\":7,\"d\":null}"));
    until(10000);
    CHECK_EQ(close_code(&it), 4000);
    CHECK_HAS(journal, "ignored_op7");
    leave(&it);
    it = connect_to(RESUME_TARGET);
    send_resume(&it, id, 1);
    CHECK(read_until(&it, "RESUMED"));
    leave(&it);
    world_end();
}

TEST(op9_says_whether_the_session_lives)
{
    int alive;
    for (alive = 0; alive < 2; alive++) {
        client it;
        char id[33];
        world();
        it = session_in(id);
        order(alive ? "op9 true" : "op9 false");
        CHECK(read_until(&it, alive ? "\"op\":9,\"d\":true}" : "\"op\":9,\"d\":false}"));
        leave(&it);
        it = connect_to(RESUME_TARGET);
        send_resume(&it, id, 1);
        CHECK(read_until(&it, alive ? "RESUMED" : "\"op\":9,\"d\":false}"));
        leave(&it);
        world_end();
    }
}

TEST(faults_that_send_one_thing)
{
    static const struct { const char *name; uint32_t first; const char *text; } cases[] = {
        { "op1", 0x81, "\"op\":1,\"d\":null" },
        { "unknown_op", 0x81, "\"op\":99" },
        { "unknown_event", 0x81, "{\"t\":\"SIM_UNKNOWN_EVENT\",\"s\":5," },
        { "event GUILD_DELETE {\"id\":\"7\"}", 0x81, "{\"t\":\"GUILD_DELETE\",\"s\":5,\"op\":0,\"d\":{\"id\":\"7\"}}" },
        { "seq_zero", 0x81, "\"s\":0," },
        { "seq_huge", 0x81, "\"s\":8589934597," },
        { "broken_json", 0x81, "[1,2}" },
        { "no_op", 0x81, "\"d\":{\"op\":7}}" },
        { "raw {\"op\":7}", 0x81, "{\"op\":7}" },
        { "bytes 81 02 7b 7d", 0x81, "{}" },
        { "ping", 0x89, "" },
        { "ping abc", 0x89, "abc" },
        { "pong", 0x8A, "unasked" },
        { "bad_utf8", 0x81, "\xC3(" },
        { "rsv", 0xC1, "" },
        { "binary_frame", 0x82, "{\"op\":11}" },
        { "reserved_opcode", 0x83, "{}" },
        { "fragmented_ping", 0x09, "hi" },
        { "long_ping", 0x89, "ppp" },
        { "lone_continuation", 0x80, "{}" },
        { "close_empty", 0x88, "" },
        { "close 4001 why", 0x88, "\x0F\xA1why" },
        { "close_one_byte", 0x88, "\x0F" },
    };
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        client it;
        world();
        it = quiet_client();
        order(cases[i].name);
        if (CHECK(read_frame(&it))) {
            CHECK_EQ(it.first, cases[i].first);
            CHECK_HAS(it.text, cases[i].text);
        }
        CHECK_HAS(journal, "\"ev\":\"command\"");
        leave(&it);
        world_end();
    }
}

TEST(frames_that_lie)
{
    client it;
    size_t before;
    world();
    it = quiet_client();
    before = it.end;
    order("length_lie");
    collect(&it);
    CHECK_BYTES(it.bytes + before, 10, "\x81\x7F\x40\0\0\0\0\0\0\0", 10);
    leave(&it);
    it = connect_to(TARGET);
    collect(&it);
    before = it.end;
    order("masked_frame");
    collect(&it);
    CHECK_EQ(it.bytes[before + 1] & 0x80, 0x80);
    leave(&it);
    world_end();
}

TEST(big_is_as_big_as_it_says)
{
    client it;
    world();
    it = quiet_client();
    order("big 3000000");
    CHECK(read_until(&it, "{\"t\":\"GUILD_CREATE\",\"s\":5,"));
    CHECK(it.len >= 3000000 && it.len < 3000100);
    leave(&it);
    world_end();
}

TEST(one_byte_gives_one_byte_a_call)
{
    client it;
    size_t len;
    world();
    it = quiet_client();
    order("one_byte");
    order("ack");
    CHECK_U64(sim_pending(it.conn), 38);
    sim_output(it.conn, &len);
    CHECK_U64(len, 1);
    CHECK(read_until(&it, "\"op\":11"));
    leave(&it);
    world_end();
}

TEST(fragments_have_a_ping_between)
{
    static const uint32_t firsts[] = { 0x01, 0x89, 0x00, 0x89, 0x80 };
    client it;
    int i;
    world();
    it = quiet_client();
    order("fragments 3");
    order("ack");
    for (i = 0; i < 5; i++) {
        CHECK(read_frame(&it));
        CHECK_EQ(it.first, firsts[i]);
    }
    leave(&it);
    world_end();
}

TEST(key_order_puts_d_first_at_times)
{
    client it;
    int i, d_first = 0, t_first = 0;
    world();
    it = quiet_client();
    order("key_order");
    for (i = 0; i < 50; i++) order("event TYPING_START {\"a\":1}");
    for (i = 0; i < 50; i++) {
        CHECK(read_frame(&it));
        CHECK_HAS(it.text, "\"d\":{\"a\":1}");
        CHECK_HAS(it.text, "\"t\":\"TYPING_START\"");
        CHECK_HAS(it.text, "\"op\":0");
        d_first += strncmp(it.text, "{\"d\"", 4) == 0;
        t_first += strncmp(it.text, "{\"t\"", 4) == 0;
    }
    CHECK(d_first > 0 && t_first > 0);
    leave(&it);
    world_end();
}

TEST(acks_may_be_withheld_or_late)
{
    client it;
    world();
    it = quiet_client();
    order("no_ack");
    send_text(&it, "{\"op\":1,\"d\":4}");
    CHECK(!read_frame(&it));
    order("calm");
    order("late_ack 700");
    send_text(&it, "{\"op\":1,\"d\":4}");
    until(699);
    CHECK(!read_frame(&it));
    until(700);
    CHECK(read_until(&it, "\"op\":11"));
    leave(&it);
    world_end();
}

TEST(hello_may_be_withheld_or_odd)
{
    client it;
    world();
    script("next 1 no_hello\non open x1 op7");
    it = connect_to(TARGET);
    CHECK(read_frame(&it));
    CHECK_HAS(it.text, "\"op\":7");
    CHECK(!read_frame(&it));
    leave(&it);
    script("next 1 hello_interval 123");
    it = connect_to(TARGET);
    CHECK(read_until(&it, "\"heartbeat_interval\":123,"));
    leave(&it);
    world_end();
}

TEST(ready_may_be_withheld_or_late)
{
    client it;
    world();
    script("on identify x1 late_ready 5000\n");
    it = connect_ready();
    CHECK(!read_until(&it, "READY"));
    send_text(&it, "{\"op\":1,\"d\":null}");
    CHECK(read_until(&it, "\"op\":11"));
    until(5000);
    CHECK(read_until(&it, "READY"));
    leave(&it);
    script("next 1 no_ready");
    it = connect_ready();
    until(now + 20000);
    CHECK(!read_until(&it, "READY"));
    send_text(&it, "{\"op\":31,\"d\":{\"guild_ids\":[]}}");
    CHECK_HAS(journal, "send_before_ready");
    order("answer");
    CHECK(read_until(&it, "READY"));
    leave(&it);
    world_end();
}

TEST(sessions_expire_by_command)
{
    client it;
    char id[33];
    world();
    it = session_in(id);
    order("expire_sessions");
    leave(&it);
    it = connect_to(RESUME_TARGET);
    send_resume(&it, id, 1);
    CHECK(read_until(&it, "\"op\":9,\"d\":false"));
    leave(&it);
    world_end();
}

TEST(a_foreign_resume_url_is_told_in_ready)
{
    client it;
    char id[33];
    world();
    order("foreign_resume_url wss://evil.example/");
    it = session_in(id);
    CHECK_HAS(it.text, "\"resume_gateway_url\":\"wss:\\/\\/evil.example\\/\"");
    leave(&it);
    it = connect_to(TARGET);
    send_resume(&it, id, 1);
    CHECK(read_until(&it, "RESUMED"));
    CHECK_U64(sim_get_stats(gateway)->violations, 0);
    leave(&it);
    world_end();
}

TEST(identify_may_be_answered_with_op9)
{
    client it;
    world();
    script("on identify x1 op9 false");
    it = connect_ready();
    CHECK(read_until(&it, "\"op\":9,\"d\":false"));
    CHECK(!read_frame(&it));
    leave(&it);
    now = 5000;
    it = connect_ready();
    CHECK(read_until(&it, "READY"));
    leave(&it);
    world_end();
}

TEST(resumes_may_be_cut_again_and_again)
{
    client it;
    char id[33];
    int i;
    world();
    it = session_in(id);
    leave(&it);
    script("on resume x2 cut");
    for (i = 0; i < 3; i++) {
        it = connect_to(RESUME_TARGET);
        send_resume(&it, id, 1);
        CHECK_EQ(sim_connection_state(it.conn), i < 2 ? SIM_WANTS_CUT : SIM_OPEN);
        leave(&it);
    }
    world_end();
}

/* -- scripts ---------------------------------------------------------------------------------------------------------- */

TEST(scripts_happen_in_time)
{
    client it;
    world();
    script("# a comment\n\n  at 1000 note one   # why\nevery 400 note tick\non ready +250 close 4000 done\r\non ready note now\n");
    it = connect_ready();
    CHECK_HAS(journal, "\"ev\":\"note\",\"ts_ms\":0,\"conn\":1,\"text\":\"now\"");
    until(249);
    CHECK_EQ(close_code(&it), -1);
    until(250);
    CHECK_EQ(close_code(&it), 4000);
    until(1000);
    CHECK_HAS(journal, "\"ts_ms\":400,\"text\":\"tick\"");
    CHECK_HAS(journal, "\"ts_ms\":800,\"text\":\"tick\"");
    CHECK_HAS(journal, "\"ts_ms\":1000,\"text\":\"one\"");
    leave(&it);
    world_end();
}

TEST(a_bad_script_line_is_named)
{
    static const char *const lines[] = {
        "at soon cut", "at 5", "every 0 op7", "on sunrise cut", "explode", "at 5 explode", "close", "cut now", "next cut", "big much", "op9"
    };
    char why[200], text[100];
    size_t i;
    world();
    for (i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        why[0] = 0;
        snprintf(text, sizeof text, "note one\n%s\nnote three", lines[i]);
        if (strcmp(lines[i], "at 5") == 0) continue;
        if (!CHECK_EQ(sim_script(gateway, text, now, why, sizeof why), 2)) fprintf(stderr, "  for %s\n", lines[i]);
        CHECK(why[0] != 0);
    }
    world_end();
}

TEST(commands_may_name_a_connection_or_a_shard)
{
    client a, b;
    world_config();
    config.max_concurrency = 2;
    world_open();
    a = connect_to(TARGET);
    send_text(&a, "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":0,\"shard\":[0,2]," PROPERTIES "}}");
    b = connect_to(TARGET);
    send_text(&b, "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":0,\"shard\":[1,2]," PROPERTIES "}}");
    order("shard 1 op7");
    CHECK(!read_until(&a, "\"op\":7"));
    CHECK(read_until(&b, "\"op\":7"));
    order("to 1 cut");
    CHECK_EQ(sim_connection_state(a.conn), SIM_WANTS_CUT);
    CHECK_EQ(sim_connection_state(b.conn), SIM_OPEN);
    CHECK(!sim_command(gateway, NULL, "to 9 cut", now, NULL, 0));
    leave(&a);
    leave(&b);
    world_end();
}

/* -- compression: stored blocks ------------------------------------------------------------------------------------------ */

TEST(streams_are_compressed_on_demand)
{
    client it;
    world();
    it = connect_to("/?v=10&encoding=json&compress=zlib-stream");
    CHECK(read_frame(&it));
    CHECK_EQ(it.opcode, 2);
    CHECK_BYTES(it.text, 3, "\x78\x01\x00", 3);
    CHECK_BYTES(it.text + it.len - 4, 4, "\0\0\xFF\xFF", 4);
    leave(&it);
    it = connect_to("/?v=10&encoding=json&compress=zstd-stream");
    CHECK(read_frame(&it));
    CHECK_BYTES(it.text, 4, "\x28\xB5\x2F\xFD", 4);
    leave(&it);
    it = connect_to(TARGET);
    send_text(&it, "{\"op\":2,\"d\":{\"token\":\"abc\",\"intents\":0,\"compress\":true," PROPERTIES "}}");
    CHECK(read_frame(&it));
    CHECK_EQ(it.opcode, 1);
    CHECK(read_frame(&it));
    CHECK_EQ(it.opcode, 2);
    CHECK_BYTES(it.text, 2, "\x78\x01", 2);
    leave(&it);
    world_end();
}

CHECK_MAIN()
