/* The typed commands one by one: what reaches the gateway for the smallest and the largest input,
 * what is refused before the wire and with which sentence, tickets, calls at the wrong moment. What
 * becomes of commands that wait: test_commands_queue.c, test_commands_drops.c. "protocol N" names
 * the section of the protocol digest that a payload follows. */
#define DISCORD_GATEWAY_IMPLEMENTATION
#include "discord_gateway.h"
#include "commands.h"

#define EMPTY "{\"since\":null,\"activities\":[],\"status\":\"online\",\"afk\":false}"

/* Refused with this result and a sentence that has this word; nothing was sent. */
static void check_refused(int32_t result, int32_t expected, const char *word, int line)
{
    if (result == expected && strstr(gw_why(w.gw), word)) return;
    check_failed(__FILE__, line);
    fprintf(stderr, "result %d, not %d; \"%s\", to be with \"%s\"\n", (int)result, (int)expected,
            gw_why(w.gw), word);
}
#define CHECK_REFUSED(call, expected, word) check_refused(call, expected, word, __LINE__)

/* ---- presence: protocol 1.8 ---- */
TEST(presence_of_nothing_is_online_with_all_four_keys)
{
    gw_presence presence = presence_of(NULL, 0);
    begin_live(NULL);
    CHECK(gw_set_presence(w.gw, 0, &presence) > 0);
    world_settle(&w);
    CHECK_TEXT(sent_d(3, 0), EMPTY);
    CHECK_HAS(w.log, "> {\"op\":3,\"d\":" EMPTY "}");
    world_end(&w);
}

TEST(presence_of_everything_has_exactly_the_documented_keys)
{
    gw_activity activities[3];
    gw_presence presence;
    begin_live(NULL);
    activities[0] = activity_of("chess \"blitz\"\n", 0);
    activities[1] = activity_of("Custom", 4);
    activities[1].state = "\xE2\x99\x9E and \xF0\x9F\xA6\x86";
    activities[2] = activity_of("live", 1);
    activities[2].url = "https://www.twitch.tv/somebody";
    activities[2].state = "round 3";
    presence = presence_of(activities, 3);
    presence.status = "idle";
    presence.afk = 1;
    presence.since_ms = UINT64_MAX;
    CHECK(gw_set_presence(w.gw, GW_ALL, &presence) > 0);
    world_settle(&w);
    CHECK_TEXT(sent_d(3, 0),
               "{\"since\":18446744073709551615,\"activities\":["
               "{\"name\":\"chess \\\"blitz\\\"\\n\",\"type\":0},"
               "{\"name\":\"Custom\",\"type\":4,\"state\":\"\xE2\x99\x9E and \xF0\x9F\xA6\x86\"},"
               "{\"name\":\"live\",\"type\":1,\"url\":\"https://www.twitch.tv/somebody\","
               "\"state\":\"round 3\"}],\"status\":\"idle\",\"afk\":true}");
    CHECK(strstr(w.log, "streams") == NULL);
    world_end(&w);
}

TEST(presence_takes_each_status_and_each_type)
{
    static const char *const status[] = { "online", "dnd", "idle", "invisible", "offline" };
    uint32_t i;
    char part[40];
    begin_live(NULL);
    for (i = 0; i < 6; i++) {
        gw_activity activity = activity_of("x", i);
        gw_presence presence = presence_of(&activity, 1);
        presence.status = i < 5 ? status[i] : NULL;
        CHECK(gw_set_presence(w.gw, 0, &presence) > 0);
        world_advance(&w, 21000);
        snprintf(part, sizeof part, "\"type\":%u", (unsigned)i);
        CHECK_HAS(sent_d(3, i), part);
        snprintf(part, sizeof part, "\"status\":\"%s\"", i < 5 ? status[i] : "online");
        CHECK_HAS(sent_d(3, i), part);
    }
    world_end(&w);
}

/* A name that makes the whole op 3 so long; each '"' in it counts two bytes. */
static size_t name_for(char *name, size_t payload_bytes, size_t quotes)
{
    size_t around = strlen("{\"op\":3,\"d\":{\"since\":null,\"activities\":[{\"name\":\"\","
                           "\"type\":0}],\"status\":\"online\",\"afk\":false}}");
    size_t len = payload_bytes - around - quotes;
    memset(name, 'n', len);
    memset(name, '"', quotes);
    name[len] = 0;
    return len;
}

TEST(presence_of_4096_bytes_leaves_and_4097_do_not)
{
    static char name[5000];
    gw_activity activity = activity_of(name, 0);
    gw_presence presence = presence_of(&activity, 1);
    size_t quotes;
    begin_live(NULL);
    for (quotes = 0; quotes <= 300; quotes += 300) {
        name_for(name, 4096, quotes);
        CHECK(gw_set_presence(w.gw, 0, &presence) > 0);
        world_settle(&w);
        CHECK_U64(strlen(sent_d(3, quotes / 300)) + strlen("{\"op\":3,\"d\":}"), 4096);
        name_for(name, 4097, quotes);
        CHECK_REFUSED(gw_set_presence(w.gw, 0, &presence), GW_ERROR_TOO_LARGE, "4,096");
        CHECK_REFUSED(gw_set_presence(w.gw, GW_ALL, &presence), GW_ERROR_TOO_LARGE, "4,096");
    }
    world_settle(&w);
    CHECK_U64(sent(3), 2);
    world_end(&w);
}

TEST(presence_streaming_elsewhere_is_sent_with_a_warning)
{
    static const char *const foreign[] = { NULL, "", "https://example.com/live",
                                           "http://twitch.tv/a",
                                           "https://twitch.tv.example.com/a" };
    size_t i;
    begin_live(NULL);
    for (i = 0; i < COUNT(foreign); i++) {
        gw_activity activity = activity_of("live", 1);
        gw_presence presence = presence_of(&activity, 1);
        activity.url = foreign[i];
        w.log_len = 0;
        CHECK(gw_set_presence(w.gw, 0, &presence) > 0);
        CHECK_HAS(w.log, "activity 0");
        world_advance(&w, 21000);
        CHECK_U64(sent(3), i + 1);
        if (foreign[i]) CHECK_HAS(sent_d(3, i), foreign[i]);
    }
    world_end(&w);
}

TEST(presence_that_makes_no_sense_is_refused_with_a_sentence)
{
    gw_activity activities[2];
    gw_presence presence, none = presence_of(NULL, 1);
    begin_live(NULL);
    activities[0] = activity_of("fine", 0);
    activities[1] = activity_of(NULL, 0);
    presence = presence_of(activities, 2);
    CHECK_REFUSED(gw_set_presence(w.gw, 0, NULL), GW_ERROR_ARGUMENT, "NULL");
    CHECK_REFUSED(gw_set_presence(w.gw, 0, &none), GW_ERROR_ARGUMENT, "activities is NULL");
    CHECK_REFUSED(gw_set_presence(w.gw, 0, &presence), GW_ERROR_ARGUMENT, "no name");
    activities[1].name = "";
    CHECK_REFUSED(gw_set_presence(w.gw, 0, &presence), GW_ERROR_ARGUMENT, "no name");
    activities[1] = activity_of("six", 6);
    CHECK_REFUSED(gw_set_presence(w.gw, 0, &presence), GW_ERROR_ARGUMENT, "type");
    activities[1] = activity_of("x", 0);
    activities[1].state = "\xC0\x80";
    CHECK_REFUSED(gw_set_presence(w.gw, 0, &presence), GW_ERROR_ARGUMENT, "state is not UTF-8");
    activities[1].state = NULL;
    activities[1].url = "https://twitch.tv/\xF5";
    CHECK_REFUSED(gw_set_presence(w.gw, 0, &presence), GW_ERROR_ARGUMENT, "url is not UTF-8");
    activities[1].url = NULL;
    presence.status = "Online";
    CHECK_REFUSED(gw_set_presence(w.gw, 0, &presence), GW_ERROR_ARGUMENT, "status");
    presence.status = "";
    CHECK_REFUSED(gw_set_presence(w.gw, 0, &presence), GW_ERROR_ARGUMENT, "status");
    presence.status = NULL;
    CHECK_REFUSED(gw_set_presence(w.gw, 1, &presence), GW_ERROR_NOT_OUR_SHARD, "shard");
    CHECK_REFUSED(gw_set_presence(w.gw, -2, &presence), GW_ERROR_NOT_OUR_SHARD, "shard");
    world_settle(&w);
    CHECK_U64(sent_in_all(), 0);
    CHECK(gw_set_presence(w.gw, 0, &presence) > 0);
    world_end(&w);
}

/* ---- voice: protocol 1.7; channel info: protocol 1.6 ---- */
TEST(voice_reaches_the_gateway_with_all_four_keys)
{
    begin_live(NULL);
    w.any_violations = 1;                       /* guilds that the world does not have */
    CHECK(gw_set_voice(w.gw, 1, 0, 0, 0) > 0);
    CHECK(gw_set_voice(w.gw, UINT64_MAX, UINT64_MAX, -1, 7) > 0);
    CHECK(gw_set_voice(w.gw, GUILD, GUILD + 128, 0, 1) > 0);
    world_settle(&w);
    CHECK_TEXT(sent_d(4, 0), "{\"guild_id\":\"1\",\"channel_id\":null,\"self_mute\":false,"
                             "\"self_deaf\":false}");
    CHECK_TEXT(sent_d(4, 1), "{\"guild_id\":\"18446744073709551615\","
                             "\"channel_id\":\"18446744073709551615\",\"self_mute\":true,"
                             "\"self_deaf\":true}");
    CHECK_TEXT(sent_d(4, 2), "{\"guild_id\":\"838860800000000000\","
                             "\"channel_id\":\"838860800000000128\",\"self_mute\":false,"
                             "\"self_deaf\":true}");
    CHECK_U64(world_count_events(&w, GW_VOICE_SERVER_UPDATE), 1);
    CHECK_REFUSED(gw_set_voice(w.gw, 0, GUILD, 0, 0), GW_ERROR_ARGUMENT, "guild_id is 0");
    world_settle(&w);
    CHECK_U64(sent_in_all(), 3);
    world_end(&w);
}

TEST(channel_info_asks_for_what_is_wanted_and_no_more)
{
    begin_live(NULL);
    w.any_violations = 1;
    CHECK(gw_request_channel_info(w.gw, GUILD, 1, 0) > 0);
    CHECK(gw_request_channel_info(w.gw, 1, 0, 1) > 0);
    CHECK(gw_request_channel_info(w.gw, UINT64_MAX, -1, 2) > 0);
    world_settle(&w);
    CHECK_TEXT(sent_d(43, 0), "{\"guild_id\":\"838860800000000000\",\"fields\":[\"status\"]}");
    CHECK_TEXT(sent_d(43, 1), "{\"guild_id\":\"1\",\"fields\":[\"voice_start_time\"]}");
    CHECK_TEXT(sent_d(43, 2), "{\"guild_id\":\"18446744073709551615\","
                              "\"fields\":[\"status\",\"voice_start_time\"]}");
    CHECK_HAS(WORLD_EXPECT(&w, GW_CHANNEL_INFO, 100)->d, "\"status\":");
    CHECK_REFUSED(gw_request_channel_info(w.gw, GUILD, 0, 0), GW_ERROR_ARGUMENT, "neither");
    CHECK_REFUSED(gw_request_channel_info(w.gw, 0, 1, 1), GW_ERROR_ARGUMENT, "guild_id is 0");
    world_settle(&w);
    CHECK_U64(sent_in_all(), 3);
    world_end(&w);
}

/* ---- members: protocol 1.5 ---- */
static uint64_t ids[200];

static gw_members by_ids(uint32_t count)
{
    gw_members request = members_of(GUILD, NULL);
    uint32_t i;
    for (i = 0; i < COUNT(ids); i++) ids[i] = UINT64_MAX - i;
    request.user_ids = ids;
    request.user_id_count = count;
    return request;
}

TEST(members_by_query_say_their_limit)
{
    static const struct { const char *query; uint32_t limit; const char *d; } rows[] = {
        { "u", 0, "\"query\":\"u\",\"limit\":100}" },
        { "u", 1, "\"query\":\"u\",\"limit\":1}" },
        { "u", 100, "\"query\":\"u\",\"limit\":100}" },
        { "", 0, "\"query\":\"\",\"limit\":0}" },
        { "", 1, "\"query\":\"\",\"limit\":1}" },
        { "", UINT32_MAX, "\"query\":\"\",\"limit\":4294967295}" },
        { "\xC3\xA4\"\\/", 7, "\"query\":\"\xC3\xA4\\\"\\\\/\",\"limit\":7}" }
    };
    char expected[200];
    size_t i;
    begin_live(NULL);
    for (i = 0; i < COUNT(rows); i++) {
        gw_members request = members_of(GUILD, rows[i].query);
        request.limit = rows[i].limit;
        CHECK(gw_request_members(w.gw, &request) > 0);
        world_settle(&w);
        snprintf(expected, sizeof expected, "{\"guild_id\":\"838860800000000000\",%s", rows[i].d);
        CHECK_TEXT(sent_d(8, i), expected);
    }
    CHECK_U64(world_count_events(&w, GW_GUILD_MEMBERS_CHUNK), COUNT(rows));
    world_end(&w);
}

TEST(members_by_ids_say_no_limit_and_have_room_for_a_hundred)
{
    gw_members request = by_ids(1);
    const char *d;
    size_t count = 0;
    begin_live(NULL);
    request.limit = 50;
    request.presences = 1;
    CHECK(gw_request_members(w.gw, &request) > 0);
    request = by_ids(100);
    request.presences = 1;
    request.nonce = "0123456789abcdef0123456789abcd\xC3\xA4";           /* 32 bytes */
    CHECK(gw_request_members(w.gw, &request) > 0);
    world_settle(&w);
    CHECK_TEXT(sent_d(8, 0), "{\"guild_id\":\"838860800000000000\","
                             "\"user_ids\":[\"18446744073709551615\"],\"presences\":true}");
    d = sent_d(8, 1);
    CHECK_HAS(d, "\"18446744073709551516\"],\"presences\":true,"
                 "\"nonce\":\"0123456789abcdef0123456789abcd\xC3\xA4\"}");
    for (; (d = strstr(d, "\"1844")) != NULL; d++) count++;
    CHECK_U64(count, 100);
    CHECK_HAS(WORLD_EXPECT(&w, GW_GUILD_MEMBERS_CHUNK, 0)->d, "\"presences\":[]");
    world_end(&w);
}

TEST(members_smallest_nonce_and_largest_query_leave_whole)
{
    static char query[5000];
    gw_members request = members_of(GUILD, query);
    size_t around = strlen("{\"op\":8,\"d\":{\"guild_id\":\"838860800000000000\",\"query\":\"\","
                           "\"limit\":100,\"nonce\":\"\"}}");
    begin_live(NULL);
    request.nonce = "";
    memset(query, 'q', 4096 - around);
    CHECK(gw_request_members(w.gw, &request) > 0);
    world_settle(&w);
    CHECK_U64(strlen(sent_d(8, 0)) + strlen("{\"op\":8,\"d\":}"), 4096);
    query[4096 - around] = 'q';
    CHECK_REFUSED(gw_request_members(w.gw, &request), GW_ERROR_TOO_LARGE, "4,096");
    world_settle(&w);
    CHECK_U64(sent(8), 1);
    world_end(&w);
}

TEST(members_that_make_no_sense_are_refused_with_a_sentence)
{
    gw_members request;
    begin_live(NULL);
    CHECK_REFUSED(gw_request_members(w.gw, NULL), GW_ERROR_ARGUMENT, "NULL");
    request = members_of(0, "u");
    CHECK_REFUSED(gw_request_members(w.gw, &request), GW_ERROR_ARGUMENT, "guild_id is 0");
    request = members_of(GUILD, NULL);
    CHECK_REFUSED(gw_request_members(w.gw, &request), GW_ERROR_ARGUMENT, "neither");
    request.user_ids = ids;
    CHECK_REFUSED(gw_request_members(w.gw, &request), GW_ERROR_ARGUMENT, "neither");
    request.user_ids = NULL;
    request.user_id_count = 1;
    CHECK_REFUSED(gw_request_members(w.gw, &request), GW_ERROR_ARGUMENT, "neither");
    request = by_ids(1);
    request.query = "u";
    CHECK_REFUSED(gw_request_members(w.gw, &request), GW_ERROR_ARGUMENT, "not both");
    request = by_ids(100);
    request.query = "";
    CHECK_REFUSED(gw_request_members(w.gw, &request), GW_ERROR_ARGUMENT, "not both");
    request = by_ids(101);
    CHECK_REFUSED(gw_request_members(w.gw, &request), GW_ERROR_ARGUMENT, "100 user_ids");
    request = by_ids(3);
    ids[2] = 0;
    CHECK_REFUSED(gw_request_members(w.gw, &request), GW_ERROR_ARGUMENT, "user id is 0");
    request = members_of(GUILD, "u");
    request.nonce = "0123456789abcdef0123456789abcdef0";                /* 33 bytes */
    CHECK_REFUSED(gw_request_members(w.gw, &request), GW_ERROR_ARGUMENT, "32 bytes");
    request.nonce = NULL;
    request.limit = 101;
    CHECK_REFUSED(gw_request_members(w.gw, &request), GW_ERROR_ARGUMENT, "100");
    world_settle(&w);
    CHECK_U64(sent_in_all(), 0);
    world_end(&w);
}

TEST(members_whole_list_needs_its_intent_and_nothing_else_does)
{
    gw_members whole = members_of(GUILD, ""), some = members_of(GUILD, "");
    some.limit = 5;
    world_init(&w);
    w.cfg.intents = GW_INTENTS_ALL & ~(uint32_t)GW_INTENT_GUILD_MEMBERS;
    world_begin(&w, NULL);
    WORLD_EXPECT(&w, GW_READY, 1000);
    CHECK_REFUSED(gw_request_members(w.gw, &whole), GW_ERROR_ARGUMENT, "GW_INTENT_GUILD_MEMBERS");
    CHECK(gw_request_members(w.gw, &some) > 0);
    some = members_of(GUILD, "u");
    CHECK(gw_request_members(w.gw, &some) > 0);
    some = by_ids(1);
    CHECK(gw_request_members(w.gw, &some) > 0);
    world_settle(&w);
    CHECK_U64(sent(8), 3);
    world_end(&w);
}

/* ---- sounds: protocol 1.6 ---- */
TEST(sounds_of_one_guild_and_of_as_many_as_fit)
{
    static uint64_t guilds[200];
    uint32_t i, most = (4096 - (uint32_t)strlen("{\"op\":31,\"d\":{\"guild_ids\":[]}}") + 1) / 21;
    for (i = 0; i < 200; i++) guilds[i] = guild(i);
    world_init(&w);
    w.sim.guilds = 200;
    begin(NULL);
    CHECK(gw_request_sounds(w.gw, guilds, 1) > 0);
    CHECK(gw_request_sounds(w.gw, guilds, most) > 0);
    world_settle(&w);
    CHECK_TEXT(sent_d(31, 0), "{\"guild_ids\":[\"838860800000000000\"]}");
    CHECK_U64(strlen(sent_d(31, 1)), most * 21u - 1 + strlen("{\"guild_ids\":[]}"));
    CHECK_U64(world_count_events(&w, GW_SOUNDBOARD_SOUNDS), 1 + most);
    CHECK_REFUSED(gw_request_sounds(w.gw, guilds, most + 1), GW_ERROR_TOO_LARGE, "4,096");
    CHECK_REFUSED(gw_request_sounds(w.gw, guilds, 0), GW_ERROR_ARGUMENT, "no guild_ids");
    CHECK_REFUSED(gw_request_sounds(w.gw, NULL, 1), GW_ERROR_ARGUMENT, "no guild_ids");
    guilds[1] = 0;
    CHECK_REFUSED(gw_request_sounds(w.gw, guilds, 2), GW_ERROR_ARGUMENT, "guild_id is 0");
    world_settle(&w);
    CHECK_U64(sent_in_all(), 2);
    world_end(&w);
}

/* However much too large: it is the size that is wrong, and not the memory. */
TEST(commands_far_too_large_are_refused_for_their_size)
{
    static char text[200001];
    static gw_activity activities[1000];
    static uint64_t guilds[50000];
    gw_presence presence = presence_of(activities, 1);
    gw_members request = members_of(GUILD, text);
    uint32_t i;
    memset(text, 't', sizeof text - 1);
    for (i = 0; i < COUNT(activities); i++) activities[i] = activity_of(i ? "x" : text, 0);
    for (i = 0; i < COUNT(guilds); i++) guilds[i] = GUILD;
    begin_live(NULL);
    CHECK_REFUSED(gw_set_presence(w.gw, 0, &presence), GW_ERROR_TOO_LARGE, "4,096");
    activities[0].name = "x";
    presence.activity_count = COUNT(activities);
    CHECK_REFUSED(gw_set_presence(w.gw, 0, &presence), GW_ERROR_TOO_LARGE, "4,096");
    CHECK_REFUSED(gw_request_members(w.gw, &request), GW_ERROR_TOO_LARGE, "4,096");
    CHECK_REFUSED(gw_request_sounds(w.gw, guilds, COUNT(guilds)), GW_ERROR_TOO_LARGE, "4,096");
    CHECK_REFUSED(gw_send_raw(w.gw, 0, 3, text, sizeof text - 1), GW_ERROR_TOO_LARGE, "4,096");
    CHECK(leave_voice(GUILD) > 0);              /* and nothing of them is left in the next one */
    world_settle(&w);
    CHECK_U64(sent_in_all(), 1);
    CHECK_U64(sent(4), 1);
    world_end(&w);
}

/* ---- raw ---- */
TEST(raw_takes_any_opcode_but_three_and_any_json)
{
    static const uint32_t ops[] = { 0, 5, 7, 99, UINT32_MAX };
    static const char *const d[] = { "0", "null", "\"\"", "[]", " { } " };
    char expected[80];
    size_t i;
    for (i = 0; i < COUNT(ops); i++) {
        begin_live(NULL);
        w.any_violations = 1;
        CHECK(gw_send_raw(w.gw, 0, ops[i], d[i], strlen(d[i])) > 0);
        world_settle(&w);
        snprintf(expected, sizeof expected, "> {\"op\":%u,\"d\":%s}", (unsigned)ops[i], d[i]);
        if (i < 4) CHECK_HAS(w.log, expected);
        CHECK_EQ(world_last(&w, GW_DISCONNECTED)->close_code, 4001);
        world_end(&w);
    }
}

/* ---- tickets ---- */
TEST(tickets_grow_and_one_serves_all_shards)
{
    gw_presence presence = presence_of(NULL, 0);
    gw_members request = members_of(GUILD, "u");
    gw_ticket tickets[6];
    const uint64_t guilds[2] = { GUILD, guild(1) };
    size_t i;
    world_init(&w);
    w.cfg.shard_count = w.cfg.shard_total = 2;
    world_begin(&w, NULL);          /* before READY */
    tickets[0] = gw_set_presence(w.gw, GW_ALL, &presence);
    tickets[1] = gw_set_voice(w.gw, GUILD, 0, 0, 0);
    tickets[2] = gw_request_members(w.gw, &request);
    CHECK_EQ(gw_request_members(w.gw, NULL), GW_ERROR_ARGUMENT);
    tickets[3] = gw_request_sounds(w.gw, guilds, 2);
    tickets[4] = gw_request_channel_info(w.gw, GUILD, 1, 1);
    tickets[5] = gw_send_raw(w.gw, GW_ALL, 3, EMPTY, strlen(EMPTY));
    for (i = 0; i < COUNT(tickets); i++) CHECK(tickets[i] > (i ? tickets[i - 1] : 0));
    world_advance(&w, 20000);
    CHECK_U64(sent(3), 2);  /* both Identifies carry the presence; raw: one each */
    CHECK_U64(sent(31), 2);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 7);
    w.gw->last_ticket = INT32_MAX;
    CHECK_EQ(gw_set_voice(w.gw, GUILD, 0, 0, 0), 1);    /* never 0, never negative */
    world_end(&w);
}

/* ---- the wrong moment ---- */
static int32_t expect;

static void check_call(gw_client *gw, int32_t result, int line)
{
    if (result == expect && gw_why(gw)[0]) return;
    check_failed(__FILE__, line);
    fprintf(stderr, "result %d, not %d; \"%s\"\n", (int)result, (int)expect, gw_why(gw));
}
#define CHECK_CALL(call) check_call(gw, call, __LINE__)

static void call_commands(gw_client *gw)
{
    gw_presence presence;
    gw_members request;
    uint64_t guild_id = GUILD;
    memset(&presence, 0, sizeof presence);
    memset(&request, 0, sizeof request);
    request.guild_id = GUILD;
    request.query = "u";
    CHECK_CALL(gw_set_presence(gw, GW_ALL, &presence));
    CHECK_CALL(gw_set_presence(gw, 0, NULL));
    CHECK_CALL(gw_set_voice(gw, GUILD, 0, 0, 0));
    CHECK_CALL(gw_set_voice(gw, 0, 0, 0, 0));
    CHECK_CALL(gw_request_members(gw, &request));
    CHECK_CALL(gw_request_members(gw, NULL));
    CHECK_CALL(gw_request_sounds(gw, &guild_id, 1));
    CHECK_CALL(gw_request_sounds(gw, NULL, 0));
    CHECK_CALL(gw_request_channel_info(gw, GUILD, 1, 1));
    CHECK_CALL(gw_request_channel_info(gw, 0, 0, 0));
    CHECK_CALL(gw_send_raw(gw, 0, 3, EMPTY, strlen(EMPTY)));
    CHECK_CALL(gw_send_raw(gw, 0, 1, NULL, 0));
    CHECK_CALL(gw_shard_start(gw, 0, NULL, 0));
    CHECK_CALL(gw_shard_start(gw, -5, "x", 1));
    CHECK_CALL(gw_shard_stop(gw, 0, GW_END));
    CHECK_CALL(gw_shard_stop(gw, 77, 99));
}

static char page[32768];

TEST(calls_without_a_client_give_a_result_and_a_sentence)
{
    world_init(&w);
    expect = GW_ERROR_ENDED;
    call_commands(NULL);
    memset(page, 'x', 8);
    CHECK_U64(gw_stats_text(NULL, page, 8), 0);
    CHECK_EQ(page[0], 0);
    CHECK_U64(gw_stats_text(NULL, NULL, 0), 0);
    world_end(&w);
}

TEST(calls_after_stop_and_after_closed_give_a_result_and_a_sentence)
{
    gw_stats stats;
    begin_live(NULL);
    CHECK_EQ(gw_stop(w.gw, GW_KEEP), GW_OK);
    expect = GW_ERROR_ENDED;
    call_commands(w.gw);
    WORLD_EXPECT(&w, GW_CLOSED, 5000);
    call_commands(w.gw);
    CHECK(gw_stats_text(w.gw, page, sizeof page) > 1000);
    CHECK_EQ(gw_stats_read(w.gw, 0, &stats), GW_OK);
    CHECK_U64(stats.identifies, 1);
    CHECK_U64(sent_in_all(), 0);
    world_end(&w);
}

static uint32_t misused;
static char hooks_seen[300];

static void misuse_client(const char *hook)
{
    gw_stats stats;
    if (!w.gw) return;                          /* gw_open() has not come back */
    if (!strstr(hooks_seen, hook)) { strcat(hooks_seen, hook); strcat(hooks_seen, " "); }
    misused++;
    w.in_hook = NULL;
    expect = GW_ERROR_IN_HOOK;
    call_commands(w.gw);
    CHECK_U64(gw_stats_text(w.gw, page, sizeof page), 0);
    CHECK_EQ(page[0], 0);
    gw_stats_read(w.gw, GW_ALL, &stats);
    gw_session_save(w.gw, GW_ALL, page, sizeof page);
    gw_ack(w.gw, 0, 1, 1);
    gw_timeout_ms(w.gw);
    /* none of these has ended the hook */
    check_call(w.gw, gw_set_voice(w.gw, 0, 0, 0, 0), __LINE__);
}

static void misuse(world *x, const char *hook)
{
    (void)x;
    misuse_client(hook);
    w.in_hook = misuse;
}

static int32_t misuse_gate(void *user, int32_t shard, uint32_t bucket)
{
    (void)user; (void)shard; (void)bucket;
    misuse_client("gate");
    w.in_hook = misuse;
    return 0;
}

static int32_t misuse_resolve(void *user, const char *host, char *ip_text, size_t cap)
{
    (void)user; (void)host; (void)ip_text; (void)cap;
    misuse_client("resolve");
    w.in_hook = misuse;
    return -1;
}

static void check_hooks(const char *const *names, size_t count)
{
    size_t i;
    for (i = 0; i < count; i++)
        if (!CHECK(strstr(hooks_seen, names[i]) != NULL)) fprintf(stderr, "    %s\n", names[i]);
}

TEST(calls_from_inside_each_hook_give_a_result_and_change_nothing)
{
    static const char *const names[] = { "monotonic_us", "boot_us", "unix_time", "random", "alloc",
                                         "log", "open", "read", "write", "fd", "close", "gate" };
    misused = 0;
    hooks_seen[0] = 0;
    world_init(&w);
    w.in_hook = misuse;
    w.cfg.identify_gate = misuse_gate;
    world_begin(&w, "on ready +2000 cut");
    WORLD_EXPECT(&w, GW_READY, 1000);
    CHECK(gw_set_voice(w.gw, GUILD, 0, 0, 0) > 0);
    WORLD_EXPECT(&w, GW_RESUMED, 5000);
    check_hooks(names, COUNT(names));
    CHECK(misused > 150);
    CHECK_U64(world_count(&w, WORLD_EV("send"), NULL), 1);
    CHECK_U64(world_count_events(&w, GW_SHARD_STOPPED), 0);
    w.in_hook = NULL;
    world_end(&w);
}

TEST(calls_from_inside_the_resolver_give_a_result_and_change_nothing)
{
    static const char *const names[] = { "resolve" };
    hooks_seen[0] = 0;
    world_init(&w);
    w.cfg.transport = NULL;
    w.cfg.url = "wss://gateway.discord.gg";
    w.cfg.resolve = misuse_resolve;
    world_begin(&w, NULL);
    w.in_hook = misuse;
    CHECK_EQ(WORLD_EXPECT(&w, GW_DISCONNECTED, 5000)->reason, GW_REASON_RESOLVE);
    check_hooks(names, COUNT(names));
    w.in_hook = NULL;
    world_end(&w);
}

/* A text cut anywhere is refused, and the shard starts all the same. */
TEST(calls_start_a_shard_with_a_session_text_cut_at_any_byte)
{
    static char text[GW_SESSION_MAX];
    size_t len, cut;
    world_init(&w);
    w.cfg.shard_total = 2;
    world_begin(&w, NULL);
    CHECK_EQ(gw_shard_start(w.gw, 1, NULL, 0), GW_OK);
    WORLD_EXPECT(&w, GW_READY, 1000);
    world_settle(&w);
    CHECK_EQ(gw_shard_stop(w.gw, 1, GW_KEEP), GW_OK);
    WORLD_EXPECT(&w, GW_SHARD_STOPPED, 1000);
    len = gw_session_save(w.gw, 1, text, sizeof text);
    CHECK(len > 50 && len < sizeof text);
    for (cut = 0; cut < len; cut++) {
        int32_t expected = cut ? GW_ERROR_SESSION_TEXT : GW_OK;
        if (!CHECK_EQ(gw_shard_start(w.gw, 1, text, cut), expected))
            fprintf(stderr, "    cut at %u\n", (unsigned)cut);
        if (cut) CHECK_HAS(gw_why(w.gw), "session text");
        CHECK_EQ(gw_shard_start(w.gw, 1, text, len), GW_ERROR_ARGUMENT);        /* it runs */
        CHECK_EQ(gw_shard_stop(w.gw, 1, GW_END), GW_OK);
        while (gw_poll(w.gw)) { }
    }
    CHECK_EQ(gw_shard_start(w.gw, 1, text, len), GW_OK);
    WORLD_EXPECT(&w, GW_RESUMED, 1000);
    world_end(&w);
}

CHECK_MAIN()
