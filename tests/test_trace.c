/* The log by its levels, the trace of payloads at GW_LOG_TRACE, and a recorded trace replayed. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "world.h"
#include "replay/replay.h"

static world w;

#define SECRET "hush-hush-5Zq"

/* ---- the log, line by line ---- */
typedef struct log_line { uint32_t level; int32_t shard; uint64_t ms; char *text; } log_line;
static log_line *lines;
static size_t line_count;

static void on_log(void *user, uint32_t level, int32_t shard, const char *text)
{
    world_on_log(user, level, shard, text);
    if (line_count % 256 == 0)
        lines = (log_line *)realloc(lines, (line_count + 256) * sizeof *lines);
    lines[line_count].level = level;
    lines[line_count].shard = shard;
    lines[line_count].ms = world_ms((const world *)user);
    lines[line_count++].text = replay_copy(text, strlen(text));
}

static void forget_lines(void)
{
    while (line_count) free(lines[--line_count].text);
    free(lines);
    lines = NULL;
}

static void init(uint32_t level)
{
    world_init(&w);
    w.cfg.log = on_log;
    w.cfg.log_level = level;
}

static void begin_live(void)
{
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
}

static void end(void)
{
    world_end(&w);
    forget_lines();
}

/* The nth line of that level with this text in it; "" if there is none. */
static const char *line_with(uint32_t level, const char *part, size_t nth)
{
    size_t i;
    for (i = 0; i < line_count; i++)
        if (lines[i].level == level && strstr(lines[i].text, part) && nth-- == 0)
            return lines[i].text;
    return "";
}

static size_t count_lines(uint32_t level, const char *part)
{
    size_t i, count = 0;
    for (i = 0; i < line_count; i++)
        count += lines[i].level == level && strstr(lines[i].text, part) != NULL;
    return count;
}

static const char *newest(void) { return line_count ? lines[line_count - 1].text : ""; }

/* Of the trace: one line of printable text, "> " or "< ", then JSON. */
static void check_form(void)
{
    size_t i;
    for (i = 0; i < line_count; i++) {
        const char *text = lines[i].text;
        if (lines[i].level != GW_LOG_TRACE) continue;
        CHECK(strncmp(text, "> {", 3) == 0 || strncmp(text, "< {", 3) == 0);
        if (!CHECK(strlen(text) > 3 && gw__json_is_valid(text + 2, strlen(text) - 2)) ||
            !CHECK(!strpbrk(text, "\r\n")))
            fprintf(stderr, "    %s\n", text);
    }
}

static void check_nobody_says(const char *secret)
{
    size_t i;
    for (i = 0; i < line_count; i++)
        if (!CHECK(!strstr(lines[i].text, secret))) fprintf(stderr, "    %s\n", lines[i].text);
}

/* A text message from the server, whatever is in it. */
static void server_says(const char *text)
{
    size_t len = strlen(text);
    uint8_t head[4] = { 0x81, 126, 0, 0 };
    if (!CHECK(w.streams != NULL) || !CHECK(len < 65536)) return;
    head[1] = (uint8_t)(len < 126 ? len : 126);
    head[2] = (uint8_t)(len >> 8);
    head[3] = (uint8_t)len;
    world_carry_bytes(w.streams, head, len < 126 ? 2 : 4);
    world_carry_bytes(w.streams, (const uint8_t *)text, len);
    w.moved++;
    world_settle(&w);
}

/* ---- levels ---- */
TEST(log_has_a_level_for_each_kind_of_line)
{
    init(GW_LOG_TRACE);
    world_begin(&w, "on open x1 foreign_resume_url wss://elsewhere.example/");
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    CHECK_HAS(line_with(GW_LOG_WARN, "elsewhere.example", 0), "resuming at the cached URL");
    CHECK_HAS(line_with(GW_LOG_DEBUG, "IDENTIFYING -> LIVE", 0), "READY");
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK_HAS(line_with(GW_LOG_INFO, "DISCONNECTED: ", 0), "closed the connection");
    world_do(&w, "close 4004 no");
    WORLD_EXPECT(&w, GW_CLOSED, 1000);
    CHECK_HAS(line_with(GW_LOG_ERROR, "FATAL: ", 0), "4004");
    CHECK_U64(count_lines(GW_LOG_ERROR, ""), 1);
    CHECK_U64(count_lines(GW_LOG_WARN, ""), 1);
    /* Hello, Identify, READY, two guilds; Hello, Resume, RESUMED */
    CHECK_U64(count_lines(GW_LOG_TRACE, ""), 8);
    w.any_violations = 1;
    end();
}

TEST(log_gets_its_level_and_what_is_graver)
{
    uint32_t level;
    size_t i, before = 0;
    for (level = GW_LOG_ERROR; level <= GW_LOG_TRACE; level++) {
        init(level);
        w.any_violations = 1;
        world_begin(&w, "on open x1 foreign_resume_url wss://elsewhere.example/\n"
                    "on ready +1000 cut\non resumed +1000 close 4004");
        WORLD_EXPECT(&w, GW_CLOSED, 10000);
        for (i = 0; i < line_count; i++)
            CHECK(lines[i].level >= GW_LOG_ERROR && lines[i].level <= level);
        CHECK(line_count > before);             /* each level has something of its own here */
        before = line_count;
        end();
    }
}

TEST(log_level_0_is_info)
{
    init(0);
    begin_live();
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK(count_lines(GW_LOG_INFO, "DISCONNECTED") == 1);
    CHECK_U64(count_lines(GW_LOG_DEBUG, "") + count_lines(GW_LOG_TRACE, ""), 0);
    end();
}

TEST(log_lines_name_their_shard)
{
    size_t i, of[2] = { 0, 0 };
    init(GW_LOG_TRACE);
    w.cfg.shard_count = w.cfg.shard_total = 2;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    WORLD_EXPECT(&w, GW_READY, 10000);
    world_settle(&w);
    for (i = 0; i < line_count; i++)
        if (lines[i].level == GW_LOG_TRACE && CHECK(lines[i].shard == 0 || lines[i].shard == 1))
            of[lines[i].shard]++;
    CHECK(of[0] >= 4 && of[1] >= 4);
    CHECK_HAS(line_with(GW_LOG_TRACE, "\"op\":2", 1), "\"shard\":[1,2]");
    end();
}

/* ---- the trace ---- */
static size_t count_trace(char direction, const char *part)
{
    size_t i, count = 0;
    for (i = 0; i < line_count; i++)
        count += lines[i].level == GW_LOG_TRACE && lines[i].text[0] == direction &&
            strstr(lines[i].text, part);
    return count;
}

TEST(trace_has_each_payload_of_both_ways_once)
{
    const sim_stats *stats;
    size_t i, events = 0;
    init(GW_LOG_TRACE);
    w.sim.event_rate = 5;
    w.sim.interval_ms = 10000;
    begin_live();
    CHECK(gw_send_raw(w.gw, 0, 31, "{\"guild_ids\":[]}", 16) > 0);
    world_advance(&w, 35000);
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_do(&w, "op1");
    world_advance(&w, 30000);
    world_do(&w, "op7");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_settle(&w);
    stats = sim_get_stats(w.gateway);
    CHECK_U64(count_trace('>', ""), stats->payloads);
    CHECK_U64(count_trace('>', "\"op\":1,"), stats->heartbeats);
    CHECK_U64(count_trace('<', "\"op\":11,"), stats->heartbeats);
    CHECK_U64(count_trace('>', "\"op\":2,"), 1);
    CHECK_U64(count_trace('>', "\"op\":6,"), 2);
    CHECK_U64(count_trace('>', "\"op\":31,"), 1);
    CHECK_U64(count_trace('<', "\"op\":10,"), 3);
    CHECK_U64(count_trace('<', "\"op\":7,"), 1);
    CHECK_U64(count_trace('<', "\"op\":1,"), 1);
    for (i = 0; i < w.event_count; i++) events += w.events[i].type < GW_GATEWAY_INFO;
    CHECK_U64(count_trace('<', "\"op\":0,"), events);
    check_form();
    CHECK_HAS(line_with(GW_LOG_TRACE, "\"t\":\"RESUMED\"", 0), "\"d\":{\"_trace\":[\"sim\"]}}");
    end();
}

/* Whoever reads a trace reads lines. */
TEST(trace_is_one_line_whatever_blanks_are_in_a_payload)
{
    static const char d[] = "{\r\n  \"guild_ids\": [\n]\t}";
    init(GW_LOG_TRACE);
    begin_live();
    server_says("{\n\t\"op\": 0,\r\n \"t\": \"TYPING_START\", \"s\": 77,\n \"d\": {\r\n \"a\" "
                ":\t[1,\n2], \"b\": \"x\\ny z\" }\n}");
    CHECK_HAS(world_last(&w, GW_TYPING_START)->d, "\"b\": \"x\\ny z\"");
    CHECK_HAS(newest(), "\"s\":77,\"t\":\"TYPING_START\"");
    CHECK_HAS(newest(), "\"x\\ny z\"");
    CHECK(gw_send_raw(w.gw, 0, 31, d, strlen(d)) > 0);
    world_settle(&w);
    CHECK_U64(count_trace('>', "\"op\":31"), 1);
    check_form();
    end();
}

TEST(trace_shows_bodies_of_every_kind)
{
    static const char *const bodies[] =
        { "null", "true", "-12.5e3", "\"text\"", "[]", "[1,{\"a\":null}]", "{}" };
    char text[200];
    size_t i;
    init(GW_LOG_TRACE);
    begin_live();
    for (i = 0; i < GW__COUNT(bodies); i++) {
        snprintf(text, sizeof text, "{\"d\":%s,\"s\":%u,\"op\":0,\"t\":\"NEW_ONE\"}", bodies[i],
                 100 + (unsigned)i);
        server_says(text);
        snprintf(text, sizeof text, "< {\"op\":0,\"s\":%u,\"t\":\"NEW_ONE\",\"d\":%s}",
                 100 + (unsigned)i, bodies[i]);
        CHECK_TEXT(newest(), text);
    }
    server_says("{\"op\":11}");
    CHECK_TEXT(newest(), "< {\"op\":11,\"d\":null}");
    server_says("{\"op\":99,\"t\":\"a\\\"b\",\"d\":1}");
    CHECK_HAS(newest(), "a\\\"b");
    check_form();
    end();
}

/* ---- secrets ---- */
TEST(trace_redacts_token_and_session_of_the_bot)
{
    init(GW_LOG_TRACE);
    begin_live();
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK_HAS(line_with(GW_LOG_TRACE, "> {\"op\":2", 0), "\"token\":\"***\"");
    CHECK_HAS(line_with(GW_LOG_TRACE, "> {\"op\":6", 0),
              "\"token\":\"***\",\"session_id\":\"***\",\"seq\":");
    CHECK_HAS(line_with(GW_LOG_TRACE, "\"t\":\"READY\"", 0), "\"session_id\":\"***\"");
    server_says("{\"op\":0,\"t\":\"MESSAGE_CREATE\",\"s\":60,\"d\":{\"content\":\"I know "
                "" WORLD_TOKEN "\"}}");
    CHECK_HAS(newest(), "I know ***");
    check_nobody_says("thisTokenMustNeverBeSeen");
    check_form();
    /* the event has it, as it came */
    CHECK_U64(w.token_seen, 1);
    w.token_seen = 0;
    end();
}

TEST(trace_redacts_tokens_at_any_depth_and_however_their_keys_are_written)
{
    static const char *const bodies[] = {
        "{\"token\":\"" SECRET "\",\"guild_id\":\"1\",\"endpoint\":null}",
        "{\"data\":{\"options\":[{\"a\":[[{\"token\":\"" SECRET "\"}]]}]}}",
        "{\"to\\u006ben\":\"" SECRET "\"}",
        "{\"\\u0074\\u006F\\u006b\\u0065\\u006E\":\"" SECRET "\"}",
        "{\"a\":1,\"token\" \t:  \"" SECRET "\",\"b\":2}",
        "{\"token\":\"" SECRET "\\\"" SECRET "\"}",
        "{\"token\":\"\\\\\",\"session_id\":\"" SECRET "\"}",
        "{\"member\":{\"session\\u005fid\":\"" SECRET "\"}}",
        "{\"x\":\"token\",\"token\":\"" SECRET "\"}",
        "{\"token\":\"a\",\"token\":\"" SECRET "\"}",
        "[{\"token\":\"" SECRET "\"},{\"token\":\"" SECRET "\"}]",
    };
    static const char *const names[] =
        { "VOICE_SERVER_UPDATE", "INTERACTION_CREATE", "VOICE_STATE_UPDATE", "OF_TOMORROW" };
    char text[300];
    size_t i, k;
    init(GW_LOG_TRACE);
    begin_live();
    for (k = 0; k < GW__COUNT(names); k++)
        for (i = 0; i < GW__COUNT(bodies); i++) {
            snprintf(text, sizeof text, "{\"t\":\"%s\",\"s\":%u,\"op\":0,\"d\":%s}", names[k],
                     (unsigned)(100 + 20 * k + i), bodies[i]);
            server_says(text);
            CHECK_HAS(newest(), "\"***\"");
            CHECK_HAS(newest(), names[k]);
        }
    CHECK(gw_send_raw(w.gw, 0, 31, bodies[1], strlen(bodies[1])) > 0);
    world_settle(&w);
    check_nobody_says(SECRET);
    check_nobody_says("hush");
    check_form();
    w.any_violations = 1;
    end();
}

TEST(trace_shows_what_only_looks_like_a_secret)
{
#define BODY \
    "{\"tokens\":\"1\",\"token\":null,\"a\":\"token\",\"b\":[\"token\",\"c\"],\"Token\":\"2\"}"
    init(GW_LOG_TRACE);
    begin_live();
    server_says("{\"t\":\"A\",\"s\":100,\"op\":0,\"d\":" BODY "}");
    CHECK_HAS(newest(), BODY);
    end();
}

/* ---- broken JSON: behind what cannot be read nothing is known ---- */
TEST(trace_of_broken_json_leaks_nothing)
{
    static const char *const bodies[] = {
        "{\"token\" \"" SECRET "\"}",                   /* brackets close, the rest is wrong */
        "{\"token\":: \"" SECRET "\"}",
        "{\"token\":, \"" SECRET "\"}",
        "{\"token\": x\"" SECRET "\"}",
        "{\"a\":\"token\" \"" SECRET "\"}",
        "[\"token\" : : \"" SECRET "\"]",
        "{token:\"" SECRET "\"}",
        "{\"token\":" SECRET "}",
        "{'token':'" SECRET "'}",
        "{\"tok\\qen\":\"" SECRET "\"}",
        "{\"token\":\"a\nb\",\"c\":\"" SECRET "\"}",    /* a line end inside a string */
    };
    char text[300];
    size_t i;
    init(GW_LOG_TRACE);
    begin_live();
    for (i = 0; i < GW__COUNT(bodies); i++) {
        snprintf(text, sizeof text, "{\"t\":\"INTERACTION_CREATE\",\"op\":0,\"d\":%s}", bodies[i]);
        if (!w.streams) WORLD_EXPECT(&w, GW_RESUMED, 5000);
        server_says(text);
        world_advance(&w, 3000);
    }
    check_nobody_says(SECRET);
    check_form();
    end();
}

TEST(trace_of_a_payload_that_does_not_end_leaks_nothing)
{
    static const char whole[] =
        "{\"t\":\"INTERACTION_CREATE\",\"s\":100,\"op\":0,"
        "\"d\":{\"token\":\"" SECRET "\",\"b\":\"" SECRET "\"}}";
    char text[200];
    size_t len;
    for (len = 1; len < sizeof whole - 1; len += world_is_slow() ? 9 : 1) {
        init(GW_LOG_TRACE);
        begin_live();
        memcpy(text, whole, len);
        text[len] = 0;
        server_says(text);
        WORLD_EXPECT(&w, GW_RESUMED, 5000);
        check_nobody_says("hush");
        check_form();
        end();
    }
}

/* ---- what was passed over ---- */
TEST(trace_of_what_was_passed_over_has_its_bytes)
{
    char *text = (char *)malloc(40000);
    char want[120];
    const world_event *skipped;
    int place;
    init(GW_LOG_TRACE);
    w.cfg.max_payload = 20000;
    begin_live();
    for (place = 0; place < 3; place++) {       /* the body last, first, and in the middle */
        static const char *const heads[] =
            { "{\"t\":\"GUILD_CREATE\",\"s\":100,\"op\":0,\"d\":\"", "{\"d\":\"",
              "{\"t\":\"GUILD_CREATE\",\"d\":\"" };
        static const char *const tails[] =
            { "\"}", "\",\"t\":\"GUILD_CREATE\",\"s\":101,\"op\":0}", "\",\"op\":0,\"s\":102}" };
        size_t len = strlen(heads[place]);
        memcpy(text, heads[place], len);
        memset(text + len, 'x', 30000);
        memcpy(text + len + 30000, tails[place], strlen(tails[place]) + 1);
        server_says(text);
        skipped = WORLD_EXPECT(&w, GW_SKIPPED, 100);
        CHECK_U64(skipped->bytes, strlen(text));
        snprintf(want, sizeof want,
                 "< {\"op\":0,\"s\":%d,\"t\":\"GUILD_CREATE\",\"bytes\":%lu,\"d\":null}",
                     100 + place,
                 (unsigned long)strlen(text));
        CHECK_TEXT(newest(), want);
    }
    CHECK_EQ(gw_want(w.gw, GW_TYPING_START, 0), GW_OK);
    server_says("{\"t\":\"TYPING_START\",\"s\":103,\"op\":0,\"d\":{\"a\":1}}");     /* 47 bytes */
    CHECK_TEXT(newest(), "< {\"op\":0,\"s\":103,\"t\":\"TYPING_START\",\"bytes\":47,\"d\":null}");
    check_form();
    free(text);
    end();
}

/* ---- what it costs ---- */
static void live_a_little(uint32_t level, int has_log, uint64_t *allocations)
{
    init(level);
    if (!has_log) w.cfg.log = NULL;
    w.sim.event_rate = 5;
    begin_live();
    world_advance(&w, 100000);
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    *allocations = w.allocations;
    if (!has_log || level < GW_LOG_TRACE) CHECK_U64(count_lines(GW_LOG_TRACE, ""), 0);
    else CHECK(count_lines(GW_LOG_TRACE, "") > 400);
    if (has_log) CHECK(count_lines(GW_LOG_DEBUG, "") > 10);
    end();
}

TEST(trace_that_nobody_asked_for_costs_nothing)
{
    uint64_t without, at_debug, at_trace;
    live_a_little(GW_LOG_TRACE, 0, &without);
    live_a_little(GW_LOG_DEBUG, 1, &at_debug);
    live_a_little(GW_LOG_TRACE, 1, &at_trace);
    CHECK_U64(at_debug, without);
    CHECK(at_trace > at_debug);
}

/* A block that holds a payload, and not its line beside it: the line is missing, the event is not.
 * */
TEST(trace_needs_no_room_that_the_session_needs)
{
    size_t bytes;
    void *block;
    init(GW_LOG_TRACE);
    w.cfg.max_payload = 400000;
    bytes = gw_memory_needed(&w.cfg);
    block = malloc(bytes);
    w.cfg.memory = block;
    w.cfg.memory_bytes = bytes;
    w.own_memory = 1;
    begin_live();
    world_do(&w, "big 380000");
    /* a small one of the beginning */
    CHECK(WORLD_EXPECT(&w, GW_GUILD_CREATE, 100)->type == GW_GUILD_CREATE);
    world_settle(&w);
    CHECK(w.events[w.event_count - 1].d_len > 370000);
    CHECK(strlen(newest()) < 370000);
    world_advance(&w, 100000);
    CHECK(count_trace('>', "\"op\":1,") >= 2);
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    CHECK_U64(world_count_events(&w, GW_SKIPPED), 0);
    CHECK_EQ(gw_shard_live(w.gw, 0), 1);
    check_form();
    end();
    free(block);
}

/* ---- recorded, and replayed ---- */
typedef struct text { char *bytes; size_t len; } text;

static void add(text *t, const char *bytes, size_t len)
{
    t->bytes = (char *)replay_room(t->bytes, t->len + len + 1);
    memcpy(t->bytes + t->len, bytes, len);
    t->len += len;
    t->bytes[t->len] = 0;
}

/* As tail --trace writes it, or as its log looks. */
static text record(int as_log)
{
    text t = { NULL, 0 };
    char head[100];
    size_t i;
    for (i = 0; i < line_count; i++) {
        const char *line = lines[i].text;
        if (as_log)
            snprintf(head, sizeof head, "%-5s %d  ", lines[i].level == GW_LOG_TRACE ? "trace"
                     : "debug", (int)lines[i].shard);
        else if (lines[i].level != GW_LOG_TRACE) continue;
        else snprintf(head, sizeof head, "{\"ms\":%llu,\"shard\":%d,\"dir\":\"%s\",\"payload\":",
                      (unsigned long long)lines[i].ms,
                      (int)lines[i].shard, line[0] == '<' ? "in" : "out");
        add(&t, head, strlen(head));
        add(&t, line + (as_log ? 0 : 2), strlen(line) - (as_log ? 0 : 2));
        add(&t, as_log ? "\n" : "}\n", as_log ? 1 : 2);
    }
    return t;
}

/* The number of differences; what was printed of them in `said`. */
static uint32_t play(const text *t, char *said, size_t cap, uint32_t *payloads)
{
    static replay r;
    uint32_t differences;
    FILE *file = tmpfile();
    size_t len;
    replay_begin(&r, file);
    replay_text(&r, t->bytes ? t->bytes : "", t->len);
    differences = r.differences;
    if (payloads) *payloads = r.payloads;
    replay_end(&r);
    rewind(file);
    len = fread(said, 1, cap - 1, file);
    said[len] = 0;
    fclose(file);
    return differences;
}

static char said[20000];

static void check_replays(void)
{
    int as_log;
    for (as_log = 0; as_log < 2; as_log++) {
        text t = record(as_log);
        uint32_t payloads = 0;
        if (!CHECK_U64(play(&t, said, sizeof said, &payloads), 0)) fprintf(stderr, "%s", said);
        CHECK_U64(payloads, count_lines(GW_LOG_TRACE, ""));
        free(t.bytes);
    }
}

static void live_a_story(void)
{
    gw_presence presence;
    memset(&presence, 0, sizeof presence);
    presence.status = "dnd";
    init(GW_LOG_TRACE);
    w.sim.event_rate = 3;
    w.sim.interval_ms = 20000;
    w.cfg.intents = 513;
    w.cfg.large_threshold = 100;
    w.cfg.presence = &presence;
    begin_live();
    world_advance(&w, 70000);
    world_do(&w, "cut_inside_frame");
    WORLD_EXPECT(&w, GW_RESUMED, 60000);
    world_advance(&w, 30000);
    world_do(&w, "op7");
    WORLD_EXPECT(&w, GW_RESUMED, 5000);
    world_advance(&w, 50000);
}

TEST(replay_of_a_session_with_a_cut_and_an_op7_finds_no_difference)
{
    live_a_story();
    CHECK_U64(count_trace('>', "\"op\":6,"), 2);
    CHECK(count_trace('>', "\"op\":1,") > 5);
    check_replays();
    end();
}

TEST(replay_gives_the_commands_that_the_program_gave)
{
    gw_presence presence;
    gw_activity activity;
    gw_members members;
    memset(&presence, 0, sizeof presence);
    memset(&activity, 0, sizeof activity);
    memset(&members, 0, sizeof members);
    activity.name = "caf\xC3\xA9 \"x\"";
    activity.type = 2;
    presence.status = "idle";
    presence.since_ms = 1234567890123u;
    presence.activities = &activity;
    presence.activity_count = 1;
    members.guild_id = UINT64_C(838860800000000000);
    members.query = "user";
    init(GW_LOG_TRACE);
    begin_live();
    CHECK(gw_set_presence(w.gw, GW_ALL, &presence) > 0);
    CHECK(gw_set_voice(w.gw, members.guild_id, members.guild_id + 128, 1, 0) > 0);
    world_advance(&w, 3000);
    CHECK(gw_request_members(w.gw, &members) > 0);
    world_advance(&w, 60000);
    gw_recheck(w.gw);                           /* a heartbeat out of its turn */
    world_advance(&w, 5000);
    world_do(&w, "op1");
    world_advance(&w, 100000);
    /* a new session, with the new presence in its Identify */
    world_do(&w, "op9 false");
    WORLD_EXPECT(&w, GW_READY, 20000);
    world_advance(&w, 50000);
    CHECK(count_trace('>', "\"op\":3,") == 1 && count_trace('>', "\"op\":4,") == 1 &&
          count_trace('>', "\"op\":8,") == 1);
    check_replays();
    end();
}

/* Which of the heartbeats were regular? The recording does not say. */
TEST(replay_tells_probes_from_regular_heartbeats)
{
    uint32_t seed;
    for (seed = 1; seed < 9; seed++) {
        init(GW_LOG_TRACE);
        w.random = seed;
        w.sim.event_rate = 10;
        w.sim.interval_ms = 12000;
        begin_live();
        world_advance(&w, 1000 * seed);
        gw_recheck(w.gw);
        world_advance(&w, 40000);
        gw_recheck(w.gw);
        world_do(&w, "op1");
        world_advance(&w, 30000);
        check_replays();
        end();
    }
}

TEST(replay_of_each_end_of_a_connection_finds_no_difference)
{
    static const char *const ends[] = {
        "reset", "close 4000", "close 4007", "close 4009", "close 1000", "op9 true", "op9 false",
        "no_ack", "broken_json", "key_order\nop7", "http 503", "garbage", "seq_huge\ncut",
        "on open x1 op7\nclose 4009", "hello", "stall_http\ncut"
    };
    size_t i;
    for (i = 0; i < GW__COUNT(ends); i++) {
        char script[100];
        init(GW_LOG_TRACE);
        w.any_violations = 1;
        w.sim.event_rate = 2;
        world_begin(&w, NULL);
        WORLD_EXPECT(&w, GW_READY, 1000);
        snprintf(script, sizeof script, "%s%s", strncmp(ends[i], "http", 4) == 0 ? "cut\nnext 1 "
                 : "", ends[i]);
        world_script(&w, script);
        world_advance(&w, 200000);
        if (!CHECK_EQ(gw_shard_live(w.gw, 0), 1)) fprintf(stderr, "after %s\n", ends[i]);
        check_replays();
        end();
    }
}

TEST(replay_plays_several_shards)
{
    init(GW_LOG_TRACE);
    w.cfg.shard_count = w.cfg.shard_total = 3;
    w.sim.event_rate = 2;
    world_begin(&w, NULL);
    world_advance(&w, 60000);
    CHECK_EQ(gw_shard_live(w.gw, GW_ALL), 1);
    world_do(&w, "shard 1 op7");
    world_advance(&w, 60000);
    check_replays();
    end();
}

/* ... and what is passed over is played as large as it was. */
TEST(replay_passes_over_what_was_passed_over)
{
    init(GW_LOG_TRACE);
    w.cfg.max_payload = 100000;
    w.sim.event_rate = 1;
    begin_live();
    world_do(&w, "big 300000");
    WORLD_EXPECT(&w, GW_SKIPPED, 100);
    world_advance(&w, 50000);
    world_do(&w, "cut");
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_advance(&w, 5000);
    CHECK_U64(count_trace('<', "\"bytes\":"), 1);
    check_replays();
    end();
}

TEST(replay_of_filtered_events_finds_no_difference)
{
    init(GW_LOG_TRACE);
    w.sim.event_rate = 5;
    world_begin(&w, NULL);
    gw_want(w.gw, GW_TYPING_START, 0);
    world_advance(&w, 100000);
    gw_want(w.gw, GW_TYPING_START, 1);
    gw_want(w.gw, GW_PRESENCE_UPDATE, 0);
    world_advance(&w, 100000);
    CHECK(count_trace('<', "\"bytes\":") > 10);
    check_replays();
    end();
}

/* The recording of a second start begins with a Resume. */
TEST(replay_begins_a_session_that_began_before_the_recording)
{
    char session[GW_SESSION_MAX];
    init(GW_LOG_TRACE);
    w.sim.event_rate = 3;
    begin_live();
    world_advance(&w, 20000);
    gw_session_save(w.gw, 0, session, sizeof session);
    world_close_client(&w);
    forget_lines();
    w.cfg.session = session;
    w.cfg.session_len = strlen(session);
    world_open_client(&w);
    WORLD_EXPECT(&w, GW_RESUMED, 5000);
    world_advance(&w, 60000);
    CHECK_U64(count_trace('>', "\"op\":2,"), 0);
    check_replays();
    end();
}

/* A loop that slept: heartbeats late, or not at all. */
TEST(replay_of_a_loop_that_slept_finds_no_difference)
{
    init(GW_LOG_TRACE);
    w.sim.interval_ms = 10000;
    w.sim.event_rate = 2;
    begin_live();
    world_advance(&w, 33000);
    world_stall(&w, 4000);
    world_advance(&w, 33000);
    world_stall(&w, 11500);
    world_advance(&w, 50000);
    check_replays();
    end();
    init(GW_LOG_TRACE);                         /* a game */
    w.frame_ms = 16;
    w.sim.interval_ms = 5000;
    w.sim.event_rate = 20;
    begin_live();
    world_advance(&w, 60000);
    check_replays();
    end();
}

/* ---- ... and what is not the same is told ---- */

/* The nth line with this text: the part is replaced (by NULL: the line is dropped). */
static text change(const text *t, const char *with, size_t nth, const char *part, const char *by)
{
    text out = { NULL, 0 };
    const char *line = t->bytes, *stop, *at, *found;
    for (; (stop = strchr(line, '\n')) != NULL; line = stop + 1) {
        size_t len = (size_t)(stop + 1 - line);
        char *copy = replay_copy(line, len);
        found = strstr(copy, with);
        if (found && nth-- == 0) {
            at = part ? strstr(copy, part) : NULL;
            if (by && CHECK(at != NULL)) {
                add(&out, copy, (size_t)(at - copy));
                add(&out, by, strlen(by));
                add(&out, at + strlen(part), strlen(at + strlen(part)));
            }
        } else add(&out, copy, len);
        free(copy);
    }
    return out;
}

TEST(replay_tells_where_the_recording_says_something_else)
{
    static const struct { const char *with; size_t nth; const char *part, *by, *said; } cases[] = {
        { "\"op\":2,", 0, "\"large_threshold\":100", "\"large_threshold\":100,\"compress\":true",
          "it was sent differently" },
        { "\"op\":6,", 0, "\"seq\":", "\"seq\":1", "it was sent differently" },
        { "\"op\":6,", 1, "\"op\":6,", "\"op\":2,", "it was sent differently" },
        { "\"op\":1,", 1, "\"d\":", "\"d\":9", "it was sent differently" },
        /* a beat more than was recorded */
        { "\"op\":1,", 2, NULL, NULL, "that was not sent then" },
        /* no ACK: the client leaves */
        { "\"op\":11,", 1, NULL, NULL, "has left the connection" },
        { "\"op\":0,", 12, "\"s\":", "\"s\":7000", "it was sent differently" },
        { "\"op\":0,", 9, "\"op\":0,", "\"op\":7,", "has left the connection" },
        { "\"op\":10,", 1, NULL, NULL, "" },
        { "\"op\":6,", 0, "\"payload\":{", "\"payload\":", "cannot be read" },
    };
    text t;
    size_t i;
    live_a_story();
    t = record(0);
    for (i = 0; i < GW__COUNT(cases); i++) {
        text changed = change(&t, cases[i].with, cases[i].nth, cases[i].part, cases[i].by);
        int is_told =
            CHECK(play(&changed, said, sizeof said, NULL) > 0) & CHECK_HAS(said, cases[i].said);
        if (!is_told) fprintf(stderr, "    case %lu\n", (unsigned long)i);
        free(changed.bytes);
    }
    free(t.bytes);
    end();
}

TEST(replay_reads_what_a_killed_program_has_left)
{
    text t;
    size_t cut;
    live_a_story();
    t = record(0);
    for (cut = 1; cut < 400; cut += 37) {
        t.len -= cut;
        if (!CHECK_U64(play(&t, said, sizeof said, NULL), 0)) fprintf(stderr, "%s", said);
    }
    t.len = 0;
    CHECK_U64(play(&t, said, sizeof said, NULL), 1);
    CHECK_HAS(said, "no payload");
    free(t.bytes);
    end();
}

CHECK_MAIN()
